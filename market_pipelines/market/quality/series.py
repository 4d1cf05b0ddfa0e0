"""Rules that compare the bars of one series with each other and with what is already stored."""

from collections.abc import Callable

import numpy as np

from market_pipelines.market.actions import ActionKind, CorporateAction
from market_pipelines.market.quality.sheet import Floats, Ints, Mask, Offence, Sheet, offence

HUNDRED = 100.0


def order(sheet: Sheet) -> Offence:
    late = np.zeros(len(sheet), dtype=bool)
    if not sheet.in_order:
        by_series = np.argsort(sheet.series, kind="stable")
        key = sheet.key[by_series]
        late[by_series] = key < np.maximum.accumulate(key)
    return offence(late, lambda at: f"{sheet.text(at)} comes after a later session")


def uniqueness(sheet: Sheet) -> Offence:
    differing, _ = _repetitions(sheet)
    return offence(differing, lambda at: f"several different bars for {sheet.text(at)}")


def duplicate(sheet: Sheet) -> Offence:
    _, repeated = _repetitions(sheet)
    return offence(repeated, lambda at: f"the bar of {sheet.text(at)} came more than once")


def _repetitions(sheet: Sheet) -> tuple[Mask, Mask]:
    """All rows of sessions whose bars differ; and the second and later rows of sessions whose bars do not."""
    differing, repeated = np.zeros(len(sheet), dtype=bool), np.zeros(len(sheet), dtype=bool)
    if sheet.in_order or len(sheet) < 2:
        return differing, repeated
    at = sheet.order
    key = sheet.key[at]
    again = np.concatenate(([False], key[1:] == key[:-1]))
    changed = np.zeros(len(at), dtype=bool)
    for column in (sheet.open, sheet.high, sheet.low, sheet.close, sheet.volume, sheet.provisional):
        value = column[at]
        here, before = value[1:], value[:-1]
        changed[1:] |= (here != before) & ~((here != here) & (before != before))  # noqa: PLR0124 (NaN is itself)
    session = np.cumsum(~again) - 1
    conflicting = np.zeros(int(session[-1]) + 1, dtype=bool)
    conflicting[session[again & changed]] = True
    differing[at] = conflicting[session]
    repeated[at] = again & ~conflicting[session]
    return differing, repeated


def unit_error(sheet: Sheet) -> Offence:
    """A bar whose close is in another unit than its series, or whose own prices are in two units.

    The unit of a series is that of the stored close before it, or else the one that most of its bars are in.
    Splits that are known have been taken out of the comparison.
    """
    wide = sheet.circumstances.limits("unit_error")
    with np.errstate(divide="ignore", invalid="ignore"):
        torn = np.logical_or.reduce(
            [_hundredfold(price / sheet.close, wide) != 0 for price in (sheet.open, sheet.high, sheet.low)]
        )
    level = np.zeros(len(sheet), dtype=np.int64)
    rows, close, before = steps(sheet)
    jumps = _hundredfold(close / before, wide) != 0
    anchor, _ = sheet.previous
    series = sheet.series[rows]
    for one in np.unique(series[jumps]).tolist():
        mine = slice(*np.searchsorted(series, [one, one + 1]).tolist())
        level[rows[mine]] = _levels(close[mine], float(anchor[sheet.symbol[rows[mine][0]]]), wide)

    def detail(at: int) -> str:
        if level[at]:
            return f"close {sheet.close[at]:g} is {HUNDRED ** level[at]:g} times what surrounds it"
        return (
            f"open {sheet.open[at]:g}, high {sheet.high[at]:g}, low {sheet.low[at]:g} and "
            f"close {sheet.close[at]:g} are not in one unit"
        )

    return offence(torn | (level != 0), detail)


def _levels(close: Floats, stored: float, wide: float) -> Ints:
    """For each close, by which power of a hundred it is out of the series' unit."""
    reference = stored if np.isfinite(stored) else float(close[0])
    found = np.zeros(len(close), dtype=np.int64)
    for at, price in enumerate(close.tolist()):
        # Between prices too small for a number, once splits are taken out, nothing can be told.
        ratio = price / reference if reference > 0 else np.nan
        if HUNDRED / wide <= ratio <= HUNDRED * wide:
            found[at], reference = 1, price / HUNDRED
        elif 1 / (HUNDRED * wide) <= ratio <= wide / HUNDRED:
            found[at], reference = -1, price * HUNDRED
        else:
            reference = price
    if not np.isfinite(stored):
        values, counts = np.unique(found, return_counts=True)
        found -= values[np.argmax(counts)]
    return found


