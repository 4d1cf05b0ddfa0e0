"""Option chains are judged: silence over sound ones, and for each planted fault one rule."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import pytest

from market_pipelines.market.quality import Severity
from market_pipelines.market.quality.rules import OPTIONS
from market_pipelines.market.records import Right
from market_pipelines.pipeline.checks import CheckOutcome, evaluate
from market_pipelines.pipeline.gate import quality_report
from market_pipelines.pipeline.options import pull_options
from market_pipelines.pipeline.refresh import instruments_of
from market_pipelines.pipeline.results import new_run_id
from market_pipelines.simulator.server import Simulator
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.faults.house import House, opened_house

DAY = date(2025, 6, 12)
SYMBOLS = ("AAPL", "KO")
WARN = Severity.WARN


@pytest.fixture(scope="module")
def opened(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    url = postgres_server.create()
    with Simulator() as simulator, opened_house(tmp_path_factory.mktemp("house"), url, simulator) as house:
        house.refresh(SYMBOLS, DAY - timedelta(days=7), DAY, providers=["yahoo"])
        yield house
    postgres_server.drop(url)


@pytest.fixture
def house(opened: House) -> House:
    """Its options are forgotten, and its provider is sound."""
    opened.simulator.faults.clear()
    with opened.platform.database.connection() as connection:
        connection.execute("DELETE FROM market.option_quotes")
        connection.execute("DELETE FROM market.option_contracts")
    return opened


def pull(house: House, *faults: str, provider: str = "yahoo", **more: Any) -> None:
    house.simulator.faults.add_all(faults)
    market = house.platform.market("us")
    chains = pull_options(
        house.platform,
        market,
        instruments_of(market, SYMBOLS),
        run_id=new_run_id(),
        expires_from=DAY,
        expires_to=DAY + timedelta(days=30),
        providers=[house.platform.providers[provider]],
        **more,
    )
    assert all(chain.contracts for chain in chains)


def judged(house: House, end: date = DAY) -> tuple[CheckOutcome, ...]:
    return evaluate(house.platform, house.platform.market("us"), DAY - timedelta(days=7), end, assets=[OPTIONS])


def red(outcomes: tuple[CheckOutcome, ...]) -> dict[str, Severity]:
    return {one.rule: one.severity for one in outcomes if not one.passed}


@pytest.mark.parametrize("provider", ["yahoo", "alpha_vantage", "polygon"])
def test_sound_chains_break_no_rule(house: House, provider: str) -> None:
    pull(house, provider=provider)
    outcomes = judged(house)
    assert red(outcomes) == {}
    looked = {one.rule: one.checked for one in outcomes}
    assert min(looked["option_terms"], looked["option_strikes"]) > 0
    assert provider == "polygon" or looked["open_interest"] == len(SYMBOLS)


@pytest.mark.parametrize(
    ("fault", "rule", "words"),
    [
        ("yahoo.thin_puts=3@AAPL", "option_strikes", "no put"),
        ("yahoo.no_open_interest=on@AAPL", "open_interest", "0 of"),
        ("yahoo.cheap_options=on@AAPL", "option_quotes", "below what it is worth"),
    ],
)
def test_a_chain_with_a_fault_is_a_warning_of_its_own_rule(house: House, fault: str, rule: str, words: str) -> None:
    pull(house, fault)
    outcomes = judged(house)
    assert red(outcomes) == {rule: WARN}
    offending = next(one for one in outcomes if one.rule == rule).offending
    assert set(offending["symbol"]) == {"AAPL"}
    assert words in offending["detail"].iloc[0]


@pytest.mark.parametrize(
    ("statement", "rule", "words"),
    [
        ("option_quotes SET bid = ask + 1", "option_quotes", "the bid is above the ask"),
        ("option_quotes SET last = -1", "option_quotes", "below zero"),
        ("option_contracts SET expires = '2025-06-10'", "option_terms", "after it has expired"),
    ],
)
def test_rows_that_cannot_be_are_found_whoever_wrote_them(house: House, statement: str, rule: str, words: str) -> None:
    pull(house)
    with house.platform.database.connection() as connection:
        row = connection.execute(
            "SELECT contract FROM market.option_quotes WHERE bid > 0 AND ask > 0 ORDER BY contract LIMIT 1"
        ).fetchone()
        assert row is not None
        changed = connection.execute(f"UPDATE market.{statement} WHERE contract = %s".encode(), row)
        assert changed.rowcount == 1
    outcome = next(one for one in judged(house) if one.rule == rule)
    assert (outcome.passed, outcome.failing_rows) == (False, 1)
    assert words in outcome.offending["detail"].iloc[0]


def test_one_right_alone_says_nothing_of_the_other(house: House) -> None:
    pull(house, right=Right.CALL)
    outcomes = judged(house)
    assert red(outcomes) == {}
    assert next(one for one in outcomes if one.rule == "option_strikes").checked == 0


def test_strikes_that_one_side_has_lost_are_found_though_their_rows_are_kept(house: House) -> None:
    pull(house)
    with house.platform.database.connection() as connection:
        gone = connection.execute(
            "UPDATE market.option_contracts SET last_seen = last_seen - interval '2 days' WHERE \"right\" = 'put'"
            " AND strike > (SELECT avg(strike) FROM market.option_contracts AS o WHERE o.underlying = 'AAPL')"
            " AND underlying = 'AAPL'"
        )
        assert gone.rowcount
    outcome = next(one for one in judged(house) if one.rule == "option_strikes")
    assert not outcome.passed
    assert "no put" in outcome.offending["detail"].iloc[0]


def test_the_report_asks_of_chains_where_there_are_any(house: House) -> None:
    market = house.platform.market("us")
    span = DAY - timedelta(days=7), DAY
    assert "us/option_contracts" in quality_report(house.platform, [market], *span).left_out
    pull(house, "yahoo.no_open_interest=on")
    report = quality_report(house.platform, [market], *span)
    assert "us/option_contracts" not in report.left_out
    assert ("open_interest", WARN) in [(one.rule, one.severity) for one in report.failed(frozenset({WARN}))]
