"""What the fault tests of the whole service ask for: a desk on a database of its own, and a quicker patience."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

from market_pipelines.streaming.care import Care
from market_pipelines.streaming.feeds.build import build_feed

IMPATIENT = Care(
    connect=2.0,
    poll=0.05,
    ping=0.3,
    pong=0.6,
    watch=0.1,
    first_pause=0.1,
    longest_pause=0.4,
    crowded_first=0.2,
    crowded_longest=0.8,
)
"""As the usual care, in tenths of its seconds."""


@contextmanager
def caring(care: Care = IMPATIENT) -> Iterator[None]:
    """Services that are started within the block take such care of their connections."""
    with patch("market_pipelines.streaming.service.build_feed", partial(build_feed, care=care)):
        yield
