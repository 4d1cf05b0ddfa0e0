"""Alpha Vantage's functions besides the daily series: shaped like the recordings, with switches that do as they say."""

import csv
import io
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from market_pipelines.simulator.clock import SimulatedClock
from market_pipelines.simulator.exchange import Exchange
from market_pipelines.simulator.faults import FaultBoard, FaultError
from market_pipelines.simulator.formats.asked import Asked
from market_pipelines.simulator.formats.reply import Reply
from market_pipelines.simulator.truth import World

WORLD = World()
NOW = datetime(2026, 5, 16, 14, 12, tzinfo=UTC)
NOON = datetime(2026, 5, 14, 16, 2, 30, tzinfo=UTC)
RECORDED = Path(__file__).resolve().parents[3] / ".." / "shared" / "reference" / "recorded" / "alpha_vantage"


def ask(function: str, *faults: str, **query: Any) -> Reply:
    """`now` and `accept` are the clock's and the header's, anything else is a parameter."""
    now, accept = query.pop("now", NOW), query.pop("accept", "")
    exchange = Exchange(WORLD, FaultBoard(f"alpha_vantage.{fault}" for fault in faults), SimulatedClock(now))
    asked = {"function": function, "symbol": "AAPL", "apikey": "planted-key", **query}
    return exchange.deliver(Asked("alpha_vantage", "/query", asked, accept, "http://here"), "/").reply


def body(function: str, *faults: str, **query: Any) -> Any:
    return json.loads(ask(function, *faults, **query).body)


def lines(function: str, *faults: str, **query: Any) -> list[dict[str, str]]:
    reply = ask(function, *faults, datatype="csv", **query)
    assert reply.content_type == "application/x-download"
    assert reply.body.count(b"\r\n") == reply.body.count(b"\n")
    return list(csv.DictReader(io.StringIO(reply.body.decode(), newline="")))


def recorded(name: str) -> str:
    path = RECORDED / name
    if not path.is_file():
        pytest.skip(f"no recorded answers beside this checkout ({name})")
    return path.read_text(encoding="utf-8")


def shape(text: str) -> Iterator[str]:
    """The lines of a body with every date and number replaced by its style."""
    for line in text.splitlines():
        styled = re.sub(r'"\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d)?"', '"date"', line)
        styled = re.sub(r'"-?\d+\.(\d+)(%?)"', lambda found: f'"decimals {len(found[1])}{found[2]}"', styled)
        yield re.sub(r'"\d+"', '"digits"', styled)


# What the bodies look like


def test_intraday_json_has_the_lines_of_a_recording() -> None:
    wanted = list(shape(recorded("time_series_intraday_demo.json")))
    reply = ask("TIME_SERIES_INTRADAY", interval="5min", symbol="IBM", outputsize="full")
    ours = list(shape(reply.body.decode()))
    assert ours[:16] == wanted[:16]
    assert ours[-9:] == wanted[-9:]
    assert not reply.body.endswith(b"\n")


def test_intraday_csv_has_the_rows_of_a_recording() -> None:
    row = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(,\d+\.\d{4}){4},\d+")
    theirs = recorded("time_series_intraday_5min_compact.csv").split("\n")
    reply = ask("TIME_SERIES_INTRADAY", interval="5min", datatype="csv")
    ours = reply.body.decode().split("\r\n")
    assert ours[0] == theirs[0]
    assert len(ours) == len(theirs) == 102
    assert ours[1].startswith("2026-05-15 19:55:00")
    assert theirs[1].startswith("2026-05-15 19:55:00")
    for line in (*ours[1:-1], *theirs[1:-1]):
        assert row.fullmatch(line), line
    assert reply.headers["Content-Disposition"].endswith("intraday_5min_AAPL.csv")


@pytest.mark.parametrize(
    ("function", "name"),
    [("GLOBAL_QUOTE", "global_quote.json"), ("MARKET_STATUS", "market_status.json")],
)
def test_a_json_answer_is_styled_as_recorded(function: str, name: str) -> None:
    ours = [re.sub(r'": "(open|closed)"', '": "state"', line) for line in shape(ask(function).body.decode())]
    theirs = [re.sub(r'": "(open|closed)"', '": "state"', line) for line in shape(recorded(name))]
    assert [line.replace("AAPL", "MSFT") for line in ours] == theirs


