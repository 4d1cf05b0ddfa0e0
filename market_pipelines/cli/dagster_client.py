"""Asks a running Dagster, over GraphQL: what it has loaded, what is filled; to launch, follow and end runs.

Dagster itself is not imported here. What to launch and when is decided by the caller.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import requests
import websocket

_TIMEOUT_SECONDS = 30.0
_IN_PROGRESS = ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")
FINISHED = ("SUCCESS", "FAILURE", "CANCELED")

_LOCATIONS = """
{ workspaceOrError { __typename
    ... on PythonError { message }
    ... on Workspace { locationEntries { name loadStatus locationOrLoadError { __typename
      ... on PythonError { message }
      ... on RepositoryLocation { repositories { name jobs { name } } } } } } } }"""
_ASSET = """
query ($key: AssetKeyInput!, $limit: Int!) { assetNodeOrError(assetKey: $key) { __typename
    ... on AssetNode {
      partitionKeyConnection(limit: $limit, ascending: false) { results }
      assetPartitionStatuses { __typename
        ... on TimePartitionStatuses { ranges { status startKey endKey } }
        ... on DefaultPartitionStatuses { materializedPartitions } } } } }"""
_GROUP = """
query ($group: AssetGroupSelector!) { assetNodes(group: $group) { assetKey { path } } }"""
_LAUNCH = """
mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on PipelineNotFoundError { message } } }"""
_RUNS = """
query ($filter: RunsFilter, $limit: Int) { runsOrError(filter: $filter, limit: $limit) { __typename
    ... on Runs { results { runId status jobName } } ... on PythonError { message } } }"""
_TERMINATE = """
mutation ($ids: [String!]!, $policy: TerminateRunPolicy) {
  terminateRuns(runIds: $ids, terminatePolicy: $policy) { __typename } }"""
_EVENTS = """
subscription ($run: ID!) { pipelineRunLogs(runId: $run) { __typename
    ... on PipelineRunLogsSubscriptionFailure { message }
    ... on PipelineRunLogsSubscriptionSuccess { run { status } messages { __typename
      ... on MessageEvent { message stepKey eventType }
      ... on ErrorEvent { error { message causes { message } } } } } } }"""
_EVENTS_SO_FAR = """
query ($run: ID!, $cursor: String) { logsForRun(runId: $run, afterCursor: $cursor) { __typename
    ... on PythonError { message }
    ... on RunNotFoundError { message }
    ... on EventConnection { cursor hasMore events { __typename
      ... on MessageEvent { message stepKey eventType }
      ... on ErrorEvent { error { message causes { message } } } } } } }"""


class DagsterError(Exception):
    """Dagster answered, but not with what was asked for; or it did not answer."""


@dataclass(frozen=True, slots=True)
class Location:
    """The code location as it was loaded."""

    name: str
    repository: str
    jobs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Partitions:
    """The newest partitions of an asset, newest first, and which of them are filled."""

    keys: tuple[str, ...]
    filled: frozenset[str]


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a run's log. `kind` is Dagster's event type, or empty for a plain log message."""

    kind: str
    step: str
    message: str
    error: str = ""


