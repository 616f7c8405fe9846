"""Experiments: cases crossed with a grid, in one command that can be repeated until all is done."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from runner import ROOT, TINY, finish, start

from rpg_bench import InvalidInput
from rpg_bench.command_line import run_command
from rpg_bench.config import config_directory
from rpg_bench.sweeper import expand
from rpg_bench.train import train

EXPERIMENT = """
# @package _global_
sweep: small
defaults:
  - override /backbone: timm
  - override /tracking: disabled
backbone: {name: test_resnet}
dataset: {subset: 0.2, image_size: 8}
recipe: {epochs: 1, batch_size: 32}
device: cpu
hydra:
  mode: MULTIRUN
  sweeper:
    cases:
      - sharing=none dof=10k
      - [sharing=rpg_local, "sharing.rings={early: 'layer[12].*', late: 'layer[34].*'}"]
    params: {seed: "0,1"}
"""

Sweep = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Sweep:
    """Run the experiment `small` with further arguments; exit code, stdout, stderr."""
    Path("mine/experiment").mkdir(parents=True)
    Path("mine/experiment/small.yaml").write_text(EXPERIMENT)

    def run(*arguments: str, experiment: str = "small") -> tuple[int, str, str]:
        monkeypatch.setattr(
            sys, "argv", ["rpg_bench.train", "--config-dir", "mine", f"+experiment={experiment}", *arguments]
        )
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        code = 0
        try:
            run_command(train)
        except SystemExit as left:
            code = int(left.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def records() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(Path("results/records").glob("*.json"))]


def expanded(cases: list[Any], *grid: str) -> list[list[str]]:
    return expand(cases, grid, OverridesParser.create())


def test_the_cases_are_run_at_each_point_of_the_grid() -> None:
    runs = expanded(["sharing=none", ["sharing=lors", "dof=2.4M"]], "seed=0,1", "recipe.epochs=3")
    rest = [["sharing=none"], ["sharing=lors", "dof=2.4M"]]
    assert runs == [[f"seed={seed}", "recipe.epochs=3", *case] for seed in (0, 1) for case in rest]


def test_without_cases_the_grid_alone_is_run() -> None:
    assert expanded([], "dof=8k,36k", "seed=0") == [["dof=8k", "seed=0"], ["dof=36k", "seed=0"]]


def test_the_command_line_counts_more_than_a_case() -> None:
    cases = ["sharing=none recipe.epochs=5", "sharing=lors recipe.epochs=9", "sharing=lors"]
    assert expanded(cases, "recipe.epochs=1") == [
        ["recipe.epochs=1", "sharing=none"],
        ["recipe.epochs=1", "sharing=lors"],
    ]


@given(cases=st.integers(1, 5), seeds=st.integers(1, 4), sizes=st.integers(1, 3))
def test_every_combination_is_run_once(cases: int, seeds: int, sizes: int) -> None:
    runs = expanded(
        [f"dof={number}k" for number in range(cases)],
        f"seed=range({seeds})",
        "backbone.name=" + ",".join("abc"[:sizes]),
    )
    assert len(runs) == cases * seeds * sizes
    assert len({tuple(run) for run in runs}) == len(runs)


def test_the_last_of_two_values_for_one_key_counts() -> None:
    assert expanded(["dof=8k"], "seed=0,1,2", "seed=5") == [["seed=5", "dof=8k"]]


def test_what_a_paper_sets_is_set_in_every_case_but_counts_less_than_the_command_line() -> None:
    common = ["recipe.epochs=200", "optimizer.lr=0.3"]
    runs = expand(["dof=8k", "dof=36k"], ["seed=0", "recipe.epochs=2"], OverridesParser.create(), common)
    assert runs == [["seed=0", "recipe.epochs=2", f"dof={dof}", "optimizer.lr=0.3"] for dof in ("8k", "36k")]


@pytest.mark.parametrize(
    ("cases", "named"),
    [
        (["sharing=none", "dof=8k,36k"], r"cases\[1\]: 'dof=8k,36k' is a sweep"),
        ([{"sharing": "none"}], r"cases\[0\]: .* is neither"),
        ([3], r"cases\[0\]: 3 is neither"),
    ],
)
def test_impossible_cases_are_refused(cases: list[Any], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        expanded(cases, "seed=0,1")


def test_one_command_runs_an_experiment_and_is_repeated_for_nothing(sweep: Sweep) -> None:
    code, out, err = sweep()
    assert (code, err) == (0, "")
    assert "sweep small: 4 runs" in out
    assert "4 of 4 runs are finished" in out
    assert {(r["config"]["sharing"]["name"], r["seed"], r["sweep"]) for r in records()} == {
        (scheme, seed, "small") for scheme in ("none", "rpg_local") for seed in (0, 1)
    }
    before = records()
    code, out, _ = sweep("--multirun")
    assert code == 0
    assert out.count("is finished: top-1") == 4
    assert records() == before


def test_the_command_line_narrows_and_changes_an_experiment(sweep: Sweep) -> None:
    code, _, _ = sweep("seed=3", "recipe.batch_size=16")
    assert code == 0
    assert [(r["seed"], r["config"]["recipe"]["batch_size"]) for r in records()] == [(3, 16), (3, 16)]


def test_the_others_go_on_after_a_run_that_fails(sweep: Sweep) -> None:
    code, out, err = sweep("seed=0", "hydra.sweeper.cases=['dof=5M','sharing=none']")
    assert code == 2
    assert err.count("error: ") == len(err.splitlines()) == 1
    assert "1 of 2 runs are finished" in out
    assert "failed: " in out.splitlines()[-1]
    assert "5000000" in out.splitlines()[-1]
    assert [r["config"]["sharing"]["name"] for r in records()] == ["none"]


def test_a_defect_in_one_run_does_not_stop_the_others(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    from rpg_bench import launch

    load = launch.load

    def broken(config: Any, accelerator: Any) -> Any:
        if config.sharing.name == "none":
            raise RuntimeError("a defect")
        return load(config, accelerator)

    monkeypatch.setattr(launch, "load", broken)
    code, out, err = sweep("seed=0")
    assert code == 1
    assert "Traceback" in err
    assert "failed: " in out.splitlines()[-1]
    assert "RuntimeError: a defect" in out.splitlines()[-1]
    assert [r["config"]["sharing"]["name"] for r in records()] == ["rpg_local"]


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        (["recipe.epoch=3"], "did you mean 'recipe.epochs'"),
        (["hydra.sweeper.cases=['sharing=lorz']"], "did you mean 'lors'"),
        (["hydra.sweeper.cases=[3]"], "cases[0]"),
        (["seed=range(0)"], "sweeps over nothing"),
        (["hydra.sweeper.recipe=papers"], "did you mean 'paper'"),
        (["hydra.sweeper.recipe=paper"], "in no paper"),
    ],
)
def test_a_mistake_is_named_before_the_first_run(sweep: Sweep, arguments: list[str], mentioned: str) -> None:
    code, _, err = sweep(*arguments)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert mentioned in err
    assert not Path("results").exists()


def test_an_unknown_experiment_names_the_nearest(sweep: Sweep) -> None:
    code, _, err = sweep(experiment="smal")
    assert code == 2
    assert "experiment: unknown 'smal'; did you mean 'small'" in err


def test_the_imagenet_runs_are_ready(sweep: Sweep) -> None:
    pixels = np.random.RandomState(0)
    for split, label, number in itertools.product(("train", "val"), "ab", range(2)):
        file = Path("images") / split / label / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.randint(0, 256, (40, 50, 3)).astype(np.uint8)).save(file)
    small = ["recipe.epochs=1", "recipe.batch_size=4", "recipe.schedule.milestones=[]", "dataset.image_size=64"]
    where = ["dataset.root=images", "dataset.workers=0", "device=cpu", "tracking=disabled"]
    code, out, err = sweep(*small, *where, experiment="imagenet")
    assert code == 0, err
    assert "sweep imagenet: 7 of 7 runs are finished" in out
    assert {(r["dof"]["slot_scalars"], r["dof"]["dof"]) for r in records()} == {
        *((11_157_504, dof) for dof in (2_359_296, 36_864, 2_008_350, 11_157_504)),
        *((21_258_240, dof) for dof in (10_629_120, 53_145, 21_258_240)),
    }


def experiments() -> list[Path]:
    return sorted((config_directory() / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("path", experiments(), ids=lambda path: path.stem)
def test_an_experiment_names_itself_and_its_command(path: Path) -> None:
    text = path.read_text()
    assert f"\nsweep: {path.stem}\n" in text
    head = [line for line in text.splitlines() if line.startswith("#")]
    assert head[0] == "# @package _global_"
    assert any(f"+experiment={path.stem}" in line for line in head)


def test_there_are_experiments() -> None:
    assert experiments()
    assert config_directory() == ROOT / "configs"


def test_parallel_processes_divide_the_cores(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    process = start(("--multirun", *joblib, *TINY, "recipe.epochs=0,1", "seed=0,1"), tmp_path, OMP_NUM_THREADS=None)
    code, out, err = finish(process)
    assert code == 2, err
    assert "2 of 4 runs are finished" in out
    assert "Warning" not in out + err
    records = [json.loads(path.read_text()) for path in (tmp_path / "results" / "records").glob("*.json")]
    assert [record["status"] for record in records] == ["finished"] * 2
    assert {record["hardware"]["threads"] for record in records} == {max(1, (os.cpu_count() or 1) // 2)}


def test_a_process_of_joblib_that_is_killed_ends_the_sweep_with_a_line(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,1", "checkpoint_seconds=1e-3")
    process = start(("--multirun", *joblib, *TINY, "recipe.epochs=500"), tmp_path)
    limit = time.monotonic() + 120
    while not (begun := [path for path in tmp_path.glob("runs/*/progress.json") if list(path.parent.glob("*.pt"))]):
        assert time.monotonic() < limit
        assert process.poll() is None
        time.sleep(0.1)
    os.kill(json.loads(begun[0].read_text())["pid"], signal.SIGKILL)
    code, _, err = finish(process)
    assert code == 1, err
    (said,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert said.endswith("the same command continues them")
    assert "Traceback" not in err


@pytest.mark.parametrize(("preset", "package"), [("slurm", "submitit"), ("joblib", "joblib")])
def test_a_launcher_that_is_not_installed_is_named(tmp_path: Path, preset: str, package: str) -> None:
    block = f"import runpy, sys; sys.modules['hydra_plugins.hydra_{package}_launcher'] = None; "
    run = f"sys.argv[1:] = {['--multirun', f'hydra/launcher={preset}', *TINY]!r}; "
    module = "runpy.run_module('rpg_bench.train', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", block + run + module],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: hydra/launcher: '{preset}' needs hydra-{package}-launcher; pip install")
