"""Taking a PostgreSQL database out of reach for a while, with all that it holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from market_pipelines.store.database import Database

SOON = 0.1
"""Seconds after which who waits for a connection asks whether there is a server; two, outside of tests."""


@contextmanager
def out_of_reach(database: Database) -> Iterator[None]:
    """Every connection is cut and none is let in."""
    parts = urlsplit(database.url)
    name = parts.path.lstrip("/")
    admin = urlunsplit(parts._replace(path="/postgres"))
    lets_in = sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(lets_in.format(sql.Identifier(name), sql.Literal(False)))
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        try:
            with patch("market_pipelines.store.database._LOOK_AFTER_SECONDS", SOON):
                yield
        finally:
            connection.execute(lets_in.format(sql.Identifier(name), sql.Literal(True)))


def emptied_of_streams(database: Database) -> Database:
    """Without anything that a stream has stored: quicker than a database for each test."""
    with database.connection() as connection:
        connection.execute(
            """
            TRUNCATE market.latest_quotes, market.stream_gaps, market.stream_cursors, market.stream_rejects,
                     market.stream_trades, market.stream_quotes, market.stream_bands, market.stream_bars,
                     market.tick_segments, market.stream_status
            RESTART IDENTITY
            """
        )
    return database
