"""Several streams in one process: each in a thread of its own, ended together, and how each of them fared.

What one stream does is in `service`; signals and exit codes are the doors' business.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from market_pipelines.pipeline.stopping import Stop
from market_pipelines.store.database import DatabaseUnavailable
from market_pipelines.streaming.feeds.protocol import FeedFailed
from market_pipelines.streaming.lease import LeaseLost, StreamHeld
from market_pipelines.streaming.service import StreamService

_LOOK_SECONDS = 0.2
_LAST_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How one stream ended."""

    stream: str
    error: Exception | None = None


class Hosted:
    """One stream and its thread."""

    def __init__(self, service: StreamService) -> None:
        self.service = service
        self.stop = Stop()
        self.ended: Ended | None = None
        self.unforeseen: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name=f"stream {service.plan.name}", daemon=True)

    def _run(self) -> None:
        name = self.service.plan.name
        try:
            self.service.run(self.stop)
        except (StreamHeld, LeaseLost, FeedFailed, DatabaseUnavailable) as error:
            self.ended = Ended(name, error)
        except BaseException as error:
            self.unforeseen = error
            raise
        else:
            self.ended = Ended(name)


def run_streams(
    services: Sequence[StreamService], stop: Stop, *, told: Callable[[Ended], None] = lambda _: None
) -> tuple[Ended, ...]:
    """Until every stream has ended: by itself, or because `stop` was asked. `told` hears of each end at once.
    One that cannot run keeps the others from nothing."""
    hosted = [Hosted(service) for service in services]
    for one in hosted:
        one.thread.start()
    going = list(hosted)
    try:
        while going and not stop.wait(_LOOK_SECONDS):
            going = _still_going(going, told)
    finally:
        for one in going:
            one.stop.ask(stop.by_signal)
        for one in going:
            one.thread.join(_LAST_SECONDS)
    _still_going(going, told)
    for one in hosted:
        if one.unforeseen is not None:
            raise one.unforeseen
    return tuple(one.ended for one in hosted if one.ended is not None)


def _still_going(hosted: Sequence[Hosted], told: Callable[[Ended], None]) -> list[Hosted]:
    left = []
    for one in hosted:
        if one.thread.is_alive():
            left.append(one)
        elif one.ended is not None:
            told(one.ended)
    return left
