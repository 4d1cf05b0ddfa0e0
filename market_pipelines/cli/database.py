"""Commands for the database: `db init`, `status`, `upgrade`, `url`, `stop`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from market_pipelines.cli.door import Json, read_door_settings
from market_pipelines.cli.output import CommandFailed, emit_json, emit_line, say, size
from market_pipelines.cli.running import running_platform
from market_pipelines.pipeline.simulated import uses_simulator
from market_pipelines.settings import Settings
from market_pipelines.store import schema
from market_pipelines.store.database import Database, database_name, open_database
from market_pipelines.store.embedded import EmbeddedServer
from market_pipelines.store.overview import server_facts
from market_pipelines.store.urls import printable_url

commands = typer.Typer(help="The database: the embedded server and the schema.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="db")


@commands.command()
def init(as_json: Json = False) -> None:
    """Start the embedded server, to stay until `db stop`, and bring the schema to the newest step.

    With DATABASE_URL or POSTGRES_* only the schema is brought there. Doing it again changes nothing.
    """
    settings = read_door_settings()
    with _opened(settings, keep=True, migrate=True) as database:
        facts = _facts(settings, database)
    _show(facts, as_json)
    if facts["kind"] == "embedded":
        say("It keeps running: market-pipelines db stop ends it.")


@commands.command("status")
def show_status(as_json: Json = False) -> None:
    """Show where the database is, its schema's step, what is pending, and its size."""
    settings = read_door_settings()
    running = settings.external_database_url is not None or EmbeddedServer(settings.home).running()
    with _opened(settings, keep=False, migrate=False) as database:
        facts = _facts(settings, database) | {"running": running}
    _show(facts, as_json)
    if facts["pending"]:
        say("The schema is not up to date: market-pipelines db upgrade brings it there.")


@commands.command()
def upgrade(as_json: Json = False) -> None:
    """Bring the schema to the newest step."""
    settings = read_door_settings()
    with _opened(settings, keep=False, migrate=False) as database:
        before = schema.status(database.url)
        after = schema.upgrade(database.url)
    if as_json:
        emit_json({"from": before.current, "to": after.current, "applied": before.pending})
    elif before.pending:
        emit_line(f"schema {before.current or 'none'} → {after.current} ({len(before.pending)} steps)")
    else:
        emit_line(f"schema {after.current}: nothing to do")


@commands.command()
def url(
    show_password: Annotated[
        bool, typer.Option("--show-password", help="With the password, for psql and the like.")
    ] = False,
) -> None:
    """Print the database's address, for `psql "$(market-pipelines db url --show-password)"`."""
    settings = read_door_settings()
    external = settings.external_database_url
    if external is None:
        server = EmbeddedServer(settings.home)
        if not server.running():
            raise CommandFailed(
                "the embedded PostgreSQL is not running, so it has no address; market-pipelines db init starts it"
            )
        external = server.url(database_name(simulated=uses_simulator(settings)))
    if show_password:
        # Asked for by name: the one text that goes out unredacted.
        typer.echo(external)
        return
    emit_line(printable_url(external))
    if printable_url(external) != external:
        say("The password is hidden; --show-password shows it.")


@commands.command()
def stop() -> None:
    """Stop the embedded server, whoever uses it."""
    settings = read_door_settings()
    if settings.external_database_url is not None:
        raise CommandFailed("the database is set by DATABASE_URL or POSTGRES_*, and is not ours to stop")
    if running_platform(settings.home) is not None:
        raise CommandFailed("the platform is up and needs its database; stop both with market-pipelines down")
    say("stopped" if EmbeddedServer(settings.home).stop(force=True) else "it was not running")


@contextmanager
def _opened(settings: Settings, *, keep: bool, migrate: bool) -> Iterator[Database]:
    with open_database(settings, simulated=uses_simulator(settings), keep=keep, migrate=migrate) as database:
        if database.server is not None:
            for note in database.server.notes:
                say(note)
        yield database


def _facts(settings: Settings, database: Database) -> dict[str, Any]:
    steps = schema.status(database.url)
    with database.connection() as connection:
        server = server_facts(connection)
    embedded = database.server is not None
    return {
        "url": database.safe_url,
        "kind": "embedded" if embedded else "external",
        "running": True,
        "simulated": uses_simulator(settings),
        "folder": settings.home / "postgres" if embedded else None,
        "server_version": server.version,
        "revision": steps.current,
        "head": steps.head,
        "pending": steps.pending,
        "size_bytes": server.size,
    }


def _show(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit_json(facts)
        return
    pending = ", ".join(facts["pending"]) or "none"
    emit_line(f"address   {facts['url']}")
    emit_line(f"server    {facts['kind']} PostgreSQL {facts['server_version']}")
    if facts["folder"] is not None:
        emit_line(f"folder    {facts['folder']}")
    emit_line(f"running   {'yes' if facts['running'] else 'no (started for this look)'}")
    emit_line(f"schema    {facts['revision'] or 'not there yet'}, pending: {pending}")
    emit_line(f"size      {size(facts['size_bytes'])}" + (", simulated data" if facts["simulated"] else ""))
