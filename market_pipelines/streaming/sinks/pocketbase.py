"""PocketBase: how every symbol and the market stand, for a front end that subscribes to it. State, never ticks.

A record has an id that follows from what it is about, so writing it again changes nothing. A symbol is written at
most once a batch. PocketBase knows no empty number: 0 means that nothing is known. The collections are made if they
are missing, readable by superusers only until a person opens them; `alerts` is made for later use. Requests go in
batches, which a person has to allow in PocketBase's settings.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any, Self
from urllib.parse import quote

import msgspec
import requests

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.hours import MarketPhase
from market_pipelines.redaction import redact, register_secret
from market_pipelines.settings import Settings
from market_pipelines.streaming.day_book import DayBook, PreviousCloses, Standing, no_closes
from market_pipelines.streaming.entries import Chunk
from market_pipelines.streaming.plan import StreamPlan
from market_pipelines.streaming.sinks.cursor_file import CursorFile
from market_pipelines.streaming.sinks.pocketbase_texts import date_text, nanoseconds_of, nanoseconds_text, record_id
from market_pipelines.streaming.sinks.protocol import Cursor, SinkRefused, SinkUnavailable

TIMEOUT = (5.0, 15.0)
PAGE = 1_000
RENEW_BEFORE = 300.0
"""Seconds before a token's end at which another one is taken."""

_NUMBERS = (
    *("price", "change", "change_percent", "volume", "high", "low", "open"),
    *("bid", "ask", "bid_size", "ask_size", "previous_close"),
)
_TIMES = ("quoted_at", "traded_at", "opened_at", "counted_at")
"""Nanoseconds, as text with nine digits after the point: PocketBase's own dates have three."""

COLLECTIONS: Mapping[str, tuple[Mapping[str, str], tuple[str, ...]]] = {
    "stock_data": (
        {
            **{"market": "text", "symbol": "text", "stream": "text"},
            **dict.fromkeys(_NUMBERS, "number"),
            **{"market_status": "text", "data_source": "text", "session": "text", "timestamp": "date"},
            **dict.fromkeys(_TIMES, "text"),
        },
        ("market", "symbol"),
    ),
    "market_updates": (
        {
            **{"market": "text", "stream": "text", "market_status": "text", "session": "text", "data_source": "text"},
            **dict.fromkeys(("symbols", "advancing", "declining", "unchanged"), "number"),
            "last_update": "date",
        },
        ("stream",),
    ),
    "alerts": (
        {
            **{"user_id": "text", "symbol": "text", "alert_type": "text", "threshold_value": "number"},
            **{"percentage_threshold": "number", "is_active": "bool", "expires_at": "date", "custom_message": "text"},
            **{"severity": "text", "message": "text", "triggered_at": "date"},
        },
        (),
    ),
}
"""Fields by their types, and what is unique together."""


