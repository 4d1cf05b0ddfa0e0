"""What an error of the database or of a disk means for a sink: something to wait for, or something for a person."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from market_pipelines.redaction import redact
from market_pipelines.store.database import DatabaseUnavailable
from market_pipelines.store.lake import LakeError
from market_pipelines.streaming.sinks.protocol import SinkRefused, SinkUnavailable

_FOR_A_PERSON = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.InvalidPassword,
    psycopg.errors.InvalidAuthorizationSpecification,
)
_NEVER_TAKEN = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.errors.ProgramLimitExceeded,  # an operational error by its class, and yet it does not pass
)
_PASSING = (
    psycopg.OperationalError,  # connection, shutdown, lock and statement timeouts, deadlocks, a full disk
    psycopg.InterfaceError,  # a connection that broke off earlier
    DatabaseUnavailable,
    LakeError,
    OSError,
)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """`what` names the sink and its target, for the person who reads the message."""
    try:
        yield
    except _FOR_A_PERSON as error:
        raise SinkRefused(
            f"{what}: {_one_line(error)}. Run `market-pipelines db upgrade`, or let the account write there"
        ) from error
    except _NEVER_TAKEN as error:
        raise SinkRefused(f"{what}: something of the stream is not taken: {_one_line(error)}") from error
    except _PASSING as error:
        raise SinkUnavailable(f"{what}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(redact(str(error)).split())
