"""How results look in the UI: tables, plots and counts as Dagster metadata."""

from __future__ import annotations

import math
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import dagster as dg
import pandas as pd

from market_pipelines.redaction import redact

ROWS_SHOWN = 20
_PLOT_WIDTH, _PLOT_HEIGHT = 480.0, 90.0
_MARGIN = 4.0
_POINTS = 120


def table(frame: pd.DataFrame, rows: int = ROWS_SHOWN) -> dg.TableMetadataValue:
    """The first rows of a frame, every cell in a form that the UI can show."""
    shown = frame.head(rows)
    columns = [str(name) for name in frame.columns]
    records = [
        dg.TableRecord({name: _cell(value) for name, value in zip(columns, row, strict=True)})
        for row in shown.itertuples(index=False)
    ]
    schema = dg.TableSchema(columns=[dg.TableColumn(name) for name in columns])
    return dg.MetadataValue.table(records=records, schema=schema)


def _cell(value: object) -> str | int | float | bool:
    if isinstance(value, pd.Timestamp):
        return value.date().isoformat() if value == value.normalize() else value.isoformat()
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return "" if math.isnan(value) else round(value, 6)
    return "" if value is None or value is pd.NA else redact(str(value))


def counted(values: Iterable[str]) -> str:
    """`ok 48 · throttled 2`: how many of each, the most frequent first."""
    return " · ".join(f"{name} {count}" for name, count in Counter(values).most_common()) or "none"


def plot(values: Sequence[float], label: str) -> dg.MarkdownMetadataValue:
    """A line of values over time as a picture in Markdown."""
    finite = [value for value in values if not math.isnan(value)]
    if len(finite) < 2:
        return dg.MetadataValue.md(f"{label}: {finite[0] if finite else 'no values'}")
    step = max(1, len(finite) // _POINTS)
    drawn = [*finite[::step], finite[-1]]
    low, high = min(drawn), max(drawn)
    height = high - low or 1.0
    across, up = _PLOT_WIDTH / (len(drawn) - 1), (_PLOT_HEIGHT - 2 * _MARGIN) / height
    points = " ".join(
        f"{index * across:.1f},{_PLOT_HEIGHT - _MARGIN - (value - low) * up:.1f}" for index, value in enumerate(drawn)
    )
    picture = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_PLOT_WIDTH:.0f}" height="{_PLOT_HEIGHT:.0f}">'
        f'<polyline fill="none" stroke="#4f43dd" stroke-width="1.5" points="{points}"/></svg>'
    )
    return dg.MetadataValue.md(f"{label}: {low:g} to {high:g}\n\n![{label}]({_data_uri(picture)})")


def _data_uri(svg: str) -> str:
    return f"data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}"


def column_schema(columns: Mapping[str, tuple[str, str]]) -> dg.TableSchema:
    """From `name → (type, description)`."""
    return dg.TableSchema(
        columns=[dg.TableColumn(name, type=kind, description=text) for name, (kind, text) in columns.items()]
    )
