"""The live use case: feeds are written to a journal first, then read from it by decoders and sinks.

A tick goes one way: feed → journal (durable) → chunk (columns) → sinks, each with a cursor of its own. Nothing here
knows Dagster, the command line or HTTP routes.
"""