@pytest.mark.parametrize(
    ("function", "name"),
    [
        ("GLOBAL_QUOTE", "global_quote.csv"),
        ("DIVIDENDS", "dividends_ibm.csv"),
        ("LISTING_STATUS", "listing_status_active.csv"),
        ("HISTORICAL_OPTIONS", "historical_options_ibm.csv"),
    ],
)
def test_a_csv_answer_has_the_recorded_header_and_cells(function: str, name: str) -> None:
    theirs = list(csv.DictReader(io.StringIO(recorded(name))))
    ours = lines(function)
    assert list(ours[0]) == list(theirs[0])

    def styles(rows: list[dict[str, str]], column: str) -> set[str]:
        return {re.sub(r"[A-Z]+", "A", re.sub(r"\d+", "0", row[column])) for row in rows}

    numbers = [column for column in ours[0] if re.fullmatch(r"-?[\d.%-]+", ours[0][column])]
    assert numbers
    for column in set(numbers) - {"amount", "strike", "contractID"}:
        # A listing's symbol may look like a number; nothing else is looser than the recording.
        assert styles(ours, column) & styles(theirs, column), column


@pytest.mark.parametrize("name", ["realtime_bulk_quotes.json", "premium_placeholder_realtime_options.json"])
def test_a_placeholder_has_the_keys_of_the_recorded_one(name: str) -> None:
    theirs = json.loads(recorded(name))
    function = "REALTIME_OPTIONS" if "options" in name else "REALTIME_BULK_QUOTES"
    ours = body(function, f"sold={function}")
    assert list(ours) == list(theirs)
    assert list(ours["data"][0]) == list(theirs["data"][0])
    assert ours["endpoint"] == theirs["endpoint"]
    assert "ARTIFICIAL AND FOR ILLUSTRATION PURPOSES ONLY" in ours["message"]
    real = body(function, require_greeks="false")
    assert list(real["data"][0]) == list(theirs["data"][0])
    assert real["message"] == "success"


def test_a_search_has_the_keys_of_a_recording() -> None:
    theirs = json.loads(recorded("symbol_search.json"))["bestMatches"]
    ours = body("SYMBOL_SEARCH", keywords="A")["bestMatches"]
    assert list(ours[0]) == list(theirs[0])
    assert len(ours) == len(theirs) == 10
    scores = [float(match["9. matchScore"]) for match in ours]
    assert scores == sorted(scores, reverse=True)
    assert {match["7. timezone"] for match in ours} <= {"UTC-04", "UTC+01"}


def test_a_profile_has_only_recorded_keys_and_says_what_is_missing_in_words() -> None:
    theirs = json.loads(recorded("overview_ibm.json"))
    ours = body("OVERVIEW")
    assert set(ours) <= set(theirs)
    assert all(isinstance(value, str) for value in ours.values())
    assert {"None", "-"} <= set(ours.values())


# What is answered


def test_stamps_are_new_yorks_and_newest_first() -> None:
    rows = lines("TIME_SERIES_INTRADAY", interval="30min", outputsize="full", month="2026-03")
    stamps = [row["timestamp"] for row in rows]
    assert stamps == sorted(stamps, reverse=True)
    assert {stamp[-8:-3] for stamp in stamps} == {
        f"{hour:02d}:{half}" for hour in range(4, 20) for half in ("00", "30")
    }
    assert {stamp[:7] for stamp in stamps} == {"2026-03"}


def test_the_regular_hours_end_at_one_on_a_half_day() -> None:
    query = {"interval": "5min", "outputsize": "full", "month": "2025-11", "extended_hours": "false"}
    rows = [row["timestamp"] for row in lines("TIME_SERIES_INTRADAY", **query)]
    half = [stamp[11:16] for stamp in rows if stamp.startswith("2025-11-28")]
    assert (half[-1], half[0]) == ("09:30", "12:55")
    whole = [stamp[11:16] for stamp in rows if stamp.startswith("2025-11-26")]
    assert (whole[-1], whole[0]) == ("09:30", "15:55")


