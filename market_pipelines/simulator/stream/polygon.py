"""Polygon's side of the conversation on one socket: authentication, subscriptions, and which events are whose."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import msgspec

from market_pipelines.simulator.formats.polygon_wire import REFUSED_KEYS
from market_pipelines.simulator.stream.connection import Connection
from market_pipelines.simulator.stream.events import BANDS, MINUTE, QUOTE, SECOND, TRADE, Event, array, status
from market_pipelines.simulator.stream.misbehaviour import EVENTS_A_FRAME, Misbehaviour, auth_timeout_of

TOPICS = {
    "stocks": frozenset({TRADE, QUOTE, SECOND, MINUTE, BANDS}),
    "options": frozenset({TRADE, QUOTE, SECOND, MINUTE}),
}
ALL = "*"
MOST_OPTION_QUOTES = 1000
AUTH_SECONDS = 30.0

NOBODY = status("auth_failed", "authentication failed")
NO_WEBSOCKETS = status("auth_failed", "Your plan doesn't include websocket access.")
TOO_LATE = status("auth_timeout", "No authentication request received.")
AUTH_FIRST = status("auth_required", "authentication required")
TOO_MANY = status("max_connections", "Maximum number of websocket connections exceeded. ")
CHANNEL_REFUSED = status("error", "not authorized")

Channels = Mapping[tuple[str, str], int]
"""Topic and symbol, and since when in nanoseconds."""


class _Order(msgspec.Struct):
    action: str = ""
    params: str = ""


class PolygonDialogue:
    def __init__(
        self,
        connection: Connection,
        cluster: str,
        misbehaviour: Misbehaviour,
        since: Callable[[Callable[[int], None]], None],
    ) -> None:
        """`since` calls back with the instant from which events are told, so that none falls between two looks."""
        self.connection = connection
        self.cluster = cluster
        self.key = ""
        self.authenticated_at: float | None = None
        self.channels: Channels = MappingProxyType({})
        self.subscribed = False
        self._misbehaviour = misbehaviour
        self._since = since
        self._lock = threading.Lock()
        self._begun = time.monotonic()
        self._topics = TOPICS.get(cluster, TOPICS["stocks"])

    def opened(self) -> None:
        self._say([status("connected", "Connected Successfully")])

    def heard(self, text: str) -> None:
        try:
            order = msgspec.json.decode(text, type=_Order)
        except msgspec.DecodeError:
            return  # What the provider says to this is not known.
        if order.action == "auth":
            self._authenticate(order.params)
        elif order.action in ("subscribe", "unsubscribe"):
            if self.authenticated_at is None:
                self._say([AUTH_FIRST])
                return
            wanted = [part.strip() for part in order.params.split(",") if part.strip()]
            if order.action == "subscribe":
                self._subscribe(wanted)
            else:
                self._unsubscribe(wanted)

    def look(self) -> None:
        """Called now and then: who has not authenticated in time is sent away."""
        waits = time.monotonic() - self._begun
        if self.authenticated_at is None and waits > auth_timeout_of(self._misbehaviour, AUTH_SECONDS):
            self.connection.drop("auth_timeout", last_words=array([TOO_LATE]))
        self._misbehaviour.look(self.connection)

    def tell(self, events: Sequence[Event], channels: Channels) -> None:
        """Those of them that were asked for, in frames."""
        mine = []
        for event in events:
            kind, symbol = event.sent.kind, event.sent.symbol
            since = channels.get((kind, symbol))
            if since is None:
                since = channels.get((kind, ALL))
            if since is not None and since <= event.at:
                mine.append(event)
        if mine:
            self._misbehaviour.send(self.connection, mine, EVENTS_A_FRAME)

    def full(self) -> None:
        """More connections than the plan has: this one is the one too many."""
        self.connection.close(1008, "", "max_connections", last_words=array([TOO_MANY]))

    def _authenticate(self, key: str) -> None:
        if self.authenticated_at is not None:
            return
        misbehaviour = self._misbehaviour
        if misbehaviour.strikes("ws_plan"):
            self.connection.drop("ws_plan", last_words=array([NO_WEBSOCKETS]))
        elif not key or key in REFUSED_KEYS or misbehaviour.strikes("ws_auth_failed"):
            self.connection.drop("auth_failed", last_words=array([NOBODY]))
        else:
            self.key = key
            self._say([status("auth_success", "authenticated")])
            self.authenticated_at = time.monotonic()

    def _subscribe(self, wanted: list[str]) -> None:
        answers: list[bytes] = []
        fresh: list[tuple[str, str]] = []
        with self._lock:
            quotes = sum(topic == QUOTE for topic, _ in self.channels)
            for written in dict.fromkeys(wanted):
                topic, dot, symbol = written.partition(".")
                channel = (topic, symbol)
                if topic not in self._topics or not dot or not symbol or channel in self.channels:
                    continue
                if self._misbehaviour.refuses(written):
                    answers.append(CHANNEL_REFUSED)
                    continue
                if self.cluster == "options" and topic == QUOTE:
                    quotes += 1
                    if symbol == ALL or quotes > MOST_OPTION_QUOTES:
                        answers.append(status("error", f"too many quote subscriptions: {written}"))
                        continue
                fresh.append(channel)
                answers.append(status("success", f"subscribed to: {written}"))
            # The answer goes into the buffer before any event can.
            self._say(answers)
            self._since(lambda stamp: self._add(fresh, stamp))

    def _add(self, fresh: list[tuple[str, str]], stamp: int) -> None:
        self.channels = MappingProxyType({**self.channels, **dict.fromkeys(fresh, stamp)})
        self.subscribed = True

    def _unsubscribe(self, wanted: list[str]) -> None:
        with self._lock:
            left = dict(self.channels)
            answers = []
            for written in wanted:
                topic, _, symbol = written.partition(".")
                if left.pop((topic, symbol), None) is not None:
                    answers.append(status("success", f"unsubscribed to: {written}"))
            self._since(lambda _stamp: self._leave(left))
            self._say(answers)

    def _leave(self, left: dict[tuple[str, str], int]) -> None:
        self.channels = MappingProxyType(left)

    def restart(self, stamp: int) -> None:
        """The clock was set: what is told begins anew there."""
        with self._lock:
            self.channels = MappingProxyType(dict.fromkeys(self.channels, stamp))

    def _say(self, texts: list[bytes]) -> None:
        if texts:
            self.connection.tell(array(texts))
