"""What the submitting process says while it waits; the jobs themselves are tested on a real Slurm in test_slurm."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rpg_bench import slurm_array
from rpg_bench.errors import INTERRUPTED


def test_ctrl_c_while_waiting_says_that_the_jobs_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(slurm_array, "_wait", interrupted)
    with pytest.raises(SystemExit) as stopped:
        slurm_array.launch(SimpleNamespace(), [], 0)  # type: ignore[arg-type]  # no run, so nothing is asked of it
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
