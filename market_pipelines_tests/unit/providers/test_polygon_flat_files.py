"""Polygon's flat files as a stream: what comes out, where it goes on, and what is refused."""

import gzip
import subprocess
import sys
from collections.abc import Collection
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market_pipelines.market.bars import BAR_COLUMNS, validate_bars
from market_pipelines.market.intraday import INTRADAY_COLUMNS
from market_pipelines.market.records import QUOTE_COLUMNS, TRADE_COLUMNS
from market_pipelines.providers.polygon import flat_files
from market_pipelines.providers.polygon.flat_files import FlatBatch, FlatFileError, FlatKind, read_flat_file
from market_pipelines.simulator.formats import polygon_flat
from market_pipelines.simulator.minutes import minutes_of
from market_pipelines.simulator.ticks import quotes_of, trades_of
from market_pipelines.simulator.truth import World

NOW = datetime(2026, 11, 19, 22, tzinfo=UTC)
DAY = date(2026, 11, 18)
WINDOW = (datetime(2026, 11, 18, 6, tzinfo=UTC), datetime(2026, 11, 19, 6, tzinfo=UTC))
WORLD = World()
SYMBOLS = ("AAPL", "BRK.B", "IBM")
LISTINGS = [one for one in WORLD.listings if one.symbol in SYMBOLS and one.mic == "XNYS"]
KINDS = {kind: f"{kind.value}_v1" for kind in FlatKind}
AGGREGATES = "ticker,volume,open,close,high,low,window_start,transactions"
MIDNIGHT = 1763442000000000000
HALF_PAST_NINE = 1763476200000000000


def made(folder: Path, kind: FlatKind) -> Path:
    path = folder / f"{kind.value}.csv.gz"
    path.write_bytes(polygon_flat.flat_file(polygon_flat.MAKERS[KINDS[kind]](WORLD, LISTINGS, DAY, NOW, False)))
    return path


def written(folder: Path, *lines: str, name: str = "file.csv") -> Path:
    path = folder / name
    text = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


def whole(path: Path, *, skip_rows: int = 0, symbols: Collection[str] | None = None) -> pd.DataFrame:
    batches = list(read_flat_file(path, skip_rows=skip_rows, symbols=symbols))
    return pd.concat([batch.frame for batch in batches], ignore_index=True)


def test_days_come_out_as_daily_bars(tmp_path: Path) -> None:
    path = made(tmp_path, FlatKind.DAY_AGGS)
    (batch,) = read_flat_file(path)
    assert (batch.kind, batch.rows_read) == (FlatKind.DAY_AGGS, 3)
    assert tuple(batch.frame.columns) == BAR_COLUMNS
    validate_bars(batch.frame)
    assert batch.frame["symbol"].tolist() == list(SYMBOLS)
    listing = WORLD.find("AAPL", "XNYS")
    assert listing is not None
    tape = WORLD.tape(listing, NOW)
    bar = tape.bars.row(int(np.searchsorted(tape.sessions, np.datetime64(DAY))))
    row = batch.frame.iloc[0]
    assert row["session"].date() == DAY
    assert row[["open", "high", "low", "close", "volume"]].tolist() == [
        bar.open,
        bar.high,
        bar.low,
        bar.close,
        bar.volume,
    ]


def test_minutes_come_out_as_bars_within_the_session(tmp_path: Path) -> None:
    path = made(tmp_path, FlatKind.MINUTE_AGGS)
    (batch,) = read_flat_file(path)
    assert batch.kind is FlatKind.MINUTE_AGGS
    assert tuple(batch.frame.columns) == INTRADAY_COLUMNS
    assert batch.frame["ts"].dtype == "datetime64[s, UTC]"
    for listing in LISTINGS:
        truth = minutes_of(WORLD, listing, DAY, DAY, NOW, extended=True)
        found = batch.frame[batch.frame["symbol"] == listing.symbol]
        assert found["ts"].dt.tz_convert(None).to_numpy().tolist() == truth.stamps.tolist()
        for name in ("open", "high", "low", "close", "volume"):
            np.testing.assert_array_equal(found[name], getattr(truth.bars, name))


def test_trades_come_out_to_the_nanosecond_with_parts_of_shares(tmp_path: Path) -> None:
    found = whole(made(tmp_path, FlatKind.TRADES))
    assert tuple(found.columns) == TRADE_COLUMNS
    assert found["ts"].dtype == "datetime64[ns, UTC]"
    for listing in LISTINGS:
        truth = trades_of(WORLD, listing, *WINDOW, NOW)
        of = found[found["symbol"] == listing.symbol]
        assert [stamp.value for stamp in of["ts"]] == truth.stamps.tolist()
        for name in ("seq", "price", "size"):
            np.testing.assert_array_equal(of[name], getattr(truth, name))
        assert of["conditions"].tolist() == truth.conditions.tolist()
    assert found["conditions"].str.contains(",").any()


