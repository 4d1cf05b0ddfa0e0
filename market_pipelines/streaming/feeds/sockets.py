"""A feed of one or several sockets: who carries what, in which order they open, and what follows when one ends.

One thread decides and starts connections; each connection has a thread of its own. How a provider is talked with is
the dialogue's business, what the symbols are called there the resolver's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from market_pipelines.streaming.care import Care
from market_pipelines.streaming.connection import Connection, Watch
from market_pipelines.streaming.dialogue import Dialogue, Notice, Topics
from market_pipelines.streaming.feeds.allotment import allot
from market_pipelines.streaming.feeds.protocol import ConnectionState, Intake, Listener
from market_pipelines.streaming.opening import OpeningHours
from market_pipelines.streaming.plan import ALL, StreamPlan

TICK = 1.0
"""Seconds between two looks where nothing happens."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What the symbols of a plan are to this provider."""

    symbols: tuple[str, ...]
    """In the house's spelling, or `(ALL,)`; of options contracts."""
    notices: tuple[Notice, ...] = ()
    again_in: float | None = None
    """Seconds, where something could not be found out now."""
    refused: str = ""
    """Why the feed cannot be, for a person."""


class Resolver(Protocol):
    def resolve(self, symbols: Sequence[str]) -> Resolved:
        """May take long, and ends soon after `cancel`."""
        ...

    def cancel(self) -> None: ...

    def stale(self, now: datetime, /) -> bool:
        """Whether what was found out holds no longer: another day, other contracts."""
        ...

    def topics(self, symbols: Sequence[str]) -> Topics:
        """Of one connection."""
        ...

    def cut(self, symbols: Sequence[str], /) -> int:
        """How many of one connection's symbols lack a channel because there are too many."""
        ...


@dataclass(slots=True)
class _Slot:
    """A connection and what it carries."""

    connection: Connection
    symbols: tuple[str, ...] = ()
    started: bool = False
    folded: bool = False
    """Refused as one too many: others take over what it carried."""


@dataclass(slots=True)
class _Lookup:
    asked: tuple[str, ...]
    thread: threading.Thread
    found: list[Resolved] = field(default_factory=list)


