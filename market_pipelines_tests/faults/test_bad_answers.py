"""What providers get wrong: it ends in an outcome, reaches no table, and costs the other symbols nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import stamina

from market_pipelines.market.outcomes import Outcome
from market_pipelines.providers.http import Timeouts
from market_pipelines.providers.protocol import Answer, Call
from market_pipelines.simulator.server import Simulator
from market_pipelines_tests.conftest import PostgresServer
from market_pipelines_tests.faults.house import (
    House,
    HttpByTheClock,
    opened_house,
    quarantined,
    unreadable_answers,
    untrue_rows,
)

PROVIDERS = ("alpha_vantage", "yahoo", "polygon", "stooq")
CHAIN = ("yahoo", "alpha_vantage", "polygon", "stooq")
START, END = date(2025, 3, 3), date(2025, 6, 12)
SESSIONS = 72
MIDDLE, DAY_OFF, TOMORROW = date(2025, 4, 15), date(2025, 5, 26), date(2025, 6, 13)
NEW_YORK = ZoneInfo("America/New_York")
BAD, OTHERS = "MSFT", ("AAPL", "KO")
IMPATIENT = Timeouts(connect=1.0, read=0.4, total=0.8)


@pytest.fixture
def without_waiting() -> Iterator[None]:
    """Asks again as often as always, without the pause before it."""
    stamina.set_testing(True, attempts=3, cap=True)
    yield
    stamina.set_testing(False)


@contextmanager
def asking_only(
    provider: str, server: PostgresServer, simulator: Simulator, folder: Path, timeouts: Timeouts = IMPATIENT
) -> Iterator[House]:
    """A house in which Stooq's prices can be turned back, so that every provider is held against one truth."""
    url = server.create()
    with opened_house(folder / "home", url, simulator, timeouts=timeouts) as house:
        if provider == "stooq":
            house.know_actions([BAD, *OTHERS])
        if provider == "iex_cloud":
            # As the service itself, its stand-in does not answer unless somebody says so.
            simulator.faults.add("iex_cloud.serving=on")
        yield house
    server.drop(url)


def everywhere(fault: str, *expected: Any, providers: tuple[str, ...] = PROVIDERS) -> list[Any]:
    return [
        pytest.param(provider, fault, *expected, id=f"{provider}.{fault.replace(':', '-')}") for provider in providers
    ]


# --- one provider, no help: an answer that is refused as a whole --------------------------------------------

