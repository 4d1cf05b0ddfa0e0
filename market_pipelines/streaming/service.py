"""The live service: one stream from its lease to its last drained sink, and several of them in one process.

It joins the parts: feed → journal → tail → sinks, with gaps marked as they happen and filled from history. Each part
does its own work in its own threads; here they are begun, looked at a few times a second, and ended in order. Who
hosts it (a command, a Dagster run) is the doors' business.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import ExitStack, closing
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import structlog

from market_pipelines.market.consensus import SIMULATED_PREFIX
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.pipeline.incidents import close_incident, open_incident
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.stopping import Stop
from market_pipelines.store.database import DatabaseUnavailable
from market_pipelines.store.disk import DiskFloor
from market_pipelines.store.stream_cursors import cursors, stored_until
from market_pipelines.store.streams import Claim, StreamState, Wish, stream_row
from market_pipelines.streaming.bus import EventBus
from market_pipelines.streaming.decode import Decoder
from market_pipelines.streaming.feeds.build import build_feed
from market_pipelines.streaming.feeds.protocol import Feed, FeedFailed
from market_pipelines.streaming.fill import SETTLE_SECONDS, GapFiller
from market_pipelines.streaming.gaps import GapWatch
from market_pipelines.streaming.journal import Journal, JournalBusy, JournalMissing, JournalReader, Opened
from market_pipelines.streaming.lease import (
    HEARTBEAT_SECONDS,
    Heartbeat,
    Lease,
    LeaseLost,
    StreamHeld,
    new_holder,
    refusal,
)
from market_pipelines.streaming.marks import Marks
from market_pipelines.streaming.memory import FreedMemory
from market_pipelines.streaming.meter import Meter
from market_pipelines.streaming.plan import ALL, StreamPlan
from market_pipelines.streaming.plans import PROVIDER_OF, Selection
from market_pipelines.streaming.reporting import Reporter
from market_pipelines.streaming.sinks.build import IN_DATABASE, build_sinks
from market_pipelines.streaming.sinks.gaps import NAME as GAPS
from market_pipelines.streaming.sinks.runner import SinkRunner
from market_pipelines.streaming.subscriptions import read_again, subscribed_now
from market_pipelines.streaming.tail import Tail

DRAIN_SECONDS = 20.0
"""From the wish to stop to the end; Kubernetes kills after 30."""
UNDER_WAY = timedelta(seconds=10)
"""So long before a sink stores a batch, all of it had been received at the latest."""
_FEED_SECONDS, _FILL_SECONDS = 4.0, 4.0
_LOOK_SECONDS = 0.2
_SLOW_LOOK_SECONDS = 2.0

_log = structlog.stdlib.get_logger("market_pipelines.streaming")


def journal_folder(platform: Platform, stream: str) -> Path:
    kind = "simulated" if platform.simulated else "live"
    return platform.settings.home / kind / "journal" / stream


def stored_feed(platform: Platform, plan: StreamPlan) -> str:
    """The provider as rows name it."""
    name = PROVIDER_OF.get(plan.feed) or plan.provider or plan.feed.value
    return f"{SIMULATED_PREFIX}{name}" if platform.simulated else name


class StreamService:
    def __init__(
        self,
        platform: Platform,
        plan: StreamPlan,
        *,
        hosted_by: str = "process",
        run_id: str | None = None,
        until: datetime | None = None,
        selection: Selection | None = None,
        bus: EventBus | None = None,
        settle_seconds: float = SETTLE_SECONDS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        log: str = "",
    ) -> None:
        """`until`: it ends by itself then. `selection`: where symbols are looked up again on a reload. `log`: the file
        that this process's log is in, for those who look for it."""
        self.plan = plan
        self.reload_asked = False
        """Set from anywhere, a signal handler included."""
        self.reporter: Reporter | None = None
        """Of the stream that runs."""
        self._platform = platform
        self._hosted_by = hosted_by
        self._run_id = run_id
        self._until = until
        self._selection = selection or Selection(plan.market)
        self._bus = bus
        self._settle_seconds = settle_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._log = log

    def run(self, stop: Stop) -> None:
        """Streams until it is asked to stop, by `stop` or in the table, or until its time is over. Raises
        `StreamHeld`, `LeaseLost` or `FeedFailed` with a message for a person; everything is drained then too."""
        platform, plan = self._platform, self.plan
        market = platform.market(plan.market)
        folder = journal_folder(platform, plan.name)
        journal = Journal(
            folder,
            limit_bytes=platform.settings.stream_journal_gb * 1_000_000_000,
            keep_seconds=platform.settings.stream_journal_hours * 3600.0,
            floor=DiskFloor(),
        )
        try:
            opened = journal.open(self._furthest(folder))
        except JournalBusy as busy:
            raise StreamHeld(self._who_holds(busy)) from None
        try:
            lease = Lease(platform, self._claim(opened.id))
            lease.acquire()
            _Running(self, platform, market, folder, journal, opened, lease, stop).run()
        finally:
            journal.close()

    def _furthest(self, folder: Path) -> int:
        """What the sinks that store in the database have of this journal: should a power cut have taken its end,
        no position is given out twice."""
        try:
            with closing(JournalReader(folder)) as reader:
                journal = reader.id
        except JournalMissing:
            return 0
        with self._platform.database.connection() as connection:
            return max(cursors(connection, self.plan.name, journal).values(), default=0)

    def _claim(self, journal: str) -> Claim:
        plan = self.plan
        return Claim(
            stream=plan.name,
            market=plan.market,
            feed=plan.feed.value,
            asset_class=plan.asset_class.value,
            provider=stored_feed(self._platform, plan),
            holder=new_holder(),
            host=socket.gethostname(),
            pid=os.getpid(),
            hosted_by=self._hosted_by,
            run_id=self._run_id,
            journal=journal,
        )

    def _who_holds(self, busy: JournalBusy) -> str:
        with self._platform.database.connection() as connection:
            row = stream_row(connection, self.plan.name)
        return refusal(row) if row is not None and row.running else str(busy)


