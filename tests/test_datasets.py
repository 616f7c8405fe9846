"""Determinism, resuming, ranks, splits, every layout on disk, and every error of the data sets."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from rpg_bench.config import AugmentConfig, DatasetConfig
from rpg_bench.datasets import DATASETS, Data, load_data
from rpg_bench.datasets.batches import EvaluationBatches
from rpg_bench.datasets.splits import hold_out, take_subset
from rpg_bench.errors import InvalidInput

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_CIFAR100 = REPOSITORY / "../shared/data/cifar100"
CPU = torch.device("cpu")
ALL_ON = AugmentConfig(crop_padding=2, flip=True, mixup=0.8, cutmix=1.0)

Batch = tuple[Tensor, Tensor]


def load(
    dataset: DatasetConfig | None = None,
    augment: AugmentConfig | None = None,
    *,
    batch_size: int = 64,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Data:
    return load_data(
        dataset or DatasetConfig(name="digits", image_size=8),
        augment or AugmentConfig(),
        batch_size=batch_size,
        seed=seed,
        device=CPU,
        rank=rank,
        world_size=world_size,
    )


def assert_same(first: Iterable[Batch], second: Iterable[Batch]) -> None:
    for (images, labels), (other_images, other_labels) in zip(first, second, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


def same_labels(first: Iterable[Batch], second: Iterable[Batch]) -> bool:
    return torch.equal(torch.cat([y for _, y in first]), torch.cat([y for _, y in second]))


def image_rows(batches: Iterable[Batch]) -> list[bytes]:
    return [image.numpy().tobytes() for images, _ in batches for image in images]


# --- Files that the tests read


def tiny_images(number: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.RandomState(seed).randint(0, 256, (number, 32, 32, 3)).astype(np.uint8)


def png(image: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def write_parquet(
    file: Path,
    encoded: Sequence[bytes | None],
    labels: list[int],
    *,
    columns: tuple[str, str] = ("img", "label"),
    names: list[str] | None = None,
) -> None:
    import pyarrow
    from pyarrow import parquet

    structs = [{"bytes": image, "path": None} for image in encoded]
    image_type = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table(
        {columns[0]: pyarrow.array(structs, image_type), columns[1]: pyarrow.array(labels, pyarrow.int64())}
    )
    if names is not None:
        described = {"info": {"features": {columns[1]: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(described)})
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, file)


def write_cifar10_parquet(folder: Path, names: list[str] | None = None) -> None:
    train, test = tiny_images(20), tiny_images(10, 1)
    for shard in range(2):
        images = [png(image) for image in train[10 * shard : 10 * shard + 10]]
        write_parquet(folder / f"train-0000{shard}-of-00002.parquet", images, list(range(10)), names=names)
    write_parquet(folder / "test-00000-of-00001.parquet", [png(image) for image in test], list(range(10)), names=names)


def write_pickle(file: Path, images: np.ndarray[Any, Any], labels_key: str, labels: list[int]) -> None:
    rows = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps({"data": rows, labels_key: labels, "filenames": ["x"]}, protocol=2))


def write_cifar10_pickles(folder: Path) -> None:
    train = tiny_images(20)
    for part in range(5):
        labels = [(4 * part + image) % 10 for image in range(4)]
        write_pickle(folder / f"data_batch_{part + 1}", train[4 * part : 4 * part + 4], "labels", labels)
    write_pickle(folder / "test_batch", tiny_images(10, 1), "labels", list(range(10)))
    meta = {"label_names": [f"class{label}" for label in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))


def write_cifar10_folders(folder: Path, test_name: str = "test") -> None:
    for split, images in (("train", tiny_images(20)), (test_name, tiny_images(10, 1))):
        for number, image in enumerate(images):
            file = folder / split / f"class{number % 10}" / f"{number:02}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(image))


def cifar10(root: Path | str, **fields: Any) -> DatasetConfig:
    return DatasetConfig(**{"name": "cifar10", "root": str(root), "image_size": 32, **fields})


@pytest.fixture(scope="module")
def image_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 7 validation images of different sizes in three classes; val lacks one class."""
    root = tmp_path_factory.mktemp("images")
    pixels = np.random.RandomState(0)
    for split, number in (("train", 24), ("val", 7)):
        for image in range(number):
            label = "abc"[image % 3] if split == "train" else "ac"[image % 2]
            file = root / split / label / f"{image:02}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            size = (20 + image, 40 - image, 3)
            Image.fromarray(pixels.randint(0, 256, size).astype(np.uint8)).save(file)
    return root


