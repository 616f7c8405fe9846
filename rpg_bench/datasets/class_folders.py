"""Images in one folder per class: `<split>/<class>/<image>`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rpg_bench.errors import InvalidInput


@dataclass(frozen=True)
class ImageFiles:
    """The image files of a split, sorted by class and name."""

    paths: tuple[str, ...]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class ClassFolders:
    """Both splits; a label is the position of the class among the sorted folders of `train/`."""

    classes: tuple[str, ...]
    train: ImageFiles
    test: ImageFiles


def find_class_folders(folder: Path, test_names: tuple[str, ...]) -> ClassFolders | None:
    """Return what `folder` holds in train/ and in the first of `test_names` that exists.

    None where there is no train/ with a folder per class. Raises InvalidInput where the test split
    is missing, a class folder is empty, or the test split has a class that train/ lacks.
    """
    train = folder / "train"
    try:
        if not train.is_dir() or not any(path.is_dir() for path in train.iterdir()):
            return None
    except OSError as error:
        raise InvalidInput(f"dataset.root: cannot list '{train}': {error.strerror}") from error
    test = next((folder / name for name in test_names if (folder / name).is_dir()), None)
    if test is None:
        missing = " or ".join(f"{name}/" for name in test_names)
        raise InvalidInput(f"dataset.root: '{folder}' has train/ but no {missing}")
    train_classes, train_files = _scan(train)
    test_classes, test_files = _scan(test)
    surplus = sorted(set(test_classes) - set(train_classes))
    if surplus:
        raise InvalidInput(f"dataset.root: '{test}' has the class folder {surplus[0]!r}, which '{train}' lacks")
    # A class without test images must not shift the numbers of the classes behind it.
    numbers = np.array([train_classes.index(name) for name in test_classes], dtype=np.int64)
    return ClassFolders(train_classes, train_files, ImageFiles(test_files.paths, numbers[test_files.labels]))


def _scan(folder: Path) -> tuple[tuple[str, ...], ImageFiles]:
    from torchvision.datasets import ImageFolder

    try:
        images = ImageFolder(str(folder))
    except OSError as error:
        problem = " ".join(str(error).split())
        raise InvalidInput(f"dataset.root: '{folder}' is not a folder of images per class: {problem}") from error
    paths, labels = zip(*images.samples, strict=True)
    return tuple(images.classes), ImageFiles(tuple(paths), np.array(labels, dtype=np.int64))
