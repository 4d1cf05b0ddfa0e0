"""The three wordings of one world: each looks like its provider's captures, and each can be led back to the truth."""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from market_pipelines.simulator.formats import alpha_vantage, stooq, yahoo
from market_pipelines.simulator.formats.reply import Reply
from market_pipelines.simulator.truth import DIVIDEND, SPLIT, Tape, World

NOW = datetime(2025, 6, 12, 22, 0, tzinfo=UTC)
"""A Thursday, after the close of New York; the same day there."""
FRIDAY_MORNING = datetime(2025, 6, 13, 8, 0, tzinfo=UTC)
NEW_YORK = ZoneInfo("America/New_York")
WORLD = World()
RECORDED = Path(__file__).resolve().parents[3] / ".." / "shared" / "reference" / "recorded"
Row = tuple[str, float, float, float, float, float]


def recorded(name: str) -> str:
    path = RECORDED / name
    if not path.is_file():
        pytest.skip(f"no recorded answers beside this checkout ({name})")
    return path.read_text(encoding="utf-8")


def tape(symbol: str, mic: str = "XNYS", now: datetime = NOW) -> Tape:
    found = WORLD.find(symbol, mic)
    assert found is not None
    return WORLD.tape(found, now)


def traded(symbol: str, mic: str = "XNYS", now: datetime = NOW) -> list[Row]:
    of = tape(symbol, mic, now)
    bars = [of.bars.row(number) for number in range(len(of.sessions))]
    return [
        (str(day), bar.open, bar.high, bar.low, bar.close, bar.volume)
        for day, bar in zip(of.sessions, bars, strict=True)
    ]


def av(function: str = alpha_vantage.DAILY, **query: str) -> Reply:
    asked = {"function": function, "symbol": "IBM", "apikey": "simulated", "outputsize": "full", **query}
    return alpha_vantage.answer(asked, WORLD, NOW)


def chart(symbol: str, now: datetime = NOW, **query: str) -> dict[str, Any]:
    asked = {"interval": "1d", "events": "div,splits", "period1": "0", **query}
    asked.setdefault("period2", str(int(now.timestamp()) + 86400))
    body = json.loads(yahoo.answer(symbol, asked, WORLD, now).body)
    result: dict[str, Any] = body["chart"]["result"][0]
    return result


def history(symbol: str, now: datetime = NOW, **query: str) -> str:
    return stooq.answer({"s": symbol, "i": "d", **query}, WORLD, now).body.decode("ascii")


def csv_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


# What the bodies look like


def shape(text: str) -> Iterator[str]:
    """The lines of a body with every date and number replaced by its style."""
    for line in text.splitlines():
        styled = re.sub(r'"\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d)?"', '"date"', line)
        styled = re.sub(r'"\d+\.(\d+)"', lambda found: f'"decimals {len(found[1])}"', styled)
        yield re.sub(r'"\d+"', '"digits"', styled)


@pytest.mark.parametrize(
    ("function", "name", "lines"),
    [
        (alpha_vantage.DAILY, "alpha_vantage/time_series_daily.json", 7),
        (alpha_vantage.ADJUSTED, "alpha_vantage/time_series_daily_adjusted.json", 10),
    ],
)
def test_alpha_vantage_json_has_the_lines_of_a_recording(function: str, name: str, lines: int) -> None:
    wanted = list(shape(recorded(name)))
    ours = list(shape(av(function).body.decode()))
    assert ours[: 9 + lines] == wanted[: 9 + lines]
    assert ours[-lines - 2 :] == wanted[-lines - 2 :]
    assert not av(function).body.endswith(b"\n")


def test_alpha_vantage_csv_has_the_rows_of_a_recording() -> None:
    row = re.compile(r"\d{4}-\d\d-\d\d(,\d+\.\d{4}){4},\d+")
    theirs = recorded("alpha_vantage/time_series_daily_compact.csv").split("\n")
    reply = av(datatype="csv", outputsize="compact")
    ours = reply.body.decode().split("\r\n")
    assert ours[0] == theirs[0]
    assert len(ours) == len(theirs) == 102
    assert ours[-1] == theirs[-1] == ""
    for line in (*ours[1:-1], *theirs[1:-1]):
        assert row.fullmatch(line), line
    assert reply.content_type == "application/x-download"


def test_the_adjusted_csv_does_not_pad() -> None:
    first, *rows = av(alpha_vantage.ADJUSTED, datatype="csv").body.decode().split("\r\n")
    assert first.endswith("close,adjusted_close,volume,dividend_amount,split_coefficient")
    assert any(re.search(r",\d+\.\d,", row) for row in rows)
    assert any(re.search(r",\d+\.\d{13,},", row) for row in rows)
    assert rows[0].endswith(",0.0000,1.0")


