"""What one file of tests leaves to the next in the same process is put back, or named."""

import logging
import signal
import threading
from pathlib import Path

import pytest

from market_pipelines import redaction
from market_pipelines_tests import process_state


def test_what_may_not_be_left_behind_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process_state, "ENDING_SECONDS", 0.01)
    here = Path.cwd()
    found = process_state.Found()
    assert found.changed() == []
    over = threading.Event()
    thread = threading.Thread(target=over.wait, name="a stream")
    thread.start()
    try:
        monkeypatch.setenv("LEFT_BEHIND", "1")
        monkeypatch.chdir(tmp_path)
        assert found.changed() == [
            "the variable LEFT_BEHIND: None became '1'",
            f"the working folder: {here!r} became {tmp_path!r}",
            "the thread a stream goes on",
        ]
    finally:
        over.set()
        thread.join()


def test_what_belongs_to_a_whole_process_is_put_back() -> None:
    def handlers() -> list[object]:
        return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    before = handlers(), redaction._known, logging.getLogger("psycopg").level
    with process_state.put_back():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        redaction.register_secret("S3CR3T-OF-A-FILE")
        logging.getLogger("psycopg").setLevel(logging.CRITICAL)
    assert (handlers(), redaction._known, logging.getLogger("psycopg").level) == before


def test_a_command_that_sets_up_logs_closes_none_of_pytests() -> None:
    handlers = logging.root.handlers[:]
    with process_state.logs_as_they_were():
        assert logging.root.handlers == []
        logging.root.addHandler(logging.NullHandler())
    assert logging.root.handlers == handlers
