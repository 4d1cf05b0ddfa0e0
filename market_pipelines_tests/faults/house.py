"""A whole platform of real parts on a stopped clock: simulator, HTTP, PostgreSQL, archive, and the truth behind them.

What the pipeline stored is compared here with what the simulator knows to be true; the tests say what should have
happened on the way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zstandard
from psycopg import sql

from market_pipelines.market.actions import ActionKind, CorporateAction
from market_pipelines.market.bars import VALUE_COLUMNS
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.refresh import instruments_of, refresh_daily
from market_pipelines.pipeline.results import SymbolResult
from market_pipelines.providers.http import HttpClient, Timeouts
from market_pipelines.providers.protocol import Answer, Call
from market_pipelines.providers.registry import build_providers
from market_pipelines.settings import read_settings
from market_pipelines.simulator.server import Simulator
from market_pipelines.simulator.truth import Tape
from market_pipelines.store.archive import RawArchive, archive_root
from market_pipelines.store.database import Database, Transaction
from market_pipelines.store.reference import write_actions, write_actions_known

THURSDAY_EVENING = datetime(2025, 6, 12, 21, 0, tzinfo=UTC)
"""New York has closed an hour ago, Warsaw hours ago, and both trade on the next day."""
PRECISION = 1e-5
"""Relative. Stooq keeps six significant digits of an adjusted price; every planted error is far larger."""
VOLUME_PRECISION = 1e-4
PATIENT = Timeouts()


class StoppedClock:
    """The house's and the simulator's common now."""

    def __init__(self, simulator: Simulator, now: datetime) -> None:
        self._simulator = simulator
        self._now = now
        self.set(now)

    def __call__(self) -> datetime:
        return self._now

    def set(self, now: datetime) -> None:
        self._now = now
        self._simulator.clock.set(now)


class HttpByTheClock(HttpClient):
    """The real client, whose answers arrive at the stopped clock's time."""

    def __init__(self, clock: Callable[[], datetime], timeouts: Timeouts = PATIENT) -> None:
        super().__init__(timeouts)
        self._clock = clock

    def get(self, call: Call) -> Answer:
        return replace(super().get(call), received_at=self._clock())