class PocketBaseSink:
    name = "pocketbase"
    collects = 1.0

    def __init__(
        self,
        url: str,
        email: str,
        password: str,
        cursors: CursorFile,
        *,
        stream: str,
        market: MarketDefinition,
        previous_closes: PreviousCloses = no_closes,
    ) -> None:
        self._url = url.rstrip("/")
        self._email = email
        self._password = password
        self._cursors = cursors
        self._stream = stream
        self._market = market
        self._previous_closes = previous_closes
        self._book = DayBook(market.mic, previous_closes)
        self._session: requests.Session | None = None
        self._cursor: Cursor | None = None
        self._token = ""
        self._token_ends = 0.0
        self._requests_a_batch = 1

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        plan: StreamPlan,
        market: MarketDefinition,
        cursors: CursorFile,
        previous_closes: PreviousCloses = no_closes,
    ) -> Self:
        if settings.pocketbase_url is None:
            raise SinkRefused("POCKETBASE_URL is not set")
        password = settings.pocketbase_password.get_secret_value() if settings.pocketbase_password is not None else ""
        return cls(
            settings.pocketbase_url,
            settings.pocketbase_email or "",
            password,
            cursors,
            stream=plan.name,
            market=market,
            previous_closes=previous_closes,
        )

    def open(self) -> Cursor | None:
        if not self._email or not self._password:
            raise SinkRefused("PocketBase needs a superuser: set POCKETBASE_EMAIL and POCKETBASE_PASSWORD")
        self.close()
        self._session = requests.Session()
        self._sign_in()
        self._requests_a_batch = self._allowed_in_a_batch()
        for name, (fields, unique) in COLLECTIONS.items():
            self._make(name, fields, unique)
        self._book = DayBook(self._market.mic, self._previous_closes)
        self._restore()
        self._cursor = self._cursors.read()
        return self._cursor

    def write(self, chunk: Chunk) -> int:
        if self._cursor is not None and self._cursor.journal == chunk.journal and chunk.upto <= self._cursor.position:
            return 0
        changed = self._book.take(chunk) if chunk.rows else []
        if changed:
            phase = self._book.phase(chunk.last_received_ns or time.time_ns())
            records = [("stock_data", self._stock(symbol, phase)) for symbol in changed]
            records.append(("market_updates", self._market_record(phase, chunk.last_received_ns)))
            for start in range(0, len(records), self._requests_a_batch):
                self._put(records[start : start + self._requests_a_batch])
        cursor = Cursor(chunk.journal, chunk.upto)
        self._cursors.write(cursor)
        self._cursor = cursor
        return len(changed)

    def close(self) -> None:
        session, self._session = self._session, None
        self._token = ""
        if session is not None:
            session.close()

    # --- records ---------------------------------------------------------------------------------------------

    def _stock(self, symbol: str, phase: MarketPhase) -> dict[str, Any]:
        standing, update = self._book.standing(symbol), self._book.update(symbol, phase)
        return {
            "id": record_id("stock_data", self._market.name, symbol),
            "stream": self._stream,
            "market": self._market.name,
            "symbol": symbol,
            **{name: getattr(update, name) for name in _NUMBERS},
            "market_status": update.market_status,
            "data_source": update.data_source,
            "session": self._book.day.isoformat() if self._book.day is not None else "",
            "timestamp": date_text(standing.newest),
            **{name: nanoseconds_text(getattr(standing, name)) for name in _TIMES},
        }

    def _market_record(self, phase: MarketPhase, at_ns: int) -> dict[str, Any]:
        moves = []
        source = ""
        for standing in self._book.standings():
            price, source = standing.shown_price, standing.source
            if price is not None and standing.previous_close is not None:
                moves.append(price - standing.previous_close)
        return {
            "id": record_id("market_updates", self._stream),
            "stream": self._stream,
            "market": self._market.name,
            "market_status": phase.value,
            "session": self._book.day.isoformat() if self._book.day is not None else "",
            "data_source": source,
            "symbols": len(self._book),
            "advancing": sum(move > 0 for move in moves),
            "declining": sum(move < 0 for move in moves),
            "unchanged": sum(move == 0 for move in moves),
            "last_update": date_text(at_ns),
        }

    def _restore(self) -> None:
        """What an earlier process had written: a chunk tells of a trade or a quote, a record of both."""
        days: dict[str, list[Standing]] = {}
        for found in self._records():
            try:
                session = str(found.get("session") or "")
                days.setdefault(session and date.fromisoformat(session).isoformat(), []).append(_standing_of(found))
            except ValueError:
                continue  # somebody has changed it by hand: the next tick writes it anew
        if not days or not max(days):
            return
        newest = max(days)
        for session, standings in days.items():
            if session != newest:
                for standing in standings:
                    standing.begin_day()
        self._book.restore((one for group in days.values() for one in group), date.fromisoformat(newest))

    def _records(self) -> Iterator[dict[str, Any]]:
        page = 1
        condition = quote(f"stream = '{self._stream}'")
        while True:
            answer = self._ask(
                "GET", f"/api/collections/stock_data/records?perPage={PAGE}&page={page}&sort=id&filter=({condition})"
            )
            items = answer.get("items", [])
            yield from items
            if len(items) < PAGE:
                return
            page += 1

    # --- collections -----------------------------------------------------------------------------------------

    def _make(self, name: str, fields: Mapping[str, str], unique: Sequence[str]) -> None:
        nothing: dict[str, Any] = {}
        found = self._ask("GET", f"/api/collections/{name}", missing=nothing)
        if found is nothing:
            index = f"CREATE UNIQUE INDEX `idx_{name}` ON `{name}` ({', '.join(f'`{one}`' for one in unique)})"
            self._ask(
                "POST",
                "/api/collections",
                {
                    "name": name,
                    "type": "base",
                    "fields": [*_fields(fields), *_AUTODATES],
                    "indexes": [index] if unique else [],
                },
            )
            return
        try:
            there = {str(field["name"]): str(field["type"]) for field in found["fields"]}
        except (KeyError, TypeError):
            raise SinkUnavailable(f"{self._url} does not tell which fields the collection {name} has") from None
        wrong = [f"{one} is {there[one]}, not {kind}" for one, kind in fields.items() if there.get(one, kind) != kind]
        if wrong:
            raise SinkRefused(
                f"the collection {name} of PocketBase ({self._url}) is not one of ours: {', '.join(wrong)}; rename it"
            )
        missing = {one: kind for one, kind in fields.items() if one not in there}
        if missing:
            self._ask("PATCH", f"/api/collections/{name}", {"fields": [*found["fields"], *_fields(missing)]})

    def _allowed_in_a_batch(self) -> int:
        batch = self._ask("GET", "/api/settings").get("batch")
        if not isinstance(batch, dict):
            raise SinkUnavailable(f"what answers at {self._url} does not speak as PocketBase does: no settings")
        if not batch.get("enabled"):
            raise SinkRefused(
                f"PocketBase ({self._url}) does not allow batch requests; a superuser turns them on in its dashboard "
                "under Settings, Application, Batch API"
            )
        most = batch.get("maxRequests")
        return max(1, most) if isinstance(most, int) else 1

    # --- requests --------------------------------------------------------------------------------------------

    def _put(self, records: Sequence[tuple[str, dict[str, Any]]]) -> None:
        answers = self._ask(
            "POST",
            "/api/batch",
            {
                "requests": [
                    {"method": "PUT", "url": f"/api/collections/{collection}/records?fields=id", "body": record}
                    for collection, record in records
                ]
            },
        ).get("answers")
        if not isinstance(answers, list) or len(answers) != len(records):
            raise SinkUnavailable(f"{self._url} does not say that it stored what was sent")

    def _sign_in(self) -> None:
        answer = self._ask(
            "POST",
            "/api/collections/_superusers/auth-with-password",
            {"identity": self._email, "password": self._password},
            signing_in=True,
        )
        self._token = str(answer.get("token") or "")
        if not self._token:
            raise SinkUnavailable(f"what answers at {self._url} does not speak as PocketBase does: no token")
        register_secret(self._token)
        self._token_ends = _end_of(self._token)

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        missing: dict[str, Any] | None = None,
        signing_in: bool = False,
    ) -> dict[str, Any]:
        """`missing`: what stands for an answer where there is nothing by that address."""
        if self._session is None:
            raise SinkUnavailable(f"PocketBase ({self._url}) is not open")
        if not signing_in and time.time() > self._token_ends - RENEW_BEFORE:
            self._sign_in()
        try:
            answer = self._session.request(
                method,
                self._url + path,
                data=msgspec.json.encode(body) if body is not None else None,
                headers={
                    "content-type": "application/json",
                    **({} if signing_in else {"authorization": self._token}),
                },
                timeout=TIMEOUT,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise SinkUnavailable(f"PocketBase ({self._url}) cannot be reached: {redact(str(error))}") from None
        if answer.status_code == 404 and missing is not None:
            return missing
        if not 200 <= answer.status_code < 300:
            raise self._trouble(answer, signing_in=signing_in)
        try:
            content = msgspec.json.decode(answer.content) if answer.content else {}
        except msgspec.DecodeError:
            raise SinkUnavailable(f"{self._url} answers {method} {path.partition('?')[0]} with no JSON") from None
        return content if isinstance(content, dict) else {"answers": content}

    def _trouble(self, answer: requests.Response, *, signing_in: bool) -> SinkRefused | SinkUnavailable:
        said = redact(" ".join(answer.text.split()))[:500]
        where = f"PocketBase ({self._url})"
        status = answer.status_code
        if 300 <= status < 400:
            elsewhere = redact(answer.headers.get("location", ""))
            return SinkRefused(f"{where} sends us elsewhere ({status}): {elsewhere}; put that into POCKETBASE_URL")
        if status in (408, 429) or status >= 500:
            again = answer.headers.get("retry-after")
            pause = f"; it asks for a pause of {again} s" if again else ""
            return SinkUnavailable(f"{where} cannot take this now ({status}): {said}{pause}")
        if signing_in:
            return SinkRefused(
                f"{where} does not let us in ({status}): {said}; POCKETBASE_EMAIL and POCKETBASE_PASSWORD have to be "
                "those of a superuser"
            )
        if status in (401, 403) or "Only superusers" in said:
            # The token has gone out of date; signing in again tells whether we are welcome at all.
            return SinkUnavailable(f"{where} no longer knows us ({status}): {said}")
        return SinkRefused(f"{where} does not take this ({status}): {said}")


def _standing_of(record: Mapping[str, Any]) -> Standing:
    standing = Standing(str(record.get("symbol", "")), str(record.get("data_source", "")))
    names = ("price", "bid", "ask", "bid_size", "ask_size", "open", "high", "low", "volume", "previous_close")
    for name in names:
        setattr(standing, name, float(record.get(name) or 0) or None)
    for name in _TIMES:
        setattr(standing, name, nanoseconds_of(str(record.get(name) or "")))
    if not standing.traded_at:
        standing.price = None  # the middle of the quote, as it was shown
    return standing


_AUTODATES = (
    {"name": "created", "type": "autodate", "onCreate": True, "onUpdate": False},
    {"name": "updated", "type": "autodate", "onCreate": True, "onUpdate": True},
)


def _fields(fields: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"name": name, "type": kind} for name, kind in fields.items()]


def _end_of(token: str) -> float:
    """When a token ends, as it says itself; one that says nothing is taken anew within the hour."""
    try:
        middle = token.split(".")[1]
        claims = msgspec.json.decode(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
        return float(claims["exp"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error, msgspec.DecodeError):
        return time.time() + 3600
