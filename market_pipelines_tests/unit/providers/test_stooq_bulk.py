import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_pipelines.market.bars import BAR_COLUMNS, validate_bars
from market_pipelines.market.intraday import INTRADAY_COLUMNS
from market_pipelines.providers.stooq.bulk import BulkError, bulk_size, read_bulk, read_member

HEADER = "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>\r\n"
AAPL = "data/daily/us/nasdaq stocks/1/aapl.us.txt"
BRK = "data/daily/us/nyse stocks/1/brk-b.us.txt"
ROW = "AAPL.US,D,19840907,000000,0.0992653,0.100484,0.0980668,0.0992653,99149603.25,0\r\n"
MEMORY_FOR_IT = 80 * 1024 * 1024
READS_WITHIN = """
import resource, sys
from pathlib import Path
from market_pipelines.providers.stooq.bulk import read_bulk

taken = next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").open() if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (taken + int(sys.argv[2]),) * 2)
print(sum(len(member.frame) for member in read_bulk(Path(sys.argv[1]))))
"""
"""Reads a zip in no more than so many bytes beside what the libraries have taken before."""


def bars(ticker: str, period: str = "D", *rows: str) -> str:
    return HEADER + "".join(f"{ticker},{period},{row},1,2,0.5,1.5,10,0\r\n" for row in rows)


def zipped(folder: Path, members: Mapping[str, str | bytes], name: str = "d_us_txt.zip") -> Path:
    path = folder / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as written:
        for member, text in members.items():
            written.writestr(member, text)
    return path


def test_daily_members_come_as_bars_under_stooqs_spelling(tmp_path: Path) -> None:
    path = zipped(tmp_path, {AAPL: HEADER + ROW, BRK: bars("BRK-B.US", "D", "20260105,000000", "20260106,000000")})
    first, second = read_bulk(path)
    assert (first.name, first.native, first.interval) == (AAPL, "aapl.us", "1day")
    assert tuple(first.frame.columns) == BAR_COLUMNS
    validate_bars(first.frame)
    row = first.frame.iloc[0]
    assert row["session"].date() == date(1984, 9, 7)
    assert row[["open", "high", "low", "close", "volume"]].tolist() == [
        0.0992653,
        0.100484,
        0.0980668,
        0.0992653,
        99149603.25,
    ]
    assert second.native == "brk-b.us"
    assert len(second.frame) == 2


def test_line_ends_and_the_final_one_do_not_matter() -> None:
    text = (HEADER + ROW + ROW.replace("0907", "0910")).replace("\r\n", "\n").rstrip("\n")
    assert len(read_member(AAPL, text.encode()).frame) == 2


@pytest.mark.parametrize(
    ("day", "times", "expected"),
    [
        ("20260114", ("153000", "215500"), ("14:30", "20:55")),
        ("20260310", ("143000", "205500"), ("13:30", "19:55")),
        ("20251028", ("143000", "205500"), ("13:30", "19:55")),
    ],
)
def test_five_minutes_start_where_warsaws_clock_says(
    day: str, times: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    text = bars("AAPL.US", "5", *(f"{day},{time}" for time in times))
    member = read_member("data/5 min/us/nasdaq stocks/1/aapl.us.txt", text.encode())
    assert member.interval == "5min"
    assert tuple(member.frame.columns) == INTRADAY_COLUMNS
    assert str(member.frame["ts"].dtype) == "datetime64[s, UTC]"
    assert tuple(f"{stamp:%H:%M}" for stamp in member.frame["ts"]) == expected


def test_hours_end_where_warsaws_clock_says_and_the_first_begins_at_the_bell() -> None:
    text = bars("AAPL.US", "60", *(f"20260114,{hour}0000" for hour in range(16, 23)))
    member = read_member("aapl.us.txt", text.encode())
    assert [f"{stamp:%H:%M}" for stamp in member.frame["ts"]] == [
        "14:30",
        "15:00",
        "16:00",
        "17:00",
        "18:00",
        "19:00",
        "20:00",
    ]


@pytest.mark.parametrize(
    ("zip_name", "name", "interval"),
    [
        ("d_us_txt.zip", "data/daily/us/x.us.txt", "1day"),
        ("odd.zip", "data/hourly/us/x.us.txt", "60min"),
        ("odd.zip", "data/5 min/us/x.us.txt", "5min"),
        ("5_us_txt.zip", "x.us.txt", "5min"),
        ("odd.zip", "x.us.txt", "1day"),
    ],
)
@pytest.mark.parametrize("text", ["", HEADER, "\r\n"])
def test_an_empty_file_is_a_member_without_rows(
    tmp_path: Path, zip_name: str, name: str, interval: str, text: str
) -> None:
    (member,) = read_bulk(zipped(tmp_path, {name: text}, zip_name))
    assert (member.native, member.interval, len(member.frame)) == ("x.us", interval, 0)


def test_reading_goes_on_after_the_member_that_was_last(tmp_path: Path) -> None:
    names = [f"data/daily/us/nasdaq stocks/1/s{number}.us.txt" for number in range(5)]
    path = zipped(tmp_path, {name: bars(f"S{at}.US", "D", "20260105,000000") for at, name in enumerate(names)})
    seen = [member.name for member in read_bulk(path)]
    assert seen == names
    for at, name in enumerate(names):
        assert [member.name for member in read_bulk(path, after_member=name)] == names[at + 1 :]
    with pytest.raises(BulkError, match="another zip"):
        next(read_bulk(path, after_member="data/daily/us/gone.txt"))


def test_only_the_chosen_symbols_are_unpacked(tmp_path: Path) -> None:
    broken = HEADER + "BRK-B.US,D,never\r\n"
    path = zipped(tmp_path, {BRK: broken, AAPL: HEADER + ROW})
    assert [member.native for member in read_bulk(path, symbols={"AAPL.US"})] == ["aapl.us"]


def test_other_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    path = zipped(tmp_path, {"data/": "", "readme.html": "<html>", AAPL: HEADER + ROW})
    assert [member.native for member in read_bulk(path)] == ["aapl.us"]
    assert bulk_size(path) == (1, len(HEADER + ROW))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Date,Open,High,Low,Close,Volume\r\n2026-01-05,1,2,1,2,3\r\n", "header"),
        ("<html>Przepisz powyższy kod</html>", "header"),
        (HEADER + "AAPL.US,D,20260105\r\n", "cannot be read"),
        (HEADER + ROW.replace("AAPL", "MSFT"), "rows are about msft.us"),
        (HEADER + ROW + ROW.replace("AAPL", "MSFT"), "2 symbols"),
        (HEADER + ROW.replace(",D,", ",W,"), "neither D nor 60"),
        (HEADER + ROW + ROW.replace(",D,", ",60,"), "2 periods"),
        (HEADER + ROW.replace("19840907", "1984-9-7"), "cannot be read"),
        (HEADER + ROW.replace("19840907", "19840231"), "cannot be read"),
        (HEADER + ROW.replace("0.100484", "dear"), "cannot be read"),
        (HEADER + ROW.replace("0.100484", "inf"), "finite"),
        (HEADER + ROW + ROW.replace("0.100484", "0.2"), "two different rows"),
        (HEADER + ROW.replace("AAPL.US", ""), "symbol"),
    ],
)
def test_what_cannot_be_read_is_told_and_can_be_passed(tmp_path: Path, text: str, told: str) -> None:
    later = {BRK: bars("BRK-B.US", "D", "20260105,000000")}
    path = zipped(tmp_path, {AAPL: text, **later})
    with pytest.raises(BulkError, match=told) as error:
        list(read_bulk(path))
    assert error.value.member == AAPL
    assert [member.native for member in read_bulk(path, after_member=error.value.member)] == ["brk-b.us"]


