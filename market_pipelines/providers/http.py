"""The one place that opens a socket to a provider, and the one place that attaches a secret.

It answers with what came back or with why nothing did, and never raises for the network's sake. What the
bytes mean is the adapters' business; how often to ask again is the caller's.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from http.cookiejar import DefaultCookiePolicy
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Any, Self
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from market_pipelines.providers.protocol import Answer, Call
from market_pipelines.redaction import MASK, redact

MAX_BODY = 64 * 1024 * 1024
MAX_REDIRECTS = 3
POOL_CONNECTIONS = 16
_CHUNK = 256 * 1024
_REDIRECTS = (301, 302, 303, 307, 308)
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect, between two reads, and for everything together, however the server dribbles."""

    connect: float = 5.0
    read: float = 15.0
    total: float = 30.0


@cache
def default_user_agent() -> str:
    """Read once: every look of every sensor has a client of its own."""
    try:
        return f"market_pipelines/{version('market_pipelines')}"
    except PackageNotFoundError:
        return "market_pipelines"


def origin(url: str) -> str:
    """`scheme://host:port` in one spelling, or empty where the address has none."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.hostname}:{port}" if parts.hostname and port else ""


class HttpClient:
    """One per process, for every provider and thread: connections are pooled by host, cookies are refused."""

    def __init__(self, timeouts: Timeouts = Timeouts(), user_agent: str = "", max_body: int = MAX_BODY) -> None:
        self._timeouts = timeouts
        self._max_body = max_body
        self._headers = {
            "User-Agent": user_agent or default_user_agent(),
            "Accept": "*/*",
            "Accept-Encoding": "gzip, deflate",
        }
        self._outside = _session(trust_environment=True)
        # An operator's proxy has no business between this process and its own machine.
        self._loopback = _session(trust_environment=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._outside.close()
        self._loopback.close()

    def get(self, call: Call) -> Answer:
        received = _Received()
        begun = time.monotonic()
        home = origin(call.url)
        if not home:
            return self._answer(received, call, begun, f"'{call.url}' is not the address of a web server", sent=False)
        params = dict(call.params)
        headers = {**self._headers, **call.headers}
        if call.secret_params or call.secret_headers:
            if origin(call.secret_origin) != home:
                return self._answer(
                    received,
                    call,
                    begun,
                    f"not asked: the key belongs to {call.secret_origin or 'no address'}, not to {home}",
                    sent=False,
                )
            params |= {name: secret.get_secret_value() for name, secret in call.secret_params.items()}
            headers |= {name: secret.get_secret_value() for name, secret in call.secret_headers.items()}
        sent = True
        try:
            with _deadline(self._timeouts.total) as deadline:
                self._exchange(call, params, headers, home, deadline, received)
                failure = received.shortfall()
        except _TooLarge:
            failure = f"the body is larger than {self._max_body:,} bytes"
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            failure = self._explain(error, home, received, deadline)
            sent = not _never_connected(error)
        return self._answer(received, call, begun, failure, sent=sent)

    def _exchange(
        self,
        call: Call,
        params: Mapping[str, str],
        headers: Mapping[str, str],
        home: str,
        deadline: _Deadline,
        received: _Received,
    ) -> None:
        url, query = call.url, params
        session = self._loopback if _is_loopback(urlsplit(url).hostname or "") else self._outside
        for _ in range(MAX_REDIRECTS + 1):
            with session.get(
                url,
                params=query,
                headers=headers,
                timeout=(self._timeouts.connect, self._timeouts.read),
                allow_redirects=False,
                stream=True,
            ) as response:
                location = response.headers.get("location")
                target = urljoin(url, location or "")
                if response.status_code in _REDIRECTS and location and origin(target) == home:
                    url, query = target, {}
                    continue
                self._read(response, deadline, received)
                return
        raise requests.TooManyRedirects(f"more than {MAX_REDIRECTS} redirects")

    def _read(self, response: requests.Response, deadline: _Deadline, received: _Received) -> None:
        raw = response.raw
        received.status = response.status_code
        received.headers = {name.lower(): value for name, value in response.headers.items()}
        # read1 returns with what one packet brought, so the limits are looked at while a body dribbles in.
        while chunk := raw.read1(_CHUNK, decode_content=True):
            received.body += chunk
            if len(received.body) > self._max_body:
                raise _TooLarge
            if deadline.passed:
                raise TimeoutError
        received.wire_bytes = raw.tell()
        if deadline.passed:
            # A cut connection reads like an end where no length was announced.
            raise TimeoutError

    def _explain(self, error: Exception, home: str, received: _Received, deadline: _Deadline) -> str:
        if deadline.passed:
            what = f"no complete answer within {self._timeouts.total:g} s"
        elif isinstance(error, requests.ConnectTimeout):
            what = f"no connection within {self._timeouts.connect:g} s"
        elif isinstance(error, requests.ReadTimeout | urllib3.exceptions.ReadTimeoutError | TimeoutError):
            what = f"silence for {self._timeouts.read:g} s"
        elif received.status:
            what = f"the answer broke off after {len(received.body):,} bytes: {_innermost(error)}"
        elif isinstance(error, requests.exceptions.SSLError):
            what = f"no trusted connection: {_innermost(error)}"
        elif isinstance(error, requests.ConnectionError):
            what = f"no connection: {_innermost(error)}"
        else:
            what = f"no usable answer: {_innermost(error)}"
        return f"{home}: {what}"

    def _answer(self, received: _Received, call: Call, begun: float, failure: str, *, sent: bool = True) -> Answer:
        carried = (*call.secret_params.values(), *call.secret_headers.values())
        secrets = [secret.get_secret_value() for secret in carried]
        return Answer(
            status=0 if failure else received.status,
            body=bytes(received.body),
            headers={name: _without(value, secrets) for name, value in received.headers.items()},
            received_at=datetime.now(UTC),
            seconds=time.monotonic() - begun,
            failure=_without(failure, secrets),
            endpoint=call.endpoint,
            sent=sent,
        )


def _never_connected(error: BaseException) -> bool:
    """Whether no connection came about, so that nobody can have counted the request."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, requests.ConnectTimeout | urllib3.exceptions.NewConnectionError):
            return True
        following = seen.__cause__ or seen.__context__ or getattr(seen, "reason", None)
        inner = seen.args[0] if seen.args and isinstance(seen.args[0], BaseException) else None
        seen = following if isinstance(following, BaseException) else inner
    return False


