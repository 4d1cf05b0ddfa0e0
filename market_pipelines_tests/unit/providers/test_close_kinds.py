"""Which close a provider's daily bars end with."""

import pytest

from market_pipelines.market.consensus import CLOSE_KINDS, CloseKind
from market_pipelines.providers.protocol import close_kind_of
from market_pipelines.providers.registry import BUILT_IN, build_providers
from market_pipelines.settings import Settings, read_settings


@pytest.fixture(autouse=True)
def settings_of_this_machine_are_out_of_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in Settings.model_fields:
        monkeypatch.delenv(variable.upper(), raising=False)


def test_what_the_adapters_say_is_what_is_known_without_them() -> None:
    providers = build_providers(read_settings(env_file=None))
    assert {name: close_kind_of(providers[name]) for name in BUILT_IN} == CLOSE_KINDS


def test_a_provider_that_says_nothing_has_a_close_of_unknown_kind() -> None:
    class Silent:
        name = "silent"

    assert close_kind_of(Silent()) is None  # type: ignore[arg-type]
    assert set(CLOSE_KINDS.values()) == set(CloseKind), "all kinds are in use"
