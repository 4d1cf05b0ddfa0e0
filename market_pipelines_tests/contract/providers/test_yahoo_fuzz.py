"""Any bytes at all to every step of every question: an outcome, never an exception, never a bad row."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market_pipelines.market.instruments import Instrument
from market_pipelines.market.intraday import INTRADAY_COLUMNS
from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.protocol import (
    ActionsQuery,
    Answer,
    Capability,
    IntradayQuery,
    OptionsQuery,
    Parsed,
    ProfileQuery,
    QuoteQuery,
    SearchQuery,
)
from market_pipelines.providers.yahoo import Yahoo
from market_pipelines.simulator.formats import yahoo_coarse, yahoo_facts, yahoo_intraday, yahoo_options
from market_pipelines.simulator.formats.yahoo import answer as daily_chart
from market_pipelines.simulator.rows import unspoiled
from market_pipelines.simulator.truth import World

NOW = datetime(2026, 11, 20, 17, 22, 40, tzinfo=UTC)
START, END = date(2026, 11, 19), date(2026, 11, 20)
AAPL = Instrument("AAPL", "us", "XNYS", "USD")
QUESTIONS: dict[Capability, list[Any]] = {
    Capability.INTRADAY: [
        IntradayQuery(AAPL, interval, START, END, END) for interval in ("1min", "5min", "15min", "30min", "60min")
    ],
    Capability.QUOTE: [QuoteQuery((AAPL,))],
    Capability.BULK_QUOTES: [QuoteQuery((AAPL, Instrument("BRK.B", "us", "XNYS", "USD")))],
    Capability.PROFILE: [ProfileQuery(AAPL)],
    Capability.ACTIONS: [ActionsQuery(AAPL, date(2026, 10, 1), END)],
    Capability.SEARCH: [SearchQuery("apple")],
    Capability.OPTIONS: [OptionsQuery(AAPL, END), OptionsQuery(AAPL, END, expires_from=date(2026, 12, 1))],
}
STAGES = ("", "/cookie", "/crumb", "/other_cookie", "/other_crumb", "/again", "/nonsense")
HEADERS: tuple[dict[str, str], ...] = (
    {},
    {"set-cookie": "A3=d=x&S=y; Secure"},
    {"location": "https://guce.yahoo.com/consent"},
    {"location": "//["},
)
TEXT = '0123456789-.,":[]{}\r\nnulltrue eE+aA3'
FEW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.differing_executors])


@cache
def bodies() -> tuple[bytes, ...]:
    """One good answer of every kind, small enough that damage hits something."""
    world = World()
    begins = int(datetime(2026, 11, 20, 16, 30, tzinfo=UTC).timestamp())
    period = {"period1": str(begins), "period2": str(begins + 7200)}
    style = yahoo_intraday.IntradayStyle(null_rows=1)
    charts = [
        yahoo_intraday.answer("AAPL", {"interval": interval, **period}, world, NOW, style).body
        for interval in ("1m", "5m", "15m", "60m")
    ]
    span = {"range": "1mo", "events": "div,splits"}
    return (
        *charts,
        daily_chart("AAPL", {"interval": "1d", **span}, world, NOW).body,
        yahoo_coarse.answer("AAPL", {"interval": "3mo", **span}, world, NOW, unspoiled).body,
        yahoo_facts.quotes("AAPL,BRK-B", world, NOW).body,
        yahoo_facts.summary("AAPL", {"modules": "assetProfile,price,quoteType"}, world, NOW).body,
        yahoo_facts.search({"q": "apple"}, world).body,
        yahoo_options.chain("AAPL", {}, world, NOW).body[:6000],
        yahoo_options.chain("AAPL", {}, world, NOW).body,
        b"Too Many Requests\r\n",
        b"haT3oykhHqZ",
    )


def ask(body: bytes, capability: Capability, number: int, status: int, stage: str, headers: dict[str, str]) -> None:
    questions = QUESTIONS[capability]
    query = questions[number % len(questions)]
    endpoint = f"options:2026-12-04{stage}" if number % 3 == 2 else f"anything{stage}"
    answer = Answer(status, body, headers, NOW, 0.1, endpoint=endpoint)
    ability = Yahoo("http://127.0.0.1:1/yahoo").abilities[capability]
    assert_sound(ability.read(answer, query), query)


def assert_sound(parsed: Parsed, query: Any) -> None:
    assert isinstance(parsed, Parsed)
    assert "\n" not in parsed.reason
    assert parsed.outcome is Outcome.OK or parsed.reason
    assert parsed.outcome is Outcome.OK or not parsed.rows
    if parsed.more is not None:
        assert parsed.more.url.startswith("http://127.0.0.1:1/yahoo/")
        assert parsed.more.secret_origin in ("", "http://127.0.0.1:1/yahoo")
    for action in parsed.actions:
        assert np.isfinite(action.value)
    for record in parsed.records:
        numbers = [getattr(record, name) for name in type(record).__slots__]
        assert not any(isinstance(value, float) and not np.isfinite(value) for value in numbers)
        assert getattr(record, "symbol", "AAPL") in ("AAPL", "BRK.B")
    if parsed.bars is None:
        return
    bars = parsed.bars
    assert len(bars)
    assert tuple(bars.columns) == INTRADAY_COLUMNS
    assert str(bars["ts"].dtype) == "datetime64[s, UTC]"
    assert bars["ts"].is_monotonic_increasing
    assert bars["ts"].is_unique
    assert bars["ts"].notna().all()
    assert (bars["symbol"] == "AAPL").all()
    assert not np.isinf(bars[["open", "high", "low", "close", "volume"]]).any().any()
    assert bars[["open", "high", "low", "close"]].notna().any(axis=1).all()
    days = bars["ts"].dt.tz_convert("America/New_York").dt.tz_localize(None).dt.normalize()
    assert days.between(pd.Timestamp(query.start), pd.Timestamp(query.end)).all()


ASKED = {
    "capability": st.sampled_from(sorted(QUESTIONS)),
    "number": st.integers(0, 29),
    "status": st.sampled_from([200, 200, 200, 0, 307, 401, 404, 429, 500]),
    "stage": st.sampled_from(STAGES),
    "headers": st.sampled_from(HEADERS),
}


@given(body=st.binary(max_size=400), **ASKED)
@FEW
def test_any_bytes_give_an_outcome(body: bytes, **asked: Any) -> None:
    ask(body, **asked)


@given(data=st.data(), whole=st.sampled_from(range(13)), **ASKED)
@settings(FEW, max_examples=400)
def test_a_damaged_answer_gives_an_outcome_and_no_bad_row(data: st.DataObject, whole: int, **asked: Any) -> None:
    body = bodies()[whole]
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(body)))
        end = data.draw(st.integers(start, min(len(body), start + 40)))
        patch = data.draw(st.one_of(st.binary(max_size=12), st.text(TEXT, max_size=16).map(str.encode)))
        body = body[:start] + patch + body[end:]
    ask(body, **asked)


NUMBERS = st.one_of(
    st.none(),
    st.integers(-(10**19), 10**19),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, 1, 1e308, -1e308, 1e-320, 2**63, "12", True, [], {}, {"raw": 1e308}]),
)


def _changed(tree: Any, data: st.DataObject) -> Any:
    """The same tree with some leaves and branches replaced, doubled or gone."""
    if data.draw(st.integers(0, 40)) == 0:
        return data.draw(NUMBERS)
    if isinstance(tree, dict):
        return {key: _changed(value, data) for key, value in tree.items() if data.draw(st.integers(0, 40))}
    if isinstance(tree, list):
        kept = [_changed(value, data) for value in tree[:12]]
        return kept * 2 if data.draw(st.integers(0, 40)) == 0 else kept
    return tree


@given(data=st.data(), whole=st.sampled_from(range(9)), **ASKED)
@FEW
def test_well_formed_nonsense_gives_an_outcome_and_no_bad_row(data: st.DataObject, whole: int, **asked: Any) -> None:
    ask(json.dumps(_changed(json.loads(bodies()[whole]), data)).encode(), **asked)


STAMPS = st.integers(1_795_096_800, 1_795_096_800 + 2 * 86_400)
CELLS = st.one_of(st.none(), st.floats(-1e6, 1e6), st.sampled_from([0.0, 1e308, 100.5]))


@given(
    stamps=st.lists(STAMPS, min_size=1, max_size=30),
    data=st.data(),
    number=st.integers(0, 4),
    granularity=st.sampled_from(["1m", "5m", "15m", "30m", "60m", "1h"]),
    live=st.booleans(),
    currency=st.sampled_from(["USD", "GBp", "", None]),
)
@settings(FEW, max_examples=300)
def test_whatever_the_stamps_bars_come_out_in_order_once_and_on_their_days(
    stamps: list[int], data: st.DataObject, number: int, granularity: str, live: bool, currency: str | None
) -> None:
    column = st.lists(CELLS, min_size=len(stamps), max_size=len(stamps))
    result = {
        "meta": {
            "symbol": "AAPL",
            "currency": currency,
            "exchangeTimezoneName": "America/New_York",
            "dataGranularity": granularity,
            "regularMarketTime": max(stamps) if live else None,
            "tradingPeriods": data.draw(
                st.sampled_from([None, [[{"start": 1_795_185_000, "end": 1_795_208_400}]], {}])
            ),
        },
        "timestamp": stamps,
        "indicators": {"quote": [{name: data.draw(column) for name in ("open", "high", "low", "close", "volume")}]},
    }
    body = json.dumps({"chart": {"result": [result], "error": None}}).encode()
    ask(body, Capability.INTRADAY, number * 3 % 5, 200, "", {})
