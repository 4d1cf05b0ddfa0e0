"""Any bytes, and real bodies with damage in them: every reader of Alpha Vantage gives an outcome and no bad row.

`ALPHA_VANTAGE_FUZZ` multiplies the number of inputs.
"""

import json
import os
from datetime import UTC, datetime
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market_pipelines.providers.protocol import Capability
from market_pipelines.simulator.clock import SimulatedClock
from market_pipelines.simulator.exchange import Exchange
from market_pipelines.simulator.faults import FaultBoard
from market_pipelines.simulator.formats.asked import Asked
from market_pipelines.simulator.truth import World
from market_pipelines_tests.contract.providers.alpha_vantage_cases import (
    PROVIDER,
    QUESTIONS,
    RECORDED,
    assert_sound,
    read,
)

TIMES = int(os.environ.get("ALPHA_VANTAGE_FUZZ", "1"))
NOW = datetime(2026, 5, 15, 21, 30, tzinfo=UTC)
LONGEST = 6_000
PIECES = st.one_of(
    st.binary(max_size=24),
    st.sampled_from(
        [
            b"",
            b"null",
            b"None",
            b"NaN",
            b"Infinity",
            b"-1",
            b"1e999",
            b"2099-99-99",
            b"2026-05-15 20:00:00",
            b"{}",
            b"[]",
            b'"',
            b"\r\n",
            b",",
            b"\x00",
            b"\xff",
            b'"message": "success", ',
            b'"Note": "premium", ',
            b"0001-01-01 00:00:00",
            b"9999-12-31 23:59:59",
        ]
    ),
    st.text('0123456789-.,:"[]{} \r\nabcINF', max_size=12).map(str.encode),
)
SETTINGS = settings(
    max_examples=60 * TIMES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
every_reader = pytest.mark.parametrize("capability", QUESTIONS)


@cache
def bodies(capability: Capability) -> tuple[tuple[str, bytes], ...]:
    """Good answers to the question with their endpoints, as JSON and as CSV, and the recordings that are here."""
    exchange = Exchange(World(), FaultBoard(), SimulatedClock(NOW))
    ability = PROVIDER.abilities.get(capability)
    call = ability.call(QUESTIONS[capability]) if ability is not None else PROVIDER.daily_call(QUESTIONS[capability])
    found = []
    for endpoint in (call.endpoint, "DIVIDENDS") if capability is Capability.ACTIONS else (call.endpoint,):
        for datatype in ("json", "csv"):
            query = {**call.params, "apikey": "planted", "datatype": datatype}
            if capability is Capability.ACTIONS:
                query["function"] = endpoint
            if capability in (Capability.DAILY, Capability.INTRADAY):
                query["outputsize"] = "compact"
            reply = exchange.deliver(Asked("alpha_vantage", "/query", query, "", "http://here"), "/").reply
            found.append((endpoint, reply.body))
    found += [(call.endpoint, path.read_bytes()[:LONGEST]) for path in sorted(RECORDED.glob("*"))]
    return tuple(found)


def check(capability: Capability, body: bytes, endpoint: str | None = None, status: int = 200) -> None:
    question = QUESTIONS[capability]
    parsed = read(capability, body, question, endpoint=endpoint, received_at=NOW, status=status)
    if capability is Capability.DAILY:
        assert (parsed.bars is not None) == parsed.outcome.delivered
    else:
        assert_sound(capability, parsed, question)


@every_reader
@given(body=st.binary(max_size=400), status=st.sampled_from([0, 200, 200, 302, 404, 429, 500]))
@SETTINGS
def test_any_bytes_give_an_outcome(capability: Capability, body: bytes, status: int) -> None:
    check(capability, body, status=status)


@every_reader
@given(data=st.data())
@SETTINGS
def test_a_damaged_body_gives_an_outcome_and_no_bad_row(capability: Capability, data: st.DataObject) -> None:
    endpoint, body = data.draw(st.sampled_from(bodies(capability)))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(body)))
        end = data.draw(st.integers(start, min(len(body), start + 60)))
        body = body[:start] + data.draw(PIECES) + body[end:]
    check(capability, body, endpoint)


@every_reader
@given(
    value=st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.dictionaries(
                st.sampled_from(
                    [
                        "Meta Data",
                        "2. Symbol",
                        "Time Series (5min)",
                        "2026-05-15 10:00:00",
                        "1. open",
                        "data",
                        "symbol",
                        "bestMatches",
                        "markets",
                        "Global Quote",
                        "Symbol",
                        "Name",
                        "message",
                        "Information",
                    ]
                ),
                inner,
                max_size=5,
            ),
        ),
        max_leaves=20,
    )
)
@SETTINGS
def test_any_json_gives_an_outcome(capability: Capability, value: object) -> None:
    check(capability, json.dumps(value).encode())


@every_reader
@given(data=st.data())
@SETTINGS
def test_a_body_cut_anywhere_gives_no_more_than_the_whole(capability: Capability, data: st.DataObject) -> None:
    """Lists that stop early would read like delistings, chains like expiries."""
    endpoint, body = data.draw(st.sampled_from(bodies(capability)[:2]))
    length = data.draw(st.integers(0, len(body) - 1))
    if body[:length].endswith(b"\n"):
        length -= 1
    cut = read(capability, body[:length], endpoint=endpoint, received_at=NOW)
    assert cut.rows == 0
    assert not cut.outcome.delivered
