"""What is measured after training: the training images as they are, and corrupted ones."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from runner import checkpoints, configured, only_record, train_tiny, untimed

from rpg_bench import InvalidInput
from rpg_bench.corruption_names import CORRUPTIONS, GROUPS, chosen
from rpg_bench.corruptions import corrupted
from rpg_bench.runs import run_hash

LARGE = "dataset.image_size=32"
FEW = "evaluation.corrupted_images=20"


def installed() -> bool:
    try:
        import imagecorruptions  # noqa: F401
    except ImportError:
        return False
    return True


needs_library = pytest.mark.skipif(not installed(), reason="imagecorruptions-imaug does not load here")


def images(count: int) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, size=(count, 32, 32, 3)).astype(np.uint8)


def test_names_and_groups_stand_for_corruptions() -> None:
    assert chosen([]) == ()
    assert chosen(["all"]) == CORRUPTIONS
    assert len(CORRUPTIONS) == 15
    assert chosen(["fog", "noise"]) == (*GROUPS["noise"], "fog")
    with pytest.raises(InvalidInput, match=r"evaluation.corruptions: unknown 'frog'.*'fog'"):
        chosen(["frog"])


@needs_library
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_depends_on_the_image_and_its_number_alone(name: str) -> None:
    given = images(3)
    before = given.copy()
    np.random.seed(5)
    expected = np.random.RandomState(5).random_sample()
    together = corrupted(given, name, 3, [7, 8, 9])
    assert np.random.random_sample() == expected  # global state is left as it was
    alone = corrupted(given[2:], name, 3, [9])
    np.testing.assert_array_equal(together[2:], alone)
    np.testing.assert_array_equal(given, before)
    assert together.dtype == np.uint8
    assert together.shape == given.shape
    assert (together != given).any()


@needs_library
@pytest.mark.parametrize("name", ["gaussian_noise", "glass_blur", "impulse_noise", "snow"])
def test_images_are_corrupted_by_draws_of_their_own(name: str) -> None:
    same = np.repeat(images(1), 2, axis=0)
    first, second = corrupted(same, name, 2, [0, 1])
    assert (first != second).any()


@needs_library
def test_a_finished_run_is_measured_without_being_trained_again(tmp_path: Path) -> None:
    top1 = train_tiny(LARGE)
    plain = only_record(tmp_path)
    assert "generalisation" not in plain
    newest = checkpoints(tmp_path)[-1]
    written = newest.stat().st_mtime_ns

    assert train_tiny(LARGE, FEW, "evaluation.train=true", "evaluation.corruptions=[contrast]") == top1
    record = only_record(tmp_path)
    assert newest.stat().st_mtime_ns == written
    assert record["hash"] == plain["hash"]
    assert untimed(record) == untimed(plain)
    measured = record["generalisation"]
    assert 0 <= measured["train_top1"] <= 100
    assert list(measured["corruptions"]) == ["contrast"]
    assert len(measured["corruptions"]["contrast"]) == 5
    assert measured["images"] == 20
    assert all(value % 5 == 0 for value in measured["corruptions"]["contrast"])  # of 20 images

    # What an earlier command measured stays when another is asked for; what is there is not measured again.
    train_tiny(LARGE, FEW, "evaluation.corruptions=[fog]")
    both = only_record(tmp_path)["generalisation"]
    assert both["corruptions"]["contrast"] == measured["corruptions"]["contrast"]
    assert list(both["corruptions"]) == ["fog", "contrast"]
    assert both["train_top1"] == measured["train_top1"]
    (path,) = (tmp_path / "results" / "records").glob("*.json")
    written = path.stat().st_mtime_ns
    train_tiny(LARGE, FEW, "evaluation.corruptions=[fog]")
    train_tiny(LARGE)
    assert path.stat().st_mtime_ns == written


def test_training_images_are_those_trained_on_as_they_are(tmp_path: Path) -> None:
    """287 of them; a network that is right on all of a share of them has a top-1 of that share."""
    train_tiny("evaluation.train=true")
    record = only_record(tmp_path)
    right = record["generalisation"]["train_top1"] * record["data"]["train"] / 100
    assert right == pytest.approx(round(right), abs=1e-6)


def test_measuring_does_not_rename_a_run() -> None:
    assert run_hash(configured()) == run_hash(configured("evaluation.train=true", "evaluation.corruptions=[all]"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluation.corruptions=[frog]"], r"evaluation.corruptions: unknown 'frog'"),
        (["evaluation.corruptions=[fog]"], r"evaluation.corruptions: need images of at least 32 pixels.* 8"),
        (["evaluation.corrupted_images=0"], r"evaluation.corrupted_images: 0 is too small; the least is 1"),
    ],
)
def test_a_mistake_is_reported_before_training(overrides: list[str], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        train_tiny(*overrides)
    assert not os.path.exists("runs")
    assert not os.path.exists("results")
