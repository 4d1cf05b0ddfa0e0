"""Market data from several providers: archived, validated, versioned, and orchestrated with Dagster."""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

_PUBLIC = {
    "Market": "market_pipelines.orchestration.market_component",
    "bars": "market_pipelines.pipeline.reading",
    "ticks": "market_pipelines.pipeline.ticks",
    "DataStreamingService": "market_pipelines.pipeline.polling_api",
    "MarketScheduler": "market_pipelines.pipeline.polling_api",
    "PollingConfig": "market_pipelines.pipeline.polling_api",
    "PollingManager": "market_pipelines.pipeline.polling_api",
    "event_bus": "market_pipelines.streaming.bus",
    "follow": "market_pipelines.streaming.follow",
    "publishing": "market_pipelines.streaming.follow",
}


def __getattr__(name: str) -> object:
    # Reading bars in a notebook should not wait for Dagster, nor the other way round.
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
