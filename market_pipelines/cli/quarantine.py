"""The commands `quality list|release|drop|reopen|audit`: what is in quarantine, and what people decide about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer

from market_pipelines.cli.data import platform_of_commands
from market_pipelines.cli.door import Json, symbols_in
from market_pipelines.cli.output import ExitCode, emit_json, emit_table, plain, say
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.quarantine import Ruling, drop, release, reopen
from market_pipelines.store.audit import audit_entries
from market_pipelines.store.quarantine import KeptRow, kept_rows, read_quarantine

AnyMarket = Annotated[str | None, typer.Option("--market", help="Only of this one.", show_default=False)]
Of = Annotated[list[str] | None, typer.Option("--symbol", metavar="SYMBOL", help="Only of these.", show_default=False)]
Numbers = Annotated[list[int], typer.Argument(metavar="ID…", help="As `quality list` shows them.", show_default=False)]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Kept with the decision.", show_default=False)]
User = Annotated[
    str | None,
    typer.Option("--user", metavar="NAME", help="Whose decision it is, if not yours.", show_default=False),
]
Limit = Annotated[int, typer.Option("--limit", min=1, help="At most so many.")]


def register(commands: typer.Typer) -> None:
    """Adds them to the group `quality`."""
    commands.command("list")(list_rows)
    commands.command("release")(release_rows)
    commands.command("drop")(drop_rows)
    commands.command("reopen")(reopen_rows)
    commands.command("audit")(audit)


def list_rows(
    market: AnyMarket = None,
    symbols: Of = None,
    rule: Annotated[str | None, typer.Option("--rule", help="Only under this one.", show_default=False)] = None,
    undecided: Annotated[bool, typer.Option("--open/--all", help="Or also those that somebody decided about.")] = True,
    limit: Limit = 1000,
    as_json: Json = False,
) -> None:
    """Rows that a rule kept out of the tables, newest first."""
    with opened_for(market) as platform, platform.database.connection() as connection:
        found = read_quarantine(
            connection, market, symbols=symbols_in(symbols or ()), rule=rule, undecided=undecided, limit=limit
        )
        numbers = [int(number) for number in found["quarantine_id"]]
        kept = kept_rows(connection, numbers)
    rows = [kept[number] for number in numbers]
    if as_json:
        emit_json([_as_json(row) for row in rows])
        return
    emit_table(
        (
            "id",
            "market",
            "symbol",
            "session",
            "provider",
            "rule",
            "detail",
            "close",
            "last seen (UTC)",
            "seen",
            "state",
        ),
        [
            (
                str(row.quarantine_id),
                row.market,
                row.symbol,
                row.session if row.ts is None else f"{row.session} {row.interval}",
                row.provider,
                row.rule,
                row.detail,
                row.close,
                row.last_seen,
                row.times_seen,
                _state(row),
            )
            for row in rows
        ],
        numbers=("id",),
    )
    if not rows:
        say("Nothing waits for a decision." if undecided else "Nothing is in quarantine.")
    elif len(rows) == limit:
        say(f"The newest {limit} are shown; --limit, --market, --symbol and --rule choose.")
    else:
        say("market-pipelines quality release ID lets a row pass; drop ID leaves it out; reopen ID takes that back.")


def release_rows(ids: Numbers, reason: Reason = "", user: User = None, as_json: Json = False) -> None:
    """Let rows pass the rule that they broke: judged once more without it, stored, and settled."""
    with opened_for() as platform:
        rulings = release(platform, ids, user=user, reason=reason)
    _told(rulings, as_json=as_json)


def drop_rows(ids: Numbers, reason: Reason = "", user: User = None, as_json: Json = False) -> None:
    """Leave rows out for good. They are kept, but nobody has to look at them again."""
    with opened_for() as platform:
        rulings = drop(platform, ids, user=user, reason=reason)
    _told(rulings, as_json=as_json)


def reopen_rows(ids: Numbers, reason: Reason = "", user: User = None, as_json: Json = False) -> None:
    """Take decisions back: what a release had put into the tables is taken out again."""
    with opened_for() as platform:
        rulings = reopen(platform, ids, user=user, reason=reason)
    _told(rulings, as_json=as_json)


def audit(
    subject: Annotated[
        str | None, typer.Option("--subject", metavar="THING", help="Such as quarantine/17.", show_default=False)
    ] = None,
    action: Annotated[
        str | None, typer.Option("--action", help="Such as correction or quarantine.drop.", show_default=False)
    ] = None,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """Who decided what, newest first: over quarantined rows and held corrections."""
    with opened_for() as platform, platform.database.connection() as connection:
        entries = audit_entries(connection, subject=subject, action=action, limit=limit)
    if as_json:
        emit_json([{name: plain(getattr(one, name)) for name in one.__dataclass_fields__} for one in entries])
        return
    emit_table(
        ("when (UTC)", "who", "action", "subject", "about", "reason"),
        [
            (
                one.at,
                one.actor,
                one.action,
                one.subject,
                " ".join(str(one.detail[name]) for name in ("symbol", "session", "rule") if one.detail.get(name)),
                one.detail.get("reason") or None,
            )
            for one in entries
        ],
    )
    if not entries:
        say("Nobody has decided anything yet.")


@contextmanager
def opened_for(market: str | None = None) -> Iterator[Platform]:
    """The platform, without looking for anybody to ask; a market that is not known is refused first."""
    with platform_of_commands(asks=False) as platform:
        if market is not None:
            platform.market(market)
        yield platform


def _told(rulings: Sequence[Ruling], *, as_json: bool) -> None:
    if as_json:
        emit_json(
            [
                {
                    "id": ruling.quarantine_id,
                    "done": ruling.done,
                    "said": ruling.said,
                    "row": None if ruling.row is None else _as_json(ruling.row),
                }
                for ruling in rulings
            ]
        )
    for ruling in rulings:
        say(f"{ruling.quarantine_id}: {ruling.said}")
    done = sum(ruling.done for ruling in rulings)
    if done < len(rulings):
        raise typer.Exit(ExitCode.PARTIAL if done else ExitCode.ERROR)


def _state(row: KeptRow) -> str:
    return row.decision or "open"


def _as_json(row: KeptRow) -> dict[str, object]:
    values = {name: plain(getattr(row, name)) for name in row.__dataclass_fields__}
    named = {"id": values.pop("quarantine_id"), "run": values.pop("run_id")}
    return named | values | {"decision": _state(row)}
