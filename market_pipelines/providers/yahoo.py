"""Yahoo's chart endpoint: unofficial, JSON, prices restated for every later split.

The request always reaches to today, because only then does the body hold every split that its prices were
restated for; the parser undoes them and cuts the rows to the question. Dates come from the exchange's zone by
name: the offset in the body is today's and wrong for half of the year.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from typing import Annotated, Self
from urllib.parse import quote, urlsplit
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pandas as pd

from market_pipelines.market.actions import (
    ActionKind,
    Basis,
    CorporateAction,
    dividends_as_paid,
    split_factors,
)
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.answers import decoded, malformed, no_data, one_line, retry_after
from market_pipelines.providers.frames import Days, Flags, Floats, deliver, empty_outcome
from market_pipelines.providers.protocol import Answer, Call, DailyQuery, Parsed
from market_pipelines.providers.symbols import EXCHANGE_ZONES, Spelling
from market_pipelines.settings import Settings

PUBLIC_ADDRESS = "https://query1.finance.yahoo.com"
REACHES_PRESENT = timedelta(days=7)
"""A body whose last bar is older than this against its own market time was not asked up to its present."""
SETTLES = timedelta(minutes=10)
"""How long after the bell the trades of the closing auction may still be on their way."""
RECENT = timedelta(days=4)
"""After this a live mark means that the answer itself is old: a snapshot from within its session."""
SINGLE_PRECISION = 2.0**-24
RESTATED_PRECISION = 5e-7
"""Restated prices come with six decimals."""
AMOUNT_DECIMALS = 6

_PRICES = ("open", "high", "low", "close")
_BARE_WORD = re.compile(rb"(?<=[\[,:\s])-?(?:Infinity|NaN)(?=[\],}\s])")

Epoch = Annotated[int, msgspec.Meta(ge=-5_000_000_000, le=100_000_000_000)]


class _Period(msgspec.Struct):
    start: Epoch
    end: Epoch


class _TradingPeriod(msgspec.Struct):
    regular: _Period


class _Meta(msgspec.Struct, rename="camel"):
    symbol: str
    currency: str | None = None
    exchange_timezone_name: str = ""
    data_granularity: str = ""
    regular_market_time: Epoch | None = None
    current_trading_period: _TradingPeriod | None = None


class _Quote(msgspec.Struct):
    open: list[float | None] = []
    high: list[float | None] = []
    low: list[float | None] = []
    close: list[float | None] = []
    volume: list[float | None] = []


class _Indicators(msgspec.Struct):
    quote: list[_Quote] = []


class _Dividend(msgspec.Struct):
    amount: float
    date: Epoch


class _Split(msgspec.Struct):
    date: Epoch
    numerator: float
    denominator: float


class _Events(msgspec.Struct):
    dividends: dict[str, _Dividend] = {}
    splits: dict[str, _Split] = {}


class _Result(msgspec.Struct):
    meta: _Meta
    timestamp: list[Epoch] | None = None
    events: _Events | None = None
    indicators: _Indicators = msgspec.field(default_factory=_Indicators)


class _Error(msgspec.Struct):
    code: str | None = None
    description: str | None = None


class _Root(msgspec.Struct):
    """What every endpoint's envelope holds under its own name."""

    result: msgspec.Raw = msgspec.Raw(b"null")
    error: _Error | None = None


_envelope = msgspec.json.Decoder(dict[str, _Root])
_results = msgspec.json.Decoder(list[_Result] | None)


