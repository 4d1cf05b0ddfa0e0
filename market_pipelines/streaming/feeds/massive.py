"""What a plan means to Polygon's (Massive's) stream: which topics its symbols are, shares or option contracts.

Contracts are looked up by their underlyings through the house's own fetch, again whenever the exchange's day
changes. How one talks on the socket is in `massive_dialogue`, how sockets are cared for in `sockets`.
"""

from __future__ import annotations

import resource
from collections.abc import Sequence
from datetime import date, datetime, timedelta

import psycopg

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.fetch import Delivered, ProviderRun, converse
from market_pipelines.pipeline.limiter import Purpose
from market_pipelines.pipeline.options import keep_chain
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.results import new_run_id
from market_pipelines.providers.polygon.wire import EVERYTHING, MOST_QUOTED_CONTRACTS
from market_pipelines.providers.protocol import Capability, DailyProvider, OptionsQuery
from market_pipelines.store.archive import ArchiveError
from market_pipelines.store.database import DatabaseUnavailable
from market_pipelines.streaming.dialogue import Notice, Topics
from market_pipelines.streaming.feeds.sockets import Resolved
from market_pipelines.streaming.plan import ALL, Channel, StreamPlan
from market_pipelines.streaming.symbols import CONTRACT, instruments_for

LOOK_AGAIN = 60.0
"""Seconds after which contracts that could not be looked up are asked for once more."""
SHOWN = 8
FILES_BESIDES = 256
"""Open files of a service without its sockets: journal, lake, database, logs."""


class Shares:
    """Symbols in the provider's spelling; serves Yahoo's streamer as well."""

    def __init__(self, provider: DailyProvider, market: MarketDefinition, channels: Sequence[Channel]) -> None:
        self._provider = provider
        self._market = market
        self._channels = channels
        self._natives: dict[str, str] = {ALL: EVERYTHING}

    def resolve(self, symbols: Sequence[str]) -> Resolved:
        if ALL in symbols:
            return Resolved((ALL,))
        asked = instruments_for(self._market, symbols)
        covered = [one for one in asked if not one.symbol.startswith(CONTRACT) and self._provider.covers(one)]
        self._natives |= {one.symbol: self._provider.native_symbol(one) for one in covered}
        found = tuple(one.symbol for one in covered)
        left_out = [one.symbol for one in asked if one.symbol not in self._natives]
        if not found:
            return Resolved((), refused=f"{self._provider.name} streams none of {_some(left_out)}")
        notice = Notice("left_out", f"{self._provider.name} does not stream {_some(left_out)} here")
        return Resolved(found, (notice,) if left_out else ())

    def cancel(self) -> None:
        """Nothing takes long here."""

    def stale(self, _now: datetime, /) -> bool:
        return False

    def topics(self, symbols: Sequence[str]) -> Topics:
        natives = [self._natives[symbol] for symbol in symbols]
        return dict.fromkeys(self._channels, natives)

    def cut(self, _symbols: Sequence[str], /) -> int:
        return 0


