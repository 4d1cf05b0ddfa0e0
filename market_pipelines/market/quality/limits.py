"""The numbers that rules go by: their own, or those that a market's file puts in their place."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from market_pipelines.market.quality.canon import RULES
from market_pipelines.market.quality.rules import Rule


def _own_numbers(rule: Rule) -> dict[str, float]:
    own = {} if rule.threshold is None else {rule.name: rule.threshold}
    return own | {f"{rule.name}.{name}": value for name, value in rule.parameters.items()}


THRESHOLDS: Mapping[str, float] = MappingProxyType(
    {name: value for rule in RULES for name, value in _own_numbers(rule).items()}
)
"""Every number by the name under which a market file changes it: `return_cap`, `volume_spike.window`."""


class Limits:
    """`limits("return_cap")` is a rule's threshold, `limits("volume_spike", "window")` one of its parameters."""

    def __init__(self, thresholds: Mapping[str, float] | None = None, off: Collection[str] = ()) -> None:
        given = dict(thresholds or {})
        unknown = sorted(set(given) - set(THRESHOLDS))
        if unknown:
            raise ValueError(f"no rule has the threshold {', '.join(unknown)}; known: {', '.join(sorted(THRESHOLDS))}")
        self._numbers = {**THRESHOLDS, **given}
        self.off = frozenset(off)

    def __call__(self, rule: str, parameter: str | None = None) -> float:
        return self._numbers[rule if parameter is None else f"{rule}.{parameter}"]

    def asks(self, rule: str) -> bool:
        return rule not in self.off


OWN = Limits()
"""Every rule by its own numbers."""
