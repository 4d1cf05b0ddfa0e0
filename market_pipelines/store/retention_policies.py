"""Which rows of which table are old, and what has to be there instead of one before it may be deleted.

Only conditions, in SQL over the row `t`: nothing is deleted here, and for how long things are kept is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString


@dataclass(frozen=True, slots=True)
class TablePolicy:
    name: str
    table: LiteralString
    old: LiteralString
    """Condition over `t`, with %(cutoff)s."""
    covered: LiteralString
    """Condition over `t`; what it looks for has to outlive the row."""
    kept_because: str
    """Why an old row that is not covered stays."""
    group: tuple[str, ...] = ()
    """Rows that go together or not at all; empty: each by itself."""
    covered_by: tuple[str, ...] = ()
    """Tables with market, symbol and session whose rows are the cover: held until the batch is committed."""


_FINAL_BAR: LiteralString = """
    EXISTS (
        SELECT FROM market.stock_prices AS p
        WHERE (p.market, p.symbol, p.session) = (t.market, t.symbol, t.session)
              AND p.condition IN ('available', 'degraded') AND NOT p.provisional
    ) OR EXISTS (
        SELECT FROM market.market_index_prices AS p
        WHERE (p.market, p.symbol, p.session) = (t.market, t.symbol, t.session)
              AND p.condition IN ('available', 'degraded') AND NOT p.provisional
    )
"""
_CHOSEN_ANOTHER: LiteralString = """
    EXISTS (
        SELECT FROM (
            SELECT market, symbol, session, open, high, low, close, volume, provider, condition, provisional
            FROM market.stock_prices
            UNION ALL
            SELECT market, symbol, session, open, high, low, close, volume, provider, condition, provisional
            FROM market.market_index_prices
        ) AS p
        JOIN market.provider_bars AS own
            ON (own.market, own.symbol, own.session, own.provider) = (p.market, p.symbol, p.session, p.provider)
        WHERE (p.market, p.symbol, p.session) = (t.market, t.symbol, t.session)
              AND p.provider <> t.provider AND p.condition = 'available' AND NOT p.provisional
              AND NOT own.provisional
              AND (own.open, own.high, own.low, own.close) = (p.open, p.high, p.low, p.close)
              AND own.volume IS NOT DISTINCT FROM p.volume
    )
