"""Decoding of many small images of one size."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rpg_bench.errors import InvalidInput


def decode_images(number: int, read: Callable[[int], bytes | None], name: Callable[[int], str], side: int) -> Tensor:
    """Return uint8 (number, 3, side, side).

    read: the encoded image at a position; name: what an error calls it. Raises InvalidInput for an
    image that is corrupt or of another size.
    """
    from PIL import Image, UnidentifiedImageError

    pixels = np.empty((number, side, side, 3), dtype=np.uint8)
    # One thread: for images this small, Pillow's threads only wait for each other.
    for position in range(number):
        try:
            encoded = read(position)
            if not encoded:
                raise ValueError("it is empty")
            image = Image.open(io.BytesIO(encoded))
            decoded = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        except Exception as error:  # a corrupt file can make PIL raise nearly anything
            reason = " ".join(str(error).split()) or type(error).__name__
            if isinstance(error, UnidentifiedImageError):  # its own text names a buffer's address
                reason = "it is no image of a known format"
            raise InvalidInput(f"dataset.root: cannot read the image {name(position)}: {reason}") from error
        if decoded.shape != (side, side, 3):
            height, width = decoded.shape[:2]
            raise InvalidInput(
                f"dataset.root: the image {name(position)} has {width}x{height} pixels, expected {side}x{side}"
            )
        pixels[position] = decoded
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
