"""The gate in front of quotes, options and profiles: a cookie, then a crumb, then the question.

A conversation has at most six steps. The cookie comes from one host and, where that gives none or where its crumb
is refused, once from another; a second refusal ends it. Which step an answer belongs to is written in its
endpoint: `quote`, `quote/cookie`, `quote/crumb`, and `quote/other_cookie`, `quote/other_crumb`, `quote/again` of
the second way. Consent to cookies is a person's to give: a page that asks for it ends the conversation.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self
from urllib.parse import urlsplit

from pydantic import SecretStr

from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.answers import malformed, no_data, shown
from market_pipelines.providers.protocol import Answer, Call, Parsed
from market_pipelines.providers.yahoo.envelopes import asks_for_consent, refusal
from market_pipelines.redaction import MASK, register_secret

PUBLIC_HOSTS = ("query1.finance.yahoo.com", "query2.finance.yahoo.com")
GETCRUMB = "/v1/test/getcrumb"
_COOKIE = re.compile(r"(?:^|[\s,;])A3=([^;,\s]+)")
_CRUMB = re.compile(r"[A-Za-z0-9./_~-]{6,32}")


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the steps go. A configured address is a whole Yahoo: every step stays below it, and so do secrets."""

    data: str
    other_data: str
    """Whose crumbs are as good; asked the second time."""
    cookie: str
    page: str
    """An ordinary page, which sets the same cookie."""

    @classmethod
    def of(cls, base_url: str) -> Self:
        host = urlsplit(base_url).hostname or ""
        if host not in PUBLIC_HOSTS:
            return cls(base_url, base_url, f"{base_url}/fc", f"{base_url}/finance/quote/AAPL")
        other = next(name for name in PUBLIC_HOSTS if name != host)
        return cls(base_url, f"https://{other}", "https://fc.yahoo.com", "https://finance.yahoo.com/quote/AAPL")


class Credential:
    """The cookie and the crumb that belongs to it, shared by the threads that ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cookie = ""
        self._crumb = ""
        self._since: datetime | None = None

    def whole(self, newer_than: datetime | None = None) -> tuple[str, str] | None:
        with self._lock:
            if not self._cookie or not self._crumb or self._since is None:
                return None
            if newer_than is not None and self._since <= newer_than:
                return None
            return self._cookie, self._crumb

    def begin(self, cookie: str) -> str:
        """The cookie to ask a crumb with: another thread's, where one has begun before."""
        with self._lock:
            self._cookie = self._cookie or cookie
            return self._cookie

    def complete(self, crumb: str, at: datetime) -> tuple[str, str]:
        with self._lock:
            self._crumb, self._since = crumb, at
            return self._cookie, crumb

    def drop(self) -> None:
        with self._lock:
            self._cookie, self._crumb, self._since = "", "", None


class _Stage(StrEnum):
    DATA = ""
    COOKIE = "cookie"
    CRUMB = "crumb"
    OTHER_COOKIE = "other_cookie"
    OTHER_CRUMB = "other_crumb"
    AGAIN = "again"


