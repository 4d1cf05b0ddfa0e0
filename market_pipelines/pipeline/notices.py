"""How a notification reads, and its way out through Apprise. Whom to tell of what, and when, is decided elsewhere.

An address carries tokens: outside the settings only its fingerprint is seen, and what Apprise logs while it sends
is kept from the logs, because at its most talkative it logs whole addresses.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from market_pipelines.redaction import redact
from market_pipelines.settings import Settings, notification_addresses
from market_pipelines.store.incidents import Incident, IncidentSeverity, NoticeKind

CONNECT_SECONDS = 5.0
READ_SECONDS = 10.0
WHOLE_SECONDS = 25.0
"""For one message to one target, with whatever repetitions its address asks Apprise for."""
LINES = 25
"""Of a message about many incidents."""
_WORDS = 200


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    """Kind of service and a fingerprint."""
    address: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Message:
    title: str
    body: str
    kind: NoticeKind
    severity: IncidentSeverity


def targets_of(settings: Settings) -> tuple[Target, ...]:
    if settings.notify_urls is None:
        return ()
    addresses = dict.fromkeys(notification_addresses(settings.notify_urls.get_secret_value()))
    return tuple(
        Target(f"{one.partition('://')[0].lower()}-{hashlib.sha256(one.encode()).hexdigest()[:12]}", one)
        for one in addresses
    )


def written(kind: NoticeKind, incidents: Sequence[Incident], *, simulated: bool) -> Message:
    """One message about one incident or about all of a batch."""
    worst = (
        IncidentSeverity.ERROR
        if any(one.severity is IncidentSeverity.ERROR for one in incidents)
        else IncidentSeverity.WARNING
    )
    mark = " (simulated)" if simulated else ""
    recovered = kind is NoticeKind.RECOVERED
    if len(incidents) == 1:
        (one,) = incidents
        title = f"recovered: {one.title}" if recovered else one.title
        lines = _about_the_end(one) if recovered else _about_the_opening(one)
    else:
        title = f"{len(incidents)} incidents are over" if recovered else f"{len(incidents)} incidents at once"
        lines = [f"- {one.title}: {_one_line(one.closing_detail if recovered else one.detail)}" for one in incidents]
        if len(lines) > LINES:
            lines = [*lines[:LINES], f"and {len(incidents) - LINES} more: market-pipelines incidents list"]
        lines.append(f"Since {_moment(min(one.opened_at for one in incidents))}")
        lines += list(dict.fromkeys(one.url for one in incidents if one.url))[:3]
    return Message(f"market_pipelines{mark}: {redact(title)}", redact("\n".join(lines)), kind, worst)


def _about_the_opening(one: Incident) -> list[str]:
    lines = [_one_line(one.detail), f"Since {_moment(one.opened_at)}"]
    if one.times_seen > 1:
        lines[-1] += f", seen {one.times_seen} times, last {_moment(one.last_seen)}"
    return [*filter(None, lines), *([one.url] if one.url else [])]


def _about_the_end(one: Incident) -> list[str]:
    ended = _moment(one.closed_at) if one.closed_at is not None else "now"
    lasted = f"From {_moment(one.opened_at)} to {ended}, seen {one.times_seen} times"
    return [*filter(None, [_one_line(one.closing_detail), lasted])]


def _one_line(text: str) -> str:
    # Redacted before it is cut, so that no half of a secret is left.
    line = " ".join(redact(text).split())
    return line if len(line) <= _WORDS else f"{line[: _WORDS - 1]}…"


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


# --- sending -------------------------------------------------------------------------------------------------

_under_way: set[str] = set()
"""Targets whose last attempt was left behind: no second one begins before it has ended, so that there is at most
one such thread a target."""
_lock = threading.Lock()


class _Heard(logging.Handler):
    """What Apprise says while it sends, for the reason; nothing of it goes on to the logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.words: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # Of whichever thread: Apprise has some of its own.
        self.words.append(record.getMessage())


def send(target: Target, message: Message, *, seconds: float = WHOLE_SECONDS) -> str:
    """Empty when the service took it, otherwise why not, in one redacted line. Never raises, never takes longer."""
    with _lock:
        if target.name in _under_way:
            return "the attempt before has not ended yet"
        _under_way.add(target.name)
    result: list[str] = []

    def attempt() -> None:
        try:
            result.append(_notified(target, message))
        except Exception as error:  # noqa: BLE001 (a plug-in of Apprise may fail in any way; the outbox has to go on)
            result.append(f"{type(error).__name__}: {error}")
        finally:
            with _lock:
                _under_way.discard(target.name)

    thread = threading.Thread(target=attempt, name=f"notify-{target.name}", daemon=True)
    thread.start()
    thread.join(seconds)
    if not result:
        return f"no answer within {seconds:.0f} s"
    return _one_line(result[0])


def _notified(target: Target, message: Message) -> str:
    import apprise  # noqa: PLC0415 (a tenth of a second, for those who are told something)

    logger = _quiet_logger()
    heard = _Heard()
    logger.addHandler(heard)
    try:
        service = apprise.Apprise.instantiate(
            target.address, asset=apprise.AppriseAsset(storage_mode=apprise.PersistentStoreMode.MEMORY)
        )
        if not isinstance(service, apprise.NotifyBase):
            return "Apprise does not know its service"
        service.socket_connect_timeout = CONNECT_SECONDS
        service.socket_read_timeout = READ_SECONDS
        to = apprise.Apprise()
        to.add(service)
        failure = {
            IncidentSeverity.ERROR: apprise.NotifyType.FAILURE,
            IncidentSeverity.WARNING: apprise.NotifyType.WARNING,
        }
        done = to.notify(
            body=message.body,
            title=message.title,
            notify_type=apprise.NotifyType.SUCCESS
            if message.kind is NoticeKind.RECOVERED
            else failure[message.severity],
            body_format=apprise.NotifyFormat.TEXT,
        )
    finally:
        logger.removeHandler(heard)
    return "" if done else "; ".join(heard.words) or "the service refused it"


def _quiet_logger() -> logging.Logger:
    """Apprise's, which says nothing to our logs: its debug lines hold whole addresses."""
    logger = logging.getLogger("apprise")
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    logging.getLogger("urllib3.connectionpool").addFilter(_without_secrets)
    return logger


def _without_secrets(record: logging.LogRecord) -> bool:
    """The path of a web hook is its token, and this library's debug lines have it; handlers that are not ours, such
    as Dagster's, do not redact."""
    record.msg, record.args = redact(record.getMessage()), ()
    return True
