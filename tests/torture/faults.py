"""What happens inside a training process: it writes a trace, and fails at chosen points.

Imported before the command and, in a cold start, before everything else: nothing of the project is imported here.
"""

from __future__ import annotations

import builtins
import errno
import faulthandler
import functools
import importlib.abc
import importlib.machinery
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Which part of a run each function is. A name that is no longer there ends the process: it must be followed here.
PHASES: dict[str, dict[str, str]] = {
    "rpg_bench.launch": {"load": "data", "resume": "resume"},
    "rpg_bench.sharing": {"share": "model"},
    "rpg_bench.engine": {"Trainer._step": "step", "Trainer.evaluate": "evaluation", "Trainer.save": "checkpoint"},
    "rpg_bench.tracking": {"Tracker._start": "tracking", "Tracker.finish": "tracking"},
    "rpg_bench.progress": {"Progress.report": "progress"},
    "rpg_bench.records": {"make_record": "record", "write_record": "record"},
}
FIRST = "start-up"  # imports and configuration
# What comes after a phase, until the next begins.
AFTER = {"data": "model", "model": "model", "resume": "between steps", "record": "end"}
BALLAST = "ballast"  # the file that fills a disk

Spec = dict[str, Any]


def install(spec: Spec) -> None:
    """Trace this process into the file `trace`, and let the `faults` happen.

    spec:
        trace: a path.
        below: the folder whose files count.
        faults: each with `point` (a phase, or a call and what it is done to: "replace checkpoint"), `nth` time that it
            is reached, `when` (before, within, after), `act` (a signal, an error number, "fill" or "read-only") and
            `delay` in seconds, after which a signal is sent while the process goes on.
        clock: seconds by which the clock is wrong.
        attributes: dotted names and what they are set to, for waits that take minutes.
    """
    _Injection(spec)


