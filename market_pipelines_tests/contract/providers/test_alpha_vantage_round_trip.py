"""What the simulator words in Alpha Vantage's format comes back as its truth through the adapter."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import SecretStr

from market_pipelines.market.actions import ActionKind
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import Right
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.fetch import merged
from market_pipelines.providers.alpha_vantage import AlphaVantage
from market_pipelines.providers.protocol import (
    ActionsQuery,
    Answer,
    Call,
    Capability,
    IntradayQuery,
    ListingsQuery,
    OptionsQuery,
    Parsed,
    ProfileQuery,
    QuoteQuery,
    SearchQuery,
    StatusQuery,
)
from market_pipelines.simulator.clock import SimulatedClock
from market_pipelines.simulator.exchange import Exchange
from market_pipelines.simulator.faults import FaultBoard
from market_pipelines.simulator.formats.asked import Asked
from market_pipelines.simulator.minutes import Minutes, grouped, minutes_of
from market_pipelines.simulator.truth import World
from market_pipelines_tests.contract.providers.alpha_vantage_cases import KEY, assert_sound_bars, bars

WORLD = World()
PROVIDER = AlphaVantage(SecretStr(KEY), "http://here/alpha_vantage")
REALTIME = AlphaVantage(SecretStr(KEY), "http://here/alpha_vantage", options_function="REALTIME_OPTIONS")
AAPL, MSFT, BRK = (Instrument(symbol, "us", "XNYS", "USD") for symbol in ("AAPL", "MSFT", "BRK.B"))
LATE = datetime(2026, 5, 17, 12, tzinfo=UTC)
VALUES = ["open", "high", "low", "close", "volume"]
FORMATS = pytest.mark.parametrize("datatype", ["json", "csv"])


def converse(
    capability: Capability,
    question: Any,
    *faults: str,
    now: datetime = LATE,
    datatype: str = "json",
    provider: AlphaVantage = PROVIDER,
) -> tuple[Parsed, list[str]]:
    """Everything that is said to one question, and which endpoints were asked."""
    exchange = Exchange(WORLD, FaultBoard(f"alpha_vantage.{fault}" for fault in faults), SimulatedClock(now))
    ability = provider.abilities[capability]
    call: Call | None = ability.call(question)
    pages, endpoints = [], []
    while call is not None:
        query = {**call.params, **{name: secret.get_secret_value() for name, secret in call.secret_params.items()}}
        if "datatype" in query:
            query["datatype"] = datatype
        reply = exchange.deliver(Asked("alpha_vantage", "/query", query, "", "http://here"), "/").reply
        headers = {name.lower(): value for name, value in reply.headers.items()}
        pages.append(
            ability.read(Answer(reply.status, reply.body, headers, now, 0.1, endpoint=call.endpoint), question)
        )
        endpoints.append(call.endpoint)
        call = pages[-1].more
    return merged(pages), endpoints


def question(
    start: date,
    end: date,
    interval: str = "1min",
    *,
    extended: bool = True,
    now: datetime = LATE,
    of: Instrument = AAPL,
) -> IntradayQuery:
    return IntradayQuery(of, interval, start, end, trading_calendar("XNYS", now).local_date(now), extended=extended)


def truth(query: IntradayQuery, now: datetime = LATE) -> Minutes:
    listing = WORLD.find(query.instrument.symbol, "XNYS")
    assert listing is not None
    minutes = minutes_of(WORLD, listing, query.start, query.end, now, extended=query.extended)
    return grouped(minutes, int(query.interval.removesuffix("min")))


def assert_is(frame: pd.DataFrame, wanted: Minutes) -> None:
    assert frame["ts"].dt.tz_convert(None).to_numpy().astype("datetime64[s]").tolist() == wanted.stamps.tolist()
    for name in VALUES:
        np.testing.assert_allclose(frame[name], getattr(wanted.bars, name), rtol=0, atol=5e-5)


SPANS = {
    "an ordinary day": (date(2026, 5, 14), date(2026, 5, 14)),
    "two weeks": (date(2026, 5, 4), date(2026, 5, 15)),
    "over the spring change of clocks": (date(2026, 3, 5), date(2026, 3, 10)),
    "over the autumn change of clocks": (date(2025, 10, 30), date(2025, 11, 4)),
    "the day after Thanksgiving, a half day": (date(2025, 11, 26), date(2025, 12, 1)),
    "Christmas Eve alone, a half day": (date(2025, 12, 24), date(2025, 12, 24)),
    "the recorded half day of 2020": (date(2020, 11, 27), date(2020, 11, 27)),
    "over the turn of the year": (date(2025, 12, 30), date(2026, 1, 5)),
    "over a split": (date(2020, 8, 27), date(2020, 9, 2)),
}
spans = pytest.mark.parametrize(("start", "end"), SPANS.values(), ids=SPANS)


@FORMATS
@spans
@pytest.mark.parametrize("interval", ["1min", "5min", "30min"])
@pytest.mark.parametrize("extended", [True, False], ids=["extended", "regular"])
def test_intraday_bars_come_back_as_they_were_traded(
    datatype: str, start: date, end: date, interval: str, extended: bool
) -> None:
    query = question(start, end, interval, extended=extended)
    parsed, _ = converse(Capability.INTRADAY, query, datatype=datatype)
    assert_sound_bars(bars(parsed), query)
    assert_is(bars(parsed), truth(query))
    assert not bars(parsed)["provisional"].any()


@FORMATS
@spans
@pytest.mark.parametrize("interval", ["1min", "15min"])
@pytest.mark.parametrize("extended", [True, False], ids=["extended", "regular"])
def test_bars_that_are_labelled_by_their_end_come_back_the_same(
    datatype: str, start: date, end: date, interval: str, extended: bool
) -> None:
    query = question(start, end, interval, extended=extended)
    parsed, _ = converse(Capability.INTRADAY, query, "bar_end=on", datatype=datatype)
    assert_is(bars(parsed), truth(query))


@FORMATS
def test_bars_of_an_hour_begin_where_the_provider_begins_them(datatype: str) -> None:
    day = date(2026, 5, 14)
    extended = bars(converse(Capability.INTRADAY, question(day, day, "60min"), datatype=datatype)[0])
    local = extended["ts"].dt.tz_convert("America/New_York")
    assert [f"{stamp:%H:%M}" for stamp in local] == [f"{hour:02d}:00" for hour in range(4, 20)]
    regular = bars(converse(Capability.INTRADAY, question(day, day, "60min", extended=False), datatype=datatype)[0])
    local = regular["ts"].dt.tz_convert("America/New_York")
    assert [f"{stamp:%H:%M}" for stamp in local] == [f"{hour:02d}:30" for hour in range(9, 16)]
    whole = truth(question(day, day, extended=False))
    assert regular["volume"].sum() == whole.bars.volume.sum()


def test_a_range_over_four_months_takes_four_calls() -> None:
    query = question(date(2025, 11, 28), date(2026, 2, 3), "15min")
    parsed, endpoints = converse(Capability.INTRADAY, query)
    months = ("2025-11", "2025-12", "2026-01", "2026-02")
    assert endpoints == [f"TIME_SERIES_INTRADAY {month}" for month in months]
    assert_is(bars(parsed), truth(query))


def test_recent_bars_take_one_call() -> None:
    query = question(date(2026, 4, 28), date(2026, 5, 15), "5min")
    parsed, endpoints = converse(Capability.INTRADAY, query)
    assert endpoints == ["TIME_SERIES_INTRADAY"]
    assert_is(bars(parsed), truth(query))


def test_minutes_of_a_thin_share_stay_missing() -> None:
    query = question(date(2026, 5, 11), date(2026, 5, 15), extended=True, of=BRK)
    frame = bars(converse(Capability.INTRADAY, query)[0])
    assert len(frame) < 5 * 960
    assert_is(frame, truth(query))


def test_a_session_that_is_missing_stays_missing() -> None:
    query = question(date(2026, 5, 11), date(2026, 5, 15), "5min")
    frame = bars(converse(Capability.INTRADAY, query, "missing_rows=2026-05-13")[0])
    days = {f"{day}" for day in frame["ts"].dt.tz_convert("America/New_York").dt.date}
    assert days == {"2026-05-11", "2026-05-12", "2026-05-14", "2026-05-15"}


def test_a_share_that_was_listed_within_the_range_begins_there() -> None:
    meta = Instrument("META", "us", "XNYS", "USD")
    query = question(date(2012, 3, 1), date(2012, 6, 5), "30min", of=meta)
    parsed, endpoints = converse(Capability.INTRADAY, query)
    assert len(endpoints) == 4
    assert parsed.outcome is Outcome.OK
    assert_is(bars(parsed), truth(query))


NOON = datetime(2026, 5, 14, 16, 2, 30, tzinfo=UTC)
"""Two and a half minutes past noon in New York."""


@FORMATS
@pytest.mark.parametrize("interval", ["1min", "5min", "30min"])
def test_the_bar_under_way_is_provisional(datatype: str, interval: str) -> None:
    day = date(2026, 5, 14)
    query = question(day, day, interval, extended=False, now=NOON)
    finished = bars(converse(Capability.INTRADAY, query, now=NOON, datatype=datatype)[0])
    frame = bars(converse(Capability.INTRADAY, query, "partial_last_bar=on", now=NOON, datatype=datatype)[0])
    assert len(frame) == len(finished) + 1
    assert frame["provisional"].tolist() == [*[False] * len(finished), True]
    length = timedelta(minutes=int(interval.removesuffix("min")))
    assert frame["ts"].iloc[-1] <= NOON < frame["ts"].iloc[-1] + length
    pd.testing.assert_frame_equal(frame[["ts", *VALUES]].iloc[:-1], finished[["ts", *VALUES]])


@FORMATS
def test_a_compact_answer_is_delivered_and_says_so(datatype: str) -> None:
    query = question(date(2026, 5, 11), date(2026, 5, 15))
    parsed, _ = converse(Capability.INTRADAY, query, "compact_only=on", datatype=datatype)
    assert len(bars(parsed)) == 100
    assert "compact" in parsed.reason


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("body=daily_limit", Outcome.QUOTA_EXHAUSTED),
        ("body=per_second_limit", Outcome.THROTTLED),
        ("body=per_second_limit_2025", Outcome.THROTTLED),
        ("body=minute_limit", Outcome.THROTTLED),
        ("body=premium", Outcome.NOT_ENTITLED),
        ("body=demo", Outcome.NOT_ENTITLED),
        ("body=expired_key", Outcome.NOT_ENTITLED),
        ("body=placeholder", Outcome.NOT_ENTITLED),
        ("body=csv_letters", Outcome.THROTTLED),
        ("body=csv_letters_with_text", Outcome.QUOTA_EXHAUSTED),
        ("body=not_acceptable", Outcome.MALFORMED),
        ("body=html", Outcome.MALFORMED),
        ("body=empty", Outcome.MALFORMED),
        ("sold=all", Outcome.NOT_ENTITLED),
        ("truncated=on", Outcome.MALFORMED),
        ("status=503", Outcome.UNAVAILABLE),
        ("per_day=0", Outcome.QUOTA_EXHAUSTED),
    ],
)
@FORMATS
@pytest.mark.parametrize("capability", sorted(PROVIDER.abilities))
def test_every_misbehaviour_has_its_outcome(
    capability: Capability, datatype: str, fault: str, outcome: Outcome
) -> None:
    asked = QUESTIONS[capability]
    parsed, endpoints = converse(capability, asked, fault, datatype=datatype)
    assert (parsed.outcome, parsed.rows) == (outcome, 0)
    assert len(endpoints) == 1
    assert KEY not in repr(parsed)


SESSION = date(2026, 5, 15)
QUESTIONS: dict[Capability, Any] = {
    Capability.INTRADAY: question(SESSION, SESSION),
    Capability.QUOTE: QuoteQuery((AAPL,)),
    Capability.BULK_QUOTES: QuoteQuery((AAPL, MSFT)),
    Capability.PROFILE: ProfileQuery(AAPL),
    Capability.ACTIONS: ActionsQuery(AAPL, date(1990, 1, 1), LATE.date()),
    Capability.LISTINGS: ListingsQuery("XNYS"),
    Capability.SEARCH: SearchQuery("apple"),
    Capability.MARKET_STATUS: StatusQuery(),
    Capability.OPTIONS: OptionsQuery(AAPL, LATE.date()),
}


@pytest.mark.parametrize("capability", [Capability.QUOTE, Capability.PROFILE, Capability.ACTIONS, Capability.INTRADAY])
def test_an_unknown_symbol_is_one(capability: Capability) -> None:
    nobody = Instrument("NOBODY", "us", "XNYS", "USD")
    asked = {
        Capability.QUOTE: QuoteQuery((nobody,)),
        Capability.PROFILE: ProfileQuery(nobody),
        Capability.ACTIONS: ActionsQuery(nobody, date(1990, 1, 1), LATE.date()),
        Capability.INTRADAY: question(SESSION, SESSION, of=nobody),
    }
    assert converse(capability, asked[capability])[0].outcome is Outcome.UNKNOWN_SYMBOL


@pytest.mark.parametrize("capability", [Capability.QUOTE, Capability.PROFILE, Capability.ACTIONS, Capability.INTRADAY])
def test_an_answer_about_another_symbol_is_malformed(capability: Capability) -> None:
    parsed, _ = converse(capability, QUESTIONS[capability], "wrong_symbol=MSFT")
    assert (parsed.outcome, parsed.rows) == (Outcome.MALFORMED, 0)


def last_bar(symbol: str, now: datetime = LATE) -> tuple[Any, float, date]:
    listing = WORLD.find(symbol, "XNYS")
    assert listing is not None
    tape = WORLD.tape(listing, now)
    return tape.bars.row(len(tape.sessions) - 1), float(tape.bars.close[-2]), tape.sessions[-1].item()


@FORMATS
def test_a_quote_is_the_last_sessions(datatype: str) -> None:
    (quote,) = converse(Capability.QUOTE, QuoteQuery((BRK,)), datatype=datatype)[0].records
    bar, before, session = last_bar("BRK.B")
    assert (quote.symbol, quote.price, quote.session) == ("BRK.B", bar.close, session)
    assert (quote.open, quote.high, quote.low, quote.volume) == (bar.open, bar.high, bar.low, bar.volume)
    assert quote.previous_close == before


@FORMATS
def test_bulk_quotes_during_a_session_are_the_running_ones(datatype: str) -> None:
    nobody = Instrument("NOBODY", "us", "XNYS", "USD")
    parsed, _ = converse(Capability.BULK_QUOTES, QuoteQuery((AAPL, nobody, BRK)), now=NOON, datatype=datatype)
    assert [quote.symbol for quote in parsed.records] == ["AAPL", "BRK.B"]
    assert "NOBODY" in parsed.reason
    day = date(2026, 5, 14)
    so_far = truth(question(day, day, extended=False, now=NOON), NOON)
    quote = parsed.records[0]
    assert quote.price == pytest.approx(float(so_far.bars.close[-1]))
    assert quote.volume == so_far.bars.volume.sum()
    assert quote.previous_close == last_bar("AAPL", NOON)[0].close
    assert timedelta() <= NOON - quote.at < timedelta(minutes=2)


@FORMATS
@pytest.mark.parametrize("now", [LATE, datetime(2026, 5, 15, 12, 0, tzinfo=UTC)], ids=["after", "before"])
def test_bulk_quotes_outside_of_a_session_are_the_extended_ones(datatype: str, now: datetime) -> None:
    (quote,) = converse(Capability.BULK_QUOTES, QuoteQuery((AAPL,)), now=now, datatype=datatype)[0].records
    there = truth(question(date(2026, 5, 14), date(2026, 5, 15), now=now), now)
    assert there.phase[-1] != "regular"
    assert quote.price == pytest.approx(float(there.bars.close[-1]))
    assert quote.open == last_bar("AAPL", now)[0].open


def test_a_hundred_symbols_are_the_most() -> None:
    many = QuoteQuery(tuple(Instrument(f"A{number}", "us", "XNYS", "USD") for number in range(101)))
    assert converse(Capability.BULK_QUOTES, many)[0].outcome is Outcome.UNKNOWN_SYMBOL


def test_a_profile_comes_back() -> None:
    (profile,) = converse(Capability.PROFILE, ProfileQuery(AAPL))[0].records
    assert (profile.symbol, profile.name, profile.exchange, profile.currency) == ("AAPL", "Apple Inc.", "NASDAQ", "USD")
    assert profile.sector == ""
    assert profile.market_cap == pytest.approx(last_bar("AAPL")[0].close * profile.shares_outstanding, rel=1e-6)


@FORMATS
def test_actions_come_back_from_two_calls(datatype: str) -> None:
    parsed, endpoints = converse(Capability.ACTIONS, QUESTIONS[Capability.ACTIONS], datatype=datatype)
    assert endpoints == ["SPLITS", "DIVIDENDS"]
    listing = WORLD.find("AAPL", "XNYS")
    assert listing is not None
    wanted = {(one.ex_date, one.kind, one.value) for one in WORLD.tape(listing, LATE).actions}
    assert {(one.ex_date, one.kind.value, one.value) for one in parsed.actions} == wanted
    assert {one.kind for one in parsed.actions} == {ActionKind.SPLIT, ActionKind.DIVIDEND}
    assert not any(one.odd_ratio for one in parsed.actions)
    assert parsed.actions_known


def test_a_share_without_actions_is_answered() -> None:
    berkshire = ActionsQuery(BRK, date(2020, 1, 1), LATE.date())
    parsed, endpoints = converse(Capability.ACTIONS, berkshire)
    assert (parsed.outcome, parsed.actions, parsed.actions_known) == (Outcome.EMPTY_EXPECTED, (), True)
    assert len(endpoints) == 2


def listed(records: Sequence[Any]) -> dict[str, Any]:
    return {one.symbol: one for one in records}


def test_the_list_comes_back_without_its_odd_lines() -> None:
    parsed, _ = converse(Capability.LISTINGS, ListingsQuery("XNYS"))
    newyork = [one for one in WORLD.listings if one.mic == "XNYS" and one.kind != "index"]
    wanted = {one.symbol: one for one in newyork if one.delisted_on is None}
    found = listed(parsed.records)
    assert set(found) == set(wanted)
    assert {symbol: one.listed_from for symbol, one in found.items()} == {
        symbol: one.first_session for symbol, one in wanted.items()
    }
    assert {symbol: one.kind for symbol, one in found.items()} == {symbol: one.kind for symbol, one in wanted.items()}
    assert found["BRK.B"].native == "BRK-B"
    assert parsed.reason == "left out: 4 test symbols, 2 unreadable symbols, 1 lines of a symbol that has another"


def test_the_list_as_it_stood_on_a_day() -> None:
    on = listed(converse(Capability.LISTINGS, ListingsQuery("XNYS", on=date(2012, 5, 17)))[0].records)
    assert "META" not in on
    assert "META" in listed(converse(Capability.LISTINGS, ListingsQuery("XNYS", on=date(2012, 5, 18)))[0].records)
    early = converse(Capability.LISTINGS, ListingsQuery("XNYS", on=date(2009, 1, 2)))[0]
    assert early.outcome is Outcome.EMPTY_UNEXPECTED


def test_delistings_are_a_list_of_their_own() -> None:
    (gone,) = converse(Capability.LISTINGS, ListingsQuery("XNYS", active=False))[0].records
    listing = WORLD.find(gone.symbol, "XNYS")
    assert listing is not None
    assert (gone.active, gone.delisted_on) == (False, listing.delisted_on)
    before = ListingsQuery("XNYS", on=date(2020, 1, 2))
    assert listed(converse(Capability.LISTINGS, before)[0].records)[gone.symbol].delisted_on is None


@FORMATS
def test_symbols_are_found(datatype: str) -> None:
    matches = converse(Capability.SEARCH, SearchQuery("apple"), datatype=datatype)[0].records
    assert matches[0].native == "AAPL"
    assert (matches[0].exchange, matches[0].currency, matches[0].kind) == ("United States", "USD", "equity")
    (bank,) = converse(Capability.SEARCH, SearchQuery("BARC.LON"), datatype=datatype)[0].records
    assert (bank.native, bank.currency, bank.score) == ("BARC.LON", "GBX", 1.0)
    assert converse(Capability.SEARCH, SearchQuery("qqqq"), datatype=datatype)[0].outcome is Outcome.EMPTY_EXPECTED


@pytest.mark.parametrize(
    ("now", "states"),
    [
        (NOON, {"United States": "open", "Japan": "closed", "Forex": "open"}),
        (datetime(2026, 5, 15, 20, 10, tzinfo=UTC), {"United States": "open", "United Kingdom": "closed"}),
        (LATE, {"United States": "closed", "Forex": "closed", "Cryptocurrency": "open"}),
        (datetime(2026, 5, 14, 1, 0, tzinfo=UTC), {"United States": "closed", "Japan": "open", "India": "closed"}),
    ],
)
def test_markets_open_and_close(now: datetime, states: dict[str, str]) -> None:
    venues = {one.venue: one for one in converse(Capability.MARKET_STATUS, StatusQuery(), now=now)[0].records}
    assert {name: venues[name].status for name in states} == states


@FORMATS
@pytest.mark.parametrize("provider", [PROVIDER, REALTIME], ids=["historical", "realtime"])
def test_a_chain_comes_back(datatype: str, provider: AlphaVantage) -> None:
    asked = OptionsQuery(AAPL, LATE.date())
    chain = converse(Capability.OPTIONS, asked, datatype=datatype, provider=provider)[0].records
    bar, _, session = last_bar("AAPL")
    assert {one.quoted_on for one in chain} == {session}
    assert {one.underlying for one in chain} == {"AAPL"}
    assert all(one.expires >= session for one in chain)
    assert any(one.bid is None for one in chain)
    assert all(one.implied_volatility for one in chain)
    cheap = min(chain, key=lambda one: abs(one.strike - bar.close * 1.2))
    dear = [one for one in chain if one.right is Right.CALL and one.strike < bar.close * 0.8]
    assert all(one.bid > bar.close - one.strike - 3 for one in dear if one.bid is not None)
    assert cheap.strike > bar.close
    puts = OptionsQuery(AAPL, LATE.date(), date(2026, 6, 1), date(2026, 7, 1), Right.PUT)
    some = converse(Capability.OPTIONS, puts, datatype=datatype, provider=provider)[0].records
    assert some == tuple(
        one for one in chain if one.right is Right.PUT and date(2026, 6, 1) <= one.expires <= date(2026, 7, 1)
    )
    assert some
