"""Write a trained network as one file, and compare what is read back with it.

python -m rpg_bench.export run=HASH format=compact
python -m rpg_bench.export checkpoint=PATH format=onnx output=network.onnx
python -m rpg_bench.export model=FILE|NAME format=dense

run=HASH          newest checkpoint in RUNS_DIR/HASH
checkpoint=PATH   a checkpoint, or a folder of them
model=            a compact file, pruned and quantised ones too, or the name of one that comes with the package
format=           compact: free and private numbers, and how to rebuild the rest (rpg_bench.load)
                  dense: plain weights, safetensors, for the unmodified network of timm; where a ResNet has
                         another stem, what to set in it first is printed
                  onnx, torch_export: the network with its weights, for other runtimes
output=           HASH|NAME-FORMAT.safetensors, .onnx or .pt2 by default
images=256        evaluation images that both are compared on
root=             folder of the data sets; RPG_BENCH_DATA or ./data by default
runs_dir=runs  results_dir=results
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rpg_bench import arguments
from rpg_bench.compact.source import evaluation_batches, named_network
from rpg_bench.errors import InvalidInput

OPTIONS = {
    "model": "",
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
    if asked["output"] and Path(asked["output"]).is_dir():
        raise InvalidInput(f"output: {asked['output']} is a folder; name a file")
    name, model, recipe = named_network(asked)
    path = Path(asked["output"] or f"{name}-{kind}{FORMATS[kind]}")
    import torch

    from rpg_bench.compact import formats, write
    from rpg_bench.sharing import dof_report

    report = dof_report(model)
    print(
        f"{name}: {recipe.backbone.name}, {report.scheme}, {report.dof:,} DoF + {report.private:,} private = "
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
    if kind == "dense" and recipe.backbone.stem not in (None, "imagenet"):
        conv1 = model.get_submodule("conv1")
        print(f"for          timm's {recipe.backbone.name} with conv1 = nn.{conv1} and maxpool = nn.Identity()")
    print(f"compared     {found}")
    formats.check(kind, found)


def main() -> None:
    """The command `python -m rpg_bench.export`."""
    arguments.run(export, __doc__)


if __name__ == "__main__":
    main()
