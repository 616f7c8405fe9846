"""The processes of one run: which they are, and what a run says when one of them is gone."""

from __future__ import annotations

import os
import signal

import pytest

from rpg_bench import processes, slurm
from rpg_bench.signals import Interrupted

STEP = {
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_NODELIST": "n1",
    "SLURM_STEP_TASKS_PER_NODE": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "3",
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "0",
}


def test_the_tasks_of_a_slurm_step_become_processes_of_one_run() -> None:
    environment = dict(STEP)
    slurm.join_step(environment)
    assert (environment["RANK"], environment["LOCAL_RANK"], environment["WORLD_SIZE"]) == ("3", "3", "4")
    assert environment["MASTER_ADDR"] == "127.0.0.1"
    assert 1024 < int(environment["MASTER_PORT"]) < 65536
    again = dict(environment)
    slurm.join_step(again)
    assert again == environment


def test_runs_that_share_a_node_meet_at_ports_of_their_own() -> None:
    """Those of other jobs, and those that one job starts side by side."""
    ports = set()
    for job, step in (("77", "0"), ("78", "0"), ("77", "1")):
        environment = {**STEP, "SLURM_JOB_ID": job, "SLURM_STEP_ID": step}
        slurm.join_step(environment)
        ports.add(int(environment["MASTER_PORT"]))
    assert len(ports) == 3
    assert all(20_000 <= port < 32_000 for port in ports)


def test_what_the_user_or_torchrun_says_counts_more() -> None:
    environment = {**STEP, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"}
    slurm.join_step(environment)
    assert (environment["MASTER_ADDR"], environment["MASTER_PORT"]) == ("10.0.0.1", "1234")
    under_torchrun = {**STEP, "RANK": "0", "WORLD_SIZE": "2"}
    slurm.join_step(under_torchrun)
    assert under_torchrun["WORLD_SIZE"] == "2"


def test_a_step_of_one_task_is_no_group() -> None:
    environment = {**STEP, "SLURM_STEP_NUM_TASKS": "1"}
    slurm.join_step(environment)
    assert "RANK" not in environment


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("[/gloo/tcp/pair.cc:553] Connection closed by peer"), "another process of this run has ended"),
        (MemoryError("no more"), "process 1 of 2 failed, which ends the run: MemoryError: no more"),
    ],
)
def test_a_process_that_fails_says_so_and_ends_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    class Ended(BaseException):
        pass

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(Ended) as ended:
        processes.abandon(error)
    assert ended.value.args == (1,)
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
def test_outside_of_slurm_nothing_is_requeued(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(slurm, "requeue", lambda job: pytest.fail("requeued"))
    slurm.leave(Interrupted(number, 1, 1))
    slurm.requeue_before_training()
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL
