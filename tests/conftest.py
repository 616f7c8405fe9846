"""Set up for all tests."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# The processes of pytest-xdist and those that tests start divide the cores between them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["WANDB_SILENT"] = "true"

# A busy machine is no failure.
settings.register_profile("rpg_bench", deadline=None)
settings.load_profile("rpg_bench")


# What takes longest, in files. Tests of the first two mostly wait, and are given to processes one by one.
LONGEST = (
    "test_slurm",
    "test_torture",
    "test_distributed_training",
    "test_resume",
    "test_sweeper",
    "test_rigl",
    "test_compress",
)
SINGLY = LONGEST[:2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no process ends with it alone."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each process a file at a time, in the order above: what tests of a file share is made once."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return nodeid if Path(path).stem in SINGLY else path

    config.option.loadscopereorder = False
    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that writes relative paths writes into its own folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Puts a small run that is finished into the working directory, and returns its hash. Each is trained once."""
    from runner import checkpoints, train_tiny

    @functools.cache
    def trained(overrides: tuple[str, ...]) -> Path:
        folder = tmp_path_factory.mktemp("finished")
        with pytest.MonkeyPatch.context() as patched:
            patched.chdir(folder)
            train_tiny(*overrides)
        return folder

    def put(*overrides: str) -> str:
        shutil.copytree(trained(overrides), Path(), dirs_exist_ok=True)
        return checkpoints(Path())[-1].parent.name

    return put
