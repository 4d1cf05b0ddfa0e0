"""Decisions about quarantined rows, from the refused answer to the agreed bar and back."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from market_pipelines.cli.main import app
from market_pipelines.pipeline.corrections import settle_correction
from market_pipelines.pipeline.intraday import refresh_intraday
from market_pipelines.pipeline.quarantine import Ruling, drop, release, reopen
from market_pipelines.pipeline.refresh import instruments_of
from market_pipelines.store.audit import audit_entries
from market_pipelines.store.corrections import held
from market_pipelines.store.quarantine import open_rows, quarantine_rows, read_quarantine
from market_pipelines.store.read_bars import read_provider_bars
from market_pipelines_tests import process_state
from market_pipelines_tests.faults.house import House

pytestmark = pytest.mark.usefixtures("settings_of_this_machine_are_out_of_sight")

WEEK = date(2025, 6, 9), date(2025, 6, 12)
DAY = date(2025, 6, 11)


def open_ids(house: House) -> list[int]:
    with house.platform.database.connection() as connection:
        return [int(number) for number in open_rows(connection)["quarantine_id"]]


def below_zero(house: House, *symbols: str) -> list[int]:
    """Yahoo alone, whose low of a day is below zero: the rows that this leaves in quarantine."""
    house.simulator.faults.add(f"yahoo.negative_price={DAY}")
    house.refresh(symbols or ["AAPL"], *WEEK, providers=["yahoo"])
    return open_ids(house)


def again(house: House, *symbols: str, hours: int = 1) -> None:
    house.clock.set(house.clock() + timedelta(hours=hours))
    house.refresh(symbols or ["AAPL"], *WEEK, providers=["yahoo"])


def agreed(house: House, symbol: str = "AAPL", table: str = "stock_prices") -> dict[str, Any] | None:
    found = house.prices(symbol, table)
    return {str(name): value for name, value in found.loc[DAY].items()} if DAY in found.index else None


def condition(house: House, symbol: str = "AAPL", interval: str = "1d") -> str:
    ((found,),) = house.rows(
        "SELECT condition FROM market.coverage WHERE symbol = %(symbol)s AND session = %(day)s AND interval = %(of)s",
        {"symbol": symbol, "day": DAY, "of": interval},
    )
    return str(found)


def actions(house: House) -> list[tuple[str, str, str]]:
    with house.platform.database.connection() as connection:
        return [(entry.actor, entry.action, entry.subject) for entry in audit_entries(connection)][::-1]


def only(rulings: tuple[Ruling, ...]) -> Ruling:
    (ruling,) = rulings
    return ruling


# --- release ------------------------------------------------------------------------------------------------


def test_a_released_row_becomes_the_agreed_bar_by_the_way_of_every_other(house: House) -> None:
    (number,) = below_zero(house)
    assert agreed(house) is None
    assert condition(house) == "missing"
    ruling = only(release(house.platform, [number], user="ann", reason="the exchange says so"))
    bar = agreed(house)
    assert ruling.done, ruling.said
    assert bar is not None
    assert (bar["provider"], bar["low"] < 0, bar["condition"]) == ("simulated-yahoo", True, "available")
    assert ruling.said == f"AAPL {DAY} by simulated-yahoo is the agreed bar, with a close of {bar['close']:g}"
    assert condition(house) == "available"
    with house.platform.database.connection() as connection:
        kept = read_provider_bars(connection, "us", ["AAPL"], DAY, DAY)
    assert kept[["provider", "basis"]].to_numpy().tolist() == [["simulated-yahoo", "traded"]]
    assert actions(house) == [("ann", "quarantine.release", f"quarantine/{number}")]
    assert open_ids(house) == []


def test_the_same_values_pass_when_they_come_again_and_nothing_changes(house: House) -> None:
    release(house.platform, below_zero(house))
    before = agreed(house)
    again(house)
    assert agreed(house) == before
    assert open_ids(house) == []
    assert house.rows("SELECT times_seen FROM market.quarantine") == [(1,)], "it is not refused any more"
    assert house.rows("SELECT count(*) FROM market.bar_revisions") == [(0,)]


def test_other_values_and_other_sessions_are_refused_as_ever(house: House) -> None:
    (number,) = below_zero(house)
    release(house.platform, [number])
    house.simulator.faults.replace([f"yahoo.negative_price={DAY - timedelta(days=1)}"])
    again(house)
    assert len(open_ids(house)) == 1
    house.simulator.faults.replace([f"yahoo.negative_price={DAY}", f"yahoo.correction=AAPL:{DAY}:+0.5%"])
    again(house)
    found = house.rows("SELECT session, decision FROM market.quarantine ORDER BY quarantine_id")
    assert found == [(DAY, "released"), (DAY - timedelta(days=1), None), (DAY, None)]


def test_a_rule_that_was_not_released_still_refuses_the_row_in_words(house: House) -> None:
    house.refresh(["AAPL"], *WEEK, providers=["yahoo"])
    with house.platform.database.connection() as connection:
        bars = read_provider_bars(connection, "us", ["AAPL"], DAY, DAY).assign(low=-1.0, volume=-5.0)
        for rule in ("positive_price", "volume"):
            bad = bars.assign(rule=rule, severity="block", detail="because")
            quarantine_rows(connection, bad, "us", "run", house.clock())
    volume, price = open_ids(house)
    before = agreed(house)
    ruling = only(release(house.platform, [price]))
    assert not ruling.done
    assert ruling.said == "not released: it still breaks volume (volume -5)"
    assert agreed(house) == before
    assert actions(house) == []
    assert [ruling.done for ruling in release(house.platform, [price, volume])] == [True, True]


def test_a_row_without_its_prices_cannot_be_a_bar(house: House) -> None:
    house.simulator.faults.add(f"alpha_vantage.high_below_low={DAY}")
    house.refresh(["AAPL"], *WEEK, providers=["alpha_vantage"])
    upside_down = open_ids(house)
    ruling = only(release(house.platform, upside_down))
    assert not ruling.done
    assert "no table takes a low of" in ruling.said
    with house.platform.database.connection() as connection:
        lost = pd.DataFrame({"rule": ["schema"], "severity": ["block"], "detail": ["no session"], "symbol": ["AAPL"]})
        quarantine_rows(connection, lost, "us", None, house.clock())
    assert "needs a symbol and a session" in only(release(house.platform, open_ids(house)[:1])).said


def test_of_two_versions_of_a_bar_only_one_can_be_right(house: House) -> None:
    (first,) = below_zero(house)
    release(house.platform, [first])
    house.simulator.faults.add(f"yahoo.correction=AAPL:{DAY}:+0.5%")
    again(house)
    (second,) = open_ids(house)
    ruling = only(release(house.platform, [second]))
    assert not ruling.done
    assert f"row {first}, another version of the same bar" in ruling.said
    reopen(house.platform, [first])
    assert only(release(house.platform, [second])).done


def test_a_release_that_changes_a_final_bar_by_much_waits_as_any_correction(house: House) -> None:
    house.simulator.faults.add(f"yahoo.unit_error={DAY}:100")
    house.refresh(["AAPL"], *WEEK)
    before = agreed(house)
    assert before is not None
    assert before["provider"] == "simulated-alpha_vantage"
    ruling = only(release(house.platform, open_ids(house)))
    assert ruling.done
    assert "it waits in market-pipelines corrections list" in ruling.said
    assert agreed(house) == before
    with house.platform.database.connection() as connection:
        assert [one.provider for one in held(connection, "us")] == ["simulated-yahoo"]


def test_what_the_provider_has_said_since_stands(house: House) -> None:
    (number,) = below_zero(house)
    house.simulator.faults.clear()
    again(house)
    before = agreed(house)
    assert before is not None
    ruling = only(release(house.platform, [number]))
    assert ruling.done
    assert agreed(house) == before
    assert before["low"] > 0


def test_an_index_goes_into_its_own_table(house: House) -> None:
    (number,) = below_zero(house, "^SPX")
    assert only(release(house.platform, [number])).done
    bar = agreed(house, "^SPX", "market_index_prices")
    assert bar is not None
    assert bar["low"] < 0
    assert house.rows("SELECT count(*) FROM market.stock_prices") == [(0,)]


def test_a_bar_within_a_session_is_released_and_passes_from_then_on(house: House) -> None:
    market = house.platform.market("us")
    house.simulator.faults.add(f"yahoo.bad_minute={DAY}T14:00")

    def pulled() -> list[tuple[Any, ...]]:
        refresh_intraday(
            house.platform,
            market,
            instruments_of(market, ["AAPL"]),
            DAY,
            DAY,
            interval="5min",
            providers=[house.platform.providers["yahoo"]],
        )
        return house.rows(
            "SELECT low < 0, phase, condition FROM market.stock_prices_intraday WHERE ts = '2025-06-11T14:00Z'"
        )

    assert pulled() == []
    (number,) = open_ids(house)
    ruling = only(release(house.platform, [number]))
    assert ruling.done, ruling.said
    assert ruling.said.startswith("AAPL 2025-06-11 14:00 UTC by simulated-yahoo is the agreed bar")
    house.clock.set(house.clock() + timedelta(hours=1))
    assert pulled() == [(True, "regular", "available")]
    assert open_ids(house) == []
    assert only(reopen(house.platform, [number])).done
    assert house.rows("SELECT count(*) FROM market.stock_prices_intraday WHERE low < 0") == [(0,)]
    assert pulled() == []
    assert open_ids(house) == [number]


# --- drop and reopen ----------------------------------------------------------------------------------------


def test_a_dropped_row_stays_out_and_is_not_open_any_more(house: House) -> None:
    (number,) = below_zero(house)
    assert only(drop(house.platform, [number], user="bob")).done
    again(house)
    assert agreed(house) is None
    assert open_ids(house) == []
    assert house.rows("SELECT decision, times_seen FROM market.quarantine") == [("dropped", 2)]
    assert actions(house) == [("bob", "quarantine.drop", f"quarantine/{number}")]


def test_a_decision_is_taken_only_once(house: House) -> None:
    (number,) = below_zero(house)
    drop(house.platform, [number], user="bob")
    for decide in (drop, release):
        ruling = only(decide(house.platform, [number], user="ann"))
        assert not ruling.done
        assert "was dropped by bob on 2025-06-12; market-pipelines quality reopen" in ruling.said
    assert len(actions(house)) == 1


def test_a_release_taken_back_takes_the_bar_out_and_keeps_its_revision(house: House) -> None:
    (number,) = below_zero(house)
    release(house.platform, [number], user="ann")
    house.clock.set(house.clock() + timedelta(hours=1))
    assert only(reopen(house.platform, [number], user="bob")).done
    assert agreed(house) is None
    assert condition(house) == "missing"
    assert house.rows("SELECT session, removed FROM market.bar_revisions") == [(DAY, True)]
    assert open_ids(house) == [number]
    assert [action for _, action, _ in actions(house)] == ["quarantine.release", "quarantine.reopen"]
    again(house)
    assert agreed(house) is None, "it is refused again"


def test_another_providers_bar_takes_the_place_of_a_release_that_is_taken_back(house: House) -> None:
    (number,) = below_zero(house)
    release(house.platform, [number])
    house.clock.set(house.clock() + timedelta(hours=1))
    house.refresh(["AAPL"], *WEEK, providers=["alpha_vantage"])
    bar = agreed(house)
    assert bar is not None
    assert bar["provider"] == "simulated-yahoo"
    reopen(house.platform, [number])
    bar = agreed(house)
    assert bar is not None
    assert bar["provider"] == "simulated-alpha_vantage"


def test_what_nobody_decided_about_cannot_be_reopened_and_what_is_not_there_not_decided(house: House) -> None:
    (number,) = below_zero(house)
    assert "nobody has decided" in only(reopen(house.platform, [number])).said
    assert "no row 4711 is in quarantine" in only(drop(house.platform, [4711])).said
    assert [ruling.done for ruling in drop(house.platform, [4711, number])] == [False, True]


def test_a_decision_about_a_correction_is_logged_as_well(house: House) -> None:
    house.refresh(["AAPL"], *WEEK)
    house.simulator.faults.add(f"yahoo.correction=AAPL:{DAY}:+8%")
    house.clock.set(house.clock() + timedelta(hours=1))
    house.refresh(["AAPL"], *WEEK)
    with house.platform.database.connection() as connection:
        (one,) = held(connection, "us")
    settle_correction(house.platform, one.held_id, accept=True, user="ann", reason="confirmed")
    with house.platform.database.connection() as connection:
        (entry,) = audit_entries(connection)
    assert (entry.actor, entry.action, entry.subject) == ("ann", "correction.accept", f"correction/{one.held_id}")
    assert (entry.detail["symbol"], entry.detail["session"], entry.detail["reason"]) == ("AAPL", str(DAY), "confirmed")
    assert entry.at == house.clock()


# --- as commands --------------------------------------------------------------------------------------------


def run(house: House, *words: str) -> Any:
    environment = {
        "DATABASE_URL": house.platform.database.url,
        "MARKET_PIPELINES_HOME": str(house.platform.settings.home),
        "MARKET_PIPELINES_SIMULATOR": "on",
        "COLUMNS": "250",
        **house.simulator.base_urls(),
    }
    with process_state.logs_as_they_were():
        return CliRunner().invoke(app, ["quality", *words], env=environment)


def test_the_commands_list_decide_and_tell(house: House) -> None:
    (number,) = below_zero(house)
    (listed,) = json.loads(run(house, "list", "--json").stdout)
    assert (listed["id"], listed["symbol"], listed["session"], listed["rule"]) == (
        number,
        "AAPL",
        str(DAY),
        "positive_price",
    )
    assert {"market", "provider", "severity", "detail", "run", "first_seen", "last_seen", "times_seen"} <= set(listed)
    assert listed["decision"] == "open"
    assert json.loads(run(house, "list", "--market", "pl", "--json").stdout) == []

    ended = run(house, "release", str(number), "4711", "--reason", "seen", "--user", "ann", "--json")
    assert ended.exit_code == 3
    assert [ruling["done"] for ruling in json.loads(ended.stdout)] == [True, False]
    assert run(house, "list").stdout.count("AAPL") == 0
    assert "released" in run(house, "list", "--all").stdout
    assert run(house, "drop", str(number)).exit_code == 1
    assert run(house, "reopen", str(number)).exit_code == 0
    assert run(house, "drop", str(number), "--user", "bob").exit_code == 0
    entries = json.loads(run(house, "audit", "--json").stdout)
    assert [entry["action"] for entry in entries] == ["quarantine.drop", "quarantine.reopen", "quarantine.release"]
    assert entries[-1]["detail"]["reason"] == "seen"
    assert run(house, "list", "--market", "nowhere").exit_code == 2


def test_a_row_of_a_provider_that_is_gone_stays_where_it_is(house: House) -> None:
    (number,) = below_zero(house)
    providers = {name: one for name, one in house.platform.providers.items() if name != "yahoo"}
    ruling = only(release(replace(house.platform, providers=providers), [number]))
    assert ruling.said == "not released: there is no provider simulated-yahoo any more"
    with house.platform.database.connection() as connection:
        assert read_quarantine(connection)["decision"].isna().all()
