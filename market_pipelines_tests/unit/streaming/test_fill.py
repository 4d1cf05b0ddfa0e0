"""Which gaps are asked for as one, and that nothing of a large one is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.pipeline.platform import Platform
from market_pipelines.store.stream_gaps import GapRow, GapStatus
from market_pipelines.streaming import fill
from market_pipelines.streaming.fill import GapFiller
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
