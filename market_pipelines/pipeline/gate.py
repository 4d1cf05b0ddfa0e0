"""What a person or a CI job asks of the stored data: every check of some markets, and whether that is good enough.

A gate that has looked at nothing is not open: where nothing is stored, the report says so and does not pass.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.quality import Severity
from market_pipelines.market.quality.rules import INDEX_PRICES, INTRADAY, OPTIONS, STOCK_PRICES
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.checks import OF_NOW, CheckOutcome, assets_of, checks_of, evaluate
from market_pipelines.pipeline.evidence import options_until
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.reading import BadQuestion
from market_pipelines.pipeline.stream_evidence import KINDS, was_streamed
from market_pipelines.store.check_results import tables_with_bars
from market_pipelines.store.options import has_options

RECENT_SESSIONS = 30
"""What is judged where no days are named."""
_OF_BARS = (STOCK_PRICES, INDEX_PRICES, INTRADAY)
_BESIDES_BARS = (*KINDS, OPTIONS)
"""Tables that a platform can do without: of one in which there is nothing, that is said."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The days of a market that were looked at."""

    market: str
    start: date
    end: date


@dataclass(frozen=True, slots=True)
class Report:
    judged: tuple[Judged, ...]
    outcomes: tuple[CheckOutcome, ...]
    reasons: Mapping[str, str]
    """By market (or market and table), why there was nothing to judge. None of them passes."""
    left_out: tuple[str, ...]
    """Tables in which nothing is stored and that nobody has asked about."""

    def failed(self, severities: frozenset[Severity]) -> tuple[CheckOutcome, ...]:
        return tuple(one for one in self.outcomes if not one.passed and one.severity in severities)

    def passed(self, severities: frozenset[Severity]) -> bool:
        """Whether no check fails with one of these severities, and there was something to judge."""
        return bool(self.outcomes) and not self.reasons and not self.failed(severities)


def quality_report(
    platform: Platform,
    markets: Sequence[MarketDefinition],
    start: date | None = None,
    end: date | None = None,
    *,
    assets: Collection[str] = (),
    rules: Collection[str] = (),
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Asks every check, or those of some tables and rules. Without days: the last sessions of each market."""
    _refuse_unknown(markets, assets, rules)
    judged: list[Judged] = []
    outcomes: list[CheckOutcome] = []
    reasons: dict[str, str] = {}
    left_out: list[str] = []
    wanted: list[tuple[MarketDefinition, Judged, str]] = []
    for market in markets:
        days = _days(platform, market, start, end)
        judged.append(days)
        filled = _filled(platform, market, days)
        why = _nothing_to_judge(platform, market, days, filled, assets)
        if why:
            reasons[market.name] = why
            continue
        for asset in assets_of(market):
            if assets and asset not in assets:
                continue
            if asset not in (*_OF_BARS, *_BESIDES_BARS) or asset in filled:
                wanted.append((market, days, asset))
            elif assets:
                reasons[f"{market.name}/{asset}"] = f"nothing is stored from {days.start} to {days.end}"
            else:
                left_out.append(f"{market.name}/{asset}")
    for done, (market, days, asset) in enumerate(wanted):
        if progress is not None:
            progress(done, len(wanted), f"{market.name}/{asset}")
        asked = rules or _rules_of_the_days(platform, market, days, asset)
        outcomes.extend(evaluate(platform, market, days.start, days.end, assets=[asset], rules=asked))
    return Report(tuple(judged), tuple(outcomes), reasons, tuple(left_out))


def _rules_of_the_days(platform: Platform, market: MarketDefinition, days: Judged, asset: str) -> set[str]:
    """Of a range in the past, whether today's bars are there is not asked; who wants to know names the rule."""
    known = {rule.name for rule in checks_of(asset, market)}
    now = platform.clock()
    return known if days.end >= trading_calendar(market.mic, now).last_closed(now) else known - OF_NOW


def _days(platform: Platform, market: MarketDefinition, start: date | None, end: date | None) -> Judged:
    now = platform.clock()
    calendar = trading_calendar(market.mic, now)
    last = end if end is not None else calendar.last_closed(now)
    if start is None:
        recent = calendar.sessions(last - timedelta(days=3 * RECENT_SESSIONS), last)
        start = recent[-RECENT_SESSIONS:][0] if recent else last
    if start > last:
        raise BadQuestion(f"the first day {start} lies after the last one {last}")
    return Judged(market.name, start, last)


def _filled(platform: Platform, market: MarketDefinition, days: Judged) -> frozenset[str]:
    """Which of the tables hold anything of these days."""
    now = platform.clock()
    with platform.database.connection() as connection:
        bars = tables_with_bars(connection, market.name, days.start, days.end)
        until = options_until(trading_calendar(market.mic, now), days.end, now)
        options = {OPTIONS} if has_options(connection, market.name, days.start, until) else set()
        streamed = {asset for asset in KINDS if was_streamed(connection, market, asset, days.start, days.end)}
    return bars | options | streamed


def _nothing_to_judge(
    platform: Platform, market: MarketDefinition, days: Judged, filled: Collection[str], assets: Collection[str]
) -> str:
    calendar = trading_calendar(market.mic, platform.clock())
    if not calendar.sessions(days.start, days.end):
        return f"{market.mic} has no session from {days.start} to {days.end}"
    # Ticks alone do not make up for bars that are not there, unless only they are asked about.
    wanted = _BESIDES_BARS if assets and set(assets) <= set(_BESIDES_BARS) else _OF_BARS
    if not set(wanted) & set(filled):
        return f"nothing is stored of {market.name} from {days.start} to {days.end}"
    return ""


def _refuse_unknown(markets: Sequence[MarketDefinition], assets: Collection[str], rules: Collection[str]) -> None:
    known_assets = {asset for market in markets for asset in assets_of(market)}
    for asset in assets:
        if asset not in known_assets:
            raise BadQuestion(f"no table {asset!r} has checks; these have: {', '.join(sorted(known_assets))}")
    asked = [(asset, market) for market in markets for asset in assets_of(market) if not assets or asset in assets]
    known_rules = {rule.name for asset, market in asked for rule in checks_of(asset, market)}
    for rule in rules:
        if rule not in known_rules:
            raise BadQuestion(f"no check is called {rule!r}; there are: {', '.join(sorted(known_rules))}")
