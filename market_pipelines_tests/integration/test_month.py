"""Five weeks of both markets, run by the daemon alone: what goes wrong on the way is mended, told once, and over."""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, LiteralString
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import dagster as dg
import psycopg
import pytest
import time_machine
from psycopg import sql

from market_pipelines.market.sessions import trading_calendar
from market_pipelines.settings import Settings
from market_pipelines.simulator.listings import Listing, all_listings
from market_pipelines.simulator.server import Simulator
from market_pipelines.simulator.traffic import RequestLog
from market_pipelines.store.bars import STOCKS
from market_pipelines.store.database import Database
from market_pipelines.store.read_bars import read_prices
from market_pipelines_tests import process_state
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.integration import small_markets
from market_pipelines_tests.integration.daemon_days import Daemon, daemon_of, instance_on
from market_pipelines_tests.integration.small_markets import FOLLOWED

pytestmark = pytest.mark.timeout(1800)

START = datetime(2026, 10, 30, 12, tzinfo=UTC)
END = datetime(2026, 11, 28, 12, tzinfo=UTC)
QUIET_LOOKS = tuple(time.fromisoformat(text) for text in ("03:40", "17:02", "22:10"))
"""Once in the night for the housekeeping, and after either exchange has closed."""
WEEKEND_LOOKS = QUIET_LOOKS[:1]
LOOKS = (*QUIET_LOOKS, time.fromisoformat("13:40"), time.fromisoformat("19:40"))
"""Before and while New York trades as well."""
SATURDAY = 5
OFF = (datetime(2026, 11, 2, 6, tzinfo=UTC), datetime(2026, 11, 5, 6, tzinfo=UTC))
"""Nobody runs the daemon."""
MISSED = (date(2026, 11, 2), date(2026, 11, 4))
OUTAGE = (datetime(2026, 11, 9, 6, tzinfo=UTC), datetime(2026, 11, 11, 6, tzinfo=UTC))
HOLES = (("us", "AAPL", date(2026, 11, 12)), ("pl", "PKO", date(2026, 11, 12)), ("us", "JPM", date(2026, 11, 13)))
SPLIT = ("KO", date(2026, 11, 17), 2.0)
CORRECTED = ("WMT", date(2026, 11, 19))
EVENTFUL = {date(2026, 11, day) for day in (5, 9, 10, 11, 12, 13, 17, 20, 26, 27)}
"""Something begins or ends, or a market is closed."""
MIC = {"us": "XNYS", "pl": "XWAR"}
ALPHA_VANTAGE_A_DAY = 25
POLYGON_A_MINUTE = 50

PRETENDED_CLOCK = """
CREATE SCHEMA pretended;
CREATE TABLE pretended.difference (of interval NOT NULL);
INSERT INTO pretended.difference VALUES ('0');
CREATE FUNCTION pretended.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
    RETURN pg_catalog.clock_timestamp() + (SELECT of FROM pretended.difference);
"""
"""The limits are measured by the database's clock, which has to show the time of the story as well."""


def hours_of_the_story() -> Iterator[datetime]:
    """Often on a day on which something happens, and seldom on the others: each look is a second or two of a test."""
    day = START.date()
    while day <= END.date():
        weekday = LOOKS if day in EVENTFUL else QUIET_LOOKS
        for clock in sorted(weekday) if day.weekday() < SATURDAY else WEEKEND_LOOKS:
            at = datetime.combine(day, clock, UTC)
            if START <= at <= END and not OFF[0] <= at < OFF[1]:
                yield at
        day += timedelta(days=1)
    # What was over at last is told when it has lasted.
    yield END + timedelta(minutes=15)
    yield END + timedelta(minutes=30)


def listings() -> tuple[Listing, ...]:
    symbol, ex_date, ratio = SPLIT
    return tuple(
        replace(one, splits=(*one.splits, (ex_date, ratio))) if (one.symbol, one.mic) == (symbol, "XNYS") else one
        for one in all_listings()
    )


