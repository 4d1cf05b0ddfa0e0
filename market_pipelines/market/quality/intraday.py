"""The verdict on bars within a session: each by itself, and all of a session against its daily bar."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from types import MappingProxyType

import numpy as np
import pandas as pd

from market_pipelines.market.bars import PRICE_COLUMNS
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.intraday import INTERVALS, phased, session_bars
from market_pipelines.market.quality.canon import RULE
from market_pipelines.market.quality.limits import OWN, Limits
from market_pipelines.market.quality.sheet import Instants, Mask
from market_pipelines.market.sessions import TradingCalendar, utc_second

MISMATCH_COLUMNS = ("symbol", "session", "detail", "serious")


@dataclass(frozen=True, slots=True)
class IntradayVerdict:
    clean: pd.DataFrame
    """The judged columns with `session` and `phase`, by symbol (and provider) and time."""
    quarantined: pd.DataFrame
    """The columns of the judged frame and `session`, `rule`, `severity`, `detail`."""
    outside: int
    """Rows at hours in which the exchange does not trade: dropped."""

    @property
    def rejected(self) -> int:
        return len(self.quarantined)


def judge_intraday(
    frame: pd.DataFrame,
    interval: str,
    calendar: TradingCalendar,
    instruments: Sequence[Instrument],
    now: datetime,
    *,
    thresholds: Mapping[str, float] = MappingProxyType({}),
    off: Collection[str] = frozenset(),
) -> IntradayVerdict:
    """Judge bars of one market and interval, fetched at `now`. Bad rows are part of the answer.

    `thresholds` and `off` are those of the market.
    """
    limits = Limits(thresholds, off)
    key = ["symbol", *([] if "provider" not in frame else ["provider"]), "ts"]
    placed = phased(frame, calendar)
    outside = len(frame) - len(placed)
    rows = placed.drop_duplicates(ignore_index=True)
    refused = np.full(len(rows), "", dtype=object)
    detail = np.full(len(rows), "", dtype=object)
    for rule, mask, text in _row_rules(rows, interval, calendar, instruments, now, limits):
        fresh = mask & (refused == "") & limits.asks(rule)
        refused[fresh], detail[fresh] = rule, text
    repeated = rows.duplicated(key, keep=False).to_numpy() & (refused == "")
    refused[repeated], detail[repeated] = "uniqueness", "several bars begin at the same time"
    bad = refused != ""
    clean = rows[~bad].sort_values(key, ignore_index=True)
    ends = clean["ts"] + pd.Timedelta(minutes=INTERVALS[interval])
    clean["provisional"] = clean["provisional"] | (ends > pd.Timestamp(now))
    quarantined = rows[bad].assign(
        rule=pd.Series(refused[bad], index=rows.index[bad], dtype="str"),
        detail=[f"{stamp:%H:%M} UTC: {why}" for stamp, why in zip(rows["ts"][bad], detail[bad].tolist(), strict=True)],
    )
    quarantined["severity"] = pd.Series(
        [RULE[name].severity.value for name in quarantined["rule"]], index=quarantined.index, dtype="str"
    )
    return IntradayVerdict(clean, quarantined.reset_index(drop=True), outside)


def _row_rules(
    rows: pd.DataFrame,
    interval: str,
    calendar: TradingCalendar,
    instruments: Sequence[Instrument],
    now: datetime,
    limits: Limits,
) -> list[tuple[str, Mask, str]]:
    prices = [rows[name].to_numpy(dtype=np.float64) for name in PRICE_COLUMNS]
    opened, high, low, close = prices
    volume = rows["volume"].to_numpy(dtype=np.float64)
    slack = limits("high_low_envelope")
    known, lives = _listed(rows, instruments)
    stamps = starts_of(rows)
    latest = utc_second(now) + np.timedelta64(round(limits("future")), "s")
    with np.errstate(all="ignore"):
        finite = np.logical_and.reduce([np.isfinite(price) for price in prices])
        body_top, body_low = np.maximum(opened, close), np.minimum(opened, close)
        return [
            ("nulls", ~finite, "a price is no finite number"),
            ("positive_price", np.minimum.reduce(prices) <= limits("positive_price"), "a price not above zero"),
            (
                "high_low_envelope",
                (np.maximum(body_top, low) - high > slack * np.abs(high))
                | (low - np.minimum(body_low, high) > slack * np.abs(low)),
                "high and low do not enclose open and close",
            ),
            ("volume", (volume < limits("volume")) | np.isinf(volume), "volume below zero or infinite"),
            ("instrument", ~known, "not an instrument of this market"),
            ("listing_life", known & ~lives, "outside of the listing"),
            ("future", stamps > latest, "begins after the answer came"),
            ("grid", off_grid(rows, interval, calendar), f"does not begin a whole number of {interval} after the bell"),
        ]


def _listed(rows: pd.DataFrame, instruments: Sequence[Instrument]) -> tuple[Mask, Mask]:
    """Which rows are of an instrument of the market, and which of a session on which it was listed."""
    places = {one.symbol: at for at, one in enumerate(instruments)}
    code, names = pd.factorize(rows["symbol"])
    place = np.array([places.get(str(name), -1) for name in names], dtype=np.int64)[code]
    first = np.array([one.listed_from or date.min for one in instruments] or [date.min], dtype="datetime64[D]")
    last = np.array([one.delisted_on or date.max for one in instruments] or [date.max], dtype="datetime64[D]")
    day = rows["session"].to_numpy().astype("datetime64[D]")
    return place >= 0, (place >= 0) & (day >= first[place]) & (day <= last[place])


def starts_of(rows: pd.DataFrame) -> Instants:
    return np.asarray(rows["ts"].dt.tz_convert(None), dtype="datetime64[s]")


def off_grid(rows: pd.DataFrame, interval: str, calendar: TradingCalendar) -> Mask:
    """Rows (with their `session`) that begin neither a whole number of intervals from the opening bell nor on a whole
    interval of the exchange's clock. Providers do both; below an hour the two are one."""
    length = INTERVALS[interval] * 60
    stamps = starts_of(rows)
    row = np.searchsorted(calendar.days, rows["session"].to_numpy().astype("datetime64[D]"))
    from_bell = (stamps - calendar.opens[row]).astype(np.int64)
    # Zones lie whole quarters of an hour from UTC, and an hour's bars are cut at full hours or at half ones.
    on_clock = stamps.astype(np.int64) % min(length, 1800)
    return np.asarray((from_bell % length != 0) & (on_clock != 0), dtype=bool)


