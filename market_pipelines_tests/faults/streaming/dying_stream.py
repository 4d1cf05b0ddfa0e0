"""A stream that kills itself at a named point: `python -m market_pipelines_tests.faults.streaming.dying_stream POINT`.

As in `faults.dying`: the product knows nothing of it, and functions are wrapped in this process only.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from unittest.mock import patch

from market_pipelines.pipeline.platform import open_platform
from market_pipelines.pipeline.stopping import Stop
from market_pipelines.settings import read_settings
from market_pipelines.streaming.service import StreamService
from market_pipelines_tests.faults.dying import Point, deadly, owner_of
from market_pipelines_tests.faults.streaming.live import PLAN

POINTS = {
    "with the lease, before anything is said in the journal": Point(
        "market_pipelines.streaming.gaps.GapWatch.begin", True
    ),
    "after the gap of the last kill is opened, before any data": Point(
        "market_pipelines.streaming.feeds.sockets.SocketFeed.start", True
    ),
    "with history in the journal, before its gap is settled": Point("market_pipelines.streaming.fill.settle", True),
    "with the feed stopped, before the journal says so": Point("market_pipelines.streaming.gaps.GapWatch.end", True),
    "with the journal closed off, before the lease is given back": Point(
        "market_pipelines.streaming.lease.Lease.release", True
    ),
}

AT_THE_END = ("end", "release")
"""What is called when it stops: such a one has to come to its end soon."""


def main() -> None:
    point = POINTS[sys.argv[1]]
    owner, name = owner_of(point.where)
    at_the_end = name in AT_THE_END
    with (
        patch.object(owner, name, deadly(getattr(owner, name), point)),
        open_platform(read_settings(env_file=None)) as it,
    ):
        until = it.clock() + timedelta(seconds=2 if at_the_end else 25)
        StreamService(it, PLAN, settle_seconds=0.2, until=until).run(Stop())


if __name__ == "__main__":
    main()
