"""What a person decides about quarantined rows: release, drop, or take a decision back.

A released row goes the way of every other: judged again, with exactly its released rule excused, kept under its
provider's name, then settled with what else there is of its symbol and session. Every decision is in the audit log.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import pandas as pd

from market_pipelines.market.bars import PROVIDER_BAR_COLUMNS, VALUE_COLUMNS
from market_pipelines.market.consensus import house_name
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.market.quality import PreviousClose, judge
from market_pipelines.market.quality.intraday import judge_intraday
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.intraday import settle_intraday
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.refresh import instruments_of
from market_pipelines.pipeline.settle import settle_daily
from market_pipelines.store.audit import record_decision, system_user
from market_pipelines.store.bars import INDICES, STOCKS, replace_prices, write_provider_bars
from market_pipelines.store.database import Transaction
from market_pipelines.store.intraday import write_provider_intraday
from market_pipelines.store.quarantine import (
    DAILY,
    Decision,
    KeptRow,
    kept_rows,
    released_rows,
    withdraw_bar,
    write_decision,
)
from market_pipelines.store.read_bars import previous_closes, read_prices, read_provider_bars
from market_pipelines.store.reference import read_actions, write_instruments

_SURROUNDINGS = timedelta(days=30)
"""On either side of a row: the bars of its provider that a rule over series compares it with."""
LIST = "market-pipelines quality list --all shows what there is"


@dataclass(frozen=True, slots=True)
class Ruling:
    """What became of the wish to decide about one row."""

    quarantine_id: int
    done: bool
    said: str
    """For a person: what happened to the row, or why nothing did."""
    row: KeptRow | None


@dataclass(frozen=True, slots=True)
class _Word:
    """Whose decision it is."""

    user: str
    reason: str
    at: datetime


def release(platform: Platform, ids: Sequence[int], *, user: str | None = None, reason: str = "") -> tuple[Ruling, ...]:
    """Lets rows pass the rule that they broke, now and whenever the same values come again. Rows that are one bar
    under several rules have to be released together, or one after the other: what is left refuses it."""
    return _ruled(platform, ids, _Word(user or system_user(), reason, platform.clock()), _release_bar)


def drop(platform: Platform, ids: Sequence[int], *, user: str | None = None, reason: str = "") -> tuple[Ruling, ...]:
    """Leaves rows out for good; they are not open any more."""
    return _ruled(platform, ids, _Word(user or system_user(), reason, platform.clock()), _drop_bar)


def reopen(platform: Platform, ids: Sequence[int], *, user: str | None = None, reason: str = "") -> tuple[Ruling, ...]:
    """Takes decisions back. What a release had put into the tables is taken out again."""
    return _ruled(platform, ids, _Word(user or system_user(), reason, platform.clock()), _reopen_bar)


def _ruled(
    platform: Platform,
    ids: Sequence[int],
    word: _Word,
    rule_on: Callable[[Platform, Sequence[KeptRow], _Word], list[Ruling]],
) -> tuple[Ruling, ...]:
    """The rows of one bar with the same values are decided about together."""
    wanted = list(dict.fromkeys(ids))
    with platform.database.connection() as connection:
        found = kept_rows(connection, wanted)
    groups: dict[tuple[object, ...], list[KeptRow]] = {}
    for row in found.values():
        groups.setdefault((*row.bar, *row.values), []).append(row)
    rulings = {
        number: Ruling(number, False, f"no row {number} is in quarantine; {LIST}", None)
        for number in wanted
        if number not in found
    }
    for rows in groups.values():
        rulings |= {ruling.quarantine_id: ruling for ruling in rule_on(platform, rows, word)}
    return tuple(rulings[number] for number in wanted)


def _drop_bar(platform: Platform, rows: Sequence[KeptRow], word: _Word) -> list[Ruling]:
    with platform.database.connection() as connection:
        fresh, rulings = _undecided(connection, rows)
        write_decision(
            connection, [row.quarantine_id for row in fresh], Decision.DROPPED, word.at, word.user, word.reason
        )
        _note(connection, fresh, "quarantine.drop", word)
    return rulings + [Ruling(row.quarantine_id, True, f"{_bar(row)} stays out", row) for row in fresh]


def _release_bar(platform: Platform, rows: Sequence[KeptRow], word: _Word) -> list[Ruling]:
    with platform.database.connection() as connection:
        fresh, rulings = _undecided(connection, rows)
        if not fresh:
            return rulings
        first = fresh[0]
        refused = _unfit(platform, first) or _contradicted(connection, first)
        if not refused:
            standing = _released_too(connection, first)
            excused = {row.rule for row in (*fresh, *standing)}
            frame = _frame(platform, first)
            refused = _still_refused(platform, connection, first, frame, excused, word.at)
        if refused:
            return rulings + [Ruling(row.quarantine_id, False, f"not released: {refused}", row) for row in fresh]
        write_decision(
            connection, [row.quarantine_id for row in fresh], Decision.RELEASED, word.at, word.user, word.reason
        )
        _note(connection, fresh, "quarantine.release", word)
        _keep(platform, connection, first, frame, word.at)
    said = _settled(platform, first, word.at)
    return rulings + [Ruling(row.quarantine_id, True, said, row) for row in fresh]


def _reopen_bar(platform: Platform, rows: Sequence[KeptRow], word: _Word) -> list[Ruling]:
    with platform.database.connection() as connection:
        held = list(kept_rows(connection, [row.quarantine_id for row in rows], hold=True).values())
        decided = [row for row in held if row.decision is not None]
        rulings = [
            Ruling(row.quarantine_id, False, f"nobody has decided about {_bar(row)} yet", row)
            for row in held
            if row.decision is None
        ]
        write_decision(connection, [row.quarantine_id for row in decided], None, word.at, word.user, word.reason)
        _note(connection, decided, "quarantine.reopen", word)
        released = [row for row in decided if row.decision == Decision.RELEASED]
        taken_out = bool(released) and withdraw_bar(connection, released[0])
        if taken_out and released[0].interval == DAILY:
            _take_out_agreed(platform, connection, released[0], word.at)
    said = "is open again"
    if taken_out:
        said += f"; {_settled(platform, released[0], word.at)}"
    return rulings + [Ruling(row.quarantine_id, True, f"{_bar(row)} {said}", row) for row in decided]


def _undecided(connection: Transaction, rows: Sequence[KeptRow]) -> tuple[list[KeptRow], list[Ruling]]:
    """Held until the transaction ends; and why the others are not to be decided about."""
    held = list(kept_rows(connection, [row.quarantine_id for row in rows], hold=True).values())
    rulings = [
        Ruling(
            row.quarantine_id,
            False,
            f"{_bar(row)} was {row.decision} by {row.decided_by} on {row.decided_at:%Y-%m-%d}; "
            f"market-pipelines quality reopen {row.quarantine_id} takes that back",
            row,
        )
        for row in held
        if row.decision is not None
    ]
    return [row for row in held if row.decision is None], rulings


def _note(connection: Transaction, rows: Sequence[KeptRow], action: str, word: _Word) -> None:
    for row in rows:
        record_decision(
            connection,
            at=word.at,
            actor=word.user,
            action=action,
            subject=f"quarantine/{row.quarantine_id}",
            detail={
                **{
                    name: getattr(row, name) for name in ("market", "symbol", "session", "provider", "interval", "rule")
                },
                **dict(zip(VALUE_COLUMNS, row.values, strict=True)),
                "before": row.decision or "open",
                "reason": word.reason,
            },
        )


def _unfit(platform: Platform, row: KeptRow) -> str:
    """Why a row cannot be kept as a bar at all, whatever rule is excused."""
    prices = [math.nan if value is None else value for value in row.values[:4]]
    reasons = (
        (not row.symbol or row.session is None, "a bar needs a symbol and a session, and this row lacks one"),
        (
            row.interval is None or (row.interval != DAILY and row.ts is None),
            "it was kept before the time of such a bar was; ask the provider for the session again",
        ),
        (not all(map(math.isfinite, prices)), "a bar needs four prices, and one of this row is no finite number"),
        (row.volume is not None and not math.isfinite(row.volume), f"a volume of {row.volume} cannot be kept"),
        (prices[2] > prices[1], f"no table takes a low of {prices[2]:g} above a high of {prices[1]:g}"),
        (house_name(row.provider) not in platform.providers, f"there is no provider {row.provider} any more"),
    )
    return next((why for unfit, why in reasons if unfit), "")


def _contradicted(connection: Transaction, row: KeptRow) -> str:
    """Two versions of one bar cannot both be right."""
    if row.session is None or row.interval is None:
        return ""
    standing = released_rows(connection, row.market, [row.symbol], row.interval, row.session, row.session)
    for other in standing:
        if other.bar == row.bar and other.values != row.values:
            return (
                f"row {other.quarantine_id}, another version of the same bar with a close of {other.close:g}, was "
                f"released; market-pipelines quality reopen {other.quarantine_id} takes that back"
            )
    return ""


def _released_too(connection: Transaction, row: KeptRow) -> list[KeptRow]:
    if row.session is None or row.interval is None:
        return []
    standing = released_rows(connection, row.market, [row.symbol], row.interval, row.session, row.session)
    return [other for other in standing if other.bar == row.bar and other.values == row.values]


def _frame(platform: Platform, row: KeptRow) -> pd.DataFrame:
    """The row as a table of one bar of its provider. Where nobody kept what had been done to its prices, it is what
    the provider usually does."""
    basis = row.basis or str(platform.providers[house_name(row.provider)].basis)
    words = {"symbol": row.symbol, "market": row.market, "provider": row.provider, "basis": basis}
    columns: dict[str, pd.Series] = {name: pd.Series([value], dtype="str") for name, value in words.items()}
    for name, value in zip(VALUE_COLUMNS, row.values, strict=True):
        columns[name] = pd.Series([math.nan if value is None else value], dtype="float64")
    columns["session"] = pd.Series([row.session], dtype="datetime64[s]")
    columns["provisional"] = pd.Series([bool(row.provisional)], dtype="bool")
    if row.interval != DAILY:
        columns["interval"] = pd.Series([row.interval], dtype="str")
        columns["ts"] = pd.Series([row.ts], dtype="datetime64[s, UTC]")
    return pd.DataFrame(columns)


def _still_refused(
    platform: Platform,
    connection: Transaction,
    row: KeptRow,
    frame: pd.DataFrame,
    excused: set[str],
    now: datetime,
) -> str:
    """What else speaks against the row, judged among the bars around it; empty where nothing does."""
    market, instrument = _whose(platform, row)
    calendar = trading_calendar(market.mic, now)
    if row.interval is not None and row.interval != DAILY:
        judged = judge_intraday(
            frame,
            row.interval,
            calendar,
            [instrument],
            now,
            thresholds=market.quality.thresholds,
            off=market.quality.off | excused,
        )
        if judged.outside:
            return f"{market.mic} does not trade at that time"
        found = judged.quarantined[["rule", "detail"]]
    else:
        found = _daily_findings(connection, market, instrument, row, frame, now)
    rest = found[~found["rule"].isin(excused)]
    if rest.empty:
        return ""
    reasons = "; ".join(f"{rule} ({detail})" for rule, detail in rest[["rule", "detail"]].itertuples(index=False))
    return f"it still breaks {reasons}"


def _daily_findings(
    connection: Transaction,
    market: MarketDefinition,
    instrument: Instrument,
    row: KeptRow,
    frame: pd.DataFrame,
    now: datetime,
) -> pd.DataFrame:
    day: date = frame["session"].iloc[0].date()
    start, symbols = day - _SURROUNDINGS, [row.symbol]
    around = read_provider_bars(connection, market.name, symbols, start, day + _SURROUNDINGS, [row.provider])
    columns = list(PROVIDER_BAR_COLUMNS)
    together = pd.concat([around.loc[around["session"].dt.date != day, columns], frame[columns]], ignore_index=True)
    before = {
        symbol: PreviousClose(session, close)
        for symbol, (session, close) in previous_closes(
            connection, market.name, symbols, start, _table_of(instrument)
        ).items()
    }
    verdict = judge(
        together,
        trading_calendar(market.mic, now),
        [instrument],
        now,
        previous_closes=before,
        actions=read_actions(connection, market.name, symbols),
        thresholds=market.quality.thresholds,
        off=market.quality.off,
    )
    return verdict.quarantined.loc[verdict.quarantined["row"] == len(together) - 1, ["rule", "detail"]]


def _keep(platform: Platform, connection: Transaction, row: KeptRow, frame: pd.DataFrame, now: datetime) -> None:
    """Under its provider's name, as of when the provider last said so: what it has said since stands."""
    market, instrument = _whose(platform, row)
    calendar = trading_calendar(market.mic, now)
    if row.interval is not None and row.interval != DAILY:
        clean = judge_intraday(
            frame,
            row.interval,
            calendar,
            [instrument],
            now,
            thresholds=market.quality.thresholds,
            off=market.quality.off | {other.rule for other in _released_too(connection, row)},
        ).clean
        write_provider_intraday(connection, clean, row.last_seen)
    else:
        day = frame["session"].iloc[0].date()
        moving = calendar.is_session(day) and not calendar.is_closed(day, now)
        write_provider_bars(connection, frame.assign(provisional=frame["provisional"] | moving), row.last_seen)
    write_instruments(connection, [instrument], now)


