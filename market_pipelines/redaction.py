"""The one place that decides what a secret is and removes it from text.

Everything that leaves the process (logs, metadata, error messages, the ledger, the archive's requests) passes
through `redact`. Secrets are registered when settings are read; parameters that carry keys are known by name.
What a secret means, where it comes from and who may use it does not belong here.
"""

import re
import threading
from dataclasses import dataclass
from typing import Self

MASK = "[redacted]"

_TELLTALE_NAME = r"(?:api[_-]?key|access[_-]?token|token|crumb|password|passwd|secret|authorization)"
_SECRET_PARAMETER = re.compile(
    rf"(?i)({_TELLTALE_NAME}(?:\\?[\"'])?(?:\s*[=:]\s*|%3D)(?:(?:bearer|basic)\s+)?)"
    r"(?:(?P<quote>\\?[\"'])(?P<quoted>(?:(?!(?P=quote))[^\r\n])*)(?P=quote)|(?P<bare>[^\s&\"'<>,;)\\]+))"
)
_URL_PASSWORD = re.compile(r"(?i)([a-z][a-z0-9+.-]*://[^\s:/@]*:)([^\s/]+)(@)")

PUBLIC_KEYS = frozenset({"demo", "market_pipelines", "postgres", "simulated", "test"})
"""Keys and passwords that manuals (ours too) print: they protect nothing, and each is a word that messages need.
Where their place gives them away they are removed all the same."""

SHORTEST_SECRET = 4
"""Shorter secrets are removed only where their place gives them away (`password=…`, an address): replaced
everywhere they would take letters out of every second word and so tell what they are."""


@dataclass(frozen=True, slots=True)
class _Secret:
    """One registered secret, ready to be found in any mix of the encodings that text goes through."""

    value: str
    literal: str
    """The longest run of letters and digits: no encoding changes it, so text without it needs no search."""
    pattern: re.Pattern[str]
    pattern_in_bytes: re.Pattern[bytes]

    @classmethod
    def of(cls, value: str) -> Self:
        pattern = "".join(_any_encoding(character) for character in value)
        return cls(
            value=value,
            literal=max(re.findall(r"[A-Za-z0-9]*", value), key=len),
            pattern=re.compile(pattern),
            pattern_in_bytes=re.compile(pattern.encode("utf-8", "surrogatepass")),
        )


def _any_encoding(character: str) -> str:
    """Matches a character as it is, percent-encoded (also twice), escaped in JSON and escaped by `repr`."""
    if character.isascii() and character.isalnum():
        return character
    encoded = character.encode("utf-8", "surrogatepass")
    percent = "".join(rf"%(?:25)*(?i:{byte:02x})" for byte in encoded)
    units = character.encode("utf-16-be", "surrogatepass")
    json_escape = "".join(rf"\\+u(?i:{units[i : i + 2].hex()})" for i in range(0, len(units), 2))
    # The escaped form first: of a backslash's own two forms the short one would leave half of the long one.
    # The percent-encoded one before the plain one: of an encoded percent sign the plain one would leave "25".
    choices = [rf"\\+{re.escape(character)}", percent, re.escape(character), json_escape]
    short = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f"}.get(character)
    if short:
        choices.append(rf"\\+{short}")
    if character == " ":
        choices.append(r"\+")
    if ord(character) <= 0xFF:
        choices.append(rf"\\+x(?i:{ord(character):02x})")
    elif ord(character) > 0xFFFF:
        choices.append(rf"\\+U(?i:{ord(character):08x})")
    return f"(?:{'|'.join(choices)})"


_lock = threading.Lock()
_known: tuple[_Secret, ...] = ()


def register_secret(value: str) -> None:
    """From now on this text is removed wherever it appears, however it is encoded there."""
    global _known  # noqa: PLW0603  (the one registry of the process)
    if len(value) < SHORTEST_SECRET or value in PUBLIC_KEYS:
        return
    with _lock:
        if all(secret.value != value for secret in _known):
            _known = (*_known, _Secret.of(value))


def redact(text: str) -> str:
    # What is masked already stays as it is, so that redacting twice is redacting once.
    text = MASK.join(_without_known(part) for part in text.split(MASK)) if _known else text
    text = _SECRET_PARAMETER.sub(_masked_parameter, text)
    return _URL_PASSWORD.sub(rf"\g<1>{MASK}\g<3>", text)


def redact_bytes(body: bytes) -> bytes:
    """Removes registered secrets from an answer (a provider may echo a key); the rest stays as it came."""
    spans = [
        found.span()
        for secret in _known
        if secret.literal.encode() in body
        for found in secret.pattern_in_bytes.finditer(body)
    ]
    if not spans:
        return body
    mask, pieces, end = MASK.encode(), [], 0
    for start, stop in _merged(spans):
        pieces += [body[end:start], mask]
        end = stop
    return b"".join([*pieces, body[end:]])


def _without_known(text: str) -> str:
    spans = [found.span() for secret in _known if secret.literal in text for found in secret.pattern.finditer(text)]
    pieces, end = [], 0
    for start, stop in _merged(spans):
        pieces += [text[end:start], MASK]
        end = stop
    return "".join([*pieces, text[end:]])


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Overlapping finds as one, so that of two secrets sharing letters neither leaves a rest behind."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def _masked_parameter(found: re.Match[str]) -> str:
    quote = found["quote"] or ""
    return f"{found[1]}{quote}{MASK}{quote}"
