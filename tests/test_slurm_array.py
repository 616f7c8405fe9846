"""What the submitting process says while it waits; the jobs themselves are tested on a real Slurm in test_slurm."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from rpg_bench import slurm, slurm_array, slurm_options
from rpg_bench.config import config_directory
from rpg_bench.errors import FAILED, INTERRUPTED, InvalidInput
from rpg_bench.sweeper import Failure


def test_ctrl_c_while_waiting_says_that_the_jobs_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(slurm_array, "_wait", interrupted)
    with pytest.raises(SystemExit) as stopped:
        slurm_array.launch(SimpleNamespace(params={}), [], 0)  # type: ignore[arg-type]  # no run, so nothing is asked of it
    assert stopped.value.code == INTERRUPTED
    assert "the jobs go on" in capsys.readouterr().err


def test_a_line_counts_the_jobs_by_state() -> None:
    states = {"1_0": "RUNNING None", "1_1": "PENDING Priority", "1_2": "PENDING Priority"}
    assert slurm_array._summary(2, states) == "Slurm: 2 ended, 2 pending (Priority), 1 running"
    assert "does not answer" in slurm_array._summary(0, None)


def test_jobs_that_never_begin_come_with_advice() -> None:
    (line,) = slurm_array._advice({"1_0": "PENDING PartitionTimeLimit", "1_1": "PENDING PartitionTimeLimit"})
    assert "hydra.launcher.timeout_min" in line
    assert not slurm_array._advice({"1_0": "PENDING Resources"})
    assert not slurm_array._advice(None)


def preset() -> dict[str, Any]:
    file: Any = OmegaConf.load(config_directory() / "hydra" / "launcher" / "slurm.yaml")
    file.update(submitit_folder="runs/slurm")
    values: Any = OmegaConf.to_container(OmegaConf.create({"hydra": {"launcher": file}}), resolve=True)
    values["hydra"]["launcher"].pop("_target_")
    return dict(values["hydra"]["launcher"])


def test_the_preset_is_allowed() -> None:
    slurm_options.check(preset())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("timeout_min", "abc"),
        ("timeout_min", 0),
        ("tasks_per_node", None),
        ("array_parallelism", 1.5),
        ("gpus_per_node", -1),
        ("mem_gb", "lots"),
        ("mem_gb", True),
        ("setup", "module load cuda"),
        ("srun_args", [1]),
        ("additional_parameters", "requeue"),
        ("stderr_to_stdout", 1),
        ("partitoin", "gpu"),
    ],
)
def test_a_wrong_value_of_the_preset_is_one_line(key: str, value: object) -> None:
    with pytest.raises(InvalidInput) as refused:
        slurm_options.check({**preset(), key: value})
    message = str(refused.value)
    assert message.startswith(f"hydra.launcher.{key}: ")
    assert repr(value) in message or repr(key) in message
    assert "\n" not in message


def test_other_jobs_of_an_array_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho 12_0 COMPLETING None\necho 12_1 RUNNING None\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert slurm.queued(["12_1", "12_2"]) == {"12_1": "RUNNING None"}


def test_a_job_without_an_answer_is_a_failure_that_hydra_says_nothing_of(caplog: pytest.LogCaptureFixture) -> None:
    answer = slurm_array._failed("Slurm job 3 ended")
    assert answer.return_value == Failure(FAILED, "Slurm job 3 ended")
    assert not caplog.records
