"""What a rule says about stored data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from market_pipelines.market.quality.canon import RULE
from market_pipelines.market.quality.rules import Rule, Severity
from market_pipelines.market.quality.sheet import Mask

_RANK = {Severity.INFO.value: 0, Severity.WARN.value: 1, Severity.BLOCK.value: 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found in the store. `severity` is that of the worst offence, or the rule's own."""

    rule: Rule
    severity: Severity
    offending: pd.DataFrame
    """One line per offence, with a `severity` of its own."""
    checked: int
    detail: str

    @property
    def passed(self) -> bool:
        return self.offending.empty


def finding(name: str, offending: pd.DataFrame, checked: int, detail: str) -> Finding:
    """The finding of a rule; offences without a `severity` get the rule's."""
    rule = RULE[name]
    if "severity" not in offending:
        words = pd.Series(rule.severity.value, index=offending.index, dtype="str")
        offending = offending.assign(severity=words)
    worst = rule.severity
    if not offending.empty:
        worst = Severity(max(offending["severity"].unique().tolist(), key=lambda word: _RANK[str(word)]))
    return Finding(rule, worst, offending.reset_index(drop=True), checked, detail)


def severities(blocking: Mask) -> pd.Series:
    return pd.Series(np.where(blocking, Severity.BLOCK.value, Severity.WARN.value), dtype="str")


def count(offending: Sequence[object] | pd.DataFrame, checked: int, what: str) -> str:
    """`3 of 1,200 bars`, `none of 1,200 bars`."""
    number = len(offending)
    return f"{number:,} of {checked:,} {what}" if number else f"none of {checked:,} {what}"
