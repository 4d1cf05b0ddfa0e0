"""From a provider's bytes to a judged frame: our parsers and quality rules beside a script with pandas."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial

import pandas as pd
from pydantic import SecretStr

from benchmarks.measure import Cost, Effort, alternately, cost_of
from benchmarks.results import OURS, Figure, Findings, cpu_rate
from benchmarks.workplace import BenchmarkFailed
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.quality import judge
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.providers.alpha_vantage import AlphaVantage
from market_pipelines.providers.protocol import Answer, DailyProvider, DailyQuery, Parsed
from market_pipelines.providers.stooq import Stooq
from market_pipelines.providers.yahoo import Yahoo
from market_pipelines.simulator.formats import alpha_vantage, stooq, yahoo
from market_pipelines.simulator.formats.reply import Reply
from market_pipelines.simulator.rows import Rows
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


def _stooq(world: World, rows: int) -> Reply:
    return stooq.answer({"s": "ibm.us", "i": "d"}, world, NOW, spoil=newest(rows))


def alpha_vantage_json_script(body: bytes) -> pd.DataFrame:
    frame = pd.DataFrame.from_dict(json.loads(body)["Time Series (Daily)"], orient="index").astype("float64")
    frame.columns = pd.Index(_COLUMNS)
    frame.index = pd.to_datetime(frame.index)
    return frame.sort_index()


def alpha_vantage_csv_script(body: bytes) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(body), parse_dates=["timestamp"]).sort_values("timestamp")


def yahoo_script(body: bytes) -> pd.DataFrame:
    result = json.loads(body)["chart"]["result"][0]
    frame = pd.DataFrame(result["indicators"]["quote"][0], columns=_COLUMNS, dtype="float64")
    zone = result["meta"]["exchangeTimezoneName"]
    stamps = pd.to_datetime(pd.Series(result["timestamp"]), unit="s", utc=True).dt.tz_convert(zone)
    return frame.assign(session=stamps.dt.tz_localize(None).dt.normalize()).sort_values("session")


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
        Format("Yahoo JSON", Yahoo(), _yahoo, read_json, yahoo_script, None),
        Format("Stooq CSV", Stooq(key), _stooq, read_csv, stooq_script, CSV_TARGET),
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
