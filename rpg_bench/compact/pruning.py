"""Which of a trained network's free numbers stay: magnitude pruning to a share, and masks that hold while it trains on.

Of a ring its entries are pruned, of LORS its shared weights and factors, of a dense network its slots. Numbers of one
role compete with one another: all slots of a dense network (Han et al. 2015; Zhu and Gupta 2017, arXiv 1710.01878).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rpg_bench.sharing.api import ATTRIBUTE
from rpg_bench.sharing.pruning import highest
from rpg_bench.sharing.report import trained_parameters

Masks = dict[str, Tensor]  # of each free parameter: true where a number stays


def magnitude_masks(model: nn.Module, share: float) -> Masks:
    """Masks that take the `share` of smallest magnitude away, in each role."""
    free, _ = trained_parameters(model)
    by_role: dict[str, list[str]] = {}
    for name in free:
        by_role.setdefault(role(name), []).append(name)
    masks: Masks = {}
    for names in by_role.values():
        scores = torch.cat([free[name].detach().abs().reshape(-1) for name in names])
        kept = torch.zeros(len(scores), dtype=torch.bool)
        kept[highest(scores, len(scores) - round(share * len(scores)))] = True
        for name, piece in zip(names, torch.split(kept, [free[name].numel() for name in names]), strict=True):
            masks[name] = piece.view(free[name].shape)
    return masks


def role(name: str) -> str:
    """What a free parameter is, by its name: ring, shared, down, up, survivors; or one of the network's own slots."""
    parts = name.split(".")
    return parts[1] if parts[0] == ATTRIBUTE else "slots"


@torch.no_grad()
def apply_masks(model: nn.Module, masks: Masks) -> None:
    """Set what is pruned to zero. In place."""
    for name, mask in masks.items():
        model.get_parameter(name).masked_fill_(~mask.to(model.get_parameter(name).device), 0.0)


def share_after(share: float, number: int, rounds: int) -> float:
    """What is pruned after round 1..rounds, so that each takes the same share of what is left.

    >>> [round(share_after(0.875, number, 3), 3) for number in (1, 2, 3)]
    [0.5, 0.75, 0.875]
    """
    left: float = (1 - share) ** (number / rounds)
    return share if number == rounds else 1 - left
