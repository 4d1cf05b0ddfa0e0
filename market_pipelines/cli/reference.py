"""Commands about companies: `quote`, `profile`, `actions`, `options` and `search`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from enum import StrEnum
from typing import Annotated, Any

import typer

from market_pipelines.cli.asking import (
    SHOWN,
    Provider,
    chosen_chain,
    code_of,
    outcome_document,
    say_failed,
    say_more,
    single_code,
    without_symbol,
)
from market_pipelines.cli.data import Market, platform_of_commands
from market_pipelines.cli.door import From, Json, Symbols, a_day, symbols_in
from market_pipelines.cli.output import emit_json, emit_line, emit_table, progress, say
from market_pipelines.market.consensus import SIMULATED_PREFIX
from market_pipelines.market.records import Profile, Right
from market_pipelines.pipeline.actions import ActionsPull, pull_actions
from market_pipelines.pipeline.limiter import Purpose
from market_pipelines.pipeline.options import pull_options
from market_pipelines.pipeline.profiles import pull_profiles
from market_pipelines.pipeline.quotes import SymbolQuote, pull_quotes
from market_pipelines.pipeline.refresh import instruments_of
from market_pipelines.pipeline.results import new_run_id
from market_pipelines.pipeline.search import search_symbols
from market_pipelines.store.claims import read_flags
from market_pipelines.store.reference import read_actions


class OptionType(StrEnum):
    CALL = "call"
    PUT = "put"
    BOTH = "both"


def register(app: typer.Typer) -> None:
    app.command()(quote)
    app.command()(profile)
    app.command()(actions)
    app.command()(options)
    app.command()(search)


def quote(symbols: Symbols, market: Market = "us", provider: Provider = None, as_json: Json = False) -> None:
    """Ask what symbols trade at, and keep the newest quote of each."""
    wanted = symbols_in(symbols)
    with platform_of_commands(asks=True) as platform:
        definition = platform.market(market)
        with progress("quote") as done:
            report = pull_quotes(
                platform,
                definition,
                instruments_of(definition, wanted),
                run_id=new_run_id(),
                providers=chosen_chain(platform, provider),
                progress=done,
            )
        simulated = platform.simulated
    if as_json:
        emit_json(
            {
                "market": market,
                "simulated": simulated,
                "requests": report.requests,
                "symbols": [_quote_document(one) for one in report.symbols],
            }
        )
    else:
        emit_table(
            (
                "symbol",
                "outcome",
                "provider",
                "price",
                "change %",
                "bid",
                "ask",
                "volume",
                "currency",
                "as of (UTC)",
                "note",
            ),
            [_quote_row(one) for one in report.symbols],
            numbers=("volume",),
        )
    raise typer.Exit(code_of(one.outcome for one in report.symbols))


def profile(symbols: Symbols, market: Market = "us", provider: Provider = None, as_json: Json = False) -> None:
    """Ask who companies are, and keep it. What the newest answer leaves empty stays as it was."""
    wanted = symbols_in(symbols)
    with platform_of_commands(asks=True) as platform:
        definition = platform.market(market)
        with progress("profile") as done:
            report = pull_profiles(
                platform,
                definition,
                instruments_of(definition, wanted),
                run_id=new_run_id(),
                purpose=Purpose.QUOTE,
                providers=chosen_chain(platform, provider),
                progress=done,
            )
        simulated = platform.simulated
    found = {one.symbol: one for one in report.profiles}
    results = [outcome_document(symbol, delivered) for symbol, delivered in report.symbols.items()]
    if as_json:
        emit_json(
            {
                "market": market,
                "simulated": simulated,
                "symbols": [{**one, "profile": found.get(one["symbol"])} for one in results],
            }
        )
    else:
        for one in results:
            _show_profile(one, found.get(one["symbol"]))
    indices = set(wanted) - report.symbols.keys()
    if indices:
        say(f"{', '.join(sorted(indices))}: an index has no profile")
    raise typer.Exit(code_of(delivered.outcome for delivered in report.symbols.values()))


def actions(
    symbols: Symbols,
    market: Market = "us",
    start: From = None,
    provider: Provider = None,
    as_json: Json = False,
) -> None:
    """Ask every provider for splits and dividends, show what was agreed on and where they contradict each other."""
    wanted = symbols_in(symbols)
    with platform_of_commands(asks=True) as platform:
        definition = platform.market(market)
        since = start if start is not None else definition.since
        with progress("actions") as done:
            report = pull_actions(
                platform,
                definition,
                instruments_of(definition, wanted),
                since,
                run_id=new_run_id(),
                providers=chosen_chain(platform, provider),
                progress=done,
            )
        with platform.database.connection() as connection:
            agreed = [one for one in read_actions(connection, market, wanted) if one.ex_date >= since]
            flags = [one for one in read_flags(connection, market, wanted) if one.ex_date >= since]
        simulated = platform.simulated
    if as_json:
        emit_json(
            {
                "market": market,
                "from": since,
                "simulated": simulated,
                "symbols": [
                    {
                        **outcome_document(symbol, delivered),
                        "providers": _said(report, symbol),
                        "actions": [
                            {"ex_date": one.ex_date, "kind": one.kind, "value": one.value}
                            for one in agreed
                            if one.symbol == symbol
                        ],
                        "flags": [one for one in flags if one.symbol == symbol],
                    }
                    for symbol, delivered in report.symbols.items()
                ],
            }
        )
    else:
        newest = sorted(agreed, key=lambda one: one.ex_date, reverse=True)
        emit_table(
            ("symbol", "ex-date", "kind", "value"),
            [(one.symbol, one.ex_date, one.kind.value, f"{one.value:g}") for one in newest[:SHOWN]],
            numbers=("value",),
        )
        say_more(len(newest))
        for flag in flags:
            state = "used" if flag.used else "not used"
            say(f"{flag.symbol} {flag.kind} {flag.ex_date}: {flag.problem} ({state}): {flag.detail}")
        say_failed(report.symbols)
    raise typer.Exit(code_of(delivered.outcome for delivered in report.symbols.values()))


def options(
    symbol: Annotated[str, typer.Argument(metavar="SYMBOL", help="The underlying.", show_default=False)],
    market: Market = "us",
    expires_from: Annotated[
        date | None, typer.Option("--expires-from", parser=a_day, metavar="YYYY-MM-DD", show_default=False)
    ] = None,
    expires_to: Annotated[
        date | None, typer.Option("--expires-to", parser=a_day, metavar="YYYY-MM-DD", show_default=False)
    ] = None,
    side: Annotated[OptionType, typer.Option("--type")] = OptionType.BOTH,
    provider: Provider = None,
    as_json: Json = False,
) -> None:
    """Ask for the option contracts on a symbol, and keep today's look at them."""
    if expires_from is not None and expires_to is not None and expires_from > expires_to:
        raise typer.BadParameter(f"--expires-to {expires_to} is before --expires-from {expires_from}")
    named = symbols_in([symbol])
    if len(named) != 1:
        raise typer.BadParameter(f"{symbol!r} is not one symbol")
    wanted = named[0]
    with platform_of_commands(asks=True) as platform:
        definition = platform.market(market)
        (chain,) = pull_options(
            platform,
            definition,
            instruments_of(definition, [wanted]),
            run_id=new_run_id(),
            expires_from=expires_from,
            expires_to=expires_to,
            right=None if side is OptionType.BOTH else Right(side.value),
            purpose=Purpose.QUOTE,
            providers=chosen_chain(platform, provider),
        )
        simulated = platform.simulated
    if as_json:
        emit_json(
            {
                "market": market,
                "simulated": simulated,
                **outcome_document(wanted, chain.delivered),
                "contracts": chain.contracts,
                "refused": [{"contract": native, "reason": reason} for native, reason in chain.refused],
            }
        )
    else:
        emit_table(
            ("contract", "type", "expires", "strike", "last", "bid", "ask", "volume", "open interest", "volatility"),
            [
                (
                    one.native,
                    one.right.value,
                    one.expires,
                    one.strike,
                    one.last,
                    one.bid,
                    one.ask,
                    _count(one.volume),
                    _count(one.open_interest),
                    one.implied_volatility,
                )
                for one in chain.contracts[:SHOWN]
            ],
            numbers=("volume", "open interest"),
        )
        say_more(len(chain.contracts))
        for native, reason in chain.refused[:SHOWN]:
            say(f"{native} was refused: {reason}")
        say_failed({wanted: chain.delivered})
    raise typer.Exit(code_of([chain.delivered.outcome]))


