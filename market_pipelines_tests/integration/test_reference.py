"""Reference data from providers into the tables: failover, what is held back, and what is reconciled.

Most tests script what providers say, symbol by symbol; those at the end ask the simulator what its adapters say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any

import pytest

from market_pipelines.market.actions import ActionKind, Basis, CorporateAction
from market_pipelines.market.claims import Problem
from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import (
    Listed,
    OptionContract,
    Profile,
    Quote,
    Right,
    SymbolMatch,
    VenueStatus,
)
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.actions import ActionsPull, collect_actions, pull_actions
from market_pipelines.pipeline.listings import sync_listings
from market_pipelines.pipeline.memberships import store_memberships
from market_pipelines.pipeline.options import pull_options
from market_pipelines.pipeline.platform import Platform
from market_pipelines.pipeline.profiles import pull_profiles
from market_pipelines.pipeline.quotes import pull_quotes
from market_pipelines.pipeline.refresh import instruments_of
from market_pipelines.pipeline.results import new_run_id
from market_pipelines.pipeline.search import search_symbols
from market_pipelines.pipeline.venue_status import contradictions, pull_venue_status
from market_pipelines.providers.http import HttpClient
from market_pipelines.providers.protocol import (
    Ability,
    Answer,
    Call,
    Capability,
    DailyQuery,
    Parsed,
)
from market_pipelines.store.claims import read_flags
from market_pipelines.store.listings import read_bearers
from market_pipelines.store.options import read_options
from market_pipelines.store.profiles import read_profiles
from market_pipelines.store.quotes import read_quotes
from market_pipelines.store.reference import read_actions, read_index_members
from market_pipelines.store.venues import read_holidays
from market_pipelines_tests.faults.house import THURSDAY_EVENING, House

pytestmark = pytest.mark.usefixtures("settings_of_this_machine_are_out_of_sight")

NOT_FOUND = Parsed(Outcome.UNKNOWN_SYMBOL, "never heard of it")
NO_KEY = Parsed(Outcome.NOT_ENTITLED, "a premium plan is needed")
DOWN = Parsed(Outcome.CHALLENGE, "a page for browsers")
SINCE = date(2019, 1, 2)
SPLIT = CorporateAction("AAPL", date(2020, 8, 31), ActionKind.SPLIT, 4.0)
DIVIDEND = CorporateAction("AAPL", date(2020, 8, 7), ActionKind.DIVIDEND, 0.82)


class SilentHttp(HttpClient):
    """Nobody is there; every answer arrives and is empty. What it means is in the script."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        super().__init__()
        self._clock = clock

    def get(self, call: Call) -> Answer:
        headers = {"x-simulated-by": "market_pipelines"}
        return Answer(200, b"", headers, self._clock(), 0.0, endpoint=call.endpoint)


@dataclass
class Scripted:
    """A provider that says what a test wrote down for it."""

    name: str
    script: dict[Capability, Callable[[Any], Parsed]] = field(default_factory=dict)
    most: int = 100
    asked: list[tuple[Capability, Any]] = field(default_factory=list)
    basis: Basis = Basis.TRADED

    @property
    def abilities(self) -> Mapping[Capability, Ability]:
        return {capability: self._ability(capability) for capability in self.script}

    def _ability(self, capability: Capability) -> Ability:
        def call(question: Any) -> Call:
            self.asked.append((capability, question))
            return Call(self.name, capability.value, f"http://nobody/{self.name}")

        return Ability(call, lambda _, question: self.script[capability](question), most=self.most)

    def covers(self, instrument: Instrument) -> bool:
        return instrument.mic == "XNYS"

    def native_symbol(self, instrument: Instrument) -> str:
        return instrument.symbol

    def canonical_symbol(self, native: str, mic: str) -> str:  # noqa: ARG002 (the protocol's)
        return native

    def ready(self) -> str:
        return ""

    def daily_call(self, query: DailyQuery) -> Call:
        raise NotImplementedError

    def parse_daily(self, answer: Answer, query: DailyQuery) -> Parsed:
        raise NotImplementedError


