"""Every recorded answer of Yahoo, read by what it answers, and by everything that it does not.

The rows of recorded daily charts are in `test_recorded`. The folder of recordings lies beside the repository.
Without it these tests are skipped, and say so.
"""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from market_pipelines.market.actions import ActionKind, CorporateAction
from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.market.outcomes import Outcome
from market_pipelines.market.records import OptionContract, Quote, Right
from market_pipelines.providers.protocol import (
    ActionsQuery,
    Answer,
    Capability,
    IntradayQuery,
    OptionsQuery,
    Parsed,
    ProfileQuery,
    QuoteQuery,
    SearchQuery,
)
from market_pipelines.providers.yahoo import Yahoo

FOLDER = Path(__file__).resolve().parents[3] / ".." / "shared" / "reference" / "recorded" / "yahoo"
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
TODAY = NOW.date()
ABILITIES = Yahoo().abilities


def recorded(name: str) -> bytes:
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"the recording {name} is not here")
    return path.read_bytes()


def files() -> list[Any]:
    found = sorted(path.name for path in FOLDER.glob("*") if not path.name.startswith("ws_"))
    return found or [pytest.param("", marks=pytest.mark.skip(reason="the folder of recordings is not here"))]


def listed(native: str, kind: Kind = Kind.EQUITY, currency: str = "USD") -> Instrument:
    return Instrument(native, "any", "XNYS", currency, kind=kind, provider_symbols={"yahoo": native})


def read(capability: Capability, name: str, query: object, status: int = 200, at: datetime = NOW) -> Parsed:
    return ABILITIES[capability].read(Answer(status, recorded(name), {}, at, 0.1), query)


def quotes(name: str, *natives: str, at: datetime = NOW) -> Parsed:
    return read(Capability.BULK_QUOTES, name, QuoteQuery(tuple(map(listed, natives))), at=at)


def test_recorded_quotes_of_two_shares() -> None:
    parsed = quotes("quote_v7_aapl_baba.json", "BABA", "AAPL", at=datetime(2025, 2, 17, 11, tzinfo=UTC))
    assert (parsed.outcome, parsed.reason) == (Outcome.OK, "")
    baba, aapl = parsed.records
    assert (baba.symbol, baba.price, baba.currency) == ("BABA", 124.73, "USD")
    assert aapl == Quote(
        symbol="AAPL",
        price=244.6,
        at=datetime(2025, 2, 14, 21, tzinfo=UTC),
        currency="USD",
        bid=244.44,
        ask=253.37,
        bid_size=2.0,
        ask_size=1.0,
        open=241.07,
        high=245.41,
        low=241.0,
        previous_close=241.53,
        volume=40896227.0,
        session=date(2025, 2, 14),
    )
    assert aapl.change == pytest.approx(3.07, abs=1e-4)
    assert aapl.change_share == pytest.approx(0.012710667, abs=1e-6)


def test_a_recorded_full_quote() -> None:
    (found,) = quotes("quote_v7_aapl_2025.json", "AAPL").records
    assert (found.price, found.previous_close, found.volume) == (269.7, 269.0, 43332154.0)
    assert found.at == datetime(2025, 10, 29, 20, 0, 1, tzinfo=UTC)
    assert found.session == date(2025, 10, 29)


def test_a_recorded_quote_that_is_a_year_old_says_so() -> None:
    assert quotes("quote_v7_aapl_2025.json", "AAPL").reason == "AAPL last traded on 2025-10-29"


def test_a_recorded_index_with_zeros_has_a_price_and_nothing_made_of_zeros() -> None:
    query = QuoteQuery((listed("^VXAPL", Kind.INDEX),))
    (found,) = read(Capability.QUOTE, "quote_v7_vxapl_index.json", query).records
    assert (found.price, found.previous_close) == (23.77, 24.28)
    assert (found.bid, found.ask, found.open, found.high, found.low, found.volume) == (None,) * 6


@pytest.mark.parametrize(
    ("name", "native", "outcome"),
    [
        ("quote_v7_delisted_quoteType_none.json", "SIMP", Outcome.EMPTY_UNEXPECTED),
        ("quote_v7_expired_option_empty.json", "AAPL220121C00025000", Outcome.UNKNOWN_SYMBOL),
        ("quote_v7_unknown_symbol_2025.json", "GS2C", Outcome.UNKNOWN_SYMBOL),
        ("quote_v7_unknown_symbol_empty.json", "NONEXIST", Outcome.UNKNOWN_SYMBOL),
    ],
)
def test_recorded_quotes_of_nothing_are_told_apart(name: str, native: str, outcome: Outcome) -> None:
    assert quotes(name, native).outcome is outcome


