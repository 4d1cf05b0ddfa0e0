"""A market's partition keys are its exchange's sessions, and a key appears when its session has closed."""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import exchange_calendars
import pytest
from dagster import PartitionKeyRange
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.definitions.partitions.snap import PartitionsSnap

from market_pipelines.orchestration.partitions import SessionPartitionsDefinition, session_partitions

NEW_YORK = ZoneInfo("America/New_York")
WARSAW = ZoneInfo("Europe/Warsaw")
KNOWN_UNTIL = date(2026, 11, 20)


def partitions(mic: str, since: date = date(1990, 1, 1)) -> SessionPartitionsDefinition:
    return session_partitions(mic, since, KNOWN_UNTIL)


def newest_key(mic: str, now: datetime) -> str:
    with partition_loading_context(effective_dt=now):
        keys = partitions(mic).get_partition_keys()
        last = partitions(mic).get_last_partition_key()
        assert last is not None
        assert keys[-1] == last
        return last


def new_york(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=NEW_YORK)


def warsaw(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=WARSAW)


@pytest.mark.parametrize(("mic", "since"), [("XNYS", "1990-01-01"), ("XWAR", "1994-10-03")])
def test_keys_equal_the_sessions_of_exchange_calendars(mic: str, since: str) -> None:
    expected = exchange_calendars.get_calendar(mic, start=since, end="2026-11-20").sessions
    with partition_loading_context(effective_dt=datetime(2026, 11, 20, 23, tzinfo=UTC)):
        keys = partitions(mic).get_partition_keys()
    assert list(keys) == [session.date().isoformat() for session in expected]


@pytest.mark.parametrize(
    ("now", "newest"),
    [
        ("2026-11-20 15:59", "2026-11-19"),
        ("2026-11-20 16:00", "2026-11-20"),
        ("2026-11-21 12:00", "2026-11-20"),
        ("2026-11-22 23:59", "2026-11-20"),
        ("2026-11-23 09:30", "2026-11-20"),
        ("2026-07-10 15:59", "2026-07-09"),
        ("2026-07-10 16:00", "2026-07-10"),
        ("2026-03-09 15:59", "2026-03-06"),
        ("2026-03-09 16:00", "2026-03-09"),
    ],
)
def test_a_key_appears_at_the_close_and_stays_the_newest_until_the_next_close(now: str, newest: str) -> None:
    assert newest_key("XNYS", new_york(now)) == newest


def test_thanksgiving_shows_wednesday_and_never_friday() -> None:
    for hour in ("00:01", "09:30", "16:30", "23:59"):
        assert newest_key("XNYS", new_york(f"2026-11-26 {hour}")) == "2026-11-25"


def test_a_half_day_appears_at_one() -> None:
    assert newest_key("XNYS", new_york("2026-11-27 12:59")) == "2026-11-25"
    assert newest_key("XNYS", new_york("2026-11-27 13:00")) == "2026-11-27"


@pytest.mark.parametrize("day", ["2026-03-09", "2026-03-27", "2026-10-26", "2026-10-30"])
def test_the_weeks_of_five_hours_between_new_york_and_warsaw(day: str) -> None:
    session = datetime.fromisoformat(f"{day} 16:59")
    assert newest_key("XWAR", warsaw(str(session))) < day
    assert newest_key("XWAR", warsaw(f"{day} 17:00")) == day
    assert newest_key("XNYS", warsaw(f"{day} 20:59")) < day
    assert newest_key("XNYS", warsaw(f"{day} 21:00")) == day


def test_an_ad_hoc_closure_is_no_key() -> None:
    assert not partitions("XNYS").has_partition_key("2025-01-09")
    assert partitions("XNYS").has_partition_key("2025-01-08")
    assert newest_key("XNYS", new_york("2025-01-09 18:00")) == "2025-01-08"


@pytest.mark.parametrize("mic", ["XNYS", "XWAR", "XLON", "XTKS", "XHKG", "XASX"])
def test_processes_without_our_code_rebuild_the_same_keys(mic: str) -> None:
    ours = partitions(mic, date(2015, 1, 1))
    rebuilt = PartitionsSnap.from_def(ours).get_partitions_definition()
    assert type(rebuilt) is not type(ours)
    with partition_loading_context(effective_dt=datetime(2026, 11, 21, 12, tzinfo=UTC)):
        assert list(rebuilt.get_partition_keys()) == list(ours.get_partition_keys())


def test_processes_without_our_code_never_show_a_key_before_its_close() -> None:
    rebuilt = PartitionsSnap.from_def(partitions("XNYS")).get_partitions_definition()
    for now in ("2026-11-20 15:59", "2026-07-10 15:59", "2026-11-27 12:59", "2026-11-21 17:00", "2026-11-26 20:00"):
        with partition_loading_context(effective_dt=new_york(now)):
            shown = rebuilt.get_last_partition_key()
        ours = newest_key("XNYS", new_york(now))
        assert shown is not None
        assert shown <= ours


def test_a_range_holds_exactly_its_sessions() -> None:
    keys = partitions("XNYS").get_partition_keys_in_range(PartitionKeyRange("2025-01-07", "2025-01-13"))
    assert list(keys) == ["2025-01-07", "2025-01-08", "2025-01-10", "2025-01-13"]


def test_partitions_begin_where_the_market_file_says() -> None:
    assert partitions("XNYS", date(2024, 1, 1)).get_partition_keys()[0] == "2024-01-02"
