"""Bad input: one line that says what is wrong, exit code 2, and nothing written."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from runner import ROOT, TINY, configured, finish, start

from rpg_bench.command_line import run_command
from rpg_bench.config import config_directory
from rpg_bench.runs import RunFiles
from rpg_bench.train import train

Refusal = Callable[..., str]


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Give the command arguments that it refuses; returns the one line that it says."""

    def give(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["rpg_bench.train", *arguments])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # so that what the command sets is undone
        before = set(Path.cwd().rglob("*"))
        with pytest.raises(SystemExit) as left:
            run_command(train)
        err = capsys.readouterr().err
        assert left.value.code == 2, err
        lines = err.splitlines()
        assert len(lines) == 1, err
        assert lines[0].startswith("error: ")
        assert set(Path.cwd().rglob("*")) == before
        return lines[0]

    return give


# Arguments, and what the line must name.
BEFORE_ANYTHING_IS_LOADED: list[tuple[list[str], list[str]]] = [
    (["dof=abc"], ["dof", "abc"]),
    (["dof=0"], ["dof", "'0'"]),
    (["dof=-5"], ["dof", "-5"]),
    (["dof=nan"], ["dof", "nan"]),
    (["dof=inf"], ["dof", "inf"]),
    (["dof=200%"], ["dof", "200%"]),
    (["dof=0%"], ["dof", "0%"]),
    (["dof=0.5"], ["dof", "0.5"]),
    (["dof=[1,2]"], ["dof", "[1, 2]"]),
    (["dof=true"], ["dof", "True"]),
    (["dof=''"], ["dof", "''"]),
    (["sharing=rpg_globl"], ["sharing", "rpg_globl", "did you mean 'rpg_global'"]),
    (["backbone=resnet81"], ["backbone", "resnet81", "did you mean 'resnet18'"]),
    (["dataset=cifr10"], ["dataset", "cifr10", "did you mean 'cifar10'"]),
    (["recipe=rpg_cfiar"], ["recipe", "rpg_cfiar", "did you mean 'rpg_cifar'"]),
    (["optimizer=adamv"], ["optimizer", "adamv", "did you mean 'adamw'"]),
    (["tracking=of"], ["tracking", "of", "offline", "online", "disabled"]),
    (["recipe.epoch=3"], ["recipe.epoch", "did you mean 'recipe.epochs'"]),
    (["recipe.schedule.warmup=3"], ["recipe.schedule.warmup", "did you mean 'recipe.schedule.warmup_epochs'"]),
    (["sed=1"], ["sed", "did you mean 'seed'"]),
    (["nonsense.key=1"], ["nonsense.key"]),
    (["+sed=1"], ["sed", "did you mean 'seed'"]),
    (["+recipe.epoch=3"], ["recipe.epoch", "did you mean 'recipe.epochs'"]),
    (["sharing.permut=false"], ["sharing.permut"]),
    (["recipe.epochs=0"], ["recipe.epochs", "0"]),
    (["recipe.epochs=many"], ["recipe.epochs", "many"]),
    (["recipe.epochs=2.5"], ["recipe.epochs", "2.5"]),
    (["recipe.batch_size=0"], ["recipe.batch_size", "0"]),
    (["recipe.accumulate=0"], ["recipe.accumulate", "0"]),
    (["recipe.accumulate=7"], ["recipe.accumulate", "7"]),
    (["recipe.precision=fp64"], ["recipe.precision", "fp64"]),
    (["recipe.schedule.name=cosin"], ["recipe.schedule.name", "did you mean 'cosine'"]),
    (["recipe.schedule.warmup_epochs=100"], ["recipe.schedule.warmup_epochs", "100"]),
    (["recipe.schedule.warmup_epochs=nan"], ["recipe.schedule.warmup_epochs", "nan"]),
    (["recipe.label_smoothing=1"], ["recipe.label_smoothing", "1"]),
    (["recipe.ema_decay=1"], ["recipe.ema_decay", "1"]),
    (["recipe.clip_norm=-1"], ["recipe.clip_norm", "-1"]),
    (["recipe.no_decay=[bais]"], ["recipe.no_decay", "did you mean 'bias'"]),
    (["recipe.channels_last=maybe"], ["recipe.channels_last", "maybe"]),
    (["recipe.stem=haf"], ["recipe.stem", "did you mean 'half'"]),
    (["backbone.stem=cifr"], ["backbone.stem", "did you mean 'cifar'"]),
    (["optimizer.lr=fast"], ["optimizer.lr", "fast"]),
    (["optimizer.lr=0"], ["optimizer.lr", "0"]),
    (["optimizer.lr=nan"], ["optimizer.lr", "nan"]),
    (["optimizer.weight_decay=-1"], ["optimizer.weight_decay", "-1"]),
    (["seed=-1"], ["seed", "-1"]),
    (["seed=x"], ["seed", "x"]),
    (["force=perhaps"], ["force", "perhaps"]),
    (["checkpoint_seconds=0"], ["checkpoint_seconds", "0"]),
    (["device=gpu"], ["device", "gpu", "cuda"]),
    (["tracking.mode=on"], ["tracking.mode", "on"]),
    (["tracking.tags=one"], ["tracking.tags", "one"]),
    (["dataset.image_size=0"], ["dataset.image_size", "0"]),
    (["dataset.workers=-1"], ["dataset.workers", "-1"]),
    (["backbone=timm"], ["backbone.name"]),
    (["optimizer=timm"], ["optimizer.name"]),
    (["dof=[1"], ["dof=[1"]),
    (["recipe.epochs"], ["recipe.epochs"]),
]

