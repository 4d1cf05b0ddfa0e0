"""Stooq: a site without an official API, asked for its CSV files only."""

from market_pipelines.providers.stooq.adapter import PUBLIC_ADDRESS, Stooq

__all__ = ["PUBLIC_ADDRESS", "Stooq"]
