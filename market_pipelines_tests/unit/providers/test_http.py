import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from market_pipelines.providers.http import HttpClient, Timeouts, origin
from market_pipelines.providers.protocol import Answer, Call
from market_pipelines.redaction import MASK

KEY = "s3cr3t-unregistered-key"
QUICK = Timeouts(connect=1.0, read=0.3, total=0.8)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        status, headers, body = 200, {"X-Odd-Name": "yes"}, b""
        if parts.path == "/echo":
            body = json.dumps([parse_qs(parts.query), dict(self.headers.items())]).encode()
        else:
            status, headers, body = ANSWERS[parts.path]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


ANSWERS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "/teapot": (418, {"Retry-After": "7"}, b"short and stout"),
    "/gzip": (200, {"Content-Encoding": "gzip"}, gzip.compress(b"a" * 100_000)),
    "/broken-gzip": (200, {"Content-Encoding": "gzip"}, b"not gzip at all"),
    "/cookie": (200, {"Set-Cookie": "a=b; Path=/"}, b""),
    "/near": (302, {"Location": "/echo?from=near"}, b""),
    "/far": (302, {"Location": "http://elsewhere.test/consent?apikey=" + KEY}, b"moved"),
    "/round": (302, {"Location": "/round?again"}, b""),
    "/large": (200, {}, b"x" * 300_000),
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@contextmanager
def raw_server(talk: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """A server that says exactly what `talk` says, and stops when the block ends."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                try:
                    talk(connection, over)
                except OSError:
                    return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        over.set()
        thread.join()


def get(url: str, client: HttpClient | None = None, **facts: object) -> Answer:
    call = Call("anybody", "test", url, **facts)  # type: ignore[arg-type]  # the test names fields of Call
    with client or HttpClient(QUICK) as asked:
        return asked.get(call)


def test_parameters_and_headers_are_sent_and_the_body_comes_back(server: str) -> None:
    answer = get(f"{server}/echo", params={"a": "1 2", "b": "^x"}, headers={"X-Own": "mine"})
    query, headers = json.loads(answer.body)
    assert answer.status == 200
    assert answer.failure == ""
    assert query == {"a": ["1 2"], "b": ["^x"]}
    assert headers["X-Own"] == "mine"
    assert headers["User-Agent"].startswith("market_pipelines")
    assert headers["Accept"] == "*/*"
    assert answer.headers["x-odd-name"] == "yes"
    assert answer.received_at.tzinfo is not None


def test_a_bad_status_is_an_answer_like_any_other(server: str) -> None:
    answer = get(f"{server}/teapot")
    assert (answer.status, answer.body, answer.failure) == (418, b"short and stout", "")
    assert answer.headers["retry-after"] == "7"


def test_a_compressed_body_arrives_unpacked(server: str) -> None:
    answer = get(f"{server}/gzip")
    assert (answer.status, answer.body) == (200, b"a" * 100_000)


def test_a_body_that_cannot_be_unpacked_is_a_failure(server: str) -> None:
    answer = get(f"{server}/broken-gzip")
    assert answer.status == 0
    assert answer.failure


def test_cookies_are_not_kept(server: str) -> None:
    with HttpClient(QUICK) as client:
        client.get(Call("anybody", "test", f"{server}/cookie"))
        echo = client.get(Call("anybody", "test", f"{server}/echo"))
    assert "Cookie" not in json.loads(echo.body)[1]


def test_a_secret_goes_to_the_configured_host(server: str) -> None:
    answer = get(f"{server}/echo", secret_params={"apikey": SecretStr(KEY)}, secret_origin=f"{server}/some/path")
    assert json.loads(answer.body)[0] == {"apikey": [KEY]}


@pytest.mark.parametrize("meant_for", ["", "http://127.0.0.1:1", "https://127.0.0.1", "http://elsewhere.test"])
def test_a_secret_goes_to_no_other_host(server: str, meant_for: str) -> None:
    answer = get(f"{server}/echo", secret_params={"apikey": SecretStr(KEY)}, secret_origin=meant_for)
    assert answer.status == 0
    assert "the key belongs to" in answer.failure
    assert KEY not in repr(answer)


def test_a_redirect_on_the_same_host_is_followed_without_the_secret(server: str) -> None:
    answer = get(f"{server}/near", secret_params={"apikey": SecretStr(KEY)}, secret_origin=server)
    assert json.loads(answer.body)[0] == {"from": ["near"]}


def test_a_redirect_to_another_host_is_handed_back(server: str) -> None:
    answer = get(f"{server}/far", secret_params={"apikey": SecretStr(KEY)}, secret_origin=server)
    assert (answer.status, answer.body) == (302, b"moved")
    assert answer.headers["location"].startswith("http://elsewhere.test/consent")
    assert KEY not in repr(answer)
    assert MASK in answer.headers["location"]


def test_redirects_in_a_circle_end(server: str) -> None:
    answer = get(f"{server}/round")
    assert answer.status == 0
    assert "redirects" in answer.failure


def test_a_body_beyond_the_cap_is_refused(server: str) -> None:
    answer = get(f"{server}/large", HttpClient(QUICK, max_body=100_000))
    assert answer.status == 0
    assert "larger than 100,000 bytes" in answer.failure


def test_nobody_listening_is_a_failure_with_the_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    answer = get(
        f"http://127.0.0.1:{port}/x", secret_params={"apikey": SecretStr(KEY)}, secret_origin=f"http://127.0.0.1:{port}"
    )
    assert answer.status == 0
    assert "Connection refused" in answer.failure
    assert str(port) in answer.failure
    assert KEY not in answer.failure


@pytest.mark.parametrize("url", ["", "nonsense", "http://", "ftp://x.test/", "http://[::1", "http://x.test:port/"])
def test_an_address_that_is_none_is_a_failure(url: str) -> None:
    answer = get(url)
    assert answer.status == 0
    assert answer.failure


def test_a_silent_server_is_a_failure() -> None:
    with raw_server(lambda _, over: wait(over)) as url:
        answer = get(url)
    assert answer.status == 0
    assert "silence for 0.3 s" in answer.failure


def wait(over: threading.Event) -> None:
    over.wait(5)


def dribble(start: bytes, drop: bytes) -> Callable[[socket.socket, threading.Event], None]:
    def talk(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(start)
        while not over.wait(0.05):
            connection.sendall(drop)

    return talk


@pytest.mark.parametrize(
    ("start", "drop"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"X-Slow: yes\r\n"),
        (b"", b"H"),
    ],
    ids=["body", "chunks", "headers", "status line"],
)
def test_a_dribbling_server_is_cut_at_the_deadline(start: bytes, drop: bytes) -> None:
    begun = time.monotonic()
    with raw_server(dribble(start, drop)) as url:
        answer = get(url)
    assert answer.status == 0
    assert "within 0.8 s" in answer.failure
    assert 0.7 < time.monotonic() - begun < 3.0


def test_a_deadline_that_passed_before_the_connection_stood_still_ends_it() -> None:
    with raw_server(dribble(b"", b"H")) as url:
        answer = get(url, HttpClient(Timeouts(connect=1.0, read=1.0, total=0.0)))
    assert answer.status == 0
    assert "within 0 s" in answer.failure


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\nonly this",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 500\r\n\r\n" + gzip.compress(b"only this"),
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"garbage\r\n\r\n",
        b"",
    ],
    ids=["length", "within a chunk", "between chunks", "gzip", "headers", "no HTTP", "nothing"],
)
def test_a_connection_closed_early_is_a_failure(sent: bytes) -> None:
    with raw_server(lambda connection, _: connection.sendall(sent)) as url:
        answer = get(url)
    assert answer.status == 0
    assert answer.failure


def test_a_body_may_end_with_the_connection() -> None:
    with raw_server(lambda connection, _: connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nrows")) as url:
        answer = get(url)
    assert (answer.status, answer.body) == (200, b"rows")


def test_many_threads_share_one_client(server: str) -> None:
    bodies: list[bytes] = []
    with HttpClient(Timeouts()) as client:

        def ask(number: int) -> None:
            answer = client.get(Call("anybody", "test", f"{server}/echo", params={"n": str(number)}))
            bodies.append(answer.body)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(int(json.loads(body)[0]["n"][0]) for body in bodies) == list(range(24))


def test_no_thread_is_left_behind(server: str) -> None:
    before = threading.active_count()
    with HttpClient(Timeouts()) as client:
        for _ in range(5):
            client.get(Call("anybody", "test", f"{server}/large"))
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.join(1.0)
    assert threading.active_count() <= before + 1


def test_origins_are_compared_in_one_spelling() -> None:
    assert origin("https://Example.test/a?b") == origin("https://example.test:443") == "https://example.test:443"
    assert origin("http://example.test") != origin("https://example.test")
    assert origin("file:///etc/passwd") == ""


def test_a_request_that_never_left_says_so() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with HttpClient() as http:
        assert not http.get(Call("p", "e", nobody)).sent
        assert not http.get(Call("p", "e", "no address")).sent
        elsewhere = Call("p", "e", nobody, secret_params={"k": SecretStr("secret")}, secret_origin="https://other.test")
        assert not http.get(elsewhere).sent
