"""What the bodies of daily and intraday bars have in common: the head, and an object of rows by their stamp."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np

from market_pipelines.market.bars import VALUE_COLUMNS
from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.frames import Floats
from market_pipelines.providers.protocol import Parsed

NULLS = ["", "null", "None", "NaN", "nan"]


class Row(msgspec.Struct, gc=False):
    open: float | None = msgspec.field(name="1. open")
    high: float | None = msgspec.field(name="2. high")
    low: float | None = msgspec.field(name="3. low")
    close: float | None = msgspec.field(name="4. close")
    volume: float | None = msgspec.field(name="5. volume", default=None)


AnyRow = TypeVar("AnyRow", bound=Row)


class MetaData(msgspec.Struct):
    symbol: str = msgspec.field(name="2. Symbol")
    refreshed: str = msgspec.field(name="3. Last Refreshed", default="")


meta_data = msgspec.json.Decoder(MetaData)


def nothing_inside() -> Parsed:
    return Parsed(Outcome.UNKNOWN_SYMBOL, "an empty object, as for a symbol that is not listed")


def rows_by_stamp(
    raw: bytes, decoder: msgspec.json.Decoder[dict[str, AnyRow]], kind: type[AnyRow]
) -> tuple[list[str], list[AnyRow]]:
    """Stamps and rows in the body's order, also where it names a stamp twice, which a dictionary would hide."""
    named = decoder.decode(raw)
    if raw.count(b'"1. open"') == len(named):
        return list(named), list(named.values())
    pairs: list[tuple[str, Any]] = []

    def keep(items: list[tuple[str, Any]]) -> dict[str, Any]:
        pairs[:] = items
        return dict(items)

    # The outermost object is finished last, so its pairs are the ones that stay.
    json.loads(raw, object_pairs_hook=keep)
    return [stamp for stamp, _ in pairs], [msgspec.convert(row, kind, strict=False) for _, row in pairs]


def floats(rows: Sequence[Row], names: Iterable[str] = VALUE_COLUMNS) -> dict[str, Floats]:
    return {name: np.array([getattr(row, name) for row in rows], dtype=np.float64) for name in names}
