"""`provider quota` and `provider resume`: what limits the calls to a provider now, and what happens next."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from market_pipelines.cli.door import Json, read_door_settings
from market_pipelines.cli.output import emit_json, emit_table, say
from market_pipelines.pipeline import breaker, limiter
from market_pipelines.pipeline.breaker import OPENS_AFTER, BreakerState, State
from market_pipelines.pipeline.estimate import unready
from market_pipelines.pipeline.platform import open_platform
from market_pipelines.pipeline.quota import DAY, WINDOWS, ProviderQuota, Spending, provider_quotas

AS_USUAL = "asked as usual"


def register(provider_commands: typer.Typer) -> None:
    provider_commands.command("quota")(show_quota)
    provider_commands.command("resume")(resume)


def show_quota(as_json: Json = False) -> None:
    """Show what is spent of each limit, what keeps a provider from being asked, and what happens next."""
    with open_platform(read_door_settings(), asks=False) as platform:
        quotas = provider_quotas(platform)
        lacking = {name: unready(platform, platform.providers[name]) for name in quotas}
    if as_json:
        emit_json([_row(quota, window, lacking[name]) for name, quota in quotas.items() for window in WINDOWS])
        return
    emit_table(
        ("provider", *(f"a {window}" for window in WINDOWS), "for quotes", "day ends (UTC)", "wrong", "next"),
        [
            (
                name,
                *(_spent(quota.windows[window]) for window in WINDOWS),
                quota.day.reserve or None,
                minute(quota.day.resets_at),
                *trouble(quota, lacking[name]),
            )
            for name, quota in quotas.items()
        ],
        numbers=tuple(f"a {window}" for window in WINDOWS),
    )
    if any(not quota.enforced for quota in quotas.values()):
        say("The simulator answers: calls are counted, and no limit is held against it.")


def resume(
    provider: Annotated[str, typer.Argument(metavar="NAME", help="The provider.", show_default=False)],
) -> None:
    """Ask a provider again at once: closes its breaker and forgets that it wanted to be left alone."""
    with open_platform(read_door_settings(), asks=False) as platform:
        if provider not in platform.providers:
            raise typer.BadParameter(f"{provider!r} is not known; accepted: {', '.join(sorted(platform.providers))}")
        closed, unblocked = breaker.resume(platform, provider), limiter.resume(platform, provider)
    say(f"{provider} is asked again." if closed or unblocked else f"Nothing kept {provider} from being asked.")


def trouble(quota: ProviderQuota, lacking: str) -> tuple[str, str]:
    """What is wrong with a provider and what it will do next, in words. `lacking` is what it misses to be asked."""
    if lacking:
        return lacking, "not asked until that is mended"
    if quota.breaker.state is not State.CLOSED:
        return _of_breaker(quota.breaker)
    if quota.blocked_until is not None:
        return quota.blocked_because, f"asked again from {minute(quota.blocked_until)}"
    if quota.enforced and (spent := _of_day(quota.day)):
        return spent
    if quota.breaker.failures:
        return (
            f"{quota.breaker.failures} failed in a row: {_last(quota.breaker)}",
            f"left alone after {OPENS_AFTER} in a row",
        )
    return "", AS_USUAL


def _of_breaker(state: BreakerState) -> tuple[str, str]:
    wrong = f"breaker {state.state.value.replace('_', '-')}, since {minute(state.since)}: {_last(state)}"
    if state.state is State.OPEN:
        return wrong, f"tried again from {minute(state.next_try)}"
    return wrong, "being tried just now" if state.probing else "the next call tries it"


def _of_day(day: Spending) -> tuple[str, str] | None:
    if day.limit is None or day.used < day.limit - day.reserve:
        return None
    again = f"asked again from {minute(day.resets_at)}"
    if day.used >= day.limit:
        return "the day is used up", again
    return f"only quotes may still ask ({day.remaining} calls left)", f"all others {again}"


def _last(state: BreakerState) -> str:
    return state.reason or (state.outcome.value if state.outcome is not None else "unknown")


def minute(at: datetime | None) -> str:
    return "-" if at is None else f"{at:%Y-%m-%d %H:%M:%S}"


def breaker_document(quota: ProviderQuota) -> dict[str, Any]:
    state = quota.breaker
    return {
        "state": state.state,
        "since": state.since,
        "next_try": state.next_try,
        "failures": state.failures,
        "outcome": state.outcome,
        "reason": state.reason,
    }


def _row(quota: ProviderQuota, window: str, lacking: str) -> dict[str, Any]:
    spending = quota.windows[window]
    wrong, comes = trouble(quota, lacking)
    return {
        "provider": quota.provider,
        "window": window,
        "limit": spending.limit,
        "used": spending.used,
        "remaining": spending.remaining,
        "resets_at": spending.resets_at,
        "reserve": spending.reserve if window == DAY else 0,
        "blocked_until": quota.blocked_until,
        "enforced": quota.enforced,
        "breaker": breaker_document(quota),
        "wrong": wrong,
        "next": comes,
    }


def _spent(spending: Spending) -> str:
    return f"{spending.used} of {'∞' if spending.limit is None else spending.limit}"
