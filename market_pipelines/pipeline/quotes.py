"""What symbols trade at: asked in bulk where a provider can, singly otherwise, and the newest kept of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.quotes import as_of, fault
from market_pipelines.market.records import Quote
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.each import Progress, ask_chain
from market_pipelines.pipeline.fetch import Attempt, ProviderRun, converse
from market_pipelines.pipeline.limiter import Purpose
from market_pipelines.pipeline.platform import Platform
from market_pipelines.providers.protocol import Capability, DailyProvider, QuoteQuery, abilities_of
from market_pipelines.store.quotes import LatestQuote, write_quotes


@dataclass(frozen=True, slots=True)
class SymbolQuote:
    """How one symbol fared."""

    symbol: str
    outcome: Outcome
    reason: str
    requests: int
    latest: LatestQuote | None = None


@dataclass(frozen=True)
class QuotesReport:
    symbols: tuple[SymbolQuote, ...]
    written: int
    """Quotes that are newer than what was stored."""
    requests: int
    """Of all symbols together: a call in bulk is one."""


def pull_quotes(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    *,
    run_id: str,
    providers: Sequence[DailyProvider] | None = None,
    progress: Progress | None = None,
) -> QuotesReport:
    """Each provider of the chain is asked for exactly the symbols that the ones before it did not quote soundly."""
    round_ = _Round(platform, market, run_id, {one.symbol: one for one in instruments})
    chain = platform.chain(market) if providers is None else tuple(providers)
    for provider in chain:
        offered = abilities_of(provider)
        if Capability.BULK_QUOTES in offered and len(round_.lacking(provider)) > 1:
            round_.in_bulk(provider, offered[Capability.BULK_QUOTES].most)
        if Capability.QUOTE in offered:
            round_.singly(provider)
        if progress is not None:
            progress(len(round_.found), len(instruments), provider.name)
    with platform.database.connection() as connection:
        written = write_quotes(connection, market.name, round_.found.values())
    return QuotesReport(tuple(round_.result(one.symbol) for one in instruments), written, round_.requests)


class _Round:
    """The quotes of one set of symbols in the making."""

    def __init__(
        self, platform: Platform, market: MarketDefinition, run_id: str, instruments: dict[str, Instrument]
    ) -> None:
        self._platform = platform
        self._market = market
        self._run_id = run_id
        self._instruments = instruments
        self._calendar = trading_calendar(market.mic, platform.clock())
        self._attempts: dict[str, list[Attempt]] = {symbol: [] for symbol in instruments}
        self._faults: dict[str, str] = {}
        self._answered: set[tuple[str, str]] = set()
        """(provider, symbol) that an answer in bulk passed over: the provider does not know them."""
        self.found: dict[str, LatestQuote] = {}
        self.requests = 0

    def lacking(self, provider: DailyProvider) -> list[Instrument]:
        return [
            one
            for symbol, one in self._instruments.items()
            if symbol not in self.found and (provider.name, symbol) not in self._answered and provider.covers(one)
        ]

    def in_bulk(self, provider: DailyProvider, most: int) -> None:
        wanted = self.lacking(provider)
        run = ProviderRun(provider)
        for first in range(0, len(wanted), most):
            part = wanted[first : first + most]
            attempt = converse(
                self._platform,
                run,
                Capability.BULK_QUOTES,
                QuoteQuery(tuple(part)),
                purpose=Purpose.QUOTE,
                run_id=self._run_id,
                market=self._market.name,
                symbol=part[0].symbol if len(part) == 1 else "",
            )
            self.requests += attempt.requests
            self._take(attempt)
            for one in part:
                self._attempts[one.symbol].append(attempt)
                if attempt.outcome.delivered and one.symbol not in self.found:
                    self._answered.add((provider.name, one.symbol))

    def singly(self, provider: DailyProvider) -> None:
        asked = ask_chain(
            self._platform,
            self._market,
            Capability.QUOTE,
            self.lacking(provider),
            lambda _, instrument: QuoteQuery((instrument,)),
            purpose=Purpose.QUOTE,
            run_id=self._run_id,
            providers=(provider,),
        )
        for symbol, delivered in asked.items():
            for attempt in delivered.attempts:
                self.requests += attempt.requests
                self._attempts[symbol].append(attempt)
                self._take(attempt)

    def result(self, symbol: str) -> SymbolQuote:
        attempts = self._attempts[symbol]
        latest = self.found.get(symbol)
        requests = sum(attempt.requests for attempt in attempts)
        if latest is not None:
            return SymbolQuote(symbol, Outcome.OK, "", requests, latest)
        if symbol in self._faults:
            return SymbolQuote(symbol, Outcome.MALFORMED, self._faults[symbol], requests)
        if not attempts:
            return SymbolQuote(symbol, Outcome.NOT_ENTITLED, "no provider that was asked quotes it", 0)
        first = next((one for one in attempts if not one.outcome.delivered), attempts[0])
        outcome = Outcome.UNKNOWN_SYMBOL if first.outcome.delivered else first.outcome
        said = "; ".join(f"{one.house_provider}: {one.reason or one.outcome.value}" for one in attempts)
        return SymbolQuote(symbol, outcome, said, requests)

    def _take(self, attempt: Attempt) -> None:
        if attempt.parsed is None or attempt.fetched_at is None:
            return
        for quote in attempt.parsed.records:
            if not isinstance(quote, Quote) or quote.symbol not in self._instruments:
                continue
            wrong = fault(quote)
            if wrong:
                self._faults[quote.symbol] = f"{attempt.house_provider}: {wrong}"
            elif quote.symbol not in self.found:
                moment = as_of(quote, attempt.fetched_at, self._calendar)
                self.found[quote.symbol] = LatestQuote(quote, moment, attempt.provider, attempt.fetched_at)