WITH_DATA: list[tuple[list[str], list[str]]] = [
    ([*TINY, "dof=100M"], ["dof", "100000000", "363264"]),
    (["dof=50M"], ["dof", "50000000", "11157504"]),
    ([*TINY, "sharing=none", "dof=400k"], ["dof", "400000", "363264"]),
    ([*TINY, "sharing=none", "dof=7"], ["dof", "7 ", "363264"]),
    ([*TINY, "backbone.name=test_mambaout", "sharing=none", "dof=10k"], ["dof", "MambaOut", "ResNet"]),
    ([*TINY, "backbone.name=resnet81"], ["backbone.name", "resnet81", "did you mean 'resnet"]),
    ([*TINY, "backbone.options={no_such: 1}"], ["backbone.options", "no_such"]),
    ([*TINY, "backbone.name=test_vit", "backbone.stem=cifar"], ["backbone.stem", "cifar"]),
    ([*TINY, "backbone.patch_size=4"], ["backbone.patch_size", "test_resnet"]),
    ([*TINY, "recipe.batch_size=400", "recipe.accumulate=2"], ["recipe.batch_size", "400", "287"]),
    ([*TINY, "backbone.name=test_vit", "backbone.patch_size=3"], ["backbone.patch_size", "3", "8"]),
    ([*TINY, "backbone.name=test_convnext"], ["dataset.image_size", "8"]),
    ([*TINY, "backbone.name=test_maxvit"], ["dataset.image_size", "8"]),
    ([*TINY, "backbone.name=vgg11"], ["dataset.image_size", "8"]),
    ([*TINY, "optimizer=timm", "optimizer.name=adamv"], ["optimizer.name", "adamv", "did you mean 'adam"]),
    ([*TINY, "optimizer=timm", "optimizer.name=fusedadam"], ["optimizer", "fusedadam"]),
    ([*TINY, "optimizer.options={momentun: 0.9}"], ["optimizer.options", "momentun"]),
    ([*TINY, "sharing.order=backwards"], ["sharing.order", "backwards", "shuffled", "sequential"]),
    ([*TINY, "sharing.permute=perhaps"], ["sharing.permute", "perhaps"]),
    ([*TINY, "+sharing.permut=false"], ["sharing.permut", "did you mean 'permute'"]),
    ([*TINY, "+sharing.rings={a: '*'}"], ["sharing.rings"]),
    ([*TINY, "sharing.include=['nowhere.*']"], ["nowhere.*"]),
    ([*TINY, "sharing.exclude=['nowhere.*']"], ["nowhere.*"]),
    ([*TINY, "sharing=rpg_local", "sharing.rings={a: 'layer[12]*', b: 'layer[234]*'}"], ["sharing.rings.b", "overlap"]),
    ([*TINY, "sharing=rpg_local", "sharing.rings={a: 'layer1*'}"], ["sharing.rings", "layer2"]),
    ([*TINY, "sharing=rpg_local", "sharing.rings={a: 'lair*'}"], ["sharing.rings.a", "lair*"]),
    ([*TINY, "recipe.batch_size=288"], ["recipe.batch_size", "288", "287"]),
    ([*TINY, "recipe.augment.mixup=-1"], ["augment.mixup", "-1"]),
    ([*TINY, "recipe.augment.random_resized_crop=true"], ["augment.random_resized_crop", "digits"]),
    ([*TINY, "dataset.subset=0"], ["dataset.subset", "0"]),
    ([*TINY, "dataset.subset=nan"], ["dataset.subset", "nan"]),
    ([*TINY, "dataset.validation=1"], ["dataset.validation", "1"]),
    ([*TINY, "seed=99999999999999999999999"], ["seed"]),
]