def styles(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: styles(part) for name, part in value.items()}
    if isinstance(value, list):
        return sorted({str(styles(part)) for part in value})
    return type(value).__name__


def test_a_yahoo_chart_has_the_keys_order_and_types_of_a_recording() -> None:
    text = recorded("yahoo/chart_aapl_6mo_live_last_bar.json")
    body = yahoo.answer("AAPL", {"range": "6mo", "interval": "1d", "events": "div"}, WORLD, NOW).body.decode()
    theirs, ours = json.loads(text), json.loads(body)
    assert json.dumps(ours, separators=(",", ":")) == body
    assert json.dumps(theirs, separators=(",", ":")) == text
    theirs["chart"]["result"][0].pop("events")
    events = ours["chart"]["result"][0].pop("events")
    assert json.dumps(styles(ours)) == json.dumps(styles(theirs))
    assert {type(key).__name__ for key in events["dividends"]} == {"str"}


def test_yahoo_events_are_worded_as_recorded() -> None:
    whole = json.loads(recorded("yahoo/chart_aapl_1d_split_dividend_dst.json"))["chart"]["result"][0]["events"]
    exact = json.loads(recorded("yahoo/chart_aapl_1mo_splits.json"))["chart"]["result"][0]["events"]["splits"]
    ours = chart("AAPL", period1="1591000000", period2="1606780800")["events"]
    assert list(ours) == list(whole) == ["dividends", "splits"]
    assert ours["splits"] == whole["splits"]
    assert list(ours["splits"]["1598880600"].items()) == list(exact["1596254400"].items())
    for key, dividend in ours["dividends"].items():
        assert list(dividend) == list(whole["dividends"]["1604673000"])
        assert dividend["date"] == int(key)


def test_yahoo_stamps_are_those_of_a_recording() -> None:
    wanted = json.loads(recorded("yahoo/chart_aapl_1d_split_dividend_dst.json"))["chart"]["result"][0]["timestamp"]
    assert chart("AAPL", period1="1598832000", period2="1604707200")["timestamp"] == wanted


def test_yahoo_without_rows_has_no_timestamp() -> None:
    weekend = chart("AAPL", period1="1738368000", period2="1738454400")
    assert list(weekend) == ["meta", "indicators"]
    assert weekend["indicators"] == {"quote": [{}], "adjclose": [{}]}
    assert list(chart("SIMD", period1="1711929600", period2="1714521600")) == ["meta", "indicators"]


def test_yahoo_does_not_know_an_unknown_symbol() -> None:
    reply = yahoo.answer("NOSUCH", {"interval": "1d", "range": "1mo"}, WORLD, NOW)
    assert reply.status == 404
    assert reply.body == (
        b'{"chart":{"result":null,"error":{"code":"Not Found","description":"No data found, symbol may be delisted"}}}'
    )


@pytest.mark.parametrize("name", ["stooq/wig_d.csv", "stooq/spx_d.csv", "stooq/wig20_d_polish_header.csv"])
def test_a_stooq_file_has_the_style_of_a_recording(name: str) -> None:
    number = r"(?:0|[1-9]\d*)(?:\.\d*[1-9])?"
    row = re.compile(rf"\d{{4}}-\d\d-\d\d(?:,{number}){{5}}")
    header, *theirs = recorded(name).splitlines()
    assert header in (",".join(stooq.ENGLISH), ",".join(stooq.POLISH))
    for text in (history("aapl.us"), history("wig20"), history("brk-b.us")):
        first, *ours, end = text.split("\r\n")
        assert (first, end) == ("Date,Open,High,Low,Close,Volume", "")
        assert ours == sorted(ours)
        for line in (*ours, *theirs):
            assert row.fullmatch(line), line


def test_stooq_says_that_it_has_no_data() -> None:
    assert history("nosuch.us") == "No data"
    assert history("zab", d1="20200101", d2="20201231") == "No data"


# Each can be led back to the truth


def test_alpha_vantage_tells_what_was_traded() -> None:
    truth = traded("AAPL")
    rows = csv_rows(av(symbol="AAPL", datatype="csv").body.decode())
    told = [(row["timestamp"], *(float(row[n]) for n in ("open", "high", "low", "close", "volume"))) for row in rows]
    assert told[::-1] == truth
    series = json.loads(av(symbol="AAPL").body)["Time Series (Daily)"]
    assert [(day, float(row["4. close"])) for day, row in series.items()] == [(r[0], r[4]) for r in told]


