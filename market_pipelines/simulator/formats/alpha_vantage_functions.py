"""Which of Alpha Vantage's functions besides the daily series answers a request, and what each may refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime

from market_pipelines.simulator.formats import (
    alpha_vantage_intraday,
    alpha_vantage_options,
    alpha_vantage_quotes,
    alpha_vantage_reference,
)
from market_pipelines.simulator.formats.alpha_vantage import PREMIUM, refusal
from market_pipelines.simulator.formats.alpha_vantage_placeholders import placeholder
from market_pipelines.simulator.formats.asked import Asked
from market_pipelines.simulator.formats.reply import Reply
from market_pipelines.simulator.rows import Spoil
from market_pipelines.simulator.truth import World

Active = Mapping[str, tuple[object, ...]]
WITH_PLACEHOLDER = frozenset({"REALTIME_BULK_QUOTES", "REALTIME_OPTIONS", "HISTORICAL_OPTIONS"})
"""Refused by invented data instead of by a notice."""


_PLAIN: Mapping[str, Callable[[Mapping[str, str], str, World, datetime], Reply]] = {
    "GLOBAL_QUOTE": alpha_vantage_quotes.global_quote,
    "REALTIME_BULK_QUOTES": alpha_vantage_quotes.bulk_quotes,
    "OVERVIEW": alpha_vantage_reference.overview,
    "SPLITS": alpha_vantage_reference.splits,
    "DIVIDENDS": alpha_vantage_reference.dividends,
    "LISTING_STATUS": alpha_vantage_reference.listing_status,
    "SYMBOL_SEARCH": alpha_vantage_reference.symbol_search,
    "MARKET_STATUS": alpha_vantage_reference.market_status,
    "HISTORICAL_OPTIONS": alpha_vantage_options.historical,
    "REALTIME_OPTIONS": alpha_vantage_options.realtime,
}


def answer(asked: Asked, world: World, now: datetime, active: Active, spoil: Spoil) -> Reply | None:
    query = asked.query
    function = query.get("function", "")
    intraday = function == alpha_vantage_intraday.FUNCTION
    refused = refusal(query, asked.accept, full_is_premium=intraday and "full_is_premium" in active)
    if refused is not None:
        return refused
    wrong = active.get("wrong_symbol")
    symbol = str(wrong[-1]) if wrong else query.get("symbol", "")
    if _is_sold(function, active):
        return placeholder(function, symbol) if function in WITH_PLACEHOLDER else PREMIUM
    if intraday:
        style = alpha_vantage_intraday.Style(
            labels_ends="bar_end" in active,
            compact_only="compact_only" in active,
            partial_last_bar="partial_last_bar" in active,
            missing=frozenset(_days(active.get("missing_rows", ()))),
        )
        return alpha_vantage_intraday.answer(query, symbol, world, now, spoil, style)
    plain = _PLAIN.get(function)
    return plain(query, symbol, world, now) if plain is not None else None


def _is_sold(function: str, active: Active) -> bool:
    named = [name for names in active.get("sold", ()) if isinstance(names, tuple) for name in names]
    return function in named or "all" in named


def _days(values: tuple[object, ...]) -> list[date]:
    return [day for value in values if isinstance(value, tuple) for day in value if isinstance(day, date)]
