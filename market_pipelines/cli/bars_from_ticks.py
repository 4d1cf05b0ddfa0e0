"""The command `bars-from-ticks`: minute bars of a session built from what was streamed, and how they compare."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from datetime import UTC, date, datetime
from typing import Annotated, Any

import pandas as pd
import typer

from market_pipelines.cli.asking import SHOWN
from market_pipelines.cli.data import Market, platform_of_commands
from market_pipelines.cli.door import Json, a_day, symbols_in
from market_pipelines.cli.output import emit_json, emit_table, say
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.bars_from_ticks import BuiltBars, build_bars


def register(commands: typer.Typer) -> None:
    commands.command("bars-from-ticks")(bars_from_ticks)


def bars_from_ticks(
    session: Annotated[
        date | None,
        typer.Argument(parser=a_day, metavar="YYYY-MM-DD", help="By default the newest one.", show_default=False),
    ] = None,
    market: Market = "us",
    symbols: Annotated[
        list[str] | None,
        typer.Option("--symbols", metavar="SYMBOL,…", help="By default all that were streamed.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Build a session's minute bars from the tick lake, store them, and compare them with the providers' minutes."""
    with platform_of_commands(asks=False) as platform:
        definition = platform.market(market)
        chosen = session if session is not None else _newest(definition.mic, platform.clock())
        built = build_bars(platform, definition, chosen, symbols_in(symbols or ()) or None)
    if as_json:
        emit_json(_document(built))
        return
    emit_table(
        ("compared with", "bars", "equal", "within", "differing", "only ours", "only theirs"),
        [
            (one.title, one.compared, one.equal, one.within, len(one.differing), one.only_ours, one.only_theirs)
            for one in built.comparisons
        ],
        numbers=("bars", "equal", "within", "differing", "only ours", "only theirs"),
    )
    worst = [row for one in built.comparisons for row in one.differing.head(SHOWN).to_dict("records")]
    if worst:
        emit_table(
            ("symbol", "minute (UTC)", "provider", "close", "other close", "bp", "volume", "other volume"),
            [
                (
                    row["symbol"],
                    row["ts"].to_pydatetime(),
                    row["provider"],
                    row["close"],
                    row["other_close"],
                    round(row["bp"], 2),
                    row["volume"],
                    row["other_volume"],
                )
                for row in worst
            ],
            numbers=("volume", "other volume"),
        )
    say(_sentence(built))


def _newest(mic: str, now: datetime) -> date:
    """The running session, or the last one."""
    calendar = trading_calendar(mic, now)
    return calendar.sessions(date(now.year - 1, 1, 1), calendar.local_date(now))[-1]


def _sentence(built: BuiltBars) -> str:
    missed = f", {built.incomplete:,} of them incomplete" if built.incomplete else ""
    covered = built.coverage
    return (
        f"{built.market} {built.session}: {len(built.bars):,} bars of {built.bars['symbol'].nunique()} symbols from "
        f"{built.ticks:,} {built.source}{missed}; {covered.covered} of {covered.expected} regular minutes were seen "
        f"whole; {built.seconds:.1f} s"
    )


def _document(built: BuiltBars) -> dict[str, Any]:
    return {
        "market": built.market,
        "session": built.session,
        "source": built.source,
        "ticks": built.ticks,
        "bars": len(built.bars),
        "symbols": int(built.bars["symbol"].nunique()),
        "incomplete": built.incomplete,
        "replaced": built.replaced,
        "seconds": round(built.seconds, 3),
        "coverage": {
            "expected_minutes": built.coverage.expected,
            "covered_minutes": built.coverage.covered,
            "unfilled_gaps": built.coverage.unfilled_gaps,
        },
        "comparisons": [
            {
                "with": one.title,
                "compared": one.compared,
                "equal": one.equal,
                "within": one.within,
                "only_ours": one.only_ours,
                "only_theirs": one.only_theirs,
                "differing": [_plain(row) for row in one.differing.to_dict("records")],
            }
            for one in built.comparisons
        ],
    }


def _plain(row: Mapping[Hashable, Any]) -> dict[str, Any]:
    shown = {str(name): None if pd.isna(value) else value for name, value in row.items()}
    return shown | {"ts": pd.Timestamp(row["ts"]).to_pydatetime().astimezone(UTC)}
