"""What identifies a run, and where its files lie."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rpg_bench.config import NOT_IN_HASH, SharingConfig, TrainConfig, config_directory


def run_hash(config: TrainConfig) -> str:
    """Hash what affects the result: the seed and every other field that is not at its default."""
    return hash_of(dataclasses.asdict(config))


def hash_of(settings: Mapping[str, Any]) -> str:
    """The hash of a configuration that is a mapping, as a record has it."""
    text = json.dumps(_identity(settings), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def identity(config: TrainConfig) -> dict[str, Any]:
    """The fields that the hash covers, by dotted name.

    An option of the scheme at its own default does not count either.
    """
    return _identity(dataclasses.asdict(config))


def _identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    flat = _flatten(settings)
    defaults = {**_defaults(), **_flatten(_scheme_options(settings["sharing"]["name"]), "sharing.options.")}
    changed = {
        name: value
        for name, value in flat.items()
        if value != defaults.get(name, dataclasses.MISSING)
        and not any(name == skipped or name.startswith(f"{skipped}.") for skipped in NOT_IN_HASH)
    }
    return {**changed, "seed": settings["seed"]}


@functools.cache
def _defaults() -> dict[str, Any]:
    return _flatten(dataclasses.asdict(TrainConfig()))


@functools.cache
def _scheme_options(name: str) -> dict[str, Any]:
    """The defaults of a scheme's options, as `configs/sharing/NAME.yaml` states them. A test holds that file to the
    scheme itself, whose import takes seconds."""
    file = config_directory() / "sharing" / f"{name}.yaml"
    if not file.is_file():
        return {}
    values: Any = OmegaConf.to_container(OmegaConf.load(file))
    common = {entry.name for entry in dataclasses.fields(SharingConfig)}
    return {key: value for key, value in values.items() if key not in common}


@dataclass(frozen=True)
class RunFiles:
    """Every path that a run writes."""

    directory: Path  # runs/HASH
    record: Path  # results/records/HASH.json

    @classmethod
    def of(cls, config: TrainConfig) -> RunFiles:
        """The paths of a configuration's run."""
        name = run_hash(config)
        return cls(Path(config.runs_dir) / name, Path(config.results_dir) / "records" / f"{name}.json")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat.update(_flatten(value, f"{prefix}{key}."))
        elif value != {}:
            flat[f"{prefix}{key}"] = value
    return flat
