"""The batch use cases: pull, settle, refresh, backfill, reparse, status.

Each is a function that a Dagster asset, a command and a notebook call alike. Nothing here knows Dagster,
a terminal or HTTP servers; adapters are handed in by the platform.
"""
