"""What Yahoo says instead of data: its error envelopes, plain texts, consent pages and redirects.

Every endpoint wraps its answer in `{name: {result, error}}` under a name of its own. What is inside a result is
the endpoint's module's business.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec

from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.answers import decoded, is_html, one_line, retry_after
from market_pipelines.providers.protocol import Answer, Parsed

_BARE_WORD = re.compile(rb"(?<=[\[,:\s])-?(?:Infinity|NaN)(?=[\],}\s])")
_CONSENT = ("collectconsent", "guce.yahoo.com", "consent.yahoo.com", "before you continue")


class Failure(msgspec.Struct):
    code: str | None = None
    description: str | None = None


class Root(msgspec.Struct):
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: Failure | None = None


class Formatted(msgspec.Struct):
    """A number with the text that pages show; empty where there is none."""

    raw: float | None = None


Amount = float | Formatted | None
"""Numbers come bare or dressed, by the `formatted` parameter and the endpoint's mood."""

_envelope = msgspec.json.Decoder(dict[str, Root])


def number(amount: Amount) -> float | None:
    return amount.raw if isinstance(amount, Formatted) else amount


def open_envelope(body: bytes) -> dict[str, Root]:
    try:
        return _envelope.decode(body)
    except msgspec.DecodeError:
        # Some writers put bare words where a number is missing; as null they are what they mean.
        repaired = _BARE_WORD.sub(b"null", body)
        if repaired == body:
            raise
        return _envelope.decode(repaired)


def refusal(answer: Answer, root: str, empty: Callable[[], Outcome]) -> Parsed | None:
    """What the body says against an answer, in an envelope or as plain text. None where it says nothing.

    `empty` tells whether it is right that there is nothing, where that is what the body says.
    """
    if answer.status == 0:
        return None
    if answer.body.lstrip().startswith(b"{"):
        text = _failure(answer.body, root)
        if text is None:
            return None
    else:
        if asks_for_consent(answer):
            return Parsed(Outcome.CHALLENGE, "Yahoo asks for consent to cookies")
        text = decoded(answer.body)
    outcome = _meaning(text.lower())
    if outcome is None:
        return None
    if outcome is Outcome.EMPTY_UNEXPECTED:
        outcome = empty()
    return Parsed(outcome, one_line(text), retry_after=retry_after(answer))


def asks_for_consent(answer: Answer) -> bool:
    """A redirect to the consent pages, or one of them: a simulated one is on the server's own host."""
    try:
        target = urlsplit(answer.headers.get("location", ""))
    except ValueError:
        return False
    place = f"{target.hostname or ''}{target.path}".lower()
    if "consent" in place or "guce." in place:
        return True
    return is_html(answer.body) and any(sign in decoded(answer.body).lower() for sign in _CONSENT)


def _failure(body: bytes, root: str) -> str | None:
    try:
        envelope = open_envelope(body)
    except (msgspec.MsgspecError, ValueError):
        return None
    roots = (envelope[name] for name in (root, "finance") if name in envelope)
    error = next((found.error for found in roots if found.error is not None), None)
    return None if error is None else f"{error.code or ''}: {error.description or ''}"


_MEANINGS = (
    ("will be right back", Outcome.UNAVAILABLE),
    ("too many requests", Outcome.THROTTLED),
    ("data doesn't exist", Outcome.EMPTY_UNEXPECTED),
    ("data not available for", Outcome.EMPTY_UNEXPECTED),
    ("requested range must be", Outcome.EMPTY_UNEXPECTED),
    ("no fundamentals data found", Outcome.EMPTY_UNEXPECTED),
    ("no data found", Outcome.UNKNOWN_SYMBOL),
    ("may be delisted", Outcome.UNKNOWN_SYMBOL),
    ("not found:", Outcome.UNKNOWN_SYMBOL),
    ("quote not found", Outcome.UNKNOWN_SYMBOL),
    ("invalid crumb", Outcome.NOT_ENTITLED),
    ("invalid cookie", Outcome.NOT_ENTITLED),
    ("unauthorized", Outcome.NOT_ENTITLED),
    ("unable to access this feature", Outcome.NOT_ENTITLED),
)


def _meaning(words: str) -> Outcome | None:
    return next((outcome for sign, outcome in _MEANINGS if sign in words), None)
