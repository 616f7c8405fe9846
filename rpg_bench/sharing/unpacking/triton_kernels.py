"""The kernels of `FusedTable`, in Triton: one launch unpacks all slots, one sums the ring's gradient.

Both walk over the ring: a program takes `ENTRIES` of its entries, and the uses of each, `USES` at a time. No two
programs write to one place, so nothing is atomic, and the order of each sum is fixed by the table alone.
"""

# No `from __future__ import annotations`: Triton reads the annotations.
import triton
import triton.language as tl


@triton.jit
def unpack(
    ring, order, ends, chunk_scales, whole, entries, CHUNK: tl.constexpr, ENTRIES: tl.constexpr, USES: tl.constexpr
):
    """whole[position] = c * s * ring[entry], for every use of every entry.

    Args:
        ring: float32, shape (entries,).
        order: int32, the position of each use, one entry's after another's; -1 - position where the sign is negative.
        ends: int32, shape (entries,), where each entry's uses end in `order`.
        chunk_scales: float32, the scale c of each run of CHUNK positions.
        whole: all slots, written where a position is used.
    """
    entry = tl.program_id(0) * ENTRIES + tl.arange(0, ENTRIES)
    last = tl.load(ends + entry, entry < entries, 0)
    first = tl.load(ends + entry - 1, (entry > 0) & (entry < entries), 0)
    value = tl.load(ring + entry, entry < entries, 0.0)[:, None]
    for start in range(0, tl.max(last - first), USES):
        use = first[:, None] + start + tl.arange(0, USES)[None, :]
        used = use < last[:, None]
        signed = tl.load(order + use, used, 0)
        position = tl.where(signed < 0, -1 - signed, signed)
        scaled = value * tl.load(chunk_scales + position // CHUNK, used, 0.0)
        tl.store(whole + position, tl.where(signed < 0, -scaled, scaled).to(whole.dtype.element_ty), used)


@triton.jit
def fold(
    whole, order, ends, chunk_scales, sums, entries, CHUNK: tl.constexpr, ENTRIES: tl.constexpr, USES: tl.constexpr
):
    """sums[entry] = sum of c * s * whole[position] over the entry's uses, in float32; the transpose of `unpack`."""
    entry = tl.program_id(0) * ENTRIES + tl.arange(0, ENTRIES)
    last = tl.load(ends + entry, entry < entries, 0)
    first = tl.load(ends + entry - 1, (entry > 0) & (entry < entries), 0)
    total = tl.zeros((ENTRIES, USES), tl.float32)
    for start in range(0, tl.max(last - first), USES):
        use = first[:, None] + start + tl.arange(0, USES)[None, :]
        used = use < last[:, None]
        signed = tl.load(order + use, used, 0)
        position = tl.where(signed < 0, -1 - signed, signed)
        gradient = tl.load(whole + position, used, 0.0).to(tl.float32)
        scaled = gradient * tl.load(chunk_scales + position // CHUNK, used, 0.0)
        total += tl.where(signed < 0, -scaled, scaled)
    tl.store(sums + entry, tl.sum(total, 1), entry < entries)
