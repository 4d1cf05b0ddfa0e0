"""What a refresh would cost in requests, provider by provider, against what is left of each quota. Asks nobody."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.limiter import Purpose, allowance_of
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.pull_intraday import actions_lacking, offering, spans
from market_pipelines.pipeline.quota import Quota, day_quota, provider_quotas
from market_pipelines.pipeline.settle import DAILY
from market_pipelines.providers.protocol import Capability, DailyProvider, DailyQuery, IntradayQuery, abilities_of
from market_pipelines.store.quota import WINDOWS, Allowance

CallsNeeded = Callable[[DailyProvider, Instrument], int]
"""How many requests one provider needs for all that is asked of one instrument: 0 where it cannot be asked for it.
Where a provider pages by its own measure, what it takes at least."""


@dataclass(frozen=True, slots=True)
class ProviderCost:
    provider: str
    ready: bool
    reason: str
    """What it lacks where it is not ready; it is then not asked."""
    best: int
    """Requests when the first provider that covers a symbol delivers it."""
    worst: int
    """Requests when every provider before this one fails for everything."""
    quota: Quota
    per_minute: int
    left: int | None
    """What this run may spend today, after the reserve for quotes; None where nothing limits it."""
    seconds: float
    """What the limits alone make the worst case last, if nobody else spends from them."""

    @property
    def fits(self) -> bool:
        return self.left is None or self.worst <= self.left


@dataclass(frozen=True)
class Estimate:
    symbols: tuple[str, ...]
    """Those that would be asked for."""
    providers: tuple[ProviderCost, ...]

    @property
    def best(self) -> int:
        return sum(cost.best for cost in self.providers)

    @property
    def worst(self) -> int:
        return sum(cost.worst for cost in self.providers)

    @property
    def seconds(self) -> float:
        """Of the worst case: the providers of a chain are asked one after another."""
        return sum(cost.seconds for cost in self.providers)


def estimate(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    start: date,
    end: date,
    *,
    interval: str = DAILY,
    providers: Sequence[DailyProvider] | None = None,
    purpose: Purpose = Purpose.REFRESH,
) -> Estimate:
    """Of the bars of a range. Whoever traded in none of its sessions is not asked for."""
    now = platform.clock()
    calendar = trading_calendar(market.mic, now)
    today = calendar.local_date(now)
    start = max(start, market.since)
    chain = tuple(providers) if providers is not None else platform.chain(market)
    if interval == DAILY:
        begun = [day for day in calendar.sessions(start, end) if calendar.is_closed(day, now)]
        calls_needed: CallsNeeded = one_call
        asked = [one for one in instruments if any(one.trades_on(day) for day in begun)]
        return counted(platform, asked, chain, calls_needed, purpose, partial(by_session, sessions=len(begun)))
    end = min(end, today)
    begun = [day for day in calendar.sessions(start, end) if calendar.times(day).opens <= now]
    chain = offering(chain, interval)
    within = IntradayCalls(platform, market, interval, today)
    calls_needed = partial(within, start=start, end=end)
    asked = [one for one in instruments if any(one.trades_on(day) for day in begun)]
    return counted(platform, asked, chain, calls_needed, purpose)


def one_call(provider: DailyProvider, instrument: Instrument) -> int:
    """Daily bars come in one answer, however many there are."""
    return int(provider.covers(instrument))


def by_session(provider: DailyProvider, symbols: int, *, sessions: int) -> int | None:
    """A provider that sells whole sessions is asked for those where they are fewer than the symbols."""
    if Capability.GROUPED_DAILY in abilities_of(provider) and 0 < sessions < symbols:
        return sessions
    return None


def estimate_ranges(
    platform: Platform,
    market: MarketDefinition,
    ranges: Mapping[str, Sequence[tuple[date, date]]],
    instruments: Sequence[Instrument],
    interval: str = DAILY,
    purpose: Purpose = Purpose.BACKFILL,
) -> Estimate:
    """As `estimate`, where each symbol is asked for ranges of its own."""
    chain = platform.chain(market) if interval == DAILY else offering(platform.chain(market), interval)
    calls = range_calls(platform, market, interval)
    today = trading_calendar(market.mic, platform.clock()).local_date(platform.clock())
    within = None if interval == DAILY else IntradayCalls(platform, market, interval, today)

    def calls_needed(provider: DailyProvider, instrument: Instrument) -> int:
        mine = sorted(ranges.get(instrument.symbol, ()))
        if within is None or not mine:
            return sum(calls(provider, instrument, start, end) for start, end in mine)
        oldest = within(provider, instrument, start=mine[0][0], end=mine[0][1])
        return oldest + sum(calls(provider, instrument, start, end) for start, end in mine[1:])

    asked = [one for one in instruments if ranges.get(one.symbol)]
    common = {tuple(ranges[one.symbol]) for one in asked}
    if interval == DAILY and len(common) == 1 and len(found := next(iter(common))) == 1:
        calendar = trading_calendar(market.mic, platform.clock())
        sessions = len(calendar.sessions(*found[0]))
        return counted(platform, asked, chain, calls_needed, purpose, partial(by_session, sessions=sessions))
    return counted(platform, asked, chain, calls_needed, purpose)


RangeCalls = Callable[[DailyProvider, Instrument, date, date], int]


def range_calls(platform: Platform, market: MarketDefinition, interval: str) -> RangeCalls:
    """How many requests a provider needs for one instrument and range; what it must know beforehand is not counted."""
    if interval == DAILY:
        return lambda provider, instrument, _start, _end: one_call(provider, instrument)
    today = trading_calendar(market.mic, platform.clock()).local_date(platform.clock())
    within = IntradayCalls(platform, market, interval, today)
    return lambda provider, instrument, start, end: within(provider, instrument, start=start, end=end, alone=False)


def first_asked(platform: Platform, chain: Sequence[DailyProvider], instrument: Instrument) -> DailyProvider | None:
    """Who is going to be asked first, as far as that can be told beforehand."""
    return next((one for one in chain if one.covers(instrument) and not unready(platform, one)), None)


def answers_to_the_present(provider: DailyProvider, instrument: Instrument, start: date, today: date) -> bool:
    """Whether its daily bars come up to today, wherever the question ends: then the request is the same."""
    if start >= today:
        return False
    calls = [provider.daily_call(DailyQuery(instrument, start, end, today)) for end in (start, today)]
    return calls[0] == calls[1]


@dataclass(frozen=True)
class IntradayCalls:
    """Bars within sessions come by as many days a call as the provider gives; whose prices are adjusted for splits
    is asked for those first, where they are not known."""

    platform: Platform
    market: MarketDefinition
    interval: str
    today: date

    def __call__(
        self, provider: DailyProvider, instrument: Instrument, *, start: date, end: date, alone: bool = True
    ) -> int:
        """`alone`: what has to be asked beforehand counts as well."""
        if not provider.covers(instrument):
            return 0
        ability = abilities_of(provider)[Capability.INTRADAY]
        pieces = spans(ability, self.interval, start, end, self.today)
        if not pieces:
            return 0
        first = 0
        if alone:
            calendar = trading_calendar(self.market.mic, self.platform.clock())
            first = len(
                actions_lacking(self.platform, self.market, calendar, provider, [instrument.symbol], pieces[0][0])
            )
        if ability.calls is None:
            return first + len(pieces)
        questions = [IntradayQuery(instrument, self.interval, *piece, self.today) for piece in pieces]
        return first + sum(ability.calls(question) for question in questions)


def counted(
    platform: Platform,
    instruments: Sequence[Instrument],
    chain: Sequence[DailyProvider],
    calls_needed: CallsNeeded,
    purpose: Purpose,
    all_at_once: Callable[[DailyProvider, int], int | None] = lambda _provider, _symbols: None,
) -> Estimate:
    """What it takes to ask for all these. What fails in passing is asked again (`fetch.ATTEMPTS`) on top of it."""
    quotas = provider_quotas(platform)
    unserved = {one.symbol for one in instruments}
    costs = []
    for provider in chain:
        reason = unready(platform, provider)
        calls = {} if reason else {one.symbol: calls_needed(provider, one) for one in instruments}
        worst = sum(calls.values())
        best = sum(count for symbol, count in calls.items() if symbol in unserved)
        together = all_at_once(provider, sum(1 for count in calls.values() if count))
        if together is not None:
            worst, best = together, together if best else 0
        quota = day_quota(platform, quotas[provider.name])
        costs.append(
            ProviderCost(
                provider=provider.name,
                ready=not reason,
                reason=reason,
                best=best,
                worst=worst,
                quota=quota,
                per_minute=platform.limits(provider.name).per_minute,
                left=quota.left_for(purpose),
                seconds=seconds_at_limits(worst, allowance_of(platform, provider.name)),
            )
        )
        unserved.difference_update(symbol for symbol, count in calls.items() if count)
    return Estimate(tuple(one.symbol for one in instruments), tuple(costs))


def seconds_at_limits(calls: int, allowance: Allowance) -> float:
    """From the first to the last of so many calls, as fast as the windows let them."""
    pauses = [
        (calls - 1) // limit * (length + WINDOWS.slack)
        for limit, length in ((allowance.per_second, WINDOWS.second), (allowance.per_minute, WINDOWS.minute))
        if limit is not None and calls > 0
    ]
    return max(pauses, default=0.0)


def unready(platform: Platform, provider: DailyProvider) -> str:
    """What a provider lacks to be asked; the simulator lacks nothing."""
    return "" if platform.simulated else provider.ready()