def test_quotes_come_out_without_the_sides_that_nobody_quotes(tmp_path: Path) -> None:
    found = whole(made(tmp_path, FlatKind.QUOTES))
    assert tuple(found.columns) == QUOTE_COLUMNS
    truth = quotes_of(WORLD, LISTINGS[0], *WINDOW, NOW)
    of = found[found["symbol"] == LISTINGS[0].symbol]
    np.testing.assert_array_equal(of["bid"].fillna(0), truth.bid)
    empty = of["bid"].isna()
    assert empty.any()
    assert of.loc[empty, "bid_size"].isna().all()
    assert set(of.loc[empty, "bid_exchange"]) == {""}


@pytest.mark.parametrize("kind", FlatKind)
@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_reading_goes_on_where_it_stopped(kind: FlatKind, done: int, tmp_path: Path) -> None:
    path = made(tmp_path, kind)
    all_of_it = whole(path)
    if done == len(all_of_it):
        assert list(read_flat_file(path, skip_rows=done)) == []
        return
    batches = list(read_flat_file(path, skip_rows=done))
    assert batches[-1].rows_read == len(all_of_it)
    rest = pd.concat([batch.frame for batch in batches], ignore_index=True)
    pd.testing.assert_frame_equal(rest, all_of_it.iloc[done:].reset_index(drop=True))


def test_every_batch_says_where_reading_can_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat_files, "BLOCK_BYTES", 20_000)
    path = made(tmp_path, FlatKind.MINUTE_AGGS)
    batches = list(read_flat_file(path))
    assert len(batches) > 3
    all_of_it = pd.concat([batch.frame for batch in batches], ignore_index=True)
    assert batches[-1].rows_read == len(all_of_it)
    shares = [batch.share for batch in batches]
    assert shares == sorted(shares)
    assert 0 < shares[0] <= shares[-1] <= 1
    for batch in batches[:-1]:
        rest = whole(path, skip_rows=batch.rows_read)
        pd.testing.assert_frame_equal(rest, all_of_it.iloc[batch.rows_read :].reset_index(drop=True))


def test_only_the_wanted_tickers_come_out_and_the_others_count_as_read(tmp_path: Path) -> None:
    path = made(tmp_path, FlatKind.MINUTE_AGGS)
    batches = list(read_flat_file(path, symbols={"IBM", "ibm", "NOBODY"}))
    found = pd.concat([batch.frame for batch in batches])
    assert set(found["symbol"]) == {"IBM"}
    assert batches[-1].rows_read == len(whole(path)) > len(found)
    nobody = list(read_flat_file(path, symbols=()))
    assert [len(batch.frame) for batch in nobody] == [0]


def test_the_close_stands_before_the_high(tmp_path: Path) -> None:
    path = written(tmp_path, AGGREGATES, f"AAPL,4930,200.29,200.5,200.63,200.2,{HALF_PAST_NINE},129")
    row = whole(path).iloc[0]
    assert row[["open", "high", "low", "close", "volume"]].tolist() == [200.29, 200.63, 200.2, 200.5, 4930.0]


def test_a_plain_file_is_read_like_a_packed_one(tmp_path: Path) -> None:
    line = f"BApA,10.5,1,2,3,0.5,{MIDNIGHT},1"
    for name in ("file.csv", "file.csv.gz"):
        found = whole(written(tmp_path, AGGREGATES, line, name=name))
        assert found.iloc[0][["symbol", "volume"]].tolist() == ["BApA", 10.5]
        assert found["session"][0] == pd.Timestamp("2025-11-18")


def test_members_that_were_packed_one_by_one_are_one_file(tmp_path: Path) -> None:
    path = tmp_path / "file.csv.gz"
    parts = [f"{AGGREGATES}\n", f"A,1,1,1,1,1,{MIDNIGHT},1\n", f"B,1,1,1,1,1,{MIDNIGHT},1\n"]
    path.write_bytes(b"".join(gzip.compress(part.encode()) for part in parts))
    assert whole(path)["symbol"].tolist() == ["A", "B"]


def test_a_file_without_rows_has_no_batches(tmp_path: Path) -> None:
    assert list(read_flat_file(written(tmp_path, AGGREGATES))) == []


