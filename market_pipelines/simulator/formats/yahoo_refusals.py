"""What Yahoo answers instead of a chart: error envelopes, plain texts, pages and symbols that it makes up."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import msgspec

from market_pipelines.simulator.formats.reply import HTML, JSON, PLAIN, Reply


def failure(status: int, code: str, description: str, root: str = "chart") -> Reply:
    body = {root: {"result": None, "error": {"code": code, "description": description}}}
    return Reply(status, msgspec.json.encode(body), JSON)


NOT_FOUND = failure(404, "Not Found", "No data found, symbol may be delisted")
TOO_MANY = Reply(429, b"Too Many Requests\r\n", PLAIN)
INVALID_CRUMB = failure(401, "Unauthorized", "Invalid Crumb", root="finance")
OUTAGE = Reply(200, b"<!DOCTYPE html><html><body><h1>Will be right back...</h1></body></html>", HTML)
CRUMB = Reply(200, b"haT3oykhHqZ", PLAIN)
CONSENT_PATH = "/guce.yahoo.com/consent"
CONSENT_PAGE = Reply(200, b"<!DOCTYPE html><html><body>Before you continue to Yahoo</body></html>", HTML)

BODIES = (
    "not_found",
    "rate_limit",
    "invalid_crumb",
    "outage",
    "unprocessable",
    "no_data_400",
    "phantom",
    "consent",
)
"""The answers that can be asked for instead of data."""


def consent(base_url: str) -> Reply:
    """The EU consent redirect. It stays on this server: who follows it must not reach the internet."""
    page = f"{CONSENT_PATH}?brandType=nonEu&gcrumb=simulated"
    target = f"{base_url}{page}&done=https%3A%2F%2Ffinance.yahoo.com"
    return Reply(307, b"", HTML, {"Location": target})


def body_named(name: str, symbol: str, query: Mapping[str, str], *, now: datetime, base_url: str) -> Reply:
    start, end = query.get("period1", "0"), query.get("period2", "0")
    fixed = {
        "not_found": NOT_FOUND,
        "rate_limit": TOO_MANY,
        "invalid_crumb": INVALID_CRUMB,
        "outage": OUTAGE,
        "unprocessable": failure(
            422,
            "Unprocessable Entity",
            f"1d data not available for startTime={start} and endTime={end}.",
        ),
        "no_data_400": Reply(
            400,
            f"400 Bad Request: Data doesn't exist for startDate = {start}, endDate = {end}".encode(),
            PLAIN,
        ),
        "phantom": phantom(symbol, now),
    }
    if name == "consent":
        return consent(base_url)
    return fixed[name]


def phantom(symbol: str, now: datetime) -> Reply:
    """A symbol that Yahoo answers for without knowing anything about it."""
    day = datetime(now.year, now.month, now.day, tzinfo=UTC)
    edges = {
        name: {
            "timezone": "EST",
            "start": int((day + timedelta(hours=start)).timestamp()),
            "end": int((day + timedelta(hours=end)).timestamp()),
            "gmtoffset": -18000,
        }
        for name, start, end in (("pre", 9.0, 14.5), ("regular", 14.5, 21.0), ("post", 21.0, 25.0))
    }
    meta = {
        "currency": None,
        "symbol": symbol,
        "exchangeName": "YHD",
        "fullExchangeName": "YHD",
        "instrumentType": "MUTUALFUND",
        "firstTradeDate": None,
        "regularMarketTime": 1561759658,
        "hasPrePostMarketData": False,
        "gmtoffset": -18000,
        "timezone": "EST",
        "exchangeTimezoneName": "America/New_York",
        "longName": symbol,
        "priceHint": 2,
        "currentTradingPeriod": edges,
        "dataGranularity": "1d",
        "range": "",
        "validRanges": ["1mo", "3mo", "6mo", "ytd", "1y", "2y", "5y", "10y", "max"],
    }
    result = {"meta": meta, "indicators": {"quote": [{}], "adjclose": [{}]}}
    return Reply(200, msgspec.json.encode({"chart": {"result": [result], "error": None}}), JSON)
