"""The files of a journal: which there are, what they are called, how one is made and opened.

A segment gets its name when it is whole: made under another one, synced, renamed. Segments follow one another by
day and number; a day that the clock takes back does not come again.
"""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from market_pipelines.store.disk import sync_folder
from market_pipelines.streaming.entries import Mark
from market_pipelines.streaming.journal.faults import JournalMissing

PAGE = 16_384
CHECKPOINT_PAGES = 512
BUSY_SECONDS = 5.0
"""A reader is in nobody's way for longer than it takes to fetch a few rows."""
ID_FILE = "journal.id"
_NAME = re.compile(r"(\d{4}-\d{2}-\d{2})-(\d{4,})\.sqlite")
_NEW = ".new"
ASIDE = ".damaged"
_COMPANIONS = ("-wal", "-shm", "-journal")
_TABLES = """
CREATE TABLE segment (
    birth          BLOB NOT NULL,
    checksum       INTEGER NOT NULL,
    opened         INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE rows (
    first          INTEGER PRIMARY KEY,
    entries        INTEGER NOT NULL,
    format         TEXT NOT NULL,
    origin         TEXT NOT NULL,
    events         INTEGER NOT NULL,
    events_before  INTEGER NOT NULL,
    received_upto  INTEGER NOT NULL,
    heads          BLOB NOT NULL,
    body           BLOB NOT NULL,
    checksum       INTEGER NOT NULL
);
CREATE INDEX marks ON rows (first) WHERE format = 'mark';
"""
COLUMNS = "first, entries, format, origin, events, events_before, received_upto, heads, body, checksum"


@dataclass(frozen=True, order=True, slots=True)
class Name:
    day: str
    number: int

    def __str__(self) -> str:
        return f"{self.day}-{self.number:04d}.sqlite"

    def following(self, day: str) -> Name:
        return Name(day, 1) if day > self.day else Name(self.day, self.number + 1)


@dataclass(frozen=True, slots=True)
class Birth:
    """What a segment knows of the journal before it."""

    journal: str
    first: int
    """The position that its first entry has."""
    events_before: int
    received_upto: int
    last_received_ns: int
    stopped: bool
    """Whether the entry before it said that the service has stopped."""
    created_ns: int
    open_gaps: tuple[Mark, ...]


_births = msgspec.msgpack.Decoder(Birth)


def names(folder: Path) -> list[Name]:
    try:
        found = [_NAME.fullmatch(name) for name in os.listdir(folder)]  # noqa: PTH208 - read for every batch
    except FileNotFoundError:
        return []
    return sorted(Name(match[1], int(match[2])) for match in found if match is not None)


