"""The names of the corruptions of `rpg_bench/corruptions.py`, for who needs no more than these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rpg_bench.errors import unknown

GROUPS: Mapping[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
CORRUPTIONS = tuple(name for names in GROUPS.values() for name in names)


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """The corruptions that the names of corruptions, of groups, and `all` stand for, in the order of `CORRUPTIONS`.

    Raises:
        InvalidInput: a name is none of them.
    """
    wanted: set[str] = set()
    for name in names:
        if name not in ("all", *GROUPS, *CORRUPTIONS):
            raise unknown("evaluation.corruptions", name, ("all", *GROUPS, *CORRUPTIONS))
        wanted.update(CORRUPTIONS if name == "all" else GROUPS.get(name, (name,)))
    return tuple(name for name in CORRUPTIONS if name in wanted)
