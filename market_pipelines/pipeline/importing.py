"""Files into the tables: Stooq's bulk zips, Polygon's flat files, IEX charts that somebody kept.

A file is read as a stream, stored batch by batch, and may be interrupted at any point: the next import of the same
file goes on behind the last batch that was committed. What comes out of a file is judged and settled like an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

import pandas as pd

from market_pipelines.market.actions import Basis
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import TickKind
from market_pipelines.market.sessions import TradingCalendar, trading_calendar
from market_pipelines.pipeline.fetch import Attempt
from market_pipelines.pipeline.intraday import settle_intraday
from market_pipelines.pipeline.limiter import Purpose
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.pull import SymbolPull, keep_attempts
from market_pipelines.pipeline.pull_intraday import Asked, keep_intraday
from market_pipelines.pipeline.results import logged_job, new_run_id
from market_pipelines.pipeline.settle import DAILY, settle_daily
from market_pipelines.pipeline.ticks import lake_of
from market_pipelines.providers.iex_cloud.files import DAILY as CHART_DAILY
from market_pipelines.providers.iex_cloud.files import ChartFileError, read_file
from market_pipelines.providers.polygon.flat_files import FlatFileError, FlatKind, read_flat_file
from market_pipelines.providers.protocol import DailyProvider, Parsed
from market_pipelines.providers.stooq.bulk import DAILY as BULK_DAILY
from market_pipelines.providers.stooq.bulk import BulkError, BulkMember, bulk_size, read_bulk
from market_pipelines.store.imports import FileImport, advance, begin, finish, start_over
from market_pipelines.store.reference import write_instruments

BATCH_ROWS = 200_000
FileProgress = Callable[[float, str], None]
"""Called with the share of the file that has been read, and where that is."""


class ImportRefused(Exception):
    """The file cannot be imported. The message says which and why."""


@dataclass
class ImportReport:
    market: str
    kind: str
    file: str
    interval: str
    rows: int = 0
    """Read in this run."""
    stored: int = 0
    quarantined: int = 0
    symbols: set[str] = field(default_factory=set)
    passed_over: int = 0
    """Symbols of the file that are not wanted or cannot be named here."""
    resumed_at: str = ""
    """Where an earlier import of this file had stopped."""
    unreadable: list[str] = field(default_factory=list)
    """Parts of the file that could not be read, and why."""
    complete: bool = False
    """Nothing was left to do: the file had been imported already."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bars of some symbols out of a file, and up to where the file is then read."""

    bars: Mapping[str, pd.DataFrame]
    """By symbol of this house."""
    interval: str
    position: str
    rows: int
    share: float
    """Of the file, read so far."""


@dataclass
class _Names:
    """Whose bars of a file are wanted, and under which name they are kept here."""

    market: MarketDefinition
    provider: DailyProvider
    everything: bool
    wanted: frozenset[str]
    instruments: dict[str, Instrument] = field(default_factory=dict)
    passed_over: set[str] = field(default_factory=set)
    unreadable: list[str] = field(default_factory=list)
    _by_native: dict[str, Instrument] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for one in self.market.everything:
            if self.provider.covers(one):
                self._by_native[self.provider.native_symbol(one)] = one

    def of(self, native: str) -> Instrument | None:
        found = self._by_native.get(native)
        if found is None and (self.everything or self.wanted):
            try:
                symbol = self.provider.canonical_symbol(native, self.market.mic)
            except ValueError:
                symbol = ""
            found = Instrument(symbol, self.market.name, self.market.mic, self.market.currency) if symbol else None
        if found is None or (self.wanted and found.symbol not in self.wanted):
            self.passed_over.add(native)
            return None
        self.instruments.setdefault(found.symbol, found)
        return found


