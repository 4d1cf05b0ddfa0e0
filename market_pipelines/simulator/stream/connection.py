"""One WebSocket on its thread: bytes in and out, a bounded buffer, and every way in which a connection can end.

What is said on it is a dialogue's business. Frames are made here by hand, because some faults live between
the bytes of one.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from websockets.exceptions import ProtocolError
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from market_pipelines.simulator.stream.events import Sent
from market_pipelines.simulator.stream.sent import SentLog

_log = logging.getLogger("market_pipelines.simulator.stream")
_log.setLevel(logging.WARNING)

LONGEST_MESSAGE = 2_000_000
WHOLE_WRITE = 262_144
"""So many bytes go to the socket at once, where that many wait."""
BUFFER_BYTES = 64_000_000
"""The provider cuts a reader that is further behind; so much we can keep for one."""
GOODBYE_SECONDS = 5.0
"""How long the last words may take to leave."""


@dataclass(frozen=True, slots=True)
class Parcel:
    data: bytes
    ids: tuple[Sent, ...] = ()
    told: bool = False
    """A frame with events in it."""


def text_frames(payload: bytes, pieces: int = 1) -> bytes:
    """As a server sends it: unmasked; in several pieces where the faults say so."""
    step = max(-(-len(payload) // pieces), 1)
    parts = [payload[start : start + step] for start in range(0, len(payload), step)] or [b""]
    return b"".join(
        _framed(part, (Opcode.TEXT if number == 0 else Opcode.CONT) | (0x80 if number == len(parts) - 1 else 0))
        for number, part in enumerate(parts)
    )


def _framed(payload: bytes, first: int) -> bytes:
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", first, size) + payload
    if size < 65536:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload


@dataclass(slots=True)
class Cutting:
    """What the faults do to this connection's bytes; asked before each frame with events."""

    reset_after: Callable[[int], bool] = field(default=lambda _frames: False)
    close_after: Callable[[int], bool] = field(default=lambda _frames: False)


