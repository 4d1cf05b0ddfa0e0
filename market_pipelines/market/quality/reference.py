"""Rules about corporate actions and instruments: against the prices, and against what they were before.

A provider's adjusted series is compared with the traded one step by step, from one session to the next, because a
level depends on when it was fetched and a step does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from market_pipelines.market.actions import ActionKind, Basis, CorporateAction
from market_pipelines.market.currencies import whole_currency
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.quality.findings import Finding, count, finding
from market_pipelines.market.quality.limits import Limits
from market_pipelines.market.quality.sheet import Floats, Instants, Ints, Mask
from market_pipelines.market.sessions import Days

AGREED = ""
"""In the column `provider`: the house's own bars."""
NEAR = np.timedelta64(14, "D")
"""An action further from the bars on either side of it than this is not compared with them."""
CENT = 0.005
"""Half of the last digit to which adjusted prices are rounded at worst."""


@dataclass(frozen=True)
class Steps:
    """From one bar of a series to its next: closes, and what the known actions between them do to a price."""

    symbol: Ints
    symbols: Sequence[str]
    since: Days
    day: Days
    before: Floats
    close: Floats
    split: Floats
    """New shares for one old, all splits of the step together; 1 without any."""
    dividend: Floats
    """Cash for a share of after the split."""
    arrived: Instants
    """When the earlier of the two bars came, not-a-time where unknown."""

    def __len__(self) -> int:
        return len(self.close)

    @property
    def near(self) -> Mask:
        return np.asarray(self.day - self.since <= NEAR, dtype=bool)


def steps_of(bars: pd.DataFrame, actions: Sequence[CorporateAction], start: date) -> Steps:
    """The steps into each session from `start` on, over the final bars with a price."""
    usable = ~bars["provisional"].to_numpy(dtype=bool) & (bars["close"] > 0).to_numpy(dtype=bool)
    code, names = pd.factorize(bars["symbol"], sort=True)
    day = bars["session"].to_numpy().astype("datetime64[D]")
    order = np.flatnonzero(usable)
    order = order[np.lexsort((day[order], code[order]))]
    code, day = code[order].astype(np.int64), day[order]
    close = bars["close"].to_numpy(dtype=np.float64)[order]
    arrived = np.full(len(order), np.datetime64("NaT"), dtype="datetime64[s]")
    if "ingested_at" in bars:
        arrived = bars["ingested_at"].dt.tz_convert(None).to_numpy().astype("datetime64[s]")[order]
    to = np.flatnonzero((code[1:] == code[:-1]) & (day[1:] >= np.datetime64(start, "D"))) + 1
    split, dividend = np.ones(len(to)), np.zeros(len(to))
    places = {str(name): at for at, name in enumerate(names)}
    key = (code[to] << 32) + day[to].astype(np.int64)
    for action in actions:
        place = places.get(action.symbol)
        if place is None or not action.value > 0:
            continue
        at = int(np.searchsorted(key, (place << 32) + np.datetime64(action.ex_date, "D").astype(np.int64)))
        if at == len(to) or code[to[at]] != place or day[to[at] - 1] >= np.datetime64(action.ex_date, "D"):
            continue
        if action.kind is ActionKind.SPLIT:
            split[at] *= action.value
        else:
            dividend[at] += action.value
    return Steps(
        code[to],
        [str(name) for name in names],
        day[to - 1],
        day[to],
        close[to - 1],
        close[to],
        split,
        dividend,
        np.fmin(arrived[to], arrived[to - 1]),
    )


def split_without_jump(agreed: Steps, providers: Sequence[tuple[str, Basis, Steps]], limits: Limits) -> Finding:
    """A split that the prices know nothing of, or that a provider has not taken out of its adjusted prices.

    A price moves on an ex-date as on any other, so the question is only which of the two it is nearer to, the jump or
    none. Ratios too small to be told from an ordinary day are not asked about.
    """
    smallest = np.log(1 + limits("split_without_jump"))
    found, checked = [], 0
    for name, basis, steps in [(AGREED, Basis.TRADED, agreed), *providers]:
        ratio = np.log(steps.split)
        asked = np.flatnonzero((np.abs(ratio) >= smallest) & steps.near)
        checked += len(asked)
        moved = np.log(steps.close[asked] / (steps.before[asked] - _paid_before(steps, basis)[asked]))
        jumped = np.abs(moved + ratio[asked]) < np.abs(moved)
        wrong = asked[~jumped if basis is Basis.TRADED else jumped]
        words = "and the price did not jump" if basis is Basis.TRADED else "and the adjusted price jumped"
        details = [
            f"a split of {steps.split[at]:g} for 1 {words}: {steps.before[at]:g} to {steps.close[at]:g}" for at in wrong
        ]
        found.append(_offences(steps, wrong, name, details))
    offending = pd.concat(found, ignore_index=True)
    said = f"{count(offending, checked, 'splits')} do not show in the prices as they should"
    return finding("split_without_jump", offending, checked, said)


