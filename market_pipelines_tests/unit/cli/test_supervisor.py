import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from market_pipelines import redaction
from market_pipelines.cli import guard, supervisor
from market_pipelines.cli.running import (
    MARK,
    AlreadyRunning,
    RunningFile,
    end_leftovers,
    running_platform,
    stop_running,
)
from market_pipelines.cli.supervisor import ChildFailed, Program, RestartPolicy, Stop, StopAsked, Supervisor

WAIT_SECONDS = 20.0
SLEEPER = "import time; print('awake', flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEPER!r}])"


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def until(condition: Callable[[], bool]) -> None:
    tick, deadline = threading.Event(), time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        tick.wait(0.02)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def supervised(tmp_path: Path, said: list[str]) -> Iterator[Supervisor]:
    policy = RestartPolicy(restarts=2, first_pause_seconds=0.01)
    with Supervisor(tmp_path / "logs", Stop(), said.append, policy) as started:
        yield started


def awake(child: supervisor.Child) -> Callable[[], bool]:
    def said_so() -> bool:
        with contextlib.suppress(FileNotFoundError):  # for a moment, while it is rotated
            return "awake" in child.log_path.read_text()
        return False

    return said_so


def test_leaving_the_context_ends_every_child(tmp_path: Path) -> None:
    with Supervisor(tmp_path, Stop(), print) as started:
        children = [started.start(Program(name, python(SLEEPER))) for name in ("a", "b")]
        until(lambda: all(awake(child)() for child in children))
    assert all(gone(child.group) for child in children)


def test_an_error_inside_the_context_ends_every_child(tmp_path: Path) -> None:
    children = []
    with pytest.raises(ZeroDivisionError), Supervisor(tmp_path, Stop(), print) as started:
        children.append(started.start(Program("a", python(SLEEPER))))
        raise ZeroDivisionError
    assert gone(children[0].group)


def test_the_children_of_a_child_end_with_it(supervised: Supervisor) -> None:
    child = supervised.start(Program("parent", python(PARENT)))
    until(awake(child))
    grandchildren = psutil.Process(child.group).children()
    assert grandchildren
    supervised.stop_all(["parent"])
    assert all(gone(process.pid) for process in grandchildren)


def test_a_child_that_does_not_end_when_asked_is_killed(supervised: Supervisor, said: list[str]) -> None:
    child = supervised.start(Program("deaf", python(STUBBORN), stop_seconds=0.3))
    until(awake(child))
    supervised.stop_all(["deaf"])
    assert gone(child.group)
    assert said == ["deaf did not stop in time and is killed"]


def test_a_child_gets_its_environment_and_nothing_on_stdin(supervised: Supervisor) -> None:
    code = "import os, sys, time; print(os.environ['COLOUR'], repr(sys.stdin.read()), flush=True); time.sleep(600)"
    child = supervised.start(Program("child", python(code), {"COLOUR": "blue"}))
    until(lambda: "blue ''" in child.log_path.read_text())


def test_a_child_that_dies_while_starting_is_told_with_its_last_words(supervised: Supervisor) -> None:
    supervised.start(Program("broken", python("print('first'); raise SystemExit('no such table')")))
    with pytest.raises(ChildFailed) as failed:
        supervised.wait_for(lambda: None, "the table", WAIT_SECONDS)
    message = str(failed.value)
    assert "broken ended (exit code 1) while starting" in message
    assert "no such table" in message
    assert "broken.log" in message


def test_a_child_that_a_signal_ended_is_told_so(supervised: Supervisor) -> None:
    child = supervised.start(Program("shot", python(SLEEPER)))
    os.killpg(child.group, signal.SIGKILL)
    with pytest.raises(ChildFailed, match="shot ended \\(signal SIGKILL\\)"):
        supervised.wait_for(lambda: None, "it", WAIT_SECONDS)


def test_a_deadline_that_passes_is_told(supervised: Supervisor) -> None:
    supervised.start(Program("slow", python(SLEEPER)))
    with pytest.raises(ChildFailed, match="the page was not ready within 0 s"):
        supervised.wait_for(lambda: None, "the page", 0.05)


def test_a_program_that_does_not_exist_is_named(supervised: Supervisor) -> None:
    with pytest.raises(ChildFailed, match="missing cannot be started"):
        supervised.start(Program("missing", ("/nowhere/at/all",)))


def test_waiting_ends_when_we_are_asked_to_stop(tmp_path: Path) -> None:
    stop = Stop()
    with pytest.raises(StopAsked), Supervisor(tmp_path, stop, print) as started:
        started.start(Program("a", python(SLEEPER)))
        stop.ask()
        started.wait_for(lambda: None, "it", WAIT_SECONDS)


def test_a_dead_child_is_started_again_and_said(supervised: Supervisor, said: list[str]) -> None:
    child = supervised.start(Program("child", python(SLEEPER)))
    first = child.group
    os.killpg(first, signal.SIGKILL)
    until(lambda: supervised.look_after() == ["child"])
    until(lambda: supervised.look_after() == [] and child.group != first)
    assert child.exit_code() is None
    assert "child ended (signal SIGKILL) and is started again" in said[0]


def test_a_child_that_dies_too_often_is_given_up(supervised: Supervisor, said: list[str]) -> None:
    supervised.start(Program("hopeless", python("raise SystemExit('out of luck')")))

    def look() -> bool:
        supervised.look_after()
        return False

    with pytest.raises(ChildFailed, match="3 times by now") as failed:
        until(look)
    assert "out of luck" in str(failed.value)
    assert len(said) == 2


