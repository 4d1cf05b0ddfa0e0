"""What the tests of Alpha Vantage share: one question of each kind, and how an answer is put to a reader."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import SecretStr

from market_pipelines.market.actions import ActionKind
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.intraday import INTRADAY_COLUMNS
from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.alpha_vantage import AlphaVantage
from market_pipelines.providers.protocol import (
    ActionsQuery,
    Answer,
    Capability,
    DailyQuery,
    IntradayQuery,
    ListingsQuery,
    OptionsQuery,
    Parsed,
    ProfileQuery,
    QuoteQuery,
    SearchQuery,
    StatusQuery,
    abilities_of,
)

RECORDED = Path(__file__).resolve().parents[3] / ".." / "shared" / "reference" / "recorded" / "alpha_vantage"
KEY = "AVKEY0123456789AB"
PROVIDER = AlphaVantage(SecretStr(KEY))
NOW = datetime(2026, 5, 17, 17, 12, tzinfo=UTC)
TODAY = date(2026, 5, 17)
IBM, MSFT, AAPL = (Instrument(symbol, "us", "XNYS", "USD") for symbol in ("IBM", "MSFT", "AAPL"))

QUESTIONS: Mapping[Capability, Any] = {
    Capability.DAILY: DailyQuery(IBM, date(1999, 1, 4), TODAY, TODAY),
    Capability.INTRADAY: IntradayQuery(IBM, "5min", date(2026, 5, 11), TODAY, TODAY, extended=True),
    Capability.QUOTE: QuoteQuery((IBM,)),
    Capability.BULK_QUOTES: QuoteQuery((IBM, MSFT, AAPL)),
    Capability.PROFILE: ProfileQuery(IBM),
    Capability.ACTIONS: ActionsQuery(IBM, date(1990, 1, 1), TODAY),
    Capability.LISTINGS: ListingsQuery("XNYS"),
    Capability.SEARCH: SearchQuery("BA"),
    Capability.MARKET_STATUS: StatusQuery(),
    Capability.OPTIONS: OptionsQuery(IBM, TODAY),
}
"""One of every kind that the provider answers."""


def read(
    capability: Capability,
    body: bytes | str,
    question: Any = None,
    *,
    endpoint: str | None = None,
    provider: AlphaVantage = PROVIDER,
    **facts: Any,
) -> Parsed:
    """The endpoint is that of the question's first call where none is named."""
    ability = abilities_of(provider)[capability]
    asked = QUESTIONS[capability] if question is None else question
    raw = body.encode() if isinstance(body, str) else body
    of = ability.call(asked).endpoint if endpoint is None else endpoint
    return ability.read(replace(Answer(200, raw, {}, NOW, 0.1, endpoint=of), **facts), asked)


def recorded(name: str) -> bytes:
    path = RECORDED / name
    if not path.is_file():
        pytest.skip(f"the recording {name} is not here")
    return path.read_bytes()


def bars(parsed: Parsed) -> pd.DataFrame:
    assert parsed.bars is not None, parsed.reason
    return parsed.bars


def assert_sound(capability: Capability, parsed: Parsed, question: Any) -> None:
    """Whatever came in: an outcome that fits what came out, and no bad row."""
    assert isinstance(parsed.outcome, Outcome)
    assert "\n" not in parsed.reason
    assert KEY not in repr(parsed)
    assert (parsed.rows > 0) == (parsed.outcome is Outcome.OK)
    assert parsed.outcome is Outcome.OK or parsed.reason
    if capability is Capability.INTRADAY and parsed.bars is not None:
        assert_sound_bars(parsed.bars, question)
    for action in parsed.actions:
        assert action.symbol == "IBM"
        assert action.ex_date >= question.start
        assert np.isfinite(action.value)
        assert action.value > 0
        assert action.kind in ActionKind
    for record in parsed.records:
        assert_sound_record(record, question)


def assert_sound_bars(frame: pd.DataFrame, query: IntradayQuery) -> None:
    assert tuple(frame.columns) == INTRADAY_COLUMNS
    assert frame["ts"].dtype == "datetime64[s, UTC]"
    assert frame["ts"].is_monotonic_increasing
    assert frame["ts"].is_unique
    assert frame["ts"].notna().all()
    assert set(frame["symbol"]) == {query.instrument.symbol}
    numbers = frame[["open", "high", "low", "close", "volume"]].to_numpy()
    assert not np.isinf(numbers).any()
    assert not np.isnan(numbers[:, :4]).all(axis=1).any()
    days = frame["ts"].dt.tz_convert("America/New_York").dt.date
    assert days.between(query.start, query.end).all()


def assert_sound_record(record: Any, question: Any) -> None:
    values = [getattr(record, name) for name in record.__dataclass_fields__]
    assert all(np.isfinite(value) for value in values if isinstance(value, float))
    if isinstance(question, QuoteQuery):
        assert record.symbol in {one.symbol for one in question.instruments}
        assert record.price > 0
    elif isinstance(question, ProfileQuery | OptionsQuery):
        assert "IBM" in (getattr(record, "symbol", ""), getattr(record, "underlying", ""))
    elif isinstance(question, ListingsQuery):
        assert record.symbol
        assert record.symbol == record.symbol.upper()
