"""One process at a time trains a run; what a dead one held is free."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from runner import ROOT, TINY, checkpoints, composed, configured, final_state, finish, only_record, start, train_tiny

from rpg_bench import lease
from rpg_bench.command_line import run_command
from rpg_bench.lease import NAME, Held, Lease, Lost, Owner, holder_of
from rpg_bench.runs import RunFiles
from rpg_bench.train import train

HOLDER = """
import sys, time
from pathlib import Path
from rpg_bench.lease import Lease
with Lease(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
CONTENDER = """
import os, sys, time
from pathlib import Path
from rpg_bench.lease import Held, Lease
folder, rounds, taken = Path(sys.argv[1]), int(sys.argv[2]), 0
print("ready", flush=True)
sys.stdin.readline()
while taken < rounds:
    try:
        with Lease(folder):
            os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))  # fails if another is inside too
            time.sleep(0.001)
            os.unlink(folder / "inside")
            taken += 1
    except Held:
        pass
print(taken, flush=True)
"""


def python(program: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def left_by(directory: Path, **changes: Any) -> Path:
    """The lease of another owner."""
    path = directory / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(Owner.this(), **changes))))
    return path


def age(path: Path, seconds: float) -> None:
    """As if nobody had touched it for so long."""
    os.utime(path, (time.time() - seconds,) * 2)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWED", 0.02)
    monkeypatch.setattr(lease, "WATCHED", 0.2)


