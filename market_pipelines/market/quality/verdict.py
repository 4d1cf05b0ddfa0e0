"""The verdict on a table of daily bars: which rows go on, which do not and why, what should be looked at."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from types import MappingProxyType

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_string_dtype

from market_pipelines.market.actions import CorporateAction
from market_pipelines.market.bars import BAR_COLUMNS, VALUE_COLUMNS
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.quality import rows, series
from market_pipelines.market.quality.canon import RULE, RULES
from market_pipelines.market.quality.limits import Limits
from market_pipelines.market.quality.sheet import Circumstances, Ints, Mask, Offence, PreviousClose, Sheet
from market_pipelines.market.sessions import TradingCalendar

REASON_COLUMNS = ("row", "rule", "severity", "detail")


@dataclass(frozen=True, slots=True)
class Verdict:
    clean: pd.DataFrame
    """The columns of the judged frame, by symbol (and provider) and session; `provisional` is true wherever
    the session had not closed."""
    quarantined: pd.DataFrame
    """The columns of the judged frame and `row` (its position there), `rule`, `severity`, `detail`: one line
    for each rule that a row breaks."""
    warnings: pd.DataFrame
    """As `quarantined`, for rows that are kept and for repetitions that were dropped."""
    counts: Mapping[str, int]
    """Rows per rule, for every rule that is asked of a frame."""
    judged: int

    @property
    def rejected(self) -> int:
        """Rows in quarantine, each counted once."""
        return int(self.quarantined["row"].nunique())


def judge(
    frame: pd.DataFrame,
    calendar: TradingCalendar,
    instruments: Iterable[Instrument],
    now: datetime,
    *,
    previous_closes: Mapping[str, PreviousClose] | Mapping[str, tuple[date, float]] | None = None,
    actions: Iterable[CorporateAction] = (),
    thresholds: Mapping[str, float] = MappingProxyType({}),
    off: Collection[str] = frozenset(),
) -> Verdict:
    """Judge daily bars of one market, fetched at `now`.

    Bad rows are part of the answer and raise nothing. Where the frame has a `provider`, each provider's bars
    are a series of their own; where it has a `basis`, known actions are applied to traded prices only, and
    without one all prices count as traded. `thresholds` and `off` are those of the market.
    """
    limits = Limits(thresholds, off)
    fault = _schema_fault(frame)
    if fault:
        return _refused(frame, fault, limits)
    malformed = rows.malformed(
        frame["symbol"].isna().to_numpy(dtype=bool),
        frame["session"].isna().to_numpy(dtype=bool),
        _off_midnight(frame["session"]),
    )
    placed = np.flatnonzero(~malformed.mask)
    circumstances = Circumstances(
        calendar,
        {one.symbol: one for one in instruments},
        now,
        {name: PreviousClose(*known) for name, known in (previous_closes or {}).items()},
        tuple(actions),
        limits,
    )
    sheet = Sheet(frame if len(placed) == len(frame) else frame.iloc[placed], circumstances)

    blocked = [("schema", np.flatnonzero(malformed.mask), malformed.details)]
    refused = np.zeros(len(sheet), dtype=bool)
    for name, check in {**rows.CHECKS, **series.BLOCKING}.items():
        if not limits.asks(name):
            continue
        with np.errstate(all="ignore"):  # what NaN and inf give in a comparison is itself a finding
            found = check(sheet)
        refused |= found.mask
        blocked.append((name, placed[found.mask], found.details))

    repeated = series.duplicate(sheet)
    kept = sheet.order[~(refused | repeated.mask)[sheet.order]]
    remaining = sheet if len(kept) == len(sheet) and sheet.in_order else sheet.take(kept)
    live = rows.live_bar(remaining)
    noted = [
        _among("duplicate", repeated, placed, ~refused),
        _among("order", series.order(sheet), placed, ~refused),
        ("live_bar", placed[kept][live.mask], live.details),
    ]
    for name, check in series.NOTED.items():
        if limits.asks(name):
            found = check(remaining)
            noted.append((name, placed[kept][found.mask], found.details))
    # What is done to repetitions and to bars that still move does not depend on whether it is reported.
    noted = [reasons for reasons in noted if limits.asks(reasons[0])]

    session = remaining.frame["session"].astype("datetime64[s]")
    clean = remaining.frame.assign(session=session, provisional=live.mask).reset_index(drop=True)
    counts = _nothing_counted(limits)
    counts.update({name: len(at) for name, at, _ in (*blocked, *noted)})
    return Verdict(clean, _with_reasons(frame, blocked), _with_reasons(frame, noted), counts, len(frame))


Reasons = tuple[str, Ints, Sequence[str]]
"""A rule, the positions of the rows that break it, and what was found in each."""


def _among(name: str, found: Offence, placed: Ints, wanted: Mask) -> Reasons:
    at = np.flatnonzero(found.mask)
    details = [text for text, want in zip(found.details, wanted[at].tolist(), strict=True) if want]
    return name, placed[at[wanted[at]]], details


def _with_reasons(frame: pd.DataFrame, reasons: Sequence[Reasons]) -> pd.DataFrame:
    at = np.concatenate([np.arange(0), *[positions for _, positions, _ in reasons]])
    rule = [name for name, positions, _ in reasons for _ in range(len(positions))]
    return (
        frame.iloc[at]
        .reset_index(drop=True)
        .assign(
            row=at,
            rule=pd.Series(rule, dtype="str"),
            severity=pd.Series([RULE[name].severity.value for name in rule], dtype="str"),
            detail=pd.Series([text for _, _, details in reasons for text in details], dtype="str"),
        )
    )


def _schema_fault(frame: pd.DataFrame) -> str:
    missing = [name for name in BAR_COLUMNS if name not in frame]
    if missing:
        return f"column {', '.join(missing)} is missing"
    twice = sorted(set(frame.columns[frame.columns.duplicated()]))
    if twice:
        return f"column {', '.join(twice)} is there more than once"
    wrong = [f"{name} is {frame[name].dtype}, not float64" for name in VALUE_COLUMNS if frame[name].dtype != np.float64]
    if not is_string_dtype(frame["symbol"].dropna()):
        wrong.append(f"symbol is {frame['symbol'].dtype}, not str")
    if frame["session"].dtype.kind != "M" or isinstance(frame["session"].dtype, pd.DatetimeTZDtype):
        wrong.append(f"session is {frame['session'].dtype}, not datetime64[s] without a zone")
    if not is_bool_dtype(frame["provisional"]) or frame["provisional"].isna().any():
        wrong.append(f"provisional is {frame['provisional'].dtype}, not bool")
    return "; ".join(wrong)


def _off_midnight(session: pd.Series) -> Mask:
    instants = session.to_numpy()
    known = ~np.isnat(instants)
    return np.asarray(known & (instants != instants.astype("datetime64[D]")), dtype=bool)


def _nothing_counted(limits: Limits) -> dict[str, int]:
    return {rule.name: 0 for rule in RULES if rule.scope.judged and limits.asks(rule.name)}


def _refused(frame: pd.DataFrame, fault: str, limits: Limits) -> Verdict:
    everything: Reasons = ("schema", np.arange(len(frame)), [fault] * len(frame))
    counts = _nothing_counted(limits) | {"schema": len(frame)}
    nothing: Reasons = ("schema", np.arange(0), [])
    return Verdict(
        frame.iloc[:0],
        _with_reasons(frame, [everything]),
        _with_reasons(frame, [nothing]),
        counts,
        len(frame),
    )
