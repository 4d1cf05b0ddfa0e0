"""The rules over what live streams have left of a session: counts of marked ticks, and gaps.

Ticks are counted before they come here, a line for each session, kind and symbol (and with the symbol "" for all of
a session's): see `COUNTED`. Whatever is wrong with single ticks was found when they arrived, in `ticks`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple

import numpy as np
import pandas as pd

from market_pipelines.market.hours import hours
from market_pipelines.market.quality.evidence import Case
from market_pipelines.market.quality.findings import Finding, finding
from market_pipelines.market.quality.sheet import Floats, Mask
from market_pipelines.market.records import TickKind
from market_pipelines.market.sessions import TradingCalendar

COUNTED = (
    *("session", "kind", "symbol", "ticks", "crossed", "wide", "outlier", "unpriced", "corrected", "disorder"),
    *("streamed", "late"),
)
"""`streamed`: what history did not fill in; `late`: of these, what took longer than rule `latency` allows."""
MOST_NAMED = 20
"""Symbols of a session that are told one by one, the worst first."""
_WORST = 3
_QUOTES, _SNAPSHOTS, _TRADES = TickKind.QUOTES.value, TickKind.SNAPSHOTS.value, TickKind.TRADES.value


class _Share(NamedTuple):
    column: str
    words: str
    parameter: str | None = None
    """The number it goes by; None: the rule's threshold."""
    of: str = "ticks"


def _shares(name: str, kinds: Sequence[str], *shares: _Share) -> Callable[[Case], Finding | None]:
    """Each of the shares of all ticks of a session, and of each symbol's, against its limit."""

    def answer(case: Case) -> Finding | None:
        if case.evidence.ticks is None:
            return None
        ticks = case.evidence.ticks
        ticks = ticks[ticks["kind"].isin(kinds)].reset_index(drop=True)
        if ticks.empty:
            return _nothing(name, case)
        least, whole = case.limits(name, "least"), (ticks["symbol"] == "").to_numpy(dtype=bool)
        found, told = [], []
        for share in shares:
            all_of, marked = (ticks[column].to_numpy(dtype=np.float64) for column in (share.of, share.column))
            over = (all_of >= least) & (marked > case.limits(name, share.parameter) * all_of)
            found.append(_worst(ticks, over, marked, all_of, share.words))
            told.append(f"{int(marked[whole].sum()):,} {share.words}")
        return _told(name, ticks, found, f"{int(ticks['ticks'][whole].sum()):,} ticks", told)

    return answer


def stream_gap(case: Case) -> Finding | None:
    """Gaps that nobody filled, as far as they lie in a session's hours."""
    evidence = case.evidence
    if evidence.gaps is None:
        return None
    patience = timedelta(minutes=case.limits("stream_gap", "patience"))
    least = case.limits("stream_gap")
    rows = []
    for gap in evidence.gaps.to_dict("records"):
        lasts = pd.isna(gap["ends_at"])
        ends = evidence.now if lasts else gap["ends_at"]
        if gap["status"] == "open" and evidence.now - (gap["begins_at"] if lasts else ends) < patience:
            continue
        for session, seconds in _missed(evidence.calendar, gap["begins_at"], ends, evidence.start, evidence.end):
            if seconds > least:
                why = f": {gap['reason']}" if gap["reason"] else ""
                rows.append(
                    {
                        "symbol": _named(gap["symbols"]),
                        "session": pd.Timestamp(session),
                        "begins_at": gap["begins_at"],
                        "seconds": seconds,
                        "detail": f"{gap['stream']} missed {seconds:,.0f} s from {gap['begins_at']:%H:%M:%S} UTC "
                        f"({str(gap['cause']).replace('_', ' ')}), {gap['status']}{why}",
                    }
                )
    offending = pd.DataFrame(rows, columns=["symbol", "session", "begins_at", "seconds", "detail"])
    offending = offending.sort_values("seconds", ascending=False, kind="stable", ignore_index=True)
    looked = 0 if case.evidence.ticks is None else int(case.evidence.ticks["session"].nunique())
    if offending.empty and not looked:
        return _nothing("stream_gap", case)
    seconds = float(offending["seconds"].sum()) if len(offending) else 0.0
    said = f"{len(offending)} gaps are not filled, {seconds:,.0f} s in all" if len(offending) else "nothing is missing"
    return finding("stream_gap", offending, max(looked, len(offending)), f"{said} of {_sessions(looked)}")


