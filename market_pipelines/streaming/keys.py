"""Which feeds want a key, and what to tell a person who has none. Asks nobody."""

from __future__ import annotations

from market_pipelines.settings import Settings
from market_pipelines.streaming.plan import FeedName


def keyless(settings: Settings, feed: str, *, simulated: bool) -> str:
    """Why a feed cannot be had with these settings; empty where it can, as far as settings tell."""
    if simulated:
        return ""
    if feed == FeedName.POLYGON and settings.polygon_api_key is None:
        return "POLYGON_API_KEY is not set, and Polygon's stream wants one"
    if feed == FeedName.STOOQ and settings.stooq_api_key is None and settings.stooq_base_url is None:
        return "STOOQ_API_KEY is not set, and Stooq quotes nobody without one"
    return ""
