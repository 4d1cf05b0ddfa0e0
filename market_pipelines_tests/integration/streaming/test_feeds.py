"""Feeds as the service builds them, against the simulator: sockets, polled quotes, option contracts."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from pydantic import SecretStr

from market_pipelines.market.records import Quote, Right
from market_pipelines.market.sessions import trading_calendar
from market_pipelines.pipeline.platform import Platform, wall_clock
from market_pipelines.providers.polygon.options import parse_option_ticker
from market_pipelines.providers.protocol import Answer, Capability, QuoteQuery, abilities_of
from market_pipelines.streaming.care import Care
from market_pipelines.streaming.entries import Format, GapCause, SavedAnswer, answer_of
from market_pipelines.streaming.feeds.build import build_feed, polygon_address, yahoo_address
from market_pipelines.streaming.feeds.massive import Contracts, file_limit_advice
from market_pipelines.streaming.feeds.polled import PolledFeed
from market_pipelines.streaming.feeds.protocol import Feed, FeedFailed
from market_pipelines.streaming.opening import OpeningHours
from market_pipelines.streaming.plan import AssetClass, Channel, FeedName, StreamPlan
from market_pipelines.streaming.symbols import instruments_for
from market_pipelines_tests.faults.house import THURSDAY_EVENING, House
from market_pipelines_tests.websocket_server import Witness, bare_server, eventually, text_frame

CARE = Care(poll=0.02, watch=0.1, first_pause=0.05, longest_pause=0.2)
POLYGON = StreamPlan(market="us", feed=FeedName.POLYGON, symbols=("AAPL", "MSFT"))
TEN = ("AAPL", "MSFT", "NVDA", "AMZN", "GOOGL", "META", "TSLA", "JPM", "V", "MA")
STOOQ = StreamPlan(market="pl", feed=FeedName.STOOQ, symbols=("PKO", "CDR", "WIG20"), every_seconds=0.1)
OPTIONS = replace(
    POLYGON,
    symbols=("AAPL",),
    asset_class=AssetClass.OPTIONS,
    channels=(Channel.QUOTES, Channel.TRADES),
    max_connections=1,
)


@contextmanager
def running(platform: Platform, plan: StreamPlan, witness: Witness) -> Iterator[Feed]:
    feed = build_feed(platform, plan, CARE)
    feed.start(witness, witness)
    try:
        yield feed
    finally:
        feed.stop(3.0)


@pytest.fixture
def trading_house(house: House) -> House:
    """By the machine's clock: a stopped exchange has nothing to stream."""
    house.simulator.clock.set(None)
    return replace(house, platform=replace(house.platform, clock=wall_clock))


def answers(witness: Witness) -> list[SavedAnswer]:
    return [answer_of(body) for _, body in list(witness.frames)]


def live(house: House, **settings: object) -> Platform:
    """The same platform as if nothing were simulated."""
    return replace(house.platform, simulated=False, settings=house.platform.settings.model_copy(update=settings))


# --- sockets ------------------------------------------------------------------------------------------------


def test_polygons_stream_arrives_from_the_simulator(trading_house: House) -> None:
    witness = Witness()
    with running(trading_house.platform, replace(POLYGON, symbols=TEN), witness) as feed:
        witness.until(lambda: witness.told("subscribed"))
        witness.until(lambda: {e["ev"] for _, body in witness.frames for e in json.loads(body)} >= {"T", "Q"}, 10)
        assert feed.subscribed("polygon-1") == TEN
    assert witness.formats == {Format.MASSIVE}
    sent = {(one.kind, one.symbol, one.seq) for one in trading_house.simulator.sent if one.kind in "TQ"}
    arrived = {
        (event["ev"], event["sym"], event["q"])
        for _, body in witness.frames
        for event in json.loads(body)
        if event["ev"] in "TQ"
    }
    assert arrived <= sent
    assert arrived


