"""The installed package works away from the checkout: its configuration travels with it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from runner import ROOT, TINY


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_configuration_file(wheel: Path) -> None:
    expected = {f"rpg_bench/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert expected <= set(zipfile.ZipFile(wheel).namelist())
    assert len(expected) > 20


def test_the_wheel_holds_the_zoo(wheel: Path) -> None:
    models = sorted(path.name for path in (ROOT / "results" / "models").glob("*.safetensors"))
    found = sorted(
        Path(name).name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("rpg_bench/models/")
    )
    assert [name for name in found if name.endswith(".safetensors")] == models


def test_the_unpacked_wheel_trains_in_an_empty_directory(wheel: Path, tmp_path: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    zipfile.ZipFile(wheel).extractall(site)
    empty.mkdir()
    command = [sys.executable, "-m", "rpg_bench.train", *TINY, "recipe.epochs=1"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert len(list((empty / "results" / "records").glob("*.json"))) == 1
    assert {path.name for path in empty.iterdir()} == {"results", "runs"}


def test_the_package_is_imported_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = "import rpg_bench, rpg_bench.config as c; print(rpg_bench.__file__); print(c.config_directory())"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    package, configs = done.stdout.split()
    assert Path(package).is_relative_to(tmp_path)
    assert Path(configs) == tmp_path / "rpg_bench" / "configs"
