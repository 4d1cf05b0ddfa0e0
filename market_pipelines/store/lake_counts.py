"""How many ticks of a session the lake has of each symbol, how many of them are marked, and how late they were.

Only what streams brought: what was pulled or imported has no marks. Which share of them is too much is decided above.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import duckdb
import pandas as pd

from market_pipelines.market.live import TickMark
from market_pipelines.market.records import TickKind
from market_pipelines.store.lake import LakeError, Segment, TickLake
from market_pipelines.store.lake_views import files_of

_COUNTS = {
    "crossed": TickMark.CROSSED,
    "wide": TickMark.WIDE,
    "outlier": TickMark.OUTLIER,
    "unpriced": TickMark.CONDITION,
    "corrected": TickMark.CORRECTED,
    "disorder": TickMark.DISORDER,
}


def counted(
    lake: TickLake,
    kind: TickKind,
    listed: Sequence[Segment],
    late_seconds: float,
    delays: Mapping[str, float] = MappingProxyType({}),
) -> pd.DataFrame:
    """A line for each symbol, and one with the symbol "" for all; `listed`: of one session. Memory goes with the
    symbols, not with the ticks. `late`: of those that were `streamed`, that is not filled in by history, so many took
    longer than `late_seconds` from where they happened to here, beyond the seconds in `delays` of their feed."""
    chosen = [one for one in listed if one.stream is not None]
    if not chosen:
        return pd.DataFrame()
    live = f'("marks" & {int(TickMark.FILLED)}) = 0'
    marked = ", ".join(f'count(*) FILTER (("marks" & {int(mark)}) <> 0) AS {name}' for name, mark in _COUNTS.items())
    delayed = {name: seconds for name, seconds in delays.items() if seconds}
    allowed = f"{round(late_seconds * 1e9)}"
    for seconds in delayed.values():
        allowed += f" + CASE WHEN feed = ? THEN {round(seconds * 1e9)} ELSE 0 END"
    late = f"{live} AND epoch_ns(received_at) - epoch_ns(ts) > {allowed}"
    statement = (
        f"SELECT symbol, count(*) AS ticks, {marked}, count(*) FILTER ({live}) AS streamed, "  # noqa: S608 (numbers)
        f"count(*) FILTER ({late}) AS late FROM {files_of(lake.root, chosen)} GROUP BY symbol ORDER BY symbol"
    )
    try:
        with duckdb.connect() as memory:
            found = memory.execute(statement, [*delayed]).df()
    except duckdb.Error as error:
        raise LakeError(f"the lake {lake.root} cannot be counted: {error}") from None
    whole = found.drop(columns="symbol").sum().to_frame().T.assign(symbol="")
    everything = pd.concat([whole, found], ignore_index=True)
    return everything.assign(session=pd.Timestamp(chosen[0].session).as_unit("s"), kind=kind.value)
