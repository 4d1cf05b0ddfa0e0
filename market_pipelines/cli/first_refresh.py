"""The first refresh of every market under `up`: so that tables, checks and lineage are filled when one looks.

It goes through Dagster like any later refresh, and is left out for a market whose newest sessions are there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from market_pipelines.cli.dagster_client import FINISHED, DagsterClient, DagsterError, Event, Location

SESSIONS = 40
"""More than the thirty that the UI should show, and few enough for one cheap run."""
INTRADAY_SESSIONS = 5
_RANGE_START = "dagster/asset_partition_range_start"
_RANGE_END = "dagster/asset_partition_range_end"


@dataclass(frozen=True, slots=True)
class Stage:
    """One job of every market, and what it fills."""

    job_ending: str
    asset: str = ""
    """Its newest sessions are looked at; empty: the job runs where it has never succeeded."""
    sessions: int = 0
    group_ending: str = ""
    """Only this group's assets of the job, which have no sessions."""

    def job(self, market: str) -> str:
        return f"{market}{self.job_ending}"


STAGES = (
    Stage("_daily_refresh", "stock_prices", SESSIONS),
    Stage("_intraday_refresh", "stock_prices_intraday", INTRADAY_SESSIONS),
    Stage("_weekly_refresh", group_ending="_reference"),
)
"""One after another: bars within sessions are compared with the daily ones."""


@dataclass(frozen=True, slots=True)
class Refresh:
    """What is filled of one market, and the run that fills it."""

    market: str
    what: str
    run: str


def told(event: Event) -> str:
    """What is worth a line of a run's log, in short; empty for the rest."""
    match event.kind:
        case "RUN_START":
            return "the run has started"
        case "STEP_SUCCESS":
            return f"{event.step} done"
        case "STEP_FAILURE":
            return f"{event.step} FAILED: {_first_line(event.error or event.message)}"
        case "RUN_FAILURE":
            return _first_line(event.error or event.message)
        case _:
            return ""


def markets_of(location: Location, stage: Stage) -> list[str]:
    return sorted(job.removesuffix(stage.job_ending) for job in location.jobs if job.endswith(stage.job_ending))


def refresh_all(
    client: DagsterClient, location: Location, wait: Callable[[float], bool], say: Callable[[str], None]
) -> bool:
    """Launches what is missing, stage by stage for all markets at once, and follows it. False when not all of it
    succeeded.

    `wait` sleeps for so many seconds and says True when it is time to leave.
    """
    succeeded = True
    for stage in STAGES:
        succeeded = _refresh(client, location, stage, wait, say) and succeeded
        if wait(0):
            return False
    return succeeded


def _refresh(
    client: DagsterClient,
    location: Location,
    stage: Stage,
    wait: Callable[[float], bool],
    say: Callable[[str], None],
) -> bool:
    launched: list[Refresh] = []
    succeeded = True
    for market in markets_of(location, stage):
        try:
            refresh = _launch(client, location, stage, market, say)
        except DagsterError as error:
            succeeded = False
            say(f"{market}: the first refresh cannot be launched: {_first_line(str(error))}")
            continue
        launched += [refresh] if refresh else []
    for refresh in launched:

        def tell(event: Event, market: str = refresh.market) -> None:
            if line := told(event):
                say(f"{market}: {line}")

        status = client.follow(refresh.run, tell, wait)
        if status not in FINISHED:
            return False  # we were told to leave
        succeeded = succeeded and status == "SUCCESS"
        say(f"{refresh.market}: {refresh.what}: {status.lower()} (run {refresh.run[:8]})")
    return succeeded


def _launch(
    client: DagsterClient, location: Location, stage: Stage, market: str, say: Callable[[str], None]
) -> Refresh | None:
    job = stage.job(market)
    if not stage.asset:
        if client.has_succeeded(job):
            return None
        run = client.launch(location, job, {}, client.assets_of(location, f"{market}{stage.group_ending}"))
        say(f"{market}: {job} (run {run[:8]})")
        return Refresh(market, job, run)
    partitions = client.partitions([market, stage.asset], stage.sessions)
    if partitions is None or not partitions.keys:
        say(f"{market}: no sessions to refresh")
        return None
    missing = [key for key in partitions.keys if key not in partitions.filled]
    if not missing:
        say(f"{market}: the last {len(partitions.keys)} sessions of {stage.asset} are there already")
        return None
    # One range, filled sessions inside it included: running a session again changes nothing, and splitting
    # the range would cost a run each.
    start, end = min(missing), max(missing)
    run = client.launch(location, job, {_RANGE_START: start, _RANGE_END: end})
    say(f"{market}: refreshing {stage.asset} {start} to {end} (run {run[:8]})")
    return Refresh(market, f"{stage.asset} {start} to {end}", run)


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:200]
