"""A market's live stream as assets, and the job that hosts it for a session.

The stream itself is `streaming/`'s work and goes on where Dagster is not: a run is one of the places that can host
it. The assets are what it keeps filled; nobody materializes them by hand. The sensor that watches them is in
`realtime_sensor`, their checks in `realtime_checks`, the bars built after the close in `realtime_bars`.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import pandas as pd
import psycopg
from pydantic import Field

from market_pipelines.market.definition import MarketDefinition, StreamSetup
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.orchestration.present import column_schema, table
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.orchestration.specs import asset_key, asset_spec
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.stopping import Stop, heeding_signals
from market_pipelines.pipeline.stream_watch import Watched, figures, streamed_until, watch
from market_pipelines.redaction import redact
from market_pipelines.settings import SettingsError
from market_pipelines.store.database import DatabaseUnavailable
from market_pipelines.store.streams import StreamRow

if TYPE_CHECKING:
    # The feeds' and sinks' libraries are loaded by whoever streams, not by every process that reads definitions.
    from market_pipelines.streaming.plan import StreamPlan

REALTIME_LAYER = "realtime"
STREAM_TAG = "market_pipelines/stream"
"""Of runs that host a stream. Not a lane: what writes tables must not wait a whole session for them."""
SESSION_TAG = "market_pipelines/session"
ENDLESS = {"dagster/max_runtime": "0"}
"""Dagster's word for a run that may take as long as it takes."""
TELL_EVERY_SECONDS = 60.0
_LOOK_SECONDS = 1.0

QUOTES_SCHEMA = column_schema(
    {
        "symbol": ("text", "The exchange's own symbol"),
        "ts": ("timestamp, ns, UTC", "When it happened"),
        "received_at": ("timestamp, ns, UTC", "When it arrived"),
        "seq": ("bigint", "The feed's number; 0 where it has none"),
        "bid": ("double", "Best bid; null where nobody bids"),
        "ask": ("double", "Best ask; null where nobody asks"),
        "bid_size": ("double", "Shares bid"),
        "ask_size": ("double", "Shares asked"),
        "feed": ("text", "Whose"),
        "marks": ("integer", "What is odd about it: crossed, wide, late …"),
    }
)
TRADES_SCHEMA = column_schema(
    {
        "symbol": ("text", "The exchange's own symbol"),
        "ts": ("timestamp, ns, UTC", "When it happened"),
        "received_at": ("timestamp, ns, UTC", "When it arrived"),
        "seq": ("bigint", "The feed's number; 0 where it has none"),
        "price": ("double", "As traded"),
        "size": ("double", "Shares"),
        "exchange": ("text", "Where, as the feed numbers venues"),
        "trade_id": ("text", "Its name on that venue"),
        "conditions": ("text", "Ids of its sale conditions"),
        "feed": ("text", "Whose"),
        "marks": ("integer", "What is odd about it: corrected, outlier, late …"),
    }
)


# --- assets ----------------------------------------------------------------------------------------------------


def quotes_key(market: MarketDefinition) -> dg.AssetKey:
    return asset_key(market, "realtime_quotes")


def trades_key(market: MarketDefinition) -> dg.AssetKey:
    return asset_key(market, "realtime_trades")


def realtime_specs(market: MarketDefinition, setup: StreamSetup) -> list[dg.AssetSpec]:
    """External assets: something outside of Dagster's asset runs keeps them up, and reports what it did."""
    if setup.tells_trades:
        quotes = f"Quotes of {market.title} as {setup.feed} streams them, in the tick lake; the newest of each symbol "
        quotes += "in market.latest_quotes."
        trades = f"Every single trade of {market.title} as {setup.feed} streams it, in the tick lake; what was missed "
        trades += "is asked of the provider's history."
    else:
        quotes = f"What {setup.feed} says of every symbol of {market.title} each {setup.every_seconds:g} seconds: its "
        quotes += "price and its day so far (snapshots in the tick lake, the newest in market.latest_quotes)."
        trades = f"Stays empty: {setup.feed} tells no single trades of {market.mic}. Bars are built from the quotes."
    return [
        asset_spec(
            market,
            key,
            f"{text} Kept by the live service (`market-pipelines stream`) or a run of {job_name(market)}; nobody "
            "materializes it by hand.",
            {"python", "parquet", setup.feed},
            [asset_key(market, "instruments")],
            {"dagster/column_schema": schema, "dagster/table_name": "market.tick_segments"},
            layer=REALTIME_LAYER,
        )
        for key, text, schema in (
            (quotes_key(market), quotes, QUOTES_SCHEMA),
            (trades_key(market), trades, TRADES_SCHEMA),
        )
    ]


# --- how a stream is told --------------------------------------------------------------------------------------


