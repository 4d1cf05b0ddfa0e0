"""The command `provider check`: asks a provider a few small questions and shows how it answers."""

from __future__ import annotations

from typing import Annotated

import typer

from market_pipelines.cli.data import Market, platform_of_commands
from market_pipelines.cli.door import Json, symbols_in
from market_pipelines.cli.output import ExitCode, emit_json, emit_table, say
from market_pipelines.market.outcomes import Outcome
from market_pipelines.pipeline.probe import offered, probe
from market_pipelines.pipeline.refresh import instruments_of
from market_pipelines.providers.protocol import Capability
from market_pipelines.settings import provider_name

_REFUSED = (Outcome.NOT_ENTITLED, Outcome.RETIRED)


def check(
    name: Annotated[str, typer.Argument(metavar="PROVIDER", show_default=False)],
    capability: Annotated[
        list[Capability] | None,
        typer.Option("--capability", help="Ask for this; may be repeated. Without it: daily bars.", show_default=False),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Ask for everything that it offers.")] = False,
    symbol: Annotated[
        str | None, typer.Option("--symbol", help="Without it the market's first share.", show_default=False)
    ] = None,
    market: Market = "us",
    as_json: Json = False,
) -> None:
    """Ask a provider as little as shows that it works. Each question is a request of its quota.

    Exit code 3 when it did not answer to something, 4 when it refused all of it.
    """
    with platform_of_commands(asks=True) as platform:
        chosen = platform.providers.get(provider_name(name))
        if chosen is None:
            raise typer.BadParameter(f"{name!r} is not a provider; accepted: {', '.join(sorted(platform.providers))}")
        definition = platform.market(market)
        words = [symbol] if symbol is not None else [definition.instruments[0].symbol]
        instrument = instruments_of(definition, symbols_in(words))[0]
        if not chosen.covers(instrument):
            raise typer.BadParameter(f"{chosen.name} does not list {instrument.symbol} of {definition.title}")
        wanted = offered(chosen) if everything else tuple(capability or [Capability.DAILY])
        lacking = [one.value for one in wanted if one not in offered(chosen)]
        if lacking:
            raise typer.BadParameter(f"{chosen.name} offers no {', '.join(lacking)}")
        found = probe(platform, chosen, definition, instrument, wanted)
    rows = [
        {
            "capability": one.capability,
            "outcome": one.attempt.outcome,
            "provider": one.attempt.provider,
            "rows": one.attempt.parsed.rows if one.attempt.parsed is not None else 0,
            "requests": one.attempt.requests,
            "seconds": round(one.seconds, 3),
            "reason": one.attempt.reason,
        }
        for one in found
    ]
    if as_json:
        emit_json({"provider": chosen.name, "symbol": instrument.symbol, "checks": rows})
    else:
        columns = ("capability", "outcome", "provider", "rows", "requests", "seconds", "reason")
        emit_table(columns, [[str(row[name]) for name in columns] for row in rows])
    failed = [one for one in found if not one.attempt.outcome.delivered]
    say(f"{chosen.name} answered {len(found) - len(failed)} of {len(found)} questions about {instrument.symbol}")
    if failed:
        refused = all(one.attempt.outcome in _REFUSED for one in found)
        raise typer.Exit(ExitCode.NOT_AUTHORISED if refused else ExitCode.PARTIAL)
