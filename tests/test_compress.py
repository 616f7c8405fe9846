"""`python -m rpg_bench.compress`: pruned, quantised, fine-tuned networks, their files and their records."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compact_files import inputs, recipe, trained

from rpg_bench import InvalidInput, load
from rpg_bench.compact import container
from rpg_bench.compact.encoding import Encoding
from rpg_bench.compact.load import loaded
from rpg_bench.compact.pruning import apply_masks, magnitude_masks, share_after
from rpg_bench.compact.quantising import StraightThrough, as_stored, estimate_statistics, stored
from rpg_bench.compact.settings import Settings, compression_hash
from rpg_bench.compact.write import Storage, compact
from rpg_bench.compress import compress
from rpg_bench.report.compressions import read_compressions
from rpg_bench.report.records import Record
from rpg_bench.sharing.report import trained_parameters

EIGHT = Storage(Encoding(8, 64, 8), Encoding(8, 64, 8))
FOUR = Storage(Encoding(4, 64, 8), Encoding(4, 64, 8))


@pytest.fixture
def run(finished_run: Callable[..., str]) -> str:
    return finished_run("backbone.stem=cifar", "dataset.subset=1", "recipe.epochs=4", "dataset.image_size=16")


def records() -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in Path("results/compressions").glob("*.json")]
    return sorted(found, key=lambda record: (-record["settings"]["bits"], record["settings"]["prune"]))


def test_every_combination_is_a_file_and_a_record(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    compress([f"run={run}", "bits=32,4", "prune=0,80%", "calibrate=200"])
    whole, pruned, small, smallest = records()
    assert [record["size"]["bytes"] for record in (whole, pruned, small, smallest)] == sorted(
        (record["size"]["bytes"] for record in records()), reverse=True
    )
    assert whole["final"]["top1"] == pytest.approx(whole["parent_top1"], abs=0.3)  # an image may be on an edge
    assert whole["size"]["dof_bits"] == 32 * 5000
    assert pruned["size"]["parts"]["free"]["numbers"] == 1000
    assert pruned["size"]["dof_bits"] == 32 * 1000 + pruned["size"]["parts"]["free"]["masks"]
    free = smallest["size"]["parts"]["free"]
    assert smallest["size"]["dof_bits"] == 4 * 1000 + 16 * 16 + free["masks"]  # 16 blocks of at most 64
    for record in records():
        assert record["parent"] == run
        assert record["hash"] == compression_hash(run, Settings(**record["settings"]))
        path = Path(f"runs/compressed/{run}-{record['hash']}.safetensors")
        assert path.stat().st_size == record["size"]["bytes"]
        assert record["size"]["zstd_bytes"] < record["size"]["bytes"]
        load(path)
    capsys.readouterr()
    compress([f"run={run}", "bits=4", "prune=80%", "calibrate=200"])
    assert "recorded, top-1" in capsys.readouterr().out
    parent = Record(json.loads(Path(f"results/records/{run}.json").read_text()))
    found, left_out = read_compressions(Path("results"), {run: parent})
    clean = not (whole["git"] or {"dirty": True})["dirty"]
    assert (len(found), len(left_out)) == ((4, 0) if clean else (0, 4))


def test_what_runs_in_8_bits_is_the_network_of_the_same_file(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from rpg_bench.compact import int8

    calibrated: list[int] = []

    def in_float(plain: torch.nn.Module, calibration: list[torch.Tensor]) -> torch.nn.Module:
        calibrated.append(sum(map(len, calibration)))
        return plain.eval()

    monkeypatch.setattr(int8, "quantised_network", in_float)  # itself tested in test_int8; it compiles for long
    compress([f"run={run}", "bits=8", "activations=32,8", "calibrate=200"])
    whole, in_8_bits = sorted(records(), key=lambda record: -record["settings"]["activations"])
    assert calibrated == [int8.CALIBRATION_IMAGES]
    assert (whole["precision"], in_8_bits["precision"]) == ("fp32", "int8")
    assert whole["sha256"] == in_8_bits["sha256"]
    assert whole["final"]["top1"] == pytest.approx(in_8_bits["final"]["top1"], abs=0.3)
    with pytest.raises(InvalidInput, match="activations: unknown '16'"):
        compress([f"run={run}", "activations=16"])


def test_fine_tuning_keeps_what_is_pruned_and_looks_at_no_test_image(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from rpg_bench.compact import squeeze

    seen: list[int] = []
    original = squeeze._Few.epoch

    def watched(self: Any, epoch: int, start: int = 0) -> Any:
        seen.append(self._batches.samples)
        return original(self, epoch, start)

    monkeypatch.setattr(squeeze._Few, "epoch", watched)
    compress([f"run={run}", "bits=8", "prune=50%", "tune=1", "rounds=2", "calibrate=200"])
    (record,) = records()
    assert seen == [1437, 1437]  # the training images, in place of the test images
    assert record["settings"]["rounds"] == 2
    model = load(next(Path("runs/compressed").glob("*.safetensors")))
    ring = model.sharing.ring.detach()
    assert int((ring == 0).sum()) >= 2500
    assert record["size"]["parts"]["free"]["numbers"] == 2500


def test_fine_tuning_that_is_interrupted_leaves_nothing_and_says_so_in_a_line(
    run: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rpg_bench import arguments
    from rpg_bench.compact.quantising import StraightThrough

    leave = StraightThrough.leave
    signals: list[int] = []

    def interrupted(self: StraightThrough) -> None:  # before the first step
        leave(self)
        if not signals:
            signals.append(signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(StraightThrough, "leave", interrupted)
    with pytest.raises(SystemExit) as caught:
        arguments.run(compress, None, [f"run={run}", "prune=50%", "tune=1"])
    assert caught.value.code == 130
    printed = capsys.readouterr()
    assert printed.err == "error: interrupted in epoch 1 after step 1\n"
    assert "test" not in printed.out  # of images that it never looks at
    assert not records()


@pytest.mark.parametrize(("scheme", "network"), [("rpg_global", "test_resnet"), ("none", "test_resnet")])
def test_a_share_of_the_free_numbers_is_pruned_the_smallest_first(scheme: str, network: str) -> None:
    model = trained(recipe(scheme, "5k" if scheme == "rpg_global" else None, network))
    free, private = trained_parameters(model)
    before = {name: parameter.detach().clone() for name, parameter in private.items()}
    values = torch.cat([parameter.detach().reshape(-1).abs() for parameter in free.values()])
    masks = magnitude_masks(model, 0.7)
    apply_masks(model, masks)
    kept = torch.cat([mask.reshape(-1) for mask in masks.values()])
    assert int((~kept).sum()) == round(0.7 * len(values))
    assert values[kept].min() >= values[~kept].max()
    for name, parameter in private.items():
        assert torch.equal(parameter, before[name])
    made = recipe(scheme, "5k" if scheme == "rpg_global" else None, network)
    file = compact(model, made)
    assert file.sizes["free"].numbers == int(kept.sum())
    found = loaded(*container.unpacked(file.content, "file"))
    with torch.no_grad():
        assert torch.equal(found(inputs()), model(inputs()))


def test_factors_of_one_role_compete_with_one_another() -> None:
    model = trained(recipe("lors", None, "test_vit", rank=2))
    masks = magnitude_masks(model, 0.5)
    for role in ("shared", "down", "up"):
        kept = torch.cat([mask.reshape(-1) for name, mask in masks.items() if name.startswith(f"sharing.{role}.")])
        assert int(kept.sum()) == len(kept) - round(0.5 * len(kept))


def test_rounds_take_the_same_share_of_what_is_left() -> None:
    left = [1 - share_after(0.8, number, 4) for number in range(5)]
    assert left[0] == 1
    assert left[-1] == pytest.approx(0.2)
    np.testing.assert_allclose(np.divide(left[1:], left[:-1]), 0.2**0.25)


def test_the_network_trains_on_as_it_will_be_stored() -> None:
    """Values are those read back from the file, the gradient is taken there, and the step is taken on exact ones."""
    made = recipe()
    model = trained(made)
    masks = magnitude_masks(model, 0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    straight = StraightThrough(model, masks, FOUR, optimizer)
    ring: torch.nn.Parameter = model.sharing.ring  # type: ignore[assignment]
    exact = straight._exact["sharing.ring"].clone()
    rounded = ring.detach().clone()
    assert torch.equal(rounded == 0, (exact == 0) | (rounded == 0))
    assert not torch.equal(rounded, exact)
    straight.leave()
    found = loaded(*container.unpacked(compact(model, made, FOUR).content, "file"))
    straight.enter()
    assert torch.equal(found.sharing.ring, rounded)
    model(inputs()).square().mean().backward()
    gradient = ring.grad.clone()  # type: ignore[union-attr]
    optimizer.step()
    expected = (exact - 0.01 * gradient) * masks["sharing.ring"]
    straight.close()
    torch.testing.assert_close(ring.detach(), expected)
    optimizer.step()  # its hooks are gone
    assert not straight._masks["sharing.ring"].all()


def test_channels_that_never_vary_do_not_spoil_the_scales_of_others() -> None:
    made = recipe("none", None)
    model, images = trained(made), inputs(64)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight[::2] = 0.0  # as a sparse network's are
        estimate_statistics(model, model, [(images, images)])
        expected = model(images)
        found = loaded(*container.unpacked(compact(model, made, EIGHT).content, "the file"))(images)
    assert (found - expected).norm() < 0.5 * (expected - expected.mean(0)).norm()  # 4.7 without


@pytest.mark.parametrize("storage", [EIGHT, FOUR])
def test_what_is_calibrated_is_what_is_read_back(storage: Storage) -> None:
    made = recipe()
    model = trained(made)
    apply_masks(model, magnitude_masks(model, 0.5))
    ring = model.sharing.ring.detach().clone()
    with as_stored(model, storage):
        during = model.sharing.ring.detach().clone()
    assert torch.equal(model.sharing.ring, ring)
    found = loaded(*container.unpacked(compact(model, made, storage).content, "file"))
    assert torch.equal(found.sharing.ring, during)
    assert "bn1.weight" not in stored(model, storage)
    assert (
        torch.equal(found.fc.weight, stored(model, storage)["fc.weight"])
        if "fc.weight" in stored(model, storage)
        else True
    )


def test_statistics_are_those_of_the_calibration_images() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten()).eval()
    images = torch.randn(30, 1, 6, 6)
    batches = [(part, torch.zeros(10)) for part in images.split(10)]
    estimate_statistics(network, network, batches)
    features = network[0](images).detach()
    norm: Any = network[1]
    torch.testing.assert_close(norm.running_mean, features.mean((0, 2, 3)))
    assert not norm.training
    assert norm.momentum == 0.1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["bits=5"], r"bits: unknown '5'"),
        (["bits=8,2"], r"bits: unknown '2'"),
        (["prune=100%"], r"prune: 100% is outside 0\.\.99\.9%"),
        (["prune=half"], r"prune: 'half' is no share, such as 50% or 0\.5"),
        (["rounds=0"], r"rounds: 0 is outside 1\.\."),
        (["tune=x"], r"tune: 'x' is no whole number"),
    ],
)
def test_a_mistake_is_one_line(given: list[str], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        compress(["run=abc", *given])


def test_a_run_without_a_record_is_exported_instead(run: str) -> None:
    Path(f"results/records/{run}.json").unlink()
    with pytest.raises(InvalidInput, match=r"run: .* has no record of a finished run in results/records"):
        compress([f"run={run}"])
