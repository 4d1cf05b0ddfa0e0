"""The universes that ship, and market files that follow them."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from market_pipelines.market.universes import UniverseFileError, UnknownUniverse
from market_pipelines.pipeline.markets import MarketFileError, read_market
from market_pipelines.pipeline.universes import load_universe, universe_names

SIZES = {"sp500": 503, "nasdaq100": 101, "wig20": 20, "mwig40": 40, "swig80": 80}

POLISH = """\
type: market_pipelines.Market

attributes:
  name: gpw
  title: Warsaw
  calendar: XWAR
  currency: PLN
  since: 2015-01-02
  providers: [yahoo, stooq]
  universes: [wig20, MW40]
  indices:
    - {symbol: WIG20}
  symbols:
    - {symbol: PKO, name: My own name for it, listed_from: 2004-11-10}
    - {symbol: ZZZ}
"""


def market_file(folder: Path, text: str) -> Path:
    path = folder / "defs.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(folder: Path, old: str, new: str) -> str:
    assert old in POLISH
    path = market_file(folder, POLISH.replace(old, new))
    with pytest.raises(MarketFileError) as caught:
        read_market(path)
    return str(caught.value).removeprefix(str(path))


def test_five_universes_ship() -> None:
    assert set(universe_names()) == SIZES.keys()


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_a_shipped_universe_says_when_and_from_where_its_list_is(name: str, size: int) -> None:
    universe = load_universe(name)
    assert len(universe.today) == len(universe.on(universe.as_of)) == size
    assert universe.sources
    keys = [source.split(" = ")[0] for source in universe.sources]
    assert {member.source for member in universe.members} <= set(keys)
    assert all(member.valid_from <= universe.as_of for member in universe.members)


@pytest.mark.parametrize(("name", "day"), [("sp500", date(2022, 3, 1)), ("nasdaq100", date(2022, 3, 1))])
def test_the_american_lists_have_no_hole_since_2019(name: str, day: date) -> None:
    universe = load_universe(name)
    assert universe.spans == ((date(2019, 1, 1), None),)
    assert len(universe.on(day)) == pytest.approx(SIZES[name], abs=3)


def test_the_warsaw_lists_never_name_a_company_in_two_indices_on_one_day() -> None:
    for day in (date(2020, 11, 2), date(2026, 1, 2), date(2026, 3, 23)):
        names = [member.symbol for name in ("wig20", "mwig40", "swig80") for member in load_universe(name).on(day)]
        assert len(names) == 140
        assert len(set(names)) == 140


def test_the_revision_of_march_2026_moved_who_the_exchange_said() -> None:
    def of(name: str, day: date) -> set[str]:
        return {member.symbol for member in load_universe(name).on(day)}

    before, after = date(2026, 3, 20), date(2026, 3, 23)
    assert of("wig20", after) - of("wig20", before) == {"TPE", "MDV"}
    assert of("wig20", before) - of("wig20", after) == {"OPL", "CCC"}
    assert of("mwig40", after) - of("mwig40", before) == {"CRI", "OPL", "PXM"}
    assert of("swig80", before) - of("swig80", after) == {"CRI", "MCR", "MLS", "PXM", "XTP"}


def test_an_alias_is_the_universe_itself() -> None:
    assert load_universe("WIG80") is load_universe("swig80")
    with pytest.raises(UnknownUniverse, match="'wig30' is not known; there are mwig40"):
        load_universe("wig30")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UniverseFileError, match="is not UTF-8 text"):
        load_universe("bad", tmp_path)


def test_the_members_of_a_markets_universes_are_followed_besides_its_symbols(tmp_path: Path) -> None:
    market = read_market(market_file(tmp_path, POLISH))
    symbols = [one.symbol for one in market.instruments]
    assert symbols[:2] == ["PKO", "ZZZ"]
    assert len(symbols) == len(set(symbols)) == 2 + 19 + 40
    assert market.instrument("PKO").name == "My own name for it"
    assert market.instrument("XTB").name == "XTB"
    assert {one.mic for one in market.instruments} == {"XWAR"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[wig20, MW40]", "[wig20, dax]", ":10: universes.1: read 'dax'; universe 'dax' is not known; there are"),
        ("[wig20, MW40]", "[sp500]", ":10: universes.0: read 'sp500'; its members trade on XNYS, not on XWAR"),
        ("[wig20, MW40]", "[mwig40, MW40]", ":10: universes.1: read 'MW40'; a universe is named once"),
        ("[wig20, MW40]", "wig20", ":10: universes: read 'wig20'; "),
    ],
)
def test_a_wrong_universe_is_refused_with_its_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert refusal(tmp_path, old, new).startswith(said)


def test_a_market_without_universes_follows_its_symbols_only(tmp_path: Path) -> None:
    text = POLISH.replace("  universes: [wig20, MW40]\n", "")
    assert len(read_market(market_file(tmp_path, text)).instruments) == 2