def test_what_a_dead_child_left_in_its_group_is_ended(supervised: Supervisor) -> None:
    child = supervised.start(Program("parent", python(PARENT)))
    until(awake(child))
    grandchildren = psutil.Process(child.group).children()
    os.kill(child.group, signal.SIGKILL)
    until(lambda: supervised.look_after() == ["parent"])
    until(lambda: all(gone(process.pid) for process in grandchildren))


def test_pauses_double_and_old_deaths_are_forgotten() -> None:
    policy = RestartPolicy(restarts=3, window_seconds=100, first_pause_seconds=1)
    assert [policy.pause(deaths) for deaths in ([0], [0, 1], [0, 1, 2], [0, 1, 2, 3])] == [1, 2, 4, None]
    assert policy.pause([0, 1, 2, 200]) == 1


def test_a_childs_log_has_no_secret_and_no_colour(supervised: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", ())
    redaction.register_secret("PLANTEDKEY1")
    code = "print('\\x1b[32mkey\\x1b[0m PLANTEDKEY1', flush=True); " + SLEEPER
    child = supervised.start(Program("child", python(code)))
    until(awake(child))
    assert child.log_path.read_text().splitlines()[0] == f"key {redaction.MASK}"


def test_a_log_never_grows_past_two_files(supervised: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LOG_BYTES", 1000)
    code = "[print('x' * 99) for _ in range(100)]; " + SLEEPER
    child = supervised.start(Program("chatty", python(code)))
    until(awake(child))
    sizes = [path.stat().st_size for path in child.log_path.parent.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) < 1200


def test_a_log_that_cannot_be_written_does_not_block_the_child(supervised: Supervisor, tmp_path: Path) -> None:
    (tmp_path / "logs" / "full.log").symlink_to("/dev/full")
    done = tmp_path / "done"
    code = f"[print('x' * 99) for _ in range(5000)]; open({str(done)!r}, 'w'); {SLEEPER}"
    supervised.start(Program("full", python(code)))
    until(done.exists)


def test_a_supervisor_killed_hard_leaves_no_children(tmp_path: Path) -> None:
    code = textwrap.dedent(f"""
        from pathlib import Path
        from market_pipelines.cli.supervisor import Program, Stop, Supervisor
        with Supervisor(Path({str(tmp_path)!r}), Stop(), print) as supervisor:
            child = supervisor.start(Program("parent", {python(PARENT)!r}))
            supervisor.wait_for(lambda: "awake" in child.log_path.read_text() or None, "it", 20)
            print(child.group, flush=True)
            Stop().wait(600)
    """)
    with subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        group = int(process.stdout.readline())
        left = [psutil.Process(group), *psutil.Process(group).children(), *psutil.Process(process.pid).children()]
        process.kill()
    until(lambda: all(gone(child.pid) for child in left))


def test_a_group_of_zombies_counts_as_ended() -> None:
    process = subprocess.Popen(python("pass"), process_group=0)
    until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
    assert not guard.group_is_alive(process.pid)
    process.wait()


def test_a_second_signal_shortly_after_the_first_is_the_same_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop()
    stop._on_signal(signal.SIGINT, None)
    stop._on_signal(signal.SIGTERM, None)
    assert stop.asked
    assert not stop.hurry
    monkeypatch.setattr(stop, "_asked_at", stop._asked_at - 2)
    stop._on_signal(signal.SIGINT, None)
    assert stop.hurry


def test_a_data_folder_has_one_platform(tmp_path: Path) -> None:
    first = RunningFile(tmp_path)
    first.claim()
    first.publish({"Dagster": "http://127.0.0.1:3000"})
    with pytest.raises(AlreadyRunning) as refused:
        RunningFile(tmp_path).claim()
    assert str(os.getpid()) in str(refused.value)
    assert "http://127.0.0.1:3000" in str(refused.value)
    first.release()
    assert list((tmp_path / "run").iterdir()) == []
    RunningFile(tmp_path).claim()


def test_a_platform_that_was_killed_does_not_stand_in_the_way(tmp_path: Path) -> None:
    code = textwrap.dedent(f"""
        import os, signal, subprocess, sys
        from pathlib import Path
        from market_pipelines.cli.running import MARK, RunningFile
        running = RunningFile(Path({str(tmp_path)!r}))
        running.claim()
        child = subprocess.Popen([sys.executable, "-c", {SLEEPER!r}], stdout=subprocess.DEVNULL,
                                 env={{**os.environ, MARK: running.mark}}, start_new_session=True)
        print(child.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    killed = subprocess.run(python(code), stdout=subprocess.PIPE, text=True, check=False)
    orphan = int(killed.stdout)
    assert running_platform(tmp_path) is None
    left = RunningFile(tmp_path).claim()
    assert left is not None
    assert end_leftovers(left.mark) == 1
    assert gone(orphan)


def test_ending_leftovers_spares_everybody_else(tmp_path: Path) -> None:
    with subprocess.Popen(python(SLEEPER), env={**os.environ, MARK: "another"}, cwd=tmp_path) as other:
        assert end_leftovers("nobody") == 0
        assert other.poll() is None
        other.kill()


def test_down_waits_until_the_platform_is_gone(tmp_path: Path) -> None:
    code = textwrap.dedent(f"""
        from pathlib import Path
        from market_pipelines.cli.running import RunningFile
        from market_pipelines.cli.supervisor import Stop
        stop = Stop()
        stop.listen()
        running = RunningFile(Path({str(tmp_path)!r}))
        running.claim()
        print("ready", flush=True)
        stop.wait(600)
        running.release()
    """)
    with subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert stop_running(tmp_path, WAIT_SECONDS) is True
        assert process.wait(WAIT_SECONDS) == 0
    assert stop_running(tmp_path, WAIT_SECONDS) is None
