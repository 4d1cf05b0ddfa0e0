"""Metadata for each partition of a ranged run.

Dagster's own `add_asset_metadata` copies everything noted so far at each call and looks the partition up in the
range, which for a range of a thousand sessions takes longer than fetching and storing them. This notes all
partitions of an asset in one step, in the same place.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import dagster as dg
import pandas as pd
from dagster._core.execution.context.metadata_logging import AssetMetadataHandle, OutputMetadataAccumulator

from market_pipelines.market.bars import AVAILABLE, CONDITIONS, DEGRADED, MISSING, PENDING

_WORST_FIRST = (MISSING, PENDING, DEGRADED, AVAILABLE)

Annotations = dict[str, dict[str, Any]]
"""Metadata by partition key."""


def row_count(rows: int) -> dict[str, Any]:
    return {"dagster/partition_row_count": rows}


def session_conditions(chosen: pd.DataFrame, missing: pd.DataFrame) -> Annotations:
    """How each session stands, in the words of the coverage table: the worst of its symbols' conditions, and how many
    symbols are in which."""
    key = ["symbol", "session", "condition"]
    known = pd.concat(
        [chosen[key], missing.assign(condition=MISSING)[key]],
        ignore_index=True,
    )
    rank = known["condition"].map({word: at for at, word in enumerate(_WORST_FIRST)})
    worst = known.assign(rank=rank).sort_values("rank").drop_duplicates(["symbol", "session"])
    counts: dict[str, Counter[str]] = {}
    for session, condition in zip(worst["session"], worst["condition"], strict=True):
        counts.setdefault(session.date().isoformat(), Counter())[condition] += 1
    return {
        session: {
            "condition": next(word for word in _WORST_FIRST if word in held),
            "symbols_by_condition": " · ".join(f"{word} {held[word]}" for word in CONDITIONS if word in held),
        }
        for session, held in counts.items()
    }


def merged(*notes: Annotations) -> Annotations:
    """What several say of the same partitions, together."""
    keys = {key: None for one in notes for key in one}
    return {key: {name: value for one in notes for name, value in one.get(key, {}).items()} for key in keys}


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
