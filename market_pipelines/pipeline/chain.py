"""In which order a market's providers are asked, after the operator's overrides."""

from market_pipelines.market.definition import MarketDefinition
from market_pipelines.providers.registry import known_names
from market_pipelines.settings import Settings, SettingsError


def chain_names(market: MarketDefinition, settings: Settings) -> tuple[str, ...]:
    """`PRIMARY_PROVIDER` goes to the front; `FALLBACK_PROVIDERS` replaces what comes after the first."""
    names = list(market.providers)
    if settings.fallback_providers is not None:
        names = [names[0], *settings.fallback_providers]
    if settings.primary_provider is not None:
        names = [settings.primary_provider, *names]
    known = known_names()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SettingsError(
            f"PRIMARY_PROVIDER, FALLBACK_PROVIDERS: {', '.join(unknown)} is not a provider; "
            f"accepted: {', '.join(sorted(known))}"
        )
    return tuple(dict.fromkeys(names))