def test_yahoos_frames_arrive_as_they_came(house: House) -> None:
    frame = b'{"type":"pricing","message":"CgRBQVBM"}'

    def stream(accepted: socket.socket) -> None:
        asked.append(accepted.recv(4096))
        accepted.sendall(text_frame(frame))
        with contextlib.suppress(TimeoutError):
            accepted.recv(4096)

    asked: list[bytes] = []
    witness = Witness()
    plan = StreamPlan(market="us", feed=FeedName.YAHOO, symbols=("AAPL", "^SPX"), channels=(Channel.QUOTES,))
    with bare_server(stream) as address:
        settings = house.platform.settings.model_copy(update={"yahoo_ws_url": address})
        with running(replace(house.platform, settings=settings), plan, witness) as feed:
            witness.until(lambda: witness.frames)
            assert feed.subscribed("yahoo-1") == ("AAPL", "^SPX")
    assert (witness.formats, witness.frames) == ({Format.YAHOO}, [("yahoo-1", frame)])
    assert asked


def test_what_a_provider_does_not_stream_is_said(house: House) -> None:
    witness = Witness()
    with running(house.platform, replace(POLYGON, symbols=("AAPL", "^SPX")), witness) as feed:
        witness.until(lambda: witness.told("subscribed"))
        assert "^SPX" in witness.told("left_out")[0]
        assert feed.subscribed("polygon-1") == ("AAPL",)


def test_addresses_follow_the_settings_the_simulator_and_the_provider(house: House) -> None:
    bare = house.platform.settings.model_copy(update={"polygon_ws_url": None, "yahoo_ws_url": None})
    simulated = replace(house.platform, settings=bare)
    here = house.simulator.url.replace("http", "ws")
    assert polygon_address(simulated, AssetClass.OPTIONS) == f"{here}/polygon/options"
    assert yahoo_address(simulated) == f"{here}/yahoo/streamer"
    real = replace(simulated, simulated=False)
    assert polygon_address(real, AssetClass.STOCKS) == "wss://socket.massive.com/stocks"
    assert yahoo_address(real) == "wss://streamer.finance.yahoo.com/?version=2"
    named = replace(real, settings=bare.model_copy(update={"polygon_ws_url": "wss://delayed.massive.com"}))
    assert polygon_address(named, AssetClass.STOCKS) == "wss://delayed.massive.com/stocks"


def test_the_simulator_is_not_shown_a_real_key(house: House) -> None:
    settings = house.platform.settings.model_copy(update={"polygon_api_key": SecretStr("a-real-key-of-somebody")})
    witness = Witness()
    with running(replace(house.platform, settings=settings), POLYGON, witness) as feed:
        witness.until(lambda: witness.told("subscribed"))
        assert "a-real-key" not in repr(vars(feed))
    assert "a-real-key-of-somebody" not in str(witness)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (replace(POLYGON, symbols=()), "has no symbols"),
        (replace(POLYGON, channels=()), "has no channels"),
        (replace(OPTIONS, symbols=("*",)), "quotes of all options cannot be had"),
        (replace(OPTIONS, channels=(Channel.LULD,)), "no price bands"),
        (replace(STOOQ, symbols=("*",)), "one by one"),
        (replace(STOOQ, every_seconds=0.0), "accepted are more than 0"),
        (replace(STOOQ, feed=FeedName.YAHOO, symbols=("*",)), "wants symbols"),
        (replace(STOOQ, feed=FeedName.POLL, provider="nobody"), "'nobody' is not known"),
        (replace(STOOQ, feed=FeedName.POLL, provider="polygon"), "quotes none of the symbols"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_with_words(house: House, plan: StreamPlan, words: str) -> None:
    with pytest.raises(FeedFailed, match=words):
        build_feed(house.platform, plan)


def test_without_a_key_polygons_stream_is_refused_before_it_starts(house: House) -> None:
    with pytest.raises(FeedFailed, match="POLYGON_API_KEY is not set"):
        build_feed(live(house), POLYGON)


def test_symbols_that_a_provider_does_not_list_at_all_end_the_feed(house: House) -> None:
    witness = Witness()
    with running(house.platform, replace(POLYGON, market="pl", symbols=("PKO",)), witness):
        witness.until(lambda: witness.failures)
    assert "streams none of PKO" in witness.failures[0]


def test_open_files_are_enough_or_there_is_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (256, 4096))
    assert "ulimit -n 65536" in file_limit_advice(10)
    monkeypatch.setattr("resource.getrlimit", lambda _: (1024, 4096))
    assert file_limit_advice(10) == ""


