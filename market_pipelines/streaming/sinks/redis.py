"""Redis (and Valkey): every tick published on its symbol's channel and kept in one stream, the newest by symbol.

All of a batch and the cursor are applied by one script, so that a batch is there as a whole or not at all, and
once. A chunk that is too large for one script goes in pieces; the cursor then tells how many rows of each kind are
there already, and a digest of them, because a journal that is read again may cut its chunks elsewhere. How long
Redis itself keeps what it was told is a matter of its own settings (`appendonly`, `maxmemory-policy`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from market_pipelines.market.live import TickMark
from market_pipelines.market.records import TickKind
from market_pipelines.redaction import redact
from market_pipelines.settings import Settings
from market_pipelines.streaming.entries import Chunk
from market_pipelines.streaming.plan import StreamPlan
from market_pipelines.streaming.sinks.protocol import Cursor, SinkRefused, SinkUnavailable
from market_pipelines.streaming.sinks.records import CHANNELS, frame_of, iso, record

if TYPE_CHECKING:
    from redis import Redis

_log = structlog.stdlib.get_logger("market_pipelines.streaming")

STREAM = "ticks"
KEPT = 500_000
"""Entries that the stream keeps, about: a hundred megabytes."""
ROWS_A_SCRIPT = 2_000
"""Redis serves nobody else while a script runs; with so many rows that is about ten milliseconds."""
SECONDS_TO_CONNECT = 5.0
SECONDS_TO_ANSWER = 10.0

_FOR_A_PERSON = ("NOAUTH", "WRONGPASS", "WRONGTYPE", "unknown command", "The user executing the script")
"""In errors that do not pass by themselves."""

_KINDS = (TickKind.QUOTES, TickKind.TRADES, TickKind.SNAPSHOTS, TickKind.AGGREGATES, TickKind.BANDS)
_UNFIT = int(TickMark.OUTLIER | TickMark.CONDITION | TickMark.CORRECTED | TickMark.FUTURE | TickMark.NOT_POSITIVE)
_UNFIT_QUOTE = int(TickMark.OUTLIER | TickMark.FUTURE)

_SCRIPT = """
local stored = redis.call('GET', KEYS[1]) or ''
if stored ~= ARGV[1] then return stored end
local at, rows, market = 6, tonumber(ARGV[4]), ARGV[5]
for _ = 1, rows do
  local channel, record = ARGV[at], ARGV[at + 1]
  redis.call('PUBLISH', channel, record)
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'channel', channel, 'record', record, 'market', market)
  at = at + 2
end
while ARGV[at] do
  local symbol, clock, time, fields = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
  at = at + 4
  for _, key in ipairs({'latest:' .. symbol, 'latest:' .. market .. ':' .. symbol}) do
    local whose = redis.call('HGET', key, 'market') or market
    if whose == market and (redis.call('HGET', key, clock) or '') <= time then
      redis.call('HSET', key, 'market', market, clock, time)
      for place = at, at + 2 * fields - 2, 2 do
        if ARGV[place + 1] == '' then
          redis.call('HDEL', key, ARGV[place])
        else
          redis.call('HSET', key, ARGV[place], ARGV[place + 1])
        end
      end
    end
  end
  at = at + 2 * fields
end
redis.call('SET', KEYS[1], ARGV[2])
return ARGV[2]
"""
"""Does nothing unless the cursor is the expected one: an answer that got lost on the way is not applied twice.
`latest:<SYMBOL>` belongs to the market that was there first: a namesake of another market is another security, and is
found under its market alone."""


class _Stored(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The cursor as Redis keeps it."""

    journal: str
    position: int | None = None
    """None: not one chunk is there as a whole."""
    done: dict[str, int] = {}
    """Of the chunk after `position`: so many rows of each kind are there."""
    digests: dict[str, str] = {}


class _Piece(msgspec.Struct, frozen=True):
    arguments: list[str]
    rows: int
    done: dict[str, int]
    digests: dict[str, str]


