"""Train one network through a sharing scheme and record it.

    python -m rpg_bench.train backbone=resnet18 sharing=rpg_global dof=36k

The run is named by a hash of its configuration. A finished run is not run again; an unfinished one
is continued where it was; one that another process trains is left to it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from rpg_bench.command_line import is_sweep, run_command
from rpg_bench.compiler import without_compiler
from rpg_bench.config import EvaluationConfig, TrainConfig, from_hydra
from rpg_bench.finished import finished_record
from rpg_bench.host import prepare_host
from rpg_bench.lazy import without_collection, without_wandb
from rpg_bench.lease import NAME, Held, Lease, holder_of
from rpg_bench.progress import Progress, failure_noted
from rpg_bench.runs import RunFiles, run_hash
from rpg_bench.slurm import patience

if TYPE_CHECKING:
    from rpg_bench.display import Display
    from rpg_bench.engine import Trainer
    from rpg_bench.sharing import DofReport


def train(composed: DictConfig) -> float:
    """Run what the configuration says, unless it is finished; return the final top-1 in percent."""
    config = from_hydra(composed)
    finished = finished_record(config)
    if finished is not None:
        return say_finished(config, finished)
    refuse_held(config)
    with failure_noted(config, in_sweep=is_sweep()):
        return run(config)


def refuse_held(config: TrainConfig) -> None:
    """See, before torch is imported, whether another process trains this run.

    Raises:
        Held: one does.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1" or patience():
        return  # it may be held by another process of ours, or by one that is dead for all that will be known soon
    directory = RunFiles.of(config).directory
    holder = holder_of(directory)
    if holder is not None:
        raise Held(directory / NAME, holder)


def say_finished(config: TrainConfig, finished: Mapping[str, Any]) -> float:
    """Say that the run is finished; return its top-1."""
    if os.environ.get("RANK", "0") == "0":
        print(
            f"run {run_hash(config)} is finished: top-1 {finished['final']['test_top1']:.2f} % "
            f"({RunFiles.of(config).record}); force=true runs it again"
        )
    return float(finished["final"]["test_top1"])


def run(config: TrainConfig) -> float:
    """Seed, data, model, share, fit, record."""
    prepare_host()
    # Torch and timm take seconds to import; a mistake in the configuration is reported before.
    with without_collection():
        from rpg_bench import describe, launch
        from rpg_bench.attention import use_plain_attention
        from rpg_bench.backbones import blueprint
        from rpg_bench.display import Display
        from rpg_bench.engine import Trainer
        from rpg_bench.generalisation import check_evaluation
        from rpg_bench.sharing import dof_report, get_scheme, share
        from rpg_bench.small_maps import use_matrix_products

    began = time.monotonic()
    files = RunFiles.of(config)
    accelerator = launch.accelerator(config)
    display = Display(quiet=not accelerator.is_main_process)
    display.say(describe.heading(config, accelerator))
    with without_wandb(), without_collection():
        import timm  # noqa: F401  (first here, and after the heading: it takes the longest)

    launch.seed_everything(config.seed)
    data = launch.load(config, accelerator)
    check_evaluation(config.evaluation, data)
    network = blueprint(config, classes=len(data.classes), channels=data.channels, image_size=data.image_size)
    model, dof = get_scheme(config.sharing.name, **config.sharing.options).network(network, config.dof)
    if accelerator.device.type == "cpu":
        use_matrix_products(model)
        if config.recipe.precision == "bf16":
            use_plain_attention(model)
    launch.check_taps(config, model, data, accelerator, display)
    share(
        model,
        config.sharing.name,
        dof,
        seed=config.seed if config.sharing.seed is None else config.sharing.seed,
        include=config.sharing.include,
        exclude=config.sharing.exclude,
        batches=lambda: launch.first_batch(data, accelerator),
        **config.sharing.options,
    )
    report = dof_report(model)
    trainer = Trainer(config, model, data, accelerator, files.directory)
    launch.check_output(config, files, model, accelerator)
    describe.training(config, trainer, report, display)
    with launch.held(files, accelerator) as lease:
        finished = finished_record(config)  # by another process, since this one began
        if finished is not None:
            return say_finished(config, finished)
        launch.resume(config, trainer, files, display)
        if accelerator.is_main_process:
            trainer.report = Progress(config, trainer).report
        record = fit(config, trainer, report, display, lease, began)
    return float(record["final"]["test_top1"])


def fit(
    config: TrainConfig,
    trainer: Trainer,
    report: DofReport,
    display: Display,
    lease: Lease | None,
    began: float,
) -> dict[str, Any]:
    """Train to the end, measure, and write the record."""
    from rpg_bench import checkpoint, describe, tracking
    from rpg_bench.engine import Diverged
    from rpg_bench.generalisation import held_evaluation, measure_generalisation
    from rpg_bench.records import make_record, write_record
    from rpg_bench.signals import Interrupted, StopRequest

    files, main_process = RunFiles.of(config), trainer.accelerator.is_main_process
    tracker = tracking.tracker(config, trainer, report, display.say if main_process else None)
    progress = display.training(trainer.steps, trainer.position.step)
    try:
        with StopRequest() as stop, progress:
            trainer.fit(display, tracker, stop, lease)
    except Interrupted as interruption:
        tracker.finish(exit_code=interruption.exit_code)
        display.say(f"{interruption}; saved in {files.directory}. Run the same command again to continue.")
        raise
    except Diverged as divergence:
        if main_process:
            write_record(files.record, make_record(config, trainer, report, began, failure=str(divergence)))
        tracker.finish({"status": "failed"}, exit_code=1)
        raise
    except Exception:  # lost to another process, or no room for a checkpoint: the next run of a sweep has its own
        tracker.finish(exit_code=1)
        raise
    if config.evaluation != EvaluationConfig():
        display.say("trained; measuring what evaluation asks for, which takes minutes")
    measured = measure_generalisation(trainer, config.evaluation, held_evaluation(files.record))
    record = make_record(config, trainer, report, began, measured)
    if main_process:
        write_record(files.record, record)
        checkpoint.keep_only(files.directory, {trainer.position.step, trainer.best_step or 0})
    tracker.finish(
        {
            "status": "finished",
            "dof": report.dof,
            "total": report.total,
            "top1": record["final"]["test_top1"],
            **record["final"],
        }
    )
    describe.result(config, record, files, tracker, display)
    return record


def main() -> None:
    """The command `python -m rpg_bench.train`."""
    with without_compiler():
        run_command(train)
    # Not after each run: the runs of a sweep share their processes.
    if "torch" in sys.modules:
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()


if __name__ == "__main__":
    main()
