"""The same question about many symbols: each provider of a chain asked side by side, with failover by symbol.

What the answers mean, and where they go, is the business of the use case that asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.pipeline.fetch import Attempt, Delivered, ProviderRun, converse
from market_pipelines.pipeline.limiter import Purpose
from market_pipelines.pipeline.platform import Platform
from market_pipelines.providers.protocol import Capability, DailyProvider, abilities_of

WORKERS = 6
"""Threads that ask one provider side by side; its rate limit bounds them further."""

Progress = Callable[[int, int, str], None]
"""Called with (done, total, symbol)."""
Question = Callable[[DailyProvider, Instrument], object | None]
"""None: this provider is not asked about this instrument."""
Enough = Callable[[Attempt], bool]


def brought_records(attempt: Attempt) -> bool:
    return attempt.outcome.delivered and attempt.parsed is not None and len(attempt.parsed.records) > 0


def answered(attempt: Attempt) -> bool:
    """With rows, or with the fact that there are none."""
    return attempt.outcome.delivered


def ask_chain(
    platform: Platform,
    market: MarketDefinition,
    capability: Capability,
    instruments: Sequence[Instrument],
    question: Question,
    *,
    purpose: Purpose,
    run_id: str,
    enough: Enough = brought_records,
    providers: Sequence[DailyProvider] | None = None,
    progress: Progress | None = None,
) -> dict[str, Delivered]:
    """Each further provider is asked about exactly the symbols that the ones before it did not answer."""
    attempts: dict[str, list[Attempt]] = {one.symbol: [] for one in instruments}
    done: dict[str, Attempt] = {}
    for provider in chain_with(platform, market, capability, providers):
        wanted = [one for one in instruments if one.symbol not in done]
        for attempt in _ask(platform, market, provider, capability, wanted, question, purpose, run_id):
            attempts[attempt.symbol].append(attempt)
            if enough(attempt):
                done[attempt.symbol] = attempt
            if progress is not None:
                progress(len(done), len(instruments), attempt.symbol)
    return {symbol: Delivered(tuple(tried), done.get(symbol)) for symbol, tried in attempts.items()}


def ask_all_of_chain(
    platform: Platform,
    market: MarketDefinition,
    capability: Capability,
    instruments: Sequence[Instrument],
    question: Question,
    *,
    purpose: Purpose,
    run_id: str,
    providers: Sequence[DailyProvider] | None = None,
    progress: Progress | None = None,
) -> dict[str, Delivered]:
    """Every provider is asked about every symbol; the first answer counts as the delivered one."""
    attempts: dict[str, list[Attempt]] = {one.symbol: [] for one in instruments}
    for provider in chain_with(platform, market, capability, providers):
        asked = _ask(platform, market, provider, capability, instruments, question, purpose, run_id)
        for number, attempt in enumerate(asked, start=1):
            attempts[attempt.symbol].append(attempt)
            if progress is not None:
                progress(number, len(instruments), attempt.symbol)
    return {
        symbol: Delivered(tuple(tried), next((one for one in tried if answered(one)), None))
        for symbol, tried in attempts.items()
    }


def chain_with(
    platform: Platform,
    market: MarketDefinition,
    capability: Capability,
    providers: Sequence[DailyProvider] | None = None,
) -> tuple[DailyProvider, ...]:
    """The market's providers, or the given ones, that offer it."""
    chain = platform.chain(market) if providers is None else providers
    return tuple(provider for provider in chain if capability in abilities_of(provider))


def _ask(
    platform: Platform,
    market: MarketDefinition,
    provider: DailyProvider,
    capability: Capability,
    instruments: Sequence[Instrument],
    question: Question,
    purpose: Purpose,
    run_id: str,
) -> Iterator[Attempt]:
    """Attempts in the order of the instruments. Whatever interrupts the caller also ends the waiting threads."""
    questions = [(one, question(provider, one)) for one in instruments]
    run = ProviderRun(provider)
    threads = ThreadPoolExecutor(WORKERS, thread_name_prefix=provider.name)
    try:
        yield from threads.map(
            lambda asked: converse(
                platform,
                run,
                capability,
                asked[1],
                purpose=purpose,
                run_id=run_id,
                market=market.name,
                symbol=asked[0].symbol,
            ),
            [(one, put) for one, put in questions if put is not None],
        )
    finally:
        run.stop.set()
        threads.shutdown(wait=True, cancel_futures=True)
