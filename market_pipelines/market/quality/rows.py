"""Rules that look at each bar by itself: its numbers, its date, its instrument."""

from collections.abc import Callable

import numpy as np

from market_pipelines.market.bars import PRICE_COLUMNS
from market_pipelines.market.quality.sheet import Mask, Offence, Sheet, offence
from market_pipelines.market.sessions import Days

BEGINNING, END_OF_TIME = np.datetime64("0001-01-01", "D"), np.datetime64("9999-12-31", "D")


def nulls(sheet: Sheet) -> Offence:
    prices = (sheet.open, sheet.high, sheet.low, sheet.close)
    finite = np.logical_and.reduce([np.isfinite(price) for price in prices])

    def detail(at: int) -> str:
        bad = [name for name, price in zip(PRICE_COLUMNS, prices, strict=True) if not np.isfinite(price[at])]
        return f"no finite {', '.join(bad)}"

    return offence(~finite, detail)


def positive_price(sheet: Sheet) -> Offence:
    floor = sheet.circumstances.limits("positive_price")
    lowest = np.fmin(np.fmin(sheet.open, sheet.close), np.fmin(sheet.high, sheet.low))
    return offence(lowest <= floor, lambda at: f"a price of {lowest[at]:g}")


def high_low_envelope(sheet: Sheet) -> Offence:
    slack = sheet.circumstances.limits("high_low_envelope")
    top = np.maximum(np.maximum(sheet.open, sheet.close), sheet.low)
    bottom = np.minimum(np.minimum(sheet.open, sheet.close), sheet.high)
    above = top - sheet.high > slack * np.abs(top)
    below = sheet.low - bottom > slack * np.abs(bottom)

    def detail(at: int) -> str:
        if above[at]:
            return f"high {sheet.high[at]:.10g} is below {top[at]:.10g}"
        return f"low {sheet.low[at]:.10g} is above {bottom[at]:.10g}"

    return offence(above | below, detail)


def volume(sheet: Sheet) -> Offence:
    bad = (sheet.volume < sheet.circumstances.limits("volume")) | np.isinf(sheet.volume)
    return offence(bad, lambda at: f"volume {sheet.volume[at]:g}")


def instrument(sheet: Sheet) -> Offence:
    known = np.array([name in sheet.circumstances.instruments for name in sheet.symbols], dtype=bool)
    return offence(
        ~known[sheet.symbol],
        lambda at: f"{sheet.symbols[sheet.symbol[at]]} is not an instrument of this market",
    )


def listing_life(sheet: Sheet) -> Offence:
    first, last = _lives(sheet)
    early, late = sheet.day < first[sheet.symbol], sheet.day > last[sheet.symbol]

    def detail(at: int) -> str:
        if early[at]:
            return f"{sheet.text(at)} is before the listing on {first[sheet.symbol[at]]}"
        return f"{sheet.text(at)} is after the last session, {last[sheet.symbol[at]]}"

    return offence(early | late, detail)


def _lives(sheet: Sheet) -> tuple[Days, Days]:
    """By symbol, the first and the last date of its listing."""
    held = [sheet.circumstances.instruments.get(name) for name in sheet.symbols]
    first = [BEGINNING if one is None or one.listed_from is None else one.listed_from for one in held]
    last = [END_OF_TIME if one is None or one.delisted_on is None else one.delisted_on for one in held]
    return np.array(first, dtype="datetime64[D]"), np.array(last, dtype="datetime64[D]")


def session_membership(sheet: Sheet) -> Offence:
    calendar = sheet.circumstances.calendar

    def detail(at: int) -> str:
        day = sheet.day[at].item()
        if not calendar.start <= day <= calendar.end:
            return f"{day} is outside {calendar.mic}'s calendar, {calendar.start} to {calendar.end}"
        return f"{day:%Y-%m-%d, a %A}, is no session of {calendar.mic}"

    return offence(~sheet.is_session, detail)


def future(sheet: Sheet) -> Offence:
    now = sheet.circumstances.now
    return offence(
        ~sheet.had_opened,
        lambda at: f"{sheet.text(at)} had not opened at {now:%Y-%m-%d %H:%M:%S%z}",
    )


def live_bar(sheet: Sheet) -> Offence:
    """Also where only the provider says so: its data can lag behind the closing bell."""

    def detail(at: int) -> str:
        if sheet.had_closed[at]:
            return f"the provider marked {sheet.text(at)} as still moving"
        return f"{sheet.text(at)} had not closed at {sheet.circumstances.now:%Y-%m-%d %H:%M:%S%z}"

    return offence(sheet.provisional | ~sheet.had_closed, detail)


def malformed(symbol_missing: Mask, session_missing: Mask, off_midnight: Mask) -> Offence:
    """Rows that cannot even be placed: the row-wise part of the schema rule."""

    def detail(at: int) -> str:
        if symbol_missing[at]:
            return "no symbol"
        return "no session" if session_missing[at] else "the session has a time of day"

    return offence(symbol_missing | session_missing | off_midnight, detail)


CHECKS: dict[str, Callable[[Sheet], Offence]] = {
    "nulls": nulls,
    "positive_price": positive_price,
    "high_low_envelope": high_low_envelope,
    "volume": volume,
    "instrument": instrument,
    "listing_life": listing_life,
    "session_membership": session_membership,
    "future": future,
}
"""The blocking ones."""
