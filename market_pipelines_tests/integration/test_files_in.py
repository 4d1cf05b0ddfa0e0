"""Files into the tables: what is read, where an interrupted import goes on, and what a broken file costs."""

from __future__ import annotations

import gzip
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from market_pipelines.market.records import TickKind
from market_pipelines.pipeline import importing
from market_pipelines.pipeline.importing import (
    ImportRefused,
    import_flat_file,
    import_iex_chart,
    import_stooq_bulk,
)
from market_pipelines.pipeline.reading import stored_intraday
from market_pipelines.pipeline.ticks import read_ticks
from market_pipelines_tests.faults.house import House

pytestmark = pytest.mark.usefixtures("settings_of_this_machine_are_out_of_sight")

NEW_YORK = ZoneInfo("America/New_York")
WEDNESDAY = date(2025, 6, 11)
BULK_HEADER = "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>\r\n"
BARS_HEADER = "ticker,volume,open,close,high,low,window_start,transactions\n"
TRADES_HEADER = (
    "ticker,conditions,correction,exchange,id,participant_timestamp,price,sequence_number,sip_timestamp,size,tape,"
    "trf_id,trf_timestamp\n"
)
FLAT_MEMORY = 160
"""Megabytes by which reading a file may grow a process, however large the file is."""


def nanoseconds(hour: int = 0, minute: int = 0) -> int:
    moment = datetime(WEDNESDAY.year, WEDNESDAY.month, WEDNESDAY.day, hour, minute, tzinfo=NEW_YORK)
    return int(moment.timestamp()) * 1_000_000_000


def bulk_zip(path: Path, symbols: Sequence[str], days: Sequence[str] = ("20250609", "20250610", "20250611")) -> Path:
    with zipfile.ZipFile(path, "w") as opened:
        for symbol in symbols:
            rows = "".join(f"{symbol.upper()},D,{day},000000,100,110,99,105,{day[-2:]}00.5,0\r\n" for day in days)
            opened.writestr(f"data/daily/us/nasdaq stocks/1/{symbol}.txt", BULK_HEADER + rows)
        opened.writestr("data/daily/us/nasdaq stocks/1/empty.us.txt", "")
    return path


def packed(path: Path, header: str, lines: Sequence[str]) -> Path:
    with gzip.open(path, "wt") as file:
        file.write(header)
        file.writelines(f"{line}\n" for line in lines)
    return path


def stored(house: House) -> list[tuple[object, ...]]:
    return house.rows("SELECT symbol, count(*) FROM market.provider_bars GROUP BY symbol ORDER BY symbol")


def test_a_bulk_zip_brings_the_bars_of_the_markets_symbols(house: House, tmp_path: Path) -> None:
    path = bulk_zip(tmp_path / "d_us_txt.zip", ["aapl.us", "msft.us", "nobody.us"])
    report = import_stooq_bulk(house.platform, house.platform.market("us"), path)
    assert (report.rows, report.stored, report.symbols, report.passed_over) == (9, 6, {"AAPL", "MSFT"}, 2)
    assert stored(house) == [("AAPL", 3), ("MSFT", 3)]
    assert set(house.prices("AAPL")["provider"]) == {"stooq"}


def test_everything_in_the_zip_is_wanted_where_one_says_so(house: House, tmp_path: Path) -> None:
    path = bulk_zip(tmp_path / "d_us_txt.zip", ["aapl.us", "nobody.us", "brk-a.us"])
    report = import_stooq_bulk(house.platform, house.platform.market("us"), path, everything=True)
    assert report.symbols == {"AAPL", "NOBODY", "BRK.A"}


