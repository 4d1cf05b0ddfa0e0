"""What the tests of several sinks share."""

from __future__ import annotations

import pytest

from market_pipelines.store.database import Database
from market_pipelines_tests.contract.streaming.reach import emptied_of_streams


@pytest.fixture
def emptied(database: Database) -> Database:
    """The module's database, without anything that a stream has stored."""
    return emptied_of_streams(database)
