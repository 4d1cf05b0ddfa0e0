"""The archive as the source of truth: what was lost or misread comes back from the kept answers, with no network."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import NoReturn

import pytest

from market_pipelines import redaction
from market_pipelines.pipeline.refresh import instruments_of
from market_pipelines.pipeline.reparse import ReparseReport, reparse
from market_pipelines.providers.http import HttpClient
from market_pipelines.providers.protocol import Call
from market_pipelines.settings import Settings
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.archive import ArchiveMissing
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.faults.house import (
    CONTENTS,
    REVISION_CONTENTS,
    THURSDAY_EVENING,
    Contents,
    House,
    contents,
    opened_house,
)

SYMBOLS = ["AAPL", "MSFT", "SIMH", "KO", "^SPX"]
A_YEAR = date(2020, 1, 2), date(2020, 12, 31)
CORRECTED = date(2020, 3, 2)
LOST = (
    "provider_bars",
    "stock_prices",
    "market_index_prices",
    "bar_revisions",
    "coverage",
    "corporate_actions",
    "actions_known",
    "quarantine",
)
REBUILT = {name: columns for name, columns in (CONTENTS | REVISION_CONTENTS).items() if name in LOST}
KNOWN_SINCE = {
    "stock_prices": "symbol, session, ingested_at",
    "bar_revisions": "symbol, session, known_from, known_to",
}


@pytest.fixture
def house(postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """A house with a past: a year twice with a correction in between, a bad row, and a provider that fell out."""
    for variable in Settings.model_fields:
        monkeypatch.delenv(variable.upper(), raising=False)
    monkeypatch.setattr(redaction, "_known", ())
    monkeypatch.chdir(tmp_path)
    url = postgres_server.create()
    with Simulator() as simulator, opened_house(tmp_path / "home", url, simulator) as opened:
        simulator.faults.add("yahoo.negative_price=2020-06-01@MSFT")
        opened.refresh(SYMBOLS, *A_YEAR)
        opened.clock.set(THURSDAY_EVENING + timedelta(days=1))
        simulator.faults.add(f"yahoo.correction=AAPL:{CORRECTED}:+0.5%")
        opened.refresh(SYMBOLS, *A_YEAR)
        opened.clock.set(THURSDAY_EVENING + timedelta(days=4))
        simulator.faults.add("yahoo.body=html@KO")
        opened.refresh(["KO", "AAPL"], date(2020, 12, 1), date(2021, 1, 29))
        yield opened
    postgres_server.drop(url)


@pytest.fixture
def no_network(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the end of the past on."""

    def refuse(_client: HttpClient, call: Call) -> NoReturn:
        raise AssertionError(f"{call.provider} was asked")

    monkeypatch.setattr(HttpClient, "get", refuse)


def rebuild(house: House) -> ReparseReport:
    market = house.platform.market("us")
    return reparse(house.platform, market, instruments_of(market, SYMBOLS))


def everything(house: House) -> Contents:
    with house.platform.database.connection() as connection:
        return contents(connection, REBUILT)


def known_since(house: House) -> Contents:
    with house.platform.database.connection() as connection:
        return contents(connection, KNOWN_SINCE)


def lose(house: House, *tables: str) -> None:
    with house.platform.database.connection() as connection:
        for table in tables:
            connection.execute(f"TRUNCATE market.{table}".encode())


@pytest.mark.usefixtures("no_network")
def test_lost_tables_come_back_as_they_were(house: House) -> None:
    before = everything(house)
    assert all(before.values()), "each of these tables has to hold something for this to mean anything"
    lose(house, *LOST)
    report = rebuild(house)
    assert report.runs == 3
    assert report.counts.revised == 1, "the correction is found again"
    assert everything(house) == before


@pytest.mark.usefixtures("no_network")
def test_what_was_known_when_comes_back_too(house: House) -> None:
    before = known_since(house)
    lose(house, *LOST)
    rebuild(house)
    assert known_since(house) == before


@pytest.mark.usefixtures("no_network")
def test_over_tables_that_are_there_a_reparse_changes_nothing(house: House) -> None:
    before, since = everything(house), known_since(house)
    first = rebuild(house)
    assert everything(house) == before
    second = rebuild(house)
    assert (everything(house), known_since(house)) == (before, since)
    for report in (first, second):
        assert (report.counts.inserted, report.counts.revised, report.counts.removed) == (0, 0, 0)


@pytest.mark.usefixtures("no_network")
def test_only_what_is_lost_is_put_back(house: House) -> None:
    before = everything(house)
    with house.platform.database.connection() as connection:
        connection.execute("DELETE FROM market.provider_bars WHERE symbol = 'KO'")
        connection.execute("DELETE FROM market.coverage WHERE symbol = 'KO'")
        connection.execute("DELETE FROM market.corporate_actions WHERE symbol = 'KO'")
    rebuild(house)
    assert everything(house) == before


@pytest.mark.usefixtures("no_network")
def test_a_missing_answer_is_named_and_nothing_is_half_rebuilt(house: House) -> None:
    before = everything(house)
    ((sha256,),) = house.rows(
        "SELECT sha256 FROM market.fetches WHERE symbol = 'KO' AND outcome = 'ok' ORDER BY fetch_id LIMIT 1"
    )
    house.archive.path(sha256).unlink()
    with pytest.raises(ArchiveMissing, match=sha256):
        rebuild(house)
    assert everything(house) == before
