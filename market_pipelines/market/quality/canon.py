"""All rules, in the order in which they are asked and shown.

The functions behind them are in `rows` and `series` (the verdict on what a provider delivered), `coverage`,
`history`, `minutes`, `cross`, `reference` (what is stored); those of streams and options are listed in `canon_live`
and answered in `streamed` and `chains`. A number here that differs from the one that the
literature proposes says why in its explanation.
"""

from collections.abc import Mapping
from types import MappingProxyType

from market_pipelines.market.quality.canon_live import LIVE_RULES
from market_pipelines.market.quality.rules import (
    ACTIONS,
    INDEX_PRICES,
    INSTRUMENTS,
    INTRADAY,
    STOCK_PRICES,
    Rule,
    Scope,
    Severity,
)

_BARS = (STOCK_PRICES, INDEX_PRICES, INTRADAY)
_DAILY = (STOCK_PRICES, INDEX_PRICES)
_SHARES = (STOCK_PRICES,)
_MINUTES = (INTRADAY,)

RULES: tuple[Rule, ...] = (
    Rule(
        "schema",
        Severity.BLOCK,
        Scope.FRAME,
        "The columns and types of a table of bars; every row has a symbol and an exchange date.",
        number=1,
        assets=_BARS,
        required=True,
    ),
    Rule(
        "nulls",
        Severity.BLOCK,
        Scope.ROW,
        "Open, high, low and close are finite numbers.",
        number=2,
        assets=_BARS,
        required=True,
    ),
    Rule(
        "positive_price",
        Severity.BLOCK,
        Scope.ROW,
        "Every price is above zero.",
        0.0,
        number=4,
        assets=_BARS,
    ),
    Rule(
        "high_low_envelope",
        Severity.BLOCK,
        Scope.ROW,
        "No price is above the high or below the low, to a relative tolerance for widened floats.",
        1e-6,
        number=3,
        assets=_BARS,
    ),
    Rule(
        "volume",
        Severity.BLOCK,
        Scope.ROW,
        "Volume is a finite number, not below zero, or absent. Fractions of a share count: some feeds have them.",
        0.0,
        number=5,
        assets=_BARS,
    ),
    Rule(
        "volume_gap",
        Severity.WARN,
        Scope.SERIES,
        "Volume is absent only where the provider has none for the symbol at all.",
        number=2,
        assets=_DAILY,
    ),
    Rule(
        "instrument",
        Severity.BLOCK,
        Scope.ROW,
        "The symbol is one of the market's instruments.",
        assets=_BARS,
        required=True,
    ),
    Rule(
        "listing_life",
        Severity.BLOCK,
        Scope.ROW,
        "The session lies between the listing and the last session before delisting.",
        number=29,
        assets=_BARS,
    ),
    Rule(
        "session_membership",
        Severity.BLOCK,
        Scope.ROW,
        "The date is a session of the exchange; a bar within a session lies in its regular or extended hours.",
        number=9,
        assets=_BARS,
        required=True,
    ),
    Rule(
        "future",
        Severity.BLOCK,
        Scope.ROW,
        "The session had opened when the bar was fetched; a bar within a session begins no more than this many "
        "seconds ahead of the clock.",
        60.0,
        number=29,
        assets=_BARS,
    ),
    Rule(
        "uniqueness",
        Severity.BLOCK,
        Scope.SERIES,
        "A symbol has one bar a session. Of several that differ, none is believed.",
        number=6,
        assets=_BARS,
        required=True,
    ),
    Rule(
        "unit_error",
        Severity.BLOCK,
        Scope.SERIES,
        "Prices stay in one unit: no jump to about a hundredfold or a hundredth of the surrounding closes "
        "(pence for pounds). The threshold is how far from exactly 100 still counts.",
        1.25,
        number=23,
        assets=_DAILY,
    ),
    Rule(
        "repeated_bar",
        Severity.BLOCK,
        Scope.SERIES,
        "No bar repeats the session before it in all four prices and in volume: that is yesterday's bar under "
        "today's date. A bar with a single price or a volume of zero is left alone: a share that trades once a day, or "
        "not at all, repeats itself honestly.",
        number=14,
        assets=_DAILY,
    ),
    Rule(
        "duplicate",
        Severity.INFO,
        Scope.SERIES,
        "The same bar, delivered more than once: the repetitions are dropped.",
        number=6,
        assets=_DAILY,
    ),
    Rule(
        "order",
        Severity.WARN,
        Scope.SERIES,
        "Sessions come oldest first. The bars are kept and put in order.",
        number=7,
        assets=_BARS,
    ),
    Rule(
        "live_bar",
        Severity.INFO,
        Scope.ROW,
        "The session had not closed when the bar was fetched: the bar is kept and marked provisional.",
        number=31,
        assets=_DAILY,
    ),
    Rule(
        "return_cap",
        Severity.WARN,
        Scope.SERIES,
        "The close moves by no more than this share from one session to the next, after known splits and dividends.",
        0.5,
        number=17,
        assets=_DAILY,
    ),
    Rule(
        "completeness",
        Severity.WARN,
        Scope.STORED,
        "Every instrument has a bar for every session of its listing life. A gap in the last closed session "
        "blocks once it is overdue by this many hours.",
        6.0,
        number=10,
        assets=_DAILY,
    ),
    Rule(
        "freshness",
        Severity.BLOCK,
        Scope.STORED,
        "The last session that closed at least this many minutes ago is there. Blocks when no instrument has "
        "it, warns when some lack it.",
        90.0,
        number=13,
        assets=_DAILY,
    ),
    Rule(
        "provider_outage",
        Severity.BLOCK,
        Scope.STORED,
        "Less than this share of the universe is missing in one session, and no provider fails for all.",
        0.2,
        number=12,
        assets=_DAILY,
    ),
    Rule(
        "live_bar_as_final",
        Severity.BLOCK,
        Scope.HISTORY,
        "No bar that was written before its session (or its own interval) was over counts as final.",
        number=31,
        assets=_BARS,
    ),
    Rule(
        "stale_price",
        Severity.WARN,
        Scope.HISTORY,
        "The close does not stay the same for this many sessions on which shares change hands. Excused are symbols of "
        "which more than `usual` of the `window` closes before stood still as well: a price of a few ticks does.",
        5.0,
        number=14,
        assets=_DAILY,
        parameters=MappingProxyType({"usual": 0.1, "window": 60.0}),
    ),
    Rule(
        "constant_bar",
        Severity.INFO,
        Scope.HISTORY,
        "Open, high, low and close are one price although more than this multiple of the usual volume traded.",
        1.0,
        number=15,
        assets=_SHARES,
        parameters=MappingProxyType({"window": 20.0}),
    ),
    Rule(
        "zero_volume",
        Severity.WARN,
        Scope.HISTORY,
        "Where the price moved, shares were traded; and a share that usually trades at least this many a session "
        "trades on every one.",
        10_000.0,
        number=16,
        assets=_SHARES,
        parameters=MappingProxyType({"window": 20.0}),
    ),
    Rule(
        "return_mad",
        Severity.WARN,
        Scope.HISTORY,
        "A session's return, beyond the market's, is no more than this many robust deviations (0.6745 (r - median) / "
        "MAD) from those of the window before it. The 3.5 of the textbooks is meant for normal returns, of which 23 in "
        "10,000 breach it; of returns with the fat tails of shares (t with four degrees of freedom) it is 222, at ten "
        "it is 4. Moves below `smallest` are never unusual.",
        10.0,
        number=18,
        assets=_DAILY,
        parameters=MappingProxyType({"window": 60.0, "smallest": 0.03}),
    ),
    Rule(
        "volume_spike",
        Severity.INFO,
        Scope.HISTORY,
        "Volume, as a logarithm, is no more than this many standard deviations above the window before it; splits "
        "are taken out. Heavy trading is rarely an error.",
        4.0,
        number=19,
        assets=_SHARES,
        parameters=MappingProxyType({"window": 20.0}),
    ),
    Rule(
        "split_like_jump",
        Severity.WARN,
        Scope.HISTORY,
        "No close jumps to within this share of n times or an nth of the one before it, n being a usual split ratio, "
        "with volume moving the other way and no split known.",
        0.05,
        number=20,
        assets=_SHARES,
        parameters=MappingProxyType({"window": 20.0}),
    ),
    Rule(
        "revision_size",
        Severity.WARN,
        Scope.HISTORY,
        "A provider's later word changes a final close by no more than so many hundredths of a percent, and volume "
        "by no more than a share. A larger change of the close than `hold` waits for a person.",
        1.0,
        number=28,
        assets=_DAILY,
        parameters=MappingProxyType({"volume": 0.01, "hold": 0.05}),
    ),
    Rule(
        "row_count",
        Severity.WARN,
        Scope.HISTORY,
        "A session has as many bars as the median of the twenty before it, give or take this share, after listings "
        "and delistings.",
        0.3,
        number=38,
        assets=_BARS,
        parameters=MappingProxyType({"window": 20.0}),
    ),
    Rule(
        "cross_provider_close",
        Severity.WARN,
        Scope.PROVIDERS,
        "Two providers' closes differ by no more than the market's cross_check allows: less for closes of the same "
        "kind (auction or last trade), more for others.",
        number=26,
        assets=_DAILY,
    ),
    Rule(
        "cross_provider_volume",
        Severity.WARN,
        Scope.PROVIDERS,
        "Two providers' volumes differ by no more than the market's cross_check allows.",
        number=26,
        assets=_SHARES,
    ),
    Rule(
        "grid",
        Severity.BLOCK,
        Scope.MINUTES,
        "A bar begins a whole number of intervals after its phase's bell, by the exchange's clock.",
        number=8,
        assets=_MINUTES,
    ),
    Rule(
        "session_clock",
        Severity.BLOCK,
        Scope.MINUTES,
        "Regular bars lie between the day's bells, summer and winter and on half days: none begins before the opening "
        "or after the close, and no session lacks exactly its first or last hour, as one with a wrong clock does.",
        number=30,
        assets=_MINUTES,
    ),
    Rule(
        "intraday_completeness",
        Severity.WARN,
        Scope.MINUTES,
        "A whole session has at least this share of its regular bars where `liquid` shares change hands a bar. Any "
        "other symbol has at least `others` of its own usual number, less what chance takes away: how many bars a thin "
        "share has goes up and down with the day's volume, so that nine tenths of it would be wrong once in a hundred.",
        0.99,
        number=11,
        assets=_MINUTES,
        parameters=MappingProxyType({"others": 0.7, "liquid": 10_000.0}),
    ),
    Rule(
        "minute_outage",
        Severity.BLOCK,
        Scope.MINUTES,
        "No regular bar is missing for this share of the symbols that trade in nearly every one.",
        0.2,
        number=12,
        assets=_MINUTES,
    ),
    Rule(
        "intraday_freshness",
        Severity.BLOCK,
        Scope.MINUTES,
        "While the exchange trades, the newest bar is no older than the refresh cadence and so many minutes. Blocks "
        "when every symbol is late, warns when some are.",
        20.0,
        number=13,
        assets=_MINUTES,
    ),
    Rule(
        "roll_up",
        Severity.WARN,
        Scope.MINUTES,
        "The regular bars of a session agree with its daily bar: the last close to this share, high and low to "
        "`range`, the sum of volume to `volume` above it. The closing auction is in the daily bar only, so that ten "
        "hundredths of a percent would be too strict.",
        0.005,
        number=27,
        assets=_MINUTES,
        parameters=MappingProxyType({"range": 0.002, "volume": 0.05}),
    ),
    Rule(
        "split_without_jump",
        Severity.WARN,
        Scope.REFERENCE,
        "Where a split is known, traded prices jump by its ratio and adjusted prices do not.",
        0.25,
        number=21,
        assets=(ACTIONS,),
    ),
    Rule(
        "dividend_not_applied",
        Severity.WARN,
        Scope.REFERENCE,
        "A provider's prices that are adjusted for dividends step by each of them on its ex-date.",
        0.5,
        number=22,
        assets=(ACTIONS,),
    ),
    Rule(
        "adjusted_consistency",
        Severity.WARN,
        Scope.REFERENCE,
        "Between two sessions, a provider's adjusted close moves as the traded one does after known actions, to this "
        "share.",
        0.001,
        number=25,
        assets=(ACTIONS,),
    ),
    Rule(
        "currency",
        Severity.BLOCK,
        Scope.REFERENCE,
        "A listing's currency is known and stays the same.",
        number=24,
        assets=(INSTRUMENTS,),
    ),
    Rule(
        "symbol_continuity",
        Severity.WARN,
        Scope.REFERENCE,
        "A symbol keeps meaning the same company: its name does not change, and its price does not jump by more than "
        "this share across a gap in its bars.",
        0.5,
        number=39,
        assets=(INSTRUMENTS,),
        parameters=MappingProxyType({"gap": 20.0}),
    ),
    *LIVE_RULES,
)

RULE: Mapping[str, Rule] = MappingProxyType({rule.name: rule for rule in RULES})
