"""`python -m market_pipelines.cli`: the same as the command `market-pipelines`."""

from market_pipelines.cli.main import run

run()
