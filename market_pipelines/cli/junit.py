"""Check outcomes as the XML that CI systems read: a suite for each table, a case for each check."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby
from xml.etree import ElementTree as ET

import pandas as pd

from market_pipelines.market.quality import Severity
from market_pipelines.pipeline.checks import CheckOutcome
from market_pipelines.redaction import redact

ROWS_TOLD = 50
"""Offending rows that a case shows; `quality report --json` has more."""

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped."""


def junit(
    outcomes: Sequence[CheckOutcome], at: datetime, *, failing: frozenset[Severity], reasons: Mapping[str, str]
) -> bytes:
    """`failing`: the severities that fail a case; lesser ones are told in its output. `reasons`: by market, why its
    report is red although no check is."""
    suites = ET.Element("testsuites", name="market-pipelines quality")
    for name, reason in reasons.items():
        suite = _suite(suites, name, at, tests=1, failures=1)
        case = ET.SubElement(suite, "testcase", classname=_text(name), name="stored", time="0")
        ET.SubElement(case, "failure", type="block", message=_text(reason)).text = _text(reason)
    for (market, asset), group in groupby(outcomes, key=lambda one: (one.market, one.asset)):
        mine = list(group)
        failed = [one for one in mine if fails(one, failing)]
        suite = _suite(suites, f"{market}/{asset}", at, tests=len(mine), failures=len(failed))
        for one in mine:
            _case(suite, one, red=one in failed)
    for name in ("tests", "failures"):
        suites.set(name, str(sum(int(suite.get(name, "0")) for suite in suites)))
    ET.indent(suites)
    document: bytes = ET.tostring(suites, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def fails(outcome: CheckOutcome, failing: frozenset[Severity]) -> bool:
    return not outcome.passed and outcome.severity in failing


def rows_as_text(offending: pd.DataFrame, rows: int = ROWS_TOLD) -> str:
    """The rows, aligned, one a line."""
    return "" if offending.empty else offending.head(rows).to_string(index=False, na_rep="")


def _suite(suites: ET.Element, name: str, at: datetime, *, tests: int, failures: int) -> ET.Element:
    return ET.SubElement(
        suites,
        "testsuite",
        name=_text(name),
        tests=str(tests),
        failures=str(failures),
        errors="0",
        skipped="0",
        time="0",
        timestamp=at.replace(tzinfo=None).isoformat(timespec="seconds"),
    )


def _case(suite: ET.Element, outcome: CheckOutcome, *, red: bool) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        classname=_text(f"{outcome.market}.{outcome.asset}"),
        name=_text(outcome.rule),
        time="0",
    )
    told = _text(f"{outcome.detail}\n{rows_as_text(outcome.offending)}".strip())
    if red:
        ET.SubElement(case, "failure", type=outcome.severity.value, message=_text(outcome.detail)).text = told
    elif outcome.failing_rows:
        ET.SubElement(case, "system-out").text = f"{outcome.severity.value}: {told}"


def _text(value: str) -> str:
    return _NOT_XML.sub("\ufffd", redact(value))