class RedisSink:
    name = "redis"

    def __init__(
        self, url: str, stream: str, *, market: str, kept: int = KEPT, rows_a_script: int = ROWS_A_SCRIPT
    ) -> None:
        self._url = url
        self._where = _address(url)
        self._cursor_key = f"market_pipelines:cursor:{stream}"
        self._market = market
        self._kept = kept
        self._rows_a_script = rows_a_script
        self._client: Redis | None = None
        self._raw = ""
        """The cursor as it stands in Redis, letter by letter."""

    @classmethod
    def from_settings(cls, settings: Settings, plan: StreamPlan) -> Self:
        if settings.redis_url is None:
            raise SinkRefused("REDIS_URL is not set")
        return cls(settings.redis_url.get_secret_value(), plan.name, market=plan.market)

    def open(self) -> Cursor | None:
        try:
            import redis  # noqa: PLC0415 (an extra)
            from redis.backoff import NoBackoff  # noqa: PLC0415
            from redis.retry import Retry  # noqa: PLC0415
        except ImportError:
            raise SinkRefused(
                "the redis package is not installed; pip install 'market_pipelines[redis]' or leave REDIS_URL empty"
            ) from None
        self.close()
        try:
            self._client = redis.Redis.from_url(
                self._url,
                socket_connect_timeout=SECONDS_TO_CONNECT,
                socket_timeout=SECONDS_TO_ANSWER,
                retry=Retry(NoBackoff(), 0),  # whoever owns the sink tries again
                decode_responses=True,
            )
        except (ValueError, TypeError) as error:
            raise SinkRefused(f"REDIS_URL ({self._where}) is not understood: {redact(str(error))}") from None
        self._script = self._client.register_script(_SCRIPT)
        stored = self._stored()
        if stored is None or stored.position is None:
            return None
        return Cursor(stored.journal, stored.position)

    def write(self, chunk: Chunk) -> int:
        stored = self._parsed()
        if stored is not None and stored.journal == chunk.journal and stored.position is not None:
            if chunk.upto <= stored.position:
                return 0
            if chunk.after < stored.position:
                raise SinkUnavailable(
                    f"a chunk begins after {chunk.after}, but Redis ({self._where}) has everything up to "
                    f"{stored.position}; the stream goes on from there"
                )
        before = stored if stored is not None and stored.journal == chunk.journal else None
        position = before.position if before is not None else None
        rows = 0
        pieces = list(self._pieces(chunk, before))
        for piece in pieces[:-1]:
            self._apply(
                _Stored(journal=chunk.journal, position=position, done=piece.done, digests=piece.digests), piece
            )
            rows += piece.rows
        self._apply(_Stored(journal=chunk.journal, position=chunk.upto), pieces[-1])
        return rows + pieces[-1].rows

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    # --- one script ------------------------------------------------------------------------------------------

    def _apply(self, cursor: _Stored, piece: _Piece) -> None:
        fresh = msgspec.json.encode(cursor).decode()
        answer = self._asked(
            lambda: self._script(
                keys=[self._cursor_key, STREAM],
                args=[self._raw, fresh, self._kept, piece.rows, self._market, *piece.arguments],
            )
        )
        if answer != fresh:
            raise SinkUnavailable(
                f"Redis ({self._where}) no longer has the cursor that was written last: it was emptied or restarted, "
                f"or another stream writes there by the name of this one ({self._cursor_key})"
            )
        self._raw = fresh

    def _stored(self) -> _Stored | None:
        self._raw = str(self._asked(lambda: self._connection.get(self._cursor_key)) or "")
        return self._parsed()

    def _parsed(self) -> _Stored | None:
        if not self._raw:
            return None
        try:
            return msgspec.json.decode(self._raw, type=_Stored)
        except msgspec.DecodeError as error:
            raise SinkRefused(
                f"the key {self._cursor_key} of Redis ({self._where}) is not a cursor ({error}); "
                "delete it to start that sink anew"
            ) from None

    @property
    def _connection(self) -> Redis:
        if self._client is None:
            raise SinkUnavailable(f"Redis ({self._where}) is not open")
        return self._client

    def _asked(self, question: Any) -> Any:
        import redis.exceptions as said  # noqa: PLC0415 (an extra, which is there by now)

        try:
            return question()
        except (said.AuthenticationError, said.NoPermissionError, said.AuthorizationError) as error:
            raise SinkRefused(
                f"Redis ({self._where}) does not let us in: {redact(str(error))}; put it right in REDIS_URL"
            ) from None
        except (said.MovedError, said.AskError, said.ClusterDownError, said.ClusterCrossSlotError) as error:
            raise SinkRefused(
                f"Redis ({self._where}) is a cluster ({redact(str(error))}), and a batch is one script over many keys, "
                "which a cluster does not take: name a Redis by itself in REDIS_URL"
            ) from None
        except said.ResponseError as error:
            text = redact(str(error))
            if any(word in text for word in _FOR_A_PERSON):
                raise SinkRefused(f"Redis ({self._where}) does not take this: {text}") from None
            raise SinkUnavailable(f"Redis ({self._where}) cannot take this now: {text}") from None
        except UnicodeDecodeError:
            raise SinkRefused(
                f"the key {self._cursor_key} of Redis ({self._where}) is no cursor; delete it to start that sink anew"
            ) from None
        except (said.RedisError, OSError) as error:
            raise SinkUnavailable(f"Redis ({self._where}) cannot be reached: {redact(str(error))}") from None

    # --- a chunk in pieces -----------------------------------------------------------------------------------

    def _pieces(self, chunk: Chunk, before: _Stored | None) -> Iterator[_Piece]:
        """At least one. What is in Redis already is left out."""
        done = self._already(chunk, before)
        progress = {kind: _Progress(chunk.table(kind), kind) for kind in _KINDS if len(chunk.table(kind))}
        for kind, count in done.items():
            progress[kind].advance(count)
        newest = list(_slices(self._newest(chunk), self._rows_a_script))
        for place, rest in zip_longest(list(self._places(chunk, done)) or [[]], newest):
            arguments: list[str] = []
            rows = 0
            for kind, start, stop in place or ():
                arguments += _rows(chunk, kind, start, stop - start)
                progress[kind].advance(stop)
                rows += stop - start
            if rest is not None:
                arguments += [text for item in rest for text in item]
            yield _Piece(
                arguments,
                rows,
                {kind.value: each.upto for kind, each in progress.items() if each.upto},
                {kind.value: each.digest() for kind, each in progress.items() if each.upto},
            )

    def _places(self, chunk: Chunk, done: Mapping[TickKind, int]) -> Iterator[list[tuple[TickKind, int, int]]]:
        """Which rows go together, at most so many as one script takes."""
        piece: list[tuple[TickKind, int, int]] = []
        room = self._rows_a_script
        for kind in _KINDS:
            start, end = done.get(kind, 0), len(chunk.table(kind))
            while start < end:
                stop = min(end, start + room)
                piece.append((kind, start, stop))
                room -= stop - start
                start = stop
                if not room:
                    yield piece
                    piece, room = [], self._rows_a_script
        if piece:
            yield piece

    def _already(self, chunk: Chunk, before: _Stored | None) -> dict[TickKind, int]:
        if before is None or not before.done:
            return {}
        for name, count in before.done.items():
            kind = TickKind(name)
            table = chunk.table(kind)
            if count > len(table) or _digest(table, kind, count) != before.digests.get(name):
                _log.warning(
                    "part of a batch is in Redis already, but the journal gives it differently now; it is sent again",
                    rows=sum(before.done.values()),
                )
                return {}
        return {TickKind(name): count for name, count in before.done.items()}

    def _newest(self, chunk: Chunk) -> list[list[str]]:
        """For `latest:…`: symbol, the field with its time, the time, how many fields, the fields."""
        found: list[list[str]] = []
        for kind, (clock, fields) in _LATEST.items():
            frame = frame_of(chunk, kind)
            unfit = _UNFIT_QUOTE if kind in (TickKind.QUOTES, TickKind.BANDS) else _UNFIT
            frame = frame.filter(pl.col("marks") & unfit == 0)
            if not len(frame):
                continue
            order = ("ts", "seq") if "seq" in frame.columns else ("ts",)
            last = frame.sort(*order, maintain_order=True).group_by("symbol").last()
            texts = last.select(
                pl.col("symbol"),
                pl.lit(clock).alias("clock"),
                iso(pl.col("ts")).alias("time"),
                pl.lit(str(len(fields))).alias("fields"),
                *_pairs(fields),
            )
            found += [list(row) for row in texts.iter_rows()]
        return found


