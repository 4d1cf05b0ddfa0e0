"""Repair as Dagster sees it: a sensor that looks for holes, a job that asks for those that are due.

The job is one operation around `pipeline.repair`, not a run of the daily assets: those would ask for the whole
market. What it filled is told as materializations of the partitions that it wrote, see docs/decisions/009-repair.md.
"""

import hashlib
from collections.abc import Iterator

import dagster as dg
import pandas as pd

from market_pipelines.market.consensus import house_name
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Kind
from market_pipelines.orchestration.cron import lane, run_going_on
from market_pipelines.orchestration.present import table
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.orchestration.specs import DAILY_LAYER, INTRADAY_LAYER, asset_key, log_tenths, raw_key
from market_pipelines.pipeline.holes import Outlook, find_holes
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.repair import Asked, RepairReport, repair
from market_pipelines.pipeline.settle import DAILY
from market_pipelines.store.coverage import conditions

SECONDS_BETWEEN_LOOKS = 600
ROWS_SHOWN = 100


def repair_definitions(market: MarketDefinition) -> dg.Definitions:
    job = repair_job(market)
    return dg.Definitions(jobs=[job], sensors=[repair_sensor(market, job)])


def repair_job(market: MarketDefinition) -> dg.JobDefinition:
    @dg.op(
        name=f"{market.name}_ask_for_holes",
        description="Asks for the holes that are due, the oldest first, within the market's budget.",
    )
    def ask_for_holes(context: dg.OpExecutionContext, platform: PlatformResource) -> None:
        with platform.opened() as opened:
            report = repair(opened, market, dagster_run_id=context.run.run_id, progress=log_tenths(context))
            for event in _events(opened, market, report):
                context.log_event(event)
        if report.stopped:
            context.log.warning(report.stopped)

    @dg.job(
        name=f"{market.name}_repair",
        description=f"Fills holes in the bars of {market.title}: sessions of the last "
        f"{market.repair.window_sessions} that are expected and not stored. At most "
        f"{market.repair.symbols_a_run} symbols a run.",
        tags={"market": market.name, **lane(market.name, DAILY_LAYER)},
    )
    def repairing() -> None:
        ask_for_holes()

    return repairing


def repair_sensor(market: MarketDefinition, job: dg.JobDefinition) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{market.name}_repair",
        job=job,
        minimum_interval_seconds=SECONDS_BETWEEN_LOOKS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Looks for holes in the bars of {market.title}, without asking anybody. A hole is asked for "
        f"{market.repair.again_hours:g} h after it was seen, and once confirmed every "
        f"{market.repair.confirmed_days:g} days.",
    )
    def look(context: dg.SensorEvaluationContext, platform: PlatformResource) -> dg.RunRequest | dg.SkipReason:
        with platform.opened(asks=False) as opened:
            outlook = find_holes(opened, market)
        if not outlook.due:
            return dg.SkipReason(_nothing_due(outlook))
        if (going := run_going_on(context.instance, job.name)) is not None:
            return dg.SkipReason(f"{outlook.due} symbols are due; a run is still going: {going.run_id[:8]}")
        return dg.RunRequest(run_key=_run_key(market, outlook), tags={"market_pipelines/due_symbols": str(outlook.due)})

    return look


def _run_key(market: MarketDefinition, outlook: Outlook) -> str:
    """The same due holes within the same hour are one request."""
    due = [(one.interval, ask.symbol, ask.sessions) for one in outlook.intervals for ask in one.asks]
    digest = hashlib.sha256(repr(due).encode()).hexdigest()[:12]
    return f"{market.name}_repair-{outlook.at:%Y-%m-%dT%H}-{digest}"


