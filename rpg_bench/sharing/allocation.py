"""The balanced allocation of ring entries to slot positions, and the sign of each (RPG, section 3).

Integers only, and the same everywhere and for ever: recorded runs depend on it. The
random bits are the raw output of the counter-based generator Philox-4x64, whose stream NumPy's
documentation freezes for a given key. A permutation is a Feistel network over a grid of about
sqrt(D) x sqrt(D) cells whose round functions are tables of such bits (Luby and Rackoff 1988). It is
as random as a shuffle for this purpose, several times faster, needs no memory of its own, and any
part of it can be computed alone: by NumPy, or by a compiled kernel that is tested to be equal.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpg_bench.sharing.unpacking import native

ORDERS = ("shuffled", "sequential")
LARGEST = 2**31 - 1  # positions are int32

_ROUNDS = 8
_CHUNK = 1 << 16  # positions computed at a time, to stay in cache


def random_bits(count: int, purpose: str, identity: Mapping[str, Any]) -> NDArray[np.uint64]:
    """Return `count` random 64-bit words that depend on `purpose` and `identity` alone."""
    text = json.dumps([purpose, identity], sort_keys=True, separators=(",", ":"))
    key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
    words: NDArray[np.uint64] = np.random.Philox(key=key).random_raw(count)
    return words


class Permutation:
    """A random permutation of 0..size-1, evaluated where it is asked for."""

    def __init__(self, size: int, purpose: str, identity: Mapping[str, Any]) -> None:
        if not 1 <= size <= LARGEST:
            raise ValueError(f"a permutation has 1..{LARGEST} elements, not {size}")
        self.size = int(size)
        self.rows = math.isqrt(self.size - 1) + 1
        self.columns = -(-self.size // self.rows)
        # Even rounds shift the row by a function of the column, odd rounds the column by the row.
        lengths = [(self.columns, self.rows), (self.rows, self.columns)] * (_ROUNDS // 2)
        words = random_bits(sum(length for length, _ in lengths), purpose, identity) >> np.uint64(32)
        self.tables: list[NDArray[np.uint32]] = []
        self._joined: NDArray[np.uint32] | None = None  # for the compiled kernel
        for length, modulus in lengths:
            drawn, words = words[:length], words[length:]
            self.tables.append(((drawn * np.uint64(modulus)) >> np.uint64(32)).astype(np.uint32))

    def __call__(self, positions: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Return the images of `positions`, shape (n,), uint32."""
        images = self._round_trip(positions)
        # The grid has up to `rows` cells too many: walk on from these until inside.
        outside = np.flatnonzero(images >= self.size)
        while len(outside):
            images[outside] = self._round_trip(images[outside])
            outside = outside[images[outside] >= self.size]
        return images

    def of_range(self, first: int, last: int) -> NDArray[np.uint32]:
        """Return the images of first..last - 1, shape (last - first,), uint32."""
        if not native.available():
            return self(np.arange(first, last, dtype=np.uint32))
        if self._joined is None:
            self._joined = np.concatenate(self.tables)
        images = np.empty(last - first, np.uint32)
        native.divide(last - first, "permute", self._joined, self.rows, self.columns, self.size, first, images)
        return images

    def _round_trip(self, cells: NDArray[np.uint32]) -> NDArray[np.uint32]:
        rows, columns = np.divmod(cells, np.uint32(self.columns))
        for number, table in enumerate(self.tables):
            if number % 2 == 0:
                rows += table[columns]
                np.minimum(rows, rows - np.uint32(self.rows), out=rows)  # modulo: the difference wraps
            else:
                columns += table[rows]
                np.minimum(columns, columns - np.uint32(self.columns), out=columns)
        rows *= np.uint32(self.columns)
        rows += columns
        return rows


def allocate(
    sizes: Sequence[int], dof: int, order: str, permute: bool, identity: Mapping[str, Any]
) -> NDArray[np.int32]:
    """Assign a ring entry to every position of slots that have `sizes` scalars.

    Every entry is used floor(D/N) or ceil(D/N) times.

    Args:
        sizes: scalars of each slot, in slot order; D in all.
        dof: N, the entries of the ring, 1..D.
        order: `shuffled`: floor(D/N) copies of the ring and D mod N entries drawn without
            replacement, all permuted at once (the official code). `sequential`: the ring is walked
            around and around in slot order and permuted within each slot (the papers' picture).
        permute: False leaves the walk around the ring as it is, whatever the order.
        identity: what the random stream depends on.

    Returns:
        Entry of each position, shape (D,), int32.
    """
    total = sum(sizes)
    entries = np.empty(total, np.int32)
    if not permute or order == "sequential":
        bounds = np.cumsum([0, *sizes])
        for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
            slot = Permutation(stop - start, f"slot {number}", identity) if permute else None
            for first, last in _chunks(0, stop - start):
                images = np.arange(first, last, dtype=np.uint32) if slot is None else slot.of_range(first, last)
                entries[start + first : start + last] = (images + np.uint32(start)) % np.uint32(dof)
        return entries
    whole = total - total % dof
    everywhere = Permutation(total, "allocation", identity)
    drawn = Permutation(dof, "remainder", identity).of_range(0, total - whole)
    for first, last in _chunks(0, total):
        images = everywhere.of_range(first, last)
        chosen = images % np.uint32(dof)
        late = np.flatnonzero(images >= whole)
        chosen[late] = drawn[chosen[late]]
        entries[first:last] = chosen
    return entries


def draw(sizes: Sequence[int], dof: int, identity: Mapping[str, Any]) -> NDArray[np.int32]:
    """Assign a random entry to every position, with replacement: HashedNets' buckets.

    Returns:
        Entry of each position, shape (D,), int32.
    """
    words = random_bits(sum(sizes), "draw", identity)
    entries: NDArray[np.uint64] = ((words >> np.uint64(32)) * np.uint64(dof)) >> np.uint64(32)
    return entries.astype(np.int32)


def negative_signs(count: int, identity: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Return a fair coin for each of `count` positions: True where the sign is negative."""
    words = random_bits(-(-count // 64), "sign", identity)
    # Little-endian bytes, so that the bits come in the same order on every machine.
    return np.unpackbits(words.astype("<u8").view(np.uint8), count=count, bitorder="little").view(np.bool_)


def _chunks(start: int, stop: int) -> list[tuple[int, int]]:
    return [(first, min(first + _CHUNK, stop)) for first in range(start, stop, _CHUNK)]