class _Injection:
    def __init__(self, spec: Spec) -> None:
        self._faults: list[dict[str, Any]] = spec["faults"]
        self._below = spec["below"]
        self._attributes: dict[str, Any] = spec.get("attributes", {})
        self._reached: Counter[str] = Counter()
        self._monotonic = time.monotonic
        self._trace = os.open(spec["trace"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        faulthandler.register(signal.SIGQUIT)  # asked by whoever finds the process hanging
        self._note("begin")
        self._patch_calls()
        if spec.get("clock"):
            _shift_clock(spec["clock"])
        for name in PHASES:
            if name in sys.modules:
                self._patch_module(sys.modules[name])
        sys.meta_path.insert(0, _AfterImport(self._patch_module))

    def _note(self, text: str) -> None:
        os.write(self._trace, f"{self._monotonic():.6f} {text}\n".encode())

    # Phases

    def _patch_module(self, module: Any) -> None:
        for dotted, phase in PHASES.get(module.__name__, {}).items():
            owner, _, name = dotted.rpartition(".")
            holder = getattr(module, owner) if owner else module
            setattr(holder, name, self._phase(getattr(holder, name), phase))
        for dotted, value in self._attributes.items():
            owner, _, name = dotted.rpartition(".")
            if owner == module.__name__:
                setattr(module, name, value)

    def _phase(self, original: Callable[..., Any], phase: str) -> Callable[..., Any]:
        @functools.wraps(original)
        def traced(*arguments: Any, **options: Any) -> Any:
            self._note(f"+{phase}")
            result = self._at(phase, lambda: original(*arguments, **options))
            self._note(f"-{phase}")
            if phase == "step":
                self._note(f"step {arguments[0].position.step}")
            elif phase == "resume":
                self._note(f"resumed {arguments[1].position.step}")
            return result

        return traced

    # Calls

    def _patch_calls(self) -> None:
        for name in ("replace", "link", "unlink"):
            setattr(os, name, self._call(name, getattr(os, name)))
        fsync = os.fsync

        def traced_fsync(descriptor: int) -> None:
            try:
                path = os.readlink(f"/proc/self/fd/{descriptor}")
            except OSError:  # not on Linux
                path = os.devnull
            self._at(self._name("fsync", path), lambda: fsync(descriptor))

        os.fsync = traced_fsync  # type: ignore[assignment]
        plain_open = io.open

        def traced_open(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if not isinstance(file, (str, os.PathLike)) or not set(mode) & set("wax"):
                return plain_open(file, mode, *arguments, **options)
            path = os.fspath(file)
            opened = self._at(self._name("open", path), lambda: plain_open(file, mode, *arguments, **options))
            return self._traced_file(opened, path)

        builtins.open = traced_open  # type: ignore[assignment]
        io.open = traced_open  # type: ignore[assignment]

    def _call(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def traced(path: Any, *arguments: Any, **options: Any) -> Any:
            # What a file is renamed to says more than where it was put aside.
            point = self._name(name, os.fspath(arguments[0] if name in ("replace", "link") else path))
            return self._at(point, lambda: original(path, *arguments, **options))

        return traced

    def _traced_file(self, file: Any, path: Any) -> Any:
        point = self._name("write", path)
        if not any(fault["point"] == point for fault in self._faults):
            return file
        write = file.write

        def traced(content: Any) -> Any:
            written = 0

            def half() -> None:
                nonlocal written
                written = len(content) // 2
                write(content[:written])
                file.flush()

            return self._at(point, lambda: write(content[written:]), half)

        return _File(file, traced)

    def _name(self, call: str, path: Any) -> str:
        full = os.path.join(os.getcwd(), os.fsdecode(path))
        if not full.startswith(self._below):
            return f"{call} elsewhere"
        name = os.path.basename(full)
        kinds = {"checkpoint-": "checkpoint", "lease": "lease"}
        kind = next((kind for part, kind in kinds.items() if part in name), None)
        return f"{call} {kind or ('record' if '/records/' in full else 'other')}"

    # Faults

    def _at(self, point: str, action: Callable[[], Any], partly: Callable[[], Any] | None = None) -> Any:
        self._reached[point] += 1
        due = [fault for fault in self._faults if fault["point"] == point and fault["nth"] == self._reached[point]]
        for fault in due:
            if fault["when"] == "before":
                self._act(fault)
            elif fault["when"] == "within":
                if partly is not None:
                    partly()
                self._act(fault)
        result = action()
        for fault in due:
            if fault["when"] == "after":
                self._act(fault)
        return result

    def _act(self, fault: dict[str, Any]) -> None:
        if fault.get("delay"):
            timer = threading.Timer(fault["delay"], self._act, [{**fault, "delay": None}])
            timer.daemon = True
            timer.start()
            return
        act = fault["act"]
        self._note(f"fault {act} {fault['when']} {fault['point']}")
        if act == "fill":
            _fill(Path(self._below))
        elif act == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", self._below], check=True)
        elif act.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, act))
        else:
            code = getattr(errno, act)
            raise OSError(code, os.strerror(code))


class _File:
    """A file of which every write is a point."""

    def __init__(self, file: Any, write: Callable[[Any], Any]) -> None:
        self._file, self.write = file, write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()


class _AfterImport(importlib.abc.MetaPathFinder):
    """Patches a module as soon as it has been imported."""

    def __init__(self, patch: Callable[[Any], None]) -> None:
        self._patch = patch

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name not in PHASES and name != "rpg_bench.lease":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_patch(module: Any) -> None:
            execute(module)
            self._patch(module)

        spec.loader.exec_module = execute_and_patch  # type: ignore[method-assign]
        return spec


def _fill(folder: Path) -> None:
    """Leave no free block on the file system of `folder`."""
    with io.FileIO(folder / BALLAST, "a") as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


def _shift_clock(seconds: float) -> None:
    now, now_ns, gmtime, localtime = time.time, time.time_ns, time.gmtime, time.localtime
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + round(seconds * 1e9)
    time.gmtime = lambda at=None: gmtime(now() + seconds if at is None else at)  # type: ignore[misc]
    time.localtime = lambda at=None: localtime(now() + seconds if at is None else at)  # type: ignore[misc]