def test_identical_rows_are_one_and_any_order_comes_out_oldest_first() -> None:
    other = ROW.replace("19840907", "19840906")
    frame = read_member(AAPL, (HEADER + ROW + other + ROW).encode()).frame
    assert [stamp.day for stamp in frame["session"]] == [6, 7]


def test_a_broken_zip_is_told(tmp_path: Path) -> None:
    path = zipped(tmp_path, {AAPL: HEADER + ROW * 50})
    whole = path.read_bytes()
    for body in (b"", b"<html>", whole[: len(whole) // 2], whole[:-10]):
        path.write_bytes(body)
        with pytest.raises(BulkError, match=r"d_us_txt\.zip is not a whole zip"):
            list(read_bulk(path))
        with pytest.raises(BulkError, match=r"d_us_txt\.zip"):
            bulk_size(path)
    path.write_bytes(whole[:60] + bytes(20) + whole[80:])
    with pytest.raises(BulkError):
        list(read_bulk(path))
    with pytest.raises(BulkError, match="cannot be read"):
        list(read_bulk(tmp_path / "nothing.zip"))


def test_a_locked_zip_is_told(tmp_path: Path) -> None:
    path = zipped(tmp_path, {AAPL: HEADER + ROW})
    body = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        body[body.index(signature) + offset] |= 1
    path.write_bytes(body)
    with pytest.raises(BulkError, match="cannot be unpacked"):
        list(read_bulk(path))


@given(body=st.binary(max_size=200), at=st.integers(0, 400))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_members_or_the_one_error(
    tmp_path_factory: pytest.TempPathFactory, body: bytes, at: int
) -> None:
    path = tmp_path_factory.mktemp("zip") / "d_us_txt.zip"
    zipped(path.parent, {AAPL: HEADER + ROW, BRK: ""})
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + body + whole[at + len(body) :])
    try:
        for member in read_bulk(path):
            assert member.frame["session"].is_monotonic_increasing
    except BulkError as error:
        assert str(error)


@pytest.mark.skipif(sys.platform != "linux", reason="the cap is set by what Linux tells of a process")
def test_a_zip_larger_than_memory_is_read_one_member_at_a_time(tmp_path: Path) -> None:
    """A quarter of a gigabyte when unpacked, in a process that may only have a third of that for it."""
    days = np.datetime_as_string(np.arange("1927-01-01", "2026-01-01", dtype="datetime64[D]"))
    rows = "".join(f"S.US,D,{day.replace('-', '')},000000,1.5,2.5,0.5,1.75,1234567.25,0\r\n" for day in days.tolist())
    path, members = tmp_path / "d_us_txt.zip", 130
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as written:
        for number in range(members):
            written.writestr(f"data/daily/us/nasdaq stocks/1/f{number}/s.us.txt", HEADER + rows)
    assert bulk_size(path)[1] > 3 * MEMORY_FOR_IT
    # Arrow's own pool sets aside a gigabyte of addresses at its first use, which the cap would count.
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}
    command = [sys.executable, "-c", READS_WITHIN, str(path), str(MEMORY_FOR_IT)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == members * len(days)
