"""The rules of what is not a bar: quotes and trades of live streams, and options. Part of the list in `canon`.

Each tick is marked when it arrives, in `ticks`; here is how much of a session may be marked before somebody should
look. The functions behind the rules are in `streamed` and `chains`.
"""

from types import MappingProxyType

from market_pipelines.market.quality.rules import LIVE_QUOTES, LIVE_TRADES, OPTIONS, Rule, Scope, Severity

LIVE_RULES: tuple[Rule, ...] = (
    Rule(
        "crossed_quotes",
        Severity.WARN,
        Scope.STREAMED,
        "Of a session's quotes, all in all and of each symbol that has `least`, no more than this share is crossed "
        "(the bid above the ask), and no more than `wide` is fifty times as wide as usual. Quotes of extended hours "
        "are among them.",
        0.01,
        number=32,
        assets=(LIVE_QUOTES,),
        parameters=MappingProxyType({"wide": 0.05, "least": 100.0}),
    ),
    Rule(
        "quote_outliers",
        Severity.WARN,
        Scope.STREAMED,
        "Of a session's quotes, all in all and of each symbol that has `least`, no more than this share is more than "
        "ten usual deviations from the middle of those around it.",
        0.01,
        number=33,
        assets=(LIVE_QUOTES,),
        parameters=MappingProxyType({"least": 100.0}),
    ),
    Rule(
        "trade_outliers",
        Severity.WARN,
        Scope.STREAMED,
        "Of a session's trades, all in all and of each symbol that has `least`, no more than this share is further "
        "outside of the quote that stood than the quote is wide, or without one far from the trades around it.",
        0.02,
        number=34,
        assets=(LIVE_TRADES,),
        parameters=MappingProxyType({"least": 100.0}),
    ),
    Rule(
        "trade_conditions",
        Severity.WARN,
        Scope.STREAMED,
        "Of a session's trades, all in all and of each symbol that has `least`, no more than this share is corrected "
        "or cancelled, no more than `disorder` comes after a later one, and no more than `unpriced` has conditions by "
        "which it makes no price. Odd lots make none and are the half of all trades, so that only nearly all of them "
        "say that conditions are misread.",
        0.005,
        number=35,
        assets=(LIVE_TRADES,),
        parameters=MappingProxyType({"disorder": 0.01, "unpriced": 0.98, "least": 100.0}),
    ),
    Rule(
        "stream_gap",
        Severity.WARN,
        Scope.STREAMED,
        "Nothing of a session's hours, extended ones included, is missing for more than this many seconds after "
        "history was asked for it. A gap counts `patience` minutes after its end.",
        0.0,
        number=36,
        assets=(LIVE_QUOTES,),
        parameters=MappingProxyType({"patience": 15.0}),
    ),
    Rule(
        "latency",
        Severity.WARN,
        Scope.STREAMED,
        "Of a session's quotes and trades, all in all and of each symbol that has `least`, no more than `share` arrive "
        "later than this many seconds after they happened: 99 of 100 are quicker. What history filled in is not "
        "counted, and neither is what is polled.",
        2.0,
        number=37,
        assets=(LIVE_QUOTES, LIVE_TRADES),
        parameters=MappingProxyType({"share": 0.01, "least": 100.0}),
    ),
    Rule(
        "option_terms",
        Severity.WARN,
        Scope.CHAINS,
        "An option contract has a strike above zero and is not listed after it has expired.",
        0.0,
        number=40,
        assets=(OPTIONS,),
    ),
    Rule(
        "option_quotes",
        Severity.WARN,
        Scope.CHAINS,
        "An option is not quoted after it has expired, no price of it is below zero, nobody bids more than is asked, "
        "and nobody asks less than it is worth if exercised, to this share of the underlying's close of that day.",
        0.05,
        number=40,
        assets=(OPTIONS,),
    ),
    Rule(
        "option_strikes",
        Severity.WARN,
        Scope.CHAINS,
        "The calls and the puts of an expiry have the same strikes, save for this share of them, where both have any "
        "and there are `least`: a provider that leaves out strikes that hardly trade is no whole chain.",
        0.2,
        number=40,
        assets=(OPTIONS,),
        parameters=MappingProxyType({"least": 5.0}),
    ),
    Rule(
        "open_interest",
        Severity.WARN,
        Scope.CHAINS,
        "Of a day's chain that has `least` contracts with a word about open interest, more than this share of them "
        "has some: when all have none it is the feed.",
        0.0,
        number=40,
        assets=(OPTIONS,),
        parameters=MappingProxyType({"least": 20.0}),
    ),
)
