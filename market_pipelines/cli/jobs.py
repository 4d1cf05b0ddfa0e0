"""`market-pipelines jobs`: polls that Dagster's sensor `scheduled_jobs` runs while their exchange trades."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from market_pipelines.cli.data import Market, SomeSymbols, platform_of_commands
from market_pipelines.cli.door import Json, symbols_in
from market_pipelines.cli.output import emit_json, emit_line, emit_table, say
from market_pipelines.cli.poll import Extended, IntradayInterval
from market_pipelines.pipeline.jobs import add_job, job_states, remove_job
from market_pipelines.pipeline.polling_api import job_document, status_document

job_commands = typer.Typer(
    help="Polls at run time that Dagster runs while their exchange trades.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="What the job is called.", show_default=False)]
_NAMES_SHOWN = 4


def register(app: typer.Typer) -> None:
    app.add_typer(job_commands, name="jobs")


@job_commands.command("list")
def list_jobs(as_json: Json = False) -> None:
    """Show the jobs, when each runs next, how the last run ended, and what the exchanges are doing."""
    with platform_of_commands(asks=False) as platform:
        states = job_states(platform)
        exchanges = [status_document(platform, name) for name in sorted(platform.markets)]
        now = platform.clock()
    if as_json:
        emit_json(
            {
                "total_jobs": len(states),
                "jobs": {state.job.name: job_document(state) for state in states},
                "current_time": now,
                "market_status": {status["market"]: status for status in exchanges},
            }
        )
        return
    emit_table(
        ("job", "market", "symbols", "bars", "every", "extended", "next run", "last run", "outcome", "rows", "note"),
        [_row(job_document(state)) for state in states],
    )
    for status in exchanges:
        phase = str(status["phase"]).replace("_", " ")
        emit_line(
            f"{status['market']}: {status['mic']} {phase}; opens {_when(status['next_market_open'])}, "
            f"closes {_when(status['next_market_close'])}"
        )
    if states:
        say("The sensor scheduled_jobs of a running Dagster (`market-pipelines up`) runs them. Times are in UTC.")
    else:
        say("No job is scheduled; `market-pipelines jobs add NAME --symbols AAPL --interval-minutes 5` adds one.")


@job_commands.command("add")
def add(
    name: Name,
    symbols: SomeSymbols = None,
    interval_minutes: Annotated[
        int | None,
        typer.Option("--interval-minutes", min=1, help="How often it runs.", show_default="DEFAULT_POLLING_INTERVAL"),
    ] = None,
    market: Market = "us",
    interval: IntradayInterval = None,
    extended_hours: Extended = False,
    as_json: Json = False,
) -> None:
    """Add a job. Without symbols it polls all of the market."""
    wanted = symbols_in(symbols or ())
    with platform_of_commands(asks=False) as platform:
        add_job(
            platform,
            name,
            wanted,
            market=market,
            interval_minutes=interval_minutes,
            interval=interval,
            extended_hours=extended_hours,
        )
        document = next(job_document(state) for state in job_states(platform) if state.job.name == name)
    if as_json:
        emit_json(document)
    else:
        say(
            f"{name}: {document['interval']} bars of {_symbols(document)} every {document['interval_minutes']} minutes "
            f"while {market} trades; it is due at {_when(document['next_run'])} UTC"
        )


@job_commands.command("remove")
def remove(name: Name, as_json: Json = False) -> None:
    """Remove a job. What it fetched, and the log of its runs, stays."""
    with platform_of_commands(asks=False) as platform:
        remove_job(platform, name)
    if as_json:
        emit_json({"removed": name})
    else:
        say(f"{name} is removed")


def _row(document: dict[str, Any]) -> tuple[object, ...]:
    last = document["last_run"] or {}
    return (
        document["name"],
        document["market"],
        _symbols(document),
        document["interval"],
        f"{document['interval_minutes']} min",
        document["extended_hours"],
        _when(document["next_run"]),
        _when(last.get("started_at")),
        last.get("status"),
        last.get("records_processed"),
        last.get("error") or "",
    )


def _symbols(document: dict[str, Any]) -> str:
    names = document["symbols"]
    if not names:
        return "all"
    return " ".join(names[:_NAMES_SHOWN]) + (f" … ({len(names)})" if names[_NAMES_SHOWN:] else "")


def _when(text: str | None) -> str | None:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S}" if text is not None else None
