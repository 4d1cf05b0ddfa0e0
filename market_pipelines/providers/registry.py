"""Which providers there are: the five that ship, and whatever is installed under the entry point group.

A plug-in that cannot be used is reported and left out; it never stops the others.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol

from market_pipelines.providers.alpha_vantage import AlphaVantage
from market_pipelines.providers.answers import one_line
from market_pipelines.providers.iex_cloud import IexCloud
from market_pipelines.providers.polygon import Polygon
from market_pipelines.providers.protocol import DailyProvider
from market_pipelines.providers.stooq import Stooq
from market_pipelines.providers.yahoo import Yahoo
from market_pipelines.settings import Settings

PROVIDERS_GROUP = "market_pipelines.providers"
PLUGIN_RATE_LIMIT = 60
"""Requests a minute for a plug-in that names no limit of its own."""

_log = logging.getLogger(__name__)


class ProviderClass(Protocol):
    """What an entry point has to name. `rate_limit`, `rate_limit_second`, `daily_quota` and `quota_zone`
    are welcome as well."""

    name: str

    def from_settings(self, settings: Settings, base_url: str | None = None) -> DailyProvider: ...


BUILT_IN: Mapping[str, ProviderClass] = {each.name: each for each in (AlphaVantage, IexCloud, Polygon, Stooq, Yahoo)}


@dataclass(frozen=True, slots=True)
class BrokenProvider:
    name: str
    origin: str
    reason: str


@dataclass(frozen=True, slots=True)
class Discovery:
    classes: Mapping[str, ProviderClass]
    broken: tuple[BrokenProvider, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    per_minute: int
    per_day: int
    """0: no daily quota."""
    reset_zone: str
    """The daily quota begins anew at this zone's midnight."""
    per_second: int = 0
    """0: only the minute counts."""


@cache
def installed() -> tuple[EntryPoint, ...]:
    """What the installed packages offer: looked for once, because every package's files are read for it."""
    return tuple(entry_points(group=PROVIDERS_GROUP))


def discover() -> Discovery:
    classes = dict(BUILT_IN)
    broken = []
    for entry in installed():
        if entry.name in BUILT_IN and _names(entry, BUILT_IN[entry.name]):
            continue
        found = _load(entry, taken=classes)
        if isinstance(found, BrokenProvider):
            broken.append(found)
        else:
            classes[entry.name] = found
    return Discovery(classes, tuple(broken))


def known_names() -> frozenset[str]:
    return frozenset(discover().classes)


def build_providers(settings: Settings, base_urls: Mapping[str, str] | None = None) -> dict[str, DailyProvider]:
    """Every provider that can be built, by name; `base_urls` overrides the settings' addresses."""
    discovery = discover()
    broken = list(discovery.broken)
    providers: dict[str, DailyProvider] = {}
    for name, each in discovery.classes.items():
        base_url = (base_urls or {}).get(name)
        if name in BUILT_IN:
            providers[name] = each.from_settings(settings, base_url)
            continue
        try:
            providers[name] = each.from_settings(settings, base_url)
        except Exception as error:  # noqa: BLE001 (a plug-in may fail in any way; the others go on)
            broken.append(BrokenProvider(name, f"{each}", one_line(f"{type(error).__name__}: {error}")))
    for failed in broken:
        _log.warning("provider %s (%s) is left out: %s", failed.name, failed.origin, failed.reason)
    return providers


def limits(name: str, settings: Settings) -> Limits:
    """What may be asked of a provider: from the settings, for a plug-in from its class."""
    each = discover().classes.get(name)
    if each is None:
        raise ValueError(f"there is no provider '{name}'; known are {', '.join(sorted(known_names()))}")
    return Limits(
        per_minute=getattr(settings, f"{name}_rate_limit", getattr(each, "rate_limit", PLUGIN_RATE_LIMIT)),
        per_day=getattr(settings, f"{name}_daily_quota", getattr(each, "daily_quota", 0)),
        reset_zone=getattr(each, "quota_zone", "UTC"),
        per_second=getattr(settings, f"{name}_rate_limit_second", getattr(each, "rate_limit_second", 0)),
    )


def _load(entry: EntryPoint, taken: Mapping[str, ProviderClass]) -> ProviderClass | BrokenProvider:
    origin = f"{entry.dist.name if entry.dist is not None else 'unknown package'}: {entry.value}"
    if entry.name in taken:
        return BrokenProvider(entry.name, origin, "the name is taken")
    try:
        found: ProviderClass = entry.load()
    except Exception as error:  # noqa: BLE001 (importing a plug-in runs its code; the others go on)
        return BrokenProvider(entry.name, origin, one_line(f"{type(error).__name__}: {error}"))
    if getattr(found, "name", None) != entry.name or not callable(getattr(found, "from_settings", None)):
        return BrokenProvider(entry.name, origin, f"a class with name = '{entry.name}' and from_settings() is needed")
    return found


def _names(entry: EntryPoint, each: ProviderClass) -> bool:
    """Whether an entry point means this class, by its module or by a package around it that hands it out."""
    module, _, name = entry.value.partition(":")
    defined_in = getattr(each, "__module__", "")
    return name == getattr(each, "__qualname__", "") and f"{defined_in}.".startswith(f"{module}.")
