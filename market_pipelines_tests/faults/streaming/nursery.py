"""Streams that cost nothing to begin: `python -m market_pipelines_tests.faults.streaming.nursery`.

Everything is imported once; then, for each line on standard input, a child is forked that streams until somebody
kills it. The line says how long the children's gaps settle; the answer is the child's process id. The mother has no
threads, which is what makes forking safe.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback

from market_pipelines.logs import configure_logs
from market_pipelines.pipeline.platform import open_platform
from market_pipelines.pipeline.stopping import Stop
from market_pipelines.settings import read_settings
from market_pipelines.streaming.service import StreamService
from market_pipelines_tests.faults.streaming.live import PLAN


def child(settle_seconds: float) -> None:
    with open_platform(read_settings(env_file=None)) as platform:
        StreamService(platform, PLAN, settle_seconds=settle_seconds, heartbeat_seconds=0.5).run(Stop())


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            try:
                os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
                configure_logs(read_settings(env_file=None))
                child(float(line))
            except BaseException:  # noqa: BLE001 (a child of a fork must never go on as its mother)
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
