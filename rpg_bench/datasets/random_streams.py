"""Random streams that depend on named integers alone, never on a global generator."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.random import RandomState


def random_stream(purpose: str, *numbers: int) -> RandomState:
    """Return the stream for a purpose and its numbers, such as seed, epoch, batch and rank.

    RandomState, since NumPy's policy freezes its stream for good, unlike that of `Generator`.
    """
    text = ",".join([purpose, *(str(int(number)) for number in numbers)])
    digest = blake2b(text.encode(), digest_size=32).digest()
    return RandomState(np.frombuffer(digest, dtype="<u4").astype(np.int64))
