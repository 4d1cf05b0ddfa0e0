"""What a symbol's values usually are around a row: the middle of the nearest fifty, and how far half of them stray.

Kept for each symbol, looked at for many rows at once. Where a symbol has fifty rows in one lot, they are judged by
blocks of fifty among themselves; where it has fewer, by the last fifty before them. Of those, the middle is worked
out anew after every ten. So the windows do not slide row by row as the textbook's do: that would cost more than
everything else that is done to a tick. Symbols beyond `MOST_SYMBOLS` are not judged.
"""

from __future__ import annotations

import numpy as np

from market_pipelines.market.columns import Codes, Flags, Floats, Integers, grown

NEAR = 50
REFRESHED_AFTER = 10
MOST_SYMBOLS = 50_000
_LOW, _HIGH = NEAR // 4, NEAR - 1 - NEAR // 4


class Neighbours:
    def __init__(self) -> None:
        self._ring = np.full((0, NEAR), np.nan)
        self._written: Integers = np.zeros(0, dtype=np.int64)
        self._fresh: Integers = np.zeros(0, dtype=np.int64)
        """Rows since the middle was worked out."""
        self._middle: Floats = np.full(0, np.nan)
        self._width: Floats = np.full(0, np.nan)

    def around(self, codes: Codes, values: Floats) -> tuple[Floats, Floats]:
        """The middle around each row and half the distance between the quartiles, which for normal values is the
        median deviation from the median: NaN where not enough is known. Rows come in the order of their symbols, and
        of each symbol in the order of time."""
        count = len(codes)
        middle, width = np.full(count, np.nan), np.full(count, np.nan)
        if not count:
            return middle, width
        size = min(int(codes[-1]) + 1, MOST_SYMBOLS)
        self._grow(size)
        starts = np.flatnonzero(np.append(True, codes[1:] != codes[:-1]))
        lengths = np.diff(np.append(starts, count))
        symbols = codes[starts]
        judged = symbols < size
        starts, lengths, symbols = starts[judged], lengths[judged], symbols[judged]
        many = lengths >= NEAR
        rank = np.arange(count) - np.repeat(starts, lengths) if judged.all() else _ranks(count, starts, lengths)
        few = _spread(~many, starts, lengths, count)
        known = codes[few]
        middle[few], width[few] = self._middle[known], self._width[known]
        if many.any():
            self._by_blocks(values, starts[many], lengths[many], symbols[many], middle, width)
        self._remember(codes, values, rank, symbols, lengths)
        return middle, width

    def _by_blocks(
        self, values: Floats, starts: Integers, lengths: Integers, symbols: Codes, middle: Floats, width: Floats
    ) -> None:
        blocks = -(-lengths // NEAR)
        total = int(blocks.sum())
        group = np.repeat(np.arange(len(starts)), blocks)
        number = np.arange(total) - np.repeat(np.cumsum(blocks) - blocks, blocks)
        begins = starts[group] + np.minimum(number * NEAR, lengths[group] - NEAR)
        rows = begins[:, None] + np.arange(NEAR)
        ordered = np.sort(values[rows], axis=1)
        middles, widths = _of_sorted(ordered)
        # A symbol's last block reaches back into the one before it; its own rows are the ones written last.
        middle[rows], width[rows] = middles[:, None], widths[:, None]
        last = np.cumsum(blocks) - 1
        self._middle[symbols], self._width[symbols] = middles[last], widths[last]

    def _remember(self, codes: Codes, values: Floats, rank: Integers, symbols: Codes, lengths: Integers) -> None:
        length_of = np.zeros(len(self._written), dtype=np.int64)
        length_of[symbols] = lengths
        judged = codes < len(self._written)
        kept = np.flatnonzero(judged)
        kept = kept[rank[kept] >= length_of[codes[kept]] - NEAR]
        place = (self._written[codes[kept]] + rank[kept]) % NEAR
        self._ring[codes[kept], place] = values[kept]
        self._written[symbols] += lengths
        self._fresh[symbols] = np.where(lengths >= NEAR, 0, self._fresh[symbols] + lengths)
        due = symbols[(self._written[symbols] >= NEAR) & (self._fresh[symbols] >= REFRESHED_AFTER)]
        if len(due):
            self._middle[due], self._width[due] = _of_sorted(np.sort(self._ring[due], axis=1))
            self._fresh[due] = 0

    def _grow(self, size: int) -> None:
        self._ring = grown(self._ring, size, np.nan)
        self._written, self._fresh = grown(self._written, size, 0), grown(self._fresh, size, 0)
        self._middle, self._width = grown(self._middle, size, np.nan), grown(self._width, size, np.nan)


def _of_sorted(ordered: Floats) -> tuple[Floats, Floats]:
    middle: Floats = (ordered[:, NEAR // 2 - 1] + ordered[:, NEAR // 2]) / 2
    width: Floats = (ordered[:, _HIGH] - ordered[:, _LOW]) / 2
    return middle, width


def _ranks(count: int, starts: Integers, lengths: Integers) -> Integers:
    """Of each row among those of its symbol; of symbols that are not judged, nothing that means anything."""
    rank = np.zeros(count, dtype=np.int64)
    rank[np.repeat(starts, lengths) + _within(lengths)] = _within(lengths)
    return rank


def _within(lengths: Integers) -> Integers:
    found: Integers = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return found


def _spread(some: Flags, starts: Integers, lengths: Integers, count: int) -> Flags:
    """The rows of some of the symbols."""
    rows = np.zeros(count, dtype=np.bool_)
    rows[np.repeat(starts[some], lengths[some]) + _within(lengths[some])] = True
    return rows
