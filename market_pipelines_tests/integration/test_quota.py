"""Leave to call, breakers, and what is told of both: on a real database, as a run or a command meets them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from typer.testing import CliRunner

from market_pipelines.cli.main import app
from market_pipelines.market.outcomes import Outcome
from market_pipelines.pipeline import breaker, limiter
from market_pipelines.pipeline.breaker import OPENS_AFTER, State, breaker_states
from market_pipelines.pipeline.estimate import estimate
from market_pipelines.pipeline.limiter import GRANTED, Purpose, permit
from market_pipelines.pipeline.platform import Platform, open_platform
from market_pipelines.pipeline.quota import Metric, ProviderQuota, provider_quotas, quota_metrics
from market_pipelines.pipeline.refresh import instruments_of
from market_pipelines.settings import Settings, SimulatorUse, read_settings
from market_pipelines.store.database import DatabaseUnavailable
from market_pipelines_tests import process_state
from market_pipelines_tests.conftest import PostgresServer

KEY = "a-key-of-this-test"


@pytest.fixture(autouse=True)
def settings_of_this_machine_are_out_of_sight(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in Settings.model_fields:
        monkeypatch.delenv(variable.upper(), raising=False)


class Desk:
    def __init__(self, home: Path, url: str) -> None:
        self.home, self.url = home, url

    def platform(self, *, simulated: bool = False, **settings: Any) -> AbstractContextManager[Platform]:
        use = SimulatorUse.ON if simulated else SimulatorUse.OFF
        read = read_settings(
            env_file=None,
            market_pipelines_home=self.home,
            market_pipelines_simulator=use,
            database_url=self.url,
            **settings,
        )
        return open_platform(read, asks=False)

    def run(self, *words: str, **settings: str) -> str:
        environment = {
            "MARKET_PIPELINES_HOME": str(self.home),
            "MARKET_PIPELINES_SIMULATOR": "off",
            "DATABASE_URL": self.url,
            "COLUMNS": "250",
        }
        with process_state.logs_as_they_were():
            ended = CliRunner().invoke(app, list(words), env=environment | settings)
        assert ended.exit_code == 0, ended.stderr
        return ended.stdout


@pytest.fixture
def desk(tmp_path: Path, url: str) -> Desk:
    return Desk(tmp_path / "home", url)


def never() -> threading.Event:
    return threading.Event()


def day_of(quotas: Mapping[str, ProviderQuota], provider: str = "alpha_vantage") -> int:
    return quotas[provider].day.used


def spend(platform: Platform, calls: int, purpose: Purpose = Purpose.REFRESH) -> None:
    for _ in range(calls):
        assert permit(platform, "alpha_vantage", purpose, never()) == GRANTED


# --- leave --------------------------------------------------------------------------------------------------


FAST: dict[str, Any] = {
    "alpha_vantage_api_key": KEY,
    "alpha_vantage_rate_limit_second": 0,
    "alpha_vantage_rate_limit": 10_000,
}


def test_backfills_stop_where_the_reserve_begins_and_quotes_go_on(desk: Desk) -> None:
    with desk.platform(**FAST, alpha_vantage_daily_quota=5, quote_reserve=25) as platform:
        spend(platform, 3)
        for purpose in (Purpose.REFRESH, Purpose.BACKFILL):
            refused = permit(platform, "alpha_vantage", purpose, never())
            assert refused.outcome is Outcome.QUOTA_EXHAUSTED
            assert "3 of 5 calls of the day are used and the last 2 are kept for quotes" in refused.reason
            assert refused.retry_at is not None
        spend(platform, 2, Purpose.QUOTE)
        refused = permit(platform, "alpha_vantage", Purpose.QUOTE, never())
        assert (refused.granted, refused.outcome) == (False, Outcome.QUOTA_EXHAUSTED)
        assert "all 5 calls of the day are used" in refused.reason


def test_a_call_that_was_never_sent_is_returned_once(desk: Desk) -> None:
    with desk.platform(**FAST) as platform:
        spend(platform, 2)
        for _ in range(3):
            limiter.returned(platform, "alpha_vantage")
        assert day_of(provider_quotas(platform)) == 1


def test_a_call_that_was_answered_cannot_be_returned(desk: Desk) -> None:
    with desk.platform(**FAST) as platform:
        spend(platform, 1)
        limiter.told(platform, "alpha_vantage", Outcome.OK, None)
        limiter.returned(platform, "alpha_vantage")
        assert day_of(provider_quotas(platform)) == 1


def test_another_thread_has_nothing_to_return(desk: Desk) -> None:
    with desk.platform(**FAST) as platform:
        spend(platform, 1)
        other = threading.Thread(target=limiter.returned, args=(platform, "alpha_vantage"))
        other.start()
        other.join()
        assert day_of(provider_quotas(platform)) == 1


def test_a_wait_ends_at_once_when_the_run_stops(desk: Desk) -> None:
    with desk.platform(polygon_rate_limit=1, polygon_api_key=KEY) as platform:
        stop = threading.Event()
        assert permit(platform, "polygon", Purpose.REFRESH, stop).granted
        timer = threading.Timer(0.3, stop.set)
        timer.start()
        began = time.monotonic()
        refused = permit(platform, "polygon", Purpose.REFRESH, stop)
        assert time.monotonic() - began < 5
        assert (refused.granted, refused.outcome) == (False, None)


def test_one_who_would_wait_too_long_is_told_when_to_come_back(desk: Desk) -> None:
    with desk.platform(polygon_rate_limit=1, polygon_api_key=KEY) as platform:
        assert permit(platform, "polygon", Purpose.QUOTE, never()).granted
        refused = permit(platform, "polygon", Purpose.QUOTE, never())
        assert refused.outcome is Outcome.THROTTLED
        assert "1 calls a minute" in refused.reason
        assert refused.retry_at is not None
        assert timedelta(seconds=50) < refused.retry_at - datetime.now(UTC) < timedelta(seconds=62)


def test_a_long_wish_of_the_provider_is_not_sat_out(desk: Desk) -> None:
    with desk.platform() as platform:
        limiter.told(platform, "yahoo", Outcome.THROTTLED, 600.0)
        refused = permit(platform, "yahoo", Purpose.BACKFILL, never())
        assert refused.outcome is Outcome.THROTTLED
        assert "asked to be left alone for 600 s" in refused.reason


def test_one_that_is_closed_for_a_while_says_so_to_everybody(desk: Desk) -> None:
    with desk.platform() as platform:
        limiter.told(platform, "yahoo", Outcome.UNAVAILABLE, 600.0)
        assert permit(platform, "yahoo", Purpose.QUOTE, never()).outcome is Outcome.UNAVAILABLE


def test_an_absurd_wish_is_believed_for_a_day(desk: Desk) -> None:
    with desk.platform() as platform:
        limiter.told(platform, "yahoo", Outcome.THROTTLED, 1e12)
        until = provider_quotas(platform)["yahoo"].blocked_until
        assert until is not None
        assert until - datetime.now(UTC) <= timedelta(days=1)


@pytest.mark.parametrize("retry_after", [None, 0.0, -5.0, float("nan")])
def test_a_refusal_without_a_time_blocks_nobody(desk: Desk, retry_after: float | None) -> None:
    with desk.platform() as platform:
        limiter.told(platform, "yahoo", Outcome.THROTTLED, retry_after)
        assert permit(platform, "yahoo", Purpose.REFRESH, never()).granted


def test_leave_that_was_long_on_its_way_is_exchanged_and_not_spent_twice(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limiter, "FRESH", -1.0)
    with desk.platform(**FAST) as platform:
        spend(platform, 1)
        assert day_of(provider_quotas(platform)) == 1


def test_the_simulator_has_no_limits_and_is_counted_apart(desk: Desk) -> None:
    with desk.platform(simulated=True, alpha_vantage_daily_quota=2) as platform:
        spend(platform, 5)
        limiter.told(platform, "alpha_vantage", Outcome.QUOTA_EXHAUSTED, None)
        spend(platform, 1)
        quota = provider_quotas(platform)["alpha_vantage"]
        assert (quota.enforced, quota.day.used, quota.day.limit) == (False, 6, 2)
    with desk.platform(alpha_vantage_api_key=KEY) as platform:
        assert day_of(provider_quotas(platform)) == 0


def test_another_key_has_a_day_of_its_own_and_no_key_is_stored(desk: Desk) -> None:
    with desk.platform(**FAST) as platform:
        spend(platform, 1)
    with desk.platform(**FAST | {"alpha_vantage_api_key": "another-key"}) as platform:
        assert day_of(provider_quotas(platform)) == 0
        spend(platform, 1)
        with platform.database.connection() as connection:
            rows = connection.execute("SELECT key FROM market.provider_calls ORDER BY key").fetchall()
    assert len({key for (key,) in rows}) == 2
    assert all(len(key) == 10 and key not in KEY for (key,) in rows)


def test_without_its_database_nobody_calls(desk: Desk, postgres_server: PostgresServer) -> None:
    with desk.platform() as platform:
        postgres_server.drop(desk.url)
        with pytest.raises(DatabaseUnavailable):
            permit(platform, "yahoo", Purpose.QUOTE, never())
        with pytest.raises(DatabaseUnavailable):
            breaker.allowed(platform, "yahoo")


# --- breakers -----------------------------------------------------------------------------------------------


def test_five_failures_in_a_row_open_it_and_its_state_says_what_comes(desk: Desk) -> None:
    with desk.platform() as platform:
        assert breaker.allowed(platform, "yahoo") == GRANTED
        for outcome in (Outcome.UNAVAILABLE, Outcome.THROTTLED, Outcome.CHALLENGE, Outcome.UNAVAILABLE):
            breaker.learn(platform, "yahoo", outcome, "no connection")
        assert breaker_states(platform)["yahoo"].state is State.CLOSED
        breaker.learn(platform, "yahoo", Outcome.UNAVAILABLE, "no connection")
        refused = breaker.allowed(platform, "yahoo")
        assert (refused.granted, refused.outcome) == (False, Outcome.UNAVAILABLE)
        assert "failed too often in a row (last: no connection)" in refused.reason
        state = breaker_states(platform)["yahoo"]
        assert (state.state, state.failures) == (State.OPEN, OPENS_AFTER)
        assert state.since is not None
        assert state.next_try is not None
        assert timedelta(seconds=30) <= state.next_try - state.since <= timedelta(seconds=37.5)
        assert breaker_states(platform)["stooq"].state is State.CLOSED


def test_what_no_waiting_mends_is_left_alone_for_longer(desk: Desk) -> None:
    with desk.platform() as platform:
        for _ in range(OPENS_AFTER):
            breaker.learn(platform, "stooq", Outcome.CHALLENGE, "a page for browsers")
        state = breaker_states(platform)["stooq"]
        assert state.since is not None
        assert state.next_try is not None
        assert state.next_try - state.since >= timedelta(minutes=30)


@pytest.mark.parametrize("outcome", [Outcome.UNKNOWN_SYMBOL, Outcome.EMPTY_UNEXPECTED, Outcome.EMPTY_EXPECTED])
def test_what_is_wrong_with_one_symbol_is_an_answer(desk: Desk, outcome: Outcome) -> None:
    with desk.platform() as platform:
        for _ in range(OPENS_AFTER - 1):
            breaker.learn(platform, "yahoo", Outcome.UNAVAILABLE, "gone")
        breaker.learn(platform, "yahoo", outcome, "")
        breaker.learn(platform, "yahoo", Outcome.UNAVAILABLE, "gone")
        assert breaker_states(platform)["yahoo"].failures == 1


def test_a_body_that_makes_no_sense_neither_opens_nor_closes(desk: Desk) -> None:
    with desk.platform() as platform:
        for _ in range(OPENS_AFTER - 1):
            breaker.learn(platform, "yahoo", Outcome.UNAVAILABLE, "gone")
        for _ in range(OPENS_AFTER):
            breaker.learn(platform, "yahoo", Outcome.MALFORMED, "half a table")
        assert breaker.allowed(platform, "yahoo").granted
        breaker.learn(platform, "yahoo", Outcome.UNAVAILABLE, "gone")
        assert not breaker.allowed(platform, "yahoo").granted


def test_the_simulators_failures_say_nothing_about_the_real_provider(desk: Desk) -> None:
    with desk.platform(simulated=True) as platform:
        for _ in range(OPENS_AFTER):
            breaker.learn(platform, "yahoo", Outcome.UNAVAILABLE, "gone")
        assert not breaker.allowed(platform, "yahoo").granted
    with desk.platform() as platform:
        assert breaker.allowed(platform, "yahoo").granted


# --- what is told -------------------------------------------------------------------------------------------


def test_the_quota_command_tells_every_window_of_every_provider(desk: Desk) -> None:
    settings = {"ALPHA_VANTAGE_API_KEY": KEY, "POLYGON_API_KEY": KEY}
    with desk.platform(alpha_vantage_api_key=KEY, alpha_vantage_rate_limit_second=0) as platform:
        spend(platform, 2)
    rows = json.loads(desk.run("provider", "quota", "--json", **settings))
    assert {(row["provider"], row["window"]) for row in rows} == {
        (name, window)
        for name in ("alpha_vantage", "iex_cloud", "polygon", "stooq", "yahoo")
        for window in ("second", "minute", "day")
    }
    of = {(row["provider"], row["window"]): row for row in rows}
    day = of["alpha_vantage", "day"]
    assert (day["limit"], day["used"], day["remaining"], day["reserve"]) == (25, 2, 23, 5)
    assert datetime.fromisoformat(day["resets_at"]) > datetime.now(UTC)
    assert day["blocked_until"] is None
    minute = of["alpha_vantage", "minute"]
    assert (minute["limit"], minute["used"]) == (60, 2)
    assert of["polygon", "minute"]["limit"] == 5
    assert of["yahoo", "day"]["limit"] is None
    assert KEY not in json.dumps(rows)


def test_the_tables_say_what_is_wrong_and_what_happens_next(desk: Desk) -> None:
    with desk.platform(**FAST) as platform:
        for _ in range(OPENS_AFTER):
            breaker.learn(platform, "yahoo", Outcome.UNAVAILABLE, "no connection")
        limiter.told(platform, "alpha_vantage", Outcome.QUOTA_EXHAUSTED, None)
    settings = {"ALPHA_VANTAGE_API_KEY": KEY}
    shown = desk.run("provider", "quota", **settings)
    assert "breaker open, since" in shown
    assert "no connection" in shown
    assert "tried again from" in shown
    assert "alpha_vantage said that the quota of the day is used up" in shown
    assert "asked again from" in shown
    assert "POLYGON_API_KEY is not set" in shown
    status = desk.run("status", **settings)
    assert "breaker open, since" in status
    document = {one["provider"]: one for one in json.loads(desk.run("status", "--json", **settings))["providers"]}
    assert document["yahoo"]["breaker"]["state"] == "open"
    assert document["yahoo"]["breaker"]["next_try"] is not None
    assert document["alpha_vantage"]["blocked_until"] is not None
    assert document["stooq"]["breaker"]["state"] == "closed"


def test_a_provider_is_asked_again_when_a_person_says_so(desk: Desk) -> None:
    with desk.platform() as platform:
        for _ in range(OPENS_AFTER):
            breaker.learn(platform, "yahoo", Outcome.UNAVAILABLE, "gone")
        limiter.told(platform, "yahoo", Outcome.THROTTLED, 600.0)
        desk.run("provider", "resume", "yahoo")
        assert breaker.allowed(platform, "yahoo").granted
        assert permit(platform, "yahoo", Purpose.QUOTE, never()).granted


def test_the_metrics_have_prometheus_names_and_no_figure_where_there_is_no_limit(desk: Desk) -> None:
    with desk.platform(**FAST) as platform:
        spend(platform, 3)
        found = quota_metrics(platform)
    day = {"provider": "alpha_vantage", "window": "day"}
    assert Metric("marketpipe_provider_quota_used", day, 3) in found
    assert Metric("marketpipe_provider_quota_limit", day, 25) in found
    assert Metric("marketpipe_provider_quota_remaining", day, 22) in found
    assert all(one.name.startswith("marketpipe_provider_") for one in found)
    limited = {tuple(one.labels.values()) for one in found if one.name == "marketpipe_provider_quota_limit"}
    assert ("yahoo", "day") not in limited
    assert ("yahoo", "minute") in limited


def test_an_estimate_knows_the_reserve_and_how_long_it_takes(desk: Desk) -> None:
    with desk.platform(
        alpha_vantage_api_key=KEY, alpha_vantage_daily_quota=10, alpha_vantage_rate_limit=5, primary_provider="polygon"
    ) as platform:
        spend(platform, 1)
        market = platform.market("us")
        wanted = instruments_of(market, [one.symbol for one in market.instruments][:9])
        week = datetime(2024, 1, 2, tzinfo=UTC).date(), datetime(2024, 1, 5, tzinfo=UTC).date()
        chain = [platform.providers["alpha_vantage"]]
        (refresh,) = estimate(platform, market, wanted, *week, providers=chain).providers
        (quotes,) = estimate(platform, market, wanted, *week, providers=chain, purpose=Purpose.QUOTE).providers
    assert (refresh.worst, refresh.left, refresh.fits) == (9, 7, False)
    assert (quotes.left, quotes.fits) == (9, True)
    assert refresh.seconds == pytest.approx(60.25)


def test_the_view_is_for_everybody_who_reads_tables(desk: Desk) -> None:
    with desk.platform(**FAST) as platform:
        spend(platform, 1)
    with psycopg.connect(desk.url) as connection:
        query = sql.SQL('SELECT "window", "limit", used FROM market.provider_quota WHERE provider = {}')
        rows = connection.execute(query.format("alpha_vantage")).fetchall()
    assert sorted(rows) == [("day", 25, 1), ("minute", 10_000, 1), ("second", None, 1)]
