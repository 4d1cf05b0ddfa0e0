"""When a hole is asked for again, and that it never becomes a storm."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_pipelines.market.definition import RepairPlan
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.repair import (
    WHOLE_MARKET,
    Ask,
    Cause,
    Hole,
    Key,
    Lack,
    Survey,
    Voice,
    again,
    asked_in_vain,
    asks,
    cause_of,
    confirmed,
    outstanding,
    survey,
)

START = datetime(2026, 3, 2, 22, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PLAN = RepairPlan()
MONDAY = date(2026, 2, 23)


def session(number: int) -> date:
    return MONDAY + timedelta(days=number)


def symbols(count: int) -> list[str]:
    return [f"S{number:03}" for number in range(count)]


@dataclass
class Market:
    """A market in memory: who lacks what, the ledger, and how providers answer."""

    size: int
    holes: set[Key]
    delivers: set[Key] = field(default_factory=set)
    plan: RepairPlan = PLAN
    answers: bool = True
    ledger: dict[Key, Hole] = field(default_factory=dict)
    asked: list[tuple[datetime, str, tuple[date, ...]]] = field(default_factory=list)
    voices: dict[date, list[Voice]] = field(default_factory=dict)

    def lacks(self) -> list[Lack]:
        sessions = sorted({day for _, day in self.holes})
        return [
            Lack(day, self.size, frozenset(symbol for symbol, other in self.holes if other == day)) for day in sessions
        ]

    def look(self, now: datetime) -> Survey:
        for key in [key for key in self.ledger if key[0] != WHOLE_MARKET and key not in self.holes]:
            del self.ledger[key]
        found = survey(self.lacks(), list(self.ledger.values()), self.plan, now, self.voices)
        self.ledger |= {row.key: row for row in (*found.new, *found.changed)}
        for row in found.ended:
            self.ledger.pop(row.key, None)
        return found

    def run(self, now: datetime, budget: int | None = None) -> tuple[Ask, ...]:
        """One repair: as the use case does it, with memory for a store."""
        found = self.look(now)
        chosen = asks(found, now, self.plan.symbols_a_run if budget is None else budget)
        for one in chosen:
            self.asked.append((now, one.symbol, one.sessions))
            for day in one.sessions:
                self._ask(found, (one.symbol, day), now)
        after = self.look(now)
        assert all(outstanding(after, incident, now) for incident in after.incidents if incident.due(now))
        return chosen

    def _ask(self, found: Survey, key: Key, now: datetime) -> None:
        day = key[1]
        before = self.voices.get(day, [Voice("yahoo", 0, 0, Outcome.OK)])[0]
        outcome = Outcome.OK if self.answers else Outcome.UNAVAILABLE
        self.voices[day] = [Voice("yahoo", before.asked + 1, before.answered + self.answers, outcome)]
        if self.answers and key in self.delivers:
            self.holes.discard(key)
            return
        incident = next((one for one in found.incidents if one.session == day), None)
        if incident is not None and not self.answers:
            row = asked_in_vain(incident, incident.key, self.plan, now, answered=False)
        else:
            row = asked_in_vain(
                self.ledger.get(key),
                key,
                self.plan,
                now,
                answered=self.answers,
                seen=incident.first_seen if incident else None,
            )
        self.ledger[row.key] = row


def lone_holes(*keys: Key, size: int = 50, **more: object) -> Market:
    return replace(Market(size, set(keys)), **more)  # type: ignore[arg-type]


# --- one hole -------------------------------------------------------------------------------------------------


def test_a_hole_is_asked_for_an_hour_after_it_was_seen_then_confirmed_then_left_for_a_week() -> None:
    key = ("AAPL", session(0))
    market = lone_holes(key)
    assert market.run(START) == ()
    assert market.run(START + HOUR - timedelta(seconds=1)) == ()
    assert [one.symbol for one in market.run(START + HOUR)] == ["AAPL"]
    row = market.ledger[key]
    assert (row.times_asked, row.confirmed_at) == (1, START + HOUR)
    assert row.next_ask == START + HOUR + 7 * DAY
    assert market.run(START + 7 * DAY) == ()
    assert len(market.run(START + 7 * DAY + HOUR)) == 1
    assert market.ledger[key].confirmed_at == START + HOUR, "confirmed is confirmed"


def test_a_hole_that_is_filled_is_forgotten_and_one_that_comes_back_begins_anew() -> None:
    key = ("AAPL", session(0))
    market = lone_holes(key, delivers={key})
    market.run(START)
    market.run(START + HOUR)
    assert (market.holes, market.ledger) == (set(), {})
    market.holes.add(key)
    assert market.run(START + 2 * HOUR) == ()
    assert market.ledger[key].first_seen == START + 2 * HOUR


def test_a_provider_that_says_nothing_confirms_nothing_and_is_asked_less_and_less() -> None:
    key = ("AAPL", session(0))
    market = lone_holes(key, answers=False)
    market.run(START)
    waits = []
    now = START + HOUR
    for _ in range(12):
        market.run(now)
        row = market.ledger[key]
        assert row.confirmed_at is None
        waits.append(row.next_ask - now)
        now = row.next_ask
    assert waits[:5] == [HOUR, 2 * HOUR, 4 * HOUR, 8 * HOUR, 16 * HOUR]
    assert waits[-1] == 7 * DAY


def test_what_a_limit_kept_back_counts_as_not_asked() -> None:
    key = ("AAPL", session(0))
    row = Hole(symbol="AAPL", session=session(0), cause=Cause.HOLE, first_seen=START, next_ask=START + HOUR)
    after = asked_in_vain(row, key, PLAN, START + HOUR, answered=False, sent=False)
    assert (after.times_asked, after.last_asked, after.next_ask) == (0, None, START + 2 * HOUR)


def test_the_due_holes_of_a_symbol_are_one_question() -> None:
    market = lone_holes(("AAPL", session(0)), ("AAPL", session(9)), ("MSFT", session(4)))
    market.run(START)
    chosen = market.run(START + HOUR)
    assert [(one.symbol, one.span) for one in chosen] == [
        ("AAPL", (session(0), session(9))),
        ("MSFT", (session(4), session(4))),
    ]


def test_the_oldest_due_goes_first_and_equal_ones_by_name() -> None:
    market = lone_holes(("ZZZ", session(0)))
    market.run(START)
    market.holes |= {("BBB", session(1)), ("AAA", session(2))}
    market.run(START + HOUR / 2)
    assert [one.symbol for one in market.run(START + 2 * HOUR, budget=2)] == ["ZZZ", "AAA"]
    assert [one.symbol for one in market.run(START + 2 * HOUR, budget=2)] == ["BBB"]


# --- a whole session ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lacking", "size", "incident"),
    [(1, 1, False), (1, 2, False), (2, 2, True), (1, 5, False), (2, 10, True), (9, 50, False), (10, 50, True)],
)
def test_a_fifth_of_the_market_and_never_a_lone_symbol_makes_an_incident(
    lacking: int, size: int, incident: bool
) -> None:
    lack = Lack(session(0), size, frozenset(symbols(lacking)))
    assert lack.is_incident(PLAN.outage_share) is incident


def test_a_session_that_all_lack_is_one_row() -> None:
    market = lone_holes(*((symbol, session(0)) for symbol in symbols(50)))
    found = market.look(START)
    assert [row.key for row in found.new] == [(WHOLE_MARKET, session(0))]
    assert (found.incidents[0].lacking, found.incidents[0].expected) == (50, 50)
    assert found.holes == ()


@pytest.mark.parametrize(
    ("voices", "troubled", "lacking", "cause"),
    [
        ([], (), 10, Cause.NOT_ASKED),
        ([], ("yahoo",), 10, Cause.OUTAGE),
        ([Voice("yahoo", 10, 0, Outcome.UNAVAILABLE)], (), 10, Cause.OUTAGE),
        ([Voice("stooq", 10, 10, Outcome.OK), Voice("yahoo", 10, 0, Outcome.THROTTLED)], (), 10, Cause.OUTAGE),
        ([Voice("stooq", 10, 10, Outcome.OK), Voice("yahoo", 10, 3, Outcome.OK)], (), 10, Cause.CLOSURE),
        ([Voice("yahoo", 10, 10, Outcome.OK)], (), 4, Cause.INCOMPLETE),
    ],
)
def test_the_cause_is_what_the_providers_have_said(
    voices: list[Voice], troubled: tuple[str, ...], lacking: int, cause: Cause
) -> None:
    lack = Lack(session(0), 10, frozenset(symbols(lacking)))
    found, words = cause_of(lack, voices, troubled)
    assert found is cause
    assert words


def test_an_outage_is_made_good_in_ranges_within_the_budget() -> None:
    keys = {(symbol, session(day)) for symbol in symbols(30) for day in (0, 1)}
    market = Market(30, set(keys), delivers=set(keys))
    market.voices = {session(day): [Voice("yahoo", 30, 0, Outcome.UNAVAILABLE)] for day in (0, 1)}
    market.run(START)
    assert {row.cause for row in market.ledger.values()} == {Cause.OUTAGE}
    first = market.run(START + HOUR)
    assert {one.span for one in first} == {(session(0), session(1))}
    assert len(first) == 25
    second = market.run(START + HOUR + timedelta(minutes=10))
    assert [one.symbol for one in second] == symbols(30)[25:], "what is left of it does not begin to wait anew"
    assert (market.holes, market.ledger) == (set(), {})


def test_an_outage_that_goes_on_is_pushed_back_as_one() -> None:
    market = Market(30, {(symbol, session(0)) for symbol in symbols(30)}, answers=False)
    market.run(START)
    market.run(START + HOUR, budget=1)
    assert list(market.ledger) == [(WHOLE_MARKET, session(0))]
    row = market.ledger[WHOLE_MARKET, session(0)]
    assert (row.times_asked, row.confirmed_at, row.next_ask) == (1, None, START + 2 * HOUR)


def test_a_session_that_nobody_has_is_confirmed_with_a_few_questions_and_probed_with_others_a_week_later() -> None:
    market = Market(30, {(symbol, session(0)) for symbol in symbols(30)})
    market.voices = {session(0): [Voice("yahoo", 30, 30, Outcome.OK)]}
    market.run(START)
    assert [one.symbol for one in market.run(START + HOUR)] == ["S000", "S001", "S002"]
    row = market.ledger[WHOLE_MARKET, session(0)]
    assert (row.cause, row.confirmed_at) == (Cause.CLOSURE, START + HOUR)
    assert market.run(START + 6 * DAY) == ()
    assert [one.symbol for one in market.run(START + 8 * DAY)] == ["S003", "S004", "S005"]


def test_a_closure_of_which_somebody_has_a_row_after_all_is_asked_for_whole() -> None:
    keys = {(symbol, session(0)) for symbol in symbols(30)}
    market = Market(30, set(keys))
    market.voices = {session(0): [Voice("yahoo", 30, 30, Outcome.OK)]}
    market.run(START)
    market.run(START + HOUR)
    market.holes.discard(("S007", session(0)))
    market.delivers = set(keys)
    market.run(START + 2 * HOUR)
    assert market.ledger[WHOLE_MARKET, session(0)].cause is Cause.INCOMPLETE
    market.run(START + 3 * HOUR, budget=100)
    assert market.holes == set()


def test_holes_of_a_session_that_becomes_an_incident_are_not_asked_for_one_by_one() -> None:
    market = lone_holes(("S000", session(0)), size=10)
    market.run(START)
    market.holes |= {(symbol, session(0)) for symbol in symbols(10)}
    chosen = market.run(START + HOUR)
    assert chosen == ()
    assert (WHOLE_MARKET, session(0)) in market.ledger


# --- never a storm --------------------------------------------------------------------------------------------

keys_of_a_market = st.sets(st.tuples(st.sampled_from(symbols(12)), st.integers(0, 9).map(session)), max_size=60)


@settings(max_examples=40, deadline=None)
@given(
    holes=keys_of_a_market,
    share=st.floats(0, 1),
    budget=st.integers(1, 20),
    again_hours=st.floats(0.5, 6),
    confirmed_days=st.floats(0.5, 10),
    minutes=st.integers(10, 200),
    down=st.sets(st.integers(0, 60), max_size=20),
    data=st.data(),
)
def test_nobody_is_asked_too_soon_too_much_or_never(
    holes: set[Key],
    share: float,
    budget: int,
    again_hours: float,
    confirmed_days: float,
    minutes: int,
    down: Collection[int],
    data: st.DataObject,
) -> None:
    plan = RepairPlan(
        symbols_a_run=budget, again_hours=again_hours, confirmed_days=confirmed_days, outage_share=max(share, 0.05)
    )
    market = Market(12, set(holes), plan=plan)
    market.delivers = data.draw(st.sets(st.sampled_from(sorted(holes)))) if holes else set()
    last: dict[Key, datetime] = {}
    now = START
    for number in range(100):
        market.answers = number not in down
        before = {row.key: row.next_ask for row in market.look(now).holes}
        chosen = market.run(now)
        assert len(chosen) <= budget
        assert len({one.symbol for one in chosen}) == len(chosen)
        for one in chosen:
            for day in one.sessions:
                key = (one.symbol, day)
                assert now >= before.get(key, now), "not before its time"
                if key in last:
                    assert now - last[key] >= again(plan), "not within the waiting time"
                last[key] = now
        now += timedelta(minutes=minutes)
    left = {key for key in market.delivers if key in market.holes}
    late = now - START > confirmed(plan) * 4 + again(plan) * 20 + len(holes) * timedelta(minutes=minutes) * 2
    assert not left or not late, "what can be had is had in the end"


@pytest.mark.slow
def test_five_hundred_symbols_with_holes_everywhere_cost_a_bounded_number_of_questions_a_week() -> None:
    names = symbols(500)
    holes = {(name, session(day)) for at, name in enumerate(names) for day in range(60) if (at + day) % 6 == 0}
    market = Market(500, set(holes))
    runs = {}
    now = START
    while now < START + 7 * DAY:
        runs[now] = market.run(now)
        now += timedelta(minutes=10) if now < START + 6 * HOUR else DAY / 3
    assert max(len(chosen) for chosen in runs.values()) == PLAN.symbols_a_run
    assert sum(len(chosen) for chosen in runs.values()) == 500, "each symbol once, with all of its holes"
    assert all(row.confirmed_at is not None for row in market.ledger.values())


@pytest.mark.slow
def test_five_hundred_symbols_that_lack_everything_are_sixty_incidents_and_a_handful_of_questions() -> None:
    market = Market(500, {(name, session(day)) for name in symbols(500) for day in range(60)})
    found: Mapping[Key, Hole] = {row.key: row for row in market.look(START).new}
    assert {symbol for symbol, _ in found} == {WHOLE_MARKET}
    total, now = 0, START
    while now < START + 7 * DAY:
        chosen = market.run(now)
        assert len(chosen) <= PLAN.symbols_a_run
        total += len(chosen)
        now += timedelta(minutes=10) if now < START + 3 * HOUR else DAY / 3
    assert total <= 2 * PLAN.symbols_a_run