def test_an_interrupted_import_goes_on_behind_what_is_stored(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bulk_zip(tmp_path / "d_us_txt.zip", ["aapl.us", "ibm.us", "ko.us", "msft.us"])
    monkeypatch.setattr(importing, "BATCH_ROWS", 3)
    asked: list[str] = []

    def leave_after_two(_share: float, position: str) -> None:
        asked.append(position)
        if len(asked) == 2:
            raise KeyboardInterrupt

    market = house.platform.market("us")
    with pytest.raises(KeyboardInterrupt):
        import_stooq_bulk(house.platform, market, path, progress=leave_after_two)
    assert stored(house) == [("AAPL", 3), ("IBM", 3)]
    report = import_stooq_bulk(house.platform, market, path)
    assert report.resumed_at.endswith("ibm.us.txt")
    assert (report.rows, report.symbols) == (6, {"KO", "MSFT"})
    assert stored(house) == [("AAPL", 3), ("IBM", 3), ("KO", 3), ("MSFT", 3)]
    again = import_stooq_bulk(house.platform, market, path)
    assert (again.complete, again.rows) == (True, 0)
    assert house.rows("SELECT rows, stored, finished_at IS NOT NULL FROM market.file_imports") == [(12, 12, True)]


def test_a_broken_member_is_told_and_costs_no_other(house: House, tmp_path: Path) -> None:
    path = bulk_zip(tmp_path / "d_us_txt.zip", ["aapl.us"])
    with zipfile.ZipFile(path, "a") as opened:
        opened.writestr("data/daily/us/nasdaq stocks/1/ibm.us.txt", "<html>sorry</html>")
        opened.writestr(
            "data/daily/us/nasdaq stocks/1/ko.us.txt", BULK_HEADER + "KO.US,D,20250611,000000,60,61,59,60,10,0\r\n"
        )
    report = import_stooq_bulk(house.platform, house.platform.market("us"), path)
    assert report.symbols == {"AAPL", "KO"}
    assert len(report.unreadable) == 1
    assert "ibm.us.txt" in report.unreadable[0]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"<html></html>"])
