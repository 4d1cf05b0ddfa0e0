"""The rules over option contracts and each day's last look at their prices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from market_pipelines.market.quality.evidence import Case
from market_pipelines.market.quality.findings import Finding, count, finding
from market_pipelines.market.records import Right

_USUAL_SHARES = 100.0
"""A contract that delivers anything else was adjusted for a corporate action, and has strikes of its own."""
_PRICES = ("last", "bid", "ask")


def option_terms(case: Case) -> Finding | None:
    contracts = case.evidence.contracts
    if contracts is None:
        return None
    strike = contracts["strike"].to_numpy(dtype=np.float64)
    none = ~(np.isfinite(strike) & (strike > case.limits("option_terms")))
    late = (contracts["expires"] < contracts["session"]).to_numpy(dtype=bool)
    words = np.where(none, "the strike is not above zero", "listed after it has expired")
    return _of_contracts("option_terms", contracts, none | late, words, "contracts")


def option_quotes(case: Case) -> Finding | None:
    quotes = case.evidence.option_quotes
    if quotes is None:
        return None
    values = {name: quotes[name].to_numpy(dtype=np.float64) for name in (*_PRICES, "strike", "close", "shares")}
    bid, ask, close = values["bid"], values["ask"], values["close"]
    calls = (quotes["right"] == Right.CALL.value).to_numpy(dtype=bool)
    worth = np.where(calls, close - values["strike"], values["strike"] - close)
    tolerance = case.limits("option_quotes") * close
    faults = (
        ((quotes["expires"] < quotes["session"]).to_numpy(dtype=bool), "quoted after it has expired"),
        (np.any([values[name] < 0 for name in _PRICES], axis=0), "a price is below zero"),
        ((bid > 0) & (ask > 0) & (bid > ask), "the bid is above the ask"),
        (
            (ask > 0) & (ask < worth - tolerance) & (values["shares"] == _USUAL_SHARES),
            "the ask is below what it is worth if exercised",
        ),
    )
    bad = np.any([mask for mask, _ in faults], axis=0)
    words = np.select([mask for mask, _ in faults], [said for _, said in faults], "")
    return _of_contracts("option_quotes", quotes, bad, words, "quotes of options")


def option_strikes(case: Case) -> Finding | None:
    """Of the newest look at each chain: a strike that is gone at the provider keeps its old row."""
    contracts = case.evidence.contracts
    if contracts is None:
        return None
    usual = contracts[contracts["shares"] == _USUAL_SHARES]
    newest = usual[usual["session"] == usual.groupby("underlying")["session"].transform("max")]
    rows, checked = [], 0
    for (underlying, expires), chain in newest.groupby(["underlying", "expires"], sort=True):
        calls, puts = (set(chain.loc[chain["right"] == right.value, "strike"]) for right in (Right.CALL, Right.PUT))
        together = calls | puts
        # Who asks for one right only gets one: that says nothing.
        if not calls or not puts or len(together) < case.limits("option_strikes", "least"):
            continue
        checked += 1
        share = len(calls ^ puts) / len(together)
        if share > case.limits("option_strikes"):
            rows.append(
                {
                    "symbol": underlying,
                    "session": chain["session"].iloc[0],
                    "expires": expires,
                    "share": share,
                    "detail": f"of {len(together)} strikes of {expires:%Y-%m-%d} {len(together - calls)} have no call "
                    f"and {len(together - puts)} no put",
                }
            )
    offending = pd.DataFrame(rows, columns=["symbol", "session", "expires", "share", "detail"])
    said = f"{count(offending, checked, 'expiries')} lack strikes of one side"
    return finding("option_strikes", offending.sort_values("share", ascending=False, kind="stable"), checked, said)


def open_interest(case: Case) -> Finding | None:
    quotes = case.evidence.option_quotes
    if quotes is None:
        return None
    told = quotes[quotes["open_interest"].notna()]
    chains = (told["open_interest"] > 0).groupby([told["underlying"], told["session"]], sort=True)
    counted = pd.DataFrame({"contracts": chains.size(), "with_some": chains.sum()})
    judged = counted[counted["contracts"] >= case.limits("open_interest", "least")].reset_index()
    none = judged[judged["with_some"] <= case.limits("open_interest") * judged["contracts"]]
    pairs = zip(none["with_some"], none["contracts"], strict=True)
    details = [f"{some} of {all_of} contracts have any" for some, all_of in pairs]
    offending = none.rename(columns={"underlying": "symbol"}).assign(detail=details)
    said = f"{count(offending, len(judged), 'chains')} have no open interest at all"
    return finding("open_interest", offending, len(judged), said)


CHAINS: dict[str, Callable[[Case], Finding | None]] = {
    "option_terms": option_terms,
    "option_quotes": option_quotes,
    "option_strikes": option_strikes,
    "open_interest": open_interest,
}
"""By rule."""


def _of_contracts(name: str, frame: pd.DataFrame, bad: object, words: object, what: str) -> Finding:
    mask = np.asarray(bad, dtype=bool)
    offending = frame.loc[mask, ["underlying", "session", "contract", "strike", "expires", "provider"]]
    details = [
        f"{contract} by {provider}: {said}"
        for contract, provider, said in zip(
            offending["contract"], offending["provider"], np.asarray(words)[mask].tolist(), strict=True
        )
    ]
    offending = offending.rename(columns={"underlying": "symbol"}).assign(detail=details)
    return finding(name, offending, len(frame), f"{count(offending, len(frame), what)} break the rule")