class SocketFeed:
    def __init__(
        self,
        plan: StreamPlan,
        *,
        address: str,
        dialogue: Callable[[], Dialogue],
        resolver: Resolver,
        per_connection: int,
        opening: OpeningHours,
        mute: Watch,
        clock: Callable[[], datetime],
        care: Care,
    ) -> None:
        self._plan = plan
        self._address = address
        self._dialogue = dialogue
        self._resolver = resolver
        self._per_connection = per_connection
        self._opening = opening
        self._mute = mute
        self._clock = clock
        self._care = care
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._control, name=f"feed {plan.name}", daemon=True)
        self._intake: Intake | None = None
        self._listener: Listener | None = None
        self._asked = tuple(plan.symbols)
        self._looked_up: tuple[str, ...] | None = None
        """The symbols whose meaning is known, or being looked up."""
        self._lookup: _Lookup | None = None
        self._look_again_at = 0.0
        self._symbols: tuple[str, ...] | None = None
        self._meant: tuple[str, ...] | None = None
        """What was asked for when these were found."""
        self._dealt: tuple[str, ...] | None = None
        self._most = plan.max_connections
        self._slots: list[_Slot] = []
        self._carried_by: dict[str, tuple[str, ...]] = {}
        """Of every connection that there has been: a loss may be asked about later."""
        self._numbers = 0
        self._failure = ""
        self._closed = ""
        self._nothing = ""
        """Why nothing is subscribed to now."""
        self._cut = 0

    # The feed, as the service sees it

    def start(self, intake: Intake, listener: Listener) -> None:
        self._intake, self._listener = intake, listener
        self._thread.start()

    def stop(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        self._stopping.set()
        self._wake.set()
        self._resolver.cancel()
        with self._lock:
            slots = list(self._slots)
        self._end(slots, deadline)
        if self._thread.ident is not None:
            self._thread.join(max(self._care.poll, deadline - time.monotonic()))
        # The deciding thread may have been about to start one more.
        with self._lock:
            slots = [slot for slot in self._slots if slot.started]
        self._end(slots, deadline)

    def follow(self, symbols: Sequence[str]) -> None:
        with self._lock:
            self._asked = tuple(symbols)
        self._wake.set()

    def connections(self) -> Sequence[ConnectionState]:
        with self._lock:
            if self._slots:
                return [slot.connection.state(len(slot.symbols)) for slot in self._slots]
            state = "failed" if self._failure else "closed" if self._closed or self._nothing else "connecting"
            detail = self._failure or self._closed or self._nothing or "finding out what the symbols are called"
            return [ConnectionState(self._origin(1), state, len(self._asked), 0, 0, 0, 0, detail)]

    def subscribed(self, origin: str) -> tuple[str, ...] | None:
        with self._lock:
            symbols = self._carried_by.get(origin)
        return None if symbols is None or ALL in symbols else symbols

    # What its connections tell it

    def crowded(self, origin: str) -> bool:
        with self._lock:
            standing = [slot for slot in self._slots if slot.started and not slot.folded]
            if len(standing) <= 1:
                return True
            for slot in standing:
                if slot.connection.origin == origin:
                    slot.folded = True
            self._most = max(1, len(standing) - 1)
        self._wake.set()
        return False

    def gave_up(self, reason: str) -> None:
        with self._lock:
            self._failure = self._failure or reason
        self._wake.set()

    def changed(self) -> None:
        self._wake.set()

    # The deciding thread

    def _control(self) -> None:
        orderly = False
        try:
            self._decide()
            orderly = True
        finally:
            if not orderly:
                self._told.failed("the thread that decides about connections broke off; the log says where")

    def _decide(self) -> None:
        while not self._stopping.is_set():
            if self._failure:
                self._end_all()
                if not self._stopping.is_set():
                    self._told.failed(self._failure)
                return
            opening = self._opening.at(self._clock())
            if opening.is_open:
                self._closed = ""
                self._find_out()
                if self._symbols is not None and not self._failure:
                    self._deal(self._symbols)
            elif not self._closed:
                self._end_all()
                self._closed = opening.words
                self._tell(Notice("closed", opening.words))
            self._wake.wait(TICK)
            self._wake.clear()
        if self._lookup is not None:
            self._lookup.thread.join(self._care.connect)

    def _find_out(self) -> None:
        """Looks up what is wanted, beside everything else: it may take minutes where a provider allows few calls."""
        if self._lookup is not None:
            if self._lookup.thread.is_alive():
                return
            self._take(self._lookup)
            self._lookup = None
        now = time.monotonic()
        due = self._look_again_at and now >= self._look_again_at
        if self._asked == self._looked_up and not due and not self._resolver.stale(self._clock()):
            return
        self._looked_up = asked = self._asked
        self._look_again_at = 0.0
        found: list[Resolved] = []

        def look_up() -> None:
            found.append(self._resolver.resolve(asked))
            self._wake.set()

        thread = threading.Thread(target=look_up, name=f"symbols {self._plan.name}", daemon=True)
        self._lookup = _Lookup(asked, thread, found)
        self._lookup.thread.start()

    def _take(self, lookup: _Lookup) -> None:
        if not lookup.found:
            self.gave_up("looking up the symbols broke off; the log says where")
            return
        resolved = lookup.found[0]
        for notice in resolved.notices:
            self._tell(notice)
        if resolved.again_in is not None:
            self._look_again_at = time.monotonic() + resolved.again_in
        if resolved.refused and self._meant is None:
            self.gave_up(resolved.refused)
        elif resolved.refused and self._meant != lookup.asked:
            # Other symbols were wished for while these stream well: a slip of a pen ends no stream.
            self._tell(Notice("left_out", f"{resolved.refused}: the symbols stay as they were"))
        elif resolved.refused:
            # There was something, and another day there may be again: contracts of the day have none on a Saturday.
            self._symbols, self._nothing = (), resolved.refused
            self._tell(Notice("left_out", resolved.refused))
        elif resolved.symbols or resolved.again_in is None:
            self._symbols, self._meant, self._nothing = resolved.symbols, lookup.asked, ""

    def _deal(self, symbols: tuple[str, ...]) -> None:
        """Everybody gets what is theirs; new connections open one after the other."""
        ended: list[_Slot] = []
        regained: list[str] = []
        with self._lock:
            if self._stopping.is_set():
                return
            folded = [slot for slot in self._slots if slot.folded]
            if not folded and self._dealt is symbols:  # there may be hundreds of thousands
                self._open_next()
                return
            self._slots = [slot for slot in self._slots if not slot.folded and (slot.started or not folded)]
            dealt = allot(
                [slot.symbols for slot in self._slots],
                symbols,
                per_connection=self._per_connection,
                most=1 if ALL in symbols else self._most,
            )
            for number, carried in enumerate(dealt):
                if number == len(self._slots):
                    self._slots.append(_Slot(self._new_connection()))
                slot = self._slots[number]
                if carried != slot.symbols:
                    self._give(slot, carried)
            ended = [slot for slot in self._slots if not slot.symbols]
            self._slots = [slot for slot in self._slots if slot.symbols]
            self._dealt = symbols
            for slot in (*folded, *ended):
                regained += self._hand_on(slot)
            self._open_next()
        for origin in regained:
            self._told.regained(origin, time.time_ns())
        if folded:
            self._tell(
                Notice(
                    "folded",
                    f"the provider takes fewer connections than --max-connections allows: {len(self._slots)} go on "
                    "with the symbols of all",
                )
            )
        self._tell_cut()
        self._end([*folded, *ended], time.monotonic() + self._care.connect)

    def _give(self, slot: _Slot, symbols: tuple[str, ...]) -> None:
        slot.symbols = symbols
        if symbols:
            self._carried_by[slot.connection.origin] = symbols
            slot.connection.dialogue.want(self._resolver.topics(symbols))

    def _hand_on(self, gone: _Slot) -> list[str]:
        """What was lost by a connection that is no more is regained by one that carries its symbols now; the losses
        that end here because nobody wants those symbols any more."""
        carried = set(self._carried_by.get(gone.connection.origin, ()))
        heir = next((slot for slot in self._slots if carried & set(slot.symbols)), None)
        lost = gone.connection.disown()
        if heir is None:
            return list(lost)
        for origin in lost:
            heir.connection.inherit(origin)
        return []

    def _open_next(self) -> None:
        """Not all at once: where the provider evicts the older one, each refusal would cost a connection its place."""
        for slot in self._slots:
            if not slot.started:
                slot.started = True
                slot.connection.start()
                return
            if not slot.connection.settled:
                return

    def _new_connection(self) -> Connection:
        if self._intake is None:
            raise RuntimeError("the feed has not been started")
        self._numbers += 1
        return Connection(
            self._origin(self._numbers),
            self._address,
            self._dialogue(),
            intake=self._intake,
            listener=self._told,
            owner=self,
            mute=self._mute,
            care=self._care,
        )

    def _end_all(self) -> None:
        with self._lock:
            slots = list(self._slots)
        self._end(slots, time.monotonic() + self._care.connect)
        with self._lock:
            if not self._failure:
                self._slots, self._numbers, self._dealt = [], 0, None
        for slot in slots:
            for origin in slot.connection.disown():
                if not self._failure:
                    self._told.regained(origin, time.time_ns())

    def _end(self, slots: Sequence[_Slot], deadline: float) -> None:
        running = [slot for slot in slots if slot.started]
        for slot in running:
            slot.connection.ask_to_stop()
        for slot in running:
            slot.connection.join(deadline - time.monotonic())

    def _tell_cut(self) -> None:
        cut = sum(self._resolver.cut(slot.symbols) for slot in self._slots)
        if cut != self._cut:
            self._cut = cut
            if cut:
                self._tell(
                    Notice(
                        "left_out",
                        f"quotes of {cut:,} contracts are not streamed: a connection takes 1,000, and there are "
                        f"{len(self._slots)}. Fewer underlyings, a shorter --max-expiry-days or one --option-type "
                        "make it fit",
                    )
                )

    def _tell(self, notice: Notice) -> None:
        self._told.status(self._origin(1), notice.status, notice.detail)

    @property
    def _told(self) -> Listener:
        if self._listener is None:
            raise RuntimeError("the feed has not been started")
        return self._listener

    def _origin(self, number: int) -> str:
        return f"{self._plan.feed}-{number}"
