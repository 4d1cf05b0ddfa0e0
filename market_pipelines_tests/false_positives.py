"""What the quality rules say about data in which nothing is wrong: `python -m market_pipelines_tests.false_positives`.

Ten years of every instrument of the shipped markets as the made-up world traded them, with its splits and dividends,
its half days and its suspended shares, told by three providers each in its own way. Whatever a rule finds there is a
false alarm, and its rate is what a person pays for the rule.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
import pandas as pd

from market_pipelines.market.actions import ActionKind, Basis, CorporateAction
from market_pipelines.market.bars import AVAILABLE, VALUE_COLUMNS
from market_pipelines.market.definition import IntradayPlan, MarketDefinition
from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.market.intraday import INTERVALS
from market_pipelines.market.quality import RULES, Evidence, Finding, examine
from market_pipelines.market.quality.rules import ACTIONS, INDEX_PRICES, INSTRUMENTS, INTRADAY, STOCK_PRICES
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.simulator.formats.stooq import daily_rows, rounded
from market_pipelines.simulator.minutes import grouped, minutes_of
from market_pipelines.simulator.truth import History, World

NOW = datetime(2026, 11, 20, 23, tzinfo=UTC)
"""A Friday, two hours after New York's close."""
START, END = date(2016, 11, 21), date(2026, 11, 20)
WEEKS_OF_MINUTES = (
    (date(2025, 10, 20), date(2025, 12, 5)),
    (date(2026, 3, 2), date(2026, 4, 2)),
    (date(2026, 10, 19), date(2026, 11, 20)),
)
"""Bars within sessions: around the changes of the clock, which come on different Sundays, and over a half day."""


def ten_years(market: MarketDefinition, world: World, asset: str, start: date = START, end: date = END) -> Evidence:
    """Clean evidence for one of the tables of daily data, or for the references behind them."""
    indices = asset == INDEX_PRICES
    instruments = [one for one in market.everything if (one.kind is Kind.INDEX) == indices]
    histories = _histories(world, instruments)
    pieces = [_bars(history, start, end) for history in histories]
    bars = _stored(market, pd.concat(pieces, ignore_index=True))
    return Evidence(
        market=market,
        asset=asset,
        calendar=trading_calendar(market.mic, NOW),
        instruments=instruments,
        start=start,
        end=end,
        now=NOW,
        bars=bars,
        provider_bars=_told(market, histories, bars, start, end),
        actions=actions_of(histories),
        revisions=_no_revisions(),
        excused=_suspended(histories, start, end),
        former=instruments,
    )


def weeks_of_minutes(market: MarketDefinition, world: World, start: date, end: date) -> Evidence:
    """Clean evidence for the bars within sessions, at the market's own interval."""
    plan = market.intraday or IntradayPlan()
    histories = _histories(world, market.instruments)
    calendar = trading_calendar(market.mic, NOW)
    pieces = []
    for history in histories:
        minutes = minutes_of(world, history.listing, start, end, NOW, extended=plan.extended)
        found = grouped(minutes, INTERVALS[plan.interval], "bell")
        row = np.searchsorted(calendar.opens - np.timedelta64(12, "h"), found.stamps, side="right") - 1
        pieces.append(
            pd.DataFrame(
                {
                    "symbol": pd.Series([history.listing.symbol] * len(found), dtype="str"),
                    "session": calendar.days[row].astype("datetime64[s]"),
                    "ts": pd.DatetimeIndex(found.stamps, tz="UTC").astype("datetime64[s, UTC]"),
                    "phase": pd.Series(found.phase, dtype="str"),
                    **{name: getattr(found.bars, name) for name in VALUE_COLUMNS},
                }
            )
        )
    intraday = pd.concat(pieces, ignore_index=True).assign(interval=plan.interval)
    ends = intraday["ts"] + pd.Timedelta(minutes=INTERVALS[plan.interval])
    daily = ten_years(market, world, STOCK_PRICES, start, end)
    return replace(
        daily,
        asset=INTRADAY,
        market=replace(market, intraday=plan),
        intraday=_stored(market, intraday).assign(ingested_at=ends.astype("datetime64[us, UTC]")),
    )


def actions_of(histories: Sequence[History]) -> tuple[CorporateAction, ...]:
    return tuple(
        CorporateAction(history.listing.symbol, action.ex_date, ActionKind(action.kind), action.value)
        for history in histories
        for action in history.actions
        if action.ex_date <= END
    )


def _histories(world: World, instruments: Sequence[Instrument]) -> list[History]:
    listings = [world.find(one.symbol, one.mic) for one in instruments]
    return [world.history(listing, NOW) for listing in listings if listing is not None]


def _bars(history: History, start: date, end: date) -> pd.DataFrame:
    chosen = history.between(start, end)
    bars = history.bars.take(chosen)
    days = history.sessions[chosen]
    return pd.DataFrame(
        {
            "symbol": pd.Series([history.listing.symbol] * len(days), dtype="str"),
            "session": days.astype("datetime64[s]"),
            **{name: getattr(bars, name) for name in VALUE_COLUMNS},
        }
    )