def _nothing_due(outlook: Outlook) -> str:
    if not outlook.holes and not outlook.incidents:
        return f"no holes in the last {len(outlook.window)} sessions"
    parts = []
    if outlook.holes:
        parts.append(f"{outlook.holes} holes")
    if outlook.incidents:
        parts.append(f"{outlook.incidents} sessions that much of the market lacks")
    known = " and ".join(parts)
    if outlook.unwell:
        return f"{known}; {outlook.unwell}"
    return f"{known}; the next is asked for at {outlook.next_ask:%Y-%m-%d %H:%M} UTC"


def _events(
    platform: Platform, market: MarketDefinition, report: RepairReport
) -> Iterator[dg.AssetMaterialization | dg.AssetObservation]:
    """What was filled, partition by partition; and the run itself as an observation of the table it was about."""
    indices = {one.symbol for one in market.everything if one.kind is Kind.INDEX}
    for interval in dict.fromkeys(one.interval for one in report.asked):
        healed = report.healed_by_session(interval)
        if not healed:
            continue
        with platform.database.connection() as connection:
            frame = conditions(connection, market.name, interval, min(healed), max(healed))
        counts = {row["session"].date(): row for row in frame.to_dict("records")}
        for session, symbols in healed.items():
            stored = counts[session]
            for name, filled in _by_table(interval, symbols, indices).items():
                yield dg.AssetMaterialization(
                    asset_key=asset_key(market, name),
                    partition=session.isoformat(),
                    description=f"{len(filled)} bars filled by repair",
                    metadata={
                        "filled": len(filled),
                        "symbols": ", ".join(filled[:ROWS_SHOWN]),
                        "available": int(stored["available"]),
                        "not_final_or_degraded": int(stored["degraded"] + stored["pending"]),
                        "missing": int(stored["missing"]),
                    },
                )
    yield from _raw_observations(market, report)
    yield dg.AssetObservation(
        asset_key=asset_key(market, "stock_prices"),
        description="repair",
        metadata={
            "holes_found": report.found,
            "holes_new": report.new,
            "incidents": report.incidents,
            "symbols_due": report.due,
            "symbols_asked": len(report.asked),
            "holes_asked": sum(one.holes for one in report.asked),
            "holes_healed": report.healed,
            "holes_confirmed": report.confirmed,
            "requests": report.requests,
            "budget": report.budget,
            "ended_because": report.stopped or "everything within the budget was asked for",
            "asked": table(asked_table(report.asked), ROWS_SHOWN),
        },
    )


def _by_table(interval: str, symbols: list[str], indices: set[str]) -> dict[str, list[str]]:
    if interval != DAILY:
        return {"stock_prices_intraday": symbols}
    shares = [symbol for symbol in symbols if symbol not in indices]
    rest = [symbol for symbol in symbols if symbol in indices]
    return {name: filled for name, filled in (("stock_prices", shares), ("index_prices", rest)) if filled}


def _raw_observations(market: MarketDefinition, report: RepairReport) -> Iterator[dg.AssetObservation]:
    """Which provider's answers the bars came from."""
    by_source: dict[tuple[str, str], list[Asked]] = {}
    for one in report.asked:
        if one.provider is not None and one.healed:
            layer = DAILY_LAYER if one.interval == DAILY else INTRADAY_LAYER
            by_source.setdefault((house_name(one.provider), layer), []).append(one)
    for (provider, layer), asked in sorted(by_source.items()):
        yield dg.AssetObservation(
            asset_key=raw_key(market, provider, layer),
            description="asked by repair",
            metadata={
                "symbols": len(asked),
                "sessions_filled": sum(len(one.healed) for one in asked),
                "asked": table(asked_table(asked), ROWS_SHOWN),
            },
        )


def asked_table(asked: list[Asked]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            (
                one.interval,
                one.symbol,
                one.start,
                one.end,
                one.holes,
                len(one.healed),
                one.outcome.value,
                one.provider or "",
                one.requests,
                one.reason,
            )
            for one in asked
        ],
        columns=["interval", "symbol", "from", "to", "holes", "healed", "outcome", "provider", "requests", "reason"],
    )
