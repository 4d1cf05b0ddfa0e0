"""Market files: `defs/<market>/defs.yaml`, read and checked.

A market is data. Whatever is wrong in its file is refused with the file, the line, what was read and what is
accepted; nothing is guessed and no unknown key is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from market_pipelines.market.definition import (
    Cadence,
    CrossCheckPlan,
    IntradayPlan,
    MarketDefinition,
    PollingPlan,
    QualityPlan,
    RepairPlan,
    StreamSetup,
)
from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.market.quality import RULE, THRESHOLDS
from market_pipelines.market.sessions import known_calendars
from market_pipelines.market.universes import UnknownUniverse
from market_pipelines.pipeline.universes import load_universe
from market_pipelines.providers.registry import known_names

MARKETS_FOLDER = Path(__file__).resolve().parent.parent / "defs"
COMPONENT_TYPES = ("market_pipelines.Market", "market_pipelines.orchestration.Market")
_NAME = r"^[a-z][a-z0-9_]{0,15}$"
_SYMBOL = r"^[A-Za-z0-9^][A-Za-z0-9.^\-]{0,15}$"
_CRON = re.compile(r"[\d*/,\-]+( [\d*/,\-]+){2}( [\dA-Za-z*/,\-]+){2}")
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C, where PyYAML was built with it, reads a market file in a tenth of the time."""

YamlPath = tuple[str | int, ...]


