"""What a command shows: where it goes, how it reads on a terminal and off it, and that no secret is in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from market_pipelines import redaction
from market_pipelines.cli import output
from market_pipelines.market.outcomes import Outcome
from market_pipelines.redaction import MASK, register_secret


@dataclass(frozen=True)
class Line:
    at: datetime
    share: float
    parts: tuple[str, ...] = ()


@pytest.fixture
def a_secret(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(redaction, "_known", ())
    register_secret("PLANTED-KEY-1")
    yield "PLANTED-KEY-1"


def test_json_is_one_document_with_plain_values(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit_json(
        {
            "day": date(2024, 1, 2),
            "line": Line(datetime(2024, 1, 2, 21, tzinfo=UTC), float("nan"), ("a", "b")),
            "outcome": Outcome.OK,
            "folder": Path("/data"),
            "absent": None,
            "yes": True,
        }
    )
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {
        "day": "2024-01-02",
        "line": {"at": "2024-01-02T21:00:00+00:00", "share": None, "parts": ["a", "b"]},
        "outcome": "ok",
        "folder": "/data",
        "absent": None,
        "yes": True,
    }
    assert shown.err == ""


def test_a_value_without_a_form_in_json_is_refused() -> None:
    with pytest.raises(TypeError, match="object has no form in JSON"):
        output.plain({"a": object()})


def test_no_secret_is_shown_in_whatever_way(a_secret: str, capsys: pytest.CaptureFixture[str]) -> None:
    output.emit_json({"reason": f"key {a_secret}", "more": [{"x": a_secret}]})
    output.emit_table(("reason",), [(f"key {a_secret}",)])
    output.emit_line(a_secret)
    output.say(f"?apikey={a_secret}")
    shown = capsys.readouterr()
    assert a_secret not in shown.out + shown.err
    assert shown.out.count(MASK) == 4


def test_off_a_terminal_a_table_is_plain_columns_with_numbers_to_the_right(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output.emit_table(("symbol", "rows", "note"), [("AAPL", 252, ""), ("PKO", 7, None)], "Pull")
    assert capsys.readouterr().out.splitlines() == [
        "Pull",
        "symbol  rows  note",
        "AAPL     252",
        "PKO        7  -",
    ]


def test_a_table_without_rows_shows_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit_table(("symbol", "rows"), [])
    assert capsys.readouterr().out == "symbol  rows\n"


def test_brackets_in_a_cell_are_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    output.emit_table(("note",), [("[red]not a style[/red]",)])
    assert "[red]not a style[/red]" in capsys.readouterr().out


def test_progress_off_a_terminal_is_a_line_now_and_then_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("market_pipelines.cli.output.time.monotonic", lambda: now)
    with output.progress("pull") as report:
        report(1, 9, "AAPL")
        now = 11.0
        report(2, 9, "MSFT")
        report(3, 9, "NVDA")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "pull: 2 of 9 MSFT\n"


@pytest.mark.parametrize(
    ("count", "read"), [(0, "0 B"), (999, "999 B"), (12_345, "12.3 kB"), (9_000_000, "9.0 MB"), (3e12, "3.0 TB")]
)
def test_sizes_are_read_in_powers_of_a_thousand(count: float, read: str) -> None:
    assert output.size(count) == read
