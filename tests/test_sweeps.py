"""What became of sweeps, and what to do about it: status, list, retry, clean."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runner import ROOT, TINY, checkpoints, configured, finish, start, train_tiny
from test_report import generalisation, write
from test_resume import stopping_after

from rpg_bench import slurm
from rpg_bench.command_line import run_command
from rpg_bench.corruption_names import CORRUPTIONS
from rpg_bench.engine import Trainer
from rpg_bench.errors import InvalidInput
from rpg_bench.lease import NAME, Lease, Owner
from rpg_bench.progress import FAILURE, PROGRESS
from rpg_bench.report.experiments import read_experiment, under
from rpg_bench.report.records import Record
from rpg_bench.runs import RunFiles, run_hash
from rpg_bench.signals import Interrupted
from rpg_bench.sweeps.command import main
from rpg_bench.sweeps.disk import checkpoint_bytes, forecast
from rpg_bench.sweeps.past import Past
from rpg_bench.sweeps.plan import Asked
from rpg_bench.sweeps.states import MISSING, State
from rpg_bench.sweeps.survey import Survey
from rpg_bench.train import train

Sweeps = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sweeps(capsys: pytest.CaptureFixture[str]) -> Sweeps:
    """Run the command; exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            main(arguments)
            code = 0
        except SystemExit as left:
            code = int(left.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def states(sweeps: Sweeps, *arguments: str) -> list[dict[str, Any]]:
    code, out, err = sweeps("status", "--json", *arguments)
    assert (code, err) == (0, "")
    (found,) = json.loads(out)["sweeps"]
    return list(found["runs"])


def sweep(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run a sweep of tiny trainings in this process; exit code."""
    monkeypatch.setattr(sys, "argv", ["rpg_bench.train", "--multirun", *arguments])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    try:
        run_command(train)
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def failing(monkeypatch: pytest.MonkeyPatch, seed: int, error: Exception) -> pytest.MonkeyPatch:
    """The run of this seed raises in its fifth step."""
    step = Trainer._step

    def raising(self: Trainer, batches: Any) -> None:
        step(self, batches)
        if self.config.seed == seed and self.position.step == 5:
            raise error

    monkeypatch.setattr(Trainer, "_step", raising)
    return monkeypatch


def test_the_runs_of_an_experiment_are_shown_with_what_is_left(sweeps: Sweeps) -> None:
    Path("results/records").mkdir(parents=True)
    case = read_experiment("block_digits")[0]
    took = {"train_seconds": 360.0}
    write(case, seed=0, top1=91.25, **took)
    write(case, seed=1, top1=91.5, **took)
    begun = Path("runs") / run_hash(dataclasses.replace(case.config, seed=2))
    begun.mkdir(parents=True)
    (begun / "checkpoint-00000010.pt").touch()
    running = Path("runs") / run_hash(dataclasses.replace(case.config, seed=3))
    running.mkdir(parents=True)
    with Lease(running):
        code, out, _ = sweeps("status", "block_digits")
    *lines, disk, total = out.splitlines()
    counts = "20 runs, 2 done, 1 running, 1 stopped, 16 missing"
    assert total == f"block_digits: {counts}; about 1.8 hours left, as such runs took"
    assert code == 0
    assert disk.startswith("disk: ")
    assert len(lines) == 20
    assert lines[0].split()[1:4] == ["done", "91.25", "%"]
    assert lines[0].endswith("seed=0 dof=2k sharing.block=1")
    assert lines[8].split()[:2] == [begun.name, "stopped"]
    assert lines[12].split()[:2] == [running.name, "running"]
    assert f"(process {os.getpid()} on " in lines[12]
    assert sweeps("status", "block_digits", "--exit-code")[0] == 3
    assert not Path("results/tables").exists()


def test_what_is_left_is_told_in_hours_or_minutes() -> None:
    asked = Asked("0" * 12, (), Path(), Path(), {})
    for seconds, told in ((122.0, "2 minutes"), (5.0, "1 minutes"), (5400.0, "1.5 hours")):
        found = Survey("one", (State(asked, MISSING, seconds_left=seconds),), 0, 0)
        assert found.total() == f"one: 1 runs, 0 done, 0 running, 1 missing; about {told} left, as such runs took"


def test_runs_without_a_past_are_counted_apart(sweeps: Sweeps) -> None:
    assert sweeps("status", "cpu_recipe")[1].splitlines()[-1] == (
        "cpu_recipe: 2 runs, 0 done, 0 running, 2 missing; 2 of a kind that never ran here"
    )


def test_a_run_that_lacks_what_an_experiment_measures_is_not_done(sweeps: Sweeps) -> None:
    Path("results/records").mkdir(parents=True)
    case = next(case for case in read_experiment("generalisation") if case.config.dof == 36_000)
    write(case)
    assert "0 done, 0 running, 10 missing" in sweeps("status", "generalisation")[1]
    measured = generalisation(50.0, 20.0, *CORRUPTIONS)
    measured["generalisation"]["images_asked_for"] = 1000
    write(case, **measured)
    assert "1 done, 0 running, 9 missing" in sweeps("status", "generalisation")[1]


def test_an_experiment_is_shown_under_its_papers_recipe(sweeps: Sweeps) -> None:
    Path("results/records").mkdir(parents=True)
    with under("paper"):
        write(read_experiment("destructive_sharing")[0])
    assert "destructive_sharing: 6 runs, 1 done" in sweeps("status", "destructive_sharing", "--recipe", "paper")[1]


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        (["status", "block_digit"], "did you mean 'block_digits'"),
        (["status", "block_digits", "--recipe", "paper"], "in no paper"),
        (["status", "--watch", "0"], "--watch"),
        (["stat"], "command line"),
        (["status", "--jso"], "--jso"),
        (["retry", "block_digits"], "no sweep 'block_digits'"),
        (["retry", "--force"], "--force"),
        (["clean", "--keep", "bets"], "did you mean 'best'"),
    ],
)
def test_a_mistake_is_one_line(sweeps: Sweeps, arguments: list[str], mentioned: str) -> None:
    code, _, err = sweeps(*arguments)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert mentioned in err


def test_it_answers_at_once_and_without_torch() -> None:
    code = "import sys; from rpg_bench.sweeps.command import main; main(['status', 'block_digits']); "
    code += "print('torch' in sys.modules, 'wandb' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False False"


def test_a_sweep_in_which_one_fails_says_why_and_retry_runs_that_one(
    sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (*TINY, "seed=0,1", "sweep=two", "recipe.epochs=1")
    with monkeypatch.context() as patched:
        failing(patched, 1, RuntimeError("CUDA out of memory.\nTried to allocate 3 GiB"))
        assert sweep(patched, *arguments) == 1
    done, failed = states(sweeps, "two")
    assert (done["state"], done["seed"], done["failure"]) == ("done", 0, None)
    assert done["top1"] > 0
    assert (failed["state"], failed["seed"], failed["top1"]) == ("failed", 1, None)
    assert failed["failure"]["kind"] == "RuntimeError"
    assert failed["failure"]["message"] == "CUDA out of memory. Tried to allocate 3 GiB"
    assert any("in raising" in line for line in failed["failure"]["last_lines"])
    assert sweeps("status", "two", "--exit-code")[0] == 1
    code, out, _ = sweeps("status", "two")
    assert "RuntimeError: CUDA out of memory. Tried to allocate 3 GiB" in out
    assert "two: 2 runs, 1 done, 0 running, 1 failed" in out
    assert sweeps("list")[1].startswith("two: 2 runs, 1 done, 0 running, 1 failed")

    commands: list[list[str]] = []

    def run(command: list[str]) -> int:
        commands.append(command)
        return sweep(monkeypatch, *command[4:])

    monkeypatch.setattr("rpg_bench.sweeps.retry.run", run)
    assert sweeps("retry", "two", "--dry-run")[1].rstrip().endswith(f"'hydra.sweeper.only=[{failed['run']}]'")
    assert commands == []
    code, out, err = sweeps("retry", "two")
    assert (code, err) == (0, "")
    assert "sweep two: 1 runs" in out
    assert [run["state"] for run in states(sweeps, "two")] == ["done", "done"]
    assert not (Path("runs") / failed["run"] / FAILURE).exists()
    assert sweeps("status", "two", "--exit-code")[0] == 0
    assert sweeps("retry", "two")[1].strip() == "nothing to run again"
    assert len(commands) == 1
    assert len(list(Path("runs/multirun").glob("two-*.json"))) == 1


def test_retry_says_what_continues_runs_that_were_stopped(sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    with stopping_after(monkeypatch, 3):
        assert sweep(monkeypatch, *TINY, "seed=0,1", "sweep=two") == 128 + signal.SIGTERM
    out = sweeps("retry", "two")[1].splitlines()
    assert out[0].startswith("1 runs are unfinished, not failed; what continues them: ")
    assert out[0].endswith(f"-m rpg_bench.train --multirun {' '.join(TINY)} seed=0,1 sweep=two")
    assert out[1:] == ["nothing to run again"]


def test_a_failed_run_that_is_submitted_again_is_queued(sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        failing(patched, 0, RuntimeError("oh"))
        with pytest.raises(RuntimeError, match="oh"):
            train_tiny()
    directory = RunFiles.of(configured(*TINY)).directory
    monkeypatch.setattr(slurm, "queued", lambda jobs: dict.fromkeys(jobs, "PENDING Priority"))
    (directory / slurm.NAME).write_text('{"job": "12_0"}')
    failed = (directory / FAILURE).stat().st_mtime
    for later, state in ((-5, "failed"), (5, "queued")):  # the job that failed, and one since
        os.utime(directory / slurm.NAME, (failed + later, failed + later))
        (run,) = states(sweeps)
        assert (run["state"], run["failure"] is None) == (state, state == "queued")


def test_bad_input_in_a_sweep_is_a_failure_that_is_not_repeated(
    sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One value is refused at once, the other when the network is known."""
    assert sweep(monkeypatch, *TINY, "dof=abc,100M", "recipe.epochs=1", "sweep=bad") == 2
    refused, late = states(sweeps, "bad")
    assert (refused["state"], refused["run"]) == ("failed", None)
    assert "'abc'" in refused["failure"]["message"]
    assert late["state"] == "failed"
    assert "363264" in late["failure"]["message"]
    out = sweeps("retry", "bad", "--dry-run")[1]
    assert "1 runs are refused for their configuration" in out
    assert late["run"] in out


def test_a_diverged_run_is_failed(sweeps: Sweeps) -> None:
    from rpg_bench.engine import Diverged

    with pytest.raises(Diverged):
        train_tiny("optimizer.lr=1e30", "recipe.epochs=1", "checkpoint_seconds=1e-9")
    (run,) = states(sweeps)
    assert (run["state"], run["failure"]["kind"]) == ("failed", "Diverged")
    assert list(Path("runs").glob("*/checkpoint-*.pt"))
    assert not run["resumable"]  # it begins again
    assert "loss" in run["failure"]["message"]


def test_a_stopped_run_can_be_continued_and_is_forgotten_as_a_failure(
    sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        failing(patched, 0, RuntimeError("oh"))
        with pytest.raises(RuntimeError, match="oh"):
            train_tiny("checkpoint_seconds=1e-9")
    (run,) = states(sweeps)
    assert (run["state"], run["resumable"]) == ("failed", True)
    with stopping_after(monkeypatch, 12), pytest.raises(Interrupted):
        train_tiny()
    (run,) = states(sweeps)
    assert (run["state"], run["resumable"], run["failure"]) == ("stopped", True, None)
    progress = run["progress"]
    assert (progress["step"], progress["steps"], progress["epoch"], progress["epochs"]) == (12, 16, 1, 2)
    assert progress["metrics"]["epoch"] == 1
    assert run["bytes"] > 1000
    train_tiny()
    (run,) = states(sweeps)
    assert (run["state"], run["resumable"]) == ("done", False)
    assert "rpg_global test_resnet digits dof=5000 seed=0" in sweeps("status")[1]


def test_a_running_and_a_killed_run(sweeps: Sweeps, tmp_path: Path) -> None:
    process = start((*TINY, "recipe.epochs=2000", "checkpoint_seconds=1e-3"), tmp_path)
    limit = time.monotonic() + 90
    run: dict[str, Any] = {}
    while not run.get("seconds_left"):
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.2)
        run = next(iter(states(sweeps)), {})
    assert (run["state"], run["owner"]["pid"]) == ("running", process.pid)
    assert run["owner"]["since"]
    code, out, _ = sweeps("clean", "--yes")
    assert code == 1
    assert f"left alone: run {run['run']} is being trained by process {process.pid}" in out
    process.send_signal(signal.SIGKILL)
    finish(process)
    (run,) = states(sweeps)
    assert (run["state"], run["resumable"], run["owner"]["pid"]) == ("lost", True, process.pid)
    assert f"process {process.pid} on" in sweeps("status")[1]
    assert "is gone" in sweeps("status")[1]


def test_watching_shows_what_changes(sweeps: Sweeps, tmp_path: Path) -> None:
    directory = tmp_path / "runs" / ("0" * 12)
    directory.mkdir(parents=True)
    lease = Lease(directory)
    looks = 0

    def lease_ends(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            lease.__exit__(None, None, None)
        if looks == 4:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("rpg_bench.sweeps.table.time.sleep", lease_ends)
        lease.__enter__()
        code, out, _ = sweeps("status", "--watch", "0.01")
    assert code == 0
    assert looks == 4
    assert [line.split()[1] for line in out.splitlines() if line.startswith("0" * 12)] == ["running", "missing"]


def test_the_time_left_follows_the_shape_of_earlier_runs() -> None:
    config = dataclasses.asdict(configured(*TINY))
    history = [{"seconds": 10.0}, {"seconds": 40.0}]  # the second epoch took three times as long
    past = Past([Record({"config": config, "train_seconds": 40.0, "history": history})])
    assert past.seconds(config) == 40.0
    progress = {"step": 8, "steps": 16, "train_seconds": 20.0}  # a machine half as fast
    assert past.seconds_left(config, progress) == pytest.approx(60.0)
    assert past.seconds_left(config, {**progress, "step": 16, "train_seconds": 80.0}) == 0.0
    assert past.seconds_left(config, {**progress, "step": 0, "train_seconds": 0.0}) == 40.0
    assert Past([]).seconds_left(config, progress) == pytest.approx(20.0)


def test_the_disk_that_a_sweep_takes_is_estimated_from_records(tmp_path: Path) -> None:
    train_tiny("recipe.epochs=1")
    (path,) = (tmp_path / "results/records").glob("*.json")
    record = Record(json.loads(path.read_text()))
    config = record.values["config"]
    estimate = checkpoint_bytes(config, [record])
    assert estimate is not None
    (file,) = checkpoints(tmp_path)
    # The file holds the random generators, names and batch norm's statistics too.
    assert estimate < file.stat().st_size < estimate + 60_000
    assert checkpoint_bytes({**config, "dof": 6000}, [record]) is None
    line = forecast([config, {**config, "dof": 6000}], [record], 10**9)
    assert "1 runs of a size that never ran here" in line
    assert not line.startswith("warning")
    assert forecast([config], [record], 10).startswith("warning: disk: ")
    assert "not known" in forecast([{**config, "dof": 6000}], [record], 10**9)


def test_watching_ends_when_all_is_done(sweeps: Sweeps) -> None:
    train_tiny("recipe.epochs=1")
    code, out, _ = sweeps("status", "--watch", "100")
    assert code == 0
    assert out.splitlines()[-1].startswith("runs: 1 runs, 1 done, 0 running")


def finished(tmp_path: Path, *overrides: str) -> Path:
    train_tiny(*overrides)
    return RunFiles.of(configured(*TINY, *overrides)).directory


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_clean_removes_what_no_finished_record_needs(sweeps: Sweeps, tmp_path: Path) -> None:
    directory = finished(tmp_path)
    kept = names(directory)
    record = RunFiles.of(configured(*TINY)).record.read_bytes()
    old = time.time() - 10 * 86400
    extra = [directory / "checkpoint-00000003.pt", directory / ".checkpoint-00000004.pt.77.part", directory / NAME]
    for path in extra:
        path.write_bytes(b"x" * 100)
        os.utime(path, (old, old))
    extra[2].write_text(json.dumps(dataclasses.asdict(dataclasses.replace(Owner.this(), started="1"))))
    synced = directory / "wandb" / "offline-run-20260101_000000-abcd"
    synced.mkdir(parents=True)
    (synced / "run-abcd.wandb.synced").touch()
    unsent = directory / "wandb" / "offline-run-20260102_000000-abcd"
    unsent.mkdir()
    forgotten = tmp_path / "runs" / ("1" * 12)
    forgotten.mkdir()
    (forgotten / "checkpoint-00000001.pt").write_bytes(b"x" * 1000)
    os.utime(forgotten / "checkpoint-00000001.pt", (old, old))
    empty = tmp_path / "runs" / ("2" * 12)
    empty.mkdir()
    os.utime(empty, (old, old))
    recent = tmp_path / "runs" / ("3" * 12)
    recent.mkdir()
    (recent / "checkpoint-00000001.pt").touch()
    mine = tmp_path / "runs" / "my own notes"
    mine.mkdir()

    code, out, _ = sweeps("clean", "--dry-run")
    assert code == 0
    assert "would remove 6 files and folders" in out
    assert all(path.exists() for path in (*extra, synced, forgotten, empty))
    code, _, err = sweeps("clean")  # nobody to ask
    assert code == 2
    assert "--yes" in err
    assert all(path.exists() for path in (*extra, synced, forgotten, empty))

    code, out, err = sweeps("clean", "--yes")
    assert (code, err) == (0, "")
    assert "removed 6 files and folders" in out
    assert not any(path.exists() for path in (*extra, synced, forgotten, empty))
    assert names(directory) == {*kept, "wandb"}
    assert unsent.exists()
    assert (recent / "checkpoint-00000001.pt").exists()
    assert mine.exists()
    assert RunFiles.of(configured(*TINY)).record.read_bytes() == record
    assert sweeps("clean", "--yes")[1].strip() == "nothing to remove"


def test_clean_removes_what_jobs_left_that_are_over(
    sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, old = tmp_path / "runs" / "slurm", time.time() - 10 * 86400
    jobs = [folder / name for name in ("7", "7_0", "8", "8_0", "9")]  # 8 is in the queue, 9 was there yesterday
    for path in jobs:
        path.mkdir(parents=True)
        (path / "log.out").touch()
        for changed in (path / "log.out", path)[: 0 if path.name == "9" else 2]:
            os.utime(changed, (old, old))
    (folder / "7" / "submission.sh").touch()
    os.utime(folder / "7" / "submission.sh", (old, old))
    os.utime(folder / "7", (old, old))
    link = folder / ".submission_file_abc.sh"
    link.symlink_to(folder / "7" / "submission.sh")
    refused = folder / "abc.pkl"
    refused.touch()
    os.utime(refused, (old, old))
    monkeypatch.setattr(slurm, "queued", lambda jobs: None)
    assert "1 files and folders" in sweeps("clean", "--dry-run")[1]  # Slurm does not say what is over
    monkeypatch.setattr(slurm, "queued", lambda jobs: {job: "PENDING Priority" for job in jobs if job == "8_0"})
    assert sweeps("clean", "--yes")[0] == 0
    assert names(folder) == {"8", "8_0", "9"}


def test_clean_says_how_much_could_be_removed(sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("1", "2"):
        empty = tmp_path / "runs" / (name * 12)
        empty.mkdir(parents=True)
        os.utime(empty, (1.0, 1.0))
    held = Lease.__enter__

    def read_only(lease: Lease) -> Lease:
        if "1" * 12 in str(lease.path):
            raise InvalidInput("runs_dir: cannot write to it: Read-only file system")
        return held(lease)

    monkeypatch.setattr(Lease, "__enter__", read_only)
    code, out, err = sweeps("clean", "--yes")
    assert code == 1
    assert "not removed: runs_dir: cannot write" in err
    assert out.splitlines()[-1] == "removed 1 of 2 files and folders, 0 B"


def test_clean_keeps_as_many_checkpoints_as_are_asked_for(sweeps: Sweeps, tmp_path: Path) -> None:
    directory = finished(tmp_path)
    final = checkpoints(tmp_path)[-1]
    sweeps("clean", "--yes", "--keep", "final")
    assert checkpoints(tmp_path) == [final]
    sweeps("clean", "--yes", "--keep", "none")
    assert checkpoints(tmp_path) == []
    assert names(directory) == {PROGRESS}
    assert train_tiny() > 0  # it is finished all the same


def test_clean_leaves_what_a_sweep_asked_for(sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with stopping_after(monkeypatch, 3):
        assert sweep(monkeypatch, *TINY, "seed=0,1", "sweep=two") == 128 + signal.SIGTERM
    (path,) = checkpoints(tmp_path)
    os.utime(path, (1.0, 1.0))
    assert "nothing to remove" in sweeps("clean", "--yes")[1]
    assert path.exists()
    assert [run["state"] for run in states(sweeps, "two")] == ["stopped", "missing"]


def test_clean_asks(sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    empty = tmp_path / "runs" / ("2" * 12)
    empty.mkdir(parents=True)
    os.utime(empty, (1.0, 1.0))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert "nothing was removed" in sweeps("clean")[1]
    assert empty.exists()
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert sweeps("clean")[0] == 0
    assert not empty.exists()


def test_progress_that_cannot_be_written_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rpg_bench.progress.write_aside", full)
    assert train_tiny("recipe.epochs=1") > 0