class MarketFileError(Exception):
    """A market file cannot be used. The message says where and why."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ListedModel(_Strict):
    symbol: Annotated[str, Field(pattern=_SYMBOL, description="the exchange's own symbol")]
    name: str = ""
    kind: Kind | None = None
    listed_from: date | None = None
    delisted_on: date | None = None
    providers: Annotated[
        dict[str, str], Field(default_factory=dict, description="spellings by provider that no rule gives")
    ]


class RefreshModel(_Strict):
    minutes_after_close: Annotated[int, Field(ge=0, le=24 * 60)] = 30
    correction_sessions: Annotated[
        int, Field(ge=1, le=60, description="the last sessions that every refresh asks for again")
    ] = 3
    daily_cron: Annotated[
        str | None, Field(description="UTC, in place of the time after the close; '0 9 * * *' is every morning at nine")
    ] = None
    weekly_cron: Annotated[str, Field(description="by the exchange's clock")] = Cadence().weekly_cron
    weekly_sessions: Annotated[int, Field(ge=1, le=260)] = Cadence().weekly_sessions
    catch_up_sessions: Annotated[int, Field(ge=1, le=260)] = Cadence().catch_up_sessions

    @field_validator("daily_cron", "weekly_cron")
    @classmethod
    def _is_cron(cls, text: str | None) -> str | None:
        if text is not None and not _CRON.fullmatch(text):
            raise ValueError("five fields: minute hour day month weekday, such as '0 9 * * *'")
        return text


class IntradayModel(_Strict):
    interval: Annotated[
        Literal["1min", "5min", "15min", "30min", "60min"], Field(description="stored; longer ones are computed")
    ] = "5min"
    extended_hours: bool = False
    every_minutes: Annotated[int, Field(ge=1, le=240)] = IntradayPlan().every_minutes


class PollingModel(_Strict):
    minutes: Annotated[int, Field(ge=1, le=240)] = PollingPlan().minutes
    shortest_minutes: Annotated[int, Field(ge=1, le=240)] = PollingPlan().shortest_minutes
    longest_minutes: Annotated[int, Field(ge=1, le=240)] = PollingPlan().longest_minutes

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.shortest_minutes <= self.minutes <= self.longest_minutes:
            raise ValueError("shortest_minutes, minutes and longest_minutes rise")
        return self


class RepairModel(_Strict):
    window_sessions: Annotated[int, Field(ge=1, le=2600)] = RepairPlan().window_sessions
    symbols_a_run: Annotated[int, Field(ge=1)] = RepairPlan().symbols_a_run
    again_hours: Annotated[float, Field(gt=0)] = RepairPlan().again_hours
    confirmed_days: Annotated[float, Field(gt=0)] = RepairPlan().confirmed_days
    outage_share: Annotated[float, Field(gt=0, le=1)] = RepairPlan().outage_share


class QualityModel(_Strict):
    thresholds: dict[str, Annotated[float, Field(ge=0)]] = {}
    off: list[str] = []

    @model_validator(mode="before")
    @classmethod
    def _off_is_a_word(cls, read: object) -> object:
        """YAML takes a bare `off` for false, also where it is a key."""
        if isinstance(read, dict) and False in read:
            return {"off" if key is False else key: value for key, value in read.items()}
        return read


class CrossCheckModel(_Strict):
    symbols_a_day: Annotated[int, Field(ge=0)] = CrossCheckPlan().symbols_a_day
    same_close_bp: Annotated[float, Field(gt=0)] = CrossCheckPlan().same_close_bp
    other_close_bp: Annotated[float, Field(gt=0)] = CrossCheckPlan().other_close_bp
    volume_share: Annotated[float, Field(gt=0)] = CrossCheckPlan().volume_share


class StreamModel(_Strict):
    feed: Annotated[Literal["polygon", "stooq", "yahoo", "poll"], Field(description="what is streamed by default")]
    channels: Annotated[
        list[Literal["quotes", "trades", "seconds", "minutes", "luld"]],
        Field(min_length=1, description="of Polygon's feed"),
    ] = ["quotes", "trades", "minutes"]
    every_seconds: Annotated[float, Field(ge=1, le=3600, description="of feeds that ask again and again")] = 30.0


class MarketModel(_Strict):
    """The attributes of a market file."""

    name: Annotated[str, Field(pattern=_NAME, description="short name: the first part of its asset keys")]
    title: Annotated[str, Field(min_length=1)]
    calendar: Annotated[str, Field(description="exchange_calendars code, such as XNYS")]
    currency: Annotated[str, Field(pattern=r"^[A-Za-z]{3}$")]
    since: date
    providers: Annotated[list[str], Field(min_length=1, description="in the order in which they are asked")]
    symbols: Annotated[list[ListedModel], Field(min_length=1)]
    indices: list[ListedModel] = []
    universes: Annotated[
        list[str], Field(description="lists whose present members are followed besides the symbols")
    ] = []
    owners: list[str] = []
    refresh: RefreshModel = RefreshModel()
    intraday: IntradayModel | None = None
    polling: PollingModel = PollingModel()
    repair: RepairModel = RepairModel()
    quality: QualityModel = QualityModel()
    cross_check: CrossCheckModel = CrossCheckModel()
    stream: StreamModel | None = None


def read_market(path: Path) -> MarketDefinition:
    """Every look of every sensor opens the platform: a file is read and checked once, until it changes."""
    try:
        found = path.stat()
    except OSError as error:
        raise MarketFileError(f"{path}: cannot be read: {error.strerror}") from None
    return _read_market(path, (found.st_mtime_ns, found.st_size, found.st_ino))


@lru_cache(maxsize=64)
def _read_market(path: Path, _version: tuple[int, int, int]) -> MarketDefinition:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise MarketFileError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        tree = yaml.compose(text, Loader=_YAML)
        document = yaml.load(text, Loader=_YAML)  # noqa: S506 (both are safe loaders)
    except yaml.YAMLError as error:
        raise MarketFileError(f"{path}: is not valid YAML: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("attributes"), dict):
        raise MarketFileError(f"{path}:1: a market file has the keys 'type' and 'attributes'")
    if document.get("type") not in COMPONENT_TYPES:
        raise _refusal(path, tree, ("type",), document.get("type"), f"accepted: {', '.join(COMPONENT_TYPES)}")
    return check_market(document["attributes"], path, tree)


def check_market(attributes: Mapping[str, Any], path: Path, tree: yaml.Node | None) -> MarketDefinition:
    """The definition in a file's attributes; `tree` is the file's YAML, for line numbers in a refusal."""
    try:
        model = MarketModel.model_validate(attributes)
    except ValidationError as error:
        lines = [
            str(_refusal(path, tree, ("attributes", *problem["loc"]), problem["input"], _accepted(problem)))
            for problem in error.errors()
        ]
        raise MarketFileError("\n".join(lines)) from None
    for where, value, accepted in _contradictions(model):
        raise _refusal(path, tree, ("attributes", *where), value, accepted)
    listed = [_instrument(entry, model, Kind.EQUITY) for entry in model.symbols]
    indices = [_instrument(entry, model, Kind.INDEX) for entry in model.indices]
    listed += _members(model, {one.symbol for one in (*listed, *indices)})
    return MarketDefinition(
        name=model.name,
        title=model.title,
        mic=model.calendar,
        currency=model.currency,
        since=model.since,
        providers=tuple(model.providers),
        instruments=tuple(listed),
        indices=tuple(indices),
        owners=tuple(model.owners),
        minutes_after_close=model.refresh.minutes_after_close,
        correction_sessions=model.refresh.correction_sessions,
        intraday=None
        if model.intraday is None
        else IntradayPlan(model.intraday.interval, model.intraday.extended_hours, model.intraday.every_minutes),
        cadence=Cadence(
            model.refresh.daily_cron,
            model.refresh.weekly_cron,
            model.refresh.weekly_sessions,
            model.refresh.catch_up_sessions,
        ),
        polling=PollingPlan(**model.polling.model_dump()),
        repair=RepairPlan(**model.repair.model_dump()),
        quality=QualityPlan(model.quality.thresholds, frozenset(model.quality.off)),
        cross_check=CrossCheckPlan(**model.cross_check.model_dump()),
        stream=None
        if model.stream is None
        else StreamSetup(model.stream.feed, tuple(dict.fromkeys(model.stream.channels)), model.stream.every_seconds),
    )


def read_markets(folder: Path = MARKETS_FOLDER) -> dict[str, MarketDefinition]:
    """Every market of a folder by its name."""
    markets: dict[str, MarketDefinition] = {}
    for path in sorted(folder.glob("*/defs.yaml")):
        market = read_market(path)
        if market.name in markets:
            raise MarketFileError(f"{path}: the market name {market.name!r} is taken by another file")
        markets[market.name] = market
    if not markets:
        raise MarketFileError(f"{folder}: holds no market file (<market>/defs.yaml)")
    return markets


def _instrument(entry: ListedModel, model: MarketModel, kind: Kind) -> Instrument:
    return Instrument(
        symbol=entry.symbol,
        market=model.name,
        mic=model.calendar,
        currency=model.currency,
        name=entry.name,
        kind=entry.kind or kind,
        listed_from=entry.listed_from,
        delisted_on=entry.delisted_on,
        provider_symbols=entry.providers,
    )


def _members(model: MarketModel, named: set[str]) -> list[Instrument]:
    """The present members of the market's universes that its file does not name itself."""
    found: dict[str, Instrument] = {}
    for name in model.universes:
        for member in load_universe(name).today:
            if member.symbol not in named and member.symbol not in found:
                entry = ListedModel(symbol=member.symbol, name=member.name, providers={})
                found[member.symbol] = _instrument(entry, model, Kind.EQUITY)
    return list(found.values())


