"""`market-pipelines repair` as a person and a script use it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from market_pipelines import redaction
from market_pipelines.cli.main import app
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.settings import Settings
from market_pipelines.simulator.server import Simulator
from market_pipelines_tests import process_state
from market_pipelines_tests.conftest import PostgresServer

SYMBOLS = "PKN,PKO,KGH,PZU,CDR,LPP"


class Desk:
    def __init__(self, home: Path, url: str, simulator: Simulator) -> None:
        self.url, self.simulator = url, simulator
        self._environment = {
            "MARKET_PIPELINES_HOME": str(home),
            "MARKET_PIPELINES_SIMULATOR": "on",
            "DATABASE_URL": url,
            "LOG_LEVEL": "WARNING",
            **simulator.base_urls(),
        }

    def run(self, *words: str) -> Any:
        with process_state.logs_as_they_were():
            return CliRunner().invoke(app, list(words), env=self._environment)

    def json(self, *words: str) -> Any:
        ended = self.run(*words, "--json")
        assert ended.exit_code == 0, ended.stderr
        return json.loads(ended.stdout)

    def two_hours_pass(self) -> None:
        with psycopg.connect(self.url) as connection:
            connection.execute(
                "UPDATE market.holes SET first_seen = first_seen - interval '2 hours', "
                "next_ask = next_ask - interval '2 hours'"
            )


@pytest.fixture
def desk(postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    for variable in Settings.model_fields:
        monkeypatch.delenv(variable.upper(), raising=False)
    monkeypatch.setattr(redaction, "_known", ())
    monkeypatch.chdir(tmp_path)
    url = postgres_server.create()
    with Simulator() as simulator:
        yield Desk(tmp_path / "home", url, simulator)
    postgres_server.drop(url)


@pytest.fixture
def session() -> date:
    """A recent one of Warsaw, with sessions after it."""
    calendar = trading_calendar("XWAR")
    today = datetime.now(UTC).date()
    return calendar.sessions(today - timedelta(days=60), today)[-8]


@pytest.fixture
def holed(desk: Desk, session: date) -> Desk:
    faults = [f"{provider}.missing_rows={session}@KGH" for provider in ("yahoo", "stooq")]
    desk.simulator.faults.replace(faults)
    ended = desk.run("backfill", "--market", "pl", "--from", str(session - timedelta(days=14)), "--symbols", SYMBOLS)
    assert ended.exit_code == 0, ended.stderr
    desk.simulator.faults.clear()
    return desk


def test_a_hole_is_listed_planned_and_filled(holed: Desk, session: date) -> None:
    (market,) = holed.json("repair", "list", "--market", "pl")
    (hole,) = market["holes"]
    assert (hole["symbol"], hole["session"], hole["interval"]) == ("KGH", str(session), "1d")
    assert (hole["state"], hole["times_asked"], market["due"]) == ("waits", 1, 0)

    holed.two_hours_pass()
    holed.simulator.requests.clear()
    (planned,) = holed.json("repair", "run", "--market", "pl", "--dry-run")
    assert planned["planned"] == [{"interval": "1d", "symbol": "KGH", "sessions": [str(session)]}]
    assert holed.simulator.requests.count() == 0
    (done,) = holed.json("repair", "run", "--market", "pl", "--budget", "3")
    assert [(one["symbol"], one["healed"]) for one in done["asked"]] == [("KGH", [str(session)])]
    assert (done["budget"], done["healed"], done["requests"]) == (3, 1, 1)
    assert holed.json("repair", "list", "--market", "pl")[0]["holes"] == []


def test_the_table_and_the_sentence_say_the_same(holed: Desk, session: date) -> None:
    listed = holed.run("repair", "list")
    assert listed.exit_code == 0
    assert f"KGH     {session}  waits" in listed.stdout
    assert "pl, " in listed.stderr
    assert ": 1 holes, 0 sessions that much of the market lacks; 0 symbols are due" in listed.stderr
    ended = holed.run("repair", "run", "--market", "pl")
    assert "0 of 0 due symbols were asked for" in ended.stderr


def test_a_closure_is_declared_shown_and_taken_back(holed: Desk, session: date) -> None:
    words = ("repair", "closure", "--market", "pl", "--session", str(session))
    assert holed.json(*words, "--note", "snow") == {
        "market": "pl",
        "session": str(session),
        "closed": True,
        "changed": True,
    }
    (market,) = holed.json("repair", "list", "--market", "pl")
    assert market["holes"] == []
    assert [(one["session"], one["note"]) for one in market["closures"]] == [(str(session), "snow")]
    assert holed.json(*words)["changed"] is False
    assert holed.run(*words, "--undo").exit_code == 0
    assert [one["symbol"] for one in holed.json("repair", "list", "--market", "pl")[0]["holes"]] == ["KGH"]
    again = holed.run(*words, "--undo")
    assert again.exit_code == 1
    assert "nobody has said" in again.stderr


def test_a_closure_on_a_weekend_is_a_usage_error(desk: Desk) -> None:
    ended = desk.run("repair", "closure", "--market", "pl", "--session", "2026-11-01")
    assert ended.exit_code == 2
    assert "2026-11-01 is no session of XWAR" in ended.stderr


def test_providers_that_do_not_answer_end_it_with_code_three(holed: Desk) -> None:
    holed.two_hours_pass()
    holed.simulator.faults.replace(["yahoo.status=503", "stooq.status=503"])
    ended = holed.run("repair", "run", "--market", "pl")
    assert ended.exit_code == 3
    assert "It ended early: nobody answers" in ended.stderr
