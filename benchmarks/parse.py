"""From a provider's bytes to a judged frame: our parsers and quality rules beside a script with pandas."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import SecretStr

from benchmarks.measure import Cost, Effort, alternately, cost_of
from benchmarks.results import OURS, Figure, Findings, cpu_rate
from benchmarks.workplace import BenchmarkFailed
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.quality import judge
from market_pipelines.market.quality.intraday import judge_intraday
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.providers.alpha_vantage import AlphaVantage
from market_pipelines.providers.iex_cloud import IexCloud
from market_pipelines.providers.polygon import Polygon
from market_pipelines.providers.polygon.flat_files import read_flat_file
from market_pipelines.providers.protocol import Answer, Capability, DailyProvider, DailyQuery, IntradayQuery, Parsed
from market_pipelines.providers.stooq import Stooq
from market_pipelines.providers.stooq.bulk import read_member
from market_pipelines.providers.yahoo import Yahoo
from market_pipelines.simulator.formats import (
    alpha_vantage,
    alpha_vantage_intraday,
    iex_charts,
    polygon,
    polygon_flat,
    stooq,
    yahoo,
    yahoo_intraday,
)
from market_pipelines.simulator.formats.asked import Asked
from market_pipelines.simulator.formats.reply import JSON, Reply
from market_pipelines.simulator.rows import Rows, Spoil, unspoiled
from market_pipelines.simulator.stooq_bulk import member_text
from market_pipelines.simulator.truth import Tape, World

CSV_TARGET, JSON_TARGET = 300_000, 150_000
METHOD = (
    "Rows a second of CPU time, from the body of an answer to bars that passed all quality rules (`parse_daily`, then "
    "`judge` with the exchange's calendar). One thread; bodies as the simulator renders them. The scripts beside it "
    "only read the same rows into a sorted frame of numbers and dates: they refuse no notice, check no symbol, judge "
    "no row, and for Yahoo undo no split. What ours needs for parsing alone stands between."
)
NOW = datetime(2026, 11, 13, 22, tzinfo=UTC)
IBM = Instrument("IBM", "us", "XNYS", "USD")
SHORT, LONG = 5_000, 10_000
_KEY = "benchmark"
_NOWHERE = "http://127.0.0.1:9"
_COLUMNS = ["open", "high", "low", "close", "volume"]
_AT_LEAST_SECONDS = 0.3
_PARSING_ALONE = f"{OURS}, parsing alone"


@dataclass(frozen=True)
class Format:
    name: str
    provider: DailyProvider
    body: Callable[[World, int], Reply]
    peer: str
    script: Callable[[bytes], pd.DataFrame]
    target: float | None


@dataclass(frozen=True)
class IntradayFormat:
    """Bars of the sessions of so many days."""

    name: str
    read: Callable[[Answer, IntradayQuery], Parsed]
    body: Callable[[World, IntradayQuery], Reply]
    peer: str
    script: Callable[[bytes], pd.DataFrame]
    days: int
    interval: str = "5min"


def newest(rows: int) -> Callable[[Tape, Rows], Rows]:
    return lambda _tape, all_rows: all_rows.take(slice(-rows, None))


def _alpha_vantage(datatype: str, world: World, rows: int) -> Reply:
    query = {"function": "TIME_SERIES_DAILY", "symbol": "IBM", "outputsize": "full", "apikey": _KEY}
    return alpha_vantage.answer({**query, "datatype": datatype}, world, NOW, spoil=newest(rows))


def _yahoo(world: World, rows: int) -> Reply:
    query = {
        "interval": "1d",
        "period1": str(int(datetime(1990, 1, 1, tzinfo=UTC).timestamp())),
        "period2": str(int(NOW.timestamp())),
        "events": "div,splits",
    }
    return yahoo.answer("IBM", query, world, NOW, spoil=newest(rows))


def _yahoo_intraday(world: World, query: IntradayQuery) -> Reply:
    asked = {
        "interval": "5m",
        "period1": str(int(datetime.combine(query.start, datetime.min.time(), tzinfo=UTC).timestamp())),
        "period2": str(int(NOW.timestamp())),
    }
    return yahoo_intraday.answer("IBM", asked, world, NOW, yahoo_intraday.IntradayStyle())


def _alpha_vantage_intraday(datatype: str, world: World, query: IntradayQuery) -> Reply:
    asked = {
        "interval": query.interval,
        "adjusted": "false",
        "extended_hours": "false",
        "outputsize": "full",
        "datatype": datatype,
    }
    style = alpha_vantage_intraday.Style()
    return alpha_vantage_intraday.answer(asked, "IBM", world, NOW, newest_sessions(query.start), style)


def _iex_minutes(world: World, query: IntradayQuery) -> Reply:
    """The charts of several sessions in one array, as files hold them; a request brings one session."""
    sessions = trading_calendar("XNYS", NOW).sessions(query.start, query.end)
    listing = world.find("IBM", "XNYS")
    if listing is None:
        raise BenchmarkFailed("the simulated world lists no IBM")
    rows = [row for day in sessions for row in iex_charts.minutes(world, listing, day, NOW, iex_charts.Style())]
    return Reply(200, json.dumps(rows, separators=(",", ":")).encode(), JSON)


def newest_sessions(start: date) -> Callable[[Tape, Rows], Rows]:
    return lambda _tape, rows: rows.take(rows.sessions.astype("datetime64[D]") >= np.datetime64(start))


def _stooq(world: World, rows: int) -> Reply:
    return stooq.answer({"s": "ibm.us", "i": "d"}, world, NOW, spoil=newest(rows))


def _polygon(world: World, rows: int) -> Reply:
    return _polygon_aggregates(world, "1/day", date(1990, 1, 2), newest(rows))


def _polygon_minutes(world: World, query: IntradayQuery) -> Reply:
    return _polygon_aggregates(world, "1/minute", query.start, unspoiled)


def _polygon_aggregates(world: World, length: str, start: date, spoil: Spoil) -> Reply:
    path = f"/v2/aggs/ticker/IBM/range/{length}/{start}/{NOW.date()}"
    query = {"adjusted": "false", "limit": "50000", "apiKey": _KEY}
    reply = polygon.answer(Asked("polygon", path, query, "", _NOWHERE), world, NOW, {}, spoil)
    if reply is None:
        raise BenchmarkFailed(f"the simulator does not answer {path}")
    return reply


def alpha_vantage_json_script(body: bytes) -> pd.DataFrame:
    frame = pd.DataFrame.from_dict(json.loads(body)["Time Series (Daily)"], orient="index").astype("float64")
    frame.columns = pd.Index(_COLUMNS)
    frame.index = pd.to_datetime(frame.index)
    return frame.sort_index()


def alpha_vantage_csv_script(body: bytes) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(body), parse_dates=["timestamp"]).sort_values("timestamp")


def alpha_vantage_intraday_script(body: bytes) -> pd.DataFrame:
    frame = pd.DataFrame.from_dict(json.loads(body)["Time Series (1min)"], orient="index").astype("float64")
    frame.columns = pd.Index(_COLUMNS)
    frame.index = pd.to_datetime(frame.index).tz_localize("America/New_York").tz_convert("UTC")
    return frame.sort_index()


def alpha_vantage_intraday_csv_script(body: bytes) -> pd.DataFrame:
    frame = pd.read_csv(io.BytesIO(body), parse_dates=["timestamp"])
    stamps = frame["timestamp"].dt.tz_localize("America/New_York").dt.tz_convert("UTC")
    return frame.assign(timestamp=stamps).sort_values("timestamp")


def iex_minutes_script(body: bytes) -> pd.DataFrame:
    rows = pd.DataFrame(json.loads(body))
    prices = ["marketOpen", "marketHigh", "marketLow", "marketClose", "marketVolume"]
    stamps = pd.to_datetime(rows["date"] + " " + rows["minute"]).dt.tz_localize("America/New_York")
    frame = rows[prices].astype("float64").assign(ts=stamps.dt.tz_convert("UTC"))
    return frame.dropna(subset=prices[:4]).sort_values("ts")


def stooq_bulk_script(body: bytes) -> pd.DataFrame:
    frame = pd.read_csv(io.BytesIO(body), parse_dates=["<DATE>"], date_format="%Y%m%d")
    return frame.sort_values("<DATE>")


def yahoo_script(body: bytes) -> pd.DataFrame:
    result = json.loads(body)["chart"]["result"][0]
    frame = pd.DataFrame(result["indicators"]["quote"][0], columns=_COLUMNS, dtype="float64")
    zone = result["meta"]["exchangeTimezoneName"]
    stamps = pd.to_datetime(pd.Series(result["timestamp"]), unit="s", utc=True).dt.tz_convert(zone)
    return frame.assign(session=stamps.dt.tz_localize(None).dt.normalize()).sort_values("session")


def polygon_script(body: bytes) -> pd.DataFrame:
    names = {"o": "open", "h": "high", "l": "low", "c": "close", "v": "volume", "t": "stamp"}
    frame = pd.DataFrame(json.loads(body)["results"])[list(names)].rename(columns=names).astype({"volume": "float64"})
    stamps = pd.to_datetime(frame["stamp"], unit="ms", utc=True).dt.tz_convert("America/New_York")
    return frame.assign(stamp=stamps).sort_values("stamp")


def stooq_script(body: bytes) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(body), parse_dates=["Date"]).sort_values("Date")


def formats() -> tuple[Format, ...]:
    key = SecretStr(_KEY)
    read_csv, read_json = "pandas.read_csv", "json and pandas"
    return (
        Format(
            "Alpha Vantage JSON",
            AlphaVantage(key),
            partial(_alpha_vantage, "json"),
            read_json,
            alpha_vantage_json_script,
            JSON_TARGET,
        ),
        Format(
            "Alpha Vantage CSV",
            AlphaVantage(key),
            partial(_alpha_vantage, "csv"),
            read_csv,
            alpha_vantage_csv_script,
            CSV_TARGET,
        ),
        Format("Polygon JSON", Polygon(key), _polygon, read_json, polygon_script, JSON_TARGET),
        Format("Yahoo JSON", Yahoo(), _yahoo, read_json, yahoo_script, None),
        Format("Stooq CSV", Stooq(key), _stooq, read_csv, stooq_script, CSV_TARGET),
    )


def intraday_formats() -> tuple[IntradayFormat, ...]:
    yahoos = Yahoo().abilities[Capability.INTRADAY]
    alphas = AlphaVantage(SecretStr(_KEY)).abilities[Capability.INTRADAY]
    return (
        IntradayFormat(
            "Alpha Vantage intraday JSON",
            alphas.read,
            partial(_alpha_vantage_intraday, "json"),
            "json and pandas",
            alpha_vantage_intraday_script,
            days=27,
            interval="1min",
        ),
        IntradayFormat(
            "Alpha Vantage intraday CSV",
            alphas.read,
            partial(_alpha_vantage_intraday, "csv"),
            "pandas.read_csv",
            alpha_vantage_intraday_csv_script,
            days=27,
            interval="1min",
        ),
        IntradayFormat(
            "IEX minutes JSON",
            IexCloud(None, "http://127.0.0.1:9").abilities[Capability.INTRADAY].read,
            _iex_minutes,
            "json and pandas",
            iex_minutes_script,
            days=27,
            interval="1min",
        ),
        IntradayFormat(
            "Polygon minutes JSON",
            Polygon(SecretStr(_KEY)).read_intraday,
            _polygon_minutes,
            "json and pandas",
            polygon_script,
            days=27,
            interval="1min",
        ),
        IntradayFormat("Yahoo intraday JSON", yahoos.read, _yahoo_intraday, "json and pandas", yahoo_script, days=58),
    )


def run(effort: Effort) -> Findings:
    world = World()
    figures = []
    sizes: dict[int, int] = {}
    for one in formats():
        for wanted in (SHORT, LONG):
            figure, rows = _figure(one, world, effort.of(wanted, 20), effort)
            figures.append(figure)
            sizes[wanted] = rows
    figures.extend(_intraday_figure(one, world, effort) for one in intraday_formats())
    figures.append(_bulk_figure(world, effort))
    figures.append(_flat_file_figure(world, effort))
    notes = (
        f"Bodies of {sizes[SHORT]:,} rows, and of {sizes[LONG]:,}: all sessions since 1990, which is as far as "
        "the calendar goes.",
    )
    return Findings(tuple(figures), notes)


def _figure(one: Format, world: World, wanted: int, effort: Effort) -> tuple[Figure, int]:
    reply = one.body(world, wanted)
    answer = Answer(reply.status, reply.body, _headers(reply), NOW, 0.0)
    query = DailyQuery(IBM, date(1990, 1, 2), NOW.date(), NOW.date())
    rows = len(judged(one.provider, answer, query))
    if rows != len(one.script(reply.body)):
        raise BenchmarkFailed(f"{one.name}: the script reads other rows than the parser's {rows}")
    seconds = _AT_LEAST_SECONDS * effort.share
    costs = alternately(
        {
            OURS: lambda: _repeatedly(lambda: judged(one.provider, answer, query), seconds),
            _PARSING_ALONE: lambda: _repeatedly(lambda: one.provider.parse_daily(answer, query), seconds),
            one.peer: lambda: _repeatedly(lambda: one.script(reply.body), seconds),
        },
        effort.repetitions,
    )
    peers = tuple(cpu_rate(who, rows, costs[who]) for who in (_PARSING_ALONE, one.peer))
    ours = cpu_rate(OURS, rows, costs[OURS])
    return Figure(f"{one.name}, {rows:,} rows", "rows/CPU s", "more", ours, peers, one.target), rows


def _intraday_figure(one: IntradayFormat, world: World, effort: Effort) -> Figure:
    start = NOW.date() - timedelta(days=effort.of(one.days, 4))
    query = IntradayQuery(IBM, one.interval, start, NOW.date(), NOW.date())
    reply = one.body(world, query)
    answer = Answer(reply.status, reply.body, _headers(reply), NOW, 0.0)
    rows = len(judged_intraday(one, answer, query))
    if rows != len(one.script(reply.body)):
        raise BenchmarkFailed(f"{one.name}: the script reads other rows than the parser's {rows}")
    seconds = _AT_LEAST_SECONDS * effort.share
    costs = alternately(
        {
            OURS: lambda: _repeatedly(lambda: judged_intraday(one, answer, query), seconds),
            _PARSING_ALONE: lambda: _repeatedly(lambda: one.read(answer, query), seconds),
            one.peer: lambda: _repeatedly(lambda: one.script(reply.body), seconds),
        },
        effort.repetitions,
    )
    peers = tuple(cpu_rate(who, rows, costs[who]) for who in (_PARSING_ALONE, one.peer))
    return Figure(f"{one.name}, {rows:,} rows", "rows/CPU s", "more", cpu_rate(OURS, rows, costs[OURS]), peers)


def _bulk_figure(world: World, effort: Effort) -> Figure:
    """A file of Stooq's bulk database, from bytes to a frame; its rows are judged when they are stored."""
    listing = world.find("IBM", "XNYS")
    if listing is None:
        raise BenchmarkFailed("the simulated world lists no IBM")
    body = member_text(world, listing, NOW, "d", effort.of(LONG, 20)).encode()
    rows = len(read_member("ibm.us.txt", body).frame)
    if rows != len(stooq_bulk_script(body)):
        raise BenchmarkFailed(f"Stooq bulk: the script reads other rows than the reader's {rows}")
    seconds = _AT_LEAST_SECONDS * effort.share
    costs = alternately(
        {
            OURS: lambda: _repeatedly(lambda: read_member("ibm.us.txt", body), seconds),
            "pandas.read_csv": lambda: _repeatedly(lambda: stooq_bulk_script(body), seconds),
        },
        effort.repetitions,
    )
    ours, peer = (cpu_rate(who, rows, costs[who]) for who in (OURS, "pandas.read_csv"))
    return Figure(f"Stooq bulk file, {rows:,} rows, reading alone", "rows/CPU s", "more", ours, (peer,))


