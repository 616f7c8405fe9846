"""`step`: what a training step costs through one ring, against dense and against the yardstick."""

from __future__ import annotations

from rpg_bench.benchmarks.networks import BUDGETS, random_batch, resnet18, rings, training_step
from rpg_bench.benchmarks.result import HIGHER, Figure, Result, Settings
from rpg_bench.benchmarks.timing import Ratio, Times, in_turn
from rpg_bench.benchmarks.yardstick import share_layer_by_layer

TITLE = "Training step of ResNet18 through one ring"
# Times the dense step, at most: stem, then the ring without and with blocks.
BOUNDS = {
    "cpu": {
        "cifar": {"36k": (1.03, 1.02), "2.36M": (1.06, 1.02)},
        "half": {"36k": (1.08, 1.05), "2.36M": (1.18, 1.05)},
    },
    "cuda": {"cifar": {"36k": (1.03, 1.03), "2.36M": (1.03, 1.03)}},
}
OVERHEAD_BOUND = 4.0  # times less than the yardstick's
# On a CPU also with torch's own convolutions, which the bounds were set for: the matrix products halve the
# dense step, of which the ring's share is then larger.
TORCH = ", torch's convolutions"


def run(settings: Settings) -> Result:
    """Time all of them in turn, at both stems."""
    figures: list[Figure] = []
    times: dict[str, Times] = {}
    batch_size = 16 if settings.short else 128
    for stem in ("half",) if settings.short else ("half", "cifar"):
        found = _times(stem, batch_size, settings)
        figures += _figures(stem, found, settings)
        times |= {f"{stem} {name}": value for name, value in found.items()}
    details = {"network": "resnet18", "batch_size": batch_size, "precision": "bf16", "optimizer": "sgd_nesterov"}
    return Result(tuple(figures), times, details)


def _times(stem: str, batch_size: int, settings: Settings) -> dict[str, Times]:
    images, labels = random_batch(batch_size, settings.device)
    networks = {"dense": resnet18(stem, settings.device), **dict(rings(stem, settings.device))}
    if not settings.short:
        for budget, dof in BUDGETS.items():
            networks[f"yardstick {budget}"] = share_layer_by_layer(resnet18(stem, settings.device), dof)
        if settings.device.type == "cpu":
            networks[f"dense{TORCH}"] = resnet18(stem, settings.device, direct=True)
            networks |= {f"{name}{TORCH}": ring for name, ring in rings(stem, settings.device, direct=True)}
    steps = {name: training_step(network, images, labels) for name, network in networks.items()}
    return in_turn(steps, settings.device, rounds=settings.rounds(15 if stem == "half" else 7, 6))


def _figures(stem: str, times: dict[str, Times], settings: Settings) -> list[Figure]:
    bounds = {} if settings.short else BOUNDS.get(settings.device.type, {}).get(stem, {})
    figures = []
    for name, found in times.items():
        plain, torch_s, _ = name.partition(TORCH)
        kind, _, rest = plain.partition(" ")
        baseline = "dense" if plain == "dense" else f"dense{torch_s}"
        if name == baseline:
            continue
        budget, _, block = rest.partition(" ")
        bound = bounds[budget][1 if block else 0] if kind == "rpg_global" and budget in bounds else None
        ratio = Ratio.of(found, times[baseline])
        compared = kind == "rpg_global" and not torch_s
        figures.append(Figure.ratio(f"{stem} {name}", ratio, f"x {baseline} step", bound=bound, compared=compared))
    dense = times["dense"]
    for budget in BUDGETS:
        for name in (f"rpg_global {budget}", f"rpg_global {budget} block=16"):
            if name in times and f"yardstick {budget}" in times:
                theirs, ours = times[f"yardstick {budget}"], times[name]
                figures.append(
                    Figure(
                        f"{stem} {name}: overhead of the yardstick",
                        _overhead(theirs.median, ours.median, dense.median),
                        "x ours",
                        bound=None if settings.short else OVERHEAD_BOUND,
                        better=HIGHER,
                        best=_overhead(theirs.minimum, ours.minimum, dense.minimum),
                        compared=False,  # a quotient of two small differences
                    )
                )
    return figures


def _overhead(theirs: float, ours: float, dense: float) -> float:
    """How much more the yardstick adds to a dense step; an overhead below a thousandth of it counts as that."""
    return (theirs - dense) / max(ours - dense, dense / 1000)