# --- polled -------------------------------------------------------------------------------------------------


def test_stooqs_answers_arrive_as_they_came_and_can_be_read_again(house: House) -> None:
    witness = Witness()
    with running(house.platform, STOOQ, witness) as feed:
        witness.until(lambda: len(witness.frames) >= 2)
        assert [(one.origin, one.state, one.symbols) for one in feed.connections()] == [("stooq-1", "live", 3)]
    assert witness.formats == {Format.ANSWER}
    saved = answers(witness)[0]
    assert (saved.provider, saved.capability, saved.market) == ("stooq", "bulk_quotes", "pl")
    stooq = house.platform.providers["stooq"]
    query = QuoteQuery(instruments_for(house.platform.market("pl"), saved.symbols))
    received = datetime.fromtimestamp(saved.received_ns / 1e9, UTC)
    answer = Answer(saved.status, saved.body, saved.headers, received, 0.0, endpoint=saved.endpoint)
    parsed = abilities_of(stooq)[Capability(saved.capability)].read(answer, query)
    assert {one.symbol for one in parsed.records if isinstance(one, Quote)} == {"PKO", "CDR", "WIG20"}
    assert house.rows("SELECT count(*) FROM market.fetches WHERE provider = 'simulated-stooq'")[0][0] >= 2


def test_a_provider_that_refuses_is_told_of_and_asked_more_seldom(house: House) -> None:
    house.simulator.faults.add("stooq.body=proof_of_work")
    witness = Witness()
    with running(house.platform, STOOQ, witness) as feed:
        witness.until(lambda: witness.losses)
        origin, cause, _, detail = witness.losses[0]
        assert (origin, cause) == ("stooq-1", GapCause.DISCONNECTED)
        assert "stooq" in detail
        eventually(lambda: feed.connections()[0].attempts >= 2)
        assert feed.connections()[0].state == "waiting"
        assert not witness.frames
        house.simulator.faults.clear()
        witness.until(lambda: witness.regains, 10)
        assert len(witness.losses) == 1