def faults_at(now: datetime) -> list[str]:
    """What is wrong with the providers at that time."""
    found = ["iex_cloud.close=on"]
    if OUTAGE[0] <= now < OUTAGE[1]:
        found += ["yahoo.status=503", "stooq.status=503"]
    for market, symbol, session in HOLES:
        # Nobody has the bar, for longer than corrections are looked for.
        if (
            datetime.combine(session, time(12), UTC)
            <= now
            < datetime.combine(session, time(12), UTC) + timedelta(days=6)
        ):
            providers = ("yahoo", "alpha_vantage", "polygon", "stooq") if market == "us" else ("yahoo", "stooq")
            found += [f"{provider}.missing_rows={session}@{symbol}" for provider in providers]
    symbol, ex_date, _ = SPLIT
    if now < datetime(2026, 11, 20, 12, tzinfo=UTC):
        found.append(f"yahoo.missed_split={ex_date}@{symbol}")
    symbol, session = CORRECTED
    if now >= datetime.combine(session + timedelta(days=1), time(12), UTC):
        found += [f"{name}.correction={symbol}:{session}:+0.5%" for name in ("yahoo", "alpha_vantage", "stooq")]
    return found


class Receiver:
    """What a person's phone would have shown, with the time of the story."""

    def __init__(self) -> None:
        self.messages: list[tuple[datetime, str, str]] = []
        messages = self.messages

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                messages.append((datetime.now(UTC), told["title"], told["message"]))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="receiver")

    @property
    def address(self) -> str:
        return f"json://127.0.0.1:{self._server.server_port}/told"

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@dataclass
class Story:
    simulator: Simulator
    instance: dg.DagsterInstance
    database: Database
    receiver: Receiver
    asked: RequestLog

    def runs(self, job: str | None = None) -> list[dg.DagsterRun]:
        """Oldest first."""
        return list(self.instance.get_runs(filters=dg.RunsFilter(job_name=job)))[::-1]

    def rows(self, query: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        with self.database.connection() as connection:
            return connection.execute(query, values).fetchall()

    def truth(self, market: str, symbol: str) -> dict[date, float]:
        listing = self.simulator.world.find(symbol, MIC[market])
        assert listing is not None
        tape = self.simulator.world.tape(listing, END)
        return dict(zip(tape.sessions.astype(object).tolist(), tape.bars.close.tolist(), strict=True))


def lived(story: Story, daemon: Daemon, clock: time_machine.Traveller) -> None:
    for at in hours_of_the_story():
        story.simulator.faults.replace(faults_at(at))
        clock.move_to(at)
        with story.database.connection() as connection:
            connection.execute(
                "UPDATE pretended.difference SET of = %s - pg_catalog.clock_timestamp()", (datetime.now(UTC),)
            )
        daemon.look()


@pytest.fixture(scope="module")
def story(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        url, dagster_url = postgres_server.create(), postgres_server.create(migrated=False)
        stack.callback(postgres_server.drop, url)
        stack.callback(postgres_server.drop, dagster_url)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(PRETENDED_CLOCK)
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET search_path = pretended, pg_catalog, public").format(
                    sql.Identifier(urlsplit(url).path.lstrip("/"))
                )
            )
        simulator = stack.enter_context(Simulator(listings=listings(), requests_kept=1_000_000))
        receiver = stack.enter_context(Receiver())
        folder = tmp_path_factory.mktemp("month")
        settings = {
            **simulator.base_urls(),
            # Not simulated use: every limit is to hold.
            "MARKET_PIPELINES_SIMULATOR": "off",
            "ALPHA_VANTAGE_API_KEY": "a-key-of-the-story",
            # Its limit by the second is waited for in real time; tests of their own hold it.
            "ALPHA_VANTAGE_RATE_LIMIT_SECOND": "0",
            "POLYGON_API_KEY": "another-key-of-the-story",
            "POLYGON_RATE_LIMIT": str(POLYGON_A_MINUTE),
            "STOOQ_API_KEY": "a-third-key-of-the-story",
            "NOTIFY_URLS": receiver.address,
            "DATABASE_URL": url,
            "MARKET_PIPELINES_HOME": str(folder / "data"),
        }
        for name in Settings.model_fields:
            patch.delenv(name.upper(), raising=False)
        for name, value in settings.items():
            patch.setenv(name, value)
        patch.setattr("market_pipelines.pipeline.platform.read_markets", small_markets.small_markets)
        stack.enter_context(process_state.levels_as_they_were())
        logging.getLogger("dagster").setLevel(logging.CRITICAL)
        clock = stack.enter_context(time_machine.travel(START, tick=True))
        instance = stack.enter_context(instance_on(folder / "dagster", dagster_url))
        daemon = stack.enter_context(daemon_of(instance, small_markets.__name__))
        told = Story(simulator, instance, stack.enter_context(Database(url)), receiver, simulator.requests)
        lived(told, daemon, clock)
        yield told


