"""`data`: images per second of the pipeline, and whole training loops against bare steps."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from rpg_bench.benchmarks.networks import SMALL, in_format, random_batch, resnet, training_step
from rpg_bench.benchmarks.process import in_a_lasting_process
from rpg_bench.benchmarks.result import HIGHER, Figure, Result, Settings
from rpg_bench.benchmarks.synthetic import synthetic_data
from rpg_bench.benchmarks.timing import Contestant, Ratio, Times, in_turn
from rpg_bench.benchmarks.trainers import WORKERS, whole_trainer
from rpg_bench.datasets import Batches
from rpg_bench.sharing import share

TITLE = "Data path and whole training loops of ResNet18"
PIPELINE_BOUND = 20.0  # times the images per second that the step consumes, at least
EPOCH_BOUND = 1.08  # times the bare steps, at most
PLAIN_BOUND = 2.5  # times as long as ours, at least, for the plain loop
BATCH_SIZE = 128
PLAIN_STEPS = {"half": 40, "cifar": 20}  # of an epoch beside the plain loop


def run(settings: Settings) -> Result:
    """The pipeline against a step; then a whole epoch against its bare steps, and against a plain loop."""
    figures, times = _pipeline(settings)
    if not settings.short:
        for found_figures, found_times in (_epoch(settings), _plain(settings), _convolution(settings)):
            figures += found_figures
            times |= found_times
    details = {
        "network": "resnet18",
        "batch_size": BATCH_SIZE,
        "images": "noise with CIFAR-100's shape; crop with 4 pixels of padding, flip, normalise",
        "plain loop": f"float32, a process of its own, PIL in {WORKERS} worker processes, a loss read after each step; "
        "evaluation and checkpoint as in ours",
        "convolution": "3 x 3, 128 channels, maps of 16 x 16, both ways, torch's own",
        "epoch": "one call of the trainer: steps, evaluation of 16 images, one checkpoint",
    }
    return Result(tuple(figures), times, details)


def _pipeline(settings: Settings) -> tuple[list[Figure], dict[str, Times]]:
    batches = _endless(synthetic_data(10_000 if settings.short else 50_000, BATCH_SIZE, settings.device).train)
    contestants: dict[str, Contestant] = {"pipeline batch": lambda: next(batches)}
    # The short form's step has a quarter of the images: a figure to compare with itself, not with the bound.
    images, labels = random_batch(BATCH_SIZE // (4 if settings.short else 1), settings.device)
    for stem in ("half",) if settings.short else ("half", "cifar"):
        contestants[f"{stem} step"] = training_step(resnet(stem, settings.device), images, labels)
    times = in_turn(contestants, settings.device, rounds=settings.rounds(15, 8))
    figures = [
        Figure.ratio(
            f"{stem} images per second of the pipeline alone",
            Ratio.of(times[f"{stem} step"], times["pipeline batch"]),
            "x those of the step",
            better=HIGHER,
            bound=None if settings.short else PIPELINE_BOUND,
        )
        for stem in ("half", "cifar")
        if f"{stem} step" in times
    ]
    return figures, times


def _epoch(settings: Settings) -> tuple[list[Figure], dict[str, Times]]:
    steps = 20
    images, labels = random_batch(BATCH_SIZE, settings.device)
    bare = training_step(share(resnet("half", settings.device), "rpg_global", SMALL), images, labels)

    def bare_steps() -> None:
        for _ in range(steps):
            bare()

    with tempfile.TemporaryDirectory() as folder:
        data = synthetic_data(BATCH_SIZE * steps, BATCH_SIZE, settings.device)
        network = share(resnet("half", settings.device), "rpg_global", SMALL)
        epoch = whole_trainer(network, data, BATCH_SIZE, settings.device, Path(folder))
        contestants: dict[str, Contestant] = {"bare steps": bare_steps, "whole trainer": epoch}
        times = in_turn(contestants, settings.device, rounds=5, warmup=1)
    ratio = Ratio.of(times["whole trainer"], times["bare steps"])
    figure = Figure.ratio("half epoch of the whole trainer", ratio, "x its bare steps", bound=EPOCH_BOUND)
    return [figure], {f"half {steps} {name}": value for name, value in times.items()}


def _plain(settings: Settings) -> tuple[list[Figure], dict[str, Times]]:
    figures: list[Figure] = []
    times: dict[str, Times] = {}
    for stem in ("half", "cifar"):
        found = _plain_beside_ours(stem, settings)
        for network in ("dense", "ring 36k"):
            ratio = Ratio.of(found[f"{network} plain"], found[f"{network} ours"])
            name = f"{stem} {network}: plain float32 loop"
            figures.append(Figure.ratio(name, ratio, "x our trainer", better=HIGHER, bound=PLAIN_BOUND))
        times |= {f"{stem} {PLAIN_STEPS[stem]} steps {name}": value for name, value in found.items()}
    return figures, times


def _plain_beside_ours(stem: str, settings: Settings) -> dict[str, Times]:
    steps = PLAIN_STEPS[stem]
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        contestants: dict[str, Contestant] = {}
        for name, dof in {"dense": None, "ring 36k": SMALL}.items():
            ours = share(resnet(stem, settings.device), "rpg_global" if dof else "none", dof)
            data = synthetic_data(BATCH_SIZE * steps, BATCH_SIZE, settings.device)
            directory = Path(folder) / name
            contestants[f"{name} ours"] = whole_trainer(ours, data, BATCH_SIZE, settings.device, directory)
            plain = {"stem": stem, "batch_size": BATCH_SIZE, "steps": steps, "device": settings.device.type}
            process = in_a_lasting_process("plain_child", {**plain, "dof": dof, "directory": str(directory)})
            contestants[f"{name} plain"] = stack.enter_context(process)
        return in_turn(contestants, settings.device, rounds=3, warmup=1)


def _convolution(settings: Settings) -> tuple[list[Figure], dict[str, Times]]:
    """What bfloat16 alone brings on this machine, which limits how far a dense step can be ahead of the plain loop."""

    def contestant(dtype: torch.dtype, memory_format: torch.memory_format) -> Contestant:
        images = torch.randn(BATCH_SIZE, 128, 16, 16).to(settings.device, dtype, memory_format=memory_format)
        layer = in_format(torch.nn.Conv2d(128, 128, 3, padding=1, bias=False), memory_format).to(settings.device, dtype)
        images.requires_grad_()

        def both_ways() -> None:
            layer(images).sum().backward()

        return both_ways

    contestants = {
        "float32": contestant(torch.float32, torch.contiguous_format),
        "bfloat16": contestant(torch.bfloat16, torch.channels_last),
    }
    times = in_turn(contestants, settings.device, rounds=15)
    ratio = Ratio.of(times["float32"], times["bfloat16"])
    figure = Figure.ratio("one convolution in bfloat16", ratio, "x as fast as in float32", better=HIGHER)
    return [figure], {f"convolution in {name}": value for name, value in times.items()}


def _endless(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    for epoch in itertools.count():
        yield from batches.epoch(epoch)
