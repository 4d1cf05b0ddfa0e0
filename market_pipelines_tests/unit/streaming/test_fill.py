"""Which gaps are asked for as one, and that nothing of a large one is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.market.outcomes import Outcome
from market_pipelines.pipeline.platform import Platform
from market_pipelines.providers.protocol import DailyProvider
from market_pipelines.store.stream_gaps import GapRow, GapStatus
from market_pipelines.streaming import fill
from market_pipelines.streaming.fill import GapFiller, Settlement
from market_pipelines.streaming.gap_questions import Question, neighbours
from market_pipelines.streaming.plan import FeedName, StreamPlan

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def gap(number: int, begins: float, ends: float) -> GapRow:
    """In seconds after noon."""
    return GapRow(
        gap_id=number,
        gap_key=f"gap-{number}",
        stream="us-polygon",
        market="us",
        feed="polygon",
        origin="",
        cause="crashed",
        sink=None,
        channels=["quotes", "trades"],
        symbols=None,
        begins_at=NOON + timedelta(seconds=begins),
        ends_at=NOON + timedelta(seconds=ends),
        recorded_at=NOON + timedelta(seconds=ends),
        status=GapStatus.OPEN,
        reason="",
        attempts=0,
        retry_at=None,
        rows_filled=0,
        settled_at=None,
    )


def together(*gaps: GapRow) -> list[list[int]]:
    return [[one.gap_id for one in group] for group in neighbours(gaps)]


def test_gaps_with_little_between_them_are_asked_for_as_one() -> None:
    assert together(gap(1, 0, 2), gap(2, 3, 5), gap(3, 60, 61)) == [[1, 2, 3]]


def test_what_lies_apart_is_asked_for_alone() -> None:
    assert together(gap(1, 0, 2), gap(2, 63, 64)) == [[1], [2]]


def test_other_symbols_or_channels_are_another_question() -> None:
    one = gap(1, 0, 2)
    assert together(one, replace(gap(2, 3, 5), symbols=["AAPL"])) == [[1], [2]]
    assert together(one, replace(gap(2, 3, 5), channels=["quotes"])) == [[1], [2]]
    assert together(one, replace(gap(2, 3, 5), sink="lake")) == [[1], [2]]


def test_a_gap_within_a_longer_one_is_not_counted_to_its_end() -> None:
    """The group ends where its last gap does, so a shorter one must not come last."""
    assert together(gap(1, 0, 50), gap(2, 3, 5)) == [[1], [2]]


def test_no_gaps_are_no_questions() -> None:
    assert together() == []


@pytest.mark.parametrize(
    ("channels", "status"), [(["luld"], GapStatus.UNFILLABLE), (["trades", "luld"], GapStatus.FILLED)]
)
def test_what_has_no_history_is_told_and_a_gap_with_all_the_rest_is_filled(
    channels: list[str], status: GapStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = SimpleNamespace(
        clock=lambda: NOON + timedelta(minutes=1), simulated=True, providers={"polygon": SimpleNamespace()}
    )
    filler = GapFiller(
        cast(Platform, platform),
        cast(MarketDefinition, None),
        StreamPlan("us", FeedName.POLYGON, ("A",)),
        intake=lambda *_: None,
        wait_durable=lambda _: True,
        symbols=lambda: ("A",),
    )

    def ask(_: GapRow, __: object, questions: Sequence[Question], known: Any) -> list[str]:
        known.done.update(questions)
        return []

    monkeypatch.setattr(filler, "_ask", ask)
    settled = filler._attempt(replace(gap(1, 0, 5), channels=channels))
    assert settled is not None
    assert (settled.status, settled.reason, settled.retry_at) == (status, "there is no history of luld", None)


def test_more_questions_than_one_attempt_asks_are_asked_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fill, "MOST_QUESTIONS", 3)
    platform = SimpleNamespace(simulated=True, providers={"polygon": None}, clock=lambda: NOON + timedelta(seconds=20))
    market = cast(MarketDefinition, None)
    filler = GapFiller(
        cast(Platform, platform),
        market,
        StreamPlan("us", FeedName.POLYGON, tuple("ABCD")),
        intake=lambda *_: None,
        wait_durable=lambda _: True,
        symbols=lambda: tuple("ABCD"),
    )
    asked: list[list[tuple[str, str]]] = []

    def ask(_: GapRow, __: object, questions: Sequence[Question], known: Any) -> list[str]:
        asked.append([(one.symbol, one.channel) for one in questions])
        known.done.update(questions)
        return []

    monkeypatch.setattr(filler, "_ask", ask)
    settlements = [filler._attempt(gap(1, 0, 5)) for _ in range(3)]
    assert [len(one) for one in asked] == [3, 3, 2]
    assert len({question for one in asked for question in one}) == 8
    assert [one.status if one else None for one in settlements] == [GapStatus.OPEN, GapStatus.OPEN, GapStatus.FILLED]
    assert settlements[0] is not None
    assert (settlements[0].reason, settlements[0].retry_at is None) == (
        "5 more questions are asked the next time",
        False,
    )


@pytest.mark.parametrize("minutes", [0, 15])
def test_a_gap_of_a_delayed_stream_is_asked_for_as_long_as_any_other(
    minutes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From when it was over here: what it missed had happened long before."""
    delay = timedelta(minutes=minutes)
    due: list[tuple[datetime, ...]] = []
    now = NOON + delay + timedelta(seconds=20)
    database = SimpleNamespace(connection=nullcontext)
    platform = SimpleNamespace(simulated=True, providers={"polygon": None}, clock=lambda: now, database=database)

    def noted(_: object, __: str, *times: datetime) -> list[GapRow]:
        due.append(times)
        return []

    monkeypatch.setattr(fill, "gaps_due", noted)
    filler = GapFiller(
        cast(Platform, platform),
        cast(MarketDefinition, None),
        StreamPlan("us", FeedName.POLYGON, ("A",), delay=delay),
        intake=lambda *_: None,
        wait_durable=lambda _: True,
        symbols=lambda: ("A",),
    )
    monkeypatch.setattr(filler, "_ask", lambda *_: ["the provider is away"])
    settled = filler._attempt(replace(gap(1, -3600, 5), recorded_at=NOON - timedelta(hours=1)))
    assert settled is not None
    assert (settled.status, settled.retry_at) == (GapStatus.OPEN, now + fill.FIRST_PAUSE)
    assert filler._due() == []
    assert due == [(now - delay - timedelta(seconds=fill.SETTLE_SECONDS), now)]