def create(folder: Path, name: Name, birth: Birth) -> None:
    path, fresh = folder / str(name), folder / f"{name}{_NEW}"
    unlink(fresh)
    connection = sqlite3.connect(fresh, isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size = {PAGE}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(f"BEGIN; {_TABLES} COMMIT;")
        told = msgspec.msgpack.encode(birth)
        connection.execute("INSERT INTO segment (birth, checksum) VALUES (?, ?)", (told, zlib.crc32(told)))
    finally:
        connection.close()
    sync_file(fresh)
    fresh.rename(path)
    sync_folder(folder)


def birth_of(connection: sqlite3.Connection) -> Birth:
    """Raises what `is_damage` knows where the segment does not say."""
    try:
        found = connection.execute("SELECT birth, checksum FROM segment").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
            raise
        raise sqlite3.DatabaseError(f"this is no segment of a journal: {error}") from error
    if found is None or not isinstance(found[0], bytes) or zlib.crc32(found[0]) != found[1]:
        raise sqlite3.DatabaseError("the segment does not say where it begins")
    return _births.decode(found[0])


def open_to_write(folder: Path, name: Name) -> sqlite3.Connection:
    """Whatever a writer before left in the write-ahead log is durable afterwards, and so is the log's name."""
    path = folder / str(name)
    sync_log(path)
    connection = _connection(path, "mode=rw")
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {2 * CHECKPOINT_PAGES * PAGE}")
    except BaseException:
        connection.close()
        raise
    return connection


def make_log(folder: Path, connection: sqlite3.Connection) -> None:
    """The first commit makes the log; a commit that follows has to find its name on the disk."""
    connection.execute("UPDATE segment SET opened = opened + 1")
    sync_folder(folder)


def open_to_read(folder: Path, name: Name, *, finished: bool) -> sqlite3.Connection:
    """Nothing is changed by it, but that what a killed writer has left unsynced is synced before it is shown. Of a
    finished segment not even SQLite's own files are made: it can be read on a full disk."""
    path = folder / str(name)
    whole = finished and not _size(companions(path)[0])
    if not whole:
        sync_log(path)
    return _connection(path, "mode=ro&immutable=1" if whole else "mode=ro")


def _connection(path: Path, how: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{how}",
        uri=True,
        isolation_level=None,
        timeout=BUSY_SECONDS,
        check_same_thread=False,
    )
    connection.text_factory = bytes  # of a damaged row the text may be none
    return connection


def is_whole(connection: sqlite3.Connection) -> bool:
    """Reads all of it: rows that a changed byte hides would not be missed otherwise."""
    return bool(connection.execute("PRAGMA quick_check(1)").fetchall() == [(b"ok",)])


def finish(connection: sqlite3.Connection) -> None:
    """Moves everything out of the write-ahead log. Where a reader is in the way, it stays: nothing is lost by that."""
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.close()


def size(folder: Path, name: Name) -> int:
    path = folder / str(name)
    return sum(map(_size, (path, *companions(path))))


def inode(folder: Path, name: Name) -> int:
    """0: there is no such file."""
    try:
        return (folder / str(name)).stat().st_ino
    except FileNotFoundError:
        return 0


def unlink(path: Path) -> None:
    """The segment first: a write-ahead log without its segment is swept, a segment without its log would be torn."""
    for one in (path, *companions(path)):
        one.unlink(missing_ok=True)


def set_aside(folder: Path, name: Name) -> None:
    """Keeps for a person what cannot be opened any more; nobody reads it."""
    path = folder / str(name)
    for one in companions(path):
        one.unlink(missing_ok=True)
    path.rename(f"{path}{ASIDE}")
    sync_folder(folder)


def sweep(folder: Path) -> None:
    """What a killed writer began to make, or had begun to remove."""
    whole = {str(name) for name in names(folder)}
    for path in folder.iterdir():
        text = path.name
        if _NEW in text or (text.endswith(_COMPANIONS) and text.rpartition("-")[0] not in whole):
            path.unlink(missing_ok=True)


def companions(path: Path) -> list[Path]:
    return [path.with_name(path.name + ending) for ending in _COMPANIONS]


def sync_file(path: Path) -> None:
    """Only for files that no connection of this process has open: closing one drops the process's locks on it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_log(path: Path) -> None:
    """Write-ahead logs are never locked themselves."""
    with suppress(FileNotFoundError):
        sync_file(companions(path)[0])


def read_id(folder: Path) -> str:
    try:
        found = (folder / ID_FILE).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise JournalMissing(folder) from None
    if not found:
        raise JournalMissing(folder)
    return found


def write_id(folder: Path, journal: str) -> None:
    fresh = folder / f"{ID_FILE}{_NEW}"
    fresh.write_text(f"{journal}\n", encoding="ascii")
    sync_file(fresh)
    fresh.rename(folder / ID_FILE)
    sync_folder(folder)


def new_id() -> str:
    return secrets.token_hex(8)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def is_damage(error: sqlite3.Error) -> bool:
    """Rather than a disk that is full, or gone."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def marks_in(rows: Sequence[bytes]) -> list[Mark]:
    found = []
    for body in rows:
        try:
            found.append(msgspec.msgpack.decode(body, type=Mark))
        except msgspec.MsgspecError:
            continue  # whoever wrote it meant it for somebody else
    return found
