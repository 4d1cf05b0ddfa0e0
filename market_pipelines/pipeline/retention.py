"""Housekeeping: what is older than the settings say and covered by something else is deleted, with an account of it.

A dry run makes the same account and deletes nothing. Rows go in batches, files after their rows are committed; what
an interruption leaves is swept the next time. Dagster's own log is pruned where Dagster is known, in `orchestration`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from market_pipelines.market.consensus import SIMULATED_PREFIX
from market_pipelines.market.outcomes import Outcome
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.refresh import instruments_of
from market_pipelines.pipeline.replay import parse_again
from market_pipelines.pipeline.stream_watch import FORGOTTEN
from market_pipelines.pipeline.ticks import lake_of
from market_pipelines.providers.protocol import Capability
from market_pipelines.store.archive import ArchiveError
from market_pipelines.store.database import Transaction
from market_pipelines.store.ledger import StoredFetch
from market_pipelines.store.leftovers import Files, FileStore
from market_pipelines.store.retention import (
    OldBody,
    count_bodies,
    count_segments,
    delete_batch,
    final_sessions,
    forget_bodies,
    held_for_retention,
    listed_segments,
    named_bodies,
    old_bodies,
    old_segments,
    requests_of_bodies,
    survey,
    unlist_segments,
)
from market_pipelines.store.retention_policies import (
    CHECK_RESULTS,
    FETCHES,
    INCIDENTS,
    INTRADAY_POLICIES,
    INTRADAY_REVISIONS,
    JOB_LOGS,
    PROVIDER_BARS,
    QUARANTINE,
    REVISION_POLICIES,
    STREAM_GAPS,
    STREAM_POLICIES,
    STREAM_REJECTS,
    TablePolicy,
)
from market_pipelines.store.stream_gaps import abandon

BODIES_A_BATCH = 200
SECONDS_FOR_BODIES = 1800.0
"""Each old answer is parsed anew to see whether all of it is stored; what is left then is for the next night."""
SEGMENTS_A_BATCH = 500
_GIGABYTE = 1_000_000_000
_FOR_EVER = "for ever"

_NOTHING_IN_IT = frozenset(
    {
        Outcome.THROTTLED,
        Outcome.QUOTA_EXHAUSTED,
        Outcome.NOT_ENTITLED,
        Outcome.CHALLENGE,
        Outcome.UNAVAILABLE,
        Outcome.RETIRED,
    }
)
"""Refusals. What could not be read, or was unexpectedly empty, a better parser may read one day: it stays."""


@dataclass(frozen=True, slots=True)
class Account:
    """What one policy found and did."""

    name: str
    keeps: str
    """By the settings."""
    total: int
    old: int
    """Older than the settings keep."""
    deleted: int
    """In a dry run: what would be."""
    bytes: int
    """Of what is deleted, as it is stored."""
    kept: int
    """Old ones that stay."""
    why_kept: str = ""


@dataclass(frozen=True, slots=True)
class RetentionReport:
    at: datetime
    dry_run: bool
    accounts: tuple[Account, ...]

    @property
    def deleted(self) -> int:
        return sum(account.deleted for account in self.accounts)

    @property
    def bytes(self) -> int:
        return sum(account.bytes for account in self.accounts)


def apply_retention(platform: Platform, *, dry_run: bool = False) -> RetentionReport:
    """Once over everything. `RetentionBusy` while another process does it, `RetentionRefused` where a batch did not
    add up. What streams that nobody runs any more have left open is settled, so that it grows old."""
    now, settings = platform.clock(), platform.settings
    # Requests before the archive: those whose answers go tonight are the next night's. The archive before the bars
    # that show what of it is covered.
    rows: tuple[tuple[int, Sequence[TablePolicy]], ...] = (
        (settings.retention_fetches_days, (FETCHES,)),
        (settings.retention_intraday_days, INTRADAY_POLICIES),
        (settings.retention_provider_bars_days, (PROVIDER_BARS,)),
        (settings.retention_revisions_days, REVISION_POLICIES),
        (settings.retention_ticks_days, STREAM_POLICIES),
        (settings.retention_quarantine_days, (QUARANTINE, STREAM_REJECTS)),
        (settings.retention_job_logs_days, (JOB_LOGS,)),
        (settings.retention_check_results_days, (CHECK_RESULTS,)),
        (settings.retention_incidents_days, (INCIDENTS,)),
        (settings.retention_stream_gaps_days, (STREAM_GAPS,)),
    )
    accounts: list[Account] = []
    with held_for_retention(platform.database):
        settled = _settle_abandoned(platform, now, dry_run=dry_run)
        for days, policies in rows[:1]:
            accounts += _rows(platform, policies, days, now, dry_run=dry_run)
        accounts.append(_archive(platform, now, dry_run=dry_run))
        accounts.append(_ticks(platform, now, dry_run=dry_run))
        for days, policies in rows[1:]:
            accounts += _rows(platform, policies, days, now, dry_run=dry_run)
    if settled:
        why = f"{settled} of streams that nobody runs {'would be' if dry_run else 'were'} settled as unfillable"
        accounts = [_told(one, why) if one.name == STREAM_GAPS.name else one for one in accounts]
    return RetentionReport(now, dry_run, tuple(accounts))


def keeps(days: int) -> str:
    return f"{days} days" if days else _FOR_EVER


def _told(account: Account, why: str) -> Account:
    return replace(account, why_kept="; ".join(part for part in (account.why_kept, why) if part))


def _settle_abandoned(platform: Platform, now: datetime, *, dry_run: bool) -> int:
    with platform.database.connection() as connection, connection.transaction(force_rollback=dry_run):
        return abandon(connection, now - FORGOTTEN, now)


# --- rows ------------------------------------------------------------------------------------------------------


def _rows(
    platform: Platform, policies: Sequence[TablePolicy], days: int, now: datetime, *, dry_run: bool
) -> list[Account]:
    # For ever: older than the beginning of time is nothing, and the rows are counted all the same.
    cutoff = now - timedelta(days=days) if days else datetime(1, 1, 2, tzinfo=UTC)
    accounts = []
    for policy in policies:
        with platform.database.connection() as connection:
            found = survey(connection, policy, cutoff)
        why = policy.kept_because if found.old > found.deletable else ""
        kept = found.old - found.deletable
        accounts.append(
            Account(policy.name, keeps(days), found.rows, found.old, found.deletable, found.bytes, kept, why)
        )
    if dry_run or not days:
        return accounts
    return [_carried_out(platform, policy, cutoff, told) for policy, told in zip(policies, accounts, strict=True)]


def _carried_out(platform: Platform, policy: TablePolicy, cutoff: datetime, told: Account) -> Account:
    deleted = freed = 0
    while (batch := delete_batch(platform.database, policy, cutoff)).rows:
        deleted, freed = deleted + batch.rows, freed + batch.bytes
    if policy is INTRADAY_REVISIONS:
        # Among them are those that taking the bars out has just written.
        return told
    return replace(told, deleted=deleted, bytes=freed, kept=max(0, told.old - deleted))


# --- archived answers ------------------------------------------------------------------------------------------


def _archive(platform: Platform, now: datetime, *, dry_run: bool) -> Account:
    days, gigabytes = platform.settings.retention_raw_archive_days, platform.settings.retention_raw_archive_gb
    limits = [f"{days} days"] * bool(days) + [f"{gigabytes} GB"] * bool(gigabytes)
    files = _archive_files(platform)
    size = files.size() if gigabytes else 0
    with platform.database.connection() as connection:
        total = count_bodies(connection)
    account = Account("raw_archive", " and ".join(limits) or _FOR_EVER, total, 0, 0, 0, 0)
    if not limits:
        return account
    by_age = now - timedelta(days=days) if days else datetime(1, 1, 2, tzinfo=UTC)
    too_much = size - gigabytes * _GIGABYTE if gigabytes else 0
    old = deleted = freed = 0
    reasons: Counter[str] = Counter()
    after: OldBody | None = None
    deadline = time.monotonic() + SECONDS_FOR_BODIES
    while time.monotonic() < deadline:
        cutoff = now if freed < too_much else by_age
        with platform.database.connection() as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            batch = old_bodies(connection, cutoff, after, BODIES_A_BATCH)
            if not batch:
                break
            after = batch[-1]
            why = _why_kept(platform, connection, batch)
            leave: list[OldBody] = []
            for body in batch:
                if body.last_fetched >= by_age and freed >= too_much:
                    continue  # the archive is small enough by now
                old += 1
                if why[body.sha256]:
                    reasons[why[body.sha256]] += 1
                    continue
                leave.append(body)
                freed += _stored_size(platform.archive.path(body.sha256))
            deleted += len(leave)
            if not dry_run:
                forget_bodies(connection, [body.sha256 for body in leave], now)
        if not dry_run:
            files.discard([_below(files, platform.archive.path(body.sha256)) for body in leave])
    swept = files.sweep(dry_run=dry_run)
    if swept.count and not dry_run:
        reasons[f"({swept.count} files that nothing names were deleted as well)"] += 0
    return replace(
        account,
        old=old,
        deleted=deleted,
        bytes=freed + swept.bytes,
        kept=old - deleted,
        why_kept="; ".join(f"{count} {reason}" if count else reason for reason, count in reasons.most_common()),
    )


def _archive_files(platform: Platform) -> FileStore:
    def named(hashes: Sequence[str]) -> set[str]:
        with platform.database.connection() as connection:
            return named_bodies(connection, hashes)

    return FileStore(platform.archive.root, ".zst", lambda path: path.stem, named)


def _below(files: FileStore, path: Path) -> Path:
    return path.relative_to(files.root)


def _stored_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _why_kept(platform: Platform, connection: Transaction, bodies: Sequence[OldBody]) -> dict[str, str]:
    """For each body why it has to stay, empty where it may go: every request that got it has to be done with."""
    requests = requests_of_bodies(connection, [body.sha256 for body in bodies])
    final = {
        market: final_sessions(connection, market, sorted({one.symbol for one, _ in requests if one.market == market}))
        for market in {one.market for one, _ in requests}
    }
    why = {body.sha256: "" for body in bodies}
    for request, superseded in requests:
        sha256 = str(request.sha256)
        if not why[sha256]:
            why[sha256] = _needed(platform, request, final[request.market], superseded=superseded)
    return why


def _needed(platform: Platform, request: StoredFetch, final: set[tuple[str, str]], *, superseded: bool) -> str:
    if request.outcome in _NOTHING_IN_IT:
        return ""
    reasons = (
        (request.capability != Capability.DAILY, "hold other things than daily bars, which no table has whole"),
        (not superseded, "are the newest answer of their kind, from which corporate actions are read"),
        (not request.outcome.delivered, "could not be read, which a better parser may"),
        (request.market not in platform.markets, "are about a market that has no file"),
    )
    why = next((words for holds, words in reasons if holds), "")
    return why or _unstored(platform, request, final)


def _unstored(platform: Platform, request: StoredFetch, final: set[tuple[str, str]]) -> str:
    market = platform.markets[request.market]
    (instrument,) = instruments_of(market, [request.symbol])
    try:
        read = parse_again(platform, market, request, instrument)
    except ArchiveError:
        return "cannot be read from the archive"
    if read is None:
        return "cannot be told what they answered"
    bars = read.parsed.bars
    if bars is None or not len(bars):
        return "" if read.parsed.outcome is Outcome.EMPTY_EXPECTED else "hold no bar that today's parser finds"
    sessions: set[date] = {session.date() for session in bars["session"]}
    stored = all((request.symbol, session.isoformat()) in final for session in sessions)
    return "" if stored else "hold bars that are in no final agreed bar"


# --- ticks -------------------------------------------------------------------------------------------------------


def _ticks(platform: Platform, now: datetime, *, dry_run: bool) -> Account:
    days = platform.settings.retention_ticks_days
    with platform.database.connection() as connection:
        total = count_segments(connection)
        old = old_segments(connection, now - timedelta(days=days)) if days else []
    covered = [one for one in old if one.covered]
    swept = Files()
    if days:
        files = _lake_files(platform)
        if not dry_run:
            for at in range(0, len(covered), SEGMENTS_A_BATCH):
                paths = [one.path for one in covered[at : at + SEGMENTS_A_BATCH]]
                with platform.database.connection() as connection:
                    unlist_segments(connection, paths)
                files.discard([Path(path) for path in paths])
        swept = _of_this_database(platform, files).sweep(dry_run=dry_run)
    return Account(
        name="ticks",
        keeps=keeps(days),
        total=total,
        old=len(old),
        deleted=len(covered),
        bytes=sum(one.bytes for one in covered) + swept.bytes,
        kept=len(old) - len(covered),
        why_kept="a symbol in it lacks the final daily bar of its session" if len(covered) < len(old) else "",
    )


def _lake_files(platform: Platform) -> FileStore:
    def named(paths: Sequence[str]) -> set[str]:
        with platform.database.connection() as connection:
            return listed_segments(connection, paths)

    return FileStore(lake_of(platform).root, ".parquet", Path.as_posix, named)


def _of_this_database(platform: Platform, files: FileStore) -> FileStore:
    """Made-up ticks lie in the same lake as real ones and are listed in a database of their own: what belongs to the
    other kind counts as named."""

    def named(paths: Sequence[str]) -> set[str]:
        foreign = {path for path in paths if (f"/feed={SIMULATED_PREFIX}" in path) is not platform.simulated}
        return foreign | files.named(paths)

    return replace(files, named=named)
