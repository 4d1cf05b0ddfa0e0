"""A feed of real sockets against the small Polygon, quick enough for tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from market_pipelines.market.hours import MarketPhase
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.streaming.care import Care
from market_pipelines.streaming.connection import Watch
from market_pipelines.streaming.dialogue import Topics
from market_pipelines.streaming.feeds.massive_dialogue import Entitlements, MassiveDialogue
from market_pipelines.streaming.feeds.sockets import Resolved, Resolver, SocketFeed
from market_pipelines.streaming.opening import OpeningHours
from market_pipelines.streaming.plan import AssetClass, Channel, FeedName, StreamPlan
from market_pipelines.streaming.watchdog import Mute, Silence
from market_pipelines_tests.websocket_server import KEY, QUICK, Witness

NOON = datetime(2026, 11, 18, 17, 0, tzinfo=UTC)
PLAN = StreamPlan(
    market="us",
    feed=FeedName.POLYGON,
    symbols=("AAPL", "MSFT", "IBM", "KO"),
    channels=(Channel.QUOTES, Channel.TRADES),
)


class AsTheyAre:
    """Symbols that are called the same everywhere."""

    def __init__(self, channels: Sequence[Channel]) -> None:
        self._channels = channels

    def resolve(self, symbols: Sequence[str]) -> Resolved:
        return Resolved(tuple(symbols))

    def cancel(self) -> None:
        """Nothing takes long here."""

    def stale(self, _now: datetime, /) -> bool:
        return False

    def topics(self, symbols: Sequence[str]) -> Topics:
        return dict.fromkeys(self._channels, symbols)

    def cut(self, _symbols: Sequence[str], /) -> int:
        return 0


def never_mute(_silences: Sequence[Silence]) -> Mute | None:
    return None


def mute_after(seconds: float, channel: Channel | None = None) -> Watch:
    """Silence of that length is a fault, by any channel or by one."""

    def look(silences: Sequence[Silence]) -> Mute | None:
        for one in silences:
            if one.seconds > seconds * one.lenience and channel in (None, one.watched.channel):
                return Mute(one.watched.channel, one.seconds, MarketPhase.OPEN)
        return None

    return look


@contextmanager
def streaming(
    address: str,
    witness: Witness,
    *,
    plan: StreamPlan = PLAN,
    care: Care = QUICK,
    mute: Watch = never_mute,
    answer_seconds: float = 0.3,
    resolver: Resolver | None = None,
) -> Iterator[SocketFeed]:
    entitlements = Entitlements()
    feed = SocketFeed(
        plan,
        address=address,
        dialogue=lambda: MassiveDialogue(
            KEY, AssetClass.STOCKS, entitlements, greeting_seconds=0.5, answer_seconds=answer_seconds
        ),
        resolver=resolver or AsTheyAre(plan.channels),
        per_connection=plan.symbols_per_connection,
        opening=OpeningHours(partial(trading_calendar, "XNYS"), market_hours=plan.market_hours),
        mute=mute,
        clock=lambda: NOON,
        care=replace(care, attempts=plan.attempts),
    )
    feed.start(witness, witness)
    try:
        yield feed
    finally:
        feed.stop(2.0)
        count = len(witness.frames)
        assert not [one for one in feed.connections() if one.state not in ("closed", "failed")]
        assert len(witness.frames) == count