def told(seen: Watched, row: StreamRow, rate: float | None = None) -> dict[str, Any]:
    """A stream as metadata; numbers as floats, which Dagster draws over time."""
    counted = figures(row)
    unfilled = seen.gaps_of(row.stream)
    told_rate = counted.rate if rate is None else rate
    sinks = pd.DataFrame(
        [
            (
                str(one.get("sink", "")),
                one.get("cursor_lag_events"),
                one.get("cursor_lag_s"),
                one.get("rows"),
                one.get("errors"),
                str(one.get("last_error") or ""),
            )
            for one in row.sinks
        ],
        columns=["sink", "events_behind", "seconds_behind", "rows", "errors", "last_error"],
    )
    connections = pd.DataFrame(
        [
            (
                str(one.get("origin", "")),
                str(one.get("state", "")),
                one.get("symbols"),
                one.get("frames"),
                one.get("reconnects"),
                str(one.get("detail") or ""),
            )
            for one in row.connections
        ],
        columns=["connection", "state", "symbols", "frames", "reconnects", "detail"],
    )
    shown: dict[str, Any] = {
        "stream": row.stream,
        "state": f"{row.state.value}{f': {row.detail}' if row.detail else ''}",
        "hosted_by": f"{row.hosted_by}, pid {row.pid} on {row.host}",
        "symbols": row.symbols,
        "channels": ", ".join(row.channels) or "none",
        "events": float(counted.events),
        "reconnects": float(counted.reconnects),
        "connections": f"{counted.live} of {counted.connections} live",
        "open_gaps": float(sum(gap.status.value == "open" for gap in unfilled)),
        "unfilled_gaps": float(len(unfilled)),
        "sink_lag_seconds": counted.sink_lag,
        "sinks": table(sinks),
        "by_connection": table(connections),
        "since": dg.MetadataValue.timestamp(row.started_at),
    }
    for name, value in (
        ("events_per_second", told_rate),
        ("lag_p50_ms", counted.lag_p50_ms),
        ("lag_p99_ms", counted.lag_p99_ms),
        ("newest_event_seconds", counted.event_age),
    ):
        if value is not None:
            shown[name] = round(float(value), 3)
    return shown


def keys_of(market: MarketDefinition, channels: Sequence[str]) -> list[dg.AssetKey]:
    """The assets that a stream with these channels keeps."""
    found = []
    if "trades" in channels:
        found.append(trades_key(market))
    if "quotes" in channels or not found:
        found.append(quotes_key(market))
    return found


# --- the run that hosts a stream -------------------------------------------------------------------------------


class StreamConfig(dg.Config):
    """What a run streams. Empty: as the market file says."""

    feed: str = Field(default="", description="polygon, stooq, yahoo or poll; empty: that of the market file.")
    symbols: list[str] = Field(default_factory=list, description="Empty: all of the market.")
    channels: list[str] = Field(default_factory=list, description="quotes, trades, seconds, minutes, luld.")
    symbols_per_connection: int = Field(default=25, ge=1, description="Of feeds that are pushed.")
    max_connections: int = Field(default=1, ge=1, description="So many sockets at most.")
    until: str = Field(
        default="", description="An instant such as 2026-01-05T21:00:00Z. Empty: the end of the session."
    )


class Hosted:
    """A stream that runs in a thread of this process."""

    def __init__(self, stop: Stop, future: Future[None]) -> None:
        self.stop = stop
        self._future = future

    def ended(self, seconds: float) -> bool:
        """Waits so long for its end; whatever ended it badly is raised."""
        try:
            self._future.result(timeout=seconds)
        except NotYet:
            if self._future.done():
                raise
            return False
        return True


class StreamResource(dg.ConfigurableResource[None]):
    """Hosts a live stream in the process of a run: begun, watched, and drained whatever ends the run."""

    report_every_seconds: float = Field(
        default=TELL_EVERY_SECONDS, gt=0, description="Between two observations of a run."
    )

    @contextmanager
    def hosted(self, platform: Platform, plan: "StreamPlan", *, run_id: str, until: datetime) -> Iterator[Hosted]:
        """The stream goes on for as long as the block; leaving it asks the stream to stop and waits until it has
        written everything that it took."""
        from market_pipelines.streaming.service import StreamService  # noqa: PLC0415 (loads every feed and sink)

        stop = Stop()
        service = StreamService(platform, plan, hosted_by="dagster", run_id=run_id, until=until)
        with ThreadPoolExecutor(1, thread_name_prefix=f"stream-{plan.name}") as thread:
            future = thread.submit(service.run, stop)
            try:
                yield Hosted(stop, future)
            finally:
                stop.ask()


STREAM = StreamResource()
"""One object, so that the markets' definitions can be merged."""


def job_name(market: MarketDefinition) -> str:
    return f"{market.name}_realtime"


def op_name(market: MarketDefinition) -> str:
    return f"{market.name}_stream_of_session"


