"""Commands about exchanges and indices: `listings`, `market-status` and `universe`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Annotated, Any

import typer

from market_pipelines.cli.asking import SHOWN, Provider, chosen_chain, single_code
from market_pipelines.cli.data import Market, platform_of_commands
from market_pipelines.cli.door import Json, a_day, read_door_settings, symbols_in
from market_pipelines.cli.output import ExitCode, emit_json, emit_line, emit_table, say
from market_pipelines.market.listings import Bearer
from market_pipelines.market.universes import ALIASES, Universe
from market_pipelines.pipeline.listings import ListingsReport, sync_listings
from market_pipelines.pipeline.results import new_run_id
from market_pipelines.pipeline.universes import load_universe, universe_names
from market_pipelines.pipeline.venue_status import pull_venue_status
from market_pipelines.store.listings import BearerPeriod, read_bearers, read_listing_history

universe_commands = typer.Typer(help="Lists of index members over time.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.command()(listings)
    app.command("market-status")(market_status)
    app.add_typer(universe_commands, name="universe")


def listings(
    symbols: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SYMBOL…]", help="Whose history to show; without it all.", show_default=False),
    ] = None,
    market: Market = "us",
    sync: Annotated[bool, typer.Option("--sync", help="Ask a provider for the list of the exchange first.")] = False,
    delisted: Annotated[bool, typer.Option("--delisted", help="Those that no longer trade.")] = False,
    provider: Provider = None,
    as_json: Json = False,
) -> None:
    """Show what an exchange lists, and who bore a ticker when."""
    wanted = symbols_in(symbols or ())
    report = None
    with platform_of_commands(asks=sync) as platform:
        definition = platform.market(market)
        if sync:
            report = sync_listings(
                platform, definition, run_id=new_run_id(), providers=chosen_chain(platform, provider)
            )
        with platform.database.connection() as connection:
            stored = read_bearers(connection, market)
            history = read_listing_history(connection, market, wanted) if wanted else []
    shown = [one for one in stored if (one.symbol in wanted if wanted else one.active is not delisted)]
    if as_json:
        emit_json(_listings_document(market, report, shown, history))
    else:
        if report is not None:
            _say_synced(report)
        _show_listings(shown, history, bool(wanted), delisted)
    if report is not None:
        raise typer.Exit(single_code(report.delivered))
    absent = set(wanted) - {one.symbol for one in shown}
    if absent:
        say(f"{', '.join(sorted(absent))}: nothing is known; --sync asks for the list of the exchange")
        raise typer.Exit(ExitCode.PARTIAL if shown else ExitCode.ERROR)


def market_status(
    market: Market = "us",
    upcoming: Annotated[bool, typer.Option("--upcoming", help="The next holidays and short days.")] = False,
    provider: Provider = None,
    as_json: Json = False,
) -> None:
    """Show whether a market is open, by its calendar and by what a provider says."""
    with platform_of_commands(asks=True) as platform:
        definition = platform.market(market)
        report = pull_venue_status(
            platform,
            definition,
            run_id=new_run_id(),
            upcoming=upcoming,
            providers=chosen_chain(platform, provider),
        )
        simulated = platform.simulated
    attempt = report.delivered.delivered
    if as_json:
        emit_json(
            {
                "market": market,
                "simulated": simulated,
                "calendar": report.calendar,
                "outcome": report.delivered.outcome,
                "provider": attempt.provider if attempt is not None else None,
                "reason": report.delivered.reason if attempt is None else "",
                "venues": report.venues,
                "contradictions": report.contradictions,
            }
        )
    else:
        view = report.calendar
        phase = view.phase.replace("_", " ")
        emit_line(f"{view.mic} is {view.status} ({phase}); opens {view.next_open}, closes {view.next_close}")
        emit_table(
            ("venue", "day", "status", "opens", "closes", "note"),
            [(one.venue, one.on, one.status, one.opens, one.closes, one.note) for one in report.venues],
        )
        for line in report.contradictions:
            say(line)
        if attempt is None:
            say(report.delivered.reason)
    # The calendar has answered, so that nobody else having anything to say is no failure.
    raise typer.Exit(ExitCode.OK if not report.delivered.attempts else single_code(report.delivered))


@universe_commands.command("list")
def list_universes(as_json: Json = False) -> None:
    """Show which universes there are."""
    read_door_settings()
    found = [load_universe(name) for name in universe_names()]
    if as_json:
        emit_json([_universe_document(one) for one in found])
        return
    emit_table(
        ("universe", "title", "also", "index", "exchange", "as of", "members", "known"),
        [
            (
                one.name,
                one.title,
                " ".join(_aliases(one)),
                one.index,
                one.exchange,
                one.as_of,
                len(one.today),
                ", ".join(_span(start, end) for start, end in one.spans),
            )
            for one in found
        ],
    )


@universe_commands.command("show")
def show_universe(
    name: Annotated[str, typer.Argument(metavar="NAME", help="sp500, wig80 …", show_default=False)],
    on: Annotated[
        date | None,
        typer.Option("--on", parser=a_day, metavar="YYYY-MM-DD", help="The members of that day.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show who is, or on a day was, a member."""
    read_door_settings()
    universe = load_universe(name)
    day = on if on is not None else datetime.now(UTC).date()
    members = universe.on(day)
    if as_json:
        emit_json(_universe_document(universe) | {"on": day, "members": [asdict(member) for member in members]})
    else:
        emit_table(
            ("symbol", "name", "from", "to", "source"),
            [(one.symbol, one.name, one.valid_from, one.valid_to, one.source) for one in members],
            f"{universe.title} on {day}: {len(members)} members",
        )
        for line in (*universe.sources, *universe.notes):
            say(line)
    if not members:
        known = ", ".join(_span(start, end) for start, end in universe.spans)
        say(f"nothing is known of {universe.title} on {day}; its list covers {known}")
        raise typer.Exit(ExitCode.ERROR)
    if day > universe.as_of:
        say(f"The list stood so on {universe.as_of}; later changes are not in it.")


