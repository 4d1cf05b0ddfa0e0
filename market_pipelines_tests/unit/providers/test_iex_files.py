import json
from pathlib import Path

import pytest

from market_pipelines.market.bars import BAR_COLUMNS, validate_bars
from market_pipelines.market.intraday import INTRADAY_COLUMNS
from market_pipelines.providers.iex_cloud.files import ChartFileError, read_file, read_folder

DAY = {"date": "2020-11-10", "close": 52.75, "uOpen": 214.5, "uClose": 211.0, "uHigh": 216.5, "uLow": 209.72}
DAY |= {"uVolume": 44045120}
MINUTE = {"date": "2019-03-06", "minute": "09:30", "open": 111.885, "high": 111.99, "low": 111.81, "close": 111.84}
MINUTE |= {"volume": 11248}


def kept(folder: Path, name: str, value: object) -> Path:
    path = folder / name
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return path


def test_days_come_as_traded_and_in_order(tmp_path: Path) -> None:
    path = kept(tmp_path, "MSFT_2020.json", [DAY, {**DAY, "date": "2020-11-09"}])
    (chart,) = read_file(path)
    assert (chart.name, chart.native, chart.interval) == ("MSFT_2020.json", "MSFT", "1day")
    assert tuple(chart.frame.columns) == BAR_COLUMNS
    validate_bars(chart.frame)
    assert chart.frame["close"].tolist() == [211.0, 211.0]
    assert [stamp.day for stamp in chart.frame["session"]] == [9, 10]


def test_minutes_come_as_instants_without_the_gaps(tmp_path: Path) -> None:
    gap = {**dict.fromkeys(("open", "high", "low", "close")), "date": "2019-03-06", "minute": "09:31", "volume": 0}
    (chart,) = read_file(kept(tmp_path, "msft.json", [MINUTE, gap]))
    assert (chart.native, chart.interval, chart.consolidated) == ("MSFT", "1min", False)
    assert tuple(chart.frame.columns) == INTRADAY_COLUMNS
    assert chart.frame["ts"].dt.strftime("%Y-%m-%d %H:%M %Z").tolist() == ["2019-03-06 14:30 UTC"]
    assert str(chart.frame["ts"].dtype) == "datetime64[s, UTC]"


def test_the_rows_own_name_goes_before_the_files(tmp_path: Path) -> None:
    (chart,) = read_file(kept(tmp_path, "chart.json", [{**DAY, "symbol": "BRK.B"}]))
    assert chart.native == "BRK.B"


def test_a_name_that_is_told_goes_before_the_files(tmp_path: Path) -> None:
    (chart,) = read_file(kept(tmp_path, "chart.json", [DAY]), symbol="msft")
    assert chart.native == "MSFT"
    with pytest.raises(ChartFileError, match="AAPL and MSFT"):
        list(read_file(kept(tmp_path, "chart.json", [{**DAY, "symbol": "AAPL"}]), symbol="MSFT"))


def test_a_wrapped_chart_and_a_batch_are_read(tmp_path: Path) -> None:
    (wrapped,) = read_file(kept(tmp_path, "MSFT.json", {"range": "1d", "data": [MINUTE]}))
    assert len(wrapped.frame) == 1
    batch = {"MSFT": {"chart": [DAY]}, "AAPL": {"chart": [MINUTE]}}
    charts = list(read_file(kept(tmp_path, "batch.json", batch)))
    assert [(chart.native, chart.interval) for chart in charts] == [("MSFT", "1day"), ("AAPL", "1min")]


def test_an_empty_chart_has_no_rows(tmp_path: Path) -> None:
    (chart,) = read_file(kept(tmp_path, "ABCD.json", []))
    assert (chart.native, len(chart.frame)) == ("ABCD", 0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"Unknown symbol",
        b"[",
        b"[1]",
        b"null",
        b'{"a": 1}',
        b"\xff\xfe",
        [{"date": "2020-11-10", "close": 52.75}],
        [DAY, MINUTE],
        [DAY, {**DAY, "uClose": 1.0}],
        [{**DAY, "date": "yesterday"}],
        [{**DAY, "uClose": "inf"}],
    ],
)
def test_anything_else_is_told_with_the_files_name(tmp_path: Path, body: object) -> None:
    with pytest.raises(ChartFileError, match=r"odd\.json") as told:
        list(read_file(kept(tmp_path, "odd.json", body)))
    assert told.value.name == "odd.json"


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ChartFileError, match="cannot be read"):
        list(read_file(tmp_path / "nothing.json"))


def test_a_folder_is_read_in_order_and_can_be_gone_on_with(tmp_path: Path) -> None:
    for name in ("MSFT.json", "AAPL.json", "IBM.json"):
        kept(tmp_path, name, [DAY])
    kept(tmp_path, "notes.txt", b"not a chart")
    assert [chart.native for chart in read_folder(tmp_path)] == ["AAPL", "IBM", "MSFT"]
    assert [chart.native for chart in read_folder(tmp_path, after_file="AAPL.json")] == ["IBM", "MSFT"]
    assert [chart.native for chart in read_folder(tmp_path, symbols={"ibm"})] == ["IBM"]
