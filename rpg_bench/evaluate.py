"""Measure a network on a data set: top-1, top-5, loss, calibration, and each class.

python -m rpg_bench.evaluate model=FILE|NAME
python -m rpg_bench.evaluate run=HASH | checkpoint=PATH

model=            a compact file, or the name of one that comes with the package
run=, checkpoint= of a training instead
data=             digits, cifar10, cifar100, imagenet or imagefolder; by default what the network was trained on
root=             folder of the data sets; RPG_BENCH_DATA or ./data by default
split=test        or train: the training images, without augmentation
images=           so many, evenly taken; all by default
int8=false        the materialised network with 8-bit weights and activations instead, ranges from training images
classes=true      a line for each class
json=             a file to write it to as well
runs_dir=runs  results_dir=results
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rpg_bench import arguments
from rpg_bench.compact.source import batches_of, data_root, named_network
from rpg_bench.config import DatasetConfig
from rpg_bench.errors import InvalidInput

if TYPE_CHECKING:
    from torch import Tensor

    from rpg_bench.metrics import Metrics

OPTIONS = {
    "model": "",
    "run": "",
    "checkpoint": "",
    "data": "",
    "root": "",
    "split": "test",
    "images": "",
    "int8": "false",
    "classes": "true",
    "json": "",
    "runs_dir": "runs",
    "results_dir": "results",
}
LONGEST_NAME = 40


def evaluate(given: Sequence[str]) -> None:
    """Measure and print."""
    asked = arguments.options(given, OPTIONS)
    images = arguments.whole("images", asked["images"], 1) if asked["images"] else None
    train = arguments.one_of("split", asked["split"], ("test", "train")) == "train"
    by_class = arguments.boolean("classes", asked["classes"])
    int8 = arguments.boolean("int8", asked["int8"])
    _, model, recipe = named_network(asked)
    dataset = DatasetConfig(asked["data"] or recipe.data, data_root(asked["root"]), image_size=recipe.image_size)
    from rpg_bench import metrics

    network: Callable[[Tensor], Tensor] = model
    if int8:
        from rpg_bench.compact.int8 import in_8_bits

        network = in_8_bits(model, recipe, asked["root"])
    found = metrics.evaluate(network, batches_of(recipe, dataset, train, images, 250), len(recipe.classes))
    print(_summary(found, f"{dataset.name}, {asked['split']} images"))
    if by_class:
        width = min(LONGEST_NAME, max(map(len, recipe.classes)))
        for name, share in zip(recipe.classes, found.per_class, strict=True):
            print(f"{name[:width]:<{width}}  " + ("no images" if share is None else f"{share:6.2f} %"))
    if asked["json"]:
        from rpg_bench.files import write_aside

        values = {
            "data": dataset.name,
            "split": asked["split"],
            **found.to_dict(),
            "per_class": dict(zip(recipe.classes, found.per_class, strict=True)),
        }
        try:
            write_aside(Path(asked["json"]), (json.dumps(values, indent=1) + "\n").encode())
        except OSError as error:
            raise InvalidInput(f"json: {asked['json']} cannot be written: {error.strerror}") from None


def _summary(found: Metrics, what: str) -> str:
    from rpg_bench.metrics import BINS

    top5 = "" if found.top5 is None else f"  top-5 {found.top5:.2f} %"
    return (
        f"{found.images:,} {what}: top-1 {found.top1:.2f} %{top5}  loss {found.loss:.4f}  "
        f"expected calibration error {found.calibration_error:.2f} % ({BINS} bins)"
    )


def main() -> None:
    """The command `python -m rpg_bench.evaluate`."""
    arguments.run(evaluate, __doc__)


if __name__ == "__main__":
    main()