def folders(root: Path, **fields: Any) -> DatasetConfig:
    return DatasetConfig(**{"name": "imagefolder", "root": str(root), "image_size": 16, "workers": 0, **fields})


# --- Determinism


def test_importing_is_light() -> None:
    heavy = "{'sklearn', 'pyarrow', 'torchvision', 'PIL'}"
    code = f"import rpg_bench.datasets, sys; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


@settings(deadline=None, max_examples=6)
@given(st.integers(0, 2**40), st.integers(0, 1000), st.integers(0, 11))
def test_an_epoch_resumes_at_any_batch(seed: int, epoch: int, start: int) -> None:
    whole = list(load(augment=ALL_ON, batch_size=128, seed=seed).train.epoch(epoch))
    torch.manual_seed(start)
    np.random.seed(start)
    resumed = load(augment=ALL_ON, batch_size=128, seed=seed).train.epoch(epoch, start)
    assert_same(whole[start:], resumed)


def test_seed_and_epoch_change_the_order_and_nothing_else_does() -> None:
    data = load(seed=1)
    assert_same(data.train.epoch(3), load(seed=1).train.epoch(3))
    assert not same_labels(data.train.epoch(3), data.train.epoch(4))
    assert not same_labels(data.train.epoch(3), load(seed=2).train.epoch(3))


def test_batches_of_an_epoch_are_augmented_differently() -> None:
    data = load(augment=AugmentConfig(mixup=1.0))
    shares = {round(float(targets.max(1).values.min()), 5) for _, targets in data.train.epoch(0)}
    assert len(shares) > len(data.train) // 2


def test_length_and_start() -> None:
    data = load(batch_size=100)
    assert (data.train.samples, len(data.train), len(list(data.train.epoch(0)))) == (1437, 14, 14)
    assert (data.test.samples, len(data.test), len(list(data.test.epoch(0)))) == (360, 4, 4)
    assert list(data.train.epoch(0, 14)) == []
    for batches in (data.train, data.test):
        with pytest.raises(ValueError, match="start"):
            batches.epoch(0, len(batches) + 1)


def random_states() -> list[Any]:
    return [torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()]


@pytest.mark.parametrize("workers", [0, 1])
def test_global_random_states_are_untouched(image_root: Path, workers: int) -> None:
    before = random_states()
    with_crop = AugmentConfig(random_resized_crop=True, flip=True, mixup=0.8, cutmix=1.0)
    for data in (load(augment=ALL_ON), load(folders(image_root, workers=workers), with_crop, batch_size=8)):
        for _ in (*data.train.epoch(0), *data.test.epoch(0)):
            assert random_states() == before
    assert random_states() == before


# --- Ranks


def test_ranks_train_on_disjoint_parts_of_the_same_epoch() -> None:
    whole = image_rows(load(batch_size=60).train.epoch(2))
    ranks = [list(load(batch_size=20, rank=rank, world_size=3).train.epoch(2)) for rank in range(3)]
    assert {len(batches) for batches in ranks} == {1437 // 60}
    together = [row for step in zip(*ranks, strict=True) for row in image_rows(step)]
    assert together == whole


def test_ranks_augment_differently() -> None:
    augment = AugmentConfig(mixup=1.0)
    first = [
        next(load(augment=augment, rank=rank, world_size=2).train.epoch(0))[1].max(1).values.min().item()
        for rank in range(2)
    ]
    assert first[0] != first[1]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 5))