def _take_out_agreed(platform: Platform, connection: Transaction, row: KeptRow, now: datetime) -> None:
    """Where the agreed bar is this very one. Its revision is kept; whatever else there is takes its place."""
    market, instrument = _whose(platform, row)
    if row.session is None:
        return
    table, symbols, day = _table_of(instrument), [row.symbol], row.session
    stored = read_prices(connection, market.name, symbols, day, day, table=table)
    values = stored[list(VALUE_COLUMNS)].astype("object").where(stored[list(VALUE_COLUMNS)].notna(), None)
    if stored["provider"].tolist() == [row.provider] and tuple(values.iloc[0]) == row.values:
        columns = [name for name in stored.columns if name not in ("ingested_at", "adjusted", "as_of")]
        replace_prices(
            connection,
            stored.iloc[:0][columns],
            now,
            _run_of(row),
            table,
            market=market.name,
            symbols=symbols,
            start=day,
            end=day,
        )


def _settled(platform: Platform, row: KeptRow, now: datetime) -> str:
    """Settles the row's symbol and session; what stands in the tables now, in words."""
    market, instrument = _whose(platform, row)
    if row.session is None:
        return ""
    day = row.session
    if row.interval is not None and row.interval != DAILY:
        settled = settle_intraday(
            platform, market, [instrument], day, day, interval=row.interval, run_id=_run_of(row), known_at=now
        )
        agreed = settled.chosen[settled.chosen["ts"] == row.ts]
        return _standing(row, agreed)
    (report,) = settle_daily(platform, market, [instrument], day, day, run_id=_run_of(row), known_at=now)
    if len(report.held):
        return (
            f"{_bar(row)} would change a final bar by {report.held['change'].iloc[0]:.0%}: it waits in "
            "market-pipelines corrections list"
        )
    if report.end < day:
        return f"{_bar(row)} is kept; {day} is settled after its close"
    return _standing(row, report.chosen)


def _standing(row: KeptRow, agreed: pd.DataFrame) -> str:
    if agreed.empty:
        return f"nobody else has a bar of {row.symbol} {row.session}, and so it is missing"
    chosen = agreed.iloc[0]
    if chosen["provider"] == row.provider and chosen["close"] == row.close:
        return f"{_bar(row)} is the agreed bar, with a close of {chosen['close']:g}"
    return f"the agreed bar of {_bar(row)} is that of {chosen['provider']}, with a close of {chosen['close']:g}"


def _whose(platform: Platform, row: KeptRow) -> tuple[MarketDefinition, Instrument]:
    market = platform.market(row.market)
    (instrument,) = instruments_of(market, [row.symbol])
    return market, instrument


def _table_of(instrument: Instrument) -> str:
    return INDICES if instrument.kind is Kind.INDEX else STOCKS


def _run_of(row: KeptRow) -> str:
    return f"quarantine-{row.quarantine_id}"


def _bar(row: KeptRow) -> str:
    at = f" {row.ts:%H:%M} UTC" if row.ts is not None else ""
    return f"{row.symbol or 'a row without a symbol'} {row.session or 'without a session'}{at} by {row.provider}"