@pytest.fixture
def platform(house: House) -> Iterator[Platform]:
    """The house with nobody behind its providers."""
    with SilentHttp(house.clock) as http:
        yield replace(house.platform, http=http)


@pytest.fixture
def us(house: House) -> MarketDefinition:
    return house.platform.market("us")


def quotes(*known: Quote) -> Callable[[Any], Parsed]:
    by_symbol = {one.symbol: one for one in known}

    def answer(question: Any) -> Parsed:
        found = tuple(by_symbol[one.symbol] for one in question.instruments if one.symbol in by_symbol)
        return Parsed(Outcome.OK, records=found) if found else NOT_FOUND

    return answer


def always(parsed: Parsed) -> Callable[[Any], Parsed]:
    return lambda _: parsed


def symbols_asked(provider: Scripted) -> list[tuple[str, list[str]]]:
    return [(str(capability), [one.symbol for one in asked.instruments]) for capability, asked in provider.asked]


# --- quotes -------------------------------------------------------------------------------------------------


def test_quotes_are_asked_in_bulk_and_the_next_provider_is_asked_for_the_rest(
    platform: Platform, us: MarketDefinition
) -> None:
    first = Scripted("yahoo", {Capability.BULK_QUOTES: quotes(Quote("AAPL", 1.0, None), Quote("IBM", 2.0, None))})
    second = Scripted("polygon", {Capability.QUOTE: quotes(Quote("KO", 3.0, None), Quote("AAPL", 9.0, None))})
    wanted = instruments_of(us, ["AAPL", "KO", "IBM"])
    report = pull_quotes(platform, us, wanted, run_id=new_run_id(), providers=[first, second])
    assert {
        one.symbol: (one.latest.quote.price, one.latest.provider) for one in report.symbols if one.latest is not None
    } == {"AAPL": (1.0, "simulated-yahoo"), "KO": (3.0, "simulated-polygon"), "IBM": (2.0, "simulated-yahoo")}
    assert symbols_asked(first) == [("bulk_quotes", ["AAPL", "KO", "IBM"])]
    assert symbols_asked(second) == [("quote", ["KO"])]
    assert (report.requests, report.written) == (2, 3)


def test_a_bulk_call_names_no_more_symbols_than_the_provider_takes(platform: Platform, us: MarketDefinition) -> None:
    names = ["AAPL", "KO", "IBM", "GE", "BA"]
    provider = Scripted("yahoo", {Capability.BULK_QUOTES: quotes(*(Quote(name, 1.0, None) for name in names))}, most=2)
    pull_quotes(platform, us, instruments_of(us, names), run_id=new_run_id(), providers=[provider])
    assert [asked for _, asked in symbols_asked(provider)] == [["AAPL", "KO"], ["IBM", "GE"], ["BA"]]


def test_bulk_quotes_that_cost_extra_are_asked_one_by_one(platform: Platform, us: MarketDefinition) -> None:
    provider = Scripted(
        "alpha_vantage",
        {Capability.BULK_QUOTES: always(NO_KEY), Capability.QUOTE: quotes(Quote("AAPL", 1.0, None))},
    )
    report = pull_quotes(platform, us, instruments_of(us, ["AAPL", "NOPE"]), run_id=new_run_id(), providers=[provider])
    assert [one.outcome for one in report.symbols] == [Outcome.OK, Outcome.NOT_ENTITLED]
    assert symbols_asked(provider) == [("bulk_quotes", ["AAPL", "NOPE"]), ("quote", ["AAPL"]), ("quote", ["NOPE"])]


def test_what_an_answer_in_bulk_passes_over_is_not_asked_for_singly(platform: Platform, us: MarketDefinition) -> None:
    known = quotes(Quote("AAPL", 1.0, None))
    provider = Scripted("yahoo", {Capability.BULK_QUOTES: known, Capability.QUOTE: known})
    report = pull_quotes(platform, us, instruments_of(us, ["AAPL", "NOPE"]), run_id=new_run_id(), providers=[provider])
    assert [one.outcome for one in report.symbols] == [Outcome.OK, Outcome.UNKNOWN_SYMBOL]
    assert symbols_asked(provider) == [("bulk_quotes", ["AAPL", "NOPE"])]


