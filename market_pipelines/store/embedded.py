"""The platform's own PostgreSQL: a real server from a Python wheel, on a unix socket that only its account can reach.

Belongs here: making its data folder, starting, sharing and stopping it. Where its parts lie is decided in
`embedded_place`; what is in its databases is none of its business.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import psycopg
from psycopg import sql

from market_pipelines.store.disk import DiskFloor, sync_folder
from market_pipelines.store.embedded_place import (
    MAJOR_VERSION,
    EmbeddedError,
    Place,
    find_place,
    recorded_data,
    remove_socket_folder,
    socket_folder,
)
from market_pipelines.store.locks import FileLock, LockTimeout
from market_pipelines.store.postmaster import SUPERUSER, Postmaster, answers, read_postmaster, serves

__all__ = ["EmbeddedError", "EmbeddedServer"]

_log = logging.getLogger(__name__)

_LOCK_SECONDS = 120.0
_START_SECONDS = 90.0
_FAST_STOP_SECONDS = 30.0
_HARD_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.02
_LOG_BYTES_KEPT = 20_000_000

_TUNING = {
    "max_connections": "100",
    "shared_buffers": "128MB",
    "work_mem": "32MB",
    "maintenance_work_mem": "128MB",
    "effective_cache_size": "1GB",
    "random_page_cost": "1.1",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "on",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "io_method": "sync",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
"""Written into postgresql.conf once, for a small machine with one bulk writer; an operator may edit them there.
Nothing replicates from this server, so the write-ahead log is kept minimal; parallel plans and the compiler
cost more than they give on two cores."""


class EmbeddedServer:
    """One process's use of the server of one home. Any number of processes may use it at once.

    Whoever comes first starts it, whoever leaves last stops it, unless somebody asked to keep it.
    """

    def __init__(self, home: Path, *, fsync: bool = True, floor: DiskFloor | None = None) -> None:
        self.home = Path(os.path.abspath(home))  # noqa: PTH100 - no symlink is resolved: messages name what was given
        self.start_seconds = 0.0
        """How long the start took; 0 when the server was running already."""
        self._folder = self.home / "postgres"
        self._fsync = fsync
        self._floor = floor if floor is not None else DiskFloor()
        self._users: FileLock | None = None
        self._place: Place | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._sockets: Path | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the person who started it: what lies elsewhere than in the home, and why."""
        return self._place.notes if self._place is not None else ()

    def start(self, keep: bool = False) -> None:
        """Starts the server, or joins those who use it. `keep`: it outlives its users until `stop(force=True)`."""
        self._make_folder()
        with self._exclusive():
            place = self._find_place()
            self._become_user()
            try:
                postmaster = self._already_there(place.data)
                if postmaster is None:
                    began = time.monotonic()
                    postmaster = self._launch(place)
                    self.start_seconds = time.monotonic() - began
                    _log.debug(
                        "the embedded PostgreSQL started in %.2f s, data in %s",
                        self.start_seconds,
                        place.data,
                    )
                if keep:
                    self._keep_file.write_text(postmaster.identity, encoding="utf-8")
            except BaseException:
                self._leave()
                self._alone().release(remove=True)
                raise
        atexit.register(self.stop)

    def stop(self, force: bool = False) -> bool:
        """Leaves the server, and stops it when nobody else uses it and nobody asked to keep it. True: it was stopped.

        `force` stops it in any case: whoever is still connected is cut off, and transactions are rolled back.
        """
        if not force and self._users is None:
            return False
        if not self._folder.is_dir():
            self._leave()
            return self._end_own_process()
        with self._exclusive():
            self._leave()
            everyone = self._alone()
            try:
                place = self._find_place()
                postmaster = read_postmaster(place.data)
                kept = postmaster is not None and self._kept(postmaster)
                if not force and (kept or not everyone.held):
                    return False
                stopped = self._shut_down(place, postmaster)
                self._keep_file.unlink(missing_ok=True)
            finally:
                everyone.release(remove=True)
            return stopped

    def running(self) -> bool:
        """Whether the server answers."""
        if not self._folder.is_dir():
            return False
        return self._responding(recorded_data(self.home)) is not None

    def url(self, database: str, driver: str = "postgresql") -> str:
        """For `driver` "postgresql" any libpq client; "postgresql+psycopg" and the like for SQLAlchemy."""
        postmaster = read_postmaster(recorded_data(self.home)) if self._folder.is_dir() else None
        if postmaster is None:
            raise EmbeddedError(f"the embedded PostgreSQL of {self.home} is not running")
        return f"{driver}://{SUPERUSER}@/{quote(database, safe='')}?host={quote(str(postmaster.sockets))}"

    def ensure_database(self, name: str) -> bool:
        """Creates the database if it is missing; true when it was."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
            if found is not None:
                return False
            statement = sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name))
            try:
                connection.execute(statement)
            except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                return False  # another process was faster
        return True

    def __enter__(self) -> EmbeddedServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def _users_file(self) -> Path:
        return self._folder / "users.lock"

    @property
    def _keep_file(self) -> Path:
        return self._folder / "kept"

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EmbeddedError(
                f"the data folder {self.home} cannot be made ({error.strerror}). "
                "Choose another with MARKET_PIPELINES_HOME"
            ) from None

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        lock = FileLock(self._folder / "start.lock")
        try:
            lock.acquire(_LOCK_SECONDS)
        except LockTimeout as error:
            raise EmbeddedError(
                f"another process has been starting or stopping the embedded PostgreSQL: {error}. "
                f"Look into {self._folder} for its log"
            ) from None
        except PermissionError:
            raise EmbeddedError(
                f"{self._folder} belongs to another user. Use it as that user or as root, "
                "or choose another MARKET_PIPELINES_HOME"
            ) from None
        try:
            yield
        finally:
            lock.release(remove=True)

    def _find_place(self) -> Place:
        if self._place is None:
            self._place = find_place(self.home)
            for note in self._place.notes:
                _log.info(note)
        return self._place

    def _become_user(self) -> None:
        """A fork of this process is a user too, from then on and until it stops or ends."""
        if self._users is None:
            users = FileLock(self._users_file, shared=True)
            users.acquire(_LOCK_SECONDS)
            self._users = users

    def _alone(self) -> FileLock:
        """Held when nobody uses the server; only whoever holds the start lock may ask."""
        everyone = FileLock(self._users_file)
        everyone.try_acquire()
        return everyone

    def _leave(self) -> None:
        atexit.unregister(self.stop)
        if self._users is not None:
            self._users.release()
            self._users = None

    def _kept(self, postmaster: Postmaster) -> bool:
        """A mark counts for the server that it was made for, not for one started after a crash or a reboot."""
        try:
            return self._keep_file.read_text(encoding="utf-8") == postmaster.identity
        except FileNotFoundError:
            return False

    def _responding(self, data: Path) -> Postmaster | None:
        postmaster = read_postmaster(data)
        return postmaster if postmaster is not None and answers(postmaster.sockets, data) else None

    def _already_there(self, data: Path) -> Postmaster | None:
        """The server that runs; one that is still starting or stopping (its starter was killed) is waited for."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            postmaster = self._responding(data)
            if postmaster is not None:
                return postmaster
            left = read_postmaster(data)
            if left is None or not self._alive(left.pid, data):
                return None
            if time.monotonic() > deadline:
                raise EmbeddedError(
                    f"the embedded PostgreSQL of {self.home} runs (process {left.pid}) but has not answered for "
                    f"{_START_SECONDS:.0f} s. Stop it with `market-pipelines db stop` and start again"
                )
            time.sleep(_POLL_SECONDS)

    def _alive(self, pid: int, data: Path) -> bool:
        if self._process is not None:
            self._process.poll()  # reaps it, if it is a child of ours
        return serves(pid, data)

    def _launch(self, place: Place) -> Postmaster:
        shortage = self._floor.shortage(place.data.parent)
        if shortage:
            raise EmbeddedError(f"the embedded PostgreSQL was not started: {shortage}")
        self._check_data(place)
        if not place.data.exists():
            self._initialise(place)
        self._clear_dead_postmaster(place)
        place.log.mkdir(mode=0o700, exist_ok=True)
        log = place.log / "postgresql.log"
        if log.exists() and log.stat().st_size > _LOG_BYTES_KEPT:
            log.replace(log.with_suffix(".log.1"))
        self._sockets = sockets = socket_folder(self.home, place.account)
        deadline = time.monotonic() + _START_SECONDS
        while True:
            began_at = log.stat().st_size if log.exists() else 0
            self._process = self._spawn(place, sockets, log)
            postmaster = self._await_ready(place, deadline)
            if postmaster is not None:
                return postmaster
            said = _read_from(log, began_at)
            # The last backends of a killed server hold its shared memory until they notice, a moment later.
            if "shared memory block" in said and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS * 5)
                continue
            remove_socket_folder(sockets, place.account)
            raise EmbeddedError(f"the embedded PostgreSQL did not start. Its log, {log}, ends with:\n{_tail(said)}")

    def _check_data(self, place: Place) -> None:
        data = place.data
        if not data.exists():
            return
        version_file = data / "PG_VERSION"
        if not version_file.exists():
            if any(data.iterdir()):
                raise EmbeddedError(
                    f"{data} is not empty and not a PostgreSQL data folder; nothing in it was touched. "
                    "Move it away, or choose another MARKET_PIPELINES_HOME"
                )
            data.rmdir()
            return
        version = version_file.read_text(encoding="ascii").strip()
        if version != MAJOR_VERSION:
            raise EmbeddedError(
                f"{data} was made by PostgreSQL {version}, and this is PostgreSQL {MAJOR_VERSION}; nothing in it was "
                f"touched. Use the version of market_pipelines that made it to export the data (pg_dumpall), or "
                f"choose another MARKET_PIPELINES_HOME"
            )

    def _initialise(self, place: Place) -> None:
        """Makes the data folder beside its place and moves it there whole: an initdb that was killed leaves nothing."""
        fresh = place.data.with_name("data.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        place.account.give(fresh)
        command = [
            str(place.binaries / "initdb"),
            f"--pgdata={fresh}",
            f"--username={SUPERUSER}",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
            "--no-instructions",
            *(f"--set={name}={value}" for name, value in _TUNING.items()),
            *(() if self._fsync else ("--no-sync",)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, **place.account.run_options())
        if done.returncode != 0:
            shutil.rmtree(fresh, ignore_errors=True)
            raise EmbeddedError(f"PostgreSQL's data folder could not be made:\n{_tail(done.stdout + done.stderr)}")
        # The socket is the only door, and its folder is the lock on it.
        (fresh / "pg_hba.conf").write_text("local all all trust\n", encoding="ascii")
        fresh.rename(place.data)
        if self._fsync:
            sync_folder(place.data.parent)

    def _clear_dead_postmaster(self, place: Place) -> None:
        """After a kill, PostgreSQL trusts postmaster.pid while any process has that number: also a stranger's."""
        left = read_postmaster(place.data)
        if left is not None:
            (place.data / "postmaster.pid").unlink(missing_ok=True)
            remove_socket_folder(left.sockets, place.account)

    def _spawn(self, place: Place, sockets: Path, log: Path) -> subprocess.Popen[bytes]:
        quoted = '"' + str(sockets).replace('"', '""') + '"'
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": quoted,
            "unix_socket_permissions": "0700",
            "port": "5432",
            "logging_collector": "off",
            "fsync": "on" if self._fsync else "off",
            "full_page_writes": "on" if self._fsync else "off",
        }
        command = [str(place.binaries / "postgres"), "-D", str(place.data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with log.open("ab") as output:
            # A session of its own: Ctrl-C in the terminal is for us, and we stop the server in order.
            return subprocess.Popen(
                command, stdout=output, stderr=output, start_new_session=True, **place.account.run_options()
            )

    def _await_ready(self, place: Place, deadline: float) -> Postmaster | None:
        """The server once it takes connections; None when it ended instead."""
        process = self._process
        while process is not None and process.poll() is None:
            postmaster = read_postmaster(place.data)
            if (
                postmaster is not None
                and postmaster.pid == process.pid
                and postmaster.ready
                and answers(postmaster.sockets, place.data)
            ):
                return postmaster
            if time.monotonic() > deadline:
                process.send_signal(signal.SIGQUIT)
                process.wait(_HARD_STOP_SECONDS)
                return None
            time.sleep(_POLL_SECONDS)
        return None

    def _shut_down(self, place: Place, postmaster: Postmaster | None) -> bool:
        if postmaster is None:
            return False
        stopped = False
        for number, seconds in (
            (signal.SIGINT, _FAST_STOP_SECONDS),
            (signal.SIGQUIT, _HARD_STOP_SECONDS),
            (signal.SIGKILL, _HARD_STOP_SECONDS),
        ):
            if not self._alive(postmaster.pid, place.data):
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(postmaster.pid, number)
            stopped = True
            if self._wait_for_end(place, postmaster, seconds):
                break
        remove_socket_folder(postmaster.sockets, place.account)
        return stopped

    def _end_own_process(self) -> bool:
        """The home was deleted under the server: nothing is shared any more, and nothing of it may stay."""
        if self._process is None or self._process.poll() is not None:
            return False
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_FAST_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_HARD_STOP_SECONDS)
        if self._place is not None and self._sockets is not None:
            remove_socket_folder(self._sockets, self._place.account)
        return True

    def _wait_for_end(self, place: Place, postmaster: Postmaster, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not self._alive(postmaster.pid, place.data):
                return True
            time.sleep(_POLL_SECONDS)
        return False


def _read_from(path: Path, offset: int) -> str:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read().decode("utf-8", "replace")


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-12:])
