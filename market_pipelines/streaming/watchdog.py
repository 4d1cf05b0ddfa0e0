"""When silence is a fault: by channel, by how many symbols it carries, and by what the exchange is doing.

Nobody trades at night, so nothing is expected then; ten liquid symbols that are not quoted for half a minute in the
regular session are a dead feed. Arithmetic over a calendar: who measures the silence, and what follows, is the
connection's business. Answers to pings are no data and never get here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from market_pipelines.market.hours import MarketPhase, hours, market_status
from market_pipelines.market.sessions import TradingCalendar
from market_pipelines.streaming.plan import AssetClass, Channel

PATIENCE: Mapping[Channel, float] = MappingProxyType(
    {Channel.QUOTES: 30.0, Channel.TRADES: 60.0, Channel.SECONDS: 60.0, Channel.MINUTES: 150.0}
)
"""Seconds in the regular session, of `ENOUGH` symbols or more. A channel that is not named may be silent for ever:
price bands come when something happens."""
ENOUGH = 10
EXTENDED = 20.0
"""So many times longer before the opening and after the close."""
CONTRACTS_A_SYMBOL = 20
"""So many option contracts are as lively as one share."""
MOST_LENIENCE = 32.0


@dataclass(frozen=True, slots=True)
class Watched:
    channel: Channel
    symbols: int | None
    """None: everything that there is."""
    asset_class: AssetClass = AssetClass.STOCKS


@dataclass(frozen=True, slots=True)
class Silence:
    watched: Watched
    seconds: float
    """Since something last came by this channel."""
    lenience: float = 1.0
    """So many times the usual patience, for a channel that stayed mute after a reconnect: it must not cost the
    others their connection every half minute."""


@dataclass(frozen=True, slots=True)
class Mute:
    channel: Channel
    seconds: float
    phase: MarketPhase

    def __str__(self) -> str:
        return f"no {self.channel} for {self.seconds:.0f} s while the market is {self.phase.replace('_', ' ')}"


def patience(watched: Watched, phase: MarketPhase) -> float | None:
    """Seconds of silence that are nothing to worry about; None: any number."""
    usual = PATIENCE.get(watched.channel)
    extended = phase in (MarketPhase.PRE_MARKET, MarketPhase.AFTER_HOURS)
    if usual is None or not (extended or phase is MarketPhase.OPEN) or watched.symbols == 0:
        return None
    if extended and watched.asset_class is AssetClass.OPTIONS:
        return None
    symbols = float(ENOUGH if watched.symbols is None else watched.symbols)
    if watched.asset_class is AssetClass.OPTIONS and watched.symbols is not None:
        symbols /= CONTRACTS_A_SYMBOL
    return usual * max(1.0, ENOUGH / symbols) * (EXTENDED if extended else 1.0)


def phase_at(calendar: TradingCalendar, now: datetime) -> tuple[MarketPhase, float]:
    """What the exchange is doing, and for how many seconds."""
    status = market_status(calendar, now)
    if status.session is None:
        return status.phase, 0.0
    day, times = hours(calendar, status.session), calendar.times(status.session)
    if status.phase is MarketPhase.OPEN:
        resumed = times.break_ends is not None and now >= times.break_ends
        began = times.break_ends if resumed and times.break_ends is not None else day.opens
    elif status.phase is MarketPhase.PRE_MARKET:
        began = day.begins
    elif status.phase is MarketPhase.AFTER_HOURS:
        began = day.closes
    else:
        return status.phase, 0.0
    return status.phase, (now - began).total_seconds()


def mute(silences: Iterable[Silence], phase: MarketPhase, since: float) -> Mute | None:
    """The channel that has been silent for too long, the worst one first. `since`: seconds of this phase.

    Silence counts from the beginning of the market's phase at the earliest: what was quiet in the night has not
    been quiet for hours when the bell rings.
    """
    worst: tuple[float, Mute] | None = None
    for silence in silences:
        allowed = patience(silence.watched, phase)
        if allowed is None:
            continue
        allowed *= min(silence.lenience, MOST_LENIENCE)
        excess = min(silence.seconds, since) / allowed
        if excess > 1 and (worst is None or excess > worst[0]):
            worst = excess, Mute(silence.watched.channel, silence.seconds, phase)
    return worst[1] if worst is not None else None
