"""Whole messages out of the bytes of a connected WebSocket, many a system call.

`websocket-client` opens the connection, checks the handshake, speaks TLS and sends; its own loop over received
frames takes seven microseconds a frame, which made it the limit of the stream where a frame is one event. This one
takes less than one. What messages mean does not belong here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import websocket

LARGEST = 16 * 1024 * 1024
"""Bytes of a message. The provider's own client refuses what is larger than one million."""
_READ = 65_536
_SHORT, _MEDIUM = 126, 127
_CONTINUED, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_WHOLE_TEXT = 0x81


@dataclass(frozen=True, slots=True)
class Closed:
    """The server's closing frame."""

    code: int
    reason: str

    def __str__(self) -> str:
        return f"closed by the server ({self.code}{': ' if self.reason else ''}{self.reason})"


class FrameReader:
    """Owned by the thread that reads. Answers pings; the answers to ours count as a sign of life like any byte."""

    def __init__(self, connected: websocket.WebSocket, largest: int = LARGEST) -> None:
        if connected.sock is None:
            raise websocket.WebSocketConnectionClosedException("the socket is not connected")
        self.closed: Closed | None = None
        self.received = 0
        """Bytes so far."""
        self.raw = b""
        """What the last messages were cut out of: a look for some bytes in here is one look at all of them."""
        self._connected = connected
        self._socket = connected.sock
        self._largest = largest
        self._pieces: list[bytes] = []
        """Of a frame that is not complete."""
        self._held = 0
        self._needed = 2
        self._fragments: list[bytes] = []
        self._fragments_size = 0
        self._fragmented = False

    def read(self) -> list[bytes]:
        """Waits as long as the socket's timeout says (`TimeoutError`); the messages that are complete now.

        After the closing frame `closed` is set and nothing more comes.
        """
        arrived = self._socket.recv(_READ)
        if not arrived:
            raise websocket.WebSocketConnectionClosedException("the connection ended without a closing frame")
        self.received += len(arrived)
        self._held += len(arrived)
        if self._held < self._needed:
            self._pieces.append(arrived)
            self.raw = b""
            return []
        data = b"".join((*self._pieces, arrived)) if self._pieces else arrived
        self.raw = data
        return self._cut(data)

    def _cut(self, data: bytes) -> list[bytes]:
        messages: list[bytes] = []
        place, end = 0, len(data)
        needed = 2
        while end - place >= 2:
            head, size = data[place], data[place + 1]
            start = place + 2
            if size >= _SHORT:
                width = 2 if size == _SHORT else 8
                if size > _MEDIUM:
                    raise websocket.WebSocketProtocolException("a server's frame is masked")
                start += width
                if end < start:
                    needed = start - place
                    break
                size = int.from_bytes(data[start - width : start], "big")
                if size > self._largest:
                    raise websocket.WebSocketProtocolException(f"a frame of {size:,} bytes is refused")
            stop = start + size
            if end < stop:
                needed = stop - place
                break
            if head == _WHOLE_TEXT and not self._fragmented:
                messages.append(data[start:stop])
            else:
                self._other(head, data[start:stop], messages)
                if self.closed is not None:
                    return messages
            place = stop
        rest = data[place:]
        self._pieces = [rest] if rest else []
        self._held = len(rest)
        self._needed = needed
        return messages

    def _other(self, head: int, payload: bytes, messages: list[bytes]) -> None:
        """Everything but an unfragmented text."""
        opcode, final = head & 0x0F, head & 0x80 != 0
        if head & 0x70:
            raise websocket.WebSocketProtocolException("a frame uses an extension that was not agreed on")
        if opcode >= _CLOSE and (not final or len(payload) >= _SHORT):
            raise websocket.WebSocketProtocolException("a control frame is fragmented or too long")
        if opcode == _PING:
            self._connected.pong(payload)
        elif opcode == _CLOSE:
            self.closed = _closed(payload)
        elif opcode in (_TEXT, _BINARY, _CONTINUED):
            if self._fragmented != (opcode == _CONTINUED):
                raise websocket.WebSocketProtocolException("a fragment is out of place")
            self._fragments.append(payload)
            self._fragments_size += len(payload)
            if self._fragments_size > self._largest:
                raise websocket.WebSocketProtocolException(f"a message of more than {self._largest:,} bytes is refused")
            self._fragmented = not final
            if final:
                messages.append(b"".join(self._fragments))
                self._fragments, self._fragments_size = [], 0
        elif opcode != _PONG:
            raise websocket.WebSocketProtocolException(f"a frame has the unknown opcode {opcode}")


def _closed(payload: bytes) -> Closed:
    if not payload:
        return Closed(1005, "")
    if len(payload) == 1:
        raise websocket.WebSocketProtocolException("a closing frame of one byte")
    return Closed(struct.unpack("!H", payload[:2])[0], payload[2:].decode("utf-8", errors="replace"))
