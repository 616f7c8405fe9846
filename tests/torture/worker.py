"""A process that runs series. It forks most starts, so it has no threads, and imports everything once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path

from torture.command import LIMIT, TESTS
from torture.report import Report

SERIES_LIMIT = 12 * LIMIT  # seconds after which a worker that does not answer is ended


class Worker:
    """Its side in the main process."""

    def __init__(self, seed: int, short: bool, work: Path) -> None:
        command = [sys.executable, "-m", "torture", "--worker", "--seed", str(seed), "--work", str(work)]
        self._process = subprocess.Popen(
            [*command, *(["--short"] if short else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
        )

    @property
    def alive(self) -> bool:
        """Whether it can be asked again."""
        return self._process.poll() is None

    def ask(self, question: dict[str, str | int]) -> Report:
        """Let it run one series or reference; a worker that hangs or dies is a problem too."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        overdue = threading.Timer(SERIES_LIMIT, self._process.kill)
        overdue.start()
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            overdue.cancel()
        return Report.of(json.loads(answer)) if answer else Report([f"the worker did not answer {question}"])

    def end(self) -> None:
        """It ends by itself when nothing more comes."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve(seed: int, short: bool, work: Path) -> int:
    """Its own side: questions on stdin, answers on stdout, one line each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # unmounts what it has mounted
    from torture import disks
    from torture.command import import_everything
    from torture.plans import SHORT, plan
    from torture.series import Reference, make_reference, run_series

    import_everything()
    no_disks = disks.unavailable()
    for line in sys.stdin:
        question = json.loads(line)
        report = Report()
        try:
            if "reference" in question:
                folder = _reference(work, question["reference"])
                reference = make_reference(question["reference"], folder)
                (folder / "reference.json").write_text(json.dumps([reference.cold, reference.forked]))
            else:
                number = question["series"]
                series = SHORT[number] if short else plan(seed, number)
                folder = _reference(work, series.variant)
                cold, forked = json.loads((folder / "reference.json").read_text())
                if series.kind == "disk" and no_disks:
                    report.skipped[f"full and read-only disks: {no_disks}"] += 1
                else:
                    report = run_series(series, Reference(folder / "cold", cold, forked), work / f"series-{number}")
        except Exception:
            report.problems.append(traceback.format_exc())
        answers.write(json.dumps(report.to_dict()) + "\n")
        answers.flush()
    return 0


def _reference(work: Path, variant: str) -> Path:
    return work / "references" / re.sub(r"\W+", "-", variant)
