"""Set up for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# The processes of pytest-xdist and those that tests start divide the cores between them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["WANDB_SILENT"] = "true"

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that writes relative paths writes into its own folder."""
    monkeypatch.chdir(tmp_path)
