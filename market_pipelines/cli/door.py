"""What commands share before their work begins: reading the settings, and options that need checking."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from datetime import date
from typing import Annotated, Any, TextIO, cast

import typer

from market_pipelines.logs import configure_logs
from market_pipelines.market.intraday import INTERVALS
from market_pipelines.settings import Settings, read_settings

SERVED_INTERVALS = ("1d", *INTERVALS)

_SYMBOL = re.compile(r"[A-Z0-9^][A-Z0-9.^\-]{0,15}")


class _CurrentStderr:
    """Log lines go to whatever stderr is at the time: above the progress bar while there is one."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def isatty(self) -> bool:
        # Asked only to decide on colours.
        return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def read_door_settings(**overrides: Any) -> Settings:
    """The settings of this command, with its logs set up as they say."""
    settings = read_settings(**overrides)
    configure_logs(settings, stream=cast(TextIO, _CurrentStderr()))
    return settings


def a_day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a day; accepted: YYYY-MM-DD, for example 2024-01-31") from None


def an_interval(text: str) -> str:
    if text not in SERVED_INTERVALS:
        raise typer.BadParameter(f"{text!r} is not served; accepted: {', '.join(SERVED_INTERVALS)}")
    return text


def symbols_in(words: Sequence[str]) -> tuple[str, ...]:
    """Symbols as people write them: in small letters, with commas or spaces between; each once."""
    found = [part.upper() for word in words for part in re.split(r"[,\s]+", word) if part]
    wrong = [symbol for symbol in found if not _SYMBOL.fullmatch(symbol)]
    if wrong:
        raise typer.BadParameter(f"{wrong[0]!r} is not a symbol; accepted: letters, digits, '.', '-' and '^'")
    return tuple(dict.fromkeys(found))


Symbols = Annotated[
    list[str],
    typer.Argument(metavar="SYMBOL…", help="Symbols as the exchange spells them: AAPL BRK.B", show_default=False),
]
From = Annotated[
    date | None, typer.Option("--from", parser=a_day, metavar="YYYY-MM-DD", help="The first day.", show_default=False)
]
To = Annotated[
    date | None, typer.Option("--to", parser=a_day, metavar="YYYY-MM-DD", help="The last day.", show_default=False)
]
Interval = Annotated[str, typer.Option("--interval", parser=an_interval, metavar="|".join(SERVED_INTERVALS))]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout instead of a table.")]
