"""CIFAR-10 and CIFAR-100 from whichever layout lies in the root, else by download."""

from __future__ import annotations

from pathlib import Path

from rpg_bench.config import DatasetConfig
from rpg_bench.datasets.cifar_layout import SIDE, CifarFiles, CifarSplit
from rpg_bench.datasets.cifar_parquet import find_parquet
from rpg_bench.datasets.cifar_pickles import find_pickles, folder_of_pickles
from rpg_bench.datasets.class_folders import ImageFiles, find_class_folders
from rpg_bench.datasets.decode import decode_images
from rpg_bench.datasets.in_memory import InMemorySamples, resized
from rpg_bench.datasets.interface import Source
from rpg_bench.datasets.roots import ADVICE, existing_folders, readable_root
from rpg_bench.errors import InvalidInput

MEAN = {10: (0.4914, 0.4822, 0.4465), 100: (0.5071, 0.4866, 0.4409)}  # of the training images
STD = {10: (0.2470, 0.2435, 0.2616), 100: (0.2673, 0.2564, 0.2762)}


def load_cifar10(dataset: DatasetConfig) -> Source:
    """Return CIFAR-10; see `load_cifar100`."""
    return _load(dataset, 10)


def load_cifar100(dataset: DatasetConfig) -> Source:
    """Return CIFAR-100 with its 100 fine classes.

    Parquet files come first, then the authors' pickles, then folders of images; each in
    `dataset.root` or in its folder of the data set's name. Raises InvalidInput where none is found
    and nothing is downloaded.
    """
    return _load(dataset, 100)


def _load(dataset: DatasetConfig, number_of_classes: int) -> Source:
    if dataset.download:
        Path(dataset.root).expanduser().mkdir(parents=True, exist_ok=True)
    root = readable_root(dataset)
    files = _find(root, dataset.name, number_of_classes)
    if files is None and dataset.download:
        _download(root, number_of_classes)
        files = _find(root, dataset.name, number_of_classes)
    if files is None:
        raise InvalidInput(
            f"dataset.root: no {dataset.name} in {dataset.root!r} (tried train-*.parquet, "
            f"{folder_of_pickles(number_of_classes)}/ and train/<class>/, "
            f"there and in {dataset.name}/ and data/); {ADVICE}, or dataset.download=true"
        )

    def samples(split: CifarSplit) -> InMemorySamples:
        return InMemorySamples(resized(split.images, dataset.image_size, antialias=True), split.labels)

    found = files
    return Source(
        classes=found.classes,
        mean=MEAN[number_of_classes],
        std=STD[number_of_classes],
        train=lambda: samples(found.train()),
        test=lambda: samples(found.test()),
    )


def _find(root: Path, name: str, number_of_classes: int) -> CifarFiles | None:
    # The folder of the data set's own name first: the root may hold other data sets too.
    # plain_text and cifar100 are folders of the Hugging Face repositories.
    below = (name, f"{name}/data", f"{name}/{name}", f"{name}/plain_text", ".", "data", "plain_text")
    folders = existing_folders(root, *below)
    for find in (find_parquet, find_pickles, _find_images):
        for folder in folders:
            files = find(folder, number_of_classes)
            if files is not None:
                return files
    return None


def _find_images(folder: Path, number_of_classes: int) -> CifarFiles | None:
    found = find_class_folders(folder, ("test", "val"))
    if found is None:
        return None
    if len(found.classes) != number_of_classes:
        raise InvalidInput(
            f"dataset.root: '{folder / 'train'}' has {len(found.classes)} class folders, expected {number_of_classes}"
        )
    train, test = found.train, found.test
    return CifarFiles(found.classes, lambda: _read_images(train), lambda: _read_images(test))


def _read_images(files: ImageFiles) -> CifarSplit:
    images = decode_images(
        len(files.paths),
        lambda position: Path(files.paths[position]).read_bytes(),
        lambda position: f"'{files.paths[position]}'",
        SIDE,
    )
    return CifarSplit(images, files.labels)


def _download(root: Path, number_of_classes: int) -> None:
    from torchvision.datasets import CIFAR10, CIFAR100, utils

    source = CIFAR10 if number_of_classes == 10 else CIFAR100
    try:
        # The archive alone: torchvision's data set would read its pickles at once, and by executing them.
        utils.download_and_extract_archive(source.url, str(root), filename=source.filename, md5=source.tgz_md5)
    except (OSError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidInput(f"dataset.download: cannot fetch CIFAR-{number_of_classes}: {reason}") from error
