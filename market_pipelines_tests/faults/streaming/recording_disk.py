"""A disk that loses its power: it records every write and sync below a folder, and shows what a power cut at any
moment might have left.

SQLite's writes are seen through its own interface to the operating system: a VFS that is the usual one, but for the
methods that change files. Folders' entries are seen where the journal makes them. After a cut a file holds everything
that was synced, and of what was written since then any part, sector by sector; a name that was not synced may be there
or not.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import ctypes.util
import os
import random
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from market_pipelines.streaming.journal.bells import Bell


class Unrecordable(Exception):
    """Python's SQLite cannot be reached from outside here."""


SECTOR = 512
_POINTER = ctypes.c_void_p
_METHOD_WORDS = 19
_X_CLOSE, _X_WRITE, _X_TRUNCATE, _X_SYNC = 1, 3, 4, 5
"""Of the methods of a file; the version is the zeroth."""


class _Vfs(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_int),
        ("file_size", ctypes.c_int),
        ("longest_path", ctypes.c_int),
        ("next", _POINTER),
        ("name", ctypes.c_char_p),
        ("data", _POINTER),
        ("open", _POINTER),
        ("delete", _POINTER),
        ("rest", _POINTER * 14),
    ]


class _File(ctypes.Structure):
    _fields_ = [("methods", _POINTER)]


_OPEN = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, _POINTER, _POINTER, ctypes.c_int, ctypes.POINTER(ctypes.c_int))
"""The path stays an address: SQLite keeps more behind its end."""
_DELETE = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, ctypes.c_char_p, ctypes.c_int)
_WRITE = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, _POINTER, ctypes.c_int, ctypes.c_int64)
_TRUNCATE = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, ctypes.c_int64)
_SYNC = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, ctypes.c_int)
_CLOSE = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER)


# --- what happened ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    name: str
    file: int


@dataclass(frozen=True)
class Renamed:
    name: str
    to: str


@dataclass(frozen=True)
class Removed:
    name: str


@dataclass(frozen=True)
class Written:
    file: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Cut:
    file: int
    size: int


@dataclass(frozen=True)
class Synced:
    file: int


@dataclass(frozen=True)
class FolderSynced:
    pass


@dataclass(frozen=True)
class Promised:
    """The journal has told that it has everything up to here."""

    position: int


Event = Made | Renamed | Removed | Written | Cut | Synced | FolderSynced | Promised


# --- recording ----------------------------------------------------------------------------------------------


