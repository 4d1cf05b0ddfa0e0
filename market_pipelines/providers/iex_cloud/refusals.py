"""What IEX's answers mean that hold no rows: plain text of a few words, an error object, or nothing at all."""

from __future__ import annotations

import msgspec

from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.answers import decoded, folded, is_html, malformed, no_data, one_line, retry_after
from market_pipelines.providers.protocol import Answer, Parsed

NOTHING = frozenset({b"[]", b"{}", b"null"})
"""How IEX says that it knows a symbol and has no such data of it."""
LONGEST_NOTICE = 400
"""Bytes. Whatever is longer is no notice of IEX's."""
RETIRED = "IEX Cloud was retired on 2024-08-31; IEX_CLOUD_BASE_URL may name another server that speaks its API"
SCRAMBLED = (
    "IEX Cloud's test tokens (Tpk_, Tsk_) and its sandbox give scrambled numbers, which are not taken for data: "
    "set IEX_CLOUD_API_KEY to a pk_ or sk_ token and IEX_CLOUD_SANDBOX to false"
)

_MEANINGS = (
    ("unknown symbol", Outcome.UNKNOWN_SYMBOL),
    ("api key provided is not valid", Outcome.NOT_ENTITLED),
    ("api key is required", Outcome.NOT_ENTITLED),
    ("test tokens may only", Outcome.NOT_ENTITLED),
    ("over limit", Outcome.QUOTA_EXHAUSTED),
    ("exceeded your allotted", Outcome.QUOTA_EXHAUSTED),
    ("too many requests", Outcome.THROTTLED),
    ("supplied invalid values", Outcome.MALFORMED),
)
_GONE = frozenset({301, 302, 303, 307, 308, 404, 410})
_error = msgspec.json.Decoder(dict[str, msgspec.Raw])


def refusal(answer: Answer, asked_range: str = "") -> Parsed | None:
    """Why the answer holds no rows; None where it may.

    The words about an invalid key are also what a range gets that the server does not know. This house asks only
    for ranges that IEX documents, so it is the key; but a person should know what else it may be.
    """
    notice = _notice(answer) if answer.status != 0 else ""
    outcome = _meaning(notice, answer.status)
    if outcome is None:
        return no_data(answer)
    reason = f"IEX says '{notice}'" if notice else f"HTTP {answer.status}"
    if asked_range and answer.status == 403:
        reason += f" (which it says of an unknown range as well; asked was {asked_range}, one of its own)"
    elif asked_range and outcome is Outcome.MALFORMED:
        reason += f" (asked was {asked_range})"
    return Parsed(outcome, one_line(reason), retry_after=retry_after(answer))


def from_a_retired_host(answer: Answer) -> bool:
    """Whether this is what an address gives behind which nothing serves any more.

    A kept answer of the service's days is as good as it was then; nothing new is ever asked there.
    """
    return answer.status == 0 or answer.status >= 500 or is_html(answer.body) or _bare(answer)


def _bare(answer: Answer) -> bool:
    return answer.status in _GONE and not _notice(answer)


def nothing(body: bytes) -> bool:
    return body.strip() in NOTHING


def unreadable(error: Exception) -> Parsed:
    return malformed(f"the answer cannot be read: {error}")


def _notice(answer: Answer) -> str:
    """The words of a plain-text answer or of an error object."""
    body = answer.body.strip()
    if not body or len(body) > LONGEST_NOTICE or is_html(body):
        return ""
    if body.startswith(b"{"):
        try:
            held = _error.decode(body)
            return one_line(msgspec.json.decode(held["error"], type=str)) if "error" in held else ""
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return ""
    if body.startswith((b"[", b'"')) or body[:1].isdigit() or body[:1] == b"-":
        return ""
    return "" if nothing(body) else one_line(decoded(body))


def _meaning(notice: str, status: int) -> Outcome | None:
    words = folded(notice)
    known = next((outcome for sign, outcome in _MEANINGS if sign in words), None)
    if known is not None:
        return known
    if status == 402:
        return Outcome.QUOTA_EXHAUSTED
    if status == 451:
        return Outcome.NOT_ENTITLED
    return Outcome.MALFORMED if status == 400 else None
