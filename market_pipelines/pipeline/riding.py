"""Holes that heal along the way: refreshes that happen anyway ask a little further back, and what they learn counts.

No request is made for it. Where a provider sells whole sessions instead, nothing rides: every session would be one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.repair import WHOLE_MARKET, asked_in_vain
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.pull import PullReport, answers
from market_pipelines.pipeline.settle import DAILY, settle_daily
from market_pipelines.store.holes import delivered_unsettled, read_holes, write_holes


def riding_holes(
    platform: Platform, market: MarketDefinition, symbols: Sequence[str], start: date
) -> Mapping[str, frozenset[date]]:
    """The due holes of these symbols before `start` and within the market's window."""
    now = platform.clock()
    window = _window(market, now)
    if not window or window[0] >= start:
        return {}
    with platform.database.connection() as connection:
        found = read_holes(connection, market.name, DAILY, symbols=symbols, start=window[0], end=start)
    riders: dict[str, set[date]] = {}
    for hole in found:
        if hole.due(now) and hole.session < start:
            riders.setdefault(hole.symbol, set()).add(hole.session)
    return {symbol: frozenset(sessions) for symbol, sessions in riders.items()}


def settle_riders(platform: Platform, market: MarketDefinition, *, run_id: str, known_at: datetime) -> list[str]:
    """Settles the holes of which a provider has brought a bar, whoever asked for it; the symbols of those."""
    window = _window(market, known_at)
    if not window:
        return []
    with platform.database.connection() as connection:
        spans = delivered_unsettled(connection, market.name, window[0])
    listed = {instrument.symbol: instrument for instrument in market.everything}
    groups: dict[tuple[date, date], list[str]] = {}
    for symbol, span in spans.items():
        if symbol in listed:
            groups.setdefault(span, []).append(symbol)
    for (first, last), symbols in groups.items():
        settle_daily(
            platform,
            market,
            [listed[symbol] for symbol in symbols],
            first,
            last,
            run_id=run_id,
            known_at=known_at,
        )
    return sorted(symbol for symbols in groups.values() for symbol in symbols)


def asked_along(platform: Platform, market: MarketDefinition, pulled: PullReport) -> None:
    """What a refresh has learned about holes that were due and that its answers covered: they are still there."""
    now = platform.clock()
    covered = {
        (pull.instrument.symbol, session)
        for pull in pulled.symbols
        if answers(pull)
        for session in (pull.expected | pull.riding) - pull.accepted
    }
    if not covered:
        return
    with platform.database.connection() as connection:
        known = read_holes(
            connection,
            market.name,
            DAILY,
            symbols=sorted({symbol for symbol, _ in covered}),
            start=min(session for _, session in covered),
            end=max(session for _, session in covered),
        )
        still = [
            asked_in_vain(hole, hole.key, market.repair, now, answered=True)
            for hole in known
            if hole.key in covered and hole.due(now) and hole.symbol != WHOLE_MARKET
        ]
        write_holes(connection, market.name, DAILY, still)


def _window(market: MarketDefinition, now: datetime) -> tuple[date, ...]:
    calendar = trading_calendar(market.mic, now)
    return calendar.sessions(market.since, calendar.last_closed(now))[-market.repair.window_sessions :]
