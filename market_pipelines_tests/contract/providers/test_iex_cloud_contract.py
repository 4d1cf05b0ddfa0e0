"""The contract suite for IEX Cloud."""

import json

from pydantic import SecretStr

from market_pipelines.providers.iex_cloud import IexCloud
from market_pipelines.providers.protocol import Answer
from market_pipelines.testing import KEY, WEEK, Bar, ProviderContract, answer


class TestIexCloud(ProviderContract):
    mics = ("XNYS",)

    def provider(self) -> IexCloud:
        return IexCloud(SecretStr(KEY), "https://iex.test/v1")

    def body(self, *bars: Bar, **more: str) -> bytes:
        rows = [
            {
                "date": f"{bar.day}",
                "close": 1.0,
                "uOpen": bar.open,
                "uHigh": bar.high,
                "uLow": bar.low,
                "uClose": bar.close,
                "uVolume": bar.volume,
                **more,
            }
            for bar in bars
        ]
        return json.dumps(rows).encode()

    def wrong_symbol(self) -> Answer:
        return answer(self.body(*WEEK, symbol="MSFT"))
