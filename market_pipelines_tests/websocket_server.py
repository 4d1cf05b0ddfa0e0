"""A WebSocket server that does what a test says: a small Polygon that can misbehave, and bare sockets for worse."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

from market_pipelines.streaming.care import Care
from market_pipelines.streaming.entries import Format, GapCause

KEY = "key-of-the-tests"
QUICK = Care(
    connect=2.0,
    send=2.0,
    poll=0.02,
    leave=0.1,
    ping=0.2,
    pong=0.3,
    watch=0.05,
    first_pause=0.02,
    longest_pause=0.2,
    crowded_first=0.2,
    crowded_longest=1.0,
)


class Witness:
    """Intake and listener in one: remembers everything, and waits for what a test expects."""

    def __init__(self) -> None:
        self.frames: list[tuple[str, bytes]] = []
        self.formats: set[Format] = set()
        self.arrived_ns = 0
        self.losses: list[tuple[str, GapCause, int, str]] = []
        self.regains: list[tuple[str, int]] = []
        self.statuses: list[tuple[str, str, str]] = []
        self.failures: list[str] = []
        self._changed = threading.Condition()

    def __call__(self, format: Format, origin: str, received_ns: int, body: bytes) -> None:
        with self._changed:
            self.formats.add(format)
            self.arrived_ns = received_ns
            self.frames.append((origin, body))
            self._changed.notify_all()

    def lost(self, origin: str, cause: GapCause, since_ns: int, detail: str) -> None:
        with self._changed:
            self.losses.append((origin, cause, since_ns, detail))
            self._changed.notify_all()

    def regained(self, origin: str, at_ns: int) -> None:
        with self._changed:
            self.regains.append((origin, at_ns))
            self._changed.notify_all()

    def status(self, origin: str, status: str, detail: str) -> None:
        with self._changed:
            self.statuses.append((origin, status, detail))
            self._changed.notify_all()

    def failed(self, reason: str) -> None:
        with self._changed:
            self.failures.append(reason)
            self._changed.notify_all()

    def until(self, holds: Callable[[], object], seconds: float = 5.0) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: bool(holds()), seconds), f"{seconds:g} s were not enough: {self}"

    def told(self, status: str) -> list[str]:
        return [detail for _, one, detail in self.statuses if one == status]

    def __str__(self) -> str:
        return f"{self.statuses} {self.losses} {self.regains} {self.failures} {self.frames[-3:]}"


def eventually(holds: Callable[[], object], seconds: float = 5.0) -> None:
    """For what only a server knows, which tells nobody."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{seconds:g} s were not enough"
        time.sleep(0.005)