def sessions_of(market: str) -> tuple[date, ...]:
    return trading_calendar(MIC[market], END).sessions(START.date() + timedelta(days=1), END.date())


# --- the tables ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("market", ["us", "pl"])
def test_every_bar_is_there_and_right(story: Story, market: str) -> None:
    sessions = sessions_of(market)
    with story.database.connection() as connection:
        stored = read_prices(connection, market, FOLLOWED[market], sessions[0], sessions[-1], table=STOCKS)
    days = [stamp.date() for stamp in stored["session"]]
    closes = dict(zip(zip(stored["symbol"], days, strict=True), stored["close"].tolist(), strict=True))
    wrong = {}
    for symbol in FOLLOWED[market]:
        truth = story.truth(market, symbol)
        for session in sessions:
            expected = truth[session] * (1.005 if (symbol, session) == CORRECTED else 1.0)
            got = closes.get((symbol, session))
            if got is None or abs(got / expected - 1) > 1e-4:
                wrong[symbol, session] = (got, expected)
    assert not wrong
    assert set(stored["condition"]) == {"available"}
    assert not stored["provisional"].any()


@pytest.mark.parametrize("market", ["us", "pl"])
def test_every_session_has_its_bars_within(story: Story, market: str) -> None:
    sessions = sessions_of(market)
    stored = story.rows(
        "SELECT symbol, session, condition FROM market.coverage WHERE market = %s AND interval = '60min' "
        "AND session BETWEEN %s AND %s",
        market,
        sessions[0],
        sessions[-1],
    )
    expected = {(symbol, session) for symbol in FOLLOWED[market] for session in sessions}
    there = {(symbol, session): condition for symbol, session, condition in stored}
    assert {one for one in expected if there.get(one) not in ("available", "degraded")} == set()
    # In Warsaw only Stooq had the lacking session's minutes, and its prices are adjusted.
    degraded = {(market, *one) for one in expected if there[one] == "degraded"}
    assert degraded <= {hole for hole in HOLES if hole[0] == "pl"}


def test_the_late_correction_is_a_revision_and_the_first_word_is_kept(story: Story) -> None:
    symbol, session = CORRECTED
    kept = story.rows(
        "SELECT close FROM market.bar_revisions WHERE symbol = %s AND session = %s AND source_table = 'stock_prices'",
        symbol,
        session,
    )
    assert story.truth("us", symbol)[session] in [pytest.approx(close) for (close,) in kept]


def test_the_split_that_the_first_provider_misses_is_known(story: Story) -> None:
    symbol, ex_date, ratio = SPLIT
    known = story.rows(
        "SELECT ex_date, factor FROM market.corporate_actions WHERE symbol = %s AND kind = 'split' AND ex_date > %s",
        symbol,
        START.date(),
    )
    assert known == [(ex_date, ratio)]


def test_every_hole_was_seen_and_is_healed(story: Story) -> None:
    holes = story.rows("SELECT market, symbol, session, healed_at IS NOT NULL FROM market.holes WHERE interval = '1d'")
    assert {(market, symbol, session, True) for market, symbol, session in HOLES} <= set(holes)
    assert [one for one in holes if not one[3]] == []


# --- the runs ------------------------------------------------------------------------------------------------


def partitions_of(run: dg.DagsterRun) -> tuple[str, str] | None:
    tags = run.tags
    if "dagster/partition" in tags:
        return tags["dagster/partition"], tags["dagster/partition"]
    if "dagster/asset_partition_range_start" in tags:
        return tags["dagster/asset_partition_range_start"], tags["dagster/asset_partition_range_end"]
    return None


def began(story: Story, run: dg.DagsterRun) -> datetime:
    record = story.instance.get_run_record_by_id(run.run_id)
    assert record is not None and record.start_time is not None
    return datetime.fromtimestamp(record.start_time, UTC)


def test_no_run_was_made_twice(story: Story) -> None:
    keys = Counter((run.job_name, run.tags["dagster/run_key"]) for run in story.runs() if "dagster/run_key" in run.tags)
    assert [key for key, count in keys.items() if count > 1] == []
    assert len(keys) > 100


