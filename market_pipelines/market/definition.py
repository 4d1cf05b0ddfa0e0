"""What a market is: its exchange, its instruments, the providers that serve it, and when it is refreshed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

from market_pipelines.market.instruments import Instrument


class UnknownSymbol(Exception):
    """The market does not list that symbol."""


@dataclass(frozen=True, slots=True)
class IntradayPlan:
    """What is kept of a market's trading within its sessions."""

    interval: str = "5min"
    """The stored one; longer ones are computed from it."""
    extended: bool = False
    """Before the opening and after the closing bell as well."""
    every_minutes: int = 15
    """How often the running session is asked for while the exchange trades."""


@dataclass(frozen=True, slots=True)
class Cadence:
    """When a market is refreshed, besides the minutes after its close."""

    daily_cron: str | None = None
    """A fixed time in UTC at which the daily bars are fetched, in place of the time after the close."""
    weekly_cron: str = "0 8 * * 0"
    """By the exchange's clock: a week's bars and all reference data once more."""
    weekly_sessions: int = 10
    """How many sessions the weekly refresh asks for."""
    catch_up_sessions: int = 20
    """How far back a scheduler that was off goes to find the first session it missed."""


@dataclass(frozen=True, slots=True)
class PollingPlan:
    """The bounds of the market's polling sensors; none of them runs until a person turns it on."""

    minutes: int = 5
    shortest_minutes: int = 1
    longest_minutes: int = 30


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """How holes are asked for again."""

    window_sessions: int = 60
    """A hole is looked for among so many of the last sessions."""
    symbols_a_run: int = 25
    """The budget: what is left waits for the next run."""
    again_hours: float = 1.0
    """After which a hole that was just seen is asked for."""
    confirmed_days: float = 7.0
    """After which one that was asked for in vain is asked for again."""
    outage_share: float = 0.2
    """A session that so much of the market lacks is one incident, not many holes."""


@dataclass(frozen=True, slots=True)
class QualityPlan:
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """By the name of a rule, in place of its own."""
    off: frozenset[str] = frozenset()
    """Rules that this market does without."""


@dataclass(frozen=True, slots=True)
class CrossCheckPlan:
    """What a second provider is asked for, to be compared with the first."""

    symbols_a_day: int = 3
    same_close_bp: float = 10.0
    """Closes of the same kind may differ by so many hundredths of a percent."""
    other_close_bp: float = 50.0
    volume_share: float = 0.05


@dataclass(frozen=True, slots=True)
class StreamSetup:
    """What is streamed of a market where nobody says otherwise."""

    feed: str
    """A `streaming.plan.FeedName`."""
    channels: tuple[str, ...] = ("quotes", "trades", "minutes")
    """`streaming.plan.Channel`s, of feeds that have any."""
    every_seconds: float = 30.0
    """Of feeds that ask again and again."""

    @property
    def tells_trades(self) -> bool:
        """Whether the market's own feed tells single trades."""
        return self.feed == "polygon" and "trades" in self.channels


@dataclass(frozen=True, slots=True)
class MarketDefinition:
    name: str
    title: str
    mic: str
    currency: str
    since: date
    """Older sessions are not kept for this market."""
    providers: tuple[str, ...]
    """Who is asked, the first one first."""
    instruments: tuple[Instrument, ...]
    indices: tuple[Instrument, ...]
    owners: tuple[str, ...]
    minutes_after_close: int
    """How long after the bell the day's bars are expected to be final."""
    correction_sessions: int = 3
    """How many of the last sessions a refresh asks for again, because providers correct themselves."""
    intraday: IntradayPlan | None = None
    """None: only daily bars are kept."""
    cadence: Cadence = Cadence()
    polling: PollingPlan = PollingPlan()
    repair: RepairPlan = RepairPlan()
    quality: QualityPlan = QualityPlan()
    cross_check: CrossCheckPlan = CrossCheckPlan()
    stream: StreamSetup | None = None
    """None: it is streamed only where somebody names a feed."""

    @property
    def everything(self) -> tuple[Instrument, ...]:
        return self.instruments + self.indices

    def instrument(self, symbol: str) -> Instrument:
        for instrument in self.everything:
            if instrument.symbol == symbol:
                return instrument
        raise UnknownSymbol(f"{symbol} is not listed in market {self.name}")