def import_stooq_bulk(
    platform: Platform,
    market: MarketDefinition,
    path: Path,
    *,
    symbols: Sequence[str] = (),
    everything: bool = False,
    again: bool = False,
    progress: FileProgress | None = None,
) -> ImportReport:
    """A zip of `https://stooq.com/db/h/`: daily, hourly or five-minute bars, a member a symbol."""
    names = _Names(market, platform.providers["stooq"], everything, frozenset(symbols))

    def pieces(position: str) -> Iterator[_Piece]:
        count, _ = bulk_size(path)
        for done, member in enumerate(_members(path, position, names), start=1):
            instrument = names.of(member.native)
            bars = {} if instrument is None or member.frame.empty else {instrument.symbol: member.frame}
            interval = DAILY if member.interval == BULK_DAILY else member.interval
            yield _Piece(bars, interval, member.name, len(member.frame), min(1.0, done / count))

    return _import(platform, market, path, "stooq-bulk", names, pieces, again, progress, Basis.SPLIT_DIVIDEND)


def _members(path: Path, position: str, names: _Names) -> Iterator[BulkMember]:
    """All members that can be read; one that cannot is told and does not cost the others."""
    while True:
        try:
            yield from read_bulk(path, after_member=position)
            return
        except BulkError as error:
            if not error.member:
                raise ImportRefused(str(error)) from None
            names.unreadable.append(str(error))
            position = error.member


def import_flat_file(
    platform: Platform,
    market: MarketDefinition,
    path: Path,
    *,
    symbols: Sequence[str] = (),
    everything: bool = False,
    again: bool = False,
    progress: FileProgress | None = None,
) -> ImportReport:
    """A flat file of Polygon/Massive: aggregates of a day or of minutes, trades or quotes, of one session."""
    names = _Names(market, platform.providers["polygon"], everything, frozenset(symbols))
    kind = _flat_kind(path)
    if kind in (FlatKind.TRADES, FlatKind.QUOTES):
        return _import_ticks(platform, market, path, names, again, progress)
    interval = DAILY if kind is FlatKind.DAY_AGGS else "1min"

    def pieces(position: str) -> Iterator[_Piece]:
        for batch in read_flat_file(path, skip_rows=int(position or 0)):
            bars = {}
            for native, rows in batch.frame.groupby("symbol", observed=True, sort=False):
                instrument = names.of(str(native))
                if instrument is not None:
                    bars[instrument.symbol] = rows
            yield _Piece(bars, interval, str(batch.rows_read), len(batch.frame), batch.share)

    return _import(platform, market, path, "massive-flat", names, pieces, again, progress, Basis.TRADED)


def import_iex_chart(
    platform: Platform,
    market: MarketDefinition,
    path: Path,
    symbol: str,
    *,
    again: bool = False,
    progress: FileProgress | None = None,
) -> ImportReport:
    """A chart that IEX Cloud once answered, kept as JSON: its rows do not name their symbol."""
    names = _Names(market, platform.providers["iex_cloud"], True, frozenset({symbol}))
    instrument = next((one for one in market.everything if one.symbol == symbol), None)
    names.instruments[symbol] = instrument or Instrument(symbol, market.name, market.mic, market.currency)

    def pieces(position: str) -> Iterator[_Piece]:
        if not position:
            charts = list(read_file(path, symbol=symbol))
            mine = [chart for chart in charts if chart.native.upper() == symbol]
            for chart in mine:
                interval = DAILY if chart.interval == CHART_DAILY else chart.interval
                yield _Piece({symbol: chart.frame}, interval, "end", len(chart.frame), 1.0)
            if not mine:
                found = ", ".join(chart.native for chart in charts) or "nobody"
                raise ImportRefused(f"{path} is about {found}, not about {symbol}")

    return _import(platform, market, path, "iex-json", names, pieces, again, progress, Basis.TRADED)


@contextmanager
def _refusing() -> Iterator[None]:
    """What a reader says of a file, as this use case says it."""
    try:
        yield
    except (BulkError, ChartFileError, FlatFileError) as error:
        raise ImportRefused(str(error)) from None


def _flat_kind(path: Path) -> FlatKind:
    with _refusing():
        first = next(iter(read_flat_file(path)), None)
    if first is None:
        raise ImportRefused(f"{path} has no rows")
    return first.kind


