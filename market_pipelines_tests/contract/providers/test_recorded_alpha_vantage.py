"""Every recorded body of Alpha Vantage, put to every one of its readers: right rows, or the right outcome.

The recordings are not part of a clone: without them these tests are skipped, and say so.
"""

import csv
import io
from collections import Counter
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from market_pipelines.market.actions import ActionKind, CorporateAction
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import Listed, OptionContract, Profile, Quote, Right, SymbolMatch, VenueStatus
from market_pipelines.providers.protocol import (
    ActionsQuery,
    Capability,
    IntradayQuery,
    OptionsQuery,
    ProfileQuery,
    QuoteQuery,
)
from market_pipelines_tests.contract.providers.alpha_vantage_cases import (
    AAPL,
    IBM,
    MSFT,
    PROVIDER,
    QUESTIONS,
    RECORDED,
    TODAY,
    assert_sound,
    bars,
    read,
    recorded,
)

NEW_YORK = ZoneInfo("America/New_York")
DAY_OF_DEMO = date(2020, 5, 8)
QUESTION_OF_FILE: dict[tuple[str, Capability], Any] = {
    ("time_series_intraday_demo.json", Capability.INTRADAY): IntradayQuery(
        IBM, "5min", DAY_OF_DEMO, DAY_OF_DEMO, DAY_OF_DEMO
    ),
    ("intraday_extended_1min_2020_halfday.csv", Capability.INTRADAY): IntradayQuery(
        IBM, "1min", date(2020, 11, 1), date(2020, 12, 31), TODAY, extended=True
    ),
    ("global_quote.json", Capability.QUOTE): QuoteQuery((MSFT,)),
}
ENDPOINTS = {"dividends_ibm.csv": "DIVIDENDS"}
DELIVERED = {
    "dividends_ibm.csv": (Capability.ACTIONS, 110),
    "global_quote.csv": (Capability.QUOTE, 1),
    "global_quote.json": (Capability.QUOTE, 1),
    "historical_options_ibm.csv": (Capability.OPTIONS, 2064),
    "intraday_extended_1min_2020_halfday.csv": (Capability.INTRADAY, 11190),
    "listing_status_active.csv": (Capability.LISTINGS, 13054),
    "market_status.json": (Capability.MARKET_STATUS, 16),
    "overview_ibm.json": (Capability.PROFILE, 1),
    "symbol_search.json": (Capability.SEARCH, 10),
    "time_series_daily.json": (Capability.DAILY, 2),
    "time_series_daily_adjusted.json": (Capability.DAILY, 2),
    "time_series_daily_compact.csv": (Capability.DAILY, 100),
    "time_series_intraday_5min_compact.csv": (Capability.INTRADAY, 100),
    "time_series_intraday_demo.json": (Capability.INTRADAY, 2),
}
PLACEHOLDERS = ("premium_placeholder_realtime_options.json", "realtime_bulk_quotes.json")


def files() -> list[Any]:
    found = sorted(path.name for path in RECORDED.glob("*"))
    return found or [pytest.param("", marks=pytest.mark.skip(reason="the folder of recordings is not here"))]


@pytest.mark.parametrize("capability", QUESTIONS)
@pytest.mark.parametrize("name", files())
def test_a_recorded_body_is_taken_for_what_it_is_and_for_nothing_else(name: str, capability: Capability) -> None:
    question = QUESTION_OF_FILE.get((name, capability), QUESTIONS[capability])
    endpoint = "TIME_SERIES_INTRADAY" if capability is Capability.INTRADAY else ENDPOINTS.get(name)
    parsed = read(capability, recorded(name), question, endpoint=endpoint)
    assert_sound(capability, parsed, question)
    if DELIVERED.get(name, ("", 0))[0] is capability:
        assert (parsed.outcome, parsed.rows) == (Outcome.OK, DELIVERED[name][1]), parsed.reason
    elif name in PLACEHOLDERS:
        assert parsed.outcome is Outcome.NOT_ENTITLED
    else:
        assert parsed.outcome is Outcome.MALFORMED


def test_every_file_is_accounted_for() -> None:
    if not RECORDED.is_dir():
        pytest.skip("the folder of recordings is not here")
    never_asked_for = {
        "earnings_calendar.csv",
        "fx_daily.csv",
        "ipo_calendar.csv",
        "time_series_monthly_adjusted.csv",
        "time_series_weekly_adjusted.csv",
        "time_series_weekly_adjusted.json",
    }
    assert {path.name for path in RECORDED.glob("*")} == set(DELIVERED) | set(PLACEHOLDERS) | never_asked_for


