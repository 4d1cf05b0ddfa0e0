"""Reading bars as known at an instant and adjusted, against answers worked out by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from market_pipelines.market.actions import ActionKind, CorporateAction, adjust
from market_pipelines.store.bars import INDICES, replace_prices, write_prices, write_provider_bars
from market_pipelines.store.database import Database, Transaction
from market_pipelines.store.read_bars import (
    latest_sessions,
    previous_closes,
    read_prices,
    read_revisions,
    symbols_with_basis,
)
from market_pipelines.store.reference import write_actions
from market_pipelines_tests.contract.store.frames import KNOWN, LATER, LATEST, consensus, day, provider_bars

MOMENT = timedelta(microseconds=1)


def action(symbol: str, ex_date: str, kind: ActionKind, value: float) -> CorporateAction:
    return CorporateAction(symbol, day(ex_date), kind, value)


def split(ex_date: str, ratio: float, symbol: str = "AAPL") -> CorporateAction:
    return action(symbol, ex_date, ActionKind.SPLIT, ratio)


def dividend(ex_date: str, cash: float, symbol: str = "AAPL") -> CorporateAction:
    return action(symbol, ex_date, ActionKind.DIVIDEND, cash)


def store(connection: Transaction, bars: pd.DataFrame, *actions: CorporateAction) -> None:
    write_prices(connection, bars, KNOWN)
    write_actions(connection, "us", actions, "yahoo", KNOWN)


def closes(connection: Transaction, **options: object) -> list[float]:
    return read_prices(connection, "us", ["AAPL"], adjusted=True, **options)["close"].tolist()  # type: ignore[arg-type]


class TestAdjustment:
    def test_a_four_to_one_split(self, fresh_database: Database) -> None:
        bars = consensus(("AAPL", "2026-01-05", 400.0), ("AAPL", "2026-01-06", 408.0), ("AAPL", "2026-01-07", 103.0))
        with fresh_database.connection() as connection:
            store(connection, bars, split("2026-01-07", 4.0))
            adjusted = read_prices(connection, "us", ["AAPL"], adjusted=True)
        assert adjusted["close"].tolist() == pytest.approx([100.0, 102.0, 103.0])
        assert adjusted["open"].tolist() == pytest.approx([399 / 4, 407 / 4, 102.0])
        assert adjusted["high"].tolist() == pytest.approx([402 / 4, 410 / 4, 105.0])
        assert adjusted["low"].tolist() == pytest.approx([398 / 4, 406 / 4, 101.0])
        assert adjusted["volume"].tolist() == pytest.approx([4000.0, 4000.0, 1000.0])
        assert adjusted["adjusted"].all()

    def test_a_cash_dividend(self, fresh_database: Database) -> None:
        bars = consensus(("AAPL", "2026-01-05", 90.0), ("AAPL", "2026-01-06", 100.0), ("AAPL", "2026-01-07", 98.0))
        with fresh_database.connection() as connection:
            store(connection, bars, dividend("2026-01-07", 2.0))
            adjusted = read_prices(connection, "us", ["AAPL"], adjusted=True)
        # 1 - 2/100 = 0.98 for everything before the ex-date
        assert adjusted["close"].tolist() == pytest.approx([88.2, 98.0, 98.0])
        assert adjusted["volume"].tolist() == [1000.0, 1000.0, 1000.0]

    def test_a_split_and_a_dividend_multiply(self, fresh_database: Database) -> None:
        bars = consensus(
            ("AAPL", "2026-01-05", 400.0),
            ("AAPL", "2026-01-06", 100.0),
            ("AAPL", "2026-01-07", 110.0),
            ("AAPL", "2026-01-08", 99.0),
        )
        with fresh_database.connection() as connection:
            store(connection, bars, split("2026-01-06", 4.0), dividend("2026-01-08", 11.0))
            adjusted = read_prices(connection, "us", ["AAPL"], adjusted=True)
        # 1 - 11/110 = 0.9; the first bar carries the split too: 400 / 4 * 0.9
        assert adjusted["close"].tolist() == pytest.approx([90.0, 90.0, 99.0, 99.0])
        assert adjusted["volume"].tolist() == pytest.approx([4000.0, 1000.0, 1000.0, 1000.0])

    def test_a_split_and_a_dividend_on_one_date(self, fresh_database: Database) -> None:
        bars = consensus(("AAPL", "2026-01-05", 400.0), ("AAPL", "2026-01-06", 98.0))
        with fresh_database.connection() as connection:
            store(connection, bars, split("2026-01-06", 4.0), dividend("2026-01-06", 2.0))
            # The dividend is paid on a share that was split already, worth 100: 400 / 4 * (1 - 2/100)
            assert closes(connection) == pytest.approx([98.0, 98.0])

    def test_a_dividend_after_a_split_during_which_nothing_traded(self, fresh_database: Database) -> None:
        bars = consensus(("AAPL", "2026-01-05", 400.0), ("AAPL", "2026-01-08", 98.0))
        with fresh_database.connection() as connection:
            store(connection, bars, split("2026-01-06", 4.0), dividend("2026-01-08", 2.0))
            assert closes(connection) == pytest.approx([98.0, 98.0])

    def test_a_reverse_split(self, fresh_database: Database) -> None:
        bars = consensus(("AAPL", "2026-01-05", 5.0), ("AAPL", "2026-01-06", 51.0))
        with fresh_database.connection() as connection:
            store(connection, bars, split("2026-01-06", 0.1))
            adjusted = read_prices(connection, "us", ["AAPL"], adjusted=True)
        assert adjusted["close"].tolist() == pytest.approx([50.0, 51.0])
        assert adjusted["volume"].tolist() == pytest.approx([100.0, 1000.0])

    def test_an_action_that_is_only_announced_does_not_count_yet(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            store(connection, consensus(("AAPL", "2026-01-05", 400.0)), split("2100-01-04", 4.0))
            assert closes(connection) == [400.0]

    @pytest.mark.parametrize("cash", [10.0, 12.0])
    def test_a_dividend_as_large_as_the_price_is_ignored(self, fresh_database: Database, cash: float) -> None:
        bars = consensus(("AAPL", "2026-01-05", 10.0), ("AAPL", "2026-01-06", 9.0))
        with fresh_database.connection() as connection:
            store(connection, bars, dividend("2026-01-06", cash))
            assert closes(connection) == [10.0, 9.0]

    def test_another_symbol_and_another_market_are_left_alone(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            store(connection, consensus(("AAPL", "2026-01-05", 400.0), ("MSFT", "2026-01-05", 400.0)))
            write_prices(connection, consensus(("AAPL", "2026-01-05", 400.0), market="pl"), KNOWN)
            write_actions(connection, "us", [split("2026-01-06", 4.0)], "yahoo", KNOWN)
            us = read_prices(connection, "us", adjusted=True)
            pl = read_prices(connection, "pl", adjusted=True)
        assert dict(zip(us["symbol"], us["close"], strict=True)) == {"AAPL": 100.0, "MSFT": 400.0}
        assert pl["close"].tolist() == [400.0]

    def test_a_dividend_before_the_range_that_is_read_still_finds_its_close(self, fresh_database: Database) -> None:
        bars = consensus(("AAPL", "2026-01-05", 100.0), ("AAPL", "2026-01-06", 98.0))
        with fresh_database.connection() as connection:
            store(connection, bars, dividend("2026-01-06", 2.0))
            only = read_prices(connection, "us", ["AAPL"], end=day("2026-01-05"), adjusted=True)
        assert only["close"].tolist() == pytest.approx([98.0])

    def test_the_view_the_function_and_the_domain_agree(self, fresh_database: Database) -> None:
        sessions = pd.bdate_range("2024-01-01", periods=300).strftime("%Y-%m-%d")
        bars = consensus(*(("AAPL", session, 100.0 + index % 17) for index, session in enumerate(sessions)))
        actions = [
            dividend(sessions[0], 1.0),
            split(sessions[40], 2.0),
            dividend(sessions[40], 0.5),
            dividend(sessions[120], 0.7),
            split(sessions[121], 0.25),
            dividend("2024-12-28", 3.0),
        ]
        with fresh_database.connection() as connection:
            store(connection, bars, *actions)
            now = read_prices(connection, "us", ["AAPL"], adjusted=True)
            then = read_prices(connection, "us", ["AAPL"], adjusted=True, as_of=KNOWN)
        ours = adjust(bars, actions)
        for column in ("open", "high", "low", "close", "volume"):
            assert now[column].tolist() == pytest.approx(ours[column].tolist(), rel=1e-12)
            assert then[column].tolist() == pytest.approx(ours[column].tolist(), rel=1e-12)


class TestAsOf:
    def test_a_revision_shows_the_old_row_before_and_the_new_one_after(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            write_prices(connection, consensus(("AAPL", "2026-03-02", 200.0)), KNOWN)
            write_prices(connection, consensus(("AAPL", "2026-03-02", 201.0)), LATER)

            def known(at: datetime) -> list[float]:
                return read_prices(connection, "us", ["AAPL"], as_of=at)["close"].tolist()

            assert known(KNOWN - MOMENT) == []
            assert known(KNOWN) == [200.0]
            assert known(LATER - MOMENT) == [200.0]
            assert known(LATER) == [201.0]
            assert read_prices(connection, "us", ["AAPL"])["close"].tolist() == [201.0]

    def test_a_removed_row_was_there_until_it_was_removed_and_may_come_back(self, fresh_database: Database) -> None:
        row = consensus(("AAPL", "2026-03-02", 200.0))
        with fresh_database.connection() as connection:
            write_prices(connection, row, KNOWN)
            replace_prices(
                connection,
                consensus(),
                LATER,
                market="us",
                symbols=["AAPL"],
                start=day("2026-03-02"),
                end=day("2026-03-02"),
            )
            write_prices(connection, row, LATEST)
            counts = [len(read_prices(connection, "us", as_of=at)) for at in (KNOWN, LATER - MOMENT, LATER, LATEST)]
        assert counts == [1, 1, 0, 1]

    def test_an_instant_between_many_versions_gives_exactly_one(self, fresh_database: Database) -> None:
        instants = [KNOWN + timedelta(hours=hour) for hour in range(6)]
        with fresh_database.connection() as connection:
            for number, at in enumerate(instants):
                write_prices(connection, consensus(("AAPL", "2026-03-02", 200.0 + number)), at)
            seen = [read_prices(connection, "us", as_of=at)["close"].tolist() for at in instants]
            assert len(read_revisions(connection, "us", ["AAPL"])) == 5
        assert seen == [[200.0 + number] for number in range(6)]

    def test_actions_are_known_from_when_they_were_told(self, fresh_database: Database) -> None:
        bars = consensus(("AAPL", "2026-03-02", 400.0), ("AAPL", "2026-03-03", 100.0))
        with fresh_database.connection() as connection:
            write_prices(connection, bars, KNOWN)
            write_actions(connection, "us", [split("2026-03-03", 2.0)], "yahoo", LATER)
            write_actions(connection, "us", [split("2026-03-03", 4.0)], "yahoo", LATEST)
            seen = [closes(connection, as_of=at) for at in (KNOWN, LATER, LATEST)]
        assert seen == [[400.0, 100.0], [200.0, 100.0], [100.0, 100.0]]

    def test_a_dividend_uses_the_close_that_was_known_then(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            store(
                connection,
                consensus(("AAPL", "2026-02-26", 50.0), ("AAPL", "2026-02-27", 100.0)),
                dividend("2026-03-02", 10.0),
            )
            write_prices(connection, consensus(("AAPL", "2026-02-27", 200.0)), LATER)
            assert closes(connection, as_of=KNOWN) == pytest.approx([45.0, 90.0])
            assert closes(connection, as_of=LATER) == pytest.approx([47.5, 190.0])

    def test_indices_are_read_as_of_too(self, fresh_database: Database) -> None:
        with fresh_database.connection() as connection:
            write_prices(connection, consensus(("^SPX", "2026-03-02", 6000.0)), KNOWN, table=INDICES)
            write_prices(connection, consensus(("^SPX", "2026-03-02", 6001.0)), LATER, table=INDICES)
            old = read_prices(connection, "us", as_of=KNOWN, table=INDICES, adjusted=True)
            assert read_prices(connection, "us", as_of=KNOWN).empty
        assert old["close"].tolist() == [6000.0]

    def test_an_instant_without_a_zone_is_refused(self, database: Database) -> None:
        with database.connection() as connection, pytest.raises(ValueError, match="time zone"):
            read_prices(connection, "us", as_of=datetime(2026, 3, 2))  # noqa: DTZ001 - that is the point


def test_a_range_is_inclusive_and_ordered_by_symbol_and_session(fresh_database: Database) -> None:
    bars = consensus(*((symbol, f"2026-03-0{number}", 10.0) for number in (4, 2, 3, 5) for symbol in ("B", "A", "C")))
    with fresh_database.connection() as connection:
        write_prices(connection, bars, KNOWN)
        found = read_prices(connection, "us", ["B", "A"], day("2026-03-03"), day("2026-03-04"))
    assert list(zip(found["symbol"], found["session"].dt.day, strict=True)) == [("A", 3), ("A", 4), ("B", 3), ("B", 4)]


def test_nothing_stored_reads_as_an_empty_table_of_the_same_shape(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        nothing = read_prices(connection, "us", ["AAPL"])
        write_prices(connection, consensus(("AAPL", "2026-03-02", 200.0)), KNOWN + timedelta(microseconds=123_456))
        one = read_prices(connection, "us", ["AAPL"], as_of=LATER)
    assert nothing.empty
    assert nothing.dtypes.to_dict() == one.dtypes.to_dict()
    assert one["ingested_at"].tolist() == [KNOWN + timedelta(microseconds=123_456)]
    assert one["as_of"].tolist() == [LATER]
    assert one["session"].dtype == "datetime64[s]"


def test_symbols_with_quotes_and_commas_survive(fresh_database: Database) -> None:
    odd = "A\",\n'; DROP TABLE market.stocks; --"
    with fresh_database.connection() as connection:
        write_prices(connection, consensus((odd, "2026-03-02", 1.0)), KNOWN)
        write_prices(connection, consensus((odd, "2026-03-02", 2.0)), LATER)
        assert read_prices(connection, "us", [odd])["symbol"].tolist() == [odd]
        assert latest_sessions(connection, "us") == {odd: day("2026-03-02")}


def test_the_newest_session_of_every_symbol(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        assert latest_sessions(connection, "us") == {}
        bars = consensus(("A", "2026-03-02", 1.0), ("A", "2026-03-03", 1.0), ("B", "2026-02-27", 1.0))
        write_prices(connection, bars, KNOWN)
        write_prices(connection, consensus(("C", "2026-03-04", 1.0), market="pl"), KNOWN)
        assert latest_sessions(connection, "us") == {"A": day("2026-03-03"), "B": day("2026-02-27")}


def test_the_last_close_before_a_date(fresh_database: Database) -> None:
    bars = consensus(("A", "2026-03-02", 1.0), ("A", "2026-03-03", 2.0), ("A", "2026-03-04", 3.0))
    with fresh_database.connection() as connection:
        write_prices(connection, bars, KNOWN)
        found = previous_closes(connection, "us", ["A", "B"], day("2026-03-04"))
        assert previous_closes(connection, "us", ["A"], day("2026-03-02")) == {}
    assert found == {"A": (day("2026-03-03"), 2.0)}


def test_symbols_that_have_provider_bars_on_a_basis(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        write_provider_bars(connection, provider_bars(("A", "2026-03-02", 1.0)), KNOWN)
        adjusted = provider_bars(("B", "2026-03-02", 1.0), provider="stooq").assign(basis="split_dividend")
        write_provider_bars(connection, adjusted, KNOWN)
        assert symbols_with_basis(connection, "us", ["A", "B", "C"], "traded") == {"A"}
        assert symbols_with_basis(connection, "us", ["A", "B", "C"], "split_dividend") == {"B"}
        assert symbols_with_basis(connection, "pl", ["A", "B"], "traded") == set()


def test_the_contract_view_and_function_are_there_for_other_tools(fresh_database: Database) -> None:
    with fresh_database.connection() as connection:
        store(
            connection, consensus(("AAPL", "2026-01-05", 400.0), ("AAPL", "2026-01-06", 99.0)), split("2026-01-06", 4.0)
        )
        view = connection.execute("SELECT close FROM market.stock_prices_adjusted ORDER BY session").fetchall()
        as_of = connection.execute(
            "SELECT count(*) FROM market.stock_prices_as_of(%s)", (datetime(2026, 1, 1, tzinfo=UTC),)
        ).fetchone()
    assert view == [(100.0,), (99.0,)]
    assert as_of == (0,)
