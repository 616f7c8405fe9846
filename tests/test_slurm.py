"""Sweeps as Slurm jobs that are preempted, run out of time, are killed, or lose their node: nothing is lost."""

from __future__ import annotations

import calendar
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runner import ROOT, TINY, assert_same, composed, only_record, untimed
from slurm_host import CPUS, SlurmHost, missing

from rpg_bench import checkpoint
from rpg_bench.lease import holder_of
from rpg_bench.train import train

pytest.importorskip("submitit", reason="needs hydra-submitit-launcher")
pytestmark = [
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
    pytest.mark.timeout(900),
]

# 80 steps. To be met in the middle, a run is held (`tests/held`) and saves each step.
QUICK = (*TINY, "recipe.epochs=10")
LONG = (*QUICK, "checkpoint_seconds=1e-3")
PATHS = f"{ROOT / 'tests' / 'held'}:{ROOT}"
TOLD = "Run the same command again to continue"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmHost]:
    made = SlurmHost(tmp_path_factory.mktemp("slurm"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def empty(host: SlurmHost) -> Iterator[SlurmHost]:
    """The cluster, and nothing in its queue before and after."""
    yield host
    host.clear()


def submit(host: SlurmHost, directory: Path, *overrides: str) -> subprocess.Popen[str]:
    """Start a sweep on the cluster."""
    preset = [
        "hydra/launcher=slurm",
        "hydra.launcher.partition=low",
        "hydra.launcher.timeout_min=30",
        "hydra.launcher.gpus_per_node=null",
        "hydra.launcher.cpus_per_task=1",
    ]
    directory.mkdir(exist_ok=True)
    sweep = subprocess.Popen(
        [sys.executable, "-m", "rpg_bench.train", "--multirun", *preset, *overrides],
        cwd=directory,
        env={**host.environment, "PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    host.started.append(sweep)
    return sweep


def outcome(process: subprocess.Popen[str], seconds: float = 500) -> tuple[int, str]:
    """Exit code and output of a sweep; one that hangs is killed."""
    try:
        out, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"it hangs: {process.communicate()[0]}") from None
    return process.returncode, out


def logs(directory: Path) -> str:
    return "\n".join(path.read_text() for path in sorted((directory / "runs" / "slurm").glob("*/*log*")))


def hold(directory: Path) -> Path:
    """Runs of this directory take a second for each step, until the file is removed."""
    path = directory / "hold"
    path.touch()
    return path


def under_way(directory: Path, runs: int = 1) -> bool:
    """Whether so many runs are held by a living process that has saved since it began."""
    count = 0
    for run in (directory / "runs").glob("?" * 12):
        with contextlib.suppress(OSError, ValueError):
            said = json.loads((run / "progress.json").read_text())
            begun = calendar.timegm(time.strptime(said["since"], "%Y-%m-%dT%H:%M:%SZ"))
            newest = max(path.stat().st_mtime for path in run.glob("checkpoint-*.pt"))
            count += holder_of(run) is not None and newest > begun + 1
    return count >= runs


def records(directory: Path) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in (directory / "results" / "records").glob("*.json")]
    return sorted(found, key=lambda record: record["seed"])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where seeds 0 to 2 were trained without any Slurm."""
    directory = tmp_path_factory.mktemp("undisturbed")
    with contextlib.chdir(directory) if sys.version_info >= (3, 11) else _inside(directory):
        for seed in range(3):
            train(composed(*QUICK, f"seed={seed}"))
    return directory


@contextlib.contextmanager
def _inside(directory: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


def assert_equals(directory: Path, undisturbed: Path, seeds: int) -> None:
    """The records, and the weights of the last checkpoints, are those of the undisturbed runs."""
    found, expected = records(directory), records(undisturbed)[:seeds]
    assert [record["seed"] for record in found] == list(range(seeds))
    for record, same in zip(found, expected, strict=True):
        assert record["status"] == "finished"
        assert untimed(record) == untimed(same)
        states = [
            checkpoint.load(max((where / "runs" / record["hash"]).glob("checkpoint-*.pt")))
            for where in (directory, undisturbed)
        ]
        for part in ("model", "optimizer"):
            assert_same(states[0][part], states[1][part], part)
    assert not list((directory / "runs").rglob("lease.json"))


def test_a_sweep_that_is_preempted_continues_by_itself(empty: SlurmHost, tmp_path: Path, undisturbed: Path) -> None:
    held = hold(tmp_path)
    sweep = submit(empty, tmp_path, *LONG, "seed=0,1,2")
    empty.wait(lambda: under_way(tmp_path, 3), "three runs under way")
    empty.run("sbatch", "--partition=high", f"--ntasks={CPUS}", "--output=/dev/null", "--wrap=sleep 2")
    empty.wait(lambda: logs(tmp_path).count(TOLD) == 3, "three runs that have left")
    held.unlink()
    code, out = outcome(sweep)
    assert code == 0, out + logs(tmp_path)
    assert "Slurm job" in out
    assert "3 of 3 runs are finished" in out
    assert_equals(tmp_path, undisturbed, 3)
    for record in records(tmp_path):  # each of them was told to leave, once, and lost no step
        assert len(record["starts"]) == 2, logs(tmp_path)
    assert logs(tmp_path).count(TOLD) == 3


def test_a_run_whose_time_is_up_continues_by_itself(empty: SlurmHost, tmp_path: Path) -> None:
    # Slurm's shortest limit is a minute; it sends the signal up to 40 s before the 15 s that are asked for.
    limits = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=15")
    hold(tmp_path)
    sweep = submit(empty, tmp_path, *LONG, *limits, "recipe.epochs=2000")
    empty.wait(lambda: "continuing in epoch" in logs(tmp_path), "run that continues")
    assert "this job is timed-out" in logs(tmp_path)
    said = re.findall(r"(interrupted|continuing) in epoch \d+ after step (\d+)", logs(tmp_path))
    assert said[0][0] == "interrupted"
    for (_, before), (what, step) in itertools.pairwise(said):
        if what == "continuing":  # where it was left, each time
            assert step == before
    assert sweep.poll() is None  # the launcher waits on


@pytest.mark.parametrize(
    "tasks",
    [
        ("hydra.launcher.tasks_per_node=2",),
        # Two nodes that are one machine, whose names nobody knows but Slurm.
        (
            "hydra.launcher.nodes=2",
            "hydra.launcher.partition=both",
            "hydra.launcher.setup=['export MASTER_ADDR=127.0.0.1']",
        ),
    ],
    ids=["on one node", "on two nodes"],
)
def test_two_tasks_train_one_run(empty: SlurmHost, tmp_path: Path, tasks: tuple[str, ...]) -> None:
    overrides = (*TINY, "recipe.augment.crop_padding=0")
    code, out = outcome(submit(empty, tmp_path, *overrides, *tasks))
    assert code == 0, out + logs(tmp_path)
    record = only_record(tmp_path)
    assert (record["processes"], record["data"]["evaluated"]) == (2, 360)
    assert [entry["step"] for entry in record["starts"]] == [0]
    assert logs(tmp_path).count("epoch   1  train") == 1  # only the main process speaks


def test_a_task_that_dies_ends_its_run(empty: SlurmHost, tmp_path: Path) -> None:
    hold(tmp_path)
    sweep = submit(empty, tmp_path, *LONG, "hydra.launcher.tasks_per_node=2")
    empty.wait(lambda: under_way(tmp_path), "run under way")
    ranks = {
        (Path(f"/proc/{pid}/environ").read_bytes().split(b"SLURM_PROCID=")[1][:1]): pid
        for pid in empty.processes()
        if b"submitit" in Path(f"/proc/{pid}/cmdline").read_bytes()
        and b"SLURM_PROCID=" in Path(f"/proc/{pid}/environ").read_bytes()
        and b"srun" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    }
    os.kill(ranks[b"1"], signal.SIGKILL)
    died = time.monotonic()
    empty.wait(lambda: not empty.jobs(), "end of the job", 60)
    assert time.monotonic() - died < 60
    code, out = outcome(sweep)
    assert code == 1
    assert "Killed" in logs(tmp_path) or "has ended" in logs(tmp_path)
    assert "the same command continues it" in out or "has ended" in out


def test_a_job_that_is_killed_or_cancelled_is_reported_and_continued(
    empty: SlurmHost, tmp_path: Path, undisturbed: Path
) -> None:
    overrides = (*LONG, "seed=0")
    held = hold(tmp_path)
    for how in (["--signal=KILL"], []):  # as the kernel does when memory is short; as the user does
        sweep = submit(empty, tmp_path, *overrides)
        empty.wait(lambda: under_way(tmp_path), "run under way")
        (job,) = empty.jobs()
        empty.run("scancel", *how, job)
        code, out = outcome(sweep)
        assert code == 1
        assert f"Slurm job {job} ended before its run did" in out
        assert not records(tmp_path)
        assert not empty.jobs()  # what is cancelled does not come back
    held.unlink()
    code, out = outcome(submit(empty, tmp_path, *overrides))
    assert code == 0, out
    assert_equals(tmp_path, undisturbed, 1)


def test_the_launcher_is_killed_and_started_again(empty: SlurmHost, tmp_path: Path, undisturbed: Path) -> None:
    arguments = (*LONG, "seed=0,1", "hydra.launcher.array_parallelism=1")
    held = hold(tmp_path)
    first = submit(empty, tmp_path, *arguments)
    empty.wait(lambda: under_way(tmp_path), "run under way")
    first.kill()
    first.wait()
    assert len(empty.jobs()) == 2
    states = subprocess.run(
        [sys.executable, "-m", "rpg_bench.sweeps", "status"],
        cwd=tmp_path,
        env={**empty.environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    ).stdout
    assert "1 running, 1 queued" in states
    again = submit(empty, tmp_path, *arguments)
    assert again.stdout is not None
    said = ""
    while "2 runs are in Slurm's queue already" not in said:
        said += (line := again.stdout.readline())
        assert line, said
    assert "submitted" not in said
    held.unlink()
    code, out = outcome(again)
    assert code == 0, out
    assert_equals(tmp_path, undisturbed, 2)
    assert all(len(record["starts"]) == 1 for record in records(tmp_path))  # nobody disturbed the jobs
    code, out = outcome(submit(empty, tmp_path, *arguments))
    assert (code, "submitted" in out, "2 of 2 runs are finished" in out) == (0, False, True)


def test_a_node_that_fails(empty: SlurmHost, tmp_path: Path, undisturbed: Path) -> None:
    held = hold(tmp_path)
    sweep = submit(empty, tmp_path, *LONG, "seed=0")
    empty.wait(lambda: under_way(tmp_path), "run under way")
    empty.kill_node("n1")
    empty.wait(lambda: "PENDING" in empty.jobs().values(), "job back in the queue")
    held.unlink()
    empty.start_node("n1")
    code, out = outcome(sweep)
    assert code == 0, out + logs(tmp_path)
    assert_equals(tmp_path, undisturbed, 1)
    assert len(only_record(tmp_path)["starts"]) == 2


def test_a_batch_script_of_the_users_own(empty: SlurmHost, tmp_path: Path, undisturbed: Path) -> None:
    """Preempted without a signal ahead: SIGTERM says that the run must leave. The W&B run goes on too."""
    held = hold(tmp_path)
    script = tmp_path / "job.sh"
    arguments = " ".join(f"'{argument}'" for argument in (*LONG, "seed=0", "tracking=offline"))
    script.write_text(
        f"#!/bin/bash\n#SBATCH --partition=low --requeue --output=log --open-mode=append\n"
        f"cd {tmp_path}\nPYTHONPATH={PATHS} OMP_NUM_THREADS=1 srun {sys.executable} -u -m rpg_bench.train {arguments}\n"
    )
    subprocess.run(["sbatch", str(script)], cwd=tmp_path, env=empty.environment, check=True, stdout=subprocess.DEVNULL)
    empty.wait(lambda: under_way(tmp_path), "run under way")
    empty.run("sbatch", "--partition=high", f"--ntasks={CPUS}", "--output=/dev/null", "--wrap=sleep 2")
    empty.wait(lambda: TOLD in (tmp_path / "log").read_text(), "run that has left")
    held.unlink()
    empty.wait(lambda: bool(records(tmp_path)) and not empty.jobs(), "record of a job that is over")
    assert_equals(tmp_path, undisturbed, 1)
    assert len(only_record(tmp_path)["starts"]) == 2, (tmp_path / "log").read_text()
    tracked = [path.name.rpartition("-")[2] for path in (tmp_path / "runs").glob("*/wandb/offline-run-*")]
    assert len(tracked) == 2
    assert len(set(tracked)) == 1


def test_what_sbatch_refuses_is_one_line(empty: SlurmHost, tmp_path: Path) -> None:
    code, out = outcome(submit(empty, tmp_path, *TINY, "hydra.launcher.partition=nowhere"))
    assert code == 2
    assert out.splitlines()[-1].startswith("error: hydra.launcher: sbatch refuses the jobs:")
    assert "partition" in out.splitlines()[-1]


def test_bad_input_is_not_submitted(empty: SlurmHost, tmp_path: Path) -> None:
    code, out = outcome(submit(empty, tmp_path, *TINY, "recipe.epochs=0,1"))
    assert code == 2
    assert "recipe.epochs: 0 is too small" in out
    assert "1 of 2 runs are finished" in out
