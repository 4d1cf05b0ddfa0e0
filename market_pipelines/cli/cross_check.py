"""The commands `quality disagreements|cross-check`: what providers say differently, and asking a second one."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from datetime import date
from typing import Annotated, Any

import pandas as pd
import typer

from market_pipelines.cli.data import Market, platform_of_commands
from market_pipelines.cli.door import Json, a_day, symbols_in
from market_pipelines.cli.output import ExitCode, emit_json, emit_table, say
from market_pipelines.cli.quarantine import AnyMarket, Limit, Of, opened_for
from market_pipelines.pipeline.cross_check import (
    AGREES,
    DISAGREES,
    NOT_ASKED,
    NOT_COMPARABLE,
    Opinion,
    Question,
    cross_check,
    plan,
    quota_left,
)
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.quota import provider_quotas
from market_pipelines.store.disagreements import read_disagreements


def register(commands: typer.Typer) -> None:
    """Adds them to the group `quality`."""
    commands.command("disagreements")(disagreements)
    commands.command("cross-check")(cross_check_now)


def disagreements(
    market: AnyMarket = None,
    symbols: Of = None,
    unresolved: Annotated[bool, typer.Option("--open/--all", help="Or also those that are over.")] = True,
    limit: Limit = 1000,
    as_json: Json = False,
) -> None:
    """Where two providers' final bars are further apart than the market lets pass, newest session first."""
    with opened_for(market) as platform, platform.database.connection() as connection:
        found = read_disagreements(
            connection, market, symbols=symbols_in(symbols or ()), unresolved=unresolved, limit=limit
        )
    rows = [_plain_row(row) for row in found.to_dict("records")]
    if as_json:
        emit_json(rows)
        return
    emit_table(
        (
            "market",
            "symbol",
            "session",
            "agreed on",
            "other",
            "close",
            "other close",
            "bp",
            "of",
            "kind",
            "volume",
            "seen",
        )
        + (() if unresolved else ("resolved (UTC)",)),
        [
            (
                row["market"],
                row["symbol"],
                row["session"],
                row["provider"],
                row["other"],
                row["close"],
                row["other_close"],
                row["bp"],
                row["tolerance_bp"],
                row["kind"],
                None if row["volume_share"] is None else f"{row['volume_share']:.1%}",
                row["times_seen"],
                *(() if unresolved else (row["resolved_at"],)),
            )
            for row in rows
        ],
        numbers=("volume",),
    )
    if not rows:
        say("The providers agree." if unresolved else "The providers have never disagreed.")


def cross_check_now(
    market: Market = "us",
    symbols: Annotated[
        list[str] | None,
        typer.Option("--symbols", metavar="SYMBOL,…", help="In place of those whose turn it is.", show_default=False),
    ] = None,
    session: Annotated[
        date | None,
        typer.Option(
            "--session", parser=a_day, metavar="YYYY-MM-DD", help="In place of the newest one.", show_default=False
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say who would be asked, and ask nobody.")] = False,
    as_json: Json = False,
) -> None:
    """Ask a second provider for a few symbols, and compare. The quota that is kept for quotes is not touched."""
    wanted = symbols_in(symbols or ())
    with platform_of_commands(asks=not dry_run) as platform:
        definition = platform.market(market)
        unknown = [symbol for symbol in wanted if symbol not in {one.symbol for one in definition.everything}]
        if unknown:
            raise typer.BadParameter(f"{unknown[0]} is not listed in market {market}")
        if dry_run:
            _would_ask(plan(platform, definition, session, wanted), platform, as_json=as_json)
            return
        report = cross_check(platform, definition, session, wanted)
    if as_json:
        emit_json(
            {
                "market": report.market,
                "session": report.session,
                "run": report.run_id,
                "requests": report.requests,
                "symbols": report.opinions,
            }
        )
    else:
        emit_table(
            (
                "symbol",
                "session",
                "agreed on",
                "asked",
                "outcome",
                "close",
                "other close",
                "bp",
                "of",
                "requests",
                "why",
            ),
            [
                (
                    one.symbol,
                    one.session,
                    one.leader,
                    one.other,
                    one.outcome,
                    one.close,
                    one.other_close,
                    one.bp,
                    one.tolerance_bp,
                    one.requests,
                    one.reason or None,
                )
                for one in report.opinions
            ],
        )
        say(_summary(report.opinions, market))
    _exit_by(report.opinions)


def _would_ask(questions: Sequence[Question], platform: Platform, *, as_json: bool) -> None:
    asking = [question for question in questions if question.asks]
    left = quota_left(platform, provider_quotas(platform))
    if as_json:
        emit_json(
            {
                "session": questions[0].session if questions else None,
                "requests": sum(question.calls for question in asking),
                "symbols": [
                    {
                        "symbol": question.instrument.symbol,
                        "leader": question.leader,
                        "other": question.other,
                        "from": question.start,
                        "to": question.session,
                        "requests": question.calls if question.asks else 0,
                        "not_asked": question.why_not or None,
                    }
                    for question in questions
                ],
                "quota_left": left,
            }
        )
        return
    emit_table(
        ("symbol", "session", "agreed on", "would ask", "requests", "quota left", "why not"),
        [
            (
                question.instrument.symbol,
                question.session,
                question.leader,
                question.other if question.asks else None,
                question.calls if question.asks else 0,
                None
                if question.other is None
                else "no limit"
                if left[question.other] is None
                else left[question.other],
                question.why_not or None,
            )
            for question in questions
        ],
    )
    say(f"{sum(question.calls for question in asking)} requests for {len(asking)} of {len(questions)} symbols")


def _summary(opinions: Sequence[Opinion], market: str) -> str:
    if not opinions:
        return f"Nothing of market {market} is stored yet that a second provider could be asked about."
    apart = sum(one.outcome == DISAGREES for one in opinions)
    requests = sum(one.requests for one in opinions)
    return f"{sum(one.outcome == AGREES for one in opinions)} agree, {apart} disagree, {requests} requests" + (
        "; market-pipelines quality disagreements shows them" if apart else ""
    )


def _exit_by(opinions: Sequence[Opinion]) -> None:
    """A second opinion that could not be had is not a failure of what is stored; that of all of them is one."""
    failed = [one for one in opinions if one.outcome not in (AGREES, DISAGREES, NOT_COMPARABLE, NOT_ASKED)]
    if failed:
        raise typer.Exit(ExitCode.PARTIAL)


def _plain_row(row: Mapping[Hashable, Any]) -> dict[str, Any]:
    """A row of a frame: days without a time, and what is missing as nothing."""
    shown = {str(name): None if pd.isna(value) else value for name, value in row.items()}
    return shown | {"session": pd.Timestamp(row["session"]).date()}