def test_ranks_evaluate_everything_once(samples: int, batch_size: int, world_size: int) -> None:
    class Numbers:
        labels = np.arange(samples)

        def read(self, batches: Iterable[Any], random_crop: None) -> Iterator[Batch]:
            for batch in batches:
                yield torch.zeros(len(batch)), torch.from_numpy(batch)

    seen = []
    for rank in range(world_size):
        batches = EvaluationBatches(
            Numbers(),  # type: ignore[arg-type]
            lambda images: images,  # type: ignore[arg-type]
            batch_size=batch_size,
            rank=rank,
            world_size=world_size,
        )
        read = list(batches.epoch(0))
        assert len(read) == len(batches)
        assert batches.samples == samples
        assert all(len(labels) == batch_size for _, labels in read[:-1])
        seen += [int(label) for _, labels in read for label in labels]
    assert sorted(seen) == list(range(samples))


# --- Subset and validation


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.floats(0.01, 0.99), st.randoms())
def test_subset_is_stratified_and_nested(sizes: list[int], share: float, shuffle: random.Random) -> None:
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    shuffle.shuffle(labels)
    array = np.array(labels, dtype=np.int64)
    kept = take_subset(array, share)
    assert (np.diff(kept) > 0).all()
    for label, size in enumerate(sizes):
        count = int((array[kept] == label).sum())
        assert count >= 1
        assert count == 1 or abs(count - share * size) <= 0.5 + 1e-9
    assert set(take_subset(array, share / 2)) <= set(kept)
    assert len(take_subset(array, 1.0)) == len(array)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(2, 30), min_size=1, max_size=6), st.floats(0.01, 0.99))
def test_validation_is_stratified_and_disjoint(sizes: list[int], share: float) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    training, validation = hold_out(labels, share)
    assert sorted([*training, *validation]) == list(range(len(labels)))
    for label, size in enumerate(sizes):
        count = int((labels[validation] == label).sum())
        assert 1 <= count < size
        assert count in (1, size - 1) or abs(count - share * size) <= 0.5 + 1e-9


def test_validation_replaces_the_test_data() -> None:
    dataset = DatasetConfig(name="digits", image_size=8, validation=0.1)
    data, full = load(dataset, batch_size=1), load(batch_size=1)
    assert (data.evaluated_on, full.evaluated_on) == ("validation", "test")
    assert data.train.samples + data.test.samples == full.train.samples
    held_out, trained = set(image_rows(data.test.epoch(0))), set(image_rows(data.train.epoch(0)))
    assert held_out | trained == set(image_rows(full.train.epoch(0)))
    assert not held_out & trained
    other_seed = load(dataset, batch_size=1, seed=7)
    assert_same(data.test.epoch(0), other_seed.test.epoch(0))
    smaller = load(DatasetConfig(name="digits", image_size=8, validation=0.1, subset=0.1), batch_size=1)
    assert_same(data.test.epoch(0), smaller.test.epoch(0))
    assert set(image_rows(smaller.train.epoch(0))) < trained


def test_subset_keeps_its_share() -> None:
    data = load(DatasetConfig(name="digits", image_size=8, subset=0.1), batch_size=1)
    labels = torch.cat([label for _, label in data.train.epoch(0)])
    assert abs(data.train.samples - 143.7) <= 5
    assert (labels.bincount() >= 14).all()


# --- Digits


def test_digits() -> None:
    data = load(DatasetConfig(name="digits", image_size=16))
    images, labels = next(data.train.epoch(0))
    assert images.shape == (64, 1, 16, 16)
    assert labels.dtype == torch.int64
    assert (data.name, data.channels, data.image_size) == ("digits", 1, 16)
    assert data.classes == tuple("0123456789")
    pixels = torch.cat([images for images, _ in load().train.epoch(0)])
    assert abs(float(pixels.mean())) < 0.02
    assert abs(float(pixels.std()) - 1) < 0.02
    assert len(np.unique(pixels.numpy())) == 17  # 0..16 at the original size
    counts = torch.cat([labels for _, labels in data.test.epoch(0)]).bincount()
    assert len(counts) == 10
    assert counts.min() >= 34
    assert counts.max() <= 38


