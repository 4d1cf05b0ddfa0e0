"""The options of `stream run` and `stream start`: from words to what is wanted, the old streamer's spellings too."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from market_pipelines.market.records import Right
from market_pipelines.market.universes import UnknownUniverse, canonical
from market_pipelines.pipeline.universes import universe_names
from market_pipelines.settings import provider_name
from market_pipelines.streaming.plan import AssetClass, Channel, FeedName
from market_pipelines.streaming.plans import Wanted
from market_pipelines.streaming.symbols import EVERY_TYPE

OLD_FEEDS = {
    "quotes": (Channel.QUOTES,),
    "trades": (Channel.TRADES,),
    "both": (Channel.QUOTES, Channel.TRADES),
}
"""What `--feed` meant to the streamer that this command replaces."""
AGGREGATES = "aggregates"


@dataclass(frozen=True, slots=True)
class RunOptions:
    words: tuple[str, ...] = ()
    """Of `--symbols` and whatever stands behind it, or behind `--types`."""
    feed: str | None = None
    symbols_list: Path | None = None
    types: tuple[str, ...] = ()
    market: str | None = None
    channels: tuple[str, ...] = ()
    symbols_per_connection: int = 25
    max_connections: int = 1
    batch_interval: float = 1.0
    max_expiry_days: int = 30
    option_type: str = "both"
    market_hours: bool = False
    provider: str = ""
    every: float | None = None
    attempts: int | None = None
    db_server: str | None = None
    redis_url: str | None = None
    log_level: str | None = None


def wanted_of(options: RunOptions, say: Callable[[str], None]) -> Wanted:
    feed, channels = _feed(options, say)
    types, words = _types(options)
    asset_class, market = _market(options.market)
    if asset_class is AssetClass.OPTIONS and feed not in (None, FeedName.POLYGON):
        raise typer.BadParameter(f"--market options: only the feed polygon streams options, not {feed}")
    return Wanted(
        market=market,
        feed=feed,
        symbols=words,
        symbols_list=options.symbols_list,
        types=types,
        asset_class=asset_class,
        channels=channels,
        symbols_per_connection=options.symbols_per_connection,
        max_connections=options.max_connections,
        batch_seconds=options.batch_interval,
        max_expiry_days=options.max_expiry_days,
        right=_right(options.option_type),
        market_hours=options.market_hours,
        provider=provider_name(options.provider) if options.provider else "",
        every_seconds=options.every,
        attempts=options.attempts,
    )


def _feed(options: RunOptions, say: Callable[[str], None]) -> tuple[FeedName | None, tuple[Channel, ...]]:
    channels = _channels(options.channels)
    if options.feed is None:
        return None, channels
    name = options.feed.strip().lower()
    if name in OLD_FEEDS:
        said = ",".join(OLD_FEEDS[name])
        say(f"--feed {name} is how the old streamer named channels: taken as --feed polygon --channels {said}")
        return FeedName.POLYGON, channels or OLD_FEEDS[name]
    name = provider_name(name)
    if name not in tuple(FeedName):
        raise typer.BadParameter(f"--feed {options.feed!r} is not known; accepted: {', '.join(FeedName)}")
    return FeedName(name), channels


def _channels(words: Sequence[str]) -> tuple[Channel, ...]:
    found: list[Channel] = []
    for word in _parts(words):
        name = Channel.MINUTES.value if word.lower() == AGGREGATES else word.lower()
        if name not in tuple(Channel):
            raise typer.BadParameter(
                f"--channels {word!r} is not known; accepted: quotes, trades, aggregates, seconds, minutes, luld"
            )
        found.append(Channel(name))
    return tuple(dict.fromkeys(found))


def _market(word: str | None) -> tuple[AssetClass, str | None]:
    if word is None:
        return AssetClass.STOCKS, None
    name = word.strip().lower()
    return (AssetClass(name), None) if name in tuple(AssetClass) else (AssetClass.STOCKS, name)


def _types(options: RunOptions) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Universes, and the words that are symbols: behind `--types` several may stand without commas."""
    types = _parts(options.types)
    words: list[str] = []
    for word in _parts(options.words):
        (types if types and _is_type(word) else words).append(word)
    return tuple(types), tuple(words)


def _is_type(word: str) -> bool:
    try:
        canonical(re.sub(r"[-_ ]", "", word), universe_names())
    except UnknownUniverse:
        return word.lower() == EVERY_TYPE
    return True


def _right(word: str) -> Right | None:
    name = word.strip().lower()
    if name == "both":
        return None
    if name not in tuple(Right):
        raise typer.BadParameter(f"--option-type {word!r} is not known; accepted: call, put, both")
    return Right(name)


def _parts(words: Sequence[str]) -> list[str]:
    return [part for word in words for part in re.split(r"[,\s]+", word) if part]