def _flat_file_figure(world: World, effort: Effort) -> Figure:
    """Polygon's minutes of one session, from the packed file to frames; its rows are judged when they are stored."""
    shares = [one for one in world.listings if one.spelled_by("polygon") is not None]
    session = trading_calendar("XNYS", NOW).sessions(date(2026, 11, 2), date(2026, 11, 12))[-1]
    lines = polygon_flat.minute_aggregates(world, shares[: effort.of(len(shares), 2)], session, NOW)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "minutes.csv.gz"
        path.write_bytes(polygon_flat.flat_file(lines))
        rows = sum(len(batch.frame) for batch in read_flat_file(path))
        if rows != len(flat_file_script(path)):
            raise BenchmarkFailed(f"Polygon flat file: the script reads other rows than the reader's {rows}")
        seconds = _AT_LEAST_SECONDS * effort.share
        costs = alternately(
            {
                OURS: lambda: _repeatedly(lambda: sum(len(batch.frame) for batch in read_flat_file(path)), seconds),
                "pandas.read_csv": lambda: _repeatedly(lambda: flat_file_script(path), seconds),
            },
            effort.repetitions,
        )
    ours, peer = (cpu_rate(who, rows, costs[who]) for who in (OURS, "pandas.read_csv"))
    return Figure(f"Polygon flat file of minutes, {rows:,} rows, reading alone", "rows/CPU s", "more", ours, (peer,))