def against_daily(bars: pd.DataFrame, daily: pd.DataFrame, limits: Limits = OWN) -> pd.DataFrame:
    """What the regular minutes of whole sessions say against their daily bars: `MISMATCH_COLUMNS`, a row each.

    Sessions that still move are not compared. `serious` marks those whose close is off or that leave the day's
    range; the rest is worth a look. The closing auction prints after the last minute, so closes may lie apart; odd
    lots count for a minute's range and not for the day's; and auctions are in the day's volume only.
    """
    settled = bars[~bars.groupby(["symbol", "session"], observed=True)["provisional"].transform("any")]
    final = daily.loc[~daily["provisional"], ["symbol", "session", *PRICE_COLUMNS, "volume"]]
    pairs = session_bars(settled).merge(final, on=["symbol", "session"], suffixes=("", "_daily"))
    minutes = {name: pairs[name].to_numpy(dtype=np.float64) for name in ("close", "high", "low", "volume")}
    day = {name: pairs[f"{name}_daily"].to_numpy(dtype=np.float64) for name in minutes}
    reach, most = limits("roll_up", "range"), 1 + limits("roll_up", "volume")
    with np.errstate(all="ignore"):
        findings = (
            ("close", np.abs(minutes["close"] / day["close"] - 1) > limits("roll_up"), "last close {}, the day's {}"),
            ("high", minutes["high"] > day["high"] * (1 + reach), "high {} above the day's {}"),
            ("low", minutes["low"] < day["low"] * (1 - reach), "low {} below the day's {}"),
            ("volume", minutes["volume"] > most * day["volume"], "volume {}, the day's {}"),
        )
    details = [""] * len(pairs)
    serious = np.zeros(len(pairs), dtype=bool)
    for name, mask, text in findings:
        serious |= mask & (name != "volume")
        for at in np.flatnonzero(mask).tolist():
            said = text.format(f"{minutes[name][at]:g}", f"{day[name][at]:g}")
            details[at] = f"{details[at]}; {said}" if details[at] else said
    frame = pairs[["symbol", "session"]].assign(detail=pd.Series(details, dtype="str"), serious=serious)
    return frame[frame["detail"] != ""].reset_index(drop=True)