_LATEST: Mapping[TickKind, tuple[str, Sequence[str]]] = {
    TickKind.QUOTES: ("quoted_at", ("bid", "ask", "bid_size", "ask_size", "feed")),
    TickKind.TRADES: ("traded_at", ("price", "size", "feed")),
    TickKind.SNAPSHOTS: (
        "seen_at",
        ("price", "bid", "ask", "open", "high", "low", "previous_close", "volume", "currency", "feed"),
    ),
    TickKind.BANDS: ("banded_at", ("limit_up", "limit_down", "feed")),
}


def _pairs(fields: Sequence[str]) -> Iterator[pl.Expr]:
    for name in fields:
        yield pl.lit(name).alias(f"{name}:name")
        yield pl.col(name).cast(pl.String).fill_null("").alias(name)


def _rows(chunk: Chunk, kind: TickKind, start: int, count: int) -> list[str]:
    """Channel and record of each row, one after the other."""
    part = Chunk(chunk.journal, chunk.after, chunk.upto, {kind: chunk.table(kind).slice(start, count)})
    channel = pl.format(f"{CHANNELS[kind]}:{{}}", "symbol")
    both = frame_of(part, kind).select(pl.concat_list(channel, record(kind)).explode())
    return [str(text) for text in both.to_series().to_list()]


def _slices(items: list[list[str]], size: int) -> Iterator[list[list[str]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


class _Progress:
    """How many rows of a table have gone, and which they were."""

    def __init__(self, table: pa.Table, kind: TickKind) -> None:
        names = ("start", "end", "received_at") if kind is TickKind.AGGREGATES else ("ts", "received_at", "seq")
        self._columns = [
            pc.cast(table[name], pa.int64()).combine_chunks() for name in names if name in table.column_names
        ]
        self._hashes = [hashlib.blake2b(digest_size=8) for _ in self._columns]
        self.upto = 0

    def advance(self, upto: int) -> None:
        for column, sofar in zip(self._columns, self._hashes, strict=True):
            part = column.slice(self.upto, upto - self.upto)
            sofar.update(part.to_numpy(zero_copy_only=False).tobytes())
        self.upto = upto

    def digest(self) -> str:
        return "".join(sofar.hexdigest() for sofar in self._hashes)


def _digest(table: pa.Table, kind: TickKind, count: int) -> str:
    progress = _Progress(table, kind)
    progress.advance(count)
    return progress.digest()


def _address(url: str) -> str:
    """Where it is, without who we are there."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path
    return f"{parts.hostname}:{parts.port or 6379}{parts.path}"