def test_alpha_vantage_gives_actions_on_their_ex_date() -> None:
    rows = csv_rows(av(alpha_vantage.ADJUSTED, symbol="AAPL", datatype="csv").body.decode())
    splits = {row["timestamp"]: float(row["split_coefficient"]) for row in rows if row["split_coefficient"] != "1.0"}
    paid = {row["timestamp"]: float(row["dividend_amount"]) for row in rows if row["dividend_amount"] != "0.0000"}
    of = tape("AAPL")
    assert splits == {action.ex_date.isoformat(): action.value for action in of.actions_of(SPLIT)}
    assert paid == {action.ex_date.isoformat(): action.value for action in of.actions_of(DIVIDEND)}


@pytest.mark.parametrize("symbol", ["AAPL", "NVDA", "SIMR", "MSFT"])
def test_yahoo_undone_by_its_own_events_is_what_was_traded(symbol: str) -> None:
    result = chart(symbol)
    splits = [
        (int(key), split["numerator"] / split["denominator"])
        for key, split in result.get("events", {}).get("splits", {}).items()
    ]
    quote = result["indicators"]["quote"][0]
    truth = traded(symbol)
    assert len(result["timestamp"]) == len(truth)
    for number, stamp in enumerate(result["timestamp"]):
        ratio = 1.0
        for ex_stamp, value in splits:
            if ex_stamp > stamp:
                ratio *= value
        day, opened, high, low, close, volume = truth[number]
        assert datetime.fromtimestamp(stamp, NEW_YORK).date().isoformat() == day
        for name, price in (("open", opened), ("high", high), ("low", low), ("close", close)):
            assert quote[name][number] * ratio == pytest.approx(price, rel=1e-6), (day, name)
        assert quote["volume"][number] / ratio == pytest.approx(volume, abs=1)


def test_yahoo_restates_dividends_for_later_splits() -> None:
    dividends = chart("AAPL")["events"]["dividends"]
    for action in tape("AAPL").actions_of(DIVIDEND):
        stamp = int(datetime.combine(action.ex_date, datetime.min.time(), NEW_YORK).timestamp()) + 34200
        later = 4 if action.ex_date < date(2020, 8, 31) else 1
        later *= 7 if action.ex_date < date(2014, 6, 9) else 1
        assert dividends[str(stamp)]["amount"] == pytest.approx(action.value / later, abs=1e-6)


def adjusted_by_hand(symbol: str, mic: str = "XNYS") -> list[tuple[str, float, float]]:
    """Session, factor for splits and dividends, adjusted close: step by step from the newest row backwards."""
    actions = {(a.ex_date.isoformat(), a.kind): a.value for a in tape(symbol, mic).actions}
    rows = traded(symbol, mic)
    factor, found = 1.0, []
    for number in range(len(rows) - 1, -1, -1):
        day, close = rows[number][0], rows[number][4]
        found.append((day, factor, close * factor))
        split = actions.get((day, SPLIT), 1.0)
        before = rows[number - 1][4] / split if number else close
        factor *= (1 - actions.get((day, DIVIDEND), 0.0) / before) / split
    return found[::-1]


@pytest.mark.parametrize(("symbol", "mic", "spelled"), [("AAPL", "XNYS", "aapl.us"), ("PKO", "XWAR", "pko")])
def test_stooq_undone_by_the_known_actions_is_what_was_traded(symbol: str, mic: str, spelled: str) -> None:
    told = csv_rows(history(spelled))
    truth, adjusted = traded(symbol, mic), adjusted_by_hand(symbol, mic)
    assert len(told) == len(truth)
    for row, real, (day, factor, close) in zip(told, truth, adjusted, strict=True):
        assert row["Date"] == real[0] == day
        assert float(row["Close"]) == pytest.approx(close, rel=2e-5)
        for name, price in (("Open", real[1]), ("High", real[2]), ("Low", real[3]), ("Close", real[4])):
            assert float(row[name]) / factor == pytest.approx(price, rel=2e-5), (day, name)
        assert float(row["Volume"]) * factor == pytest.approx(real[5], rel=1e-9)


def test_all_adjusted_closes_agree() -> None:
    by_hand = [close for _, _, close in adjusted_by_hand("AAPL")]
    rows = csv_rows(av(alpha_vantage.ADJUSTED, symbol="AAPL", datatype="csv").body.decode())
    assert [float(row["adjusted_close"]) for row in rows][::-1] == pytest.approx(by_hand, rel=1e-9)
    assert chart("AAPL")["indicators"]["adjclose"][0]["adjclose"] == pytest.approx(by_hand, rel=1e-6)


def test_a_stooq_history_changes_after_a_dividend() -> None:
    ex_date = tape("AAPL").actions_of(DIVIDEND)[-1].ex_date
    midnight = datetime.combine(ex_date, datetime.min.time(), NEW_YORK)
    before = history("aapl.us", now=midnight, d2="20200103").splitlines()
    after = history("aapl.us", now=midnight + timedelta(hours=20), d2="20200103").splitlines()
    assert len(before) == len(after)
    assert before[-1] != after[-1]
    assert before[-1].split(",")[0] == after[-1].split(",")[0]