def test_the_digits_are_scikit_learns_own_and_so_is_their_split() -> None:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    theirs = load_digits()
    positions = np.arange(len(theirs.target))
    expected = train_test_split(positions, test_size=360, random_state=0, stratify=theirs.target)
    source = DATASETS["digits"](DatasetConfig(name="digits", image_size=8))
    for samples, chosen in zip((source.train(), source.test()), expected, strict=True):
        np.testing.assert_array_equal(samples.labels, theirs.target[chosen])
        batch = np.arange(len(chosen))
        images, _ = next(iter(samples.read([batch], None)))
        np.testing.assert_allclose(images[:, 0].numpy(), theirs.images[chosen] * (255 / 16), atol=0.5)


# --- CIFAR layouts


def pixels_of(data: Data, images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    return ((images * std + mean) * 255).round().to(torch.uint8)


LAYOUTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "parquet": (write_cifar10_parquet, "."),
    "parquet in data": (write_cifar10_parquet, "data"),
    "parquet in its own folder": (write_cifar10_parquet, "cifar10"),
    "parquet as on the hub": (write_cifar10_parquet, "cifar10/plain_text"),
    "pickles": (write_cifar10_pickles, "cifar-10-batches-py"),
    "pickles in its own folder": (write_cifar10_pickles, "cifar10/cifar-10-batches-py"),
    "folders": (write_cifar10_folders, "."),
    "folders in its own folder": (write_cifar10_folders, "cifar10"),
    "folders with val": (lambda folder: write_cifar10_folders(folder, "val"), "."),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_images(tmp_path: Path, layout: str) -> None:
    write, below = LAYOUTS[layout]
    write(tmp_path / below)
    data = load(cifar10(tmp_path), batch_size=10)
    assert (data.train.samples, data.test.samples, data.channels) == (20, 10, 3)
    assert len(data.classes) == 10
    images, labels = next(data.test.epoch(0))
    assert labels.tolist() == list(range(10))
    assert torch.equal(pixels_of(data, images), torch.from_numpy(tiny_images(10, 1)).permute(0, 3, 1, 2))
    trained = {
        image.numpy().tobytes(): int(label)
        for images, labels in data.train.epoch(0)
        for image, label in zip(pixels_of(data, images), labels, strict=True)
    }
    for number, image in enumerate(torch.from_numpy(tiny_images(20)).permute(0, 3, 1, 2)):
        assert trained[image.contiguous().numpy().tobytes()] == number % 10


def test_pickles_folder_itself_may_be_the_root(tmp_path: Path) -> None:
    write_cifar10_pickles(tmp_path / "cifar-10-batches-py")
    assert load(cifar10(tmp_path / "cifar-10-batches-py"), batch_size=10).classes[3] == "class3"


def test_class_names_come_from_the_parquet_metadata(tmp_path: Path) -> None:
    names = [f"name{label}" for label in range(10)]
    write_cifar10_parquet(tmp_path, names)
    assert load(cifar10(tmp_path), batch_size=10).classes == tuple(names)


def test_parquet_is_preferred(tmp_path: Path) -> None:
    write_cifar10_folders(tmp_path)
    write_cifar10_parquet(tmp_path, [f"parquet{label}" for label in range(10)])
    assert load(cifar10(tmp_path), batch_size=10).classes[0] == "parquet0"


def test_cifar100_reads_fine_labels(tmp_path: Path) -> None:
    images = [png(image) for image in tiny_images(4)]
    for split in ("train", "test"):
        file = tmp_path / "parquet" / f"{split}-00000-of-00001.parquet"
        write_parquet(file, images, [0, 99, 5, 7], columns=("image", "fine_label"))
        write_pickle(tmp_path / "pickles/cifar-100-python" / split, tiny_images(4), "fine_labels", [0, 99, 5, 7])
    for layout in ("parquet", "pickles"):
        data = load(cifar10(tmp_path / layout, name="cifar100"), batch_size=4)
        assert next(data.test.epoch(0))[1].tolist() == [0, 99, 5, 7]
        assert len(data.classes) == 100


def test_cifar_is_resized(tmp_path: Path) -> None:
    write_cifar10_parquet(tmp_path)
    images, _ = next(load(cifar10(tmp_path, image_size=8), batch_size=10).test.epoch(0))
    assert images.shape == (10, 3, 8, 8)


@pytest.mark.skipif(not SHARED_CIFAR100.is_dir(), reason="CIFAR-100 is not here")
def test_real_cifar100() -> None:
    source = DATASETS["cifar100"](DatasetConfig(name="cifar100", root=str(SHARED_CIFAR100), image_size=32))
    test = source.test()
    assert source.classes[0] == "apple"
    assert source.classes[99] == "worm"
    assert np.bincount(test.labels).tolist() == [100] * 100
    (images, labels), *_ = test.read([np.arange(10_000)], None)
    assert images.shape == (10_000, 3, 32, 32)
    assert labels.shape == (10_000,)
    means = (images.float() / 255).mean((0, 2, 3)).tolist()
    assert means == pytest.approx(source.mean, abs=0.005)


# --- Errors of CIFAR files


def refused(dataset: DatasetConfig, *parts: str, batch_size: int = 4, **arguments: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        for _ in load(dataset, batch_size=batch_size, **arguments).train.epoch(0):
            pass
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


def test_a_root_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("cifar10", "cifar100", "imagenet", "imagefolder"):
        refused(cifar10(tmp_path / "nowhere", name=name), "dataset.root:", "nowhere", "does not exist")
        refused(cifar10(tmp_path / "file", name=name), "dataset.root:", "is not a folder")


def test_a_root_that_is_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("rpg_bench.datasets.roots.os.scandir", forbidden)  # root may read everything
    refused(cifar10(tmp_path), "dataset.root:", "cannot be read (Permission denied)")


def test_a_root_without_the_data(tmp_path: Path) -> None:
    refused(
        cifar10(tmp_path), "dataset.root:", str(tmp_path), "train-*.parquet", "cifar-10-batches-py",
        "train/<class>/", "dataset.download=true",
    )  # fmt: skip
    refused(folders(tmp_path, name="imagenet"), "dataset.root:", "train/<class>/", str(tmp_path))


def test_a_download_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("<urlopen error no network>")

    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", unreachable)
    refused(cifar10(tmp_path / "new", download=True), "dataset.download:", "no network")


def test_a_download_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    def fetch(url: str, root: str, filename: str, md5: str) -> None:
        assert (url.rpartition("/")[2], filename) == ("cifar-10-python.tar.gz",) * 2
        assert len(md5) == 32
        write_cifar10_pickles(Path(root) / "cifar-10-batches-py")

    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", fetch)
    assert load(cifar10(tmp_path / "new", download=True), batch_size=10).train.samples == 20


def broken_parquet(tmp_path: Path, images: list[bytes | None], labels: list[int], **options: Any) -> Path:
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}-00000-of-00001.parquet", images, labels, **options)
    return tmp_path


def test_broken_parquet(tmp_path: Path) -> None:
    good = png(tiny_images(1)[0])
    file = "train-00000-of-00001.parquet"
    for number, (bad, reason) in enumerate(
        [
            (good[:-200], ""),
            (b"no image", "known format"),
            (b"", "empty"),
            (None, "empty"),
            (png(tiny_images(1)[0][:16]), "32x16 pixels, expected 32x32"),
        ]
    ):
        root = broken_parquet(tmp_path / f"image{number}", [good, bad], [0, 1])
        refused(cifar10(root), "dataset.root:", "row 1", file, reason, batch_size=1)
    root = broken_parquet(tmp_path / "label", [good, good], [0, 10])
    refused(cifar10(root), "label 10 in row 1", file, "[0, 10)")
    root = broken_parquet(tmp_path / "columns", [good], [0], columns=("picture", "label"))
    refused(cifar10(root), file, "picture", "img")
    root = broken_parquet(tmp_path / "fine", [good], [0], columns=("img", "fine_label"))
    refused(cifar10(root), file, "fine_label")
    root = broken_parquet(tmp_path / "other", [good], [0], names=["cat", "dog"])
    refused(cifar10(root), file, "2 classes, expected 10")
    (root / file).write_bytes(b"PAR1 but not really")
    refused(cifar10(root), "cannot read", file)
    (root / "test-00000-of-00001.parquet").unlink()
    refused(cifar10(root), "no test-*.parquet")


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch owned",)


def test_pickles_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    write_cifar10_pickles(folder)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (folder / "data_batch_3").write_bytes(pickle.dumps({"data": Malicious()}, protocol=protocol))
        refused(cifar10(tmp_path), "data_batch_3", "system, which is not allowed")
    assert not (tmp_path / "owned").exists()
    for payload in (b"cbuiltins\neval\n(V1+1\ntR.", b"cnumpy\nload\n(Vx\ntR.", b"cnumpy\nndarray.tofile\n."):
        (folder / "data_batch_3").write_bytes(payload)
        refused(cifar10(tmp_path), "data_batch_3", "not allowed")


def test_broken_pickles(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    write_cifar10_pickles(folder)
    file = folder / "data_batch_2"
    whole = file.read_bytes()
    contents: list[tuple[bytes, str]] = [
        (whole[:1000], "cannot read"),
        (b"", "cannot read"),
        (pickle.dumps([1]), "no 'data'"),
        (pickle.dumps({"data": np.zeros((1, 3072), np.uint8)}), "no 'labels'"),
        (pickle.dumps({"data": np.zeros((1, 7), np.uint8), "labels": [0]}), "3072 columns"),
        (pickle.dumps({"data": np.zeros((1, 3072)), "labels": [0]}), "uint8"),
        (pickle.dumps({"data": [1], "labels": [0]}), "uint8"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}), "2 images but 1 labels"),
        (pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [-1]}), "label -1"),
        (pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": ["a"]}), "integers"),
    ]
    for content, reason in contents:
        file.write_bytes(content)
        refused(cifar10(tmp_path), "data_batch_2", reason)
    file.unlink()
    refused(cifar10(tmp_path), "data_batch_2", "missing")


