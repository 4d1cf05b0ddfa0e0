"""A notice means the same whichever question it answers, in JSON, beside data and cut into a CSV writer's cells."""

import json
from typing import Any

import pytest

from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.alpha_vantage import AlphaVantage
from market_pipelines.providers.protocol import Capability
from market_pipelines_tests.contract.providers.alpha_vantage_cases import KEY, QUESTIONS, read
from market_pipelines_tests.unit.providers.test_alpha_vantage import NOTICES

SYMBOLLESS = (Capability.LISTINGS, Capability.SEARCH, Capability.MARKET_STATUS)
every_reader = pytest.mark.parametrize("capability", QUESTIONS)
TEXTS = {
    name: text
    for name, text in NOTICES.items()
    if text[0].startswith("{") and name not in ("nothing inside", "another endpoint's nothing")
}


def letters(kind: str, text: str) -> str:
    """As Python's csv module writes two strings that it was given for rows."""
    cells = [",".join(f'"{sign}"' if sign in ',"' else sign for sign in line) for line in (kind, text)]
    return "".join(f"{line}\r\n" for line in cells)


@every_reader
@pytest.mark.parametrize("name", TEXTS)
def test_a_notice_is_understood_by_every_reader(name: str, capability: Capability) -> None:
    body, outcome, seconds = TEXTS[name]
    if name == "unknown symbol" and capability in SYMBOLLESS:
        outcome = Outcome.MALFORMED
    parsed = read(capability, body)
    assert (parsed.outcome, parsed.retry_after) == (outcome, seconds)
    assert (parsed.rows, parsed.more) == (0, None)
    assert KEY not in parsed.reason


@every_reader
@pytest.mark.parametrize("name", [name for name in TEXTS if name != "unknown symbol"])
def test_a_notice_cut_into_letters_is_understood_by_every_reader(name: str, capability: Capability) -> None:
    body, outcome, seconds = TEXTS[name]
    ((kind, text),) = json.loads(body).items()
    parsed = read(capability, letters(kind, text))
    assert (parsed.outcome, parsed.retry_after) == (outcome, seconds)
    assert KEY not in parsed.reason


@every_reader
def test_a_notice_cut_short_in_letters_means_later(capability: Capability) -> None:
    assert read(capability, "I,n,f,o,r,m,a\r\n").outcome is Outcome.THROTTLED


@every_reader
def test_the_refused_accept_header_is_told(capability: Capability) -> None:
    body = '{"detail":"Could not satisfy the request Accept header."}'
    parsed = read(capability, body, status=406)
    assert parsed.outcome is Outcome.MALFORMED
    assert "Accept" in parsed.reason


@every_reader
@pytest.mark.parametrize(
    "data",
    [
        {"data": []},
        {"data": [{"symbol": "IBM", "timestamp": "2024-10-18 19:59:55.291", "close": "418.16"}]},
        {"Global Quote": {"01. symbol": "IBM", "05. price": "1.0"}},
        {"Symbol": "IBM", "Name": "IBM"},
        {"bestMatches": [{"1. symbol": "IBM"}]},
        {"markets": [{"region": "United States"}]},
        {"Meta Data": {"2. Symbol": "IBM"}, "Time Series (5min)": {}},
        {"symbol": "IBM", "data": [{"effective_date": "2024-06-10", "split_factor": "10"}]},
    ],
    ids=lambda data: next(iter(data)),
)
def test_data_beside_a_message_is_invented(capability: Capability, data: dict[str, Any]) -> None:
    text = "This is a premium endpoint. ***THE SAMPLE DATA SCHEMA BELOW IS ARTIFICIAL***. 600 requests per minute"
    parsed = read(capability, json.dumps({"endpoint": "any", "message": text, **data}))
    assert parsed.outcome is Outcome.NOT_ENTITLED
    assert parsed.rows == 0


@every_reader
def test_data_beside_a_message_of_other_words_is_refused_as_well(capability: Capability) -> None:
    parsed = read(capability, json.dumps({"message": "These numbers are for demonstration", "data": []}))
    assert not parsed.outcome.delivered


def test_only_success_is_a_message_that_data_may_stand_beside() -> None:
    row = {"symbol": "IBM", "timestamp": "2024-10-30 15:59:57.895", "extended_hours_quote": ""}
    row |= dict.fromkeys(("open", "high", "low", "close", "previous_close", "volume"), "205.04")
    body = {"endpoint": "Realtime Bulk Quotes", "message": "success", "data": [row]}
    assert read(Capability.BULK_QUOTES, json.dumps(body)).outcome is Outcome.OK
    body["message"] = "Success story: sample data"
    assert read(Capability.BULK_QUOTES, json.dumps(body)).outcome is Outcome.MALFORMED


@every_reader
@pytest.mark.parametrize("key", ["a-key-that-nobody-registered", "ÄÖÜ-key"])
def test_an_echoed_key_is_in_no_reason(capability: Capability, key: str) -> None:
    text = f"We have detected your API key as {key} and our standard API rate limit is 25 requests per day."
    for body in (json.dumps({"Information": text}, ensure_ascii=False), letters("Information", text)):
        parsed = read(capability, body, provider=AlphaVantage(None))
        assert parsed.outcome is Outcome.QUOTA_EXHAUSTED
        assert key not in parsed.reason


@every_reader
@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (0, Outcome.UNAVAILABLE),
        (403, Outcome.NOT_ENTITLED),
        (410, Outcome.RETIRED),
        (429, Outcome.THROTTLED),
        (503, Outcome.UNAVAILABLE),
    ],
)
def test_a_status_counts_where_the_body_explains_nothing(capability: Capability, status: int, outcome: Outcome) -> None:
    assert read(capability, "sorry", status=status, failure="the line is dead").outcome is outcome


@every_reader
@pytest.mark.parametrize("body", ["", " \r\n", "<html><body>Error</body></html>", "[]", "null", "{", '{"a":'])
def test_what_is_nothing_is_no_data(capability: Capability, body: str) -> None:
    parsed = read(capability, body)
    assert parsed.outcome is Outcome.MALFORMED
    assert parsed.reason


@every_reader
@pytest.mark.parametrize("depth", ["[", '{"a":'])
def test_a_body_that_nests_without_end_is_malformed(capability: Capability, depth: str) -> None:
    for body in (depth * 100_000, '{"data":' + depth * 100_000, '{"message":' + depth * 100_000):
        assert read(capability, body).outcome is Outcome.MALFORMED


@pytest.mark.parametrize("capability", [Capability.DAILY, Capability.INTRADAY, Capability.PROFILE, Capability.ACTIONS])
def test_an_empty_object_is_an_unknown_symbol(capability: Capability) -> None:
    assert read(capability, "{}").outcome is Outcome.UNKNOWN_SYMBOL


def test_an_empty_list_is_not_taken_for_the_end_of_all_listings() -> None:
    assert read(Capability.LISTINGS, "{}").outcome is Outcome.EMPTY_UNEXPECTED
    header = "symbol,name,exchange,assetType,ipoDate,delistingDate,status\r\n"
    assert read(Capability.LISTINGS, header).outcome is Outcome.EMPTY_UNEXPECTED


def test_a_chain_that_does_not_exist_is_said_to_be_empty() -> None:
    body = {"endpoint": "Historical Options", "message": "No data for symbol IBM on date 2026-05-16", "data": []}
    assert read(Capability.OPTIONS, json.dumps(body)).outcome is Outcome.EMPTY_UNEXPECTED