REFUSED = [
    *everywhere("body=empty", Outcome.MALFORMED, 1),
    *everywhere("body=html", Outcome.MALFORMED, 1),
    *everywhere("truncated=on", Outcome.MALFORMED, 1),
    *everywhere("wrong_symbol=IBM", Outcome.MALFORMED, 1, providers=("alpha_vantage", "yahoo", "polygon")),
    *everywhere("status=429", Outcome.THROTTLED, 3),
    *everywhere("status=429:30", Outcome.THROTTLED, 1),
    *everywhere("status=503", Outcome.UNAVAILABLE, 3),
    *everywhere("status=403", Outcome.NOT_ENTITLED, 1),
    *everywhere("status=404", Outcome.MALFORMED, 1),
    *everywhere("status=410", Outcome.RETIRED, 1),
    *everywhere("close=on", Outcome.UNAVAILABLE, 3),
    *everywhere("close_mid_body=on", Outcome.UNAVAILABLE, 3),
    *everywhere("stall=30", Outcome.UNAVAILABLE, 3),
    *everywhere("slow_loris=200", Outcome.UNAVAILABLE, 3),
    # Alpha Vantage says everything with status 200 and a note.
    *everywhere("body=daily_limit", Outcome.QUOTA_EXHAUSTED, 1, providers=("alpha_vantage",)),
    *everywhere("body=per_second_limit", Outcome.THROTTLED, 3, providers=("alpha_vantage",)),
    *everywhere("body=minute_limit", Outcome.THROTTLED, 1, providers=("alpha_vantage",)),
    *everywhere("body=csv_letters", Outcome.THROTTLED, 1, providers=("alpha_vantage",)),
    *everywhere("body=premium", Outcome.NOT_ENTITLED, 1, providers=("alpha_vantage",)),
    *everywhere("body=demo", Outcome.NOT_ENTITLED, 1, providers=("alpha_vantage",)),
    *everywhere("body=expired_key", Outcome.NOT_ENTITLED, 1, providers=("alpha_vantage",)),
    *everywhere("body=placeholder", Outcome.NOT_ENTITLED, 1, providers=("alpha_vantage",)),
    *everywhere("body=not_acceptable", Outcome.MALFORMED, 1, providers=("alpha_vantage",)),
    *everywhere("body=invalid_call", Outcome.UNKNOWN_SYMBOL, 1, providers=("alpha_vantage",)),
    *everywhere("body=empty_object", Outcome.UNKNOWN_SYMBOL, 1, providers=("alpha_vantage",)),
    *everywhere("body=rate_limit", Outcome.THROTTLED, 3, providers=("yahoo",)),
    *everywhere("body=outage", Outcome.UNAVAILABLE, 3, providers=("yahoo",)),
    *everywhere("body=invalid_crumb", Outcome.NOT_ENTITLED, 1, providers=("yahoo",)),
    *everywhere("body=unprocessable", Outcome.EMPTY_UNEXPECTED, 1, providers=("yahoo",)),
    *everywhere("body=no_data_400", Outcome.EMPTY_UNEXPECTED, 1, providers=("yahoo",)),
    *everywhere("empty_range=on", Outcome.EMPTY_UNEXPECTED, 1, providers=("yahoo",)),
    *everywhere("granularity=1mo", Outcome.MALFORMED, 1, providers=("yahoo",)),
    *everywhere("body=not_found", Outcome.UNKNOWN_SYMBOL, 1, providers=("yahoo",)),
    *everywhere("body=phantom", Outcome.UNKNOWN_SYMBOL, 1, providers=("yahoo",)),
    *everywhere("body=proof_of_work", Outcome.CHALLENGE, 1, providers=("stooq",)),
    *everywhere("body=key_page", Outcome.CHALLENGE, 1, providers=("stooq",)),
    *everywhere("body=access_denied", Outcome.CHALLENGE, 1, providers=("stooq",)),
    *everywhere("body=daily_limit", Outcome.QUOTA_EXHAUSTED, 1, providers=("stooq",)),
    *everywhere("body=daily_limit_pl", Outcome.QUOTA_EXHAUSTED, 1, providers=("stooq",)),
    *everywhere("body=html_limit_cp1250", Outcome.QUOTA_EXHAUSTED, 1, providers=("stooq",)),
    *everywhere("body=no_data", Outcome.EMPTY_UNEXPECTED, 1, providers=("stooq",)),
    *everywhere("body=light_nd", Outcome.UNKNOWN_SYMBOL, 1, providers=("stooq",)),
    *everywhere("body=unknown_key", Outcome.NOT_ENTITLED, 1, providers=("polygon",)),
    *everywhere("body=not_in_plan", Outcome.NOT_ENTITLED, 1, providers=("polygon",)),
    *everywhere("body=too_many", Outcome.THROTTLED, 1, providers=("polygon",)),
    # JSON has no word for what is not a number: the body cannot be read.
    *everywhere("nan_price=on", Outcome.MALFORMED, 1, providers=("polygon",)),
    *everywhere("no_results=missing", Outcome.EMPTY_UNEXPECTED, 1, providers=("polygon",)),
    *everywhere("body=empty", Outcome.MALFORMED, 1, providers=("iex_cloud",)),
    *everywhere("body=html", Outcome.MALFORMED, 1, providers=("iex_cloud",)),
    *everywhere("truncated=on", Outcome.MALFORMED, 1, providers=("iex_cloud",)),
    *everywhere("status=503", Outcome.UNAVAILABLE, 3, providers=("iex_cloud",)),
    *everywhere("restated_only=on", Outcome.MALFORMED, 1, providers=("iex_cloud",)),
]


