"""Which streams are meant: by market files where nobody says otherwise, else by what a person said."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from market_pipelines.pipeline.markets import MarketFileError, read_market, read_markets
from market_pipelines.pipeline.platform import Platform
from market_pipelines.providers.registry import build_providers
from market_pipelines.settings import read_settings
from market_pipelines.streaming.plan import AssetClass, Channel, FeedName
from market_pipelines.streaming.plans import NothingToStream, Wanted, planned, unready
from market_pipelines.streaming.symbols import UnusableSymbols


def platform(simulated: bool = True, **settings: Any) -> Platform:
    read = read_settings(env_file=None, **settings)
    return cast(
        Platform,
        SimpleNamespace(
            settings=read, markets=read_markets(), providers=build_providers(read), simulated=simulated, market=None
        ),
    )


@pytest.fixture
def house() -> Platform:
    found = platform()
    found.__dict__["market"] = lambda name: found.markets[name]
    return found


def names(house: Platform, wanted: Wanted) -> list[str]:
    return [one.plan.name for one in planned(house, wanted)]


@pytest.mark.parametrize(
    ("settings", "minutes"),
    [
        ({}, 0),
        ({"polygon_ws_url": "wss://socket.massive.com"}, 0),
        ({"polygon_ws_url": "wss://delayed.massive.com"}, 15),
        ({"polygon_ws_url": "wss://delayed.polygon.io/"}, 15),
        ({"polygon_ws_url": "wss://delayed-business.massive.com"}, 15),
        ({"polygon_ws_url": "wss://socket.delayed.example"}, 0),
        ({"polygon_ws_url": "wss://delayed.massive.com", "stream_polygon_delay_minutes": 0}, 0),
        ({"polygon_ws_url": "wss://feed.example", "stream_polygon_delay_minutes": 10}, 10),
    ],
)
def test_a_delayed_plan_is_known_by_its_server_or_by_the_setting(settings: dict[str, Any], minutes: int) -> None:
    house = platform(**settings)
    house.__dict__["market"] = lambda name: house.markets[name]
    plans = {one.plan.name: one.plan for one in planned(house)}
    assert plans["us-polygon"].delay == timedelta(minutes=minutes)
    assert plans["pl-stooq"].delay == timedelta()


def test_without_a_word_every_market_streams_as_its_file_says(house: Platform) -> None:
    plans = {one.plan.name: one.plan for one in planned(house)}
    assert set(plans) == {"us-polygon", "pl-stooq"}
    assert plans["us-polygon"].channels == (Channel.QUOTES, Channel.TRADES, Channel.MINUTES)
    assert plans["pl-stooq"].every_seconds == 30
    assert "PKO" in plans["pl-stooq"].symbols


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        (Wanted(feed=FeedName.STOOQ), "pl-stooq"),
        (Wanted(feed=FeedName.POLYGON), "us-polygon"),
        (Wanted(feed=FeedName.YAHOO), "us-yahoo"),
        (Wanted(feed=FeedName.POLL), "us-poll"),
        (Wanted(market="pl"), "pl-stooq"),
        (Wanted(market="pl", feed=FeedName.YAHOO), "pl-yahoo"),
        (Wanted(symbols=("AAPL", "MSFT")), "us-polygon"),
        (Wanted(symbols=("PKO",)), "pl-stooq"),
        (Wanted(feed=FeedName.STOOQ, symbols=("AAPL",)), "us-stooq"),
        (Wanted(feed=FeedName.POLL, symbols=("pko", "cdr")), "pl-poll"),
        (Wanted(types=("sp500",)), "us-polygon"),
        (Wanted(asset_class=AssetClass.OPTIONS, symbols=("AAPL",)), "us-polygon-options"),
    ],
)
def test_one_stream_is_meant_where_anything_is_named(house: Platform, wanted: Wanted, name: str) -> None:
    assert names(house, wanted) == [name]


def test_a_universe_of_another_exchange_finds_its_market(house: Platform) -> None:
    assert names(house, Wanted(types=("wig20",))) == ["pl-stooq"]


def test_what_looks_again_and_again_has_quotes_alone(house: Platform) -> None:
    (one,) = planned(house, Wanted(feed=FeedName.STOOQ, channels=(Channel.TRADES,), every_seconds=5.0))
    assert (one.plan.channels, one.plan.every_seconds) == ((Channel.QUOTES,), 5.0)


def test_attempts_are_those_of_the_setting_where_nobody_says() -> None:
    found = platform(stream_reconnect_attempts=10)
    found.__dict__["market"] = lambda name: found.markets[name]
    assert {one.plan.attempts for one in planned(found)} == {10}
    assert {one.plan.attempts for one in planned(found, Wanted(feed=FeedName.STOOQ, attempts=3))} == {3}


def test_a_market_file_without_a_stream_has_none(house: Platform) -> None:
    house.__dict__["markets"] = {name: replace(one, stream=None) for name, one in house.markets.items()}
    with pytest.raises(NothingToStream):
        planned(house)
    assert names(house, Wanted(market="us")) == ["us-poll"]


def test_symbols_that_are_none_are_refused(house: Platform) -> None:
    with pytest.raises(UnusableSymbols):
        planned(house, Wanted(symbols=("AA PL!",)))


def test_a_selection_is_looked_up_again(house: Platform, tmp_path: Path) -> None:
    listed = tmp_path / "symbols.yaml"
    listed.write_text("[AAPL]")
    (one,) = planned(house, Wanted(market="us", symbols_list=listed))
    assert one.plan.symbols == ("AAPL",)
    listed.write_text("[AAPL, KO]")
    assert one.selection.resolve(house) == ("AAPL", "KO")


def test_without_a_key_a_real_stream_is_left_out_and_a_simulated_one_is_not() -> None:
    real = platform(simulated=False)
    real.__dict__["market"] = lambda name: real.markets[name]
    reasons = {one.plan.name: unready(real, one.plan) for one in planned(real)}
    assert "POLYGON_API_KEY is not set" in reasons["us-polygon"]
    assert "STOOQ_API_KEY is not set" in reasons["pl-stooq"]
    keyed = platform(simulated=False, polygon_api_key="a-real-key-1")
    keyed.__dict__["market"] = lambda name: keyed.markets[name]
    assert [unready(keyed, one.plan) for one in planned(keyed, Wanted(feed=FeedName.POLYGON))] == [""]


# --- the section of a market file ----------------------------------------------------------------------------

FILE = """\
type: market_pipelines.Market

