"""The quality rules as data: what each is called, how bad a breach is, and what is asked of a row.

The masks are computed in `rows` (each bar by itself), `series` (bars of one symbol against each other) and
`coverage` (what is stored against the calendar). The thresholds here are the ones that they use.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Severity(StrEnum):
    BLOCK = "block"
    """The row does not reach a table; it is kept in quarantine."""
    WARN = "warn"
    """The row is kept and somebody should look."""
    INFO = "info"
    """What was done to the row, for the record."""


class Scope(StrEnum):
    FRAME = "frame"
    ROW = "row"
    SERIES = "series"
    STORED = "stored"


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    severity: Severity
    scope: Scope
    explanation: str
    threshold: float | None = None


RULES: tuple[Rule, ...] = (
    Rule(
        "schema",
        Severity.BLOCK,
        Scope.FRAME,
        "The columns and types of a table of daily bars; every row has a symbol and an exchange date.",
    ),
    Rule("nulls", Severity.BLOCK, Scope.ROW, "Open, high, low and close are finite numbers."),
    Rule("positive_price", Severity.BLOCK, Scope.ROW, "Every price is above zero.", 0.0),
    Rule(
        "high_low_envelope",
        Severity.BLOCK,
        Scope.ROW,
        "No price is above the high or below the low, to a relative tolerance for widened floats.",
        1e-6,
    ),
    Rule(
        "volume",
        Severity.BLOCK,
        Scope.ROW,
        "Volume is a finite number, not below zero, or absent.",
        0.0,
    ),
    Rule(
        "volume_gap",
        Severity.WARN,
        Scope.SERIES,
        "Volume is absent only where the provider has none for the symbol at all.",
    ),
    Rule("instrument", Severity.BLOCK, Scope.ROW, "The symbol is one of the market's instruments."),
    Rule(
        "listing_life",
        Severity.BLOCK,
        Scope.ROW,
        "The session lies between the listing and the last session before delisting.",
    ),
    Rule("session_membership", Severity.BLOCK, Scope.ROW, "The date is a session of the exchange."),
    Rule("future", Severity.BLOCK, Scope.ROW, "The session had opened when the bar was fetched."),
    Rule(
        "uniqueness",
        Severity.BLOCK,
        Scope.SERIES,
        "A symbol has one bar a session. Of several that differ, none is believed.",
    ),
    Rule(
        "unit_error",
        Severity.BLOCK,
        Scope.SERIES,
        "Prices stay in one unit: no jump to about a hundredfold or a hundredth of the surrounding closes "
        "(pence for pounds). The threshold is how far from exactly 100 still counts.",
        1.25,
    ),
    Rule(
        "duplicate",
        Severity.INFO,
        Scope.SERIES,
        "The same bar, delivered more than once: the repetitions are dropped.",
    ),
    Rule(
        "order",
        Severity.WARN,
        Scope.SERIES,
        "Sessions come oldest first. The bars are kept and put in order.",
    ),
    Rule(
        "live_bar",
        Severity.INFO,
        Scope.ROW,
        "The session had not closed when the bar was fetched: the bar is kept and marked provisional.",
    ),
    Rule(
        "return_cap",
        Severity.WARN,
        Scope.SERIES,
        "The close moves by no more than this share from one session to the next, after known splits and dividends.",
        0.5,
    ),
    Rule(
        "completeness",
        Severity.WARN,
        Scope.STORED,
        "Every instrument has a bar for every session of its listing life. A gap in the last closed session "
        "blocks once it is overdue by this many hours.",
        6.0,
    ),
    Rule(
        "freshness",
        Severity.BLOCK,
        Scope.STORED,
        "The last session that closed at least this many minutes ago is there. Blocks when no instrument has "
        "it, warns when some lack it.",
        90.0,
    ),
    Rule(
        "provider_outage",
        Severity.BLOCK,
        Scope.STORED,
        "Less than this share of the universe is missing in one session, and no provider fails for all.",
        0.2,
    ),
)

RULE: Mapping[str, Rule] = MappingProxyType({rule.name: rule for rule in RULES})


def threshold(name: str) -> float:
    value = RULE[name].threshold
    if value is None:
        raise ValueError(f"rule {name} has no threshold")
    return value
