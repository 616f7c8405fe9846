"""The parts of a run around training: device, data, resume, and what is said and recorded."""

from __future__ import annotations

import dataclasses
import json
import random
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast
from torch import Tensor, nn

from rpg_bench import checkpoint
from rpg_bench.backbones import idle_taps, undefined_in_cpu_bf16
from rpg_bench.config import TrainConfig
from rpg_bench.datasets import Data, load_data
from rpg_bench.display import Display, duration
from rpg_bench.engine import Trainer
from rpg_bench.errors import InvalidInput
from rpg_bench.records import provenance, read_record
from rpg_bench.runs import RunFiles, run_hash
from rpg_bench.sharing import DofReport
from rpg_bench.tracking import Tracker

# Left out of records: they say where files lay on one machine.
_PATHS = (("dataset", "root"), (None, "runs_dir"), (None, "results_dir"))


def accelerator(config: TrainConfig) -> Accelerator:
    """Choose the device; under torchrun, join the other processes.

    Raises:
        InvalidInput: the device is not there, or the batch does not divide over the processes.
    """
    available = {
        "auto": True,
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available[config.device]:
        usable = ", ".join(name for name, there in available.items() if there)
        raise InvalidInput(f"device: {config.device!r} is not available here; allowed: {usable}")
    AcceleratorState._reset_state(reset_partial_state=True)  # the runs of a sweep share a process
    made = Accelerator(cpu=config.device == "cpu")
    parts = config.recipe.accumulate * made.num_processes
    if config.recipe.batch_size % parts:
        raise InvalidInput(
            f"recipe.batch_size: {config.recipe.batch_size} does not divide into {parts} parts "
            f"({made.num_processes} processes x recipe.accumulate {config.recipe.accumulate})"
        )
    return made


def seed_everything(seed: int) -> None:
    """Seed every global random generator; the data has streams of its own."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def load(config: TrainConfig, accelerator: Accelerator) -> Data:
    """Load this process's share of the data; a download is done by one process per machine."""
    with accelerator.local_main_process_first():
        return load_data(
            config.dataset,
            config.recipe.augment,
            batch_size=config.recipe.batch_size // config.recipe.accumulate // accelerator.num_processes,
            seed=config.seed,
            device=accelerator.device,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
        )


def first_batch(data: Data, accelerator: Accelerator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the main process's first training batch on every process, so that all score weights alike."""
    images, labels = next(data.train.epoch(0))
    yield broadcast(images), broadcast(labels)


def check_taps(config: TrainConfig, model: nn.Module, data: Data, accelerator: Accelerator, display: Display) -> None:
    """Say so if kernel taps never meet data: DoF cannot be compared then.

    Raises:
        InvalidInput: their gradients would be undefined on this device.
    """
    if config.recipe.precision == "bf16" and accelerator.device.type == "cpu":
        undefined = undefined_in_cpu_bf16(model, data.channels, data.image_size)
        if undefined:
            raise InvalidInput(
                f"recipe.precision: bf16 on a CPU leaves gradients of {undefined[0]} undefined, a strided convolution "
                "over a single pixel; use recipe.precision=fp32, backbone.stem=cifar, or larger images"
            )
    idle, scalars = idle_taps(model, data.channels, data.image_size)
    if idle:
        display.say(
            f"warning: at {data.image_size}x{data.image_size} pixels {idle:,} of {scalars:,} convolution weights never "
            "meet data, which favours small rings; use backbone.stem=cifar or half, or larger images"
        )


def check_output(config: TrainConfig, files: RunFiles, model: nn.Module) -> None:
    """Make the output directories and see that there is room for the checkpoints.

    Raises:
        InvalidInput: no permission or no space.
    """
    state = sum(t.numel() * t.element_size() for t in model.state_dict().values() if isinstance(t, torch.Tensor))
    needed = 4 * (checkpoint.KEPT + 1) * state  # weights, two moments and an average at most
    for field, folder in (("runs_dir", files.directory), ("results_dir", files.record.parent)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / ".probe"
            probe.write_bytes(b"\0" * 4096)
            probe.unlink()
            free = shutil.disk_usage(folder).free
        except OSError as error:
            raise InvalidInput(f"{field}: cannot write to {folder}: {error.strerror}") from None
        if field == "runs_dir" and free < needed:
            raise InvalidInput(
                f"{field}: {free / 2**20:,.0f} MiB free at {folder}, checkpoints need {needed / 2**20:,.0f} MiB"
            )


def resume(config: TrainConfig, trainer: Trainer, files: RunFiles, display: Display) -> None:
    """Put the trainer where the run was left; a failed or forced run starts again."""
    main = trainer.accelerator.is_main_process
    failed = (read_record(files.record) or {}).get("status") == "failed"
    if (config.force or failed) and main:
        checkpoint.remove_all(files.directory)
    trainer.accelerator.wait_for_everyone()
    state = checkpoint.load_newest(files.directory, display.say)
    if state is not None:
        trainer.restore(state)
        position = trainer.position
        display.say(f"continuing in epoch {position.epoch + 1} after step {position.step} of {trainer.steps}")
    commit = (provenance()["git"] or {}).get("commit")
    trainer.position.starts.append({"step": trainer.position.step, "commit": commit})


def describe(config: TrainConfig, accelerator: Accelerator) -> str:
    """One line: what is trained, on what."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return (
        f"{config.backbone.name} on {config.dataset.name}, {config.sharing.name}, seed {config.seed}, "
        f"recipe {config.recipe.name}, {config.recipe.precision}, {accelerator.num_processes} x {device.type} ({name})"
    )


def describe_training(config: TrainConfig, trainer: Trainer, report: DofReport, display: Display) -> None:
    """Print the DoF table, the data, and what weight decay applies to."""
    data, recipe = trainer.data, config.recipe
    display.dof_table(report, f"{config.backbone.name}: what is trained")
    display.say(
        f"data: {data.name}, {data.train.samples:,} training and {data.test.samples:,} {data.evaluated_on} images, "
        f"{len(data.classes)} classes, {data.channels}x{data.image_size}x{data.image_size}"
    )
    display.say(
        f"training: {recipe.epochs} epochs of {trainer.steps_per_epoch} steps, batch {recipe.batch_size}, "
        f"{config.optimizer.name}, lr {trainer.rate:g} ({recipe.schedule.name})"
    )
    for group in trainer.groups:
        names = [name for name, _ in group.parameters]
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        display.say(
            f"{group.title} {group.weight_decay:g}: {group.scalars:,} scalars in {len(names)} tensors ({shown})"
        )


def record(
    config: TrainConfig, trainer: Trainer, report: DofReport, began: float, failure: str | None = None
) -> dict[str, Any]:
    """Everything that the record of a run holds (design, section 6)."""
    position = trainer.position
    settings = dataclasses.asdict(config)
    for section, key in _PATHS:
        (settings[section] if section else settings).pop(key)
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
        "config": settings,
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


def describe_result(
    config: TrainConfig, record: dict[str, Any], files: RunFiles, tracker: Tracker, display: Display
) -> None:
    """Print the result and where everything lies."""
    final, dof = record["final"], record["dof"]
    newest = max(files.directory.glob("checkpoint-*.pt"), default=files.directory)
    display.say(
        f"{record['data']['evaluated_on']} top-1 {final['test_top1']:.2f} %  loss {final['test_loss']:.4f}  "
        f"with {dof['dof']:,} DoF ({dof['total']:,} trained in all) for {dof['slot_scalars']:,} weights  "
        f"in {duration(record['train_seconds'])} of training"
    )
    display.say(f"record      {files.record}")
    display.say(f"checkpoint  {newest}")
    display.say(f"tracking    {tracker.location or config.tracking.mode}")


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _artefact_bytes(model: nn.Module) -> int:
    """Size of the state_dict as one safetensors file: what has to be shipped."""
    from safetensors.torch import save

    return len(save({name: value.contiguous() for name, value in model.state_dict().items()}))
