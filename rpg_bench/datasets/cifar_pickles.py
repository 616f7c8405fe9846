"""CIFAR as its authors publish it: the folders `cifar-10-batches-py` and `cifar-100-python`.

A pickle can run any code when it is loaded; these are read by an unpickler that knows nothing but
the few constructors of a NumPy array.
"""

from __future__ import annotations

import codecs
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rpg_bench.datasets.cifar_layout import SIDE, CifarFiles, CifarSplit, checked_labels, numbered_classes
from rpg_bench.errors import InvalidInput

VALUES = 3 * SIDE * SIDE  # per image


@dataclass(frozen=True)
class _Names:
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    classes_file: str
    classes_key: str
    labels_key: str


_NAMES = {
    10: _Names(
        "cifar-10-batches-py",
        tuple(f"data_batch_{number}" for number in range(1, 6)),
        ("test_batch",),
        "batches.meta",
        "label_names",
        "labels",
    ),
    100: _Names("cifar-100-python", ("train",), ("test",), "meta", "fine_label_names", "fine_labels"),
}


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Stand in for _codecs.encode, by which Python 3 pickles bytes; only with the encoding it uses."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r} is not allowed")
    return codecs.latin_1_encode(text)[0]


_array_constructor: Any = np.empty(0).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _array_constructor,
    ("numpy._core.multiarray", "_reconstruct"): _array_constructor,
    ("_codecs", "encode"): _encode,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not allowed") from None


def folder_of_pickles(number_of_classes: int) -> str:
    """Return the name of the folder that the archive of the data set unpacks to."""
    return _NAMES[number_of_classes].folder


def find_pickles(folder: Path, number_of_classes: int) -> CifarFiles | None:
    """Return the pickles in `folder`, or in its folder of the authors' name; None where there are none.

    Raises InvalidInput for a file that is missing, corrupt, or asks for more than NumPy arrays.
    """
    names = _NAMES[number_of_classes]
    if folder.name != names.folder:
        folder = folder / names.folder
    if not folder.is_dir():
        return None
    classes = numbered_classes(number_of_classes)
    if (folder / names.classes_file).is_file():
        classes = _classes(folder / names.classes_file, names.classes_key, number_of_classes)
    return CifarFiles(
        classes=classes,
        train=lambda: _read([folder / name for name in names.train], names.labels_key, number_of_classes),
        test=lambda: _read([folder / name for name in names.test], names.labels_key, number_of_classes),
    )


def _classes(file: Path, key: str, number_of_classes: int) -> tuple[str, ...]:
    names = _unpickled(file, key)[key]
    if not isinstance(names, list) or len(names) != number_of_classes:
        raise InvalidInput(f"dataset.root: '{file}' does not list {number_of_classes} names under {key!r}")
    return tuple(str(name) for name in names)


def _read(files: list[Path], labels_key: str, number_of_classes: int) -> CifarSplit:
    parts = [_read_file(file, labels_key, number_of_classes) for file in files]
    return CifarSplit(torch.cat([part.images for part in parts]), np.concatenate([part.labels for part in parts]))


def _read_file(file: Path, labels_key: str, number_of_classes: int) -> CifarSplit:
    content = _unpickled(file, "data", labels_key)
    pixels = content["data"]
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape != (len(pixels), VALUES):
        raise InvalidInput(f"dataset.root: 'data' in '{file}' is not a uint8 array of {VALUES} columns")
    labels = checked_labels(content[labels_key], number_of_classes, file)
    if len(labels) != len(pixels):
        raise InvalidInput(f"dataset.root: '{file}' has {len(pixels)} images but {len(labels)} labels")
    return CifarSplit(torch.from_numpy(pixels.copy()).view(-1, 3, SIDE, SIDE), labels)


def _unpickled(file: Path, *keys: str) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            content = _ArrayUnpickler(stream, encoding="latin1").load()
    except FileNotFoundError as error:
        raise InvalidInput(f"dataset.root: '{file}' is missing") from error
    except Exception as error:  # a corrupt pickle can raise nearly anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidInput(f"dataset.root: cannot read '{file}': {reason}") from error
    for key in keys:
        if not isinstance(content, dict) or key not in content:
            raise InvalidInput(f"dataset.root: '{file}' has no {key!r}: not a file of this data set")
    result: dict[str, Any] = content
    return result