def test_broken_class_folders(tmp_path: Path) -> None:
    write_cifar10_folders(tmp_path)
    file = tmp_path / "train/class3/03.png"
    file.write_bytes(file.read_bytes()[:-300])
    refused(cifar10(tmp_path), "dataset.root:", "03.png")
    file.unlink()
    (tmp_path / "train/class3/13.png").unlink()
    refused(cifar10(tmp_path), "dataset.root:", "train", "class3")
    (tmp_path / "train/class3").rmdir()
    refused(cifar10(tmp_path), "class3", "lacks")


# --- Folders of images


def test_image_folder(image_root: Path) -> None:
    data = load(folders(image_root), batch_size=5)
    assert data.classes == ("a", "b", "c")
    assert data.channels == 3
    assert (data.train.samples, len(data.train), data.test.samples, len(data.test)) == (24, 4, 7, 2)
    batches = list(data.test.epoch(0))
    assert [len(images) for images, _ in batches] == [5, 2]
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 0, 0, 0, 2, 2, 2]
    assert batches[0][0].shape == (5, 3, 16, 16)
    assert batches[0][0].dtype == torch.float32


def test_evaluation_view_is_resize_and_centre_crop(image_root: Path) -> None:
    from torchvision.transforms import v2

    data = load(folders(image_root), batch_size=7)
    images, _ = next(data.test.epoch(0))
    transform = v2.Compose([v2.Resize(18), v2.CenterCrop(16), v2.PILToTensor()])
    files = sorted((image_root / "val").glob("*/*.png"))
    expected = torch.stack([transform(Image.open(file)) for file in files])
    assert torch.equal(pixels_of(data, images), expected)


