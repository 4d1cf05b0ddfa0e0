"""Trades and quotes of option contracts: they follow their underlying, trade by trade but more rarely.

A contract is quoted after every few trades of its share and traded after every few quotes, in regular hours only
and until the day it expires. Its price is what it is worth at once and a little for the time that is left.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from zlib import crc32

import numpy as np

from market_pipelines.market.sessions import trading_calendar
from market_pipelines.simulator.formats.polygon_options import VOLATILITY, Contract, contracts_of
from market_pipelines.simulator.listings import Listing
from market_pipelines.simulator.live import stretches
from market_pipelines.simulator.ticks import Quotes, Trades, nanoseconds
from market_pipelines.simulator.truth import Floats, World

QUOTED_EVERY = 16
"""Trades of the share, in the mean."""
TRADED_EVERY = 4
QUOTE_VENUES = np.array([300, 302, 303, 309, 313, 316])
TRADE_CONDITIONS = np.array(["209", "219", "233"])

ShareTrades = Callable[[datetime, datetime, datetime], Trades]
"""The share's trades from an instant to another, as known at a third."""


def contract_named(world: World, ticker: str, now: datetime) -> tuple[Listing, Contract] | None:
    if not ticker.startswith("O:"):
        return None
    for listing in world.listings:
        root = f"O:{listing.symbol.replace('.', '')}"
        if listing.spelled_by("polygon") is None or not ticker.startswith(root):
            continue
        for contract in contracts_of(world, listing, now):
            if contract.ticker == ticker:
                return listing, contract
    return None


def option_quotes(
    share: ShareTrades, listing: Listing, contract: Contract, start: datetime, end: datetime, now: datetime
) -> Quotes:
    base = _followed(share(start, end, now), listing, contract, start, min(end, now))
    value = _value(contract, base)
    tick = np.where(value < 3.0, 0.01, 0.05)
    bid = np.round(np.maximum(np.floor(value / tick) * tick - tick, 0.0), 2)
    lots = 1 + base.seq % 40
    return Quotes(
        stamps=base.stamps,
        seq=base.seq * 2,
        bid=bid,
        ask=np.round(bid + 2 * tick, 2),
        bid_size=np.where(bid > 0, lots, 0).astype(np.float64),
        ask_size=(1 + base.seq % 37).astype(np.float64),
        bid_venue=np.where(bid > 0, QUOTE_VENUES[base.seq % len(QUOTE_VENUES)], 0),
        ask_venue=QUOTE_VENUES[base.seq // 7 % len(QUOTE_VENUES)],
    )


def option_trades(
    share: ShareTrades, listing: Listing, contract: Contract, start: datetime, end: datetime, now: datetime
) -> Trades:
    """Each at the ask or the bid of the quote just before it."""
    margin = timedelta(milliseconds=1)
    quotes = option_quotes(share, listing, contract, start - margin, end, now)
    # The quotes of a contract share their remainder, so what is chosen here goes by the rest.
    quotes = quotes.take(quotes.seq // (2 * QUOTED_EVERY) % TRADED_EVERY == 0)
    buys = (quotes.seq // 128 % 2 == 0) | (quotes.bid == 0)
    trades = Trades(
        stamps=quotes.stamps + 400_000,
        seq=quotes.seq + 1,
        price=np.where(buys, quotes.ask, quotes.bid),
        size=np.asarray(1 + quotes.seq // 128 % 20, dtype=np.float64),
        venue=np.where(buys, quotes.ask_venue, quotes.bid_venue),
        conditions=TRADE_CONDITIONS[quotes.seq // 256 % len(TRADE_CONDITIONS)],
    )
    return trades.take((trades.stamps >= nanoseconds(start)) & (trades.stamps < nanoseconds(min(end, now))))


def _followed(trades: Trades, listing: Listing, contract: Contract, start: datetime, end: datetime) -> Trades:
    """The trades of the share that this contract is quoted after."""
    if not len(trades):
        return trades
    chosen = (trades.seq + crc32(contract.ticker.encode()) // 977) % QUOTED_EVERY == 0
    kept = np.zeros(len(trades), dtype=np.bool_)
    calendar = trading_calendar(listing.mic, end)
    for stretch in stretches(listing.mic, start, end):
        times = calendar.times(stretch.session)
        if calendar.local_date(stretch.starts) <= contract.expires:
            opens, closes = nanoseconds(times.opens + stretch.shift), nanoseconds(times.closes + stretch.shift)
            kept |= (trades.stamps >= opens) & (trades.stamps < min(closes, nanoseconds(stretch.ends)))
    return trades.take(chosen & kept)


def _value(contract: Contract, trades: Trades) -> Floats:
    price = trades.price
    worth = np.maximum(price - contract.strike if contract.right == "call" else contract.strike - price, 0.0)
    day = trades.stamps.astype("datetime64[ns]").astype("datetime64[D]")
    left = np.maximum((np.datetime64(contract.expires) - day).astype(np.int64), 1) / 365
    away = np.exp(-np.abs(price - contract.strike) / price * 4)
    return np.asarray(np.maximum(worth + 0.4 * price * VOLATILITY * np.sqrt(left) * away, 0.01))
