"""IEX Cloud's API, whose service was retired on 2024-08-31: for servers that still speak it, and for kept files."""

from market_pipelines.providers.iex_cloud.adapter import PUBLIC_ADDRESS, IexCloud

__all__ = ["PUBLIC_ADDRESS", "IexCloud"]
