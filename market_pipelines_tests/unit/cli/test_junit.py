"""Check outcomes as JUnit XML, read back by a parser as a CI system reads it."""

from __future__ import annotations

from datetime import UTC, datetime
from xml.etree import ElementTree as ET

import pandas as pd
import pytest

from market_pipelines.cli.junit import ROWS_TOLD, junit
from market_pipelines.market.quality import Severity
from market_pipelines.pipeline.checks import CheckOutcome

AT = datetime(2026, 11, 20, 22, 30, tzinfo=UTC)
BLOCKING = frozenset({Severity.BLOCK})


def outcome(
    rule: str,
    severity: Severity = Severity.BLOCK,
    detail: str = "All is well.",
    rows: list[tuple[str, str]] | None = None,
    asset: str = "stock_prices",
) -> CheckOutcome:
    offending = pd.DataFrame(rows or [], columns=["symbol", "detail"])
    return CheckOutcome(
        market="us",
        asset=asset,
        rule=rule,
        severity=severity,
        passed=not rows or severity is Severity.INFO,
        failing_rows=len(offending),
        checked=100,
        detail=detail,
        offending=offending,
    )


def written(*outcomes: CheckOutcome, failing: frozenset[Severity] = BLOCKING, **reasons: str) -> ET.Element:
    return ET.fromstring(junit(outcomes, AT, failing=failing, reasons=reasons))  # noqa: S314 (we wrote it ourselves)


def cases(document: ET.Element) -> dict[str, ET.Element]:
    return {str(case.get("name")): case for case in document.iter("testcase")}


def test_a_table_is_a_suite_and_a_check_is_a_case() -> None:
    document = written(
        outcome("nulls"), outcome("freshness", asset="index_prices"), outcome("volume", asset="index_prices")
    )
    suites = {suite.get("name"): suite for suite in document}
    assert set(suites) == {"us/stock_prices", "us/index_prices"}
    assert [case.get("name") for case in suites["us/index_prices"]] == ["freshness", "volume"]
    assert {case.get("classname") for case in suites["us/index_prices"]} == {"us.index_prices"}
    assert suites["us/stock_prices"].get("timestamp") == "2026-11-20T22:30:00"


def test_the_counts_are_those_of_the_cases() -> None:
    document = written(
        outcome("nulls", rows=[("AAPL", "no close")]),
        outcome("volume"),
        outcome("freshness", asset="index_prices", rows=[("^SPX", "late")]),
    )
    assert [(suite.get("tests"), suite.get("failures")) for suite in document] == [("2", "1"), ("1", "1")]
    assert (document.get("tests"), document.get("failures")) == ("3", "2")
    assert len(list(document.iter("failure"))) == 2


def test_a_failure_shows_the_offending_rows() -> None:
    red = cases(written(outcome("nulls", detail="1 bar.", rows=[("MSFT", "close is no number")])))["nulls"]
    failure = red.find("failure")
    assert failure is not None
    assert (failure.get("type"), failure.get("message")) == ("block", "1 bar.")
    assert "MSFT" in str(failure.text)
    assert "close is no number" in str(failure.text)


def test_a_warning_is_told_and_fails_nothing_unless_warnings_count() -> None:
    warning = outcome("return_cap", Severity.WARN, "One jump.", [("CDR", "the close moved by -54%")])
    told = cases(written(warning))["return_cap"]
    assert told.find("failure") is None
    assert "-54%" in str(told.findtext("system-out"))
    strict = cases(written(warning, failing=frozenset(Severity)))["return_cap"]
    assert strict.find("failure") is not None


def test_what_is_only_noted_never_fails() -> None:
    noted = outcome("volume_spike", Severity.INFO, rows=[("AAPL", "ten times the usual")])
    case = cases(written(noted, failing=frozenset(Severity)))["volume_spike"]
    assert case.find("failure") is None
    assert "ten times" in str(case.findtext("system-out"))


def test_a_market_with_nothing_stored_is_a_red_case() -> None:
    document = written(us="nothing is stored of us")
    failure = cases(document)["stored"].find("failure")
    assert failure is not None
    assert failure.get("message") == "nothing is stored of us"
    assert document.get("failures") == "1"


@pytest.mark.parametrize(
    "odd",
    ["<b>&amp;\"'</b>", "]]>", "\x00\x08\x0b\x1f", "\ud800", "￾￿", "cena zł → 12 €", "𝒜 \U0010ffff", "a\tb\nc\rd"],
)
def test_odd_characters_stay_well_formed(odd: str) -> None:
    storable = odd.encode("utf-8", "replace").decode()
    document = written(outcome("nulls", detail=odd, rows=[(storable, storable)]))
    failure = cases(document)["nulls"].find("failure")
    assert failure is not None
    assert failure.text
    if odd.isprintable() and "\ufffe" not in odd:
        assert failure.get("message") == odd


def test_a_long_list_is_cut() -> None:
    many = outcome("nulls", rows=[(f"S{number}", "bad") for number in range(500)])
    failure = cases(written(many))["nulls"].find("failure")
    assert failure is not None
    assert len(str(failure.text).splitlines()) == ROWS_TOLD + 2
