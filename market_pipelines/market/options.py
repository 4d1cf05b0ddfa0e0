"""Whether what a provider says about an option contract can be true."""

from __future__ import annotations

from datetime import date
from math import isfinite

from market_pipelines.market.records import OptionContract


def fault(contract: OptionContract, today: date) -> str:
    """Why a contract is not kept; empty for a sound one."""
    if not (isfinite(contract.strike) and contract.strike > 0):
        return f"the strike {contract.strike} is not a positive number"
    if contract.expires < today:
        return f"it expired on {contract.expires}"
    for name in ("last", "bid", "ask", "volume", "open_interest", "implied_volatility"):
        value = getattr(contract, name)
        if value is not None and not (isfinite(value) and value >= 0):
            return f"{name} {value} cannot be"
    if contract.bid and contract.ask and contract.bid > contract.ask:
        return f"the bid {contract.bid:g} is above the ask {contract.ask:g}"
    return ""