class Gate:
    def __init__(self, base_url: str) -> None:
        self._addresses = Addresses.of(base_url)
        self._credential = Credential()

    def opened(self, data: Call) -> Call:
        """The question itself, where cookie and crumb are at hand; otherwise what has to be asked first."""
        pair = self._credential.whole()
        return self._cookie_call(data, _Stage.COOKIE) if pair is None else self._data_call(data, pair, _Stage.DATA)

    def read(self, answer: Answer, question: Callable[[str], Call], read: Callable[[Answer], Parsed]) -> Parsed:
        """One step. `question` gives the call, without secrets, of an endpoint's name; `read` its answer's rows."""
        endpoint, _, name = answer.endpoint.partition("/")
        stage = next((known for known in _Stage if known == name), _Stage.DATA)
        if stage in (_Stage.DATA, _Stage.AGAIN):
            return self._data(answer, endpoint, stage, question, read)
        data = question(endpoint)
        if stage in (_Stage.COOKIE, _Stage.OTHER_COOKIE):
            return self._cookie(answer, data, stage)
        return self._crumb(answer, data, stage)

    def _data(
        self,
        answer: Answer,
        endpoint: str,
        stage: _Stage,
        question: Callable[[str], Call],
        read: Callable[[Answer], Parsed],
    ) -> Parsed:
        parsed = read(replace(answer, endpoint=endpoint))
        if parsed.more is not None:
            return replace(parsed, more=self.opened(parsed.more))
        if answer.status != 401 or parsed.outcome is not Outcome.NOT_ENTITLED:
            return parsed
        if stage is _Stage.AGAIN:
            self._credential.drop()
            return parsed
        # What another thread has got since this was asked is tried before anything new.
        sent_at = answer.received_at - timedelta(seconds=answer.seconds)
        fresh = self._credential.whole(newer_than=sent_at)
        data = question(endpoint)
        if fresh is not None:
            return replace(parsed, more=self._data_call(data, fresh, _Stage.AGAIN))
        self._credential.drop()
        return replace(parsed, more=self._cookie_call(data, _Stage.OTHER_COOKIE))

    def _cookie(self, answer: Answer, data: Call, stage: _Stage) -> Parsed:
        first = stage is _Stage.COOKIE
        found = _COOKIE.search(answer.headers.get("set-cookie", ""))
        if found is not None and MASK not in found[1]:
            register_secret(found[1])
            cookie = self._credential.begin(found[1])
            return Parsed(Outcome.OK, more=self._crumb_call(data, cookie, first=first))
        refused = refusal(answer, "finance", lambda: Outcome.MALFORMED) or no_data(answer)
        if refused is not None and refused.outcome in (Outcome.CHALLENGE, Outcome.THROTTLED):
            return refused
        if first:
            return Parsed(Outcome.OK, "no cookie from there", more=self._cookie_call(data, _Stage.OTHER_COOKIE))
        return refused or malformed(f"a page without the cookie that a crumb needs: {shown(answer.body)}")

    def _crumb(self, answer: Answer, data: Call, stage: _Stage) -> Parsed:
        first = stage is _Stage.CRUMB
        text = answer.body.strip().decode("latin-1")
        if answer.status == 200 and _CRUMB.fullmatch(text):
            register_secret(text)
            pair = self._credential.complete(text, answer.received_at)
            return Parsed(Outcome.OK, more=self._data_call(data, pair, _Stage.DATA if first else _Stage.AGAIN))
        refused = refusal(answer, "finance", lambda: Outcome.MALFORMED) or no_data(answer)
        if asks_for_consent(answer) or (
            refused is not None and refused.outcome in (Outcome.THROTTLED, Outcome.UNAVAILABLE)
        ):
            return refused or malformed("no crumb")
        self._credential.drop()
        if first:
            return Parsed(Outcome.OK, "no crumb for that cookie", more=self._cookie_call(data, _Stage.OTHER_COOKIE))
        return refused or malformed(f"something else instead of a crumb: {shown(answer.body)}")

    def _cookie_call(self, data: Call, stage: _Stage) -> Call:
        url = self._addresses.cookie if stage is _Stage.COOKIE else self._addresses.page
        return Call(provider=data.provider, endpoint=f"{data.endpoint}/{stage}", url=url)

    def _crumb_call(self, data: Call, cookie: str, *, first: bool) -> Call:
        base = self._addresses.data if first else self._addresses.other_data
        return Call(
            provider=data.provider,
            endpoint=f"{data.endpoint}/{_Stage.CRUMB if first else _Stage.OTHER_CRUMB}",
            url=f"{base}{GETCRUMB}",
            secret_headers=_cookie_header(cookie),
            secret_origin=base,
        )

    def _data_call(self, data: Call, pair: tuple[str, str], stage: _Stage) -> Call:
        cookie, crumb = pair
        return replace(
            data,
            endpoint=f"{data.endpoint}/{stage}" if stage else data.endpoint,
            secret_params={"crumb": SecretStr(crumb)},
            secret_headers=_cookie_header(cookie),
            secret_origin=self._addresses.data,
        )


def _cookie_header(cookie: str) -> dict[str, SecretStr]:
    return {"Cookie": SecretStr(f"A3={cookie}")}
