"""Who is connected to the live side, and the one pump that tells all of them what happens.

The pump looks at the simulated clock some twenty times a second. While the clock runs, what has become due since
the last look is told; a clock that stands still is silent, and one that is set ahead tells everything up to there.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import count

from market_pipelines.simulator.aggregates import MINUTE_NS
from market_pipelines.simulator.clock import SimulatedClock
from market_pipelines.simulator.faults import FaultBoard
from market_pipelines.simulator.instruments import Option, instrument_named
from market_pipelines.simulator.stream.connection import Connection
from market_pipelines.simulator.stream.events import Event
from market_pipelines.simulator.stream.kinds import MostConnections
from market_pipelines.simulator.stream.misbehaviour import Misbehaviour, wording_of
from market_pipelines.simulator.stream.polygon import ALL, Channels, PolygonDialogue
from market_pipelines.simulator.stream.tape import LiveTape, moment
from market_pipelines.simulator.stream.yahoo import YahooDialogue
from market_pipelines.simulator.ticks import nanoseconds
from market_pipelines.simulator.truth import World

LOOK_SECONDS = 0.05
STEP_NS = MINUTE_NS
"""When the clock was set ahead, so much is told at once."""
LONGEST_STEP_NS = 24 * 60 * MINUTE_NS
"""Set ahead by more than that, the stream goes on from there."""
BREATHES_BELOW = 1_000_000
"""A set clock waits for readers that are further behind, in bytes."""
BREATH_SECONDS = 10.0
SETTLING_SECONDS = 0.5
ENDED_KEPT = 200
SMALL_BUFFER = 262_144
"""Of the kernel: what a reader leaves unread is to be seen here soon."""


class Hub:
    def __init__(self, world: World, clock: SimulatedClock, board: FaultBoard, sent_kept: int) -> None:
        self._world = world
        self._clock = clock
        self._board = board
        self._sent_kept = sent_kept
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._dialogues: dict[int, PolygonDialogue] = {}
        self._quoted: dict[int, YahooDialogue] = {}
        self._ended: list[Connection] = []
        self._connections: dict[int, Connection] = {}
        self._tapes: dict[tuple[str, str], LiveTape | None] = {}
        self._day = 0
        self._position = nanoseconds(clock.now())
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Connections may come; the pump runs from the first one on."""
        self._stopping.clear()

    def stop(self) -> None:
        """Ends the pump; the connections are the server's to end."""
        self._stopping.set()
        with self._lock:
            pump, self._thread = self._thread, None
        if pump is not None:
            pump.join()

    def _pump_runs(self) -> None:
        with self._lock:
            if self._thread is None and not self._stopping.is_set():
                self._position = nanoseconds(self._clock.now())
                self._thread = threading.Thread(target=self._pump, name="simulator-stream-pump", daemon=True)
                self._thread.start()

    # -- connections, on their own threads -----------------------------------------------------------------

    def serve(self, provider: str, path: str, sock: socket.socket, request: bytes) -> None:
        """Returns when the connection has ended."""
        self._pump_runs()
        number = next(self._numbers)
        misbehaviour = Misbehaviour(provider, self._board, self._world.seed + number)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
        connection = Connection(number, f"{provider}{path}", sock, self._sent_kept, misbehaviour.cutting())
        dialogue: PolygonDialogue | YahooDialogue
        if provider == "yahoo":
            bare = b"version=2" not in request.split(b"\r\n", 1)[0]
            dialogue = YahooDialogue(connection, self._world, misbehaviour, self._from_now, bare=bare)
        else:
            dialogue = PolygonDialogue(connection, path.strip("/"), misbehaviour, self._from_then)
        with self._lock:
            self._connections[number] = connection

        def opened() -> None:
            if not misbehaviour.opened(connection):
                return
            dialogue.opened()
            with self._lock:
                if isinstance(dialogue, YahooDialogue):
                    self._quoted[number] = dialogue
                else:
                    self._dialogues[number] = dialogue

        try:
            connection.run(request, opened, dialogue.heard)
        finally:
            with self._lock:
                self._dialogues.pop(number, None)
                self._quoted.pop(number, None)
                self._ended = [*self._ended, self._connections.pop(number)][-ENDED_KEPT:]

    def _from_now(self, change: Callable[[int], None]) -> None:
        # Within one lock with the pump's look at the clock: what happens from this instant on is told.
        with self._lock:
            change(nanoseconds(self._clock.now()))

    def _from_then(self, change: Callable[[int], None]) -> None:
        """For those to whom everything is told later than it happens."""
        self._from_now(lambda stamp: change(stamp - self._delay_ns))

    @property
    def _delay_ns(self) -> int:
        fault = self._board.standing("polygon", "ws_delay")
        return round(fault.value * 1e9) if fault is not None and isinstance(fault.value, float) else 0

    # -- the pump ------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            with self._lock:
                upto = nanoseconds(self._clock.now())
                listeners = [(dialogue, dialogue.channels) for dialogue in self._dialogues.values()]
                quoted = [(dialogue, dialogue.symbols) for dialogue in self._quoted.values()]
            self._tell(listeners, quoted, upto)
            for dialogue, _ in listeners:
                dialogue.look()
            for watched, _ in quoted:
                watched.look()
            self._thin_out([dialogue for dialogue, _ in listeners])

    def _tell(
        self,
        listeners: Sequence[tuple[PolygonDialogue, Channels]],
        quoted: Sequence[tuple[YahooDialogue, Mapping[str, int]]],
        upto: int,
    ) -> None:
        everybody: list[PolygonDialogue | YahooDialogue] = [one for one, _ in listeners]
        everybody += [one for one, _ in quoted]
        delay_ns = self._delay_ns
        if not 0 <= upto - self._position <= LONGEST_STEP_NS:
            self._position = upto
            for dialogue, _ in listeners:
                dialogue.restart(upto - delay_ns)
            for watched, _ in quoted:
                watched.restart(upto)
            return
        wanted = self._wanted(listeners)
        while self._position < upto and not self._stopping.is_set():
            end = min(self._position + STEP_NS, upto)
            for cluster, kinds in wanted.items():
                events = self._events(cluster, kinds, self._position - delay_ns, end - delay_ns)
                for dialogue, channels in listeners:
                    if events and dialogue.cluster == cluster:
                        dialogue.tell(events, channels)
            for watched, symbols in quoted:
                watched.tell(symbols, self._position, end)
            self._position = end
            if self._clock.is_set and self._board.standing("polygon", "ws_slow_consumer") is None:
                for one in everybody:
                    self._let_breathe(one.connection)

    def _let_breathe(self, connection: Connection) -> None:
        until = time.monotonic() + BREATH_SECONDS
        while not self._stopping.is_set() and time.monotonic() < until:
            if connection.wait_drained(BREATHES_BELOW, LOOK_SECONDS):
                return

    def _thin_out(self, dialogues: Sequence[PolygonDialogue]) -> None:
        """Closes the connections that a plan does not have."""
        fault = self._board.standing("polygon", "ws_max_connections")
        if fault is None or not isinstance(fault.value, MostConnections):
            return
        allowed = fault.value
        by_key: dict[tuple[str, str], list[PolygonDialogue]] = {}
        for dialogue in dialogues:
            if dialogue.authenticated_at is not None and not dialogue.connection.ending:
                by_key.setdefault((dialogue.cluster, dialogue.key), []).append(dialogue)
        for same in by_key.values():
            same.sort(key=lambda dialogue: dialogue.authenticated_at or 0.0)
            excess = max(len(same) - allowed.number, 0)
            for victim in same[:excess] if allowed.older_goes else same[len(same) - excess :]:
                # The newcomer's authentication and subscriptions still succeed.
                settled = victim.subscribed or time.monotonic() > (victim.authenticated_at or 0.0) + SETTLING_SECONDS
                if (allowed.older_goes or settled) and self._board.strike("polygon", "ws_max_connections"):
                    victim.full()

    def _wanted(self, listeners: Sequence[tuple[PolygonDialogue, Channels]]) -> dict[str, dict[str, set[str]]]:
        """By cluster and symbol the topics that somebody listens to."""
        wanted: dict[str, dict[str, set[str]]] = {}
        for dialogue, channels in listeners:
            of_cluster = wanted.setdefault(dialogue.cluster, {})
            for topic, symbol in channels:
                of_cluster.setdefault(symbol, set()).add(topic)
        for cluster, kinds in wanted.items():
            everywhere = kinds.pop(ALL, None)
            if everywhere and cluster != "options":
                for listing in self._world.listings:
                    if listing.spelled_by("polygon") is not None:
                        kinds.setdefault(listing.symbol, set()).update(everywhere)
        return wanted

    def _events(self, cluster: str, kinds: Mapping[str, set[str]], start: int, end: int) -> list[Event]:
        wording = wording_of(self._board)
        events: list[Event] = []
        for symbol, topics in kinds.items():
            tape = self._tape(cluster, symbol)
            if tape is not None:
                events += tape.between(start, end, topics, wording)
        events.sort(key=lambda event: event.at)
        return events

    def _tape(self, cluster: str, symbol: str) -> LiveTape | None:
        day = self._position // (24 * 60 * MINUTE_NS)
        if day != self._day:
            # Contracts that did not exist yesterday may exist today.
            self._day, self._tapes = day, {key: tape for key, tape in self._tapes.items() if tape is not None}
        key = cluster, symbol
        if key not in self._tapes:
            found = instrument_named(self._world, symbol, moment(self._position))
            if found is not None and isinstance(found, Option) is not (cluster == "options"):
                found = None
            self._tapes[key] = LiveTape(found) if found is not None else None
        return self._tapes[key]

    # -- what others ask about -----------------------------------------------------------------------------

    @property
    def told_until(self) -> datetime:
        return moment(self._position)

    def connections(self) -> tuple[Connection, ...]:
        """The oldest first: those that have ended, as far as they are remembered, and those that have not."""
        with self._lock:
            known = [*self._ended, *self._connections.values()]
        return tuple(sorted(known, key=lambda connection: connection.number))

    def state(self) -> list[dict[str, object]]:
        with self._lock:
            dialogues = dict(self._dialogues)
            quoted = {number: list(dialogue.symbols) for number, dialogue in self._quoted.items()}
        found = []
        for connection in self.connections():
            dialogue = dialogues.get(connection.number)
            found.append(
                {
                    "connection": connection.number,
                    "path": connection.path,
                    "open": not connection.ended,
                    "authenticated": dialogue is not None and dialogue.authenticated_at is not None,
                    "subscriptions": [".".join(one) for one in dialogue.channels]
                    if dialogue is not None
                    else quoted.get(connection.number, []),
                    "frames": connection.frames,
                    "events": connection.sent.total,
                    "bytes": connection.bytes,
                    "waiting_bytes": connection.pending,
                    "opened_at": connection.opened_at,
                    "closed_why": connection.closed_why,
                }
            )
        return found

    def drop(self, number: int | None = None) -> int:
        """Cuts one connection, or all of them, without a word."""
        with self._lock:
            chosen = [one for one in self._connections.values() if number in (None, one.number)]
        for connection in chosen:
            connection.cut("dropped by /control/stream/drop")
        return len(chosen)
