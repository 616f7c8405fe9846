"""Which rings the kernels made for a device can serve; all others are unpacked through torch."""

from __future__ import annotations

import torch
from torch import Tensor

from rpg_bench.sharing.unpacking import fused, native, tables


def supported(ring: Tensor, kind: torch.dtype) -> bool:
    """Whether a kernel for the ring's device unpacks it into slots of dtype `kind`."""
    if ring.dtype != torch.float32:
        return False
    if ring.device.type == "cpu":
        return kind in tables.KINDS and native.available()
    return kind in fused.KINDS and fused.works(ring.device)
