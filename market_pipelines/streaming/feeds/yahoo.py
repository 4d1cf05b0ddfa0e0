"""Yahoo's streamer: a list of symbols that is sent again every 15 s, and no answer to it but prices.

Unofficial, and for personal use by Yahoo's terms. A symbol that it does not know is passed over in silence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from market_pipelines.streaming.dialogue import NOTHING, Marker, Notice, Topics, Turn
from market_pipelines.streaming.entries import Format
from market_pipelines.streaming.plan import Channel
from market_pipelines.streaming.watchdog import Watched

PUBLIC_STREAMER = "wss://streamer.finance.yahoo.com/?version=2"
HEARTBEAT = 15.0
SYMBOLS_A_MESSAGE = 100


class YahooDialogue:
    format = Format.YAHOO
    status_mark = b""
    markers: Mapping[Channel, Marker | None] = {Channel.TRADES: None}
    """Prices, whatever moved them: they are as frequent as trades."""

    def __init__(self, *, heartbeat: float = HEARTBEAT) -> None:
        self._heartbeat = heartbeat
        self._wanted: tuple[str, ...] = ()
        self._subscribed: tuple[str, ...] | None = None
        self._next = 0.0

    @property
    def settled(self) -> bool:
        return self._subscribed is not None and self._subscribed is self._wanted

    def want(self, topics: Topics) -> None:
        self._wanted = tuple(topics.get(Channel.QUOTES, ()))

    def watched(self) -> Sequence[Watched]:
        return (Watched(Channel.TRADES, len(self._subscribed)),) if self._subscribed else ()

    def opened(self, now: float) -> Turn:
        self._subscribed = None
        self._next = now
        return self.due(now)

    def heard(self, _frame: bytes, _now: float, /) -> Turn:
        return NOTHING

    def due(self, now: float) -> Turn:
        wanted = self._wanted
        changed = self._subscribed is not wanted
        if not changed and now < self._next:
            return NOTHING
        kept = frozenset(wanted)
        gone = [one for one in self._subscribed or () if one not in kept] if changed else []
        self._subscribed = wanted
        self._next = now + self._heartbeat
        notices = (Notice("subscribed", f"{len(wanted):,} symbols"),) if changed else ()
        return Turn(say=(*_messages("unsubscribe", gone), *_messages("subscribe", wanted)), notices=notices)


def _messages(action: str, symbols: Sequence[str]) -> list[str]:
    return [
        json.dumps({action: list(symbols[first : first + SYMBOLS_A_MESSAGE])}, ensure_ascii=False)
        for first in range(0, len(symbols), SYMBOLS_A_MESSAGE)
    ]
