"""The command `provider read`: what an adapter makes of a body in a file."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated

import typer

from market_pipelines.cli.data import Market
from market_pipelines.cli.door import From, Json, To, a_day, read_door_settings, symbols_in
from market_pipelines.cli.output import ExitCode, emit_json, emit_table, plain, say
from market_pipelines.market.intraday import INTERVALS
from market_pipelines.pipeline.bodies import About, Body, read_body
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.pipeline.platform import UnknownMarket
from market_pipelines.pipeline.refresh import instruments_of
from market_pipelines.providers.protocol import Capability, Parsed
from market_pipelines.providers.registry import build_providers
from market_pipelines.settings import provider_name

SHOWN = 20


def read(
    name: Annotated[str, typer.Argument(metavar="PROVIDER", show_default=False)],
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, show_default=False)],
    capability: Annotated[
        Capability | None,
        typer.Option("--as", help="As an answer to this; without it, to everything.", show_default=False),
    ] = None,
    symbol: Annotated[str, typer.Option("--symbol", help="What had been asked for.")] = "AAPL",
    market: Market = "us",
    interval: Annotated[str, typer.Option("--interval", metavar="|".join(INTERVALS))] = "5min",
    start: From = None,
    end: To = None,
    text: Annotated[str, typer.Option("--text", help="What had been searched for.", show_default=False)] = "",
    status: Annotated[int, typer.Option("--status", help="The HTTP status that the body came with.")] = 200,
    received: Annotated[
        date | None,
        typer.Option("--received", parser=a_day, metavar="YYYY-MM-DD", help="When it came: today.", show_default=False),
    ] = None,
    endpoint: Annotated[str, typer.Option("--endpoint", help="The step of a conversation.", show_default=False)] = "",
    as_json: Json = False,
) -> None:
    """Read a body in a file with a provider's parser. Asks nobody, stores nothing.

    Exit code 3 where the body holds no answer to the question.
    """
    markets = read_markets()
    if market not in markets:
        raise UnknownMarket(f"market {market!r} is not known; there are {', '.join(sorted(markets))}")
    providers = build_providers(read_door_settings())
    if provider_name(name) not in providers:
        raise typer.BadParameter(f"{name!r} is not a provider; accepted: {', '.join(sorted(providers))}")
    instrument = instruments_of(markets[market], symbols_in([symbol]))[0]
    moment = datetime.combine(received, time(23), UTC) if received is not None else None
    found = read_body(
        providers[provider_name(name)],
        Body(file.read_bytes(), status, received_at=moment, endpoint=endpoint),
        About(instrument, interval, start, end, text),
        capability,
    )
    if not found:
        raise typer.BadParameter(f"{name} offers no {capability}")
    if as_json:
        emit_json({kind.value: _document(parsed) for kind, parsed in found.items()})
    else:
        emit_table(
            ("read as", "outcome", "rows", "goes on", "reason"),
            [
                (kind.value, parsed.outcome.value, parsed.rows, "yes" if parsed.more else "", parsed.reason)
                for kind, parsed in found.items()
            ],
        )
        if capability is not None:
            _show(found[capability])
    if not any(parsed.outcome.delivered for parsed in found.values()):
        raise typer.Exit(ExitCode.PARTIAL)


def _document(parsed: Parsed) -> dict[str, object]:
    bars = [] if parsed.bars is None else parsed.bars.astype(object).to_dict("records")
    return {
        "outcome": parsed.outcome,
        "reason": parsed.reason,
        "rows": parsed.rows,
        "goes_on": parsed.more is not None,
        "retry_after": parsed.retry_after,
        "bars": [{key: _cell(value) for key, value in row.items()} for row in bars],
        "records": [plain(record) for record in parsed.records],
        "actions": [plain(action) for action in parsed.actions],
    }


def _cell(value: object) -> object:
    return plain(value.isoformat() if isinstance(value, date | datetime) else value)


def _show(parsed: Parsed) -> None:
    if parsed.bars is not None and len(parsed.bars):
        columns = list(parsed.bars.columns)
        emit_table(columns, parsed.bars.head(SHOWN).astype(str).to_numpy().tolist())
    for group in (parsed.records, parsed.actions):
        if group:
            columns = list(group[0].__dataclass_fields__)
            emit_table(columns, [[str(plain(getattr(one, name)) or "") for name in columns] for one in group[:SHOWN]])
    if parsed.rows > SHOWN:
        say(f"{parsed.rows:,} rows, the first {SHOWN} shown")
