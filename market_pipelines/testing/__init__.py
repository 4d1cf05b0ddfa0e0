"""The contract that every provider is held to, for packages that bring a provider of their own.

Subclass `ProviderContract` for the daily bars and `AbilitiesContract` for everything else, in a test module of your
own, and run pytest. Needs pytest and hypothesis. `docs/providers.md` has a worked example.
"""

import pytest

# Before they are imported: so that a failing assertion shows its values.
pytest.register_assert_rewrite("market_pipelines.testing.abilities", "market_pipelines.testing.daily")

from market_pipelines.testing.abilities import AbilitiesContract, Good  # noqa: E402 (after the line above)
from market_pipelines.testing.daily import (  # noqa: E402 (after the line above)
    AAPL,
    KEY,
    MONDAY,
    QUERY,
    WEEK,
    Bar,
    ProviderContract,
    answer,
    epoch,
)

__all__ = [
    "AAPL",
    "KEY",
    "MONDAY",
    "QUERY",
    "WEEK",
    "AbilitiesContract",
    "Bar",
    "Good",
    "ProviderContract",
    "answer",
    "epoch",
]