@pytest.mark.parametrize("random_resized_crop", [False, True])
def test_folders_resume_with_any_number_of_workers(image_root: Path, random_resized_crop: bool) -> None:
    augment = AugmentConfig(random_resized_crop=random_resized_crop, flip=True, mixup=0.8, cutmix=1.0)
    whole = list(load(folders(image_root), augment, batch_size=5, seed=3).train.epoch(1))
    for workers, start in ((0, 3), (1, 0), (2, 2)):
        torch.manual_seed(start)
        data = load(folders(image_root, workers=workers), augment, batch_size=5, seed=3)
        assert_same(whole[start:], data.train.epoch(1, start))


def test_random_resized_crop_depends_on_seed_and_epoch(image_root: Path) -> None:
    augment = AugmentConfig(random_resized_crop=True)
    crops = [
        sorted(image_rows(load(folders(image_root), augment, batch_size=24, seed=seed).train.epoch(epoch)))
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert crops[0] != crops[1] != crops[2] != crops[0]


def test_held_out_images_are_not_augmented(image_root: Path) -> None:
    augment = AugmentConfig(random_resized_crop=True, flip=True, crop_padding=3)
    plain = load(folders(image_root, validation=0.25), batch_size=6)
    data = load(folders(image_root, validation=0.25), augment, batch_size=6)
    assert data.evaluated_on == "validation"
    assert data.test.samples == 6
    assert_same(plain.test.epoch(0), data.test.epoch(5))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_corrupt_image_is_named(tmp_path: Path, workers: int, content: bytes | None) -> None:
    write_cifar10_folders(tmp_path, "val")
    file = tmp_path / "train/class4/14.png"
    file.write_bytes(file.read_bytes()[:-1500] if content is None else content)
    refused(folders(tmp_path, workers=workers), "dataset.root:", "14.png")


def test_image_folder_without_a_test_split(tmp_path: Path) -> None:
    write_cifar10_folders(tmp_path, "elsewhere")
    refused(folders(tmp_path), "dataset.root:", "no val/ or test/")


# --- Values out of range


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"name": "digit"}, ["dataset.name: unknown 'digit'; did you mean 'digits'?", "cifar100"]),
        ({"subset": 1.5}, ["dataset.subset: 1.5 is outside (0, 1]"]),
        ({"subset": 0.0}, ["dataset.subset: 0.0 is outside (0, 1]"]),
        ({"subset": float("nan")}, ["dataset.subset: nan is outside"]),
        ({"validation": 1.0}, ["dataset.validation: 1.0 is outside [0, 1)"]),
        ({"validation": -0.1}, ["dataset.validation: -0.1 is outside"]),
        ({"image_size": 0}, ["dataset.image_size: 0"]),
        ({"workers": -1}, ["dataset.workers: -1"]),
    ],
)
def test_values_out_of_range(fields: dict[str, Any], parts: list[str]) -> None:
    refused(DatasetConfig(**fields), *parts)


def test_augmentation_that_does_not_fit() -> None:
    digits = DatasetConfig(name="digits")
    refused(digits, "augment.random_resized_crop", "digits", augment=AugmentConfig(random_resized_crop=True))
    refused(digits, "augment.crop_padding: -4", augment=AugmentConfig(crop_padding=-4))
    refused(digits, "augment.mixup: -1", augment=AugmentConfig(mixup=-1.0))


def test_batch_larger_than_the_training_data() -> None:
    digits = DatasetConfig(name="digits", subset=0.1)
    samples = load(digits).train.samples
    refused(
        digits,
        f"recipe.batch_size: 500 x 2 ranks exceeds the {samples} training images",
        f"largest allowed: {samples // 2}",
        batch_size=500,
        world_size=2,
    )
    refused(digits, "recipe.batch_size: 0", batch_size=0)
    assert len(load(digits, batch_size=samples).train) == 1


def test_validation_of_single_images(tmp_path: Path) -> None:
    labels = np.arange(5)
    with pytest.raises(InvalidInput, match="holds out nothing"):
        hold_out(labels, 0.5)
