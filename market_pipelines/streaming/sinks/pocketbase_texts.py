"""What PocketBase keeps as text: the ids of records and their times.

Its own dates have three digits after the point; a tick's time has nine, and so is a text of ours.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def record_id(*parts: str) -> str:
    """Fifteen letters and digits, always the same for the same thing."""
    number = int.from_bytes(hashlib.blake2b("\0".join(parts).encode(), digest_size=10).digest(), "big")
    letters = []
    for _ in range(15):
        number, digit = divmod(number, 36)
        letters.append(_DIGITS[digit])
    return "".join(letters)


def date_text(ns: int) -> str:
    if not ns:
        return ""
    at = datetime.fromtimestamp(ns // 1_000_000_000, UTC)
    return f"{at:%Y-%m-%d %H:%M:%S}.{ns % 1_000_000_000 // 1_000_000:03d}Z"


def nanoseconds_text(ns: int) -> str:
    if not ns:
        return ""
    return f"{datetime.fromtimestamp(ns // 1_000_000_000, UTC):%Y-%m-%dT%H:%M:%S}.{ns % 1_000_000_000:09d}Z"


def nanoseconds_of(text: str) -> int:
    """Raises `ValueError` for what no sink of ours has written."""
    if not text:
        return 0
    seconds, _, fraction = text.rstrip("Z").partition(".")
    return int(datetime.fromisoformat(seconds + "+00:00").timestamp()) * 1_000_000_000 + int(fraction or 0)