@pytest.mark.usefixtures("without_waiting")
@pytest.mark.parametrize(("provider", "fault", "outcome", "requests"), REFUSED)
def test_a_refused_answer_ends_in_its_outcome_and_in_no_table(
    provider: str,
    fault: str,
    outcome: Outcome,
    requests: int,
    postgres_server: PostgresServer,
    simulator: Simulator,
    tmp_path: Path,
) -> None:
    with asking_only(provider, postgres_server, simulator, tmp_path) as house:
        simulator.faults.add(f"{provider}.{fault}@{BAD}")
        results = house.refresh([BAD, *OTHERS], START, END, providers=[provider])
        bad = results[BAD]
        assert (bad.outcome, bad.rows, bad.quarantined) == (outcome, 0, 0)
        assert bad.reason, "a person has to be told why"
        assert simulator.requests.count(provider, BAD) == bad.requests == requests
        assert stored_symbols(house) == {
            symbol for symbol in OTHERS if whole_or_left_alone(house, results[symbol], outcome)
        }
        assert quarantined(house) == set()
        assert untrue_rows(house) == []
        assert unreadable_answers(house.archive.root) == []
        assert set(outcomes_written_down(house)) == {str(outcome)}


def whole_or_left_alone(house: House, result: Any, outcome: Outcome) -> bool:
    """Whether the symbol is there in full. Where the bad answer speaks for the whole provider, those that had not
    been asked by then are left alone, and say so; there is nothing between the two."""
    if result.outcome is Outcome.OK:
        # IEX shows a session's row on the next morning.
        last = END - timedelta(days=1) if "iex_cloud" in (result.provider or "") else END
        assert list(house.prices(result.symbol).index) == list(house.truth(result.symbol, START, last).index)
        return True
    assert outcome.provider_wide, f"{result.symbol} did not go on: {result.reason}"
    assert (result.outcome, result.rows, result.requests) == (outcome, 0, 0)
    return False


def stored_symbols(house: House) -> set[str]:
    stored = house.rows("SELECT symbol FROM market.provider_bars UNION SELECT symbol FROM market.stock_prices")
    return {symbol for (symbol,) in stored}


def outcomes_written_down(house: House) -> list[str]:
    """Of the requests about the bad symbol, oldest first."""
    asked = "SELECT outcome FROM market.fetches WHERE symbol = %(symbol)s ORDER BY fetch_id"
    return [outcome for (outcome,) in house.rows(asked, {"symbol": BAD})]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_retry_after_of_a_second_is_waited_for(
    provider: str, postgres_server: PostgresServer, simulator: Simulator, tmp_path: Path
) -> None:
    with asking_only(provider, postgres_server, simulator, tmp_path) as house:
        simulator.faults.add(f"{provider}.status=429:1@{BAD}#1")
        result = house.refresh([BAD, *OTHERS], START, END, providers=[provider])[BAD]
        assert (result.outcome, result.rows, result.requests) == (Outcome.OK, SESSIONS, 2)
        assert outcomes_written_down(house) == ["throttled", "ok"]
        assert untrue_rows(house) == []


UNKNOWN = [
    pytest.param("alpha_vantage", Outcome.UNKNOWN_SYMBOL, id="alpha_vantage"),
    pytest.param("yahoo", Outcome.UNKNOWN_SYMBOL, id="yahoo"),
    # Polygon has no word for a symbol that it does not know: there are no aggregates.
    pytest.param("polygon", Outcome.EMPTY_UNEXPECTED, id="polygon"),
    # Stooq says 'No data' for a symbol that it does not know and for one that it knows nothing new of.
    pytest.param("stooq", Outcome.EMPTY_UNEXPECTED, id="stooq"),
]


