"""Figures for somebody who looks at the whole: what the providers have done lately, and the database itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from market_pipelines.market.outcomes import Outcome
from market_pipelines.store.copying import checked_instant
from market_pipelines.store.database import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderActivity:
    """What one provider, under its stored name, has answered since an instant."""

    provider: str
    requests: int
    failed: int
    """Requests that were not answered."""
    last_outcome: Outcome
    last_reason: str
    last_at: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "last_outcome", Outcome(self.last_outcome))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    version: str
    size: int
    """Bytes of this database on disk."""


def provider_activity(connection: Transaction, since: datetime) -> list[ProviderActivity]:
    """One entry for every provider that was ever asked; its counts begin at the instant."""
    with connection.cursor(row_factory=class_row(ProviderActivity)) as cursor:
        return cursor.execute(
            """
            WITH RECURSIVE asked (provider) AS (
                (SELECT provider FROM market.fetches ORDER BY provider LIMIT 1)
                UNION ALL
                SELECT (SELECT f.provider FROM market.fetches AS f WHERE f.provider > asked.provider
                        ORDER BY f.provider LIMIT 1)
                FROM asked
                WHERE asked.provider IS NOT NULL
            )
            SELECT asked.provider, counted.requests, counted.failed,
                   newest.outcome AS last_outcome, newest.reason AS last_reason, newest.fetched_at AS last_at
            FROM asked
            CROSS JOIN LATERAL (
                SELECT count(*) AS requests, count(*) FILTER (WHERE f.outcome <> ALL(%(delivered)s)) AS failed
                FROM market.fetches AS f
                WHERE f.provider = asked.provider AND f.fetched_at > %(since)s
            ) AS counted
            CROSS JOIN LATERAL (
                SELECT f.outcome, f.reason, f.fetched_at
                FROM market.fetches AS f
                WHERE f.provider = asked.provider
                ORDER BY f.fetched_at DESC, f.fetch_id DESC
                LIMIT 1
            ) AS newest
            ORDER BY asked.provider
            """,
            {
                "since": checked_instant(since, "since"),
                "delivered": [str(outcome) for outcome in Outcome if outcome.delivered],
            },
        ).fetchall()


def server_facts(connection: Transaction) -> ServerFacts:
    row = connection.execute(
        "SELECT current_setting('server_version'), pg_database_size(current_database())"
    ).fetchone()
    if row is None:
        raise LookupError("the statement gave no row")
    return ServerFacts(version=str(row[0]), size=int(row[1]))
