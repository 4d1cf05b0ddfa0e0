"""Adapters to the providers of market data: one file a provider, one protocol.

An adapter says which request answers a question and what an answer means. It opens no socket (`http.py`
does), keeps nothing, and knows neither the store nor its fellow adapters.
"""
