"""Jumps that look like a split of which the asked provider has said nothing: the others are asked about them.

Only what is suspect costs a request, and only the suspects' corporate actions are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from market_pipelines.market.actions import Basis
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.quality.examine import LEAD_IN
from market_pipelines.market.quality.history import Past, split_like_jump
from market_pipelines.market.quality.limits import Limits
from market_pipelines.market.quality.sheet import Circumstances, Sheet
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.actions import ActionsPull, pull_actions
from market_pipelines.pipeline.platform import Platform
from market_pipelines.store.read_bars import read_provider_bars
from market_pipelines.store.reference import read_actions


@dataclass(frozen=True)
class Suspicion:
    symbols: tuple[str, ...]
    asked: ActionsPull | None
    """What the others said; None where nothing was suspect."""


def confirm_splits(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    start: date,
    end: date,
    *,
    run_id: str,
) -> Suspicion:
    """Asks every provider for the actions of those whose bars of the range jump as a split would."""
    suspects = suspected_splits(platform, market, instruments, start, end)
    if not suspects:
        return Suspicion((), None)
    asked = pull_actions(platform, market, suspects, start, run_id=run_id)
    return Suspicion(tuple(one.symbol for one in suspects), asked)


def suspected_splits(
    platform: Platform, market: MarketDefinition, instruments: Sequence[Instrument], start: date, end: date
) -> tuple[Instrument, ...]:
    if "split_like_jump" in market.quality.off:
        return ()
    now = platform.clock()
    calendar = trading_calendar(market.mic, now)
    earlier = calendar.sessions(market.since, start)[-LEAD_IN:]
    symbols = [one.symbol for one in instruments]
    with platform.database.connection() as connection:
        bars = read_provider_bars(connection, market.name, symbols, earlier[0] if earlier else start, end)
        actions = read_actions(connection, market.name, symbols)
    traded = bars[bars["basis"] == str(Basis.TRADED)]
    circumstances = Circumstances(
        calendar,
        {one.symbol: one for one in instruments},
        now,
        {},
        tuple(actions),
        Limits(market.quality.thresholds, market.quality.off),
    )
    found = split_like_jump(Past(Sheet(traded, circumstances), start)).offending
    suspect = set(found["symbol"])
    return tuple(one for one in instruments if one.symbol in suspect)
