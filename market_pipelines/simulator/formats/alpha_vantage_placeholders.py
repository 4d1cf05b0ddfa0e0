"""Alpha Vantage's invented data: complete-looking answers of premium functions beside a `message` that says so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from market_pipelines.simulator.formats.reply import JSON, Reply

MESSAGE = (
    "This is a premium endpoint. ***THE SAMPLE DATA SCHEMA BELOW IS ARTIFICIAL AND FOR ILLUSTRATION PURPOSES "
    "ONLY***. To access the actual data, please subscribe to either the 600 requests per minute or the 1200 "
    "requests per minute premium plan at https://www.alphavantage.co/premium/"
)
_PRICES = {"1. open": "100.0000", "2. high": "100.0000", "3. low": "100.0000", "4. close": "100.0000"}


def placeholder(function: str, symbol: str, interval: str = "") -> Reply:
    if function in ("REALTIME_OPTIONS", "HISTORICAL_OPTIONS"):
        body = _listed("Realtime Options" if function == "REALTIME_OPTIONS" else "Historical Options", _contracts())
    elif function == "REALTIME_BULK_QUOTES":
        body = _listed("Realtime Bulk Quotes", [_quote(one) for one in ("MSFT", "AAPL", "IBM")])
    else:
        body = _series(symbol, interval)
    return Reply(200, json.dumps(body, indent=4).encode(), JSON)


def _listed(endpoint: str, data: list[Mapping[str, str]]) -> dict[str, Any]:
    return {"endpoint": endpoint, "message": MESSAGE, "data": data}


def _contracts() -> list[Mapping[str, str]]:
    return [
        {
            "contractID": f"XXYYZZ999999{right[0].upper()}000{strike}0000",
            "symbol": "XXYYZZ",
            "expiration": "2099-99-99",
            "strike": f"{strike}0.00",
            "type": right,
            "last": "100.00",
            "mark": "100.10",
            "bid": "100.05",
            "bid_size": "100",
            "ask": "100.15",
            "ask_size": "100",
            "volume": "100",
            "open_interest": "100",
            "date": "2049-99-99",
        }
        for strike in (2, 3)
        for right in ("call", "put")
    ]


def _quote(symbol: str) -> Mapping[str, str]:
    """The days are possible ones here, and the prices could be: only the message tells."""
    return {
        "symbol": symbol,
        "timestamp": "2024-10-18 19:59:55.291",
        "open": "417.61",
        "high": "419.649",
        "low": "416.2601",
        "close": "418.16",
        "volume": "17145307",
        "previous_close": "416.72",
        "change": "1.44",
        "change_percent": "0.3456",
        "extended_hours_quote": "418.1",
        "extended_hours_change": "-0.06",
        "extended_hours_change_percent": "-0.01435",
    }


def _series(symbol: str, interval: str) -> dict[str, Any]:
    clock = " 19:55:00" if interval else ""
    return {
        "message": MESSAGE,
        "Meta Data": {"2. Symbol": symbol},
        f"Time Series ({interval or 'Daily'})": {
            f"2099-99-{99 - number:02d}{clock}": {**_PRICES, "5. volume": "100"} for number in range(3)
        },
    }