@dataclass(frozen=True)
class House:
    platform: Platform
    simulator: Simulator
    clock: StoppedClock

    @property
    def archive(self) -> RawArchive:
        return self.platform.archive

    def refresh(
        self,
        symbols: Sequence[str],
        start: date,
        end: date,
        *,
        market: str = "us",
        providers: Sequence[str] | None = None,
    ) -> dict[str, SymbolResult]:
        """A refresh by the market's own chain, or by these providers only; its results by symbol."""
        definition = self.platform.market(market)
        chain = None if providers is None else [self.platform.providers[name] for name in providers]
        report = refresh_daily(
            self.platform, definition, instruments_of(definition, symbols), start, end, providers=chain
        )
        return {result.symbol: result for result in report.symbols}

    def rows(self, query: str, parameters: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        with self.platform.database.connection() as connection:
            return connection.execute(query.encode(), parameters).fetchall()

    def prices(self, symbol: str, table: str = "stock_prices") -> pd.DataFrame:
        """The agreed bars of a symbol by session."""
        with self.platform.database.connection() as connection:
            cursor = connection.execute(
                sql.SQL("SELECT * FROM {} WHERE symbol = %s ORDER BY session").format(sql.Identifier("market", table)),
                (symbol,),
            )
            return _framed(cursor).set_index("session")

    def tape(self, symbol: str, market: str = "us") -> Tape:
        listing = self.simulator.world.find(symbol, self.platform.market(market).mic)
        assert listing is not None, f"the simulator does not list {symbol}"
        return self.simulator.world.tape(listing, self.clock())

    def truth(
        self,
        symbol: str,
        start: date = date.min,
        end: date = date.max,
        *,
        market: str = "us",
        adjusted: bool = False,
    ) -> pd.DataFrame:
        """What really happened, by session: as traded, or adjusted for splits and dividends as Stooq does it."""
        tape = self.tape(symbol, market)
        factor = tape.dividend_factor / tape.split_factor if adjusted else np.ones(len(tape.sessions))
        columns = {name: getattr(tape.bars, name) * factor for name in ("open", "high", "low", "close")}
        sessions = tape.sessions.astype("datetime64[D]")
        wanted = slice(
            np.searchsorted(sessions, np.datetime64(start)), np.searchsorted(sessions, np.datetime64(end), "right")
        )
        index = pd.Index(sessions[wanted].astype(object))
        return pd.DataFrame({**columns, "volume": tape.bars.volume / factor}).iloc[wanted].set_index(index)

    def actions(self, symbol: str, market: str = "us") -> list[CorporateAction]:
        return [
            CorporateAction(symbol, action.ex_date, ActionKind(action.kind), action.value)
            for action in self.tape(symbol, market).actions
        ]

    def know_actions(self, symbols: Sequence[str], market: str = "us") -> None:
        """Writes the true corporate actions into the store, as an earlier answer of some provider would have."""
        now = self.clock()
        for symbol in symbols:
            sessions = self.truth(symbol, market=market).index
            known = (sessions[0], now.date())
            with self.platform.database.connection() as connection:
                write_actions(
                    connection, market, self.actions(symbol, market), "earlier", now, complete=(symbol, *known)
                )
                write_actions_known(connection, market, symbol, "earlier", *known, now)


@contextmanager
def opened_house(
    folder: Path,
    url: str,
    simulator: Simulator,
    *,
    now: datetime = THURSDAY_EVENING,
    timeouts: Timeouts = PATIENT,
    **settings: Any,
) -> Iterator[House]:
    """A house over an empty database. Faults and requests of whoever used the simulator before are forgotten."""
    simulator.faults.clear()
    simulator.requests.clear()
    clock = StoppedClock(simulator, now)
    read = read_settings(
        env_file=None,
        market_pipelines_home=folder,
        market_pipelines_simulator="on",
        database_url=url,
        **{name.lower(): address for name, address in simulator.base_urls().items()},
        **settings,
    )
    with HttpByTheClock(clock, timeouts) as http, Database(url, pool_size=8) as database:
        platform = Platform(
            settings=read,
            database=database,
            archive=RawArchive(archive_root(read.home, simulated=True)),
            http=http,
            providers=build_providers(read),
            markets=read_markets(),
            simulated=True,
            clock=clock,
        )
        yield House(platform, simulator, clock)


# --- what is in the tables, compared with the truth ---------------------------------------------------------


def untrue_rows(house: House, *, adjusted_series: Sequence[str] = ()) -> list[str]:
    """Stored bars, of any table, that never happened like that; empty when all is well.

    Bars that a provider delivered adjusted have to be rightly adjusted. `adjusted_series` names symbols whose
    agreed bars are allowed to be adjusted as well.
    """
    found = []
    with house.platform.database.connection() as connection:
        provider_bars = _framed(connection.execute("SELECT * FROM market.provider_bars"))
        agreed = {
            "stock_prices": _framed(connection.execute("SELECT * FROM market.stock_prices")),
            "market_index_prices": _framed(connection.execute("SELECT * FROM market.market_index_prices")),
        }
    for (market, symbol, basis), rows in provider_bars.groupby(["market", "symbol", "basis"]):
        adjusted = basis != "traded"
        found += _untrue(house, "provider_bars", str(market), str(symbol), rows, adjusted)
    for table, stored in agreed.items():
        for (market, symbol), rows in stored.groupby(["market", "symbol"]):
            found += _untrue(house, table, str(market), str(symbol), rows, symbol in adjusted_series)
    return found


def _untrue(house: House, table: str, market: str, symbol: str, rows: pd.DataFrame, adjusted: bool) -> list[str]:
    listing = house.simulator.world.find(symbol, house.platform.market(market).mic)
    if listing is None:
        return [f"{table}: {len(rows)} rows of {symbol}, which does not exist"]
    truth = house.truth(symbol, market=market, adjusted=adjusted).reindex(rows["session"])
    right = np.ones(len(rows), dtype=np.bool_)
    for name in VALUE_COLUMNS:
        precision = VOLUME_PRECISION if name == "volume" else PRECISION
        right &= np.isclose(rows[name].astype(float), truth[name], rtol=precision, atol=0.0)
    return [
        f"{table}: {symbol} {row['session']} close {row['close']} by {row['provider']}"
        for _, row in rows[~right].iterrows()
    ]


def quarantined(house: House) -> set[tuple[str, date, str]]:
    """Symbol, session and rule of everything in quarantine."""
    return {
        (symbol, session, rule)
        for symbol, session, rule in house.rows("SELECT symbol, session, rule FROM market.quarantine")
    }


CONTENTS = {
    "stock_prices": "symbol, market, session, open, high, low, close, volume, provider, condition, provisional",
    "market_index_prices": "symbol, market, session, open, high, low, close, volume, provider, condition, provisional",
    "provider_bars": "symbol, market, session, open, high, low, close, volume, provider, basis, provisional",
    "corporate_actions": "symbol, market, ex_date, kind, factor, amount, provider",
    "provider_actions": "symbol, market, provider, ex_date, kind, value",
    "actions_known": "symbol, market, provider, known_from, known_through",
    "coverage": "market, interval, symbol, session, condition",
    "quarantine": "market, symbol, session, open, high, low, close, volume, provider, rule, severity, detail",
    "stocks": "symbol, market, company_name, exchange, currency, kind, is_active, listed_from, delisted_on",
}
"""The columns of each table that a second run, or an undisturbed one, has to agree on: no times, no numbers of runs."""
REVISION_CONTENTS = {
    "bar_revisions": "source_table, symbol, market, session, open, high, low, close, volume, provider, condition, "
    "provisional, removed"
}

Contents = dict[str, list[tuple[Any, ...]]]


def contents(connection: Transaction, columns: Mapping[str, str] = CONTENTS) -> Contents:
    """Everything that matters in the tables, in one order."""
    found = {}
    for table, names in columns.items():
        query = f"SELECT {names} FROM market.{table} ORDER BY {names}"  # noqa: S608 (both are constants above)
        found[table] = connection.execute(query.encode()).fetchall()
    return found


def unreadable_answers(root: Path) -> list[str]:
    """Files of the archive that do not hold what their name promises; the workshop `tmp` is not the archive."""
    wrong = []
    for path in sorted(root.rglob("*.zst")):
        body = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
        if hashlib.sha256(body).hexdigest() != path.stem:
            wrong.append(path.name)
    return wrong


def _framed(cursor: Any) -> pd.DataFrame:
    return pd.DataFrame(cursor.fetchall(), columns=[column.name for column in cursor.description])
