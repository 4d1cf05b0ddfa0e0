import json
import re
import traceback
from collections.abc import Iterator
from urllib.parse import quote, quote_plus, urlencode

import pytest
import requests
from hypothesis import assume, example, given
from hypothesis import strategies as st

from market_pipelines import redaction
from market_pipelines.redaction import MASK, redact, redact_bytes, register_secret

secrets = st.text(st.characters(codec="utf-8"), min_size=redaction.SHORTEST_SECRET, max_size=30).filter(
    # Letters of the mask itself would be found again in the mask.
    lambda text: text.strip() == text and not set(text) & set(MASK)
)
keys = st.text("GHIJKLMNOPQRSTUVWXYZ0123456789", min_size=8, max_size=24)
surroundings = st.text(st.characters(codec="utf-8"), max_size=20)


@pytest.fixture(autouse=True)
def no_secrets_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(redaction, "_known", ())
    yield


def only(*values: str) -> None:
    """Hypothesis calls a test many times within one fixture: each example starts from an empty registry."""
    redaction._known = ()
    for value in values:
        register_secret(value)


@given(secrets, surroundings, surroundings)
def test_a_registered_secret_never_survives(secret: str, before: str, after: str) -> None:
    only(secret)
    assert secret not in redact(before + secret + after)


@given(secrets)
@example("000\\")
def test_no_encoding_hides_a_secret(secret: str) -> None:
    only(secret)
    encodings = [
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        quote(quote(secret, safe=""), safe=""),
        re.sub("%..", lambda found: found[0].lower(), quote(secret, safe="")),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        json.dumps(json.dumps(secret))[3:-3],
        repr(secret)[1:-1],
        ascii(secret)[1:-1],
    ]
    for encoded in encodings:
        assert redact(f"<{encoded}>") == f"<{MASK}>"


@given(keys)
def test_a_secret_is_removed_from_a_traceback(secret: str) -> None:
    only(secret)
    try:
        try:
            raise ConnectionError(f"GET /query?symbol=IBM&apikey={secret}")
        except ConnectionError as error:
            raise RuntimeError({"params": {"k": secret}}) from error
    except RuntimeError as error:
        text = "".join(traceback.format_exception(error))
    assert secret in text
    assert secret not in redact(text)


@given(keys)
def test_a_secret_is_removed_from_the_address_of_a_request(secret: str) -> None:
    only(secret)
    url = requests.Request("GET", "http://127.0.0.1/q", params={"k": f"{secret}/ä&"}).prepare().url
    assert url is not None
    assert secret not in redact(url)


@given(st.lists(keys, min_size=1, max_size=4), st.data())
def test_of_secrets_inside_others_none_survives(values: list[str], data: st.DataObject) -> None:
    outer = "".join(values)
    only(*values, outer)
    text = data.draw(st.permutations([*values, outer, " and "]).map("".join))
    redacted = redact(text)
    assert not any(value in redacted for value in (*values, outer))


def test_overlapping_secrets_leave_no_rest() -> None:
    only("GHIJKL", "KLMNOP")
    assert redact("x GHIJKLMNOP x") == f"x {MASK} x"


@given(st.text(), st.lists(keys, max_size=2))
def test_redacting_twice_is_redacting_once(text: str, values: list[str]) -> None:
    only(*values)
    once = redact("".join([text, *values]))
    assert redact(once) == once


@given(st.from_regex(r"(?:[A-Za-z]*[a-z](?:token|password|secret)?[:=]? ?[\"']?[a-z]*[&,;]?){1,3}", fullmatch=True))
def test_redacting_masked_parameters_again_changes_nothing(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@given(st.text(st.characters(exclude_characters="=:%"), max_size=200))
def test_ordinary_text_is_unchanged(text: str) -> None:
    only("GHIJKLMNOP0123")
    assume("GHIJKLMNOP0123" not in text)
    assert redact(text) == text


@pytest.mark.parametrize(
    "line",
    [
        "2024-01-02,187.15,188.44,183.89,185.64,82488700",
        "us: 252 sessions, 0 revisions, provider yahoo",
        "http://127.0.0.1:3000/runs/4a7c?tab=logs",
        "postgresql://postgres@/dagster?host=/run/x",
        "Error: the token was refused, ask for a new one",
    ],
)
def test_what_people_read_every_day_is_unchanged(line: str) -> None:
    assert redact(line) == line


@pytest.mark.parametrize(
    ("line", "redacted"),
    [
        ("/query?symbol=IBM&apikey=abc&x=1", f"/query?symbol=IBM&apikey={MASK}&x=1"),
        ("ALPHA_VANTAGE_API_KEY=abc", f"ALPHA_VANTAGE_API_KEY={MASK}"),
        ("Authorization: Bearer abc.def", f"Authorization: Bearer {MASK}"),
        ("Authorization: Basic dXNlcjpwdw==", f"Authorization: Basic {MASK}"),
        ('{"token": "a b c", "symbol": "IBM"}', f'{{"token": "{MASK}", "symbol": "IBM"}}'),
        ("password='a b' host=db", f"password='{MASK}' host=db"),
        ("postgresql://me:p@ss@db:5432/m", f"postgresql://me:{MASK}@db:5432/m"),
        ("crumb%3Dabc", f"crumb%3D{MASK}"),
    ],
)
def test_unregistered_secrets_are_known_by_their_place(line: str, redacted: str) -> None:
    assert redact(line) == redacted


def test_a_very_short_secret_is_removed_only_where_its_place_tells() -> None:
    register_secret("a")
    assert redact("a bar of data, password=a, postgresql://me:a@db/m") == (
        f"a bar of data, password={MASK}, postgresql://me:{MASK}@db/m"
    )


@given(keys, st.binary(max_size=30), st.binary(max_size=30))
def test_an_answer_that_echoes_the_key_is_kept_without_it(secret: str, before: bytes, after: bytes) -> None:
    only(secret)
    assert redact_bytes(before + urlencode({"k": secret}).encode() + after) == before + b"k=" + MASK.encode() + after


def test_an_answer_without_the_key_is_the_very_same() -> None:
    register_secret("GHIJKLMN")
    body = b'{"apikey": "not ours", "close": "185.64"}\r\n\xff'
    assert redact_bytes(body) is body
