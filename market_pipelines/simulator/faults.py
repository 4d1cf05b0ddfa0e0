"""Which misbehaviours can be switched on, how they are written, and which of them are on now.

`PROVIDER.NAME=VALUE[@SYMBOL,SYMBOL][#COUNT]`: for these symbols only (the exchange's own spelling), for the
first COUNT requests that it concerns. How their values are read is in `fault_values`, what a fault does to rows in
`edits`, to bytes on the wire in `wire`.
Those named `ws_…` are about sockets, not requests: `stream.kinds` lists them, `stream.misbehaviour` does them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from market_pipelines.simulator import fault_values as read
from market_pipelines.simulator.formats import alpha_vantage, iex_cloud, polygon, stooq, yahoo_refusals
from market_pipelines.simulator.formats.yahoo_gate import CRUMB_FAULTS
from market_pipelines.simulator.stream.kinds import BOTH_STREAMS, POLYGON_STREAM, PREFIX

PROVIDERS = ("alpha_vantage", "yahoo", "polygon", "iex_cloud", "stooq")
COMMON_BODIES = ("html", "empty")
BODIES: dict[str, tuple[str, ...]] = {
    "alpha_vantage": (*alpha_vantage.BODIES, *COMMON_BODIES),
    "yahoo": (*yahoo_refusals.BODIES, *COMMON_BODIES),
    "polygon": (*polygon.BODIES, *COMMON_BODIES),
    "iex_cloud": (*iex_cloud.BODIES, *COMMON_BODIES),
    "stooq": (*stooq.BODIES, *COMMON_BODIES),
}


class FaultError(Exception):
    """A fault that cannot be switched on. The message names it and what is accepted."""


@dataclass(frozen=True, slots=True)
class Kind:
    name: str
    read: Callable[[str], object]
    accepts: str
    meaning: str
    providers: tuple[str, ...] = PROVIDERS


_ROW = "on (the newest row) or a session"
KINDS: tuple[Kind, ...] = (
    Kind("status", read.status, "400 to 599, with `:N` a Retry-After of N", "this HTTP status instead of an answer"),
    Kind("body", read.word, "", "another body instead of data"),
    Kind("stall", read.seconds, "seconds", "accepts, says nothing that long, then closes"),
    Kind("slow_loris", read.seconds, "bytes a second", "the body comes in drops"),
    Kind("close", read.switch, "on", "closes without an answer"),
    Kind("close_mid_body", read.switch, "on", "closes after half of the announced body"),
    Kind("truncated", read.switch, "on", "half of the body, announced as if it were all"),
    Kind("bad_minute", read.minute, "a minute in UTC: 2026-11-20T15:00", "within the session, a low below zero"),
    Kind("negative_price", read.place, _ROW, "a low below zero"),
    Kind("nan_price", read.place, _ROW, "a close that is not a number"),
    Kind("high_below_low", read.place, _ROW, "high and low change places"),
    Kind("duplicate_rows", read.place, _ROW, "the row comes twice"),
    Kind("unordered_rows", read.switch, "on", "the two newest rows change places"),
    Kind("holiday_bar", read.place, "on (the last day off) or a date", "a bar for a day without a session"),
    Kind("tomorrow_bar", read.switch, "on", "a bar for tomorrow"),
    Kind("unit_error", read.unit_error, "on, FACTOR or SESSION:FACTOR", "prices in another unit (100 for pence)"),
    Kind("missing_rows", read.days, "sessions with commas between", "these sessions are left out"),
    Kind("empty_row", read.place, _ROW, "a row without values: null, N/D, nan"),
    Kind("scale", read.scale, "+25bp or -0.5%", "all prices differ by that much from the other providers'"),
    Kind(
        "correction",
        read.correction,
        "SYMBOL:SESSION:+0.5% or SYMBOL:SESSION:=171.20 (as traded)",
        "from now on that session has another close",
    ),
    Kind(
        "wrong_symbol",
        read.word,
        "the provider's spelling of another symbol",
        "the answer is about that symbol",
        ("alpha_vantage", "yahoo", "polygon"),
    ),
    Kind(
        "per_second",
        read.count,
        "requests",
        "more than that in a second get the burst notice",
        ("alpha_vantage",),
    ),
    Kind("per_day", read.count, "requests", "more than that since the start get the daily notice", ("alpha_vantage",)),
    Kind("full_is_premium", read.switch, "on", "outputsize=full is refused", ("alpha_vantage",)),
    Kind("partial_last_bar", read.switch, "on", "a session under way has a row already", ("alpha_vantage",)),
    Kind("bar_end", read.switch, "on", "intraday stamps name the end of a bar, as in 2020", ("alpha_vantage",)),
    Kind("compact_only", read.switch, "on", "intraday bars: 100 rows, whatever size was asked for", ("alpha_vantage",)),
    Kind("sold", read.names, "functions with commas between, or all", "answered as to a free key", ("alpha_vantage",)),
    Kind("live_duplicate", read.switch, "on", "the newest day comes with two stamps", ("yahoo",)),
    Kind("events_mismatch", read.switch, "on", "keys and dates of events are years apart", ("yahoo",)),
    Kind("granularity", read.word, "an interval", "meta names this interval", ("yahoo",)),
    Kind("empty_range", read.switch, "on", "no rows, no `timestamp`", ("yahoo",)),
    Kind("crumb_gate", read.switch, "on", "charts want the crumb of /v1/test/getcrumb", ("yahoo",)),
    Kind(
        "crumb_refused",
        read.one_of("first", "always"),
        "first or always",
        "401 for the crumb of the first way, or for any",
        ("yahoo",),
    ),
    Kind("getcrumb", read.one_of(*CRUMB_FAULTS), ", ".join(CRUMB_FAULTS), "instead of a crumb", ("yahoo",)),
    Kind("no_cookie", read.switch, "on", "the first cookie host gives no cookie", ("yahoo",)),
    Kind("missed_split", read.day, "its ex-date", "no word of that split, and prices before it as traded", ("yahoo",)),
    Kind("stale_quote", read.day, "a session", "quotes are as of then", ("yahoo",)),
    Kind("thin_puts", read.positive, "a number N", "only every Nth strike of an option chain has a put", ("yahoo",)),
    Kind("no_open_interest", read.switch, "on", "option chains with an open interest of zero", ("yahoo",)),
    Kind("cheap_options", read.switch, "on", "options are offered for a tenth of what they are worth", ("yahoo",)),
    Kind("null_rows", read.count, "bars", "so many of the newest intraday bars have no values", ("yahoo",)),
    Kind("stray_extended", read.switch, "on", "intraday bars of extended hours without being asked", ("yahoo",)),
    Kind("delayed", read.switch, "on", "status DELAYED beside the data", ("polygon",)),
    Kind("no_results", read.hidden, "missing, null or empty", "what `results` is instead of rows", ("polygon",)),
    Kind("clipped_history", read.day, "a date", "nothing before it, and not a word about it", ("polygon",)),
    Kind("refused_history", read.day, "a date", "questions that begin earlier are refused with 403", ("polygon",)),
    Kind("page_size", read.positive, "rows, from 1", "pages of so many rows", ("polygon",)),
    Kind("foreign_next_url", read.word, "a host", "the next page is said to be there", ("polygon",)),
    Kind("adjusted_anyway", read.switch, "on", "prices are restated for splits, whatever is asked", ("polygon",)),
    Kind("republished", read.switch, "on", "flat files with late trades in them, under another ETag", ("polygon",)),
    Kind("polish_headers", read.switch, "on", "headers and refusals of stooq.pl", ("stooq",)),
    Kind("no_volume", read.switch, "on", "no Volume column", ("stooq",)),
    Kind("separator", read.separator, "a character, or `semicolon`", "instead of the comma", ("stooq",)),
    Kind(
        "key_required",
        read.word,
        "any, or the one accepted key",
        "without it the key page, or IEX's words about the key",
        ("stooq", "iex_cloud"),
    ),
    Kind("readjusted", read.scale, "-0.5%", "all earlier history restated once more", ("stooq",)),
    Kind("headerless", read.switch, "on", "light quotes without a header", ("stooq",)),
    Kind("with_name", read.switch, "on", "light quotes with a last column Name", ("stooq",)),
    Kind("partial_nd", read.switch, "on", "light quotes with N/D for a volume", ("stooq",)),
    Kind("serving", read.switch, "on", "answers at all; without it every connection is closed", ("iex_cloud",)),
    Kind("own_trades_only", read.switch, "on", "minutes without the trades of other exchanges", ("iex_cloud",)),
    Kind("null_minutes", read.count, "a number N", "every Nth minute without any trade", ("iex_cloud",)),
    Kind("old_gaps", read.switch, "on", "-1 instead of null, as in the older API", ("iex_cloud",)),
    Kind("restated_only", read.switch, "on", "days without their prices as traded", ("iex_cloud",)),
    Kind("range_refused", read.switch, "on", "every range of a chart gets the words about the key", ("iex_cloud",)),
    *(Kind(*told, ("polygon",)) for told in POLYGON_STREAM),
    *(Kind(*told, ("polygon", "yahoo")) for told in BOTH_STREAMS),
)


def _kinds_of(provider: str) -> dict[str, Kind]:
    return {kind.name: kind for kind in KINDS if provider in kind.providers}


FAULT_HELP: tuple[tuple[str, str, str], ...] = tuple(
    (
        f"{provider}.{kind.name}",
        ", ".join(BODIES[provider]) if kind.name == "body" else kind.accepts,
        kind.meaning,
    )
    for provider in PROVIDERS
    for kind in _kinds_of(provider).values()
)


@dataclass(frozen=True, slots=True)
class Fault:
    provider: str
    name: str
    value: object
    text: str
    """The value as it was written."""
    symbols: frozenset[str] = field(default_factory=frozenset)
    """Empty: all."""
    count: int | None = None

    def concerns(self, provider: str, symbol: str) -> bool:
        return provider == self.provider and (not self.symbols or symbol.upper() in self.symbols)

    def __str__(self) -> str:
        symbols = ",".join(sorted(self.symbols))
        count = f"#{self.count}" if self.count is not None else ""
        if self.name == "correction":
            return f"{self.provider}.{self.name}={symbols}:{self.text}{count}"
        return f"{self.provider}.{self.name}={self.text}{'@' if symbols else ''}{symbols}{count}"


def _meets(fault: Fault, symbol: str) -> bool:
    return not symbol or fault.concerns(fault.provider, symbol)


def parse_fault(text: str) -> Fault:
    head, equals, tail = text.partition("=")
    provider, dot, name = head.strip().partition(".")
    if not (equals and dot) or provider not in PROVIDERS:
        raise FaultError(
            f"fault {text!r} is not understood: write PROVIDER.NAME=VALUE with PROVIDER one of "
            f"{', '.join(PROVIDERS)}, for example yahoo.status=429"
        )
    kind = _kinds_of(provider).get(name)
    if kind is None:
        raise FaultError(f"{provider} has no fault {name!r}; accepted are {', '.join(sorted(_kinds_of(provider)))}")
    tail, count = _count_of(text, tail)
    value, at, symbols = tail.partition("@")
    chosen = frozenset(part.strip().upper() for part in symbols.split(",") if part.strip())
    if at and not chosen:
        raise FaultError(f"fault {text!r} names no symbol after '@'")
    if name == "correction":
        symbol, _, value = value.partition(":")
        chosen = frozenset({symbol.upper()})
    if name == "body" and value not in BODIES[provider]:
        raise FaultError(f"{provider}.body cannot be {value!r}; accepted are {', '.join(sorted(BODIES[provider]))}")
    try:
        understood = kind.read(value)
    except ValueError:
        raise FaultError(f"{provider}.{name} cannot be {value!r}; accepted: {kind.accepts}") from None
    return Fault(provider, name, understood, value, chosen, count)


def _count_of(text: str, tail: str) -> tuple[str, int | None]:
    value, hash_sign, count = tail.rpartition("#")
    if not hash_sign:
        return tail, None
    if not count.isdigit() or int(count) == 0:
        raise FaultError(f"fault {text!r}: after '#' comes how many requests it concerns, from 1")
    return value, int(count)


class FaultBoard:
    """The faults that are on. Safe to share between threads."""

    def __init__(self, faults: Iterable[str | Fault] = ()) -> None:
        self._lock = threading.Lock()
        self._left: dict[Fault, int | None] = {}
        for fault in faults:
            self.add(fault)

    def add(self, fault: str | Fault) -> None:
        made = parse_fault(fault) if isinstance(fault, str) else fault
        with self._lock:
            self._left.pop(made, None)
            self._left[made] = made.count

    def add_all(self, faults: Iterable[str]) -> None:
        """Takes all of them or, where one is wrong, none."""
        for made in [parse_fault(fault) for fault in faults]:
            self.add(made)

    def replace(self, faults: Iterable[str | Fault]) -> None:
        """Takes all of them or, where one is wrong, none."""
        made = [parse_fault(fault) if isinstance(fault, str) else fault for fault in faults]
        with self._lock:
            self._left = {fault: fault.count for fault in made}

    def clear(self) -> None:
        self.replace(())

    def take(self, provider: str, symbol: str) -> Mapping[str, tuple[object, ...]]:
        """What goes wrong with this request: by name all values, the one that was switched on last at the end."""
        with self._lock:
            active: dict[str, tuple[object, ...]] = {}
            for fault, left in self._left.items():
                if left == 0 or fault.name.startswith(PREFIX) or not fault.concerns(provider, symbol):
                    continue
                if left is not None:
                    self._left[fault] = left - 1
                active[fault.name] = (*active.get(fault.name, ()), fault.value)
            return active

    def standing(self, provider: str, name: str) -> Fault | None:
        """The one of this name that was switched on last and has not been used up; nothing is counted."""
        with self._lock:
            for fault in reversed(self._left):
                if fault.provider == provider and fault.name == name and self._left[fault] != 0:
                    return fault
        return None

    def strike(self, provider: str, name: str, symbol: str = "") -> Fault | None:
        """The same for this symbol, and one less is left of it. Without a symbol it strikes a connection."""
        with self._lock:
            for fault in reversed(self._left):
                left = self._left[fault]
                if fault.name != name or left == 0 or not (fault.provider == provider and _meets(fault, symbol)):
                    continue
                if left is not None:
                    self._left[fault] = left - 1
                return fault
        return None

    def state(self) -> list[dict[str, object]]:
        with self._lock:
            return [{"fault": str(fault), "left": left} for fault, left in self._left.items()]