@pytest.mark.parametrize(("provider", "outcome"), UNKNOWN)
def test_an_unknown_symbol_fails_alone(
    provider: str, outcome: Outcome, postgres_server: PostgresServer, simulator: Simulator, tmp_path: Path
) -> None:
    with asking_only(provider, postgres_server, simulator, tmp_path) as house:
        results = house.refresh(["NOSUCH", *OTHERS], START, END, providers=[provider])
        assert results["NOSUCH"].outcome is outcome
        assert {results[symbol].rows for symbol in OTHERS} == {SESSIONS}
        assert stored_symbols(house) == set(OTHERS)
        assert house.rows("SELECT symbol FROM market.stocks ORDER BY symbol") == [("AAPL",), ("KO",)]
        assert untrue_rows(house) == []


# --- one provider, no help: an answer with a bad row in it --------------------------------------------------

REFUSED_ROWS = [
    *everywhere("negative_price=on", END, "positive_price"),
    *everywhere(f"negative_price={MIDDLE}", MIDDLE, "positive_price"),
    *everywhere("nan_price=on", END, "nulls", providers=("alpha_vantage", "yahoo", "stooq")),
    *everywhere(f"nan_price={MIDDLE}", MIDDLE, "nulls", providers=("alpha_vantage", "yahoo", "stooq")),
    *everywhere("high_below_low=on", END, "high_low_envelope"),
    *everywhere(f"high_below_low={MIDDLE}", MIDDLE, "high_low_envelope"),
    *everywhere("unit_error=on", END, "unit_error"),
    *everywhere(f"unit_error={MIDDLE}:100", MIDDLE, "unit_error"),
    *everywhere(f"unit_error={MIDDLE}:0.01", MIDDLE, "unit_error"),
    *everywhere("holiday_bar=on", DAY_OFF, "session_membership"),
]


@pytest.mark.parametrize(("provider", "fault", "session", "rule"), REFUSED_ROWS)
def test_a_bad_row_goes_to_quarantine_with_its_rule_and_the_rest_stays(
    provider: str,
    fault: str,
    session: date,
    rule: str,
    postgres_server: PostgresServer,
    simulator: Simulator,
    tmp_path: Path,
) -> None:
    with asking_only(provider, postgres_server, simulator, tmp_path) as house:
        simulator.faults.add(f"{provider}.{fault}@{BAD}")
        results = house.refresh([BAD, *OTHERS], START, END, providers=[provider])
        assert results[BAD].outcome is Outcome.MALFORMED
        assert results[BAD].quarantined == 1
        assert f"{session}: {rule}" in results[BAD].reason
        assert quarantined(house) == {(BAD, session, rule)}
        expected = [day for day in house.truth(BAD, START, END).index if day != session]
        assert list(house.prices(BAD).index) == expected
        assert all((results[symbol].outcome, results[symbol].rows) == (Outcome.OK, SESSIONS) for symbol in OTHERS)
        assert untrue_rows(house) == []


@pytest.mark.parametrize(
    ("provider", "fault"),
    [
        *everywhere("duplicate_rows=on"),
        *everywhere(f"duplicate_rows={MIDDLE}"),
        *everywhere("unordered_rows=on"),
        *everywhere("tomorrow_bar=on"),
        *everywhere("live_duplicate=on", providers=("yahoo",)),
        *everywhere("events_mismatch=on", providers=("yahoo",)),
        *everywhere("polish_headers=on", providers=("stooq",)),
        *everywhere("separator=semicolon", providers=("stooq",)),
    ],
)
def test_what_can_be_told_apart_is_put_right_without_a_word(
    provider: str, fault: str, postgres_server: PostgresServer, simulator: Simulator, tmp_path: Path
) -> None:
    with asking_only(provider, postgres_server, simulator, tmp_path) as house:
        simulator.faults.add(f"{provider}.{fault}@{BAD}")
        results = house.refresh([BAD, *OTHERS], START, END, providers=[provider])
        assert {(result.outcome, result.rows) for result in results.values()} == {(Outcome.OK, SESSIONS)}
        assert list(house.prices(BAD).index) == list(house.truth(BAD, START, END).index)
        assert house.rows("SELECT count(*) FROM market.provider_bars WHERE session > %(day)s", {"day": END}) == [(0,)]
        assert quarantined(house) == set()
        assert untrue_rows(house) == []