@pytest.mark.parametrize("market", ["us", "pl"])
def test_the_days_without_a_daemon_are_caught_up_in_one_run(story: Story, market: str) -> None:
    spans = [partitions_of(run) for run in story.runs(f"{market}_daily_refresh")]
    missed = (MISSED[0].isoformat(), MISSED[1].isoformat())
    assert spans.count(missed) == 1
    assert not [session for session, end in filter(None, spans) if session == end and missed[0] <= end <= missed[1]]


@pytest.mark.parametrize(("market", "day_off"), [("us", "2026-11-26"), ("pl", "2026-11-11")])
def test_a_holiday_starts_nothing(story: Story, market: str, day_off: str) -> None:
    for layer in ("daily", "intraday"):
        spans = [span for run in story.runs(f"{market}_{layer}_refresh") if (span := partitions_of(run)) is not None]
        assert len(spans) > 15
        assert day_off not in {day for span in spans for day in span}


def test_a_half_day_is_refreshed_after_its_own_close(story: Story) -> None:
    (run,) = [run for run in story.runs("us_daily_refresh") if partitions_of(run) == ("2026-11-27", "2026-11-27")]
    close = trading_calendar("XNYS", END).times(date(2026, 11, 27)).closes
    assert close + timedelta(minutes=30) <= began(story, run) < close + timedelta(hours=2)


@pytest.mark.parametrize("market", ["us", "pl"])
def test_every_other_day_is_refreshed_within_two_hours_of_its_close(story: Story, market: str) -> None:
    calendar = trading_calendar(MIC[market], END)
    started = {
        span[1]: began(story, run)
        for run in story.runs(f"{market}_daily_refresh")[::-1]
        if (span := partitions_of(run))
    }
    late = [
        session
        for session in sessions_of(market)
        if not OFF[0] <= calendar.times(session).closes < OFF[1]
        and started[session.isoformat()] > calendar.times(session).closes + timedelta(hours=2)
    ]
    assert late == []


# --- the limits ----------------------------------------------------------------------------------------------


def test_no_provider_was_asked_beyond_its_quota(story: Story) -> None:
    new_york = ZoneInfo("America/New_York")
    days = Counter(one.at.astimezone(new_york).date() for one in story.asked.newest("alpha_vantage"))
    minutes = Counter(one.at.replace(second=0, microsecond=0) for one in story.asked.newest("polygon"))
    assert max(days.values()) <= ALPHA_VANTAGE_A_DAY
    assert max(minutes.values()) <= POLYGON_A_MINUTE
    assert days[OUTAGE[0].date()] > 0, "the outage was to be bridged"


# --- the incidents -------------------------------------------------------------------------------------------


def test_each_incident_is_told_once_and_so_is_its_end(story: Story) -> None:
    incidents = story.rows("SELECT incident_id, key, closed_at FROM market.incidents WHERE severity = 'error'")
    assert incidents
    assert [key for _, key, closed_at in incidents if closed_at is None] == []
    told = story.rows(
        "SELECT n.incident_id, n.kind, n.sent_at IS NOT NULL, count(*) FROM market.notifications AS n "
        "JOIN market.incidents AS i USING (incident_id) WHERE i.severity = 'error' GROUP BY 1, 2, 3"
    )
    assert sorted(told) == sorted(
        (number, kind, True, 1) for number, _, _ in incidents for kind in ("opened", "recovered")
    )


def test_the_outage_of_two_days_is_one_story(story: Story) -> None:
    """Whatever is red about it is told once: not at every look, and not again while a provider is on trial."""
    of_the_outage = story.rows(
        "SELECT key, count(*) FROM market.incidents WHERE severity = 'error' AND opened_at BETWEEN %s AND %s "
        "GROUP BY key",
        *OUTAGE,
    )
    assert of_the_outage
    assert [key for key, count in of_the_outage if count > 1] == []
    during = [at for at, _, _ in story.receiver.messages if OUTAGE[0] <= at < OUTAGE[1]]
    assert 1 <= len(during) <= 12


def test_what_was_wrong_is_in_the_ui(story: Story) -> None:
    key = dg.AssetKey(["platform", "incidents"])
    observed = story.instance.fetch_observations(key, limit=1000).records
    assert len(observed) >= 2
