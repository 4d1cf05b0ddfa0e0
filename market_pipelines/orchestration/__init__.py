"""What Dagster sees: the Market component, assets, checks, partitions, schedules, resources."""

from market_pipelines.orchestration.market_component import Market

__all__ = ["Market"]
