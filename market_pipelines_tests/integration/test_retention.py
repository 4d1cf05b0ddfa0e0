"""Old and covered things go, and nothing that anybody can read changes: row sets before and after are compared."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from market_pipelines.pipeline import retention
from market_pipelines.pipeline.refresh import instruments_of
from market_pipelines.pipeline.reparse import reparse
from market_pipelines.pipeline.results import new_run_id
from market_pipelines.pipeline.retention import Account, RetentionReport, apply_retention
from market_pipelines.pipeline.settle import settle_daily
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.leftovers import FileStore
from market_pipelines.store.retention import (
    RetentionBusy,
    RetentionRefused,
    delete_batch,
    forget_bodies,
    held_for_retention,
)
from market_pipelines.store.retention_policies import PROVIDER_BARS
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.faults.house import CONTENTS, REVISION_CONTENTS, House, contents, opened_house

pytestmark = pytest.mark.usefixtures("settings_of_this_machine_are_out_of_sight")

SPRING = date(2025, 3, 3), date(2025, 6, 12)
SYMBOLS = ("AAPL", "KO")
A_YEAR_LATER = datetime(2026, 6, 12, 21, tzinfo=UTC)
AS_OF = ("2025-06-12T21:30:00Z", "2025-06-20T00:00:00Z", "2026-06-01T00:00:00Z")


@pytest.fixture
def house(postgres_server: PostgresServer, simulator: Simulator, tmp_path: Path) -> Iterator[House]:
    """Three providers' bars of a spring, asked for twice, with a correction in between; a year ago."""
    url = postgres_server.create()
    with opened_house(tmp_path / "home", url, simulator, now=datetime(2025, 6, 12, 21, tzinfo=UTC)) as opened:
        for provider in ("alpha_vantage", "yahoo"):
            opened.refresh(SYMBOLS, *SPRING, providers=[provider])
        opened.clock.set(datetime(2025, 6, 13, 21, tzinfo=UTC))
        with opened.platform.database.connection() as connection:
            connection.execute(
                "UPDATE market.stock_prices SET close = close + 0.01, ingested_at = %s WHERE symbol = 'KO' "
                "AND session < '2025-04-01'",
                (opened.clock(),),
            )
        opened.clock.set(datetime(2025, 6, 14, 21, tzinfo=UTC))
        opened.refresh(SYMBOLS, SPRING[0], date(2025, 6, 13), providers=["yahoo"])
        opened.clock.set(A_YEAR_LATER)
        yield opened
    postgres_server.drop(url)


def kept(house: House, *, dry_run: bool = False, **days: int) -> RetentionReport:
    settings = house.platform.settings.model_copy(update={f"retention_{name}": value for name, value in days.items()})
    return apply_retention(replace(house.platform, settings=settings), dry_run=dry_run)


def account(report: RetentionReport, name: str) -> Account:
    (found,) = [one for one in report.accounts if one.name == name]
    return found


def readable(house: House) -> dict[str, Any]:
    """Every bar, action and past of one that a reader can ask for."""
    with house.platform.database.connection() as connection:
        found: dict[str, Any] = dict(contents(connection, CONTENTS | REVISION_CONTENTS))
        for at in AS_OF:
            found[f"as of {at}"] = connection.execute(
                "SELECT * FROM market.stock_prices_as_of(%s) ORDER BY market, symbol, session", (at,)
            ).fetchall()
            found[f"adjusted as of {at}"] = connection.execute(
                "SELECT * FROM market.stock_prices_adjusted_as_of(%s) ORDER BY market, symbol, session", (at,)
            ).fetchall()
    return found


def without(found: dict[str, Any], *tables: str) -> dict[str, Any]:
    return {name: rows for name, rows in found.items() if name not in tables}


def age_files(house: House) -> None:
    long_ago = time.time() - 10 * 86_400
    for path in house.archive.root.rglob("*.zst"):
        os.utime(path, (long_ago, long_ago))


def bodies(house: House) -> set[str]:
    return {path.stem for path in house.archive.root.rglob("*.zst")}


def test_by_default_no_bar_and_no_answer_goes(house: House) -> None:
    before, answers = readable(house), bodies(house)
    report = kept(house)
    assert readable(house) == before
    assert bodies(house) == answers
    assert {one.name for one in report.accounts if one.deleted} <= {"fetches", "job_logs"}
    assert account(report, "fetches").deleted == 0, "the archive has all their answers"


def test_a_dry_run_says_what_a_run_does_and_does_nothing(house: House) -> None:
    age_files(house)
    wishes: Any = {"provider_bars_days": 30, "raw_archive_days": 30, "revisions_days": 30, "job_logs_days": 30}
    wishes["fetches_days"] = 0  # what the archive no longer answers would go the next time
    before, answers = readable(house), bodies(house)
    told = kept(house, dry_run=True, **wishes)
    assert readable(house) == before
    assert bodies(house) == answers
    done = kept(house, **wishes)
    assert [(one.name, one.deleted, one.kept, one.bytes) for one in told.accounts] == [
        (one.name, one.deleted, one.kept, one.bytes) for one in done.accounts
    ]
    assert told.deleted > 0
    assert all(one.deleted == 0 for one in kept(house, **wishes).accounts), "a second time there is nothing left"


