"""The command `repair`: what is missing, asking for it now, and saying that an exchange was closed."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

import typer

from market_pipelines.cli.data import Market, platform_of_commands
from market_pipelines.cli.door import Json, a_day
from market_pipelines.cli.output import CommandFailed, ExitCode, emit_json, emit_table, progress, say
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.repair import Hole
from market_pipelines.pipeline.holes import Outlook, close_session, find_holes, reopen_session
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.repair import RepairReport, repair

repair_commands = typer.Typer(no_args_is_help=True, help="Bars that should be stored and are not.")

SHOWN = 200


def register(app: typer.Typer) -> None:
    app.add_typer(repair_commands, name="repair")


@repair_commands.command("list")
def list_holes(
    market: Annotated[str | None, typer.Option("--market", help="Only this one.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Show holes, sessions that much of a market lacks, when each is asked for next, and declared closures."""
    with platform_of_commands(asks=False) as platform:
        outlooks = [(one, find_holes(platform, one)) for one in _markets(platform, market)]
    if as_json:
        emit_json([_outlook(definition, outlook) for definition, outlook in outlooks])
        return
    rows = [
        (
            outlook.market,
            one.interval,
            row.symbol or "the market",
            row.session,
            _state(row, outlook),
            f"{row.lacking} of {row.expected}" if row.is_incident else None,
            row.first_seen,
            row.times_asked,
            row.next_ask,
            row.reason or None,
        )
        for _, outlook in outlooks
        for one in outlook.intervals
        for row in (*one.survey.incidents, *one.survey.holes)
    ]
    emit_table(
        ("market", "interval", "symbol", "session", "state", "lacking", "first seen", "asked", "next ask", "why"),
        rows[:SHOWN],
    )
    if len(rows) > SHOWN:
        say(f"The first {SHOWN} of {len(rows)}; --json shows all.")
    closed = [
        (one.market, one.session, one.declared_at, one.note) for _, outlook in outlooks for one in outlook.closures
    ]
    if closed:
        emit_table(("market", "closed on", "declared at", "note"), closed)
    for definition, outlook in outlooks:
        say(_sentence(definition, outlook))


@repair_commands.command("run")
def run(
    market: Annotated[str | None, typer.Option("--market", help="Only this one.", show_default=False)] = None,
    budget: Annotated[
        int | None,
        typer.Option("--budget", min=1, help="Symbols to ask for, in place of the market's own.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be asked for, and ask nobody.")] = False,
    as_json: Json = False,
) -> None:
    """Ask for the holes that are due now, the oldest first. Exit code 3 when providers would not answer."""
    reports = []
    with platform_of_commands(asks=not dry_run) as platform:
        for definition in _markets(platform, market):
            with progress(f"repair {definition.name}") as done:
                reports.append(repair(platform, definition, budget=budget, dry_run=dry_run, progress=done))
    if as_json:
        emit_json([_report(report) for report in reports])
    elif dry_run:
        emit_table(
            ("market", "interval", "symbol", "from", "to", "holes", "due since"),
            [
                (report.market, interval, one.symbol, *one.span, len(one.sessions), one.since)
                for report in reports
                for interval, one in report.planned
            ],
        )
    else:
        emit_table(
            (
                "market",
                "interval",
                "symbol",
                "from",
                "to",
                "holes",
                "healed",
                "outcome",
                "provider",
                "requests",
                "note",
            ),
            [
                (
                    report.market,
                    one.interval,
                    one.symbol,
                    one.start,
                    one.end,
                    one.holes,
                    len(one.healed),
                    one.outcome.value,
                    one.provider,
                    one.requests,
                    one.reason,
                )
                for report in reports
                for one in report.asked
            ],
        )
    for report in reports:
        say(_summary(report))
    if any(report.stopped for report in reports):
        raise typer.Exit(ExitCode.PARTIAL)


