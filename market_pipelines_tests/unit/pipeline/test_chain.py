"""The order of providers: the market's own, then the operator's overrides."""

import pytest

from market_pipelines.pipeline.chain import chain_names
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.settings import Settings, SettingsError

US = read_markets()["us"]


def order(monkeypatch: pytest.MonkeyPatch, **variables: str) -> tuple[str, ...]:
    for name in ("PRIMARY_PROVIDER", "FALLBACK_PROVIDERS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return chain_names(US, Settings(_env_file=None))


def test_the_market_decides_without_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    assert order(monkeypatch) == ("yahoo", "alpha_vantage", "polygon", "stooq")


def test_the_primary_goes_to_the_front_and_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert order(monkeypatch, PRIMARY_PROVIDER="stooq") == ("stooq", "yahoo", "alpha_vantage", "polygon")


def test_fallbacks_replace_what_comes_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert order(monkeypatch, FALLBACK_PROVIDERS="stooq") == ("yahoo", "stooq")
    assert order(monkeypatch, PRIMARY_PROVIDER="alpha_vantage", FALLBACK_PROVIDERS="stooq") == (
        "alpha_vantage",
        "yahoo",
        "stooq",
    )


def test_a_provider_is_known_by_its_other_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert order(monkeypatch, PRIMARY_PROVIDER="Massive", FALLBACK_PROVIDERS="IEX") == ("polygon", "yahoo", "iex_cloud")


def test_an_unknown_provider_is_refused_with_those_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="bloomberg is not a provider; accepted: alpha_vantage, iex_cloud"):
        order(monkeypatch, PRIMARY_PROVIDER="bloomberg")
