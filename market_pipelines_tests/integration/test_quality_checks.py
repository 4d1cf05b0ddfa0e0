"""Every check over data that the simulator delivered: silent on clean data, and red for exactly what was planted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest
from psycopg import sql

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.quality import Severity
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline import evidence
from market_pipelines.pipeline.checks import CheckOutcome, assets_of, checks_of, evaluate, may_block
from market_pipelines.pipeline.gate import quality_report
from market_pipelines.pipeline.intraday import refresh_intraday
from market_pipelines.pipeline.reading import BadQuestion
from market_pipelines.pipeline.refresh import refresh_daily
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.check_results import trend
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.faults.house import House, opened_house
from market_pipelines_tests.integration.small_markets import small_markets

FRIDAY_EVENING = datetime(2026, 6, 12, 23, 30, tzinfo=UTC)
"""New York closed three and a half hours ago: the day's bars are due, and not yet overdue."""
SINCE = date(2026, 1, 2)
RANGE = date(2026, 6, 1), date(2026, 6, 12)
BEFORE = date(2026, 5, 4), date(2026, 5, 15)
WITHIN_SESSIONS = date(2026, 5, 4)
WORDS = {
    "bar": "market = 'us' AND symbol = 'KO' AND session = '2026-06-03'",
    "earlier_bar": "market = 'us' AND symbol = 'KO' AND session = '2026-05-20'",
    "hour": "market = 'us' AND symbol = 'KO' AND ts = '2026-06-03 15:30+00'",
    "times_100": "open = open * 100, high = high * 100, low = low * 100, close = close * 100",
    "times_1_8": "open = open * 1.8, high = high * 1.8, low = low * 1.8, close = close * 1.8",
    "of_the_day_before": "open = q.open, high = q.high, low = q.low, close = q.close, volume = q.volume",
}
"""What the planted statements are written with."""
TABLES = (
    "stock_prices",
    "market_index_prices",
    "stock_prices_intraday",
    "corporate_actions",
    "stocks",
    "provider_bars",
)


