"""Polygon's flat files: a gzip file a session and kind, for all tickers, sorted by ticker and then by time.

Prices are as traded. The close stands before the high; stamps are nanoseconds; a side that nobody quotes is 0.
A file may be published again with late trades in it, which its ETag tells.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta

import numpy as np

from market_pipelines.market.sessions import trading_calendar
from market_pipelines.simulator.formats.asked import Asked
from market_pipelines.simulator.formats.polygon_wire import Active, midnight
from market_pipelines.simulator.formats.reply import Reply
from market_pipelines.simulator.listings import Listing
from market_pipelines.simulator.minutes import minutes_of
from market_pipelines.simulator.ticks import REPORTING_FACILITY, quotes_of, trades_of, trades_per_minute
from market_pipelines.simulator.truth import World

AGGREGATES = "ticker,volume,open,close,high,low,window_start,transactions"
TRADES = (
    "ticker,conditions,correction,exchange,id,participant_timestamp,price,sequence_number,sip_timestamp,size,tape,"
    "trf_id,trf_timestamp"
)
QUOTES = (
    "ticker,ask_exchange,ask_price,ask_size,bid_exchange,bid_price,bid_size,conditions,indicators,"
    "participant_timestamp,sequence_number,sip_timestamp,tape,trf_timestamp"
)
PUBLISHED = timedelta(hours=19)
"""After the session's close: about eleven o'clock the next morning."""
SHARES_A_TRADE = 120
_KEY = re.compile(r"/flatfiles/us_stocks_sip/(\w+_v1)/(\d{4})/(\d\d)/(\d{4})-(\d\d)-(\d\d)\.csv\.gz")
_MISSING = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>NoSuchKey</Code></Error>'

Lines = Iterator[str]


def answer(asked: Asked, world: World, now: datetime, active: Active) -> Reply | None:
    """The object store, without its signatures: a file by its key."""
    if not asked.path.startswith("/flatfiles/"):
        return None
    found = _KEY.fullmatch(asked.path)
    maker = MAKERS.get(found[1]) if found is not None else None
    if found is None or maker is None or found[2] != found[4] or found[3] != found[5]:
        return Reply(404, _MISSING, "application/xml")
    try:
        session = date(int(found[4]), int(found[5]), int(found[6]))
    except ValueError:
        return Reply(404, _MISSING, "application/xml")
    calendar = trading_calendar("XNYS", now)
    if not calendar.is_session(session) or calendar.times(session).closes + PUBLISHED > now:
        return Reply(404, _MISSING, "application/xml")
    listings = [one for one in world.listings if one.spelled_by("polygon") is not None]
    body = flat_file(maker(world, listings, session, now, "republished" in active))
    etag = hashlib.sha256(body).hexdigest()[:32]
    return Reply(200, body, "application/gzip", {"ETag": f'"{etag}"'})


def flat_file(lines: Lines) -> bytes:
    return gzip.compress("".join(lines).encode("ascii"), compresslevel=5, mtime=0)


def day_aggregates(
    world: World, listings: list[Listing], session: date, now: datetime, republished: bool = False
) -> Lines:
    yield AGGREGATES + "\n"
    for listing in _sorted(listings):
        tape = world.tape(listing, now)
        rows = np.flatnonzero(tape.sessions == np.datetime64(session))
        if not len(rows):
            continue
        bar = tape.bars.row(int(rows[0]))
        volume = bar.volume + 100 * republished
        stamp = midnight(session, tape.calendar) * 1_000_000
        prices = f"{bar.open!r},{bar.close!r},{bar.high!r},{bar.low!r}"
        yield f"{listing.symbol},{volume:.0f},{prices},{stamp},{max(int(volume / SHARES_A_TRADE), 1)}\n"


def minute_aggregates(
    world: World, listings: list[Listing], session: date, now: datetime, republished: bool = False
) -> Lines:
    yield AGGREGATES + "\n"
    for listing in _sorted(listings):
        minutes = minutes_of(world, listing, session, session, now, extended=True)
        bars = minutes.bars
        for stamp, volume, opened, closed, high, low, count in zip(
            minutes.stamps.astype("datetime64[ns]").astype(np.int64).tolist(),
            (bars.volume + republished).tolist(),
            bars.open.tolist(),
            bars.close.tolist(),
            bars.high.tolist(),
            bars.low.tolist(),
            trades_per_minute(minutes).tolist(),
            strict=True,
        ):
            yield f"{listing.symbol},{volume:.0f},{opened!r},{closed!r},{high!r},{low!r},{stamp},{count}\n"


def trades(world: World, listings: list[Listing], session: date, now: datetime, republished: bool = False) -> Lines:
    yield TRADES + "\n"
    start, end = _whole_day(session)
    for listing in _sorted(listings):
        found = trades_of(world, listing, start, end, now)
        for stamp, seq, price, size, venue, conditions in zip(
            found.stamps.tolist(),
            found.seq.tolist(),
            found.price.tolist(),
            (found.size + republished).tolist(),
            found.venue.tolist(),
            found.conditions.tolist(),
            strict=True,
        ):
            quoted = f'"{conditions}"' if "," in conditions else conditions
            facility = (202, stamp - 31_001) if venue == REPORTING_FACILITY else (0, 0)
            yield (
                f"{listing.symbol},{quoted},0,{venue},{seq},{stamp - 213_457},{price!r},{seq},{stamp},{size:.6f},3,"
                f"{facility[0]},{facility[1]}\n"
            )


def quotes(world: World, listings: list[Listing], session: date, now: datetime, republished: bool = False) -> Lines:
    yield QUOTES + "\n"
    start, end = _whole_day(session)
    for listing in _sorted(listings):
        found = quotes_of(world, listing, start, end, now)
        for stamp, seq, bid, ask, bid_size, ask_size, bid_venue, ask_venue in zip(
            found.stamps.tolist(),
            found.seq.tolist(),
            found.bid.tolist(),
            found.ask.tolist(),
            (found.bid_size + 100 * republished).tolist(),
            found.ask_size.tolist(),
            found.bid_venue.tolist(),
            found.ask_venue.tolist(),
            strict=True,
        ):
            yield (
                f"{listing.symbol},{ask_venue},{ask!r},{ask_size:.0f},{bid_venue},{bid!r},{bid_size:.0f},1,,"
                f"{stamp - 188_003},{seq},{stamp},3,0\n"
            )


def _sorted(listings: list[Listing]) -> list[Listing]:
    return sorted(listings, key=lambda listing: listing.symbol)


def _whole_day(session: date) -> tuple[datetime, datetime]:
    """From six in the morning in London, when New York's evening is over, to the same of the next day."""
    start = datetime(session.year, session.month, session.day, 6, tzinfo=UTC)
    return start, start + timedelta(days=1)


MAKERS: dict[str, Callable[[World, list[Listing], date, datetime, bool], Lines]] = {
    "day_aggs_v1": day_aggregates,
    "minute_aggs_v1": minute_aggregates,
    "trades_v1": trades,
    "quotes_v1": quotes,
}
