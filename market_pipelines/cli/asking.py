"""What the commands that ask providers share: whom to ask, how an outcome is shown, and how a command ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from market_pipelines.cli.output import ExitCode, say
from market_pipelines.market.outcomes import Outcome
from market_pipelines.pipeline.fetch import Delivered
from market_pipelines.pipeline.platform import Platform
from market_pipelines.providers.protocol import DailyProvider

SHOWN = 60
"""Lines of a long table; `--json` has all of them."""

Provider = Annotated[str | None, typer.Option("--provider", help="Ask only this one.", show_default=False)]


def chosen_chain(platform: Platform, name: str | None) -> tuple[DailyProvider, ...] | None:
    if name is None:
        return None
    if name not in platform.providers:
        raise typer.BadParameter(f"--provider {name!r} is not known; accepted: {', '.join(sorted(platform.providers))}")
    return (platform.providers[name],)


def code_of(outcomes: Iterable[Outcome]) -> ExitCode:
    """How a command about symbols ends."""
    failed = [outcome for outcome in outcomes if not outcome.delivered]
    if not failed:
        return ExitCode.OK
    return ExitCode.NOT_AUTHORISED if set(failed) == {Outcome.NOT_ENTITLED} else ExitCode.PARTIAL


def single_code(delivered: Delivered) -> ExitCode:
    """How a command about one thing ends."""
    if delivered.delivered is not None:
        return ExitCode.OK
    return ExitCode.NOT_AUTHORISED if delivered.outcome is Outcome.NOT_ENTITLED else ExitCode.ERROR


def outcome_document(symbol: str, delivered: Delivered) -> dict[str, Any]:
    attempt = delivered.delivered
    return {
        "symbol": symbol,
        "outcome": delivered.outcome,
        "provider": attempt.provider if attempt is not None else None,
        "requests": sum(one.requests for one in delivered.attempts),
        "reason": delivered.reason if attempt is None else "",
    }


def without_symbol(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != "symbol"}


def say_more(rows: int) -> None:
    if rows > SHOWN:
        say(f"{rows - SHOWN} more; --json has all of them")


def say_failed(results: Mapping[str, Delivered]) -> None:
    for symbol, delivered in results.items():
        if delivered.delivered is None:
            say(f"{symbol}: {delivered.outcome.value}: {delivered.reason}")
