"""Files that the database does not name: what an interrupted deletion or a killed writer has left.

A writer puts its file in place before the database names it, and finds an old file of the same content there as
well. So a file is first moved aside and looked at once more: one that was touched or named at that very moment
comes back, and whoever looked for it in between has written it anew.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from market_pipelines.store.disk import sync_folder

GRACE_SECONDS = 3600.0
"""A file that was touched later than this is left alone: its writer may be about to have it named."""
FILES_AT_ONCE = 1000
_ASIDE = "leaving"
_NOT_CONTENT = ("tmp", _ASIDE)


@dataclass(frozen=True, slots=True)
class Files:
    count: int = 0
    bytes: int = 0

    def __add__(self, other: Files) -> Files:
        return Files(self.count + other.count, self.bytes + other.bytes)


@dataclass(frozen=True, slots=True)
class FileStore:
    """A folder whose files have names in the database."""

    root: Path
    suffix: str
    name: Callable[[Path], str]
    """Of a file, by its path below the root, as the database spells it."""
    named: Callable[[Sequence[str]], set[str]]
    """Those of the names that the database has."""

    def sweep(self, *, dry_run: bool, grace_seconds: float = GRACE_SECONDS) -> Files:
        """Only one process at a time may sweep a folder."""
        if not self.root.is_dir():
            return Files()
        if not dry_run:
            self._finish_the_last_time()
        limit = _time_of_the_disk(self.root) - grace_seconds
        swept = Files()
        for batch in _batches(self._paths(), FILES_AT_ONCE):
            by_name = {self.name(path): path for path in batch}
            for name in sorted(by_name.keys() - self.named(list(by_name))):
                swept += self._discard(by_name[name], limit, dry_run=dry_run)
        return swept

    def discard(self, paths: Sequence[Path], *, grace_seconds: float = GRACE_SECONDS) -> Files:
        """Deletes those of the files (below the root) that the database has just ceased to name."""
        if not paths:
            return Files()
        limit = _time_of_the_disk(self.root) - grace_seconds
        discarded = Files()
        for path in paths:
            discarded += self._discard(path, limit, dry_run=False)
        return discarded

    def size(self) -> int:
        """Bytes of all files."""
        return sum(status.st_size for path in self._paths() if (status := _status(self.root / path)) is not None)

    def _discard(self, path: Path, limit: float, *, dry_run: bool) -> Files:
        place, aside = self.root / path, self.root / _ASIDE / path
        status = _status(place)
        if status is None or status.st_mtime > limit:
            return Files()
        if not dry_run:
            aside.parent.mkdir(parents=True, exist_ok=True)
            try:
                place.rename(aside)
            except FileNotFoundError:
                return Files()
            if aside.stat().st_mtime != status.st_mtime or self.named([self.name(path)]):
                aside.rename(place)
                return Files()
            aside.unlink()
            sync_folder(place.parent)
        return Files(1, status.st_size)

    def _finish_the_last_time(self) -> None:
        left = list(_walk(self.root / _ASIDE, self.suffix))
        for path in left:
            aside, place = self.root / _ASIDE / path, self.root / path
            if self.named([self.name(path)]) and not place.exists():
                aside.rename(place)
            else:
                aside.unlink()

    def _paths(self) -> Iterator[Path]:
        return _walk(self.root, self.suffix)


def _walk(root: Path, suffix: str) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        if Path(folder) == root:
            folders[:] = [name for name in folders if name not in _NOT_CONTENT]
        for name in sorted(names):
            if name.endswith(suffix):
                yield (Path(folder) / name).relative_to(root)


def _batches(paths: Iterator[Path], size: int) -> Iterator[list[Path]]:
    batch: list[Path] = []
    for path in paths:
        batch.append(path)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _time_of_the_disk(root: Path) -> float:
    """Ages are told by one clock, the one that stamps the files."""
    folder = root / _ASIDE
    folder.mkdir(exist_ok=True)
    mark = folder / f"now.{os.getpid()}.{secrets.token_hex(4)}"
    mark.touch()
    now = mark.stat().st_mtime
    mark.unlink()
    return now