class Yahoo:
    name = "yahoo"
    basis = Basis.TRADED
    quota_zone = "UTC"

    _spelling = Spelling("yahoo", {"XNYS": "", "XWAR": ".WA", "XLON": ".L", "XTKS": ".T"})

    def __init__(self, base_url: str = PUBLIC_ADDRESS) -> None:
        self.base_url = base_url.rstrip("/")

    @classmethod
    def from_settings(cls, settings: Settings, base_url: str | None = None) -> Self:
        return cls(base_url or settings.yahoo_base_url or PUBLIC_ADDRESS)

    def covers(self, instrument: Instrument) -> bool:
        return self._spelling.covers(instrument)

    def native_symbol(self, instrument: Instrument) -> str:
        return self._spelling.native(instrument)

    def canonical_symbol(self, native: str, mic: str) -> str:
        return self._spelling.canonical(native, mic)

    def ready(self) -> str:
        return ""

    def daily_call(self, query: DailyQuery) -> Call:
        zone = EXCHANGE_ZONES.get(query.instrument.mic, ZoneInfo("UTC"))
        last = max(query.end, query.today)
        symbol = quote(self.native_symbol(query.instrument), safe="")
        return Call(
            provider=self.name,
            endpoint="chart",
            url=f"{self.base_url}/v8/finance/chart/{symbol}",
            params={
                "interval": "1d",
                "period1": str(_midnight(query.start, zone)),
                "period2": str(_midnight(last + timedelta(days=1), zone)),
                "includePrePost": "false",
                "events": "div,splits",
            },
        )

    def parse_daily(self, answer: Answer, query: DailyQuery) -> Parsed:
        refusal = _refusal(answer, query) if answer.status != 0 else None
        refusal = refusal or no_data(answer)
        if refusal is not None:
            return refusal
        try:
            chart = _open_envelope(answer.body).get("chart")
            results = _results.decode(chart.result) if chart is not None else None
            if not results:
                return malformed("no chart in the answer")
            return self._read(results[0], answer, query)
        except (msgspec.MsgspecError, ValueError) as error:
            return malformed(f"the answer cannot be read: {error}")

    def _read(self, result: _Result, answer: Answer, query: DailyQuery) -> Parsed:
        meta, stamps = result.meta, result.timestamp
        expected = self.native_symbol(query.instrument)
        if meta.symbol.upper() != expected.upper():
            return malformed(f"asked for {expected}, the answer is about {meta.symbol}")
        if not stamps:
            if meta.currency is None:
                return Parsed(Outcome.UNKNOWN_SYMBOL, f"{expected} has neither a currency nor a bar")
            reason = f"no rows from {query.start} to {query.end}"
            return Parsed(empty_outcome(query, answer.received_at), reason)
        if meta.data_granularity != "1d":
            return malformed(f"asked for daily bars, the answer has '{meta.data_granularity}'")
        zone = _zone(meta.exchange_timezone_name)
        days = _local_days(stamps, zone)
        values = _columns(result, len(stamps))
        actions = _actions(query.instrument.symbol, result.events, zone)
        latest, moving = _latest(stamps, days, meta, zone, answer.received_at)

        priced = ~np.logical_and.reduce([np.isnan(values[name]) for name in _PRICES])
        if (latest & priced).any():
            # The newest day may come twice: stamped with its open, and as it stands now.
            priced &= latest | (days != days[latest][-1])
        days, live = days[priced], latest[priced] & moving
        values = {name: column[priced] for name, column in values.items()}
        return deliver(
            query,
            answer,
            days,
            _as_traded(values, days, query.instrument.symbol, actions),
            live=live,
            actions=tuple(action for action in actions if action.ex_date >= query.start),
            actions_known=_reaches_present(stamps, meta),
        )


def _refusal(answer: Answer, query: DailyQuery) -> Parsed | None:
    """What the body says against an answer, in whichever of the endpoint's envelopes, or as plain text."""
    if answer.body.lstrip().startswith(b"{"):
        try:
            envelope = _open_envelope(answer.body)
        except (msgspec.MsgspecError, ValueError):
            return None
        roots = (envelope[name] for name in ("chart", "finance") if name in envelope)
        error = next((root.error for root in roots if root.error is not None), None)
        if error is None:
            return None
        text = f"{error.code or ''}: {error.description or ''}"
    else:
        text = decoded(answer.body)
        host = urlsplit(answer.headers.get("location", "")).hostname or ""
        if "consent" in host or "guce." in host or "collectConsent" in text:
            return Parsed(Outcome.CHALLENGE, "Yahoo asks for consent to cookies")
    outcome = _meaning(text.lower())
    if outcome is None:
        return None
    if outcome is Outcome.EMPTY_UNEXPECTED:
        outcome = empty_outcome(query, answer.received_at)
    return Parsed(outcome, one_line(text), retry_after=retry_after(answer))


_MEANINGS = (
    ("will be right back", Outcome.UNAVAILABLE),
    ("too many requests", Outcome.THROTTLED),
    ("data doesn't exist", Outcome.EMPTY_UNEXPECTED),
    ("data not available for", Outcome.EMPTY_UNEXPECTED),
    ("requested range must be", Outcome.EMPTY_UNEXPECTED),
    ("no data found", Outcome.UNKNOWN_SYMBOL),
    ("may be delisted", Outcome.UNKNOWN_SYMBOL),
    ("not found:", Outcome.UNKNOWN_SYMBOL),
    ("invalid crumb", Outcome.NOT_ENTITLED),
    ("unauthorized", Outcome.NOT_ENTITLED),
    ("unable to access this feature", Outcome.NOT_ENTITLED),
)


def _meaning(words: str) -> Outcome | None:
    return next((outcome for sign, outcome in _MEANINGS if sign in words), None)


