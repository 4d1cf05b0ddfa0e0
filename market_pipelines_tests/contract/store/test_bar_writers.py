"""What holds for every table of daily bars, whoever writes into it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime

import numpy as np
import pandas as pd
import psycopg
import pytest
from psycopg import sql

from market_pipelines.store.bars import (
    INDICES,
    STOCKS,
    replace_prices,
    write_prices,
    write_provider_bars,
)
from market_pipelines.store.database import Database, Transaction
from market_pipelines.store.read_bars import read_prices, read_provider_bars, read_revisions
from market_pipelines.store.upsert import WriteCounts, Written
from market_pipelines_tests.contract.store.frames import KNOWN, LATER, LATEST, consensus, day, provider_bars

Write = Callable[[Transaction, pd.DataFrame, datetime], Written]
Read = Callable[[Transaction], pd.DataFrame]


class BarWriterContract:
    """Subclassed for each table; `rows` makes a frame that its writer accepts."""

    table: str
    rows: Callable[..., pd.DataFrame] = staticmethod(consensus)

    def write(self, connection: Transaction, frame: pd.DataFrame, at: datetime) -> Written:
        return write_prices(connection, frame, at, "run", self.table)

    def read(self, connection: Transaction) -> pd.DataFrame:
        return read_prices(connection, "us", table=self.table)

    def test_new_rows_are_inserted_and_read_back_as_they_were(self, fresh_database: Database) -> None:
        frame = self.rows(("MSFT", "2026-03-02", 400.25), ("AAPL", "2026-03-02", 1 / 3), ("AAPL", "2026-02-27", 200.0))
        frame.loc[0, "volume"] = np.nan
        frame.loc[1, "provisional"] = True
        with fresh_database.connection() as connection:
            written = self.write(connection, frame, KNOWN)
            stored = self.read(connection)
        assert written.total == WriteCounts(inserted=3)
        assert written.by_symbol == {"AAPL": WriteCounts(inserted=2), "MSFT": WriteCounts(inserted=1)}
        ordered = frame.sort_values(["symbol", "session"], ignore_index=True)
        pd.testing.assert_frame_equal(stored[list(frame.columns)], ordered)
        assert (stored["ingested_at"] == KNOWN).all()

    def test_the_same_rows_again_are_left_alone(self, fresh_database: Database) -> None:
        frame = self.rows(("AAPL", "2026-03-02", 200.0), ("AAPL", "2026-03-03", 201.0))
        frame["volume"] = np.nan
        with fresh_database.connection() as connection:
            self.write(connection, frame, KNOWN)
        with fresh_database.connection() as connection:
            before = _versions(connection, self.table)
            again = self.write(connection, frame, LATER)
            assert _versions(connection, self.table) == before
            assert (self.read(connection)["ingested_at"] == KNOWN).all()
        assert again.total == WriteCounts(unchanged=2)

    def test_only_the_changed_row_is_revised(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            self.write(connection, self.rows(("AAPL", "2026-03-02", 200.0), ("AAPL", "2026-03-03", 201.0)), KNOWN)
            second = self.rows(
                ("AAPL", "2026-03-02", 200.0), ("AAPL", "2026-03-03", 202.0), ("AAPL", "2026-03-04", 203.0)
            )
            written = self.write(connection, second, LATER)
            stored = self.read(connection)
        assert written.total == WriteCounts(inserted=1, revised=1, unchanged=1)
        assert stored["close"].tolist() == [200.0, 202.0, 203.0]
        assert stored["ingested_at"].tolist() == [KNOWN, LATER, LATER]

    @pytest.mark.parametrize("column", ["open", "high", "low", "close", "volume", "provisional"])
    def test_a_change_of_any_column_is_a_revision(self, fresh_database: Database, column: str) -> None:
        frame = self.rows(("AAPL", "2026-03-02", 200.0))
        changed = frame.copy()
        changed[column] = True if column == "provisional" else changed[column] + 0.001
        with fresh_database.connection() as connection:
            self.write(connection, frame, KNOWN)
            assert self.write(connection, changed, LATER).total == WriteCounts(revised=1)

    def test_a_volume_that_appears_or_goes_is_a_revision(self, fresh_database: Database) -> None:
        known = self.rows(("AAPL", "2026-03-02", 200.0))
        unknown = known.assign(volume=np.nan)
        with fresh_database.connection() as connection:
            self.write(connection, unknown, KNOWN)
            assert self.write(connection, known, LATER).total.revised == 1
            assert self.write(connection, unknown, LATEST).total.revised == 1

    def test_a_failure_leaves_nothing_behind(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            self.write(connection, self.rows(("AAPL", "2026-03-02", 200.0)), KNOWN)
        bad = self.rows(("AAPL", "2026-03-02", 300.0), ("AAPL", "2026-03-03", np.inf))
        with pytest.raises(psycopg.errors.CheckViolation), fresh_database.connection() as connection:
            self.write(connection, bad, LATER)
        with fresh_database.connection() as connection:
            assert self.read(connection)["close"].tolist() == [200.0]
            assert read_revisions(connection, "us", table=self.table).empty

    def test_a_price_that_is_no_number_is_refused_by_the_table_itself(self, fresh_database: Database) -> None:
        with pytest.raises(psycopg.errors.NotNullViolation), fresh_database.connection() as connection:
            self.write(connection, self.rows(("AAPL", "2026-03-02", np.nan)), KNOWN)

    def test_two_rows_for_one_key_are_refused(self, fresh_database: Database) -> None:
        twice = self.rows(("AAPL", "2026-03-02", 200.0), ("AAPL", "2026-03-02", 201.0))
        with fresh_database.connection() as connection, pytest.raises(ValueError, match="AAPL"):
            self.write(connection, twice, KNOWN)

    def test_a_frame_that_lacks_a_column_is_refused_by_name(self, fresh_database: Database) -> None:
        lacking = self.rows(("AAPL", "2026-03-02", 200.0)).drop(columns="provider")
        with fresh_database.connection() as connection, pytest.raises(ValueError, match="provider"):
            self.write(connection, lacking, KNOWN)

    def test_an_instant_without_a_zone_is_refused(self, fresh_database: Database) -> None:
        frame = self.rows(("AAPL", "2026-03-02", 200.0))
        with fresh_database.connection() as connection, pytest.raises(ValueError, match="time zone"):
            self.write(connection, frame, datetime(2026, 3, 2))  # noqa: DTZ001 - that is the point

    def test_an_empty_frame_writes_nothing(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            assert self.write(connection, self.rows(), KNOWN).total == WriteCounts()
            assert self.read(connection).empty

    def test_new_rows_are_taken_in_key_order_whatever_order_they_come_in(self, fresh_database: Database) -> None:
        frame = self.rows(
            *((symbol, f"2026-03-{number:02}", 200.0) for symbol in ("MSFT", "AAPL") for number in (6, 3, 5, 2, 4))
        )
        with fresh_database.connection() as connection:
            self.write(connection, frame, KNOWN)
            taken = connection.execute(
                sql.SQL("SELECT symbol, session FROM market.{} ORDER BY ctid").format(sql.Identifier(self.table))
            ).fetchall()
        assert len(taken) == len(frame)
        assert taken == sorted(taken), "two writers of the same rows in different orders can deadlock"

    def test_writers_at_the_same_time_lose_nothing_and_repeat_nothing(self, fresh_database: Database) -> None:
        sessions = [f"2026-03-{number:02}" for number in range(2, 28)]
        together = threading.Barrier(4)
        results: list[Written] = []

        def write(offset: int) -> None:
            frame = self.rows(*(("AAPL", session, 200.0 + offset) for session in sessions)).sample(
                frac=1, random_state=offset
            )
            together.wait()
            with fresh_database.connection() as connection:
                results.append(self.write(connection, frame, KNOWN))

        threads = [threading.Thread(target=write, args=(offset,)) for offset in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        total = sum((result.total for result in results), WriteCounts())
        assert total == WriteCounts(inserted=len(sessions), revised=3 * len(sessions))
        with fresh_database.connection() as connection:
            stored = self.read(connection)
            assert stored["session"].dt.strftime("%Y-%m-%d").tolist() == sessions
            assert stored["close"].nunique() == 1, "the last writer's rows, all of them"

    def test_a_row_that_somebody_else_is_just_writing_is_waited_for_and_then_left_alone(
        self, fresh_database: Database
    ) -> None:
        with fresh_database.connection() as connection:
            self.write(connection, self.rows(("AAPL", "2026-03-02", 200.0)), KNOWN)
        both = self.rows(("AAPL", "2026-03-02", 200.0), ("AAPL", "2026-03-03", 201.0))
        second: list[Written] = []

        def write_second() -> None:
            with fresh_database.connection() as connection:
                second.append(self.write(connection, both, LATER))

        thread = threading.Thread(target=write_second)
        with fresh_database.connection() as connection:
            assert self.write(connection, both, KNOWN).total == WriteCounts(inserted=1, unchanged=1)
            thread.start()
            with fresh_database.connection() as observer:
                _wait_until_somebody_waits(observer)
        thread.join()
        assert second[0].total == WriteCounts(unchanged=2)
        with fresh_database.connection() as connection:
            assert (self.read(connection)["ingested_at"] == KNOWN).all()

    def test_writers_that_meet_in_opposite_directions_do_not_block_each_other(self, fresh_database: Database) -> None:
        sessions = pd.bdate_range("2000-01-03", periods=4000).strftime("%Y-%m-%d")
        rows = self.rows(*(("AAPL", session, 100.0) for session in sessions))
        with fresh_database.connection() as connection:
            self.write(connection, rows, KNOWN)
        together = threading.Barrier(2)
        failures: list[psycopg.Error] = []

        def write(frame: pd.DataFrame) -> None:
            together.wait()
            try:
                with fresh_database.connection() as connection:
                    self.write(connection, frame, LATER)
            except psycopg.Error as error:
                failures.append(error)

        directions = (rows.assign(volume=1.0), rows.assign(volume=2.0).iloc[::-1])
        threads = [threading.Thread(target=write, args=(frame,)) for frame in directions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []

    def test_a_large_frame_takes_the_same_way_as_a_small_one(self, fresh_database: Database) -> None:
        sessions = pd.bdate_range("2000-01-03", periods=6000).strftime("%Y-%m-%d")
        frame = self.rows(*(("AAPL", session, 100.0) for session in sessions))
        changed = frame.copy()
        changed.loc[changed.index % 100 == 0, "close"] = 101.0
        with fresh_database.connection() as connection:
            assert self.write(connection, frame, KNOWN).total == WriteCounts(inserted=6000)
            assert self.write(connection, changed, LATER).total == WriteCounts(revised=60, unchanged=5940)


class AgreedBarContract(BarWriterContract):
    """What holds for the agreed bars on top: their history."""

    def test_the_superseded_version_is_kept_with_its_time_and_run(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            write_prices(connection, consensus(("AAPL", "2026-03-02", 200.0)), KNOWN, "first", self.table)
            write_prices(
                connection, consensus(("AAPL", "2026-03-02", 201.0), provider="stooq"), LATER, "second", self.table
            )
            (kept,) = read_revisions(connection, "us", table=self.table).to_dict("records")
        assert (kept["close"], kept["provider"], kept["run_id"], kept["removed"]) == (200.0, "yahoo", "second", False)
        assert (kept["known_from"], kept["known_to"]) == (KNOWN, LATER)

    @pytest.mark.parametrize("column", ["provider", "condition"])
    def test_where_a_row_is_from_and_what_it_is_worth_are_part_of_it(
        self, fresh_database: Database, column: str
    ) -> None:
        frame = consensus(("AAPL", "2026-03-02", 200.0))
        with fresh_database.connection() as connection:
            self.write(connection, frame, KNOWN)
            assert self.write(connection, frame.assign(**{column: "degraded"}), LATER).total.revised == 1
            assert read_revisions(connection, "us", table=self.table)[column].tolist() == frame[column].tolist()

    def test_a_rollback_takes_the_revision_with_it(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            self.write(connection, consensus(("AAPL", "2026-03-02", 200.0)), KNOWN)
        with pytest.raises(RuntimeError, match="after the write"), fresh_database.connection() as connection:
            self.write(connection, consensus(("AAPL", "2026-03-02", 201.0)), LATER)
            raise RuntimeError("after the write")
        with fresh_database.connection() as connection:
            assert read_revisions(connection, "us", table=self.table).empty
            assert self.read(connection)["close"].tolist() == [200.0]

    def test_replacing_a_range_removes_what_is_gone_and_keeps_it_as_a_revision(self, fresh_database: Database) -> None:
        stored = consensus(
            ("AAPL", "2026-02-27", 199.0),
            ("AAPL", "2026-03-02", 200.0),
            ("AAPL", "2026-03-03", 201.0),
            ("MSFT", "2026-03-02", 400.0),
        )
        with fresh_database.connection() as connection:
            self.write(connection, stored, KNOWN)
            written = replace_prices(
                connection,
                consensus(("AAPL", "2026-03-03", 201.0), ("AAPL", "2026-03-04", 202.0)),
                LATER,
                "tidy",
                self.table,
                market="us",
                symbols=["AAPL"],
                start=day("2026-03-01"),
                end=day("2026-03-31"),
            )
            left = self.read(connection)
            (kept,) = read_revisions(connection, "us", table=self.table).to_dict("records")
        assert written.total == WriteCounts(inserted=1, unchanged=1, removed=1)
        assert list(zip(left["symbol"], left["close"], strict=True)) == [
            ("AAPL", 199.0),
            ("AAPL", 201.0),
            ("AAPL", 202.0),
            ("MSFT", 400.0),
        ]
        assert (kept["close"], kept["removed"], kept["run_id"]) == (200.0, True, "tidy")
        assert (kept["known_from"], kept["known_to"]) == (KNOWN, LATER)

    def test_replacing_with_nothing_empties_the_range(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            self.write(connection, consensus(("AAPL", "2026-03-02", 200.0)), KNOWN)
            written = replace_prices(
                connection,
                consensus(),
                LATER,
                table=self.table,
                market="us",
                symbols=["AAPL"],
                start=day("2026-03-02"),
                end=day("2026-03-02"),
            )
            assert written.by_symbol == {"AAPL": WriteCounts(removed=1)}
            assert self.read(connection).empty

    def test_a_row_outside_of_what_is_replaced_is_refused(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection, pytest.raises(ValueError, match="MSFT"):
            replace_prices(
                connection,
                consensus(("MSFT", "2026-03-02", 400.0)),
                KNOWN,
                table=self.table,
                market="us",
                symbols=["AAPL"],
                start=day("2026-03-01"),
                end=day("2026-03-31"),
            )

    def test_knowledge_never_runs_backwards(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            self.write(connection, consensus(("AAPL", "2026-03-02", 200.0)), LATER)
            self.write(connection, consensus(("AAPL", "2026-03-02", 201.0)), KNOWN)
            assert self.read(connection)["ingested_at"].tolist() == [LATER]
            (kept,) = read_revisions(connection, "us", table=self.table).to_dict("records")
        assert kept["known_from"] <= kept["known_to"]

    def test_a_change_by_hand_is_kept_too(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            self.write(connection, consensus(("AAPL", "2026-03-02", 200.0)), KNOWN)
        with fresh_database.connection() as connection:
            connection.execute(f"DELETE FROM market.{self.table}")  # noqa: S608 - a constant of this file
        with fresh_database.connection() as connection:
            assert read_revisions(connection, "us", table=self.table)["removed"].tolist() == [True]


class TestStockPrices(AgreedBarContract):
    table = STOCKS


class TestMarketIndexPrices(AgreedBarContract):
    table = INDICES


class TestProviderBars(BarWriterContract):
    table = "provider_bars"
    rows = staticmethod(provider_bars)

    def write(self, connection: Transaction, frame: pd.DataFrame, at: datetime) -> Written:
        return write_provider_bars(connection, frame, at)

    def read(self, connection: Transaction) -> pd.DataFrame:
        return read_provider_bars(connection, "us")

    def test_each_provider_keeps_its_own_row(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            self.write(connection, provider_bars(("AAPL", "2026-03-02", 200.0)), KNOWN)
            self.write(connection, provider_bars(("AAPL", "2026-03-02", 200.1), provider="stooq"), KNOWN)
            stored = self.read(connection)
            only = read_provider_bars(connection, "us", providers=["stooq"])
        assert dict(zip(stored["provider"], stored["close"], strict=True)) == {"yahoo": 200.0, "stooq": 200.1}
        assert only["close"].tolist() == [200.1]


def test_a_table_that_holds_no_agreed_bars_is_refused(database: Database) -> None:
    with database.connection() as connection, pytest.raises(ValueError, match="provider_bars"):
        write_prices(connection, consensus(("AAPL", "2026-03-02", 1.0)), KNOWN, table="provider_bars")


def _versions(connection: Transaction, table: str) -> list[tuple[object, ...]]:
    """Which physical rows there are and who locked them: an untouched row has the same."""
    return connection.execute(
        f"SELECT ctid::text, xmin::text, xmax::text FROM market.{table} ORDER BY ctid"  # noqa: S608 - a constant
    ).fetchall()


def _wait_until_somebody_waits(observer: Transaction) -> None:
    """Until another session of this database waits for a lock."""
    deadline = time.monotonic() + 30
    question = """
        SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
    """
    while observer.execute(question).fetchone() == (0,):
        assert time.monotonic() < deadline, "nobody waits"
        observer.execute("SELECT pg_stat_clear_snapshot()")