def test_of_several_providers_bars_the_agreed_one_stays_and_settling_again_changes_nothing(house: House) -> None:
    before = readable(house)
    done = account(kept(house, provider_bars_days=30), "provider_bars")
    assert done.deleted == len(before["provider_bars"]) - len(before["stock_prices"])
    assert readable(house)["provider_bars"] == [
        row for row in before["provider_bars"] if row[8] in {price[8] for price in before["stock_prices"]}
    ]
    assert without(readable(house), "provider_bars") == without(before, "provider_bars")
    market = house.platform.market("us")
    settle_daily(
        house.platform,
        market,
        instruments_of(market, SYMBOLS),
        *SPRING,
        run_id=new_run_id(),
        known_at=house.clock(),
    )
    assert without(readable(house), "provider_bars") == without(before, "provider_bars")


def test_a_provider_bar_without_a_final_agreed_one_stays(house: House) -> None:
    with house.platform.database.connection() as connection:
        connection.execute("DELETE FROM market.stock_prices WHERE symbol = 'KO' AND session = '2025-04-07'")
        connection.execute("UPDATE market.stock_prices SET provisional = true WHERE session = '2025-04-08'")
    done = account(kept(house, provider_bars_days=30), "provider_bars")
    assert house.rows(
        "SELECT symbol, session::text, count(*) FROM market.provider_bars "
        "WHERE session IN ('2025-04-07', '2025-04-08') GROUP BY 1, 2 ORDER BY 2, 1"
    ) == [("AAPL", "2025-04-07", 1), ("KO", "2025-04-07", 2), ("AAPL", "2025-04-08", 2), ("KO", "2025-04-08", 2)]
    assert "no final bar was agreed on" in done.why_kept


def test_what_is_younger_than_the_settings_keep_stays(house: House) -> None:
    house.clock.set(datetime(2025, 6, 14, 21, tzinfo=UTC))
    days = (date(2025, 6, 14) - date(2025, 5, 1)).days
    kept(house, provider_bars_days=days)
    ((oldest,),) = house.rows("SELECT min(session)::text FROM market.provider_bars WHERE provider LIKE '%alpha%'")
    assert oldest == "2025-05-01"


def test_archived_answers_go_when_all_that_they_said_is_in_final_bars_and_the_rest_reparses(house: House) -> None:
    age_files(house)
    before, answers = readable(house), bodies(house)
    newest = {sha for (sha,) in house.rows("SELECT sha256 FROM market.fetches WHERE fetched_at > '2025-06-14'")}
    done = account(kept(house, raw_archive_days=30), "raw_archive")
    left = bodies(house)
    assert newest <= left
    assert len(answers) - len(left) == done.deleted > 0
    assert done.bytes > 0
    assert house.rows("SELECT count(*) FROM market.fetches WHERE pruned_at IS NOT NULL") == [(done.deleted,)]
    named = {sha for (sha,) in house.rows("SELECT sha256 FROM market.fetches WHERE sha256 IS NOT NULL")}
    assert named == left
    assert readable(house) == before
    reparse(house.platform, house.platform.market("us"), instruments_of(house.platform.market("us"), SYMBOLS))
    assert readable(house)["stock_prices"] == before["stock_prices"]


def test_an_answer_with_a_bar_that_is_nowhere_else_stays(house: House) -> None:
    age_files(house)
    with house.platform.database.connection() as connection:
        connection.execute("DELETE FROM market.stock_prices WHERE session = '2025-04-07'")
    done = account(kept(house, raw_archive_days=30), "raw_archive")
    assert done.deleted == 0
    assert "hold bars that are in no final agreed bar" in done.why_kept


