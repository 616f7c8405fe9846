"""Runs as Slurm jobs: joining the tasks of one run, giving a job back to the queue, waiting for an array of jobs.

Only what submitit leaves open is here. submitit writes the batch script, pickles what is to be run and requeues its
own jobs; a batch script of the user's that calls `srun python -m rpg_bench.train` is served just as well.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from rpg_bench.lease import EXPIRED, WATCHED
from rpg_bench.signals import Interrupted

NAME = "slurm.json"  # in a run's directory: the job that is to train it
PRE_SIGNAL = signal.SIGUSR2
_FIRST_PORT, _PORTS = 20_000, 12_000  # below those that a system gives away itself


def join_step(environment: MutableMapping[str, str] = os.environ) -> None:
    """Tell torch.distributed of the other tasks of this job step, unless torchrun has.

    `srun --ntasks-per-node=8 python -m rpg_bench.train ...` starts one process per GPU.
    """
    if "RANK" in environment or int(environment.get("SLURM_STEP_NUM_TASKS", 1)) == 1:
        return
    nodes = int(environment.get("SLURM_STEP_NUM_NODES", 1))
    first = "127.0.0.1" if nodes == 1 else _first_host(environment["SLURM_STEP_NODELIST"])
    environment.update(
        RANK=environment["SLURM_PROCID"],
        LOCAL_RANK=environment["SLURM_LOCALID"],
        WORLD_SIZE=environment["SLURM_STEP_NUM_TASKS"],
        LOCAL_WORLD_SIZE=environment["SLURM_STEP_TASKS_PER_NODE"].partition("(")[0],
        # Both can be set by the user, where a cluster wants others.
        MASTER_ADDR=environment.get("MASTER_ADDR", first),
        MASTER_PORT=environment.get("MASTER_PORT", str(_port(environment))),
    )


def patience() -> float:
    """Seconds to wait for a lease that somebody else holds.

    The first life of a requeued job may have ended on a node that cannot say so; in any other job or command a held
    run is left to its owner.
    """
    return EXPIRED + 2 * WATCHED if int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0 else 0.0


def leave(stop: Interrupted) -> None:
    """After the run is saved: give the job back to the queue if Slurm wants its node or its time is up.

    SIGUSR2 says so ahead of time. Without that signal both begin with SIGTERM, and a job that then ends by itself
    would not be queued again. `scancel` sends SIGTERM too: such a job is not queued again.
    """
    job = job_id()
    if job is None or not (stop.signal == PRE_SIGNAL or (stop.signal == signal.SIGTERM and _is_reclaimed(job))):
        return
    if int(os.environ.get("RANK", 0)) > 0:
        time.sleep(30)  # the main process requeues the job, which ends this one
        return
    handler = signal.getsignal(PRE_SIGNAL)
    if callable(handler):  # submitit's: says what is to be run again, requeues, and exits
        handler(PRE_SIGNAL, None)
    else:
        requeue(job)


def requeue(job: str) -> None:
    """Give this job back to the queue; Slurm ends it at once. A refusal is printed: the work is saved."""
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    if done.returncode:
        print(f"Slurm does not requeue job {job}: {' '.join(done.stderr.split())}", flush=True)
    else:
        time.sleep(30)  # until it is ended


def requeue_before_training() -> None:
    """Answer the pre-signal while there is nothing to save yet: requeue at once.

    Training has a handler of its own, see `signals.StopRequest`; submitit has one already.
    """
    job = job_id()
    if job is not None and signal.getsignal(PRE_SIGNAL) == signal.SIG_DFL:

        def at_once(number: int, _: object) -> None:
            if int(os.environ.get("RANK", 0)) == 0:
                requeue(job)
            raise SystemExit(128 + number)

        signal.signal(PRE_SIGNAL, at_once)


def job_id() -> str | None:
    """The Slurm job that this process belongs to, as `scontrol` names it."""
    return os.environ.get("SLURM_JOB_ID")


def queued(jobs: Iterable[str]) -> dict[str, str] | None:
    """The state, and the reason for it, of those jobs (`12`, `12_3`) that Slurm has not finished with.

    None if it does not answer.
    """
    asked = set(jobs)
    numbers = sorted({job.partition("_")[0] for job in asked})
    command = ["squeue", "--noheader", "--array", "--format=%i %T %r", f"--jobs={','.join(numbers)}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return {} if "Invalid job id" in done.stderr else None  # it has forgotten them
    states = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line.strip())
    return {job: state for job, state in states.items() if job in asked}  # not the others of their arrays


def job_of(directory: Path) -> Mapping[str, Any] | None:
    """The job that was submitted last for the run of this directory; None if there was none."""
    try:
        note: Any = json.loads((directory / NAME).read_text())
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) and isinstance(note.get("job"), str) else None


def _is_reclaimed(job: str) -> bool:
    try:
        shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    fields = dict(field.split("=", 1) for field in shown.split() if "=" in field)
    preempted = fields.get("PreemptTime", "None") not in ("None", "N/A") and fields.get("JobState") == "RUNNING"
    return preempted or fields.get("Reason") == "TimeLimit"


def _port(environment: Mapping[str, str]) -> int:
    """Where the tasks of this step meet: another one for each job of a node, and for each step of a job."""
    job, step = int(environment["SLURM_JOB_ID"]), int(environment["SLURM_STEP_ID"])
    return _FIRST_PORT + (job + 1009 * step) % _PORTS


def _first_host(nodes: str) -> str:
    shown = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    return shown.stdout.split()[0]
