"""Which provider's bar is the house's bar, and where the others disagree with it.

Pure and deterministic: the same rows in any order give the same answer. Rows that broke a blocking quality
rule do not come this far.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from market_pipelines.market.bars import (
    AVAILABLE,
    BASES,
    CONSENSUS_COLUMNS,
    DEGRADED,
    PENDING,
    VALUE_COLUMNS,
)

SIMULATED_PREFIX = "simulated-"
KEY = ("market", "symbol", "session")
DISAGREEMENT_COLUMNS = (*KEY, "provider", "other", "close", "other_close", "bp")

Codes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Consensus:
    chosen: pd.DataFrame
    """`bars.CONSENSUS_COLUMNS`, one row per market, symbol and session, in that order."""
    disagreements: pd.DataFrame
    """The chosen provider, another one whose final close is further away than the tolerance, and by how many
    basis points of the mean of the two."""


def house_name(provider: str) -> str:
    """The provider's name without the mark of simulated data."""
    return provider.removeprefix(SIMULATED_PREFIX)


def agree(bars: pd.DataFrame, precedence: Sequence[str], tolerance_bp: float = 50.0) -> Consensus:
    """The best bar of each session, out of `bars.PROVIDER_BAR_COLUMNS` rows of any number of providers.

    Within a session a final bar beats a provisional one, then the provider named first in `precedence` wins;
    providers that it does not name come last, by name. A symbol's series is never mixed from prices on
    different bases: only rows on the least processed basis that the symbol has in `bars` can be chosen, so an
    adjusted bar counts only for a symbol without any traded bar.

    The condition is pending for a provisional bar, degraded where another provider disagrees or the prices
    are not as traded, otherwise available.
    """
    basis = _basis_rank(bars["basis"])
    market_code, _ = pd.factorize(bars["market"], sort=True)
    symbol_code, _ = pd.factorize(bars["symbol"], sort=True)
    eligible = _on_the_best_basis(market_code * (int(symbol_code.max(initial=0)) + 1) + symbol_code, basis)
    rows, basis = bars[eligible], basis[eligible]
    day = rows["session"].to_numpy().astype("datetime64[s]").astype(np.int64)
    market_code, symbol_code = market_code[eligible], symbol_code[eligible]

    provider_rank = _provider_rank(rows["provider"], precedence)
    provisional = rows["provisional"].to_numpy(dtype=bool)
    # The values themselves come last: they only tell apart rows that one provider delivered twice.
    values = [rows[name].to_numpy() for name in VALUE_COLUMNS]
    order = np.lexsort((*values, provider_rank, provisional, day, symbol_code, market_code))
    rows, basis, provisional = rows.iloc[order], basis[order], provisional[order]
    market_code, symbol_code, day = market_code[order], symbol_code[order], day[order]

    first = _starts(market_code, symbol_code, day)
    group = np.cumsum(first) - 1
    leader = np.flatnonzero(first)
    disagreements, disputed = _disagreements(rows, group, leader, provisional, tolerance_bp)

    chosen = rows.iloc[leader]
    degraded = disputed | (basis[leader] > 0)
    condition = np.where(provisional[leader], PENDING, np.where(degraded, DEGRADED, AVAILABLE))
    chosen = chosen.assign(condition=pd.Series(condition, index=chosen.index, dtype="str"))
    return Consensus(chosen[list(CONSENSUS_COLUMNS)].reset_index(drop=True), disagreements)


def _basis_rank(basis: pd.Series) -> Codes:
    code, words = pd.factorize(basis)
    rank = np.array([BASES.index(str(word)) for word in words], dtype=np.int64)
    return rank[code]


def _on_the_best_basis(series: Codes, basis: Codes) -> Mask:
    best = np.full(int(series.max(initial=0)) + 1, len(BASES))
    np.minimum.at(best, series, basis)
    return np.asarray(basis == best[series], dtype=bool)


def _provider_rank(provider: pd.Series, precedence: Sequence[str]) -> Codes:
    code, names = pd.factorize(provider)
    preferred = [house_name(name) for name in precedence]

    def place(name: str) -> tuple[int, str]:
        house = house_name(name)
        return (preferred.index(house) if house in preferred else len(preferred)), name

    rank = np.empty(len(names), dtype=np.int64)
    rank[sorted(range(len(names)), key=lambda at: place(str(names[at])))] = np.arange(len(names))
    return rank[code]


def _starts(*codes: Codes) -> Mask:
    """Where a new key begins in sorted columns."""
    first = np.ones(len(codes[0]), dtype=bool)
    if len(first) > 1:
        first[1:] = np.logical_or.reduce([code[1:] != code[:-1] for code in codes])
    return first


def _disagreements(
    rows: pd.DataFrame, group: Codes, leader: Codes, provisional: Mask, tolerance_bp: float
) -> tuple[pd.DataFrame, Mask]:
    """Final bars whose close is too far from the chosen final bar; and which sessions have one."""
    close = rows["close"].to_numpy()
    reference = close[leader][group]
    bp = np.abs(close - reference) / ((close + reference) / 2) * 10_000
    far = np.flatnonzero((bp > tolerance_bp) & ~provisional & ~provisional[leader][group])
    disputed = np.zeros(len(leader), dtype=bool)
    disputed[group[far]] = True
    found = rows.iloc[far].rename(columns={"provider": "other", "close": "other_close"})
    found = found.assign(
        provider=rows["provider"].to_numpy()[leader][group[far]], close=reference[far], bp=bp[far]
    ).astype({"provider": "str"})
    return found[list(DISAGREEMENT_COLUMNS)].reset_index(drop=True), disputed
