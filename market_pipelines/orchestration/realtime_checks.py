"""The checks of a market's live stream: how it is now, and how what it has left of a session is.

Whether it is well is judged from the tables, by the sensor every few minutes or by hand; the rules are in
`pipeline.stream_watch`. Sessions are judged by the quality rules of the realtime tables, after the close with the
bars. All of them pass where nobody streams and nobody has to.
"""

from collections.abc import Iterator

import dagster as dg

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.orchestration.quality_checks import checks_of_table
from market_pipelines.orchestration.realtime import quotes_key
from market_pipelines.orchestration.resources import PlatformResource
from market_pipelines.pipeline.checks import assets_of
from market_pipelines.pipeline.stream_evidence import KINDS
from market_pipelines.pipeline.stream_watch import (
    FILLED_WITHIN,
    LATE_SECONDS,
    QUIET_SECONDS,
    SILENT_SECONDS,
    SINK_LATE_SECONDS,
    SINK_STUCK_SECONDS,
    Gravity,
    StreamCheck,
    Verdict,
    verdicts,
    watch,
)

_TEXTS = {
    StreamCheck.NOT_SILENT: f"While the exchange trades, something comes in: at the latest after {SILENT_SECONDS:g} "
    f"seconds in regular hours, {QUIET_SECONDS / 60:g} minutes in extended ones, three intervals of a polled feed. "
    "Passes where nobody streams.",
    StreamCheck.LAG: f"No sink is more than {SINK_LATE_SECONDS:g} seconds behind the journal (an error from "
    f"{SINK_STUCK_SECONDS / 60:g} minutes on), and 99 of 100 events arrive within {LATE_SECONDS:g} seconds, "
    "beyond what the plan is late.",
    StreamCheck.GAPS_FILLED: f"What was missed has been filled from history within {FILLED_WITHIN.seconds // 60} "
    "minutes of its end. Fails while a gap is open for longer, or what is missing of the newest session cannot be had.",
}
_SEVERITIES = {Gravity.WARNING: dg.AssetCheckSeverity.WARN, Gravity.ERROR: dg.AssetCheckSeverity.ERROR}


def realtime_checks(market: MarketDefinition) -> dg.AssetChecksDefinition:
    """On the quotes, which every stream has; they are about all of the market's streams."""
    key = quotes_key(market)

    @dg.multi_asset_check(
        name=f"{market.name}_realtime_checks",
        specs=[dg.AssetCheckSpec(check.value, asset=key, description=text) for check, text in _TEXTS.items()],
        can_subset=True,
    )
    def checks(context: dg.AssetCheckExecutionContext, platform: PlatformResource) -> Iterator[dg.AssetCheckResult]:
        selected = {check.name for check in context.selected_asset_check_keys}
        with platform.opened(asks=False) as opened:
            found = verdicts(watch(opened, market))
        for verdict in found:
            if verdict.check.value in selected:
                yield dg.AssetCheckResult(
                    asset_key=key,
                    check_name=verdict.check.value,
                    passed=verdict.passed,
                    severity=_SEVERITIES[verdict.gravity],
                    description=verdict.words,
                    metadata=dict(verdict.figures),
                )

    return checks


def tick_checks(market: MarketDefinition) -> list[dg.AssetChecksDefinition]:
    """Of the ticks of sessions: how many of them are crossed, far off, taken back or late, and what is missing."""
    return [checks_of_table(market, asset) for asset in assets_of(market) if asset in KINDS]


def evaluation(market: MarketDefinition, verdict: Verdict) -> dg.AssetCheckEvaluation:
    """As a sensor reports it, without a run."""
    return dg.AssetCheckEvaluation(
        asset_key=quotes_key(market),
        check_name=verdict.check.value,
        passed=verdict.passed,
        severity=_SEVERITIES[verdict.gravity],
        description=verdict.words,
        metadata={name: dg.MetadataValue.float(value) for name, value in verdict.figures.items()},
    )
