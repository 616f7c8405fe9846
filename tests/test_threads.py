"""Threads that wait give their core away soon, unless the user says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rpg_bench.threads import CHOICES, wait_briefly


def test_waiting_is_short_by_default() -> None:
    environment: dict[str, str] = {}
    wait_briefly(environment)
    assert int(environment["GOMP_SPINCOUNT"]) > 0


@pytest.mark.parametrize("name", CHOICES)
def test_what_the_user_says_counts(name: str) -> None:
    environment = {name: "whatever"}
    wait_briefly(environment)
    assert environment == {name: "whatever"}


def test_training_says_so_before_torch_is_imported() -> None:
    code = (
        "import sys, os, rpg_bench.train as train, rpg_bench.threads as threads\n"
        "def said():\n"
        "    threads.wait_briefly()\n"
        "    print('torch' in sys.modules, os.environ['GOMP_SPINCOUNT'])\n"
        "    raise SystemExit\n"
        "train.wait_briefly = said\n"
        "sys.argv = ['train', 'tracking=disabled']\n"
        "train.main()\n"
    )
    environment = {key: value for key, value in os.environ.items() if key not in CHOICES}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "20000"], done.stderr
