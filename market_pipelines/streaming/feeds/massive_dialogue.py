"""How one talks with Polygon's (Massive's) stream: greeting, key, then channel after channel.

One channel is asked for at a time, because a refusal does not say what it refuses. Whatever a channel's answers
are (all, some, none: unknown topics get no answer at all), after a few seconds the next one has its turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from market_pipelines.providers.polygon import wire
from market_pipelines.providers.polygon.wire import Said, Status
from market_pipelines.streaming.dialogue import NOTHING, SLOW_CONSUMER, Ending, EndKind, Marker, Notice, Topics, Turn
from market_pipelines.streaming.entries import Format
from market_pipelines.streaming.plan import AssetClass, Channel
from market_pipelines.streaming.watchdog import Watched

ORDER = (Channel.TRADES, Channel.QUOTES, Channel.MINUTES, Channel.SECONDS, Channel.LULD)
QUIET = 0.5
"""Seconds after a refusal without another one: then everything that was asked for has had its answer. Some servers
refuse a request once, others each of its topics, and none says which."""
SHOWN = 5
"""Topics that a message names of many."""


class _Stage(StrEnum):
    GREETING = "greeting"
    KEY = "key"
    LIVE = "live"


class Entitlements:
    """What the plan of the key does not cover, as learned by any connection of a feed."""

    def __init__(self) -> None:
        self.refused: frozenset[Channel] = frozenset()

    def refuse(self, channel: Channel) -> None:
        self.refused |= {channel}


@dataclass(slots=True)
class _Asked:
    channel: Channel
    total: int
    unanswered: set[str]
    until: float
    refusals: int = 0
    """Nameless ones, each of them an answer to some topic."""

    @property
    def is_answered(self) -> bool:
        return len(self.unanswered) <= self.refusals


class MassiveDialogue:
    format = Format.MASSIVE
    status_mark = wire.STATUS_MARK
    markers: Mapping[Channel, Marker | None] = {channel: Marker.of("ev", wire.CODES[channel]) for channel in ORDER}

    def __init__(
        self,
        key: str,
        asset_class: AssetClass,
        entitlements: Entitlements,
        *,
        greeting_seconds: float = 10.0,
        answer_seconds: float = 5.0,
    ) -> None:
        self._key = key
        self._asset_class = asset_class
        self._entitlements = entitlements
        self._greeting_seconds = greeting_seconds
        self._answer_seconds = answer_seconds
        self._wanted: Mapping[Channel, frozenset[str]] = {}
        self._arranged: Mapping[Channel, frozenset[str]] | None = None
        """The wish that has been carried out."""
        self._stage = _Stage.GREETING
        self._deadline = 0.0
        self._subscribed: dict[Channel, frozenset[str]] = {}
        self._asked: _Asked | None = None

    @property
    def settled(self) -> bool:
        return self._stage is _Stage.LIVE and self._arranged is self._wanted

    def want(self, topics: Topics) -> None:
        wanted = {channel: frozenset(natives) for channel, natives in topics.items()}
        if wanted != self._wanted:
            self._wanted = wanted

    def watched(self) -> Sequence[Watched]:
        if self._stage is not _Stage.LIVE:
            return ()
        return [
            Watched(channel, None if wire.EVERYTHING in natives else len(natives), self._asset_class)
            for channel, natives in self._subscribed.items()
            if natives and channel not in self._entitlements.refused
        ]

    def opened(self, now: float) -> Turn:
        self._stage = _Stage.GREETING
        self._deadline = now + self._greeting_seconds
        self._subscribed = {}
        self._arranged = None
        self._asked = None
        return NOTHING

    def due(self, now: float) -> Turn:
        if self._stage is not _Stage.LIVE:
            if now <= self._deadline:
                return NOTHING
            lacking = "greeting" if self._stage is _Stage.GREETING else "answer to the key"
            return Turn(ending=_fault(f"no {lacking} within {self._greeting_seconds:g} s"))
        if self._asked is not None:
            if now <= self._asked.until:
                return NOTHING
            silent = () if self._asked.refusals else (self._without_answer(self._asked),)
            return _joined(Turn(notices=silent), self._next(now))
        return NOTHING if self.settled else self._next(now)

    def heard(self, frame: bytes, now: float) -> Turn:
        read = wire.statuses(frame)
        turn = Turn(data=read.data)
        for status in read.found:
            turn = _joined(turn, self._answer(status, now))
        return turn

    def _answer(self, status: Status, now: float) -> Turn:
        notice = Notice(status.name, status.message)
        match status.said:
            case Said.SUCCESS:
                return self._acknowledged(status, now)
            case Said.CONNECTED if self._stage is _Stage.GREETING:
                self._stage = _Stage.KEY
                self._deadline = now + self._greeting_seconds
                return Turn(say=(wire.auth(self._key),), notices=(notice,))
            case Said.AUTH_SUCCESS:
                self._stage = _Stage.LIVE
                return _joined(Turn(notices=(notice,)), self._next(now))
            case Said.NOT_AUTHORIZED:
                return self._not_authorized(status, now)
            case Said.SLOW_CONSUMER:
                # The cure is to go on reading; coming anew would only add a gap.
                return Turn(notices=(Notice(SLOW_CONSUMER, status.message),))
            case _:
                return Turn(notices=(notice,), ending=_ending_of(status))

    def _acknowledged(self, status: Status, now: float) -> Turn:
        if self._asked is None or status.message.startswith("unsubscribed"):
            return NOTHING
        self._asked.unanswered.difference_update(status.topics)
        return self._next(now) if self._asked.is_answered else NOTHING

    def _not_authorized(self, status: Status, now: float) -> Turn:
        asked = self._asked
        named = {Channel(wire.channel_of(topic)) for topic in status.topics}
        if asked is not None and not named:
            named = {asked.channel}
            asked.refusals += 1
        elif asked is not None and asked.channel in named:
            asked.refusals += len(status.topics)
        news = named - self._entitlements.refused
        for channel in named:
            self._entitlements.refuse(channel)
        remaining = [one for one in self._wanted if one not in self._entitlements.refused]
        if self._wanted and not remaining:
            wanted = ", ".join(sorted(self._wanted))
            return Turn(
                ending=Ending(
                    EndKind.REFUSED,
                    f"the plan of this key covers none of the channels that were asked for ({wanted}, "
                    f"{self._asset_class}; the provider says {status.message!r}): choose others, or a larger plan",
                )
            )
        turn = NOTHING
        if asked is not None and asked.channel in named:
            asked.until = now + QUIET
            turn = self._next(now) if asked.is_answered else NOTHING
        if not news:
            return turn
        without = Notice(
            "not_authorized",
            f"the plan of this key does not cover {', '.join(sorted(news))} of {self._asset_class} "
            f"({status.message}): going on with {', '.join(remaining)}",
        )
        return _joined(Turn(notices=(without,)), turn)

    def _next(self, now: float) -> Turn:
        """Asks for the next channel that differs from what is wanted."""
        self._asked = None
        wanted = self._wanted
        say: list[str] = []
        for channel in ORDER:
            if channel in self._entitlements.refused:
                self._subscribed.pop(channel, None)
                continue
            has, wants = self._subscribed.get(channel, frozenset()), wanted.get(channel, frozenset())
            if has == wants:
                continue
            self._subscribed[channel] = wants
            say += [wire.unsubscribe(part) for part in wire.chunks(_topics(channel, has - wants))]
            new = _topics(channel, wants - has)
            if new:
                say += [wire.subscribe(part) for part in wire.chunks(new)]
                self._asked = _Asked(channel, len(new), set(new), now + self._answer_seconds)
                return Turn(say=tuple(say))
        self._arranged = wanted
        counts = ", ".join(f"{channel} of {_amount(natives)}" for channel, natives in self._subscribed.items())
        return Turn(say=tuple(say), notices=(Notice("subscribed", counts or "nothing"),))

    def _without_answer(self, asked: _Asked) -> Notice:
        missing = sorted(asked.unanswered)
        shown = ", ".join(missing[:SHOWN]) + (" …" if len(missing) > SHOWN else "")
        return Notice(
            "unacknowledged",
            f"{len(missing)} of {asked.total} topics of {asked.channel} were not acknowledged within "
            f"{self._answer_seconds:g} s: {shown}",
        )


def _ending_of(status: Status) -> Ending | None:
    said = f"{status.name}: {status.message}"
    match status.said:
        case Said.AUTH_FAILED:
            return Ending(EndKind.REFUSED, f"the provider refuses the key ({said}): check POLYGON_API_KEY")
        case Said.NO_WEBSOCKET:
            return Ending(
                EndKind.REFUSED,
                f"the plan of this key has no stream ({said}): choose one that has, or poll quotes instead (feed poll)",
            )
        case Said.MAX_CONNECTIONS:
            return Ending(EndKind.CROWDED, said)
        case Said.AUTH_TIMEOUT | Said.AUTH_REQUIRED | Said.FORCE_DISCONNECT:
            return _fault(said)
    return None


def _fault(reason: str) -> Ending:
    return Ending(EndKind.FAULT, reason)


def _joined(first: Turn, second: Turn) -> Turn:
    return Turn((*first.say, *second.say), (*first.notices, *second.notices), first.ending or second.ending, first.data)


def _topics(channel: Channel, natives: frozenset[str]) -> list[str]:
    return [wire.topic(channel, native) for native in sorted(natives)]


def _amount(natives: frozenset[str]) -> str:
    return "everything" if wire.EVERYTHING in natives else f"{len(natives):,}"