def _import(
    platform: Platform,
    market: MarketDefinition,
    path: Path,
    kind: str,
    names: _Names,
    pieces: Callable[[str], Iterable[_Piece]],
    again: bool,
    progress: FileProgress | None,
    basis: Basis,
) -> ImportReport:
    scope = "all" if names.everything else ",".join(sorted(names.wanted))
    line = _begun(platform, market, path, kind, scope, again)
    report = ImportReport(market.name, kind, path.name, "", resumed_at=line.position)
    if line.finished_at is not None:
        report.complete = True
        return report
    run_id = new_run_id()
    with logged_job(platform, f"import {kind}", "import", market, []) as job, _refusing():
        waiting: list[_Piece] = []
        for piece in pieces(line.position):
            report.interval = piece.interval
            report.rows += piece.rows
            waiting.append(piece)
            if sum(len(bars) for one in waiting for bars in one.bars.values()) >= BATCH_ROWS:
                _store(platform, market, names, waiting, basis, run_id, line, report)
                waiting = []
                job.processed = report.stored
            if progress is not None:
                progress(piece.share, piece.position)
        if waiting:
            _store(platform, market, names, waiting, basis, run_id, line, report)
        job.processed = report.stored
        with platform.database.connection() as connection:
            finish(connection, line.fingerprint, platform.clock())
    report.passed_over = len(names.passed_over)
    report.unreadable = names.unreadable
    return report


def _begun(platform: Platform, market: MarketDefinition, path: Path, kind: str, scope: str, again: bool) -> FileImport:
    try:
        with platform.database.connection() as connection:
            line = begin(connection, path, kind, market.name, scope, platform.clock())
            if again:
                start_over(connection, line.fingerprint, platform.clock())
                line = begin(connection, path, kind, market.name, scope, platform.clock())
    except OSError as error:
        raise ImportRefused(f"{path} cannot be read: {error.strerror}") from None
    return line


def _store(
    platform: Platform,
    market: MarketDefinition,
    names: _Names,
    pieces: Sequence[_Piece],
    basis: Basis,
    run_id: str,
    line: FileImport,
    report: ImportReport,
) -> None:
    """Judges and settles some pieces, then notes how far the file is read. Done twice, it changes nothing."""
    now = platform.clock()
    calendar = trading_calendar(market.mic, now)
    by_symbol: dict[str, list[pd.DataFrame]] = {}
    for piece in pieces:
        for symbol, rows in piece.bars.items():
            by_symbol.setdefault(symbol, []).append(rows)
    stored = 0
    if by_symbol:
        bars = {
            symbol: pd.concat(rows, ignore_index=True).assign(symbol=pd.Series(symbol, dtype="str").iloc[0])
            for symbol, rows in by_symbol.items()
        }
        pulls = [
            SymbolPull(names.instruments[symbol], frozenset(), [_attempt(names, symbol, rows, basis, calendar, now)])
            for symbol, rows in bars.items()
        ]
        if pieces[-1].interval == DAILY:
            stored, refused = _keep_daily(platform, market, calendar, pulls, bars, run_id, now)
        else:
            stored, refused = _keep_intraday(platform, market, calendar, pulls, bars, pieces[-1].interval, run_id, now)
        report.quarantined += refused
        report.symbols |= set(bars)
    report.stored += stored
    with platform.database.connection() as connection:
        advance(connection, line.fingerprint, pieces[-1].position, sum(one.rows for one in pieces), stored, now)


def _attempt(
    names: _Names, symbol: str, bars: pd.DataFrame, basis: Basis, calendar: TradingCalendar, now: datetime
) -> Attempt:
    """The file's part about one symbol as if it had been answered when its last bar was over: what has happened to
    the share since then is not in it."""
    newest = _days(bars, calendar)[1]
    said_at = min(now, calendar.times(newest).closes) if calendar.is_session(newest) else now
    parsed = Parsed(Outcome.OK, bars=bars)
    name = names.provider.name
    return Attempt(symbol, name, name, Outcome.OK, "", 0, basis, parsed, said_at)


def _days(bars: pd.DataFrame, calendar: TradingCalendar) -> tuple[date, date]:
    if "session" in bars:
        return bars["session"].min().date(), bars["session"].max().date()
    local = bars["ts"].dt.tz_convert(calendar.zone)
    return local.min().date(), local.max().date()