# Intraday


def stamp(text: str) -> datetime:
    """New York's wall clock."""
    return datetime.fromisoformat(text).replace(tzinfo=NEW_YORK)


def row(frame: Any, start: str) -> list[float]:
    (found,) = frame[frame["ts"] == stamp(start)].itertuples(index=False)
    return [found.open, found.high, found.low, found.close, found.volume]


def test_the_recorded_bars_of_2026_are_labelled_by_their_start() -> None:
    frame = bars(read(Capability.INTRADAY, recorded("time_series_intraday_5min_compact.csv")))
    assert frame["ts"].iloc[0] == stamp("2026-05-15 11:40")
    assert frame["ts"].iloc[-1] == stamp("2026-05-15 19:55")
    assert row(frame, "2026-05-15 19:55") == [219.03, 219.03, 219.0, 219.0, 158]
    assert row(frame, "2026-05-15 11:40") == [217.98, 218.42, 217.96, 218.14, 62832]
    assert not frame["provisional"].any()


def test_the_recorded_bars_of_2020_are_labelled_by_their_end() -> None:
    name = "intraday_extended_1min_2020_halfday.csv"
    question = QUESTION_OF_FILE[name, Capability.INTRADAY]
    body = recorded(name)
    frame = bars(read(Capability.INTRADAY, body, question, endpoint="TIME_SERIES_INTRADAY"))
    assert len(frame) == body.count(b"\n") - 1
    assert frame["ts"].iloc[0] == stamp("2020-11-23 04:00")
    assert frame["ts"].iloc[-1] == stamp("2020-12-18 19:59")
    assert row(frame, "2020-12-18 19:59") == [218.79, 218.79, 218.75, 218.75, 1102]
    assert row(frame, "2020-11-23 04:08") == [211.35, 211.35, 211.35, 211.35, 225]
    # The busy last minute of the session, and the print of the closing auction after the bell.
    assert row(frame, "2020-11-27 12:59")[-1] == 181027
    assert row(frame, "2020-11-27 13:00")[-1] == 1480168


def test_the_recorded_half_day_ends_at_five() -> None:
    name = "intraday_extended_1min_2020_halfday.csv"
    day = date(2020, 11, 27)
    question = IntradayQuery(IBM, "1min", day, day, TODAY, extended=True)
    frame = bars(read(Capability.INTRADAY, recorded(name), question, endpoint="TIME_SERIES_INTRADAY"))
    assert frame["ts"].iloc[0] == stamp("2020-11-27 04:00")
    assert frame["ts"].iloc[-1] == stamp("2020-11-27 16:59")


def test_a_half_day_alone_proves_its_labels_by_its_last_bar() -> None:
    lines = recorded("intraday_extended_1min_2020_halfday.csv").decode().splitlines()
    body = "\n".join(["timestamp,open,high,low,close,volume", *(x for x in lines if x.startswith("2020-11-27"))])
    day = date(2020, 11, 27)
    question = IntradayQuery(IBM, "1min", day, day, TODAY, extended=True)
    frame = bars(read(Capability.INTRADAY, body + "\n", question, endpoint="TIME_SERIES_INTRADAY"))
    assert frame["ts"].iloc[-1] == stamp("2020-11-27 16:59")


def test_recorded_minutes_without_a_trade_stay_missing() -> None:
    name = "intraday_extended_1min_2020_halfday.csv"
    question = QUESTION_OF_FILE[name, Capability.INTRADAY]
    frame = bars(read(Capability.INTRADAY, recorded(name), question, endpoint="TIME_SERIES_INTRADAY"))
    assert stamp("2020-12-18 19:58") not in set(frame["ts"])
    assert not np.isnan(frame[["open", "close", "volume"]].to_numpy()).any()


@pytest.mark.parametrize("interval", ["1min", "15min", "30min", "60min"])
def test_the_recorded_bars_of_five_minutes_are_not_taken_for_others(interval: str) -> None:
    question = IntradayQuery(IBM, interval, date(2026, 5, 11), TODAY, TODAY, extended=True)
    for name in ("time_series_intraday_5min_compact.csv", "time_series_intraday_demo.json"):
        parsed = read(Capability.INTRADAY, recorded(name), question)
        assert (parsed.outcome, parsed.bars) == (Outcome.MALFORMED, None)


