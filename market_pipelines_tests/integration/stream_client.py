"""A client of the simulated sockets for tests: it keeps all that it hears and waits for what it needs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import websocket

from market_pipelines.simulator.server import Simulator

DEADLINE = 10.0
Event = dict[str, Any]


class Client:
    def __init__(self, simulator: Simulator, path: str = "/polygon/stocks", buffer: int | None = None) -> None:
        options = [] if buffer is None else [(1, 8, buffer)]  # SOL_SOCKET, SO_RCVBUF
        self.socket = websocket.create_connection(
            simulator.url.replace("http", "ws", 1) + path, timeout=DEADLINE, sockopt=options
        )
        self.heard: list[Event] = []
        self.frames: list[Any] = []
        self.ended = ""

    def say(self, action: str, params: str) -> None:
        self.socket.send(json.dumps({"action": action, "params": params}))

    def authenticated(self, key: str = "a key") -> Self:
        self.say("auth", key)
        self.until(lambda: "auth_success" in self.statuses)
        return self

    def subscribed(self, channels: str) -> Self:
        asked = len(channels.split(","))
        known = self.statuses.count("success")
        self.say("subscribe", channels)
        self.until(lambda: self.statuses.count("success") == known + asked)
        return self

    @property
    def statuses(self) -> list[str]:
        return [one["status"] for one in self.heard if one.get("ev") == "status"]

    @property
    def messages(self) -> list[str]:
        return [one["message"] for one in self.heard if one.get("ev") == "status"]

    def of(self, kind: str, symbol: str = "") -> list[Event]:
        return [one for one in self.heard if one.get("ev") == kind and symbol in ("", one.get("sym", one.get("T")))]

    def hear(self, seconds: float = DEADLINE) -> bool:
        """One frame more; False where none came in time, or never will."""
        if self.ended:
            return False
        self.socket.settimeout(seconds)
        try:
            opcode, data = self.socket.recv_data()
        except websocket.WebSocketTimeoutException:
            return False
        except (websocket.WebSocketException, OSError) as error:
            self.ended = type(error).__name__
            return False
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            self.ended = f"closed {int.from_bytes(data[:2], 'big')}"
            return False
        text = data.decode()
        self.frames.append(text)
        try:
            told = json.loads(text)
        except ValueError:
            return True
        self.heard += [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []
        return True

    def until(self, true: Callable[[], bool], seconds: float = DEADLINE) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            left = deadline - time.monotonic()
            assert left > 0, f"it did not come true; ended {self.ended!r}, heard {self.heard[-3:]}"
            assert self.hear(left) or true() or not self.ended, f"ended: {self.ended}, heard {self.heard[-3:]}"

    def until_quiet(self, seconds: float = 0.3) -> Self:
        """All that comes without such a pause."""
        deadline = time.monotonic() + DEADLINE
        while self.hear(seconds):
            assert time.monotonic() < deadline, "it does not become quiet"
        return self

    def to_the_end(self) -> str:
        """How the connection ended."""
        deadline = time.monotonic() + DEADLINE
        while not self.ended:
            assert time.monotonic() < deadline, "the connection did not end"
            self.hear(deadline - time.monotonic())
        return self.ended

    def pings(self) -> bool:
        """Whether a ping is answered within a second."""
        self.socket.ping("?")
        self.socket.settimeout(1.0)
        try:
            while True:
                opcode, data = self.socket.recv_data(control_frame=True)
                if opcode == websocket.ABNF.OPCODE_PONG:
                    return True
                if opcode == websocket.ABNF.OPCODE_TEXT:
                    self.heard += json.loads(data)
        except websocket.WebSocketTimeoutException:
            return False

    def hang_up(self) -> None:
        """Without a word."""
        if self.socket.sock is not None:
            self.socket.sock.close()

    def close(self) -> None:
        self.socket.close(timeout=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def waited_for(true: Callable[[], bool], seconds: float = DEADLINE) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.005)
