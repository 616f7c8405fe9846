"""Numbers in 32, 8 or 4 bits: symmetric uniform quantisation with a scale for each block or tensor.

    x ~ scale * code,   code in -(2^(bits-1) - 1) .. 2^(bits-1) - 1

A scale is a bfloat16. Of `CLIPS`, the share of the largest magnitude that the largest code stands for is the one with
the least squared error. What is decoded is the same, bit for bit, everywhere: one product of two float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpg_bench.compact import index
from rpg_bench.errors import InvalidInput

WIDTHS = (32, 8, 4)
CLIPS = tuple(1 - step / 20 for step in range(13))  # 1.0, 0.95, .. 0.4
SCALE_BITS = 16

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Encoding:
    """How the numbers of one part are stored.

    bits: of each number.
    block: numbers of a tensor that share a scale; 0: all of them.
    vector_bits: of tensors with one axis (norms, biases) where their part has others too; they matter more than they
        take.
    clip: whether scales are chosen by squared error, or cover the largest magnitude.
    """

    bits: int = 32
    block: int = 64
    vector_bits: int = 32
    clip: bool = True

    def widths(self, shapes: Sequence[tuple[int, ...]], vectors: bool) -> list[int]:
        """Bits of each tensor's numbers."""
        return [self.vector_bits if vectors and len(shape) < 2 else self.bits for shape in shapes]


@dataclass(frozen=True)
class Size:
    """Bits of one part of a file."""

    numbers: int  # that are stored
    codes: int
    scales: int
    masks: int

    @property
    def total(self) -> int:
        return self.codes + self.scales + self.masks

    def to_dict(self) -> dict[str, int]:
        return {"numbers": self.numbers, "codes": self.codes, "scales": self.scales, "masks": self.masks}


def quantised(values: Floats, bits: int, block: int, clip: bool = True) -> tuple[NDArray[np.int8], NDArray[np.uint16]]:
    """Codes and scales of one tensor's numbers, shape (n,); scales as the upper halves of float32."""
    most = 2 ** (bits - 1) - 1
    blocks = _blocks(values, block)
    largest = np.abs(blocks).max(1)
    best_scale, best_error = np.zeros(len(blocks), np.float32), np.full(len(blocks), np.inf)
    for share in CLIPS if clip else (1.0,):
        scale = _as_bfloat16(largest * np.float32(share / most))
        codes = _codes(blocks, scale, most)
        error = np.square(blocks - codes * scale[:, None], dtype=np.float64).sum(1)
        better = error < best_error
        best_scale, best_error = np.where(better, scale, best_scale), np.where(better, error, best_error)
    codes = _codes(blocks, best_scale, most).reshape(-1)[: len(values)]
    return codes.astype(np.int8), (best_scale.view(np.uint32) >> 16).astype(np.uint16)


def dequantised(codes: NDArray[np.int8], scales: NDArray[np.uint16], block: int) -> Floats:
    """What `quantised` stands for, shape (n,)."""
    values = (scales.astype(np.uint32) << 16).view(np.float32)
    length = min(block or len(codes), len(codes))
    return codes.astype(np.float32) * np.repeat(values, length)[: len(codes)]


def encoded(
    part: str, values: Sequence[Floats], shapes: Sequence[tuple[int, ...]], encoding: Encoding, vectors: bool
) -> tuple[dict[str, NDArray[Any]], dict[str, Any], Size]:
    """The tensors of a file, its description and the size of one part.

    Zeros are left out, and the positions of the others stored, where that is smaller.

    values: of each tensor, float32, flat; shapes: theirs; vectors: see `Encoding.vector_bits`.
    """
    widths = encoding.widths(shapes, vectors)
    whole = np.concatenate([np.zeros(0, np.float32), *values]).astype(np.float32)
    kept = whole.view(np.uint32) != 0  # negative zeros are numbers like others
    count, saved = int(kept.sum()), 0.0
    for one, width in zip(_split(kept, [len(value) for value in values]), widths, strict=True):
        saved += float((~one).sum()) * width / 8
    tensors: dict[str, NDArray[Any]] = {}
    masks, stored = 0, list(values)
    left_out = saved > index.size(count, len(whole)) + 64
    if left_out:
        tensors[f"{part}.index"] = index.encoded(np.flatnonzero(kept), len(whole))
        masks = 8 * len(tensors[f"{part}.index"])
        stored = [value[value.view(np.uint32) != 0] for value in values]
    codes_of: dict[int, list[NDArray[Any]]] = {width: [] for width in WIDTHS}
    scales: list[NDArray[np.uint16]] = []
    for value, width in zip(stored, widths, strict=True):
        if width == 32:
            codes_of[32].append(value)
        else:
            codes, own = quantised(value, width, encoding.block, encoding.clip)
            codes_of[width].append(codes)
            scales.append(own)
    for width, pieces in codes_of.items():
        joined = np.concatenate(pieces) if pieces else np.zeros(0)
        if len(joined):
            tensors[f"{part}.{width}"] = _in_bits(joined, width)
    if scales and sum(map(len, scales)):
        tensors[f"{part}.scales"] = np.concatenate(scales)
    description = {
        "numbers": count if left_out else len(whole),
        "bits": encoding.bits,
        "vector_bits": encoding.vector_bits,
        "block": encoding.block,
        "index": left_out,
    }
    bits = sum(width * len(value) for value, width in zip(stored, widths, strict=True))
    return tensors, description, Size(sum(map(len, stored)), bits, SCALE_BITS * sum(map(len, scales)), masks)