def test_prices_are_adjusted_unless_it_is_asked_otherwise() -> None:
    query = {"interval": "30min", "outputsize": "full", "month": "2020-08", "extended_hours": "false"}
    raw = lines("TIME_SERIES_INTRADAY", adjusted="false", **query)
    adjusted = lines("TIME_SERIES_INTRADAY", **query)
    ratio = {
        row["timestamp"][:10]: float(row["close"]) / float(other["close"])
        for row, other in zip(raw, adjusted, strict=True)
    }
    # Four for one on the 31st; dividends since then make a little more of it.
    assert 4.0 < ratio["2020-08-28"] < 4.6
    assert 1.0 < ratio["2020-08-31"] < 1.15


def test_intraday_bars_add_up_to_the_day() -> None:
    query = {"interval": "5min", "outputsize": "full", "extended_hours": "false", "adjusted": "false"}
    rows = [row for row in lines("TIME_SERIES_INTRADAY", **query) if row["timestamp"].startswith("2026-05-14")]
    (day,) = [row for row in lines("TIME_SERIES_DAILY") if row["timestamp"] == "2026-05-14"]
    assert rows[-1]["open"] == day["open"]
    assert rows[0]["close"] == day["close"]
    assert max(float(row["high"]) for row in rows) == float(day["high"])
    assert min(float(row["low"]) for row in rows) == float(day["low"])
    assert sum(int(row["volume"]) for row in rows) == int(day["volume"])


@pytest.mark.parametrize(
    "query",
    [
        {"interval": "2min"},
        {"interval": ""},
        {"interval": "5min", "month": "1999-12"},
        {"interval": "5min", "month": "2026-13"},
        {"interval": "5min", "month": "2027-01"},
        {"interval": "5min", "symbol": "NOBODY"},
        {"interval": "5min", "symbol": "BARC.LON"},
    ],
)
def test_a_wrong_intraday_call_is_told_in_one_line(query: dict[str, str]) -> None:
    assert "Invalid API call" in body("TIME_SERIES_INTRADAY", **query)["Error Message"]


def test_what_is_unknown_is_empty_in_its_own_way() -> None:
    assert body("GLOBAL_QUOTE", symbol="NOBODY") == {"Global Quote": {}}
    assert lines("GLOBAL_QUOTE", symbol="NOBODY") == []
    assert body("OVERVIEW", symbol="NOBODY") == {}
    assert body("OVERVIEW", symbol="SPY") == {}
    assert body("SPLITS", symbol="NOBODY") == {}
    assert body("SYMBOL_SEARCH", keywords="zzzz") == {"bestMatches": []}
    assert body("REALTIME_BULK_QUOTES", symbol="NOBODY")["data"] == []
    assert body("LISTING_STATUS", date="2009-05-05") == {}
    assert body("HISTORICAL_OPTIONS", date="2026-05-10")["message"].startswith("No data for symbol AAPL")
    assert "Error Message" in body("SYMBOL_SEARCH", keywords="")
    assert "Error Message" in body("NO_SUCH_FUNCTION")


def test_old_dividends_have_no_dates_but_the_first() -> None:
    rows = lines("DIVIDENDS", symbol="KO")
    assert rows[-1]["payment_date"] == "None"
    assert rows[0]["payment_date"] > rows[0]["ex_dividend_date"] > rows[0]["declaration_date"]


def test_the_list_has_the_traps_of_the_real_one() -> None:
    rows = {row["symbol"]: row for row in lines("LISTING_STATUS")}
    assert {"-P-HIZ", "ATEST-A", "ZVZZT", "SPY:BAT", "BRK-B"} <= set(rows)
    assert {row["delistingDate"] for row in rows.values()} == {"null"}
    assert rows["ZZK"]["name"] == ""
    assert {row["assetType"] for row in rows.values()} == {"Stock", "ETF"}


# Switches


def test_labels_can_name_the_ends() -> None:
    query = {"interval": "5min", "outputsize": "full"}
    ends = [row["timestamp"] for row in lines("TIME_SERIES_INTRADAY", "bar_end=on", **query)]
    assert (ends[0], ends[-1][11:]) == ("2026-05-15 20:00:00", "04:05:00")
    starts = [row["timestamp"] for row in lines("TIME_SERIES_INTRADAY", **query)]
    assert (starts[0], starts[-1][11:]) == ("2026-05-15 19:55:00", "04:00:00")
    assert len(starts) == len(ends)


def test_the_size_can_be_capped() -> None:
    meta = body("TIME_SERIES_INTRADAY", "compact_only=on", interval="5min", outputsize="full")
    assert len(meta["Time Series (5min)"]) == 100
    assert meta["Meta Data"]["5. Output Size"] == "Compact"


