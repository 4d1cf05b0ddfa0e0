"""A request as the formats see it: whose it is, what it asks for, what it shows of itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

CHART = "/v8/finance/chart/"
_IN_PATH = {
    "yahoo": re.compile(r"/v8/finance/chart/([^/]+)|/v7/finance/options/([^/]+)|/v10/finance/quoteSummary/([^/]+)"),
    "polygon": re.compile(
        r"/v2/aggs/ticker/([^/]+)|/v1/open-close/([^/]+)|/v3/(?:trades|quotes|reference/tickers)/([^/]+)"
        r"|/v2/snapshot/locale/us/markets/stocks/tickers/([^/]+)|/v2/last/(?:trade|nbbo)/([^/]+)"
    ),
    "iex_cloud": re.compile(r"/[^/]+/stock/([^/]+)"),
}
_IN_QUERY = {
    "alpha_vantage": ("symbol",),
    "stooq": ("s",),
    "yahoo": ("symbols",),
    "polygon": ("ticker", "underlying_ticker"),
}


@dataclass(frozen=True, slots=True)
class Asked:
    provider: str
    path: str
    """Below the provider's prefix."""
    query: Mapping[str, str]
    accept: str
    base_url: str
    """Of this provider on this server."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""

    @property
    def native_symbol(self) -> str:
        """The symbol that the request is about, where it is about one."""
        pattern = _IN_PATH.get(self.provider)
        found = pattern.match(self.path) if pattern is not None else None
        if found is not None:
            return unquote(next(group for group in found.groups() if group))
        return next((self.query[name] for name in _IN_QUERY.get(self.provider, ()) if name in self.query), "")

    @property
    def daily(self) -> bool:
        """Whether a plain answer depends on nothing finer than the session."""
        if self.provider == "alpha_vantage":
            return self.query.get("function", "") in ("TIME_SERIES_DAILY", "TIME_SERIES_DAILY_ADJUSTED")
        if self.provider == "yahoo":
            return self.path.startswith(CHART) and self.query.get("interval", "") == "1d"
        return self.provider == "stooq" and "/q/d/l" in self.path and self.query.get("i", "d") == "d"