def test_the_recorded_chain_has_its_contracts_and_leads_to_the_next_expiry() -> None:
    query = OptionsQuery(listed("AAPL"), date(2025, 2, 24))
    parsed = read(Capability.OPTIONS, "options_v7_aapl.json", query)
    assert parsed.outcome is Outcome.OK
    assert len(parsed.records) == 54 + 48
    assert parsed.records[0] == OptionContract(
        native="AAPL250228C00110000",
        underlying="AAPL",
        right=Right.CALL,
        strike=110.0,
        expires=date(2025, 2, 28),
        last=111.67,
        bid=135.9,
        ask=136.65,
        volume=None,
        open_interest=0.0,
        implied_volatility=3.58593853515625,
        quoted_on=date(2025, 2, 21),
    )
    assert {one.expires for one in parsed.records} == {date(2025, 2, 28)}
    (unpriced,) = [one for one in parsed.records if one.native == "AAPL250228P00267500"]
    assert (unpriced.bid, unpriced.ask, unpriced.implied_volatility) == (None, None, None)
    assert parsed.more is not None
    assert parsed.more.endpoint.startswith("options:2025-03-07")


def test_the_recorded_chains_page_of_one_expiry_is_taken_for_that_expiry_only() -> None:
    query = OptionsQuery(listed("AAPL"), date(2025, 2, 24), expires_to=date(2025, 2, 28))
    body = recorded("options_v7_aapl.json")

    def page(endpoint: str) -> Parsed:
        return ABILITIES[Capability.OPTIONS].read(Answer(200, body, {}, NOW, 0.1, endpoint=endpoint), query)

    assert (len(page("options:2025-02-28").records), page("options:2025-02-28").more) == (102, None)
    assert page("options:2025-03-07").outcome is Outcome.MALFORMED


def test_the_recorded_empty_chain_is_expected() -> None:
    query = OptionsQuery(listed("^VXAPL", Kind.INDEX), date(2025, 2, 24))
    assert read(Capability.OPTIONS, "options_v7_empty_chain.json", query).outcome is Outcome.EMPTY_EXPECTED


def test_the_recorded_404_means_no_fundamentals_and_not_no_symbol() -> None:
    name = "quotesummary_404_no_fundamentals.json"
    share, index = listed("EURUSD=X"), listed("EURUSD=X", Kind.INDEX)
    assert read(Capability.PROFILE, name, ProfileQuery(share), 404).outcome is Outcome.EMPTY_UNEXPECTED
    assert read(Capability.PROFILE, name, ProfileQuery(index), 404).outcome is Outcome.EMPTY_EXPECTED


def test_the_recorded_searches_find_their_symbols() -> None:
    apple = read(Capability.SEARCH, "search_apple.json", SearchQuery("apple")).records
    assert [one.native for one in apple] == ["AAPL", "APLE", "AAPL.VI", "APC.F", "AAPL.BA", "AAPI", "APC.DE"]
    assert (apple[0].name, apple[0].kind, apple[0].exchange) == ("Apple Inc.", "equity", "NASDAQ")
    bmw = read(Capability.SEARCH, "search_unicode_bmw.json", SearchQuery("BMW")).records
    assert [one.native for one in bmw] == ["BMW.DE", "BMW.SG", "BAMXF", "BMWM5N.MX", "BMW3D.XC", "BMW.DU"]
    assert bmw[0].name == "Bayerische Motoren Werke Aktiengesellschaft"


def test_the_recorded_minutes_of_a_weekend_are_none() -> None:
    name = "chart_aapl_1m_weekend_empty.json"
    weekend = IntradayQuery(listed("AAPL"), "1min", date(2025, 2, 1), date(2025, 2, 2), TODAY)
    assert read(Capability.INTRADAY, name, weekend).outcome is Outcome.EMPTY_EXPECTED
    week = IntradayQuery(listed("AAPL"), "1min", date(2025, 1, 31), date(2025, 2, 2), TODAY)
    assert read(Capability.INTRADAY, name, week).outcome is Outcome.EMPTY_UNEXPECTED
    coarser = IntradayQuery(listed("AAPL"), "5min", date(2025, 2, 1), date(2025, 2, 2), TODAY)
    assert read(Capability.INTRADAY, name, coarser).outcome is Outcome.MALFORMED


