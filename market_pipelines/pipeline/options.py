"""Option chains: the contracts on one underlying, kept day by day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.options import fault
from market_pipelines.market.records import OptionContract, Right
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.each import Progress, answered, ask_chain
from market_pipelines.pipeline.fetch import Delivered
from market_pipelines.pipeline.limiter import Purpose
from market_pipelines.pipeline.platform import Platform
from market_pipelines.providers.protocol import Capability, DailyProvider, OptionsQuery
from market_pipelines.store.options import write_options
from market_pipelines.store.upsert import WriteCounts


@dataclass(frozen=True)
class Chain:
    underlying: str
    delivered: Delivered
    contracts: tuple[OptionContract, ...]
    """By expiry, strike and right."""
    refused: tuple[tuple[str, str], ...]
    """Contracts that cannot be, and why."""
    counts: WriteCounts


def pull_options(
    platform: Platform,
    market: MarketDefinition,
    underlyings: Sequence[Instrument],
    *,
    run_id: str,
    expires_from: date | None = None,
    expires_to: date | None = None,
    right: Right | None = None,
    purpose: Purpose = Purpose.REFRESH,
    providers: Sequence[DailyProvider] | None = None,
    progress: Progress | None = None,
) -> tuple[Chain, ...]:
    """The whole chain of each underlying, or the part between two expiries (both included) and of one right."""
    calendar = trading_calendar(market.mic, platform.clock())
    today = calendar.local_date(platform.clock())
    asked = ask_chain(
        platform,
        market,
        Capability.OPTIONS,
        underlyings,
        lambda provider, one: (
            OptionsQuery(one, today, expires_from, expires_to, right) if provider.covers(one) else None
        ),
        purpose=purpose,
        run_id=run_id,
        enough=answered,
        providers=providers,
        progress=progress,
    )
    return tuple(keep_chain(platform, market, symbol, delivered, today) for symbol, delivered in asked.items())


def keep_chain(platform: Platform, market: MarketDefinition, symbol: str, delivered: Delivered, today: date) -> Chain:
    """Stores what came and says what of it is sound."""
    attempt = delivered.delivered
    if attempt is None or attempt.parsed is None or attempt.fetched_at is None:
        return Chain(symbol, delivered, (), (), WriteCounts())
    sound, refused = [], []
    for contract in attempt.parsed.records:
        if not isinstance(contract, OptionContract) or contract.underlying != symbol:
            continue
        wrong = fault(contract, today)
        if wrong:
            refused.append((contract.native, wrong))
        else:
            sound.append(contract)
    sound.sort(key=lambda one: (one.expires, one.strike, one.right, one.native))
    with platform.database.connection() as connection:
        counts = write_options(connection, market.name, sound, attempt.provider, today, attempt.fetched_at)
    return Chain(symbol, delivered, tuple(sound), tuple(refused), counts)