def search(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="A name or a part of one.", show_default=False)],
    market: Market = "us",
    provider: Provider = None,
    as_json: Json = False,
) -> None:
    """Look a symbol up by a name."""
    if not text.strip():
        raise typer.BadParameter("nothing to search for")
    with platform_of_commands(asks=True) as platform:
        report = search_symbols(
            platform,
            platform.market(market),
            text.strip(),
            run_id=new_run_id(),
            providers=chosen_chain(platform, provider),
        )
        simulated = platform.simulated
    if as_json:
        emit_json(
            {
                "text": text.strip(),
                "simulated": simulated,
                **without_symbol(outcome_document("", report.delivered)),
                "matches": report.matches,
            }
        )
    else:
        emit_table(
            ("symbol", "name", "kind", "exchange", "currency", "score"),
            [(one.native, one.name, one.kind, one.exchange, one.currency, one.score) for one in report.matches],
        )
        if report.delivered.delivered is None:
            say(report.delivered.reason)
    raise typer.Exit(single_code(report.delivered))


def _quote_document(one: SymbolQuote) -> dict[str, Any]:
    latest = one.latest
    result: dict[str, Any] = {
        "symbol": one.symbol,
        "outcome": one.outcome,
        "provider": latest.provider if latest is not None else None,
        "requests": one.requests,
        "reason": one.reason,
    }
    if latest is None:
        return result
    found = latest.quote
    share = found.change_share
    return result | {
        "price": found.price,
        "currency": found.currency,
        "change": found.change,
        "change_percent": None if share is None else 100 * share,
        "bid": found.bid,
        "ask": found.ask,
        "bid_size": found.bid_size,
        "ask_size": found.ask_size,
        "open": found.open,
        "high": found.high,
        "low": found.low,
        "previous_close": found.previous_close,
        "volume": found.volume,
        "session": found.session,
        "quoted_at": found.at,
        "as_of": latest.as_of,
        "received_at": latest.received_at,
        "simulated": latest.provider.startswith(SIMULATED_PREFIX),
    }


