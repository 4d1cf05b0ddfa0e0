"""Commands that bring data in: `pull`, `backfill`, and `reparse`, which takes it from the archive."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from typing import Annotated, Any

import typer

from market_pipelines.cli.door import From, Interval, Json, Symbols, To, a_day, read_door_settings, symbols_in
from market_pipelines.cli.output import ExitCode, emit_json, emit_table, interruption_code, lasting, progress, say
from market_pipelines.market.consensus import SIMULATED_PREFIX
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.backfill import Left, backfill_bars, by_symbol, lacking_ranges
from market_pipelines.pipeline.estimate import Estimate, estimate, estimate_ranges
from market_pipelines.pipeline.fetch import ATTEMPTS
from market_pipelines.pipeline.intraday import refresh_intraday
from market_pipelines.pipeline.platform import Platform, open_platform
from market_pipelines.pipeline.refresh import instruments_of, refresh_daily
from market_pipelines.pipeline.reparse import reparse as reparse_market
from market_pipelines.pipeline.results import SymbolResult
from market_pipelines.pipeline.settle import DAILY
from market_pipelines.providers.protocol import DailyProvider
from market_pipelines.settings import SimulatorUse
from market_pipelines.store.reference import read_instruments

SESSIONS_BY_DEFAULT = 30
INTRADAY_SESSIONS = 5
NO_RANGES: Mapping[str, Sequence[tuple[date, date]]] = {}

Market = Annotated[str, typer.Option("--market", help="The market whose providers and calendar count.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say how many requests it would cost, and ask nobody.")]
SomeSymbols = Annotated[
    list[str] | None,
    typer.Option("--symbols", metavar="SYMBOL,…", help="Only these; without it all of the market.", show_default=False),
]


def register(app: typer.Typer) -> None:
    app.command()(pull)
    app.command()(backfill)
    app.command()(reparse)


def pull(
    symbols: Symbols,
    market: Market = "us",
    interval: Interval = DAILY,
    start: From = None,
    end: To = None,
    provider: Annotated[str | None, typer.Option("--provider", help="Ask only this one.", show_default=False)] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Fetch bars, archive the answers, validate and store them. Without days: the last 30 sessions (5 within them).

    Exit code 3 when symbols failed, 4 when all of those failed because no provider is authorised.
    """
    wanted = symbols_in(symbols)
    with platform_of_commands(asks=not dry_run) as platform:
        definition = platform.market(market)
        days = _days(platform, definition, start, end, interval)
        chain = _chain(platform, provider)
        instruments = instruments_of(definition, wanted)
        if dry_run:
            cost = estimate(platform, definition, instruments, days.start, days.end, interval=interval, providers=chain)
            _show_estimate(definition, interval, days, cost, as_json)
            return
        with progress("pull") as done:
            if interval == DAILY:
                report = refresh_daily(
                    platform, definition, instruments, days.start, days.end, providers=chain, progress=done
                )
            else:
                report = refresh_intraday(
                    platform,
                    definition,
                    instruments,
                    days.start,
                    days.end,
                    interval=interval,
                    providers=chain,
                    progress=done,
                )
        shown = _Days(report.start, report.end)
        _show(
            _document(platform, definition, interval, shown, report.symbols, report.sessions), report.symbols, as_json
        )
    raise typer.Exit(exit_code(report.symbols))


