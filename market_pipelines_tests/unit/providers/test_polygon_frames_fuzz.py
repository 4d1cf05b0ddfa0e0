"""Polygon's live frames in every legal spelling, and damaged in every way: the quick way and the careful one agree,
nothing raises, and what is not damaged survives."""

import json
from itertools import starmap
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from market_pipelines.market.records import TickKind
from market_pipelines_tests.unit.providers.polygon_events import (
    NOW_MS,
    STATUS,
    Event,
    band,
    everything,
    frame,
    minute,
    quote,
    read,
    rows,
    trade,
)

SPACES = st.text(alphabet=" \t\r\n", max_size=2)
PRICES = st.floats(min_value=-1e9, max_value=1e9, allow_nan=False) | st.integers(-(10**6), 10**6)
COUNTS = st.integers(0, 2**63 - 1)
IDS = st.integers(0, 5_000)
STAMPS = st.sampled_from([NOW_MS, NOW_MS * 1000 + 7, NOW_MS * 1_000_000 + 13])
WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6).filter(
    lambda text: text not in ("true", "false") and text[0] not in "[{" and text.isprintable()
)
SYMBOLS = st.sampled_from(["AAPL", "BRK.B", "O:SPY241220P00720000", "A},{B", '"', "\\", "[", "a:b"]).filter(
    lambda text: text[0] not in "[{"
)
DECIMALS = st.decimals(0, 10**6, places=6).map(str)


INJURIES = st.binary(max_size=6) | st.sampled_from([b'"', b"},{", b"]\n["])


def chosen(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Event]:
    """Any of these fields, and unknown ones."""
    other = st.dictionaries(st.sampled_from(["new", "y"]), st.none() | st.lists(WORDS, max_size=2), max_size=1)
    return st.tuples(st.fixed_dictionaries({}, optional=fields), other).map(lambda both: both[1] | both[0])


TRADES = chosen(
    {"sym": SYMBOLS | WORDS, "i": WORDS, "x": IDS, "p": PRICES, "s": PRICES, "ds": DECIMALS, "q": COUNTS, "t": STAMPS,
     "c": st.lists(IDS, max_size=3)}
).map(lambda more: trade(**more))  # fmt: skip
QUOTES = chosen(
    {"sym": SYMBOLS | WORDS, "bx": IDS, "ax": IDS, "bp": PRICES, "ap": PRICES, "bs": PRICES, "as": PRICES, "q": COUNTS,
     "t": STAMPS, "c": IDS}
).map(lambda more: quote(**more))  # fmt: skip
BARS = chosen(
    {"ev": st.sampled_from(["A", "AM"]), "sym": SYMBOLS | WORDS, "o": PRICES, "v": PRICES, "dv": DECIMALS,
     "dav": DECIMALS, "s": STAMPS, "e": STAMPS}
).map(lambda more: minute(**more))  # fmt: skip
BANDS = chosen(
    {"T": SYMBOLS | WORDS, "h": PRICES, "l": PRICES, "i": st.lists(IDS, max_size=3), "z": IDS, "q": COUNTS, "t": STAMPS}
).map(lambda more: band(**more))
OTHERS = st.sampled_from([STATUS, {"ev": "NOI", "T": "MSFT", "t": NOW_MS}, {"ev": "FMV", "fmv": 1.5, "sym": "X"}])
EVENTS = TRADES | QUOTES | BARS | BANDS | OTHERS
FRAMES = st.lists(st.lists(EVENTS, max_size=4), max_size=5)


@st.composite
def spelled(draw: st.DrawFn, events: list[Event]) -> bytes:
    """One of the ways to write a frame."""

    def text(value: Any) -> str:
        if isinstance(value, dict):
            pairs = [f"{gap()}{text(name)}{gap()}:{gap()}{text(item)}{gap()}" for name, item in value.items()]
            return "{" + ",".join(pairs) + "}"
        if isinstance(value, list):
            return "[" + ",".join(gap() + text(item) + gap() for item in value) + "]"
        return json.dumps(value, ensure_ascii=ascii_only)

    spaced, ascii_only = draw(st.booleans()), draw(st.booleans())

    def gap() -> str:
        return draw(SPACES) if spaced else ""

    return f"{gap()}{text(events)}{gap()}".encode()


@settings(max_examples=100, deadline=None)
@given(FRAMES, st.data())
def test_every_legal_spelling_says_the_same(frames: list[list[Event]], data: st.DataObject) -> None:
    together = read(*starmap(frame, frames))
    other = read(*(data.draw(spelled(events)) for events in frames))
    careful = read(*(json.dumps(events, indent=1).encode() for events in frames))
    assert together.unread == other.unread == careful.unread == ()
    assert together.passed_over == other.passed_over == careful.passed_over
    assert everything(together) == everything(other) == everything(careful)
    assert sum(len(table) for table in together.tables.values()) + together.passed_over == sum(map(len, frames))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(EVENTS, min_size=1, max_size=3), min_size=1, max_size=3),
    st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 12), INJURIES),
        min_size=1,
        max_size=3,
    ),
)  # fmt: skip
def test_damage_stays_where_it_is(frames: list[list[Event]], injuries: list[tuple[int, int, bytes]]) -> None:
    damaged = [*starmap(frame, frames)]
    for place, length, put in injuries:
        body = damaged[place % len(damaged)]
        at = place % (len(body) + 1)
        damaged[place % len(damaged)] = body[:at] + put + body[at + length :]
    sound = [frame(trade(q=1, sym="SOUND"), quote(sym="SOUND")), frame(minute(sym="SOUND"), trade(q=2, sym="SOUND"))]
    found = read(sound[0], *damaged, sound[1])
    alone = read(*damaged)
    assert [row["seq"] for row in rows(found, TickKind.TRADES) if row["symbol"] == "SOUND"] == [1, 2]
    assert all(101 < one.position < 102 + len(damaged) for one in found.unread)
    assert [one.reason for one in found.unread] == [one.reason for one in alone.unread]
    assert sum(map(len, found.tables.values())) == sum(map(len, alone.tables.values())) + 4


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=5))
def test_any_bytes_at_all_are_read_or_kept_aside(bodies: list[bytes]) -> None:
    found = read(*bodies, frame(trade()))
    assert len(rows(found, TickKind.TRADES)) == 1
    assert all(one.reason for one in found.unread)
