"""Rows written to a file as each form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from market_pipelines.cli.read import Format, put_out

ROWS = pd.DataFrame({"symbol": ["AAPL", "KO"], "price": [1.5, 2.0]})
READERS: dict[Format, Callable[[Path], pd.DataFrame]] = {
    Format.CSV: pd.read_csv,
    Format.JSON: pd.read_json,
    Format.PARQUET: pd.read_parquet,
}


@pytest.mark.parametrize("form", [Format.CSV, Format.JSON, Format.PARQUET])
def test_a_file_holds_every_row(tmp_path: Path, form: Format) -> None:
    path = tmp_path / "rows"
    put_out(ROWS, form, path, "rows")
    assert READERS[form](path).to_dict("list") == ROWS.to_dict("list")
