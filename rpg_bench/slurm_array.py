"""A sweep as an array of Slurm jobs, through submitit: submit what is not in the queue yet, wait, collect answers.

The jobs do not need the process that submitted them. If it ends, the same command finds the jobs that are still in
the queue, submits only what is missing, and waits for both.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus

from rpg_bench import slurm, slurm_options
from rpg_bench.errors import BAD_INPUT, FAILED, INTERRUPTED, Failed, InvalidInput
from rpg_bench.files import write_aside
from rpg_bench.runs import RunFiles
from rpg_bench.sweeper import Failure, configuration

if TYPE_CHECKING:
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
    from submitit import Job

POLLED = 1.0  # seconds between two looks at the answers
ASKED = 10.0  # seconds between two questions to Slurm
SETTLED = 15.0  # seconds in which a job that has ended may still be writing its answer, or return to the queue

# Why Slurm lets a job wait for ever, and what to do.
_HOPELESS = {
    "PartitionTimeLimit": "the partition allows less time: scancel the jobs, give hydra.launcher.timeout_min=MINUTES",
    "PartitionNodeLimit": "the partition has fewer nodes: scancel the jobs, give hydra.launcher.nodes=N",
}
_NO_GPUS = "a partition without GPUs needs hydra.launcher.gpus_per_node=null"
# What submitit calls alike on all kinds of clusters; its other keys begin with `slurm_`.
_COMMON = (
    "timeout_min",
    "cpus_per_task",
    "gpus_per_node",
    "tasks_per_node",
    "mem_gb",
    "nodes",
    "name",
    "stderr_to_stdout",
)


def launch(launcher: SlurmLauncher, runs: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """Submit the runs whose jobs are not in the queue, and wait for all.

    Args:
        launcher: Hydra's, over submitit; its `params` are the preset's.
        runs: lists of overrides.
        first: the number of the first run within the sweep.

    Raises:
        InvalidInput: a value of the preset is not allowed, or sbatch refuses it.
        Failed: Slurm does not answer.
    """
    slurm_options.check(launcher.params)
    answers: dict[int, JobReturn] = {}
    files: dict[int, RunFiles] = {}
    for number, run in enumerate(runs):
        result = _result(launcher, run)
        if isinstance(result, RunFiles):
            files[number] = result
        else:
            answers[number] = result
    jobs = _in_queue(files)
    known = len(jobs)
    missing = [number for number in files if number not in jobs]
    if missing:
        submitted = _submit(launcher, [(first + number, runs[number]) for number in missing])
        for number, job in zip(missing, submitted, strict=True):
            note = {"job": job.job_id, "folder": str(job.paths.folder), "tasks": job.num_tasks}
            write_aside(files[number].directory / slurm.NAME, (json.dumps(note) + "\n").encode())
            jobs[number] = job
        array = submitted[0].job_id.partition("_")[0]
        print(
            f"Slurm job {array}: {len(missing)} runs submitted; they go on without this process, which waits for them. "
            f"The same command waits again; scancel {array} stops them. Logs: {submitted[0].paths.folder.parent}",
            flush=True,
        )
    if known:
        print(f"{known} runs are in Slurm's queue already; waiting for them", flush=True)
    try:
        answers |= _wait(jobs)
    except KeyboardInterrupt:
        print("\ninterrupted: the jobs go on; the same command waits for them again", file=sys.stderr, flush=True)
        raise SystemExit(INTERRUPTED) from None
    return [answers[number] for number in range(len(runs))]


def _result(launcher: SlurmLauncher, run: Sequence[str]) -> RunFiles | JobReturn:
    """What is known of a run before it is submitted; where it keeps its files, if it is to be trained."""
    from rpg_bench.finished import finished_record

    try:
        config = configuration(launcher.hydra_context, launcher.config, run)
        record = finished_record(config)
    except InvalidInput as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return JobReturn(status=JobStatus.COMPLETED, _return_value=Failure(BAD_INPUT, str(error)))
    if record is None:
        return RunFiles.of(config)
    return JobReturn(status=JobStatus.COMPLETED, _return_value=float(record["final"]["test_top1"]))


def _submit(launcher: SlurmLauncher, runs: Sequence[tuple[int, Sequence[str]]]) -> list[Job[Any]]:
    import submitit

    params = dict(launcher.params)
    folder, timeouts = params.pop("submitit_folder"), params.pop("max_num_timeout")
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=timeouts)
        executor.update_parameters(**{key if key in _COMMON else f"slurm_{key}": params[key] for key in params})
        state = Singleton.get_state()
        numbers, overrides = zip(*runs, strict=True)
        names = [f"job_id_for_{number}" for number in numbers]
        return list(
            executor.map_array(
                launcher, map(list, overrides), ["hydra.sweep.dir"] * len(runs), numbers, names, [state] * len(runs)
            )
        )
    except submitit.core.utils.FailedJobError as error:  # sbatch's own words
        lines = [line for line in str(error).splitlines() if "error" in line.lower()]
        said = " ".join(lines or [str(error)])
        advice = f"; {_NO_GPUS}" if "generic resource" in said else ""
        raise InvalidInput(f"hydra.launcher: sbatch refuses the jobs: {said}{advice}") from None
    except RuntimeError as error:
        raise InvalidInput(f"hydra.launcher: {error}") from None


def _in_queue(files: Mapping[int, RunFiles]) -> dict[int, Job[Any]]:
    """The jobs of runs that were submitted before and are not over, by the runs' places."""
    notes = {number: slurm.job_of(run.directory) for number, run in files.items()}
    known = {number: note for number, note in notes.items() if note is not None}
    if not known:
        return {}
    import submitit

    states = slurm.queued(note["job"] for note in known.values())
    if states is None:
        raise Failed("Slurm does not say which of the runs are in its queue; nothing was submitted")
    return {
        number: submitit.SlurmJob(folder=note["folder"], job_id=note["job"], tasks=list(range(note["tasks"])))
        for number, note in known.items()
        if note["job"] in states
    }


