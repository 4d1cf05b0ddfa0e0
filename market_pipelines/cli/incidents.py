"""The command `incidents`: what is wrong or was, whether people are told of it, and closing by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from market_pipelines.cli.data import platform_of_commands
from market_pipelines.cli.door import Json
from market_pipelines.cli.output import CommandFailed, ExitCode, emit_json, emit_table, say
from market_pipelines.pipeline.incidents import all_incidents, close_by_hand, outbox_state, send_test
from market_pipelines.pipeline.notices import targets_of

incident_commands = typer.Typer(no_args_is_help=True, help="What is wrong: failed runs, red checks, bad health.")


def register(app: typer.Typer) -> None:
    app.add_typer(incident_commands, name="incidents")


@incident_commands.command("list")
def list_incidents(
    everything: Annotated[
        bool, typer.Option("--all/--open", help="Also those that are over, or only those that are not.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show incidents, the open ones first."""
    with platform_of_commands(asks=False) as platform:
        found = all_incidents(platform, open_only=not everything)
        waiting = outbox_state(platform)
        told = [target.name for target in targets_of(platform.settings)]
    if as_json:
        emit_json({"incidents": found, "notifications": {"targets": told, "outbox": waiting}})
        return
    emit_table(
        ("number", "state", "severity", "what", "since (UTC)", "seen", "why"),
        [
            (
                str(one.incident_id),
                "open" if one.closed_at is None else "over",
                one.severity.value,
                one.title,
                one.opened_at,
                one.times_seen,
                " ".join((one.detail if one.closed_at is None else one.closing_detail).split())[:80],
            )
            for one in found
        ],
    )
    if not found:
        say("No incident is open." if not everything else "There was never an incident.")
    if not told:
        say("Nobody is told: NOTIFY_URLS is not set.")
    elif waiting.waiting:
        say(f"{waiting.waiting} notifications wait, {waiting.failing} of them failed. {waiting.last_error}".rstrip())


@incident_commands.command("test")
def test_targets(as_json: Json = False) -> None:
    """Send a test message to every target of NOTIFY_URLS, and say which could not be reached."""
    with platform_of_commands(asks=False) as platform:
        results = send_test(platform)
    if not results:
        raise CommandFailed("nobody would be told: NOTIFY_URLS is not set")
    if as_json:
        emit_json([{"target": one.target, "sent": not one.error, "error": one.error} for one in results])
    else:
        emit_table(("target", "sent", "error"), [(one.target, not one.error, one.error) for one in results])
    failed = sum(1 for one in results if one.error)
    if failed:
        raise typer.Exit(ExitCode.ERROR if failed == len(results) else ExitCode.PARTIAL)


@incident_commands.command("close")
def close(
    number: Annotated[int, typer.Argument(metavar="ID", help="As `incidents list` shows it.")],
    reason: Annotated[str, typer.Option("--reason", help="Kept with it, and told.")] = "Closed by hand.",
    as_json: Json = False,
) -> None:
    """Declare an incident over. If it is not, its next sight opens it again."""
    with platform_of_commands(asks=False) as platform:
        closed = close_by_hand(platform, number, reason)
    if as_json:
        emit_json(closed)
    else:
        say(f"incident {closed.incident_id} is over: {closed.title}")