def test_a_limit_in_bytes_takes_the_oldest_of_what_may_go(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    age_files(house)
    assert account(kept(house, raw_archive_gb=1), "raw_archive").deleted == 0
    monkeypatch.setattr(retention, "_GIGABYTE", 1)
    assert account(kept(house, raw_archive_gb=1), "raw_archive").deleted > 0


def test_a_kill_between_the_row_and_its_file_leaves_a_file_that_the_next_night_sweeps(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    age_files(house)
    answers = bodies(house)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(FileStore, "discard", killed)
        with pytest.raises(KeyboardInterrupt):
            kept(house, raw_archive_days=30)
    assert bodies(house) == answers
    kept(house, raw_archive_days=30)
    assert bodies(house) == {sha for (sha,) in house.rows("SELECT sha256 FROM market.fetches WHERE sha256 IS NOT NULL")}
    assert len(bodies(house)) < len(answers)


def test_an_answer_that_arrives_again_while_it_is_being_deleted_stays(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    age_files(house)
    whole = {sha: house.archive.get(sha) for sha in bodies(house)}

    def fetched_again(*arguments: Any) -> int:
        for body in whole.values():
            house.archive.put(body)
        return forget_bodies(*arguments)

    monkeypatch.setattr(retention, "forget_bodies", fetched_again)
    assert account(kept(house, raw_archive_days=30), "raw_archive").deleted > 0
    assert bodies(house) == set(whole)


def test_a_superseded_version_goes_and_reading_as_of_later_is_the_same(house: House) -> None:
    before = readable(house)
    assert before["bar_revisions"]
    done = account(kept(house, revisions_days=30), "bar_revisions")
    after = readable(house)
    assert done.deleted == len(before["bar_revisions"])
    lost = "as of 2025-06-12T21:30:00Z", "adjusted as of 2025-06-12T21:30:00Z"
    assert without(after, "bar_revisions", *lost) == without(before, "bar_revisions", *lost)


def test_minutes_go_by_whole_sessions_and_only_where_the_day_is_known(house: House) -> None:
    with house.platform.database.connection() as connection:
        connection.execute(
            """
            INSERT INTO market.provider_bars_intraday
            SELECT 'KO', 'us', '60min', d::date, d + make_interval(hours => 14 + h), 'regular', 70, 71, 69, 70, 5,
                   'yahoo', 'traded', false, %(at)s
            FROM generate_series('2025-04-07'::timestamptz, '2025-04-11', '1 day') AS d, generate_series(0, 6) AS h;
            """,
            {"at": house.clock() - timedelta(days=400)},
        )
        connection.execute(
            """
            INSERT INTO market.stock_prices_intraday
            SELECT symbol, market, interval, session, ts, phase, open, high, low, close, volume, provider, 'available',
                   provisional, ingested_at
            FROM market.provider_bars_intraday
            """
        )
        connection.execute("DELETE FROM market.stock_prices WHERE symbol = 'KO' AND session = '2025-04-09'")
    before = readable(house)
    told = kept(house, dry_run=True, intraday_days=30)
    done = kept(house, intraday_days=30)
    for table in ("stock_prices_intraday", "provider_bars_intraday"):
        assert house.rows(f"SELECT session::text, count(*) FROM market.{table} GROUP BY 1") == [("2025-04-09", 7)]  # noqa: S608
    assert house.rows("SELECT count(*) FROM market.intraday_revisions") == [(0,)]
    assert [(one.name, one.deleted) for one in told.accounts] == [(one.name, one.deleted) for one in done.accounts]
    assert readable(house) == before


def test_a_batch_that_does_not_add_up_never_happened(house: House) -> None:
    # Each bar is covered by another provider's: together they go, and nothing is left that covers them.
    each_other = replace(
        PROVIDER_BARS,
        covered="""EXISTS (
            SELECT FROM market.provider_bars AS o
            WHERE (o.market, o.symbol, o.session) = (t.market, t.symbol, t.session) AND o.provider <> t.provider
        )""",
    )
    before = readable(house)
    with pytest.raises(RetentionRefused, match="are covered by nothing; the batch was taken back"):
        delete_batch(house.platform.database, each_other, A_YEAR_LATER)
    assert readable(house) == before


def test_two_do_not_delete_at_once(house: House) -> None:
    with held_for_retention(house.platform.database), pytest.raises(RetentionBusy, match="already"):
        kept(house)
    kept(house)


def test_of_ledgers_the_newest_word_and_what_is_open_stay(house: House) -> None:
    with house.platform.database.connection() as connection:
        connection.execute(
            """
            INSERT INTO market.check_results
            SELECT 'us', 'stock_prices', rule, at, '2025-01-02', '2025-01-03', true, 'warn', 0, 1, NULL
            FROM (
                VALUES ('old_rule', '2025-01-03'::timestamptz), ('rule', '2025-01-03'), ('rule', '2026-06-11')
            ) AS v (rule, at);
            INSERT INTO market.incidents (key, title, detail, severity, source, opened_at, last_seen, closed_at)
            SELECT key, key, '', 'error', 'test', '2025-01-03', '2025-01-03', closed::timestamptz
            FROM (VALUES ('open', NULL), ('over', '2025-01-04'), ('untold', '2025-01-04')) AS v (key, closed);
            INSERT INTO market.notifications (incident_id, kind, target, queued_at, next_try)
            SELECT incident_id, 'opened', 'x', '2025-01-03', '2025-01-03' FROM market.incidents WHERE key = 'untold';
            """
        )
    kept(house, check_results_days=30, incidents_days=30)
    assert house.rows("SELECT rule, at::date::text FROM market.check_results ORDER BY 1, 2") == [
        ("old_rule", "2025-01-03"),
        ("rule", "2026-06-11"),
    ]
    assert house.rows("SELECT key FROM market.incidents ORDER BY 1") == [("open",), ("untold",)]