def _keep_daily(
    platform: Platform,
    market: MarketDefinition,
    calendar: TradingCalendar,
    pulls: Sequence[SymbolPull],
    bars: Mapping[str, pd.DataFrame],
    run_id: str,
    now: datetime,
) -> tuple[int, int]:
    spans = [_days(rows, calendar) for rows in bars.values()]
    start = max(market.since, min(first for first, _ in spans))
    end = max(last for _, last in spans)
    verdict = keep_attempts(platform, market, calendar, pulls, start, end, run_id)
    instruments = [pull.instrument for pull in pulls]
    with platform.database.connection() as connection:
        write_instruments(connection, instruments, now)
    settle_daily(platform, market, instruments, start, end, run_id=run_id, known_at=now)
    return len(verdict.clean), verdict.rejected


def _keep_intraday(
    platform: Platform,
    market: MarketDefinition,
    calendar: TradingCalendar,
    pulls: Sequence[SymbolPull],
    bars: Mapping[str, pd.DataFrame],
    interval: str,
    run_id: str,
    now: datetime,
) -> tuple[int, int]:
    spans = [_days(rows, calendar) for rows in bars.values()]
    start, end = min(first for first, _ in spans), max(last for _, last in spans)
    asked = Asked(market, calendar, interval, True, start, end, calendar.local_date(now), Purpose.BACKFILL, run_id)
    verdict = keep_intraday(platform, asked, pulls)
    instruments = [pull.instrument for pull in pulls]
    with platform.database.connection() as connection:
        write_instruments(connection, instruments, now)
    settle_intraday(platform, market, instruments, start, end, interval=interval, run_id=run_id, known_at=now)
    return len(verdict.clean), verdict.rejected


def _import_ticks(
    platform: Platform,
    market: MarketDefinition,
    path: Path,
    names: _Names,
    again: bool,
    progress: FileProgress | None,
) -> ImportReport:
    """Each batch becomes segments of the lake, one a session, named after the file and the place in it."""
    scope = "all" if names.everything else ",".join(sorted(names.wanted))
    line = _begun(platform, market, path, "massive-flat", scope, again)
    report = ImportReport(market.name, "massive-flat", path.name, "ticks", resumed_at=line.position)
    if line.finished_at is not None:
        report.complete = True
        return report
    zone = trading_calendar(market.mic, platform.clock()).zone
    with logged_job(platform, "import massive-flat", "import", market, []) as job, _refusing():
        for batch in read_flat_file(path, skip_rows=int(line.position or 0)):
            kind = TickKind.TRADES if batch.kind is FlatKind.TRADES else TickKind.QUOTES
            natives = batch.frame["symbol"].unique().tolist()
            kept = {native: found.symbol for native in natives if (found := names.of(str(native))) is not None}
            frame = batch.frame[batch.frame["symbol"].isin(list(kept))]
            frame = frame.assign(symbol=frame["symbol"].map(kept).astype("str"))
            now = platform.clock()
            with platform.database.connection() as connection:
                for session, rows in frame.groupby(frame["ts"].dt.tz_convert(zone).dt.date, sort=True):
                    lake_of(platform).write(
                        connection,
                        rows,
                        kind,
                        feed="polygon-flat",
                        market=market.name,
                        session=date.fromisoformat(str(session)),
                        name=f"flat-{line.fingerprint[:16]}-{batch.rows_read:012d}",
                        source=f"file {path.name}",
                        at=now.astimezone(UTC),
                    )
                advance(connection, line.fingerprint, str(batch.rows_read), len(batch.frame), len(frame), now)
            report.rows += len(batch.frame)
            report.stored += len(frame)
            report.symbols |= set(kept.values())
            job.processed = report.stored
            if progress is not None:
                progress(batch.share, f"row {batch.rows_read:,}")
        with platform.database.connection() as connection:
            finish(connection, line.fingerprint, platform.clock())
    report.passed_over = len(names.passed_over)
    return report
