"""A market's Dagster job in this process, as a run worker would do it, once for each set of circumstances.

`python -m market_pipelines_tests.faults.dagster_run JOB SESSION`, with DAGSTER_HOME naming an instance and a list of
environment variables on standard input. A step that fails is part of what is looked at and no failure of this program.
"""

from __future__ import annotations

import json
import os
import sys

import dagster as dg

from market_pipelines.definitions import defs


def main() -> None:
    name, session = sys.argv[1:]
    job = defs().get_job_def(name)
    with dg.DagsterInstance.get() as instance:
        for circumstances in json.load(sys.stdin):
            os.environ.update(circumstances)
            result = job.execute_in_process(instance=instance, partition_key=session, raise_on_error=False)
            sys.stdout.write(f"{name}: {'success' if result.success else 'failure'}\n")


if __name__ == "__main__":
    main()
