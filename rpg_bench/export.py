"""Write a trained network as one file, and compare what is read back with it.

python -m rpg_bench.export run=HASH format=compact
python -m rpg_bench.export checkpoint=PATH format=onnx output=network.onnx

run=HASH          newest checkpoint in RUNS_DIR/HASH
checkpoint=PATH   a checkpoint, or a folder of them
format=           compact: free and private numbers, and how to rebuild the rest (rpg_bench.load)
                  dense: plain weights, safetensors, for the unmodified network of timm
                  onnx, torch_export: the network with its weights, for other runtimes
output=           HASH-FORMAT.safetensors, .onnx or .pt2 by default
images=256        evaluation images that both are compared on
root=             folder of the data sets; RPG_BENCH_DATA or ./data by default
runs_dir=runs  results_dir=results
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rpg_bench import arguments
from rpg_bench.compact.source import evaluation_batches, find_run, recipe_of, trained_network
from rpg_bench.errors import InvalidInput

OPTIONS = {
    "run": "",
    "checkpoint": "",
    "format": "compact",
    "output": "",
    "images": "256",
    "root": "",
    "runs_dir": "runs",
    "results_dir": "results",
}


def export(given: Sequence[str]) -> None:
    """Write and compare."""
    asked = arguments.options(given, OPTIONS)
    from rpg_bench.compact.formats import FORMATS

    kind = arguments.one_of("format", asked["format"], tuple(FORMATS))
    images = arguments.whole("images", asked["images"], 1)
    run = find_run(asked)
    path = Path(asked["output"] or f"{run.name}-{kind}{FORMATS[kind]}")
    if path.is_dir():
        raise InvalidInput(f"output: {path} is a folder; name a file")
    from rpg_bench.lazy import without_collection, without_wandb

    with without_wandb(), without_collection():
        import timm  # noqa: F401  (it takes seconds)
    import torch

    from rpg_bench.compact import formats, write
    from rpg_bench.sharing import dof_report

    recipe = recipe_of(run)
    model = trained_network(run, recipe)
    report = dof_report(model)
    print(
        f"run {run.name}: {recipe.backbone.name}, {report.scheme}, {report.dof:,} DoF + {report.private:,} private = "
        f"{report.total:,} trained numbers for {report.slot_scalars:,} weights",
        flush=True,
    )
    formats.write(model, recipe, kind, path)
    batches = list(evaluation_batches(recipe, asked["root"], images=images))
    inputs = torch.cat([batch for batch, _ in batches])
    found = formats.compare(model, formats.read(kind, path, model), inputs)
    size = path.stat().st_size
    print(f"{kind:<12} {path}  {size:,} bytes, {8 * size / report.dense:.3f} bits for each weight of the dense network")
    if kind == "compact":
        made = write.compact(model, recipe)
        index = f" + {made.index_bytes:,} for the survivors' positions" if made.index_bytes else ""
        print(f"bound        4 x {made.total:,} + 16 KiB{index} = {made.bound:,} bytes")
    print(f"compared     {found}")
    formats.check(kind, found)


def main() -> None:
    """The command `python -m rpg_bench.export`."""
    arguments.run(export, __doc__)


if __name__ == "__main__":
    main()