def _hundredfold(ratio: Floats, wide: float) -> Ints:
    """1 where a ratio is about 100, -1 where it is about a hundredth, else 0."""
    up = (ratio >= HUNDRED / wide) & (ratio <= HUNDRED * wide)
    down = (ratio >= 1 / (HUNDRED * wide)) & (ratio <= wide / HUNDRED)
    return up.astype(np.int64) - down.astype(np.int64)


def steps(sheet: Sheet) -> tuple[Ints, Floats, Floats]:
    """Rows with a usable close in order of series and session; that close and the one before it.

    Both are restated for known splits. Before a series' first bar stands the stored close, or NaN.
    """
    rows = sheet.order
    usable = np.isfinite(sheet.close[rows]) & (sheet.close[rows] > 0)
    rows = rows if usable.all() else rows[usable]
    close = sheet.close[rows] * sheet.splits[rows]
    before = np.empty_like(close)
    if len(close):
        before[1:] = close[:-1]
        series = sheet.series[rows]
        first = np.concatenate(([True], series[1:] != series[:-1]))
        stored, session = sheet.previous
        symbol = sheet.symbol[rows[first]]
        before[first] = np.where(session[symbol] < sheet.day[rows[first]], stored[symbol], np.nan)
    return rows, close, before


def return_cap(sheet: Sheet) -> Offence:
    cap = sheet.circumstances.limits("return_cap")
    rows, close, before = steps(sheet)
    move = close / before - 1
    fallen = np.flatnonzero(move < -cap)
    if len(fallen):
        move[fallen] += dividends(sheet, rows, fallen) / before[fallen]
    wild = np.zeros(len(sheet), dtype=bool)
    wild[rows] = np.abs(move) > cap
    size = np.zeros(len(sheet))
    size[rows] = move
    return offence(wild, lambda at: f"the close moved by {size[at]:+.0%} with no known action")


def dividends(sheet: Sheet, rows: Ints, which: Ints) -> Floats:
    """Cash that went ex at each of these places in `rows`, restated for later splits as the closes are."""
    known: dict[str, list[CorporateAction]] = {}
    for action in sheet.circumstances.actions:
        if action.kind is ActionKind.DIVIDEND:
            known.setdefault(action.symbol, []).append(action)
    paid = np.zeros(len(which))
    for at, step in enumerate(which.tolist()):
        row = rows[step]
        symbol, until = sheet.symbols[sheet.symbol[row]], sheet.day[row].item()
        if not sheet.traded[row] or symbol not in known:
            continue
        if step and sheet.series[rows[step - 1]] == sheet.series[row]:
            since = sheet.day[rows[step - 1]].item()
        else:
            since = sheet.circumstances.previous_closes[symbol].session
        amount = sum(one.value for one in known[symbol] if since < one.ex_date <= until)
        paid[at] = amount * sheet.splits[row]
    return paid


def volume_gap(sheet: Sheet) -> Offence:
    absent = np.isnan(sheet.volume)
    has_some = np.zeros(int(sheet.series.max(initial=0)) + 1, dtype=bool)
    has_some[sheet.series[~absent]] = True
    return offence(absent & has_some[sheet.series], lambda at: f"no volume for {sheet.text(at)}")


def repeated_bar(sheet: Sheet) -> Offence:
    """Yesterday's bar under today's date. Four prices and a volume do not come again by chance where they moved."""
    repeated = np.zeros(len(sheet), dtype=bool)
    at = sheet.order
    if len(at) > 1:
        here, before = at[1:], at[:-1]
        same = (sheet.series[here] == sheet.series[before]) & (sheet.slot[here] == sheet.slot[before] + 1)
        same &= sheet.is_session[here] & sheet.is_session[before]
        for column in (sheet.open, sheet.high, sheet.low, sheet.close):
            same &= column[here] == column[before]
        traded, absent = sheet.volume > 0, np.isnan(sheet.volume)
        same &= (traded[here] & (sheet.volume[here] == sheet.volume[before])) | (absent[here] & absent[before])
        repeated[here[same]] = True
        repeated &= sheet.high > sheet.low
    return offence(repeated, lambda at: f"{sheet.text(at)} repeats the session before it in every number")


BLOCKING: dict[str, Callable[[Sheet], Offence]] = {
    "uniqueness": uniqueness,
    "unit_error": unit_error,
    "repeated_bar": repeated_bar,
}
NOTED: dict[str, Callable[[Sheet], Offence]] = {"volume_gap": volume_gap, "return_cap": return_cap}
"""What is asked of the bars that remain."""