class HttpThatSpoils(HttpByTheClock):
    """Alters the answers about one symbol on their way in: for what the simulator does not offer."""

    def __init__(self, house: House, symbol: str, spoil: Callable[[bytes], bytes]) -> None:
        super().__init__(house.clock, IMPATIENT)
        self._symbol = symbol.lower()
        self._spoil = spoil

    def get(self, call: Call) -> Answer:
        answer = super().get(call)
        asked = (call.url + "".join(call.params.values())).lower()
        return replace(answer, body=self._spoil(answer.body)) if self._symbol in asked else answer


def two_closes_in_csv(body: bytes) -> bytes:
    """The middle session once more, with another close (of the six columns the fifth)."""
    lines = body.split(b"\r\n")
    row = next(at for at, line in enumerate(lines) if line.startswith(str(MIDDLE).encode()))
    cells = lines[row].split(b",")
    cells[4] = cells[1]
    return b"\r\n".join([*lines[: row + 1], b",".join(cells), *lines[row + 1 :]])


def two_closes_in_a_series(body: bytes) -> bytes:
    """JSON that names a day twice, which a dictionary would hide."""
    text = body.decode()
    start = text.index(f'"{MIDDLE}"')
    row = text[start : text.index("}", start) + 1]
    opened = row.split('"1. open": "')[1].split('"')[0]
    before, _, after = row.partition('"4. close": "')
    return text.replace(row, f'{row},\n{before}"4. close": "{opened}"{after.partition(chr(34))[2]}').encode()


def two_closes_in_a_chart(body: bytes) -> bytes:
    document = json.loads(body)
    result = document["chart"]["result"][0]
    (quote,) = result["indicators"]["quote"]
    stamps = result["timestamp"]
    row = [datetime.fromtimestamp(stamp, NEW_YORK).date() for stamp in stamps].index(MIDDLE)
    stamps.insert(row, stamps[row])
    for column in quote.values():
        column.insert(row, column[row])
    quote["close"][row] = quote["open"][row]
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("provider", "spoil"),
    [("alpha_vantage", two_closes_in_a_series), ("stooq", two_closes_in_csv), ("yahoo", two_closes_in_a_chart)],
)
def test_of_two_differing_bars_of_a_session_none_is_believed(
    provider: str,
    spoil: Callable[[bytes], bytes],
    postgres_server: PostgresServer,
    simulator: Simulator,
    tmp_path: Path,
) -> None:
    with (
        asking_only(provider, postgres_server, simulator, tmp_path) as opened,
        HttpThatSpoils(opened, BAD, spoil) as http,
    ):
        house = replace(opened, platform=replace(opened.platform, http=http))
        results = house.refresh([BAD, *OTHERS], START, END, providers=[provider])
        assert (results[BAD].outcome, results[BAD].rows) == (Outcome.MALFORMED, SESSIONS - 1)
        assert MIDDLE not in house.prices(BAD).index
        assert quarantined(house) == {(BAD, MIDDLE, "uniqueness")}
        assert house.rows("SELECT count(*) FROM market.quarantine") == [(2,)], "both of them are kept as evidence"
        assert {results[symbol].rows for symbol in OTHERS} == {SESSIONS}
        assert untrue_rows(house) == []


# --- the whole chain: somebody else fills exactly what is missing -------------------------------------------


@pytest.mark.usefixtures("without_waiting")
@pytest.mark.parametrize(
    "fault",
    [
        "body=empty",
        "body=html",
        "body=phantom",
        "body=invalid_crumb",
        "truncated=on",
        "wrong_symbol=IBM",
        "status=429",
        "status=429:30",
        "close_mid_body=on",
        "stall=30",
        "slow_loris=200",
    ],
)
def test_a_symbol_that_one_provider_refuses_comes_whole_from_the_next(
    fault: str, postgres_server: PostgresServer, simulator: Simulator, tmp_path: Path
) -> None:
    with asking_only("yahoo", postgres_server, simulator, tmp_path) as house:
        simulator.faults.add(f"yahoo.{fault}@{BAD}")
        results = house.refresh([BAD, *OTHERS], START, END)
        assert {(result.outcome, result.rows) for result in results.values()} == {(Outcome.OK, SESSIONS)}
        assert results[BAD].provider == "simulated-alpha_vantage"
        assert "yahoo" in results[BAD].reason
        assert_only_these_were_asked(simulator, alpha_vantage=1, stooq=0)
        assert providers_of(house, BAD) == {"simulated-alpha_vantage": SESSIONS}
        for symbol in OTHERS:
            assert providers_of(house, symbol) == {"simulated-yahoo": SESSIONS}
        assert untrue_rows(house) == []


