"""The shape of a table of daily bars, wherever it is handed from one floor to another.

One row is one symbol on one session. `session` is the exchange's date (datetime64[s], midnight, no zone);
prices and volume are float64, because providers send fractional volume and widened floats.

The `validate_` functions are for the boundaries between floors: they say that the caller has built the table
wrongly. Whether the numbers in it make sense is the business of `quality/`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    import pandera.pandas as pa

PRICE_COLUMNS = ("open", "high", "low", "close")
VALUE_COLUMNS = (*PRICE_COLUMNS, "volume")
BAR_COLUMNS = ("symbol", "session", *VALUE_COLUMNS, "provisional")
"""What a provider's parser delivers. `volume` may be NaN where a provider has none; `provisional` says that
the provider itself marked the bar as still moving."""
PROVIDER_BAR_COLUMNS = (*BAR_COLUMNS, "market", "provider", "basis")
CONSENSUS_COLUMNS = (*BAR_COLUMNS, "market", "provider", "condition")

AVAILABLE, DEGRADED, PENDING, MISSING = "available", "degraded", "pending", "missing"
CONDITIONS = (AVAILABLE, DEGRADED, PENDING, MISSING)
BASES = ("traded", "split", "split_dividend")
"""The values of `actions.Basis`, from the least processed to the most."""


def empty_bars() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "symbol": pd.Series(dtype="str"),
            "session": pd.Series(dtype="datetime64[s]"),
            **{name: pd.Series(dtype="float64") for name in VALUE_COLUMNS},
            "provisional": pd.Series(dtype="bool"),
        }
    )


def empty_provider_bars() -> pd.DataFrame:
    words = {name: pd.Series(dtype="str") for name in ("market", "provider", "basis")}
    return empty_bars().assign(**words)


def validate_bars(bars: pd.DataFrame) -> pd.DataFrame:
    """The frame itself, if it has the shape of `BAR_COLUMNS`; else `pandera.errors.SchemaErrors`."""
    return _schemas()["bars"].validate(bars, lazy=True)


def validate_provider_bars(bars: pd.DataFrame) -> pd.DataFrame:
    """As `validate_bars` for `PROVIDER_BAR_COLUMNS`: one row per market, symbol, session and provider."""
    return _schemas()["provider"].validate(bars, lazy=True)


def validate_consensus(bars: pd.DataFrame) -> pd.DataFrame:
    """As `validate_bars` for `CONSENSUS_COLUMNS`: one row per market, symbol and session."""
    return _schemas()["consensus"].validate(bars, lazy=True)


@cache
def _schemas() -> dict[str, pa.DataFrameSchema]:
    """Built on first use: importing pandera takes longer than everything else in this package together."""
    import pandera.pandas as pa  # noqa: PLC0415 (slow to import, and seldom needed)

    def text(*accepted: str) -> pa.Column:
        return pa.Column("str", pa.Check.isin(accepted) if accepted else None)

    midnight = pa.Check(
        lambda session: session.dtype == "datetime64[s]" and bool((session == session.dt.normalize()).all()),
        name="session",
        error="sessions are exchange dates: datetime64[s] at midnight",
    )
    bar = {
        "symbol": text(),
        "session": pa.Column("datetime64[s]", midnight),
        **{name: pa.Column("float64") for name in PRICE_COLUMNS},
        "volume": pa.Column("float64", nullable=True),
        "provisional": pa.Column("bool"),
    }

    def one_row_per(*key: str) -> pa.Check:
        return pa.Check(
            lambda bars: not bars.duplicated(list(key)).any(),
            name="key",
            error=f"more than one row for the same {', '.join(key)}",
        )

    stored = {"market": text(), "provider": text()}
    return {
        "bars": pa.DataFrameSchema(bar, one_row_per("symbol", "session"), name="bars"),
        "provider": pa.DataFrameSchema(
            {**bar, **stored, "basis": text(*BASES)},
            one_row_per("market", "symbol", "session", "provider"),
            name="provider bars",
        ),
        "consensus": pa.DataFrameSchema(
            {**bar, **stored, "condition": text(*CONDITIONS)},
            one_row_per("market", "symbol", "session"),
            name="consensus",
        ),
    }