def test_the_bar_under_way_can_be_shown() -> None:
    query = {"interval": "5min", "outputsize": "full", "now": NOON}
    whole = lines("TIME_SERIES_INTRADAY", **query)
    partial = lines("TIME_SERIES_INTRADAY", "partial_last_bar=on", **query)
    assert whole[0]["timestamp"] == "2026-05-14 11:55:00"
    assert partial[0]["timestamp"] == "2026-05-14 12:00:00"
    assert partial[1:] == whole
    later = lines("TIME_SERIES_INTRADAY", **{**query, "now": NOON + timedelta(minutes=3)})
    assert later[0]["timestamp"] == partial[0]["timestamp"]
    assert later[0]["open"] == partial[0]["open"]
    assert 0 < int(partial[0]["volume"]) < int(later[0]["volume"])


def test_functions_can_be_sold() -> None:
    assert "premium endpoint" in body("OVERVIEW", "sold=OVERVIEW")["Information"]
    assert "Symbol" in body("OVERVIEW", "sold=SPLITS,DIVIDENDS")
    assert "premium endpoint" in body("DIVIDENDS", "sold=SPLITS,DIVIDENDS")["Information"]
    assert "premium endpoint" in body("TIME_SERIES_DAILY", "sold=all")["Information"]
    assert body("HISTORICAL_OPTIONS", "sold=all")["data"][0]["contractID"].startswith("XXYYZZ")
    with pytest.raises(FaultError):
        FaultBoard(["alpha_vantage.sold="])


@pytest.mark.parametrize(
    ("function", "place"),
    [
        ("TIME_SERIES_INTRADAY", "Time Series (15min)"),
        ("TIME_SERIES_DAILY", "Time Series (Daily)"),
        ("REALTIME_BULK_QUOTES", "data"),
        ("REALTIME_OPTIONS", "data"),
        ("HISTORICAL_OPTIONS", "data"),
    ],
)
def test_every_premium_function_has_its_placeholder(function: str, place: str) -> None:
    interval = {"interval": "15min"} if function == "TIME_SERIES_INTRADAY" else {}
    told = body(function, "body=placeholder", **interval)
    assert "ARTIFICIAL" in told["message"]
    assert len(told[place]) >= 3


def test_the_full_size_can_be_sold_apart() -> None:
    assert "Information" in body("TIME_SERIES_INTRADAY", "full_is_premium=on", interval="5min", outputsize="full")
    assert "Meta Data" in body("TIME_SERIES_INTRADAY", "full_is_premium=on", interval="5min")


@pytest.mark.parametrize("function", ["GLOBAL_QUOTE", "LISTING_STATUS", "TIME_SERIES_INTRADAY", "MARKET_STATUS"])
def test_keys_and_headers_are_looked_at_before_anything_else(function: str) -> None:
    assert "apikey is invalid or missing" in body(function, apikey="")["Error Message"]
    assert "**demo**" in body(function, apikey="demo")["Information"]
    assert ask(function, accept="text/csv").status == 406


def test_counters_count_every_function() -> None:
    exchange = Exchange(WORLD, FaultBoard(["alpha_vantage.per_day=2"]), SimulatedClock(NOW))
    told = []
    for function in ("GLOBAL_QUOTE", "OVERVIEW", "SPLITS"):
        query = {"function": function, "symbol": "AAPL", "apikey": "planted-key"}
        told.append(exchange.deliver(Asked("alpha_vantage", "/query", query, "", ""), "/").reply.body)
    assert [b"25 requests per day" in one for one in told] == [False, False, True]


def test_row_faults_reach_intraday_rows() -> None:
    query = {"interval": "5min"}
    good = lines("TIME_SERIES_INTRADAY", **query)
    bad = lines("TIME_SERIES_INTRADAY", "negative_price=on", **query)
    assert float(bad[0]["low"]) == -float(good[0]["low"])
    assert bad[1:] == good[1:]
    assert len(lines("TIME_SERIES_INTRADAY", "duplicate_rows=on", **query)) == 101
    gone = lines("TIME_SERIES_INTRADAY", "missing_rows=2026-05-15", **query)
    assert gone[0]["timestamp"] == "2026-05-14 19:55:00"
