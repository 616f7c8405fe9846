"""The typed configuration of a run.

The files under `configs/` are composed by Hydra and checked against these classes: a key that is
not here, or a value of another type, is refused. Defaults matter: a run's hash covers the fields
that differ from them (see `runs.run_hash`), so a field added later, with a default that keeps the
old behaviour, does not rename runs that exist.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Optional

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from rpg_bench.budget import canonical_dof
from rpg_bench.errors import InvalidInput, unknown
from rpg_bench.secrets import refuse_secrets

# OmegaConf reads these annotations at run time and knows Optional, not every newer spelling.
# ruff: noqa: UP045

STEMS = ("imagenet", "half", "cifar")
PRECISIONS = ("fp32", "bf16", "fp16")
SCHEDULES = ("constant", "cosine", "multistep", "exponential", "one_cycle")
TRACKING_MODES = ("offline", "online", "disabled")
DEVICES = ("auto", "cpu", "cuda", "mps")
PARAMETER_KINDS = ("norm", "bias", "token", "position")


@dataclass
class DatasetConfig:
    """What is learned, and from where."""

    name: str = "digits"
    root: str = "./data"  # folder that holds the files of the data set; unused by digits
    download: bool = False  # fetch through torchvision what the root lacks (CIFAR only)
    image_size: int = 16  # side of the square that the network sees, pixels
    subset: float = 1.0  # stratified share of the training data, in (0, 1]
    validation: float = 0.0  # share of the training data held out and evaluated instead of the test data
    workers: int = 4  # worker processes for data that does not fit in memory


@dataclass
class AugmentConfig:
    """What is done to training images. Off by default."""

    crop_padding: int = 0  # random crop after this many black pixels are added at each border; 0: none
    flip: bool = False  # horizontal, with probability 0.5
    random_resized_crop: bool = False  # ImageNet style; data sets read from folders only
    mixup: float = 0.0  # alpha of the Beta distribution; 0: off
    cutmix: float = 0.0  # alpha; with mixup too, a fair coin per batch decides


@dataclass
class BackboneConfig:
    """The network that is trained, from timm."""

    name: str = "resnet18"  # any timm model
    stem: Optional[str] = None  # one of STEMS (ResNets only); None: the recipe's, else by image size
    patch_size: Optional[int] = None  # ViTs only; None: an eighth of the image, at most 16
    options: dict[str, Any] = field(default_factory=dict)  # passed on to timm.create_model


@dataclass
class SharingConfig:
    """The scheme that generates the slots, and which weights are slots."""

    name: str = "rpg_global"
    seed: Optional[int] = None  # of the allocation and the free parameters' start; None: the run's seed
    include: list[str] = field(default_factory=list)  # globs over parameter names, added to the slots
    exclude: list[str] = field(default_factory=list)  # globs over parameter names, taken out of the slots
    options: dict[str, Any] = field(default_factory=dict)  # the scheme's own


@dataclass
class OptimizerConfig:
    """Any optimizer that timm can build, and its rates."""

    name: str = "momentum"
    lr: float = 0.1
    lr_reference_batch: Optional[int] = None  # scale lr by batch_size / this; None: as it is
    weight_decay: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)  # passed on to the optimizer


@dataclass
class ScheduleConfig:
    """The learning rate over the run, as a factor on `optimizer.lr`."""

    name: str = "constant"
    warmup_epochs: float = 0.0  # linear
    final: float = 0.0  # factor at the end (cosine, one_cycle)
    milestones: list[int] = field(default_factory=list)  # epochs (multistep)
    gamma: float = 0.1  # factor at each milestone, or every `decay_epochs` (exponential)
    decay_epochs: float = 1.0
    peak: float = 0.3  # share of the run after which one_cycle is at its highest


@dataclass
class RecipeConfig:
    """How a model is trained, independent of what is trained (design, section 4)."""

    name: str = ""
    epochs: int = 1
    batch_size: int = 128  # images per optimizer step, over all devices
    accumulate: int = 1  # parts that a batch is computed in
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    stem: Optional[str] = None  # the ResNet stem that the recipe was made for
    train_sizes: list[int] = field(default_factory=list)  # sides of training images, over equal parts of the run
    label_smoothing: float = 0.0
    clip_norm: Optional[float] = None  # of the gradient of all trained parameters together
    ema_decay: Optional[float] = None  # of the averaged weights that are evaluated; None: no average
    no_decay: list[str] = field(default_factory=list)  # PARAMETER_KINDS that weight decay spares
    precision: str = "fp32"
    channels_last: bool = False


@dataclass
class EvaluationConfig:
    """What the trained network is measured on besides the test images, once. Never changes the training."""

    train: bool = False  # the training images, without augmentation
    corruptions: list[str] = field(default_factory=list)  # names or groups of rpg_bench/corruptions.py, or all
    corrupted_images: int = 1000  # evenly taken from the evaluation images, for each corruption and severity


@dataclass
class TrackingConfig:
    """Weights & Biases. Never changes a result."""

    mode: str = "offline"
    project: str = "rpg-bench"
    entity: Optional[str] = None
    group: Optional[str] = None
    name: Optional[str] = None
    tags: list[str] = field(default_factory=list)


@dataclass
class TrainConfig:
    """One run."""

    seed: int = 0
    dof: Any = None  # 36864, 36k, 2.4M, 18%; None: the scheme's default
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    sharing: SharingConfig = field(default_factory=SharingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    batch_scale: int = 1  # recipe.batch_size and optimizer.lr times this; part of both afterwards
    sweep: Optional[str] = None  # name of the experiment that the run belongs to
    device: str = "auto"
    runs_dir: str = "runs"
    results_dir: str = "results"
    checkpoint_seconds: float = 60.0  # at most this much work is lost to kill -9
    force: bool = False  # run again although it is finished


# What does not affect the result, and so is no part of the hash.
NOT_IN_HASH = (
    "evaluation",
    "tracking",
    "sweep",
    "device",
    "runs_dir",
    "results_dir",
    "checkpoint_seconds",
    "force",
    "dataset.root",
    "dataset.download",
    "dataset.workers",
    "recipe.name",
)


# Left out of records: they say where files lay on one machine.
_PATHS = (("dataset", "root"), (None, "runs_dir"), (None, "results_dir"))


def without_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """A configuration as others may read it: a mapping without the places of files."""
    kept = {**settings, "dataset": dict(settings["dataset"])}
    for section, key in _PATHS:
        (kept[section] if section else kept).pop(key)
    return kept


def config_directory() -> Path:
    """Where the configuration files lie: in the wheel inside the package, in a checkout beside it."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def from_hydra(composed: DictConfig) -> TrainConfig:
    """Check a composed configuration and return it typed.

    Raises:
        InvalidInput: a key that does not exist, a value of another type, or out of range.
    """
    try:
        values: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise InvalidInput(f"{error.full_key}: a value is needed; give it as {error.full_key}=...") from None
    except OmegaConfBaseException as error:
        raise InvalidInput(f"{error.full_key}: {_first_line(error)}") from None
    sharing = values.get("sharing", {})
    known = {f.name for f in fields(SharingConfig)}
    # On the command line a scheme's options stand beside the common keys: sharing.permute=false.
    options = {key: sharing.pop(key) for key in list(sharing) if key not in known}
    sharing["options"] = {**sharing.get("options", {}), **options}
    try:
        merged = OmegaConf.merge(_typed(), values)
        config = OmegaConf.to_object(merged)
    except ConfigKeyError as error:
        raise unknown_key(str(error.full_key), TrainConfig()) from None
    except OmegaConfBaseException as error:
        given = OmegaConf.select(OmegaConf.create(values), str(error.full_key))
        raise InvalidInput(f"{error.full_key}: {given!r} is of the wrong type ({_first_line(error)})") from None
    assert isinstance(config, TrainConfig)
    if config.dof is not None:
        config.dof = canonical_dof(config.dof)
    validate(config)
    refuse_secrets(values)
    return _scaled(config)