attributes:
  name: lse
  title: United Kingdom
  calendar: XLON
  currency: GBP
  since: 2015-01-02
  providers: [yahoo, stooq]
  stream:
    feed: yahoo
    every_seconds: 15
  symbols:
    - {symbol: VOD, name: Vodafone Group}
"""


def read(folder: Path, old: str = "", new: str = "") -> Any:
    path = folder / "defs.yaml"
    path.write_text(FILE.replace(old, new) if old else FILE, encoding="utf-8")
    return read_market(path)


def test_a_market_file_says_what_is_streamed(tmp_path: Path) -> None:
    setup = read(tmp_path).stream
    assert (setup.feed, setup.every_seconds) == ("yahoo", 15)
    assert read(tmp_path, "  stream:\n    feed: yahoo\n    every_seconds: 15\n", "").stream is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("feed: yahoo", "feed: bloomberg", ":11: stream.feed: read 'bloomberg'"),
        ("every_seconds: 15", "each_seconds: 15", ":12: stream.each_seconds: read 15; no such key"),
        ("every_seconds: 15", "every_seconds: 0", ":12: stream.every_seconds: read 0"),
        ("every_seconds: 15", "channels: [ticks]", ":12: stream.channels.0: read 'ticks'"),
    ],
)
def test_a_wrong_section_is_refused_with_its_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(MarketFileError, match=r"defs\.yaml") as caught:
        read(tmp_path, old, new)
    assert said in str(caught.value)
