import io
import json
import logging
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from market_pipelines import redaction
from market_pipelines.logs import configure_logs
from market_pipelines.settings import SettingsError, read_settings
from market_pipelines_tests import process_state

KEY = "PLANTED-KEY-1/234"


@pytest.fixture(autouse=True)
def logging_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(redaction, "_known", ())
    with process_state.logs_as_they_were():
        yield


def written(log_format: str, level: str = "INFO") -> io.StringIO:
    stream = io.StringIO()
    configure_logs(read_settings(None, log_format=log_format, log_level=level, stooq_api_key=KEY), stream=stream)
    return stream


def log_the_key_in_every_way() -> None:
    log = structlog.get_logger("market_pipelines.fetch")
    log.info("asked %s", KEY, symbol="IBM", params={"k": KEY})
    library = logging.getLogger("some.library")
    library.warning("GET /q?k=%s", KEY, extra={"address": KEY})
    try:
        raise ConnectionError(f"no answer from /q?k={KEY}")
    except ConnectionError:
        log.exception("failed")
        library.exception("failed too")
    warnings.warn(f"old style: {KEY}", stacklevel=1)
    thread = threading.Thread(target=lambda: [][len(KEY)] or KEY)
    thread.start()
    thread.join()


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_no_record_shows_a_secret_whoever_wrote_it(log_format: str) -> None:
    stream = written(log_format)
    log_the_key_in_every_way()
    text = stream.getvalue()
    assert "PLANTED" not in text
    for part in ("asked", "GET /q?k=", "no answer from", "failed too", "old style", "IndexError"):
        assert part in text


def test_json_is_one_object_a_line() -> None:
    stream = written("json")
    log_the_key_in_every_way()
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert {"event", "level", "logger", "at"} <= set.intersection(*(set(record) for record in records))
    assert records[0]["symbol"] == "IBM"
    assert "Traceback" in records[2]["exception"]


def test_the_level_counts_for_us_and_for_libraries() -> None:
    stream = written("console", level="WARNING")
    structlog.get_logger("market_pipelines").info("quiet")
    logging.getLogger("some.library").info("quiet")
    logging.getLogger("some.library").warning("loud")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


def test_chatty_libraries_are_heard_only_when_debugging() -> None:
    logging_info = written("console", level="INFO")
    logging.getLogger("urllib3.connectionpool").info("retrying")
    assert logging_info.getvalue() == ""
    debugging = written("console", level="DEBUG")
    logging.getLogger("urllib3.connectionpool").info("retrying")
    assert "retrying" in debugging.getvalue()


def test_configuring_twice_writes_each_line_once() -> None:
    written("console")
    stream = written("console")
    structlog.get_logger("market_pipelines").info("once")
    assert stream.getvalue().count("once") == 1


def test_the_log_file_has_the_same_lines(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "market.log"
    stream = io.StringIO()
    configure_logs(read_settings(None, stooq_api_key=KEY, market_data_log_file=path), stream=stream)
    log_the_key_in_every_way()
    assert path.read_text(encoding="utf-8") == stream.getvalue()


def test_a_log_file_moved_away_is_opened_anew(tmp_path: Path) -> None:
    path = tmp_path / "market.log"
    configure_logs(read_settings(None, market_data_log_file=path), stream=io.StringIO())
    logging.getLogger("a").warning("before")
    path.rename(tmp_path / "market.log.1")
    logging.getLogger("a").warning("after")
    assert "after" in path.read_text(encoding="utf-8")


def test_a_log_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="MARKET_DATA_LOG_FILE"):
        configure_logs(read_settings(None, market_data_log_file=tmp_path), stream=io.StringIO())


def test_what_ends_the_process_is_redacted_and_on_stderr() -> None:
    program = (
        "from market_pipelines.logs import configure_logs\n"
        "from market_pipelines.settings import read_settings\n"
        "settings = read_settings(None)\n"
        "configure_logs(settings)\n"
        "raise RuntimeError(settings.stooq_api_key.get_secret_value())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "STOOQ_API_KEY": KEY},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "RuntimeError" in ended.stderr
    # The source line is in the traceback, the key is not.
    assert "PLANTED" not in ended.stderr
