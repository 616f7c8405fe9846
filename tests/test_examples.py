"""The examples in docstrings print what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest
from runner import ROOT

PACKAGE = ROOT / "rpg_bench"
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    failed, attempted = doctest.testmod(importlib.import_module(name))
    assert attempted
    assert not failed
