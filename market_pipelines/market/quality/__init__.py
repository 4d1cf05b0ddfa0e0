"""What makes a bar believable: rules as data, the verdict on a table of bars, and checks over what is stored.

Pure like the rest of `market/`: nothing here fetches, stores or logs. Who calls decides what to do with a
verdict; bad rows are values in it and never an exception.
"""

from market_pipelines.market.quality.canon import RULE, RULES
from market_pipelines.market.quality.coverage import (
    completeness,
    expected_sessions,
    freshness,
    provider_outage,
)
from market_pipelines.market.quality.cross import compare_providers
from market_pipelines.market.quality.examine import LEAD_IN, Evidence, examine, rules_of
from market_pipelines.market.quality.findings import Finding
from market_pipelines.market.quality.limits import THRESHOLDS, Limits
from market_pipelines.market.quality.rules import ASSETS, Rule, Scope, Severity
from market_pipelines.market.quality.sheet import PreviousClose
from market_pipelines.market.quality.verdict import Verdict, judge

__all__ = [
    "ASSETS",
    "LEAD_IN",
    "RULE",
    "RULES",
    "THRESHOLDS",
    "Evidence",
    "Finding",
    "Limits",
    "PreviousClose",
    "Rule",
    "Scope",
    "Severity",
    "Verdict",
    "compare_providers",
    "completeness",
    "examine",
    "expected_sessions",
    "freshness",
    "judge",
    "provider_outage",
    "rules_of",
]