class DagsterClient:
    def __init__(self, address: str) -> None:
        self._url = f"{address}/graphql"
        self._session = requests.Session()

    def location(self, name: str) -> Location | None:
        """None while it is still loading or nobody answers yet; DagsterError when it cannot load."""
        try:
            workspace = self._ask(_LOCATIONS, seconds=5)["workspaceOrError"]
        except requests.RequestException:
            return None
        if workspace["__typename"] != "Workspace":
            raise DagsterError(workspace.get("message", workspace["__typename"]))
        entry = next((found for found in workspace["locationEntries"] if found["name"] == name), None)
        if entry is None or entry["loadStatus"] != "LOADED" or entry["locationOrLoadError"] is None:
            return None
        loaded = entry["locationOrLoadError"]
        if loaded["__typename"] == "PythonError":
            # The code server's socket may not be there yet; a definition that cannot be imported stays so.
            if "DagsterUserCodeUnreachableError" in loaded["message"]:
                return None
            raise DagsterError(loaded["message"])
        repository = loaded["repositories"][0]
        return Location(name, repository["name"], tuple(job["name"] for job in repository["jobs"]))

    def partitions(self, asset: Sequence[str], newest: int) -> Partitions | None:
        """None where there is no such asset or it has no partitions."""
        node = self._ask(_ASSET, {"key": {"path": list(asset)}, "limit": newest})["assetNodeOrError"]
        connection = node.get("partitionKeyConnection")
        if connection is None:
            return None
        keys = tuple(sorted(connection["results"], reverse=True))
        statuses = node["assetPartitionStatuses"]
        if "ranges" in statuses:
            ranges = [part for part in statuses["ranges"] if part["status"] == "MATERIALIZED"]
            filled = {key for key in keys if any(part["startKey"] <= key <= part["endKey"] for part in ranges)}
        else:
            filled = set(keys) & set(statuses.get("materializedPartitions", ()))
        return Partitions(keys, frozenset(filled))

    def assets_of(self, location: Location, group: str) -> list[tuple[str, ...]]:
        selector = {
            "groupName": group,
            "repositoryName": location.repository,
            "repositoryLocationName": location.name,
        }
        return [tuple(node["assetKey"]["path"]) for node in self._ask(_GROUP, {"group": selector})["assetNodes"]]

    def launch(
        self, location: Location, job: str, tags: Mapping[str, str], assets: Sequence[Sequence[str]] = ()
    ) -> str:
        """`assets`: only these of the job's."""
        selector: dict[str, Any] = {
            "jobName": job,
            "repositoryName": location.repository,
            "repositoryLocationName": location.name,
        }
        if assets:
            selector["assetSelection"] = [{"path": list(asset)} for asset in assets]
        params = {
            "selector": selector,
            "runConfigData": {},
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        answer = self._ask(_LAUNCH, {"params": params})["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            errors = "; ".join(problem["message"] for problem in answer.get("errors", ()))
            raise DagsterError(answer.get("message") or errors or answer["__typename"])
        return str(answer["run"]["runId"])

    def status(self, run: str) -> str:
        found = self._runs({"runIds": [run]})
        return str(found[0]["status"]) if found else "NOT_FOUND"

    def has_succeeded(self, job: str) -> bool:
        return bool(self._runs({"pipelineName": job, "statuses": ["SUCCESS"]}, limit=1))

    def runs_in_progress(self, statuses: Sequence[str] = _IN_PROGRESS) -> list[str]:
        return [str(run["runId"]) for run in self._runs({"statuses": list(statuses)})]

    def terminate(self, runs: Sequence[str], *, only_mark: bool = False) -> None:
        """Asks runs to end; with `only_mark` they are known to be dead and are written down as cancelled."""
        policy = "MARK_AS_CANCELED_IMMEDIATELY" if only_mark else "SAFE_TERMINATE"
        self._ask(_TERMINATE, {"ids": list(runs), "policy": policy})

    def follow(self, run: str, on_event: Callable[[Event], None], wait: Callable[[float], bool]) -> str:
        """Hands over a run's events as they come, returns how it ended; `wait` says True to leave early."""
        seen = 0
        try:
            for event in self._pushed_events(run, wait):
                seen += 1
                on_event(event)
        except (websocket.WebSocketException, OSError):
            pass  # the same events can be asked for: slower, and without a lasting connection
        status = self.status(run)
        for event in self._asked_events(run, wait, skip=seen):
            on_event(event)
        return self.status(run) if status not in FINISHED else status

    def _pushed_events(self, run: str, wait: Callable[[float], bool]) -> Iterator[Event]:
        socket = websocket.create_connection(
            self._url.replace("http", "ws", 1), subprotocols=["graphql-ws"], timeout=1.0
        )
        try:
            socket.send(json.dumps({"type": "connection_init", "payload": {}}))
            start = {"type": "start", "id": "1", "payload": {"query": _EVENTS, "variables": {"run": run}}}
            socket.send(json.dumps(start))
            while not wait(0):
                try:
                    message = json.loads(socket.recv())
                except websocket.WebSocketTimeoutException:
                    if self.status(run) in FINISHED:
                        return  # its last events are asked for
                    continue
                if message["type"] in {"error", "complete", "connection_error"}:
                    return
                if message["type"] == "data":
                    yield from _events(message["payload"]["data"]["pipelineRunLogs"].get("messages", ()))
        finally:
            socket.close()

    def _asked_events(self, run: str, wait: Callable[[float], bool], skip: int) -> Iterator[Event]:
        cursor = None
        while True:
            finished = self.status(run) in FINISHED
            answer = self._ask(_EVENTS_SO_FAR, {"run": run, "cursor": cursor})["logsForRun"]
            if answer["__typename"] != "EventConnection":
                raise DagsterError(answer.get("message", answer["__typename"]))
            cursor = answer["cursor"]
            events = list(_events(answer["events"]))
            yield from events[skip:]
            skip = max(0, skip - len(events))
            if (finished and not answer["hasMore"]) or wait(0 if answer["hasMore"] else 1):
                return

    def _runs(self, filters: Mapping[str, Any], limit: int | None = None) -> list[dict[str, Any]]:
        answer = self._ask(_RUNS, {"filter": dict(filters), "limit": limit})["runsOrError"]
        if answer["__typename"] != "Runs":
            raise DagsterError(answer.get("message", answer["__typename"]))
        return list(answer["results"])

    def _ask(
        self, query: str, variables: Mapping[str, Any] | None = None, seconds: float = _TIMEOUT_SECONDS
    ) -> dict[str, Any]:
        answer = self._session.post(
            self._url, json={"query": query, "variables": dict(variables or {})}, timeout=seconds
        )
        try:
            body = answer.json()
        except ValueError:
            raise DagsterError(f"{self._url} answered {answer.status_code} without JSON") from None
        if body.get("data") is None:
            problems = "; ".join(str(problem.get("message")) for problem in body.get("errors", ()))
            raise DagsterError(problems or f"{self._url} answered {answer.status_code}")
        return dict(body["data"])


def _events(messages: Sequence[Mapping[str, Any]]) -> Iterator[Event]:
    for message in messages:
        yield Event(
            kind=message.get("eventType") or "",
            step=message.get("stepKey") or "",
            message=message.get("message") or "",
            error=_root_of(message.get("error") or {}),
        )


def _root_of(error: Mapping[str, Any]) -> str:
    """The first cause: what Dagster wraps around it says only where, not what."""
    causes = error.get("causes") or ()
    return str((causes[-1] if causes else error).get("message") or "")
