"""Small networks for the tests, each made from a seed without touching the global random state."""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

torch.set_num_threads(1)  # for small tensors, several threads only wait for one another


def small_resnet() -> nn.Module:
    """Four stages of one block each, with downsample shortcuts."""
    widths = (8, 8, 16, 16)
    network: nn.Module = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5, channels=widths, stem_width=8)  # type: ignore[arg-type]
    return network


def small_vit() -> nn.Module:
    """Five blocks of width 16 for 16 x 16 images."""
    network: nn.Module = VisionTransformer(img_size=16, patch_size=8, embed_dim=16, depth=5, num_heads=2, num_classes=5)
    return network


class OddNetwork(nn.Module):
    """What users write: a grouped convolution, tied weights, a module used twice, and a frozen weight."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.first = nn.Linear(8, 12)
        self.second = nn.Linear(8, 12, bias=False)
        self.second.weight = self.first.weight
        self.mixed = nn.Linear(12, 8)
        self.again = self.mixed
        self.frozen = nn.Linear(8, 8)
        self.frozen.weight.requires_grad_(False)
        self.exit = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = self.grouped(self.entry(images).tanh()).mean((2, 3))
        features = self.mixed(self.first(features).tanh()).tanh()
        features = self.again(self.second(features).tanh()).tanh()
        logits: Tensor = self.exit(self.frozen(features))
        return logits


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet": small_resnet,
    "vit": small_vit,
    "odd": OddNetwork,
}


def make(name: str, seed: int = 0) -> nn.Module:
    """Return the named network, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name]()


def images(count: int = 4, seed: int = 0, size: int = 16) -> Tensor:
    """Return random images, shape (count, 3, size, size); every network here accepts size 16."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
