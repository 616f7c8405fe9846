"""Where a trained network comes from: a run, one of its checkpoints, or a compact file."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpg_bench import progress, zoo
from rpg_bench.config import DatasetConfig, TrainConfig, from_settings
from rpg_bench.errors import InvalidInput
from rpg_bench.runs import run_hash

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rpg_bench.compact.recipe import Recipe


@dataclass(frozen=True)
class Run:
    """A run's configuration and the checkpoint that is taken, before anything is loaded."""

    config: TrainConfig
    checkpoint: Path
    record: dict[str, Any] | None  # None of a run that is not finished

    @property
    def name(self) -> str:
        return run_hash(self.config)


def find_run(asked: Mapping[str, str]) -> Run:
    """The run that the options name: `run`, a hash below `runs_dir`, or `checkpoint`, a file or its folder.

    The configuration is in `progress.json` beside the checkpoint, or in the run's record.

    Raises:
        InvalidInput: not exactly one of both is given, or something is missing.
    """
    run, checkpoint, runs_dir, results_dir, root = (
        asked[key] for key in ("run", "checkpoint", "runs_dir", "results_dir", "root")
    )
    if bool(run) == bool(checkpoint):
        raise InvalidInput("command line: give one of run=HASH and checkpoint=PATH")
    path = Path(runs_dir) / run if run else Path(checkpoint)
    if run and not path.is_dir():
        raise InvalidInput(f"run: there is no folder {path}; run={run} needs its checkpoints (runs_dir=...)")
    if path.is_dir():
        newest = max(path.glob("checkpoint-*.pt"), default=None)
        if newest is None:
            raise InvalidInput(f"{'run' if run else 'checkpoint'}: there is no checkpoint in {path}")
        path = newest
    elif not path.is_file():
        raise InvalidInput(f"checkpoint: there is no file {path}")
    folder = path.resolve().parent
    record = Path(results_dir) / "records" / f"{folder.name}.json"
    values = _mapping(record)
    settings = (progress.read(folder, progress.PROGRESS) or values or {}).get("config")
    if settings is None:
        raise InvalidInput(
            f"checkpoint: what {path} was trained with is neither in {folder / progress.PROGRESS} nor in {record} "
            "(results_dir=...)"
        )
    config = from_settings(settings)
    config.dataset.root = data_root(root)
    if values is not None and (values.get("hash") != run_hash(config) or values.get("status") != "finished"):
        values = None
    return Run(config, path, values)


def data_root(root: str) -> str:
    """The folder of the data sets: as given, else as the configuration files have it."""
    return root or os.environ.get("RPG_BENCH_DATA", "./data")


