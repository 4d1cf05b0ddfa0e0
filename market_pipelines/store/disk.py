"""Disks: how full one may be before the store refuses to write (a refusal heals, a torn file does not), and what it
takes for a name to survive a power cut."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

_MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class DiskFloor:
    """What has to stay free on the disk below a folder."""

    fraction: float = 0.05
    bytes: int = 200 * _MEGABYTE

    def shortage(self, folder: Path) -> str:
        """Empty when there is room; otherwise what is short, for a person."""
        usage = shutil.disk_usage(nearest_existing(folder))
        needed = max(self.bytes, int(usage.total * self.fraction))
        if usage.free >= needed:
            return ""
        return (
            f"the disk below {folder} is full: {usage.free / _MEGABYTE:,.0f} MB are free, "
            f"{needed / _MEGABYTE:,.0f} MB have to stay free. Delete something there or choose another "
            "MARKET_PIPELINES_HOME"
        )


def nearest_existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def make_folder(folder: Path) -> None:
    """Durably, with every folder above it that is missing: what is in a folder is lost with its name."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable: syncing a file says nothing about the name it was given."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
