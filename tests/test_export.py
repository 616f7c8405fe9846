"""`python -m rpg_bench.export`: a run as one file in each format, compared with the run's own network."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from runner import checkpoints, train_tiny
from safetensors.torch import load_file
from torch import nn

import rpg_bench
from rpg_bench import InvalidInput, materialize
from rpg_bench.compress import compress
from rpg_bench.export import export

WARNINGS = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def run(finished_run: Callable[..., str]) -> str:
    """The hash of a finished run below the working directory."""
    return finished_run("backbone.stem=cifar")


def test_a_run_becomes_a_compact_file(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    export([f"run={run}", "images=20"])
    printed = capsys.readouterr().out
    path = Path(f"{run}-compact.safetensors")
    assert f"{path.stat().st_size:,} bytes" in printed
    assert "max abs difference 0 " in printed
    assert "same top-1 on 100.00% of 20 images" in printed
    bound = int(re.search(r"= ([\d,]+) bytes", printed)[1].replace(",", ""))  # type: ignore[index]
    assert path.stat().st_size <= bound
    model = rpg_bench.load(path)
    assert model.recipe.run == run
    assert model.recipe.classes == tuple("0123456789")


def test_a_checkpoint_is_enough(run: str, tmp_path: Path) -> None:
    """The configuration lies beside it; the record is not needed."""
    export([f"run={run}", "output=from_run.safetensors"])
    shutil.move("results", "elsewhere")
    shutil.move(f"runs/{run}", "kept")
    export([f"checkpoint={max(Path('kept').glob('checkpoint-*.pt'))}", "output=from_file.safetensors"])
    export(["checkpoint=kept", "output=from_folder.safetensors"])
    files = [Path(f"from_{name}.safetensors").read_bytes() for name in ("run", "file", "folder")]
    assert files[0] == files[1] == files[2]
    # Runs of before have no configuration of their own.
    Path("kept/progress.json").unlink()
    with pytest.raises(InvalidInput, match=r"checkpoint: what .* was trained with is neither in .* nor in"):
        export(["checkpoint=kept"])
    shutil.move("kept", f"runs/{run}")
    export([f"checkpoint=runs/{run}", "results_dir=elsewhere", "output=from_record.safetensors"])
    assert Path("from_record.safetensors").read_bytes() == files[0]


def test_plain_weights_load_into_an_unmodified_network(tmp_path: Path) -> None:
    import timm

    train_tiny("backbone.stem=imagenet", "dataset.image_size=16")
    run = checkpoints(tmp_path)[-1].parent.name
    export([f"run={run}", "format=dense"])
    export([f"run={run}", "format=compact", "output=file.safetensors"])
    plain = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    plain.load_state_dict(load_file(f"{run}-dense.safetensors"))
    images = torch.randn(5, 1, 16, 16)
    with torch.no_grad():
        expected = materialize(rpg_bench.load("file.safetensors"))(images)
        torch.testing.assert_close(plain.eval()(images), expected)


@WARNINGS
@pytest.mark.parametrize(("kind", "suffix"), [("onnx", "onnx"), ("torch_export", "pt2")])
def test_other_runtimes_give_the_same_answers(
    run: str, kind: str, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    export([f"run={run}", f"format={kind}", "images=7"])  # another batch than it was traced with
    assert "same top-1 on 100.00% of 7 images" in capsys.readouterr().out
    assert Path(f"{run}-{kind}.{suffix}").stat().st_size > 1000


def test_a_narrower_network_and_an_average_are_exported(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    train_tiny("sharing=none", "dof=30%", "recipe.ema_decay=0.9", "backbone.stem=cifar")
    export([f"checkpoint={checkpoints(tmp_path)[-1]}", "images=20"])
    assert "max abs difference 0 " in capsys.readouterr().out


def test_a_pruned_and_quantised_file_becomes_plain_weights(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    import timm

    compress([f"run={run}", "bits=8", "prune=50%", "calibrate=0"])
    (file,) = Path("runs/compressed").glob("*.safetensors")
    export([f"model={file}", "format=dense", "images=20"])
    printed = capsys.readouterr().out
    assert "max abs difference 0 " in printed
    state = load_file(f"{file.stem}-dense.safetensors")
    plain = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    stem = re.search(r"conv1 = nn\.(Conv2d\(.*?\)) and maxpool = nn\.Identity\(\)", printed)
    assert stem is not None
    plain.conv1, plain.maxpool = nn.Conv2d(1, 32, 3, 1, 1, bias=False), nn.Identity()
    assert repr(plain.conv1) == stem[1]
    plain.load_state_dict(state)
    weights = state["layer1.0.conv1.weight"]
    assert 0.4 < float((weights == 0).float().mean()) < 0.6  # each entry of the ring is used as often as others


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["run=abc"], r"run: there is no folder runs/abc; run=abc needs its checkpoints"),
        ([], r"command line: give one of model=FILE\|NAME, run=HASH and checkpoint=PATH"),
        (["run=a", "checkpoint=b"], r"command line: give one of"),
        (["run=a", "model=b"], r"command line: give one of"),
        (["model=resnet18-cifar100-ring-36"], r"model: unknown .* did you mean 'resnet18-cifar100-ring-36k'"),
        (["checkpoint=none.pt"], r"checkpoint: there is no file none.pt"),
        (["run=a", "format=compct"], r"format: unknown 'compct'; did you mean 'compact'\?"),
        (["rum=a"], r"command line: unknown 'rum'; did you mean 'run'\?"),
        (["run"], r"command line: 'run' is no key=value"),
        (["run=a", "run=b"], r"run: given twice"),
        (["run=a", "images=0"], r"images: 0 is outside 1\.\."),
        (["run=a", "images=few"], r"images: 'few' is no whole number"),
    ],
)
def test_a_mistake_is_one_line(given: list[str], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        export(given)


def test_a_damaged_checkpoint_is_named(run: str, tmp_path: Path) -> None:
    newest = checkpoints(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:-3])
    with pytest.raises(InvalidInput, match=r"checkpoint: .* is truncated or altered"):
        export([f"run={run}"])
    assert not list(Path().glob("*.safetensors"))