def named(case: object) -> str:
    return " ".join(part for part in case if part not in TINY) if isinstance(case, list) else ""


@pytest.mark.parametrize(("arguments", "mentioned"), BEFORE_ANYTHING_IS_LOADED + WITH_DATA, ids=named)
def test_a_wrong_value_is_refused_in_one_line(refusal: Refusal, arguments: list[str], mentioned: list[str]) -> None:
    line = refusal(*arguments)
    for word in mentioned:
        assert word in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
@pytest.mark.parametrize(
    ("launcher", "key", "nearest"), [("slurm", "partitoin", "'partition'"), ("joblib", "njobs", "'n_jobs'")]
)
def test_a_wrong_key_of_a_launcher_names_the_nearest_of_its_own(
    refusal: Refusal, launcher: str, key: str, nearest: str
) -> None:
    message = refusal("--multirun", *TINY, f"hydra/launcher={launcher}", f"hydra.launcher.{key}=2")
    assert f"hydra.launcher: unknown {key!r}; did you mean {nearest}?" in message


@pytest.mark.parametrize(
    "content",
    [b"dof: [1\n", b"dof: !!python/object/apply:os.system ['touch executed']\n", b"\xff\xfe\x00"],
    ids=["not closed", "a call", "no text"],
)
def test_an_experiment_file_that_is_no_yaml_is_one_line(refusal: Refusal, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "mine" / "experiment" / "broken.yaml"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    message = refusal("--multirun", f"--config-dir={file.parents[1]}", "+experiment=broken")
    assert message.startswith("error: configuration file: ")
    assert not Path("executed").exists()


def test_a_device_that_is_not_there(refusal: Refusal) -> None:
    line = refusal("device=cuda")
    assert "device" in line
    assert "cpu" in line


def test_a_missing_data_root(refusal: Refusal) -> None:
    line = refusal("dataset=cifar100", "dataset.root=not/there")
    assert "dataset.root" in line
    assert "not/there" in line


def test_a_data_root_that_is_a_file(refusal: Refusal) -> None:
    Path("data").write_text("no folder")
    assert "dataset.root" in refusal("dataset=cifar100", "dataset.root=data")


def test_a_data_root_without_the_data_set(refusal: Refusal) -> None:
    Path("data").mkdir()
    line = refusal("dataset=cifar10", "dataset.root=data")
    for word in ("dataset.root", "cifar10", "parquet", "dataset.download=true"):
        assert word in line


def test_an_image_folder_without_images(refusal: Refusal) -> None:
    Path("data/train/cat").mkdir(parents=True)
    Path("data/val/cat").mkdir(parents=True)
    assert "dataset.root" in refusal("dataset=imagefolder", "dataset.root=data")


def test_a_corrupt_image_is_named(refusal: Refusal) -> None:
    for split in ("train", "test"):
        for number in range(10):
            folder = Path("data") / split / str(number)
            folder.mkdir(parents=True)
            (folder / "broken.png").write_bytes(b"no image")
    assert "broken.png" in refusal("dataset=cifar10", "dataset.root=data")


@pytest.mark.parametrize("cut", [0, 10, 10_000])
def test_a_corrupt_parquet_file_is_named(refusal: Refusal, cut: int) -> None:
    source = ROOT.parent / "shared" / "data" / "cifar100"
    tests = sorted(source.rglob("test-*.parquet"))
    if not tests:
        pytest.skip("needs the CIFAR-100 parquet files beside the checkout")
    Path("data").mkdir()
    shutil.copy(tests[0], Path("data") / tests[0].name)
    Path("data/train-00000-of-00001.parquet").write_bytes(tests[0].read_bytes()[:cut])
    assert "train-00000-of-00001.parquet" in refusal("dataset=cifar100", "dataset.root=data")


@pytest.mark.parametrize("field", ["runs_dir", "results_dir"])
def test_an_output_directory_that_cannot_be_made(refusal: Refusal, field: str) -> None:
    Path("taken").write_text("a file")
    line = refusal(*TINY, f"{field}=taken")
    assert field in line
    assert "taken" in line


def test_no_space_for_checkpoints(refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert "runs_dir" in refusal(*TINY)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": 0, "status": "finished"}', "\x00\xff"])
def test_a_damaged_record_is_named(refusal: Refusal, content: str) -> None:
    path = RunFiles.of(configured(*TINY)).record
    path.parent.mkdir(parents=True)
    path.write_bytes(content.encode("latin-1"))
    assert str(path) in refusal(*TINY)
    assert path.read_bytes() == content.encode("latin-1")


def test_a_record_that_lacks_its_result_is_named(refusal: Refusal) -> None:
    path = RunFiles.of(configured(*TINY)).record
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"format": 1, "status": "finished"}))
    assert str(path) in refusal(*TINY)


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [([*TINY, "recipe.batch_size=9999"], "recipe.batch_size"), (["dof=[1"], "dof=[1")],
    ids=["after loading", "syntax"],
)
def test_the_command_itself_says_one_line(tmp_path: Path, arguments: list[str], mentioned: str) -> None:
    code, _, err = finish(start(arguments, tmp_path))
    assert code == 2
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert mentioned in err
    assert os.listdir(tmp_path) == []