class Contracts:
    """Option contracts: named ones as they are, and those on the named underlyings that expire soon enough."""

    def __init__(self, platform: Platform, market: MarketDefinition, plan: StreamPlan, provider: DailyProvider) -> None:
        self._platform = platform
        self._market = market
        self._plan = plan
        self._provider = provider
        self._run = ProviderRun(provider)
        self._cancelled = False
        self._day: date | None = None
        self._known: dict[str, tuple[str, ...]] = {}
        """By underlying, the nearest expiry first; kept where a later look fails."""

    def resolve(self, symbols: Sequence[str]) -> Resolved:
        if ALL in symbols:
            return Resolved((ALL,))
        today = self._today(self._platform.clock())
        self._day = today
        single = tuple(one for one in symbols if one.startswith(CONTRACT))
        asked = instruments_for(self._market, [one for one in symbols if not one.startswith(CONTRACT)])
        underlyings = [one for one in asked if self._provider.covers(one)]
        left_out = [one.symbol for one in asked if not self._provider.covers(one)]
        if left_out and not (underlyings or single):
            return Resolved((), refused=f"{self._provider.name} has no options on {_some(left_out)}")
        notices = [Notice("left_out", f"{self._provider.name} has no options on {_some(left_out)}")] if left_out else []
        refused = ""
        missing = 0
        self._run = ProviderRun(self._provider)
        for one in underlyings:
            if self._cancelled:
                break
            outcome, reason = self._look_up(one.symbol, today)
            if outcome.delivered or outcome is Outcome.UNKNOWN_SYMBOL:
                if not self._known.get(one.symbol):
                    notices.append(Notice("no_contracts", f"{one.symbol}: no contract {self._terms(today)}"))
                continue
            missing += 1
            notices.append(Notice("contracts_unknown", f"{one.symbol}: {reason or outcome.value}"))
            if outcome in (Outcome.NOT_ENTITLED, Outcome.RETIRED):
                refused = f"option contracts cannot be looked up: {reason}"
        contracts = tuple(native for one in underlyings for native in self._known.get(one.symbol, ()))
        found = tuple(dict.fromkeys((*single, *contracts)))
        if found or missing:
            return Resolved(found, tuple(notices), LOOK_AGAIN if missing else None, "" if found else refused)
        return Resolved((), tuple(notices), refused=f"there is no contract {self._terms(today)} on {_some(symbols)}")

    def cancel(self) -> None:
        self._cancelled = True
        self._run.stop.set()

    def stale(self, now: datetime, /) -> bool:
        return self._day is not None and self._today(now) != self._day

    def topics(self, symbols: Sequence[str]) -> Topics:
        if ALL in symbols:
            return dict.fromkeys(self._plan.channels, (EVERYTHING,))
        return {
            channel: symbols[:MOST_QUOTED_CONTRACTS] if channel is Channel.QUOTES else symbols
            for channel in self._plan.channels
        }

    def cut(self, symbols: Sequence[str], /) -> int:
        return max(0, len(symbols) - MOST_QUOTED_CONTRACTS) if Channel.QUOTES in self._plan.channels else 0

    def _look_up(self, underlying: str, today: date) -> tuple[Outcome, str]:
        instrument = instruments_for(self._market, [underlying])[0]
        last = today + timedelta(days=self._plan.max_expiry_days)
        try:
            attempt = converse(
                self._platform,
                self._run,
                Capability.OPTIONS,
                OptionsQuery(instrument, today, today, last, self._plan.right),
                purpose=Purpose.REFRESH,
                run_id=new_run_id(),
                market=self._market.name,
                symbol=underlying,
            )
            if attempt.outcome.delivered:
                chain = keep_chain(self._platform, self._market, underlying, Delivered((attempt,), attempt), today)
                self._known[underlying] = tuple(one.native for one in chain.contracts)
        except (DatabaseUnavailable, psycopg.Error, ArchiveError) as error:
            return Outcome.UNAVAILABLE, str(error)
        return attempt.outcome, attempt.reason

    def _terms(self, today: date) -> str:
        last = today + timedelta(days=self._plan.max_expiry_days)
        right = f" ({self._plan.right}s)" if self._plan.right is not None else ""
        return f"that expires by {last}{right}"

    def _today(self, now: datetime) -> date:
        return trading_calendar(self._market.mic, now).local_date(now)


def file_limit_advice(connections: int) -> str:
    """What to do about this process's limit of open files; empty where it is high enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = FILES_BESIDES + 2 * connections
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return ""
    first = "" if hard == resource.RLIM_INFINITY or hard >= needed else " (as root, or in the service's unit)"
    return (
        f"this process may have {soft:,} files open, and {connections:,} connections beside everything else may need "
        f"{needed:,}: run `ulimit -n 65536`{first} before starting it"
    )


def _some(symbols: Sequence[str]) -> str:
    return ", ".join(symbols[:SHOWN]) + (f" and {len(symbols) - SHOWN:,} more" if len(symbols) > SHOWN else "")
