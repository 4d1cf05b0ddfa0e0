"""What people type behind `stream run`: today's options and those of the streamer before it."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from market_pipelines.cli.main import app
from market_pipelines.cli.stream_options import RunOptions, wanted_of
from market_pipelines.market.records import Right
from market_pipelines.streaming.plan import AssetClass, Channel, FeedName
from market_pipelines.streaming.plans import Wanted


def wanted(**options: object) -> Wanted:
    return wanted_of(RunOptions(**options), lambda _: None)  # type: ignore[arg-type]


def test_without_options_nothing_is_asked_for_in_particular() -> None:
    assert wanted() == Wanted()


@pytest.mark.parametrize(
    ("old", "channels"),
    [
        ("quotes", (Channel.QUOTES,)),
        ("trades", (Channel.TRADES,)),
        ("both", (Channel.QUOTES, Channel.TRADES)),
    ],
)
def test_the_old_feeds_are_channels_and_it_is_said(old: str, channels: tuple[Channel, ...]) -> None:
    said: list[str] = []
    found = wanted_of(RunOptions(feed=old, words=("AAPL", "MSFT", "GOOGL"), market="stocks"), said.append)
    assert (found.feed, found.channels) == (FeedName.POLYGON, channels)
    assert found.symbols == ("AAPL", "MSFT", "GOOGL")
    assert said == [
        f"--feed {old} is how the old streamer named channels: taken as --feed polygon --channels {','.join(channels)}"
    ]


@pytest.mark.parametrize("words", [("AAPL,MSFT",), ("AAPL", "MSFT"), ("AAPL, MSFT",)])
def test_symbols_may_be_written_with_commas_or_without(words: tuple[str, ...]) -> None:
    assert wanted(words=words).symbols == ("AAPL", "MSFT")


def test_types_may_be_written_the_old_way() -> None:
    found = wanted(types=("sp-500",), words=("nasdaq-100",))
    assert (found.types, found.symbols) == (("sp-500", "nasdaq-100"), ())
    mixed = wanted(types=("wig20",), words=("AAPL",))
    assert (mixed.types, mixed.symbols) == (("wig20",), ("AAPL",))


@pytest.mark.parametrize(
    ("word", "asset_class", "market"),
    [
        (None, AssetClass.STOCKS, None),
        ("stocks", AssetClass.STOCKS, None),
        ("Options", AssetClass.OPTIONS, None),
        ("pl", AssetClass.STOCKS, "pl"),
    ],
)
def test_a_market_is_an_asset_class_or_the_name_of_one(
    word: str | None, asset_class: AssetClass, market: str | None
) -> None:
    found = wanted(market=word)
    assert (found.asset_class, found.market) == (asset_class, market)


def test_options_are_narrowed_as_before() -> None:
    found = wanted(words=("AAPL",), feed="both", market="options", option_type="call", max_expiry_days=14)
    assert (found.right, found.max_expiry_days, found.asset_class) == (Right.CALL, 14, AssetClass.OPTIONS)
    assert wanted(option_type="both").right is None


def test_aggregates_are_minutes_and_massive_is_polygon() -> None:
    found = wanted(feed="Massive", channels=("quotes,aggregates", "luld"))
    assert (found.feed, found.channels) == (FeedName.POLYGON, (Channel.QUOTES, Channel.MINUTES, Channel.LULD))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"feed": "bloomberg"}, "accepted: polygon, stooq, yahoo, poll"),
        ({"channels": ("ticks",)}, "accepted: quotes, trades, aggregates, seconds, minutes, luld"),
        ({"option_type": "straddle"}, "accepted: call, put, both"),
        ({"market": "options", "feed": "stooq"}, "only the feed polygon streams options"),
    ],
)
def test_what_cannot_be_is_refused_with_what_is_accepted(options: dict[str, object], said: str) -> None:
    with pytest.raises(typer.BadParameter) as caught:
        wanted(**options)
    assert said in str(caught.value)


def test_every_option_of_the_contract_is_there() -> None:
    told = CliRunner().invoke(app, ["stream", "run", "--help"], env={"COLUMNS": "240", "TERM": "dumb"})
    assert told.exit_code == 0
    for option in (
        "feed", "symbols", "symbols-list", "types", "market", "channels", "symbols-per-connection", "max-connections",
        "batch-interval", "max-expiry-days", "option-type", "market-hours", "provider", "every", "attempts",
        "db-server", "redis-url", "log-level",
    ):  # fmt: skip
        assert f"--{option}" in told.output


def test_the_verbs_are_there() -> None:
    told = CliRunner().invoke(app, ["stream", "--help"], env={"COLUMNS": "240", "TERM": "dumb"})
    for verb in ("run", "start", "stop", "status", "replay", "reload", "gaps"):
        assert verb in told.output


def test_a_list_of_symbols_is_handed_on_as_a_file(tmp_path: Path) -> None:
    assert wanted(symbols_list=tmp_path / "s.yaml").symbols_list == tmp_path / "s.yaml"
