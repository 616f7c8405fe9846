"""The runs that an experiment file asks for, told apart from all others by their hashes."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict

from rpg_bench.budget import canonical_dof
from rpg_bench.command_line import register_schema
from rpg_bench.config import TrainConfig, config_directory, from_hydra, validate
from rpg_bench.errors import unknown
from rpg_bench.report.records import Record, Records
from rpg_bench.runs import run_hash
from rpg_bench.sweeper import common_overrides, expand

__all__ = ["Case", "experiments", "grid_keys", "has_recipe", "read_experiment", "read_runs", "recorded", "under"]

PLAIN_GROUPS = ("backbone", "sharing")  # whose choice changes nothing but the node of their name

_recipe: ContextVar[str] = ContextVar("recipe", default="cpu")


@dataclass(frozen=True)
class Case:
    """One configuration of an experiment, whatever its seed."""

    overrides: tuple[str, ...]
    config: TrainConfig

    @property
    def label(self) -> str:
        """The scheme, and the options that the case sets; a rank stands for a budget, and is no part of it."""
        options = [text.removeprefix("sharing.") for text in self.overrides if text.startswith("sharing.")]
        options = [option for option in options if not option.startswith("rank=")]
        return " ".join([f"`{self.config.sharing.name}`", *(option.replace("=", " ") for option in options)])


def experiments() -> Sequence[str]:
    """The names of all of them."""
    return sorted(path.stem for path in (config_directory() / "experiment").glob("*.yaml"))


def read_experiment(name: str) -> Sequence[Case]:
    """The cases of `configs/experiment/NAME.yaml`, in its order.

    Raises:
        InvalidInput: there is no such experiment, or one of its cases cannot be composed.
    """
    return _read(name, grid=False, recipe=_recipe.get())


def read_runs(name: str) -> Sequence[Case]:
    """Every run of an experiment: its cases at each point of its grid, in the order of the sweep.

    Raises:
        InvalidInput: there is no such experiment, or one of its runs cannot be composed.
    """
    return _read(name, grid=True, recipe=_recipe.get())


@contextlib.contextmanager
def under(recipe: str) -> Iterator[None]:
    """Within this block experiments are read under their own recipe (`cpu`) or under the paper's (`paper`)."""
    before = _recipe.set(recipe)
    try:
        yield
    finally:
        _recipe.reset(before)


def has_recipe(name: str, recipe: str) -> bool:
    """Whether the experiment can be run under it."""
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        return recipe == "cpu" or bool(_composer(name).sweeper.paper)


def grid_keys(name: str) -> Sequence[str]:
    """What the experiment sweeps besides its cases, such as the seed."""
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        return tuple(str(key) for key in _composer(name).sweeper.params or {})


@functools.cache
def _read(name: str, *, grid: bool, recipe: str) -> Sequence[Case]:
    if name not in experiments():
        raise unknown("experiment", name, experiments())
    register_schema()
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        composer = _composer(name)
        sweeper = composer.sweeper
        cases = OmegaConf.to_container(sweeper.cases)
        assert isinstance(cases, list)
        params = [f"{key}={value}" for key, value in (sweeper.params or {}).items()] if grid else []
        common = common_overrides(recipe, sweeper.paper)
        shown = len(common)  # what all cases set is no part of their names
        return tuple(
            Case(tuple(run[: len(run) - shown]), composer.config(run))
            for run in expand(cases, params, OverridesParser.create(), common)
        )


@functools.cache
def _composer(name: str) -> _Composer:
    return _Composer(name)


class _Composer:
    """What Hydra composes for each case of an experiment.

    It takes a tenth of a second each time, and the report asks for hundreds of cases. So cases that differ in nothing
    but their budget and seed are composed once, and so are those that differ in their scheme or network: a file of
    these groups is a plain mapping, and besides it only the schema and the experiment itself say anything of its node
    (a test holds data sets and recipes to that), so that the node of another choice is made of these three.
    """

    def __init__(self, name: str) -> None:
        self._base = [f"+experiment={name}"]
        own = OmegaConf.to_container(OmegaConf.load(config_directory() / "experiment" / f"{name}.yaml"))
        assert isinstance(own, dict)
        self._own = own
        self._parser = OverridesParser.create()
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._configs: dict[tuple[str, ...], TrainConfig] = {}
        composed = compose("train", self._base, return_hydra_config=True)
        self.sweeper = composed.hydra.sweeper
        with open_dict(composed):
            del composed["hydra"]
        self._composed[()] = composed

    def config(self, overrides: Sequence[str]) -> TrainConfig:
        numbers: dict[str, Any] = {}
        others: list[str] = []
        for text, override in zip(overrides, self._parser.parse_overrides(list(overrides)), strict=True):
            if override.type is OverrideType.CHANGE and override.key_or_group in ("dof", "seed"):
                numbers[override.key_or_group] = override.value()
            else:
                others.append(text)
        key = tuple(others)
        if key not in self._configs:
            self._configs[key] = from_hydra(self._compose(others))
        if numbers.get("dof") is not None:
            numbers["dof"] = canonical_dof(numbers["dof"])
        config = dataclasses.replace(self._configs[key], **numbers)
        validate(config)
        return config

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        files: list[str] = []  # overrides that choose one
        nodes: dict[str, str] = {}  # the choice in each plain group
        values: list[Override] = []
        for text, override in zip(overrides, self._parser.parse_overrides(list(overrides)), strict=True):
            plain = override.type is OverrideType.CHANGE and override.package is None
            if plain and override.key_or_group in PLAIN_GROUPS:
                nodes[override.key_or_group] = str(override.value())
            elif plain and not (config_directory() / override.key_or_group).is_dir():
                values.append(override)
            else:
                files.append(text)
        key = tuple(files)
        if key not in self._composed:
            self._composed[key] = compose("train", [*self._base, *files])
        config = copy.deepcopy(self._composed[key])
        for group, choice in nodes.items():
            config[group] = OmegaConf.merge(_schema()[group], _chosen(group, choice), self._own.get(group) or {})
        for override in values:
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        return config


def _schema() -> DictConfig:
    node: DictConfig = ConfigStore.instance().load("schema.yaml").node
    return node


@functools.cache
def _chosen(group: str, choice: str) -> Any:
    """The file of that choice.

    Raises:
        InvalidInput: there is none.
    """
    known = sorted(path.stem for path in (config_directory() / group).glob("*.yaml"))
    if choice not in known:
        raise unknown(group, choice, known)
    return OmegaConf.load(config_directory() / group / f"{choice}.yaml")


def recorded(case: Case, records: Records, seeds: Iterable[int] | None = None) -> list[Record]:
    """The records of a case, by seed; of any seed, unless they are given."""
    names = [run_hash(dataclasses.replace(case.config, seed=seed)) for seed in seeds or records.seeds]
    return [records.found[name] for name in names if name in records.found]
