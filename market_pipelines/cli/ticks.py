"""The commands `ticks`, for trades and quotes of the past, and `corrections`, for changes that wait for a person."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from market_pipelines.cli.data import Market, platform_of_commands
from market_pipelines.cli.door import Json, Symbols, symbols_in
from market_pipelines.cli.output import CommandFailed, ExitCode, emit_json, emit_table, plain, progress, say
from market_pipelines.cli.read import Format, put_out
from market_pipelines.market.live import mark_names
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import TickKind
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.corrections import settle_correction
from market_pipelines.pipeline.refresh import instruments_of
from market_pipelines.pipeline.ticks import CAPABILITY, newest_day, pull_ticks, read_ticks
from market_pipelines.store.corrections import Decision, UnknownCorrection, held

correction_commands = typer.Typer(no_args_is_help=True, help="Changes of final bars that wait for a decision.")

SHOWN = 50
CONTRACT = re.compile(r"O:[A-Z0-9.]{1,7}\d{6}[CP]\d{8}")


def a_moment(text: str) -> date | datetime:
    try:
        return date.fromisoformat(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither a day nor an instant; accepted: 2026-11-20, 2026-11-20T15:30:00-05:00"
        ) from None
    if moment.tzinfo is None:
        raise typer.BadParameter(f"{text!r} has no time zone; accepted: 2026-11-20T15:30:00-05:00")
    return moment


def register(app: typer.Typer) -> None:
    app.command()(ticks)
    app.add_typer(correction_commands, name="corrections")


def ticks(
    symbols: Symbols,
    kind: Annotated[TickKind, typer.Option("--kind")] = TickKind.TRADES,
    start: Annotated[
        datetime | None,
        typer.Option("--from", parser=a_moment, metavar="DAY|INSTANT", show_default=False),
    ] = None,
    end: Annotated[
        datetime | None,
        typer.Option(
            "--to", parser=a_moment, metavar="DAY|INSTANT", help="A day counts to its end.", show_default=False
        ),
    ] = None,
    market: Market = "us",
    pull: Annotated[bool, typer.Option("--pull", help="Ask the providers for the span first.")] = False,
    provider: Annotated[str | None, typer.Option("--provider", help="Ask only this one.", show_default=False)] = None,
    form: Annotated[Format, typer.Option("--format")] = Format.TABLE,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write there.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Trades, quotes, aggregates, snapshots or price bands (limit up, limit down) out of the tick lake. Without days:
    the last session that has closed, or a later day of which the lake has some."""
    wanted = _symbols(symbols)
    if pull and kind not in CAPABILITY:
        raise typer.BadParameter(
            f"--pull fetches {' and '.join(CAPABILITY)}; {kind.value} are what a stream has brought "
            "(market-pipelines stream run)"
        )
    failed: list[str] = []
    with platform_of_commands(asks=pull) as platform:
        definition = platform.market(market)
        calendar = trading_calendar(definition.mic, platform.clock())
        with platform.database.connection() as connection:
            begins = start if start is not None else newest_day(connection, definition, kind, platform.clock())
        first = _instant(begins, calendar.zone, 0)
        last = _instant(end if end is not None else first.astimezone(calendar.zone).date(), calendar.zone, 1)
        if first >= last:
            raise typer.BadParameter(f"--to {last.isoformat()} is not after --from {first.isoformat()}")
        if pull:
            chain = None
            if provider is not None:
                if provider not in platform.providers:
                    raise typer.BadParameter(
                        f"--provider {provider!r} is not known; accepted: {', '.join(sorted(platform.providers))}"
                    )
                chain = (platform.providers[provider],)
            with progress("ticks") as done:
                pulls = pull_ticks(
                    platform,
                    definition,
                    instruments_of(definition, wanted),
                    kind,
                    first,
                    last,
                    providers=chain,
                    progress=done,
                )
            for one in pulls:
                say(f"{one.symbol} {one.session}: {one.outcome.value}, {one.rows:,} {kind.value} {one.reason}".rstrip())
            failed = [one.symbol for one in pulls if not one.outcome.delivered]
            if failed and len(failed) == len(pulls):
                refused = all(one.outcome in (Outcome.NOT_ENTITLED, Outcome.RETIRED) for one in pulls)
                raise typer.Exit(ExitCode.NOT_AUTHORISED if refused else ExitCode.PARTIAL)
        frame = read_ticks(platform, wanted, kind, first, last, market=market)
    _show(frame, Format.JSON if as_json else form, output, kind)
    absent = [symbol for symbol in wanted if symbol not in set(frame["symbol"])]
    if absent:
        advice = " To fetch them: the same command with --pull" if kind in CAPABILITY else ""
        say(f"No {kind.value} of {', '.join(absent)} in that span.{advice}")
        raise typer.Exit(ExitCode.PARTIAL if len(absent) < len(wanted) else ExitCode.ERROR)
    if failed:
        raise typer.Exit(ExitCode.PARTIAL)


