"""The raw archive: every answer's bytes, compressed, under the hash of what they are.

A file appears whole or not at all, is never changed, and holds the same bytes only once. What was asked, and
when, is in the ledger (`fetches`), which points here by hash.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

import zstandard

from market_pipelines.store.disk import DiskFloor, make_folder, sync_folder

_HASH = re.compile(r"[0-9a-f]{64}")
_LEVEL = 6
_ABANDONED_SECONDS = 3600.0
_FULL = (errno.ENOSPC, errno.EDQUOT)


class ArchiveError(Exception):
    """The archive cannot do what was asked."""


class ArchiveFull(ArchiveError):
    """Nothing was written, because the disk is nearly full."""


class ArchiveCorrupt(ArchiveError):
    """A file of the archive does not hold the bytes that its name promises."""


class ArchiveMissing(ArchiveError):
    """The archive has nothing under this hash."""


@dataclass(frozen=True, slots=True)
class ArchivedBody:
    sha256: str
    path: str
    """Below the archive's root."""
    bytes: int
    stored_bytes: int
    new: bool


def archive_root(home: Path, *, simulated: bool) -> Path:
    """Made-up and real answers never share an archive."""
    return home / ("simulated" if simulated else "live") / "archive"


class RawArchive:
    """Any number of threads and processes may write at once: whoever comes second finds the file there."""

    def __init__(self, root: Path, *, floor: DiskFloor | None = None) -> None:
        self.root = root
        self._floor = floor if floor is not None else DiskFloor()
        self._swept = False

    def path(self, sha256: str) -> Path:
        return self.root / _relative(sha256)

    def put(self, body: bytes) -> ArchivedBody:
        sha256 = hashlib.sha256(body).hexdigest()
        relative = _relative(sha256)
        path = self.root / relative
        try:
            # Young again: whoever deletes old answers leaves it alone until the ledger names it once more.
            os.utime(path)
            return ArchivedBody(sha256, relative, len(body), path.stat().st_size, new=False)
        except FileNotFoundError:
            pass
        shortage = self._floor.shortage(self.root)
        if shortage:
            raise ArchiveFull(f"an answer of {len(body):,} bytes was not archived: {shortage}")
        stored = zstandard.ZstdCompressor(level=_LEVEL).compress(body)
        try:
            self._write(path, stored)
        except OSError as error:
            if error.errno in _FULL:
                raise ArchiveFull(
                    f"an answer of {len(body):,} bytes was not archived: the disk below {self.root} is full"
                ) from None
            raise ArchiveError(f"{path} cannot be written: {error.strerror}") from error
        return ArchivedBody(sha256, relative, len(body), len(stored), new=True)

    def get(self, sha256: str) -> bytes:
        path = self.path(sha256)
        try:
            stored = path.read_bytes()
        except FileNotFoundError:
            raise ArchiveMissing(f"the archive {self.root} has no answer {sha256}") from None
        try:
            body = zstandard.ZstdDecompressor().decompress(stored)
        except zstandard.ZstdError as error:
            raise ArchiveCorrupt(f"{path} cannot be decompressed: {error}") from None
        if hashlib.sha256(body).hexdigest() != sha256:
            raise ArchiveCorrupt(f"{path} holds other bytes than its name says")
        return body

    def _write(self, path: Path, stored: bytes) -> None:
        workshop = self.root / "tmp"
        make_folder(workshop)
        self._sweep(workshop)
        make_folder(path.parent)
        fresh = workshop / f"{path.stem}.{os.getpid()}.{secrets.token_hex(4)}"
        try:
            with fresh.open("xb") as file:
                file.write(stored)
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)

    def _sweep(self, workshop: Path) -> None:
        """Once per archive and process: what writers that were killed have left."""
        if self._swept:
            return
        self._swept = True
        limit = time.time() - _ABANDONED_SECONDS
        for entry in workshop.iterdir():
            try:
                if entry.stat().st_mtime < limit:
                    entry.unlink()
            except FileNotFoundError:
                continue  # its writer finished, or another process sweeps too


def _relative(sha256: str) -> str:
    if _HASH.fullmatch(sha256) is None:
        raise ValueError(f"{sha256!r} is not a SHA-256 in lower-case hexadecimal digits")
    return f"{sha256[:2]}/{sha256[2:4]}/{sha256}.zst"