@functools.cache
def _typed() -> DictConfig:
    """Every key with its type and default; to be merged with, which copies it."""
    typed: DictConfig = OmegaConf.structured(TrainConfig)
    return typed


def _scaled(config: TrainConfig) -> TrainConfig:
    """Scale the batch, and with it the learning rate linearly (Goyal et al., arXiv 1706.02677, section 2.1)."""
    if config.batch_scale != 1:
        if config.optimizer.lr_reference_batch is None:
            config.optimizer.lr_reference_batch = config.recipe.batch_size
        config.recipe.batch_size *= config.batch_scale
        config.batch_scale = 1  # the same run, and the same hash, as with the larger batch written out
    return config


def from_settings(settings: Mapping[str, Any]) -> TrainConfig:
    """The configuration that a record, or what a run leaves beside its checkpoints, holds.

    Raises:
        InvalidInput: it is not one of this version.
    """
    try:
        config = OmegaConf.to_object(OmegaConf.merge(_typed(), dict(settings)))
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise InvalidInput(f"configuration: it is not one of this version ({_first_line(error)})") from None
    assert isinstance(config, TrainConfig)
    validate(config)
    return config


def unknown_key(key: str, config: TrainConfig) -> InvalidInput:
    """Return the error for a configuration key that does not exist, with the nearest one."""
    keys = list(_flatten(OmegaConf.to_container(OmegaConf.structured(config))))
    message = str(unknown(key, key, keys)).split(" Allowed:")[0]
    return InvalidInput(message.replace(f"unknown {key!r}", "no such configuration key", 1).rstrip("."))


