"""The metrics of the streams of one process, for Prometheus: on loopback, for as long as the streams run.

Names and units are fixed; labels are streams, feeds, sinks and kinds of ticks, never symbols. The figures are the
reporter's.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from market_pipelines.settings import SettingsError
from market_pipelines.store.streams import Report
from market_pipelines.streaming.service import StreamService

HOST = "127.0.0.1"
PREFIX = "marketpipe_"


class MetricsPortTaken(SettingsError):
    """STREAM_METRICS_PORT names a port that another program has."""


@contextmanager
def served_metrics(port: int | None, services: Sequence[StreamService]) -> Iterator[str | None]:
    """The address while the block runs; None where no port is set."""
    if port is None:
        yield None
        return
    registry = CollectorRegistry()
    registry.register(StreamCollector(services))
    try:
        server, thread = start_http_server(port, HOST, registry)
    except OSError as error:
        raise MetricsPortTaken(
            f"STREAM_METRICS_PORT: read {port}, which cannot be listened on ({error.strerror}); accepted: a free "
            "port, or none for no metrics"
        ) from None
    try:
        yield f"http://{HOST}:{port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class StreamCollector(Collector):
    def __init__(self, services: Sequence[StreamService]) -> None:
        self._services = services

    def describe(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        return ()

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        reports = [
            (service.plan.name, service.plan.feed.value, service.reporter.report())
            for service in self._services
            if service.reporter is not None
        ]
        yield from _of_streams(reports)
        yield from _of_sinks(reports)


Reports = Sequence[tuple[str, str, Report]]


def _of_streams(reports: Reports) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
    up = _gauge("stream_live", "Whether data comes in.")
    newest = _gauge("stream_last_message_timestamp_seconds", "When the newest message arrived.")
    connections = _gauge("stream_connections", "Connections by state.", "state")
    events = _counter("stream_events", "Events that are durable in the journal.")
    rows = _counter("stream_rows", "Rows decoded, by kind of tick.", "channel")
    duplicates = _counter("stream_duplicates", "Events that came again and were dropped.")
    rejects = _counter("stream_rejects", "Frames and events that could not be read.")
    gap_seconds = _counter("stream_gap_seconds", "Length of the gaps that have ended.")
    reconnects = _counter("reconnects", "Connections made again.")
    queue = _gauge("queue_depth", "Entries that wait to be durable.")
    dropped = _counter("queue_dropped", "Entries thrown away while the disk took none.")
    journal = _gauge("journal_bytes", "On the disk.")
    commit = _gauge("journal_commit_seconds", "From arrival until durable, 99 % of the last commits.")
    lag = _gauge("stream_lag_seconds", "From event to arrival, over the last minute.", "quantile")
    for stream, feed, report in reports:
        told, at = report.counters, [stream, feed]
        up.add_metric(at, float(report.state.value == "live"))
        if told["last_event_age_s"] is not None:
            newest.add_metric(at, time.time() - told["last_event_age_s"])
        states = [str(one["state"]) for one in report.connections]
        for state in dict.fromkeys(states):
            connections.add_metric([*at, state], states.count(state))
        events.add_metric(at, told["events"])
        for kind, count in told["rows"].items():
            rows.add_metric([*at, kind], count)
        duplicates.add_metric(at, told["duplicates"])
        rejects.add_metric(at, told["rejects"])
        gap_seconds.add_metric(at, told["gap_seconds"])
        reconnects.add_metric(at, sum(one["reconnects"] for one in report.connections))
        queue.add_metric(at, told["journal"]["buffered_entries"])
        dropped.add_metric(at, told["journal"]["thrown_away"])
        journal.add_metric(at, told["journal"]["bytes"])
        commit.add_metric(at, told["journal"]["commit_p99_seconds"])
        for quantile, name in (("0.5", "lag_p50_ms"), ("0.99", "lag_p99_ms")):
            if told[name] is not None:
                lag.add_metric([*at, quantile], told[name] / 1000)
    yield from (up, newest, connections, events, rows, duplicates, rejects, gap_seconds, reconnects, queue, dropped)
    yield from (journal, commit, lag)


def _of_sinks(reports: Reports) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
    seconds = _gauge("sink_lag_seconds", "How far behind the journal a sink is.", "sink")
    events = _gauge("sink_lag_events", "How far behind the journal a sink is.", "sink")
    errors = _counter("sink_errors", "Attempts of a sink that failed.", "sink")
    rows = _counter("sink_rows", "Rows that a sink took.", "sink")
    for stream, feed, report in reports:
        for sink in report.sinks:
            at = [stream, feed, str(sink["sink"])]
            seconds.add_metric(at, sink["cursor_lag_s"])
            events.add_metric(at, sink["cursor_lag_events"])
            errors.add_metric(at, sink["errors"])
            rows.add_metric(at, sink["rows"])
    yield from (seconds, events, errors, rows)


def _gauge(name: str, told: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}{name}", told, labels=["stream", "feed", *labels])


def _counter(name: str, told: str, *labels: str) -> CounterMetricFamily:
    """The library adds `_total`."""
    return CounterMetricFamily(f"{PREFIX}{name}", told, labels=["stream", "feed", *labels])
