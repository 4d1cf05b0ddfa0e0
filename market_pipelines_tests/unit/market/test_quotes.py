"""Which quote is the newest, and what cannot be a quote or a contract."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from math import inf, nan
from typing import Any

import pytest

from market_pipelines.market import options
from market_pipelines.market.quotes import as_of, fault
from market_pipelines.market.records import OptionContract, Quote, Right
from market_pipelines.market.sessions import trading_calendar

NOON = datetime(2025, 6, 12, 16, 0, tzinfo=UTC)
NEW_YORK = trading_calendar("XNYS", NOON)
TODAY = date(2025, 6, 12)
QUOTE = Quote("AAPL", 199.0, None, "USD", bid=198.9, ask=199.1, volume=1e6)
CONTRACT = OptionContract("AAPL250620C00200000", "AAPL", Right.CALL, 200.0, date(2025, 6, 20), bid=1.0, ask=1.1)


@pytest.mark.parametrize(
    ("quote", "moment"),
    [
        (replace(QUOTE, at=datetime(2025, 6, 12, 15, 59, tzinfo=UTC)), datetime(2025, 6, 12, 15, 59, tzinfo=UTC)),
        (replace(QUOTE, session=date(2025, 6, 11)), datetime(2025, 6, 11, 20, 0, tzinfo=UTC)),
        (replace(QUOTE, session=TODAY), NOON),
        (replace(QUOTE, session=date(2025, 6, 8)), NOON),
        (QUOTE, NOON),
        (replace(QUOTE, at=datetime(2025, 6, 12, 17, 0, tzinfo=UTC)), NOON),
    ],
    ids=["its trade", "a session that has ended", "one that goes on", "no session", "nothing said", "in the future"],
)
def test_a_quote_speaks_of_its_trade_else_of_its_session_else_of_its_arrival(quote: Quote, moment: datetime) -> None:
    assert as_of(quote, NOON, NEW_YORK) == moment


def test_a_sound_quote_has_no_fault() -> None:
    assert fault(QUOTE) == ""
    assert fault(Quote("AAPL", 0.0001, None)) == ""


@pytest.mark.parametrize(
    "wrong",
    [{"price": 0.0}, {"price": -1.0}, {"price": nan}, {"price": inf}, {"bid": 199.2}, {"volume": -1.0}, {"high": nan}],
)
def test_what_cannot_be_is_no_quote(wrong: dict[str, Any]) -> None:
    assert fault(replace(QUOTE, **wrong))


def test_a_sound_contract_has_no_fault_up_to_the_day_of_its_expiry() -> None:
    assert options.fault(CONTRACT, TODAY) == ""
    assert options.fault(CONTRACT, date(2025, 6, 20)) == ""


@pytest.mark.parametrize(
    "wrong",
    [
        {"strike": 0.0},
        {"strike": nan},
        {"expires": date(2025, 6, 11)},
        {"bid": 1.2},
        {"open_interest": -5.0},
        {"implied_volatility": inf},
    ],
)
def test_what_cannot_be_is_no_contract(wrong: dict[str, Any]) -> None:
    assert options.fault(replace(CONTRACT, **wrong), TODAY)