def test_a_quote_that_cannot_be_is_made_up_for_by_the_next_provider(platform: Platform, us: MarketDefinition) -> None:
    crossed = Scripted("yahoo", {Capability.QUOTE: quotes(Quote("AAPL", 1.0, None, bid=2.0, ask=1.0))})
    sound = Scripted("polygon", {Capability.QUOTE: quotes(Quote("AAPL", 1.5, None))})
    wanted = instruments_of(us, ["AAPL"])
    (one,) = pull_quotes(platform, us, wanted, run_id=new_run_id(), providers=[crossed, sound]).symbols
    assert (one.outcome, one.latest and one.latest.quote.price) == (Outcome.OK, 1.5)
    (alone,) = pull_quotes(platform, us, wanted, run_id=new_run_id(), providers=[crossed]).symbols
    assert (alone.outcome, alone.reason) == (Outcome.MALFORMED, "yahoo: the bid 2 is above the ask 1")


def test_an_older_quote_of_another_provider_does_not_replace_a_newer_one(
    platform: Platform, us: MarketDefinition
) -> None:
    now = platform.clock()
    newer = Scripted("yahoo", {Capability.QUOTE: quotes(Quote("AAPL", 2.0, now - timedelta(minutes=1)))})
    older = Scripted("alpha_vantage", {Capability.QUOTE: quotes(Quote("AAPL", 1.0, None, session=date(2025, 6, 11)))})
    for provider in (newer, older):
        pull_quotes(platform, us, instruments_of(us, ["AAPL"]), run_id=new_run_id(), providers=[provider])
    with platform.database.connection() as connection:
        (kept,) = read_quotes(connection, "us")
    assert (kept.quote.price, kept.provider) == (2.0, "simulated-yahoo")


def test_who_is_not_covered_is_not_asked(platform: Platform) -> None:
    pl = platform.market("pl")
    provider = Scripted("yahoo", {Capability.QUOTE: quotes(Quote("PKO", 1.0, None))})
    (one,) = pull_quotes(platform, pl, instruments_of(pl, ["PKO"]), run_id=new_run_id(), providers=[provider]).symbols
    assert (one.outcome, one.requests, provider.asked) == (Outcome.NOT_ENTITLED, 0, [])


# --- profiles, options, search ------------------------------------------------------------------------------


def test_profiles_fail_over_by_symbol_and_are_not_asked_for_again_too_soon(
    platform: Platform, us: MarketDefinition
) -> None:
    def of(*names: str) -> Callable[[Any], Parsed]:
        return lambda question: (
            Parsed(Outcome.OK, records=(Profile(question.instrument.symbol, "A company", sector="Technology"),))
            if question.instrument.symbol in names
            else NOT_FOUND
        )

    first, second = (
        Scripted("yahoo", {Capability.PROFILE: of("AAPL")}),
        Scripted("polygon", {Capability.PROFILE: of("KO")}),
    )
    wanted = instruments_of(us, ["AAPL", "KO", "^SPX"])
    report = pull_profiles(platform, us, wanted, run_id=new_run_id(), providers=[first, second])
    assert {symbol: delivered.outcome for symbol, delivered in report.symbols.items()} == {
        "AAPL": Outcome.OK,
        "KO": Outcome.OK,
    }
    assert [asked.instrument.symbol for _, asked in second.asked] == ["KO"]
    with platform.database.connection() as connection:
        stored = {one.profile.symbol: one.provider for one in read_profiles(connection, "us")}
    assert stored == {"AAPL": "simulated-yahoo", "KO": "simulated-polygon"}
    again = pull_profiles(
        platform, us, wanted, run_id=new_run_id(), providers=[first, second], fresh_for=timedelta(days=1)
    )
    assert (again.skipped, again.symbols) == (("AAPL", "KO"), {})


