"""From the command to the result, on the embedded data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from runner import TINY, assert_same, composed, configured, final_state, finish, only_record, start, train_tiny, untimed

from rpg_bench import InvalidInput, share
from rpg_bench.backbones import create_backbone
from rpg_bench.config import AugmentConfig, TrainConfig
from rpg_bench.datasets import load_data
from rpg_bench.display import Display
from rpg_bench.engine import Trainer
from rpg_bench.train import train


def rebuilt(config: TrainConfig, state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """The network of a run with the weights of its checkpoint."""
    model = create_backbone(config.backbone, classes=10, channels=1, image_size=config.dataset.image_size)
    share(model, config.sharing.name, config.dof, seed=config.seed, **config.sharing.options)
    model.load_state_dict(state)
    return model.eval()


def test_it_learns(tmp_path: Path) -> None:
    """Well above chance within seconds: 10 % of the scalars, 4 epochs, half of the images."""
    top1 = train_tiny("dof=10%", "recipe.epochs=4", "dataset.subset=0.5")
    assert top1 > 80
    history = only_record(tmp_path)["history"]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert history[-1]["test_top1"] == top1


@pytest.mark.parametrize("average", [None, 0.5])
def test_the_recorded_result_is_that_of_the_saved_weights(tmp_path: Path, average: float | None) -> None:
    overrides = ["recipe.batch_size=50", f"recipe.ema_decay={'null' if average is None else average}"]
    train_tiny(*overrides)
    config = configured(*TINY, *overrides)
    state = final_state(tmp_path)
    model = rebuilt(config, state["model"] if average is None else state["average"])
    data = load_data(config.dataset, AugmentConfig(), batch_size=90, seed=0, device=torch.device("cpu"))
    batches = list(data.test.epoch(0))
    images, labels = torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])
    assert len(labels) == 360
    with torch.no_grad():
        logits = model(images)
    final = only_record(tmp_path)["final"]
    assert final["test_top1"] == pytest.approx(100 * (logits.argmax(1) == labels).double().mean().item())
    assert final["test_top5"] == pytest.approx(
        100 * (logits.topk(5).indices == labels[:, None]).any(1).double().mean().item()
    )
    assert final["test_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-4)


def test_accumulation_is_the_same_as_one_large_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without batch norm and dropout, up to rounding."""
    states = []
    for parts in (1, 4):
        folder = tmp_path / str(parts)
        folder.mkdir()
        monkeypatch.chdir(folder)
        train_tiny(
            "backbone.name=test_vit",
            "backbone.patch_size=4",
            "recipe.epochs=1",
            f"recipe.accumulate={parts}",
            "recipe.clip_norm=1",
            "recipe.augment.crop_padding=0",  # drawn for each part
            "optimizer.lr=0.01",
        )
        states.append(final_state(folder)["model"])
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-3, atol=1e-5, msg=name)
    assert not all(torch.equal(states[1][name], value) for name, value in states[0].items())


def test_the_same_seed_gives_the_same_result_and_another_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for number, seed in enumerate((0, 0, 1)):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        torch.manual_seed(number)  # what was drawn before does not matter
        train_tiny("recipe.epochs=1", f"seed={seed}")
        found.append((untimed(only_record(folder)), final_state(folder)["model"]))
    assert found[0][0] == found[1][0]
    assert_same(found[0][1], found[1][1])
    assert found[0][0] != found[2][0]


@pytest.mark.parametrize("scheme", ["none", "rpg_local"])
def test_every_scheme_is_trained(tmp_path: Path, scheme: str) -> None:
    dof = "null" if scheme == "none" else "5k"
    train_tiny(f"sharing={scheme}", f"dof={dof}", "recipe.epochs=1")
    report = only_record(tmp_path)["dof"]
    assert report["scheme"] == scheme
    assert report["dof"] == (report["slot_scalars"] if scheme == "none" else 5000)
    assert ("sharing.ring" in final_state(tmp_path)["model"]) == (scheme != "none")


@pytest.mark.parametrize(
    "overrides",
    [
        ["recipe.precision=bf16", "recipe.channels_last=true"],
        ["recipe=lors_cifar", "recipe.schedule.warmup_epochs=1", "recipe.epochs=2", "recipe.batch_size=32"],
        ["dataset.validation=0.2"],
        ["sharing.include=['conv1.*']", "sharing.exclude=['layer1.*']", "sharing.seed=3"],
        ["backbone.name=test_efficientnet"],
        ["optimizer=timm", "optimizer.name=lamb", "optimizer.lr=0.01"],
    ],
    ids=" ".join,
)
def test_it_trains_in_many_ways(tmp_path: Path, overrides: list[str]) -> None:
    train_tiny(*overrides)
    assert only_record(tmp_path)["status"] == "finished"


