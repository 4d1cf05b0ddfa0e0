"""The whole platform on one machine: started in order, watched, and taken down in the opposite order.

What is started is known here; how a child is kept alive is the supervisor's business.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg
import requests

from market_pipelines.cli.dagster_client import DagsterClient, DagsterError, Location
from market_pipelines.cli.dagster_home import (
    BATCHES,
    LOCATION,
    STORAGE_VARIABLE,
    DagsterHome,
    hosted_streams,
    storage_database,
    storage_in_schema,
    write_dagster_home,
)
from market_pipelines.cli.first_refresh import refresh_all
from market_pipelines.cli.output import CommandFailed
from market_pipelines.cli.running import MARK, RunningFile, end_leftovers
from market_pipelines.cli.supervisor import ChildFailed, Program, RestartPolicy, Stop, StopAsked, Supervisor
from market_pipelines.pipeline.markets import read_markets
from market_pipelines.pipeline.simulated import announcement, running_simulator, uses_simulator
from market_pipelines.settings import Settings, StreamHost
from market_pipelines.store import schema
from market_pipelines.store.database import DatabaseUnavailable, database_name
from market_pipelines.store.disk import DiskFloor
from market_pipelines.store.embedded import EmbeddedError, EmbeddedServer
from market_pipelines.streaming.keys import keyless

Say = Callable[[str], None]

HOST = "127.0.0.1"
DAGSTER_PORT = 3000
SIMULATOR_PORT = 8099
DEFINITIONS = "market_pipelines.definitions"
_READY_SECONDS = 180.0
_SIMULATOR_SECONDS = 60.0
_CANCEL_SECONDS = 10.0
_STREAM_SECONDS = 27.0
"""It drains for up to 20."""
_LOOK_SECONDS = 1.0
_PING_SECONDS = 5.0
_RUNNING = ("STARTING", "STARTED", "CANCELING")


class UpError(CommandFailed):
    """The platform cannot start, or cannot go on."""


@dataclass(frozen=True, slots=True)
class UpOptions:
    dagster_port: int = DAGSTER_PORT
    definitions: str = DEFINITIONS
    """The module that Dagster loads; tests put a small one in its place."""


def up(settings: Settings, options: UpOptions, say: Say, announce: Say) -> None:
    """Returns when it was asked to stop; everything it started is gone then. Raises for a person otherwise."""
    stop = Stop()
    stop.listen()
    began = time.monotonic()
    home = settings.home
    _make_room(home)
    running = RunningFile(home)
    left = running.claim()
    try:
        _refuse_taken_port(options.dagster_port)
        running.publish({"Dagster": f"http://{HOST}:{options.dagster_port}"})
        if left is not None and (ended := end_leftovers(left.mark)):
            say(f"an earlier `up` was killed; {ended} processes it had left are ended")
        if left is not None:
            announcement(settings).unlink(missing_ok=True)
        _Platform(settings, options, say, announce, stop, running, after_a_kill=left is not None).run(began)
    except StopAsked:
        pass
    except DagsterError as error:
        reason = str(error).strip().splitlines()[0]
        raise UpError(f"Dagster cannot load the definitions: {reason}\nMore in {home / 'logs'}.") from None
    except (ChildFailed, DatabaseUnavailable, EmbeddedError, schema.SchemaTooNew) as error:
        raise UpError(str(error)) from None
    except OSError as error:
        raise UpError(f"{error.filename or home}: {error.strerror or error}") from None
    finally:
        running.release()
    say("stopped")


@dataclass
class _Platform:
    settings: Settings
    options: UpOptions
    say: Say
    announce: Say
    stop: Stop
    running: RunningFile
    after_a_kill: bool

    def run(self, began: float) -> None:
        simulated = uses_simulator(self.settings)
        with ExitStack() as stack:
            server = self._database(stack, simulated)
            dagster_home = write_dagster_home(
                self.settings.home,
                tick_days=self.settings.retention_dagster_ticks_days,
                streams=hosted_streams(self.settings),
            )
            stack.callback(dagster_home.remove_socket)
            supervisor = stack.enter_context(
                Supervisor(
                    self.settings.home / "logs",
                    self.stop,
                    self.say,
                    environment=self._environment(dagster_home, simulated),
                )
            )
            self.stop.check()
            address = f"http://{HOST}:{self.options.dagster_port}"
            client = DagsterClient(address)
            stack.callback(self._take_down_dagster, supervisor, client)
            location = self._start_dagster(supervisor, client, dagster_home)
            self.say(f"Dagster serves after {time.monotonic() - began:.0f} s")

            # What the page does not need comes after it: on a small machine everything at once is slow.
            self._write_off_runs_cut_off(client)
            daemon = ("-m", "market_pipelines.orchestration.daemon", "run", "--workspace", str(dagster_home.workspace))
            supervisor.start(Program("dagster-daemon", (sys.executable, *daemon)))
            addresses = {"Dagster": address}
            if simulated:
                self.say("no provider is to be asked: every market is simulated")
                addresses["Simulator"] = self._simulator(supervisor)
            self.running.publish(addresses)
            for name, where in addresses.items():
                self.announce(f"{name:<10} {where}")
            self.announce(f"{'Data':<10} {self.settings.home}{' (simulated)' if simulated else ''}")
            self._stream(supervisor)
            watch = _Watch(supervisor, client, server, self.stop, self.say)
            self._first_refresh(client, location, watch)
            self.say("Ctrl-C stops everything")
            while not watch.wait(_LOOK_SECONDS):
                pass

    def _database(self, stack: ExitStack, simulated: bool) -> EmbeddedServer | None:
        """Brings up the database and its schema; the embedded server is returned so that it can be watched."""
        external = self.settings.external_database_url
        if external is not None:
            schema.upgrade(external)
            try:
                self._storage = storage_in_schema(external)
            except psycopg.Error as error:
                raise DatabaseUnavailable(f"Dagster's tables cannot be made in the database: {error}") from None
            self.say("the database is there and its schema is up to date")
            return None
        server = EmbeddedServer(self.settings.home)
        stack.callback(server.stop, force=True)
        server.start(keep=True)
        for note in server.notes:
            self.say(note)
        name = database_name(simulated=simulated)
        server.ensure_database(name)
        storage = storage_database(simulated=simulated)
        server.ensure_database(storage)
        schema.upgrade(server.url(name))
        self._storage = server.url(storage, driver="postgresql+psycopg2")
        self.say(f"PostgreSQL serves database {name}")
        return server

    def _environment(self, dagster_home: DagsterHome, simulated: bool) -> dict[str, str]:
        return {
            MARK: self.running.mark,
            "MARKET_PIPELINES_HOME": str(self.settings.home),
            "MARKET_PIPELINES_SIMULATOR": "on" if simulated else "off",
            "DAGSTER_HOME": str(dagster_home.folder),
            "DAGSTER_URL": self._page(),
            **BATCHES,
            STORAGE_VARIABLE: self._storage,
            "PYTHONUNBUFFERED": "1",
        }

    def _page(self) -> str:
        """For links in messages: where people see Dagster, unless the settings know better."""
        chosen = self.settings.dagster_url
        if chosen != Settings.model_fields["dagster_url"].default:
            return chosen
        return f"http://{HOST}:{self.options.dagster_port}"

    def _simulator(self, supervisor: Supervisor) -> str:
        """The exchange in a box. It says where it is by itself, and every process of this folder finds it."""
        there = running_simulator(self.settings)
        if there is not None:
            self.say(f"a simulator is running already at {there}")
            return there
        port = SIMULATOR_PORT if _is_free(SIMULATOR_PORT) else _any_free_port()
        try:
            return self._simulator_on(supervisor, port)
        except ChildFailed:
            if _is_free(port):
                raise
        # Somebody else took the port between our look and our start.
        supervisor.stop_all(["simulator"])
        return self._simulator_on(supervisor, _any_free_port())

    def _simulator_on(self, supervisor: Supervisor, port: int) -> str:
        # Fixed for as long as we run: after a restart it has to be found where it was.
        command = (sys.executable, "-m", "market_pipelines.cli", "simulate", "--port", str(port))
        supervisor.start(Program("simulator", command, stop_seconds=5))
        return supervisor.wait_for(lambda: running_simulator(self.settings), "the simulator", _SIMULATOR_SECONDS)

    def _stream(self, supervisor: Supervisor) -> None:
        """The live service of every market, beside everything else: what cannot be streamed says so in its log, and
        ends nothing."""
        if self.settings.stream_hosted_by is StreamHost.DAGSTER:
            self.say("streams are hosted by Dagster's runs (STREAM_HOSTED_BY=dagster)")
            return
        lacking, able = self._streams()
        for name, reason in lacking.items():
            self.say(f"the stream {name} is left out: {reason}")
        if not able:
            return
        command = (sys.executable, "-m", "market_pipelines.cli", "stream", "run")
        supervisor.start(Program("stream", command, stop_seconds=_STREAM_SECONDS, essential=False))
        self.announce(f"{'Stream':<10} {' '.join(able)} (market-pipelines stream status)")

    def _streams(self) -> tuple[dict[str, str], list[str]]:
        """What the markets stream by default: what of it cannot be had and why, and what can."""
        lacking: dict[str, str] = {}
        able = []
        for market in read_markets().values():
            if market.stream is not None:
                name = f"{market.name}-{market.stream.feed}"
                reason = keyless(self.settings, market.stream.feed, simulated=uses_simulator(self.settings))
                if reason:
                    lacking[name] = reason
                else:
                    able.append(name)
        return lacking, able

    def _start_dagster(self, supervisor: Supervisor, client: DagsterClient, home: DagsterHome) -> Location:
        python = (sys.executable, "-m")
        code = ("dagster", "code-server", "start", "--socket", str(home.socket), "--location-name", LOCATION)
        web = ("dagster_webserver", "--host", HOST, "--port", str(self.options.dagster_port))
        workspace = ("--workspace", str(home.workspace))
        supervisor.start(
            Program("dagster-code", (*python, *code, "--module-name", self.options.definitions), stop_seconds=15)
        )
        supervisor.start(Program("dagster-webserver", (*python, *web, *workspace)))
        return supervisor.wait_for(lambda: client.location(LOCATION), "Dagster", _READY_SECONDS)

    def _write_off_runs_cut_off(self, client: DagsterClient) -> None:
        """Runs of an `up` that was killed: nobody runs them any more, and nobody else may, the folder is ours.

        Before there is a daemon, so that none that it has just launched is among them.
        """
        runs = client.runs_in_progress(_RUNNING) if self.after_a_kill else []
        if runs:
            client.terminate(runs, only_mark=True)
            self.say(f"{len(runs)} runs that were cut off are marked as cancelled")

    def _first_refresh(self, client: DagsterClient, location: Location, watch: _Watch) -> None:
        try:
            complete = refresh_all(client, location, watch.wait, self.say)
        except (DagsterError, requests.RequestException) as error:
            self.say(f"the first refresh could not be followed: {error}")
            return
        self.stop.check()
        self.say("every market is filled" if complete else "not every market is filled: see the runs in Dagster")

    def _take_down_dagster(self, supervisor: Supervisor, client: DagsterClient) -> None:
        """No new runs, then the runs in progress, then those who serve: each can still say what happened."""
        self.say("stopping")
        # The stream first, while what it streams from is there: its end is no gap then.
        supervisor.stop_all(["stream", "dagster-daemon"])
        try:
            self._cancel_runs(client)
        except (DagsterError, requests.RequestException) as error:
            if not isinstance(error, requests.ConnectionError):
                self.say(f"runs in progress could not be cancelled cleanly: {error}")
        supervisor.stop_all(["dagster-webserver", "dagster-code"])

    def _cancel_runs(self, client: DagsterClient) -> None:
        runs = client.runs_in_progress()
        if not runs:
            return
        self.say(f"cancelling {len(runs)} runs in progress")
        client.terminate(runs)
        deadline = time.monotonic() + _CANCEL_SECONDS
        while (runs := client.runs_in_progress()) and time.monotonic() < deadline and not self.stop.hurry:
            time.sleep(0.1)
        if runs:
            client.terminate(runs, only_mark=True)


class _Watch:
    """Keeps everything alive while the platform serves."""

    def __init__(
        self, supervisor: Supervisor, client: DagsterClient, server: EmbeddedServer | None, stop: Stop, say: Say
    ) -> None:
        self._supervisor = supervisor
        self._client = client
        self._server = server
        self._stop = stop
        self._say = say
        self._policy = RestartPolicy()
        self._server_deaths: list[float] = []
        self._next_ping = 0.0

    def wait(self, seconds: float) -> bool:
        """Looks after all children and the database, then waits. True when we were asked to stop."""
        if "dagster-code" in self._supervisor.look_after():
            self._write_off_runs()
        if self._server is not None and time.monotonic() >= self._next_ping:
            self._next_ping = time.monotonic() + _PING_SECONDS
            self._revive(self._server)
        return self._stop.wait(seconds)

    def _write_off_runs(self) -> None:
        """Runs live in the code server's process group: they died with it, and only we know."""
        try:
            runs = self._client.runs_in_progress(_RUNNING)
            if runs:
                self._client.terminate(runs, only_mark=True)
                self._say(f"{len(runs)} runs ended with it and are marked as cancelled")
        except (DagsterError, requests.RequestException) as error:
            self._say(f"runs that ended with it could not be marked as cancelled: {error}")

    def _revive(self, server: EmbeddedServer) -> None:
        if server.running():
            return
        self._server_deaths.append(time.monotonic())
        times, pause = len(self._server_deaths), self._policy.pause(self._server_deaths)
        if pause is None:
            raise UpError(f"PostgreSQL ended {times} times and is not started again.")
        self._say(f"PostgreSQL ended and is started again ({times} of {self._policy.restarts})")
        if not self._stop.wait(pause):
            server.start(keep=True)


def _make_room(home: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UpError(
            f"The data folder {home} cannot be made ({error.strerror}): choose another one with --home."
        ) from None
    if shortage := DiskFloor().shortage(home):
        raise UpError(shortage)


def _refuse_taken_port(port: int) -> None:
    if not _is_free(port):
        other = next((near for near in range(port + 1, port + 100) if _is_free(near)), _any_free_port())
        raise UpError(
            f"Port {port} is taken by another program, and Dagster's page wants it: "
            f"choose another one, for example --dagster-port {other}."
        )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _any_free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
