"""Polygon.io, called Massive since October 2025: its REST interface and its flat files, one module a subject."""

from market_pipelines.providers.polygon.adapter import PUBLIC_ADDRESS, Polygon

__all__ = ["PUBLIC_ADDRESS", "Polygon"]