def test_the_recorded_compact_answer_says_how_far_back_it_reaches() -> None:
    parsed = read(Capability.INTRADAY, recorded("time_series_intraday_5min_compact.csv"))
    assert "compact" in parsed.reason
    assert "2026-05-15T11:40" in parsed.reason


def test_the_newest_recorded_bar_was_open_when_the_series_was_refreshed() -> None:
    name = "time_series_intraday_demo.json"
    question = QUESTION_OF_FILE[name, Capability.INTRADAY]
    for minute, flags in ((8, [False, True]), (12, [False, True]), (40, [False, False])):
        asked_at = datetime(2020, 5, 8, 18, minute, tzinfo=UTC)
        frame = bars(read(Capability.INTRADAY, recorded(name), question, received_at=asked_at))
        assert frame["ts"].tolist() == [stamp("2020-05-08 14:00"), stamp("2020-05-08 14:05")]
        assert frame["provisional"].tolist() == flags


# Quotes, profiles and the rest


def test_the_recorded_quotes() -> None:
    (ibm,) = read(Capability.QUOTE, recorded("global_quote.csv")).records
    assert ibm == Quote(
        "IBM", 219.3, None, "USD", open=218.2, high=220.91, low=217.615, previous_close=218.37, volume=6154450,
        session=date(2026, 5, 15),
    )  # fmt: skip
    assert ibm.change == pytest.approx(0.93)
    assert ibm.change_share == pytest.approx(0.004259, abs=5e-7)
    (msft,) = read(Capability.QUOTE, recorded("global_quote.json"), QuoteQuery((MSFT,))).records
    assert (msft.price, msft.previous_close, msft.session) == (112.13, 112.79, date(2018, 10, 5))
    assert msft.change_share == pytest.approx(-0.005852, abs=5e-7)


def test_the_recorded_profile() -> None:
    (profile,) = read(Capability.PROFILE, recorded("overview_ibm.json")).records
    assert isinstance(profile, Profile)
    assert profile.name == "International Business Machines"
    assert (profile.sector, profile.industry) == ("TECHNOLOGY", "INFORMATION TECHNOLOGY SERVICES")
    assert (profile.exchange, profile.country, profile.currency, profile.cik) == ("NYSE", "USA", "USD", "51143")
    assert (profile.market_cap, profile.shares_outstanding) == (206116848000, 939885000)
    assert profile.website == "https://www.ibm.com"
    assert profile.employees is None


def test_the_recorded_dividends() -> None:
    body = recorded("dividends_ibm.csv")
    parsed = read(Capability.ACTIONS, body, endpoint="DIVIDENDS")
    assert parsed.actions[0] == CorporateAction("IBM", date(1999, 2, 8), ActionKind.DIVIDEND, 0.22)
    assert parsed.actions[-1] == CorporateAction("IBM", date(2026, 5, 8), ActionKind.DIVIDEND, 1.69)
    assert len(parsed.actions) == body.count(b"\n") - 1
    assert parsed.actions_known
    assert parsed.more is None
    late = read(Capability.ACTIONS, body, ActionsQuery(IBM, date(2026, 1, 1), TODAY), endpoint="DIVIDENDS")
    assert [action.ex_date for action in late.actions] == [date(2026, 2, 10), date(2026, 5, 8)]


def test_the_recorded_list() -> None:
    parsed = read(Capability.LISTINGS, recorded("listing_status_active.csv"))
    listed = {one.symbol: one for one in parsed.records}
    assert len(listed) == len(parsed.records)
    assert listed["BRK.B"] == Listed(
        "BRK-B", "BRK.B", "Berkshire Hathaway Inc - Class B", "NYSE", "equity", True, date(1996, 5, 9)
    )
    kinds = {
        "A": "equity",
        "AAA": "etf",
        "ABR.P.D": "preferred",
        "TY.P": "preferred",
        "AAM.WS": "warrant",
        "AACIW": "warrant",
        "MIMO.WS.A": "warrant",
        "AACBU": "unit",
        "AIIA.U": "unit",
        "AACBR": "right",
        "AVK.R.W": "right",
        "AMTM.W": "equity",
        "MCEP": "equity",
        "PFBC": "equity",
        "USO": "etf",
    }
    assert {symbol: listed[symbol].kind for symbol in kinds} == kinds
    assert Counter(one.exchange for one in parsed.records).keys() == {
        "NASDAQ", "NYSE", "NYSE ARCA", "BATS", "NYSE MKT", "AMEX",
    }  # fmt: skip
    assert listed["DEC"].name == ""
    assert {one.delisted_on for one in parsed.records} == {None}
    assert all(one.active for one in parsed.records)