def _symbols(words: list[str]) -> tuple[str, ...]:
    """Contracts of options, too."""
    contracts = {word.upper() for word in words if CONTRACT.fullmatch(word.upper())}
    others = symbols_in([word for word in words if word.upper() not in contracts])
    return tuple(dict.fromkeys([*others, *sorted(contracts)]))


def _instant(moment: date | datetime, zone: tzinfo, days: int) -> datetime:
    """A day is its midnight at the exchange, `days` later."""
    if isinstance(moment, datetime):
        return moment.astimezone(UTC)
    return datetime.combine(moment + timedelta(days=days), time(), zone).astimezone(UTC)


def _show(frame: pd.DataFrame, form: Format, output: Path | None, kind: TickKind) -> None:
    if form is Format.TABLE and output is None:
        columns = [name for name in frame.columns if name not in ("received_at", "feed")]
        shown = frame.head(SHOWN)[columns].astype(str)
        # A person reads words, a program the number that the lake has.
        shown["marks"] = [" ".join(mark_names(bits)) for bits in frame["marks"].head(SHOWN)]
        emit_table(columns, shown.to_numpy().tolist())
        say(f"{len(frame):,} {kind.value}" + (f", the first {SHOWN} shown" if len(frame) > SHOWN else ""))
        return
    put_out(frame, form, output, kind.value)


@correction_commands.command("list")
def list_corrections(
    market: Annotated[str | None, typer.Option("--market", show_default=False)] = None,
    decided: Annotated[bool, typer.Option("--decided", help="Also those that were accepted or rejected.")] = False,
    as_json: Json = False,
) -> None:
    """What changed a final bar by more than 5 % and therefore did not become one."""
    with platform_of_commands(asks=False) as platform, platform.database.connection() as connection:
        found = held(connection, market, status=None if decided else Decision.HELD)
    if as_json:
        emit_json([{name: plain(getattr(one, name)) for name in one.__dataclass_fields__} for one in found])
        return
    emit_table(
        ("number", "market", "symbol", "session", "close", "new close", "change", "provider", "seen", "status"),
        [
            (
                one.held_id,
                one.market,
                one.symbol,
                one.session,
                one.old_close,
                one.close,
                f"{one.change:.1%}",
                one.provider,
                one.times_seen,
                one.status,
            )
            for one in found
        ],
    )
    say(
        "market-pipelines corrections accept NUMBER writes one; reject NUMBER keeps the old bar."
        if found
        else "Nothing waits."
    )


@correction_commands.command("accept")
def accept(number: Annotated[int, typer.Argument(metavar="NUMBER")]) -> None:
    """Write a held correction; the old bar becomes a revision."""
    _decide(number, accept=True)


@correction_commands.command("reject")
def reject(number: Annotated[int, typer.Argument(metavar="NUMBER")]) -> None:
    """Keep the old bar, also when the same values come again."""
    _decide(number, accept=False)


def _decide(number: int, *, accept: bool) -> None:
    with platform_of_commands(asks=False) as platform:
        try:
            one = settle_correction(platform, number, accept=accept)
        except UnknownCorrection as error:
            raise CommandFailed(str(error)) from None
    say(f"{one.symbol} {one.session}: close {one.old_close:g} {'→' if accept else 'kept, not'} {one.close:g}")
