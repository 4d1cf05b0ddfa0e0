"""The state of the schema `market` in a database: which step it is at, and bringing it to the newest.

The steps are in `migrations/`. Alembic runs them; asking for the state does not need it, because every
command asks and few have anything to upgrade.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources

import psycopg
from psycopg import sql

from market_pipelines.redaction import redact
from market_pipelines.store.urls import DatabaseUnavailable, libpq_url, sqlalchemy_url

SCHEMA = "market"
VERSION_TABLE = "alembic_version"
_STEP_FILE = re.compile(r"v(\d{4})_\w+\.py")
_UPGRADE_LOCK = 0x6D61726B6574
"""The advisory lock under which one process upgrades while the others wait."""


class SchemaTooNew(Exception):
    """The database was written by a newer release, which this one would misread."""


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    current: str | None
    """None: the schema is not there yet."""
    head: str
    pending: tuple[str, ...]

    @property
    def up_to_date(self) -> bool:
        return not self.pending


def revisions() -> tuple[str, ...]:
    """Every step that this code knows, oldest first."""
    folder = resources.files("market_pipelines.store.migrations") / "versions"
    found = (_STEP_FILE.fullmatch(entry.name) for entry in folder.iterdir())
    return tuple(sorted(match[1] for match in found if match is not None))


def status(url: str) -> SchemaStatus:
    try:
        with psycopg.connect(libpq_url(url), connect_timeout=10) as connection:
            current = _current(connection)
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(f"the database cannot be reached: {redact(str(error))}") from None
    return _judge(current)


def upgrade(url: str) -> SchemaStatus:
    """Brings the schema to the newest step, all in one transaction; several processes may call it at once."""
    found = status(url)
    if found.up_to_date:
        return found

    # Half a second of imports, for the one call in a thousand that needs them.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from sqlalchemy import create_engine, text  # noqa: PLC0415
    from sqlalchemy.pool import NullPool  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", "market_pipelines.store:migrations")
    engine = create_engine(sqlalchemy_url(url), poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return status(url)


def _current(connection: psycopg.Connection[tuple[object, ...]]) -> str | None:
    there = connection.execute("SELECT to_regclass(%s)", (f"{SCHEMA}.{VERSION_TABLE}",)).fetchone()
    if there is None or there[0] is None:
        return None
    query = sql.SQL("SELECT version_num FROM {}").format(sql.Identifier(SCHEMA, VERSION_TABLE))
    row = connection.execute(query).fetchone()
    return None if row is None else str(row[0])


def _judge(current: str | None) -> SchemaStatus:
    known = revisions()
    if current is None:
        return SchemaStatus(None, known[-1], known)
    if current not in known:
        raise SchemaTooNew(
            f"the database's schema is at step {current}, and this release of market_pipelines knows the steps up to "
            f"{known[-1]}: it was upgraded by a newer release. Install that release; nothing was changed"
        )
    return SchemaStatus(current, known[-1], known[known.index(current) + 1 :])
