"""What all answers of Polygon's REST interface have in common: a status, refusals, and a next page.

A page's successor is named by the provider, but only its path and its cursor are taken from it: it is asked at
the configured address or not at all, because the key goes with it.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.answers import judged_by_status, malformed, no_data, one_line, retry_after
from market_pipelines.providers.http import origin
from market_pipelines.providers.protocol import Answer, Parsed

SECONDS_AFTER_MINUTE_LIMIT = 60.0
NEXT_PAGE = ".next"
"""At the end of an endpoint's name: a page that another one led to."""
UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""What decoding strange bytes may raise."""

_VALID = frozenset({"OK", "DELAYED"})
_FAILED = frozenset({"ERROR", "NOT_AUTHORIZED", "NOT_FOUND", "NOTFOUND", "AUTH_ERROR", "UNAUTHORIZED"})
_KEY_WORDS = ("api key", "apikey", "not authorized", "not entitled", "plan doesn't include", "upgrade your plan")
_LIMIT_WORDS = ("maximum requests", "too many requests", "rate limit")
_NULL = msgspec.Raw(b"null")


class Envelope(msgspec.Struct):
    status: str | None = None
    results: msgspec.Raw = _NULL
    ticker: msgspec.Raw = _NULL
    """Of bars the symbol, of a snapshot all of its contents."""
    tickers: msgspec.Raw = _NULL
    symbol: str | None = None
    adjusted: bool | None = None
    next_url: str | None = None
    error: str | None = None
    message: str | None = None

    @property
    def delayed(self) -> bool:
        return (self.status or "").upper() == "DELAYED"


class NextPage(msgspec.Struct, frozen=True):
    url: str
    params: dict[str, str]


class Refused(Exception):
    """The answer holds no data; `parsed` says why."""

    def __init__(self, parsed: Parsed) -> None:
        super().__init__(parsed.reason)
        self.parsed = parsed


_envelopes = msgspec.json.Decoder(Envelope)
_text = msgspec.json.Decoder(str | None)


def opened(answer: Answer) -> Envelope:
    """The envelope of an answer with data. `Refused` for every other one."""
    body = answer.body.removeprefix(b"\xef\xbb\xbf").lstrip()
    if answer.status == 0 or not body.startswith(b"{"):
        raise Refused(no_data(answer) or malformed("the answer is no JSON object"))
    try:
        envelope = _envelopes.decode(body)
    except UNREADABLE as error:
        raise Refused(judged_by_status(answer) or malformed(f"the answer cannot be read: {error}")) from None
    refusal = _refusal(envelope, answer)
    if refusal is not None:
        raise Refused(refusal)
    return envelope


def body_of(answer: Answer) -> bytes:
    """The body of an endpoint that uses no envelope. `Refused` where it is a refusal or no answer at all."""
    body = answer.body.removeprefix(b"\xef\xbb\xbf").lstrip()
    if answer.status != 0 and body.startswith(b"{"):
        try:
            envelope = _envelopes.decode(body)
        except UNREADABLE:
            envelope = Envelope()
        if envelope.status is not None or envelope.error or envelope.message:
            raise Refused(_refusal(envelope, answer) or malformed(f"only a status: {envelope.status}"))
    refusal = no_data(answer)
    if refusal is not None:
        raise Refused(refusal)
    return body


def _refusal(envelope: Envelope, answer: Answer) -> Parsed | None:
    status = (envelope.status or "").upper()
    said = envelope.message or envelope.error or ""
    if status in _FAILED or (said and status not in _VALID) or (answer.status >= 400 and status):
        return _meaning(status, said, answer)
    by_status = judged_by_status(answer)
    if by_status is not None:
        return by_status
    if status not in _VALID:
        return malformed(f"neither OK nor DELAYED: status {envelope.status!r}")
    return None


def _meaning(status: str, said: str, answer: Answer) -> Parsed:
    """A refusal in words. Its HTTP status counts before them: every plan's notice advertises the plans above it."""
    words, reason = said.lower(), one_line(said or status)
    if answer.status == 429 or any(word in words for word in _LIMIT_WORDS):
        wait = retry_after(answer)
        return Parsed(Outcome.THROTTLED, reason, retry_after=SECONDS_AFTER_MINUTE_LIMIT if wait is None else wait)
    if answer.status >= 500:
        return Parsed(Outcome.UNAVAILABLE, reason, retry_after=retry_after(answer))
    if answer.status == 410:
        return Parsed(Outcome.RETIRED, reason)
    refused = status in ("NOT_AUTHORIZED", "AUTH_ERROR", "UNAUTHORIZED") or any(word in words for word in _KEY_WORDS)
    if answer.status in (401, 402, 403) or refused:
        return Parsed(Outcome.NOT_ENTITLED, reason)
    if status in ("NOT_FOUND", "NOTFOUND") or "not found" in words:
        return Parsed(Outcome.UNKNOWN_SYMBOL, reason)
    return malformed(f"refused: {reason}")


def results_of(envelope: Envelope) -> msgspec.Raw:
    """The results, which may be missing where there are none. A body that holds something else instead is about
    something else: `ValueError`."""
    if envelope.results == _NULL and (envelope.ticker != _NULL or envelope.tickers != _NULL or envelope.symbol):
        raise ValueError("no results, but a snapshot or a day")
    return envelope.results


def text_of(raw: msgspec.Raw) -> str | None:
    """A field that is text here, and None where it is missing. Raises `msgspec.ValidationError` for anything else."""
    text: str | None = _text.decode(raw)
    return text


SAME_HOUSE = frozenset({origin("https://api.polygon.io"), origin("https://api.massive.com")})
"""Its two names. The next page is asked for at the configured one, whichever of them the answer says."""


def next_page(envelope: Envelope, base_url: str) -> NextPage | None:
    """Where the conversation goes on. `Refused` where it would lead away from the configured address."""
    if not envelope.next_url:
        return None
    home = origin(base_url)
    named = origin(envelope.next_url)
    if named != home and not {home, named} <= SAME_HOUSE:
        raise Refused(
            malformed(
                f"the next page is at {named or 'no address'} and not at {home}, where the key belongs: not asked"
            )
        )
    parts, ours = urlsplit(envelope.next_url), urlsplit(base_url)
    if not parts.path.startswith(f"{ours.path.rstrip('/')}/") or ".." in unquote(parts.path).split("/"):
        raise Refused(malformed(f"the next page is not below {base_url}, where the key belongs: not asked"))
    params = {name: value for name, value in parse_qsl(parts.query) if name.lower() != "apikey"}
    return NextPage(ours._replace(path=parts.path, query="", fragment="").geturl(), params)