def _mapping(path: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InvalidInput(f"checkpoint: {path} cannot be read ({error})") from None
    return values if isinstance(values, dict) else None


def recipe_of(run: Run) -> Recipe:
    """What the run's network is rebuilt from.

    Raises:
        InvalidInput: the data set, which has the classes' names, is not there.
    """
    from rpg_bench.backbones import blueprint, stem_for
    from rpg_bench.budget import parse_dof
    from rpg_bench.compact.recipe import Recipe
    from rpg_bench.datasets import DATASETS
    from rpg_bench.sharing import get_scheme
    from rpg_bench.sharing.narrower import ATTRIBUTE
    from rpg_bench.sharing.slots import total_size

    config = run.config
    source = DATASETS[config.dataset.name](config.dataset)
    sizes = {
        "classes": len(source.classes),
        "channels": len(source.mean),
        "image_size": config.dataset.image_size,
    }
    network = blueprint(config, **sizes)
    narrower, dof = get_scheme(config.sharing.name, **config.sharing.options).network(network, config.dof)
    narrowed = getattr(narrower, ATTRIBUTE, None)
    if isinstance(dof, str) and dof.endswith("%"):
        dof = parse_dof(dof, total_size(network.slots))
    from timm.models.resnet import ResNet

    stem = stem_for(
        config.backbone.stem,
        config.recipe.stem,
        config.dataset.image_size,
        is_resnet=isinstance(narrower, ResNet),
        name=config.backbone.name,
    )
    seed = config.seed if config.sharing.seed is None else config.sharing.seed
    return Recipe(
        backbone=dataclasses.replace(config.backbone, stem=stem),
        sharing=dataclasses.replace(config.sharing, seed=seed),
        dof=dof if dof is None or isinstance(dof, (int, str)) else int(dof),
        step=None if narrowed is None else narrowed.step,
        data=config.dataset.name,
        classes=tuple(source.classes),
        channels=sizes["channels"],
        image_size=sizes["image_size"],
        mean=tuple(source.mean),
        std=tuple(source.std),
        run=run.name,
    )


def trained_network(run: Run, recipe: Recipe) -> nn.Module:
    """The network as the run evaluates it: the averaged weights, where the recipe has an average.

    Raises:
        InvalidInput: the checkpoint is damaged, or of another network.
    """
    from rpg_bench import checkpoint
    from rpg_bench.compact.build import build

    model = build(recipe)
    try:
        state = checkpoint.load(run.checkpoint)
    except checkpoint.Damaged as damage:
        raise InvalidInput(f"checkpoint: {damage}") from None
    except OSError as error:
        raise InvalidInput(f"checkpoint: {run.checkpoint} cannot be read: {error.strerror}") from None
    try:
        model.load_state_dict(state["average"] or state["model"])
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InvalidInput(f"checkpoint: {run.checkpoint} is not of the run's network: {reason}") from None
    return model


def named_network(asked: Mapping[str, str]) -> tuple[str, nn.Module, Recipe]:
    """The network that the options name, a compact file's (`model`) or a run's; what it is called, and its recipe.

    Raises:
        InvalidInput: not exactly one of `model`, `run` and `checkpoint` is given, or it cannot be read.
    """
    if sum(bool(asked[key]) for key in ("model", "run", "checkpoint")) != 1:
        raise InvalidInput("command line: give one of model=FILE|NAME, run=HASH and checkpoint=PATH")
    if asked["model"]:
        from rpg_bench.compact.load import load
        from rpg_bench.compact.recipe import Recipe

        path = zoo.find(asked["model"])
        model = load(path)
        found = model.recipe
        assert isinstance(found, Recipe)
        return path.stem, model, found
    run = find_run(asked)
    from rpg_bench.lazy import without_collection, without_wandb

    with without_wandb(), without_collection():
        import timm  # noqa: F401  (it takes seconds)
    recipe = recipe_of(run)
    return run.name, trained_network(run, recipe), recipe


def evaluation_batches(
    recipe: Recipe, root: str, *, train: bool = False, images: int | None = None, batch_size: int = 250
) -> Iterator[tuple[Tensor, Tensor]]:
    """The images of a network's data set as it wants them, and their labels, in a fixed order.

    train: the training images, without augmentation, instead of the test images.
    images: so many, evenly taken; all by default.

    Raises:
        InvalidInput: the data set is not there.
    """
    return batches_of(
        recipe, DatasetConfig(recipe.data, data_root(root), False, recipe.image_size), train, images, batch_size
    )


def batches_of(
    recipe: Recipe, dataset: DatasetConfig, train: bool, images: int | None, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """As `evaluation_batches`, of another data set with the same classes."""
    import numpy as np
    import torch

    from rpg_bench.augment import Normalise
    from rpg_bench.datasets import DATASETS
    from rpg_bench.errors import unknown

    if dataset.name not in DATASETS:
        raise unknown("data", dataset.name, DATASETS)
    source = DATASETS[dataset.name](dataset)
    if len(source.classes) != len(recipe.classes):
        raise InvalidInput(f"data: {dataset.name} has {len(source.classes)} classes, the network {len(recipe.classes)}")
    if len(source.mean) != recipe.channels:
        raise InvalidInput(f"data: {dataset.name} has {len(source.mean)} channels, the network {recipe.channels}")
    samples = source.train() if train else source.test()
    total = len(samples.labels)
    wanted = min(images or total, total)
    chosen = np.arange(wanted, dtype=np.int64) * (total // wanted)
    normalise = Normalise(recipe.mean, recipe.std, torch.device("cpu"))
    parts = [chosen[first : first + batch_size] for first in range(0, wanted, batch_size)]
    for pixels, labels in samples.read(parts, None):
        yield normalise(pixels), labels
