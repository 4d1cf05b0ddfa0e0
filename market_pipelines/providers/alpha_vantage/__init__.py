"""Alpha Vantage: one endpoint, every failure with status 200, numbers as text, prices as traded.

`adapter` says what is asked, `notices` what a refusal means; the others read the answers, one kind a file. The
key travels in the query string and is echoed in some refusals.
"""

from market_pipelines.providers.alpha_vantage.adapter import NO_KEY, PUBLIC_ADDRESS, AlphaVantage

__all__ = ["NO_KEY", "PUBLIC_ADDRESS", "AlphaVantage"]
