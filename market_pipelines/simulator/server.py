"""The simulator as an HTTP server: sockets, threads, start and stop. What it answers is `exchange`'s business."""

from __future__ import annotations

import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer
from types import FrameType, TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from market_pipelines.simulator import control
from market_pipelines.simulator.clock import SimulatedClock
from market_pipelines.simulator.exchange import Delivery, Exchange
from market_pipelines.simulator.faults import PROVIDERS, Fault, FaultBoard
from market_pipelines.simulator.formats.asked import Asked
from market_pipelines.simulator.formats.reply import Reply
from market_pipelines.simulator.listings import Listing, all_listings, invented_listings
from market_pipelines.simulator.stream import control as stream_control
from market_pipelines.simulator.stream.connection import Connection, handshake
from market_pipelines.simulator.stream.events import Sent
from market_pipelines.simulator.stream.hub import Hub
from market_pipelines.simulator.traffic import RequestLog
from market_pipelines.simulator.truth import DEFAULT_SEED, World

DEFAULT_PORT = 8099
SIGNATURE = ("X-Simulated-By", "market_pipelines")
MOST_CONNECTIONS = 128
MOST_STREAMS = 256
"""WebSockets at once. They last, so they count for themselves."""
STREAM_PATHS = ("/polygon/", "/yahoo/streamer")
LONGEST_CONTROL_BODY = 1_000_000
DROP_SECONDS = 0.05
"""Between two pieces of a body that comes slowly."""


class SimulatorError(Exception):
    """The simulator cannot run. The message says why and what to do."""


