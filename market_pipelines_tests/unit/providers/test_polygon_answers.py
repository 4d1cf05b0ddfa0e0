"""What every answer of Polygon is looked at for first: refusals, their words, and where the next page is."""

import json
from dataclasses import replace
from datetime import date

import pytest
from pydantic import SecretStr

from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.http import HttpClient, origin
from market_pipelines.providers.polygon import PUBLIC_ADDRESS, Polygon
from market_pipelines.providers.polygon.stamps import in_nanoseconds, instant, nanoseconds, since_epoch
from market_pipelines.providers.protocol import DailyQuery, ListingsQuery, ProfileQuery, SearchQuery, StatusQuery
from market_pipelines.redaction import redact
from market_pipelines_tests.unit.providers.polygon_answers import (
    AAPL,
    HOME,
    KEY,
    aggregate,
    aggregates,
    answer,
    ms,
    polygon,
)

QUERY = DailyQuery(AAPL, date(2024, 1, 2), date(2024, 1, 8), date(2024, 1, 20))
PRICING = "https://polygon.io/pricing"
REFUSALS = {
    "unknown key": (401, {"status": "ERROR", "error": "Unknown API Key"}, Outcome.NOT_ENTITLED, None),
    "no key": (401, {"status": "ERROR", "error": "API Key was not provided"}, Outcome.NOT_ENTITLED, None),
    "a minute": (
        429,
        {
            "status": "ERROR",
            "error": "You've exceeded the maximum requests per minute, please wait or upgrade your subscription to "
            f"continue. {PRICING}",
        },
        Outcome.THROTTLED,
        60.0,
    ),
    "the same with status 200": (
        200,
        {"status": "ERROR", "error": f"You've exceeded the maximum requests per minute. {PRICING}"},
        Outcome.THROTTLED,
        60.0,
    ),
    "too old for the plan": (
        403,
        {
            "status": "NOT_AUTHORIZED",
            "message": f"Your plan doesn't include this data timeframe. Please upgrade your plan at {PRICING}",
        },
        Outcome.NOT_ENTITLED,
        None,
    ),
    "not in the plan, words of 2026": (
        403,
        {
            "status": "NOT_AUTHORIZED",
            "message": "You are not entitled to this data. Please upgrade your plan at https://massive.com/pricing",
        },
        Outcome.NOT_ENTITLED,
        None,
    ),
    "not in the plan, with status 200": (
        200,
        {"status": "NOT_AUTHORIZED", "message": "no"},
        Outcome.NOT_ENTITLED,
        None,
    ),
    "not listed": (404, {"status": "NOT_FOUND", "message": "Ticker not found."}, Outcome.UNKNOWN_SYMBOL, None),
    "not listed, in a snapshot": (404, {"status": "NotFound", "error": "NotFound"}, Outcome.UNKNOWN_SYMBOL, None),
    "a bad question": (400, {"status": "ERROR", "error": "Could not parse 'to'"}, Outcome.MALFORMED, None),
    "trouble of its own": (500, {"status": "ERROR", "error": "Internal error"}, Outcome.UNAVAILABLE, None),
    "gone": (410, {"status": "ERROR", "message": "this endpoint was removed"}, Outcome.RETIRED, None),
    "an unknown status": (200, {"status": "PENDING"}, Outcome.MALFORMED, None),
    "no status": (200, {"ticker": "AAPL", "results": []}, Outcome.MALFORMED, None),
    "a list": (200, [], Outcome.MALFORMED, None),
}


