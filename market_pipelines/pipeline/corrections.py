"""Corrections of bars that were final: small ones become revisions, large ones wait for a person."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd

from market_pipelines.market.bars import AVAILABLE, PENDING, PRICE_COLUMNS, VALUE_COLUMNS
from market_pipelines.pipeline.platform import Platform
from market_pipelines.store.audit import record_decision, system_user
from market_pipelines.store.bars import write_prices
from market_pipelines.store.corrections import Decision, HeldCorrection, decide, hold
from market_pipelines.store.database import Transaction

LARGEST_CHANGE = 0.05
"""Of any of the four prices of a final bar; beyond it the old bar stands until a person has looked."""
_KEY = ["symbol", "session"]


@dataclass(frozen=True, slots=True)
class Sifted:
    chosen: pd.DataFrame
    """What may be written."""
    held: pd.DataFrame
    """What waits, with the `old_` values and the `change`."""


def sift(
    connection: Transaction,
    chosen: pd.DataFrame,
    stored: pd.DataFrame,
    table: str,
    at: datetime,
    run_id: str | None,
) -> Sifted:
    """Takes out the rows that would change a stored final bar by too much, and keeps them where a person decides."""
    final = stored.loc[(stored["condition"] == AVAILABLE) & ~stored["provisional"], [*_KEY, *VALUE_COLUMNS, "provider"]]
    old_names = {name: f"old_{name}" for name in (*VALUE_COLUMNS, "provider")}
    pairs = chosen.merge(final.rename(columns=old_names), on=_KEY, how="left")
    with np.errstate(all="ignore"):
        change = np.maximum.reduce(
            [np.abs(pairs[name].to_numpy() / pairs[f"old_{name}"].to_numpy() - 1) for name in PRICE_COLUMNS]
        )
    large = (np.nan_to_num(change) > LARGEST_CHANGE) & (pairs["condition"] != PENDING).to_numpy()
    waiting = pairs.assign(change=change)[large]
    if waiting.empty:
        return Sifted(chosen, waiting)
    accepted = hold(connection, waiting, table, at, run_id)
    still = np.array([position not in accepted for position in range(len(waiting))], dtype=bool)
    stopped = np.zeros(len(chosen), dtype=bool)
    stopped[np.flatnonzero(large)[still]] = True
    return Sifted(chosen[~stopped], waiting[still])


def settle_correction(
    platform: Platform, held_id: int, *, accept: bool, user: str | None = None, reason: str = ""
) -> HeldCorrection:
    """A person's word on a waiting correction: accepted, it becomes a revision like any other; rejected, the old
    bar stays whenever the same values come again. `user`: whose word, if not that of the process's owner."""
    now = platform.clock()
    with platform.database.connection() as connection:
        correction = decide(connection, held_id, Decision.ACCEPTED if accept else Decision.REJECTED, now)
        if accept:
            row = {name: [getattr(correction, name)] for name in ("symbol", "market", "provider", "condition")}
            values = {name: [getattr(correction, name)] for name in VALUE_COLUMNS}
            frame = pd.DataFrame(row | {"session": [correction.session], "provisional": [False]} | values)
            types = {"session": "datetime64[s]", **dict.fromkeys(VALUE_COLUMNS, "float64")}
            write_prices(connection, frame.astype(types), now, f"correction-{held_id}", table=correction.source_table)
        record_decision(
            connection,
            at=now,
            actor=user or system_user(),
            action="correction.accept" if accept else "correction.reject",
            subject=f"correction/{held_id}",
            detail={
                **{name: getattr(correction, name) for name in ("market", "symbol", "session", "provider")},
                "old_close": correction.old_close,
                "close": correction.close,
                "change": correction.change,
                "reason": reason,
            },
        )
    return correction
