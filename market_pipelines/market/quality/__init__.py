"""What makes a bar believable: rules as data, the verdict on a table of bars, and checks over what is stored.

Pure like the rest of `market/`: nothing here fetches, stores or logs. Who calls decides what to do with a
verdict; bad rows are values in it and never an exception.
"""

from market_pipelines.market.quality.coverage import (
    Finding,
    completeness,
    expected_sessions,
    freshness,
    provider_outage,
)
from market_pipelines.market.quality.rules import RULE, RULES, Rule, Scope, Severity
from market_pipelines.market.quality.sheet import PreviousClose
from market_pipelines.market.quality.verdict import Verdict, judge

__all__ = [
    "RULE",
    "RULES",
    "Finding",
    "PreviousClose",
    "Rule",
    "Scope",
    "Severity",
    "Verdict",
    "completeness",
    "expected_sessions",
    "freshness",
    "judge",
    "provider_outage",
]
