"""Whose ticks are wanted: names on a command line, a YAML file, universes and markets, as one list of symbols.

`all` is every instrument of the market and every present member of the universes of its exchange; `*` is everything
that the provider has. Where nothing is named, it is the market's own instruments. What a provider calls them does
not belong here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import yaml

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.universes import UnknownUniverse
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.universes import load_universe, universe_names
from market_pipelines.settings import SettingsError
from market_pipelines.streaming.plan import ALL

EVERY_TYPE = "all"
SYMBOL = re.compile(r"[A-Za-z0-9^][A-Za-z0-9.^\-]{0,15}|O:[A-Za-z][A-Za-z.]*[0-9]?[0-9]{6}[CP][0-9]{8}")
CONTRACT = "O:"
_KEY = "symbols"


class UnusableSymbols(SettingsError):
    """What was named is no list of symbols. The message says what, and where it was read."""


def chosen_symbols(
    platform: Platform,
    *,
    market: str,
    symbols: Sequence[str] = (),
    symbols_list: Path | None = None,
    types: Sequence[str] = (),
) -> tuple[str, ...]:
    """In the house's spelling, each once, in the order in which they were named; `(ALL,)` for everything."""
    definition = platform.market(market)
    named: list[str] = []
    for word in _words(symbols):
        named += _every_type(definition) if word.lower() == EVERY_TYPE else [_checked(word, "--symbols")]
    if symbols_list is not None:
        named += read_symbols(symbols_list)
    for word in _words(types):
        named += _of_type(platform, definition, word)
    if not (symbols or symbols_list or types):
        return tuple(one.symbol for one in definition.everything)
    if not named:
        raise UnusableSymbols(f"no symbol is left of what was named for market {market}")
    if ALL in named:
        return (ALL,)
    known = {one.symbol for one in definition.everything}
    return tuple(dict.fromkeys(_as_listed(one, known) for one in named))


def instruments_for(market: MarketDefinition, symbols: Iterable[str]) -> tuple[Instrument, ...]:
    """Those of the market, and a plain one for a symbol that its file does not list."""
    listed = {one.symbol: one for one in market.everything}
    return tuple(
        listed.get(symbol) or Instrument(symbol, market.name, market.mic, market.currency) for symbol in symbols
    )


def read_symbols(path: Path) -> tuple[str, ...]:
    """Of a YAML file: a list, or a mapping with such a list under `symbols`."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UnusableSymbols(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UnusableSymbols(f"{path}: is not UTF-8 text: {error.reason}") from None
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UnusableSymbols(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        raise UnusableSymbols(f"{path}:1: is empty; accepted: {_ACCEPTED}")
    return tuple(dict.fromkeys(_listed(_list_in(tree, path), path)))


_ACCEPTED = "a list of symbols, or 'symbols:' with such a list"


def _list_in(tree: yaml.Node, path: Path) -> yaml.SequenceNode:
    if isinstance(tree, yaml.MappingNode):
        for key, value in tree.value:
            if key.value != _KEY:
                raise _refusal(path, key, f"read the key {key.value!r}; accepted: {_ACCEPTED}")
            if not isinstance(value, yaml.SequenceNode):
                raise _refusal(path, value, f"'{_KEY}' holds no list; accepted: {_ACCEPTED}")
        tree = tree.value[0][1] if len(tree.value) == 1 else tree
    if not isinstance(tree, yaml.SequenceNode):
        raise _refusal(path, tree, f"accepted: {_ACCEPTED}")
    if not tree.value:
        raise _refusal(path, tree, "the list is empty")
    return tree


def _listed(listed: yaml.SequenceNode, path: Path) -> Iterator[str]:
    for node in listed.value:
        if not isinstance(node, yaml.ScalarNode):
            raise _refusal(path, node, "an entry is a symbol, and nothing nested")
        # As it is written: ON, NO and TRUE are shares, not truths.
        yield _checked(str(node.value).strip(), f"{path}:{node.start_mark.line + 1}")


def _refusal(path: Path, node: yaml.Node, words: str) -> UnusableSymbols:
    return UnusableSymbols(f"{path}:{node.start_mark.line + 1}: {words}")


def _words(given: Iterable[str]) -> Iterator[str]:
    """Between spaces or commas, whichever way they were handed over."""
    for text in given:
        yield from (word for word in re.split(r"[\s,]+", text) if word)


def _checked(word: str, where: str) -> str:
    if word != ALL and not SYMBOL.fullmatch(word):
        raise UnusableSymbols(
            f"{where}: read {word[:40]!r}; accepted: a symbol such as AAPL or BRK.B, a contract such as "
            f"O:AAPL230616C00150000, or {ALL!r} for everything"
        )
    return word


def _as_listed(symbol: str, known: set[str]) -> str:
    """Case is part of a symbol (`BApA`): capitals are meant only where it is known in capitals alone."""
    return symbol.upper() if symbol not in known and symbol.upper() in known else symbol


def _of_type(platform: Platform, market: MarketDefinition, word: str) -> list[str]:
    if word == ALL:
        return [ALL]
    if word.lower() == EVERY_TYPE:
        return _every_type(market)
    if word.lower() == market.name:
        return [one.symbol for one in market.everything]
    if word.lower() in platform.markets:
        raise UnusableSymbols(f"{word!r} is another market than {market.name}: a stream has one")
    try:
        universe = load_universe(re.sub(r"[-_ ]", "", word))
    except UnknownUniverse as error:
        raise UnusableSymbols(f"{error}; also: {EVERY_TYPE}, {market.name}, {ALL}") from None
    if universe.exchange != market.mic:
        raise UnusableSymbols(
            f"universe {universe.name} trades on {universe.exchange}, market {market.name} on {market.mic}"
        )
    return [member.symbol for member in universe.today]


def _every_type(market: MarketDefinition) -> list[str]:
    universes = [universe for universe in map(load_universe, universe_names()) if universe.exchange == market.mic]
    return [
        *(one.symbol for one in market.everything),
        *(member.symbol for universe in universes for member in universe.today),
    ]
