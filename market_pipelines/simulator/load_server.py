"""The load generator as a server: one that says the handshake and then sends, to whoever subscribes, `load`'s frames.

A program of its own beside whatever is measured. What was sent is counted in frames that the socket took whole; who
comes again for the same channels goes on where the last connection ended.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, Self

import msgspec
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from market_pipelines.simulator.load import QUOTE, TRADE, Lane
from market_pipelines.simulator.stream.connection import handshake, text_frames
from market_pipelines.simulator.stream.events import array, status

PIECE_BYTES = 1_000_000
"""So much is written anew and sent at once."""
PACE_SECONDS = 0.002
SETTLING_SECONDS = 0.2
"""After the last order of a client, until the sending begins."""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    rate: float | None = None
    """Events a second; None: as fast as the client reads."""
    per_frame: int = 50
    symbols: int = 100
    """Behind a subscription to everything; who names symbols gets those."""
    events: int | None = None
    """So many, then silence."""
    seconds: float | None = None
    """So long from the first event on, then silence."""


def load_symbols(count: int) -> tuple[str, ...]:
    width = max(len(str(count)), 4)
    return tuple(f"INV{number:0{width}}" for number in range(1, count + 1))


@dataclass
class Totals:
    events: int = 0
    reserved: int = 0
    """Sent or about to be, where the plan has a bound."""
    frames: int = 0
    bytes: int = 0
    connections: int = 0
    began: float = 0.0
    last: float = 0.0
    lanes: dict[tuple[tuple[str, ...], tuple[str, ...]], Lane] = field(default_factory=dict)

    def told(self) -> dict[str, object]:
        seconds = self.last - self.began
        symbols: dict[str, dict[str, dict[str, int]]] = {}
        for lane in self.lanes.values():
            for symbol, topics in lane.told().items():
                symbols.setdefault(symbol, {}).update(topics)
        return {
            "events": self.events,
            "frames": self.frames,
            "bytes": self.bytes,
            "connections": self.connections,
            "seconds": round(seconds, 6),
            "events_per_second": round(self.events / seconds) if seconds > 0 else 0,
            "began": self.began,
            "ended": self.last,
            "symbols": symbols,
        }


class LoadServer:
    """`with LoadServer(plan) as load:` serves on a free port of loopback."""

    def __init__(self, plan: LoadPlan, port: int = 0, host: str = "127.0.0.1") -> None:
        self.plan = plan
        self.totals = Totals()
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.finished = threading.Event()
        """All that the plan says has been sent."""
        self._server = _Server((host, port), self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="simulator-load", daemon=True
        )

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    @property
    def socket_url(self) -> str:
        return f"{self.url.replace('http', 'ws', 1)}/polygon"

    def told(self) -> dict[str, object]:
        with self.lock:
            return self.totals.told()

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.end_connections()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address: tuple[str, int], load: LoadServer) -> None:
        super().__init__(address, _Handler)
        self.load = load
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error, and nobody is left to be told."""

    def end_connections(self) -> None:
        with self._lock:
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # Its client has ended it already.


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """What was sent is asked of `/control/load`, not read from stderr."""

    def do_GET(self) -> None:
        if self.headers.get("Upgrade", "").lower() == "websocket":
            self.close_connection = True
            _Sender(self.server.load, self.connection).run(handshake(self.path, self.headers.items()))
            return
        found = {"/health": {"status": "ok"}, "/control/load": self.server.load.told()}.get(self.path)
        body = msgspec.json.encode(found if found is not None else {"error": "GET /control/load, GET /health"})
        self.send_response(200 if found is not None else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Order(msgspec.Struct):
    action: str = ""
    params: str = ""


class _Sender:
    """One connection: the conversation, and then the load."""

    def __init__(self, load: LoadServer, sock: socket.socket) -> None:
        self._load = load
        self._socket = sock
        self._protocol = ServerProtocol()
        self._channels: dict[tuple[str, str], None] = {}
        self._due: float | None = None
        """When the sending may begin."""

    def run(self, request: bytes) -> None:
        self._protocol.receive_data(request)
        asked = self._protocol.events_received()
        if not asked or not isinstance(asked[0], Request):
            return
        self._protocol.send_response(self._protocol.accept(asked[0]))
        self._flush()
        with self._load.lock:
            self._load.totals.connections += 1
        self._say([status("connected", "Connected Successfully")])
        while self._open:
            wait = 0.1 if self._due is None else max(self._due - time.monotonic(), 0.0)
            self._listen(wait)
            if self._due is not None and time.monotonic() >= self._due:
                self._send_all()
                if self._load.finished.is_set():
                    self._due = None

    @property
    def _open(self) -> bool:
        return self._protocol.state is State.OPEN and not self._load.stopping.is_set()

    def _listen(self, seconds: float) -> None:
        if not select.select([self._socket], [], [], seconds)[0]:
            return
        data = self._socket.recv(65536)
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        for event in self._protocol.events_received():
            if isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                self._obey(bytes(event.data))
        self._flush()
        if not data:
            raise ConnectionAbortedError

    def _obey(self, text: bytes) -> None:
        try:
            order = msgspec.json.decode(text, type=_Order)
        except msgspec.DecodeError:
            return
        named = [part for part in order.params.split(",") if "." in part]
        if order.action == "auth":
            self._say([status("auth_success", "authenticated")])
        elif order.action == "subscribe":
            fresh = [part for part in named if tuple(part.split(".", 1)) not in self._channels]
            for part in fresh:
                topic, _, symbol = part.partition(".")
                self._channels[topic, symbol] = None
            self._say([status("success", f"subscribed to: {part}") for part in fresh])
        elif order.action == "unsubscribe":
            for part in named:
                topic, _, symbol = part.partition(".")
                self._channels.pop((topic, symbol), None)
            self._say([status("success", f"unsubscribed to: {part}") for part in named])
        if order.action != "auth" and self._kinds:
            self._due = time.monotonic() + SETTLING_SECONDS

    @property
    def _kinds(self) -> tuple[str, ...]:
        return tuple(kind for kind in (QUOTE, TRADE) if any(topic == kind for topic, _ in self._channels))

    def _lane(self) -> Lane:
        symbols: Sequence[str] = tuple(
            dict.fromkeys(symbol for topic, symbol in self._channels if topic in (QUOTE, TRADE))
        )
        if "*" in symbols:
            symbols = load_symbols(self._load.plan.symbols)
        key = tuple(symbols), self._kinds
        with self._load.lock:
            known = self._load.totals.lanes.get(key)
        made = known or Lane(symbols, self._kinds, self._load.plan.per_frame)
        with self._load.lock:
            return self._load.totals.lanes.setdefault(key, made)

    def _send_all(self) -> None:
        """Until the client says something, or all has been sent."""
        plan, totals = self._load.plan, self._load.totals
        lane = self._lane()
        most = max(PIECE_BYTES // lane.frame_bytes, 1)
        began, sent = time.time(), 0
        with self._load.lock:
            if not totals.began:
                totals.began = totals.last = began
        while not select.select([self._socket], [], [], 0)[0] and not self._load.stopping.is_set():
            now = time.time()
            if plan.seconds is not None and now - totals.began >= plan.seconds:
                self._load.finished.set()
                return
            owed = most * lane.per_frame if plan.rate is None else int((now - began) * plan.rate) - sent
            granted = self._reserve(min(owed // lane.per_frame, most) * lane.per_frame)
            if granted is None:
                self._load.finished.set()
                return
            if granted == 0:
                self._load.stopping.wait(PACE_SECONDS)
            elif granted < lane.per_frame:
                self._send_part(lane, granted, now)
            else:
                sent += self._send(lane, lane.piece(granted // lane.per_frame, int(now * 1000)), granted)

    def _reserve(self, events: int) -> int | None:
        """How many of them may be sent: a multiple of a frame's, or the last few; None: no more at all."""
        plan, totals = self._load.plan, self._load.totals
        with self._load.lock:
            if plan.events is None:
                return events
            left = plan.events - totals.reserved
            if left == 0:
                return None if totals.events == plan.events else 0
            granted = left if left < plan.per_frame else min(events, left // plan.per_frame * plan.per_frame)
            totals.reserved += granted
            return granted

    def _send(self, lane: Lane, data: memoryview, reserved: int) -> int:
        done = 0
        try:
            while done < len(data):
                done += self._socket.send(data[done:])
        finally:
            frames = done // lane.frame_bytes
            lane.sent(frames)
            self._count(frames, frames * lane.per_frame, done, reserved)
        return frames * lane.per_frame

    def _send_part(self, lane: Lane, events: int, now: float) -> None:
        data = lane.last_part(events, int(now * 1000))
        self._socket.sendall(data)
        lane.events += events
        self._count(1, events, len(data), events)

    def _count(self, frames: int, events: int, size: int, reserved: int) -> None:
        with self._load.lock:
            totals = self._load.totals
            totals.frames += frames
            totals.events += events
            totals.bytes += size
            totals.last = time.time()
            if self._load.plan.events is not None:
                totals.reserved -= reserved - events

    def _say(self, texts: list[bytes]) -> None:
        if texts:
            self._socket.sendall(text_frames(array(texts)))

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._socket.sendall(data)