@pytest.mark.parametrize(
    ("fault", "session"),
    [
        ("negative_price=on", END),
        (f"nan_price={MIDDLE}", MIDDLE),
        (f"high_below_low={MIDDLE}", MIDDLE),
        (f"unit_error={MIDDLE}:100", MIDDLE),
        (f"missing_rows={END}", END),
    ],
)
def test_a_session_that_one_provider_spoils_comes_from_the_next_and_only_that_one(
    fault: str, session: date, postgres_server: PostgresServer, simulator: Simulator, tmp_path: Path
) -> None:
    with asking_only("yahoo", postgres_server, simulator, tmp_path) as house:
        simulator.faults.add(f"yahoo.{fault}@{BAD}")
        results = house.refresh([BAD, *OTHERS], START, END)
        assert {(result.outcome, result.rows) for result in results.values()} == {(Outcome.OK, SESSIONS)}
        assert_only_these_were_asked(simulator, alpha_vantage=1, stooq=0)
        stored = house.prices(BAD)
        assert list(stored.index) == list(house.truth(BAD, START, END).index)
        assert list(stored.index[stored["provider"] == "simulated-alpha_vantage"]) == [session]
        assert set(stored["condition"]) == {"available"}
        assert untrue_rows(house) == []


def test_a_bar_of_a_day_off_is_forgotten_once_the_next_provider_has_no_such_bar(
    postgres_server: PostgresServer, simulator: Simulator, tmp_path: Path
) -> None:
    with asking_only("yahoo", postgres_server, simulator, tmp_path) as house:
        simulator.faults.add(f"yahoo.holiday_bar=on@{BAD}")
        results = house.refresh([BAD, *OTHERS], START, END)
        assert {(result.outcome, result.rows) for result in results.values()} == {(Outcome.OK, SESSIONS)}
        assert_only_these_were_asked(simulator, alpha_vantage=1, stooq=0)
        assert quarantined(house) == {(BAD, DAY_OFF, "session_membership")}
        assert untrue_rows(house) == []


def test_the_last_provider_of_the_chain_fills_what_the_others_refused(
    postgres_server: PostgresServer, simulator: Simulator, tmp_path: Path
) -> None:
    with asking_only("stooq", postgres_server, simulator, tmp_path) as house:
        simulator.faults.replace(
            [f"yahoo.body=html@{BAD}", f"alpha_vantage.body=daily_limit@{BAD}", f"polygon.body=not_in_plan@{BAD}"]
        )
        results = house.refresh([BAD, *OTHERS], START, END)
        assert providers_of(house, BAD) == {"simulated-stooq": SESSIONS}
        assert results[BAD].outcome is Outcome.OK
        assert_only_these_were_asked(simulator, alpha_vantage=1, polygon=1, stooq=1)
        assert untrue_rows(house) == []


@pytest.mark.usefixtures("without_waiting")
def test_a_provider_that_is_down_is_left_alone_and_the_next_one_serves_all(
    postgres_server: PostgresServer, simulator: Simulator, tmp_path: Path
) -> None:
    symbols = ["AAPL", "MSFT", "KO", "IBM", "PG", "JPM", "V", "MA", "XOM", "T", "VZ", "CAT"]
    with asking_only("yahoo", postgres_server, simulator, tmp_path) as house:
        simulator.faults.add("yahoo.status=503")
        results = house.refresh(symbols, START, END)
        assert {result.provider for result in results.values()} == {"simulated-alpha_vantage"}
        assert {(result.outcome, result.rows) for result in results.values()} == {(Outcome.OK, SESSIONS)}
        assert simulator.requests.count("yahoo") < 3 * len(symbols), "it was asked for everything nevertheless"
        assert untrue_rows(house) == []


