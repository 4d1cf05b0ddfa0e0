"""Which provider's bar is the house's bar, and where the others disagree with it.

Pure and deterministic: the same rows in any order give the same answer. Rows that broke a blocking quality
rule do not come this far. How far apart two providers may be is decided here and nowhere else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

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
from market_pipelines.market.definition import CrossCheckPlan

SIMULATED_PREFIX = "simulated-"
KEY = ("market", "symbol", "session")
SAME, OTHER = "same", "other"
"""Whether two closes are of one kind."""
COMPARED_COLUMNS = (
    "close",
    "other_close",
    "bp",
    "volume",
    "other_volume",
    "volume_share",
    "kind",
    "tolerance_bp",
    "breach",
)
DISAGREEMENT_COLUMNS = (*KEY, "provider", "other", *COMPARED_COLUMNS)

Codes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class CloseKind(StrEnum):
    """What a provider calls the close of a day."""

    OFFICIAL = "official"
    """The closing price that the listing exchange published, as a rule that of its closing auction."""
    CONSOLIDATED = "consolidated"
    """The last trade of the session, on any venue, whose conditions let it count."""
    LAST_TRADE = "last_trade"
    """The last trade that one venue saw."""


CloseKinds = Mapping[str, CloseKind]
"""By the providers' plain names; one that is not in it has a close of unknown kind, which is like no other."""
CLOSE_KINDS: CloseKinds = MappingProxyType(
    {
        "alpha_vantage": CloseKind.OFFICIAL,
        "iex_cloud": CloseKind.LAST_TRADE,
        "polygon": CloseKind.CONSOLIDATED,
        "stooq": CloseKind.OFFICIAL,
        "yahoo": CloseKind.OFFICIAL,
    }
)
"""Of the providers that ship, as their adapters say. Who has the adapters at hand asks them, for plug-ins too."""
_USUAL = CrossCheckPlan()


@dataclass(frozen=True, slots=True)
class Consensus:
    chosen: pd.DataFrame
    """`bars.CONSENSUS_COLUMNS`, one row per market, symbol and session, in that order."""
    disagreements: pd.DataFrame
    """`DISAGREEMENT_COLUMNS`: the chosen provider, and another one whose final bar has another close or volume, by
    more than the plan lets pass."""


def house_name(provider: str) -> str:
    """The provider's name without the mark of simulated data."""
    return provider.removeprefix(SIMULATED_PREFIX)


def compared(
    provider: pd.Series,
    other: pd.Series,
    values: pd.DataFrame,
    plan: CrossCheckPlan,
    kinds: CloseKinds = CLOSE_KINDS,
) -> pd.DataFrame:
    """What the bars of two providers have to do with each other, row by row: `COMPARED_COLUMNS`.

    `values` has `close`, `other_close`, `volume`, `other_volume`; `kinds` says what each provider's close is. `kind`
    is whether both are the same, and so which tolerance holds; `volume_share` is the distance of the volumes as a
    share of the larger, missing where one is. `breach` is `close`, `volume`, `close and volume` or empty. What one
    venue counts is not compared with what all of them count.
    """
    one, two = _kind_codes(provider, kinds, -1), _kind_codes(other, kinds, -2)
    close, other_close, volume, other_volume = (
        values[name].to_numpy(dtype=np.float64) for name in ("close", "other_close", "volume", "other_volume")
    )
    larger = np.maximum(volume, other_volume)
    with np.errstate(divide="ignore", invalid="ignore"):
        bp = np.abs(close - other_close) / ((close + other_close) / 2) * 10_000
        share = np.where(larger > 0, np.abs(volume - other_volume) / larger, 0.0)
    share = np.where(np.isnan(larger), np.nan, share)
    same = one == two
    tolerance = np.where(same, plan.same_close_bp, plan.other_close_bp)
    single = list(CloseKind).index(CloseKind.LAST_TRADE)
    far = bp > tolerance + 1e-9
    uneven = (share > plan.volume_share) & ((one == single) == (two == single))
    words = np.select([far & uneven, far, uneven], ["close and volume", "close", "volume"], "")
    return values.assign(
        bp=bp,
        volume_share=share,
        kind=pd.Series(np.where(same, SAME, OTHER), index=values.index, dtype="str"),
        tolerance_bp=tolerance,
        breach=pd.Series(words, index=values.index, dtype="str"),
    )[list(COMPARED_COLUMNS)]


def agree(
    bars: pd.DataFrame,
    precedence: Sequence[str],
    plan: CrossCheckPlan = _USUAL,
    kinds: CloseKinds = CLOSE_KINDS,
) -> Consensus:
    """The best bar of each session, out of `bars.PROVIDER_BAR_COLUMNS` rows of any number of providers.

    Within a session a final bar beats a provisional one, then the provider named first in `precedence` wins;
    providers that it does not name come last, by name. A symbol's series is never mixed from prices on
    different bases: only rows on the least processed basis that the symbol has in `bars` can be chosen, so an
    adjusted bar counts only for a symbol without any traded bar.

    The condition is pending for a provisional bar, degraded where another provider's close disagrees or the prices
    are not as traded, otherwise available. A volume that disagrees is told and degrades nothing.
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
    disagreements, disputed = _disagreements(rows, group, leader, provisional, plan, kinds)

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
    rows: pd.DataFrame, group: Codes, leader: Codes, provisional: Mask, plan: CrossCheckPlan, kinds: CloseKinds
) -> tuple[pd.DataFrame, Mask]:
    """Final bars that are too far from the chosen final bar; and in which sessions the closes are."""
    at = np.flatnonzero(~provisional & ~provisional[leader][group])
    at = at[at != leader[group[at]]]
    others, chosen = rows.iloc[at].reset_index(drop=True), rows.iloc[leader[group[at]]].reset_index(drop=True)
    values = pd.DataFrame(
        {
            "close": chosen["close"],
            "other_close": others["close"],
            "volume": chosen["volume"],
            "other_volume": others["volume"],
        }
    )
    found = compared(chosen["provider"], others["provider"], values, plan, kinds)
    disputed = np.zeros(len(leader), dtype=bool)
    disputed[group[at[found["breach"].str.contains("close").to_numpy(dtype=bool)]]] = True
    pairs = others[list(KEY)].assign(provider=chosen["provider"], other=others["provider"])
    breaching = (found["breach"] != "").to_numpy(dtype=bool)
    disagreements = pd.concat([pairs, found], axis=1).loc[breaching, list(DISAGREEMENT_COLUMNS)]
    return disagreements.reset_index(drop=True), disputed


def _kind_codes(names: pd.Series, kinds: CloseKinds, unknown: int) -> Codes:
    order = list(CloseKind)
    code, found = pd.factorize(names)
    known = [kinds.get(house_name(str(name))) for name in found]
    places = np.array([unknown if kind is None else order.index(kind) for kind in known], dtype=np.int64)
    return places[code]