@pytest.mark.parametrize("came", [Settlement(GapStatus.UNFILLABLE, "the quota is spent"), Settlement(GapStatus.OPEN)])
def test_what_history_brought_before_a_restart_stays_brought(monkeypatch: pytest.MonkeyPatch, came: Settlement) -> None:
    """After which nothing of it is remembered, and the provider may have no answer left today."""
    settled: dict[int, tuple[GapStatus, int]] = {}

    def noted(_: object, gap_id: int, status: GapStatus, __: str, rows: int, *___: object) -> bool:
        settled[gap_id] = status, rows
        return True

    monkeypatch.setattr(fill, "settle", noted)
    database = SimpleNamespace(connection=nullcontext)
    platform = SimpleNamespace(database=database, clock=lambda: NOON + timedelta(hours=2))
    filler = GapFiller(
        cast(Platform, platform),
        cast(MarketDefinition, None),
        StreamPlan("us", FeedName.POLYGON, ("AAPL",)),
        intake=lambda *_: None,
        wait_durable=lambda _: True,
        symbols=lambda: ("AAPL",),
    )
    monkeypatch.setattr(filler, "_attempt", lambda _: came)
    half, none = replace(gap(1, 0, 2), status=GapStatus.PARTIAL, rows_filled=1_000), gap(2, 3, 5)
    filler.fill(half, none)
    expected = GapStatus.PARTIAL if came.status is GapStatus.UNFILLABLE else came.status
    assert settled == {1: (expected, 1_000), 2: (came.status, 0)}


def test_where_the_quota_of_the_day_is_spent_the_rest_is_not_asked_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    symbols = [f"S{number}" for number in range(200)]
    filler = GapFiller(
        cast(Platform, SimpleNamespace()),
        cast(MarketDefinition, None),
        StreamPlan("us", FeedName.POLYGON, tuple(symbols)),
        intake=lambda *_: None,
        wait_durable=lambda _: True,
        symbols=lambda: symbols,
    )
    asked: list[str] = []

    def spent(_: GapRow, __: object, ___: str, question: Question, ____: object) -> tuple[Outcome, str, int]:
        asked.append(question.symbol)
        return Outcome.QUOTA_EXHAUSTED, "all 3 calls of the day are used", 0

    monkeypatch.setattr(filler, "_put", spent)
    monkeypatch.setattr(fill, "instruments_of", lambda _, names: [SimpleNamespace(symbol=name) for name in names])
    questions = [Question(symbol, "trades", NOON, NOON + timedelta(seconds=5)) for symbol in symbols]
    known = fill._Progress()
    later = filler._ask(gap(1, 0, 5), cast(DailyProvider, None), questions, known)
    assert len(asked) <= fill.WORKERS
    assert set(later) == {"quota_exhausted: all 3 calls of the day are used"}
    assert not known.done
    assert not known.refused
