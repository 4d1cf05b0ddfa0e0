"""The files that `bars` writes, and the instants that it understands."""

from __future__ import annotations

import io
import json
from datetime import UTC, date, datetime, timedelta, timezone

import pandas as pd
import pytest

from market_pipelines.cli.read import Format, encoded
from market_pipelines.pipeline.reading import BadQuestion, bars, known_at_of


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "symbol": ["AAPL", "AAPL"],
            "market": ["us", "us"],
            "session": pd.Series(["2024-01-02", "2024-01-03"], dtype="datetime64[s]"),
            "open": [187.1499938964844, 184.22],
            "high": [188.44, 185.88],
            "low": [183.885, 183.43],
            "close": [185.64, 184.25],
            "volume": [82488700.0, float("nan")],
            "provider": ["yahoo", "stooq"],
            "condition": ["available", "available"],
            "provisional": [False, True],
            "ingested_at": pd.Series([datetime(2024, 1, 4, tzinfo=UTC)] * 2),
            "adjusted": [False, False],
            "as_of": pd.Series([None, None], dtype="datetime64[us, UTC]"),
        }
    )


def test_json_has_iso_days_exact_prices_and_null_for_what_is_not_there(frame: pd.DataFrame) -> None:
    first, second = json.loads(encoded(frame, Format.JSON))
    assert first["session"] == "2024-01-02"
    assert first["open"] == 187.1499938964844
    assert first["as_of"] is None
    assert first["ingested_at"] == "2024-01-04T00:00:00+00:00"
    assert second["volume"] is None
    assert second["provisional"] is True


def test_csv_reads_back(frame: pd.DataFrame) -> None:
    read = pd.read_csv(io.BytesIO(encoded(frame, Format.CSV)))
    assert list(read["session"]) == ["2024-01-02", "2024-01-03"]
    assert list(read["open"]) == list(frame["open"])


def test_parquet_keeps_the_types(frame: pd.DataFrame) -> None:
    read = pd.read_parquet(io.BytesIO(encoded(frame, Format.PARQUET)))
    assert str(read["session"].dtype).startswith("datetime64")
    assert list(read["close"]) == list(frame["close"])


def test_a_day_means_its_end_in_utc() -> None:
    assert known_at_of("2024-03-01") == known_at_of(date(2024, 3, 1)) == datetime(2024, 3, 1, 23, 59, 59, 999999, UTC)


def test_an_instant_keeps_its_zone() -> None:
    new_york = timezone(timedelta(hours=-5))
    assert known_at_of("2024-03-01T16:00:00-05:00") == datetime(2024, 3, 1, 16, tzinfo=new_york)
    assert known_at_of("2024-03-01T21:00:00Z") == datetime(2024, 3, 1, 21, tzinfo=UTC)


@pytest.mark.parametrize("moment", ["2024-03-01T21:00:00", datetime(2024, 3, 1, 21)])  # noqa: DTZ001 (that is the point)
def test_an_instant_without_a_zone_is_refused(moment: str | datetime) -> None:
    with pytest.raises(BadQuestion, match="has no time zone"):
        known_at_of(moment)


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({"symbols": []}, "no symbol is named"),
        ({"symbols": "AAPL", "interval": "7min"}, "'7min' is not served"),
        ({"symbols": "AAPL", "start": "2024-02-01", "end": "2024-01-01"}, "before it begins"),
        ({"symbols": "AAPL", "start": "soon"}, "start 'soon' is not a day"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_before_a_database_is_opened(
    question: dict[str, object], said: str
) -> None:
    with pytest.raises(BadQuestion, match=said):
        bars(**question)  # type: ignore[arg-type]  # wrong on purpose
