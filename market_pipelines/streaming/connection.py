"""One WebSocket and the care for it: connect, listen, notice silence, back off, come again.

A connection owns one thread. The thread receives, answers pings, looks for statuses and hands on; the rest of the
service works elsewhere, so that a slow sink never makes us a slow reader. What is said on the socket is the
dialogue's business, how many sockets there are the feed's.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import websocket

from market_pipelines.redaction import redact
from market_pipelines.streaming.backoff import Backoff
from market_pipelines.streaming.care import Care, Session
from market_pipelines.streaming.dialogue import NOTHING, SLOW_CONSUMER, Dialogue, Ending, EndKind, Notice, Turn
from market_pipelines.streaming.entries import GapCause
from market_pipelines.streaming.feeds.protocol import ConnectionState, Intake, Listener
from market_pipelines.streaming.frame_reader import FrameReader
from market_pipelines.streaming.plan import Channel
from market_pipelines.streaming.watchdog import PATIENCE, Mute, Silence

# TCP's keep-alive is among the options that the library sets (30 s, then three times 10 s). The size of the receiving
# buffer is left to the kernel: naming one switches off its growing, and mostly ends far below what it grows to.
EMPTY_FRAME = 2
"""Bytes of a frame that holds no event: `[]`."""


class Owner(Protocol):
    """The feed, as its connections see it. Called from their threads; returns at once."""

    def crowded(self, origin: str, /) -> bool:
        """Too many sockets: whether this one is to try again all the same, because it is the only one."""
        ...

    def gave_up(self, reason: str, /) -> None: ...

    def changed(self) -> None:
        """A connection has settled, or its last attempt has failed: a good moment for opening another one."""
        ...


Watch = Callable[[Sequence[Silence]], Mute | None]
"""Whether silence is a fault now."""


class Connection:
    def __init__(
        self,
        origin: str,
        address: str,
        dialogue: Dialogue,
        *,
        intake: Intake,
        listener: Listener,
        owner: Owner,
        mute: Watch,
        care: Care,
    ) -> None:
        self.origin = origin
        self.dialogue = dialogue
        self._address = address
        self._intake = intake
        self._listener = listener
        self._owner = owner
        self._mute = mute
        self._care = care
        self._backoff = Backoff(care.first_pause, care.longest_pause)
        self._crowded = Backoff(care.crowded_first, care.crowded_longest)
        self._stopping = threading.Event()
        self._cut_off = False
        """Nobody waits for this thread any more, and nothing more may be handed on."""
        self._thread = threading.Thread(target=self._run, name=origin, daemon=True)
        self._lock = threading.Lock()
        self._owed: list[str] = []
        """Origins of which `lost` has been told and `regained` not."""
        self._mute_channels: set[Channel] = set()
        self._missed: dict[Channel, int] = {}
        """How often a channel was found mute since it last brought anything."""
        self._began_ns = time.time_ns()
        self._last_data_ns = 0
        self._heard_ns: dict[Channel, int] = {}
        self._slow_until = 0.0
        self._state = "connecting"
        self._detail = ""
        self._frames = 0
        self._connects = 0
        self._attempts = 0
        self._socket: websocket.WebSocket | None = None

    def start(self) -> None:
        self._thread.start()

    def ask_to_stop(self) -> None:
        self._stopping.set()

    def join(self, seconds: float) -> bool:
        """Whether the thread has ended; one that hangs in a read or a send has its socket cut under it."""
        self._thread.join(max(0.0, seconds))
        if self._thread.is_alive():
            opened = self._socket
            if opened is not None and opened.sock is not None:
                _cut(opened)
            self._thread.join(self._care.poll)
        self._cut_off = True
        return not self._thread.is_alive()

    def inherit(self, origin: str) -> None:
        """Another one's topics are wanted here now: the next data ends its loss."""
        with self._lock:
            self._owed.append(origin)

    def disown(self) -> tuple[str, ...]:
        """The losses that this connection will not end any more."""
        with self._lock:
            owed, self._owed = tuple(self._owed), []
        return owed

    @property
    def settled(self) -> bool:
        return self._state in ("live", "silent", "waiting", "closed", "failed")

    def state(self, symbols: int) -> ConnectionState:
        return ConnectionState(
            origin=self.origin,
            state=self._state,
            symbols=symbols,
            frames=self._frames,
            reconnects=max(0, self._connects - 1),
            attempts=self._attempts,
            last_data_ns=self._last_data_ns,
            detail=self._detail,
        )

    # The thread

    def _run(self) -> None:
        orderly = False
        try:
            self._keep_coming()
            orderly = True
        finally:
            if not orderly:
                self._turn_to("failed", "its thread broke off")
                self._owner.gave_up(f"{self.origin}: its thread broke off; the log says where")

    def _keep_coming(self) -> None:
        while not self._stopping.is_set():
            self._attempts += 1
            self._turn_to("connecting")
            ending = self._one_connection()
            if ending.kind is EndKind.STOPPED or self._stopping.is_set():
                break
            pause = self._after(ending)
            if pause is None:
                return
            self._turn_to("waiting", f"{ending.reason}; again in {pause:.0f} s")
            self._owner.changed()
            self._stopping.wait(pause)
        self._turn_to("closed", "stopped")

    def _after(self, ending: Ending) -> float | None:
        """Seconds to the next attempt; None where there is none."""
        self._tell_lost(ending)
        if ending.kind is EndKind.REFUSED:
            self._give_up(ending.reason)
            return None
        if ending.kind is EndKind.CROWDED:
            if not self._owner.crowded(self.origin):
                self._turn_to("closed", ending.reason)
                return None
            pause = self._crowded.failed()
            self._tell(Notice("crowded", f"{ending.reason}; {_SOMEBODY_ELSE}; again in {pause:.0f} s"))
        else:
            pause = self._backoff.failed()
        if self._care.attempts and self._attempts >= self._care.attempts:
            self._give_up(f"{self._attempts} attempts in a row brought no data; the last one: {ending.reason}")
            return None
        return pause

    def _give_up(self, reason: str) -> None:
        self._turn_to("failed", reason)
        self._owner.gave_up(f"{self.origin}: {reason}")

    def _one_connection(self) -> Ending:
        opened: websocket.WebSocket | None = None
        try:
            # A redirect is not followed: what we send next is a key, and it is meant for this address.
            opened = self._socket = websocket.create_connection(
                self._address,
                timeout=self._care.connect,
                redirect_limit=0,
                suppress_origin=True,
                skip_utf8_validation=True,
                enable_multithread=False,
            )
            self._connects += 1
            self._tell(Notice("open", f"connected to {self._address}"))
            return self._listen(opened)
        except TimeoutError:
            return Ending(EndKind.FAULT, "the server did not answer in time")
        except websocket.WebSocketBadStatusException as error:
            return Ending(EndKind.FAULT, f"the handshake was refused with HTTP {error.status_code}")
        except websocket.WebSocketTimeoutException:
            return Ending(EndKind.FAULT, "the server did not answer in time")
        except (OSError, websocket.WebSocketException) as error:
            return Ending(EndKind.FAULT, redact(str(error) or type(error).__name__))
        finally:
            self._socket = None
            if opened is not None and opened.sock is not None:
                opened.sock.close()

    def _listen(self, opened: websocket.WebSocket) -> Ending:
        opened.settimeout(self._care.poll)
        reader = FrameReader(opened)
        session = Session(self._care, time.monotonic(), self.dialogue.markers)
        ending = self._act(opened, self.dialogue.opened(session.now), session)
        while ending is None:
            if self._stopping.is_set():
                return self._take_leave(opened, reader, session)
            try:
                frames = reader.read()
            except TimeoutError:
                # Only now is it sure that nothing waits to be read, however long a full buffer held us up.
                session.now = time.monotonic()
                ending = session.unanswered() or self._silent(session)
            else:
                session.now = session.alive = time.monotonic()
                ending = self._received(opened, reader.raw, frames, session)
                if ending is None and reader.closed is not None:
                    _say_goodbye(opened)
                    ending = _closing(str(reader.closed), reader.closed.code, reader.closed.reason)
            if ending is None and session.now >= session.next_look:
                ending = self._look(opened, session)
        return ending

    def _take_leave(self, opened: websocket.WebSocket, reader: FrameReader, session: Session) -> Ending:
        """What the server had sent before it heard of our leaving is handed on: it need not be a gap."""
        _say_goodbye(opened)
        until = time.monotonic() + self._care.leave
        while reader.closed is None and session.now < until:
            try:
                frames = reader.read()
            except (OSError, websocket.WebSocketException):
                break
            session.now = time.monotonic()
            self._received(opened, reader.raw, frames, session)
        return Ending(EndKind.STOPPED, "stopped")

    def _received(
        self, opened: websocket.WebSocket, raw: bytes, frames: list[bytes], session: Session
    ) -> Ending | None:
        if not frames:
            return None
        at = time.time_ns()
        ending = None
        mark = self.dialogue.status_mark
        if mark and raw.rfind(mark) >= 0:
            kept = []
            for frame in frames:
                turn = self.dialogue.heard(frame, session.now) if mark in frame else NOTHING
                ending = ending or self._act(opened, turn, session)
                if turn.data:
                    kept.append(frame)
            frames = kept
        data = sum(map(len, frames)) > EMPTY_FRAME * len(frames)
        for frame in frames:
            if self._cut_off:
                return ending
            self._intake(self.dialogue.format, self.origin, at, frame)
        self._frames += len(frames)
        if data:
            self._bears_data(raw, at, session)
        session.held_up(time.monotonic() - session.now)
        return ending

    def _bears_data(self, raw: bytes, at: int, session: Session) -> None:
        self._last_data_ns = at
        if session.unheard:
            markers = self.dialogue.markers
            heard = [one for one in session.unheard if (marker := markers[one]) is None or marker.within(raw)]
            for channel in heard:
                session.unheard.discard(channel)
                session.heard[channel] = session.now
                self._heard_ns[channel] = at
                self._mute_channels.discard(channel)
                self._missed.pop(channel, None)
        if self._attempts:
            # Not when the key was accepted: a provider that closes right after that would be stormed. Not only after
            # a minute either: each pause is a gap, and a line that breaks every half minute still brings data.
            self._attempts = 0
            self._backoff.reset()
        if self._owed and self.dialogue.settled and not self._mute_channels:
            for origin in self.disown():
                self._listener.regained(origin, at)
        if self._state != "live" and self.dialogue.settled and not self._mute_channels:
            self._turn_to("live")

    def _look(self, opened: websocket.WebSocket, session: Session) -> Ending | None:
        """What is to be done every so often, whether anything comes or not."""
        session.next_look = session.now + min(self._care.poll, 0.1)
        ending = self._act(opened, self.dialogue.due(session.now), session)
        if ending is None and session.now >= session.next_ping:
            session.next_ping = session.now + self._care.ping
            session.pinged = session.pinged if session.alive < session.pinged else session.now
            opened.ping()
        if session.now >= session.next_watch:
            session.next_watch = session.now + self._care.watch
            session.unheard = {one.channel for one in self.dialogue.watched() if one.channel in PATIENCE}
            if session.now - session.began >= self._care.healthy and not self._attempts:
                self._crowded.reset()
            ending = ending or self._silent(session)
        if self._state == "connecting" and self.dialogue.settled:
            self._turn_to("silent" if self._mute_channels else "live")
            self._owner.changed()
        return ending

    def _silent(self, session: Session) -> Ending | None:
        watched = self.dialogue.watched()
        silences = [
            Silence(
                one,
                session.now - session.heard.setdefault(one.channel, session.now),
                2.0 ** self._missed.get(one.channel, 0),
            )
            for one in watched
        ]
        found = self._mute(silences) if silences else None
        if found is None:
            return None
        self._missed[found.channel] = self._missed.get(found.channel, 0) + 1
        self._mute_channels.add(found.channel)
        self._turn_to("silent", str(found))
        since = self._heard_ns.get(found.channel, self._began_ns)
        return Ending(EndKind.FAULT, f"connected but mute: {found}", GapCause.SILENT, since)

    def _act(self, opened: websocket.WebSocket, turn: Turn, session: Session) -> Ending | None:
        for notice in turn.notices:
            if notice.status == SLOW_CONSUMER:
                self._slow_until = session.now + self._care.slow
            self._tell(notice)
        if turn.say:
            opened.settimeout(self._care.send)
            for text in turn.say:
                opened.send(text)
            opened.settimeout(self._care.poll)
        return turn.ending

    def _tell_lost(self, ending: Ending) -> None:
        cause = ending.cause
        if cause is GapCause.DISCONNECTED and time.monotonic() < self._slow_until:
            cause = GapCause.SLOW_CONSUMER
        self._slow_until = 0.0
        with self._lock:
            if self.origin in self._owed:
                return
            self._owed.append(self.origin)
        since = ending.since_ns or self._last_data_ns or self._began_ns
        self._listener.lost(self.origin, cause, since, redact(ending.reason))

    def _tell(self, notice: Notice) -> None:
        self._listener.status(self.origin, notice.status, redact(notice.detail))

    def _turn_to(self, state: str, detail: str = "") -> None:
        self._detail = redact(detail)
        self._state = state


_SOMEBODY_ELSE = (
    "another connection with this key is open: of another program, or one of ours that the provider has not let go "
    "of yet. Only one of them can have the stream: stop the other one, or ask the provider for more connections"
)


def _closing(words: str, code: int, reason: str) -> Ending:
    """1008 is how the provider closes one connection too many."""
    crowded = code == 1008 and "connection" in reason.lower()
    return Ending(EndKind.CROWDED if crowded else EndKind.FAULT, words)


def _say_goodbye(opened: websocket.WebSocket) -> None:
    try:
        opened.send_close()
    except (OSError, websocket.WebSocketException):
        return  # the other side is gone already


def _cut(opened: websocket.WebSocket) -> None:
    try:
        if opened.sock is not None:
            opened.sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it has ended by itself
