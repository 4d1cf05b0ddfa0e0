"""What the faults do to one connection: to what is said, when, and how it ends."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from market_pipelines.simulator.faults import Fault, FaultBoard
from market_pipelines.simulator.stream.connection import BUFFER_BYTES, Connection, Cutting
from market_pipelines.simulator.stream.events import MINUTE, MS, Event, Wording, array, status
from market_pipelines.simulator.stream.kinds import Pings

EVENTS_A_FRAME = 50
HELD_SECONDS = 0.2
"""What comes out of order comes that much later at most."""
FORCED = status("force_disconnect", "disconnected by the server")
SLOW = status("slow_consumer", "the connection reads too slowly")
RUBBISH = (
    b"this is not JSON",
    b'[{"ev":"T","sym":"AAPL","p":1',
    b'{"ev":"T","sym":"AAPL"}',
    b'[{"ev":"XYZ","sym":"AAPL","p":1,"t":1}]',
    b'[{"sym":"AAPL","p":1}]',
    b'[{"ev":"T","sym":"AAPL","p":"much","s":1,"t":"now","q":null}]',
    b"[]",
    b"[1,null]",
)


class Misbehaviour:
    """Of one connection. The board is everybody's; what this connection has met of it is kept here."""

    def __init__(self, provider: str, board: FaultBoard, seed: int) -> None:
        self._provider = provider
        self._board = board
        self._chance = random.Random(seed)
        self._stalled: Fault | None = None
        self._stalled_until = 0.0
        self._held: list[Event] = []
        self._held_since = 0.0
        self._pinged_at: float | None = None

    def value(self, name: str) -> object:
        fault = self._board.standing(self._provider, name)
        return fault.value if fault is not None else None

    def strikes(self, name: str, symbol: str = "") -> bool:
        return self._board.strike(self._provider, name, symbol) is not None

    def cutting(self) -> Cutting:
        return Cutting(
            reset_after=lambda told: self._due("ws_reset_mid_frame", told),
            close_after=lambda told: self._due("ws_close_after", told),
        )

    def _due(self, name: str, told: int) -> bool:
        after = self.value(name)
        return isinstance(after, int) and told >= after and self.strikes(name)

    def refuses(self, channel: str) -> bool:
        value = self.value("ws_not_authorized")
        return isinstance(value, tuple) and _covers(value, channel) and self.strikes("ws_not_authorized")

    def opened(self, connection: Connection) -> bool:
        """False: it was closed at once."""
        if self.strikes("ws_close_at_once"):
            connection.drop("ws_close_at_once")
            return False
        self._fate(connection)
        self._watch_pings(connection)
        return True

    def _fate(self, connection: Connection) -> None:
        """What befalls a connection once, for the rest of its life."""
        if connection.muted or connection.dead:
            return
        if self.strikes("ws_half_open"):
            connection.play_dead()
        elif self.strikes("ws_mute"):
            connection.mute()

    def look(self, connection: Connection) -> None:
        """Called at every look of the pump, for the faults that need no event."""
        self._fate(connection)
        if self._board.standing(self._provider, "ws_force_disconnect") and self.strikes("ws_force_disconnect"):
            connection.close(1008, "", "ws_force_disconnect", last_words=self._last_words(FORCED))
        self._watch_pings(connection)
        if self._held and time.monotonic() > self._held_since + HELD_SECONDS:
            held, self._held = self._held, []
            self._tell(connection, held, EVENTS_A_FRAME)
        limit = self.value("ws_slow_consumer")
        most = limit if isinstance(limit, int) else BUFFER_BYTES
        if connection.pending > most and (limit is None or self.strikes("ws_slow_consumer")):
            connection.close(1008, "", "slow_consumer", last_words=self._last_words(SLOW), forget=True)
        if connection.overdue():
            connection.cut("")

    def _watch_pings(self, connection: Connection) -> None:
        pings = self.value("ws_ping_timeout")
        connection.answers_pings = not (isinstance(pings, Pings) and pings.every is None)
        if not isinstance(pings, Pings) or pings.every is None:
            self._pinged_at = None
            return
        now = time.monotonic()
        if self._pinged_at is None or now >= self._pinged_at + pings.every:
            if self._pinged_at is not None and connection.last_pong < self._pinged_at:
                connection.close(1011, "keepalive ping timeout", "ws_ping_timeout")
                return
            self._pinged_at = now
            connection.ping()

    def send(self, connection: Connection, events: Sequence[Event], per_frame: int) -> None:
        """Says what happened, as well as the faults let it."""
        if self._stalls():
            return
        told = self._late_minutes([event for event in events if not self._silent(event)])
        told = self._doubled(told)
        told = self._disordered(told)
        for start in range(0, len(told), per_frame):
            if self._board.standing(self._provider, "ws_rubbish"):
                self._rubbish(connection)
            self._tell(connection, told[start : start + per_frame], per_frame)

    def _tell(self, connection: Connection, events: Sequence[Event], per_frame: int) -> None:
        pieces = 3 if self._board.standing(self._provider, "ws_fragment") else 1
        arrays = self._provider == "polygon"
        step = per_frame if arrays else 1
        for start in range(0, len(events), step):
            chosen = events[start : start + step]
            payload = array([event.text for event in chosen]) if arrays else chosen[0].text
            connection.tell(payload, tuple(event.sent for event in chosen), told=True, pieces=pieces)

    def _last_words(self, text: bytes) -> bytes:
        """Yahoo's streamer has none."""
        return array([text]) if self._provider == "polygon" else b""

    def _stalls(self) -> bool:
        fault = self._board.standing(self._provider, "ws_stall")
        if fault is not None and fault is not self._stalled and isinstance(fault.value, float):
            self._stalled = self._board.strike(self._provider, "ws_stall")
            self._stalled_until = time.monotonic() + fault.value
        return time.monotonic() < self._stalled_until

    def _silent(self, event: Event) -> bool:
        fault = self._board.standing(self._provider, "ws_silent_topic")
        channel = f"{event.sent.kind}.{event.sent.symbol}"
        return fault is not None and isinstance(fault.value, tuple) and _covers(fault.value, channel)

    def _met(self, name: str, event: Event) -> bool:
        fault = self._board.standing(self._provider, name)
        return (
            fault is not None
            and isinstance(fault.value, float)
            and self._chance.random() < fault.value
            and self.strikes(name, event.sent.symbol)
        )

    def _late_minutes(self, events: list[Event]) -> list[Event]:
        if not self._board.standing(self._provider, "ws_late_minutes"):
            return events
        told = []
        for event in events:
            if event.sent.kind == MINUTE and self._met("ws_late_minutes", event):
                told.append(replace(event, text=_without_last_trades(event.text)))
                self._hold(event)
            else:
                told.append(event)
        return told

    def _doubled(self, events: list[Event]) -> list[Event]:
        if not self._board.standing(self._provider, "ws_duplicates"):
            return events
        told: list[Event] = []
        for event in events:
            told.append(event)
            if self._met("ws_duplicates", event):
                told.insert(max(len(told) - self._chance.randrange(3), 0), event)
        return told

    def _disordered(self, events: list[Event]) -> list[Event]:
        """Some of them change places with later ones; the last ones are held until others have been told."""
        held, self._held = self._held, []
        if not self._board.standing(self._provider, "ws_disorder"):
            return [*events, *held]
        told: list[Event] = []
        for event in events:
            if self._met("ws_disorder", event):
                self._hold(event)
            else:
                told.append(event)
        return [*told, *held]

    def _hold(self, event: Event) -> None:
        if not self._held:
            self._held_since = time.monotonic()
        self._held.append(event)

    def _rubbish(self, connection: Connection) -> None:
        fault = self._board.standing(self._provider, "ws_rubbish")
        if fault is None or not isinstance(fault.value, float) or self._chance.random() >= fault.value:
            return
        if self.strikes("ws_rubbish"):
            connection.tell(self._chance.choice(RUBBISH))


def _without_last_trades(text: bytes) -> bytes:
    """A minute bar as it was known before all of its trades had been reported."""
    row = msgspec.json.decode(text)
    row["v"], row["c"], row["h"] = max(row["v"] - 1, 0), row["o"], max(row["o"], row["l"])
    return msgspec.json.encode(row)


def _covers(told: tuple[str, ...], channel: str) -> bool:
    """`Q` and `Q.*` are the whole topic."""
    return any(one == channel or one.removesuffix(".*") == channel.partition(".")[0] for one in told)


def auth_timeout_of(misbehaviour: Misbehaviour, otherwise: float) -> float:
    value = misbehaviour.value("ws_auth_timeout")
    return value if isinstance(value, float) else otherwise


def wording_of(board: FaultBoard) -> Wording:
    unit = board.standing("polygon", "ws_luld_unit")
    return Wording(
        decimals=board.standing("polygon", "ws_decimals") is not None,
        bands_unit=unit.value if unit is not None and isinstance(unit.value, int) else MS,
    )
