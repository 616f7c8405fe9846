"""Sets of positions in few bits: which of n numbers are stored.

As a bit for each of the n, or by Elias and Fano's code (Elias 1974; Vigna 2013), about 2 + log2(n / k) bits for each of
k positions: its low bits as they are, and the high ones as the gaps between ones. Whichever is smaller.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rpg_bench.errors import InvalidInput

Bytes = NDArray[np.uint8]


def encoded(positions: NDArray[np.int64], universe: int) -> Bytes:
    """The bytes of ascending positions in [0, universe)."""
    count = len(positions)
    if _elias_fano_size(count, universe) >= _bitmap_size(universe):
        bits = np.zeros(universe, np.bool_)
        bits[positions] = True
        return np.packbits(bits, bitorder="little")
    width = _low_bits(count, universe)
    low = (positions[:, None] >> np.arange(width)) & 1
    high = np.zeros(_high_size(count, universe), np.bool_)
    high[(positions >> width) + np.arange(count)] = True
    return np.concatenate([np.packbits(low.astype(np.bool_).reshape(-1), bitorder="little"), _packed(high)])


def decoded(content: Bytes, count: int, universe: int, name: str) -> NDArray[np.int64]:
    """What `encoded` made bytes of: `count` positions in [0, universe), ascending.

    Raises:
        InvalidInput: they are not the bytes of that many; `name` says of what.
    """
    wrong = InvalidInput(f"file: the index of {name} is not one of {count:,} of {universe:,} numbers; it is damaged")
    if not 0 <= count <= universe or len(content) != size(count, universe):
        raise wrong
    if _elias_fano_size(count, universe) >= _bitmap_size(universe):
        bits = np.unpackbits(content, bitorder="little")
        if bits[universe:].any():
            raise wrong
        positions = np.flatnonzero(bits[:universe]).astype(np.int64)
    else:
        width = _low_bits(count, universe)
        split = -(-count * width // 8)
        low = np.unpackbits(content[:split], bitorder="little")[: count * width].reshape(count, width)
        high = np.flatnonzero(np.unpackbits(content[split:], bitorder="little")).astype(np.int64)
        if len(high) != count:
            raise wrong
        positions = (high - np.arange(count) << width) + (low.astype(np.int64) << np.arange(width)).sum(1)
    if len(positions) != count or (count and (positions[-1] >= universe or (np.diff(positions) <= 0).any())):
        raise wrong
    return positions


def size(count: int, universe: int) -> int:
    """Bytes of an index."""
    return min(_elias_fano_size(count, universe), _bitmap_size(universe))


def _bitmap_size(universe: int) -> int:
    return -(-universe // 8)


def _elias_fano_size(count: int, universe: int) -> int:
    return -(-count * _low_bits(count, universe) // 8) + -(-_high_size(count, universe) // 8)


def _low_bits(count: int, universe: int) -> int:
    return max(0, math.floor(math.log2(universe / count))) if count else 0


def _high_size(count: int, universe: int) -> int:
    """Bits: a one for each position, a zero for each value of the high bits."""
    return count + (universe >> _low_bits(count, universe)) + 1 if count else 0


def _packed(bits: NDArray[np.bool_]) -> Bytes:
    return np.packbits(bits, bitorder="little")
