"""Whose ticks are wanted: command lines, files, universes and markets."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from market_pipelines.market.universes import canonical
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.pipeline.platform import Platform, UnknownMarket
from market_pipelines.pipeline.universes import load_universe, universe_names
from market_pipelines.streaming.symbols import UnusableSymbols, chosen_symbols, instruments_for, read_symbols

MARKETS = read_markets()


class Markets:
    """As much of a platform as is needed to know markets."""

    markets = MARKETS
    market = Platform.market


PLATFORM = cast(Platform, Markets())


def chosen(*symbols: str, types: tuple[str, ...] = (), path: Path | None = None, market: str = "us") -> tuple[str, ...]:
    return chosen_symbols(PLATFORM, market=market, symbols=symbols, symbols_list=path, types=types)


def yaml_file(folder: Path, text: str) -> Path:
    path = folder / "symbols.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def members(name: str) -> tuple[str, ...]:
    return tuple(one.symbol for one in load_universe(name).today)


def test_where_nothing_is_named_it_is_the_market_itself() -> None:
    assert chosen(market="pl") == tuple(one.symbol for one in MARKETS["pl"].everything)


def test_symbols_come_as_they_are_named_each_once() -> None:
    assert chosen("MSFT", "AAPL,IBM", "MSFT O:AAPL230616C00150000") == (
        "MSFT",
        "AAPL",
        "IBM",
        "O:AAPL230616C00150000",
    )


def test_small_letters_mean_a_listed_symbol_and_case_is_kept_otherwise() -> None:
    assert chosen("aapl", "BApA", "zzzza") == ("AAPL", "BApA", "zzzza")


@pytest.mark.parametrize("name", ["sp500", "sp-500", "SP500", "SP_500"])
def test_the_old_names_of_universes_are_understood(name: str) -> None:
    assert chosen(types=(name,)) == members("sp500")


@pytest.mark.parametrize(
    ("name", "own"),
    [("wig20", "wig20"), ("mwig-40", "mwig40"), ("swig80", "swig80"), ("wig80", "swig80"), ("WIG-80", "swig80")],
)
def test_warsaws_indices_are_known_by_all_their_names(name: str, own: str) -> None:
    assert canonical(own, universe_names()) == own
    assert chosen(types=(name,), market="pl") == members(own)


def test_all_types_are_the_market_and_every_universe_of_its_exchange() -> None:
    expected = {one.symbol for one in MARKETS["us"].everything} | {*members("sp500"), *members("nasdaq100")}
    assert set(chosen(types=("all",))) == expected == set(chosen("all"))
    assert "AAPL" not in chosen(types=("all",), market="pl")


def test_a_star_is_everything() -> None:
    assert chosen("*") == chosen(types=("*",)) == chosen("AAPL", "*") == ("*",)


def test_a_market_may_be_named_as_a_type() -> None:
    assert chosen(types=("us",)) == tuple(one.symbol for one in MARKETS["us"].everything)


@pytest.mark.parametrize(
    ("types", "words"),
    [(("pl",), "another market"), (("wig20",), "trades on XWAR"), (("sp5000",), "there are .*sp500.*also: all, us")],
)
def test_a_type_of_elsewhere_is_refused(types: tuple[str, ...], words: str) -> None:
    with pytest.raises(UnusableSymbols, match=words):
        chosen(types=types)


def test_a_market_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UnknownMarket, match="mars"):
        chosen(market="mars")


@pytest.mark.parametrize("word", ["AAP/L", "A" * 40, "O:AAPL", "$SPX", "-"])
def test_what_is_no_symbol_is_refused(word: str) -> None:
    with pytest.raises(UnusableSymbols, match="--symbols: read"):
        chosen(word)


@pytest.mark.parametrize("text", ["- AAPL\n- ON\n- NO\n", "symbols:\n  - AAPL\n  - ON\n  - NO\n", "[AAPL, ON, NO]"])
def test_a_file_is_a_list_or_a_mapping_with_one(tmp_path: Path, text: str) -> None:
    assert chosen(path=yaml_file(tmp_path, text)) == ("AAPL", "ON", "NO")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("symbols:\n  - AAPL\nname: mine\n", 3, "read the key 'name'"),
        ("tickers: [AAPL]\n", 1, "read the key 'tickers'"),
        ("symbols: AAPL\n", 1, "holds no list"),
        ("symbols:\n  tech: [AAPL]\n", 2, "holds no list"),
        ("- AAPL\n- [MSFT]\n", 2, "nothing nested"),
        ("- AAPL\n-\n", 2, "read ''"),
        ("- AAPL\n\n- BRK/B\n", 3, "read 'BRK/B'"),
        ("AAPL\n", 1, "accepted: a list"),
        ("symbols: []\n", 1, "the list is empty"),
        ("", 1, "is empty"),
        ("{}\n", 1, "accepted: a list"),
    ],
)
def test_a_file_that_is_something_else_is_refused_with_its_line(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    path = yaml_file(tmp_path, text)
    with pytest.raises(UnusableSymbols) as caught:
        chosen(path=path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert words in str(caught.value)


def test_a_file_that_is_broken_or_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableSymbols, match="not valid YAML"):
        read_symbols(yaml_file(tmp_path, "- [AAPL\n"))
    with pytest.raises(UnusableSymbols, match="cannot be read"):
        read_symbols(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"- \xb3\n")
    with pytest.raises(UnusableSymbols, match="not UTF-8"):
        read_symbols(tmp_path / "latin.yaml")


SYMBOLS = st.from_regex(r"[A-Za-z0-9^][A-Za-z0-9.^\-]{0,15}", fullmatch=True)


@given(named=st.lists(SYMBOLS, min_size=1, max_size=30), mapping=st.booleans(), flow=st.booleans())
def test_whatever_symbols_a_yaml_writer_writes_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, named: list[str], mapping: bool, flow: bool
) -> None:
    document = {"symbols": named} if mapping else named
    path = yaml_file(
        tmp_path_factory.mktemp("symbols"), yaml.safe_dump(document, default_flow_style=flow, allow_unicode=True)
    )
    assert read_symbols(path) == tuple(dict.fromkeys(named))


@given(text=st.text(max_size=200))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("symbols") / "symbols.yaml"
    path.write_text(text, encoding="utf-8", newline="")
    try:
        read_symbols(path)
    except UnusableSymbols as error:
        assert str(error).startswith(f"{path}:")


def test_a_symbol_that_no_file_lists_is_a_plain_instrument_of_the_market() -> None:
    apple, other = instruments_for(MARKETS["us"], ["AAPL", "ZZZZ"])
    assert apple.name == "Apple Inc."
    assert (other.symbol, other.mic, other.currency) == ("ZZZZ", "XNYS", "USD")