def _quote_row(one: SymbolQuote) -> tuple[object, ...]:
    latest = one.latest
    if latest is None:
        return (one.symbol, one.outcome.value, *[None] * 8, one.reason)
    found = latest.quote
    share = found.change_share
    return (
        one.symbol,
        one.outcome.value,
        latest.provider,
        found.price,
        None if share is None else 100 * share,
        found.bid,
        found.ask,
        _count(found.volume),
        found.currency,
        latest.as_of,
        "" if found.at is not None else "its time is not known",
    )


def _count(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f}"


def _show_profile(result: dict[str, Any], found: Profile | None) -> None:
    if found is None:
        say(f"{result['symbol']}: {result['outcome']}: {result['reason']}")
        return
    emit_line(f"{found.symbol}  {found.name}  ({result['provider']})")
    facts: Sequence[tuple[str, object]] = (
        ("sector", found.sector),
        ("industry", found.industry),
        ("exchange", found.exchange),
        ("country", found.country),
        ("currency", found.currency),
        ("employees", found.employees),
        ("market cap", None if found.market_cap is None else f"{found.market_cap:,.0f}"),
        ("shares", None if found.shares_outstanding is None else f"{found.shares_outstanding:,.0f}"),
        ("ISIN", found.isin),
        ("FIGI", found.figi),
        ("CIK", found.cik),
        ("website", found.website),
        ("about", found.description),
    )
    for name, value in facts:
        if value not in (None, ""):
            emit_line(f"  {name:<11}{value}")


def _said(report: ActionsPull, symbol: str) -> list[dict[str, Any]]:
    return [
        {
            "provider": attempt.provider,
            "outcome": attempt.outcome,
            "actions": 0 if attempt.parsed is None else len(attempt.parsed.actions),
            "complete": attempt.parsed is not None and attempt.parsed.actions_known,
            "requests": attempt.requests,
            "reason": attempt.reason,
        }
        for attempt in report.symbols[symbol].attempts
    ]