STREAMED: dict[str, Callable[[Case], Finding | None]] = {
    "crossed_quotes": _shares(
        "crossed_quotes",
        (_QUOTES, _SNAPSHOTS),
        _Share("crossed", "are crossed"),
        _Share("wide", "are far too wide", "wide"),
    ),
    "quote_outliers": _shares("quote_outliers", (_QUOTES,), _Share("outlier", "are far off")),
    "trade_outliers": _shares("trade_outliers", (_TRADES,), _Share("outlier", "are far off")),
    "trade_conditions": _shares(
        "trade_conditions",
        (_TRADES,),
        _Share("corrected", "were taken back"),
        _Share("disorder", "came after later ones", "disorder"),
        _Share("unpriced", "make no price", "unpriced"),
    ),
    "stream_gap": stream_gap,
    # What is polled has the time of the last trade, whenever that was.
    "latency": _shares("latency", (_QUOTES, _TRADES), _Share("late", "took too long", "share", "streamed")),
}
"""By rule."""


def _nothing(name: str, case: Case) -> Finding:
    evidence = case.evidence
    nothing = pd.DataFrame({"symbol": pd.Series(dtype="str"), "session": pd.Series(dtype="datetime64[s]")})
    said = f"nothing was streamed from {evidence.start} to {evidence.end} that the rule is about"
    return finding(name, nothing, 0, said)


def _worst(ticks: pd.DataFrame, over: Mask, marked: Floats, all_of: Floats, words: str) -> pd.DataFrame:
    """The sessions and symbols that are over a limit: of each session itself first, then its worst symbols."""
    chosen = ticks[["symbol", "session", "kind"]].assign(marked=marked, ticks=all_of)[over]
    chosen = chosen.assign(share=chosen["marked"] / chosen["ticks"])
    whole = (chosen["symbol"] == "").to_numpy(dtype=bool)
    symbols = chosen[~whole].sort_values("share", ascending=False, kind="stable")
    together = ["session", "kind"]
    found = pd.concat([chosen[whole], symbols.groupby(together, sort=False).head(MOST_NAMED)], ignore_index=True)
    names = symbols.groupby(together)["symbol"].apply(lambda worst: ", ".join(worst.head(_WORST))).to_dict()
    details = []
    for symbol, session, kind, bad, of, share in found.itertuples(index=False):
        said = f"{int(bad):,} of {int(of):,} {kind} {words} ({share:.2%})"
        worst = names.get((session, kind), "")
        details.append(said if symbol else f"all in all {said}{f', worst {worst}' if worst else ''}")
    return found.assign(detail=pd.Series(details, dtype="str"))


def _told(name: str, ticks: pd.DataFrame, found: Sequence[pd.DataFrame], how_many: str, said: Sequence[str]) -> Finding:
    filled = [one for one in found if len(one)]
    offending = pd.concat(filled, ignore_index=True) if filled else found[0]
    offending = offending.sort_values("session", ascending=False, kind="stable", ignore_index=True)
    named = [symbol for symbol in dict.fromkeys(offending["symbol"]) if symbol]
    more = f" and {len(named) - _WORST} more" if len(named) > _WORST else ""
    over = f"; too many of {', '.join(named[:_WORST])}{more}" if named else "; too many" if len(offending) else ""
    sessions = _sessions(ticks["session"].nunique())
    return finding(name, offending, len(ticks), f"{how_many} of {sessions}: {', '.join(said)}{over}")


def _sessions(number: int) -> str:
    return f"{number} session{'' if number == 1 else 's'}"


def _missed(
    calendar: TradingCalendar, begins: datetime, ends: datetime, start: date, end: date
) -> list[tuple[date, float]]:
    """The seconds of each judged session's hours between two instants."""
    first, last = max(start, calendar.local_date(begins)), min(end, calendar.local_date(ends))
    found = []
    for session in calendar.sessions(first, last) if first <= last else ():
        day = hours(calendar, session)
        seconds = (min(ends, day.ends) - max(begins, day.begins)).total_seconds()
        if seconds > 0:
            found.append((session, seconds))
    return found


def _named(symbols: object) -> str:
    """Empty for a gap of everything."""
    if not isinstance(symbols, list):
        return ""
    more = f" and {len(symbols) - _WORST} more" if len(symbols) > _WORST else ""
    return f"{', '.join(symbols[:_WORST])}{more}"