"""
_AGREED = ("stock_prices", "market_index_prices")
_SESSION_OLD: LiteralString = "t.session < (%(cutoff)s AT TIME ZONE 'UTC')::date"
_NO_DAILY_BAR = "no final daily bar covers its session"

PROVIDER_BARS = TablePolicy(
    "provider_bars",
    "provider_bars",
    _SESSION_OLD,
    _CHOSEN_ANOTHER,
    "it is the agreed bar's own source, or no final bar was agreed on",
    covered_by=_AGREED,
)
INTRADAY_REVISIONS = TablePolicy(
    "intraday_revisions",
    "intraday_revisions",
    _SESSION_OLD,
    _FINAL_BAR,
    _NO_DAILY_BAR,
    covered_by=_AGREED,
)
INTRADAY_POLICIES = (
    TablePolicy(
        "intraday_provider_bars",
        "provider_bars_intraday",
        _SESSION_OLD,
        _FINAL_BAR,
        _NO_DAILY_BAR,
        ("market", "symbol", "interval", "session"),
        _AGREED,
    ),
    TablePolicy(
        "intraday_bars",
        "stock_prices_intraday",
        _SESSION_OLD,
        _FINAL_BAR,
        _NO_DAILY_BAR,
        ("market", "symbol", "interval", "session"),
        _AGREED,
    ),
    # Last, because taking bars out of the table above writes revisions.
    INTRADAY_REVISIONS,
)
REVISION_POLICIES = (
    TablePolicy(
        "bar_revisions",
        "bar_revisions",
        "t.known_to < %(cutoff)s",
        """
        NOT t.removed AND (EXISTS (
            SELECT FROM market.stock_prices AS p
            WHERE t.source_table = 'stock_prices'
                  AND (p.market, p.symbol, p.session) = (t.market, t.symbol, t.session) AND p.ingested_at >= t.known_to
        ) OR EXISTS (
            SELECT FROM market.market_index_prices AS p
            WHERE t.source_table = 'market_index_prices'
                  AND (p.market, p.symbol, p.session) = (t.market, t.symbol, t.session) AND p.ingested_at >= t.known_to
        ))
        """,
        "no later version of the bar is in the table",
    ),
    TablePolicy(
        "action_revisions",
        "corporate_action_revisions",
        "t.known_to < %(cutoff)s",
        """
        NOT t.removed AND EXISTS (
            SELECT FROM market.corporate_actions AS a
            WHERE (a.market, a.symbol, a.ex_date, a.kind) = (t.market, t.symbol, t.ex_date, t.kind)
                  AND a.ingested_at >= t.known_to
        )
        """,
        "no later version of the action is in the table",
    ),
)
QUARANTINE = TablePolicy(
    "quarantine",
    "quarantine",
    "t.last_seen < %(cutoff)s AND coalesce(t.decided_at, t.last_seen) < %(cutoff)s",
    """
    t.decision = 'dropped' AND EXISTS (
        SELECT FROM market.audit_log AS a
        WHERE a.subject = 'quarantine/' || t.quarantine_id AND a.action = 'quarantine.drop'
    )
    """,
    "nobody has decided, or it was released: then it is what lets those values pass",
)
FETCHES = TablePolicy(
    "fetches",
    "fetches",
    "t.fetched_at < %(cutoff)s",
    "t.sha256 IS NULL",
    "the archive has its answer",
)
JOB_LOGS = TablePolicy(
    "job_logs",
    "etl_job_logs",
    "t.started_at < %(cutoff)s",
    """
    t.finished_at IS NOT NULL AND EXISTS (
        SELECT FROM market.etl_job_logs AS newer
        WHERE (newer.job_name, newer.market) = (t.job_name, t.market) AND newer.started_at >= %(cutoff)s
    )
    """,
    "it runs, or nothing newer is known of its job",
)
CHECK_RESULTS = TablePolicy(
    "check_results",
    "check_results",
    "t.at < %(cutoff)s",
    """
    EXISTS (
        SELECT FROM market.check_results AS newer
        WHERE (newer.market, newer.asset, newer.rule) = (t.market, t.asset, t.rule) AND newer.at >= %(cutoff)s
    )
    """,
    "it is the last word of its rule",
)
INCIDENTS = TablePolicy(
    "incidents",
    "incidents",
    "t.opened_at < %(cutoff)s",
    """
    t.closed_at < %(cutoff)s AND NOT EXISTS (
        SELECT FROM market.notifications AS n
        WHERE n.incident_id = t.incident_id AND n.sent_at IS NULL AND n.given_up_at IS NULL
    )
    """,
    "it is open, or was over only lately, or somebody waits to be told",
)
_CONTRACT_OR_FINAL_BAR: LiteralString = f"t.symbol LIKE 'O:%%' OR {_FINAL_BAR}"
"""Contracts of options have no daily bars: of them age alone decides."""
STREAM_POLICIES = (
    TablePolicy(
        "stream_trades", "stream_trades", _SESSION_OLD, _CONTRACT_OR_FINAL_BAR, _NO_DAILY_BAR, covered_by=_AGREED
    ),
    TablePolicy(
        "stream_quotes", "stream_quotes", _SESSION_OLD, _CONTRACT_OR_FINAL_BAR, _NO_DAILY_BAR, covered_by=_AGREED
    ),
    TablePolicy("stream_bands", "stream_bands", _SESSION_OLD, _FINAL_BAR, _NO_DAILY_BAR, covered_by=_AGREED),
    TablePolicy(
        "stream_bars",
        "stream_bars",
        "t.ts < %(cutoff)s",
        """
        EXISTS (
            SELECT FROM market.bars_from_ticks AS b
            WHERE (b.market, b.symbol, b.ts) = (t.market, t.symbol, t.ts) AND b.complete
        )
        """,
        "no minute bar was built in its place",
    ),
)
STREAM_GAPS = TablePolicy(
    "stream_gaps",
    "stream_gaps",
    "coalesce(t.ends_at, t.begins_at) < %(cutoff)s AND coalesce(t.settled_at, t.recorded_at) < %(cutoff)s",
    # Bars that are built anew have to know what their ticks lack, for as long as there are any.
    """
    t.ends_at IS NOT NULL AND t.status <> 'open' AND (
        t.status = 'filled' OR t.sink <> 'lake' OR NOT EXISTS (
            SELECT FROM market.tick_segments AS s
            WHERE s.market = t.market AND s.stream IS NOT NULL
                  AND s.session BETWEEN (t.begins_at AT TIME ZONE 'UTC')::date - 1
                                    AND (t.ends_at AT TIME ZONE 'UTC')::date + 1
        )
    )
    """,
    "it is not settled, or not filled and the lake has ticks of its time",
)
STREAM_REJECTS = TablePolicy("stream_rejects", "stream_rejects", "t.received_at < %(cutoff)s", "true", "")
