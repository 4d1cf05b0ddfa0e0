"""Commands that only look: `status` and `provider list`."""

from __future__ import annotations

from typing import Any

import typer

from market_pipelines.cli.body import read as read_a_body
from market_pipelines.cli.check import check
from market_pipelines.cli.door import Json, read_door_settings
from market_pipelines.cli.output import emit_json, emit_line, emit_table, say, size
from market_pipelines.cli.quota import AS_USUAL, breaker_document, trouble
from market_pipelines.cli.quota import register as register_quota
from market_pipelines.cli.running import Running, running_platform
from market_pipelines.cli.stream_status import sentence as stream_sentence
from market_pipelines.market.bars import CONDITIONS
from market_pipelines.market.instruments import Instrument
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.pipeline.platform import open_platform
from market_pipelines.pipeline.simulated import running_simulator, uses_simulator
from market_pipelines.pipeline.status import PlatformState, ProviderState, platform_state
from market_pipelines.providers.protocol import Capability, DailyProvider, abilities_of
from market_pipelines.providers.registry import build_providers, limits
from market_pipelines.providers.symbols import EXCHANGE_ZONES
from market_pipelines.streaming.status import StreamsState, streams_state
from market_pipelines.streaming.status import document as streams_document

provider_commands = typer.Typer(help="The providers.", no_args_is_help=True)

_NAMES_SHOWN = 5


def register(app: typer.Typer) -> None:
    app.command()(status)
    provider_commands.command("check")(check)
    provider_commands.command("read")(read_a_body)
    register_quota(provider_commands)
    app.add_typer(provider_commands, name="provider")


def status(as_json: Json = False) -> None:
    """Show database, providers, freshness, coverage and the last jobs. Works beside `up` and without it."""
    settings = read_door_settings()
    running = running_platform(settings.home)
    simulator = running_simulator(settings)
    with open_platform(settings, asks=False) as platform:
        state, streams = platform_state(platform), streams_state(platform)
    if as_json:
        emit_json(_document(state, streams, running, simulator))
    else:
        _show(state, streams, running, simulator)


@provider_commands.command("list")
def list_providers(as_json: Json = False) -> None:
    """Show who can be asked, for which exchanges, how often, and on what basis prices are delivered."""
    settings = read_door_settings()
    simulated = uses_simulator(settings)
    markets = read_markets()
    mics = sorted({*EXCHANGE_ZONES, *(market.mic for market in markets.values())})
    found: list[dict[str, Any]] = []
    for name, provider in build_providers(settings).items():
        allowed = limits(name, settings)
        reason = "" if simulated else provider.ready()
        found.append(
            {
                "provider": name,
                "ready": not reason,
                "reason": reason,
                "simulated": simulated,
                "basis": provider.basis,
                "capabilities": {
                    capability.value: {
                        "note": ability.note,
                        "intervals": ability.intervals,
                        "basis": ability.basis or provider.basis,
                        "instruments_a_call": ability.most,
                    }
                    for capability, ability in abilities_of(provider).items()
                },
                "exchanges": [mic for mic in mics if _covers(provider, mic)],
                "markets": [market.name for market in markets.values() if name in market.providers],
                "limits": {
                    "per_minute": allowed.per_minute,
                    "per_day": allowed.per_day or None,
                    "reset_zone": allowed.reset_zone,
                },
            }
        )
    if as_json:
        emit_json(found)
        return
    emit_table(
        ("provider", "ready", "basis", "exchanges", "per minute", "per day", "note"),
        [
            (
                one["provider"],
                one["ready"],
                one["basis"],
                " ".join(one["exchanges"]),
                one["limits"]["per_minute"],
                one["limits"]["per_day"],
                one["reason"] or ("simulated" if simulated else ""),
            )
            for one in found
        ],
    )
    emit_table(
        ("provider", *(capability.value.replace("_", " ") for capability in Capability)),
        [
            (one["provider"], *(_mark(one["capabilities"].get(capability.value)) for capability in Capability))
            for one in found
        ],
    )
    say("What each capability needs and how far back it goes: --json")


def _mark(ability: dict[str, Any] | None) -> str:
    if ability is None:
        return ""
    return " ".join(name.removesuffix("min") for name in ability["intervals"]) or "yes"


def _covers(provider: DailyProvider, mic: str) -> bool:
    return provider.covers(Instrument("ANY", "", mic, ""))


