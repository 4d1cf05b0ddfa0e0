"""Which of Yahoo's endpoints besides the daily chart answers a request."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime

from market_pipelines.simulator.formats import (
    yahoo_coarse,
    yahoo_facts,
    yahoo_gate,
    yahoo_intraday,
    yahoo_options,
    yahoo_refusals,
)
from market_pipelines.simulator.formats.asked import CHART, Asked
from market_pipelines.simulator.formats.reply import Reply
from market_pipelines.simulator.rows import Spoil
from market_pipelines.simulator.truth import World

Active = Mapping[str, tuple[object, ...]]


def answer(asked: Asked, world: World, now: datetime, active: Active, spoil: Spoil) -> Reply | None:
    step = yahoo_gate.step(asked, active)
    if step is not None:
        return step
    if asked.path.startswith(CHART):
        return _chart(asked, world, now, active, spoil)
    if asked.path == "/v1/finance/search":
        return yahoo_facts.search(asked.query, world)
    if not asked.path.startswith(yahoo_gate.GATED):
        return None
    return yahoo_gate.refusal(asked, active) or _gated(asked, world, now, active)


def _gated(asked: Asked, world: World, now: datetime, active: Active) -> Reply:
    if asked.path.startswith("/v7/finance/options/"):
        gaps = active.get("thin_puts", (1,))[-1]
        style = yahoo_options.ChainStyle(
            one_put_in=gaps if isinstance(gaps, int) else 1,
            no_interest="no_open_interest" in active,
            cheap="cheap_options" in active,
        )
        return yahoo_options.chain(asked.native_symbol, asked.query, world, now, style)
    if asked.path.startswith("/v10/finance/quoteSummary/"):
        return yahoo_facts.summary(asked.native_symbol, asked.query, world, now)
    stale = active.get("stale_quote", ())
    since = stale[-1] if stale else None
    return yahoo_facts.quotes(
        asked.query.get("symbols", ""), world, now, stale_since=since if isinstance(since, date) else None
    )


def _chart(asked: Asked, world: World, now: datetime, active: Active, spoil: Spoil) -> Reply | None:
    """Charts of minutes and of months; the daily one is not answered here."""
    interval = asked.query.get("interval", "1d")
    if interval not in yahoo_intraday.LENGTHS and interval not in yahoo_coarse.MONTHS:
        return None
    if "crumb_gate" in active and asked.query.get("crumb", "") not in yahoo_gate.CRUMBS.values():
        return yahoo_refusals.INVALID_CRUMB
    shown = str(active.get("wrong_symbol", ("",))[-1])
    if interval in yahoo_coarse.MONTHS:
        return yahoo_coarse.answer(shown or asked.native_symbol, asked.query, world, now, spoil)
    nulls = active.get("null_rows", (0,))[-1]
    missing = (day for days in active.get("missing_rows", ()) if isinstance(days, tuple) for day in days)
    style = yahoo_intraday.IntradayStyle(
        shown_symbol=shown,
        granularity=str(active.get("granularity", ("",))[-1]),
        live_duplicate="live_duplicate" in active,
        stray_extended="stray_extended" in active,
        null_rows=nulls if isinstance(nulls, int) else 0,
        hides_rows="empty_range" in active,
        missing=frozenset(missing),
    )
    return yahoo_intraday.answer(asked.native_symbol, asked.query, world, now, style)
