"""The Dagster door: loads every market of `defs/` and says what they all share. It decides nothing else."""

from pathlib import Path

import dagster as dg

from market_pipelines.orchestration.health import health_definitions
from market_pipelines.orchestration.housekeeping import housekeeping
from market_pipelines.orchestration.job_sensor import scheduled_jobs_definitions
from market_pipelines.orchestration.notifications import notifications
from market_pipelines.orchestration.resources import PlatformResource


@dg.definitions
def defs() -> dg.Definitions:
    return with_shared(dg.load_from_defs_folder(path_within_project=Path(__file__).parent))


def with_shared(markets: dg.Definitions) -> dg.Definitions:
    """The markets and what belongs to none of them."""
    return dg.Definitions.merge(
        markets,
        health_definitions(),
        scheduled_jobs_definitions(markets),
        notifications(),
        housekeeping(),
        dg.Definitions(resources={"platform": PlatformResource()}, executor=dg.in_process_executor),
    )