def test_test_symbols_and_unreadable_ones_of_the_recorded_list_are_left_out() -> None:
    body = recorded("listing_status_active.csv")
    parsed = read(Capability.LISTINGS, body)
    natives = {one.native for one in parsed.records}
    written = {line["symbol"] for line in csv.DictReader(io.StringIO(body.decode()))}
    gone = written - natives
    assert {"ATEST", "ATEST-A", "NTEST-Z", "ZVZZT", "ZZZ", "ZZK", "CBO", "IGZ", "ZXYZ-A"} <= gone
    assert {"-P-HIZ", "BC/PB", "NXT(EXP20091224)", "NYCB- PR-U"} <= gone
    assert {"AEHR", "HSCS", "HSCSW", "INTT", "GERM", "WSR", "FLIR:BAT", "VOO", "NAN"} <= natives
    # A line of another venue is not another listing.
    assert "VOO:BAT" in gone
    assert len(gone) == 13411 - 13054
    assert parsed.reason.startswith("left out: 50 test symbols, 5 unreadable symbols, 302 lines")


def test_the_recorded_matches() -> None:
    matches = read(Capability.SEARCH, recorded("symbol_search.json")).records
    assert matches[0] == SymbolMatch("BA", "The Boeing Company", "equity", "United States", "USD", 1.0)
    assert matches[3] == SymbolMatch("6190.HKG", "Bank of Jiujiang Co. Ltd.", "equity", "Hong Kong", "HKD", 0.4)


def test_the_recorded_market_states() -> None:
    venues = read(Capability.MARKET_STATUS, recorded("market_status.json")).records
    assert venues[0] == VenueStatus(
        "United States", "closed", opens="09:30", closes="16:15", note="NASDAQ, NYSE, AMEX, BATS"
    )
    assert venues[7].note == "Tokyo; Noon trading break from 11:30 to 12:30 local time"
    assert [venue.venue for venue in venues[-2:]] == ["Forex", "Cryptocurrency"]
    assert [venue.status for venue in venues].count("open") == 1


def test_the_recorded_option_chain() -> None:
    body = recorded("historical_options_ibm.csv")
    chain = read(Capability.OPTIONS, body).records
    assert chain[0] == OptionContract(
        "IBM260515C00115000", "IBM", Right.CALL, 115.0, date(2026, 5, 15), last=98.62, bid=103.10, ask=106.55,
        volume=0, open_interest=1, implied_volatility=6.33667, quoted_on=date(2026, 5, 15),
    )  # fmt: skip
    # No trade yet, and nobody bids: zeros in the body, nothing here.
    assert (chain[1].last, chain[1].bid, chain[1].ask) == (None, None, 0.25)
    assert len({contract.native for contract in chain}) == len(chain) == body.count(b"\n") - 1
    puts = read(
        Capability.OPTIONS, body, OptionsQuery(IBM, TODAY, date(2028, 1, 1), date(2028, 12, 31), Right.PUT)
    ).records
    assert puts
    assert {contract.right for contract in puts} == {Right.PUT}
    assert {contract.expires.year for contract in puts} == {2028}


def test_a_recorded_body_about_another_symbol_is_refused() -> None:
    others = {
        Capability.QUOTE: "global_quote.json",
        Capability.OPTIONS: "historical_options_ibm.csv",
        Capability.PROFILE: "overview_ibm.json",
    }
    questions = {
        Capability.QUOTE: QuoteQuery((AAPL,)),
        Capability.OPTIONS: OptionsQuery(AAPL, TODAY),
        Capability.PROFILE: ProfileQuery(AAPL),
    }
    for capability, name in others.items():
        parsed = read(capability, recorded(name), questions[capability])
        assert parsed.outcome is Outcome.MALFORMED
        assert parsed.records == ()


def test_every_ability_is_tried() -> None:
    assert set(QUESTIONS) == {Capability.DAILY, *PROVIDER.abilities}
