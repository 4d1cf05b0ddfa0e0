"""One provider's bars against another's: every pair, and the two rules that are asked of them.

How far apart two providers may be is said in `market.consensus.compared`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from market_pipelines.market.bars import BASES
from market_pipelines.market.consensus import CLOSE_KINDS, COMPARED_COLUMNS, CloseKinds, compared, house_name
from market_pipelines.market.definition import CrossCheckPlan
from market_pipelines.market.quality.sheet import Ints

COMPARISON_COLUMNS = ("symbol", "session", "provider", "other", *COMPARED_COLUMNS)


def compare_providers(
    provider_bars: pd.DataFrame, plan: CrossCheckPlan, kinds: CloseKinds = CLOSE_KINDS
) -> pd.DataFrame:
    """`COMPARISON_COLUMNS`, a row for each two providers that have a final bar of the same session on one basis.

    The two stand in alphabetical order, whether or not their data is simulated.
    """
    usable = ~provider_bars["provisional"].to_numpy(dtype=bool) & (provider_bars["close"] > 0).to_numpy(dtype=bool)
    final = provider_bars.loc[usable]
    one, two = _pairs(final)
    mine, others = final.iloc[one].reset_index(drop=True), final.iloc[two].reset_index(drop=True)
    values = mine[["close", "volume"]].assign(other_close=others["close"], other_volume=others["volume"])
    found = compared(mine["provider"], others["provider"], values, plan, kinds)
    pairs = mine[["symbol", "session", "provider"]].assign(other=others["provider"])
    return pd.concat([pairs, found], axis=1)[list(COMPARISON_COLUMNS)]


def _pairs(bars: pd.DataFrame) -> tuple[Ints, Ints]:
    """Positions of the two bars of each pair, by symbol, session and the providers' names."""
    names = sorted(
        {str(name) for name in bars["provider"].unique().tolist()}, key=lambda name: (house_name(name), name)
    )
    provider = pd.Index(names, dtype="str").get_indexer(pd.Index(bars["provider"]))
    basis = pd.Index(BASES).get_indexer(pd.Index(bars["basis"]))
    symbol, _ = pd.factorize(bars["symbol"], sort=True)
    day = bars["session"].to_numpy().astype("datetime64[D]").astype(np.int64)
    order = np.lexsort((provider, basis, day, symbol))
    key = ((symbol << 32) + (day + (1 << 31)))[order] * len(BASES) + basis[order]
    places = np.arange(len(order))
    found = []
    for distance in range(1, len(names)):
        at = places[: max(len(order) - distance, 0)]
        found.append(np.stack([at, at + distance])[:, key[at] == key[at + distance]])
    one, two = np.concatenate(found, axis=1) if found else np.empty((2, 0), dtype=np.int64)
    sorted_by_first = np.lexsort((two, one))
    return order[one[sorted_by_first]], order[two[sorted_by_first]]
