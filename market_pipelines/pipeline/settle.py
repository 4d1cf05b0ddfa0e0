"""The second half of a daily refresh: agree on one bar a symbol and session, and keep what it replaced.

Reads what the providers delivered, chooses by the market's order of providers, writes the consensus with its
revisions and where the others disagree with it, and says in the coverage table what is there and what is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

import pandas as pd

from market_pipelines.market.actions import Basis
from market_pipelines.market.bars import MISSING
from market_pipelines.market.consensus import CloseKinds, agree
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.market.quality import expected_sessions
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.corrections import sift
from market_pipelines.pipeline.platform import Platform
from market_pipelines.providers.protocol import close_kind_of
from market_pipelines.store.bars import INDICES, STOCKS, remove_adjusted_prices, write_prices
from market_pipelines.store.coverage import write_coverage
from market_pipelines.store.disagreements import write_disagreements
from market_pipelines.store.holes import heal_holes
from market_pipelines.store.read_bars import read_prices, read_provider_bars, symbols_with_basis
from market_pipelines.store.upsert import WriteCounts, Written

DAILY = "1d"


@dataclass(frozen=True)
class SettleReport:
    market: str
    start: date
    end: date
    table: str
    written: Written
    chosen: pd.DataFrame
    """The consensus rows of the range, `market.bars.CONSENSUS_COLUMNS`."""
    disagreements: pd.DataFrame
    """`market.consensus.DISAGREEMENT_COLUMNS`."""
    held: pd.DataFrame
    """Of the consensus, what would change a final bar by too much: the stored bar stands until a person decides."""
    missing: pd.DataFrame
    """symbol, session of what was expected and is not there."""


def settle_daily(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    start: date,
    end: date,
    *,
    run_id: str,
    known_at: datetime,
) -> tuple[SettleReport, ...]:
    """Settles shares and indices, each in their own table; a report for each that has instruments."""
    shares = [instrument for instrument in instruments if instrument.kind is not Kind.INDEX]
    indices = [instrument for instrument in instruments if instrument.kind is Kind.INDEX]
    return tuple(
        _settle(platform, market, group, start, end, run_id, known_at, table)
        for group, table in ((shares, STOCKS), (indices, INDICES))
        if group
    )


def close_kinds(platform: Platform) -> CloseKinds:
    """What each provider that says so calls its close, by its plain name."""
    kinds = {name: close_kind_of(provider) for name, provider in platform.providers.items()}
    return {name: kind for name, kind in kinds.items() if kind is not None}


def _settle(
    platform: Platform,
    market: MarketDefinition,
    instruments: Sequence[Instrument],
    start: date,
    end: date,
    run_id: str,
    known_at: datetime,
    table: str,
) -> SettleReport:
    calendar = trading_calendar(market.mic, known_at)
    end = min(end, calendar.last_closed(known_at))
    symbols = [instrument.symbol for instrument in instruments]
    precedence = [provider.name for provider in platform.chain(market)]
    with platform.database.connection() as connection:
        delivered = read_provider_bars(connection, market.name, symbols, start, end)
        # One symbol's series never mixes traded and adjusted prices: from its first traded bar on, the adjusted ones
        # are no part of it, in this range or any other.
        traded = symbols_with_basis(connection, market.name, symbols, str(Basis.TRADED))
        adjusted = delivered["basis"] != str(Basis.TRADED)
        delivered = delivered[~(adjusted & delivered["symbol"].isin(traded))]
        consensus = agree(delivered, precedence, market.cross_check, close_kinds(platform))
        before = read_prices(connection, market.name, symbols, start, end, table=table)
        sifted = sift(connection, consensus.chosen, before, table, known_at, run_id)
        written = (
            write_prices(connection, sifted.chosen, known_at, run_id, table)
            if len(sifted.chosen)
            else Written(WriteCounts(), {})
        )
        changed = [symbol for symbol in sorted(traded) if written.of_symbol(symbol).changed]
        displaced = remove_adjusted_prices(connection, market.name, changed, known_at, run_id, table)
        stored = read_prices(connection, market.name, symbols, start, end, table=table)
        expected = expected_sessions(calendar, instruments, start, end)
        coverage = expected.merge(stored[["symbol", "session", "condition"]], on=["symbol", "session"], how="left")
        coverage["condition"] = coverage["condition"].fillna(MISSING)
        elsewhere = [(symbol, session) for symbol, session in sorted(displaced) if not start <= session <= end]
        write_coverage(connection, pd.concat([coverage, _missing(elsewhere)]), market.name, DAILY, known_at)
        heal_holes(connection, market.name, DAILY, known_at, symbols=symbols, start=start, end=end)
        write_disagreements(
            connection, consensus.disagreements, market.name, symbols, start, end, at=known_at, run_id=run_id
        )
    return SettleReport(
        market=market.name,
        start=start,
        end=end,
        table=table,
        written=written,
        chosen=consensus.chosen,
        disagreements=consensus.disagreements,
        held=sifted.held,
        missing=coverage.loc[coverage["condition"] == MISSING, ["symbol", "session"]],
    )


def _missing(sessions: Sequence[tuple[str, date]]) -> pd.DataFrame:
    frame = pd.DataFrame(sessions, columns=["symbol", "session"]).astype({"symbol": "str", "session": "datetime64[s]"})
    return frame.assign(condition=pd.Series(MISSING, index=frame.index, dtype="str"))
