"""The cookie hosts, the crumb, and what is refused without them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from market_pipelines.simulator.formats import yahoo_refusals
from market_pipelines.simulator.formats.asked import Asked
from market_pipelines.simulator.formats.reply import HTML, PLAIN, Reply

Active = Mapping[str, tuple[object, ...]]

COOKIE_HOST = "/fc"
"""Where fc.yahoo.com is on this server."""
PAGES = "/finance/"
"""Where finance.yahoo.com is."""
GETCRUMB = "/v1/test/getcrumb"
GATED = ("/v7/finance/quote", "/v7/finance/options/", "/v10/finance/quoteSummary/")
CRUMBS = {COOKIE_HOST: yahoo_refusals.CRUMB.body.decode(), PAGES: "mZ4kQ.9wLpT"}
"""A crumb belongs to its cookie; the cookie tells where it is from."""
_MARKS = {COOKIE_HOST: "AQABBFc", PAGES: "AQABBPg"}
_INSTEAD = {
    "too_many": Reply(200, b"Too Many Requests\r\n", PLAIN),
    "html": Reply(200, b"<!DOCTYPE html><html><body>Sorry, something went wrong.</body></html>", HTML),
    "empty": Reply(200, b"", PLAIN),
}
CRUMB_FAULTS = tuple(_INSTEAD)


def step(asked: Asked, active: Active) -> Reply | None:
    """A step on the way to a crumb; None where the request is none."""
    if asked.path == COOKIE_HOST:
        return Reply(404, b"", HTML, {} if "no_cookie" in active else _cookie(COOKIE_HOST))
    if asked.path.startswith(PAGES):
        return Reply(200, b"<!DOCTYPE html><html><body>Apple Inc. (AAPL)</body></html>", HTML, _cookie(PAGES))
    if asked.path == GETCRUMB:
        instead = active.get("getcrumb")
        return _INSTEAD[str(instead[-1])] if instead else Reply(200, CRUMBS[_origin(asked)].encode(), PLAIN)
    if asked.path == yahoo_refusals.CONSENT_PATH:
        return yahoo_refusals.CONSENT_PAGE
    return None


def refusal(asked: Asked, active: Active) -> Reply | None:
    """Why a gated endpoint does not answer."""
    if "A3=" not in asked.headers.get("cookie", ""):
        return yahoo_refusals.failure(401, "Unauthorized", "Invalid Cookie", root="finance")
    origin = _origin(asked)
    refused = active.get("crumb_refused", ("",))[-1]
    if asked.query.get("crumb", "") != CRUMBS[origin] or refused == "always":
        return yahoo_refusals.INVALID_CRUMB
    return yahoo_refusals.INVALID_CRUMB if refused == "first" and origin == COOKIE_HOST else None


def _origin(asked: Asked) -> str:
    return PAGES if _MARKS[PAGES] in asked.headers.get("cookie", "") else COOKIE_HOST


def _cookie(place: str) -> dict[str, str]:
    value = f"d={_MARKS[place]}{secrets.token_hex(8)}&S=AQAAAm{secrets.token_hex(8)}"
    return {"Set-Cookie": f"A3={value}; Expires=Sat, 20 Nov 2027 15:00:00 GMT; Max-Age=31557600; Path=/; HttpOnly"}