def test_contracts_that_cannot_be_are_refused_and_the_others_kept(platform: Platform, us: MarketDefinition) -> None:
    good = OptionContract("A1", "AAPL", Right.CALL, 200.0, date(2025, 7, 18), bid=1.0, ask=1.1)
    expired, crossed = replace(good, native="A2", expires=date(2025, 6, 11)), replace(good, native="A3", bid=2.0)
    provider = Scripted("polygon", {Capability.OPTIONS: always(Parsed(Outcome.OK, records=(good, expired, crossed)))})
    (chain,) = pull_options(platform, us, instruments_of(us, ["AAPL"]), run_id=new_run_id(), providers=[provider])
    assert chain.contracts == (good,)
    assert [native for native, _ in chain.refused] == ["A2", "A3"]
    with platform.database.connection() as connection:
        assert read_options(connection, "us", "AAPL") == [replace(good, quoted_on=date(2025, 6, 12))]


def test_an_underlying_without_options_is_an_answer(platform: Platform, us: MarketDefinition) -> None:
    none = Scripted("yahoo", {Capability.OPTIONS: always(Parsed(Outcome.EMPTY_EXPECTED))})
    unasked = Scripted("polygon", {Capability.OPTIONS: always(NOT_FOUND)})
    (chain,) = pull_options(platform, us, instruments_of(us, ["AAPL"]), run_id=new_run_id(), providers=[none, unasked])
    assert (chain.delivered.outcome, chain.contracts, unasked.asked) == (Outcome.EMPTY_EXPECTED, (), [])


def test_a_search_asks_the_next_when_one_is_down(platform: Platform, us: MarketDefinition) -> None:
    matches = (SymbolMatch("APLE", "Apple Hospitality", "equity", "NYSE", score=0.4),
               SymbolMatch("AAPL", "Apple Inc.", "equity", "NASDAQ", score=0.9))  # fmt: skip
    down, up = (
        Scripted("yahoo", {Capability.SEARCH: always(DOWN)}),
        Scripted("alpha_vantage", {Capability.SEARCH: always(Parsed(Outcome.OK, records=matches))}),
    )
    report = search_symbols(platform, us, "apple", run_id=new_run_id(), providers=[down, up])
    assert [one.native for one in report.matches] == ["AAPL", "APLE"]
    assert [attempt.outcome for attempt in report.delivered.attempts] == [Outcome.CHALLENGE, Outcome.OK]


# --- listings -----------------------------------------------------------------------------------------------


def listed(symbol: str, **more: Any) -> Listed:
    return Listed(symbol, symbol, f"Company {symbol}", "NYSE", "equity", more.pop("active", True), **more)


def of_lists(active: Sequence[Listed], delisted: Sequence[Listed] = ()) -> Callable[[Any], Parsed]:
    return lambda question: Parsed(Outcome.OK, records=tuple(active if question.active else delisted))


def active(platform: Platform) -> set[str]:
    with platform.database.connection() as connection:
        return {one.symbol for one in read_bearers(connection, "us") if one.active}


def test_a_short_list_delists_nobody_and_says_so(platform: Platform, us: MarketDefinition) -> None:
    everybody = [listed(f"X{n}") for n in range(50)]
    for lines in (everybody, [*everybody[:40], listed("NEW")]):
        provider = Scripted("polygon", {Capability.LISTINGS: of_lists(lines)})
        report = sync_listings(platform, us, run_id=new_run_id(), providers=[provider])
    assert report.changes.held == "10 of 50 listed companies are lacking at once, which is more than 10%"
    assert active(platform) == {one.symbol for one in everybody} | {"NEW"}


def test_a_failed_answer_leaves_everything_as_it_was(platform: Platform, us: MarketDefinition) -> None:
    full = Scripted("polygon", {Capability.LISTINGS: of_lists([listed("KO"), listed("GE")])})
    sync_listings(platform, us, run_id=new_run_id(), providers=[full])
    down = Scripted("polygon", {Capability.LISTINGS: always(DOWN)})
    report = sync_listings(platform, us, run_id=new_run_id(), providers=[down])
    assert (report.delivered.outcome, report.listed) == (Outcome.CHALLENGE, 0)
    assert active(platform) == {"KO", "GE"}


