"""Answers of Polygon for tests, and the adapter that reads them."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import SecretStr

from market_pipelines.market.instruments import Instrument
from market_pipelines.providers.polygon import Polygon
from market_pipelines.providers.protocol import Answer

KEY = "POLYGONKEY0123456789"
HOME = "https://api.massive.com"
NEW_YORK = ZoneInfo("America/New_York")
AAPL = Instrument("AAPL", "us", "XNYS", "USD")
LATER = datetime(2024, 1, 20, 12, tzinfo=UTC)


def polygon(base_url: str = HOME) -> Polygon:
    return Polygon(SecretStr(KEY), base_url)


def answer(
    body: object, *, status: int = 200, endpoint: str = "", at: datetime = LATER, headers: dict[str, str] | None = None
) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, raw, headers or {}, at, 0.1, endpoint=endpoint)


def ms(*moment: int) -> int:
    """Milliseconds until a moment of New York."""
    return int(datetime(*moment, tzinfo=NEW_YORK).timestamp()) * 1000  # type: ignore[misc,arg-type]  # numbers of it


def aggregate(stamp: int, close: float = 100.0, **more: object) -> dict[str, Any]:
    return {"v": 1000, "vw": close, "o": close, "c": close, "h": close + 1, "l": close - 1, "t": stamp, "n": 3, **more}


def aggregates(rows: Sequence[object], ticker: str = "AAPL", **more: object) -> dict[str, Any]:
    head = {"ticker": ticker, "queryCount": len(rows), "resultsCount": len(rows), "adjusted": False}
    return {**head, "results": list(rows), "status": "OK", "request_id": "6a7e466379af0a71", **more}
