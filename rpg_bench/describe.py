"""What a run says about itself."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator

from rpg_bench.config import TrainConfig
from rpg_bench.display import Display, duration
from rpg_bench.engine import Trainer
from rpg_bench.runs import RunFiles, run_hash
from rpg_bench.sharing import DofReport
from rpg_bench.tracking import Tracker


def heading(config: TrainConfig, accelerator: Accelerator) -> str:
    """One line: which run, what is trained, on what."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return (
        f"run {run_hash(config)}  {config.backbone.name} on {config.dataset.name}, {config.sharing.name}, "
        f"seed {config.seed}, "
        f"recipe {config.recipe.name}, {config.recipe.precision}, {accelerator.num_processes} x {device.type} ({name})"
    )


def training(config: TrainConfig, trainer: Trainer, report: DofReport, display: Display) -> None:
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


def result(config: TrainConfig, record: dict[str, Any], files: RunFiles, tracker: Tracker, display: Display) -> None:
    """Print the result and where everything lies."""
    final, dof = record["final"], record["dof"]
    newest = max(files.directory.glob("checkpoint-*.pt"), default=files.directory)
    display.say(
        f"{record['data']['evaluated_on']} top-1 {final['test_top1']:.2f} %  loss {final['test_loss']:.4f}  "
        f"with {dof['dof']:,} DoF ({dof['total']:,} trained in all) "
        f"{'for' if 'narrowed' not in dof else 'in place of'} {dof['slot_scalars']:,} weights  "
        f"in {duration(record['train_seconds'])} of training"
    )
    display.say(f"record      {files.record}")
    display.say(f"checkpoint  {newest}")
    display.say(f"tracking    {tracker.location or config.tracking.mode}")
