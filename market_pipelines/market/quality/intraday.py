"""The verdict on bars within a session: each by itself, and all of a session against its daily bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pandas as pd

from market_pipelines.market.bars import PRICE_COLUMNS
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.intraday import INTERVALS, phased, session_bars
from market_pipelines.market.quality.rules import RULE, threshold
from market_pipelines.market.sessions import TradingCalendar, utc_second

CLOSE_TOLERANCE = 0.005
"""The closing auction prints after the last minute: the last bar's close may be this far from the day's."""
RANGE_TOLERANCE = 0.002
"""By how much a minute may reach beyond the day's high or low: odd lots count for the one and not the other."""
MOST_VOLUME = 1.05
"""Share of the day's volume that its regular minutes may add up to."""
MISMATCH_COLUMNS = ("symbol", "session", "detail", "serious")

Mask = npt.NDArray[np.bool_]


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
) -> IntradayVerdict:
    """Judge bars of one market and interval, fetched at `now`. Bad rows are part of the answer."""
    key = ["symbol", *([] if "provider" not in frame else ["provider"]), "ts"]
    placed = phased(frame, calendar)
    outside = len(frame) - len(placed)
    rows = placed.drop_duplicates(ignore_index=True)
    refused = np.full(len(rows), "", dtype=object)
    detail = np.full(len(rows), "", dtype=object)
    for rule, mask, text in _row_rules(rows, instruments, now):
        fresh = mask & (refused == "")
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


def _row_rules(rows: pd.DataFrame, instruments: Sequence[Instrument], now: datetime) -> list[tuple[str, Mask, str]]:
    prices = [rows[name].to_numpy(dtype=np.float64) for name in PRICE_COLUMNS]
    opened, high, low, close = prices
    volume = rows["volume"].to_numpy(dtype=np.float64)
    slack = threshold("high_low_envelope")
    known = {one.symbol: one for one in instruments}
    sessions = rows["session"].dt.date
    lives = np.array(
        [
            symbol in known and known[symbol].trades_on(session)
            for symbol, session in zip(rows["symbol"], sessions, strict=True)
        ],
        dtype=bool,
    )
    stamps = rows["ts"].dt.tz_convert(None).to_numpy().astype("datetime64[s]")
    with np.errstate(all="ignore"):
        finite = np.logical_and.reduce([np.isfinite(price) for price in prices])
        body_top, body_low = np.maximum(opened, close), np.minimum(opened, close)
        return [
            ("nulls", ~finite, "a price is no finite number"),
            ("positive_price", np.minimum.reduce(prices) <= threshold("positive_price"), "a price not above zero"),
            (
                "high_low_envelope",
                (np.maximum(body_top, low) - high > slack * np.abs(high))
                | (low - np.minimum(body_low, high) > slack * np.abs(low)),
                "high and low do not enclose open and close",
            ),
            ("volume", (volume < threshold("volume")) | np.isinf(volume), "volume below zero or infinite"),
            (
                "instrument",
                ~rows["symbol"].isin(list(known)).to_numpy(),
                "not an instrument of this market",
            ),
            ("listing_life", ~lives, "outside of the listing"),
            ("future", stamps > utc_second(now), "begins after the answer came"),
        ]


def against_daily(bars: pd.DataFrame, daily: pd.DataFrame) -> pd.DataFrame:
    """What the regular minutes of whole sessions say against their daily bars: `MISMATCH_COLUMNS`, a row each.

    Sessions that still move are not compared. `serious` marks those whose close is off or that leave the day's
    range; the rest is worth a look.
    """
    settled = bars[~bars.groupby(["symbol", "session"], observed=True)["provisional"].transform("any")]
    final = daily.loc[~daily["provisional"], ["symbol", "session", *PRICE_COLUMNS, "volume"]]
    pairs = session_bars(settled).merge(final, on=["symbol", "session"], suffixes=("", "_daily"))
    minutes = {name: pairs[name].to_numpy(dtype=np.float64) for name in ("close", "high", "low", "volume")}
    day = {name: pairs[f"{name}_daily"].to_numpy(dtype=np.float64) for name in minutes}
    with np.errstate(all="ignore"):
        findings = (
            ("close", np.abs(minutes["close"] / day["close"] - 1) > CLOSE_TOLERANCE, "last close {}, the day's {}"),
            ("high", minutes["high"] > day["high"] * (1 + RANGE_TOLERANCE), "high {} above the day's {}"),
            ("low", minutes["low"] < day["low"] * (1 - RANGE_TOLERANCE), "low {} below the day's {}"),
            ("volume", minutes["volume"] > MOST_VOLUME * day["volume"], "volume {}, the day's {}"),
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