def _listings_document(
    market: str, report: ListingsReport | None, shown: Sequence[Bearer], history: Sequence[BearerPeriod]
) -> dict[str, Any]:
    document: dict[str, Any] = {"market": market, "listings": shown, "history": history}
    if report is None:
        return document
    attempt, changes = report.delivered.delivered, report.changes
    return document | {
        "sync": {
            "outcome": report.delivered.outcome,
            "provider": attempt.provider if attempt is not None else None,
            "reason": report.delivered.reason if attempt is None else "",
            "listed": report.listed,
            "delisted": report.delisted,
            "new": len(changes.new),
            "changed": len(changes.changed),
            "unchanged": changes.unchanged,
            "gone": [{"symbol": one.bearer.symbol, "last_day": one.last_day} for one in changes.gone],
            "renamed": [{"from": bearer.symbol, "to": line.symbol} for bearer, line in changes.renamed],
            "reused": [
                {"symbol": line.symbol, "before": bearer.name, "now": line.name} for bearer, line in changes.reused
            ],
            "past": len(changes.past),
            "refused": len(changes.refused),
            "held": changes.held,
            "lacking": changes.lacking,
            "followed_gone": report.followed_gone,
        }
    }


def _say_synced(report: ListingsReport) -> None:
    attempt, changes = report.delivered.delivered, report.changes
    if attempt is None:
        say(report.delivered.reason)
        return
    say(
        f"{attempt.provider}: {report.listed} listed, {report.delisted} delisted; {len(changes.new)} new, "
        f"{len(changes.changed)} changed, {len(changes.gone)} gone, {len(changes.renamed)} renamed, "
        f"{len(changes.reused)} tickers of another company, {len(changes.refused)} lines refused"
    )
    if changes.held:
        say(f"Nobody was delisted: {changes.held}.")
    for bearer, line in changes.renamed:
        say(f"{bearer.symbol} is called {line.symbol} now ({line.name})")
    for bearer, line in changes.reused[:SHOWN]:
        say(f"{line.symbol} was {bearer.name}, and is {line.name} now")
    if report.followed_gone:
        say(f"The market file still has {', '.join(report.followed_gone)}, which the exchange lists no more.")


def _show_listings(shown: Sequence[Bearer], history: Sequence[BearerPeriod], named: bool, delisted: bool) -> None:
    if named:
        emit_table(
            ("symbol", "name", "FIGI", "venue", "from", "to", "ended by", "called since"),
            [
                (
                    one.symbol,
                    one.name,
                    one.figi,
                    one.venue,
                    one.valid_from,
                    one.valid_to,
                    one.ended_by,
                    one.other_symbol,
                )
                for one in history
            ],
        )
        return
    emit_table(
        ("symbol", "name", "type", "venue", "listed from", "delisted on"),
        [
            (one.symbol, one.name, one.security_type, one.venue, one.listed_from, one.delisted_on)
            for one in shown[:SHOWN]
        ],
    )
    if len(shown) > SHOWN:
        say(f"{len(shown) - SHOWN} more {'delisted' if delisted else 'listed'}; --json has all of them")


def _universe_document(universe: Universe) -> dict[str, Any]:
    return {
        "universe": universe.name,
        "title": universe.title,
        "aliases": _aliases(universe),
        "index": universe.index,
        "exchange": universe.exchange,
        "as_of": universe.as_of,
        "size": len(universe.today),
        "known": [{"from": start, "to": end} for start, end in universe.spans],
        "sources": universe.sources,
        "notes": universe.notes,
    }


def _aliases(universe: Universe) -> list[str]:
    return sorted(alias for alias, own in ALIASES.items() if own == universe.name)


def _span(start: date, end: date | None) -> str:
    return f"{start} to {end}" if end is not None else f"since {start}"
