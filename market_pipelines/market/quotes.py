"""Which of two quotes is the newer one, and whether a quote can be one at all."""

from __future__ import annotations

from datetime import datetime
from math import isfinite

from market_pipelines.market.records import Quote
from market_pipelines.market.sessions import TradingCalendar


def as_of(quote: Quote, received_at: datetime, calendar: TradingCalendar) -> datetime:
    """The moment that a quote speaks of, no later than it arrived.

    A provider that gives no time of the trade but a session speaks of that session's end once it is past; one that
    gives neither, of the moment of its answer.
    """
    if quote.at is not None:
        return min(quote.at, received_at)
    if quote.session is not None and calendar.is_session(quote.session):
        return min(calendar.times(quote.session).closes, received_at)
    return received_at


def fault(quote: Quote) -> str:
    """Why a quote is not kept; empty for a sound one."""
    if not (isfinite(quote.price) and quote.price > 0):
        return f"the price {quote.price} is not a positive number"
    for name in ("bid", "ask", "open", "high", "low", "previous_close", "volume", "bid_size", "ask_size"):
        value = getattr(quote, name)
        if value is not None and not (isfinite(value) and value >= 0):
            return f"{name} {value} cannot be"
    if quote.bid and quote.ask and quote.bid > quote.ask:
        return f"the bid {quote.bid:g} is above the ask {quote.ask:g}"
    return ""
