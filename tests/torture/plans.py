"""What each series does: a function of the seed and its number."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from torture.damage import DAMAGES

SIGNALS = {"SIGKILL": 4, "SIGTERM": 2, "SIGINT": 2, "SIGUSR2": 2}  # with their shares

TINY = (
    "backbone=timm",
    "backbone.name=test_resnet",
    "dof=5k",
    "dataset.subset=0.2",
    "dataset.image_size=8",
    "recipe.epochs=5",
    "recipe.batch_size=32",
    "device=cpu",
)
# Each with something that a checkpoint could forget; 40 steps, or 20.
VARIANTS: dict[str, tuple[str, ...]] = {
    "ring": TINY,
    "average": (
        *TINY,
        "recipe.accumulate=2",
        "recipe.ema_decay=0.9",
        "recipe.augment.mixup=0.8",
        "recipe.augment.cutmix=1.0",
        "recipe.augment.crop_padding=1",
        "+backbone.options.drop_rate=0.3",
    ),
    "transformer": (
        *TINY,
        "backbone.name=test_vit",
        "backbone.patch_size=4",
        "optimizer=adamw",
        "optimizer.lr=1e-3",
        "recipe.clip_norm=1.0",
        "+backbone.options.drop_path_rate=0.3",
        "+backbone.options.proj_drop_rate=0.3",
    ),
    "moving mask": (*TINY, "sharing=rigl", "dof=20%"),
    "dense in bf16": (*TINY, "sharing=none", "dof=null", "recipe.precision=bf16", "recipe.channels_last=true"),
}

# Calls on files, and when a process can be struck there.
CALLS: dict[str, tuple[str, ...]] = {
    "open checkpoint": ("before", "after"),
    "write checkpoint": ("within",),
    "fsync checkpoint": ("within",),
    "replace checkpoint": ("before", "after"),
    "unlink checkpoint": ("before", "after"),
    "open other": ("before",),
    "write other": ("within",),
    "replace other": ("before", "after"),
    "link lease": ("before", "after"),
    "unlink lease": ("before", "after"),  # also of a run that was stopped
    "open record": ("before", "after"),
    "write record": ("within",),
    "fsync record": ("within",),
    "replace record": ("before", "after"),
}
# With their shares.
PHASES = {"data": 2, "model": 2, "resume": 2, "step": 4, "evaluation": 3, "checkpoint": 4, "progress": 2, "record": 1}
ERRORS = ("ENOSPC", "EIO", "EROFS", "EACCES", "EDQUOT")
REPEATED = {"checkpoint": 6, "step": 8, "evaluation": 2, "progress": 6}  # what a run reaches more than once
CLOCKS = (-30.0, -86_400.0, -40 * 365 * 86_400.0, 86_400.0)


@dataclass(frozen=True)
class Round:
    """One start."""

    faults: tuple[dict[str, Any], ...] = ()  # as `faults.install` takes them
    signals: tuple[tuple[float, str], ...] = ()  # at a fraction of the time that an undisturbed start takes
    cold: bool = False
    clock: float = 0.0
    damage: str | None = None  # before it
    checkpoint_seconds: float = 60.0
    freed: bool = True  # a full disk is emptied, a read-only one made writable, before it


@dataclass(frozen=True)
class Series:
    """The starts of one run before it is completed."""

    number: int
    variant: str
    kind: str  # "files", "disk" or "server"
    rounds: list[Round] = field(default_factory=list)


def plan(seed: int, number: int) -> Series:
    """One series of the long form."""
    dice = random.Random(f"torture {seed} {number}")
    kind = {3: "disk", 7: "server"}.get(number % 10, "files")
    variant = dice.choice(list(VARIANTS))
    draw = {"files": _on_files, "disk": _on_a_disk, "server": _without_a_server}[kind]
    rounds = {"files": 14, "disk": 7, "server": 2}[kind]  # fewer, if one comes to the end of the run
    return Series(number, variant, kind, [draw(dice) for _ in range(rounds)])


def _signal(dice: random.Random) -> str:
    return dice.choices(list(SIGNALS), list(SIGNALS.values()))[0]


def _seconds(dice: random.Random) -> float:
    return dice.choice([0.001, 0.001, 0.05, 0.2, 1.0])


def _by_the_clock(dice: random.Random) -> tuple[tuple[float, str], ...]:
    at, name = dice.choice([dice.uniform(0, 0.9), dice.uniform(0.5, 0.95)]), _signal(dice)  # half of it is start-up
    again = ((at + dice.uniform(0, 0.1), dice.choice(["SIGKILL", name])),) if dice.random() < 0.25 else ()
    return ((at, name), *again)  # as Slurm does: first a warning, then the end


def _call(dice: random.Random) -> tuple[str, int, str]:
    # What is written once, or is not needed, is reached by fewer: who is not struck comes to the end.
    point = dice.choices(list(CALLS), [1 if name.endswith(("record", "other")) else 3 for name in CALLS])[0]
    often = point.endswith(("checkpoint", "other"))
    return point, dice.randint(1, 6) if often else 1, dice.choice(CALLS[point])


def _at_a_point(dice: random.Random, act: str) -> dict[str, Any]:
    if dice.random() < 0.5:
        point, nth, when = _call(dice)
        return {"point": point, "nth": nth, "when": when, "act": act}
    point = dice.choices(list(PHASES), list(PHASES.values()))[0]
    when = dice.choice(["before", "within", "after"])
    nth = dice.randint(1, REPEATED.get(point, 1))
    delay = dice.uniform(0.0001, 0.03) if when == "within" else None
    return {"point": point, "nth": nth, "when": when, "act": act, "delay": delay}


def _on_files(dice: random.Random) -> Round:
    """Struck by the clock, at a point, or by an error of a call; perhaps after damage, perhaps with a wrong clock."""
    way = dice.random()
    return Round(
        signals=_by_the_clock(dice) if way < 0.4 else (),
        faults=(_at_a_point(dice, _signal(dice)),) if 0.4 <= way < 0.85 else (_error(dice),) if way >= 0.85 else (),
        cold=dice.random() < 0.12,
        clock=dice.choice(CLOCKS) if dice.random() < 0.15 else 0.0,
        damage=dice.choice(list(DAMAGES)) if dice.random() < 0.4 else None,
        checkpoint_seconds=_seconds(dice) if way < 0.4 else 0.001,
    )


def _error(dice: random.Random) -> dict[str, Any]:
    point, nth, when = _call(dice)
    return {"point": point, "nth": nth, "when": when, "act": dice.choice(ERRORS)}


def _on_a_disk(dice: random.Random) -> Round:
    """The disk becomes full or read-only; or it was before, and stayed so; or the process is killed."""
    way = dice.random()
    starved = _at_a_point(dice, dice.choice(["fill", "read-only"]))
    if starved["when"] == "within" and starved["point"] not in CALLS:
        starved.update(when="before", delay=None)
    if starved["point"].startswith(("open", "write", "fsync")) and starved["when"] != "before":
        starved.update(act="fill")  # what is open for writing cannot be made read-only
    return Round(
        faults=(starved,) if way < 0.6 else (),
        signals=_by_the_clock(dice) if way >= 0.6 else (),
        checkpoint_seconds=_seconds(dice),
        freed=dice.random() < 0.7,
    )


def _without_a_server(dice: random.Random) -> Round:
    """Struck while it is tracked by a server that dies."""
    return Round(signals=_by_the_clock(dice), cold=True, checkpoint_seconds=_seconds(dice))


def _killed(point: str, nth: int, when: str, name: str, delay: float | None = None, **others: Any) -> Round:
    fault = {"point": point, "nth": nth, "when": when, "act": name, "delay": delay}
    return Round(faults=(fault,), **{"checkpoint_seconds": 0.001, **others})


# The short form: each signal, each kind of error, and every moment of writing a checkpoint and a record.
SHORT = (
    Series(
        0,
        "average",
        "files",
        [
            _killed("write checkpoint", 2, "within", "SIGKILL"),
            _killed("replace checkpoint", 2, "before", "SIGKILL", damage="newest truncated"),
            _killed("step", 3, "within", "SIGUSR2", delay=0.001, damage="lease is garbage"),
            _killed("evaluation", 1, "within", "SIGTERM", delay=0.002, checkpoint_seconds=60.0),
            _killed("unlink checkpoint", 3, "before", "SIGKILL", damage="newest with a bit flipped"),
            _killed("write checkpoint", 1, "within", "ENOSPC"),
            _killed("step", 2, "before", "SIGINT", damage="part of a file left", clock=-86_400.0),
            _killed("write record", 1, "within", "SIGKILL", damage="files from the future"),
            _killed("write record", 1, "within", "ENOSPC"),
        ],
    ),
    Series(
        1,
        "average",
        "disk",
        [
            _killed("open checkpoint", 2, "before", "fill"),
            Round(freed=False),
            _killed("replace checkpoint", 2, "before", "read-only"),
            Round(freed=False),
            _killed("write record", 1, "within", "fill"),
        ],
    ),
)
