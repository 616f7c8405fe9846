"""Threads that wait give their core away soon, and memory is kept, unless the user says otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from rpg_bench.host import MEMORY, THREADS, keep_memory, wait_briefly


def output_of(code: str) -> list[str]:
    environment = {key: value for key, value in os.environ.items() if key not in (*THREADS, *MEMORY)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_waiting_is_short_by_default() -> None:
    environment: dict[str, str] = {}
    wait_briefly(environment)
    assert int(environment["GOMP_SPINCOUNT"]) > 0


@pytest.mark.parametrize("name", THREADS)
def test_what_the_user_says_about_threads_counts(name: str) -> None:
    environment = {name: "whatever"}
    wait_briefly(environment)
    assert environment == {name: "whatever"}


@pytest.mark.parametrize("name", MEMORY)
def test_what_the_user_says_about_memory_counts(name: str) -> None:
    assert not keep_memory({name: "whatever"})


def test_a_step_finds_the_pages_that_the_last_one_had() -> None:
    code = (
        "import resource, torch; from rpg_bench.host import keep_memory\n"
        "def pages():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(5): [torch.ones(1 << 22) for _ in range(6)]\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "given_back = pages(); is_kept = keep_memory(); pages(); print(is_kept, given_back, pages())"
    )
    is_kept, given_back, kept = output_of(code)
    assert is_kept == str(platform.libc_ver()[0] == "glibc")  # other allocators are asked for nothing
    assert is_kept == "False" or int(kept) < int(given_back) / 20


def test_training_says_so_before_torch_is_imported() -> None:
    code = (
        "import sys, os, rpg_bench.train as train\n"
        "prepare_host = train.prepare_host\n"
        "def said():\n"
        "    prepare_host()\n"
        "    print('torch' in sys.modules, os.environ['GOMP_SPINCOUNT'])\n"
        "    os._exit(0 if not sys.stdout.flush() else 1)\n"
        "train.prepare_host = said\n"
        "sys.argv = ['train', 'tracking=disabled']\n"
        "train.main()\n"
    )
    assert output_of(code) == ["False", "20000"]