@pytest.fixture(scope="module")
def house(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Two small markets, half a year of daily bars and six weeks of bars within sessions."""
    url = postgres_server.create()
    with (
        Simulator() as simulator,
        opened_house(tmp_path_factory.mktemp("house"), url, simulator, now=FRIDAY_EVENING) as opened,
    ):
        filled = replace(opened, platform=replace(opened.platform, markets=small_markets()))
        for market in filled.platform.markets.values():
            refresh_daily(filled.platform, market, market.everything, SINCE, RANGE[1])
            refresh_intraday(filled.platform, market, market.everything, WITHIN_SESSIONS, RANGE[1])
        yield filled
    postgres_server.drop(url)


@contextmanager
def planted(house: House, *statements: str) -> Iterator[None]:
    """Changes behind the back of triggers and rules, taken back afterwards."""
    with house.platform.database.connection() as connection:
        connection.execute("SET LOCAL session_replication_role = replica")
        for table in (*TABLES, "quarantine"):
            connection.execute(sql.SQL("CREATE TABLE {} AS TABLE {}").format(*_kept(table)))
        for statement in statements:
            assert connection.execute(statement.format(**WORDS).encode()).rowcount > 0, statement
    try:
        yield
    finally:
        with house.platform.database.connection() as connection:
            connection.execute("SET LOCAL session_replication_role = replica")
            for table in TABLES:
                kept, changed = _kept(table)
                connection.execute(sql.SQL("DELETE FROM {}").format(changed))
                connection.execute(sql.SQL("INSERT INTO {} SELECT * FROM {}").format(changed, kept))
            kept, changed = _kept("quarantine")
            connection.execute(
                sql.SQL("DELETE FROM {} WHERE quarantine_id NOT IN (SELECT quarantine_id FROM {})").format(
                    changed, kept
                )
            )
            for table in (*TABLES, "quarantine"):
                connection.execute(sql.SQL("DROP TABLE {}").format(_kept(table)[0]))


def _kept(table: str) -> tuple[sql.Identifier, sql.Identifier]:
    return sql.Identifier("public", f"kept_{table}"), sql.Identifier("market", table)


def judged(house: House, market: str = "us", span: tuple[date, date] = RANGE, **more: Any) -> tuple[CheckOutcome, ...]:
    return evaluate(house.platform, house.platform.market(market), *span, **more)


def red(outcomes: Sequence[CheckOutcome]) -> dict[tuple[str, str], Severity]:
    return {(one.asset, one.rule): one.severity for one in outcomes if not one.passed}


def only(outcomes: Sequence[CheckOutcome], asset: str, rule: str) -> CheckOutcome:
    (found,) = [one for one in outcomes if (one.asset, one.rule) == (asset, rule)]
    return found


# --- clean data ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("market", ["us", "pl"])
def test_clean_data_turns_no_check_red(house: House, market: str) -> None:
    outcomes = judged(house, market)
    assert red(outcomes) == {}
    definition = house.platform.market(market)
    assert {(one.asset, one.rule) for one in outcomes} == {
        (asset, rule.name) for asset in assets_of(definition) for rule in checks_of(asset, definition)
    }


def test_sessions_whose_minutes_nobody_has_asked_for_lack_nothing(house: House) -> None:
    outcomes = judged(house, span=(SINCE, RANGE[1]), assets=["stock_prices_intraday"])
    assert red(outcomes) == {}
    whole = only(outcomes, "stock_prices_intraday", "intraday_completeness")
    sessions = trading_calendar("XNYS", FRIDAY_EVENING).sessions(WITHIN_SESSIONS, RANGE[1])
    assert whole.checked == len(sessions) * len(house.platform.market("us").everything)


def test_the_checks_have_looked_at_the_stored_bars(house: House) -> None:
    outcomes = judged(house)
    assert only(outcomes, "stock_prices", "nulls").checked == 5 * 10
    assert only(outcomes, "index_prices", "nulls").checked == 10
    assert only(outcomes, "stock_prices", "completeness").checked == 5 * 10
    assert only(outcomes, "stock_prices_intraday", "grid").checked > 6 * 10 * 6


# --- planted faults ------------------------------------------------------------------------------------------

IN_STOCKS, IN_INDICES, IN_MINUTES = "stock_prices", "index_prices", "stock_prices_intraday"
BLOCK, WARN = Severity.BLOCK, Severity.WARN
CONTRADICTED = {(IN_MINUTES, "roll_up"): WARN}
"""The bars within a session say that its daily bar is wrong."""


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        pytest.param(
            "UPDATE market.stock_prices SET {times_100} WHERE {bar}",
            {(IN_STOCKS, "unit_error"): BLOCK} | CONTRADICTED,
            id="pence for pounds",
        ),
        pytest.param(
            "UPDATE market.stock_prices SET close = high * 1.01 WHERE {bar}",
            {(IN_STOCKS, "high_low_envelope"): BLOCK} | CONTRADICTED,
            id="a close above the high",
        ),
        pytest.param(
            "UPDATE market.stock_prices SET low = -1 WHERE {bar}",
            {(IN_STOCKS, "positive_price"): BLOCK},
            id="a negative price",
        ),
        pytest.param(
            "UPDATE market.stock_prices SET volume = NULL WHERE {bar}",
            {(IN_STOCKS, "volume_gap"): WARN},
            id="no volume",
        ),
        pytest.param("DELETE FROM market.stock_prices WHERE {bar}", {(IN_STOCKS, "completeness"): WARN}, id="a hole"),
        pytest.param(
            "DELETE FROM market.stock_prices WHERE market = 'us' AND session = '2026-06-03'",
            {
                (IN_STOCKS, "completeness"): WARN,
                (IN_STOCKS, "provider_outage"): BLOCK,
                (IN_STOCKS, "row_count"): WARN,
            },
            id="a session that nobody has",
        ),
        pytest.param(
            "DELETE FROM market.stock_prices WHERE market = 'us' AND session = '2026-06-12'",
            {
                (IN_STOCKS, "completeness"): WARN,
                (IN_STOCKS, "provider_outage"): BLOCK,
                (IN_STOCKS, "row_count"): WARN,
                (IN_STOCKS, "freshness"): BLOCK,
            },
            id="no newest session",
        ),
        pytest.param(
            "UPDATE market.stock_prices SET session = '2026-06-06' WHERE {bar}",
            {(IN_STOCKS, "session_membership"): BLOCK, (IN_STOCKS, "completeness"): WARN},
            id="a bar on a Saturday",
        ),
        pytest.param(
            "UPDATE market.stock_prices AS p SET {of_the_day_before} FROM market.stock_prices AS q "
            "WHERE (p.market, p.symbol, p.session) = ('us', 'KO', '2026-06-03') "
            "AND (q.market, q.symbol, q.session) = ('us', 'KO', '2026-06-02')",
            {(IN_STOCKS, "repeated_bar"): BLOCK} | CONTRADICTED,
            id="yesterday's bar again",
        ),
        pytest.param(
            "UPDATE market.stock_prices SET {times_1_8} "
            "WHERE market = 'us' AND symbol = 'KO' AND session >= '2026-06-03'",
            {(IN_STOCKS, "return_cap"): WARN, (IN_STOCKS, "return_mad"): WARN} | CONTRADICTED,
            id="a jump without an action",
        ),
        pytest.param(
            "UPDATE market.stock_prices SET ingested_at = '2026-06-03 15:00+00' WHERE {bar}",
            {(IN_STOCKS, "live_bar_as_final"): BLOCK},
            id="a final bar from the middle of its session",
        ),
        pytest.param(
            "INSERT INTO market.provider_bars SELECT symbol, market, session, open, high * 1.05, low, close * 1.03, "
            "volume * 2, 'simulated-stooq', basis, provisional, ingested_at FROM market.provider_bars WHERE {bar}",
            {(IN_STOCKS, "cross_provider_close"): WARN, (IN_STOCKS, "cross_provider_volume"): WARN},
            id="another provider disagrees",
        ),
        pytest.param(
            "DELETE FROM market.market_index_prices WHERE market = 'us' AND session = '2026-06-03'",
            {(IN_INDICES, "completeness"): WARN, (IN_INDICES, "provider_outage"): BLOCK},
            id="an index without a session",
        ),
        pytest.param(
            "UPDATE market.stock_prices_intraday SET ts = ts + interval '7 minutes' WHERE {hour}",
            {(IN_MINUTES, "grid"): BLOCK},
            id="a bar off the grid",
        ),
        pytest.param(
            "DELETE FROM market.stock_prices_intraday WHERE market = 'us' AND ts = '2026-06-03 15:30+00'",
            {(IN_MINUTES, "intraday_completeness"): WARN, (IN_MINUTES, "minute_outage"): BLOCK},
            id="an hour that nobody has",
        ),
        pytest.param(
            "UPDATE market.stock_prices_intraday SET high = high * 1.2 WHERE {hour}",
            CONTRADICTED,
            id="a high above the day's",
        ),
        pytest.param(
            "INSERT INTO market.corporate_actions (symbol, market, ex_date, kind, factor, provider, ingested_at) "
            "VALUES ('KO', 'us', '2026-06-03', 'split', 2, 'simulated-yahoo', '2026-06-04')",
            {
                ("corporate_actions", "split_without_jump"): WARN,
                (IN_STOCKS, "return_cap"): WARN,
                (IN_STOCKS, "return_mad"): WARN,
                (IN_STOCKS, "split_like_jump"): WARN,
            },
            id="a split that never was",
        ),
        pytest.param(
            "UPDATE market.stocks SET currency = 'EUR' WHERE market = 'us' AND symbol = 'KO'",
            {("instruments", "currency"): BLOCK},
            id="another currency",
        ),
        pytest.param(
            "UPDATE market.stocks SET company_name = 'Somebody Else' WHERE market = 'us' AND symbol = 'KO'",
            {("instruments", "symbol_continuity"): WARN},
            id="another company",
        ),
    ],
)
def test_a_planted_fault_turns_exactly_its_checks_red(
    house: House, fault: str, expected: dict[tuple[str, str], Severity]
) -> None:
    with planted(house, fault):
        outcomes = judged(house)
    assert red(outcomes) == expected
    for (asset, rule), severity in expected.items():
        found = only(outcomes, asset, rule)
        assert found.failing_rows == len(found.offending) > 0
        assert found.blocking == (severity is BLOCK)
    assert red(judged(house)) == {}


def test_only_checks_that_may_block_do(house: House) -> None:
    market = house.platform.market("us")
    rules = {rule.name: rule for asset in assets_of(market) for rule in checks_of(asset, market)}
    with planted(house, "DELETE FROM market.stock_prices WHERE market = 'us' AND session >= '2026-06-03'"):
        outcomes = judged(house)
    assert {may_block(rules[one.rule]) for one in outcomes if one.severity is BLOCK} == {True}


# --- what was refused ----------------------------------------------------------------------------------------


REFUSED = """
    INSERT INTO market.quarantine (market, symbol, session, open, high, low, close, volume, provider, rule, severity,
                                   interval, first_seen, last_seen)
    SELECT market, symbol, session, open, high, low, close, volume, provider, 'positive_price', 'block', '1d',
           '2026-06-10', '2026-06-10'
    FROM market.stock_prices WHERE {bar}
"""
DECIDED = "UPDATE market.quarantine SET decided_at = '2026-06-11', decided_by = 'me', decision = "


def test_a_refused_bar_in_whose_place_another_stands_warns(house: House) -> None:
    with planted(house, REFUSED):
        check = only(judged(house), IN_STOCKS, "positive_price")
    assert (check.passed, check.severity, check.refused, check.mended) == (False, WARN, 1, 1)
    assert check.offending["where"].tolist() == ["quarantine"]
    assert "1 refused into quarantine, 1 of them replaced" in check.detail


def test_a_refused_bar_that_left_a_hole_blocks(house: House) -> None:
    with planted(house, REFUSED, "DELETE FROM market.stock_prices WHERE {bar}"):
        check = only(judged(house), IN_STOCKS, "positive_price")
    assert (check.severity, check.refused, check.mended, check.blocking) == (BLOCK, 1, 0, True)


def test_a_dropped_bar_is_no_longer_held_against_the_table(house: House) -> None:
    with planted(house, REFUSED, f"{DECIDED} 'dropped'"):
        assert red(judged(house)) == {}


def test_a_released_bar_passes_with_exactly_its_values(house: House) -> None:
    negative = "UPDATE market.stock_prices SET low = -1 WHERE {bar}"
    with planted(house, negative, REFUSED, f"{DECIDED} 'released'"):
        assert red(judged(house)) == {}
    with planted(house, negative, REFUSED, f"{DECIDED} 'released', close = close + 1"):
        assert red(judged(house)) == {(IN_STOCKS, "positive_price"): BLOCK}


# --- how it is asked -----------------------------------------------------------------------------------------


def test_a_range_in_the_past_is_not_blocked_by_todays_bars(house: House) -> None:
    with planted(house, "DELETE FROM market.stock_prices WHERE market = 'us' AND session = '2026-06-12'"):
        assert red(judged(house, span=BEFORE)) == {(IN_STOCKS, "freshness"): WARN}


def test_a_long_range_in_stretches_says_what_the_whole_would_say(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def said() -> list[tuple[object, ...]]:
        outcomes = judged(house, span=(BEFORE[0], RANGE[1]))
        return [(one.asset, one.rule, one.passed, one.severity, one.failing_rows, one.checked) for one in outcomes]

    fault = "UPDATE market.stock_prices SET close = high * 1.01 WHERE {bar}"
    with planted(house, fault, "DELETE FROM market.stock_prices WHERE {earlier_bar}"):
        whole = said()
        monkeypatch.setattr(evidence, "ROWS_AT_ONCE", 300)
        parts = said()
    differ = {(one[0], one[1]) for one, other in zip(whole, parts, strict=True) if one != other}
    # The usual number of bars within a session is looked for among the sessions of the stretch.
    assert differ <= {(IN_MINUTES, "row_count")}


def test_each_evaluation_is_written_down(house: House) -> None:
    outcomes = judged(house, assets=["stock_prices"], rules=["nulls", "volume"], run_id="some run")
    assert [one.rule for one in outcomes] == ["nulls", "volume"]
    with house.platform.database.connection() as connection:
        found = [one for one in trend(connection, "us", asset="stock_prices") if one.run_id == "some run"]
    assert [(one.rule, one.passed, one.failing_rows, one.checked) for one in found] == [
        ("nulls", True, 0, 50),
        ("volume", True, 0, 50),
    ]
    assert {(one.at, one.first_session, one.last_session) for one in found} == {(FRIDAY_EVENING, *RANGE)}


def test_a_report_over_nothing_does_not_pass(house: House) -> None:
    markets = list(house.platform.markets.values())
    report = quality_report(house.platform, markets, date(2025, 6, 2), date(2025, 6, 6))
    assert not report.passed(frozenset())
    assert set(report.reasons) == {"us", "pl"}
    weekend = quality_report(house.platform, markets[:1], date(2026, 6, 6), date(2026, 6, 7))
    assert "no session" in next(iter(weekend.reasons.values()))


def test_a_report_without_days_looks_at_the_last_sessions(house: House) -> None:
    report = quality_report(house.platform, list(house.platform.markets.values()))
    assert {one.market: (one.start, one.end) for one in report.judged} == {
        "us": (date(2026, 5, 1), RANGE[1]),
        "pl": (date(2026, 4, 30), RANGE[1]),
    }
    assert report.passed(frozenset({BLOCK}))


def test_a_table_of_which_nothing_is_stored_is_named(house: House) -> None:
    market: MarketDefinition = house.platform.market("us")
    span = date(2026, 3, 2), date(2026, 3, 13)
    whole = quality_report(house.platform, [market], *span)
    assert whole.left_out == tuple(
        f"us/{name}" for name in ("stock_prices_intraday", "option_contracts", "realtime_quotes", "realtime_trades")
    )
    assert whole.passed(frozenset({BLOCK}))
    asked = quality_report(house.platform, [market], *span, assets=[IN_MINUTES])
    assert not asked.passed(frozenset({BLOCK}))
    assert set(asked.reasons) == {"us/stock_prices_intraday"}


@pytest.mark.parametrize(
    ("assets", "rules", "said"),
    [
        (["stock_price"], [], "no table 'stock_price' has checks"),
        ([], ["nullz"], "no check is called 'nullz'"),
        (["instruments"], ["nulls"], "no check is called 'nulls'"),
    ],
)
def test_an_unknown_table_or_rule_is_refused(house: House, assets: list[str], rules: list[str], said: str) -> None:
    with pytest.raises(BadQuestion, match=said):
        quality_report(house.platform, [house.platform.market("us")], assets=assets, rules=rules)