def validate(config: TrainConfig) -> None:
    """Raise InvalidInput at the first value that is out of range."""
    recipe, optimizer, schedule = config.recipe, config.optimizer, config.recipe.schedule
    _one_of("recipe.precision", recipe.precision, PRECISIONS)
    _one_of("recipe.schedule.name", schedule.name, SCHEDULES)
    _one_of("tracking.mode", config.tracking.mode, TRACKING_MODES)
    _one_of("device", config.device, DEVICES)
    for kind in recipe.no_decay:
        _one_of("recipe.no_decay", kind, PARAMETER_KINDS)
    for field_name, stem in (("backbone.stem", config.backbone.stem), ("recipe.stem", recipe.stem)):
        if stem is not None:
            _one_of(field_name, stem, STEMS)
    _within("seed", config.seed, 0, 2**63 - 1)
    _at_least("recipe.epochs", recipe.epochs, 1)
    _at_least("recipe.batch_size", recipe.batch_size, 1)
    _at_least("recipe.accumulate", recipe.accumulate, 1)
    _at_least("batch_scale", config.batch_scale, 1)
    _at_least("dataset.image_size", config.dataset.image_size, 1)
    _at_least("dataset.workers", config.dataset.workers, 0)
    for size in recipe.train_sizes:
        if not 1 <= size <= config.dataset.image_size:
            raise InvalidInput(
                f"recipe.train_sizes: {size} is outside 1..{config.dataset.image_size}, the side of "
                f"{config.dataset.name}'s images; recipe.train_sizes=[] trains at that side throughout"
            )
    _within("recipe.label_smoothing", recipe.label_smoothing, 0.0, 1.0, open_end=True)
    _within("recipe.schedule.peak", schedule.peak, 0.0, 1.0)
    _within("recipe.schedule.final", schedule.final, 0.0, 1.0)
    _at_least("evaluation.corrupted_images", config.evaluation.corrupted_images, 1)
    _positive("optimizer.lr", optimizer.lr)
    _positive("checkpoint_seconds", config.checkpoint_seconds)
    _positive("recipe.schedule.gamma", schedule.gamma)
    _positive("recipe.schedule.decay_epochs", schedule.decay_epochs)
    if recipe.clip_norm is not None:
        _positive("recipe.clip_norm", recipe.clip_norm)
    if optimizer.lr_reference_batch is not None:
        _at_least("optimizer.lr_reference_batch", optimizer.lr_reference_batch, 1)
    if recipe.ema_decay is not None:
        _within("recipe.ema_decay", recipe.ema_decay, 0.0, 1.0, open_end=True)
    if not (math.isfinite(optimizer.weight_decay) and optimizer.weight_decay >= 0):
        raise InvalidInput(f"optimizer.weight_decay: {optimizer.weight_decay} is negative; allowed: 0 or more")
    if not 0 <= schedule.warmup_epochs <= recipe.epochs:
        raise InvalidInput(
            f"recipe.schedule.warmup_epochs: {schedule.warmup_epochs} is outside 0..{recipe.epochs}, the run's epochs"
        )
    if recipe.batch_size % recipe.accumulate:
        raise InvalidInput(
            f"recipe.accumulate: {recipe.accumulate} does not divide recipe.batch_size {recipe.batch_size}"
        )


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0]


def _one_of(field_name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise unknown(field_name, value, allowed)


def _at_least(field_name: str, value: int, least: int) -> None:
    if value < least:
        raise InvalidInput(f"{field_name}: {value} is too small; the least is {least}")


def _positive(field_name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise InvalidInput(f"{field_name}: {value} is not a positive number")


def _within(field_name: str, value: float, low: float, high: float, open_end: bool = False) -> None:
    if not (low <= value < high or (value == high and not open_end)):
        raise InvalidInput(f"{field_name}: {value} is outside [{low:.20g}, {high:.20g}{')' if open_end else ']'}")


def _flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat[f"{prefix}{key}"] = value
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
    return flat