def _open_envelope(body: bytes) -> dict[str, _Root]:
    try:
        return _envelope.decode(body)
    except msgspec.DecodeError:
        # Some writers put bare words where a number is missing; as null they are what they mean.
        repaired = _BARE_WORD.sub(b"null", body)
        if repaired == body:
            raise
        return _envelope.decode(repaired)


def _midnight(day: date, zone: ZoneInfo) -> int:
    return int(datetime.combine(day, time(), tzinfo=zone).timestamp())


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"'{name}' is not a time zone") from error


def _local_days(stamps: list[int], zone: ZoneInfo) -> Days:
    moments = pd.DatetimeIndex(np.array(stamps, dtype="datetime64[s]"), tz="UTC")
    days: Days = moments.tz_convert(zone).tz_localize(None).to_numpy().astype("datetime64[D]")
    return days


def _columns(result: _Result, rows: int) -> dict[str, Floats]:
    if not result.indicators.quote:
        raise ValueError("time stamps without prices")
    cells = result.indicators.quote[0]
    columns = {name: getattr(cells, name) for name in (*_PRICES, "volume")}
    lengths = {name: len(column) for name, column in columns.items() if len(column) != rows}
    if lengths:
        raise ValueError(f"{rows} time stamps, but {lengths}")
    return {name: np.array(column, dtype=np.float64) for name, column in columns.items()}


def _latest(stamps: list[int], days: Days, meta: _Meta, zone: ZoneInfo, received_at: datetime) -> tuple[Flags, bool]:
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
    todays = regular is not None and days[last] == _local_days([regular.start], zone)[0]
    opens, closes = (regular.start, regular.end) if regular is not None and todays else (None, latest_trade)
    flags[last] = latest_trade == stamps[last] != opens or (todays and latest_trade < closes)
    since_close = received_at.timestamp() - closes
    return flags, not SETTLES.total_seconds() <= since_close <= RECENT.total_seconds()


def _reaches_present(stamps: list[int], meta: _Meta) -> bool:
    now = meta.regular_market_time
    return now is not None and now - max(stamps) <= REACHES_PRESENT.total_seconds()


def _actions(symbol: str, events: _Events | None, zone: ZoneInfo) -> tuple[CorporateAction, ...]:
    """The body's events by ex-date. Dividends come restated for later splits, like the prices."""
    splits: dict[date, float] = {}
    dividends: dict[date, float] = {}
    for split in events.splits.values() if events is not None else ():
        ratio = split.numerator / split.denominator if split.denominator > 0 else 0.0
        if not 1e-6 < ratio < 1e6:
            raise ValueError(f"a split of {split.numerator:g} for {split.denominator:g} cannot be undone")
        day = _local_days([split.date], zone)[0].astype(object)
        splits[day] = splits.get(day, 1.0) * ratio
    for dividend in events.dividends.values() if events is not None else ():
        day = _local_days([dividend.date], zone)[0].astype(object)
        dividends[day] = dividends.get(day, 0.0) + dividend.amount
    found = [CorporateAction(symbol, day, ActionKind.SPLIT, ratio) for day, ratio in splits.items() if ratio != 1]
    found += [CorporateAction(symbol, day, ActionKind.DIVIDEND, amount) for day, amount in dividends.items()]
    return tuple(
        replace(action, value=round(action.value, AMOUNT_DECIMALS)) if action.kind is ActionKind.DIVIDEND else action
        for action in sorted(dividends_as_paid(found))
    )


def _as_traded(
    values: Mapping[str, Floats], days: Days, symbol: str, actions: Iterable[CorporateAction]
) -> dict[str, Floats]:
    """Undoes the splits and keeps no digit that single precision or the restating has made up."""
    rows = pd.DataFrame({"symbol": symbol, "session": days.astype("datetime64[s]")})
    factor = 1.0 / split_factors(rows, actions)
    with np.errstate(all="ignore"):
        prices = {name: values[name] * factor for name in _PRICES}
        largest = np.fmax.reduce([np.abs(column) for column in prices.values()])
        error = SINGLE_PRECISION * largest + np.where(factor > 1.0, RESTATED_PRECISION * factor, 0.0)
        decimals = np.nan_to_num(np.floor(-np.log10(2.0 * error)), nan=6.0, posinf=6.0, neginf=2.0)
        scale = 10.0 ** np.clip(decimals, 2.0, 6.0)
        traded = {name: np.rint(column * scale) / scale for name, column in prices.items()}
        volume = values["volume"]
        traded["volume"] = np.where(factor == 1.0, volume, np.rint(volume / factor))
    return traded