def test_the_held_out_images_are_evaluated_instead_of_the_test_images(tmp_path: Path) -> None:
    train_tiny("dataset.validation=0.2", "recipe.epochs=1")
    data = only_record(tmp_path)["data"]
    assert data["evaluated_on"] == "validation"
    assert data["evaluated"] == pytest.approx(0.2 * 1437, abs=10)


def test_a_network_with_tied_weights_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its state_dict has the same tensor under two names."""

    class Tied(torch.nn.Module):
        def __init__(self, num_classes: int, in_chans: int, **_: object) -> None:
            super().__init__()
            self.entry = torch.nn.Conv2d(in_chans, 8, 3)
            self.middle = torch.nn.Conv2d(8, 8, 3, padding=1)
            self.again = torch.nn.Conv2d(8, 8, 3, padding=1)
            self.again.weight = self.middle.weight
            self.norm = self.renamed = torch.nn.BatchNorm2d(8)
            self.head = torch.nn.Linear(8, num_classes)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features = self.again(self.middle(self.entry(images)).relu()).relu()
            logits: torch.Tensor = self.head(self.renamed(self.norm(features)).mean((2, 3)))
            return logits

    monkeypatch.setattr(timm, "create_model", lambda _, **options: Tied(**options))
    train_tiny("dof=100", "recipe.epochs=1")
    record = only_record(tmp_path)
    assert record["dof"]["slot_scalars"] == 8 * 8 * 9
    assert record["artefact_bytes"] > 4 * record["dof"]["total"]


def test_what_is_trained_and_where_the_result_is_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_tiny("recipe.no_decay=[norm,bias]")
    out = capsys.readouterr().out
    record = only_record(tmp_path)
    for number in ("slot_scalars", "dof", "private", "total", "dense"):
        assert f"{record['dof'][number]:,}" in out
    assert "no weight decay" in out
    assert re.search(r"step 1/16  loss \d", out)
    assert re.search(r"images/s.*ETA", out)
    assert f"{record['final']['test_top1']:.2f} %" in out
    for path in (*tmp_path.glob("results/records/*.json"), *tmp_path.glob("runs/*/*.pt")):
        assert str(path.relative_to(tmp_path)) in out


def test_the_time_left_does_not_count_what_comes_before_the_second_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that is continued starts W&B first, which takes seconds: 10 steps in 20 seconds leave 100 for 50."""
    clock = iter([1000.0, 1001.0, 1021.0])
    monkeypatch.setattr("rpg_bench.display.time.monotonic", lambda: next(clock))
    display = Display().training(steps=100, done=38)
    for step in (39, 40, 50):
        display.step(step, lambda: (0.5, 90.0), lambda: 100.0, 0.1)
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("step 39/100")
    assert "ETA" not in first
    assert last.endswith("ETA 0:01:40")


@pytest.mark.parametrize(("stem", "warned"), [("imagenet", True), ("cifar", False)])
def test_idle_taps_are_warned_of(capsys: pytest.CaptureFixture[str], stem: str, warned: bool) -> None:
    train_tiny("recipe.epochs=1", "dataset.image_size=16", f"backbone.stem={stem}", "dataset.subset=0.05")
    out = capsys.readouterr().out
    assert ("never meet data" in " ".join(out.split())) == warned


def test_several_runs_in_one_process(tmp_path: Path) -> None:
    train(composed(*TINY, "recipe.epochs=1", "seed=1"))
    train(composed(*TINY, "recipe.epochs=1", "seed=2"))
    assert len(list(tmp_path.glob("results/records/*.json"))) == 2


def test_the_command_trains_in_an_empty_directory(tmp_path: Path) -> None:
    code, out, err = finish(start([*TINY, "recipe.epochs=1"], tmp_path))
    assert (code, err) == (0, "")
    assert out.startswith("run ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results", "runs"]
    assert only_record(tmp_path)["status"] == "finished"


def test_training_sizes_follow_one_another_and_are_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    resized = Trainer._resized

    def watched(trainer: Trainer, images: torch.Tensor) -> torch.Tensor:
        made = resized(trainer, images)
        seen.append((trainer.position.step, made.shape[-1]))
        return made

    monkeypatch.setattr(Trainer, "_resized", watched)
    train_tiny("recipe.epochs=3", "recipe.train_sizes=[5,6,8]")
    steps = len(seen)
    assert [side for _, side in seen] == [(5, 6, 8)[3 * step // steps] for step in range(steps)]


@pytest.mark.parametrize("sizes", ["[17]", "[0]", "[8,40]"])
def test_training_sizes_out_of_range_are_refused(sizes: str) -> None:
    with pytest.raises(InvalidInput, match=r"recipe\.train_sizes"):
        configured(*TINY, f"recipe.train_sizes={sizes}")


def test_a_network_of_one_image_size_refuses_others(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"recipe\.train_sizes"):
        train_tiny("backbone.name=test_vit", "backbone.patch_size=4", "recipe.train_sizes=[8,16]")
    assert not (tmp_path / "runs").exists()
