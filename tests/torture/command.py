"""One start of the command, cold or forked from a process that has imported everything; it cannot hang."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torture import faults

TESTS = Path(__file__).resolve().parents[1]
LIMIT = 180.0  # seconds for one start; it takes less than 20 on a busy machine
MODULE = "rpg_bench.train"


@dataclass(frozen=True)
class Ended:
    """How one start ended, and what it did."""

    code: int  # of the process: negative for the signal that ended it
    out: str
    err: str
    events: list[tuple[float, str]]  # the trace: monotonic seconds, text
    sent: list[tuple[float, str]]  # signals from outside
    hung: bool

    @property
    def resumed(self) -> int | None:
        """The step at which training began, or None if it did not come so far."""
        return next((int(text.split()[1]) for _, text in self.events if text.startswith("resumed ")), None)

    @property
    def steps(self) -> list[tuple[float, int]]:
        """The steps that were taken, and when."""
        return [(at, int(text.split()[1])) for at, text in self.events if text.startswith("step ")]

    @property
    def struck(self) -> tuple[float, str, str] | None:
        """When and by what it was struck first, and where: in which phase, or at which call."""
        own = [(at, text.split()) for at, text in self.events if text.startswith("fault ")]
        hits = [(at, words[1], " ".join(words[2:])) for at, words in own]
        hits += [(at, name, "") for at, name in self.sent]
        if not hits:
            return None
        at, name, place = min(hits)
        return at, name, place if len(place.split()) == 3 else self.phase(at)

    def phase(self, when: float) -> str:
        """In which part of the run the process was."""
        base, inside = faults.FIRST, list[str]()
        for at, text in self.events:
            if at > when:
                break
            if text.startswith("+"):
                inside.append(text[1:])
            elif text.startswith("-"):
                while inside and inside.pop() != text[1:]:
                    pass
                base = faults.AFTER.get(text[1:], base)
        return inside[-1] if inside else base


def import_everything() -> None:
    """What a forked start need not do again."""
    import timm  # noqa: F401
    from sklearn import datasets  # noqa: F401

    import rpg_bench.backbones
    import rpg_bench.command_line
    import rpg_bench.describe
    import rpg_bench.engine
    import rpg_bench.generalisation
    import rpg_bench.launch
    import rpg_bench.small_maps  # noqa: F401

    # A thread would not be there after a fork, and what it held would be held for ever.
    assert threading.active_count() == 1
    status = Path("/proc/self/status")
    if status.exists():
        assert "\nThreads:\t1\n" in status.read_text()


def run(
    arguments: Sequence[str],
    folder: Path,
    logs: Path,
    spec: dict[str, Any],
    signals: Sequence[tuple[float, str]] = (),
    cold: bool = True,
    environment: dict[str, str] | None = None,
    limit: float = LIMIT,
) -> Ended:
    """Start the command in `folder`, send it signals by the clock, and wait for its end.

    Args:
        arguments: of the command.
        folder: its working directory.
        logs: the beginning of the paths that its output and trace go to; not below `folder`, which may be full.
        spec: what happens inside the process (`faults.install`), without paths.
        signals: seconds after the start, and a signal's name.
        cold: start Python; else fork, after `import_everything`.
        environment: more variables.
        limit: seconds after which it is said to hang, asked for its stack, and killed with all that it started.
    """
    logs.parent.mkdir(parents=True, exist_ok=True)
    out, err, trace = (logs.with_name(f"{logs.name}.{kind}") for kind in ("out", "err", "trace"))
    spec = {"faults": [], **spec, "trace": str(trace), "below": f"{folder}/"}
    variables = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **(environment or {})}
    process = (_Cold if cold else _Forked)(arguments, folder, out, err, spec, variables)
    began, sent, waiting, hung = time.monotonic(), list[tuple[float, str]](), sorted(signals), False
    try:
        while (code := process.poll()) is None:
            now = time.monotonic()
            if waiting and now - began >= waiting[0][0]:
                name = waiting.pop(0)[1]
                sent.append((now, name))
                os.kill(process.pid, getattr(signal, name))  # not reaped yet, so it is the right process
            elif now - began > limit and not hung:
                hung = True
                os.kill(process.pid, signal.SIGQUIT)  # prints its stack
                waiting = [(limit + 2, "SIGKILL")]
            next_due = began + waiting[0][0] - now if waiting else 0.02
            time.sleep(max(0.001, min(0.02, next_due)))
    finally:
        _kill_group(process.pid)  # and what it started: W&B's processes may be waiting for a server
    return Ended(code, out.read_text(), err.read_text(), _events(trace), sent, hung)


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _events(trace: Path) -> list[tuple[float, str]]:
    if not trace.exists():  # killed before Python was there
        return []
    lines = [line.split(" ", 1) for line in trace.read_text().splitlines()]
    return [(float(at), text) for at, text in lines]


class _Cold:
    def __init__(
        self, arguments: Sequence[str], folder: Path, out: Path, err: Path, spec: Any, variables: dict[str, str]
    ) -> None:
        paths = [str(TESTS / "torture" / "injected"), str(TESTS), str(TESTS.parent)]
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TORTURE": json.dumps(spec), **variables}
        with out.open("wb") as output, err.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", MODULE, *arguments],
                cwd=folder,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.poll()


class _Forked:
    def __init__(
        self, arguments: Sequence[str], folder: Path, out: Path, err: Path, spec: Any, variables: dict[str, str]
    ) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as it is where a command begins
        self.pid = os.fork()
        if self.pid == 0:
            _become_the_command(arguments, folder, out, err, spec, variables)
        signal.signal(signal.SIGTERM, handler)

    def poll(self) -> int | None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None


def _become_the_command(
    arguments: Sequence[str], folder: Path, out: Path, err: Path, spec: Any, variables: dict[str, str]
) -> None:
    """In a forked process: what `python -m` does, to its very end."""
    code: Any = 70
    try:
        os.setsid()
        os.chdir(folder)
        for number, path in ((0, os.devnull), (1, out), (2, err)):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | (os.O_TRUNC if number else 0), 0o666)
            os.dup2(descriptor, number)
            os.close(descriptor)
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        os.environ.update(variables)
        sys.argv = [MODULE, *arguments]
        faults.install(spec)
        runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except KeyboardInterrupt:  # as Python ends
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