def test_what_the_database_does_not_take_ends_no_polling(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> str:
        raise psycopg.errors.UndefinedTable("while somebody restores it from a backup")

    monkeypatch.setattr(PolledFeed, "_round", refused)
    witness = Witness()
    with running(house.platform, STOOQ, witness):
        witness.until(lambda: witness.losses)
        assert not witness.failures


def test_more_symbols_than_an_answer_holds_are_asked_for_in_batches(house: House) -> None:
    listed = tuple(one.symbol for one in house.platform.market("us").instruments)
    more = tuple(f"ZZ{number:02d}" for number in range(20))
    witness = Witness()
    plan = replace(STOOQ, market="us", symbols=(*listed, *more))
    with running(house.platform, plan, witness) as feed:
        witness.until(lambda: {origin for origin, _ in witness.frames} >= {"stooq-1"}, 20)
        assert [one.symbols for one in feed.connections()] == [50, len(listed) + 20 - 50]
        feed.follow(listed[:3])
        assert [one.symbols for one in feed.connections()] == [3]
        assert feed.subscribed("stooq-1") == listed[:3]


def test_symbols_that_were_given_up_while_they_were_asked_about_are_not_lost(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asks about them any more, so nobody would ever say that they are back."""
    monkeypatch.setattr("market_pipelines.streaming.feeds.polled.BATCH", 1)
    witness = Witness()
    plan = replace(STOOQ, symbols=("PKO", "CDR"))
    feed = PolledFeed(
        house.platform,
        house.platform.market("pl"),
        plan,
        (house.platform.providers["stooq"],),
        OpeningHours(lambda now: trading_calendar("XWAR", now), market_hours=False),
    )

    def refused(_batch: object) -> str:
        feed.follow(["PKO"])
        return "no answer"

    monkeypatch.setattr(feed, "_round", refused)
    feed._listener = witness
    for batch in feed._due():
        feed._ask(batch)
    assert [origin for origin, *_ in witness.losses] == ["stooq-1"]


def test_a_chain_is_asked_until_somebody_quotes(house: House) -> None:
    house.simulator.faults.add("yahoo.body=html")
    witness = Witness()
    plan = StreamPlan(market="pl", feed=FeedName.POLL, symbols=("PKO", "CDR"), every_seconds=0.1)
    with running(house.platform, plan, witness):
        witness.until(lambda: witness.frames, 10)
        assert not witness.losses
    assert {one.provider for one in answers(witness)} == {"stooq"}


# --- options ------------------------------------------------------------------------------------------------


def contracts(house: House, plan: StreamPlan) -> Contracts:
    platform = house.platform
    return Contracts(platform, platform.market(plan.market), plan, platform.providers["polygon"])


def test_what_has_no_options_is_left_out_and_told(house: House) -> None:
    found = contracts(house, replace(OPTIONS, max_expiry_days=14)).resolve(("^SPX", "AAPL"))
    assert found.symbols
    assert [(one.status, one.detail) for one in found.notices] == [("left_out", "polygon has no options on ^SPX")]
    assert contracts(house, OPTIONS).resolve(("^SPX",)).refused == "polygon has no options on ^SPX"


def test_contracts_are_looked_up_by_underlying_and_kept(house: House) -> None:
    plan = replace(OPTIONS, max_expiry_days=14, right=Right.CALL)
    found = contracts(house, plan).resolve(("AAPL", "O:MSFT250620C00400000"))
    assert found.symbols[0] == "O:MSFT250620C00400000"
    tickers = [parse_option_ticker(one) for one in found.symbols[1:]]
    assert tickers
    assert {(one.root, one.right) for one in tickers} == {("AAPL", Right.CALL)}
    today = THURSDAY_EVENING.date()
    assert all(today <= one.expires <= today + timedelta(days=14) for one in tickers)
    assert house.rows("SELECT count(*) FROM market.option_contracts")[0][0] == len(tickers)


def test_another_day_brings_other_contracts(house: House) -> None:
    resolver = contracts(house, replace(OPTIONS, max_expiry_days=2))
    first = resolver.resolve(("AAPL",))
    assert not resolver.stale(THURSDAY_EVENING)
    later = THURSDAY_EVENING + timedelta(days=8)
    assert resolver.stale(later)
    house.clock.set(later)
    second = resolver.resolve(("AAPL",))
    assert not resolver.stale(later)
    assert not set(first.symbols) & set(second.symbols)


def test_a_look_up_that_fails_keeps_what_was_known_and_comes_again(house: House) -> None:
    resolver = contracts(house, OPTIONS)
    first = resolver.resolve(("AAPL",))
    house.simulator.faults.add("polygon.body=html")
    second = resolver.resolve(("AAPL",))
    assert second.symbols == first.symbols
    assert second.again_in is not None
    assert [one.status for one in second.notices] == ["contracts_unknown"]


def test_only_a_thousand_contracts_are_quoted_by_one_connection(house: House) -> None:
    resolver = contracts(house, OPTIONS)
    many = tuple(f"O:AAPL250620C{number:08d}" for number in range(1_200))
    topics = resolver.topics(many)
    assert (len(topics[Channel.QUOTES]), len(topics[Channel.TRADES])) == (1_000, 1_200)
    assert resolver.cut(many) == 200


def test_option_contracts_are_subscribed_at_the_simulator(trading_house: House) -> None:
    witness = Witness()
    with running(trading_house.platform, replace(OPTIONS, max_expiry_days=10), witness) as feed:
        witness.until(lambda: witness.told("subscribed"), 10)
        carried = feed.subscribed("polygon-1") or ()
        assert carried
        assert all(one.startswith("O:AAPL") for one in carried)
