"""A backfill asks only for what is lacking, in few requests, remembers what nobody has, and says what is left."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path

import pytest

from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.stretches import Range
from market_pipelines.pipeline.backfill import Left, backfill_bars, by_symbol, lacking_ranges
from market_pipelines.pipeline.estimate import estimate_ranges
from market_pipelines.pipeline.refresh import instruments_of
from market_pipelines.pipeline.results import RefreshReport, SymbolResult
from market_pipelines.simulator.server import Simulator
from market_pipelines.store.holes import read_holes
from market_pipelines_tests.faults.house import House, opened_house, untrue_rows

pytestmark = pytest.mark.usefixtures("settings_of_this_machine_are_out_of_sight")

THREE_YEARS = date(2022, 1, 3), date(2024, 12, 31)
MIDDLE_YEAR = date(2023, 1, 3), date(2023, 12, 29)
EVERYBODY = ("yahoo", "alpha_vantage", "polygon", "stooq")


def instruments(house: House, *symbols: str) -> tuple[Instrument, ...]:
    return instruments_of(house.platform.market("us"), symbols)


def backfill(house: House, symbols: tuple[str, ...], start: date, end: date, **more: object) -> RefreshReport:
    market = house.platform.market("us")
    return backfill_bars(house.platform, market, instruments(house, *symbols), start, end, **more)  # type: ignore[arg-type]


def ranges(
    house: House, symbols: tuple[str, ...], start: date, end: date, interval: str = "1d", *, again: bool = False
) -> Mapping[str, tuple[Range, ...]]:
    market = house.platform.market("us")
    return lacking_ranges(house.platform, market, instruments(house, *symbols), start, end, interval, again=again)


def asked(house: House, provider: str) -> list[tuple[date, date]]:
    return [
        (start, end)
        for start, end in house.rows(
            'SELECT "from", "to" FROM market.fetches WHERE provider = %(provider)s AND capability = %(daily)s '
            "ORDER BY fetch_id",
            {"provider": f"simulated-{provider}", "daily": "daily"},
        )
    ]


def test_it_extends_in_both_directions_and_leaves_the_middle_alone(
    url: str, simulator: Simulator, tmp_path: Path
) -> None:
    # Polygon's answers end where the question does, and its calls of the day are not counted here.
    with opened_house(tmp_path / "home", url, simulator, primary_provider="polygon") as house:
        backfill(house, ("AAPL",), *THREE_YEARS)
        before, after = (date(2019, 1, 2), date(2021, 12, 31)), (date(2025, 1, 2), date(2025, 6, 12))
        assert ranges(house, ("AAPL",), before[0], after[1]) == {"AAPL": (before, after)}
        report = backfill(house, ("AAPL",), before[0], after[1])
        assert asked(house, "polygon") == [THREE_YEARS, before, after]
        assert len(house.prices("AAPL")) == len(house.truth("AAPL", before[0], after[1]))
        assert [one.requests for one in report.symbols] == [2]
        assert untrue_rows(house) == []


def test_where_answers_reach_the_present_one_request_brings_both_ends(house: House) -> None:
    backfill(house, ("AAPL",), *MIDDLE_YEAR)
    assert ranges(house, ("AAPL",), *THREE_YEARS) == {"AAPL": (THREE_YEARS,)}
    house.simulator.requests.clear()
    report = backfill(house, ("AAPL",), *THREE_YEARS)
    assert [one.requests for one in report.symbols] == [1]
    assert house.simulator.requests.count() == 1
    assert untrue_rows(house) == []


def test_only_what_comes_after_is_asked_for_when_the_rest_is_there(house: House) -> None:
    backfill(house, ("AAPL", "KO"), *MIDDLE_YEAR)
    after = date(2024, 1, 2), date(2024, 12, 31)
    assert ranges(house, ("AAPL", "KO", "MSFT"), MIDDLE_YEAR[0], after[1]) == {
        "AAPL": (after,),
        "KO": (after,),
        "MSFT": ((MIDDLE_YEAR[0], after[1]),),
    }
    assert ranges(house, ("AAPL",), *MIDDLE_YEAR) == {}
    assert ranges(house, ("AAPL",), *MIDDLE_YEAR, again=True) == {"AAPL": (MIDDLE_YEAR,)}


def test_what_nobody_has_is_confirmed_by_a_second_backfill_and_left_alone_by_a_third(house: House) -> None:
    day = date(2023, 6, 6)
    house.simulator.faults.replace([f"{provider}.missing_rows={day}@KO" for provider in EVERYBODY])
    backfill(house, ("KO",), *MIDDLE_YEAR)
    assert ranges(house, ("KO",), *MIDDLE_YEAR) == {"KO": ((day, day),)}
    house.clock.set(house.clock() + timedelta(hours=2))
    backfill(house, ("KO",), *MIDDLE_YEAR)
    with house.platform.database.connection() as connection:
        (row,) = read_holes(connection, "us")
    assert (row.key, row.times_asked, row.confirmed_at) == (("KO", day), 2, house.clock())
    house.simulator.requests.clear()
    third = backfill(house, ("KO",), *MIDDLE_YEAR)
    assert (third.skipped, house.simulator.requests.count()) == (("KO",), 0)
    house.simulator.faults.clear()
    backfill(house, ("KO",), *MIDDLE_YEAR, again=True)
    assert day in house.prices("KO").index
    with house.platform.database.connection() as connection:
        assert read_holes(connection, "us") == []


def test_it_says_before_each_batch_what_is_left_and_for_how_long(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("market_pipelines.pipeline.backfill.BATCH", 2)
    told: list[Left] = []
    backfill(house, ("AAPL", "KO", "MSFT", "JPM", "IBM"), *MIDDLE_YEAR, left=told.append)
    assert [(one.symbols, one.requests) for one in told] == [(5, 5), (3, 3), (1, 1)]
    assert told[0].seconds == 0.0, "nothing is known yet, and the simulator has no limits"
    assert told[1].seconds > 0


def test_the_rest_lasts_at_least_as_long_as_the_limits_make_it(url: str, simulator: Simulator, tmp_path: Path) -> None:
    with opened_house(
        tmp_path / "home",
        url,
        simulator,
        primary_provider="polygon",
        polygon_api_key="a-key-of-polygon",
        polygon_rate_limit=2,
    ) as simulated:
        house = House(
            # As if it were real: the limits count.
            type(simulated.platform)(
                **{
                    name: getattr(simulated.platform, name)
                    for name in ("settings", "database", "archive", "http", "providers", "markets", "clock")
                },
                simulated=False,
            ),
            simulator,
            simulated.clock,
        )
        told: list[Left] = []

        class Enough(Exception):
            pass

        def stop(left: Left) -> None:
            told.append(left)
            raise Enough

        with pytest.raises(Enough):
            backfill(house, ("AAPL", "KO", "MSFT", "JPM", "IBM"), *MIDDLE_YEAR, left=stop)
        assert told[0].requests == 5
        assert told[0].seconds >= 120, "two a minute: the fifth call goes two minutes after the first"


def test_a_long_range_within_sessions_is_kept_month_by_month_the_newest_first_if_wanted(house: House) -> None:
    span = date(2025, 3, 3), date(2025, 6, 11)
    found = ranges(house, ("AAPL",), *span, "60min")
    assert found == {
        "AAPL": (
            (date(2025, 3, 3), date(2025, 3, 31)),
            (date(2025, 4, 1), date(2025, 4, 30)),
            (date(2025, 5, 1), date(2025, 5, 31)),
            (date(2025, 6, 1), date(2025, 6, 11)),
        )
    }
    done: list[int] = []

    class Killed(Exception):
        pass

    def interrupted(results: object) -> None:
        done.append(1)
        raise Killed

    with pytest.raises(Killed):
        backfill(house, ("AAPL",), *span, interval="60min", newest_first=True, batch_done=interrupted)
    assert ranges(house, ("AAPL",), *span, "60min")["AAPL"][-1][1] < date(2025, 6, 1), "June is kept"


def test_the_estimate_counts_each_range_of_each_symbol(house: House) -> None:
    market = house.platform.market("us")
    wanted = instruments(house, "AAPL", "KO")
    two = {"AAPL": (MIDDLE_YEAR, (date(2025, 1, 2), date(2025, 2, 3))), "KO": (MIDDLE_YEAR,)}
    cost = estimate_ranges(house.platform, market, two, wanted)
    assert (cost.symbols, cost.best) == (("AAPL", "KO"), 3)
    assert estimate_ranges(house.platform, market, {}, wanted).symbols == ()


def test_the_results_of_several_ranges_are_one_line_a_symbol() -> None:
    def result(symbol: str, outcome: Outcome, rows: int, provider: str | None = "yahoo") -> SymbolResult:
        return SymbolResult(symbol, outcome, provider, rows, 1, 2, "because" if not outcome.delivered else "")

    joined = by_symbol(
        [
            result("A", Outcome.OK, 10),
            result("B", Outcome.EMPTY_EXPECTED, 0, None),
            result("A", Outcome.UNAVAILABLE, 0, None),
            result("B", Outcome.OK, 5, "stooq"),
        ]
    )
    assert [(one.symbol, one.outcome, one.rows, one.requests, one.provider, one.reason) for one in joined] == [
        ("A", Outcome.UNAVAILABLE, 10, 4, "yahoo", "because"),
        ("B", Outcome.OK, 5, 4, "stooq", ""),
    ]
