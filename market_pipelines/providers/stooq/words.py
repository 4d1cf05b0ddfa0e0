"""What Stooq's texts and pages without data mean. All of them come with status 200."""

from __future__ import annotations

from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.answers import decoded, folded, one_line, retry_after
from market_pipelines.providers.protocol import Answer, Parsed

NULLS = ["", "N/D", "B/D", "NaN", "nan"]
"""`B/D` is the Polish site's way to say that there is no data."""
NO_VALUE = frozenset({"", "n/d", "b/d"})
EMPTY_WORDS = ("no data", "brak danych")
LONGEST_EMPTY_TEXT = 40
_LIMIT_WORDS = ("exceeded the daily", "przekroczony dzienny limit", "the data has been hidden")
_KEY_WORDS = ("get your apikey", "uzyj apikey")
_CHALLENGES = (
    ("requires javascript to verify", "Stooq checks the browser instead of answering"),
    ("/__verify", "Stooq checks the browser instead of answering"),
    ("przepisz powyzszy kod", "Stooq shows a captcha instead of answering"),
    ("access denied", "Stooq denies access to this address"),
)


def words_of(answer: Answer) -> str:
    return folded(decoded(answer.body)).strip() if answer.status != 0 else ""


def refusal(answer: Answer, empty: Outcome, *, key_was_sent: bool, one_symbol: bool = True) -> Parsed | None:
    """What the words on a page without data mean; None where they are not Stooq's. `empty`: when there is no data.

    The limit's page also shows a captcha, which would lift it. It is a limit all the same: it ends by itself.
    """
    words = words_of(answer)
    if any(limit in words for limit in _LIMIT_WORDS):
        return Parsed(Outcome.QUOTA_EXHAUSTED, "Stooq's daily limit for this address is used up")
    if words.startswith(_KEY_WORDS):
        verdict = "refuses the API key" if key_was_sent else "asks for an API key (STOOQ_API_KEY)"
        return Parsed(Outcome.CHALLENGE, f"Stooq {verdict}")
    if words.startswith(EMPTY_WORDS) and len(words) < LONGEST_EMPTY_TEXT:
        return Parsed(empty, one_line(f"Stooq says '{decoded(answer.body)}'"))
    if one_symbol and _all_without_value(words):
        return Parsed(Outcome.UNKNOWN_SYMBOL, "N/D in every field")
    reason = next((reason for sign, reason in _CHALLENGES if sign in words), None)
    return Parsed(Outcome.CHALLENGE, reason, retry_after=retry_after(answer)) if reason is not None else None


def _all_without_value(words: str) -> bool:
    """A light quote's answer for a symbol that does not exist, with or without its header."""
    cells = words.splitlines()[-1].split(",") if words else []
    return len(cells) > 4 and all(cell in ("n/d", "b/d") for cell in cells[1:])
