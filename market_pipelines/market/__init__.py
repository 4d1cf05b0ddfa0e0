"""The domain: instruments, sessions, bars, corporate actions, outcomes, consensus and quality rules.

Everything here is pure: values in, values out. No file, no socket, no clock of its own, no Dagster.
"""