def test_a_word_that_means_nothing_elsewhere_can_be_a_ticker(tmp_path: Path) -> None:
    rows = [f"{ticker},1,1,1,1,1,{MIDNIGHT},1" for ticker in ("NA", "NAN", "NULL", "TRUE")]
    assert whole(written(tmp_path, AGGREGATES, *rows))["symbol"].tolist() == ["NA", "NAN", "NULL", "TRUE"]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("ticker,open,close,high,low,window_start", "index aggregates"),
        ("ticker,conditions,correction,exchange,price,sip_timestamp,size", "option trades"),
        (
            "ticker,ask_exchange,ask_price,ask_size,bid_exchange,bid_price,bid_size,sequence_number,sip_timestamp",
            "option quotes",
        ),
        ("ticker,value,timestamp", "index values"),
        ("ticker,volume,open,high,low,close,window_start,transactions", "not the header"),
        ("Date,Open,High,Low,Close,Volume", "not the header"),
        ("<Error><Code>AccessDenied</Code></Error>", "not the header"),
        ("", "not the header"),
    ],
)
def test_another_header_is_refused_by_name(header: str, words: str, tmp_path: Path) -> None:
    path = written(tmp_path, header, name="odd.csv.gz")
    with pytest.raises(FlatFileError, match=words) as refused:
        list(read_flat_file(path))
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("kind", FlatKind)
def test_a_file_that_breaks_off_is_refused_after_the_rows_before(
    kind: FlatKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flat_files, "BLOCK_BYTES", 20_000)
    path = made(tmp_path, kind)
    all_of_it = whole(path)
    path.write_bytes(path.read_bytes()[:-10])
    batches: list[FlatBatch] = []
    with pytest.raises(FlatFileError, match="ended before the end-of-stream"):
        for batch in read_flat_file(path):
            batches.append(batch)
    found = [batch.frame for batch in batches]
    assert sum(map(len, found)) < len(all_of_it) or kind is FlatKind.DAY_AGGS
    if found:
        before = pd.concat(found, ignore_index=True)
        pd.testing.assert_frame_equal(before, all_of_it.iloc[: len(before)])


@pytest.mark.parametrize(
    "line",
    [
        "AAPL,1,1,1,1,1",
        f"AAPL,1,1,1,1,1,{MIDNIGHT},1,1",
        f"AAPL,1,one,1,1,1,{MIDNIGHT},1",
        f"AAPL,1,inf,1,1,1,{MIDNIGHT},1",
        "AAPL,1,1,1,1,1,2025-11-18,1",
        "AAPL,1,1,1,1,1,,1",
        "AAPL,1,1,1,1,1,1.763442e18,1",
        "AAPL,1,1,1,1,1,-5,1",
        f",1,1,1,1,1,{MIDNIGHT},1",
        f"AAPL,1,1,1,1,1,{HALF_PAST_NINE},1",
        f'"AAPL,1,1,1,1,1,{MIDNIGHT},1',
    ],
)
def test_a_line_that_is_no_row_ends_it_with_the_place(line: str, tmp_path: Path) -> None:
    path = written(tmp_path, AGGREGATES, f"A,1,1,1,1,1,{MIDNIGHT},1", line)
    with pytest.raises(FlatFileError, match="after 0 rows"):
        list(read_flat_file(path))


def test_a_plain_file_that_ends_within_a_line_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.csv"
    path.write_text(f"{AGGREGATES}\nAAPL,1,1,1,1,1,{MIDNIGHT},12")
    with pytest.raises(FlatFileError, match="middle of a line"):
        list(read_flat_file(path))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FlatFileError, match=r"nowhere\.csv"):
        list(read_flat_file(tmp_path / "nowhere.csv"))


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_damage_anywhere_gives_rows_or_the_typed_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("flat")
    text = "".join(
        f"{line}\n" for line in (AGGREGATES, *(f"{ticker},1,2,3,4,0.5,{MIDNIGHT},1" for ticker in ("A", "B", "C")))
    ).encode()
    packed = data.draw(st.booleans())
    content = gzip.compress(text, mtime=0) if packed else text
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 20)))
    path = folder / "damaged"
    path.write_bytes(content[:start] + data.draw(st.binary(max_size=10)) + content[end:])
    try:
        frames = [batch.frame for batch in read_flat_file(path)]
    except FlatFileError:
        return
    for frame in frames:
        assert tuple(frame.columns) in (BAR_COLUMNS, INTRADAY_COLUMNS)
        assert (frame["symbol"] != "").all()
        assert not np.isinf(frame["close"]).any()


WRITER = """
import gzip, sys
HEADER = "ticker,volume,open,close,high,low,window_start,transactions"
with gzip.open(sys.argv[1], "wt", compresslevel=1, newline="") as file:
    file.write(HEADER + "\\n")
    for ticker in range(2000):
        start = 1763476200000000000
        file.write("".join(
            f"T{ticker:04d},{minute}.5,200.29,200.5,200.63,200.2,{start + minute * 60_000_000_000},129\\n"
            for minute in range(1000)
        ))
"""
READER = """
import resource, sys
from pathlib import Path
from market_pipelines.providers.polygon.flat_files import read_flat_file
for batch in read_flat_file(Path(sys.argv[1]), symbols={"none"}):
    break
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = most = 0
for batch in read_flat_file(Path(sys.argv[1])):
    rows, most = batch.rows_read, max(most, len(batch.frame))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(rows, most, (after - before) // 1024)
"""
GROWTH_MIB = 96
"""Two million rows are 152 MB of text and as much again in columns."""


def test_two_million_rows_pass_through_a_small_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.csv.gz"
    subprocess.run([sys.executable, "-c", WRITER, str(path)], check=True, timeout=120)
    done = subprocess.run(
        [sys.executable, "-c", READER, str(path)], check=True, timeout=120, capture_output=True, text=True
    )
    rows, most, grown = map(int, done.stdout.split())
    assert rows == 2_000_000
    assert most < 100_000
    assert grown < GROWTH_MIB