def test_a_delisting_has_the_day_of_the_providers_other_list(platform: Platform, us: MarketDefinition) -> None:
    ended = listed("GE", active=False, delisted_on=date(2025, 6, 6))
    for lines, delisted in (([listed("KO"), listed("GE")], []), ([listed("KO")], [ended])):
        provider = Scripted("polygon", {Capability.LISTINGS: of_lists(lines, delisted)})
        report = sync_listings(platform, us, run_id=new_run_id(), providers=[provider])
    assert [(gone.bearer.symbol, gone.last_day) for gone in report.changes.gone] == [("GE", date(2025, 6, 6))]
    assert report.followed_gone == ("GE",)
    assert [question.active for _, question in provider.asked] == [True, False]


# --- venues -------------------------------------------------------------------------------------------------


def test_what_a_provider_says_of_holidays_is_compared_with_the_calendar(
    platform: Platform, us: MarketDefinition
) -> None:
    right = VenueStatus("NYSE", "closed", date(2025, 7, 4), note="Independence Day")
    short = VenueStatus("NYSE", "early_close", date(2025, 7, 3))
    wrong = VenueStatus("NYSE", "closed", date(2025, 7, 7))
    provider = Scripted(
        "polygon", {Capability.MARKET_STATUS: always(Parsed(Outcome.OK, records=(right, short, wrong)))}
    )
    report = pull_venue_status(platform, us, run_id=new_run_id(), upcoming=True, providers=[provider])
    assert report.contradictions == ("NYSE: closed on 2025-07-07, and the calendar XNYS has a session",)
    assert report.calendar.status == "closed"
    with platform.database.connection() as connection:
        assert [one for _, one in read_holidays(connection, "us", date(2025, 6, 12))] == [short, right, wrong]


@pytest.mark.parametrize(
    ("status", "day", "said"),
    [
        ("early_close", date(2025, 7, 8), "has a whole session"),
        ("early_close", date(2025, 7, 5), "has no session"),
        ("early_close", date(2025, 11, 28), ""),
        ("closed", date(2025, 12, 25), ""),
        ("closed", date(1980, 1, 2), ""),
    ],
)
def test_a_contradiction_is_told_in_words(status: str, day: date, said: str) -> None:
    found = contradictions([VenueStatus("NYSE", status, day)], trading_calendar("XNYS", THURSDAY_EVENING))
    assert [said in line for line in found] == ([True] if said else [])


# --- corporate actions --------------------------------------------------------------------------------------


def acting(name: str, *actions: CorporateAction, complete: bool = True) -> Scripted:
    parsed = Parsed(Outcome.OK, actions=actions, actions_known=complete)
    return Scripted(name, {Capability.ACTIONS: always(parsed)})


def pulled(platform: Platform, us: MarketDefinition, *providers: Scripted) -> ActionsPull:
    return pull_actions(platform, us, instruments_of(us, ["AAPL"]), SINCE, run_id=new_run_id(), providers=providers)


def agreed(platform: Platform) -> list[CorporateAction]:
    with platform.database.connection() as connection:
        return read_actions(connection, "us")


def test_a_split_that_one_provider_alone_shows_is_flagged_until_the_other_has_it(
    platform: Platform, us: MarketDefinition
) -> None:
    report = pulled(platform, us, acting("yahoo", SPLIT, DIVIDEND), acting("polygon", DIVIDEND))
    assert [(flag.ex_date, flag.problem, flag.used) for flag in report.flags] == [
        (SPLIT.ex_date, Problem.UNCONFIRMED, True)
    ]
    assert report.flags[0].denied_by == ("simulated-polygon",)
    assert agreed(platform) == [DIVIDEND, SPLIT]
    later = pulled(platform, us, acting("yahoo", SPLIT, DIVIDEND), acting("polygon", SPLIT, DIVIDEND))
    assert later.flags == ()
    with platform.database.connection() as connection:
        assert read_flags(connection, "us") == []