class Connection:
    def __init__(self, number: int, path: str, sock: socket.socket, kept: int, cutting: Cutting) -> None:
        self.number = number
        self.path = path
        self.sent = SentLog(kept)
        self.opened_at = time.time()
        self.closed_why = ""
        self.frames = 0
        self.bytes = 0
        self.last_pong = time.monotonic()
        self.answers_pings = True
        self._cutting = cutting
        self._socket = sock
        self._protocol = ServerProtocol(max_size=LONGEST_MESSAGE, logger=_log)
        self._changed = threading.Condition()
        self._parcels: deque[Parcel] = deque()
        self._pending = 0
        self._finishing = False
        self._ended = False
        self._mute = False
        self._dead = False
        self._abort_at: float | None = None

    # -- the reading side, on the thread of the connection -------------------------------------------------

    def run(self, request: bytes, opened: Callable[[], None], heard: Callable[[str], None]) -> None:
        """Until it ends, for whatever reason. `opened` is called after the handshake, `heard` with each message."""
        self._protocol.receive_data(request)
        asked = self._protocol.events_received()
        if not asked or not isinstance(asked[0], Request):
            return
        response = self._protocol.accept(asked[0])
        self._protocol.send_response(response)
        writer = threading.Thread(target=self._write, name=f"simulator-stream-{self.number}-writer", daemon=True)
        self._flush_protocol()
        self._socket.settimeout(None)
        writer.start()
        try:
            if response.status_code == 101:
                opened()
                self._listen(heard)
        finally:
            with self._changed:
                self._finishing = True
                self._changed.notify_all()
            writer.join(GOODBYE_SECONDS)
            self._end("")
            writer.join()

    def _listen(self, heard: Callable[[str], None]) -> None:
        message: list[bytes] = []
        while True:
            try:
                data = self._socket.recv(65536)
            except OSError:
                self._note("connection lost")
                return
            if not data:
                self._note("closed by the client")
                return
            if self._dead:
                continue
            with self._changed:
                self._protocol.receive_data(data)
                events = self._protocol.events_received()
            for event in events:
                if isinstance(event, Frame):
                    self._take(event, message, heard)
            self._flush_protocol()
            if isinstance(self._protocol.parser_exc, ProtocolError):
                self._note(f"protocol error: {self._protocol.parser_exc}")
                return
            if self._protocol.state is not State.OPEN:
                self._note("closed by the client")
                return

    def _take(self, frame: Frame, message: list[bytes], heard: Callable[[str], None]) -> None:
        if frame.opcode is Opcode.PONG:
            self.last_pong = time.monotonic()
        elif frame.opcode in (Opcode.TEXT, Opcode.CONT):
            message.append(bytes(frame.data))
            if frame.fin:
                text = b"".join(message).decode("utf-8", "replace")
                message.clear()
                heard(text)

    def _flush_protocol(self) -> None:
        """Handshake, pongs and the answer to a close: whatever the protocol wants to say."""
        with self._changed:
            data = b"".join(self._protocol.data_to_send())
            # While it is open, the protocol itself says nothing but pongs.
            if data and (self.answers_pings or self._protocol.state is not State.OPEN):
                self._append(Parcel(data), always=True)

    # -- the saying side, from any thread ------------------------------------------------------------------

    def tell(self, payload: bytes, ids: tuple[Sent, ...] = (), *, told: bool = False, pieces: int = 1) -> None:
        """Puts a text frame into the buffer. Says nothing where the connection has ended or was silenced."""
        with self._changed:
            if not self._mute:
                self._append(Parcel(text_frames(payload, pieces), ids, told))

    def ping(self) -> None:
        with self._changed:
            if self._protocol.state is State.OPEN:
                self._protocol.send_ping(b"are you there")
                self._append(Parcel(b"".join(self._protocol.data_to_send())))

    def _append(self, parcel: Parcel, *, always: bool = False) -> None:
        if self._ended or self._dead or (self._finishing and not always):
            return
        self._parcels.append(parcel)
        self._pending += len(parcel.data)
        self._changed.notify_all()

    @property
    def pending(self) -> int:
        """Bytes that wait for the reader."""
        return self._pending

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def ending(self) -> bool:
        return self._finishing or self._ended

    @property
    def muted(self) -> bool:
        return self._mute

    @property
    def dead(self) -> bool:
        return self._dead

    def wait_drained(self, below: int, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._ended or self._dead or self._pending < below, seconds)

    def mute(self) -> None:
        """No status and no event from now on; pings are answered."""
        with self._changed:
            self._mute = True

    def play_dead(self) -> None:
        """As if the cable had been cut: not a byte more, and no end either."""
        with self._changed:
            self._dead = True
            self._parcels.clear()
            self._pending = 0
            self._changed.notify_all()

    def close(self, code: int, reason: str, why: str, *, last_words: bytes = b"", forget: bool = False) -> None:
        """The closing handshake. `forget`: what waits in the buffer is not sent any more."""
        with self._changed:
            if self._finishing or self._ended:
                return
            self.closed_why = self.closed_why or why
            if forget:
                self._parcels.clear()
                self._pending = 0
            if last_words and not self._mute:
                self._append(Parcel(text_frames(last_words)))
            if self._protocol.state is State.OPEN:
                self._protocol.send_close(code, reason)
                self._append(Parcel(b"".join(self._protocol.data_to_send())))
            self._finishing = True
            self._abort_at = time.monotonic() + GOODBYE_SECONDS
            self._changed.notify_all()

    def drop(self, why: str, *, last_words: bytes = b"") -> None:
        """Ends without a closing handshake, after what waits has been sent."""
        with self._changed:
            if self._finishing or self._ended:
                return
            self.closed_why = self.closed_why or why
            if last_words and not self._mute:
                self._append(Parcel(text_frames(last_words)))
            self._finishing = True
            self._abort_at = time.monotonic() + GOODBYE_SECONDS
            self._changed.notify_all()

    def cut(self, why: str) -> None:
        """Ends at once, whatever waits."""
        self._end(why)

    def overdue(self) -> bool:
        """Whether its last words have taken too long."""
        return self._abort_at is not None and time.monotonic() > self._abort_at and not self._ended

    def _note(self, why: str) -> None:
        with self._changed:
            self.closed_why = self.closed_why or why

    def _end(self, why: str) -> None:
        with self._changed:
            self.closed_why = self.closed_why or why or "simulator stopped"
            self._ended = True
            self._changed.notify_all()
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # Its client has ended it already.

    # -- the writing side, on a thread of its own ----------------------------------------------------------

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._parcels or self._finishing or self._ended)
                if self._ended or not self._parcels:
                    break
                batch = self._next_batch()
            try:
                if not self._hand_over(batch):
                    return
            except OSError:
                self._end("connection lost")
                return
            with self._changed:
                self._pending = max(self._pending - sum(len(parcel.data) for parcel in batch), 0)
                self._changed.notify_all()
        self._stop_talking()

    def _stop_talking(self) -> None:
        """The client sees the end; its own last words are still read."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return  # It has ended already.

    def _next_batch(self) -> list[Parcel]:
        batch, size = [], 0
        while self._parcels and size < WHOLE_WRITE:
            parcel = self._parcels.popleft()
            batch.append(parcel)
            size += len(parcel.data)
        return batch

    def _hand_over(self, batch: list[Parcel]) -> bool:
        """False: the faults have ended the connection."""
        waiting: list[Parcel] = []
        for parcel in batch:
            if parcel.told:
                told = self.frames + sum(other.told for other in waiting)
                if self._cutting.close_after(told):
                    self._send(waiting)
                    self.close(1001, "", "ws_close_after", forget=True)
                    return True
                if self._cutting.reset_after(told):
                    self._send(waiting)
                    self._reset_within(parcel)
                    return False
            waiting.append(parcel)
        self._send(waiting)
        return True

    def _send(self, parcels: list[Parcel]) -> None:
        """Notes as sent what the socket took whole, even where it breaks in the middle."""
        view = memoryview(b"".join(parcel.data for parcel in parcels))
        done = 0
        try:
            while done < len(view):
                done += self._socket.send(view[done:])
        finally:
            left = done
            for parcel in parcels:
                left -= len(parcel.data)
                if left < 0:
                    break
                self.frames += parcel.told
                self.bytes += len(parcel.data)
                if parcel.ids:
                    self.sent.add(parcel.ids)

    def _reset_within(self, parcel: Parcel) -> None:
        self._note("ws_reset_mid_frame")
        self._socket.sendall(parcel.data[: len(parcel.data) // 2])
        self._reset()

    def _reset(self) -> None:
        # Lingering for no time makes the kernel send RST in place of FIN when the socket is closed.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._end("ws_reset_mid_frame")


def handshake(path: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """The request again, as the protocol wants to read it."""
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")
