"""The cookie, the crumb and the question, step by step."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import count

import pytest

from market_pipelines.market.instruments import Instrument
from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.http import origin
from market_pipelines.providers.protocol import Answer, Call, Capability, OptionsQuery, Parsed, QuoteQuery
from market_pipelines.providers.yahoo import Yahoo
from market_pipelines.redaction import redact

NOW = datetime(2026, 11, 20, 15, tzinfo=UTC)
AAPL = Instrument("AAPL", "us", "XNYS", "USD")
QUESTION = QuoteQuery((AAPL,))
QUOTE = json.dumps(
    {"quoteResponse": {"result": [{"symbol": "AAPL", "regularMarketPrice": 269.7}], "error": None}}
).encode()
REFUSED = b'{"finance":{"result":null,"error":{"code":"Unauthorized","description":"Invalid Crumb"}}}'
NO_ACCESS = REFUSED.replace(b"Invalid Crumb", b"User is unable to access this feature")
CONSENT_PAGE = b"<!DOCTYPE html><html><body>Before you continue to Yahoo</body></html>"
CONSENT = (307, b"", {"location": "https://guce.yahoo.com/consent?brandType=nonEu&gcrumb=x"})

Reply = tuple[int, bytes, Mapping[str, str]]
numbers = count(1000)


def plain(body: bytes, status: int = 200) -> Reply:
    return status, body, {}


def cookie(name: str = "A3") -> Reply:
    value = f"d=AQAB{next(numbers)}&S=AQAA{next(numbers)}"
    both = f"A1={value}; Domain=.yahoo.com; Secure, {name}={value}; Expires=Sat, 20 Nov 2027 15:00:00 GMT; Secure"
    return 404, b"", {"set-cookie": both}


def crumb() -> Reply:
    return plain(f"haT3oyk{next(numbers)}".encode())


@dataclass
class Wire:
    """Answers by endpoint, in the order in which they are given; keeps the calls."""

    answers: dict[str, Iterator[Reply]]
    calls: list[Call] = field(default_factory=list)
    seconds: float = 0.1

    def get(self, call: Call) -> Answer:
        assert not call.secret_headers or origin(call.secret_origin) == origin(call.url), call
        self.calls.append(call)
        status, body, headers = next(self.answers[call.endpoint])
        at = NOW + timedelta(seconds=len(self.calls))
        return Answer(status, body, headers, at, self.seconds, endpoint=call.endpoint)

    @property
    def steps(self) -> list[str]:
        return [call.endpoint for call in self.calls]


def wire(**answers: list[Reply]) -> Wire:
    return Wire({name.replace("__", "/"): iter(replies) for name, replies in answers.items()})


def converse(
    provider: Yahoo, wire: Wire, capability: Capability = Capability.QUOTE, query: object = QUESTION
) -> Parsed:
    ability = provider.abilities[capability]
    call: Call | None = ability.call(query)
    while call is not None:
        parsed = ability.read(wire.get(call), query)
        call = parsed.more
    return parsed


def test_a_cookie_and_a_crumb_come_before_the_question() -> None:
    line = wire(quote__cookie=[cookie()], quote__crumb=[crumb()], quote=[plain(QUOTE)])
    parsed = converse(Yahoo(), line)
    assert parsed.records[0].price == 269.7
    assert line.steps == ["quote/cookie", "quote/crumb", "quote"]
    first, second, third = line.calls
    assert first.url == "https://fc.yahoo.com"
    assert not first.secret_headers
    assert second.url == "https://query1.finance.yahoo.com/v1/test/getcrumb"
    assert second.secret_headers["Cookie"].get_secret_value().startswith("A3=d=AQAB")
    assert third.url == "https://query1.finance.yahoo.com/v7/finance/quote"
    assert third.secret_params["crumb"].get_secret_value().startswith("haT3oyk")
    assert third.secret_headers == second.secret_headers
    assert dict(third.params) == {"symbols": "AAPL"}


def test_a_crumb_serves_until_it_is_refused() -> None:
    provider = Yahoo()
    line = wire(quote__cookie=[cookie()], quote__crumb=[crumb()], quote=[plain(QUOTE), plain(QUOTE)])
    converse(provider, line)
    converse(provider, line)
    assert line.steps == ["quote/cookie", "quote/crumb", "quote", "quote"]


@pytest.mark.parametrize("body", [REFUSED, NO_ACCESS])
def test_a_refused_crumb_is_dropped_and_the_other_way_tried_once(body: bytes) -> None:
    provider = Yahoo()
    line = wire(
        quote__cookie=[cookie()],
        quote__crumb=[crumb()],
        quote=[plain(body, 401), plain(QUOTE)],
        quote__other_cookie=[cookie()],
        quote__other_crumb=[crumb()],
        quote__again=[plain(QUOTE)],
    )
    parsed = converse(provider, line)
    assert parsed.outcome is Outcome.OK
    assert line.steps[2:] == ["quote", "quote/other_cookie", "quote/other_crumb", "quote/again"]
    page, getcrumb, again = line.calls[3:]
    assert page.url.startswith("https://finance.yahoo.com/")
    assert getcrumb.url == "https://query2.finance.yahoo.com/v1/test/getcrumb"
    assert again.url == line.calls[2].url
    assert again.secret_params != line.calls[2].secret_params
    converse(provider, line)
    assert line.steps[6:] == ["quote"]


def test_a_crumb_that_is_refused_twice_is_the_end() -> None:
    provider = Yahoo()
    again: list[Reply] = [plain(REFUSED, 401)]
    line = wire(
        quote__cookie=[cookie(), cookie()],
        quote__crumb=[crumb()],
        quote=[plain(REFUSED, 401)],
        quote__other_cookie=[cookie()],
        quote__other_crumb=[crumb()],
        quote__again=again,
    )
    parsed = converse(provider, line)
    assert parsed.outcome is Outcome.NOT_ENTITLED
    assert "Invalid Crumb" in parsed.reason
    assert len(line.calls) == 6
    assert provider.abilities[Capability.QUOTE].call(QUESTION).endpoint == "quote/cookie"


def test_a_crumb_that_another_thread_got_meanwhile_is_used_instead_of_a_new_one() -> None:
    provider = Yahoo()
    ability = provider.abilities[Capability.QUOTE]
    converse(provider, wire(quote__cookie=[cookie()], quote__crumb=[crumb()], quote=[plain(QUOTE)]))
    slow = replace(Answer(401, REFUSED, {}, NOW + timedelta(minutes=1), 600.0), endpoint="quote")
    more = ability.read(slow, QUESTION).more
    assert more is not None
    assert more.endpoint == "quote/again"
    quick = replace(slow, seconds=0.1)
    more = ability.read(quick, QUESTION).more
    assert more is not None
    assert more.endpoint == "quote/other_cookie"


@pytest.mark.parametrize(
    "nothing",
    [
        (404, b"", {}),
        (0, b"", {}),
        (503, b"<html>no</html>", {}),
        cookie("B"),
        (200, b"", {"set-cookie": "A3=[redacted]"}),
    ],
    ids=["no cookie", "no such host", "unavailable", "another cookie", "a cookie seen before"],
)
def test_a_host_without_the_cookie_leads_to_the_other_one(nothing: Reply) -> None:
    line = wire(
        quote__cookie=[nothing],
        quote__other_cookie=[(200, b"<html>...</html>", cookie()[2])],
        quote__other_crumb=[crumb()],
        quote__again=[plain(QUOTE)],
    )
    assert converse(Yahoo(), line).outcome is Outcome.OK
    assert len(line.calls) == 4


@pytest.mark.parametrize(
    ("nothing", "outcome"),
    [
        (plain(b"<html><body>Sorry</body></html>"), Outcome.MALFORMED),
        (plain(b""), Outcome.MALFORMED),
        (plain(b'{"finance":{"result":null,"error":null}}'), Outcome.MALFORMED),
        (plain(b"ask guce.yahoo.com"), Outcome.MALFORMED),
        (plain(b"Unauthorized", 401), Outcome.NOT_ENTITLED),
    ],
)
def test_something_else_than_a_crumb_leads_to_the_other_way(nothing: Reply, outcome: Outcome) -> None:
    line = wire(
        quote__cookie=[cookie()],
        quote__crumb=[nothing],
        quote__other_cookie=[cookie()],
        quote__other_crumb=[nothing],
    )
    parsed = converse(Yahoo(), line)
    assert parsed.outcome is outcome
    assert len(line.calls) == 4


def test_two_who_begin_at_once_ask_with_the_same_cookie() -> None:
    ability = Yahoo().abilities[Capability.QUOTE]
    sent = []
    for _ in range(2):
        status, body, headers = cookie()
        more = ability.read(Answer(status, body, headers, NOW, 0.1, endpoint="quote/cookie"), QUESTION).more
        assert more is not None
        sent.append(more.secret_headers["Cookie"].get_secret_value())
    assert sent[0] == sent[1]


@pytest.mark.parametrize("status", [200, 429])
def test_a_crumb_that_reads_too_many_requests_is_throttling(status: int) -> None:
    line = wire(quote__cookie=[cookie()], quote__crumb=[plain(b"Too Many Requests\r\n", status)])
    assert converse(Yahoo(), line).outcome is Outcome.THROTTLED


@pytest.mark.parametrize(
    "line",
    [
        wire(quote__cookie=[CONSENT]),
        wire(quote__cookie=[plain(CONSENT_PAGE)]),
        wire(quote__cookie=[cookie()], quote__crumb=[CONSENT]),
        wire(quote__cookie=[cookie()], quote__crumb=[plain(CONSENT_PAGE)]),
        wire(quote__cookie=[plain(b"", 404)], quote__other_cookie=[CONSENT]),
        wire(quote__cookie=[cookie()], quote__crumb=[crumb()], quote=[CONSENT]),
        wire(
            quote__cookie=[cookie()],
            quote__crumb=[crumb()],
            quote=[(302, b"", {"location": "http://127.0.0.1:8099/yahoo/guce.yahoo.com/consent?x=y"})],
        ),
    ],
    ids=["cookie", "cookie page", "crumb", "crumb page", "other cookie", "question", "local"],
)
def test_nobody_consents_to_cookies_for_a_person(line: Wire) -> None:
    assert converse(Yahoo(), line).outcome is Outcome.CHALLENGE


def test_the_consent_page_is_a_challenge_for_charts_too() -> None:
    query = replace(QUESTION)
    for page in (CONSENT_PAGE, b'<html><form action="https://consent.yahoo.com/v2/collectConsent">'):
        answer = Answer(200, page, {}, NOW, 0.1, endpoint="quote")
        assert Yahoo().abilities[Capability.QUOTE].read(answer, query).outcome is Outcome.CHALLENGE


def test_a_configured_address_is_the_whole_of_yahoo() -> None:
    base = "http://127.0.0.1:8099/yahoo"
    line = wire(
        quote__cookie=[cookie()],
        quote__crumb=[crumb()],
        quote=[plain(REFUSED, 401)],
        quote__other_cookie=[cookie()],
        quote__other_crumb=[crumb()],
        quote__again=[plain(QUOTE)],
    )
    converse(Yahoo(base), line)
    for call in line.calls:
        assert call.url.startswith(f"{base}/")
        assert call.secret_origin in ("", base)


def test_the_other_public_host_may_be_configured() -> None:
    line = wire(quote__cookie=[cookie()], quote__crumb=[crumb()], quote=[plain(QUOTE)])
    converse(Yahoo("https://query2.finance.yahoo.com"), line)
    assert line.calls[1].url == "https://query2.finance.yahoo.com/v1/test/getcrumb"


def test_cookie_and_crumb_are_secrets() -> None:
    line = wire(quote__cookie=[cookie()], quote__crumb=[crumb()], quote=[plain(QUOTE)])
    converse(Yahoo(), line)
    pair = line.calls[2]
    sent = [pair.secret_params["crumb"].get_secret_value(), pair.secret_headers["Cookie"].get_secret_value()[3:]]
    for secret in sent:
        assert secret not in redact(f"the answer was {secret}")
        assert secret not in repr(line.calls)


def chain(shown: date, *listed: date) -> Reply:
    def epoch(day: date) -> int:
        return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())

    contract = {"contractSymbol": f"AAPL{shown:%y%m%d}C00250000", "strike": 250, "expiration": epoch(shown)}
    result = {
        "underlyingSymbol": "AAPL",
        "expirationDates": [epoch(day) for day in listed],
        "options": [{"expirationDate": epoch(shown), "calls": [contract], "puts": []}],
    }
    return plain(json.dumps({"optionChain": {"result": [result], "error": None}}).encode())


def test_a_crumb_refused_between_two_pages_costs_no_page() -> None:
    days = (date(2026, 11, 27), date(2026, 12, 4), date(2026, 12, 18))
    line = wire(
        options__cookie=[cookie()],
        options__crumb=[crumb()],
        options=[chain(days[0], *days)],
        **{
            "options:2026-12-04": [plain(REFUSED, 401)],
            "options:2026-12-04__other_cookie": [cookie()],
            "options:2026-12-04__other_crumb": [crumb()],
            "options:2026-12-04__again": [chain(days[1], *days)],
            "options:2026-12-18": [chain(days[2], *days)],
        },
    )
    provider, query = Yahoo(), OptionsQuery(AAPL, date(2026, 11, 20))
    ability = provider.abilities[Capability.OPTIONS]
    found: list[date] = []
    call: Call | None = ability.call(query)
    while call is not None:
        parsed = ability.read(line.get(call), query)
        found += [contract.expires for contract in parsed.records]
        call = parsed.more
    assert found == list(days)
    assert line.calls[-1].params["date"] == str(int(datetime(2026, 12, 18, tzinfo=UTC).timestamp()))


def test_many_threads_end_up_with_a_cookie_and_its_own_crumb() -> None:
    provider = Yahoo()
    barrier = threading.Barrier(8)
    wrong: list[str] = []

    def answer(call: Call) -> Answer:
        stage = call.endpoint.partition("/")[2]
        given = {
            name: value.get_secret_value() for name, value in {**call.secret_headers, **call.secret_params}.items()
        }
        number = next(numbers)
        if stage.endswith("cookie"):
            return Answer(
                404, b"", {"set-cookie": f"A3=c{number}-of-many"}, datetime.now(UTC), 0, endpoint=call.endpoint
            )
        if stage.endswith("crumb"):
            body = f"crumb.{given['Cookie'][3:].partition('-')[0]}".encode()
            return Answer(200, body, {}, datetime.now(UTC), 0.0, endpoint=call.endpoint)
        if given["crumb"] != f"crumb.{given['Cookie'][3:].partition('-')[0]}":
            wrong.append(call.endpoint)
        return Answer(200, QUOTE, {}, datetime.now(UTC), 0.0, endpoint=call.endpoint)

    def work(ask: Callable[[Call], Answer]) -> None:
        ability = provider.abilities[Capability.QUOTE]
        barrier.wait()
        for _ in range(50):
            call: Call | None = ability.call(QUESTION)
            while call is not None:
                call = ability.read(ask(call), QUESTION).more

    threads = [threading.Thread(target=work, args=(answer,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
