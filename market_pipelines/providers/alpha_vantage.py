"""Alpha Vantage: one endpoint, every failure with status 200, numbers as text, prices as traded.

Daily bars are asked for as CSV, which parses several times faster; the answer may still be JSON, which is how
refusals come, and archived JSON answers are understood as well. The key travels in the query string and is
echoed in some refusals.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from typing import Any, Self

import msgspec
import numpy as np
import pyarrow as pa
from pydantic import SecretStr

from market_pipelines.market.actions import ActionKind, Basis, CorporateAction
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.answers import (
    decoded,
    malformed,
    no_data,
    one_line,
    retry_after,
    shown,
    unfit_csv,
)
from market_pipelines.providers.frames import (
    Days,
    Flags,
    Floats,
    days_of,
    deliver,
    floats_of,
    read_csv,
    sessions_back,
)
from market_pipelines.providers.protocol import Answer, Call, DailyQuery, Parsed
from market_pipelines.providers.symbols import Spelling
from market_pipelines.redaction import MASK, register_secret
from market_pipelines.settings import Settings

PUBLIC_ADDRESS = "https://www.alphavantage.co"
ANSWER_FORMAT = "json"
"""CSV is a third of the size, but only JSON names its symbol, and an answer about another one must not pass."""
NO_KEY = "keyless"
"""Sent to another address when no key is set, because an empty parameter is refused before anything is read."""
QUOTA_ZONE = "US/Eastern"
"""Not documented by the provider: the zone of its data and of its office."""
COMPACT_SESSIONS = 100
"""How far `outputsize=compact` reaches back. The full history is sold separately."""
SECONDS_AFTER_BURST = 1.0
SECONDS_AFTER_MINUTE_LIMIT = 60.0
MARKET_CLOSES = "16:00:00"
"""Eastern time. A series refreshed earlier in the day ends with a bar that still moves."""

_NOTICES = ("Error Message", "Information", "Note", "message", "detail")
_SERIES = "Time Series (Daily)"
_FILE_NAME = re.compile(r"(?i)daily_(?:adjusted_)?(.+)\.csv")
_ECHOED_KEY = re.compile(r"(?i)(api key as )\S+")
_LIMIT_WORDS = ("rate limit", "requests per day", "more sparingly", "call frequency", "calls per ")
_BURST_WORDS = ("sparingly", "per second", "per-second")
_NULLS = ["", "null", "None", "NaN", "nan"]

_DAILY = {"timestamp": "session", **{name: name for name in ("open", "high", "low", "close", "volume")}}
_ADJUSTED = {
    **{name: _DAILY[name] for name in ("timestamp", "open", "high", "low", "close")},
    "adjusted_close": "adjusted",
    "volume": "volume",
    "dividend_amount": "dividend",
    "split_coefficient": "split",
}
_LAYOUTS = {",".join(layout).encode(): list(layout.values()) for layout in (_DAILY, _ADJUSTED)}


class _Row(msgspec.Struct, gc=False):
    """One day of JSON, of either layout: they number volume differently, and one has more after it."""

    open: float | None = msgspec.field(name="1. open")
    high: float | None = msgspec.field(name="2. high")
    low: float | None = msgspec.field(name="3. low")
    close: float | None = msgspec.field(name="4. close")
    volume: float | None = msgspec.field(name="5. volume", default=None)
    adjusted_volume: float | None = msgspec.field(name="6. volume", default=None)
    dividend: float | None = msgspec.field(name="7. dividend amount", default=None)
    split: float | None = msgspec.field(name="8. split coefficient", default=None)


class _MetaData(msgspec.Struct):
    symbol: str = msgspec.field(name="2. Symbol")
    refreshed: str = msgspec.field(name="3. Last Refreshed", default="")


# Numbers are text; the decoder turns them into floats and refuses other text.
_top_level = msgspec.json.Decoder(dict[str, msgspec.Raw])
_series = msgspec.json.Decoder(dict[str, _Row], strict=False)
_meta_data = msgspec.json.Decoder(_MetaData)


class AlphaVantage:
    name = "alpha_vantage"
    basis = Basis.TRADED
    quota_zone = QUOTA_ZONE

    _spelling = Spelling("alpha_vantage", {"XNYS": "", "XLON": ".LON"}, lists_indices=False)

    def __init__(self, key: SecretStr | None, base_url: str = PUBLIC_ADDRESS) -> None:
        if key is not None:
            register_secret(key.get_secret_value())
        self._key = key
        self.base_url = base_url.rstrip("/")

    @classmethod
    def from_settings(cls, settings: Settings, base_url: str | None = None) -> Self:
        address = base_url or settings.alpha_vantage_base_url or PUBLIC_ADDRESS
        return cls(settings.alpha_vantage_api_key, address)

    def covers(self, instrument: Instrument) -> bool:
        return self._spelling.covers(instrument)

    def native_symbol(self, instrument: Instrument) -> str:
        return self._spelling.native(instrument)

    def canonical_symbol(self, native: str, mic: str) -> str:
        return self._spelling.canonical(native, mic)

    def ready(self) -> str:
        if self._key is None and self.base_url == PUBLIC_ADDRESS:
            return "ALPHA_VANTAGE_API_KEY is not set"
        return ""

    def daily_call(self, query: DailyQuery) -> Call:
        reach = sessions_back(query.instrument.mic, query.start, query.today)
        compact = reach is not None and reach <= COMPACT_SESSIONS
        without_key = {"apikey": NO_KEY} if self._key is None else {}
        return Call(
            provider=self.name,
            endpoint="TIME_SERIES_DAILY",
            url=f"{self.base_url}/query",
            params={
                "function": "TIME_SERIES_DAILY",
                "symbol": self.native_symbol(query.instrument),
                "outputsize": "compact" if compact else "full",
                "datatype": ANSWER_FORMAT,
                **without_key,
            },
            secret_params={"apikey": self._key} if self._key is not None else {},
            secret_origin=self.base_url,
        )

    def parse_daily(self, answer: Answer, query: DailyQuery) -> Parsed:
        body = answer.body.removeprefix(b"\xef\xbb\xbf").lstrip()
        notice = _notice_in(body) if answer.status != 0 else None
        if notice is not None:
            return self._judge_notice(*notice, answer)
        refusal = no_data(answer)
        if refusal is not None:
            return refusal
        try:
            if body.startswith(b"{"):
                return self._parse_json(body, answer, query)
            return self._parse_csv(body, answer, query)
        except (msgspec.MsgspecError, ValueError, pa.ArrowException) as error:
            return malformed(f"the answer cannot be read: {error}")

    def _judge_notice(self, kind: str, text: str, answer: Answer) -> Parsed:
        outcome, seconds = _meaning(kind, text)
        if outcome is Outcome.THROTTLED:
            seconds = max(seconds or 0.0, retry_after(answer) or 0.0)
        if self._key is not None:
            text = text.replace(self._key.get_secret_value(), MASK)
        return Parsed(outcome, one_line(_ECHOED_KEY.sub(rf"\g<1>{MASK}", text)), retry_after=seconds)

    def _parse_json(self, body: bytes, answer: Answer, query: DailyQuery) -> Parsed:
        top = _top_level.decode(body)
        if not top:
            return Parsed(Outcome.UNKNOWN_SYMBOL, "an empty object, as for a symbol that is not listed")
        if _SERIES not in top or "Meta Data" not in top:
            return malformed(f"no daily series, but {', '.join(list(top)[:4])}")
        meta = _meta_data.decode(top["Meta Data"])
        expected = self.native_symbol(query.instrument)
        if meta.symbol.upper() != expected.upper():
            return malformed(f"asked for {expected}, the answer is about {one_line(meta.symbol)}")
        raw = bytes(top[_SERIES])
        named = _series.decode(raw)
        days, rows = list(named), list(named.values())
        if raw.count(b'"1. open"') != len(rows):
            days, rows = _with_repeated_days(raw)
        columns = {
            name: np.array([getattr(row, name) for row in rows], dtype=np.float64)
            for name in ("open", "high", "low", "close", "volume")
        }
        if any(row.split is not None for row in rows):
            columns["volume"] = np.array([row.adjusted_volume for row in rows], dtype=np.float64)
            columns["dividend"] = np.array([row.dividend for row in rows], dtype=np.float64)
            columns["split"] = np.array([row.split for row in rows], dtype=np.float64)
        dates = days_of(pa.chunked_array([days], pa.string()).cast(pa.date32()))
        day, _, clock = meta.refreshed.partition(" ")
        live = np.array(days, dtype=np.str_) == day if clock and clock < MARKET_CLOSES else None
        return _delivered(answer, query, dates, columns, live)

    def _parse_csv(self, body: bytes, answer: Answer, query: DailyQuery) -> Parsed:
        header = body.split(b"\n", 1)[0].strip()
        layout = _LAYOUTS.get(header)
        if layout is None:
            return malformed(f"not the header of daily bars: {shown(header)}")
        unfit = unfit_csv(answer, _FILE_NAME, self.native_symbol(query.instrument))
        if unfit is not None:
            return unfit
        types = {name: pa.date32() if name == "session" else pa.float64() for name in layout}
        table = read_csv(body, types, ",", _NULLS)
        dates = days_of(table["session"])
        if len(dates) >= 10 and np.abs(np.diff(dates)).min() >= np.timedelta64(5, "D"):
            return malformed("weekly or monthly bars instead of daily ones")
        columns = {name: floats_of(table[name]) for name in layout if name != "session"}
        return _delivered(answer, query, dates, columns)


def _delivered(
    answer: Answer,
    query: DailyQuery,
    dates: Days,
    columns: Mapping[str, Floats],
    live: Flags | None = None,
) -> Parsed:
    actions: tuple[CorporateAction, ...] = ()
    adjusted = "split" in columns
    if adjusted:
        actions = _actions(query.instrument.symbol, dates, columns["dividend"], columns["split"])
        actions = tuple(action for action in actions if action.ex_date >= query.start)
    known = adjusted and len(dates) > 0 and bool(dates.min() <= np.datetime64(query.start, "D"))
    return deliver(query, answer, dates, columns, live=live, actions=actions, actions_known=known)


def _actions(symbol: str, dates: Days, dividends: Floats, splits: Floats) -> tuple[CorporateAction, ...]:
    """Both are noted on the row of the ex-date, dividends as paid."""
    found = {
        CorporateAction(symbol, dates[row].astype(object), kind, float(amounts[row]))
        for kind, amounts, nothing in ((ActionKind.DIVIDEND, dividends, 0.0), (ActionKind.SPLIT, splits, 1.0))
        for row in np.flatnonzero((amounts > 0.0) & (amounts != nothing) & np.isfinite(amounts))
    }
    return tuple(sorted(found))


def _with_repeated_days(raw: bytes) -> tuple[list[str], list[_Row]]:
    """Every row of a series that names a day twice, which a dictionary would hide."""
    pairs: list[tuple[str, Any]] = []

    def keep(items: list[tuple[str, Any]]) -> dict[str, Any]:
        pairs[:] = items
        return dict(items)

    # The outermost object is finished last, so its pairs are the ones that stay.
    json.loads(raw, object_pairs_hook=keep)
    return [day for day, _ in pairs], [msgspec.convert(row, _Row, strict=False) for _, row in pairs]


def _notice_in(body: bytes) -> tuple[str, str] | None:
    """Kind and text of a notice to a person, also where it stands beside data or was cut into cells."""
    if body.startswith(b"{"):
        try:
            top = _top_level.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        for kind in _NOTICES:
            if kind in top:
                try:
                    return kind, msgspec.json.decode(top[kind], type=str)
                except msgspec.MsgspecError:
                    return kind, ""
        return None
    if body[1:2] == b"," and body[3:4] == b",":
        return _cut_into_cells(decoded(body))
    return None


def _cut_into_cells(text: str) -> tuple[str, str] | None:
    """A notice that a CSV writer took for a list of letters: its kind is the first line, its text the rest."""
    try:
        lines = ["".join(row) for row in csv.reader(text.splitlines()) if all(len(cell) <= 1 for cell in row)]
    except csv.Error:
        return None
    first = lines[0] if lines else ""
    kind = next((kind for kind in _NOTICES if first and (kind.startswith(first) or first.startswith(kind))), None)
    return (kind, " ".join(lines[1:]) or first) if kind is not None else None


def _meaning(kind: str, text: str) -> tuple[Outcome, float | None]:
    """Limits before premium: a limit's notice advertises premium endpoints too."""
    words = text.lower()
    outcome, seconds = Outcome.MALFORMED, None
    if any(word in words for word in _LIMIT_WORDS):
        return _limit(words)
    if any(word in words for word in ("premium", "apikey", "api key")):
        outcome = Outcome.NOT_ENTITLED
    elif kind == "Error Message" and "invalid api call" in words:
        outcome = Outcome.UNKNOWN_SYMBOL
    elif kind in ("Information", "Note"):
        # Unread or reworded: these two have always been about limits, and asking later does no harm.
        outcome, seconds = Outcome.THROTTLED, SECONDS_AFTER_MINUTE_LIMIT
    return outcome, seconds


def _limit(words: str) -> tuple[Outcome, float | None]:
    if any(word in words for word in _BURST_WORDS):
        return Outcome.THROTTLED, SECONDS_AFTER_BURST
    if "per day" in words and "per minute" not in words:
        return Outcome.QUOTA_EXHAUSTED, None
    return Outcome.THROTTLED, SECONDS_AFTER_MINUTE_LIMIT