def test_the_same_answers_again_change_nothing(platform: Platform, us: MarketDefinition) -> None:
    providers = acting("yahoo", SPLIT, replace(DIVIDEND, value=0.8200001)), acting("polygon", SPLIT, DIVIDEND)
    first, second = pulled(platform, us, *providers), pulled(platform, us, *reversed(providers))
    assert (first.counts.inserted, second.counts.changed, second.counts.unchanged) == (2, 0, 2)


def test_an_answer_with_some_of_the_actions_denies_nothing(platform: Platform, us: MarketDefinition) -> None:
    report = pulled(platform, us, acting("yahoo", SPLIT, DIVIDEND), acting("polygon", DIVIDEND, complete=False))
    assert report.flags == ()


def test_a_provider_that_fails_withdraws_nothing(platform: Platform, us: MarketDefinition) -> None:
    pulled(platform, us, acting("yahoo", SPLIT))
    down = Scripted("yahoo", {Capability.ACTIONS: always(DOWN)})
    assert pulled(platform, us, down).symbols["AAPL"].outcome is Outcome.CHALLENGE
    assert agreed(platform) == [SPLIT]


def test_what_a_provider_takes_back_goes_unless_another_says_it_too(platform: Platform, us: MarketDefinition) -> None:
    pulled(platform, us, acting("yahoo", SPLIT, DIVIDEND), acting("polygon", SPLIT))
    report = pulled(platform, us, acting("yahoo"))
    assert report.counts.removed == 2
    assert [(flag.kind, flag.used, flag.claimed_by) for flag in report.flags] == [
        (ActionKind.SPLIT, False, ("simulated-polygon",))
    ]
    pulled(platform, us, acting("alpha_vantage", SPLIT))
    assert agreed(platform) == [SPLIT]


# --- the simulator's own world ------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["yahoo", "alpha_vantage", "polygon"])
def test_each_providers_quote_is_what_last_traded(house: House, us: MarketDefinition, provider: str) -> None:
    providers = [house.platform.providers[provider]]
    report = pull_quotes(
        house.platform, us, instruments_of(us, ["AAPL", "BRK.B", "NOPE"]), run_id=new_run_id(), providers=providers
    )
    outcomes = {one.symbol: one.outcome for one in report.symbols}
    assert outcomes == {"AAPL": Outcome.OK, "BRK.B": Outcome.OK, "NOPE": Outcome.UNKNOWN_SYMBOL}
    for one in report.symbols[:2]:
        assert one.latest is not None
        assert one.latest.quote.price == pytest.approx(house.truth(one.symbol)["close"].iloc[-1], rel=0.02)
        assert one.latest.provider == f"simulated-{provider}"


def test_the_next_provider_quotes_when_the_first_is_down(house: House, us: MarketDefinition) -> None:
    house.simulator.faults.replace(["yahoo.status=503"])
    (one,) = pull_quotes(house.platform, us, instruments_of(us, ["AAPL"]), run_id=new_run_id()).symbols
    assert one.outcome is Outcome.OK
    assert one.latest is not None
    assert one.latest.provider != "simulated-yahoo"


@pytest.mark.parametrize("provider", ["yahoo", "alpha_vantage", "polygon"])
def test_each_providers_profile_is_stored(house: House, us: MarketDefinition, provider: str) -> None:
    pull_profiles(
        house.platform,
        us,
        instruments_of(us, ["AAPL"]),
        run_id=new_run_id(),
        providers=[house.platform.providers[provider]],
    )
    with house.platform.database.connection() as connection:
        (stored,) = read_profiles(connection, "us")
    assert (stored.profile.name, stored.provider) == ("Apple Inc.", f"simulated-{provider}")