def _offences(steps: Steps, at: Ints, provider: str, details: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "symbol": pd.Series([steps.symbols[code] for code in steps.symbol[at].tolist()], dtype="str"),
            "session": steps.day[at].astype("datetime64[s]"),
            "provider": pd.Series([provider] * len(at), dtype="str"),
            "before": steps.before[at],
            "close": steps.close[at],
            "detail": pd.Series(list(details), dtype="str"),
        }
    )


def _paid_before(steps: Steps, basis: Basis) -> Floats:
    """Dividends of a step in the units of the close before it."""
    if basis is Basis.SPLIT_DIVIDEND:
        return np.zeros(len(steps))
    amount = steps.dividend * (steps.split if basis is Basis.TRADED else 1.0)
    return np.where(amount < steps.before, amount, 0.0)


@dataclass(frozen=True)
class Adjusted:
    """Steps of a provider's adjusted series beside the same steps of the traded one."""

    name: str
    steps: Steps
    """The provider's, those that the traded series has too."""
    traded: Steps
    expected: Floats
    """By how much more than the traded close the adjusted one should rise, as a logarithm."""
    dividend: Floats
    """The part of `expected` that is owed to dividends."""
    noise: Floats
    """What rounding can make of it."""

    @property
    def surplus(self) -> Floats:
        return np.asarray(np.log(self.steps.close / self.steps.before) - np.log(self.traded.close / self.traded.before))

    @property
    def asked(self) -> Mask:
        """Steps over a dividend that rounding cannot hide."""
        return np.asarray(self.dividend > 4 * self.noise, dtype=bool)

    def unpaid(self, share: float) -> Mask:
        """Steps that took less than this share of their dividend."""
        paid = self.surplus - (self.expected - self.dividend)
        return np.asarray(self.asked & (paid < share * self.dividend), dtype=bool)


def beside(name: str, basis: Basis, steps: Steps, agreed: Steps) -> Adjusted:
    wanted = [f"{symbol}" for symbol in agreed.symbols]
    places = pd.Index(wanted, dtype="str").get_indexer(pd.Index(list(steps.symbols), dtype="str"))
    key = _key(agreed.symbol, agreed.day)
    code = places[steps.symbol] if len(steps) else np.empty(0, dtype=np.int64)
    at = np.minimum(np.searchsorted(key, _key(code, steps.day)), max(len(key) - 1, 0))
    met = np.zeros(len(steps), dtype=bool)
    if len(key):
        met = (code >= 0) & (key[at] == _key(code, steps.day))
        met[met] = agreed.since[at[met]] == steps.since[met]
    mine, theirs = _taken(steps, np.flatnonzero(met)), _taken(agreed, at[met])
    # Bars that arrived on different days may be adjusted for different actions.
    action = (theirs.split != 1) | (theirs.dividend > 0)
    ex_date = theirs.day.astype("datetime64[s]")
    torn = action & ~np.isnat(mine.arrived) & (mine.arrived < ex_date)
    whole = np.flatnonzero(~torn)
    mine, theirs = _taken(mine, whole), _taken(theirs, whole)
    worth = theirs.before / theirs.split
    share = np.where(theirs.dividend < worth, theirs.dividend / worth, 0.0)
    paid = -np.log1p(-share) if basis is Basis.SPLIT_DIVIDEND else np.zeros(len(mine))
    noise = CENT / mine.before + CENT / mine.close
    return Adjusted(name, mine, theirs, np.log(theirs.split) + paid, paid, noise)


def _key(code: Ints, day: Days) -> Ints:
    return np.asarray((code << 32) + day.astype(np.int64), dtype=np.int64)


def _taken(steps: Steps, at: Ints) -> Steps:
    return Steps(
        steps.symbol[at],
        steps.symbols,
        steps.since[at],
        steps.day[at],
        steps.before[at],
        steps.close[at],
        steps.split[at],
        steps.dividend[at],
        steps.arrived[at],
    )