def _stored(market: MarketDefinition, bars: pd.DataFrame) -> pd.DataFrame:
    written = bars["session"].dt.tz_localize("UTC") + pd.Timedelta(hours=23)
    return bars.assign(
        market=market.name,
        provider="simulated-yahoo",
        provisional=False,
        condition=AVAILABLE,
        ingested_at=written.astype("datetime64[us, UTC]"),
    )


def _told(
    market: MarketDefinition, histories: Sequence[History], bars: pd.DataFrame, start: date, end: date
) -> pd.DataFrame:
    """One provider as traded, one in 32 bits, one adjusted for splits and dividends to six digits."""
    narrow = {name: bars[name].astype("float32").astype("float64") for name in ("open", "high", "low", "close")}
    traded = [
        bars.assign(provider="simulated-alpha_vantage", basis=str(Basis.TRADED)),
        bars.assign(**narrow, provider="simulated-yahoo", basis=str(Basis.TRADED)),
    ]
    for history in histories:
        rows = daily_rows(history.tape(NOW, forming=False))
        chosen = history.between(start, end)
        columns = {name: rows.columns[name][chosen] for name in VALUE_COLUMNS}
        columns |= {name: rounded(columns[name]) for name in ("open", "high", "low", "close")}
        own = _bars(history, start, end).assign(**columns)
        stored = _stored(market, own).assign(provider="simulated-stooq", basis=str(Basis.SPLIT_DIVIDEND))
        traded.append(stored.assign(ingested_at=pd.Timestamp(NOW).as_unit("us")))
    return pd.concat(traded, ignore_index=True)


def _suspended(histories: Sequence[History], start: date, end: date) -> pd.DataFrame:
    """Sessions on which a share was not traded: the providers say so when they are asked for it."""
    found = []
    for history in histories:
        days = history.calendar.days
        first, last = history.listing.first_session, history.listing.delisted_on or end
        own = days[(days >= np.datetime64(max(start, first))) & (days <= np.datetime64(min(end, last)))]
        absent = np.setdiff1d(own, history.sessions)
        found.append(
            pd.DataFrame(
                {
                    "symbol": pd.Series([history.listing.symbol] * len(absent), dtype="str"),
                    "session": absent.astype("datetime64[s]"),
                }
            )
        )
    return pd.concat(found, ignore_index=True)


def _no_revisions() -> pd.DataFrame:
    numbers = {name: pd.Series(dtype="float64") for name in ("close", "old_close", "volume", "old_volume")}
    return pd.DataFrame(
        {
            "symbol": pd.Series(dtype="str"),
            "session": pd.Series(dtype="datetime64[s]"),
            **numbers,
            "known_to": pd.Series(dtype="datetime64[us, UTC]"),
        }
    )


def clean_findings(market: MarketDefinition, world: World) -> list[tuple[str, Finding]]:
    """What every rule says about the clean world, by table."""
    tables = [STOCK_PRICES, *([INDEX_PRICES] if market.indices else []), ACTIONS, INSTRUMENTS]
    found = [(asset, finding) for asset in tables for finding in examine(ten_years(market, world, asset))]
    for start, end in WEEKS_OF_MINUTES:
        found += [(INTRADAY, finding) for finding in examine(weeks_of_minutes(market, world, start, end))]
    return found


def false_positives(markets: Sequence[MarketDefinition] | None = None, world: World | None = None) -> pd.DataFrame:
    """A line for each rule and table: what was checked, what was found, and how many in ten thousand that is."""
    chosen = list(read_markets().values()) if markets is None else list(markets)
    place = {rule.name: at for at, rule in enumerate(RULES)}
    lines = [
        {
            "place": place[finding.rule.name],
            "number": "" if finding.rule.number is None else str(finding.rule.number),
            "rule": finding.rule.name,
            "table": asset,
            "severity": finding.rule.severity.value,
            "checked": finding.checked,
            "found": len(finding.offending),
        }
        for market in chosen
        for asset, finding in clean_findings(market, world or World())
    ]
    names = ["place", "number", "rule", "table", "severity"]
    summed = pd.DataFrame(lines).groupby(names, sort=True)[["checked", "found"]].sum().reset_index()
    rate = summed["found"] / summed["checked"].clip(lower=1) * 10_000
    return summed.drop(columns="place").assign(per_10_000=rate.round(2))


def printed(table: pd.DataFrame) -> str:
    """As a table in Markdown."""
    head = "| # | rule | table | severity | checked | found | in 10,000 |\n|---:|---|---|---|---:|---:|---:|"
    lines = [
        f"| {row.number} | {row.rule} | {row.table} | {row.severity} "
        f"| {row.checked:,} | {row.found:,} | {row.per_10_000:.2f} |"
        for row in table.itertuples(index=False)
    ]
    return "\n".join([head, *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--market", action="append", help="only this one; may be repeated")
    chosen = parser.parse_args().market
    markets = [market for name, market in read_markets().items() if not chosen or name in chosen]
    print(printed(false_positives(markets)))


if __name__ == "__main__":
    main()
