"""Daily bars, and the corporate actions that come with them: prices restated for every later split.

The request always reaches to today, because only then does the body hold every split that its prices were
restated for; the parser undoes them and cuts the rows to the question. Dates come from the exchange's zone by
name: the offset in the body is today's and wrong for half of the year. Events are believed from daily bars only:
in those of coarser ones keys and dates can be years apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pandas as pd

from market_pipelines.market.actions import ActionKind, CorporateAction, dividends_as_paid, split_factors
from market_pipelines.providers.answers import malformed, no_data
from market_pipelines.providers.frames import Days, Flags, deliver, empty_outcome
from market_pipelines.providers.protocol import Answer, DailyQuery, Parsed
from market_pipelines.providers.symbols import EXCHANGE_ZONES
from market_pipelines.providers.yahoo.chart import (
    Events,
    Meta,
    Result,
    columns_of,
    local_days,
    midnight,
    price_unit,
    priced_rows,
    read_chart,
    restored,
    zone_named,
)
from market_pipelines.providers.yahoo.envelopes import refusal

REACHES_PRESENT = timedelta(days=7)
"""A body whose last bar is older than this against its own market time was not asked up to its present."""
SETTLES = timedelta(minutes=10)
"""How long after the bell the trades of the closing auction may still be on their way."""
RECENT = timedelta(days=4)
"""After this a live mark means that the answer itself is old: a snapshot from within its session."""
AMOUNT_DECIMALS = 6


def daily_params(query: DailyQuery) -> Mapping[str, str]:
    zone = EXCHANGE_ZONES.get(query.instrument.mic, ZoneInfo("UTC"))
    last = max(query.end, query.today)
    return {
        "interval": "1d",
        "period1": str(midnight(query.start, zone)),
        "period2": str(midnight(last + timedelta(days=1), zone)),
        "includePrePost": "false",
        "events": "div,splits",
    }


def read_daily(answer: Answer, query: DailyQuery, expected: str) -> Parsed:
    refused = refusal(answer, "chart", lambda: empty_outcome(query, answer.received_at)) or no_data(answer)
    if refused is not None:
        return refused
    try:
        result = read_chart(answer.body, expected)
        return result if isinstance(result, Parsed) else _bars(result, answer, query)
    except (msgspec.MsgspecError, ValueError) as error:
        return malformed(f"the answer cannot be read: {error}")


def _bars(result: Result, answer: Answer, query: DailyQuery) -> Parsed:
    meta, stamps = result.meta, result.timestamp
    if not stamps:
        reason = f"no rows from {query.start} to {query.end}"
        return Parsed(empty_outcome(query, answer.received_at), reason)
    if meta.data_granularity != "1d":
        return malformed(f"asked for daily bars, the answer has '{meta.data_granularity}'")
    zone = zone_named(meta.exchange_timezone_name)
    days = local_days(stamps, zone)
    values = columns_of(result, len(stamps))
    unit = price_unit(meta.currency, query.instrument)
    actions = _actions(query.instrument.symbol, result.events, zone, unit)
    latest, moving = _latest(stamps, days, meta, zone, answer.received_at)

    priced = priced_rows(values)
    if (latest & priced).any():
        # The newest day may come twice: stamped with its open, and as it stands now.
        priced &= latest | (days != days[latest][-1])
    days, live = days[priced], latest[priced] & moving
    values = {name: column[priced] for name, column in values.items()}
    rows = pd.DataFrame({"symbol": query.instrument.symbol, "session": days.astype("datetime64[s]")})
    return deliver(
        query,
        answer,
        days,
        restored(values, 1.0 / split_factors(rows, actions), unit),
        live=live,
        actions=tuple(action for action in actions if action.ex_date >= query.start),
        actions_known=_reaches_present(stamps, meta),
    )


def _latest(stamps: list[int], days: Days, meta: Meta, zone: ZoneInfo, received_at: datetime) -> tuple[Flags, bool]:
    """The bar that shows its day as it stood at the latest trade, and whether that was before the end.

    Its mark is a stamp of that trade instead of the session's open, or a session that the body says goes on.
    Yahoo leaves the stamp until the night, and a thin share's latest trade is long before the bell: an answer
    from the hours after the bell is whole all the same.
    """
    flags = np.zeros(len(stamps), dtype=np.bool_)
    latest_trade = meta.regular_market_time
    if latest_trade is None:
        return flags, False
    last = int(np.argmax(stamps))
    regular = meta.current_trading_period.regular if meta.current_trading_period is not None else None
    todays = regular is not None and days[last] == local_days([regular.start], zone)[0]
    opens, closes = (regular.start, regular.end) if regular is not None and todays else (None, latest_trade)
    flags[last] = latest_trade == stamps[last] != opens or (todays and latest_trade < closes)
    since_close = received_at.timestamp() - closes
    return flags, not SETTLES.total_seconds() <= since_close <= RECENT.total_seconds()


def _reaches_present(stamps: list[int], meta: Meta) -> bool:
    now = meta.regular_market_time
    return now is not None and now - max(stamps) <= REACHES_PRESENT.total_seconds()


def _actions(symbol: str, events: Events | None, zone: ZoneInfo, unit: float) -> tuple[CorporateAction, ...]:
    """The body's events by ex-date. Dividends come restated for later splits, like the prices."""
    splits: dict[date, float] = {}
    dividends: dict[date, float] = {}
    for split in events.splits.values() if events is not None else ():
        ratio = split.numerator / split.denominator if split.denominator > 0 else 0.0
        if not 1e-6 < ratio < 1e6:
            raise ValueError(f"a split of {split.numerator:g} for {split.denominator:g} cannot be undone")
        day = local_days([split.date], zone)[0].astype(object)
        splits[day] = splits.get(day, 1.0) * ratio
    for dividend in events.dividends.values() if events is not None else ():
        day = local_days([dividend.date], zone)[0].astype(object)
        dividends[day] = dividends.get(day, 0.0) + dividend.amount * unit
    found = [CorporateAction(symbol, day, ActionKind.SPLIT, ratio) for day, ratio in splits.items() if ratio != 1]
    found += [CorporateAction(symbol, day, ActionKind.DIVIDEND, amount) for day, amount in dividends.items()]
    return tuple(
        replace(action, value=round(action.value, AMOUNT_DECIMALS)) if action.kind is ActionKind.DIVIDEND else action
        for action in sorted(dividends_as_paid(found))
    )
