"""The pool of connections, and the schema's migrations."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from market_pipelines.settings import Settings
from market_pipelines.store import schema
from market_pipelines.store.database import Database, DatabaseUnavailable, database_name, open_database
from market_pipelines.store.urls import libpq_url, sqlalchemy_url
from market_pipelines_tests.conftest import PostgresServer


def external(url: str, home: Path) -> Settings:
    return Settings(_env_file=None, database_url=url, market_pipelines_home=home)


class TestDatabase:
    def test_a_block_that_ends_is_committed_and_one_that_raises_is_not(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            connection.execute("CREATE TABLE kept (n int)")
        with pytest.raises(ZeroDivisionError), fresh_database.connection() as connection:
            connection.execute("INSERT INTO kept VALUES (1)")
            _ = 1 / 0
        with fresh_database.connection() as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)

    def test_a_statement_that_takes_too_long_is_stopped(self, postgres_server: PostgresServer) -> None:
        url = postgres_server.create()
        with (
            Database(url, statement_timeout=0.05) as database,
            pytest.raises(psycopg.errors.QueryCanceled),
            database.connection() as connection,
        ):
            connection.execute("SELECT pg_sleep(30)")
        postgres_server.drop(url)

    def test_a_server_that_became_a_standby_is_away_and_asked_anew(self, database: Database) -> None:
        with pytest.raises(DatabaseUnavailable, match="takes no writes"), database.connection() as connection:
            demoted = connection.info.backend_pid
            connection.execute("SET TRANSACTION READ ONLY")
            connection.execute("UPDATE market.stream_status SET detail = ''")
        with database.connection() as connection:
            assert connection.info.backend_pid != demoted

    def test_times_are_utc(self, database: Database) -> None:
        with database.connection() as connection:
            assert connection.execute("SHOW timezone").fetchone() == ("UTC",)

    def test_connections_that_the_server_dropped_are_replaced(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            connection.execute("SELECT 1")
        with psycopg.connect(fresh_database.url, autocommit=True) as other:
            dropped = other.execute("""
                SELECT count(pg_terminate_backend(pid, 5000))
                FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()
            """).fetchone()
        assert dropped is not None
        assert dropped[0] >= 1
        with fresh_database.connection() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)

    def test_a_server_that_is_not_there_is_named_without_the_password(self) -> None:
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            port = reserved.getsockname()[1]
            with pytest.raises(DatabaseUnavailable) as caught:
                Database(f"postgresql://reader:hunter22@127.0.0.1:{port}/prices")
        assert "hunter22" not in str(caught.value)
        assert str(port) in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__

    def test_a_database_that_is_not_there_is_named(self, postgres_server: PostgresServer) -> None:
        with pytest.raises(DatabaseUnavailable, match="nowhere"):
            Database(postgres_server.url("nowhere"))

    @pytest.mark.parametrize("url", ["mysql://u:sesame@h/d", "prices.db", ""])
    def test_an_address_of_something_else_is_refused(self, url: str) -> None:
        with pytest.raises(DatabaseUnavailable, match="postgresql://") as caught:
            Database(url)
        assert "sesame" not in str(caught.value)


def test_every_spelling_of_an_address_reaches_both_libraries() -> None:
    for scheme in ("postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2"):
        assert libpq_url(f"{scheme}://u@h/d") == "postgresql://u@h/d"
        assert sqlalchemy_url(f"{scheme}://u@h/d") == "postgresql+psycopg://u@h/d"


def test_simulated_and_real_data_have_databases_of_their_own() -> None:
    assert database_name(simulated=True) != database_name(simulated=False)


class TestSchema:
    def test_an_empty_database_has_every_step_pending(self, postgres_server: PostgresServer) -> None:
        url = postgres_server.create(migrated=False)
        before = schema.status(url)
        assert (before.current, before.pending, before.up_to_date) == (None, schema.revisions(), False)
        after = schema.upgrade(url)
        assert after == schema.SchemaStatus(schema.revisions()[-1], schema.revisions()[-1], ())
        assert schema.status(url) == after
        postgres_server.drop(url)

    def test_processes_that_upgrade_at_once_wait_for_each_other(self, postgres_server: PostgresServer) -> None:
        url = postgres_server.create(migrated=False)
        together = threading.Barrier(4)
        results: list[schema.SchemaStatus] = []

        def upgrade() -> None:
            together.wait()
            results.append(schema.upgrade(url))

        threads = [threading.Thread(target=upgrade) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [result.up_to_date for result in results] == [True] * 4
        postgres_server.drop(url)

    def test_a_schema_of_a_newer_release_is_refused_and_left_alone(
        self, postgres_server: PostgresServer, tmp_path: Path
    ) -> None:
        url = postgres_server.create()
        with psycopg.connect(url) as connection:
            connection.execute("UPDATE market.alembic_version SET version_num = '9999'")
        for refused in (schema.status, schema.upgrade):
            with pytest.raises(schema.SchemaTooNew, match="9999"):
                refused(url)
        for migrate in (True, False):
            with pytest.raises(schema.SchemaTooNew):
                open_database(external(url, tmp_path), simulated=False, migrate=migrate)
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT version_num FROM market.alembic_version").fetchone() == ("9999",)
        postgres_server.drop(url)

    def test_an_upgrade_that_fails_leaves_nothing(self, postgres_server: PostgresServer) -> None:
        url = postgres_server.create(migrated=False)
        with psycopg.connect(url) as connection:
            connection.execute("CREATE SCHEMA market")
            connection.execute("CREATE TABLE market.coverage (n int)")
        with pytest.raises(Exception, match="already exists"):
            schema.upgrade(url)
        assert schema.status(url).current is None
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT to_regclass('market.stocks')").fetchone() == (None,)
        postgres_server.drop(url)

    def test_alembic_sees_one_line_of_the_same_steps(self) -> None:
        config = Config()
        config.set_main_option("script_location", "market_pipelines.store:migrations")
        scripts = ScriptDirectory.from_config(config)
        walked = [script.revision for script in scripts.walk_revisions()]
        assert tuple(reversed(walked)) == schema.revisions()
        assert len(scripts.get_heads()) == 1


def test_the_operators_database_is_used_and_migrated(postgres_server: PostgresServer, tmp_path: Path) -> None:
    url = postgres_server.create(migrated=False)
    with open_database(external(url, tmp_path), simulated=True) as database:
        assert database.server is None
        assert schema.status(database.url).up_to_date
    assert list(tmp_path.iterdir()) == [], "nothing is embedded"
    postgres_server.drop(url)
