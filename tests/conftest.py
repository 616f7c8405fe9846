"""Set up for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The processes of pytest-xdist and those that tests start divide the cores between them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["WANDB_SILENT"] = "true"

# A busy machine is no failure.
settings.register_profile("rpg_bench", deadline=None)
settings.load_profile("rpg_bench")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no process ends with it alone."""
    items.sort(key=lambda item: item.path.stem not in ("test_slurm", "test_torture"))


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that writes relative paths writes into its own folder."""
    monkeypatch.chdir(tmp_path)
