"""CIFAR as Hugging Face stores it: `train-*.parquet` and `test-*.parquet`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rpg_bench.datasets.cifar_layout import SIDE, CifarFiles, CifarSplit, checked_labels, numbered_classes
from rpg_bench.datasets.decode import decode_images
from rpg_bench.errors import InvalidInput

IMAGE_COLUMNS = ("img", "image")


def find_parquet(folder: Path, number_of_classes: int) -> CifarFiles | None:
    """Return the parquet files in `folder`, or None where there are none.

    Raises InvalidInput for a split that is missing or a file that is corrupt or of another data set.
    """
    shards = {split: sorted(folder.glob(f"{split}-*.parquet")) for split in ("train", "test")}
    if not any(shards.values()):
        return None
    for split, files in shards.items():
        if not files:
            raise InvalidInput(f"dataset.root: '{folder}' has parquet files but no {split}-*.parquet")
    label_column = "fine_label" if number_of_classes == 100 else "label"
    names = _class_names(shards["train"][0], label_column)
    if names is not None and len(names) != number_of_classes:
        raise InvalidInput(
            f"dataset.root: '{shards['train'][0]}' has {len(names)} classes, expected {number_of_classes}"
        )
    return CifarFiles(
        classes=names or numbered_classes(number_of_classes),
        train=lambda: _read(shards["train"], label_column, number_of_classes),
        test=lambda: _read(shards["test"], label_column, number_of_classes),
    )


def _read(files: list[Path], label_column: str, number_of_classes: int) -> CifarSplit:
    parts = [_read_file(file, label_column, number_of_classes) for file in files]
    if len(parts) == 1:
        return parts[0]
    return CifarSplit(torch.cat([part.images for part in parts]), np.concatenate([part.labels for part in parts]))


def _read_file(file: Path, label_column: str, number_of_classes: int) -> CifarSplit:
    import pyarrow
    from pyarrow import compute, parquet

    image_column, label_column = _columns(file, label_column)
    try:
        table = parquet.read_table(file, columns=[image_column, label_column], partitioning=None)
        structs = table.column(image_column).combine_chunks()
        if isinstance(structs, pyarrow.ChunkedArray):  # combine_chunks of some versions
            structs = pyarrow.concat_arrays(structs.chunks)
        encoded = compute.struct_field(structs, "bytes")
        labels = table.column(label_column).to_numpy()
    except (pyarrow.ArrowException, OSError, KeyError, TypeError) as error:
        raise InvalidInput(f"dataset.root: cannot read '{file}': {_first_line(error)}") from error
    images = decode_images(
        len(encoded), lambda row: encoded[row].as_py(), lambda row: f"in row {row} of '{file}'", SIDE
    )
    return CifarSplit(images, checked_labels(labels, number_of_classes, file))


def _columns(file: Path, label_column: str) -> tuple[str, str]:
    names = _schema(file).names
    image_column = next((name for name in IMAGE_COLUMNS if name in names), None)
    if label_column not in names and "fine_label" not in names:
        label_column = "label"
    if image_column is None or label_column not in names:
        raise InvalidInput(
            f"dataset.root: '{file}' has the columns {', '.join(names)}; expected img or image, and {label_column}"
        )
    return image_column, label_column


def _class_names(file: Path, label_column: str) -> tuple[str, ...] | None:
    schema = _schema(file)
    label_column = _columns(file, label_column)[1]
    try:
        described = json.loads(schema.metadata[b"huggingface"])
        return tuple(str(name) for name in described["info"]["features"][label_column]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _schema(file: Path) -> Any:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_schema(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise InvalidInput(f"dataset.root: cannot read '{file}': {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
