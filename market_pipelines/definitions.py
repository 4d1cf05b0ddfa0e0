"""The Dagster door: loads every market of `defs/` and says what they all share. It decides nothing else."""

from pathlib import Path

import dagster as dg

from market_pipelines.orchestration.resources import PlatformResource


@dg.definitions
def defs() -> dg.Definitions:
    return dg.Definitions.merge(
        dg.load_from_defs_folder(path_within_project=Path(__file__).parent),
        dg.Definitions(resources={"platform": PlatformResource()}, executor=dg.in_process_executor),
    )
