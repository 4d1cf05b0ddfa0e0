"""What a feed's trouble and the service's own pauses become in the journal."""

from __future__ import annotations

from collections.abc import Sequence

from market_pipelines.streaming.entries import GapCause, Mark, MarkKind
from market_pipelines.streaming.feeds.protocol import ConnectionState
from market_pipelines.streaming.gaps import QUIET_SECONDS, GapWatch
from market_pipelines.streaming.plan import Channel, FeedName, StreamPlan

PLAN = StreamPlan("us", FeedName.POLYGON, ("AAPL", "KO"), channels=(Channel.QUOTES, Channel.TRADES))
SECOND = 1_000_000_000


class Watched:
    """A watch with a clock of its own, and what it wrote."""

    def __init__(self) -> None:
        self.now = 1_000 * SECOND
        self.marks: list[Mark] = []
        self.watch = GapWatch(PLAN, self.marks.append, self.carried, lambda: self.now)

    def carried(self, origin: str) -> tuple[str, ...] | None:
        return {"polygon-1": ("AAPL",)}.get(origin)

    def begin(self, last: int = 0, *, clean: bool = True, open_gaps: Sequence[Mark] = ()) -> None:
        self.watch.begin(last, clean=clean, open_gaps=open_gaps)

    def of(self, kind: MarkKind) -> list[Mark]:
        return [mark for mark in self.marks if mark.kind is kind]


def connection(number: int, last_data_ns: int = 0, state: str = "live") -> ConnectionState:
    return ConnectionState(f"polygon-{number}", state, 1, 0, 0, 0, last_data_ns)


def test_a_loss_and_its_end_are_one_gap_of_the_connections_symbols() -> None:
    seen = Watched()
    seen.begin()
    seen.watch.lost("polygon-1", GapCause.SILENT, 990 * SECOND, "connected but mute")
    seen.now += 5 * SECOND
    seen.watch.regained("polygon-1", 1_004 * SECOND)
    (opened,), (closed,) = seen.of(MarkKind.GAP_OPENED), seen.of(MarkKind.GAP_CLOSED)
    assert opened.gap == closed.gap
    assert (opened.cause, opened.begins_ns, opened.symbols) == (GapCause.SILENT, 990 * SECOND, ("AAPL",))
    assert opened.channels == ("quotes", "trades")
    assert (closed.begins_ns, closed.ends_ns) == (990 * SECOND, 1_004 * SECOND)
    assert seen.watch.lost_now == ()
    assert seen.watch.closed_ns == 14 * SECOND


def test_a_connection_that_fails_again_and_again_has_one_gap() -> None:
    seen = Watched()
    seen.begin()
    for _ in range(3):
        seen.watch.lost("polygon-1", GapCause.DISCONNECTED, 999 * SECOND, "refused")
    assert len(seen.of(MarkKind.GAP_OPENED)) == 1


def test_two_connections_that_are_lost_at_once_have_a_gap_each() -> None:
    seen = Watched()
    seen.begin()
    for origin in ("polygon-1", "polygon-2"):
        seen.watch.lost(origin, GapCause.DISCONNECTED, 999 * SECOND, "reset")
    assert len({mark.gap for mark in seen.of(MarkKind.GAP_OPENED)}) == 2


def test_a_regained_connection_that_was_never_lost_is_no_gap() -> None:
    seen = Watched()
    seen.begin()
    seen.watch.regained("polygon-1", seen.now)
    assert seen.of(MarkKind.GAP_CLOSED) == []


def test_a_new_journal_has_missed_nothing() -> None:
    seen = Watched()
    seen.begin(0)
    assert [mark.kind for mark in seen.marks] == [MarkKind.STARTED]


def test_after_a_kill_the_gap_begins_at_the_last_durable_entry_and_ends_with_the_first_data() -> None:
    seen = Watched()
    seen.begin(700 * SECOND, clean=False)
    (opened,) = seen.of(MarkKind.GAP_OPENED)
    assert (opened.cause, opened.begins_ns, opened.symbols) == (GapCause.CRASHED, 700 * SECOND, None)
    seen.watch.look([connection(1)])
    assert seen.of(MarkKind.GAP_CLOSED) == [], "nothing has come yet"
    seen.now += 3 * SECOND
    seen.watch.look([connection(1, seen.now)])
    (closed,) = seen.of(MarkKind.GAP_CLOSED)
    assert (closed.gap, closed.ends_ns) == (opened.gap, seen.now)
    seen.watch.look([connection(1, seen.now)])
    assert len(seen.of(MarkKind.GAP_CLOSED)) == 1