def test_one_has_it_and_the_next_after_it(tmp_path: Path) -> None:
    with Lease(tmp_path) as first:
        assert holder_of(tmp_path) is not None
        with pytest.raises(Held, match=f"being trained by process {os.getpid()} on "), Lease(tmp_path):
            pass
        assert not first.lost
    assert holder_of(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    with Lease(tmp_path):
        pass


def test_what_a_killed_process_held_is_free_at_once(tmp_path: Path) -> None:
    process = python(HOLDER, tmp_path)
    assert line(process) == "held"
    with pytest.raises(Held, match=f"process {process.pid}"), Lease(tmp_path):
        pass
    process.kill()
    process.communicate()
    assert holder_of(tmp_path) is None
    began = time.monotonic()
    with Lease(tmp_path):
        assert time.monotonic() - began < 2
    assert list(tmp_path.iterdir()) == []


def test_another_process_of_the_same_number_is_not_the_owner(tmp_path: Path) -> None:
    left_by(tmp_path, started="1")
    with Lease(tmp_path):
        pass


def test_a_folder_that_became_read_only_is_no_error_of_the_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(30, "Read-only file system")

    with Lease(tmp_path):
        monkeypatch.setattr(os, "unlink", refuse)
    assert (tmp_path / NAME).exists()


@pytest.mark.parametrize("code", [errno.EEXIST, errno.EIO])
def test_a_link_that_was_made_and_reported_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    link = os.link

    def lose_the_answer(*arguments: Any) -> None:
        link(*arguments)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", lose_the_answer)
    with Lease(tmp_path):
        assert holder_of(tmp_path) is not None
        with pytest.raises(Held), Lease(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


def test_what_processes_left_that_were_killed_while_they_took_it_is_removed(tmp_path: Path) -> None:
    living = [f".{NAME}.living", ".clock-new"]
    left_by(tmp_path).rename(tmp_path / f".{NAME}.living")  # that another process is about to link
    left_by(tmp_path, started="1").rename(tmp_path / f".{NAME}.dead")
    for name in (f".{NAME}.half", ".clock-old", ".clock-new"):
        (tmp_path / name).write_bytes(b"\x83{")
    for name in (f".{NAME}.half", ".clock-old"):
        age(tmp_path / name, 3600)
    with Lease(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*living, NAME])


def test_an_owner_elsewhere_is_believed_while_it_touches_the_lease(tmp_path: Path, hasty: None) -> None:
    path = left_by(tmp_path, place="elsewhere", host="node7", pid=1)
    with pytest.raises(Held, match="process 1 on node7"), Lease(tmp_path):
        pass
    assert holder_of(tmp_path) is not None
    age(path, 3600)
    assert holder_of(tmp_path) is None
    with Lease(tmp_path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("seconds", [3600.0, -3600.0])  # a clock that was set forward, or back
def test_a_clock_that_jumps_takes_no_lease_from_the_living(tmp_path: Path, hasty: None, seconds: float) -> None:
    path = left_by(tmp_path, place="elsewhere", pid=1)
    age(path, seconds)
    touching = threading.Timer(0.05, os.utime, [path])
    touching.start()
    with pytest.raises(Held), Lease(tmp_path):
        pass
    touching.join()


@pytest.mark.parametrize("content", [b"", b'{"host": "no', b"\x83no text"])
def test_a_damaged_lease_is_nobodys_in_the_end(tmp_path: Path, hasty: None, content: bytes) -> None:
    path = tmp_path / NAME
    path.write_bytes(content)
    with pytest.raises(Held, match="an unknown machine"), Lease(tmp_path):
        pass
    age(path, 3600)
    with Lease(tmp_path):
        pass


def test_no_two_processes_are_inside_at_once(tmp_path: Path) -> None:
    left_by(tmp_path, started="1")
    rounds = 40
    contenders = [python(CONTENDER, tmp_path, rounds) for _ in range(3)]
    assert [line(process) for process in contenders] == ["ready"] * 3
    for process in contenders:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in contenders:
        out, err = process.communicate(timeout=60)
        assert (out.strip(), err, process.returncode) == (str(rounds), "", 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("links", [True, False])
def test_no_two_are_inside_at_once_where_owners_die(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Eight threads stand for processes, of which every other one dies with the lease. Also without hard links."""
    dead: set[str] = set()
    monkeypatch.setattr(Owner, "is_gone", property(lambda self: self.token in dead))
    if not links:

        def refuse(*arguments: object) -> None:
            raise PermissionError(1, "no hard links here")

        monkeypatch.setattr(os, "link", refuse)
    inside = threading.Lock()
    problems: list[str] = []
    deaths: list[int] = []

    def contend(number: int) -> None:
        for turn in range(30):
            mine = Lease(tmp_path)
            while not problems:
                try:
                    mine.__enter__()
                    break
                except Held:
                    time.sleep(0)
            else:
                return
            if not inside.acquire(blocking=False):
                problems.append(f"two inside in turn {turn} of {number}")
                return
            dies = (turn + number) % 2 == 0
            time.sleep(0.001)
            inside.release()
            if dies:
                deaths.append(number)
                dead.add(mine._owner.token)
            else:
                mine.__exit__(None, None, None)

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert problems == []
    assert len(deaths) == 8 * 15
    with Lease(tmp_path):
        assert len(list(tmp_path.iterdir())) == 1


def test_who_lost_it_knows_and_leaves_it_alone(tmp_path: Path, hasty: None) -> None:
    with Lease(tmp_path) as mine:
        path = left_by(tmp_path, place="elsewhere")
        for _ in range(200):
            if mine.lost:
                break
            time.sleep(0.01)
        assert mine.lost
    assert json.loads(path.read_text())["place"] == "elsewhere"


def directory_of(*overrides: str) -> Path:
    return RunFiles.of(configured(*TINY, *overrides)).directory


def test_a_run_that_another_process_trains_is_left_to_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = directory_of()
    left_by(directory)
    monkeypatch.setattr(sys, "argv", ["rpg_bench.train", *TINY])
    with pytest.raises(SystemExit) as left:
        run_command(train)
    assert left.value.code == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith(f"error: run {directory.name} is being trained by process {os.getpid()} on ")
    assert [path.name for path in directory.iterdir()] == [NAME]
    assert not Path("results").exists()


def test_a_sweep_comes_back_to_what_another_trains(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rpg_bench.sweeper.POLLED", 0.05)
    path = left_by(directory_of("seed=0"))
    threading.Timer(6.0, path.unlink).start()
    arguments = [text for text in TINY if not text.startswith("dof")]
    monkeypatch.setattr(sys, "argv", ["rpg_bench.train", "--multirun", *arguments, "dof=5k", "seed=0,1"])
    run_command(train)
    out = capsys.readouterr().out
    assert "left for the end" in out
    assert "others train the last 1 runs" in out
    assert "2 of 2 runs are finished" in out
    records = [json.loads(path.read_text()) for path in Path("results/records").glob("*.json")]
    assert sorted((record["seed"], record["steps"]) for record in records) == [(0, 16), (1, 16)]
    seeds = [
        json.loads(path.read_text())["seed"] for path in sorted(Path("results/records").iterdir(), key=os.path.getmtime)
    ]
    assert seeds == [1, 0]


def test_two_sweeps_at_once_do_each_run_once(tmp_path: Path) -> None:
    arguments = ("--multirun", *TINY, "seed=0,1,2,3")
    sweeps = [start(arguments, tmp_path) for _ in range(2)]
    outputs = [finish(process) for process in sweeps]
    for code, out, err in outputs:
        assert (code, err) == (0, "")
        assert "4 of 4 runs are finished" in out
    trained = [out.count("tracking    disabled") for _, out, _ in outputs]
    assert sum(trained) == 4
    records = [json.loads(path.read_text()) for path in (tmp_path / "results" / "records").iterdir()]
    assert sorted(record["seed"] for record in records) == [0, 1, 2, 3]
    assert [[entry["step"] for entry in record["starts"]] for record in records] == [[0]] * 4
    assert not list(tmp_path.rglob(f"*{NAME}*"))


def test_training_ends_where_another_took_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hasty: None) -> None:
    """A process that was stopped for long wakes up, and must not write into what is another's now."""
    from rpg_bench.engine import Trainer

    step = Trainer._step
    stolen = []

    def slow(self: Trainer, batches: Any) -> None:
        step(self, batches)
        if self.position.step == 5:
            stolen.append(left_by(self.directory, place="elsewhere"))
            time.sleep(0.3)

    monkeypatch.setattr(Trainer, "_step", slow)
    with pytest.raises(Lost, match="taken over"):
        train(composed(*TINY, "checkpoint_seconds=1e-3"))
    assert len(stolen) == 1
    assert final_state(tmp_path)["position"]["step"] == 4
    assert not list((tmp_path / "results" / "records").iterdir())
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    stolen[0].unlink()
    train_tiny()
    assert [start["step"] for start in only_record(tmp_path)["starts"]] == [0, 4]
    assert checkpoints(tmp_path)[-1].name == "checkpoint-00000016.pt"
