"""The one file that a run leaves in `results/records/`: what was run, on what, and what came out."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from rpg_bench.checkpoint import write_aside
from rpg_bench.errors import InvalidInput

FORMAT = 1
_PACKAGES = ("rpg-bench", "torch", "torchvision", "timm", "numpy", "hydra-core", "wandb", "accelerate")


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record whole or not at all."""
    write_aside(path, (json.dumps({"format": FORMAT, **record}, indent=1, allow_nan=False) + "\n").encode())


def read_record(path: Path) -> dict[str, Any] | None:
    """Read a record; None if there is none.

    Raises:
        InvalidInput: the file is no record of this format.
    """
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InvalidInput(f"results_dir: {path} is not a readable record ({error}); move it away") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT or "status" not in record:
        raise InvalidInput(f"results_dir: {path} is not a record of format {FORMAT}; move it away")
    return record


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