def flat_file_script(path: Path) -> pd.DataFrame:
    frame = pd.read_csv(path)
    return frame.assign(window_start=pd.to_datetime(frame["window_start"], utc=True))


def judged_intraday(one: IntradayFormat, answer: Answer, query: IntradayQuery) -> pd.DataFrame:
    parsed = one.read(answer, query)
    if parsed.bars is None:
        raise BenchmarkFailed(f"{one.name}: {parsed.outcome.value}: {parsed.reason}")
    verdict = judge_intraday(parsed.bars, query.interval, trading_calendar("XNYS", NOW), [query.instrument], NOW)
    if len(verdict.quarantined):
        raise BenchmarkFailed(f"{one.name}: {len(verdict.quarantined)} good rows were refused")
    return verdict.clean


def judged(provider: DailyProvider, answer: Answer, query: DailyQuery) -> pd.DataFrame:
    parsed: Parsed = provider.parse_daily(answer, query)
    if parsed.bars is None:
        raise BenchmarkFailed(f"{provider.name}: {parsed.outcome.value}: {parsed.reason}")
    calendar = trading_calendar("XNYS", NOW)
    verdict = judge(parsed.bars, calendar, [query.instrument], NOW, actions=parsed.actions)
    if len(verdict.quarantined):
        raise BenchmarkFailed(f"{provider.name}: {len(verdict.quarantined)} good rows were refused")
    return verdict.clean


def _headers(reply: Reply) -> Mapping[str, str]:
    return {"content-type": reply.content_type, **{name.lower(): value for name, value in reply.headers.items()}}


def _repeatedly(work: Callable[[], object], seconds: float) -> Cost:
    """The cost of doing it once, from doing it for so long."""
    times = max(1, round(seconds / max(cost_of(work).cpu, 1e-3)))

    def all_of_it() -> None:
        for _ in range(times):
            work()

    return cost_of(all_of_it) / times