def decoded(
    part: str,
    tensors: Mapping[str, NDArray[Any]],
    description: object,
    shapes: Sequence[tuple[int, ...]],
    vectors: bool,
) -> list[Floats]:
    """The values of each tensor, float32, flat: what `encoded` stored.

    Raises:
        InvalidInput: description and tensors do not fit these shapes.
    """
    if not isinstance(description, dict) or any(type(description.get(key)) is not int for key in _KEYS):
        raise InvalidInput(f"file: how its {part} numbers are stored is not stated; it is damaged")
    if any(description[key] not in WIDTHS for key in ("bits", "vector_bits")) or description["block"] < 0:
        raise InvalidInput(f"file: its {part} numbers are stored in a way that is unknown here")
    encoding = Encoding(description["bits"], description["block"], description["vector_bits"])
    widths = encoding.widths(shapes, vectors)
    sizes = [int(np.prod(shape, dtype=np.int64)) for shape in shapes]
    universe, positions = sum(sizes), None
    if description.get("index"):
        content = tensors.get(f"{part}.index", np.zeros(0, np.uint8))
        positions = index.decoded(content, description["numbers"], universe, f"its {part} numbers")
        bounds = np.searchsorted(positions, np.cumsum([0, *sizes]))
        counts = np.diff(bounds).tolist()
    else:
        counts = sizes
    if description["numbers"] != sum(counts):
        raise InvalidInput(f"file: it has {description['numbers']:,} {part} numbers, its network {universe:,}")
    available: dict[int, NDArray[Any]] = {}
    for width in WIDTHS:
        wanted = sum(count for count, own in zip(counts, widths, strict=True) if own == width)
        found = tensors.get(f"{part}.{width}", np.zeros(0, _STORED[width]))
        if found.dtype != _STORED[width] or len(found) != -(-wanted * width // 8) // found.itemsize:
            raise InvalidInput(f"file: its {part} numbers of {width} bits are not the {wanted:,} of its network")
        available[width] = _from_bits(found, width, wanted)
    block = encoding.block
    blocks = [-(-count // (block or max(1, count))) for count in counts]
    scales = tensors.get(f"{part}.scales", np.zeros(0, np.uint16))
    if len(scales) != sum(n for n, width in zip(blocks, widths, strict=True) if width != 32):
        raise InvalidInput(f"file: the scales of its {part} numbers are not those of its network")
    values: list[Floats] = []
    first, taken = 0, dict.fromkeys(WIDTHS, 0)
    for count, number, width in zip(counts, blocks, widths, strict=True):
        own = available[width][taken[width] : taken[width] + count]
        taken[width] += count
        if width != 32:
            own = dequantised(own, scales[first : first + number], block)
            first += number
        values.append(own.astype(np.float32))
    if positions is None:
        return values
    whole = np.zeros(universe, np.float32)
    whole[positions] = np.concatenate([np.zeros(0, np.float32), *values])
    return _split(whole, sizes)


_KEYS = ("numbers", "bits", "vector_bits", "block")
_STORED: dict[int, np.dtype[Any]] = {32: np.dtype("<f4"), 8: np.dtype("u1"), 4: np.dtype("u1")}


def _split(whole: NDArray[Any], sizes: Sequence[int]) -> list[NDArray[Any]]:
    ends = np.cumsum(sizes, dtype=np.int64).tolist()
    return [whole[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def _blocks(values: Floats, block: int) -> Floats:
    """Shape (blocks, block), the last one filled with zeros."""
    length = block or max(1, len(values))
    number = -(-len(values) // length)
    filled = np.zeros(number * length, np.float32)
    filled[: len(values)] = values
    return filled.reshape(number, length)


def _codes(blocks: Floats, scale: Floats, most: int) -> Floats:
    safe = np.where(scale > 0, scale, np.float32(1))
    return np.clip(np.rint(blocks / safe[:, None]), -most, most).astype(np.float32)


def _as_bfloat16(values: Floats) -> Floats:
    """Rounded up to the next bfloat16, so that the largest magnitude is covered."""
    return ((values.astype(np.float32).view(np.uint32) + 0xFFFF) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def _in_bits(codes: NDArray[Any], width: int) -> NDArray[Any]:
    if width == 32:
        return np.asarray(codes, "<f4")
    shifted: NDArray[np.uint8] = (codes.astype(np.int16) + 2 ** (width - 1)).astype(np.uint8)
    if width == 8:
        return shifted
    pairs = np.append(shifted, np.zeros(len(shifted) % 2, np.uint8)).reshape(-1, 2)
    return np.asarray(pairs[:, 0] | pairs[:, 1] << 4, np.uint8)


def _from_bits(stored: NDArray[Any], width: int, count: int) -> NDArray[Any]:
    if width == 32:
        return stored
    if width == 4:
        stored = np.stack([stored & 15, stored >> 4], 1).reshape(-1)[:count]
    return np.asarray(stored.astype(np.int16) - 2 ** (width - 1), np.int8)
