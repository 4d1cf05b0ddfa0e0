"""How commands begin and end: options that are refused, errors that become a sentence and an exit code."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from market_pipelines import __version__, redaction
from market_pipelines.cli import main
from market_pipelines.cli.data import exit_code
from market_pipelines.cli.door import symbols_in
from market_pipelines.cli.main import KNOWN_ERRORS, app, report
from market_pipelines.cli.output import CommandFailed, ExitCode, Terminated
from market_pipelines.market.outcomes import Outcome
from market_pipelines.pipeline.results import SymbolResult
from market_pipelines.redaction import register_secret
from market_pipelines.settings import SettingsError
from market_pipelines.streaming.replay import UnknownSink
from market_pipelines_tests import process_state


@pytest.fixture(autouse=True)
def logs_are_set_up_for_one_test_only() -> Iterator[None]:
    with process_state.logs_as_they_were():
        yield


def result(outcome: Outcome) -> SymbolResult:
    return SymbolResult("AAPL", outcome, None, 0, 0, 1, "")


@pytest.mark.parametrize("name", sorted(KNOWN_ERRORS))
def test_every_known_error_exists_under_its_name(name: str) -> None:
    module, _, kind = name.rpartition(".")
    found = getattr(import_module(module), kind)
    assert issubclass(found, Exception)
    assert f"{found.__module__}.{found.__qualname__}" == name


def test_a_known_error_is_said_in_its_own_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(SettingsError("YAHOO_RATE_LIMIT: 'x' cannot be used")) is ExitCode.USAGE
    assert report(CommandFailed("no such file")) is ExitCode.ERROR
    assert report(UnknownSink("--sink 'kafka' is none of them")) is ExitCode.USAGE
    assert capsys.readouterr().err.splitlines() == [
        "error: YAHOO_RATE_LIMIT: 'x' cannot be used",
        "error: no such file",
        "error: --sink 'kafka' is none of them",
    ]


def test_a_child_of_a_known_error_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    class DiskFull(CommandFailed):
        pass

    assert report(DiskFull("the disk is full")) is ExitCode.ERROR
    assert capsys.readouterr().err == "error: the disk is full\n"


def test_an_unforeseen_error_shows_neither_a_secret_nor_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redaction, "_known", ())
    register_secret("PLANTED-KEY-2")
    assert report(RuntimeError("refused PLANTED-KEY-2")) is ExitCode.ERROR
    shown = capsys.readouterr().err
    assert "RuntimeError: refused [redacted]" in shown
    assert "Traceback" not in shown


def test_debugging_shows_where_an_unforeseen_error_happened(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "level", logging.DEBUG)
    monkeypatch.setattr(logging.getLogger().manager, "disable", 0)
    logging.getLogger()._cache.clear()  # type: ignore[attr-defined]  # levels are remembered per logger
    try:
        raise RuntimeError("here")
    except RuntimeError as error:
        report(error)
    finally:
        logging.getLogger()._cache.clear()  # type: ignore[attr-defined]
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("interruption", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_an_interruption_has_its_own_exit_code(
    interruption: type[BaseException], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        raise interruption

    class Room:
        @staticmethod
        def register(room: typer.Typer) -> None:
            room.command("status")(interrupted)

    monkeypatch.setattr(main, "import_module", lambda _name: Room)
    ended = CliRunner().invoke(app, ["status"])
    assert ended.exit_code == code
    assert "interrupted" in ended.stderr


def test_the_version_is_said() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"market-pipelines {__version__}\n"


def test_a_mistyped_command_gets_a_suggestion() -> None:
    ended = CliRunner().invoke(app, ["backfil"])
    assert ended.exit_code == ExitCode.USAGE
    assert "'backfill'" in ended.stderr


def test_help_lists_every_command() -> None:
    shown = CliRunner().invoke(app, ["--help"]).stdout
    assert [name for name in main.COMMANDS if name not in shown] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pull", "AAPL", "--interval", "7min"], "'7min' is not served; accepted: 1d, 1min, 5min, 15min, 30min, 60min"),
        (["pull", "AAPL", "--from", "2024-13-01"], "'2024-13-01' is not a day; accepted: YYYY-MM-DD"),
        (["pull", "../etc"], "'../ETC' is not a symbol"),
        (["pull"], "Missing argument"),
        (["backfill", "--from", "2024-01-02"], "Missing option '--market'"),
        (["bars", "AAPL", "--as-of", "2024-03-01T12:00:00"], "has no time zone"),
        (["bars", "AAPL", "--as-of", "yesterday"], "is not a day or an instant"),
        (["bars", "AAPL", "--json", "--format", "csv"], "contradict each other"),
        (["simulate", "--clock", "2024-03-01T12:00:00"], "is not an instant with its zone"),
        (["simulate", "--fault", "yahoo.nonsense=1"], "yahoo has no fault 'nonsense'"),
    ],
)
def test_what_cannot_be_used_is_refused_with_what_is_accepted(words: list[str], said: str) -> None:
    ended = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert ended.exit_code == ExitCode.USAGE, ended.stderr
    assert said in " ".join(ended.stderr.replace("│", " ").split())
    assert ended.stdout == ""


def test_a_wrong_setting_ends_a_command_with_the_variable_in_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app, ["status"], env={"YAHOO_RATE_LIMIT": "often"})
    assert ended.exit_code == ExitCode.USAGE
    assert "YAHOO_RATE_LIMIT: 'often' (from the environment) cannot be used" in ended.stderr


def test_symbols_are_taken_as_people_write_them() -> None:
    assert symbols_in(["aapl,msft", "^spx brk.b", "AAPL"]) == ("AAPL", "MSFT", "^SPX", "BRK.B")


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ([Outcome.OK, Outcome.EMPTY_EXPECTED], ExitCode.OK),
        ([Outcome.OK, Outcome.UNKNOWN_SYMBOL], ExitCode.PARTIAL),
        ([Outcome.NOT_ENTITLED, Outcome.OK], ExitCode.NOT_AUTHORISED),
        ([Outcome.NOT_ENTITLED, Outcome.THROTTLED], ExitCode.PARTIAL),
    ],
)
def test_the_exit_code_tells_how_symbols_fared(outcomes: list[Outcome], code: ExitCode) -> None:
    assert exit_code([result(outcome) for outcome in outcomes]) is code


def test_only_up_and_down_import_what_they_need_of_dagster() -> None:
    """Commands for data do not wait for Dagster."""
    script = (
        "import sys; from market_pipelines.cli.main import COMMANDS; from importlib import import_module\n"
        "[import_module(m) for name, m in COMMANDS.items() if name not in ('up', 'down')]\n"
        "sys.exit('dagster' in sys.modules or 'alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_arrow_allocates_with_the_c_library_in_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARROW_DEFAULT_MEMORY_POOL", raising=False)
    command = (
        "import contextlib, sys\n"
        "from market_pipelines.cli.main import run\n"
        "sys.argv = ['market-pipelines', 'stream', 'run', '--help']\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(None):\n"
        "    run()\n"
        "import pyarrow\n"
        "print(pyarrow.default_memory_pool().backend_name)\n"
    )
    told = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout.split() == ["system"]