def _wait(jobs: Mapping[int, Job[Any]]) -> dict[int, JobReturn]:
    """Wait until every job has left its answer, or has left the queue without one."""
    answers: dict[int, JobReturn] = {}
    gone: dict[int, float] = {}  # since when a job is not in the queue
    asked, said = 0.0, ""
    while len(answers) < len(jobs):
        for number, job in jobs.items():
            if number not in answers and job.task(0).paths.result_pickle.exists():
                answers[number] = _answer(job)
        now = time.monotonic()
        if now - asked > ASKED:
            asked = now
            states = slurm.queued(job.job_id for number, job in jobs.items() if number not in answers)
            if (now_said := _summary(len(answers), states)) != said:
                said = now_said
                print(said, flush=True)
                for line in _advice(states):
                    print(line, flush=True)
            for number, job in jobs.items():
                if states is None or number in answers or job.job_id in states:
                    gone.pop(number, None)
                elif now - gone.setdefault(number, now) > SETTLED:
                    answers[number] = _failed(
                        f"Slurm job {job.job_id} ended before its run did (cancelled, killed, or its node failed); "
                        f"the same command continues it; log: {job.task(0).paths.stderr}"
                    )
        if len(answers) < len(jobs):
            time.sleep(POLLED)
    return answers


def _summary(answered: int, states: Mapping[str, str] | None) -> str:
    """One line: `Slurm: 3 ended, 2 running, 4 pending (Priority)`."""
    if states is None:
        return "Slurm does not answer; asking again"
    counts = Counter(
        f"{state.lower()} ({reason})" if state == "PENDING" and reason != "None" else state.lower()
        for state, _, reason in (text.partition(" ") for text in states.values())
    )
    return ", ".join([f"Slurm: {answered} ended", *(f"{count} {state}" for state, count in sorted(counts.items()))])


def _advice(states: Mapping[str, str] | None) -> list[str]:
    """What to do about jobs that will never begin as they were submitted, a line each."""
    reasons = " ".join((states or {}).values())
    return [f"  {advice}" for reason, advice in _HOPELESS.items() if reason in reasons]


def _answer(job: Job[Any]) -> JobReturn:
    """What the main process of a job returned."""
    try:
        (answer,) = job.task(0).results()
    except Exception as error:  # what the job raised, or an answer that cannot be read
        return _failed(str(error).strip().splitlines()[-1])
    assert isinstance(answer, JobReturn)
    return answer


def _failed(message: str) -> JobReturn:
    return JobReturn(status=JobStatus.COMPLETED, _return_value=Failure(FAILED, message))
