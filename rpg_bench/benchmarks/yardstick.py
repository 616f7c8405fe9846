"""What we measure ourselves against: a ring unpacked layer by layer, in the style of the papers' code.

Every layer holds an index of 8 bytes and a sign of 4 bytes for each of its weights and reads its
own kernel from the ring, `ring[index] * sign`, whenever it runs. Written for this benchmark.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rpg_bench.sharing import plan_for
from rpg_bench.sharing.ring import RING_STD


class LayerView(nn.Module):
    """The weight of one layer as `ring[index] * sign`; a parametrization."""

    index: Tensor  # int64, of the weight's shape
    sign: Tensor  # float32, of the weight's shape: the initial scale is in it

    def __init__(self, ring: nn.Parameter, index: Tensor, sign: Tensor) -> None:
        super().__init__()
        self.rings = (ring,)  # not a parameter of this layer: the network has it once
        self.register_buffer("index", index)
        self.register_buffer("sign", sign)

    def forward(self) -> Tensor:
        return self.rings[0][self.index] * self.sign

    def right_inverse(self, _: Tensor) -> tuple[()]:
        """The dense weight does not stay as a parameter."""
        return ()


def share_layer_by_layer(network: nn.Module, dof: int) -> nn.Module:
    """Let every slot of `network` be read from one ring of `dof` numbers. In place."""
    plan = plan_for(network, "rpg_global", dof)
    device = next(network.parameters()).device
    generator = torch.Generator().manual_seed(0)
    ring = nn.Parameter((torch.randn(dof, generator=generator) * RING_STD).to(device))
    order = torch.randperm(plan.total, generator=generator) % dof
    start = 0
    for slot in plan.slots:
        index = order[start : start + slot.size].view(slot.shape)
        sign = (torch.randint(0, 2, slot.shape, generator=generator) * 2.0 - 1.0) * (slot.std / RING_STD)
        view = LayerView(ring, index.to(device), sign.to(device))
        owner = slot.owners[0]
        parametrize.register_parametrization(network.get_submodule(owner.module), owner.attribute, view, unsafe=True)
        start += slot.size
    network.register_parameter("ring", ring)
    return network


def unpack(network: nn.Module) -> list[Tensor]:
    """Unpack every layer."""
    return [view() for view in network.modules() if isinstance(view, LayerView)]
