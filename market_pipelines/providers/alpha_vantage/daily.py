"""Daily bars as JSON and as CSV, with the actions that the adjusted series carries along.

JSON is what the adapter asks for; archived CSV answers are understood as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec
import numpy as np
import pyarrow as pa

from market_pipelines.market.actions import ActionKind, CorporateAction
from market_pipelines.market.bars import PRICE_COLUMNS
from market_pipelines.providers.alpha_vantage.cells import top_level
from market_pipelines.providers.alpha_vantage.series import (
    NULLS,
    Row,
    floats,
    meta_data,
    nothing_inside,
    rows_by_stamp,
)
from market_pipelines.providers.alpha_vantage.spelling import SPELLING, money, same_symbol
from market_pipelines.providers.answers import malformed, one_line, shown, unfit_csv
from market_pipelines.providers.frames import (
    Days,
    Flags,
    Floats,
    days_of,
    deliver,
    floats_of,
    read_csv,
    sessions_back,
)
from market_pipelines.providers.protocol import Answer, DailyQuery, Parsed

FUNCTION = "TIME_SERIES_DAILY"
ANSWER_FORMAT = "json"
"""CSV is a third of the size, but only JSON names its symbol, and an answer about another one must not pass."""
COMPACT_SESSIONS = 100
"""How far `outputsize=compact` reaches back. The full history is sold separately."""
MARKET_CLOSES = "16:00:00"
"""Eastern time. A series refreshed earlier in the day ends with a bar that still moves."""

_SERIES = "Time Series (Daily)"
_FILE_NAME = re.compile(r"(?i)daily_(?:adjusted_)?(.+)\.csv")

_DAILY = {"timestamp": "session", **{name: name for name in ("open", "high", "low", "close", "volume")}}
_ADJUSTED = {
    **{name: _DAILY[name] for name in ("timestamp", "open", "high", "low", "close")},
    "adjusted_close": "adjusted",
    "volume": "volume",
    "dividend_amount": "dividend",
    "split_coefficient": "split",
}
_LAYOUTS = {",".join(layout).encode(): list(layout.values()) for layout in (_DAILY, _ADJUSTED)}


class _Row(Row, gc=False):
    """Of either layout: they number volume differently, and one has more after it."""

    adjusted_volume: float | None = msgspec.field(name="6. volume", default=None)
    dividend: float | None = msgspec.field(name="7. dividend amount", default=None)
    split: float | None = msgspec.field(name="8. split coefficient", default=None)


# Numbers are text; the decoder turns them into floats and refuses other text.
_rows = msgspec.json.Decoder(dict[str, _Row], strict=False)


def parameters(query: DailyQuery) -> dict[str, str]:
    reach = sessions_back(query.instrument.mic, query.start, query.today)
    compact = reach is not None and reach <= COMPACT_SESSIONS
    return {
        "function": FUNCTION,
        "symbol": SPELLING.native(query.instrument),
        "outputsize": "compact" if compact else "full",
        "datatype": ANSWER_FORMAT,
    }


def parse(body: bytes, answer: Answer, query: DailyQuery) -> Parsed:
    return _from_json(body, answer, query) if body.startswith(b"{") else _from_csv(body, answer, query)


def _from_json(body: bytes, answer: Answer, query: DailyQuery) -> Parsed:
    top = top_level.decode(body)
    if not top:
        return nothing_inside()
    if _SERIES not in top or "Meta Data" not in top:
        return malformed(f"no daily series, but {', '.join(list(top)[:4])}")
    meta = meta_data.decode(top["Meta Data"])
    if not same_symbol(meta.symbol, query.instrument):
        return malformed(f"asked for {SPELLING.native(query.instrument)}, the answer is about {one_line(meta.symbol)}")
    days, rows = rows_by_stamp(bytes(top[_SERIES]), _rows, _Row)
    columns = floats(rows)
    if any(row.split is not None for row in rows):
        columns |= floats(rows, ("dividend", "split"))
        columns["volume"] = floats(rows, ("adjusted_volume",))["adjusted_volume"]
    dates = days_of(pa.chunked_array([days], pa.string()).cast(pa.date32()))
    day, _, clock = meta.refreshed.partition(" ")
    live = np.array(days, dtype=np.str_) == day if clock and clock < MARKET_CLOSES else None
    return _delivered(answer, query, dates, columns, live)


def _from_csv(body: bytes, answer: Answer, query: DailyQuery) -> Parsed:
    header = body.split(b"\n", 1)[0].strip()
    layout = _LAYOUTS.get(header)
    if layout is None:
        return malformed(f"not the header of daily bars: {shown(header)}")
    unfit = unfit_csv(answer, _FILE_NAME, SPELLING.native(query.instrument))
    if unfit is not None:
        return unfit
    types = {name: pa.date32() if name == "session" else pa.float64() for name in layout}
    table = read_csv(body, types, ",", NULLS)
    dates = days_of(table["session"])
    if len(dates) >= 10 and np.abs(np.diff(dates)).min() >= np.timedelta64(5, "D"):
        return malformed("weekly or monthly bars instead of daily ones")
    columns = {name: floats_of(table[name]) for name in layout if name != "session"}
    return _delivered(answer, query, dates, columns)


def _delivered(
    answer: Answer,
    query: DailyQuery,
    dates: Days,
    columns: Mapping[str, Floats],
    live: Flags | None = None,
) -> Parsed:
    actions: tuple[CorporateAction, ...] = ()
    adjusted = "split" in columns
    if adjusted:
        actions = _actions(query.instrument.symbol, dates, columns["dividend"], columns["split"])
        actions = tuple(action for action in actions if action.ex_date >= query.start)
    scale = money(query.instrument)
    if scale != 1.0:
        columns = {**columns, **{name: columns[name] * scale for name in PRICE_COLUMNS}}
    known = adjusted and len(dates) > 0 and bool(dates.min() <= np.datetime64(query.start, "D"))
    return deliver(query, answer, dates, columns, live=live, actions=actions, actions_known=known)


def _actions(symbol: str, dates: Days, dividends: Floats, splits: Floats) -> tuple[CorporateAction, ...]:
    """Both are noted on the row of the ex-date, dividends as paid."""
    found = {
        CorporateAction(symbol, dates[row].astype(object), kind, float(amounts[row]))
        for kind, amounts, nothing in ((ActionKind.DIVIDEND, dividends, 0.0), (ActionKind.SPLIT, splits, 1.0))
        for row in np.flatnonzero((amounts > 0.0) & (amounts != nothing) & np.isfinite(amounts))
    }
    return tuple(sorted(found))