# Ranges, clocks, refusals


def test_a_row_is_the_same_in_every_range() -> None:
    whole = {line[:10]: line for line in history("msft.us").splitlines()}
    part = history("msft.us", d1="20240102", d2="20241231").splitlines()[1:]
    assert len(part) == 252
    assert [whole[line[:10]] for line in part] == part
    full = av(datatype="csv").body.decode().splitlines()
    assert av(datatype="csv", outputsize="compact").body.decode().splitlines() == full[:101]
    long, short = chart("MSFT"), chart("MSFT", period1="1704153600", period2="1735776000")
    places = [long["timestamp"].index(stamp) for stamp in short["timestamp"]]
    closes = long["indicators"]["quote"][0]["close"]
    assert [closes[place] for place in places] == short["indicators"]["quote"][0]["close"]


@pytest.mark.parametrize(
    ("body", "sha256"),
    [
        (lambda: av(datatype="csv", outputsize="compact").body, "2da5e38eed2a18a6"),
        (lambda: stooq.answer({"s": "pko", "i": "d"}, WORLD, NOW).body, "2b72c1b3d63e1a68"),
        (
            lambda: yahoo.answer("AAPL", {"range": "5y", "interval": "1d", "events": "div,splits"}, WORLD, NOW).body,
            "98bbdb775b24934e",
        ),
    ],
    ids=["alpha_vantage", "stooq", "yahoo"],
)
def test_one_seed_and_one_clock_give_the_same_bytes_for_ever(body: Any, sha256: str) -> None:
    assert hashlib.sha256(body()).hexdigest()[:16] == sha256


def test_the_last_yahoo_bar_is_stamped_with_its_last_trade_on_its_own_day() -> None:
    during = datetime(2025, 6, 12, 15, 0, 7, tzinfo=UTC)
    assert chart("AAPL", during)["timestamp"][-1] == int(during.timestamp())
    assert chart("AAPL", during)["meta"]["regularMarketTime"] == int(during.timestamp())
    close = int(datetime(2025, 6, 12, 20, 0, 1, tzinfo=UTC).timestamp())
    assert chart("AAPL", NOW)["timestamp"][-1] == close
    opened = int(datetime(2025, 6, 12, 13, 30, tzinfo=UTC).timestamp())
    assert chart("AAPL", FRIDAY_MORNING)["timestamp"][-1] == opened


def test_gmtoffset_is_that_of_now_and_not_of_the_bar() -> None:
    winter = {"period1": "1736899200", "period2": "1737504000"}
    assert chart("AAPL", NOW, **winter)["meta"]["gmtoffset"] == -14400
    assert chart("PKO.WA", NOW, **winter)["meta"]["gmtoffset"] == 7200
    first = chart("AAPL", NOW, **winter)["timestamp"][0]
    assert datetime.fromtimestamp(first, UTC).strftime("%H:%M") == "14:30"


def test_london_is_in_pence_and_tokyo_has_its_own_clock() -> None:
    assert chart("VOD.L")["meta"]["currency"] == "GBp"
    tokyo = chart("7203.T")
    assert tokyo["meta"]["timezone"] == "JST"
    assert datetime.fromtimestamp(tokyo["timestamp"][-1], UTC).strftime("%H:%M") == "00:00"


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({"symbol": "NOSUCH"}, "Invalid API call. Please retry or visit the documentation"),
        ({"symbol": "PKO"}, "Invalid API call."),
        ({"function": "NO_SUCH"}, "for NO_SUCH."),
        ({"apikey": ""}, "the parameter apikey is invalid or missing."),
        ({"apikey": "expired"}, "the parameter apikey is invalid or missing."),
        ({"apikey": "demo"}, "The **demo** API key is for demo purposes only."),
    ],
)
def test_alpha_vantage_refuses_in_json_with_status_200(query: dict[str, str], text: str) -> None:
    asked = {"datatype": "csv", "function": alpha_vantage.DAILY, **query}
    reply = av(asked.pop("function"), **asked)
    assert reply.status == 200
    (told,) = json.loads(reply.body).values()
    assert text in told


def test_class_shares_are_spelled_with_a_dash() -> None:
    assert json.loads(av(symbol="BRK-B").body)["Meta Data"]["2. Symbol"] == "BRK-B"
    assert chart("BRK-B")["meta"]["symbol"] == "BRK-B"
    assert history("brk-b.us", d1="20240102", d2="20240102").count("\r\n") == 2
    assert chart("^GSPC")["meta"]["instrumentType"] == "INDEX"