class _TooLarge(Exception):
    """The body passed the cap."""


class _Received:
    """What has arrived so far: kept when the exchange breaks off, because half an answer is evidence too."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.wire_bytes = 0

    @property
    def framed(self) -> bool:
        return "content-length" in self.headers or "transfer-encoding" in self.headers

    def shortfall(self) -> str:
        """Why this body is not whole, where the announced length says so."""
        if not self.framed and not self.body and self.status == 200:
            return "the connection ended before a body"
        announced = self.headers.get("content-length", "")
        if not announced.isascii() or not announced.isdigit() or self.status in (204, 304):
            return ""
        if self.wire_bytes == int(announced):
            return ""
        return f"the body has {self.wire_bytes:,} bytes where {int(announced):,} were announced"


class _Deadline:
    """Ends an exchange from outside: a server that sends a byte a second never runs into a read timeout."""

    def __init__(self, seconds: float) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._ends = time.monotonic() + seconds
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self._ends

    def start(self) -> None:
        self._timer.start()

    def stop(self) -> None:
        self._timer.cancel()
        with self._lock:
            self._socket = None

    def watch(self, connected: socket.socket | None) -> None:
        with self._lock:
            self._socket = connected
        if self.passed:
            self._cut()

    def _cut(self) -> None:
        with self._lock:
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)


_current = threading.local()


@contextmanager
def _deadline(seconds: float) -> Iterator[_Deadline]:
    """The deadline of whatever this thread asks for until the block ends."""
    deadline = _Deadline(seconds)
    _current.deadline = deadline
    deadline.start()
    try:
        yield deadline
    finally:
        deadline.stop()
        _current.deadline = None


def _watch(connected: Any) -> None:
    deadline: _Deadline | None = getattr(_current, "deadline", None)
    if deadline is not None:
        deadline.watch(connected)


class _WatchedHttpConnection(HTTPConnection):
    def getresponse(self) -> Any:
        _watch(self.sock)
        return super().getresponse()


class _WatchedHttpsConnection(HTTPSConnection):
    def getresponse(self) -> Any:
        _watch(self.sock)
        return super().getresponse()


class _WatchedHttpPool(HTTPConnectionPool):
    ConnectionCls = _WatchedHttpConnection


class _WatchedHttpsPool(HTTPSConnectionPool):
    ConnectionCls = _WatchedHttpsConnection


_WATCHED_POOLS = {"http": _WatchedHttpPool, "https": _WatchedHttpsPool}


class _WatchedAdapter(HTTPAdapter):
    """requests' adapter, on connections that the deadline can end while they wait for headers."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _WATCHED_POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _WATCHED_POOLS
        return manager


class _PlainSession(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None, always: requests would read the body to prepare a redirect that it is not asked to follow."""


def _session(*, trust_environment: bool) -> requests.Session:
    session = _PlainSession()
    session.trust_env = trust_environment
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    adapter = _WatchedAdapter(pool_connections=8, pool_maxsize=POOL_CONNECTIONS, max_retries=0)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _innermost(error: BaseException) -> str:
    """The cause that a person understands, below the layers that wrapped it."""
    while True:
        wrapped = error.__cause__ or error.__context__ or getattr(error, "reason", None)
        if not isinstance(wrapped, BaseException):
            break
        error = wrapped
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _without(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        if secret:
            text = text.replace(secret, MASK)
    return redact(text)