class _Server(TCPServer):
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], exchange: Exchange, hub: Hub) -> None:
        super().__init__(address, _Handler)
        self.exchange = exchange
        self.hub = hub
        self.stopping = threading.Event()
        self._slots = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._stream_slots = threading.BoundedSemaphore(MOST_STREAMS)
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._streams: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        # Past the bound, newcomers wait in the listening queue until a connection ends.
        while not self._slots.acquire(timeout=0.1):
            if self.stopping.is_set():
                self.shutdown_request(request)
                return
        thread = threading.Thread(
            target=self._serve, args=(request, client_address), name="simulator-connection", daemon=True
        )
        self._threads = [*(known for known in self._threads if known.is_alive()), thread]
        with self._lock:
            self._connections.add(request)
        thread.start()

    def _serve(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            pass  # The client went away, or the simulator is stopping: nobody is left to be told.
        finally:
            with self._lock:
                self._connections.discard(request)
                was_stream = request in self._streams
                self._streams.discard(request)
            self.shutdown_request(request)
            if not was_stream:
                self._slots.release()

    @contextmanager
    def streaming(self, connection: socket.socket) -> Iterator[bool]:
        """While a connection is a WebSocket, it takes no place from the requests. False: there are too many."""
        if not self._stream_slots.acquire(blocking=False):
            yield False
            return
        with self._lock:
            self._streams.add(connection)
        self._slots.release()
        try:
            yield True
        finally:
            self._stream_slots.release()

    def end_connections(self) -> None:
        """Wakes every thread that waits for a client, and waits for all of them."""
        self.stopping.set()
        with self._lock:
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # Its client has ended it already.
        for thread in self._threads:
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = 120
    server: _Server

    def version_string(self) -> str:
        return SIGNATURE[1]

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are kept in the request log, not written to stderr."""

    def do_GET(self) -> None:
        if self.headers.get("Upgrade", "").lower() == "websocket":
            self._stream()
        else:
            self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _stream(self) -> None:
        self.close_connection = True
        path = urlsplit(self.path).path
        if not path.startswith(STREAM_PATHS):
            self._send(Reply(404, b"", "text/plain"))
            return
        provider, _, rest = path.removeprefix("/").partition("/")
        refused = self.server.exchange.faults.strike(provider, "ws_handshake")
        if refused is not None and isinstance(refused.value, int):
            self._send(Reply(refused.value, b"", "text/plain"))
            return
        with self.server.streaming(self.connection) as admitted:
            if admitted:
                request = handshake(self.path, self.headers.items())
                self.server.hub.serve(provider, f"/{rest}", self.connection, request)
            else:
                self._send(Reply(503, b"too many WebSockets", "text/plain"))

    def _answer(self) -> None:
        body = self._body()
        if body is None:
            return
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        provider, _, rest = parts.path.removeprefix("/").partition("/")
        if provider in PROVIDERS and self.command == "GET":
            asked = Asked(
                provider=provider,
                path=f"/{rest}",
                query=query,
                accept=self.headers.get("Accept", ""),
                base_url=f"{self.server.url}/{provider}",
                headers={name.lower(): value for name, value in self.headers.items()},
            )
            self._deliver(self.server.exchange.deliver(asked, self.path))
        elif parts.path.startswith(stream_control.PREFIX):
            self._send(stream_control.answer(self.server.hub, self.command, parts.path, query, body))
        else:
            self._send(control.answer(self.server.exchange, self.command, parts.path, query, body))

    def _body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > LONGEST_CONTROL_BODY:
            self.close_connection = True
            self._send(Reply(413, b"", "text/plain"))
            return None
        return self.rfile.read(int(length))

    def _deliver(self, delivery: Delivery) -> None:
        manner, reply = delivery.manner, delivery.reply
        if manner.stall is not None:
            self.server.stopping.wait(manner.stall)
        if manner.stall is not None or manner.close:
            self.close_connection = True
            return
        if manner.close_mid_body:
            self.close_connection = True
            self._head(reply)
            self.wfile.write(reply.body[: len(reply.body) // 2])
            return
        if manner.bytes_a_second is not None:
            self._drip(reply, manner.bytes_a_second)
            return
        self._send(reply)

    def _drip(self, reply: Reply, bytes_a_second: float) -> None:
        self.close_connection = True
        self._head(reply)
        self.wfile.flush()
        piece = max(int(bytes_a_second * DROP_SECONDS), 1)
        pause = piece / bytes_a_second
        for start in range(0, len(reply.body), piece):
            self.wfile.write(reply.body[start : start + piece])
            self.wfile.flush()
            if self.server.stopping.wait(pause):
                return

    def _head(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        self.send_header(*SIGNATURE)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def _send(self, reply: Reply) -> None:
        self._head(reply)
        self.wfile.write(reply.body)


class Simulator:
    """An exchange in a box. `with Simulator() as simulator:` serves on a free port of loopback."""

    def __init__(
        self,
        port: int = 0,
        host: str = "127.0.0.1",
        seed: int = DEFAULT_SEED,
        faults: Iterable[str | Fault] = (),
        clock: datetime | None = None,
        more: int = 0,
        listings: tuple[Listing, ...] | None = None,
        requests_kept: int = 200,
        sent_kept: int = 1_000_000,
    ) -> None:
        """`listings`: in place of the list; `more`: so many invented shares beside them; `requests_kept`: how many of
        the newest requests of each provider are remembered one by one; `sent_kept`: of how many streamed events each
        connection remembers the ids."""
        if more:
            listings = (*(listings or all_listings()), *invented_listings(more))
        self.world = World(seed, listings, cached=512 + more)
        self.faults = FaultBoard(faults)
        self.clock = SimulatedClock(clock)
        self._exchange = Exchange(self.world, self.faults, self.clock, requests_kept)
        self._hub = Hub(self.world, self.clock, self.faults, sent_kept)
        self._address = (host, port)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def requests(self) -> RequestLog:
        return self._exchange.requests

    @property
    def sent(self) -> tuple[Sent, ...]:
        """Every event that was handed to a socket, connection by connection: what came twice is here twice."""
        return tuple(one for connection in self._hub.connections() for one in connection.sent)

    @property
    def streams(self) -> tuple[Connection, ...]:
        """All WebSockets so far, the oldest first, with what each was sent and why it ended."""
        return self._hub.connections()

    @property
    def streamed_until(self) -> datetime:
        """Everything before this instant has been told to whoever listened."""
        return self._hub.told_until

    @property
    def url(self) -> str:
        if self._server is None:
            raise SimulatorError("the simulator is not running, so it has no address: call start() first")
        return self._server.url

    def base_urls(self) -> dict[str, str]:
        """The settings that point every adapter here."""
        sockets = self.url.replace("http://", "ws://", 1)
        return {
            **{f"{provider.upper()}_BASE_URL": f"{self.url}/{provider}" for provider in PROVIDERS},
            "POLYGON_WS_URL": f"{sockets}/polygon",
            "YAHOO_WS_URL": f"{sockets}/yahoo/streamer",
        }

    def start(self) -> Self:
        if self._server is not None:
            raise SimulatorError(f"the simulator is already running on {self._server.url}")
        try:
            self._server = _Server(self._address, self._exchange, self._hub)
        except OSError as error:
            raise SimulatorError(self._why_not(error)) from error
        except OverflowError:
            raise SimulatorError(f"port {self._address[1]} cannot be used: accepted is 0 to 65535") from None
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="simulator", daemon=True)
        self._thread.start()
        self._hub.start()
        return self

    def _why_not(self, error: OSError) -> str:
        host, port = self._address
        if error.errno == errno.EADDRINUSE:
            return (
                f"port {port} on {host} is taken, so the simulator cannot start: "
                "stop the other program or choose another port with --port"
            )
        return f"the simulator cannot listen on {host}:{port}: {error.strerror or error}"

    def stop(self) -> None:
        """Ends all connections and threads. Stopping twice is fine."""
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server is None or thread is None:
            return
        server.stopping.set()
        self._hub.stop()
        server.shutdown()
        thread.join()
        server.end_connections()
        server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def serve(
    port: int = DEFAULT_PORT,
    host: str = "127.0.0.1",
    seed: int = DEFAULT_SEED,
    faults: Iterable[str | Fault] = (),
    clock: datetime | None = None,
    announce: Callable[[str], None] = print,
) -> None:
    """Runs until SIGINT or SIGTERM. Call it from the main thread."""
    done = threading.Event()

    def finish(_signal: int, _frame: FrameType | None) -> None:
        done.set()

    previous = {number: signal.signal(number, finish) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Simulator(port, host, seed, faults, clock) as simulator:
            announce(f"simulated providers on {simulator.url} (seed {seed}); stop with Ctrl-C")
            for name, address in simulator.base_urls().items():
                announce(f"{name}={address}")
            done.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
