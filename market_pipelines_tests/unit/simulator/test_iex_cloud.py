"""The simulated IEX: worded like the captures, silent by default, and led back to the truth by the adapter."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from market_pipelines.market.actions import ActionKind, CorporateAction
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.intraday import INTERVALS, coarser, phased
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.providers.http import HttpClient
from market_pipelines.providers.iex_cloud import IexCloud
from market_pipelines.providers.protocol import (
    ActionsQuery,
    Answer,
    Call,
    Capability,
    DailyQuery,
    IntradayQuery,
    ListingsQuery,
    Parsed,
    ProfileQuery,
    QuoteQuery,
    abilities_of,
)
from market_pipelines.simulator.clock import SimulatedClock
from market_pipelines.simulator.exchange import Exchange
from market_pipelines.simulator.faults import BODIES, FaultBoard
from market_pipelines.simulator.formats.asked import Asked
from market_pipelines.simulator.minutes import Minutes, minutes_of
from market_pipelines.simulator.server import Simulator
from market_pipelines.simulator.truth import DIVIDEND, SPLIT, World

WORLD = World()
NOW = datetime(2025, 6, 12, 22, 0, tzinfo=UTC)
"""A Thursday, after the close of New York."""
TODAY = NOW.date()
NVDA = Instrument("NVDA", "us", "XNYS", "USD")
MSFT = Instrument("MSFT", "us", "XNYS", "USD")
IEX = IexCloud(None, "http://127.0.0.1:8099/iex_cloud")
RECORDED = Path(__file__).resolve().parents[3] / ".." / "shared" / "reference" / "recorded" / "iex_cloud"


def ask(call: Call, *faults: str, now: datetime = NOW) -> Answer:
    exchange = Exchange(WORLD, FaultBoard(("iex_cloud.serving=on", *faults)), SimulatedClock(now))
    path = call.url.removeprefix("http://127.0.0.1:8099/iex_cloud")
    delivery = exchange.deliver(Asked("iex_cloud", path, dict(call.params), "", IEX.base_url), path)
    assert not delivery.manner.close
    return Answer(delivery.reply.status, delivery.reply.body, {}, now, 0.1, endpoint=call.endpoint)


def read(capability: Capability, query: Any, *faults: str, now: datetime = NOW) -> Parsed:
    ability = abilities_of(IEX)[capability]
    return ability.read(ask(ability.call(query), *faults, now=now), query)


def truth(instrument: Instrument, start: date, end: date, now: datetime = NOW) -> Minutes:
    listing = WORLD.find(instrument.symbol, "XNYS")
    assert listing is not None
    return minutes_of(WORLD, listing, start, end, now)


def frame_of(minutes: Minutes, symbol: str) -> pd.DataFrame:
    bars = minutes.bars
    return pd.DataFrame(
        {
            "symbol": pd.Series(symbol, index=pd.RangeIndex(len(minutes)), dtype="str"),
            "ts": pd.DatetimeIndex(minutes.stamps.astype("datetime64[s]"), tz="UTC"),
            **{name: getattr(bars, name) for name in ("open", "high", "low", "close", "volume")},
            "provisional": np.zeros(len(minutes), dtype=np.bool_),
        }
    )


def minute_query(interval: str, day: date = TODAY, instrument: Instrument = NVDA) -> IntradayQuery:
    return IntradayQuery(instrument, interval, day, day, TODAY)


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator(clock=NOW) as running:
        yield running


class TestSilence:
    def test_nobody_serves_by_default(self, simulator: Simulator) -> None:
        simulator.faults.clear()
        query = QuoteQuery((MSFT,))
        provider = IexCloud(None, f"{simulator.url}/iex_cloud")
        with HttpClient() as http:
            parsed = provider.abilities[Capability.QUOTE].read(http.get(provider.quote_call(query)), query)
        assert parsed.outcome is Outcome.UNAVAILABLE

    def test_a_switch_lets_it_serve(self, simulator: Simulator) -> None:
        simulator.faults.replace(["iex_cloud.serving=on"])
        query = DailyQuery(MSFT, date(2025, 6, 2), date(2025, 6, 11), TODAY)
        provider = IexCloud(None, f"{simulator.url}/iex_cloud")
        with HttpClient() as http:
            answer = http.get(provider.daily_call(query))
        assert answer.simulated
        assert provider.parse_daily(answer, query).outcome is Outcome.OK


class TestTruth:
    @pytest.mark.parametrize("start", [date(2025, 6, 9), date(2025, 6, 3), date(2024, 6, 3), date(2012, 1, 3)])
    def test_days_are_the_truth_across_splits(self, start: date) -> None:
        """NVDA split 10:1 on 2024-06-10 and 4:1 on 2021-07-20."""
        listing = WORLD.find("NVDA", "XNYS")
        assert listing is not None
        tape = WORLD.tape(listing, NOW)
        yesterday = date(2025, 6, 11)
        parsed = read(Capability.DAILY, DailyQuery(NVDA, start, yesterday, TODAY))
        assert parsed.bars is not None, parsed.reason
        chosen = (tape.sessions >= np.datetime64(start)) & (tape.sessions <= np.datetime64(yesterday))
        assert (parsed.bars["session"].to_numpy().astype("datetime64[D]") == tape.sessions[chosen]).all()
        for name in ("open", "high", "low", "close", "volume"):
            np.testing.assert_allclose(parsed.bars[name], getattr(tape.bars, name)[chosen], rtol=0, atol=1e-9)

    def test_one_session_is_the_truth_as_well(self) -> None:
        day = date(2024, 6, 7)
        parsed = read(Capability.DAILY, DailyQuery(NVDA, day, day, TODAY))
        listing = WORLD.find("NVDA", "XNYS")
        assert listing is not None
        tape = WORLD.tape(listing, NOW)
        assert parsed.bars is not None
        assert parsed.bars["close"].tolist() == tape.bars.close[tape.sessions == np.datetime64(day)].tolist()

    @pytest.mark.parametrize(
        "day", [date(2025, 6, 12), date(2025, 3, 7), date(2025, 3, 10), date(2024, 11, 1), date(2024, 11, 29)]
    )
    def test_minutes_are_the_truth_on_both_sides_of_the_clock_change(self, day: date) -> None:
        parsed = read(Capability.INTRADAY, minute_query("1min", day))
        assert parsed.bars is not None, parsed.reason
        pd.testing.assert_frame_equal(parsed.bars, frame_of(truth(NVDA, day, day), "NVDA"), check_exact=False)

    @pytest.mark.parametrize("interval", [name for name in INTERVALS if name != "1min"])
    def test_longer_bars_are_the_truths(self, interval: str) -> None:
        parsed = read(Capability.INTRADAY, minute_query(interval))
        calendar = trading_calendar("XNYS", NOW)
        expected = coarser(phased(frame_of(truth(NVDA, TODAY, TODAY), "NVDA"), calendar), interval, calendar)
        assert parsed.bars is not None
        pd.testing.assert_frame_equal(parsed.bars, expected[list(parsed.bars.columns)].reset_index(drop=True))

    def test_while_trading_goes_on_the_newest_quarter_of_an_hour_is_missing(self) -> None:
        noon = datetime(2025, 6, 12, 16, 0, tzinfo=UTC)
        parsed = read(Capability.INTRADAY, minute_query("1min"), now=noon)
        assert parsed.bars is not None
        assert parsed.bars["ts"].max() == pd.Timestamp("2025-06-12 15:45", tz="UTC")
        longer = read(Capability.INTRADAY, minute_query("30min"), now=noon)
        assert longer.bars is not None
        assert longer.bars["provisional"].tolist() == [False, False, False, False, True]

    def test_actions_are_the_truths(self) -> None:
        query = ActionsQuery(NVDA, date(2021, 1, 4), TODAY)
        listing = WORLD.find("NVDA", "XNYS")
        assert listing is not None
        first = read(Capability.ACTIONS, query)
        assert first.more is not None
        second = abilities_of(IEX)[Capability.ACTIONS].read(ask(first.more), query)
        kinds = {DIVIDEND: ActionKind.DIVIDEND, SPLIT: ActionKind.SPLIT}
        expected = {
            CorporateAction("NVDA", each.ex_date, kinds[each.kind], each.value)
            for each in WORLD.tape(listing, NOW).actions
            if each.ex_date >= query.start
        }
        assert {*first.actions, *second.actions} == expected
        assert {action.value for action in second.actions} == {4.0, 10.0}
        assert second.actions_known

    def test_quotes_are_the_last_minutes(self) -> None:
        minutes = truth(NVDA, TODAY, TODAY)
        parsed = read(Capability.BULK_QUOTES, QuoteQuery((NVDA, MSFT)))
        assert [quote.symbol for quote in parsed.records] == ["NVDA", "MSFT"]
        quote = parsed.records[0]
        assert quote.price == minutes.bars.close[-1]
        assert quote.volume == minutes.bars.volume.sum()
        assert quote.at == datetime(2025, 6, 12, 20, 0, tzinfo=UTC)
        (alone,) = read(Capability.QUOTE, QuoteQuery((NVDA,))).records
        assert alone == quote

    def test_profile_and_list_name_what_is_listed(self) -> None:
        (profile,) = read(Capability.PROFILE, ProfileQuery(MSFT)).records
        assert profile.name == "Microsoft Corporation"
        listed = read(Capability.LISTINGS, ListingsQuery("XNYS")).records
        assert {"NVDA", "BRK.B"} <= {each.symbol for each in listed}
        assert not any(each.symbol.startswith("^") for each in listed)


class TestSwitches:
    @pytest.mark.parametrize(
        ("body", "outcome"),
        [
            ("unknown_symbol", Outcome.UNKNOWN_SYMBOL),
            ("bad_key", Outcome.NOT_ENTITLED),
            ("invalid_values", Outcome.MALFORMED),
            ("bad_option", Outcome.MALFORMED),
            ("empty_list", Outcome.EMPTY_UNEXPECTED),
            ("empty_object", Outcome.EMPTY_UNEXPECTED),
            ("null", Outcome.EMPTY_UNEXPECTED),
            ("bare_number", Outcome.MALFORMED),
            ("over_limit", Outcome.QUOTA_EXHAUSTED),
            ("too_many", Outcome.THROTTLED),
            ("html", Outcome.MALFORMED),
            ("empty", Outcome.MALFORMED),
        ],
    )
    def test_every_body_has_its_outcome(self, body: str, outcome: Outcome) -> None:
        query = DailyQuery(NVDA, date(2025, 6, 2), date(2025, 6, 11), TODAY)
        assert read(Capability.DAILY, query, f"iex_cloud.body={body}").outcome is outcome
        assert body in BODIES["iex_cloud"]

    def test_a_range_can_be_refused_with_the_words_about_the_key(self) -> None:
        query = DailyQuery(NVDA, date(2025, 6, 2), date(2025, 6, 11), TODAY)
        parsed = read(Capability.DAILY, query, "iex_cloud.range_refused=on")
        assert parsed.outcome is Outcome.NOT_ENTITLED
        assert "unknown range" in parsed.reason
        assert read(Capability.QUOTE, QuoteQuery((NVDA,)), "iex_cloud.range_refused=on").outcome is Outcome.OK

    def test_an_unknown_range_a_bad_date_and_an_odd_option_are_refused_as_they_were(self) -> None:
        call = IEX.daily_call(DailyQuery(NVDA, date(2025, 6, 2), date(2025, 6, 11), TODAY))
        stem = call.url.rpartition("/")[0]
        assert ask(replace(call, url=f"{stem}/7w")).status == 403
        assert ask(replace(call, url=f"{stem}/date/2025-06-02")).status == 400
        assert ask(replace(call, params={"badOption": "1"})).body == b'{"error":"\\"badOption\\" is not allowed"}'
        assert ask(replace(call, url=call.url.replace("NVDA", "INVALID"))).body == b"Unknown symbol"
        dividends = IEX.actions_call(ActionsQuery(NVDA, date(2025, 1, 2), TODAY))
        assert ask(replace(dividends, url=dividends.url.rpartition("/")[0] + "/INVALID")).body == b"[]"

    def test_a_key_can_be_required(self) -> None:
        parsed = read(Capability.QUOTE, QuoteQuery((NVDA,)), "iex_cloud.key_required=any")
        assert parsed.outcome is Outcome.NOT_ENTITLED

    @pytest.mark.parametrize("gaps", [(), ("iex_cloud.old_gaps=on",)])
    def test_minutes_without_a_trade_are_missing(self, gaps: tuple[str, ...]) -> None:
        parsed = read(Capability.INTRADAY, minute_query("1min"), "iex_cloud.null_minutes=10", *gaps)
        assert parsed.bars is not None
        assert len(parsed.bars) == 390 - 39
        assert not (parsed.bars["ts"].dt.minute % 10 == 9).any()

    def test_iexs_own_trades_are_a_few_of_all(self) -> None:
        every = read(Capability.INTRADAY, minute_query("1min")).bars
        parsed = read(Capability.INTRADAY, minute_query("1min"), "iex_cloud.own_trades_only=on")
        assert "IEX's own trades" in parsed.reason
        assert every is not None
        assert parsed.bars is not None
        assert len(parsed.bars) < len(every)
        assert parsed.bars["volume"].sum() < 0.05 * every["volume"].sum()

    def test_days_without_traded_prices_are_refused(self) -> None:
        query = DailyQuery(NVDA, date(2025, 6, 2), date(2025, 6, 11), TODAY)
        assert read(Capability.DAILY, query, "iex_cloud.restated_only=on").outcome is Outcome.MALFORMED


@pytest.mark.parametrize(
    ("name", "path", "params"),
    [
        ("chart_5d.json", "/v1/stock/MSFT/chart/5d", {}),
        ("chart_default_1m_daily.json", "/v1/stock/MSFT/chart", {}),
        ("chart_date_chartByDay.json", "/v1/stock/MSFT/chart/date/20250610", {"chartByDay": "true"}),
        ("chart_date_20190306_minutes.json", "/v1/stock/MSFT/chart/date/20250610", {}),
        ("chart_1d_minutes_nulls.json", "/v1/stock/MSFT/chart/1d", {}),
        ("chart_1d_interval10.json", "/v1/stock/MSFT/chart/1d", {"chartInterval": "10"}),
        ("company_msft.json", "/v1/stock/MSFT/company", {}),
        ("dividends_6m.json", "/v1/stock/MSFT/dividends/6m", {}),
        ("ohlc_msft.json", "/v1/stock/MSFT/ohlc", {}),
        ("price_msft.json", "/v1/stock/MSFT/price", {}),
    ],
)
def test_an_answer_is_worded_like_the_capture(name: str, path: str, params: dict[str, str]) -> None:
    if not (RECORDED / name).is_file():
        pytest.skip(f"no recorded answers beside this checkout ({name})")
    real = json.loads((RECORDED / name).read_bytes())
    made = json.loads(ask(Call("iex_cloud", "any", f"{IEX.base_url}{path}", params)).body)

    def shape(value: Any) -> Any:
        if isinstance(value, list):
            return [shape(each) for each in value[:1]]
        return {key: shape(each) for key, each in value.items()} if isinstance(value, dict) else "value"

    assert json.dumps(shape(made)).replace('"tags": []', '"tags": ["value"]') == json.dumps(shape(real))
    if name.startswith("chart_1d") or "minutes" in name:
        assert len(made) == len(real)
        assert [row["label"] for row in made] == [row["label"] for row in real]
