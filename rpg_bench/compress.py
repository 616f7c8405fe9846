"""Prune and quantise a trained network, measure what is left of it, and record it.

python -m rpg_bench.compress run=HASH bits=8 prune=50%
python -m rpg_bench.compress run=HASH bits=32,8,4 prune=0,50%,80%      # all nine

run=HASH | checkpoint=PATH   of a finished run
bits=8            of each free and private number: 32, 8 or 4; norms and biases keep 8
prune=0           share of the free numbers that is taken away, the smallest ones: 50% or 0.5
block=64          numbers that share a scale; 0: the numbers of a tensor, a whole ring
calibrate=1024    training images for batch norms' statistics and the choice of scales
tune=0            epochs of fine-tuning, with what is pruned and quantised in every step
tune_images=100%  share of the training images in such an epoch
tune_rate=0.1     learning rate of fine-tuning, as a share of the run's
rounds=1          of pruning, each followed by fine-tuning
activations=32    8: measure the network as it runs with 8-bit weights and activations (torchao)
output=           folder for the compact files; RUNS_DIR/compressed by default
force=false       measure again what is recorded
root=  runs_dir=runs  results_dir=results

Several values, with commas, are combined with one another. Each result is a compact file and a record,
results/compressions/HASH.json; what is recorded is not measured again.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpg_bench import arguments
from rpg_bench.compact.settings import Settings, compression_hash
from rpg_bench.compact.source import Run, evaluation_batches, find_run, recipe_of, trained_network
from rpg_bench.errors import InvalidInput

if TYPE_CHECKING:
    from torch import nn

    from rpg_bench.compact.recipe import Recipe

OPTIONS = {
    "run": "",
    "checkpoint": "",
    "bits": "8",
    "prune": "0",
    "block": "64",
    "calibrate": "1024",
    "tune": "0",
    "tune_images": "100%",
    "tune_rate": "0.1",
    "rounds": "1",
    "activations": "32",
    "output": "",
    "force": "false",
    "root": "",
    "runs_dir": "runs",
    "results_dir": "results",
}
WIDTHS = ("32", "8", "4")
ACTIVATIONS = ("32", "8")


def compress(given: Sequence[str]) -> None:
    """Every combination of what is asked for."""
    asked = arguments.options(given, OPTIONS)
    values = {key: asked[key].split(",") for key in ("bits", "prune", "tune", "rounds", "activations")}
    for bits in values["bits"]:
        arguments.one_of("bits", bits, WIDTHS)
    for width in values["activations"]:
        arguments.one_of("activations", width, ACTIVATIONS)
    shares = [arguments.share("prune", value) for value in values["prune"]]
    common: dict[str, Any] = {
        "block": arguments.whole("block", asked["block"]),
        "calibrate": arguments.whole("calibrate", asked["calibrate"]),
        "tune_images": arguments.share("tune_images", asked["tune_images"], most=1.0),
        "tune_rate": arguments.share("tune_rate", asked["tune_rate"], most=1.0),
    }
    tunes = [arguments.whole("tune", value, most=10_000) for value in values["tune"]]
    rounds = [arguments.whole("rounds", value, 1, 1000) for value in values["rounds"]]
    force = arguments.boolean("force", asked["force"])
    run = find_run(asked)
    if run.record is None:
        raise InvalidInput(
            f"run: {run.name} has no record of a finished run in {asked['results_dir']}/records; "
            "python -m rpg_bench.export writes the network of an unfinished one"
        )
    from rpg_bench.compact.record import record_path

    missing: list[Settings] = []
    for bits, prune, tune, number, activations in itertools.product(
        values["bits"], shares, tunes, rounds, map(int, values["activations"])
    ):
        settings = Settings(bits=int(bits), prune=prune, tune=tune, rounds=number, activations=activations, **common)
        path = record_path(asked["results_dir"], compression_hash(run.name, settings))
        if path.is_file() and not force:
            top1 = json.loads(path.read_bytes())["final"]["top1"]
            print(f"{_title(settings)}: recorded, top-1 {top1:.2f} % ({path}); force=true measures it again")
        else:
            missing.append(settings)
    if missing:
        _all(run, missing, asked)


def _all(run: Run, missing: Sequence[Settings], asked: dict[str, str]) -> None:
    from rpg_bench.lazy import without_collection, without_wandb

    with without_wandb(), without_collection():
        import timm  # noqa: F401  (it takes seconds)
    recipe = recipe_of(run)
    model = trained_network(run, recipe)
    images = max(settings.calibrate for settings in missing)
    root = asked["root"]
    calibration = list(evaluation_batches(recipe, root, train=True, images=images, batch_size=128)) if images else []
    test = list(evaluation_batches(recipe, root))
    folder = Path(asked["output"] or f"{asked['runs_dir']}/compressed")
    for settings in missing:
        _one(run, recipe, model, settings, calibration if settings.calibrate else [], test, folder, asked)


def _one(
    run: Run,
    recipe: Recipe,
    model: nn.Module,
    settings: Settings,
    calibration: list[Any],
    test: list[Any],
    folder: Path,
    asked: dict[str, str],
) -> None:
    from rpg_bench.compact import container
    from rpg_bench.compact.load import loaded
    from rpg_bench.compact.record import make_record, record_path
    from rpg_bench.compact.squeeze import deployed, squeezed
    from rpg_bench.files import write_aside
    from rpg_bench.metrics import evaluate
    from rpg_bench.sharing import dof_report

    began = time.monotonic()
    file = squeezed(model, recipe, run.config, settings, calibration)
    # What is measured is what is read back.
    found = loaded(*container.unpacked(file.content, "the compressed file"))
    if settings.activations == 8:
        from rpg_bench.compact.int8 import in_8_bits

        network = in_8_bits(found, recipe, asked["root"])
    else:
        network = deployed(found, run.config)
    metrics = evaluate(network, test, len(recipe.classes))
    assert run.record is not None
    record = make_record(run.record, settings, file, metrics, dof_report(found), time.monotonic() - began)
    path = folder / f"{run.name}-{record['hash']}.safetensors"
    try:
        write_aside(path, file.content)
    except OSError as error:
        raise InvalidInput(f"output: {path} cannot be written: {error.strerror}") from None
    noted = record_path(asked["results_dir"], record["hash"])
    write_aside(noted, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
    size = record["size"]
    print(
        f"{_title(settings)}: top-1 {metrics.top1:.2f} % (run {record['parent_top1']:.2f} %)  {size['bytes']:,} bytes, "
        f"zstd {size['zstd_bytes']:,}  {size['bits_per_weight']:.3f} bits for each dense weight  "
        f"DoF {size['dof_bits']:,} bits  {path}",
        flush=True,
    )


def _title(settings: Settings) -> str:
    tuned = f", {settings.rounds} x {settings.tune} epochs" if settings.tune else ""
    run = ", run in 8 bits" if settings.activations == 8 else ""
    scales = "" if settings.block == Settings.block else f", scales of {settings.block or 'whole tensors'}"
    return f"{settings.bits} bits, {settings.prune:.0%} pruned{scales}{tuned}{run}"


def main() -> None:
    """The command `python -m rpg_bench.compress`."""
    arguments.run(compress, __doc__)


if __name__ == "__main__":
    main()
