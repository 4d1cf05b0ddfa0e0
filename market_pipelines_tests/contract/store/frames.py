"""Small tables of bars, written as a person would write them down."""

from datetime import UTC, date, datetime

import pandas as pd

KNOWN = datetime(2026, 3, 2, 21, tzinfo=UTC)
LATER = datetime(2026, 3, 3, 21, tzinfo=UTC)
LATEST = datetime(2026, 3, 4, 21, tzinfo=UTC)

Row = tuple[str, str, float]
"""Symbol, session, close."""


def consensus(*rows: Row, market: str = "us", provider: str = "yahoo", condition: str = "available") -> pd.DataFrame:
    """Bars whose other prices follow from the close: open one below, high two above, low two below."""
    return pd.DataFrame(
        {
            "symbol": pd.Series([symbol for symbol, _, _ in rows], dtype="str"),
            "session": pd.Series([session for _, session, _ in rows], dtype="datetime64[s]"),
            "open": pd.Series([close - 1 for _, _, close in rows], dtype="float64"),
            "high": pd.Series([close + 2 for _, _, close in rows], dtype="float64"),
            "low": pd.Series([close - 2 for _, _, close in rows], dtype="float64"),
            "close": pd.Series([close for _, _, close in rows], dtype="float64"),
            "volume": pd.Series([1000.0 for _ in rows], dtype="float64"),
            "provisional": pd.Series([False for _ in rows], dtype="bool"),
            "market": market,
            "provider": provider,
            "condition": condition,
        }
    )


def provider_bars(*rows: Row, provider: str = "yahoo") -> pd.DataFrame:
    return consensus(*rows, provider=provider).drop(columns="condition").assign(basis="traded")


def day(text: str) -> date:
    return date.fromisoformat(text)
