"""Say what is in pictures, by a network from a compact file.

python -m rpg_bench.predict model=FILE|NAME input=FOLDER|IMAGE

model=    a compact file, or the name of one that comes with the package (left out: they are listed)
input=    a picture, or a folder of them, whatever their size: the middle square is taken, and made small
topk=5    answers for each
json=     a file to write them to as well; - for the standard output instead of the table
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpg_bench import arguments, zoo
from rpg_bench.errors import Failed, InvalidInput

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rpg_bench.compact.recipe import Recipe

OPTIONS = {"model": "", "input": "", "topk": "5", "json": ""}
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one picture, the likeliest first."""

    file: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        pairs = zip(self.classes, self.probabilities, strict=True)
        return {"file": self.file, "classes": [{"name": name, "probability": share} for name, share in pairs]}


def predict(given: Sequence[str]) -> None:
    """Classify and print."""
    asked = arguments.options(given, OPTIONS)
    if not asked["model"]:
        raise InvalidInput(f"model: give a compact file, or one of: {', '.join(zoo.names())}")
    model_file = zoo.find(asked["model"])
    if not asked["input"]:
        raise InvalidInput("input: give a picture or a folder of them")
    files = pictures(Path(asked["input"]))
    wanted = arguments.whole("topk", asked["topk"], 1)
    if asked["json"] not in ("", "-") and not Path(asked["json"]).resolve().parent.is_dir():
        raise InvalidInput(f"json: there is no folder {Path(asked['json']).parent}")
    from rpg_bench.compact.load import load

    model = load(model_file)
    recipe: Recipe = model.recipe  # type: ignore[assignment]
    found: list[Prediction] = []
    for prediction in predictions(model, recipe, files, min(wanted, len(recipe.classes))):
        if not found and asked["json"] != "-":
            size = model_file.stat().st_size
            print(f"{model_file.stem}: {recipe.backbone.name}, {len(recipe.classes)} classes, {size:,} bytes")
        found.append(prediction)
        if asked["json"] != "-":
            print(_line(prediction, max(len(str(file)) for file in files)), flush=True)
    text = json.dumps([prediction.to_dict() for prediction in found], indent=1)
    if asked["json"] == "-":
        print(text)
    elif asked["json"]:
        from rpg_bench.files import write_aside

        try:
            write_aside(Path(asked["json"]), f"{text}\n".encode())
        except OSError as error:
            raise InvalidInput(f"json: {asked['json']} cannot be written: {error.strerror}") from None
    if len(found) < len(files):
        raise Failed(f"input: {len(files) - len(found)} of {len(files)} pictures cannot be read")


def pictures(path: Path) -> list[Path]:
    """The picture, or all in the folder and those below it, by name.

    Raises:
        InvalidInput: there are none.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InvalidInput(f"input: there is no file or folder {path}")
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not found:
        raise InvalidInput(f"input: there is no picture in {path}; known are {', '.join(SUFFIXES)}")
    return found


def predictions(model: nn.Module, recipe: Recipe, files: Sequence[Path], topk: int) -> Iterator[Prediction]:
    """The answers for each file that can be read; of another, one line on the standard error."""
    import torch

    for first in range(0, len(files), BATCH):
        read: dict[Path, Tensor] = {}
        for file in files[first : first + BATCH]:
            try:
                read[file] = picture(file, recipe)
            except Exception as error:  # a corrupt file can make PIL raise nearly anything
                reason = " ".join(str(error).split()) or type(error).__name__
                print(f"left out: {file} is no picture that can be read: {reason}", file=sys.stderr)
        if not read:
            continue
        with torch.inference_mode():
            shares = model(torch.stack(list(read.values()))).softmax(1)
        for file, row in zip(read, shares, strict=True):
            best = row.topk(topk)
            names = tuple(recipe.classes[number] for number in best.indices.tolist())
            yield Prediction(str(file), names, tuple(best.values.tolist()))


def picture(file: Path, recipe: Recipe) -> Tensor:
    """The middle square of a picture as the network wants it, float32 (c, size, size)."""
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    from rpg_bench.augment import Normalise

    size = recipe.image_size
    with Image.open(file) as opened:
        image = ImageOps.exif_transpose(opened).convert("L" if recipe.channels == 1 else "RGB")
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image)).view(size, size, -1).permute(2, 0, 1)
    return Normalise(recipe.mean, recipe.std, torch.device("cpu"))(pixels)


def _line(prediction: Prediction, width: int) -> str:
    pairs = zip(prediction.classes, prediction.probabilities, strict=True)
    answers = "  ".join(f"{name} {100 * share:.1f} %" for name, share in pairs)
    return f"{prediction.file:<{width}}  {answers}"


def main() -> None:
    """The command `python -m rpg_bench.predict`."""
    arguments.run(predict, __doc__)


if __name__ == "__main__":
    main()
