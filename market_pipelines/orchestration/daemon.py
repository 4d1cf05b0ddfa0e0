"""Dagster's daemon with a shorter breath: `python -m market_pipelines.orchestration.daemon run …`.

The loop that turns a backfill from the UI into runs looks around every thirty seconds, and a backfill needs three
looks (begin, next layer, done). On one machine with one backfill a look costs milliseconds.
"""

from dagster._daemon import controller
from dagster._daemon.cli import main

SECONDS_BETWEEN_LOOKS = 5


def run() -> None:
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = SECONDS_BETWEEN_LOOKS
    main()


if __name__ == "__main__":
    run()
