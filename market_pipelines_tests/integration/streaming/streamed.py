"""What a stream would have left in the lake: the simulator's true trades of a session, as segments of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta

import numpy as np
import pyarrow as pa

from market_pipelines.market.live import SCHEMAS
from market_pipelines.market.records import TickKind
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.ticks import lake_of
from market_pipelines.simulator.minutes import Minutes, minutes_of
from market_pipelines.simulator.ticks import trades_of
from market_pipelines.store.lake import Streamed, list_segments
from market_pipelines.store.lake_columns import encoded
from market_pipelines_tests.faults.house import House

FEED, STREAM = "simulated-polygon", "us-polygon"


def true_trades(house: House, symbol: str, session: date) -> pa.Table:
    """As the decoder gives them: heard ten milliseconds after they happened."""
    zone = trading_calendar("XNYS").zone
    start = datetime.combine(session, time(), zone).astimezone(UTC)
    listing = house.simulator.world.find(symbol, "XNYS")
    assert listing is not None
    made = trades_of(house.simulator.world, listing, start, start + timedelta(days=1), house.clock())
    return pa.table(
        {
            "symbol": [symbol] * len(made),
            "ts": pa.array(made.stamps, pa.timestamp("ns", tz="UTC")),
            "received_at": pa.array(made.stamps + 10_000_000, pa.timestamp("ns", tz="UTC")),
            "seq": pa.array(made.seq),
            "price": pa.array(made.price),
            "size": pa.array(made.size),
            "exchange": [str(venue) for venue in made.venue],
            "trade_id": [str(number) for number in made.seq],
            "conditions": made.conditions.tolist(),
            "correction": pa.array(np.zeros(len(made), dtype=np.int64)),
            "feed": [FEED] * len(made),
            "marks": pa.array(np.zeros(len(made), dtype=np.int32)),
        },
        schema=SCHEMAS[TickKind.TRADES],
    )


def true_minutes(house: House, symbol: str, session: date) -> Minutes:
    listing = house.simulator.world.find(symbol, "XNYS")
    assert listing is not None
    return minutes_of(house.simulator.world, listing, session, session, house.clock(), extended=True)


def stream_into_lake(
    house: House, table: pa.Table, session: date, name: str = "s1", kind: TickKind = TickKind.TRADES, market: str = "us"
) -> None:
    segment = lake_of(house.platform).put(
        encoded(table, kind),
        kind,
        feed=str(table["feed"][0].as_py()),
        market=market,
        session=session,
        name=name,
        source=STREAM,
        at=house.clock(),
        streamed=Streamed(STREAM, 1, 1000),
    )
    with house.platform.database.connection() as connection:
        list_segments(connection, [segment])


def stream_session(house: House, symbols: Sequence[str], session: date) -> pa.Table:
    """Of a stream that had begun before the session."""
    table = pa.concat_tables([true_trades(house, symbol, session) for symbol in symbols])
    stream_into_lake(house, table.slice(0, 1), session - timedelta(days=90), "earlier")
    stream_into_lake(house, table, session)
    return table
