"""Logging, configured once at a door: `structlog` for our lines, the standard library for everybody else's.

Both end in the same handlers, on stderr and in the log file if one is named, and every finished line passes
through redaction there: also a library's, also a traceback. Nothing is ever logged to stdout, which belongs
to a command's answer. What to log, and when, is the business of the code that knows.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import MutableMapping
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from types import TracebackType
from typing import Any, TextIO

import structlog

from market_pipelines.redaction import redact
from market_pipelines.settings import LogFormat, Settings, SettingsError

_CHATTY = {
    "urllib3": logging.WARNING,
    "alembic": logging.WARNING,
    "asyncio": logging.WARNING,
    # They tell of each attempt to reach a server that is gone and of each rollback there; whoever asked is told once.
    "psycopg": logging.ERROR,
    "psycopg.pool": logging.ERROR,
    # Attempts that pass by themselves are counted in the result.
    "stamina": logging.ERROR,
}
"""Libraries that say more than a person wants to hear, unless everything is asked for."""


class _Redacted(logging.Formatter):
    """Redacts the finished line, so nothing added on the way (arguments, traceback, stack) slips past."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return redact(self._inner.format(record))


def configure_logs(settings: Settings, *, stream: TextIO | None = None) -> None:
    """Everything logged from here on goes to stderr (or `stream`) and to the log file, if one is named."""
    stream = stream if stream is not None else sys.stderr
    level = getattr(logging, settings.log_level)
    handlers: list[logging.Handler] = [_handler(logging.StreamHandler(stream), settings, stream.isatty())]
    if settings.market_data_log_file is not None:
        path = settings.market_data_log_file.expanduser()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Watched: logrotate may move the file away, and the next line then opens a new one.
            to_file = WatchedFileHandler(path, encoding="utf-8")
        except OSError as error:
            raise SettingsError(
                f"MARKET_DATA_LOG_FILE: '{path}' cannot be written ({error.strerror}); "
                "accepted: a file in a folder that this user may write"
            ) from None
        handlers.append(_handler(to_file, settings, False))

    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    for name, quiet in _CHATTY.items():
        logging.getLogger(name).setLevel(max(level, quiet) if level > logging.DEBUG else level)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    sys.excepthook = _log_what_ended_the_process
    threading.excepthook = _log_what_ended_a_thread


def _stamp(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The moment of the call: a library's record keeps its own, however many handlers format it."""
    record = event.get("_record")
    moment = datetime.fromtimestamp(record.created, UTC) if record is not None else datetime.now(UTC)
    event["at"] = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return event


_SHARED: list[structlog.typing.Processor] = [
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.stdlib.PositionalArgumentsFormatter(),
    _stamp,
    structlog.processors.StackInfoRenderer(),
]


def _handler(handler: logging.Handler, settings: Settings, colors: bool) -> logging.Handler:
    if settings.log_format is LogFormat.JSON:
        finish: list[structlog.typing.Processor] = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str, ensure_ascii=False),
        ]
    else:
        finish = [_without_locals(colors)]
    handler.setFormatter(
        _Redacted(
            structlog.stdlib.ProcessorFormatter(
                foreign_pre_chain=[*_SHARED, structlog.stdlib.ExtraAdder()],
                processors=[_drop_structlog_keys, *finish],
            )
        )
    )
    return handler


def _without_locals(colors: bool) -> structlog.dev.ConsoleRenderer:
    """Plain tracebacks: the pretty ones print local variables, which may be a key in pieces."""
    return structlog.dev.ConsoleRenderer(
        colors=colors, timestamp_key="at", exception_formatter=structlog.dev.plain_traceback
    )


def _drop_structlog_keys(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.pop("_record", None)
    event.pop("_from_structlog", None)
    return event


def _log_what_ended_the_process(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An uncaught error passes the same redaction as everything else before it is seen."""
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("market_pipelines").critical("Ended by an error", exc_info=(kind, error, trace))


def _log_what_ended_a_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None:
        _log_what_ended_the_process(ended.exc_type, ended.exc_value, ended.exc_traceback)
