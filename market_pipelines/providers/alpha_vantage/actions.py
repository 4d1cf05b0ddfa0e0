"""Splits, then dividends: two endpoints that answer one question.

Shares handed out in a spin-off come as a split of an odd factor (IBM 1.0460 when it let Kyndryl go). They stay
splits, because prices before and after compare by that factor; `CorporateAction.odd_ratio` tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from market_pipelines.market.actions import ActionKind, CorporateAction
from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.alpha_vantage.cells import Row, day, number, rows_of_objects, table, top_level
from market_pipelines.providers.alpha_vantage.series import nothing_inside
from market_pipelines.providers.alpha_vantage.spelling import SPELLING, same_symbol
from market_pipelines.providers.answers import malformed, one_line
from market_pipelines.providers.protocol import ActionsQuery, Answer, Parsed

SPLITS, DIVIDENDS = "SPLITS", "DIVIDENDS"
SPLIT_COLUMNS = ("effective_date", "split_factor")
DIVIDEND_COLUMNS = ("ex_dividend_date", "declaration_date", "record_date", "payment_date", "amount")

_FIELDS = {
    SPLITS: (ActionKind.SPLIT, SPLIT_COLUMNS),
    DIVIDENDS: (ActionKind.DIVIDEND, DIVIDEND_COLUMNS),
}


def parameters(query: ActionsQuery, function: str) -> dict[str, str]:
    return {"function": function, "symbol": SPELLING.native(query.instrument), "datatype": "json"}


def parse(body: bytes, answer: Answer, query: ActionsQuery) -> Parsed:
    """Which of the two it answers is told by the call's endpoint, and has to agree with the body."""
    function = answer.endpoint if answer.endpoint in _FIELDS else SPLITS
    kind, columns = _FIELDS[function]
    rows: Sequence[Row]
    if body.startswith(b"{"):
        top = top_level.decode(body)
        if not top:
            return nothing_inside()
        if "symbol" not in top or "data" not in top:
            return malformed(f"no {function.lower()}, but {', '.join(list(top)[:4])}")
        symbol = msgspec.json.decode(top["symbol"])
        if not same_symbol(symbol, query.instrument):
            return malformed(f"asked for {SPELLING.native(query.instrument)}, the answer is about {symbol}")
        rows = rows_of_objects.decode(top["data"])
    else:
        rows = table(body, columns)
    found = {action for row in rows if (action := _action(row, kind, columns, query.instrument.symbol)) is not None}
    actions = tuple(sorted(one for one in found if query.start <= one.ex_date <= query.today))
    odd = ", ".join(f"{one.value:g} on {one.ex_date}" for one in actions if one.odd_ratio)
    return Parsed(
        Outcome.OK if actions else Outcome.EMPTY_EXPECTED,
        one_line(f"looks like a spin-off, kept as a split: {odd}")
        if odd
        else ""
        if actions
        else _none(function, query),
        actions=actions,
        actions_known=function == DIVIDENDS,
    )


def _none(function: str, query: ActionsQuery) -> str:
    return f"no {function.lower()} since {query.start}"


def _action(row: Row, kind: ActionKind, columns: tuple[str, ...], symbol: str) -> CorporateAction | None:
    """None for a row that says nothing: no day, no amount, or one without effect."""
    ex_date, value = day(row, columns[0]), number(row, columns[-1])
    if ex_date is None or value is None or value == (1.0 if kind is ActionKind.SPLIT else 0.0):
        return None
    if value <= 0:
        raise ValueError(f"a {kind.value} of {value:g} on {ex_date}")
    return CorporateAction(symbol, ex_date, kind, value)
