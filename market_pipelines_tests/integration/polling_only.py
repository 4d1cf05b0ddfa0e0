"""A code location with nothing in it but the polling of both markets, for a daemon that is to do nothing else."""

from __future__ import annotations

import dagster as dg

from market_pipelines.orchestration.job_sensor import scheduled_jobs_definitions
from market_pipelines.orchestration.polling_sensors import polling_definitions
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.pipeline.markets import read_markets

_polling = dg.Definitions.merge(*(polling_definitions(market) for market in read_markets().values()))

defs = dg.Definitions.merge(
    _polling,
    scheduled_jobs_definitions(_polling),
    dg.Definitions(resources={"platform": PlatformResource()}, executor=dg.in_process_executor),
)
