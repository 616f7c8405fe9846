"""List the sharing schemes, and what each can do with one network.

    python -m rpg_bench.schemes backbone=resnet18 backbone.stem=cifar
    python -m rpg_bench.schemes backbone=deit_tiny dof=10% time=true json=true

The network is the one that `rpg_bench.train` would build for the same arguments. `dof` is the budget at
which memory and time are stated, or the nearest to it that a scheme has; without it, its own default.
`time=true` measures a training step; `json=true` prints a list for programs.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, open_dict
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from rpg_bench.budget import parse_dof
from rpg_bench.command_line import run_command
from rpg_bench.config import TrainConfig, from_hydra
from rpg_bench.errors import InvalidInput
from rpg_bench.sharing import SCHEMES, Blueprint, get_scheme, share
from rpg_bench.sharing.scheme import Budget, Scheme
from rpg_bench.sharing.slots import total_size
from rpg_bench.small_maps import use_matrix_products

SWITCHES = {"time": False, "json": False}
ROUNDS = 5  # of timed steps


@dataclass(frozen=True)
class Row:
    """One scheme on one network. `refused` says why it cannot be put on it; the numbers are None then."""

    scheme: str
    source: str
    what: str  # the first sentence of its docstring
    least: int | None = None  # DoF
    most: int | None = None
    dof: int | None = None  # achieved for the budget, or by default
    table_bytes_per_weight: float | None = None  # of what is fixed: index, mask
    step_ratio: float | None = None  # a training step's time over the dense one's
    refused: str | None = None


def rows(blueprint: Blueprint, dof: Budget) -> list[Row]:
    """What every registered scheme can do with a network, in alphabetical order."""
    return [_row(get_scheme(name), blueprint, dof) for name in sorted(SCHEMES)]


def timed(row: Row, blueprint: Blueprint, images: Tensor, labels: Tensor) -> Row:
    """The row with its step measured in turn with the dense network's, on one batch of images (n, 3, h, w)."""
    from rpg_bench.benchmarks.networks import training_step
    from rpg_bench.benchmarks.timing import Ratio, in_turn

    if row.refused:
        return row

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        yield images, labels

    network, left = get_scheme(row.scheme).network(_again(blueprint), row.dof)
    shared = share(network, row.scheme, left, include=blueprint.include, exclude=blueprint.exclude, batches=batches)
    steps = {
        name: training_step(model.to(memory_format=torch.channels_last), images, labels)  # type: ignore[call-overload]
        for name, model in {"dense": _again(blueprint).full, "shared": shared}.items()
    }
    found = in_turn(steps, images.device, rounds=ROUNDS, warmup=1)
    return dataclasses.replace(row, step_ratio=round(Ratio.of(found["shared"], found["dense"]).median, 3))


def show(composed: DictConfig) -> None:
    """Print the list for a composed configuration that has the switches `time` and `json`."""
    from rpg_bench.backbones import blueprint

    with open_dict(composed):
        switches = {name: _boolean(name, composed.pop(name)) for name in SWITCHES}
    config = from_hydra(composed)
    torch.manual_seed(config.seed)
    network = blueprint(config, classes=100, channels=3, image_size=config.dataset.image_size)
    found = rows(network, config.dof)
    if switches["time"]:
        from rpg_bench.benchmarks.networks import random_batch

        batch = random_batch(config.recipe.batch_size, torch.device("cpu"), config.dataset.image_size)
        found = [timed(row, network, *batch) for row in found]
    if switches["json"]:
        answer = {"backbone": config.backbone.name, "slot_scalars": total_size(network.slots)}
        print(json.dumps({**answer, "schemes": [dataclasses.asdict(row) for row in found]}, indent=1))
    else:
        _print(config, total_size(network.slots), found, switches["time"])


def main() -> None:
    """The command `python -m rpg_bench.schemes`."""
    run_command(show, SWITCHES)


def _row(scheme: Scheme, blueprint: Blueprint, dof: Budget) -> Row:
    row = Row(scheme.name, scheme.source, " ".join((scheme.__doc__ or "").split()).split(". ")[0].rstrip("."))
    try:
        least, most = scheme.range_of(blueprint)
        total = total_size(blueprint.slots)
        budget = None if dof is None else min(max(parse_dof(dof, total), least), most)
        network, left = scheme.network(blueprint, budget)
        plan = scheme.plan(blueprint.slots_of(network), left, seed=0)
    except InvalidInput as error:
        return dataclasses.replace(row, refused=str(error))
    per_weight = round(scheme.table_bytes(plan) / total, 3)
    return dataclasses.replace(row, least=least, most=most, dof=plan.dof, table_bytes_per_weight=per_weight)


def _again(blueprint: Blueprint) -> Blueprint:
    """One that builds anew, as a CPU trains it: `share` changes the network that it is given."""

    def build(widths: Mapping[str, Any]) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = blueprint.build(widths)
        use_matrix_products(network)
        return network

    return Blueprint(build, blueprint.include, blueprint.exclude)


def _print(config: TrainConfig, total: int, found: list[Row], time: bool) -> None:
    asked = "their defaults" if config.dof is None else f"dof={config.dof}, or the nearest"
    table = Table(
        title=f"{config.backbone.name}: {total:,} scalars in slots; memory and time at {asked}",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
    )
    table.add_column("scheme", style="bold", no_wrap=True)
    table.add_column("range of DoF", justify="right", no_wrap=True)
    table.add_column("DoF", justify="right", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    if time:
        table.add_column("step", justify="right", no_wrap=True)
    table.add_column("source", style="dim")
    for row in found:
        if row.refused:
            blank = [""] * (3 if time else 2)
            table.add_row(row.scheme, "none", *blank, row.refused)
            continue
        step = [f"{row.step_ratio:.2f}"] if time else []
        numbers = [f"{row.least:,}..{row.most:,}", f"{row.dof:,}", f"{row.table_bytes_per_weight:g}", *step]
        table.add_row(row.scheme, *numbers, row.source)
    console = Console(highlight=False, soft_wrap=False)
    console.print(table)
    console.print("bytes: for each of these scalars, for what is fixed (index, mask); 4 more while it is produced")
    if time:
        console.print("step: time of a training step over the dense network's, in turn with it; quick, so rough")


def _boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"{name}: {value!r} is neither true nor false")
    return value


if __name__ == "__main__":
    main()
