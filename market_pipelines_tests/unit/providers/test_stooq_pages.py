from datetime import UTC, date, datetime

import numpy as np
import pytest

from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.protocol import Answer, DailyQuery, Parsed
from market_pipelines.providers.stooq import Stooq
from market_pipelines.providers.stooq.pages import parse_history_page

UCO = Instrument("UCO", "us", "XNYS", "USD")
QUERY = DailyQuery(UCO, date(2026, 8, 3), date(2026, 8, 7), date(2026, 8, 8))
HEAD = (
    "<td>No.</td><td>Date</td><td>Open</td><td>High</td><td>Low</td><td>Close</td>"
    "<td colspan=2>Change</td><td>Volume</td>"
)
POLISH_HEAD = (
    "<td>Lp.</td><td>Data</td><td>Otwarcie</td><td>Najwyższy</td><td>Najniższy</td><td>Zamknięcie</td>"
    "<td colspan=2>Zmiana</td><td>Wolumen</td>"
)
NEWER = (
    "<tr><td>4450</td><td nowrap>7 Aug 2026</td><td>36.68</td><td>38.03</td><td>36.59</td><td>37</td>"
    "<td id=c2>-0.46%</td><td id=c2>-0.1700</td><td>2,466,174</td></tr>"
)
OLDER = NEWER.replace("4450", "4449").replace("7 Aug", "6 Aug")


def page(*rows: str, head: str = HEAD, native: str = "uco.us") -> bytes:
    return (
        f"<html><head><title>UCO.US - Stooq</title><script>if(a<b)document.write('<td>1</td>')</script></head><body>"
        f"<a href=q/?s=^uslc>^USLC</a><table><tr><td>other</td></tr></table>"
        f"<table class=fth1 id=fth1><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        f"<font><<</font> | <a href=q/d/?s={native}&i=d&l=2>></a>"
        f"<a href=q/d/l/?s={native}&i=d>Download data in csv file...</a></body></html>"
    ).encode()


def parse(body: bytes, query: DailyQuery = QUERY, status: int = 200) -> Parsed:
    answer = Answer(status, body, {}, datetime(2026, 8, 8, 12, tzinfo=UTC), 0.1)
    return Stooq(None).parse_daily(answer, query)


def test_the_table_comes_out_oldest_first_with_the_commas_out_of_its_volume() -> None:
    parsed = parse(page(NEWER, OLDER))
    assert parsed.bars is not None
    assert [stamp.day for stamp in parsed.bars["session"]] == [6, 7]
    newest = parsed.bars.iloc[1]
    assert newest[["open", "high", "low", "close", "volume"]].tolist() == [36.68, 38.03, 36.59, 37.0, 2466174.0]


@pytest.mark.parametrize(
    ("written", "day"),
    [("7 sie 2026", date(2026, 8, 7)), ("17 paź 2025", date(2025, 10, 17)), ("1 maj 2026", date(2026, 5, 1))],
)
@pytest.mark.parametrize("encoding", ["utf-8", "cp1250"])
def test_polish_headings_and_months_are_understood(written: str, day: date, encoding: str) -> None:
    body = page(NEWER.replace("7 Aug 2026", written), head=POLISH_HEAD).decode().encode(encoding)
    read = parse_history_page(body)
    assert read is not None
    assert read.days.astype(object).tolist() == [day]


def test_a_currency_has_no_volume_column() -> None:
    head, row = HEAD.replace("<td>Volume</td>", ""), NEWER.replace("<td>2,466,174</td>", "")
    read = parse_history_page(page(row, head=head))
    assert read is not None
    assert np.isnan(read.values["volume"]).all()


def test_a_line_about_a_dividend_is_no_bar() -> None:
    dividend = "<tr><td></td><td>6 Aug 2026</td><td colspan=7>Dividend 0.25</td></tr>"
    read = parse_history_page(page(NEWER, dividend))
    assert read is not None
    assert len(read.days) == 1


def test_nd_is_unknown() -> None:
    read = parse_history_page(page(NEWER.replace("2,466,174", "N/D")))
    assert read is not None
    assert np.isnan(read.values["volume"][0])


def test_a_page_about_another_symbol_is_malformed() -> None:
    parsed = parse(page(NEWER, native="msft.us"))
    assert parsed.outcome is Outcome.MALFORMED
    assert "msft.us" in parsed.reason


def test_what_the_page_does_not_reach_is_told_and_not_asked_for() -> None:
    parsed = parse(page(NEWER, OLDER))
    assert "2026-08-06" in parsed.reason
    assert parsed.more is None
    assert parse(page(NEWER.replace("4450", "2"), OLDER.replace("4449", "1"))).reason == ""


@pytest.mark.parametrize(
    "body",
    [
        page(NEWER.replace("7 Aug 2026", "07/08/2026")),
        page(NEWER.replace("7 Aug 2026", "31 Feb 2026")),
        page(NEWER.replace("36.68", "dear")),
        page(NEWER.replace("36.68", "inf")),
        page(NEWER, head=HEAD.replace("Close", "Last")),
        b"<html><table id=fth1></table></html>",
        b"<html>fth1 <![x</html>",
    ],
)
def test_another_table_is_malformed(body: bytes) -> None:
    parsed = parse(body)
    assert (parsed.outcome, parsed.bars) == (Outcome.MALFORMED, None)


def test_an_empty_table_is_nothing() -> None:
    assert parse(page()).outcome is Outcome.EMPTY_UNEXPECTED


def test_a_failing_status_lets_no_page_through() -> None:
    assert parse(page(NEWER), status=503).outcome is Outcome.UNAVAILABLE


def test_a_page_whose_data_has_been_hidden_is_the_limit() -> None:
    body = page().replace(b"<body>", b"<body>Exceeded the daily site hits limit. The data has been hidden")
    assert parse(body).outcome is Outcome.QUOTA_EXHAUSTED