@pytest.mark.parametrize("provider", ["yahoo", "alpha_vantage", "polygon"])
def test_each_providers_actions_are_the_true_ones(house: House, us: MarketDefinition, provider: str) -> None:
    report = pull_actions(
        house.platform,
        us,
        instruments_of(us, ["AAPL"]),
        SINCE,
        run_id=new_run_id(),
        providers=[house.platform.providers[provider]],
    )
    assert report.flags == ()
    true = sorted(one for one in house.actions("AAPL") if SINCE <= one.ex_date <= house.clock().date())
    found = sorted(agreed(house.platform))
    assert [(one.ex_date, one.kind) for one in found] == [(one.ex_date, one.kind) for one in true]
    assert [one.value for one in found] == pytest.approx([one.value for one in true], rel=2e-3)


def test_the_actions_of_a_pull_and_of_every_other_provider_agree(house: House, us: MarketDefinition) -> None:
    house.refresh(["AAPL", "KO"], date(2020, 8, 3), date(2020, 9, 30))
    before = agreed(house.platform)
    report = pull_actions(house.platform, us, instruments_of(us, ["AAPL", "KO"]), date(2020, 8, 3), run_id=new_run_id())
    assert report.flags == ()
    assert set(before) <= set(agreed(house.platform))
    assert {attempt.house_provider for one in report.symbols.values() for attempt in one.attempts} == {
        "yahoo",
        "alpha_vantage",
        "polygon",
    }
    again = collect_actions(house.platform, us, instruments_of(us, ["AAPL", "KO"]), None)
    assert (again.counts.changed, again.flags) == (0, ())


@pytest.mark.parametrize("provider", ["alpha_vantage", "polygon"])
def test_a_whole_list_is_stored_and_the_second_changes_nothing(
    house: House, us: MarketDefinition, provider: str
) -> None:
    providers = [house.platform.providers[provider]]
    first = sync_listings(house.platform, us, run_id=new_run_id(), providers=providers)
    second = sync_listings(house.platform, us, run_id=new_run_id(), providers=providers)
    assert first.listed > 50
    assert first.changes.refused == ()
    assert len(first.changes.new) == second.changes.unchanged == len(first.changes.named)
    assert (second.changes.new, second.changes.gone, second.changes.changed) == ((), (), ())
    assert {"AAPL", "BRK.B"} <= active(house.platform)


@pytest.mark.parametrize("provider", ["yahoo", "polygon"])
def test_an_option_chain_is_filtered_by_expiry_and_right(house: House, us: MarketDefinition, provider: str) -> None:
    today = house.clock().date()
    (chain,) = pull_options(
        house.platform,
        us,
        instruments_of(us, ["AAPL"]),
        run_id=new_run_id(),
        expires_from=today,
        expires_to=today + timedelta(days=40),
        right=Right.PUT,
        providers=[house.platform.providers[provider]],
    )
    assert chain.contracts
    assert {one.right for one in chain.contracts} == {Right.PUT}
    assert all(today <= one.expires <= today + timedelta(days=40) for one in chain.contracts)
    assert chain.refused == ()


def test_a_search_finds_a_company_by_its_name(house: House, us: MarketDefinition) -> None:
    report = search_symbols(house.platform, us, "Microsoft", run_id=new_run_id())
    assert "MSFT" in [one.native for one in report.matches]


def test_the_simulators_holidays_are_those_of_the_calendar(house: House, us: MarketDefinition) -> None:
    report = pull_venue_status(house.platform, us, run_id=new_run_id(), upcoming=True)
    assert report.delivered.outcome is Outcome.OK
    assert report.contradictions == ()


# --- index members ------------------------------------------------------------------------------------------


def test_the_shipped_lists_become_index_members(house: House) -> None:
    for name in ("us", "pl"):
        reports = store_memberships(house.platform, house.platform.market(name))
        again = store_memberships(house.platform, house.platform.market(name))
        assert all(report.counts.inserted == len(report.universe.members) for report in reports)
        assert all(report.counts.changed == 0 for report in again)
    with house.platform.database.connection() as connection:
        assert len(read_index_members(connection, "us", "^SPX", date(2026, 8, 8))) == 503
        assert len(read_index_members(connection, "pl", "WIG20", date(2026, 3, 23))) == 20
        assert "TWTR" in read_index_members(connection, "us", "^SPX", date(2020, 6, 1))
