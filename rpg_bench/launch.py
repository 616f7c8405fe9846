"""The steps of a run before training: device, seed, data, checks, resume."""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast, broadcast_object_list, gather_object
from torch import Tensor, nn

from rpg_bench import checkpoint, processes
from rpg_bench.backbones import idle_taps, undefined_in_cpu_bf16
from rpg_bench.config import TrainConfig
from rpg_bench.datasets import Data, load_data
from rpg_bench.display import Display
from rpg_bench.engine import Trainer
from rpg_bench.errors import Failed, InvalidInput
from rpg_bench.files import remove_parts
from rpg_bench.finished import read_record
from rpg_bench.lease import Held, Lease
from rpg_bench.records import provenance
from rpg_bench.runs import RunFiles
from rpg_bench.slurm import patience

Result = TypeVar("Result")


def accelerator(config: TrainConfig) -> Accelerator:
    """Choose the device; under torchrun, join the other processes.

    Raises:
        InvalidInput: the device is not there, or the batch does not divide over the processes.
    """
    faster = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    available = {"auto": True, "cpu": True, **faster}
    if not available[config.device]:
        usable = ", ".join(name for name, there in available.items() if there)
        raise InvalidInput(f"device: {config.device!r} is not available here; allowed: {usable}")
    AcceleratorState._reset_state(reset_partial_state=True)  # the runs of a sweep share a process
    made = Accelerator(cpu=config.device == "cpu" or not any(faster.values()))
    if made.num_processes != processes.count():
        raise Failed(f"{processes.count()} processes were started, but {made.num_processes} joined to train the run")
    parts = config.recipe.accumulate * made.num_processes
    if config.recipe.batch_size % parts:
        raise InvalidInput(
            f"recipe.batch_size: {config.recipe.batch_size} does not divide into {parts} parts "
            f"({made.num_processes} processes x recipe.accumulate {config.recipe.accumulate})"
        )
    return made


def together(accelerator: Accelerator, action: Callable[[], Result]) -> Result:
    """Do something in every process; what one of them cannot do, all give up with its reason.

    Raises:
        InvalidInput: in one process; on every process.
    """
    if accelerator.num_processes == 1:
        return action()
    reason = result = None
    with accelerator.local_main_process_first():  # what one process fetches, those of its machine find
        try:
            result = action()
        except InvalidInput as error:
            reason = str(error)
    for refused in gather_object([reason]):
        if refused is not None:
            raise InvalidInput(refused)
    return cast(Result, result)


def seed_everything(seed: int) -> None:
    """Seed every global random generator; the data has streams of its own."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def load(config: TrainConfig, accelerator: Accelerator) -> Data:
    """Load this process's share of the data; a download is done by one process per machine."""

    def load_share() -> Data:
        return load_data(
            config.dataset,
            config.recipe.augment,
            batch_size=config.recipe.batch_size // config.recipe.accumulate // accelerator.num_processes,
            seed=config.seed,
            device=accelerator.device,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
        )

    return together(accelerator, load_share)


def first_batch(data: Data, accelerator: Accelerator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the main process's first training batch on every process, so that all score weights alike."""
    images, labels = next(data.train.epoch(0))
    yield broadcast(images), broadcast(labels)


def check_taps(config: TrainConfig, model: nn.Module, data: Data, accelerator: Accelerator, display: Display) -> None:
    """Say so if kernel taps never meet data: DoF cannot be compared then.

    Raises:
        InvalidInput: their gradients would be undefined on this device.
    """
    side = min([data.image_size, *config.recipe.train_sizes])
    field = "dataset.image_size" if side == data.image_size else "recipe.train_sizes"
    if config.recipe.precision == "bf16" and accelerator.device.type == "cpu":
        undefined = undefined_in_cpu_bf16(model, data.channels, side, field)
        if undefined:
            raise InvalidInput(
                f"recipe.precision: bf16 on a CPU leaves gradients of {undefined[0]} undefined, a strided convolution "
                "over a single pixel; use recipe.precision=fp32, backbone.stem=cifar, or larger images"
            )
    idle, scalars = idle_taps(model, data.channels, side, field)
    if idle:
        display.say(
            f"warning: at {side}x{side} pixels {idle:,} of {scalars:,} convolution weights never "
            "meet data, which favours small rings; use backbone.stem=cifar or half, or larger images"
        )


def check_output(config: TrainConfig, files: RunFiles, model: nn.Module, accelerator: Accelerator) -> None:
    """Let the main process make the output directories and see that there is room for the checkpoints.

    Raises:
        InvalidInput: no permission or no space.
    """
    together(accelerator, lambda: _make_output(config, files, model) if accelerator.is_main_process else None)


def _make_output(config: TrainConfig, files: RunFiles, model: nn.Module) -> None:
    state = sum(t.numel() * t.element_size() for t in model.state_dict().values() if isinstance(t, torch.Tensor))
    most = checkpoint.KEPT + 2  # with the best, and the one that is being written
    needed = 4 * most * state  # weights, two moments and an average at most
    made: list[Path] = []
    try:
        for field, folder in (("runs_dir", files.directory), ("results_dir", files.record.parent)):
            made += reversed([path for path in (folder, *folder.parents) if not path.exists()])
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder) as probe:  # its own name: other runs probe too
                    probe.write(b"\0" * 4096)
                free = shutil.disk_usage(folder).free
            except OSError as error:
                raise InvalidInput(f"{field}: cannot write to {folder}: {error.strerror}") from None
            if field == "runs_dir" and free < needed:
                raise InvalidInput(
                    f"{field}: {free / 2**20:,.0f} MiB free at {folder}, checkpoints need {needed / 2**20:,.0f} MiB"
                )
    except InvalidInput:
        for path in reversed(made):
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


@contextlib.contextmanager
def held(files: RunFiles, accelerator: Accelerator) -> Iterator[Lease | None]:
    """Within this block no other process trains the run. The main process has the lease.

    Raises:
        Held: another has it; on every process.
    """
    with contextlib.ExitStack() as stack:
        lease, refused = None, None
        if accelerator.is_main_process:
            try:
                lease = stack.enter_context(Lease(files.directory, patience()))
            except (Held, InvalidInput) as error:
                refused = error
        (message,) = broadcast_object_list([str(refused) if refused else None])
        if message is not None:
            raise refused or Failed(message)
        yield lease


def resume(config: TrainConfig, trainer: Trainer, files: RunFiles, display: Display) -> None:
    """Put the trainer where the run was left; a failed or forced run starts again."""
    main = trainer.accelerator.is_main_process
    record = read_record(files.record)
    # Without the record, a forced run that is stopped is continued by the same command.
    if record is not None and (config.force or record["status"] == "failed") and main:
        try:
            checkpoint.remove_all(files.directory)
            files.record.unlink(missing_ok=True)
        except OSError as error:
            raise InvalidInput(f"runs_dir: {error.filename} cannot be removed: {error.strerror}") from None
    if main:
        remove_parts(files.directory)
        remove_parts(files.record.parent, f"{files.record.name}.*")
    trainer.accelerator.wait_for_everyone()
    state = checkpoint.load_newest(files.directory, display.say)
    if state is not None:
        trainer.restore(state)
        position = trainer.position
        display.say(f"continuing in epoch {position.epoch + 1} after step {position.step} of {trainer.steps}")
    commit = (provenance()["git"] or {}).get("commit")
    trainer.position.starts.append({"step": trainer.position.step, "commit": commit})
