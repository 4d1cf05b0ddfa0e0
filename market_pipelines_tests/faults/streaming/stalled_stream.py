"""A stream whose lease runs out soon: `python -m market_pipelines_tests.faults.streaming.stalled_stream SECONDS`.

For a process that is stopped in the middle (SIGSTOP) longer than its lease lasts, and goes on later. It ends by
SIGTERM, or because it has lost its lease: then with the exit code 3 and the reason on standard error.
"""

from __future__ import annotations

import sys
from functools import partial
from unittest.mock import patch

from market_pipelines.logs import configure_logs
from market_pipelines.pipeline.platform import open_platform
from market_pipelines.pipeline.stopping import Stop, heeding_signals
from market_pipelines.settings import read_settings
from market_pipelines.store import streams
from market_pipelines.streaming.lease import LeaseLost
from market_pipelines.streaming.service import StreamService
from market_pipelines_tests.faults.streaming.live import PLAN

LOST = 3


def main() -> int:
    seconds = float(sys.argv[1])
    settings, stop = read_settings(env_file=None), Stop()
    configure_logs(settings)
    with (
        patch.object(streams, "acquire", partial(streams.acquire, seconds=seconds)),
        patch.object(streams, "renew", partial(streams.renew, seconds=seconds)),
        open_platform(settings) as platform,
        heeding_signals(stop),
    ):
        try:
            # The default heartbeat, in proportion.
            StreamService(platform, PLAN, settle_seconds=0.2, heartbeat_seconds=seconds * 2 / 15).run(stop)
        except LeaseLost as lost:
            print(lost, file=sys.stderr)
            return LOST
    return 0


if __name__ == "__main__":
    sys.exit(main())
