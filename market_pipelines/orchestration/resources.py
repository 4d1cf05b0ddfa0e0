"""The platform as a Dagster resource: opened by a step for as long as the step works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from market_pipelines.pipeline.platform import Platform, open_platform
from market_pipelines.settings import read_settings


class PlatformResource(dg.ConfigurableResource[Platform]):
    """Settings come from the environment of the process that runs the step, as for every other door."""

    @contextmanager
    def opened(self, *, asks: bool = True) -> Iterator[Platform]:
        """`asks`: providers are going to be asked, so that the simulator is looked for where it stands in for them."""
        with open_platform(read_settings(), asks=asks) as platform:
            yield platform
