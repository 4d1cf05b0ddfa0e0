"""Incidents and their outbox on a real database: once, never lost, never doubled, whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from market_pipelines import redaction
from market_pipelines.pipeline import notices
from market_pipelines.pipeline.incidents import (
    GIVE_UP_AFTER,
    Recovery,
    all_incidents,
    close_by_hand,
    close_incident,
    deliver,
    is_over,
    open_incident,
    open_incidents,
    outbox_state,
    record,
    record_once,
    send_test,
)
from market_pipelines.pipeline.notices import targets_of
from market_pipelines.pipeline.platform import Platform
from market_pipelines.providers.http import HttpClient
from market_pipelines.settings import Settings, read_settings
from market_pipelines.store.archive import RawArchive
from market_pipelines.store.database import Database
from market_pipelines.store.incidents import Sighting, UnknownIncident
from market_pipelines_tests.receiver import TOKEN, Receiver, receiver

BEGIN = datetime(2026, 3, 6, 12, tzinfo=UTC)
NOBODY = "json://127.0.0.1:1/nobody"


@dataclass
class Desk:
    platform: Platform
    hook: Receiver
    now: datetime = BEGIN

    def later(self, **span: float) -> None:
        self.now += timedelta(**span)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self.platform.database.connection() as connection:
            return connection.execute(query.encode()).fetchall()

    def with_settings(self, **settings: Any) -> Platform:
        return replace(self.platform, settings=read_settings(None, **settings))


@pytest.fixture
def desk(fresh_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(redaction, "_known", ())
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    with receiver() as hook, HttpClient() as http:
        made: list[Desk] = []
        platform = Platform(
            settings=read_settings(None, notify_urls=hook.url),
            database=fresh_database,
            archive=RawArchive(tmp_path),
            http=http,
            providers={},
            markets={},
            simulated=False,
            clock=lambda: made[0].now,
        )
        made.append(Desk(platform, hook))
        yield made[0]


def red(platform: Platform, key: str = "run:job", detail: str = "broken", **more: Any) -> bool:
    return open_incident(platform, key, f"{key} failed", detail, source="test", **more)


def test_a_repetition_is_counted_and_told_nobody(desk: Desk) -> None:
    assert red(desk.platform)
    desk.later(minutes=1)
    assert not red(desk.platform, detail="still broken")
    (one,) = open_incidents(desk.platform)
    assert (one.times_seen, one.detail, one.last_seen) == (2, "still broken", desk.now)
    assert deliver(desk.platform).sent == 1
    assert deliver(desk.platform).sent == 0
    assert desk.hook.titles == ["run:job failed"]


def test_a_recovery_is_told_once_it_has_lasted(desk: Desk) -> None:
    red(desk.platform)
    deliver(desk.platform)
    assert close_incident(desk.platform, "run:job", "fine again")
    assert not close_incident(desk.platform, "run:job")
    desk.later(minutes=9)
    assert deliver(desk.platform).sent == 0
    desk.later(minutes=1)
    assert deliver(desk.platform).sent == 1
    assert desk.hook.titles == ["run:job failed", "recovered: run:job failed"]
    desk.later(minutes=5)
    assert red(desk.platform), "after its recovery was told it is a new incident"


def test_what_flaps_is_one_incident_and_silent_until_it_is_stable(desk: Desk) -> None:
    for _ in range(5):
        red(desk.platform)
        desk.later(minutes=3)
        close_incident(desk.platform, "run:job")
        desk.later(minutes=3)
        deliver(desk.platform)
    assert desk.hook.titles == ["run:job failed"]
    desk.later(minutes=10)
    deliver(desk.platform)
    assert desk.hook.titles == ["run:job failed", "recovered: run:job failed"]
    assert [one.times_seen for one in all_incidents(desk.platform)] == [5]


def test_many_at_once_are_one_incident(desk: Desk) -> None:
    with ThreadPoolExecutor(4) as pool:
        news = list(pool.map(lambda _: red(desk.platform), range(20)))
    assert news.count(True) == 1
    assert [one.times_seen for one in open_incidents(desk.platform)] == [20]
    assert desk.rows("SELECT count(*) FROM market.notifications") == [(1,)]


def test_a_receiver_that_is_down_is_tried_again_later_and_later_and_told_in_order(desk: Desk) -> None:
    desk.hook.status = 500
    red(desk.platform)
    close_incident(desk.platform, "run:job")
    tries = []
    for minute in range(120):
        report = deliver(desk.platform)
        if report.failed:
            tries.append(minute)
            assert "500" in report.errors[0]
        desk.later(minutes=1)
    assert tries == [0, 1, 2, 4, 8, 16, 31, 46, 61, 76, 91, 106]
    desk.hook.status = 200
    desk.later(minutes=15)
    assert deliver(desk.platform).sent == 2
    assert desk.hook.titles == ["run:job failed", "recovered: run:job failed"]


def test_what_nobody_took_for_days_is_given_up_and_so_is_what_goes_to_nobody(desk: Desk) -> None:
    desk.hook.status = 500
    red(desk.platform)
    deliver(desk.platform)
    elsewhere = desk.with_settings(notify_urls=NOBODY)
    red(elsewhere, "run:other")
    desk.later(minutes=1)
    assert deliver(desk.platform).given_up == 1
    assert "no longer names" in str(desk.rows("SELECT error FROM market.notifications WHERE given_up_at IS NOT NULL"))
    desk.now += GIVE_UP_AFTER
    assert deliver(desk.platform).given_up == 1
    close_incident(desk.platform, "run:job")
    assert outbox_state(desk.platform).waiting == 0, "whoever was not told of it is not told that it is over"


def test_two_receivers_do_not_wait_for_each_other(desk: Desk) -> None:
    both = desk.with_settings(notify_urls=f"{NOBODY} {desk.hook.url}")
    red(both)
    report = deliver(both)
    assert (report.sent, report.failed) == (1, 1)
    assert [bool(one.error) for one in send_test(both)] == [True, False]


def test_a_warning_is_kept_and_told_only_to_those_who_want_warnings(desk: Desk) -> None:
    red(desk.platform, severity="warning")
    assert deliver(desk.platform).sent == 0
    red(desk.platform, severity="error")
    assert deliver(desk.platform).sent == 1, "it has become worse"
    red(desk.with_settings(notify_urls=desk.hook.url, notify_severity="warning"), "check:x", severity="warning")
    assert deliver(desk.platform).sent == 1


def test_nobody_to_tell_is_no_reason_to_forget(desk: Desk) -> None:
    silent = desk.with_settings()
    assert red(silent)
    assert deliver(silent).waiting == 0
    assert len(open_incidents(silent)) == 1


def test_what_is_recorded_together_is_recorded_whole_or_not_at_all(desk: Desk) -> None:
    fine = Sighting(key="a", title="a", detail="", source="test")
    with pytest.raises(psycopg.Error):
        record(desk.platform, [fine, replace(fine, key="b", source="what no\x00database takes")])
    assert open_incidents(desk.platform) == []


def test_events_that_somebody_has_recorded_are_not_recorded_twice(desk: Desk) -> None:
    seen = [Sighting(key="a", title="a", detail="", source="test")]
    assert record_once(desk.platform, "log", seen, None, "7") is not None
    assert record_once(desk.platform, "log", seen, None, "7") is None
    (one,) = open_incidents(desk.platform)
    assert one.times_seen == 1


def test_an_incident_is_closed_by_hand_once(desk: Desk) -> None:
    red(desk.platform)
    (one,) = open_incidents(desk.platform)
    assert close_by_hand(desk.platform, one.incident_id, "seen to").closing_detail == "seen to"
    with pytest.raises(UnknownIncident, match="is over already"):
        close_by_hand(desk.platform, one.incident_id, "again")
    with pytest.raises(UnknownIncident, match="there is no incident 99"):
        close_by_hand(desk.platform, 99, "")


@pytest.mark.parametrize(
    ("start", "end", "over"),
    [
        ("2026-03-06", "2026-03-06", True),
        ("2026-03-09", "2026-03-09", True),
        ("2026-01-02", "2026-03-05", False),
        ("2026-01-02", "2026-03-06", True),
    ],
)
def test_only_sessions_that_are_not_older_end_an_incident(desk: Desk, start: str, end: str, over: bool) -> None:
    red(desk.platform, through=date(2026, 3, 6))
    (one,) = open_incidents(desk.platform)
    span = date.fromisoformat(start), date.fromisoformat(end)
    assert is_over(one, span) is over
    assert record(desk.platform, [Recovery(key="run:job", span=span)]).closed == over


def test_what_was_wrong_with_an_old_session_is_not_mended_by_a_new_one(desk: Desk) -> None:
    red(desk.platform, through=date(2019, 5, 2))
    (one,) = open_incidents(desk.platform)
    assert not is_over(one, (date(2026, 3, 6), date(2026, 3, 6)))
    assert is_over(one, (date(2019, 1, 2), date(2019, 12, 31)))


def test_no_secret_is_kept_or_sent(desk: Desk) -> None:
    redaction.register_secret("pa55-Word-Of-Mine")
    red(desk.platform, detail="login with pa55-Word-Of-Mine failed")
    desk.hook.status = 500
    deliver(desk.platform)
    everything = str(
        desk.rows("SELECT i::text, n::text FROM market.incidents i JOIN market.notifications n USING (incident_id)")
    )
    assert "pa55" not in everything
    assert TOKEN not in everything
    assert "[redacted]" in everything
    desk.later(minutes=5)
    desk.hook.status = 200
    deliver(desk.platform)
    assert "pa55" not in str(desk.hook.messages)
    assert TOKEN not in repr(targets_of(desk.platform.settings))


def test_a_receiver_that_never_answers_costs_its_time_and_no_more(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    desk.hook.before_answer = lambda: assert_told(answer)
    monkeypatch.setattr(notices.send, "__kwdefaults__", {"seconds": 0.3})
    red(desk.platform)
    began = time.monotonic()
    (error,) = deliver(desk.platform).errors
    assert time.monotonic() - began < 5
    assert "no answer within" in error
    desk.later(minutes=5)
    (error,) = deliver(desk.platform).errors
    assert "has not ended yet" in error
    answer.set()


def assert_told(answer: threading.Event) -> None:
    assert answer.wait(30)


DELIVERER = """
    import os, signal, sys
    from datetime import datetime
    from types import SimpleNamespace
    from market_pipelines.pipeline import incidents
    from market_pipelines.settings import read_settings
    from market_pipelines.store.database import Database

    url, hook, moment = sys.argv[1:]
    with Database(url) as database:
        platform = SimpleNamespace(
            settings=read_settings(None, notify_urls=hook), database=database, simulated=False,
            clock=lambda: datetime.fromisoformat("2026-03-06T12:00:00+00:00"),
        )
        def die(*_args, **_kwargs):
            os.kill(os.getpid(), signal.SIGKILL)
        if moment == "before the commit":
            incidents.keep_position = die
            sighting = incidents.Sighting(key="run:job", title="run:job failed", detail="", source="test")
            incidents.record_once(platform, "log", [sighting], None, "1")
        elif moment == "after the commit":
            sighting = incidents.Sighting(key="run:job", title="run:job failed", detail="", source="test")
            incidents.record_once(platform, "log", [sighting], None, "1")
            die()
        elif moment == "before sending":
            incidents.send = die
            incidents.deliver(platform)
        else:
            incidents.mark_sent = die
            incidents.deliver(platform)
