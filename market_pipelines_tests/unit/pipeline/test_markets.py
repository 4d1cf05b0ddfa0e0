"""Market files: what is read from them, and how a wrong one is refused."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path

import pytest

from market_pipelines.market.instruments import Kind
from market_pipelines.pipeline.markets import MarketFileError, read_market, read_markets

GOOD = """\
type: market_pipelines.Market

attributes:
  name: lse
  title: United Kingdom
  calendar: XLON
  currency: GBP
  since: 2015-01-02
  providers: [yahoo, stooq]
  indices:
    - {symbol: ^UKX, name: FTSE 100, providers: {yahoo: ^FTSE, stooq: ^ukx}}
  symbols:
    - {symbol: VOD, name: Vodafone Group}
    - {symbol: HSBA, name: HSBC Holdings, listed_from: 1992-07-28}
"""


def market_file(folder: Path, text: str) -> Path:
    path = folder / "defs.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(folder: Path, old: str, new: str) -> str:
    assert old in GOOD
    path = market_file(folder, GOOD.replace(old, new))
    with pytest.raises(MarketFileError) as caught:
        read_market(path)
    return str(caught.value).removeprefix(str(path))


def test_a_market_file_becomes_a_definition(tmp_path: Path) -> None:
    market = read_market(market_file(tmp_path, GOOD))
    assert (market.name, market.mic, market.currency, market.since) == ("lse", "XLON", "GBP", date(2015, 1, 2))
    assert market.providers == ("yahoo", "stooq")
    assert [(one.symbol, one.kind) for one in market.everything] == [
        ("VOD", Kind.EQUITY),
        ("HSBA", Kind.EQUITY),
        ("^UKX", Kind.INDEX),
    ]
    assert market.instrument("HSBA").listed_from == date(1992, 7, 28)
    assert market.instrument("^UKX").provider_symbols == {"yahoo": "^FTSE", "stooq": "^ukx"}


def test_a_file_that_is_changed_is_read_again_and_one_that_is_not_is_not(tmp_path: Path) -> None:
    path = market_file(tmp_path, GOOD)
    before = read_market(path)
    assert read_market(path) is before
    market_file(tmp_path, GOOD.replace("VOD,", "VOX,"))
    os.utime(path, ns=(1, 1))
    assert read_market(path).instrument("VOX").name == "Vodafone Group"
    market_file(tmp_path, "no market")
    with pytest.raises(MarketFileError):
        read_market(path)


def test_the_markets_that_ship_are_good() -> None:
    markets = read_markets()
    assert markets["us"].mic == "XNYS"
    assert len(markets["us"].instruments) == 50
    assert markets["pl"].mic == "XWAR"
    assert len(markets["pl"].instruments) == 20


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("calendar: XLON", "calendar: XLND", 6, "calendar: read 'XLND'; accepted: "),
        ("[yahoo, stooq]", "[yahoo, bloomberg]", 9, "providers.1: read 'bloomberg'; accepted: alpha_vantage"),
        ("[yahoo, stooq]", "[yahoo, yahoo]", 9, "providers.1: read 'yahoo'; a provider is named once"),
        ("symbol: HSBA", "symbol: VOD", 14, "symbols.1.symbol: read 'VOD'; a symbol is listed once"),
        ("{yahoo: ^FTSE,", "{reuters: ^FTSE,", 11, "read 'reuters'; accepted: alpha_vantage"),
        ("since: 2015-01-02", "since: soon", 8, "since: read 'soon'"),
        ("  currency: GBP\n", "", 3, "currency: read"),
        ("  title:", "  colour: red\n  title:", 5, "colour: read 'red'; no such key"),
        ("name: HSBC Holdings,", "name: HSBC Holdings, nmae: x,", 14, "nmae: read 'x'; no such key"),
        ("listed_from: 1992-07-28", "delisted_on: 1992-07-28, listed_from: 1993-01-04", 14, "not before listed_from"),
        (
            "  indices:",
            "  quality: {thresholds: {return_gap: 1}}\n  indices:",
            10,
            "read 'return_gap'; accepted: adjusted_",
        ),
        ("  indices:", "  quality: {off: [return_gap]}\n  indices:", 10, "read 'return_gap'; accepted: adjusted_"),
        ("  indices:", "  quality: {off: [uniqueness]}\n  indices:", 10, "quality.off.uniqueness: read 'uniqueness'"),
        ("market_pipelines.Market", "market_pipelines.Marker", 1, "type: read 'market_pipelines.Marker'; accepted: "),
    ],
)
def test_a_wrong_file_is_refused_with_its_line_and_what_is_accepted(
    tmp_path: Path, old: str, new: str, line: int, said: str
) -> None:
    message = refusal(tmp_path, old, new)
    assert message.startswith(f":{line}: ")
    assert said in message


@pytest.mark.parametrize("key", ["off", "'off'"])
def test_a_market_says_which_rules_it_does_without(tmp_path: Path, key: str) -> None:
    """YAML takes a bare `off` for false."""
    quality = f"  quality:\n    {key}: [volume_gap, return_mad]\n    thresholds: {{return_cap: 0.8}}\n"
    market = read_market(market_file(tmp_path, GOOD.replace("  indices:", f"{quality}  indices:")))
    assert market.quality.off == {"volume_gap", "return_mad"}
    assert market.quality.thresholds == {"return_cap": 0.8}


def test_every_fault_of_a_file_is_named_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("since: 2015-01-02", "since: soon").replace("currency: GBP", "currency: pounds")
    with pytest.raises(MarketFileError) as caught:
        read_market(market_file(tmp_path, text))
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == ["currency", "since"]


@pytest.mark.parametrize("text", ["", "- a list", "attributes: []", "type: market_pipelines.Market"])
def test_a_file_that_is_no_market_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(MarketFileError, match=r"'type' and 'attributes'"):
        read_market(market_file(tmp_path, text))


def test_broken_yaml_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MarketFileError, match="is not valid YAML"):
        read_market(market_file(tmp_path, "attributes: [unclosed"))
    with pytest.raises(MarketFileError, match="cannot be read"):
        read_market(tmp_path / "nowhere.yaml")


def test_two_files_cannot_share_a_name(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        market_file(tmp_path / folder, GOOD)
    with pytest.raises(MarketFileError, match="the market name 'lse' is taken"):
        read_markets(tmp_path)


def test_a_folder_without_markets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MarketFileError, match="holds no market file"):
        read_markets(tmp_path)
