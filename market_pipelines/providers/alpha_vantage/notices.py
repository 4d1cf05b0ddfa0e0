"""Answers that are no data: notices to a person in every wrapping, and which outcome each of them means."""

from __future__ import annotations

import csv
import re

import msgspec

from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.alpha_vantage.cells import top_level
from market_pipelines.providers.answers import decoded, no_data, one_line, retry_after
from market_pipelines.providers.protocol import Answer, Parsed
from market_pipelines.redaction import MASK

SECONDS_AFTER_BURST = 1.0
SECONDS_AFTER_MINUTE_LIMIT = 60.0

_NOTICES = ("Error Message", "Information", "Note", "message", "detail")
_ALL_IS_WELL = "success"
"""What `message` says beside data that somebody has paid for. Beside invented data it says something else."""
_ECHOED_KEY = re.compile(r"(?i)(api key as )\S+")
_LIMIT_WORDS = ("rate limit", "requests per day", "more sparingly", "call frequency", "calls per ")
_BURST_WORDS = ("sparingly", "per second", "per-second")
_SOLD_WORDS = ("premium", "apikey", "api key", "artificial")


def bare(answer: Answer) -> bytes:
    return answer.body.removeprefix(b"\xef\xbb\xbf").lstrip()


def refusal(answer: Answer, key: str = "", *, names_a_symbol: bool = True) -> Parsed | None:
    """How it ended, where the answer holds no data; `key` is taken out of what the provider wrote.

    A call that names no symbol cannot have named an unknown one.
    """
    notice = _notice_in(bare(answer)) if answer.status != 0 else None
    if notice is None:
        return no_data(answer)
    kind, text = notice
    outcome, seconds = _meaning(kind, text)
    if outcome is Outcome.UNKNOWN_SYMBOL and not names_a_symbol:
        outcome = Outcome.MALFORMED
    if outcome is Outcome.THROTTLED:
        seconds = max(seconds or 0.0, retry_after(answer) or 0.0)
    if key:
        text = text.replace(key, MASK)
    reason = one_line(_ECHOED_KEY.sub(rf"\g<1>{MASK}", text)) or f"a notice without words ({kind})"
    return Parsed(outcome, reason, retry_after=seconds)


def _notice_in(body: bytes) -> tuple[str, str] | None:
    """Kind and text of a notice, also where it stands beside data or was cut into cells."""
    if body.startswith(b"{"):
        try:
            top = top_level.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        for kind in _NOTICES:
            if kind in top:
                text = _text_of(top[kind])
                if kind != "message" or text.strip().lower() != _ALL_IS_WELL:
                    return kind, text
        return None
    if body[1:2] == b"," and body[3:4] == b",":
        return _cut_into_cells(decoded(body))
    return None


def _text_of(raw: msgspec.Raw) -> str:
    try:
        return str(msgspec.json.decode(raw, type=str))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ""


def _cut_into_cells(text: str) -> tuple[str, str] | None:
    """A notice that a CSV writer took for a list of letters: its kind is the first line, its text the rest."""
    try:
        lines = ["".join(row) for row in csv.reader(text.splitlines()) if all(len(cell) <= 1 for cell in row)]
    except csv.Error:
        return None
    first = lines[0] if lines else ""
    kind = next((kind for kind in _NOTICES if first and (kind.startswith(first) or first.startswith(kind))), None)
    return (kind, " ".join(lines[1:]) or first) if kind is not None else None


def _meaning(kind: str, text: str) -> tuple[Outcome, float | None]:
    """Limits before premium: a limit's notice advertises premium endpoints too."""
    words = text.lower()
    outcome, seconds = Outcome.MALFORMED, None
    if any(word in words for word in _LIMIT_WORDS):
        return _limit(words)
    if any(word in words for word in _SOLD_WORDS):
        outcome = Outcome.NOT_ENTITLED
    elif kind == "Error Message" and "invalid api call" in words:
        outcome = Outcome.UNKNOWN_SYMBOL
    elif kind == "message" and words.startswith("no data"):
        outcome = Outcome.EMPTY_UNEXPECTED
    elif kind in ("Information", "Note"):
        # Unread or reworded: these two have always been about limits, and asking later does no harm.
        outcome, seconds = Outcome.THROTTLED, SECONDS_AFTER_MINUTE_LIMIT
    return outcome, seconds


def _limit(words: str) -> tuple[Outcome, float | None]:
    if any(word in words for word in _BURST_WORDS):
        return Outcome.THROTTLED, SECONDS_AFTER_BURST
    if "per day" in words and "per minute" not in words:
        return Outcome.QUOTA_EXHAUSTED, None
    return Outcome.THROTTLED, SECONDS_AFTER_MINUTE_LIMIT
