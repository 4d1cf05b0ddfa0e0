"""Intraday bars: which months have to be asked for, and what their stamps mean.

Stamps are the exchange's wall clock without a zone. Whether they name the beginning or the end of a bar has
changed over the years and is written nowhere, so a body is believed before the convention of the day is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, timedelta
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa

from market_pipelines.market.bars import PRICE_COLUMNS, VALUE_COLUMNS
from market_pipelines.market.intraday import EXTENDED_HOURS, INTERVALS
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.sessions import TradingCalendar
from market_pipelines.providers.alpha_vantage.cells import top_level
from market_pipelines.providers.alpha_vantage.series import (
    NULLS,
    MetaData,
    Row,
    floats,
    nothing_inside,
    rows_by_stamp,
)
from market_pipelines.providers.alpha_vantage.spelling import SPELLING, money, same_symbol
from market_pipelines.providers.answers import malformed, one_line, shown, unfit_csv
from market_pipelines.providers.frames import Days, Floats, floats_of, read_csv
from market_pipelines.providers.intraday_frames import deliver_intraday
from market_pipelines.providers.local_bars import calendar_of, instants_of
from market_pipelines.providers.protocol import Answer, IntradayQuery, Parsed


class Label(StrEnum):
    """What the stamp of a bar names."""

    START = "start"
    END = "end"


FUNCTION = "TIME_SERIES_INTRADAY"
LABELS: Mapping[str, Label] = {"timestamp": Label.START, "time": Label.END}
"""By the name of the stamp column, where the body itself proves nothing: today's answers (seen 2023 to 2026),
and those of the retired INTRADAY_EXTENDED (seen 2020 and 2021)."""
RECENT_DAYS = 28
"""A call without a month reaches 30 days back; the day on which it is counted from is not documented."""
COMPACT_ROWS = 100
STAMP_LENGTH = len("2026-05-15 19:55:00")
FIRST_MONTH = date(2000, 1, 1)
LATEST_DATA_BEHIND = timedelta(minutes=20)
"""So long after its end the row that the series was last refreshed with may still be open: sold as live or as
15 minutes late."""
FEWEST_FOR_A_GRID = 20
"""Rows from which on it is no coincidence that all of them lie on a coarser grid than was asked for."""

_ZONES = {"US/Eastern": "America/New_York", "America/New_York": "America/New_York", "UTC": "UTC"}
_ZONE_OF_MIC = {"XNYS": "America/New_York"}
_COARSER = {1: 5, 5: 15, 15: 30}
_FILE_NAME = re.compile(r"(?i)(?:extended_)?intraday_(?:\d+min_)?(.+?)(?:_\d+min.*)?\.csv")
_STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", re.ASCII)
_MONTH = re.compile(r"\d{4}-(?:0[1-9]|1[0-2])", re.ASCII)
_FIRST_ROW = re.compile(rb"(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,.*)?")
_CSV_COLUMNS = {"ts": pa.timestamp("s"), **{name: pa.float64() for name in VALUE_COLUMNS}}


class _MetaData(MetaData):
    interval: str = msgspec.field(name="4. Interval", default="")
    size: str = msgspec.field(name="5. Output Size", default="")
    zone: str = msgspec.field(name="6. Time Zone", default="")


_meta_data = msgspec.json.Decoder(_MetaData)
# Numbers are text; the decoder turns them into floats and refuses other text.
_rows = msgspec.json.Decoder(dict[str, Row], strict=False)


def parameters(query: IntradayQuery, month: str) -> dict[str, str]:
    """Of one call; without a month it is about the latest 30 days.

    Always the full size: the compact one has been seen to tell the same day otherwise.
    """
    if query.interval not in INTERVALS:
        raise ValueError(f"no bars of {query.interval!r}; there are {', '.join(INTERVALS)}")
    return {
        "function": FUNCTION,
        "symbol": SPELLING.native(query.instrument),
        "interval": query.interval,
        "adjusted": "false",
        "extended_hours": "true" if query.extended else "false",
        "outputsize": "full",
        "datatype": "json",
        **({"month": month} if month else {}),
    }


def months(query: IntradayQuery) -> tuple[str, ...]:
    """One call each, oldest first; an empty month stands for the latest 30 days."""
    if query.start > query.today - timedelta(days=RECENT_DAYS):
        return ("",)
    first = max(query.start, FIRST_MONTH, query.instrument.listed_from or FIRST_MONTH)
    last = min(query.end, query.today, query.instrument.delisted_on or query.today)
    count = max(0, (last.year - first.year) * 12 + last.month - first.month) + 1
    return tuple(_month(first.year * 12 + first.month - 1 + number) for number in range(count))


def _month(number: int) -> str:
    return f"{number // 12:04d}-{number % 12 + 1:02d}"


def within(query: IntradayQuery, month: str) -> IntradayQuery:
    """The part of a question that the answer about one month can be held to."""
    if not _MONTH.fullmatch(month):
        return query
    first = date.fromisoformat(f"{month}-01")
    last = (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
    return replace(query, start=max(query.start, first), end=min(query.end, last))


def parse(body: bytes, answer: Answer, query: IntradayQuery) -> Parsed:
    return _from_json(body, answer, query) if body.startswith(b"{") else _from_csv(body, answer, query)


def _from_json(body: bytes, answer: Answer, query: IntradayQuery) -> Parsed:
    top = top_level.decode(body)
    if not top:
        return nothing_inside()
    series = f"Time Series ({query.interval})"
    if series not in top or "Meta Data" not in top:
        return malformed(f"no series of {query.interval}, but {', '.join(list(top)[:4])}")
    meta = _meta_data.decode(top["Meta Data"])
    if not same_symbol(meta.symbol, query.instrument):
        return malformed(f"asked for {SPELLING.native(query.instrument)}, the answer is about {one_line(meta.symbol)}")
    if meta.interval not in ("", query.interval):
        return malformed(f"asked for {query.interval}, the answer names {one_line(meta.interval)}")
    written, rows = rows_by_stamp(bytes(top[series]), _rows, Row)
    if not set(map(len, written)) <= {STAMP_LENGTH}:
        return malformed("stamps without a time of day")
    stamps = _stamps(pa.chunked_array([written], pa.string()).cast(pa.timestamp("s")))
    zone = _ZONES.get(meta.zone or "US/Eastern", "")
    compact = meta.size.lower() == "compact"
    latest = np.datetime64(meta.refreshed) if _STAMP.fullmatch(meta.refreshed) else None
    return _delivered(answer, query, stamps, floats(rows), zone, LABELS["timestamp"], latest, compact=compact)


def _from_csv(body: bytes, answer: Answer, query: IntradayQuery) -> Parsed:
    header, _, rest = body.partition(b"\n")
    names = header.strip().decode("ascii", "replace").split(",")
    if names[1:] != list(VALUE_COLUMNS) or names[0] not in LABELS or not _FIRST_ROW.fullmatch(rest.split(b"\n", 1)[0]):
        return malformed(f"not the header of intraday bars: {shown(header)}")
    unfit = unfit_csv(answer, _FILE_NAME, SPELLING.native(query.instrument))
    if unfit is not None:
        return unfit
    table = read_csv(body, _CSV_COLUMNS, ",", NULLS)
    columns = {name: floats_of(table[name]) for name in VALUE_COLUMNS}
    zone = _ZONE_OF_MIC.get(query.instrument.mic, "")
    return _delivered(answer, query, _stamps(table["ts"]), columns, zone, LABELS[names[0]])


def _stamps(column: pa.ChunkedArray[Any]) -> Days:
    if column.null_count:
        raise ValueError("a row without a stamp")
    stamps: Days = column.to_numpy().astype("datetime64[s]")
    return stamps


def _delivered(
    answer: Answer,
    query: IntradayQuery,
    stamps: Days,
    values: Mapping[str, Floats],
    zone: str,
    label: Label,
    refreshed: np.datetime64 | None = None,
    *,
    compact: bool = False,
) -> Parsed:
    """From the rows of a body, in its order and on its clock, to those that were asked for."""
    if not zone:
        return malformed("the times are in a zone that is not known here")
    length = np.timedelta64(INTERVALS[query.interval] * 60, "s")
    objection = _other_interval(stamps, INTERVALS[query.interval])
    if objection:
        return malformed(objection)
    starts = instants_of(stamps, ZoneInfo(zone))
    if np.isnat(starts).any():
        return malformed(f"a time that the clocks of {zone} do not show once")
    latest = stamps == (refreshed if refreshed is not None else np.datetime64("NaT"))
    note = ""
    if (
        len(stamps)
        and (compact or len(stamps) == COMPACT_ROWS)
        and stamps.min() > np.datetime64(query.start, "s") + np.timedelta64(1, "D")
    ):
        note = f"the answer is a compact one and begins with {stamps.min()}"
    calendar = calendar_of(query.instrument.mic, answer.received_at)
    if proven_label(starts, stamps, calendar, default=label) is Label.END:
        starts, stamps = starts - length, stamps - length
    scale = money(query.instrument)
    columns = {name: np.where(np.isfinite(values[name]), values[name], np.nan) for name in VALUE_COLUMNS}
    columns |= {name: columns[name] * scale for name in PRICE_COLUMNS if scale != 1.0}
    traded = ~np.logical_and.reduce([np.isnan(columns[name]) for name in PRICE_COLUMNS])
    if not traded.all():
        starts, stamps, latest = starts[traded], stamps[traded], latest[traded]
        columns = {name: column[traded] for name, column in columns.items()}
    contradicted = _two_versions(starts, columns)
    if contradicted:
        return malformed(contradicted)
    now = np.datetime64(answer.received_at.astimezone(UTC).replace(tzinfo=None), "s")
    behind = latest & (starts + length + np.timedelta64(LATEST_DATA_BEHIND) > now)
    days = stamps.astype("datetime64[D]")
    parsed = deliver_intraday(query, answer, starts, days, columns, unfinished=behind, reason=note)
    if parsed.outcome is Outcome.EMPTY_EXPECTED and query.start > query.end:
        return replace(parsed, outcome=Outcome.EMPTY_UNEXPECTED)
    return parsed


def _two_versions(starts: Days, columns: Mapping[str, Floats]) -> str:
    """Which bar the body contradicts itself about; empty where it does not."""
    order = np.argsort(starts, kind="stable")
    again = order[1:][starts[order][1:] == starts[order][:-1]]
    if not len(again):
        return ""
    twice = pd.DataFrame({"ts": starts, **columns}).drop_duplicates()["ts"]
    twice = twice[twice.duplicated()]
    return f"two versions of the bar of {twice.iloc[0]} UTC" if len(twice) else ""


def proven_label(stamps: Days, local: Days, calendar: TradingCalendar | None, default: Label) -> Label:
    """Which end of a bar the stamps (in UTC) name, as far as the trading day's own ends prove it.

    A bar that started at the end of a trading day would lie outside of it, and so would one that ended at its
    beginning. Extended days are tried first; a body within the regular hours is held to the bells.
    """
    if calendar is None:
        return default
    days = local.astype("datetime64[D]")
    row = np.minimum(np.searchsorted(calendar.days, days), len(calendar.days) - 1)
    session = calendar.days[row] == days
    opens, closes = calendar.opens[row], calendar.closes[row]
    before, after = EXTENDED_HOURS.get(calendar.mic, (timedelta(), timedelta()))
    spans = [(opens - np.timedelta64(before), closes + np.timedelta64(after))]
    if bool(np.all(~session | ((stamps >= opens) & (stamps <= closes)))):
        spans.append((opens, closes))
    for begins, ends in spans:
        starting = int(np.count_nonzero(session & (stamps == begins)))
        ending = int(np.count_nonzero(session & (stamps == ends)))
        if starting != ending:
            return Label.START if starting > ending else Label.END
    return default


def _other_interval(stamps: Days, minutes: int) -> str:
    """Why these cannot be bars of that length; empty where they can."""
    seconds = stamps.astype(np.int64)
    # Bars of an hour may begin on the half hour, as the exchange's day does.
    grid = min(minutes, 30) * 60
    if (seconds % grid).any():
        return f"stamps between the {minutes}min grid's lines"
    near = np.diff(np.unique(seconds)) < minutes * 60
    if np.count_nonzero(near) > len(np.unique(stamps.astype("datetime64[D]"))):
        return f"bars of less than {minutes}min"
    coarser = _COARSER.get(minutes)
    if coarser is not None and len(stamps) >= FEWEST_FOR_A_GRID and not (seconds % (coarser * 60)).any():
        return f"bars of {coarser}min or more instead of {minutes}min"
    return ""