@dataclass
class Recording:
    folder: Path
    events: list[Event] = field(default_factory=list)
    _files: dict[str, int] = field(default_factory=dict)
    _made: int = 0
    _handles: dict[int, int] = field(default_factory=dict)
    """By address of SQLite's file: which file it is."""

    def promise(self, position: int) -> None:
        self.events.append(Promised(position))

    def _file(self, path: str) -> int:
        name = os.path.basename(path)  # noqa: PTH119 - text as SQLite gives it
        if name not in self._files:
            self._made += 1
            self._files[name] = self._made
            self.events.append(Made(name, self._made))
        return self._files[name]

    def _ours(self, path: str) -> bool:
        return os.path.dirname(path) == str(self.folder)  # noqa: PTH120

    # SQLite's calls

    def opened(self, path: str, handle: int) -> None:
        self._handles[handle] = self._file(path)

    def written(self, handle: int, data: bytes, offset: int) -> None:
        self.events.append(Written(self._handles[handle], offset, data))

    def cut(self, handle: int, size: int) -> None:
        self.events.append(Cut(self._handles[handle], size))

    def synced(self, handle: int) -> None:
        self.events.append(Synced(self._handles[handle]))

    def closed(self, handle: int) -> None:
        self._handles.pop(handle, None)

    def removed(self, path: str) -> None:
        name = os.path.basename(path)  # noqa: PTH119
        if self._files.pop(name, None) is not None:
            self.events.append(Removed(name))

    # Python's calls

    def renamed(self, path: str, to: str) -> None:
        before, after = os.path.basename(path), os.path.basename(to)  # noqa: PTH119
        self._files[after] = self._files.pop(before)
        self.events.append(Renamed(before, after))

    def fsynced(self, descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            if path == str(self.folder):
                self.events.append(FolderSynced())
        elif self._ours(path):
            self.events.append(Synced(self._file(path)))


@contextmanager
def recording(folder: Path) -> Iterator[Recording]:
    """Everything that happens to the files of a folder, until it ends. No connection may stay open beyond it."""
    seen = Recording(folder)
    rename, unlink, fsync, write_text = Path.rename, Path.unlink, os.fsync, Path.write_text
    ring = Bell.ring

    def renamed(path: Path, target: Any) -> Path:
        found = rename(path, target)
        if path.parent == folder:
            seen.renamed(str(path), str(target))
        return found

    def unlinked(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        if path.parent == folder:
            seen.removed(str(path))

    def fsynced(descriptor: int) -> None:
        fsync(descriptor)
        seen.fsynced(descriptor)

    def text_written(path: Path, data: str, **options: Any) -> int:
        count = write_text(path, data, **options)
        if path.parent == folder:
            file = seen._file(str(path))
            seen.events += [Cut(file, 0), Written(file, 0, data.encode())]
        return count

    def rung(bell: Bell, durable: int) -> None:
        seen.promise(durable)
        ring(bell, durable)

    with (
        _recording_vfs(seen),
        patch.object(Bell, "ring", rung),
        patch.object(Path, "rename", renamed),
        patch.object(Path, "unlink", unlinked),
        patch.object(Path, "write_text", text_written),
        patch.object(os, "fsync", fsynced),
    ):
        yield seen


@contextmanager
def _recording_vfs(seen: Recording) -> Iterator[None]:
    library = _sqlite()
    library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    library.sqlite3_vfs_find.argtypes = [ctypes.c_char_p]
    usual = library.sqlite3_vfs_find(None)
    ours = _Vfs()
    ctypes.pointer(ours)[0] = usual.contents
    ours.name = b"recording"
    really_open, really_delete = _OPEN(usual.contents.open), _DELETE(usual.contents.delete)
    tables: dict[int, Any] = {}
    address = ctypes.addressof(usual.contents)

    def methods_like(original: int) -> int:
        if original not in tables:
            tables[original] = _recording_methods(original, seen)
        return ctypes.addressof(tables[original][0])

    def open_(_vfs: int, path: int | None, file: int, flags: int, told: Any) -> int:
        code: int = really_open(address, path, file, flags, told)
        name = "" if path is None else ctypes.string_at(path).decode()
        if code == 0 and seen._ours(name):
            seen.opened(name, file)
            opened = _File.from_address(file)
            opened.methods = methods_like(opened.methods)
        return code

    def delete(_vfs: int, path: bytes, sync: int) -> int:
        code: int = really_delete(address, path, sync)
        if code == 0 and seen._ours(path.decode()):
            seen.removed(path.decode())
        return code

    callbacks = _OPEN(open_), _DELETE(delete)
    ours.open = _address(callbacks[0])
    ours.delete = _address(callbacks[1])
    library.sqlite3_vfs_register.argtypes = [ctypes.POINTER(_Vfs), ctypes.c_int]
    library.sqlite3_vfs_unregister.argtypes = [ctypes.POINTER(_Vfs)]
    if library.sqlite3_vfs_register(ctypes.byref(ours), 1):
        raise Unrecordable("SQLite did not take the recording VFS")
    try:
        yield
    finally:
        library.sqlite3_vfs_unregister(ctypes.byref(ours))
        library.sqlite3_vfs_register(usual, 1)
        del callbacks


def _recording_methods(original: int, seen: Recording) -> tuple[Any, ...]:
    table = (_POINTER * _METHOD_WORDS).from_buffer_copy((_POINTER * _METHOD_WORDS).from_address(original))
    write, truncate = _WRITE(table[_X_WRITE] or 0), _TRUNCATE(table[_X_TRUNCATE] or 0)
    sync, close = _SYNC(table[_X_SYNC] or 0), _CLOSE(table[_X_CLOSE] or 0)

    def write_(file: int, data: int, size: int, offset: int) -> int:
        code: int = write(file, data, size, offset)
        if code == 0:
            seen.written(file, ctypes.string_at(data, size), offset)
        return code

    def truncate_(file: int, size: int) -> int:
        code: int = truncate(file, size)
        if code == 0:
            seen.cut(file, size)
        return code

    def sync_(file: int, flags: int) -> int:
        code: int = sync(file, flags)
        if code == 0:
            seen.synced(file)
        return code

    def close_(file: int) -> int:
        seen.closed(file)
        code: int = close(file)
        return code

    callbacks = _WRITE(write_), _TRUNCATE(truncate_), _SYNC(sync_), _CLOSE(close_)
    for place, callback in zip((_X_WRITE, _X_TRUNCATE, _X_SYNC, _X_CLOSE), callbacks, strict=True):
        table[place] = _address(callback)
    return table, callbacks


def _address(callback: Any) -> int:
    address = ctypes.cast(callback, _POINTER).value
    assert address is not None
    return address


def _sqlite() -> Any:
    """The library that Python's own module uses: one that is linked into it cannot be reached."""
    found = getattr(_sqlite3, "__file__", None)
    name = ctypes.util.find_library("sqlite3")
    if found is None or name is None or name.encode() not in Path(found).read_bytes():
        raise Unrecordable("Python's SQLite is linked into it")
    return ctypes.CDLL(name)


# --- the cut ------------------------------------------------------------------------------------------------


@dataclass
class _Content:
    synced: bytearray = field(default_factory=bytearray)
    since: list[Written | Cut] = field(default_factory=list)


class Disk:
    """What is on the platter, and what is only on its way there."""

    def __init__(self) -> None:
        self._contents: dict[int, _Content] = {}
        self._synced_names: dict[str, int] = {}
        self._names: dict[str, int] = {}
        self._pending: list[Made | Renamed | Removed] = []
        self.promised = 0

    def see(self, event: Event) -> None:
        match event:
            case Made(_, file):
                self._contents[file] = _Content()
                self._pending.append(event)
                _apply(self._names, event)
            case Renamed() | Removed():
                self._pending.append(event)
                _apply(self._names, event)
            case Written(file) | Cut(file):
                self._contents[file].since.append(event)
            case Synced(file):
                content = self._contents[file]
                for change in content.since:
                    _change(content.synced, change)
                content.since.clear()
            case FolderSynced():
                self._synced_names = dict(self._names)
                self._pending.clear()
            case Promised(position):
                self.promised = position

    def after_a_cut(self, folder: Path, chance: random.Random) -> Path:
        """Writes down one of the states that a cut now could leave. Entries of a folder reach the platter in order,
        sectors in any."""
        folder.mkdir(parents=True)
        names = dict(self._synced_names)
        for event in self._pending[: chance.randint(0, len(self._pending))]:
            _apply(names, event)
        for name, file in names.items():
            content = self._contents[file]
            data = bytearray(content.synced)
            share = chance.choice([0.0, 1.0, chance.random()])
            for change in content.since:
                for part in _sectors(change):
                    if chance.random() < share:
                        _change(data, part)
            (folder / name).write_bytes(data)
        return folder


def _sectors(change: Written | Cut) -> Iterator[Written | Cut]:
    if isinstance(change, Cut):
        yield change
        return
    start = 0
    while start < len(change.data):
        stop = start + SECTOR - (change.offset + start) % SECTOR
        yield Written(change.file, change.offset + start, change.data[start:stop])
        start = stop


def _apply(names: dict[str, int], event: Made | Renamed | Removed) -> None:
    match event:
        case Made(name, file):
            names[name] = file
        case Renamed(name, to):
            names[to] = names.pop(name)
        case Removed(name):
            names.pop(name, None)


def _change(data: bytearray, change: Written | Cut) -> None:
    if isinstance(change, Cut):
        if len(data) > change.size:
            del data[change.size :]
        return
    end = change.offset + len(change.data)
    if len(data) < end:
        data.extend(bytes(end - len(data)))
    data[change.offset : end] = change.data
