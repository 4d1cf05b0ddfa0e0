"""The commands about companies and exchanges, as somebody types them, against the simulator."""

from __future__ import annotations

from collections.abc import Iterator
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


def test_a_quote_is_shown_and_kept(desk: Desk) -> None:
    ended = desk.run("quote", "aapl,msft", "--json")
    assert ended.code == 0
    lines = {line["symbol"]: line for line in ended.json["symbols"]}
    assert lines.keys() == {"AAPL", "MSFT"}
    assert lines["AAPL"]["outcome"] == "ok"
    assert lines["AAPL"]["provider"] == "simulated-yahoo"
    assert lines["AAPL"]["currency"] == "USD"
    assert lines["AAPL"]["price"] > 0
    change = lines["AAPL"]["price"] - lines["AAPL"]["previous_close"]
    assert lines["AAPL"]["change"] == pytest.approx(change)
    assert lines["AAPL"]["change_percent"] == pytest.approx(100 * change / lines["AAPL"]["previous_close"])
    with psycopg.connect(desk.url) as connection:
        stored = connection.execute("SELECT symbol, price FROM market.latest_quotes ORDER BY symbol").fetchall()
    assert stored == [(symbol, lines[symbol]["price"]) for symbol in ("AAPL", "MSFT")]


def test_a_symbol_that_nobody_knows_makes_the_answer_partial(desk: Desk) -> None:
    ended = desk.run("quote", "AAPL", "NOPE")
    assert ended.code == 3
    assert "unknown_symbol" in ended.out


def test_quotes_of_another_market_are_in_its_currency(desk: Desk) -> None:
    (line,) = desk.run("quote", "PKO", "--market", "pl", "--json").json["symbols"]
    assert (line["outcome"], line["currency"]) == ("ok", "PLN")


def test_a_provider_that_is_down_is_made_up_for_by_another(desk: Desk) -> None:
    desk.simulator.faults.replace(["yahoo.status=503"])
    (line,) = desk.run("quote", "AAPL", "--json").json["symbols"]
    assert line["outcome"] == "ok"
    assert line["provider"] != "simulated-yahoo"


def test_a_chosen_provider_is_the_only_one_asked(desk: Desk) -> None:
    (line,) = desk.run("quote", "AAPL", "--provider", "alpha_vantage", "--json").json["symbols"]
    assert line["provider"] == "simulated-alpha_vantage"
    refused = desk.run("quote", "AAPL", "--provider", "bloomberg")
    assert refused.code == 2
    assert "'bloomberg' is not known; accepted: alpha_vantage" in " ".join(refused.err.split())


def test_a_profile_is_shown_and_kept(desk: Desk) -> None:
    ended = desk.run("profile", "AAPL", "^SPX", "--json")
    assert ended.code == 0
    (line,) = ended.json["symbols"]
    assert (line["symbol"], line["outcome"], line["profile"]["name"]) == ("AAPL", "ok", "Apple Inc.")
    assert "^SPX: an index has no profile" in ended.err
    shown = desk.run("profile", "AAPL")
    assert "Apple Inc." in shown.out
    assert "sector" in shown.out


def test_actions_of_all_providers_are_shown_as_one(desk: Desk) -> None:
    ended = desk.run("actions", "AAPL", "--from", "2020-01-02", "--json")
    assert ended.code == 0
    (line,) = ended.json["symbols"]
    assert {said["provider"]: said["outcome"] for said in line["providers"]} == {
        "simulated-yahoo": "ok",
        "simulated-alpha_vantage": "ok",
        "simulated-polygon": "ok",
    }
    assert {"ex_date": "2020-08-31", "kind": "split", "value": 4.0} in line["actions"]
    assert line["flags"] == []
    table = desk.run("actions", "AAPL", "--from", "2020-01-02")
    assert "2020-08-31" in table.out


def test_the_list_of_an_exchange_is_synced_and_then_only_read(desk: Desk) -> None:
    synced = desk.run("listings", "--sync", "--json")
    assert synced.code == 0
    assert synced.json["sync"]["outcome"] == "ok"
    assert synced.json["sync"]["new"] > 50
    assert synced.json["sync"]["held"] == ""
    asked = desk.simulator.requests.count()
    listed = desk.run("listings", "--json").json
    assert len(listed["listings"]) > 50
    assert desk.simulator.requests.count() == asked
    one = desk.run("listings", "AAPL", "--json").json
    assert [period["symbol"] for period in one["history"]] == ["AAPL"]
    assert all(not line["active"] for line in desk.run("listings", "--delisted", "--json").json["listings"])


def test_a_symbol_that_no_list_has_is_said_to_be_unknown(desk: Desk) -> None:
    ended = desk.run("listings", "NOPE")
    assert ended.code == 1
    assert "NOPE: nothing is known; --sync asks for the list of the exchange" in ended.err


def test_a_search_shows_what_it_finds(desk: Desk) -> None:
    ended = desk.run("search", "microsoft", "--json")
    assert ended.code == 0
    assert "MSFT" in [match["native"] for match in ended.json["matches"]]


def test_a_market_whose_providers_do_not_tell_its_status_still_has_its_calendar(desk: Desk) -> None:
    ended = desk.run("market-status", "--market", "pl", "--json")
    assert ended.code == 0
    assert ended.json["calendar"]["mic"] == "XWAR"
    assert ended.json["venues"] == []


def test_the_next_holidays_are_shown(desk: Desk) -> None:
    ended = desk.run("market-status", "--upcoming", "--json")
    assert ended.code == 0
    assert {venue["status"] for venue in ended.json["venues"]} <= {"closed", "early_close", "open", "extended_hours"}
    assert ended.json["contradictions"] == []


def test_options_are_filtered_by_type(desk: Desk) -> None:
    ended = desk.run("options", "AAPL", "--type", "call", "--json")
    assert ended.code == 0
    assert {contract["right"] for contract in ended.json["contracts"]} == {"call"}
    assert desk.run("options", "AAPL,MSFT").code == 2
    assert desk.run("options", "AAPL", "--expires-from", "2026-02-02", "--expires-to", "2026-01-02").code == 2
    assert desk.run("options", "AAPL", "--type", "straddle").code == 2


def test_universes_are_listed_and_shown_as_of_a_day(desk: Desk) -> None:
    names = {line["universe"]: line for line in desk.run("universe", "list", "--json").json}
    assert names.keys() == {"sp500", "nasdaq100", "wig20", "mwig40", "swig80"}
    assert names["swig80"]["aliases"] == ["wig80"]
    assert names["swig80"]["size"] == 80
    shown = desk.run("universe", "show", "wig80", "--on", "2026-04-01", "--json").json
    assert (shown["universe"], len(shown["members"])) == ("swig80", 80)
    then = desk.run("universe", "show", "sp500", "--on", "2020-06-01", "--json").json
    assert "TWTR" in [member["symbol"] for member in then["members"]]


def test_a_day_that_a_universe_knows_nothing_of_is_no_empty_answer(desk: Desk) -> None:
    ended = desk.run("universe", "show", "wig20", "--on", "2023-06-01")
    assert ended.code == 1
    assert (
        "nothing is known of WIG20 on 2023-06-01; its list covers 2020-10-12 to 2020-12-18, since 2025-12-22"
        in ended.err
    )


def test_an_unknown_universe_is_refused_with_the_known_ones(desk: Desk) -> None:
    ended = desk.run("universe", "show", "dax40")
    assert ended.code == 2
    assert "there are mwig40, nasdaq100, sp500, swig80, wig20 (mw40 = mwig40, wig80 = swig80)" in ended.err
