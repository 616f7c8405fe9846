"""One series: a run is disturbed, completed, and compared; and what is seen on the way is judged."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import re
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

from torture import disks, faults
from torture.command import Ended, run
from torture.compare import differences
from torture.damage import LEASE, damage, run_directory, whole_steps
from torture.plans import VARIANTS, Round, Series
from torture.report import Report
from torture.server import WAYS, Server

SAVED = "Run the same command again to continue."
# An owner that is gone is watched for 25 seconds before its lease is taken.
HASTE = {"rpg_bench.lease.WATCHED": 0.2, "rpg_bench.tracking.BEGINNING": 5.0, "rpg_bench.tracking.FINISHING": 5.0}


@dataclass(frozen=True)
class Reference:
    """An undisturbed run, and the seconds that it took from the start to the end."""

    folder: Path
    cold: float
    forked: float


def make_reference(variant: str, work: Path) -> Reference:
    """Run a variant undisturbed, by a cold start and by a forked one, which must come to the same."""
    seconds = []
    for cold in (True, False):
        folder = work / ("cold" if cold else "forked")
        folder.mkdir(parents=True)
        arguments = [*VARIANTS[variant], "tracking=disabled"]
        ended = run(arguments, folder, work / "logs" / folder.name, {}, cold=cold)
        if (ended.code, ended.err) != (0, ""):
            raise RuntimeError(f"the undisturbed run of {variant!r} failed: exit code {ended.code}\n{ended.err}")
        seconds.append(ended.events[-1][0] - ended.events[0][0])
    found = differences(work / "cold", work / "forked")
    if found:
        raise RuntimeError(f"two undisturbed runs of {variant!r} differ in {', '.join(found[:5])}")
    return Reference(work / "cold", *seconds)


def run_series(series: Series, reference: Reference, work: Path) -> Report:
    """Run one series below `work`, which is removed if nothing is wrong."""
    report = Report()
    folder = work / "run"
    folder.mkdir(parents=True)
    if series.kind == "disk":
        disks.mount(folder)
    try:
        way = WAYS[series.number // 10 % len(WAYS)] if series.kind == "server" else None
        with Server(way) as server:
            _Course(series, reference, folder, work, report, server).complete()
    finally:
        if series.kind == "disk":
            if report.problems:
                shutil.copytree(folder, work / "kept", ignore=shutil.ignore_patterns("ballast"))
            disks.unmount(folder)
    if not report.problems:
        shutil.rmtree(work)
    return report


class _Course:
    def __init__(
        self, series: Series, reference: Reference, folder: Path, work: Path, report: Report, server: Server
    ) -> None:
        self.series, self.reference, self.folder, self.report = series, reference, folder, report
        self.logs = work / "logs"
        self.server = server
        self.starts = 0
        self.dice = random.Random(f"{series.number} {series.variant}")

    @property
    def directory(self) -> Path | None:
        """Of the run; None before there is one."""
        return run_directory(self.folder)

    def complete(self) -> None:
        for disturbed in self.series.rounds:
            starved = self._prepare(disturbed)
            if self._start(disturbed, starved).code == 0:
                break
        else:
            self._prepare(Round())
            ended = self._start(Round(), starved=False)
            if ended.code != 0:
                self._problem(f"the same command did not complete the run: exit code {ended.code}: {ended.err[-300:]}")
                return
        if self.report.problems:
            return
        if self.series.kind == "disk":
            disks.free(self.folder)
        (record,) = (self.folder / "results" / "records").glob("*.json")
        before = record.read_bytes()
        ended = self._start(Round(), starved=False)
        if ended.code != 0 or "is finished" not in ended.out or record.read_bytes() != before:
            self._problem("the finished run was run again")
        self._compare()

    def _prepare(self, disturbed: Round) -> bool:
        """Damage, or a disk that is usable again; whether it is not."""
        if self.series.kind == "disk":
            if not disturbed.freed and self._is_starved():
                return True
            disks.free(self.folder)
        # Of a finished run nobody reads a checkpoint any more.
        if disturbed.damage and self.directory is not None and not list(self.folder.glob("results/records/*.json")):
            damage(disturbed.damage, self.directory, self.dice)
            self.report.damages[disturbed.damage] += 1
        return False

    def _is_starved(self) -> bool:
        try:
            with (self.folder / "probe").open("wb") as probe:
                probe.write(b"\0" * 4096)
        except OSError:
            return True
        finally:
            with contextlib.suppress(OSError):
                (self.folder / "probe").unlink(missing_ok=True)
        return False

    def _start(self, disturbed: Round, starved: bool) -> Ended:
        self.starts += 1
        self.server.revive()
        before = whole_steps(self.directory) if self.directory else []
        seconds = self.reference.cold if disturbed.cold else self.reference.forked
        ended = run(
            [
                *VARIANTS[self.series.variant],
                f"tracking={'online' if self.series.kind == 'server' else 'disabled'}",
                f"checkpoint_seconds={disturbed.checkpoint_seconds}",
            ],
            self.folder,
            self.logs / f"{self.starts:02d}",
            {"faults": list(disturbed.faults), "clock": disturbed.clock, "attributes": HASTE},
            [(share * seconds, name) for share, name in disturbed.signals],
            disturbed.cold,
            self.server.environment,
        )
        self._judge(disturbed, ended, before, starved)
        return ended

    def _problem(self, text: str) -> None:
        self.report.problems.append(f"start {self.starts}: {text}")

    def _judge(self, disturbed: Round, ended: Ended, before: list[int], starved: bool) -> None:
        counts = self.report.counts
        counts["starts"] += 1
        counts["cold starts"] += disturbed.cold
        counts["wrong clocks"] += disturbed.clock != 0
        if ended.hung:
            self._problem(f"it hung: {ended.err[-2000:]}")
        self._judge_end(ended, starved)
        if self.server.environment and ended.steps and ended.code == 0 and "tracking: W&B could not" not in ended.out:
            self._problem("nothing was said of W&B's server")
        after = whole_steps(self.directory) if self.directory else []
        if before and (not after or after[0] < before[0]):
            self._problem(f"checkpoint of step {before[0]} lost, {after} left")
        if ended.resumed is not None:
            counts["continued at a step after 0"] += ended.resumed > 0
            counts["steps not taken again"] += ended.resumed
            if ended.resumed != (before[0] if before else 0):
                self._problem(f"resumed at step {ended.resumed}; whole checkpoints were {before}")
        self._judge_loss(ended, after, disturbed.checkpoint_seconds)
        for path in (self.folder / "results" / "records").glob("*.json"):
            try:
                json.loads(path.read_bytes())
            except ValueError:
                self._problem(f"{path.name} is half a record")

    def _judge_end(self, ended: Ended, starved: bool) -> None:
        """Exit code and messages are what they are to be after what struck it; count that."""
        names = [text.split()[1] for _, text in ended.events if text.startswith("fault ")]
        names += [name for _, name in ended.sent]
        numbers = {int(getattr(signal, name)) for name in names if name.startswith("SIG")}
        errors = [name for name in names if not name.startswith("SIG")]
        allowed = {0} | {-number for number in numbers} | {128 + number for number in numbers}
        allowed |= {2} if errors or starved else set()
        lines = ended.err.splitlines()
        if errors and ended.code == 1 and "is being trained by process 1 on node7" in ended.err and len(lines) == 1:
            pass  # the age of another machine's lease could not be seen, so it is believed
        elif ended.code not in allowed:
            self._problem(f"exit code {ended.code} after {names}: {ended.err[-1500:]}")
        elif ended.code == 2:
            if len(lines) != 1 or not re.match(r"error: (runs|results)_dir: ", lines[0]):
                self._problem(f"unclear message after {names}: {ended.err[-1500:]}")
            self.report.counts["started on a disk that could not be written"] += starved
        elif ended.code == 128 + signal.SIGINT and SAVED not in ended.out:
            if len(lines) != 1 or not lines[0].startswith("error: interrupted"):
                self._problem(f"unclear message after {names}: {ended.err[-1500:]}")
        elif ended.code == -signal.SIGINT:  # Python's own end: before the command was there, or while it ended
            where = ended.struck[2] if ended.struck else ""
            if "Traceback" in ended.err and where not in (faults.FIRST, "end"):
                self._problem(f"a trace after SIGINT in {where}: {ended.err[-1500:]}")
        elif lines and ended.code != -signal.SIGKILL:
            self._problem(f"unexpected message after {names}: {ended.err[-1500:]}")
        struck = ended.struck
        if struck is not None and (ended.code != 0 or errors):
            _, name, place = struck
            if name.startswith("SIG"):
                self.report.kills[name] += 1
                self.report.places[place] += 1
            else:
                self.report.errors[f"{name} {place}"] += 1

    def _judge_loss(self, ended: Ended, after: list[int], checkpoint_seconds: float) -> None:
        """What was trained and not saved is bounded; what was said to be saved is."""
        if not ended.steps or ended.code == 0:
            return
        reached = {step: at for at, step in reversed(ended.steps)}
        start = next(at for at, text in ended.events if text.startswith("resumed "))
        last_at, last = ended.steps[-1]
        saved = after[0] if after else 0
        if SAVED in ended.out and saved != last:
            self._problem(f"said to be saved after step {last}, and the newest checkpoint is of step {saved}")
        times = [start, *(at for at, _ in ended.steps)]
        pause = max(later - earlier for earlier, later in itertools.pairwise(times))
        lost = last_at - reached.get(saved, start)
        self.report.counts["steps taken again"] += max(0, last - saved)
        self.report.lost_seconds = max(self.report.lost_seconds, lost)
        if lost > checkpoint_seconds + 2 * pause:
            self._problem(f"{lost:.2f} s of training lost with checkpoint_seconds={checkpoint_seconds}")

    def _compare(self) -> None:
        found = differences(self.reference.folder, self.folder)
        if found:
            self._problem(f"{len(found)} values differ from the undisturbed run: {', '.join(found[:5])}")
        self.report.counts["runs completed and compared"] += 1
        assert self.directory is not None
        records = self.folder / "results" / "records"
        left = [path.name for path in (*self.directory.iterdir(), *records.iterdir()) if _is_left(path)]
        if left:
            self._problem(f"left behind: {', '.join(sorted(left))}")


def _is_left(path: Path) -> bool:
    """Whether it should have been removed. A lease that is empty yet has no owner who is dead: it stays two minutes."""
    return path.name.startswith(".") and not (path.name.startswith(f".{LEASE}.") and path.stat().st_size == 0)
