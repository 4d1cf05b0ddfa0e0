"""What an answer says before anybody knows its format: transport, status, notices meant for people.

The provider's own file classifies the body first, because a status is not a verdict; what it cannot recognise
comes here. Nothing here knows a provider.
"""

import math
import re
import unicodedata
from datetime import UTC
from email.message import Message
from email.utils import parsedate_to_datetime

from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.protocol import Answer, Parsed
from market_pipelines.redaction import redact

LONGEST_REASON = 300
NOTICE_SPAN = 100_000
"""A notice is near the top of its page; nothing beyond this many bytes is looked at."""

_STATUS_OUTCOMES = {
    401: Outcome.NOT_ENTITLED,
    402: Outcome.NOT_ENTITLED,
    403: Outcome.NOT_ENTITLED,
    408: Outcome.UNAVAILABLE,
    410: Outcome.RETIRED,
    425: Outcome.UNAVAILABLE,
    429: Outcome.THROTTLED,
}
_HTML = re.compile(rb"(?i)<(?:!doctype|\?xml|html|head|body|title|meta|script|center|table|div|h1|p|a)\b|<!--")
_NO_LETTER = re.compile(r"[\W_]+")


def one_line(text: str) -> str:
    """What a provider wrote, as a reason: one line, of a bearable length, without secrets."""
    line = " ".join(redact(text).split())
    return line if len(line) <= LONGEST_REASON else line[: LONGEST_REASON - 1] + "…"


def decoded(body: bytes) -> str:
    """The start of a body as text; Polish pages come as UTF-8 or in the Windows code page."""
    start = body[:NOTICE_SPAN]
    try:
        return start.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start >= len(start) - 4 and len(body) > NOTICE_SPAN:
            return start[: error.start].decode("utf-8-sig")
        return start.decode("cp1250", errors="replace")


def folded(text: str) -> str:
    """Lower case without accents, so that a text is found in whichever spelling it comes. (`ł` has no accent.)"""
    plain = unicodedata.normalize("NFKD", text)
    return "".join(sign for sign in plain if not unicodedata.combining(sign)).lower()


def is_html(body: bytes) -> bool:
    return _HTML.match(body[:512].lstrip(b"\xef\xbb\xbf \t\r\n")) is not None


def unfit_csv(answer: Answer, name: re.Pattern[str], symbol: str) -> Parsed | None:
    """What is wrong with a CSV answer as a whole: cut short, or about another symbol.

    Every line ends with a line break; where the last one does not, its number may lack digits. The rows do not
    say what they are about. The name under which a browser would save them does, where it is sent: `name` finds
    the symbol in it. File names keep neither case nor punctuation.
    """
    if not answer.body.endswith(b"\n"):
        return malformed("the body ends in the middle of a line")
    message = Message()
    message["content-disposition"] = answer.headers.get("content-disposition", "")
    found = name.fullmatch(message.get_filename() or "")
    if found is not None and _letters(found[1]) != _letters(symbol):
        return malformed(f"asked for {symbol}, the answer is about {found[1]}")
    return None


def _letters(symbol: str) -> str:
    return _NO_LETTER.sub("", symbol.lower())


def retry_after(answer: Answer) -> float | None:
    """Seconds until the provider wants to be asked again, which it names as a number or as an HTTP date."""
    value = answer.headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - answer.received_at).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def judged_by_status(answer: Answer) -> Parsed | None:
    """The outcome of an answer whose body explained nothing; None where the status is no objection."""
    status = answer.status
    if status == 0:
        return Parsed(Outcome.UNAVAILABLE, one_line(answer.failure or "no complete answer arrived"))
    if 200 <= status < 300:
        return None
    reason = f"HTTP {status}"
    if status >= 500:
        return Parsed(Outcome.UNAVAILABLE, reason, retry_after=retry_after(answer))
    if status in _STATUS_OUTCOMES:
        return Parsed(_STATUS_OUTCOMES[status], reason, retry_after=retry_after(answer))
    if 300 <= status < 400:
        target = answer.headers.get("location", "").partition("?")[0]
        return Parsed(Outcome.MALFORMED, one_line(f"{reason}: redirected to {target or 'nowhere'}"))
    return Parsed(Outcome.MALFORMED, f"{reason} without an explanation: is the base URL right?")


def no_data(answer: Answer) -> Parsed | None:
    """The outcome of an answer that holds no data in anybody's format, or None where it may."""
    refusal = judged_by_status(answer)
    if refusal is not None:
        return refusal
    if not answer.body.strip(b"\xef\xbb\xbf \t\r\n"):
        return malformed("an empty body")
    if is_html(answer.body):
        return malformed(f"a web page instead of data: {shown(answer.body)}")
    return None


def malformed(reason: str) -> Parsed:
    return Parsed(Outcome.MALFORMED, one_line(reason))


def shown(body: bytes) -> str:
    """The first words of an unexpected body, quoted for a reason."""
    words = one_line(decoded(body[:200]))
    return f"'{words[:80]}…'" if len(words) > 80 else f"'{words}'"