def test_after_an_orderly_stop_the_gap_is_a_pause() -> None:
    seen = Watched()
    seen.begin(700 * SECOND, clean=True)
    assert [mark.cause for mark in seen.of(MarkKind.GAP_OPENED)] == [GapCause.STOPPED]


def test_the_gap_goes_on_until_every_connection_has_data() -> None:
    seen = Watched()
    seen.begin(700 * SECOND, clean=False)
    seen.watch.look([connection(1, seen.now), connection(2)])
    assert seen.of(MarkKind.GAP_CLOSED) == []
    seen.watch.look([connection(1, seen.now), connection(2, seen.now)])
    assert len(seen.of(MarkKind.GAP_CLOSED)) == 1


def test_a_clock_that_is_set_back_keeps_no_gap_open() -> None:
    seen = Watched()
    seen.begin(700 * SECOND, clean=False)
    seen.now -= 3_600 * SECOND // 10
    seen.watch.look([connection(1, seen.now)])
    (closed,) = seen.of(MarkKind.GAP_CLOSED)
    assert closed.ends_ns == closed.begins_ns == 700 * SECOND


def test_a_connection_with_nothing_to_say_does_not_keep_the_gap_open_for_ever() -> None:
    seen = Watched()
    seen.begin(700 * SECOND, clean=False)
    seen.watch.look([connection(1, seen.now), connection(2)])
    seen.now += int((QUIET_SECONDS + 1) * SECOND)
    seen.watch.look([connection(1, seen.now), connection(2)])
    assert len(seen.of(MarkKind.GAP_CLOSED)) == 1


def test_gaps_that_a_killed_service_left_open_end_with_the_pause_itself() -> None:
    left = Mark(
        kind=MarkKind.GAP_OPENED,
        at_ns=600 * SECOND,
        origin="polygon-1",
        gap="left",
        cause=GapCause.DISCONNECTED,
        begins_ns=600 * SECOND,
        symbols=("AAPL",),
    )
    seen = Watched()
    seen.begin(700 * SECOND, clean=False, open_gaps=[left])
    seen.watch.look([connection(1, seen.now)])
    closed = {mark.gap: mark for mark in seen.of(MarkKind.GAP_CLOSED)}
    assert set(closed) == {"left", f"us-polygon/crashed/{700 * SECOND}"}
    assert closed["left"].begins_ns == 600 * SECOND


def test_killed_twice_before_any_data_is_one_gap() -> None:
    first = Watched()
    first.begin(700 * SECOND, clean=False)
    (pause,) = first.of(MarkKind.GAP_OPENED)
    second = Watched()
    second.now += 60 * SECOND
    second.begin(1_000 * SECOND, clean=False, open_gaps=[pause])
    assert second.of(MarkKind.GAP_OPENED) == []
    second.watch.look([connection(1, second.now)])
    (closed,) = second.of(MarkKind.GAP_CLOSED)
    assert (closed.gap, closed.begins_ns, closed.ends_ns) == (pause.gap, 700 * SECOND, second.now)


def test_a_clock_that_was_set_back_makes_no_gap_that_ends_before_it_begins() -> None:
    seen = Watched()
    seen.begin(2_000 * SECOND, clean=False)
    (opened,) = seen.of(MarkKind.GAP_OPENED)
    assert opened.begins_ns == seen.now


def test_a_feed_that_ends_for_good_says_why_once() -> None:
    seen = Watched()
    seen.watch.failed("the provider refuses the key")
    seen.watch.failed("something else")
    assert seen.watch.failure == "the provider refuses the key"


def test_an_orderly_end_is_the_last_entry() -> None:
    seen = Watched()
    seen.begin()
    seen.watch.status("polygon-1", "subscribed", "quotes of 2")
    seen.watch.end("asked to stop")
    assert [mark.kind for mark in seen.marks] == [MarkKind.STARTED, MarkKind.STATUS, MarkKind.STOPPED]
