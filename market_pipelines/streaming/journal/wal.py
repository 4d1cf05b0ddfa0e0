"""Whether a write-ahead log of SQLite has lost commits in its middle.

SQLite reads a log up to the first frame that is wrong and takes the rest for a commit that was never finished. So it
is, nearly always; but when bytes on the disk have changed, what follows may have been told as durable, and its
positions must not be given out again. https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

_HEADER = 32
_FRAME = 24
_BIG_ENDIAN_SUMS = 0x377F0683


def has_lost_commits(log: Path, valid: int) -> bool:
    """`valid` is how many frames SQLite believes. A commit that a killed writer had written whole, but nobody was
    told of, is none: its checksums are right."""
    try:
        with log.open("rb") as file:
            header = file.read(_HEADER)
            if len(header) < _HEADER:
                return False
            if not any(header):
                return False  # made, but never synced: nobody was told of anything in it
            magic, _, page = struct.unpack_from(">III", header)
            sums = _sums(header[:24], magic, (0, 0))
            if magic | 1 != _BIG_ENDIAN_SUMS or sums != struct.unpack_from(">II", header, 24):
                return bool(file.read(_FRAME))
            size = _FRAME + page
            if valid:
                file.seek(_HEADER + (valid - 1) * size + 16)
                sums = struct.unpack(">II", file.read(8))
            file.seek(_HEADER + valid * size)
            whole = True
            while len(frame := file.read(size)) == size and frame[8:16] == header[16:24]:
                sums = _sums(frame[24:], magic, _sums(frame[:8], magic, sums)) if whole else sums
                whole = whole and sums == struct.unpack_from(">II", frame, 16)
                if struct.unpack_from(">I", frame, 4)[0]:
                    return not whole
            return False
    except FileNotFoundError:
        return False


def _sums(data: bytes, magic: int, start: Iterable[int]) -> tuple[int, int]:
    one, two = start
    words = struct.unpack(f"{'>' if magic == _BIG_ENDIAN_SUMS else '<'}{len(data) // 4}I", data)
    for place in range(0, len(words), 2):
        one = (one + words[place] + two) & 0xFFFFFFFF
        two = (two + words[place + 1] + one) & 0xFFFFFFFF
    return one, two
