"""What a provider's history is asked about a gap, channel by channel."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from market_pipelines.market.records import TickKind
from market_pipelines.providers.polygon import Polygon
from market_pipelines.providers.protocol import Capability, TicksQuery, abilities_of
from market_pipelines.streaming.gap_questions import HISTORY, Asked, questions_about
from market_pipelines.streaming.plan import Channel
from market_pipelines_tests.unit.streaming.journal_made import US
from market_pipelines_tests.unit.streaming.test_fill import NOON, gap

POLYGON = Polygon(None)
HOUR = timedelta(hours=1)


def asked(begins: float, ends: float, *channels: str, symbols: Sequence[str] = ("AAPL",)) -> Asked:
    one = gap(1, begins, ends)
    one.channels[:] = channels
    assert one.ends_at is not None
    return questions_about(one, one.ends_at, US, POLYGON, symbols, at_all_hours=True)


def test_only_price_bands_have_no_history() -> None:
    assert set(Channel) - set(HISTORY) == {Channel.LULD}
    assert {capability for capability, _ in HISTORY.values()} <= set(abilities_of(POLYGON))
    found = asked(0, 5, *Channel)
    assert {one.channel for one in found.questions} == set(HISTORY)
    assert (found.cut, found.lacking) == ("", "there is no history of luld")


def test_seconds_are_asked_for_whole_and_with_room_at_both_ends() -> None:
    """So that no bar lies in two questions or between them."""
    (one,) = asked(0.7, 5.2, "seconds").questions
    assert (one.start, one.end) == (NOON - timedelta(seconds=2), NOON + timedelta(seconds=8))
    (whole,) = asked(0, 5, "seconds", symbols=("O:AAPL261218C00300000",)).questions
    assert (whole.start, whole.end) == (NOON - timedelta(seconds=2), NOON + timedelta(seconds=8))


@pytest.mark.parametrize(("channel", "pieces"), [("trades", 31), ("seconds", 3)])
def test_a_long_gap_is_asked_for_in_pieces_without_a_hole(channel: str, pieces: int) -> None:
    found = asked(0, 30 * 3600, channel).questions
    assert len(found) == pieces
    assert [one.start for one in found[1:]] == [one.end for one in found[:-1]]
    assert found[-1].end - found[0].start == 30 * HOUR + timedelta(seconds=5)


def test_no_question_about_seconds_is_more_than_one_page() -> None:
    longest = max(one.end - one.start for one in asked(0, 30 * 3600, "seconds").questions)
    query = TicksQuery(US.instrument("AAPL"), TickKind.AGGREGATES, NOON, NOON + longest)
    limit = int(abilities_of(POLYGON)[Capability.SECONDS].call(query).params["limit"])
    assert longest / timedelta(seconds=1) <= limit