def _contradictions(model: MarketModel) -> Iterable[tuple[YamlPath, object, str]]:
    calendars = known_calendars()
    if model.calendar not in calendars:
        yield ("calendar",), model.calendar, f"accepted: {', '.join(sorted(calendars))}"
    providers = known_names()
    for position, name in enumerate(model.providers):
        if name not in providers:
            yield ("providers", position), name, f"accepted: {', '.join(sorted(providers))}"
        if name in model.providers[:position]:
            yield ("providers", position), name, "a provider is named once"
    yield from _contradicting_universes(model)
    yield from _unknown_rules(model.quality)
    seen: set[str] = set()
    for group in ("symbols", "indices"):
        for position, entry in enumerate(getattr(model, group)):
            if entry.symbol in seen:
                yield (group, position, "symbol"), entry.symbol, "a symbol is listed once"
            seen.add(entry.symbol)
            for name in entry.providers:
                if name not in providers:
                    yield (
                        (group, position, "providers", name),
                        name,
                        f"accepted: {', '.join(sorted(providers))}",
                    )
            if entry.listed_from and entry.delisted_on and entry.delisted_on < entry.listed_from:
                yield (group, position, "delisted_on"), entry.delisted_on, "not before listed_from"


def _unknown_rules(model: QualityModel) -> Iterable[tuple[YamlPath, object, str]]:
    for name in model.thresholds:
        if name not in THRESHOLDS:
            yield ("quality", "thresholds", name), name, f"accepted: {', '.join(sorted(THRESHOLDS))}"
    for name in model.off:
        if name not in RULE or RULE[name].required:
            accepted = ", ".join(sorted(rule.name for rule in RULE.values() if not rule.required))
            yield ("quality", "off", name), name, f"accepted: {accepted}"


def _contradicting_universes(model: MarketModel) -> Iterable[tuple[YamlPath, object, str]]:
    named: set[str] = set()
    for position, name in enumerate(model.universes):
        where = ("universes", position)
        try:
            universe = load_universe(name)
        except UnknownUniverse as error:
            yield where, name, str(error)
            continue
        if universe.exchange != model.calendar:
            yield where, name, f"its members trade on {universe.exchange}, not on {model.calendar}"
        if universe.name in named:
            yield where, name, "a universe is named once"
        named.add(universe.name)


def _accepted(problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        return "no such key"
    return str(problem["msg"])


def _refusal(path: Path, tree: yaml.Node | None, where: YamlPath, read: object, accepted: str) -> MarketFileError:
    name = ".".join(str(part) for part in where if part != "attributes")
    shown = "nothing" if read is None else repr(read)
    return MarketFileError(f"{path}:{_line(tree, where)}: {name}: read {shown[:80]}; {accepted}")


def _line(tree: yaml.Node | None, where: YamlPath) -> int:
    """The line of the deepest node on the way that exists."""
    node = tree
    line = 1
    for part in where:
        found = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, found = key.start_mark.line + 1, value
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = node.value[part]
            line = found.start_mark.line + 1
        if found is None:
            return line
        node = found
    return line