@pytest.mark.parametrize(("status", "body", "outcome", "seconds"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_understood(status: int, body: object, outcome: Outcome, seconds: float | None) -> None:
    parsed = polygon().parse_daily(answer(body, status=status), QUERY)
    assert (parsed.outcome, parsed.retry_after) == (outcome, seconds)
    assert parsed.bars is None
    assert parsed.reason


@pytest.mark.parametrize(
    "words", [words for words, (_, body, _, _) in REFUSALS.items() if isinstance(body, dict) and len(body) == 2]
)
def test_a_refusal_means_the_same_to_every_question(words: str) -> None:
    status, body, outcome, _ = REFUSALS[words]
    if words in ("no status", "an unknown status"):
        return
    provider = polygon()
    for parsed in (
        provider.read_profile(answer(body, status=status), ProfileQuery(AAPL)),
        provider.read_listings(answer(body, status=status), ListingsQuery("XNYS")),
        provider.read_status(answer(body, status=status), StatusQuery()),
        provider.read_status(answer(body, status=status), StatusQuery(upcoming=True)),
    ):
        assert parsed.outcome is outcome


def test_the_words_of_a_refusal_reach_the_reader() -> None:
    status, body, _, _ = REFUSALS["too old for the plan"]
    reason = polygon().parse_daily(answer(body, status=status), QUERY).reason
    assert "doesn't include this data timeframe" in reason


def test_the_named_waiting_time_counts_before_our_own() -> None:
    status, body, _, _ = REFUSALS["a minute"]
    parsed = polygon().parse_daily(answer(body, status=status, headers={"retry-after": "12"}), QUERY)
    assert parsed.retry_after == 12.0


def test_an_answer_of_a_delayed_plan_is_an_answer() -> None:
    body = aggregates([aggregate(ms(2024, 1, 2))], status="DELAYED")
    assert polygon().parse_daily(answer(body), QUERY).outcome is Outcome.OK


@pytest.mark.parametrize("results", [None, [], "left out"])
def test_no_results_is_an_answer_too(results: object) -> None:
    body = aggregates([], results=results)
    if results == "left out":
        del body["results"]
    assert polygon().parse_daily(answer(body), QUERY).outcome is Outcome.EMPTY_UNEXPECTED


def page(next_url: str) -> dict[str, object]:
    return aggregates([aggregate(ms(2024, 1, 2))], next_url=next_url)


def test_the_next_page_is_asked_with_our_key_and_its_cursor() -> None:
    path = "/v2/aggs/ticker/AAPL/range/1/day/1704171600000/2024-01-08"
    parsed = polygon().parse_daily(answer(page(f"{HOME}{path}?cursor=YWJj"), endpoint="aggs_day"), QUERY)
    assert parsed.bars is not None
    more = parsed.more
    assert more is not None
    assert (more.url, dict(more.params)) == (f"{HOME}{path}", {"cursor": "YWJj"})
    assert more.secret_headers["Authorization"].get_secret_value() == f"Bearer {KEY}"
    assert origin(more.secret_origin) == origin(HOME)
    assert more.endpoint == "aggs_day.next"
    again = polygon().parse_daily(answer(page(f"{HOME}{path}?cursor=ZGVm"), endpoint=more.endpoint), QUERY)
    assert again.more is not None
    assert again.more.endpoint == "aggs_day.next"


def test_the_last_page_names_no_other() -> None:
    assert polygon().parse_daily(answer(aggregates([aggregate(ms(2024, 1, 2))])), QUERY).more is None
    assert polygon().parse_daily(answer(page("")), QUERY).more is None


@pytest.mark.parametrize(
    "next_url",
    [
        "https://evil.example/v2/aggs?cursor=x",
        "http://api.massive.com/v2/aggs?cursor=x",
        "https://api.massive.com:8443/v2/aggs?cursor=x",
        "https://api.massive.com.evil.example/v2/aggs?cursor=x",
        "https://api.massive.com@evil.example/v2/aggs?cursor=x",
        "https://api.massive.com\\@evil.example/v2/aggs?cursor=x",
        "//evil.example/v2/aggs?cursor=x",
        "/v2/aggs?cursor=x",
        "https://[/v2/aggs?cursor=x",
        "javascript:alert(1)",
        "https://api.massive.com",
        "cursor=x",
    ],
)
def test_a_next_page_elsewhere_is_refused_and_never_asked(next_url: str) -> None:
    parsed = polygon().parse_daily(answer(page(next_url)), QUERY)
    assert parsed.outcome is Outcome.MALFORMED
    assert parsed.more is None
    assert parsed.bars is None
    assert HOME in parsed.reason


def test_a_next_page_at_the_providers_older_name_is_asked_at_the_configured_one() -> None:
    parsed = polygon().parse_daily(answer(page("https://api.polygon.io/v2/aggs?cursor=x")), QUERY)
    assert parsed.more is not None
    assert parsed.more.url == f"{HOME}/v2/aggs"
    assert parsed.more.secret_origin == HOME


def test_a_key_in_the_next_address_is_not_taken_along() -> None:
    parsed = polygon().parse_daily(answer(page(f"{HOME}/v2/aggs?cursor=x&apiKey={KEY}")), QUERY)
    assert parsed.more is not None
    assert dict(parsed.more.params) == {"cursor": "x"}
    assert KEY not in repr(parsed)


def test_a_password_in_the_next_address_is_not_taken_along() -> None:
    parsed = polygon().parse_daily(answer(page("https://user:pass@api.massive.com/v2/aggs?cursor=x")), QUERY)
    assert parsed.more is not None
    assert parsed.more.url == f"{HOME}/v2/aggs"


def test_the_path_of_our_own_address_stays() -> None:
    home = "http://127.0.0.1:8099/polygon"
    parsed = polygon(home).parse_daily(answer(page(f"{home}/v2/aggs?cursor=x")), QUERY)
    assert parsed.more is not None
    assert parsed.more.url == f"{home}/v2/aggs"


@pytest.mark.parametrize(
    "path", ["/v2/aggs", "/polygon", "/polygons/v2/aggs", "/polygon/../v2/aggs", "/polygon/%2e%2e/v2/aggs"]
)
def test_a_next_page_beside_our_own_path_is_refused(path: str) -> None:
    origin_of_both = "http://127.0.0.1:8099"
    body = page(f"{origin_of_both}{path}?cursor=x")
    parsed = polygon(f"{origin_of_both}/polygon").parse_daily(answer(body), QUERY)
    assert (parsed.outcome, parsed.more) == (Outcome.MALFORMED, None)


def test_the_client_itself_keeps_the_key_from_another_host() -> None:
    call = replace(polygon().daily_call(QUERY), url="http://127.0.0.1:9/elsewhere")
    with HttpClient() as client:
        got = client.get(call)
    assert got.status == 0
    assert "the key belongs to" in got.failure


def test_a_page_of_which_nothing_is_left_leads_on() -> None:
    test_stock = {"ticker": "ZVZZT", "market": "stocks", "name": "NASDAQ TEST STOCK", "type": "CS", "active": True}
    body = {"results": [test_stock], "status": "OK", "next_url": f"{HOME}/v3/reference/tickers?cursor=x"}
    parsed = polygon().read_listings(answer(body), ListingsQuery("XNYS"))
    assert parsed.outcome is Outcome.EMPTY_EXPECTED
    assert parsed.more is not None


def test_a_search_ends_with_its_first_page() -> None:
    row = {"ticker": "AAPL", "market": "stocks", "name": "Apple Inc."}
    body = {"results": [row], "status": "OK", "next_url": f"{HOME}/v3/reference/tickers?cursor=x"}
    assert polygon().read_search(answer(body), SearchQuery("apple")).more is None


def test_the_key_travels_in_a_header_and_is_seen_nowhere() -> None:
    call = polygon().daily_call(QUERY)
    assert call.secret_headers["Authorization"].get_secret_value() == f"Bearer {KEY}"
    assert KEY not in repr(call)
    assert KEY not in redact(f"the server said {KEY}")


def test_an_echoed_key_is_not_repeated() -> None:
    body = {"status": "ERROR", "error": f"Unknown API Key {KEY}"}
    assert KEY not in repr(polygon().parse_daily(answer(body, status=401), QUERY))


def test_without_a_key_another_address_is_asked_all_the_same() -> None:
    assert Polygon(None).ready() == "POLYGON_API_KEY is not set"
    assert Polygon(SecretStr(KEY)).ready() == ""
    elsewhere = Polygon(None, "http://127.0.0.1:8099/polygon")
    assert elsewhere.ready() == ""
    assert elsewhere.base_url != PUBLIC_ADDRESS
    call = elsewhere.daily_call(QUERY)
    assert (call.headers["Authorization"], dict(call.secret_headers)) == ("Bearer keyless", {})


SECONDS = 1_700_000_000


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        (SECONDS, SECONDS * 10**9),
        (SECONDS * 1000 + 123, SECONDS * 10**9 + 123 * 10**6),
        (SECONDS * 10**6 + 123_456, SECONDS * 10**9 + 123_456_000),
        (SECONDS * 10**9 + 123_456_789, SECONDS * 10**9 + 123_456_789),
        (1_112_331_600_000, 1_112_331_600 * 10**9),
        (0, 0),
    ],
)
def test_the_unit_of_a_stamp_is_told_by_its_size(stamp: int, expected: int) -> None:
    assert nanoseconds(stamp) == expected
    assert in_nanoseconds([stamp, stamp]).tolist() == [expected, expected]


def test_stamps_of_all_units_may_stand_side_by_side() -> None:
    found = in_nanoseconds([SECONDS, SECONDS * 1000, SECONDS * 10**6, SECONDS * 10**9])
    assert found.tolist() == [SECONDS * 10**9] * 4


def test_a_nanosecond_survives() -> None:
    """As doubles both would be the same number."""
    one, other = 1651251948407646487, 1651251948407646488
    assert float(one) == float(other)
    assert in_nanoseconds([one, other]).tolist() == [one, other]
    assert since_epoch(instant(one)) == one // 1000 * 1000


def test_a_body_is_read_whatever_stands_before_it() -> None:
    body = json.dumps(aggregates([aggregate(ms(2024, 1, 2))])).encode()
    assert polygon().parse_daily(answer(b"\xef\xbb\xbf\n " + body), QUERY).outcome is Outcome.OK


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"status":' + b"[" * 200_000, b'{"a":' * 200_000])
def test_a_bottomless_body_is_malformed(body: bytes) -> None:
    assert polygon().parse_daily(answer(body), QUERY).outcome is Outcome.MALFORMED
