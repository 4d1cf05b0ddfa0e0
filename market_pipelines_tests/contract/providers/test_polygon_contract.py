"""The contract suite for Polygon's bars."""

import json
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import SecretStr

from market_pipelines.providers.polygon import Polygon
from market_pipelines.providers.protocol import Answer
from market_pipelines.testing.daily import KEY, WEEK, Bar, ProviderContract, answer

NEW_YORK = ZoneInfo("America/New_York")


def midnight(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=NEW_YORK).timestamp()) * 1000


class TestPolygon(ProviderContract):
    mics = ("XNYS",)

    def provider(self) -> Polygon:
        return Polygon(SecretStr(KEY))

    def body(self, *bars: Bar, symbol: str = "AAPL", status: str = "OK") -> bytes:
        rows: list[dict[str, Any]] = [
            {
                "v": bar.volume,
                "vw": 185.1,
                "o": bar.open,
                "c": bar.close,
                "h": bar.high,
                "l": bar.low,
                "t": midnight(bar.day),
                "n": 5,
            }
            for bar in bars
        ]
        head = {"ticker": symbol, "queryCount": len(rows), "resultsCount": len(rows), "adjusted": False}
        return json.dumps({**head, "results": rows, "status": status, "request_id": "6a7e466379af0a71"}).encode()

    def wrong_symbol(self) -> Answer:
        return answer(self.body(*WEEK, symbol="MSFT"))


class TestPolygonDelayed(TestPolygon):
    """Fifteen minutes late, and as good."""

    def body(self, *bars: Bar, symbol: str = "AAPL", status: str = "DELAYED") -> bytes:
        return super().body(*bars, symbol=symbol, status=status)