"""


def killed(desk: Desk, moment: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DELIVERER), desk.platform.database.url, desk.hook.url, moment],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()


def test_a_kill_at_any_moment_loses_no_notification_and_doubles_no_row(desk: Desk) -> None:
    sighting = Sighting(key="run:job", title="run:job failed", detail="", source="test")
    killed(desk, "before the commit")
    assert open_incidents(desk.platform) == []
    killed(desk, "after the commit")
    assert record_once(desk.platform, "log", [sighting], None, "1") is None
    assert desk.rows("SELECT count(*), max(attempts) FROM market.notifications") == [(1, 0)]
    killed(desk, "before sending")
    assert desk.hook.messages == []
    killed(desk, "between the answer and the note of it")
    assert len(desk.hook.messages) == 1
    deadline = time.monotonic() + 30
    while not desk.rows("SELECT FROM market.notifications WHERE sent_at IS NOT NULL"):
        # The server may need a moment to see that the killed one has let go.
        assert time.monotonic() < deadline
        deliver(desk.platform)
    assert len(desk.hook.messages) == 2, "at least once: what was not noted is sent again"
    assert deliver(desk.platform).sent == 0
    assert desk.rows("SELECT count(*) FROM market.notifications WHERE sent_at IS NOT NULL") == [(1,)]
