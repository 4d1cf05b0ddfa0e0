"""Looking a company up by what somebody types. Nothing of it is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.records import SymbolMatch
from market_pipelines.pipeline.fetch import Delivered, first_delivered
from market_pipelines.pipeline.limiter import Purpose
from market_pipelines.pipeline.platform import Platform
from market_pipelines.providers.protocol import Capability, DailyProvider, SearchQuery


@dataclass(frozen=True)
class SearchReport:
    delivered: Delivered
    matches: tuple[SymbolMatch, ...]
    """The best first, where the provider says how good they are."""


def search_symbols(
    platform: Platform,
    market: MarketDefinition,
    text: str,
    *,
    run_id: str,
    providers: Sequence[DailyProvider] | None = None,
) -> SearchReport:
    """Asks the market's chain until somebody answers, also with nothing."""
    delivered = first_delivered(
        platform,
        market,
        Capability.SEARCH,
        lambda _: SearchQuery(text),
        purpose=Purpose.QUOTE,
        run_id=run_id,
        providers=providers,
    )
    attempt = delivered.delivered
    records = attempt.parsed.records if attempt is not None and attempt.parsed is not None else ()
    matches = [one for one in records if isinstance(one, SymbolMatch)]
    if all(one.score is not None for one in matches):
        matches.sort(key=lambda one: -(one.score or 0.0))
    return SearchReport(delivered, tuple(matches))