class _Running:
    """One life of a stream, with the lease in hand."""

    def __init__(
        self,
        service: StreamService,
        platform: Platform,
        market: MarketDefinition,
        folder: Path,
        journal: Journal,
        opened: Opened,
        lease: Lease,
        stop: Stop,
    ) -> None:
        self._service = service
        self._plan = service.plan
        self._platform = platform
        self._market = market
        self._folder = folder
        self._journal = journal
        self._opened = opened
        self._lease = lease
        self._stop = stop
        self._runners: list[SinkRunner] = []
        self._feed: Feed | None = None
        self._filler: GapFiller | None = None
        self._ways: list[Tail | Marks] = []
        """Through the journal: all that is closed once no sink needs it any more."""
        self._metering: SinkRunner | None = None
        self._meter = Meter(service.plan.delay_ns)
        self._reporter = service.reporter = Reporter(self._plan, journal, self._meter, log=service._log)
        self._heartbeat = Heartbeat(lease, self._reporter.report, service._heartbeat_seconds)
        self._well = False
        self._next_slow_look = 0.0
        self._freed = FreedMemory()

    def run(self) -> None:
        failure: Exception | None = None
        self._heartbeat.start()
        try:
            try:
                watch = self._begin()
                said = self._follow(watch)
            except (FeedFailed, LeaseLost) as error:
                failure, said = error, str(error)
            self._end(said, failure)
        except BaseException as error:
            # Not foreseen: what was received is on disk, and the journal's missing STOPPED tells the next start.
            self._reporter.over(StreamState.FAILED, f"{type(error).__name__}: {error}")
            self._let_go()
            raise
        finally:
            self._heartbeat.stop(_FEED_SECONDS)
        if failure is not None:
            raise failure

    # --- beginning -------------------------------------------------------------------------------------------

    def _begin(self) -> GapWatch:
        plan, opened = self._plan, self._opened
        feed = self._feed = build_feed(self._platform, plan)
        decoder = Decoder(
            market=self._market,
            providers=self._platform.providers,
            feed=stored_feed(self._platform, plan),
            delay_ns=plan.delay_ns,
        )
        tail = Tail(lambda: JournalReader(self._folder), decoder, journal=opened.id)
        marks = Marks(JournalReader(self._folder), journal=opened.id)
        self._ways = [tail, marks]
        sinks = build_sinks(
            self._platform,
            plan,
            self._market,
            journal=opened.id,
            journal_folder=self._folder,
            bus=self._service._bus,
        )
        self._runners = [
            # Who listens to the bus wants to hear what happens now, not what the journal still has.
            SinkRunner(
                sink,
                marks if sink.name == GAPS else tail,
                start=opened.last if sink.name == "bus" else 0,
                batch_seconds=plan.batch_seconds,
                may_write=self._heartbeat.still_ours if sink.name in IN_DATABASE else self._heartbeat.not_lost,
            )
            for sink in sinks
        ]
        self._metering = SinkRunner(self._meter, tail, start=opened.last, batch_seconds=plan.batch_seconds)
        watch = GapWatch(plan, self._journal.mark, feed.subscribed)
        watch.begin(self._heard_until(), clean=opened.clean, open_gaps=opened.open_gaps)
        self._reporter.follow(feed, watch, self._runners, marks.standing)
        for runner in (*self._runners, self._metering):
            runner.start()
        feed.start(self._journal.append, watch)
        self._filler = GapFiller(
            self._platform,
            self._market,
            plan,
            intake=self._journal.append,
            wait_durable=lambda seconds: self._journal.wait_durable(None, seconds),
            symbols=lambda: subscribed_now(feed, plan),
            settle_seconds=self._service._settle_seconds,
        )
        self._filler.start()
        _log.info(
            "streaming",
            stream=plan.name,
            provider=stored_feed(self._platform, plan),
            symbols="all" if ALL in plan.symbols else len(plan.symbols),
            channels=",".join(plan.channels),
            sinks=",".join(runner.name for runner in self._runners),
            journal=str(self._folder),
        )
        return watch

    def _heard_until(self) -> int:
        """When the last thing arrived that is kept, in nanoseconds; 0: the stream is new. Of a journal that somebody
        has deleted, or emptied, the sinks still know."""
        if self._opened.last_received_ns:
            return self._opened.last_received_ns
        with self._platform.database.connection() as connection:
            stored = stored_until(connection, self._plan.name)
        return 0 if stored is None else int((stored - UNDER_WAY).timestamp()) * 1_000_000_000

    # --- while it runs ---------------------------------------------------------------------------------------

    def _follow(self, watch: GapWatch) -> str:
        """Until there is a reason to end in good order, which is returned."""
        until = self._service._until
        while not self._stop.wait(_LOOK_SECONDS):
            if self._heartbeat.lost:
                raise LeaseLost(self._heartbeat.lost)
            if watch.failure:
                raise FeedFailed(watch.failure)
            if until is not None and self._platform.clock() >= until:
                return f"its time was over at {until:%Y-%m-%d %H:%M} UTC"
            wish = self._heartbeat.heed()
            if wish is Wish.STOP:
                return "asked to stop with `market-pipelines stream stop`"
            if wish is Wish.RELOAD or self._service.reload_asked:
                self._service.reload_asked = False
                assert self._feed is not None  # noqa: S101 (begun before it is followed)
                read_again(self._platform, self._plan.name, self._service._selection, self._feed)
            self._look(watch)
        return "asked to stop by a signal" if self._stop.by_signal is not None else "asked to stop"

    def _look(self, watch: GapWatch) -> None:
        assert self._feed is not None  # noqa: S101 (begun before it is followed)
        watch.look(self._feed.connections())
        if not self._well and self._reporter.state()[0] is StreamState.LIVE:
            self._well = True
            self._heartbeat.say()
            self._tell_incident("")
        if time.monotonic() < self._next_slow_look:
            return
        self._next_slow_look = time.monotonic() + _SLOW_LOOK_SECONDS
        self._freed.look()
        self._journal.needed_from({runner.name: runner.state().position for runner in self._runners})
        for name, part in (("lease", self._heartbeat), ("filling of gaps", self._filler)):
            if part is not None and not part.running and not self._heartbeat.lost:
                raise FeedFailed(f"the thread of the {name} has ended; the log says where")

    # --- ending ----------------------------------------------------------------------------------------------

    def _end(self, said: str, failure: Exception | None) -> None:
        deadline = time.monotonic() + DRAIN_SECONDS
        _log.info("stopping", stream=self._plan.name, reason=said)
        self._reporter.over(StreamState.STOPPING, said)
        self._heartbeat.say()
        if self._feed is not None:
            self._feed.stop(_FEED_SECONDS)
        if self._filler is not None:
            self._filler.stop(_FILL_SECONDS)
        if self._reporter.watch is not None:
            self._reporter.watch.end(said)
        if not self._journal.wait_durable(None, max(1.0, deadline - time.monotonic())):
            _log.error("not everything could be written to the journal", stream=self._plan.name)
        # What somebody else streams by now is theirs to store.
        self._drain(time.monotonic() if isinstance(failure, LeaseLost) else deadline)
        state = StreamState.STOPPED if failure is None else StreamState.FAILED
        self._reporter.over(state, said)
        self._heartbeat.stop(_FEED_SECONDS)
        if not isinstance(failure, LeaseLost):
            self._give_back()
        if isinstance(failure, FeedFailed):
            self._tell_incident(said)
        _log.info("stopped", stream=self._plan.name, state=state.value)

    def _drain(self, deadline: float) -> None:
        """Every sink gets what the journal has, as far as there is time; the rest waits in the journal."""
        last = self._journal.durable()
        for runner in self._runners:
            runner.ask_to_stop(max(0.0, deadline - time.monotonic()), last)
        for runner in self._runners:
            if not runner.stop(max(0.0, deadline - time.monotonic()), last):
                left = last - runner.state().position
                _log.warning("a sink goes on after the next start", stream=self._plan.name, sink=runner.name, left=left)
        if self._metering is not None:
            self._metering.stop(1.0)
        for way in self._ways:
            way.close()

    def _let_go(self) -> None:
        """After an error that nobody foresaw: no thread and no lease stays behind."""
        with ExitStack() as stack:
            stack.callback(self._give_back)
            stack.callback(self._drain, time.monotonic())
            if self._filler is not None:
                stack.callback(self._filler.stop, _FILL_SECONDS)
            if self._feed is not None:
                stack.callback(self._feed.stop, _FEED_SECONDS)

    def _give_back(self) -> None:
        try:
            self._lease.release(self._reporter.report())
        except (DatabaseUnavailable, psycopg.OperationalError) as error:
            _log.warning("the lease runs out by itself", stream=self._plan.name, reason=str(error))

    def _tell_incident(self, wrong: str) -> None:
        """Opens the incident of this stream, or closes it where nothing is wrong any more."""
        key = f"stream:{self._plan.name}"
        try:
            if wrong:
                open_incident(self._platform, key, f"The stream {self._plan.name} has ended", wrong, source="stream")
            else:
                close_incident(self._platform, key, "it streams again")
        except (DatabaseUnavailable, psycopg.OperationalError) as error:
            _log.warning("the incident could not be written", stream=self._plan.name, reason=str(error))


def is_unauthorised(reason: str) -> bool:
    """Whether a feed ended over a key or a plan: the one thing that a person has to see to with the provider."""
    return any(word in reason for word in ("the key", "this key", "_API_KEY"))