def realtime_job(market: MarketDefinition) -> dg.JobDefinition:
    """One session's stream, hosted by its run."""

    @dg.op(
        name=op_name(market),
        out=dg.Out(dg.Nothing),
        description=f"Streams {market.title} until its session ends, extended hours included. Observes the realtime "
        "assets every minute, and materializes them with the totals when it ends. Terminating the run drains it: what "
        "was received is stored, and what is missed until the next start is a gap that history fills.",
        tags={"kind": "websocket"},
    )
    def stream_of_session(
        context: dg.OpExecutionContext, config: StreamConfig, platform: PlatformResource, stream: StreamResource
    ) -> None:
        with platform.opened() as opened:
            plan = _plan(opened, market, config)
            until = _until(market, config, opened.clock(), plan.delay)
            context.log.info(f"{plan.name}: {len(plan.symbols)} symbols until {until:%Y-%m-%d %H:%M} UTC")
            stop = _host(context, opened, market, plan, stream, until)
        if stop.by_signal is not None:
            # Dagster's own word for a run that somebody has terminated.
            raise dg.DagsterExecutionInterruptedError

    @dg.job(
        name=job_name(market),
        description=f"Hosts the live stream of {market.title} for a session and ends by itself after its close. The "
        f"sensor {market.name}_stream starts it where STREAM_HOSTED_BY=dagster.",
        tags={"market": market.name, STREAM_TAG: market.name, **ENDLESS},
    )
    def stream_market() -> None:
        stream_of_session()

    return stream_market


def _host(
    context: dg.OpExecutionContext,
    platform: Platform,
    market: MarketDefinition,
    plan: "StreamPlan",
    resource: StreamResource,
    until: datetime,
) -> Stop:
    """Until the stream ends or somebody ends the run; the wish to stop, which says whose it was."""
    from market_pipelines.streaming.feeds.protocol import FeedFailed  # noqa: PLC0415 (with the feeds)
    from market_pipelines.streaming.lease import LeaseLost, StreamHeld  # noqa: PLC0415

    try:
        with resource.hosted(platform, plan, run_id=context.run.run_id, until=until) as hosted:
            # Dagster's handler would raise right here, in the middle of whatever is being done.
            with heeding_signals(hosted.stop):
                waited = 0.0
                while not hosted.ended(_LOOK_SECONDS):
                    waited += _LOOK_SECONDS
                    if waited >= resource.report_every_seconds:
                        waited = 0.0
                        _observe(context, platform, market, plan.name)
            _materialize(context, platform, market, plan.name)
            return hosted.stop
    except (StreamHeld, LeaseLost, FeedFailed) as error:
        raise dg.Failure(str(error), allow_retries=False) from error


def _observe(context: dg.OpExecutionContext, platform: Platform, market: MarketDefinition, name: str) -> None:
    """A database that is away for a moment ends no stream: whether it may go on is for its lease to say."""
    try:
        seen = watch(platform, market)
    except (DatabaseUnavailable, psycopg.OperationalError) as error:
        context.log.warning(f"{name} cannot be observed now: {redact(str(error))}")
        return
    for row in seen.rows:
        if row.stream == name:
            for key in keys_of(market, row.channels):
                context.log_event(dg.AssetObservation(key, description=_sentence(row), metadata=told(seen, row)))


def _materialize(context: dg.OpExecutionContext, platform: Platform, market: MarketDefinition, name: str) -> None:
    seen = watch(platform, market)
    for row in seen.rows:
        if row.stream == name:
            context.add_output_metadata({"events": figures(row).events, "ended": row.detail or row.state.value})
            for key in keys_of(market, row.channels):
                context.log_event(dg.AssetMaterialization(key, description=_sentence(row), metadata=told(seen, row)))


def _sentence(row: StreamRow) -> str:
    return f"{row.stream}: {figures(row).events:,} events since {row.started_at:%Y-%m-%d %H:%M:%S} UTC"


def _plan(platform: Platform, market: MarketDefinition, config: StreamConfig) -> "StreamPlan":
    from market_pipelines.streaming.plan import Channel, FeedName  # noqa: PLC0415 (with the service)
    from market_pipelines.streaming.plans import Wanted, planned  # noqa: PLC0415

    try:
        wanted = Wanted(
            market=market.name,
            feed=FeedName(config.feed) if config.feed else None,
            symbols=tuple(config.symbols),
            channels=tuple(Channel(name) for name in config.channels),
            symbols_per_connection=config.symbols_per_connection,
            max_connections=config.max_connections,
        )
        return planned(platform, wanted)[0].plan
    except (ValueError, SettingsError) as error:
        raise dg.Failure(str(error), allow_retries=False) from error


def _until(market: MarketDefinition, config: StreamConfig, now: datetime, delay: timedelta) -> datetime:
    if not config.until:
        return streamed_until(trading_calendar(market.mic, now), now, delay)
    try:
        until = datetime.fromisoformat(config.until)
    except ValueError:
        raise dg.Failure(f"until: read {config.until!r}; accepted: an instant such as 2026-01-05T21:00:00Z") from None
    return until if until.tzinfo is not None else until.replace(tzinfo=UTC)