def test_when_every_provider_refuses_nothing_is_stored_and_the_reason_names_them_all(
    postgres_server: PostgresServer, simulator: Simulator, tmp_path: Path
) -> None:
    with asking_only("yahoo", postgres_server, simulator, tmp_path) as house:
        simulator.faults.replace([f"{provider}.body=html@{BAD}" for provider in CHAIN])
        results = house.refresh([BAD, *OTHERS], START, END)
        assert (results[BAD].outcome, results[BAD].rows) == (Outcome.MALFORMED, 0)
        assert all(f"simulated-{provider}: " in results[BAD].reason for provider in CHAIN)
        assert stored_symbols(house) == set(OTHERS)
        lacking = house.rows("SELECT DISTINCT condition FROM market.coverage WHERE symbol = %(one)s", {"one": BAD})
        assert lacking in ([], [("missing",)])
        status = house.rows("SELECT status, records_failed, error FROM market.etl_job_logs")
        assert status == [("partial", 1, f"{BAD}: malformed")]


def assert_only_these_were_asked(simulator: Simulator, **counts: int) -> None:
    """Further providers were asked for the bad symbol, this often, and for nothing else."""
    for provider, count in counts.items():
        assert simulator.requests.count(provider, BAD) == count, provider
        assert simulator.requests.count(provider) == count, provider


def providers_of(house: House, symbol: str) -> Mapping[str, int]:
    counted = house.prices(symbol)["provider"].value_counts()
    return {str(name): int(count) for name, count in counted.items()}


# --- through the command, as a person or cron runs it -------------------------------------------------------

THROUGH_THE_COMMAND = [
    pytest.param("yahoo", "yahoo.body=html", "malformed", 0, id="html"),
    pytest.param("alpha_vantage", "alpha_vantage.body=placeholder", "not_entitled", 0, id="placeholder"),
    pytest.param("alpha_vantage", "alpha_vantage.truncated=on", "malformed", 0, id="truncated"),
    # Without a time to wait: with one, who had not been asked yet waits as well.
    pytest.param("yahoo", "yahoo.status=429", "throttled", 0, id="429"),
    pytest.param("yahoo", "yahoo.negative_price=2025-04-15", "malformed", SESSIONS - 1, id="negative price"),
    pytest.param("yahoo", "yahoo.holiday_bar=2025-05-26", "malformed", SESSIONS, id="holiday bar"),
]


@pytest.mark.parametrize(("provider", "fault", "outcome", "rows"), THROUGH_THE_COMMAND)
def test_the_command_stores_the_rest_and_ends_with_its_own_exit_code(
    provider: str, fault: str, outcome: str, rows: int, house: House
) -> None:
    house.simulator.faults.add(f"{fault}@{BAD}")
    words = ("pull", BAD, *OTHERS, "--from", str(START), "--to", str(END), "--provider", provider, "--json")
    ended = subprocess.run(
        [sys.executable, "-m", "market_pipelines.cli", *words],
        env={
            **os.environ,
            **house.simulator.base_urls(),
            "MARKET_PIPELINES_HOME": str(house.platform.settings.home),
            "MARKET_PIPELINES_SIMULATOR": "on",
            "DATABASE_URL": house.platform.database.url,
            "LOG_LEVEL": "WARNING",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # Nobody is authorised for all that failed: that has an exit code of its own.
    assert ended.returncode == (4 if outcome == "not_entitled" else 3), ended.stderr
    lines = {line["symbol"]: line for line in json.loads(ended.stdout)["symbols"]}
    assert (lines[BAD]["outcome"], lines[BAD]["rows"]) == (outcome, rows)
    assert all((lines[symbol]["outcome"], lines[symbol]["rows"]) == ("ok", SESSIONS) for symbol in OTHERS)
    assert f"1 of 3 symbols failed: {BAD}" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert untrue_rows(house) == []