def actions(name: str, native: str, start: date) -> Parsed:
    return read(Capability.ACTIONS, name, ActionsQuery(listed(native), start, TODAY))


def test_recorded_actions() -> None:
    found = actions("chart_aapl_1d_split_dividend_dst.json", "AAPL", date(2020, 8, 28)).actions
    assert found == (
        CorporateAction("AAPL", date(2020, 8, 31), ActionKind.SPLIT, 4.0),
        CorporateAction("AAPL", date(2020, 11, 6), ActionKind.DIVIDEND, 0.205),
    )
    msft = actions("chart_msft_1d_dividends.json", "MSFT", date(2021, 2, 1)).actions
    assert [(action.ex_date.isoformat(), action.value) for action in msft] == [
        ("2021-02-17", 0.56),
        ("2021-05-19", 0.56),
        ("2021-08-18", 0.56),
        ("2021-11-17", 0.62),
    ]


def test_no_recorded_action_is_an_answer() -> None:
    parsed = actions("chart_tsla_1d_no_events_key.json", "TSLA", date(2010, 6, 29))
    assert (parsed.outcome, parsed.actions) == (Outcome.OK, ())


@pytest.mark.parametrize(
    ("name", "native"),
    [
        ("chart_aapl_1mo_dividends.json", "AAPL"),
        ("chart_aapl_1mo_splits.json", "AAPL"),
        ("chart_vfinx_3mo_events_mismatch.json", "VFINX"),
    ],
)
def test_events_of_months_and_quarters_are_not_believed(name: str, native: str) -> None:
    parsed = actions(name, native, date(1980, 1, 1))
    assert (parsed.outcome, parsed.actions, parsed.actions_known) == (Outcome.MALFORMED, (), False)


def test_the_recorded_crumb_and_consent_redirect() -> None:
    ability, query = ABILITIES[Capability.QUOTE], QuoteQuery((listed("AAPL"),))
    crumb = Answer(200, recorded("getcrumb_ok.txt"), {}, NOW, 0.1, endpoint="quote/crumb")
    more = Yahoo().abilities[Capability.QUOTE].read(crumb, query).more
    assert more is not None
    assert more.secret_params["crumb"].get_secret_value() == "haT3oykhHqZ"
    consent = json.loads(recorded("consent_307.json"))
    for endpoint in ("quote/cookie", "quote/crumb", "quote", "quote/other_cookie"):
        answer = Answer(consent["status"], b"", consent["headers"], NOW, 0.1, endpoint=endpoint)
        assert ability.read(answer, query).outcome is Outcome.CHALLENGE


def questions(native: str) -> list[tuple[Capability, object]]:
    asked = listed(native)
    return [
        (Capability.INTRADAY, IntradayQuery(asked, "60min", date(2000, 1, 3), TODAY, TODAY)),
        (Capability.QUOTE, QuoteQuery((asked,))),
        (Capability.PROFILE, ProfileQuery(asked)),
        (Capability.ACTIONS, ActionsQuery(asked, date(2000, 1, 3), TODAY)),
        (Capability.SEARCH, SearchQuery(native)),
        (Capability.OPTIONS, OptionsQuery(asked, TODAY)),
    ]


ANSWERS = {
    "quote_v7": Capability.QUOTE,
    "quotesummary": Capability.PROFILE,
    "search": Capability.SEARCH,
    "options": Capability.OPTIONS,
    "chart": Capability.ACTIONS,
}


@pytest.mark.parametrize("name", files())
@pytest.mark.parametrize("status", [200, 404])
def test_every_recording_gives_an_outcome_to_every_question(name: str, status: int) -> None:
    body = recorded(name)
    for native in ("AAPL", "VFINX", "^VXAPL"):
        for capability, query in questions(native):
            parsed = ABILITIES[capability].read(Answer(status, body, {}, NOW, 0.1), query)
            fits = name.startswith(tuple(kind for kind, answers in ANSWERS.items() if answers is capability))
            if not fits or status == 404:
                assert parsed.rows == 0, (capability, native)
                assert parsed.outcome is not Outcome.OK
                assert parsed.reason
            if parsed.bars is not None:
                assert not np.isinf(parsed.bars["close"]).any()
