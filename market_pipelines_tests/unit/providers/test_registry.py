import logging
from collections.abc import Iterable
from importlib.metadata import EntryPoint

import pytest

from market_pipelines.market.instruments import Instrument, Kind
from market_pipelines.providers import registry
from market_pipelines.providers.alpha_vantage import AlphaVantage
from market_pipelines.providers.protocol import DailyProvider
from market_pipelines.providers.symbols import canonical_symbols, native_symbols
from market_pipelines.providers.yahoo import Yahoo
from market_pipelines.settings import Settings

SETTINGS = Settings(_env_file=None)
HERE = __name__
SHIPPED = {"alpha_vantage", "iex_cloud", "polygon", "stooq", "yahoo"}


class Plugin(Yahoo):
    name = "plugin"
    rate_limit = 7
    daily_quota = 500
    quota_zone = "Asia/Tokyo"


class Stubborn(Yahoo):
    name = "stubborn"

    def __init__(self, base_url: str) -> None:
        raise RuntimeError(f"no licence for {base_url}/?apikey=abcdefgh")


def install(monkeypatch: pytest.MonkeyPatch, entries: Iterable[tuple[str, str]]) -> None:
    points = [EntryPoint(name, value, registry.PROVIDERS_GROUP) for name, value in entries]
    monkeypatch.setattr(registry, "installed", lambda: tuple(points))


def test_the_built_in_providers_need_no_package_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [])
    assert registry.known_names() == SHIPPED
    providers = registry.build_providers(SETTINGS)
    assert {name: provider.name for name, provider in providers.items()} == {name: name for name in SHIPPED}


def test_the_packages_own_entry_points_are_not_taken_for_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [("alpha_vantage", "market_pipelines.providers.alpha_vantage:AlphaVantage")])
    assert registry.discover().broken == ()
    assert registry.discover().classes["alpha_vantage"] is AlphaVantage


def test_a_plugin_is_found_and_brings_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [("plugin", f"{HERE}:Plugin")])
    assert isinstance(registry.build_providers(SETTINGS)["plugin"], Plugin)
    assert registry.limits("plugin", SETTINGS) == registry.Limits(7, 500, "Asia/Tokyo")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("gone", "no_such_package:Provider", "ModuleNotFoundError"),
        ("odd", f"{HERE}:HERE", "is needed"),
        ("misnamed", f"{HERE}:Plugin", "name = 'misnamed'"),
        ("yahoo", f"{HERE}:Plugin", "the name is taken"),
        ("stubborn", f"{HERE}:Stubborn", "no licence"),
    ],
)
def test_a_broken_plugin_is_reported_and_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, value: str, reason: str
) -> None:
    install(monkeypatch, [(name, value)])
    with caplog.at_level(logging.WARNING):
        providers = registry.build_providers(SETTINGS)
    assert set(providers) == SHIPPED
    assert type(providers["yahoo"]) is Yahoo
    assert name in caplog.text
    assert reason in caplog.text
    assert "abcdefgh" not in caplog.text


def test_addresses_can_be_given_by_name() -> None:
    providers = registry.build_providers(SETTINGS, {"yahoo": "http://127.0.0.1:8099/yahoo"})
    yahoo = providers["yahoo"]
    assert isinstance(yahoo, Yahoo)
    assert yahoo.base_url == "http://127.0.0.1:8099/yahoo"


def test_limits_come_from_the_settings() -> None:
    settings = Settings(_env_file=None, alpha_vantage_rate_limit=75, alpha_vantage_daily_quota=0)
    assert registry.limits("alpha_vantage", settings) == registry.Limits(75, 0, "US/Eastern", per_second=1)
    assert registry.limits("stooq", settings).reset_zone == "Europe/Warsaw"
    assert registry.limits("yahoo", settings).reset_zone == "UTC"
    with pytest.raises(ValueError, match="alpha_vantage, iex_cloud, polygon, stooq, yahoo"):
        registry.limits("nobody", settings)


INSTRUMENTS = (
    Instrument("BRK.B", "us", "XNYS", "USD"),
    Instrument("PKO", "pl", "XWAR", "PLN"),
    Instrument("^SPX", "us", "XNYS", "USD", kind=Kind.INDEX, provider_symbols={"yahoo": "^GSPC", "stooq": "^spx"}),
)


@pytest.mark.parametrize(
    ("name", "spelled"),
    [
        ("yahoo", {"BRK.B": "BRK-B", "PKO": "PKO.WA", "^SPX": "^GSPC"}),
        ("stooq", {"BRK.B": "brk-b.us", "PKO": "pko", "^SPX": "^spx"}),
        ("alpha_vantage", {"BRK.B": "BRK-B"}),
    ],
)
def test_symbols_are_mapped_both_ways(name: str, spelled: dict[str, str]) -> None:
    provider: DailyProvider = registry.build_providers(SETTINGS)[name]
    assert native_symbols(provider, INSTRUMENTS) == spelled
    assert canonical_symbols(provider, INSTRUMENTS) == {native: symbol for symbol, native in spelled.items()}


def test_one_spelling_for_two_instruments_is_refused() -> None:
    twin = Instrument("BRKB", "us", "XNYS", "USD", provider_symbols={"yahoo": "BRK-B"})
    with pytest.raises(ValueError, match="BRK-B"):
        canonical_symbols(Yahoo(), [*INSTRUMENTS, twin])
