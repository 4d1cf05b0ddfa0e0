"""A platform on the wall clock, a stream of the simulator's, and what should be in the lake."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from market_pipelines.market.records import TickKind
from market_pipelines.pipeline.fetch import first_delivered
from market_pipelines.pipeline.limiter import Purpose
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.pipeline.platform import Platform, open_platform
from market_pipelines.pipeline.stopping import Stop
from market_pipelines.pipeline.ticks import CAPABILITY, lake_of
from market_pipelines.providers.protocol import TicksQuery
from market_pipelines.settings import Settings, read_settings
from market_pipelines.simulator.server import Simulator
from market_pipelines.simulator.stream.events import QUOTE, TRADE
from market_pipelines.store.stream_gaps import GapRow, newest_gaps
from market_pipelines.store.streams import StreamRow, StreamState, stream_row
from market_pipelines.streaming.plan import Channel, FeedName, StreamPlan
from market_pipelines.streaming.plans import Selection
from market_pipelines.streaming.service import StreamService

SYMBOLS = tuple(one.symbol for one in read_markets()["us"].instruments)[:20]
"""So many that something happens every few milliseconds."""
LOOKED_AT = SYMBOLS[:5]
"""Of these the whole truth is asked for."""
PLAN = StreamPlan(
    market="us",
    feed=FeedName.POLYGON,
    symbols=SYMBOLS,
    channels=(Channel.QUOTES, Channel.TRADES),
    batch_seconds=0.2,
)
KINDS = {TickKind.TRADES: TRADE, TickKind.QUOTES: QUOTE}
PATIENCE = 30.0

Tick = tuple[str, str, int]
"""Kind as the feed calls it, symbol, sequence number."""


def until(ready: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        threading.Event().wait(0.03)


def settings_for(home: Path, simulator: Simulator, url: str, **more: Any) -> Settings:
    return read_settings(
        env_file=None,
        market_pipelines_home=home,
        market_pipelines_simulator="on",
        database_url=url,
        **{name.lower(): address for name, address in simulator.base_urls().items()} | more,
    )


def environment(home: Path, simulator: Simulator, url: str) -> Mapping[str, str]:
    return {
        **simulator.base_urls(),
        "MARKET_PIPELINES_HOME": str(home),
        "MARKET_PIPELINES_SIMULATOR": "on",
        "DATABASE_URL": url,
    }


@dataclass
class Running:
    """A service in a thread of the test's process."""

    service: StreamService
    stop: Stop = field(default_factory=Stop)
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, name="the service under test", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.service.run(self.stop)
        except Exception as error:  # noqa: BLE001 (the test looks at it)
            self.error = error

    def ended(self) -> bool:
        return not self.thread.is_alive()

    def end(self) -> None:
        self.stop.ask()
        self.thread.join(PATIENCE)
        assert self.ended(), "the service did not end"


def sinks_of(running: Running) -> dict[str, Mapping[str, Any]]:
    assert running.error is None, running.error
    assert running.service.reporter is not None
    return {one["sink"]: one for one in running.service.reporter.report().sinks}


def durable(running: Running) -> int:
    assert running.service.reporter is not None
    position: int = running.service.reporter.report().counters["journal"]["durable"]
    return position


def until_stored(running: Running, seconds: float = PATIENCE) -> None:
    """Every sink has what the journal has by now."""
    came = durable(running)
    until(lambda: all(told["position"] >= came for told in sinks_of(running).values()), "every sink has it", seconds)


@dataclass(frozen=True)
class Desk:
    platform: Platform
    simulator: Simulator

    @contextmanager
    def streaming(self, plan: StreamPlan = PLAN, **more: Any) -> Iterator[Running]:
        """A service that has data, ended with the block in good order."""
        running = self.started(plan, **more)
        try:
            until(lambda: self.is_live(plan.name) or running.ended(), "the stream is live")
            yield running
        finally:
            running.end()
        if running.error is not None:
            raise running.error

    def started(self, plan: StreamPlan = PLAN, selection: Selection | None = None, **more: Any) -> Running:
        more = {"settle_seconds": 0.2, "heartbeat_seconds": 0.3, **more}
        return Running(StreamService(self.platform, plan, selection=selection, **more))

    def row(self, stream: str = PLAN.name) -> StreamRow:
        with self.platform.database.connection() as connection:
            found = stream_row(connection, stream)
        assert found is not None, f"{stream} never ran"
        return found

    def is_live(self, stream: str = PLAN.name) -> bool:
        with self.platform.database.connection() as connection:
            found = stream_row(connection, stream)
        return found is not None and found.state is StreamState.LIVE

    def gaps(self) -> list[GapRow]:
        """The oldest first."""
        with self.platform.database.connection() as connection:
            return newest_gaps(connection, None, 1000)[::-1]

    def stored(self, start: datetime | None = None, end: datetime | None = None) -> Counter[Tick]:
        """What the lake has, as often as it has it."""
        found: Counter[Tick] = Counter()
        day = timedelta(days=1)
        for kind, name in KINDS.items():
            with self.platform.database.connection() as connection:
                table = lake_of(self.platform).table(
                    connection,
                    kind,
                    start=start or datetime.now(UTC) - day,
                    end=end or datetime.now(UTC) + day,
                    columns=("symbol", "seq"),
                )
            rows = table.to_pydict()
            found.update((name, symbol, seq) for symbol, seq in zip(rows["symbol"], rows["seq"], strict=True))
        return found

    def truth(self, start: datetime, end: datetime) -> dict[Tick, datetime]:
        """What the provider's history says of that span, and when it happened."""
        market = self.platform.market("us")
        found: dict[Tick, datetime] = {}
        for kind, name in KINDS.items():
            for symbol in LOOKED_AT:
                query = TicksQuery(market.instrument(symbol), kind, start, end)
                answered = first_delivered(
                    self.platform,
                    market,
                    CAPABILITY[kind],
                    lambda _, query=query: query,  # type: ignore[misc]
                    purpose=Purpose.BACKFILL,
                    run_id="truth",
                    symbol=symbol,
                    providers=[self.platform.providers["polygon"]],
                )
                assert answered.delivered is not None, answered.reason
                parsed = answered.delivered.parsed
                if parsed is not None and parsed.bars is not None:
                    rows = zip(parsed.bars["seq"], parsed.bars["ts"], strict=True)
                    found.update(((name, symbol, int(seq)), at) for seq, at in rows)
        return found


@contextmanager
def opened_desk(home: Path, simulator: Simulator, url: str, **more: Any) -> Iterator[Desk]:
    simulator.faults.clear()
    with open_platform(settings_for(home, simulator, url, **more)) as platform:
        yield Desk(platform, simulator)