def test_slurm_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="needs hydra-submitit-launcher")
    squeue = tmp_path / "programs" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\necho slurm_load_jobs error: Unable to contact slurm controller >&2\nexit 1\n")
    squeue.chmod(0o755)
    directory = tmp_path / RunFiles.of(configured(*TINY)).directory
    directory.mkdir(parents=True)
    (directory / "slurm.json").write_text('{"job": "7", "folder": "runs/slurm/7", "tasks": 1}')
    path = f"{squeue.parent}{os.pathsep}{os.environ['PATH']}"
    code, _, err = finish(start(["--multirun", "hydra/launcher=slurm", *TINY], tmp_path, PATH=path))
    assert (code, err.splitlines()) == (
        1,
        ["error: Slurm does not say which of the runs are in its queue; nothing was submitted"],
    )


def test_the_composed_configuration_can_be_shown(tmp_path: Path) -> None:
    code, out, err = finish(start(["--cfg", "job", "dof=36k"], tmp_path))
    assert (code, err) == (0, "")
    assert "dof: 36k" in out
    assert os.listdir(tmp_path) == []


def test_a_sweep_goes_on_after_a_run_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["rpg_bench.train", "--multirun", *TINY, "dof=abc,5k", "recipe.epochs=1"])
    with pytest.raises(SystemExit) as left:
        run_command(train)
    assert left.value.code == 2
    err = capsys.readouterr().err
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [err.splitlines()[0]]
    assert len(list(Path("results/records").glob("*.json"))) == 1


def test_the_configuration_lies_where_the_command_looks_for_it() -> None:
    assert (config_directory() / "train.yaml").is_file()
