"""The list of everything that an exchange trades, compared with what is known of it.

A list that is short, by a fault or a limit of the provider, must not delist half a market: what lacks on it is then
held back and reported, while what is new on it counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.listings import ListingChanges, compare
from market_pipelines.market.records import Listed
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.fetch import Delivered, ProviderRun, converse, first_delivered
from market_pipelines.pipeline.limiter import Purpose
from market_pipelines.pipeline.platform import Platform
from market_pipelines.providers.protocol import Capability, DailyProvider, ListingsQuery
from market_pipelines.store.listings import read_bearers, write_listings


@dataclass(frozen=True)
class ListingsReport:
    delivered: Delivered
    listed: int
    """Lines of the list of those that trade."""
    delisted: int
    changes: ListingChanges
    followed_gone: tuple[str, ...] = ()
    """Symbols of the market file that are no longer on the list: for a person to decide."""


def sync_listings(
    platform: Platform,
    market: MarketDefinition,
    *,
    run_id: str,
    providers: Sequence[DailyProvider] | None = None,
    with_delisted: bool = True,
) -> ListingsReport:
    """One provider's list; its delisted ones are asked of the same, and do without where it does not have them."""
    anybody = Instrument("ANY", market.name, market.mic, market.currency)
    delivered = first_delivered(
        platform,
        market,
        Capability.LISTINGS,
        lambda provider: ListingsQuery(market.mic) if provider.covers(anybody) else None,
        purpose=Purpose.REFRESH,
        run_id=run_id,
        providers=providers,
    )
    attempt = delivered.delivered
    if attempt is None or attempt.parsed is None or attempt.fetched_at is None:
        return ListingsReport(delivered, 0, 0, ListingChanges())
    listed = [line for line in attempt.parsed.records if isinstance(line, Listed) and line.active]
    chain = platform.chain(market) if providers is None else providers
    asked = next(provider for provider in chain if provider.name == attempt.house_provider)
    delisted = _delisted(platform, market, asked, run_id) if with_delisted else []
    on = trading_calendar(market.mic, attempt.fetched_at).local_date(attempt.fetched_at)
    with platform.database.connection() as connection:
        changes = compare(read_bearers(connection, market.name), listed, attempt.provider, delisted=delisted)
        write_listings(connection, market, changes, attempt.provider, on, attempt.fetched_at)
    followed = {one.symbol for one in market.everything}
    return ListingsReport(
        delivered,
        len(listed),
        len(delisted),
        changes,
        tuple(gone.bearer.symbol for gone in changes.gone if gone.bearer.symbol in followed),
    )


def _delisted(platform: Platform, market: MarketDefinition, provider: DailyProvider, run_id: str) -> list[Listed]:
    attempt = converse(
        platform,
        ProviderRun(provider),
        Capability.LISTINGS,
        ListingsQuery(market.mic, active=False),
        purpose=Purpose.REFRESH,
        run_id=run_id,
        market=market.name,
    )
    records = attempt.parsed.records if attempt.parsed is not None and attempt.outcome.delivered else ()
    return [line for line in records if isinstance(line, Listed) and not line.active]
