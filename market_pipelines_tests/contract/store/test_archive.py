"""The raw archive keeps every answer's bytes, once, whole, and says so when it cannot."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from market_pipelines.store.archive import (
    ArchiveCorrupt,
    ArchivedBody,
    ArchiveFull,
    ArchiveMissing,
    RawArchive,
    archive_root,
)
from market_pipelines.store.disk import DiskFloor

BODY = b"timestamp,open\n2026-03-02,1.0\n" * 200


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("body", [b"", b"x", BODY, bytes(range(256)) * 5000], ids=["empty", "one", "text", "binary"])
def test_what_was_put_is_got_back(tmp_path: Path, body: bytes) -> None:
    archive = RawArchive(tmp_path / "archive")
    put = archive.put(body)
    assert archive.get(put.sha256) == body
    assert put.sha256 == hashlib.sha256(body).hexdigest()
    assert put.bytes == len(body)
    assert put.new


def test_the_path_is_the_hash_in_two_levels(tmp_path: Path) -> None:
    put = RawArchive(tmp_path).put(BODY)
    assert put.path == f"{put.sha256[:2]}/{put.sha256[2:4]}/{put.sha256}.zst"
    assert (tmp_path / put.path).stat().st_size == put.stored_bytes < put.bytes
    assert files(tmp_path) == [put.path]


def test_the_same_bytes_are_kept_once(tmp_path: Path) -> None:
    first = RawArchive(tmp_path).put(BODY)
    stamp = (tmp_path / first.path).stat()
    second = RawArchive(tmp_path).put(BODY)
    assert second == ArchivedBody(first.sha256, first.path, first.bytes, first.stored_bytes, new=False)
    assert (tmp_path / first.path).stat().st_ino == stamp.st_ino


def test_an_unknown_hash_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ArchiveMissing, match="0" * 64):
        RawArchive(tmp_path).get("0" * 64)


@pytest.mark.parametrize("name", ["../../etc/passwd", "AB" * 32, "", "ab" * 31])
def test_what_is_no_hash_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        RawArchive(tmp_path).get(name)


def test_flipped_truncated_and_exchanged_bytes_are_noticed(tmp_path: Path) -> None:
    archive = RawArchive(tmp_path)
    put, other = archive.put(BODY), archive.put(b"something else")
    path = tmp_path / put.path
    whole = path.read_bytes()
    flipped = whole[:20] + bytes([whole[20] ^ 1]) + whole[21:]
    for damaged in (flipped, whole[:-3], b"", (tmp_path / other.path).read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(ArchiveCorrupt, match=put.sha256):
            archive.get(put.sha256)


def test_a_disk_that_is_nearly_full_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    archive = RawArchive(tmp_path / "archive", floor=DiskFloor(fraction=1.0))
    with pytest.raises(ArchiveFull, match="full"):
        archive.put(BODY)
    assert not (tmp_path / "archive").exists()


def test_what_is_there_already_needs_no_room(tmp_path: Path) -> None:
    RawArchive(tmp_path).put(BODY)
    assert not RawArchive(tmp_path, floor=DiskFloor(fraction=1.0)).put(BODY).new


def test_a_disk_that_fills_up_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("market_pipelines.store.archive.os.fsync", full)
    # The folders are there already, so that the first sync is the file's.
    (tmp_path / "tmp").mkdir()
    sha256 = hashlib.sha256(BODY).hexdigest()
    (tmp_path / sha256[:2] / sha256[2:4]).mkdir(parents=True)
    with pytest.raises(ArchiveFull):
        RawArchive(tmp_path).put(BODY)
    assert files(tmp_path) == []


def test_what_a_killed_writer_left_is_swept_later_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    workshop = tmp_path / "tmp"
    workshop.mkdir()
    (workshop / "abandoned").write_bytes(b"half")
    os.utime(workshop / "abandoned", (time.time() - 7200, time.time() - 7200))
    (workshop / "busy").write_bytes(b"half")
    put = RawArchive(tmp_path).put(BODY)
    assert files(tmp_path) == sorted([put.path, "tmp/busy"])


def test_threads_that_put_the_same_bytes_agree(tmp_path: Path) -> None:
    archive = RawArchive(tmp_path)
    together = threading.Barrier(8)
    results: list[ArchivedBody] = []

    def put() -> None:
        together.wait()
        results.append(archive.put(BODY))

    threads = [threading.Thread(target=put) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({result.path for result in results}) == 1
    assert len(results) == 8
    assert files(tmp_path) == [results[0].path]


def _put_many(root: Path) -> None:
    archive = RawArchive(root)
    for number in range(40):
        archive.put(BODY + str(number).encode())


def test_processes_that_put_the_same_bytes_agree(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_put_many, args=(tmp_path,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    archive = RawArchive(tmp_path)
    found = files(tmp_path)
    assert len(found) == 40
    assert {archive.get(Path(name).stem) for name in found} == {BODY + str(number).encode() for number in range(40)}


def test_simulated_and_real_answers_are_apart(tmp_path: Path) -> None:
    assert archive_root(tmp_path, simulated=True) == tmp_path / "simulated" / "archive"
    assert archive_root(tmp_path, simulated=False) == tmp_path / "live" / "archive"