def dividend_not_applied(pairs: Sequence[Adjusted], limits: Limits) -> Finding:
    found, checked = [], 0
    for pair in pairs:
        checked += int(pair.asked.sum())
        at = np.flatnonzero(pair.unpaid(limits("dividend_not_applied")))
        details = [f"a dividend of {pair.traded.dividend[step]:g} is not in the adjusted prices" for step in at]
        found.append(_offences(pair.steps, at, pair.name, details))
    offending = _joined(found)
    said = f"{count(offending, checked, 'dividends')} are missing in adjusted prices"
    return finding("dividend_not_applied", offending, checked, said)


def adjusted_consistency(pairs: Sequence[Adjusted], limits: Limits) -> Finding:
    """Splits and dividends that were not applied at all have rules of their own and are not told twice."""
    found, checked = [], 0
    for pair in pairs:
        distance = np.abs(pair.surplus - pair.expected)
        told = pair.unpaid(limits("dividend_not_applied")) | (
            (np.abs(np.log(pair.traded.split)) >= np.log(1 + limits("split_without_jump"))) & (distance > 0.1)
        )
        checked += len(pair.steps)
        at = np.flatnonzero((distance > limits("adjusted_consistency") + pair.noise) & ~told)
        details = [
            f"the adjusted close moved by {off:+.2%} against the traded one"
            for off in np.expm1(pair.surplus[at] - pair.expected[at])
        ]
        found.append(_offences(pair.steps, at, pair.name, details))
    offending = _joined(found)
    said = f"{count(offending, checked, 'adjusted steps')} differ from the traded ones"
    return finding("adjusted_consistency", offending, checked, said)


def _joined(found: Sequence[pd.DataFrame]) -> pd.DataFrame:
    if not found:
        return pd.DataFrame({"symbol": pd.Series(dtype="str"), "session": pd.Series(dtype="datetime64[s]")})
    return pd.concat(list(found), ignore_index=True)


def currency(instruments: Sequence[Instrument], former: Sequence[Instrument]) -> Finding:
    """Prices of a listing are in one money for good; hundredths of it count as another."""
    before = {one.symbol: one.currency for one in former}
    offences = []
    for one in instruments:
        was = before.get(one.symbol, one.currency)
        if not (len(one.currency) == 3 and one.currency.isalpha()):
            offences.append((one.symbol, f"{one.currency!r} is no currency"))
        elif was != one.currency:
            same = whole_currency(was) == whole_currency(one.currency)
            offences.append(
                (one.symbol, f"{was} became {one.currency}" + (", a hundred times more or less" if same else ""))
            )
    offending = _about_instruments(offences)
    return finding(
        "currency", offending, len(instruments), f"{count(offending, len(instruments), 'listings')} changed money"
    )


def symbol_continuity(
    instruments: Sequence[Instrument],
    former: Sequence[Instrument],
    bars: pd.DataFrame | None,
    start: date,
    limits: Limits,
) -> Finding:
    """A symbol that was given to another company reads as one long history of neither.

    Names are compared without regard to case and punctuation: a provider that adds a comma renames nobody.
    """
    now = {one.symbol: one for one in instruments}
    offences = []
    for was in former:
        one = now.get(was.symbol)
        if one is None:
            if was.delisted_on is None:
                offences.append((was.symbol, "is gone and was never delisted"))
            continue
        if was.name and one.name and _plain(was.name) != _plain(one.name):
            offences.append((was.symbol, f"{was.name} became {one.name}"))
        if was.delisted_on is not None and one.delisted_on is None:
            offences.append((was.symbol, f"was delisted on {was.delisted_on} and is listed again"))
    if bars is not None:
        steps = steps_of(bars, (), start)
        sessions = np.unique(bars["session"].to_numpy().astype("datetime64[D]"))
        between = np.searchsorted(sessions, steps.day) - np.searchsorted(sessions, steps.since) - 1
        jump = steps.close / steps.before - 1
        strange = (between > limits("symbol_continuity", "gap")) & (np.abs(jump) > limits("symbol_continuity"))
        for at in np.flatnonzero(strange):
            text = f"no bar for {between[at]} sessions until {steps.day[at]}, then {jump[at]:+.0%}"
            offences.append((steps.symbols[steps.symbol[at]], text))
    offending = _about_instruments(offences)
    checked = len(set(now) | {one.symbol for one in former})
    return finding(
        "symbol_continuity", offending, checked, f"{count(offending, checked, 'symbols')} may mean another company"
    )


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _about_instruments(offences: Sequence[tuple[str, str]]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "symbol": pd.Series([symbol for symbol, _ in offences], dtype="str"),
            "detail": pd.Series([text for _, text in offences], dtype="str"),
        }
    )