def backfill(
    market: Annotated[str, typer.Option("--market", help="The market to fill.", show_default=False)],
    start: Annotated[
        date, typer.Option("--from", parser=a_day, metavar="YYYY-MM-DD", help="The first day.", show_default=False)
    ],
    end: To = None,
    interval: Interval = DAILY,
    symbols: SomeSymbols = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also ask for what is there already, or was confirmed to be missing.")
    ] = False,
    newest_first: Annotated[bool, typer.Option("--newest-first", help="Begin with the newest ranges.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Fill a range for all shares and indices of a market, in both directions: only what is lacking is asked for.

    It may be interrupted: a second run goes on.
    """
    wanted = symbols_in(symbols or ())
    began = time.monotonic()
    with platform_of_commands(asks=not dry_run) as platform:
        definition = platform.market(market)
        days = _days(platform, definition, start, end, interval)
        instruments = instruments_of(definition, wanted) if wanted else definition.everything
        if dry_run:
            ranges = lacking_ranges(platform, definition, instruments, days.start, days.end, interval, again=again)
            cost = estimate_ranges(platform, definition, ranges, instruments, interval)
            _show_estimate(definition, interval, days, cost, as_json, ranges)
            return
        filled = _fill(platform, definition, instruments, days, interval, again=again, newest_first=newest_first)
        sessions = trading_calendar(definition.mic, platform.clock()).sessions(days.start, days.end)
        results = by_symbol(filled.results)
        document = _document(platform, definition, interval, days, results, len(sessions)) | {
            "seconds": round(time.monotonic() - began, 3),
            "skipped": list(filled.skipped),
            "interrupted": filled.interruption is not None,
            "left": filled.left,
        }
        _show(document, results, as_json)
    if filled.skipped:
        say(f"{len(filled.skipped)} symbols lack nothing in that range and were not asked for; --again asks for them.")
    if filled.interruption is not None:
        say(
            f"Interrupted: {filled.done} of {len(instruments)} symbols are done and stored{_still(filled.left)}. "
            "The same command goes on from there."
        )
        raise typer.Exit(interruption_code(filled.interruption))
    raise typer.Exit(exit_code(results))


def reparse(
    market: Market = "us",
    symbols: SomeSymbols = None,
    as_json: Json = False,
) -> None:
    """Rebuild bars from the archived answers with today's parsers and rules. Asks nobody."""
    wanted = symbols_in(symbols or ())
    with platform_of_commands(asks=False) as platform:
        definition = platform.market(market)
        with progress("reparse") as done:
            report = reparse_market(platform, definition, _archived(platform, definition, wanted), done)
    counts = report.counts
    if as_json:
        emit_json(
            {
                "market": report.market,
                "answers": report.answers,
                "runs": report.runs,
                "rows": report.rows,
                "inserted": counts.inserted,
                "revisions": counts.revised,
                "unchanged": counts.unchanged,
                "removed": counts.removed,
            }
        )
        return
    emit_table(
        ("market", "answers", "runs", "rows", "inserted", "revisions", "unchanged"),
        [(report.market, report.answers, report.runs, report.rows, counts.inserted, counts.revised, counts.unchanged)],
    )


def exit_code(results: Sequence[SymbolResult]) -> ExitCode:
    failed = [result for result in results if not result.outcome.delivered]
    if not failed:
        return ExitCode.OK
    if all(result.outcome is Outcome.NOT_ENTITLED for result in failed):
        return ExitCode.NOT_AUTHORISED
    return ExitCode.PARTIAL


@dataclass(frozen=True, slots=True)
class _Days:
    start: date
    end: date


@dataclass
class _Filled:
    """How far a backfill came."""

    results: list[SymbolResult] = field(default_factory=list)
    skipped: tuple[str, ...] = ()
    done: int = 0
    left: Left | None = None
    """Before the batch at which it was interrupted."""
    interruption: KeyboardInterrupt | None = None


def _fill(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    days: _Days,
    interval: str,
    *,
    again: bool,
    newest_first: bool,
) -> _Filled:
    """Backfills until it is done or interrupted; what is committed by then is told either way."""
    filled = _Filled()
    with progress(f"backfill {market.name}") as show:

        def report(done: int, total: int, symbol: str) -> None:
            filled.done = done
            show(done, total, symbol)

        def still(left: Left) -> None:
            filled.left = left
            show(filled.done, len(instruments), _still(left).lstrip(", "))

        try:
            filled.skipped = backfill_bars(
                platform,
                market,
                instruments,
                days.start,
                days.end,
                interval=interval,
                again=again,
                newest_first=newest_first,
                progress=report,
                batch_done=filled.results.extend,
                left=still,
            ).skipped
            filled.left = None
        except KeyboardInterrupt as interruption:
            filled.interruption = interruption
    return filled


def _still(left: Left | None) -> str:
    if left is None:
        return ""
    return f", {left.symbols} symbols with {left.requests} requests are left, about {lasting(left.seconds)}"


@contextmanager
def platform_of_commands(*, asks: bool) -> Iterator[Platform]:
    settings = read_door_settings()
    with open_platform(settings, asks=asks) as platform:
        if platform.database.server is not None:
            for note in platform.database.server.notes:
                say(note)
        if platform.simulated and asks:
            if settings.market_pipelines_simulator is SimulatorUse.ON:
                say("The data is simulated, because MARKET_PIPELINES_SIMULATOR is on.")
            else:
                say(
                    "The data is simulated, because no provider key is set. Real data: set ALPHA_VANTAGE_API_KEY, "
                    "POLYGON_API_KEY or STOOQ_API_KEY, or MARKET_PIPELINES_SIMULATOR=off to ask whoever needs no key."
                )
        yield platform


def _days(
    platform: Platform, market: MarketDefinition, start: date | None, end: date | None, interval: str = DAILY
) -> _Days:
    """The asked range; what is not said ends at the last closed session, for intervals within the session at the
    one that goes on, and is thirty sessions long (five)."""
    now = platform.clock()
    calendar = trading_calendar(market.mic, now)
    last = end if end is not None else calendar.last_closed(now)
    if end is None and interval != DAILY and calendar.is_open(now):
        last = calendar.local_date(now)
    if start is None:
        before = calendar.sessions(market.since, last)
        start = before[-(SESSIONS_BY_DEFAULT if interval == DAILY else INTRADAY_SESSIONS) :][0] if before else last
    if end is None and start > last and start <= calendar.local_date(now):
        last = start
    if start > last:
        if end is None:
            raise typer.BadParameter(f"--from {start} has not come yet; the last closed session is {last}")
        raise typer.BadParameter(f"--to {last} is before --from {start}")
    if last < market.since:
        raise typer.BadParameter(f"market {market.name} begins at {market.since}; --to {last} is before that")
    return _Days(max(start, market.since), last)


def _chain(platform: Platform, name: str | None) -> tuple[DailyProvider, ...] | None:
    if name is None:
        return None
    if name not in platform.providers:
        raise typer.BadParameter(f"--provider {name!r} is not known; accepted: {', '.join(sorted(platform.providers))}")
    return (platform.providers[name],)


def _archived(platform: Platform, market: MarketDefinition, wanted: Sequence[str]) -> tuple[Instrument, ...]:
    """The named symbols, or all that the market lists or ever stored."""
    if wanted:
        return instruments_of(market, wanted)
    with platform.database.connection() as connection:
        stored = read_instruments(connection, market.name, active_only=False)
    return instruments_of(market, [one.symbol for one in (*market.everything, *stored)])


def _document(
    platform: Platform,
    market: MarketDefinition,
    interval: str,
    days: _Days,
    results: Sequence[SymbolResult],
    sessions: int,
) -> dict[str, Any]:
    return {
        "market": market.name,
        "interval": interval,
        "from": days.start,
        "to": days.end,
        "sessions": sessions,
        "simulated": platform.simulated
        or any((result.provider or "").startswith(SIMULATED_PREFIX) for result in results),
        "symbols": [
            {
                "symbol": result.symbol,
                "outcome": result.outcome,
                "provider": result.provider,
                "rows": result.rows,
                "revisions": result.revisions,
                "requests": result.requests,
                "quarantined": result.quarantined,
                "reason": result.reason,
            }
            for result in results
        ],
    }


def _show(document: dict[str, Any], results: Sequence[SymbolResult], as_json: bool) -> None:
    if as_json:
        emit_json(document)
    else:
        emit_table(
            ("symbol", "outcome", "provider", "rows", "revisions", "requests", "quarantined", "note"),
            [
                (
                    result.symbol,
                    result.outcome.value,
                    result.provider,
                    result.rows,
                    result.revisions,
                    result.requests,
                    result.quarantined,
                    result.reason,
                )
                for result in results
            ],
        )
    failed = [result.symbol for result in results if not result.outcome.delivered]
    rows, revisions = sum(result.rows for result in results), sum(result.revisions for result in results)
    requests = sum(result.requests for result in results)
    say(
        f"{document['from']} to {document['to']}, {document['sessions']} sessions: {rows} rows of "
        f"{len(results) - len(failed)} symbols, {revisions} revisions, {requests} requests"
    )
    if failed:
        say(f"{len(failed)} of {len(results)} symbols failed: {', '.join(failed[:10])}{' …' if failed[10:] else ''}")


def _show_estimate(
    market: MarketDefinition,
    interval: str,
    days: _Days,
    estimate: Estimate,
    as_json: bool,
    ranges: Mapping[str, Sequence[tuple[date, date]]] = NO_RANGES,
) -> None:
    """`ranges`: by symbol, where each is asked for its own."""
    if as_json:
        emit_json(
            {
                "market": market.name,
                "interval": interval,
                "from": days.start,
                "to": days.end,
                "dry_run": True,
                "symbols": estimate.symbols,
                "requests": {"best": estimate.best, "worst": estimate.worst, "attempts": ATTEMPTS},
                "seconds": round(estimate.seconds, 1),
                "ranges": {
                    symbol: [{"from": start, "to": end} for start, end in spans] for symbol, spans in ranges.items()
                },
                "providers": [
                    {
                        "provider": cost.provider,
                        "ready": cost.ready,
                        "reason": cost.reason,
                        "best": cost.best,
                        "worst": cost.worst,
                        "fits": cost.fits,
                        "per_minute": cost.per_minute,
                        "seconds": round(cost.seconds, 1),
                        "left": cost.left,
                        "quota": {
                            "limit": cost.quota.limit,
                            "used": cost.quota.used,
                            "remaining": cost.quota.remaining,
                            "reserve": cost.quota.reserve,
                            "resets_at": cost.quota.resets_at,
                        },
                    }
                    for cost in estimate.providers
                ],
            }
        )
        return
    emit_table(
        ("provider", "best case", "worst case", "used today", "quota", "for quotes", "left", "lasts", "resets", "note"),
        [
            (
                cost.provider,
                cost.best,
                cost.worst,
                cost.quota.used,
                "none" if cost.quota.limit is None else str(cost.quota.limit),
                cost.quota.reserve or None,
                "any number" if cost.left is None else str(cost.left),
                lasting(cost.seconds),
                f"{cost.quota.resets_at:%Y-%m-%d %H:%M} UTC",
                cost.reason or ("" if cost.fits else "the worst case is more than is left of today"),
            )
            for cost in estimate.providers
        ],
    )
    say(
        f"{len(estimate.symbols)} symbols, {days.start} to {days.end}: {estimate.best} requests if the first provider "
        f"delivers everything, {estimate.worst} if the whole chain is asked for everything; in passing trouble a "
        f"request is made up to {ATTEMPTS} times. At the limits the worst case lasts {lasting(estimate.seconds)}. "
        "Nothing was asked."
    )