def test_what_is_no_zip_is_refused_with_its_name(house: House, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "d_us_txt.zip"
    path.write_bytes(content)
    with pytest.raises(ImportRefused, match=r"d_us_txt\.zip"):
        import_stooq_bulk(house.platform, house.platform.market("us"), path)


def test_a_day_file_is_a_session_as_traded(house: House, tmp_path: Path) -> None:
    # Close stands before high in these files.
    line = f"AAPL,4930,200.29,200.5,200.63,200.19,{nanoseconds()},129"
    path = packed(tmp_path / "2025-06-11.csv.gz", BARS_HEADER, [line, line.replace("AAPL", "BApA")])
    import_flat_file(house.platform, house.platform.market("us"), path)
    bar = house.prices("AAPL").loc[WEDNESDAY]
    assert (bar["open"], bar["high"], bar["low"], bar["close"], bar["volume"]) == (200.29, 200.63, 200.19, 200.5, 4930)
    assert (bar["provider"], bar["condition"]) == ("polygon", "available")


def test_a_minute_file_is_kept_by_the_minute_and_read_by_the_hour(house: House, tmp_path: Path) -> None:
    minute = 60_000_000_000
    lines = [f"AAPL,10,200,200,201,199,{nanoseconds(9, 30) + step * minute},3" for step in range(390)]
    path = packed(tmp_path / "2025-06-11.csv.gz", BARS_HEADER, lines)
    report = import_flat_file(house.platform, house.platform.market("us"), path)
    assert (report.interval, report.stored) == ("1min", 390)
    hours = stored_intraday(house.platform.database, ["AAPL"], "60min", market="us")
    assert hours["volume"].tolist() == [600.0] * 6 + [300.0]


def trades(count: int) -> list[str]:
    first = nanoseconds(9, 30)
    return [
        f'AAPL,"12,37",0,4,{at},{first + at * 1_000},200.1,{at},{first + at * 1_000 + 7},1.5,3,0,0'
        for at in range(count)
    ]


def test_trades_go_to_the_lake_to_the_nanosecond_and_only_once(house: House, tmp_path: Path) -> None:
    path = packed(tmp_path / "2025-06-11.csv.gz", TRADES_HEADER, trades(500))
    market = house.platform.market("us")
    import_flat_file(house.platform, market, path)
    import_flat_file(house.platform, market, path, again=True)
    start = datetime(2025, 6, 11, 9, 30, tzinfo=NEW_YORK)
    found = read_ticks(house.platform, ["AAPL"], TickKind.TRADES, start, start.replace(minute=31))
    assert len(found) == 500
    row = found.iloc[3]
    assert row["ts"].value == nanoseconds(9, 30) + 3_007
    assert [row[name] for name in ("price", "size", "conditions", "seq")] == [200.1, 1.5, "12,37", 3]
    assert house.rows("SELECT kind, feed, session, rows FROM market.tick_segments") == [
        ("trades", "polygon-flat", WEDNESDAY, 500)
    ]


def test_two_trades_of_one_instant_and_sequence_number_are_two(house: House, tmp_path: Path) -> None:
    one = trades(1)[0]
    path = packed(tmp_path / "2025-06-11.csv.gz", TRADES_HEADER, [one, one.replace(",0,4,", ",0,11,")])
    market = house.platform.market("us")
    import_flat_file(house.platform, market, path)
    import_flat_file(house.platform, market, path, symbols=["AAPL"])
    start = datetime(2025, 6, 11, 9, 30, tzinfo=NEW_YORK)
    found = read_ticks(house.platform, ["AAPL"], TickKind.TRADES, start, start.replace(minute=31))
    assert len(house.rows("SELECT 1 FROM market.tick_segments")) == 2
    assert sorted(found["exchange"]) == ["11", "4"]


def test_a_file_that_breaks_off_keeps_what_came_before_and_says_where(house: House, tmp_path: Path) -> None:
    whole = packed(tmp_path / "whole.csv.gz", TRADES_HEADER, trades(200_000)).read_bytes()
    path = tmp_path / "2025-06-11.csv.gz"
    path.write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.raises(ImportRefused, match=r"2025-06-11\.csv\.gz: after [\d,]+ rows"):
        import_flat_file(house.platform, house.platform.market("us"), path)
    ((rows,),) = house.rows("SELECT sum(rows) FROM market.tick_segments")
    assert 0 < rows < 200_000


def test_another_header_is_refused(house: House, tmp_path: Path) -> None:
    path = packed(tmp_path / "file.csv.gz", "date,price\n", ["2025-06-11,3"])
    with pytest.raises(ImportRefused, match="header"):
        import_flat_file(house.platform, house.platform.market("us"), path)


def test_a_chart_of_iex_is_about_the_symbol_that_one_names(house: House, tmp_path: Path) -> None:
    row = (
        '{"date":"2025-06-11","open":50.0,"close":52.5,"high":55.0,"low":49.5,"volume":2000,"uOpen":100.0,'
        '"uClose":105.0,"uHigh":110.0,"uLow":99.0,"uVolume":1000,"change":0,"changePercent":0,"label":"Jun 11",'
        '"changeOverTime":0}'
    )
    path = tmp_path / "chart.json"
    path.write_text(f"[{row}]")
    import_iex_chart(house.platform, house.platform.market("us"), path, "MSFT")
    bar = house.prices("MSFT").loc[WEDNESDAY]
    assert (bar["close"], bar["volume"], bar["provider"]) == (105.0, 1000.0, "iex_cloud")


GROWTH = """
import resource, sys
from pathlib import Path
from market_pipelines.providers.polygon.flat_files import read_flat_file
batches = read_flat_file(Path(sys.argv[1]))
next(batches)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = 0
for batch in batches:
    rows = batch.rows_read
print(rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_stays_flat_over_a_large_file(tmp_path: Path) -> None:
    block = trades(100_000)
    path = tmp_path / "large.csv.gz"
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write(TRADES_HEADER)
        for _ in range(15):
            file.writelines(f"{line}\n" for line in block)
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(path)], capture_output=True, text=True, check=True, timeout=120
    )
    rows, growth = map(int, done.stdout.split())
    assert rows == 1_500_000
    assert growth < FLAT_MEMORY