def _document(
    state: PlatformState, streams: StreamsState, running: Running | None, simulator: str | None
) -> dict[str, Any]:
    database = state.database
    return {
        "at": state.at,
        "database": {
            "url": database.url,
            "kind": "embedded" if database.embedded else "external",
            "simulated": database.simulated,
            "server_version": database.server_version,
            "revision": database.revision,
            "pending": database.pending,
            "size_bytes": database.size,
        },
        "providers": [
            {
                "provider": one.provider,
                "ready": one.ready,
                "reason": one.reason,
                "simulated": one.simulated,
                "requests_today": one.requests_today,
                "per_minute": one.per_minute,
                "quota": {
                    "limit": one.quota.limit,
                    "used": one.quota.used,
                    "remaining": one.quota.remaining,
                    "reserve": one.quota.reserve,
                    "resets_at": one.quota.resets_at,
                },
                "breaker": breaker_document(one.limits),
                "blocked_until": one.limits.blocked_until,
                "wrong": trouble(one.limits, one.reason)[0],
                "next": trouble(one.limits, one.reason)[1],
                "last_outcome": one.last_outcome,
                "last_reason": one.last_reason,
                "last_at": one.last_at,
                "requests_24h": one.requests_24h,
                "failed_24h": one.failed_24h,
                "failed_share_24h": one.failed_share,
            }
            for one in state.providers
        ],
        "freshness": [
            {
                "market": one.market,
                "last_closed": one.last_closed,
                "due_at": one.due_at,
                "newest_stored": one.newest_stored,
                "symbols": one.symbols,
                "symbols_behind": len(one.behind),
                "behind": one.behind,
            }
            for one in state.freshness
        ],
        "coverage": [
            {
                "market": one.market,
                "from": one.start,
                "to": one.end,
                **{condition: one.counts[condition] for condition in CONDITIONS},
                "never_checked": one.unknown,
            }
            for one in state.coverage
        ],
        "jobs": state.jobs,
        "stream": streams_document(streams),
        "up": {"running": running is not None, "addresses": dict(running.addresses) if running is not None else {}},
        "simulator": {"running": simulator is not None, "url": simulator},
    }


def _show(state: PlatformState, streams: StreamsState, running: Running | None, simulator: str | None) -> None:
    database = state.database
    kind = "embedded" if database.embedded else "external"
    steps = f"schema {database.revision}" + (f", {len(database.pending)} steps behind" if database.pending else "")
    emit_line(
        f"Database   {kind} PostgreSQL {database.server_version}, {steps}, {size(database.size)}"
        + (", simulated data" if database.simulated else "")
    )
    emit_line(f"           {database.url}")
    addresses = " ".join(f"{name} {address}" for name, address in running.addresses.items()) if running else ""
    emit_line(f"Platform   {'up' if running else 'not up'} {addresses}".rstrip())
    if simulator is not None:
        emit_line(f"Simulator  {simulator}")
    for number, row in enumerate(streams.rows):
        emit_line(f"{'Stream' if number == 0 else '':<10} {stream_sentence(row)}")
    if not streams.rows:
        emit_line("Stream     none has run yet")
    emit_line("")
    emit_table(
        (
            "provider",
            "ready",
            "breaker",
            "today",
            "quota left",
            "last outcome",
            "last asked (UTC)",
            "failed in 24 h",
            "note",
        ),
        [
            (
                one.provider + (" (simulated)" if one.simulated else ""),
                one.ready,
                one.limits.breaker.state.value.replace("_", "-"),
                one.requests_today,
                "no limit" if one.quota.limit is None else f"{one.quota.remaining} of {one.quota.limit}",
                one.last_outcome,
                one.last_at,
                "-" if one.failed_share is None else f"{one.failed_24h} of {one.requests_24h} ({one.failed_share:.0%})",
                _note(one),
            )
            for one in state.providers
        ],
        "Providers",
    )
    emit_line("")
    emit_table(
        ("market", "last closed", "newest stored", "behind", "of", *CONDITIONS, "never checked", "lacking"),
        [
            (
                fresh.market,
                fresh.last_closed,
                fresh.newest_stored,
                len(fresh.behind),
                fresh.symbols,
                *(coverage.counts[condition] for condition in CONDITIONS),
                coverage.unknown,
                _names(fresh.behind),
            )
            for fresh, coverage in zip(state.freshness, state.coverage, strict=True)
        ],
        "Markets (conditions: symbols × the last 30 sessions)",
    )
    emit_line("")
    if not state.jobs:
        say("No job has run yet. A first one: market-pipelines pull AAPL")
        return
    emit_table(
        ("job", "name", "market", "status", "started (UTC)", "seconds", "symbols", "records", "failed", "error"),
        [
            (
                str(job.job_id),
                job.job_name,
                job.market,
                job.status.value,
                job.started_at,
                None if job.finished_at is None else (job.finished_at - job.started_at).total_seconds(),
                len(job.symbols),
                job.records_processed,
                job.records_failed,
                (job.error or "")[:60],
            )
            for job in state.jobs
        ],
        "Jobs",
    )


def _note(one: ProviderState) -> str:
    """What is wrong and what happens next; where nothing is, what the provider said last."""
    wrong, comes = trouble(one.limits, one.reason)
    return one.last_reason if comes == AS_USUAL else f"{wrong}; {comes}"


def _names(symbols: tuple[str, ...]) -> str:
    shown = " ".join(symbols[:_NAMES_SHOWN])
    return shown if len(symbols) <= _NAMES_SHOWN else f"{shown} …"
