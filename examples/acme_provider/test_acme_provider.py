"""ACME is held to the contract of every provider."""

from collections.abc import Mapping
from dataclasses import replace

from acme_provider import HEADER, Acme

from market_pipelines.providers.protocol import Answer, Capability, QuoteQuery
from market_pipelines.testing import AAPL, QUERY, WEEK, AbilitiesContract, Bar, Good, ProviderContract, answer

QUOTE = b'{"symbol": "AAPL", "price": 185.56, "time": "2024-01-08T20:59:58+00:00"}'


def csv_of(symbol: str, *bars: Bar) -> bytes:
    def cell(value: object) -> str:
        return "" if value is None else str(value)

    rows = [[str(bar.day), symbol, *map(cell, (bar.open, bar.high, bar.low, bar.close, bar.volume))] for bar in bars]
    return "".join(",".join(row) + "\n" for row in [HEADER, *rows]).encode()


class TestDailyBars(ProviderContract):
    mics = ("XNYS",)

    def provider(self) -> Acme:
        return Acme("https://acme.test")

    def body(self, *bars: Bar) -> bytes:
        return csv_of("AAPL", *bars)

    def wrong_symbol(self) -> Answer:
        return answer(csv_of("MSFT", *WEEK))


class TestAbilities(AbilitiesContract):
    def provider(self) -> Acme:
        return Acme("https://acme.test")

    def good(self) -> Mapping[Capability, Good]:
        bars = answer(csv_of("AAPL", *WEEK))
        return {
            Capability.DAILY: Good(QUERY, bars),
            Capability.QUOTE: Good(QuoteQuery((AAPL,)), replace(bars, body=QUOTE, endpoint="quote")),
        }
