"""How the value of a fault is written, and what it means. A reader raises `ValueError` for what it does not take.

Those that only sockets know are in `stream.kinds`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime


@dataclass(frozen=True, slots=True)
class Failing:
    """An HTTP status instead of an answer."""

    status: int
    retry_after: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Which row of an answer: that of a session, or with None the newest."""

    session: date | None


@dataclass(frozen=True, slots=True)
class Scaled:
    place: Place | None
    """None: every row."""
    factor: float


@dataclass(frozen=True, slots=True)
class Correction:
    session: date
    ratio: float | None
    """By what the close changes; None where the new close itself is given."""
    close: float | None


def switch(text: str) -> object:
    if text.lower() not in ("on", "true", "yes", "1"):
        raise ValueError
    return True


def day(text: str) -> date:
    return date.fromisoformat(text)


def place(text: str) -> object:
    return Place(None) if text.lower() == "on" else Place(day(text))


def minute(text: str) -> object:
    at = datetime.fromisoformat(text)
    if at.tzinfo is not None or at.second or at.microsecond:
        raise ValueError
    return at.replace(tzinfo=UTC)


def days(text: str) -> object:
    return tuple(day(part) for part in text.split(","))


def seconds(text: str) -> object:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


def count(text: str) -> object:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def status(text: str) -> object:
    status, _, retry_after = text.partition(":")
    if not 400 <= int(status) <= 599:
        raise ValueError
    return Failing(int(status), retry_after)


def change(text: str) -> float:
    """`+0.5%` or `-25bp`, as a factor."""
    for unit, size in (("%", 1e-2), ("bp", 1e-4)):
        if text.endswith(unit):
            return 1.0 + float(text.removesuffix(unit)) * size
    raise ValueError


def scale(text: str) -> object:
    return Scaled(None, change(text))


def unit_error(text: str) -> object:
    place, _, factor = text.rpartition(":")
    wanted = Place(day(place)) if place else Place(None)
    if factor.lower() == "on":
        return Scaled(wanted, 100.0)
    value = float(factor)
    if value <= 0:
        raise ValueError
    return Scaled(wanted, value)


def correction(text: str) -> object:
    session, _, told = text.partition(":")
    if told.startswith("="):
        return Correction(day(session), None, float(told[1:]))
    return Correction(day(session), change(told), None)


def word(text: str) -> object:
    if not text:
        raise ValueError
    return text


def hidden(text: str) -> object:
    if text not in ("missing", "null", "empty"):
        raise ValueError
    return text


def positive(text: str) -> object:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def names(text: str) -> object:
    """One or more words."""
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names:
        raise ValueError
    return names


def one_of(*words: str) -> Callable[[str], object]:
    def read(text: str) -> object:
        if text not in words:
            raise ValueError
        return text

    return read


def separator(text: str) -> object:
    named = {"semicolon": ";", "tab": "\t"}.get(text, text)
    if len(named) != 1:
        raise ValueError
    return named
