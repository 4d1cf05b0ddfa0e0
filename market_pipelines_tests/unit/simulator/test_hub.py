"""The pump of the simulator's sockets, and that nobody's slowness holds up its end."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import cast

from market_pipelines.simulator.clock import SimulatedClock
from market_pipelines.simulator.faults import FaultBoard
from market_pipelines.simulator.stream.connection import Connection
from market_pipelines.simulator.stream.hub import BREATH_SECONDS, Hub
from market_pipelines.simulator.truth import World


def test_a_reader_that_stands_still_does_not_hold_up_the_end() -> None:
    asked = threading.Event()

    def never(_below: int, seconds: float) -> bool:
        asked.set()
        return threading.Event().wait(seconds)

    clock = SimpleNamespace(now=lambda: datetime(2026, 11, 20, 15, tzinfo=UTC))
    hub = Hub(cast(World, None), cast(SimulatedClock, clock), FaultBoard(), 10)
    reader = cast(Connection, SimpleNamespace(wait_drained=never))
    waiting = threading.Thread(target=hub._let_breathe, args=(reader,))
    waiting.start()
    assert asked.wait(5)
    began = time.monotonic()
    hub.stop()
    waiting.join()
    assert time.monotonic() - began < BREATH_SECONDS / 2
