"""The contract suite, once per provider and format."""

import json
from typing import Any

from pydantic import SecretStr

from market_pipelines.providers.alpha_vantage import AlphaVantage
from market_pipelines.providers.protocol import Answer
from market_pipelines.providers.stooq import Stooq
from market_pipelines.providers.yahoo import Yahoo
from market_pipelines.redaction import register_secret
from market_pipelines.testing.daily import KEY, WEEK, Bar, ProviderContract, answer, epoch


def cell(value: object) -> str:
    return "" if value is None else f"{value}"


def csv_body(header: str, bars: tuple[Bar, ...], delimiter: str = ",") -> bytes:
    rows = [
        delimiter.join([f"{bar.day}", *map(cell, (bar.open, bar.high, bar.low, bar.close, bar.volume))]) for bar in bars
    ]
    return "".join(f"{line}\r\n" for line in [header, *rows]).encode()


class TestAlphaVantageCsv(ProviderContract):
    mics = ("XNYS", "XLON")

    def provider(self) -> AlphaVantage:
        return AlphaVantage(SecretStr(KEY))

    def body(self, *bars: Bar) -> bytes:
        return csv_body("timestamp,open,high,low,close,volume", bars)

    def wrong_symbol(self) -> Answer:
        headers = {"content-disposition": "attachment; filename=daily_MSFT.csv"}
        return answer(self.body(*WEEK), headers=headers)


class TestAlphaVantageJson(TestAlphaVantageCsv):
    def body(self, *bars: Bar, symbol: str = "AAPL") -> bytes:
        # Written by hand: a dictionary could not name a day twice.
        rows = ",".join(
            f'"{bar.day}": '
            + json.dumps(
                {
                    "1. open": None if bar.open is None else str(bar.open),
                    "2. high": None if bar.high is None else str(bar.high),
                    "3. low": None if bar.low is None else str(bar.low),
                    "4. close": None if bar.close is None else str(bar.close),
                    "5. volume": None if bar.volume is None else str(bar.volume),
                }
            )
            for bar in bars
        )
        meta = json.dumps({"1. Information": "Daily Prices", "2. Symbol": symbol, "3. Last Refreshed": "2024-01-08"})
        return f'{{"Meta Data": {meta}, "Time Series (Daily)": {{{rows}}}}}'.encode()

    def wrong_symbol(self) -> Answer:
        return answer(self.body(*WEEK, symbol="MSFT"))


class TestStooq(ProviderContract):
    mics = ("XNYS", "XWAR", "XLON", "XTKS")

    def provider(self) -> Stooq:
        return Stooq(SecretStr(KEY))

    def body(self, *bars: Bar) -> bytes:
        return csv_body("Date,Open,High,Low,Close,Volume", bars)

    def wrong_symbol(self) -> Answer:
        headers = {"content-disposition": "attachment;filename=msft_us_d.csv"}
        return answer(self.body(*WEEK), headers=headers)


class TestStooqPolish(TestStooq):
    def body(self, *bars: Bar) -> bytes:
        return csv_body("Data;Otwarcie;Najwyzszy;Najnizszy;Zamkniecie;Wolumen", bars, ";")


class TestYahoo(ProviderContract):
    mics = ("XNYS", "XWAR", "XLON", "XTKS")

    def provider(self) -> Yahoo:
        register_secret(KEY)
        return Yahoo()

    def body(self, *bars: Bar, symbol: str = "AAPL") -> bytes:
        result: dict[str, Any] = {
            "meta": {
                "currency": "USD",
                "symbol": symbol,
                "exchangeTimezoneName": "America/New_York",
                "gmtoffset": -18000,
                "dataGranularity": "1d",
                "regularMarketTime": 1704747601,
            },
            "timestamp": [epoch(bar.day) for bar in bars],
            "indicators": {
                "quote": [
                    {
                        "open": [bar.open for bar in bars],
                        "high": [bar.high for bar in bars],
                        "low": [bar.low for bar in bars],
                        "close": [bar.close for bar in bars],
                        "volume": [bar.volume for bar in bars],
                    }
                ]
            },
        }
        return json.dumps({"chart": {"result": [result], "error": None}}).encode()

    def wrong_symbol(self) -> Answer:
        return answer(self.body(*WEEK, symbol="MSFT"))
