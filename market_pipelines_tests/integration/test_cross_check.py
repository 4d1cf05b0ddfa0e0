"""A second opinion: who is asked, what is stored of it, and that no more is asked than the quota leaves."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from market_pipelines.cli.main import app
from market_pipelines.market.definition import CrossCheckPlan, MarketDefinition
from market_pipelines.pipeline.cross_check import CrossCheck, agreement, cross_check, plan
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.disagreements import read_disagreements
from market_pipelines.store.ledger import recent_jobs
from market_pipelines_tests import process_state
from market_pipelines_tests.faults.house import House, opened_house, untrue_rows

pytestmark = pytest.mark.usefixtures("settings_of_this_machine_are_out_of_sight")

DAY = date(2025, 6, 12)
BEFORE = date(2025, 6, 11)
WEEK = date(2025, 6, 9), DAY
SYMBOLS = ("AAPL", "KO", "MSFT", "SPY", "WMT")
KEYED: dict[str, Any] = {
    "alpha_vantage_api_key": "a-key-of-this-test",
    "alpha_vantage_rate_limit_second": 0,
    "alpha_vantage_rate_limit": 10_000,
}


def small(house: House, **cross: Any) -> MarketDefinition:
    market = house.platform.market("us")
    listed = tuple(one for one in market.instruments if one.symbol in SYMBOLS)
    return replace(market, instruments=listed, indices=(), cross_check=CrossCheckPlan(**cross))


def refreshed(house: House, *symbols: str, providers: tuple[str, ...] | None = ("yahoo",)) -> None:
    house.refresh(symbols or SYMBOLS, *WEEK, providers=providers)
    house.simulator.requests.clear()


def asked(house: House) -> dict[str, int]:
    return {name: house.simulator.requests.count(name) for name in ("yahoo", "alpha_vantage", "polygon", "stooq")}


def outcomes(report: CrossCheck) -> dict[str, tuple[str | None, str]]:
    return {one.symbol: (one.other, one.outcome) for one in report.opinions}


def standing(house: House, *, unresolved: bool = True) -> list[tuple[Any, ...]]:
    with house.platform.database.connection() as connection:
        found = read_disagreements(connection, "us", unresolved=unresolved)
    names = ["symbol", "session", "provider", "other", "times_seen"]
    return [(symbol, session.date(), *rest) for symbol, session, *rest in found[names].itertuples(index=False)]


def later(house: House, hours: int = 1) -> None:
    house.clock.set(house.clock() + timedelta(hours=hours))


# --- who is asked -------------------------------------------------------------------------------------------


def test_a_few_symbols_a_day_are_asked_of_the_next_provider_until_all_had_their_turn(house: House) -> None:
    market = small(house, symbols_a_day=2)
    refreshed(house)
    seen: list[str] = []
    for session in (date(2025, 6, 10), BEFORE, DAY):
        report = cross_check(house.platform, market, session)
        assert {other for other, _ in outcomes(report).values()} == {"simulated-alpha_vantage"}
        assert {outcome for _, outcome in outcomes(report).values()} == {"agrees"}
        seen += list(outcomes(report))
    assert set(seen) == set(SYMBOLS) == {one.symbol for one in market.instruments}
    assert asked(house) == {"yahoo": 0, "alpha_vantage": 6, "polygon": 0, "stooq": 0}
    assert untrue_rows(house) == []


def test_the_answer_is_kept_and_judged_as_any_other_and_changes_no_agreed_bar(house: House) -> None:
    refreshed(house)
    before = house.prices("AAPL")
    report = cross_check(house.platform, small(house), symbols=["AAPL"])
    (one,) = report.opinions
    assert (one.leader, one.other, one.requests) == ("simulated-yahoo", "simulated-alpha_vantage", 1)
    assert one.bp == pytest.approx(0, abs=0.1)
    kept = "SELECT count(*) FROM market.{} WHERE provider = 'simulated-alpha_vantage' AND {} "
    assert house.rows(kept.format("provider_bars", "session = '2025-06-12'")) == [(1,)]
    assert house.rows(kept.format("fetches", "archive_path IS NOT NULL")) == [(1,)]
    assert house.prices("AAPL").equals(before)
    with house.platform.database.connection() as connection:
        job = recent_jobs(connection)[0]
    assert (job.job_name, job.kind, job.symbols, job.records_processed) == (
        "us_cross_check",
        "cross_check",
        ["AAPL"],
        1,
    )


def test_a_bad_answer_goes_to_quarantine(house: House) -> None:
    refreshed(house)
    house.simulator.faults.add(f"alpha_vantage.negative_price={DAY}")
    (one,) = cross_check(house.platform, small(house), symbols=["AAPL"]).opinions
    assert (one.outcome, one.reason) == ("not comparable", "1 rows went to quarantine")
    assert house.rows("SELECT provider, rule FROM market.quarantine") == [("simulated-alpha_vantage", "positive_price")]


def test_where_the_other_has_said_it_already_nobody_is_asked(house: House) -> None:
    refreshed(house)
    market = small(house)
    cross_check(house.platform, market, symbols=["AAPL"])
    house.simulator.requests.clear()
    (one,) = cross_check(house.platform, market, symbols=["AAPL"]).opinions
    assert (one.outcome, one.reason) == ("agrees", "alpha_vantage has said it already")
    assert sum(asked(house).values()) == 0


def test_after_the_leader_comes_the_next_of_the_chain_whoever_led(house: House) -> None:
    refreshed(house, "AAPL", providers=("alpha_vantage",))
    refreshed(house, "KO", providers=("stooq",))
    found = {
        one.instrument.symbol: (one.leader, one.other)
        for one in plan(house.platform, small(house), None, ["AAPL", "KO"])
    }
    assert found == {
        "AAPL": ("simulated-alpha_vantage", "polygon"),
        "KO": ("simulated-stooq", "yahoo"),
    }


def test_a_symbol_without_a_stored_bar_or_without_a_second_provider_is_told(house: House) -> None:
    refreshed(house, "AAPL")
    market = small(house)
    (lacking,) = plan(house.platform, market, None, ["KO"])
    assert lacking.why_not == f"no bar of {DAY} is stored to compare with"
    alone = replace(house.platform, settings=house.platform.settings.model_copy(update={"fallback_providers": ()}))
    (one,) = plan(alone, market, None, ["AAPL"])
    assert one.why_not == "no provider besides yahoo lists it and is ready"
    assert plan(alone, market) == (), "nobody of whom there is only one provider takes a turn"


def test_nothing_stored_is_nothing_to_ask_about(house: House) -> None:
    report = cross_check(house.platform, small(house))
    assert (report.opinions, report.requests, sum(asked(house).values())) == ((), 0, 0)


def test_a_provider_that_fails_is_told_and_the_job_is_partial(house: House) -> None:
    refreshed(house)
    house.simulator.faults.add("alpha_vantage.status=403")
    report = cross_check(house.platform, small(house), symbols=["AAPL", "KO"])
    assert {outcome for _, outcome in outcomes(report).values()} == {"not_entitled"}
    with house.platform.database.connection() as connection:
        assert recent_jobs(connection)[0].status.value == "partial"
    assert standing(house) == []


# --- disagreements ------------------------------------------------------------------------------------------


def test_a_disagreement_is_stored_once_counted_and_resolved_when_it_is_gone(house: House) -> None:
    market = small(house)
    house.know_actions(["AAPL"])
    refreshed(house)
    stooq_second = replace(
        house.platform, settings=house.platform.settings.model_copy(update={"fallback_providers": ("stooq",)})
    )
    house.simulator.faults.add("stooq.scale=+25bp")
    (one,) = cross_check(stooq_second, market, symbols=["AAPL"]).opinions
    assert (one.outcome, one.reason, one.tolerance_bp) == ("disagrees", "close", 10)
    assert one.bp == pytest.approx(25, abs=0.5)
    assert one.other_close is not None
    assert one.close is not None
    assert one.other_close > one.close
    pair = ("AAPL", DAY, "simulated-yahoo", "simulated-stooq")
    assert standing(house) == [(*pair, 1)]
    assert house.prices("AAPL")["condition"].tolist() == ["available"] * 3 + ["degraded"]

    later(house)
    cross_check(stooq_second, market, symbols=["AAPL"])
    assert standing(house) == [(*pair, 2)]

    house.simulator.faults.clear()
    later(house)
    (one,) = cross_check(stooq_second, market, symbols=["AAPL"]).opinions
    assert one.outcome == "agrees"
    assert standing(house) == []
    assert standing(house, unresolved=False) == [(*pair, 2)]
    assert house.prices("AAPL")["condition"].tolist() == ["available"] * 4
    assert house.rows("SELECT resolved_at FROM market.provider_disagreements") == [(house.clock(),)]


def test_an_older_disagreement_is_looked_at_again_with_the_same_request(house: House) -> None:
    market = small(house)
    refreshed(house)
    house.simulator.faults.add("alpha_vantage.scale=+25bp")
    cross_check(house.platform, market, BEFORE, ["AAPL"])
    assert [(symbol, day) for symbol, day, *_ in standing(house)] == [("AAPL", BEFORE)]
    house.simulator.faults.clear()
    house.simulator.requests.clear()
    later(house)
    cross_check(house.platform, market, DAY, ["AAPL"])
    assert standing(house) == []
    assert asked(house)["alpha_vantage"] == 1


def test_a_refresh_stores_disagreements_as_well(house: House) -> None:
    house.simulator.faults.add("alpha_vantage.scale=+25bp")
    house.refresh(["AAPL"], *WEEK, providers=["alpha_vantage"])
    house.refresh(["AAPL"], *WEEK, providers=["yahoo"])
    assert [row[:4] for row in standing(house)] == [
        ("AAPL", session, "simulated-yahoo", "simulated-alpha_vantage")
        for session in sorted(house.truth("AAPL", *WEEK).index, reverse=True)
    ]
    with house.platform.database.connection() as connection:
        assert set(read_disagreements(connection)["bp"].round()) == {25}


def test_closes_of_other_kinds_may_be_further_apart(house: House) -> None:
    polygon_second = replace(
        house.platform, settings=house.platform.settings.model_copy(update={"fallback_providers": ("polygon",)})
    )
    refreshed(house)
    house.simulator.faults.add("polygon.scale=+25bp")
    (one,) = cross_check(polygon_second, small(house), symbols=["AAPL"]).opinions
    assert (one.outcome, one.tolerance_bp) == ("agrees", 50)
    assert one.bp == pytest.approx(25, abs=0.5)


def test_the_agreement_of_a_market_shows_every_pair_and_what_stands(house: House) -> None:
    refreshed(house)
    house.simulator.faults.add("alpha_vantage.scale=+25bp@AAPL")
    cross_check(house.platform, small(house), symbols=["AAPL", "KO"])
    found = agreement(house.platform, small(house), *WEEK)
    assert sorted(zip(found.pairs["symbol"], found.pairs["breach"], strict=True)) == [("AAPL", "close"), ("KO", "")]
    assert found.unresolved["symbol"].tolist() == ["AAPL"]
    assert found.widest() == [pytest.approx(25, abs=0.5)]


# --- quota --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("quota", "reserve", "asks"), [(2, 0, 2), (5, 60, 2), (1, 0, 1), (2, 90, 0)])
def test_no_request_goes_beyond_what_the_quota_leaves(
    url: str, simulator: Simulator, tmp_path: Path, quota: int, reserve: int, asks: int
) -> None:
    limits: dict[str, Any] = {"alpha_vantage_daily_quota": quota, "quote_reserve": reserve}
    with opened_house(tmp_path / "home", url, simulator, **KEYED, **limits) as house:
        refreshed(house)
        live = replace(house.platform, simulated=False)
        if asks == 0:
            # A reserve never takes the whole day: one call is left, and it is used.
            cross_check(live, small(house), BEFORE, ["AAPL"])
            house.simulator.requests.clear()
        report = cross_check(live, small(house), symbols=["AAPL", "KO", "WMT"])
        assert [outcome for _, outcome in outcomes(report).values()] == ["agrees"] * asks + ["not asked"] * (3 - asks)
        assert asked(house) == {"yahoo": 0, "alpha_vantage": asks, "polygon": 0, "stooq": 0}
        assert report.requests == asks


def test_an_exhausted_quota_says_so_and_asks_nobody(url: str, simulator: Simulator, tmp_path: Path) -> None:
    with opened_house(tmp_path / "home", url, simulator, **KEYED, alpha_vantage_daily_quota=1) as house:
        refreshed(house)
        live = replace(house.platform, simulated=False)
        cross_check(live, small(house), symbols=["AAPL"])
        house.simulator.requests.clear()
        (one,) = cross_check(live, small(house), symbols=["KO"]).opinions
        assert one.outcome == "not asked"
        assert one.reason.startswith(
            "the quota of alpha_vantage leaves 0 calls: 1 of 1 are used today; it begins anew at "
        )
        assert sum(asked(house).values()) == 0


def test_a_plan_spends_nothing(house: House) -> None:
    refreshed(house)
    questions = plan(house.platform, small(house), symbols=["AAPL", "KO"])
    assert [(one.other, one.calls, one.asks) for one in questions] == [("alpha_vantage", 1, True)] * 2
    assert sum(asked(house).values()) == 0


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


def test_the_commands_ask_and_show(house: House) -> None:
    refreshed(house, "AAPL", "KO")
    house.simulator.faults.add("alpha_vantage.scale=+25bp@AAPL")
    words = ("cross-check", "--session", str(DAY), "--symbols", "AAPL,KO")
    dry = json.loads(run(house, *words, "--dry-run", "--json").stdout)
    assert (dry["requests"], sum(asked(house).values())) == (2, 0)
    done = run(house, *words, "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert [(one["symbol"], one["outcome"]) for one in report["symbols"]] == [("AAPL", "disagrees"), ("KO", "agrees")]
    (found,) = json.loads(run(house, "disagreements", "--json").stdout)
    assert (found["symbol"], found["session"], found["tolerance_bp"], found["resolved_at"]) == (
        "AAPL",
        str(DAY),
        10,
        None,
    )
    assert json.loads(run(house, "disagreements", "--symbol", "KO", "--all", "--json").stdout) == []
    assert "AAPL" in run(house, "disagreements").stdout
    assert run(house, "cross-check", "--symbols", "NOPE").exit_code == 2