class FakePolygon:
    """Greets, checks the key, acknowledges, and sends what a test emits. Its faults are attributes."""

    def __init__(self) -> None:
        self.auth_answer = "auth_success"
        self.greets = True
        self.not_authorized: set[str] = set()
        """Codes of channels."""
        self.silent_topics: set[str] = set()
        self.most: int | None = None
        self.evicts_the_older = False
        self.closes_after_auth = False
        self.arrivals: list[float] = []
        self.requests: list[dict[str, str]] = []
        self.standing: list[_Client] = []
        self._lock = threading.Lock()
        self._server: Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._server = serve(self._serve, "127.0.0.1", 0, compression=None, ping_interval=None)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        assert self._thread is not None
        for client in list(self.standing):
            client.cut()
        self._server.shutdown()
        self._thread.join()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}/stocks"

    def subscribed(self) -> list[set[str]]:
        with self._lock:
            return [set(client.topics) for client in self.standing]

    def asked(self, action: str) -> list[str]:
        return [topic for one in self.requests if one["action"] == action for topic in one["params"].split(",")]

    def emit(self, code: str, symbol: str, **more: object) -> int:
        """To everybody who has subscribed; how many that are."""
        event = {"ev": code, "sym": symbol, "t": time.time_ns() // 1_000_000, **more}
        with self._lock:
            clients = [one for one in self.standing if one.topics & {f"{code}.{symbol}", f"{code}.*"}]
        for client in clients:
            client.say([event])
        return len(clients)

    def say(self, status: str, message: str = "") -> None:
        with self._lock:
            clients = list(self.standing)
        for client in clients:
            client.status(status, message)

    def cut(self) -> None:
        """Without a closing handshake."""
        with self._lock:
            clients = list(self.standing)
        for client in clients:
            client.cut()

    def _serve(self, connection: ServerConnection) -> None:
        self.arrivals.append(time.monotonic())
        client = _Client(connection)
        try:
            if self.greets:
                client.status("connected", "Connected Successfully")
            if not self._let_in(client):
                return
            for text in connection:
                self._answer(client, json.loads(text))
        except (ConnectionClosed, OSError):
            return
        finally:
            with self._lock:
                if client in self.standing:
                    self.standing.remove(client)

    def _let_in(self, client: _Client) -> bool:
        request = json.loads(client.connection.recv(5))
        self.requests.append(request)
        if self.auth_answer != "auth_success" or request["params"] != KEY:
            client.status("auth_failed" if self.auth_answer == "auth_success" else self.auth_answer, "refused")
            client.cut()
            return False
        client.status("auth_success", "authenticated")
        if self.closes_after_auth:
            client.connection.close(1001, "going away")
            return False
        with self._lock:
            self.standing.append(client)
            too_many = self.most is not None and len(self.standing) > self.most
            victim = self.standing[0] if self.evicts_the_older else client
            if too_many:
                self.standing.remove(victim)
        if too_many:
            victim.status("max_connections", "Maximum number of connections exceeded.")
            victim.connection.close(1008, "max connections")
        return not (too_many and victim is client)

    def _answer(self, client: _Client, request: dict[str, str]) -> None:
        self.requests.append(request)
        topics = request["params"].split(",")
        if request["action"] == "unsubscribe":
            client.topics.difference_update(topics)
            client.say([_status("success", f"unsubscribed to: {one}") for one in topics])
            return
        answers = []
        for topic in topics:
            if topic.partition(".")[0] in self.not_authorized:
                answers.append(_status("error", "not authorized"))
            elif topic not in self.silent_topics and topic not in client.topics:
                client.topics.add(topic)
                answers.append(_status("success", f"subscribed to: {topic}"))
        if answers:
            client.say(answers)


class _Client:
    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection
        self.topics: set[str] = set()

    def say(self, events: Sequence[dict[str, Any]]) -> None:
        with contextlib.suppress(ConnectionClosed, OSError):
            self.connection.send(json.dumps(events, separators=(",", ":")))

    def status(self, status: str, message: str) -> None:
        self.say([_status(status, message)])

    def cut(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.socket.shutdown(socket.SHUT_RDWR)


def _status(status: str, message: str) -> dict[str, Any]:
    return {"ev": "status", "status": status, "message": message}


@contextlib.contextmanager
def bare_server(script: Callable[[socket.socket], None]) -> Iterator[str]:
    """Shakes hands, then the script has the socket; one connection after the other, until the block ends."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0.05)
    over = threading.Event()

    def accept() -> None:
        while not over.is_set():
            try:
                accepted, _ = listening.accept()
            except TimeoutError:
                continue
            with accepted, contextlib.suppress(OSError):
                accepted.settimeout(5)
                _shake_hands(accepted)
                script(accepted)

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"ws://127.0.0.1:{listening.getsockname()[1]}/stocks"
    finally:
        over.set()
        thread.join()
        listening.close()


def text_frame(body: bytes, *, head: int = 0x81) -> bytes:
    """As a server sends it; `head` is the first byte: 0x81 a whole text."""
    if len(body) < 126:
        return bytes((head, len(body))) + body
    if len(body) < 65_536:
        return bytes((head, 126)) + len(body).to_bytes(2, "big") + body
    return bytes((head, 127)) + len(body).to_bytes(8, "big") + body


def _shake_hands(accepted: socket.socket) -> None:
    request = b""
    while b"\r\n\r\n" not in request:
        request += accepted.recv(4096)
    lines = request.decode().split("\r\n")
    key = next(line.split(":", 1)[1].strip() for line in lines if line.lower().startswith("sec-websocket-key:"))
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()  # noqa: S324 (the protocol's)
    accepted.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
    )
