"""The one file that a run leaves in `results/records/`: what was run, on what, and what came out."""

from __future__ import annotations

import dataclasses
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rpg_bench.config import TrainConfig, without_paths
from rpg_bench.errors import InvalidInput
from rpg_bench.files import write_aside
from rpg_bench.finished import FORMAT
from rpg_bench.runs import run_hash
from rpg_bench.sharing import DofReport

if TYPE_CHECKING:
    from rpg_bench.engine import Trainer

_PACKAGES = ("rpg-bench", "torch", "torchvision", "timm", "numpy", "hydra-core", "wandb", "accelerate")


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record whole or not at all."""
    content = json.dumps({"format": FORMAT, **record}, indent=1, allow_nan=False) + "\n"
    try:
        write_aside(path, content.encode())
    except OSError as error:
        raise InvalidInput(f"results_dir: {path} cannot be written: {error.strerror}; the run is saved") from None


def make_record(
    config: TrainConfig,
    trainer: Trainer,
    report: DofReport,
    began: float,
    generalisation: Mapping[str, Any] | None = None,
    failure: str | None = None,
) -> dict[str, Any]:
    """Everything that the record of a run holds (design, section 6)."""
    position = trainer.position
    model = trainer.average.model if trainer.average is not None else trainer.plain
    keys = ("test_loss", "test_top1", "test_top5", "train_loss", "train_top1")
    final = {key: position.history[-1][key] for key in keys if position.history and key in position.history[-1]}
    best = max(position.history, key=lambda row: row["test_top1"], default=None)
    return {
        "hash": run_hash(config),
        "status": "failed" if failure else "finished",
        **({"failure": failure} if failure else {}),
        "sweep": config.sweep,
        "seed": config.seed,
        "config": without_paths(dataclasses.asdict(config)),
        "dof": report.to_dict(),
        "fingerprint": json.loads(bytes(trainer.plain.state_dict()["sharing._extra_state"].tolist())),
        "data": {
            "name": trainer.data.name,
            "train": trainer.data.train.samples,
            "evaluated": trainer.data.test.samples,
            "evaluated_on": trainer.data.evaluated_on,
            "classes": len(trainer.data.classes),
        },
        "final": final,
        "best": {"epoch": best["epoch"], "test_top1": best["test_top1"]} if best else None,
        **({"generalisation": dict(generalisation)} if generalisation else {}),
        "history": position.history,
        "steps": position.step,
        "train_seconds": round(position.train_seconds, 1),
        "session_seconds": round(time.monotonic() - began, 1),
        "images_per_second": round(position.trained_images / max(1e-9, position.train_seconds), 1),
        "peak_memory_bytes": _peak_memory(trainer.device),
        "artefact_bytes": _artefact_bytes(model),
        "processes": trainer.accelerator.num_processes,
        "device": trainer.device.type,
        "starts": position.starts,
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **provenance(),
    }


def provenance() -> dict[str, Any]:
    """Commit, versions and hardware of this process."""
    return {"git": _git(), "versions": _versions(), "hardware": _hardware()}


def _git() -> dict[str, Any] | None:
    """Commit of the source tree, and whether code or configuration differ from it. None for an installed wheel."""
    root = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "rpg_bench/__init__.py")
        changes = git("status", "--porcelain", "--", "rpg_bench", "configs", "pyproject.toml")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changes)}
    except (OSError, subprocess.SubprocessError):
        return None


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _hardware() -> dict[str, Any]:
    hardware: dict[str, Any] = {
        "machine": platform.machine(),
        "system": platform.system(),
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        hardware["cuda"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return hardware


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _artefact_bytes(model: nn.Module) -> int:
    """Size of the state_dict as one safetensors file: what has to be shipped."""
    from safetensors.torch import save

    once = {value.data_ptr(): (name, value) for name, value in model.state_dict().items()}
    return len(save({name: value.contiguous() for name, value in once.values()}))