@repair_commands.command("closure")
def closure(
    session: Annotated[
        date,
        typer.Option("--session", parser=a_day, metavar="YYYY-MM-DD", help="The day of it.", show_default=False),
    ],
    market: Market = "us",
    note: Annotated[str, typer.Option("--note", help="Why, for those who come after.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="It was a session after all.")] = False,
    as_json: Json = False,
) -> None:
    """Say that the exchange was closed on a session of its calendar: nothing is expected of it any more."""
    with platform_of_commands(asks=False) as platform:
        definition = platform.market(market)
        if undo:
            if not reopen_session(platform, definition, session):
                raise CommandFailed(f"nobody has said that {market} was closed on {session}")
            changed = True
        else:
            changed = close_session(platform, definition, session, note)
    if as_json:
        emit_json({"market": market, "session": session, "closed": not undo, "changed": changed})
    elif undo:
        say(f"{session} is a session of {market} again; what it lacks is found at the next look.")
    else:
        say(f"{market} was closed on {session}{'' if changed else ', as was known'}: nothing is expected of it.")


def _markets(platform: Platform, name: str | None) -> list[MarketDefinition]:
    return [platform.market(name)] if name is not None else list(platform.markets.values())


def _state(row: Hole, outlook: Outlook) -> str:
    state = f"{row.cause.value}, " if row.is_incident else ""
    if row.due(outlook.at):
        return f"{state}due"
    return f"{state}{'confirmed' if row.confirmed_at is not None else 'waits'}"


def _sentence(market: MarketDefinition, outlook: Outlook) -> str:
    if not outlook.window:
        return f"{market.name}: no session has closed yet"
    span = f"{outlook.window[0]} to {outlook.window[-1]}"
    said = f"{market.name}, {span}: {outlook.holes} holes, {outlook.incidents} sessions that much of the market lacks"
    if outlook.unwell:
        return f"{said}; {outlook.unwell}"
    return f"{said}; {outlook.due} symbols are due, {market.repair.symbols_a_run} are asked for in a run"


def _summary(report: RepairReport) -> str:
    if report.dry_run:
        said = f"{len(report.planned)} of {report.due} due symbols would be asked for. Nothing was asked"
    else:
        said = (
            f"{len(report.asked)} of {report.due} due symbols were asked for with {report.requests} requests: "
            f"{report.healed} holes are filled, {report.confirmed} confirmed"
        )
    ended = f". It ended early: {report.stopped}" if report.stopped else ""
    following = f". Next: {report.next_ask:%Y-%m-%d %H:%M} UTC" if report.next_ask is not None else ""
    return f"{report.market}: {said}{ended}{following}."


def _outlook(market: MarketDefinition, outlook: Outlook) -> dict[str, Any]:
    rows = [(one.interval, row) for one in outlook.intervals for row in (*one.survey.incidents, *one.survey.holes)]
    return {
        "market": outlook.market,
        "at": outlook.at,
        "from": outlook.window[0] if outlook.window else None,
        "to": outlook.window[-1] if outlook.window else None,
        "symbols_a_run": market.repair.symbols_a_run,
        "due": outlook.due,
        "unwell": outlook.unwell,
        "incidents": [_row(interval, row, outlook) for interval, row in rows if row.is_incident],
        "holes": [_row(interval, row, outlook) for interval, row in rows if not row.is_incident],
        "closures": [
            {"session": one.session, "declared_at": one.declared_at, "note": one.note} for one in outlook.closures
        ],
    }


def _row(interval: str, row: Hole, outlook: Outlook) -> dict[str, Any]:
    return {
        "interval": interval,
        **({} if row.is_incident else {"symbol": row.symbol}),
        "session": row.session,
        "state": "due" if row.due(outlook.at) else "confirmed" if row.confirmed_at is not None else "waits",
        "cause": row.cause,
        "reason": row.reason,
        "lacking": row.lacking,
        "expected": row.expected,
        "first_seen": row.first_seen,
        "last_asked": row.last_asked,
        "times_asked": row.times_asked,
        "confirmed_at": row.confirmed_at,
        "next_ask": row.next_ask,
    }


def _report(report: RepairReport) -> dict[str, Any]:
    return {
        "market": report.market,
        "at": report.at,
        "dry_run": report.dry_run,
        "budget": report.budget,
        "new": report.new,
        "holes": report.found,
        "incidents": report.incidents,
        "due": report.due,
        "planned": [
            {"interval": interval, "symbol": one.symbol, "sessions": one.sessions} for interval, one in report.planned
        ],
        "asked": [
            {
                "interval": one.interval,
                "symbol": one.symbol,
                "from": one.start,
                "to": one.end,
                "holes": one.holes,
                "healed": one.healed,
                "outcome": one.outcome,
                "provider": one.provider,
                "requests": one.requests,
                "reason": one.reason,
            }
            for one in report.asked
        ],
        "requests": report.requests,
        "healed": report.healed,
        "confirmed": report.confirmed,
        "stopped": report.stopped,
        "next_ask": report.next_ask,
    }
