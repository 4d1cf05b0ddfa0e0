"""Sizes of quotes in shares: how Polygon counted them has changed, how this house counts them has not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from market_pipelines.providers.polygon.stamps import NEW_YORK, Instants, since_epoch

ROUND_LOTS_UNTIL = datetime(2025, 11, 3, tzinfo=NEW_YORK).astimezone(UTC)
"""Sizes of quotes of shares were counted in lots of a hundred before, and are counted in shares since. Of options
they have always been contracts."""
ROUND_LOT = 100.0
OPTION = "O:"
"""What the symbols of contracts begin with."""


def in_shares(
    sizes: npt.NDArray[np.float64],
    instants: Instants,
    options: npt.NDArray[np.bool_] | bool = False,
    until: datetime = ROUND_LOTS_UNTIL,
) -> npt.NDArray[np.float64]:
    """`options`: which of them are sizes of contracts."""
    lots: npt.NDArray[Any] = (instants < since_epoch(until)) & ~np.asarray(options)
    return np.where(lots, sizes * ROUND_LOT, sizes) if lots.any() else sizes
