"""The commands about providers, files, ticks and corrections, as somebody types them, against the simulator."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from market_pipelines.simulator.server import Simulator
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.integration.test_commands import Desk

pytestmark = pytest.mark.usefixtures("nothing_of_a_command_stays_behind")


@pytest.fixture
def desk(postgres_server: PostgresServer, simulator: Simulator, tmp_path: Path) -> Iterator[Desk]:
    simulator.faults.clear()
    simulator.requests.clear()
    url = postgres_server.create()
    yield Desk(tmp_path / "home", url, simulator)
    postgres_server.drop(url)


def test_a_provider_is_asked_one_small_question_of_each_kind(desk: Desk) -> None:
    ended = desk.run("provider", "check", "massive", "--all", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["provider"] == "polygon"
    assert len(ended.json["checks"]) == 14
    assert {(one["outcome"], one["rows"] > 0) for one in ended.json["checks"]} == {("ok", True)}


def test_a_provider_that_refuses_some_is_partial_and_one_that_refuses_all_is_not_authorised(desk: Desk) -> None:
    desk.simulator.faults.add("alpha_vantage.sold=TIME_SERIES_INTRADAY")
    some = desk.run("provider", "check", "alpha_vantage", "--capability", "daily", "--capability", "intraday", "--json")
    assert (some.code, [one["outcome"] for one in some.json["checks"]]) == (3, ["ok", "not_entitled"])
    desk.simulator.faults.replace(["polygon.body=unknown_key"])
    assert desk.run("provider", "check", "polygon").code == 4


def test_a_retired_service_answers_nothing_until_it_is_served(desk: Desk) -> None:
    assert desk.run("provider", "check", "iex").code == 3
    desk.simulator.faults.add("iex_cloud.serving=on")
    assert desk.run("provider", "check", "iex", "--all").code == 0


def test_without_a_server_of_ones_own_the_retired_service_is_not_asked(desk: Desk) -> None:
    live = replace(desk, more={"MARKET_PIPELINES_SIMULATOR": "off", "IEX_CLOUD_BASE_URL": ""})
    ended = live.run("provider", "check", "iex", "--json")
    (checked,) = ended.json["checks"]
    assert (ended.code, checked["outcome"], checked["requests"]) == (4, "retired", 0)
    assert desk.simulator.requests.count("iex_cloud") == 0


def test_what_a_provider_does_not_offer_is_said_with_its_name(desk: Desk) -> None:
    ended = desk.run("provider", "check", "stooq", "--capability", "options")
    assert (ended.code, "stooq offers no options" in ended.err) == (2, True)


def test_a_body_in_a_file_is_read_as_everything_or_as_one_thing(desk: Desk, tmp_path: Path) -> None:
    body = tmp_path / "body.csv"
    body.write_bytes(b"Date,Open,High,Low,Close,Volume\r\n2026-11-19,100,102,99,101,1000\r\n")
    ended = desk.run("provider", "read", "stooq", str(body), "--symbol", "AAPL", "--json")
    assert ended.code == 0
    assert {name: one["outcome"] for name, one in ended.json.items()} == {
        "daily": "ok",
        "intraday": "malformed",
        "quote": "malformed",
        "bulk_quotes": "malformed",
    }
    assert ended.json["daily"]["bars"][0]["close"] == 101.0
    body.write_bytes(b"Exceeded the daily hits limit")
    refused = desk.run("provider", "read", "stooq", str(body), "--as", "daily", "--json")
    assert (refused.code, refused.json["daily"]["outcome"]) == (3, "quota_exhausted")


def test_bars_within_sessions_are_pulled_filled_and_read(desk: Desk) -> None:
    range_ = ("--from", "2026-11-16", "--to", "2026-11-17")
    pulled = desk.run("pull", "AAPL", "--interval", "5min", *range_, "--json")
    assert pulled.code == 0, pulled.err
    assert (pulled.json["interval"], pulled.json["symbols"][0]["outcome"]) == ("5min", "ok")
    hours = desk.run("bars", "AAPL", "--interval", "60min", *range_, "--json").json
    regular = [bar for bar in hours if bar["phase"] == "regular"]
    assert regular[0]["ts"] == "2026-11-16T14:30:00Z"
    assert len(regular) == 14
    filled = desk.run("backfill", "--market", "us", *range_, "--interval", "5min", "--symbols", "AAPL,KO", "--json")
    assert (filled.json["skipped"], [one["symbol"] for one in filled.json["symbols"]]) == (["AAPL"], ["KO"])


def test_ticks_are_fetched_kept_and_read_again_without_asking(desk: Desk) -> None:
    span = ("--from", "2026-11-17T09:30:00-05:00", "--to", "2026-11-17T09:31:00-05:00")
    assert desk.run("ticks", "AAPL", *span).code == 1
    pulled = desk.run("ticks", "AAPL", *span, "--pull", "--json")
    assert pulled.code == 0, pulled.err
    assert {tick["symbol"] for tick in pulled.json} == {"AAPL"}
    asked = desk.simulator.requests.count()
    again = desk.run("ticks", "AAPL", *span, "--json")
    assert again.json == pulled.json
    assert desk.simulator.requests.count() == asked


def test_a_file_goes_to_the_live_tables_and_only_once(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "2026-11-17.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write("ticker,volume,open,close,high,low,window_start,transactions\n")
        file.write("AAPL,4930,200.29,200.5,200.63,200.19,1794891600000000000,129\n")
    first = desk.run("import", "massive-flat", str(path), "--json")
    assert first.code == 0, first.err
    assert (first.json["rows"], first.json["stored"], first.json["symbols"]) == (1, 1, ["AAPL"])
    assert "MARKET_PIPELINES_SIMULATOR=off" in first.err
    assert desk.run("import", "massive-flat", str(path), "--json").json["complete"]
    with psycopg.connect(desk.url) as connection:
        assert connection.execute("SELECT session::text, close, provider FROM market.stock_prices").fetchall() == [
            ("2026-11-17", 200.5, "polygon")
        ]
    path.write_bytes(b"<html>not found</html>\n")
    refused = desk.run("import", "massive-flat", str(path))
    assert (refused.code, "not the header of a flat file" in refused.err) == (1, True)


def test_a_large_correction_waits_for_the_command_that_accepts_it(desk: Desk) -> None:
    day = ("--from", "2026-11-17", "--to", "2026-11-17")
    desk.run("pull", "AAPL", *day)
    before = desk.run("bars", "AAPL", *day, "--json").json[0]["close"]
    desk.simulator.faults.add("yahoo.correction=AAPL:2026-11-17:+9%")
    desk.run("pull", "AAPL", *day)
    (held,) = desk.run("corrections", "list", "--json").json
    assert (held["symbol"], held["old_close"], held["status"]) == ("AAPL", before, "held")
    assert desk.run("corrections", "accept", str(held["held_id"])).code == 0
    assert desk.run("bars", "AAPL", *day, "--json").json[0]["close"] == pytest.approx(before * 1.09, rel=1e-4)
    assert desk.run("corrections", "reject", str(held["held_id"])).code == 1
    assert desk.run("corrections", "list", "--json").json == []
