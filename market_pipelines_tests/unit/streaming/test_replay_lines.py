"""Entries of the journal as a person's own tools read them."""

from __future__ import annotations

import json

import pytest

from market_pipelines.streaming.entries import Format
from market_pipelines.streaming.replay import _line


@pytest.mark.parametrize("format", list(Format))
def test_an_entry_that_cannot_be_read_is_shown_as_it_is(format: Format) -> None:
    line = json.loads(_line(7, format, "polygon-1", 1_500_000_000_000_000_001, b"\xffrubbish"))
    assert (line["position"], line["received_at"], line["entry"]) == (
        7,
        "2017-07-14T02:40:00.000000001Z",
        "\ufffdrubbish",
    )
