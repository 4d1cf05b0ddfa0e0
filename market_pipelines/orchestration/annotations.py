"""Metadata for each partition of a ranged run.

Dagster's own `add_asset_metadata` copies everything noted so far at each call and looks the partition up in the
range, which for a range of a thousand sessions takes longer than fetching and storing them. This notes all
partitions of an asset in one step, in the same place.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster._core.execution.context.metadata_logging import AssetMetadataHandle, OutputMetadataAccumulator

Annotations = dict[str, dict[str, Any]]
"""Metadata by partition key."""


def row_count(rows: int) -> dict[str, Any]:
    return {"dagster/partition_row_count": rows}


def with_details(notes: Annotations, newest: str, details: Mapping[str, Any]) -> Annotations:
    """The details of a whole run belong to its newest partition; a thousand copies of a table serve nobody."""
    return {**notes, newest: {**notes.get(newest, {}), **details}}


def annotate(context: dg.AssetExecutionContext, key: dg.AssetKey, notes: Mapping[str, Mapping[str, Any]]) -> None:
    """Adds metadata to partitions of the run; keys that the run does not cover are left out."""
    covered = set(context.partition_keys)
    step = context.get_step_execution_context()
    noted: dict[Any, Mapping[str, Any]] = dict(step._metadata_accumulator.per_output_metadata)
    for partition, metadata in notes.items():
        if partition in covered:
            handle = AssetMetadataHandle(asset_key=key, partition_key=partition)
            noted[handle] = {**noted.get(handle, {}), **metadata}
    step._metadata_accumulator = OutputMetadataAccumulator(per_output_metadata=noted)
