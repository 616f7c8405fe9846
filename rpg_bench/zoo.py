"""Trained networks that come with the package, by name; and how they are made of recorded runs.

python -m rpg_bench.zoo runs_dir=runs        # each network whose run's checkpoint is there; says which are missing

Each is a file of `python -m rpg_bench.compress`, with its record, in results/models/, and a card written from both.

runs_dir=runs  results_dir=results  root=
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpg_bench import arguments
from rpg_bench.errors import Failed, InvalidInput, unknown

OPTIONS = {"runs_dir": "runs", "results_dir": "results", "root": ""}
MOST_BYTES, MOST_BYTES_TOGETHER = 1_500_000, 8_000_000


@dataclass(frozen=True)
class Entry:
    """A network of the zoo."""

    name: str
    case: str
    bits: int
    experiment: str = "small_files"  # that the case is of


ENTRIES = (
    Entry("resnet18-cifar100-ring-8k", "sharing=rpg_global dof=8k", 32),
    Entry("resnet18-cifar100-ring-8k-8bit", "sharing=rpg_global dof=8k", 8),
    Entry("resnet18-cifar100-ring-36k", "sharing=rpg_global dof=36k", 32),
    Entry("resnet18-cifar100-ring-36k-8bit", "sharing=rpg_global dof=36k", 8),
    Entry("resnet18-cifar100-ring-10pct-8bit", "sharing=rpg_global dof=1.1M", 8),
    Entry("deit-tiny-cifar100-lors-4bit", "sharing=lors", 4, "lors_deit"),
)


def models_directory() -> Path:
    """Where their files lie: in the wheel inside the package, in a checkout in `results/models`."""
    package = Path(__file__).resolve().parent
    inside = package / "models"
    return inside if inside.is_dir() else package.parent / "results" / "models"


def names() -> list[str]:
    """What `find` knows."""
    return sorted(path.stem for path in models_directory().glob("*.safetensors"))


def find(model: str) -> Path:
    """The compact file of that path, or of that name.

    Raises:
        InvalidInput: there is neither such a file nor such a name.
    """
    path = Path(model)
    if path.is_file():
        return path
    if model not in names():
        raise unknown("model", model, names())
    return models_directory() / f"{model}.safetensors"


def build(given: Sequence[str]) -> None:
    """Make each network whose run is recorded and whose checkpoint is at hand."""
    asked = arguments.options(given, OPTIONS)
    from rpg_bench.report.experiments import read_experiment
    from rpg_bench.runs import run_hash

    folder = Path(asked["results_dir"]) / "models"
    for entry in ENTRIES:
        (case,) = [case for case in read_experiment(entry.experiment) if " ".join(case.overrides) == entry.case]
        run = run_hash(case.config)
        record = Path(asked["results_dir"]) / "records" / f"{run}.json"
        if record.is_file() and any((Path(asked["runs_dir"]) / run).glob("checkpoint-*.pt")):
            _make(entry, run, asked, folder)
        else:
            lacking = "checkpoint" if record.is_file() else "record"
            print(f"{entry.name}: no {lacking} of run {run}, {entry.case!r} of experiment {entry.experiment}")
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.safetensors")}
    for name, size in sizes.items():
        if size > MOST_BYTES:
            raise Failed(f"models: {name} has {size:,} bytes; at most {MOST_BYTES:,} are wanted")
    if sum(sizes.values()) > MOST_BYTES_TOGETHER:
        raise Failed(f"models: {sum(sizes.values()):,} bytes together; at most {MOST_BYTES_TOGETHER:,} are wanted")
    print(f"{len(sizes)} networks, {sum(sizes.values()):,} bytes, in {folder}")


def _make(entry: Entry, run: str, asked: Mapping[str, str], folder: Path) -> None:
    from rpg_bench.compact.settings import Settings, compression_hash
    from rpg_bench.compress import compress
    from rpg_bench.files import write_aside

    name = compression_hash(run, Settings(bits=entry.bits))
    made = Path(asked["runs_dir"]) / "compressed" / f"{run}-{name}.safetensors"
    noted = Path(asked["results_dir"]) / "compressions" / f"{name}.json"
    target = folder / f"{entry.name}.safetensors"
    if noted.is_file():
        record = json.loads(noted.read_bytes())
        for path in (target, made):
            if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == record["sha256"]:
                made = path
                break
        else:
            raise InvalidInput(
                f"results_dir: {noted} is recorded, but its file is not in {made.parent}; "
                f"python -m rpg_bench.compress run={run} bits={entry.bits} force=true makes it again"
            )
    else:
        places = [f"{key}={asked[key]}" for key in OPTIONS]
        compress([f"run={run}", f"bits={entry.bits}", f"output={made.parent}", *places])
        record = json.loads(noted.read_bytes())
    parent = json.loads((Path(asked["results_dir"]) / "records" / f"{run}.json").read_bytes())
    write_aside(target, made.read_bytes())
    write_aside(folder / f"{entry.name}.md", card(entry.name, record, parent).encode())
    print(f"{entry.name}: top-1 {record['final']['top1']:.2f} %, {record['size']['bytes']:,} bytes")


def card(name: str, record: Mapping[str, Any], parent: Mapping[str, Any]) -> str:
    """The model card, from the record of the file and that of its run."""
    config, size, dof, final = parent["config"], record["size"], record["dof"], record["final"]
    recipe, optimizer, data = config["recipe"], config["optimizer"], parent["data"]
    side = config["dataset"]["image_size"]
    sides = ", ".join(map(str, recipe["train_sizes"] or [side]))
    network, stem = config["backbone"]["name"], config["backbone"]["stem"] or recipe["stem"]
    if stem and network.startswith("resnet"):
        network += f" with the `{stem}` stem"
    top5 = f", top-5 {final['top5']:.2f} %" if "top5" in final else ""
    rows = {
        "network": f"{network}: {dof['dense']:,} weights, made of {dof['total']:,} trained numbers",
        "scheme": f"`{dof['scheme']}`: {dof['dof']:,} degrees of freedom for {dof['slot_scalars']:,} weights, and "
        f"{dof['private']:,} private numbers",
        "file": f"{size['bytes']:,} bytes, {size['bits_per_weight']:.3f} bits for each weight of the dense network",
        "numbers": f"{record['settings']['bits']} bits each; the degrees of freedom take {size['dof_bits']:,} bits",
        "data": f"{data['name']}: {data['train']:,} training images, {data['classes']} classes, {side}x{side} pixels",
        "training": f"recipe `{recipe['name']}`: {recipe['epochs']} epochs of images of {sides} pixels, batch "
        f"{recipe['batch_size']}, {optimizer['name']}, lr {optimizer['lr']:g}, {recipe['precision']}, "
        f"seed {parent['seed']}",
        "top-1": f"{final['top1']:.2f} % of {data['evaluated']:,} {data['evaluated_on']} images{top5}; its run "
        f"{record['parent_top1']:.2f} %",
        "loss": f"{final['loss']:.4f}",
        "calibration": f"expected error {final['calibration_error']:.2f} % ({final['bins']} bins)",
        "commit": f"{(record['git'] or {}).get('commit', 'unknown')}",
        "sha256": f"`{record['sha256']}`",
    }
    wrong, epochs = f"{100 - final['top1']:.0f}", recipe["epochs"]
    limits = (
        f"It answers with one of the {data['classes']} classes of {data['name']}, whatever is in the picture, and is\n"
        f"wrong on {wrong} of 100 test images. It was trained for {epochs} epochs on pictures of one object each,\n"
        f"{side}x{side} pixels: it shows how small a network can be, and is none to rely on. One seed."
    )
    table = "\n".join(f"| {key} | {text} |" for key, text in rows.items())
    return f"""\
# {name}

Written by `python -m rpg_bench.zoo` from `results/records/{parent["hash"]}.json` and
`results/compressions/{record["hash"]}.json`; do not edit.

```bash
python -m rpg_bench.predict model={name} input=picture.jpg
```

| | |
|---|---|
{table}

**Limits.** {limits}
"""


def main() -> None:
    """The command `python -m rpg_bench.zoo`."""
    arguments.run(build, __doc__)


if __name__ == "__main__":
    main()
