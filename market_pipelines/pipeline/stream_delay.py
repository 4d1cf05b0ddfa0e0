"""How much later than the exchange a feed is by its plan, which is no fault of it."""

from __future__ import annotations

from datetime import timedelta

from market_pipelines.market.consensus import house_name
from market_pipelines.settings import Settings

_NONE = timedelta()


def delay_of(settings: Settings, feed: str) -> timedelta:
    """`feed`: as it is called or stored. The provider's own lateness of seconds is none of this."""
    return settings.polygon_delay if house_name(feed) == "polygon" else _NONE
