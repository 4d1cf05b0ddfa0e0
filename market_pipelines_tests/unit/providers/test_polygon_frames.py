"""Polygon's live frames to columns."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from market_pipelines.market.live import SCHEMAS, TickMark
from market_pipelines.market.records import TickKind
from market_pipelines.providers.polygon.lots import ROUND_LOTS_UNTIL
from market_pipelines_tests.unit.providers.polygon_events import (
    NOW,
    NOW_MS,
    STATUS,
    Event,
    band,
    everything,
    frame,
    minute,
    places,
    quote,
    read,
    rows,
    trade,
    without,
)

RECORDED = Path(__file__).resolve().parents[3] / ".." / "shared" / "reference" / "recorded" / "massive"


def one(event: Event, kind: TickKind, **more: Any) -> dict[str, Any]:
    found = read(frame(event), **more)
    assert found.unread == ()
    assert found.passed_over == 0
    assert set(found.tables) == {kind}
    (row,) = rows(found, kind)
    return row


def test_a_trade() -> None:
    assert one(trade(), TickKind.TRADES) == {
        "symbol": "AAPL", "ts": NOW, "received_at": NOW, "seq": 4009402, "price": 161.87, "size": 300.0,
        "exchange": "10", "trade_id": "5096", "conditions": "14,41", "correction": 0, "feed": "polygon", "marks": 0,
    }  # fmt: skip


def test_a_quote() -> None:
    assert one(quote(), TickKind.QUOTES) == {
        "symbol": "MSFT", "ts": NOW, "received_at": NOW, "seq": 50385480, "bid": 114.125, "ask": 114.128,
        "bid_size": 100.0, "ask_size": 160.0, "bid_exchange": "4", "ask_exchange": "7", "conditions": "0",
        "feed": "polygon", "marks": 0,
    }  # fmt: skip


def test_a_minute_and_a_second() -> None:
    assert one(minute(), TickKind.AGGREGATES) == {
        "symbol": "GTE", "start": NOW - 60_123_000_000, "end": NOW - 123_000_000, "received_at": NOW, "o": 0.4488,
        "h": 0.4489, "l": 0.4486, "c": 0.4486, "v": 4110.0, "vw": 0.4488, "av": 9470157.0, "feed": "polygon",
        "marks": 0,
    }  # fmt: skip
    second = one(minute(ev="A", s=NOW_MS, e=NOW_MS + 1000), TickKind.AGGREGATES)
    assert second["end"] - second["start"] == 1_000_000_000


def test_an_aggregate_that_does_not_say_when_it_ends() -> None:
    row = one(without(minute(), "e"), TickKind.AGGREGATES)
    assert row["end"] - row["start"] == 60_000_000_000
    row = one(minute(ev="A", e=minute()["s"]), TickKind.AGGREGATES)
    assert row["end"] - row["start"] == 1_000_000_000, "indices repeat the beginning"


def test_price_bands() -> None:
    assert one(band(), TickKind.BANDS) == {
        "symbol": "MSFT", "ts": NOW, "received_at": NOW, "seq": 290317, "limit_up": 218.96, "limit_down": 198.11,
        "indicators": "21", "tape": "3", "feed": "polygon", "marks": 0,
    }  # fmt: skip
    row = one(without(band(h=0), "i", "z", "q"), TickKind.BANDS)
    assert (row["limit_up"], row["limit_down"], row["indicators"], row["tape"], row["seq"]) == (None, 198.11, "", "", 0)
    found = read(frame(band(T="BRK/B"), band(T=None), band(T=["X"]), band(t=0)), symbols={"BRK/B": "BRK.B"})
    assert [row["symbol"] for row in rows(found, TickKind.BANDS)] == ["BRK.B"]
    assert places(found) == [(101, 1), (101, 2), (101, 3)]


@pytest.mark.parametrize("unit", [1, 1_000, 1_000_000])
def test_the_unit_of_a_price_bands_time_is_told_by_its_size(unit: int) -> None:
    """Documented as milliseconds, shown as microseconds, seen as nanoseconds."""
    stamp = NOW // unit
    both = read(frame(band(t=stamp)), json.dumps([band(t=str(stamp))], indent=1).encode())
    assert [row["ts"] for row in rows(both, TickKind.BANDS)] == [NOW, NOW]


def test_tables_have_the_shared_columns() -> None:
    found = read(frame(trade(), quote(), minute(), band()), frame(quote(c=[1]), trade(p="1.5"), minute(v="7")))
    assert found.unread == ()
    assert {kind: table.schema for kind, table in found.tables.items()} == {
        kind: SCHEMAS[kind] for kind in (TickKind.QUOTES, TickKind.TRADES, TickKind.AGGREGATES, TickKind.BANDS)
    }


def test_events_keep_the_order_in_which_they_came_whichever_way_they_were_read() -> None:
    bodies = [frame(*(trade(q=10 * n + k, **({"p": "5"} if k % 2 else {})) for k in range(5))) for n in range(6)]
    bodies[3] = json.dumps(json.loads(bodies[3]), indent=1).encode()
    found = rows(read(*bodies), TickKind.TRADES)
    assert [row["seq"] for row in found] == [10 * n + k for n in range(6) for k in range(5)]
    assert [row["received_at"] - NOW for row in found] == [n for n in range(6) for _ in range(5)]


def test_optional_fields_may_be_missing() -> None:
    row = one(without(trade(), "c", "i", "x", "q", "z", "s"), TickKind.TRADES)
    assert (row["conditions"], row["trade_id"], row["exchange"], row["seq"], row["size"]) == ("", "", "", 0, None)
    row = one(without(quote(), "c", "i", "bx", "q"), TickKind.QUOTES)
    assert (row["conditions"], row["bid_exchange"], row["seq"]) == ("", "", 0)
    assert one(without(minute(), "v", "av", "vw"), TickKind.AGGREGATES)["v"] is None


@pytest.mark.parametrize("nobody", [0, 0.0, None])
def test_nobody_who_bids_is_no_price_of_zero(nobody: float | None) -> None:
    row = one(quote(bp=nobody, bs=nobody), TickKind.QUOTES)
    assert (row["bid"], row["bid_size"], row["bid_exchange"]) == (None, None, "")
    assert (row["ask"], row["ask_size"], row["ask_exchange"]) == (114.128, 160.0, "7")
    assert row["marks"] == TickMark.ONE_SIDED


@pytest.mark.parametrize(
    ("stamp", "nanoseconds"),
    [
        (1_795_271_400_123, 1_795_271_400_123_000_000),
        (1_795_271_400_123_456, 1_795_271_400_123_456_000),
        (1_795_271_400_123_456_789, 1_795_271_400_123_456_789),
    ],
)
def test_the_unit_of_a_time_is_told_by_its_size(stamp: int, nanoseconds: int) -> None:
    assert one(trade(t=stamp), TickKind.TRADES)["ts"] == nanoseconds
    assert one(trade(t=str(stamp)), TickKind.TRADES)["ts"] == nanoseconds, "also as text, and never through a double"


def test_numbers_beyond_a_double_are_exact() -> None:
    assert one(trade(q=2**53 + 1), TickKind.TRADES)["seq"] == 2**53 + 1
    assert one(trade(q=str(2**53 + 1)), TickKind.TRADES)["seq"] == 2**53 + 1


def test_shares_are_divisible() -> None:
    assert one(trade(s=0, ds="0.0625"), TickKind.TRADES)["size"] == 0.0625
    assert one(trade(s=7, ds=""), TickKind.TRADES)["size"] == 7
    row = one(minute(v=4989, dv="4989.25", av=1, dav="4332125.038360"), TickKind.AGGREGATES)
    assert (row["v"], row["av"]) == (4989.25, 4332125.03836)
    assert places(read(frame(trade(ds="many"), trade(ds="nan"), trade(ds="2.5"), trade(ds=True)))) == [
        (101, 0),
        (101, 1),
        (101, 3),
    ]


def test_sizes_of_quotes_were_lots_before_the_tape_changed() -> None:
    day = 86_400_000
    change = round(ROUND_LOTS_UNTIL.timestamp() * 1000)
    assert datetime(2025, 11, 3, 5, tzinfo=UTC) == ROUND_LOTS_UNTIL
    assert one(quote(t=change - 1, bs=3), TickKind.QUOTES)["bid_size"] == 300
    assert one(quote(t=change, bs=300), TickKind.QUOTES)["bid_size"] == 300
    assert one(quote(sym="O:SPY241220P00720000", t=change - day, bs=17), TickKind.QUOTES)["bid_size"] == 17
    later = datetime(2030, 1, 1, tzinfo=UTC)
    assert one(quote(bs=3), TickKind.QUOTES, lots_until=later)["bid_size"] == 300


def test_symbols_are_spelled_as_the_house_does() -> None:
    found = read(frame(trade(sym="BRK/B"), trade(sym="BApA"), trade(sym="X")), symbols={"BRK/B": "BRK.B", "X": "X"})
    assert [row["symbol"] for row in rows(found, TickKind.TRADES)] == ["BRK.B", "BApA", "X"]


def test_options_are_events_like_others() -> None:
    contract = "O:AMC210827C00037000"
    row = one(
        {"ev": "T", "sym": contract, "x": 65, "p": 1.54, "s": 1, "c": [233], "t": NOW_MS, "q": 9}, TickKind.TRADES
    )
    assert (row["symbol"], row["exchange"], row["trade_id"], row["conditions"]) == (contract, "65", "", "233")
    row = one(without(quote(sym=contract, bx=302, ax=2_000), "c", "i", "z"), TickKind.QUOTES)
    assert (row["bid_exchange"], row["ask_exchange"]) == ("302", "2000")


def test_statuses_and_kinds_that_are_not_kept_are_counted() -> None:
    names = ("NOI", "FMV", "V", "TT", "QQ", "AMX", "L", "LULDS", "LUL", "LXYZ", "Ä", "")
    others = [{"ev": name, "T": "X", "t": NOW} for name in names]
    found = read(frame(STATUS), frame(STATUS, trade()), frame(*others), frame(STATUS, STATUS))
    assert found.passed_over == 4 + len(others)
    assert len(rows(found, TickKind.TRADES)) == 1
    assert found.unread == ()


def test_unknown_fields_are_nothing_to_stumble_over() -> None:
    assert one(trade(new={"a": [1, {"b": "},{"}]}, other="x"), TickKind.TRADES) == one(trade(), TickKind.TRADES)


@pytest.mark.parametrize(
    "spelled",
    [
        json.dumps,
        lambda events: json.dumps(events, indent=2),
        lambda events: json.dumps(events, indent="\t").replace("\n", "\r\n"),
        lambda events: f" {json.dumps(events, separators=(',', ':'))}\n",
        lambda events: "[" + " , ".join(json.dumps(event, separators=(",", ":")) for event in events) + " ]",
        lambda events: json.dumps([dict(reversed(event.items())) for event in events], separators=(",", ":")),
    ],
)
def test_any_way_to_write_the_same_json_is_the_same(spelled: Any) -> None:
    events = [trade(), quote(), minute(), band(), STATUS, trade(sym="Ünder"), quote(sym="A},{B"), trade(sym='Q"\\')]
    plain, other = read(frame(*events)), read(spelled(events).encode())
    assert everything(other) == everything(plain)
    assert (other.passed_over, other.unread) == (plain.passed_over, ()) == (1, ())
    assert [row["symbol"] for row in rows(plain, TickKind.QUOTES)] == ["MSFT", "A},{B"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"sym": None}, {"sym": ""}, {"sym": ["X"]}, {"sym": {"a": 1}}, {"sym": True}, {"t": None}, {"t": 0}, {"t": -5},
        {"t": "soon"}, {"t": 2**63}, {"t": 1.5}, {"p": None}, {"p": "NaN"}, {"p": "dear"}, {"p": [1]}, {"p": True},
        {"q": 1.5}, {"q": 2**64}, {"q": [1]}, {"x": "NYSE"}, {"c": ["x"]}, {"c": [1.5]}, {"s": {}}, {"i": [1]},
    ],
)  # fmt: skip
def test_an_event_that_cannot_be_is_kept_aside_and_its_neighbours_stay(wrong: Event) -> None:
    events = [trade(q=1), trade(q=2) | wrong, trade(q=3), quote()]
    if wrong == {"i": [1]}:
        events.append(trade(q="4"))  # only the careful way looks so closely at an id
        events[1]["q"] = "2"
    found = read(frame(*events), frame(trade(q=5)))
    assert places(found) == [(101, 1)]
    assert found.unread[0].reason
    assert [json.loads(found.unread[0].body)] == json.loads(frame(events[1]))
    assert {1, 3, 5} <= {row["seq"] for row in rows(found, TickKind.TRADES)}
    assert len(rows(found, TickKind.QUOTES)) == 1


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"01", b"+1", b".5", b"0x1", b"--1"])
def test_what_is_no_number_in_json_costs_only_its_event(number: bytes) -> None:
    body = frame(trade(q=1), trade(q=2, p="HERE"), trade(q=3)).replace(b'"HERE"', number)
    found = read(body, frame(trade(q=4)))
    assert [row["seq"] for row in rows(found, TickKind.TRADES)] == [1, 3, 4]
    assert places(found) == [(101, 1)]


def test_a_truncated_frame_costs_only_what_is_missing() -> None:
    whole = frame(trade(q=1), trade(q=2), trade(q=3))
    found = read(whole[:-40], frame(trade(q=4)))
    assert [row["seq"] for row in rows(found, TickKind.TRADES)] == [1, 2, 4]
    assert places(found) == [(101, 2)]


@pytest.mark.parametrize(
    "rubbish",
    [b"", b"null", b"7", b'"x"', b"{", b"]", b"[", b"[[", b"[[[[" * 100_000, b"\xff\xfe\x00", b"}{", b"[{]}", b"[1]"],
)  # fmt: skip
def test_rubbish_is_kept_aside(rubbish: bytes) -> None:
    found = read(frame(trade(q=1)), rubbish, frame(trade(q=2)))
    assert [row["seq"] for row in rows(found, TickKind.TRADES)] == [1, 2]
    assert {position for position, _ in places(found)} == {102}
    assert all(one.received_ns == NOW + 1 and len(one.body) <= 2_000 and one.reason for one in found.unread)


def test_an_empty_array_is_no_event_and_no_fault() -> None:
    found = read(b"[]", b" [ ] ", frame(trade()))
    assert (found.unread, found.passed_over, len(rows(found, TickKind.TRADES))) == ((), 0, 1)


def test_an_event_without_an_array_around_it_is_one() -> None:
    found = read(frame(trade())[1:-1])
    assert (found.unread, len(rows(found, TickKind.TRADES))) == ((), 1)


def test_several_arrays_in_one_frame_are_read_and_told() -> None:
    found = read(frame(trade(q=1)) + frame(trade(q=2)))
    assert [row["seq"] for row in rows(found, TickKind.TRADES)] == [1, 2]
    assert places(found) == [(101, -1)]


def test_text_that_is_not_utf_8_costs_only_its_event() -> None:
    body = frame(trade(q=1), trade(q=2, sym="HERE"), trade(q=3)).replace(b"HERE", b"\xff\xfe")
    found = read(body)
    assert [row["seq"] for row in rows(found, TickKind.TRADES)] == [1, 3]
    assert places(found) == [(101, 1)]


def test_half_a_surrogate_is_no_symbol() -> None:
    found = read(frame(trade(q=1), trade(q=2, sym="HERE"), trade(q=3)).replace(b"HERE", rb"\ud800"))
    assert [row["seq"] for row in rows(found, TickKind.TRADES)] == [1, 3]
    assert places(found) == [(101, 1)]


def test_of_a_name_that_comes_twice_the_first_counts() -> None:
    body = frame(trade()).replace(b'"p":161.87', b'"p":1,"p":2')
    assert rows(read(body), TickKind.TRADES)[0]["price"] == 1
    assert rows(read(body.replace(b",", b" , ")), TickKind.TRADES)[0]["price"] == 1


def test_a_frame_of_a_megabyte_and_more_frames_than_are_joined_at_once() -> None:
    long = frame(*(quote(q=n) for n in range(1, 9_001)))
    assert len(long) > 1_000_000
    bodies = [long, *(frame(quote(q=9_000 + n)) for n in range(1, 2_000)), long.replace(b'"q":', b'"q": ')]
    found = rows(read(*bodies), TickKind.QUOTES)
    assert [row["seq"] for row in found] == [*range(1, 11_000), *range(1, 9_001)]


def test_one_bad_event_among_many_does_not_spoil_the_lot() -> None:
    bodies = [frame(quote(q=n)) for n in range(1, 3_001)]
    bodies[1_234] = frame(quote(q=1_235, bp="dear"))
    found = read(*bodies)
    assert len(rows(found, TickKind.QUOTES)) == 2_999
    assert places(found) == [(101 + 1_234, 0)]


def recorded(name: str) -> Path:
    path = RECORDED / name
    if not path.is_file():
        pytest.skip(f"{path} is not there: recordings are not part of a clone")
    return path


def test_the_recorded_frames() -> None:
    found = read(*recorded("ws_stocks_frames.jsonl").read_bytes().splitlines())
    assert (found.passed_over, found.unread) == (2, ())
    assert [(row["symbol"], row["conditions"], row["seq"]) for row in rows(found, TickKind.TRADES)] == [
        ("AAPL", "14,41", 4009402),
        ("AMZN", "14,37,41", 4009408),
        ("AMZN", "", 4009434),
    ]


def test_the_examples_of_the_specification() -> None:
    examples: dict[str, Event] = json.loads(recorded("ws_spec_examples.json").read_bytes())
    kept = [event for event in examples.values() if event["ev"] in ("T", "Q", "A", "AM", "LULD")]
    for body in (frame(*examples.values()), json.dumps([*examples.values()], indent=1).encode()):
        found = read(body)
        assert found.unread == ()
        assert found.passed_over == len(examples) - len(kept)
        assert sum(len(table) for table in found.tables.values()) == len(kept)


@pytest.mark.parametrize("word", ["A\0B", "A\x1bB", "A\u2028B", "A" * 65, "A\r\nB"])
def test_what_nothing_is_called_is_kept_aside(word: str) -> None:
    """No table takes such a key, and a sink that met one would stand still for ever."""
    plain = json.dumps([trade(sym=word), trade(i=word), trade(q=7)], ensure_ascii=False).encode()
    for body in (frame(trade(sym=word), trade(i=word), trade(q=7)), plain):
        found = read(body, frame(trade(q=8)))
        assert [row["seq"] for row in rows(found, TickKind.TRADES)] == [7, 8]
        assert {(one.position, one.place) for one in found.unread} >= {(101, 0), (101, 1)}


def test_sixty_four_letters_are_a_name() -> None:
    found = read(frame(trade(sym="A" * 64, i="1" * 64)))
    assert [(row["symbol"], row["trade_id"]) for row in rows(found, TickKind.TRADES)] == [("A" * 64, "1" * 64)]
