"""What providers say differently: kept once, counted, resolved."""

from __future__ import annotations

import pandas as pd

from market_pipelines.market.consensus import DISAGREEMENT_COLUMNS, agree
from market_pipelines.store.database import Database, Transaction
from market_pipelines.store.disagreements import DisagreementCounts, read_disagreements, write_disagreements
from market_pipelines_tests.contract.store.frames import KNOWN, LATER, LATEST, day, provider_bars

MONDAY, TUESDAY = day("2026-03-02"), day("2026-03-03")


def apart(*rows: tuple[str, str, float]) -> pd.DataFrame:
    """Yahoo says a hundred, Stooq something else."""
    theirs = provider_bars(*rows, provider="stooq")
    ours = provider_bars(*((symbol, session, 100.0) for symbol, session, _ in rows))
    bars = pd.concat([ours, theirs], ignore_index=True).astype({"market": "str", "provider": "str", "basis": "str"})
    return agree(bars, ["yahoo", "stooq"]).disagreements


def write(connection: Transaction, frame: pd.DataFrame, at: object = KNOWN, *symbols: str) -> DisagreementCounts:
    wanted = symbols or ("AAPL", "MSFT")
    return write_disagreements(connection, frame, "us", wanted, MONDAY, TUESDAY, at=at, run_id="run")  # type: ignore[arg-type]


def test_a_disagreement_is_stored_once_and_counted(fresh_database: Database) -> None:
    frame = apart(("AAPL", "2026-03-02", 101.0))
    assert list(frame.columns) == list(DISAGREEMENT_COLUMNS)
    with fresh_database.connection() as connection:
        assert write(connection, frame) == DisagreementCounts(standing=1, new=1, resolved=0)
        assert write(connection, apart(("AAPL", "2026-03-02", 102.0)), LATER) == DisagreementCounts(1, 0, 0)
        found = read_disagreements(connection, "us").iloc[0]
    assert (found["provider"], found["other"], found["close"], found["other_close"]) == ("yahoo", "stooq", 100, 102)
    assert (found["times_seen"], found["first_seen"], found["last_seen"]) == (2, KNOWN, LATER)
    assert (found["kind"], found["tolerance_bp"], found["run_id"]) == ("same", 10, "run")
    assert pd.isna(found["resolved_at"])


def test_it_is_resolved_when_it_is_gone_and_opened_when_it_comes_back(fresh_database: Database) -> None:
    frame = apart(("AAPL", "2026-03-02", 101.0), ("MSFT", "2026-03-03", 101.0))
    with fresh_database.connection() as connection:
        write(connection, frame)
        assert write(connection, frame.iloc[1:], LATER) == DisagreementCounts(standing=1, new=0, resolved=1)
        assert read_disagreements(connection)["symbol"].tolist() == ["MSFT"]
        everything = read_disagreements(connection, unresolved=False).set_index("symbol")
        assert everything.loc["AAPL", "resolved_at"] == LATER
        assert write(connection, frame, LATEST) == DisagreementCounts(standing=2, new=0, resolved=0)
        assert set(read_disagreements(connection)["times_seen"]) == {2, 3}


def test_what_was_not_looked_at_is_not_resolved(fresh_database: Database) -> None:
    frame = apart(("AAPL", "2026-03-02", 101.0), ("MSFT", "2026-03-02", 101.0))
    nothing = frame.iloc[:0]
    with fresh_database.connection() as connection:
        write(connection, frame)
        assert write(connection, nothing, LATER, "MSFT").resolved == 1
        elsewhere = write_disagreements(connection, nothing, "us", ["AAPL"], TUESDAY, TUESDAY, at=LATER, run_id=None)
        other_market = write_disagreements(connection, nothing, "pl", ["AAPL"], MONDAY, TUESDAY, at=LATER, run_id=None)
        assert (elsewhere.resolved, other_market.resolved) == (0, 0)
        assert read_disagreements(connection)["symbol"].tolist() == ["AAPL"]


def test_filters_and_order(fresh_database: Database) -> None:
    frame = apart(("AAPL", "2026-03-02", 101.0), ("MSFT", "2026-03-02", 103.0), ("MSFT", "2026-03-03", 101.0))
    with fresh_database.connection() as connection:
        write(connection, frame)

        def found(**filters: object) -> list[tuple[str, float]]:
            rows = read_disagreements(connection, **filters)  # type: ignore[arg-type]
            return list(zip(rows["symbol"], rows["other_close"], strict=True))

        assert found() == [("MSFT", 101), ("MSFT", 103), ("AAPL", 101)]
        assert found(symbols=["AAPL"]) == found(end=MONDAY)[1:] == [("AAPL", 101)]
        assert found(start=TUESDAY) == found(limit=1) == [("MSFT", 101)]
        assert found(market="pl") == []
