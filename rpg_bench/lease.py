"""The right to train one run, held by one process at a time, of any number of machines that share the folder.

A lease is a file beside the checkpoints. It is made by a hard link, which fails where there is one already, on NFS too;
it says who holds it, and its owner touches it every few seconds. What an owner left that died is taken over: at once
on the same machine, from elsewhere once the file was not touched for two minutes. Clocks of different machines are
never compared: both times are the file system's, and before a lease is taken from afar it is watched for a while.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import tempfile
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from rpg_bench.errors import Failed, InvalidInput

NAME = "lease.json"
RENEWED = 10.0  # seconds between two touches
EXPIRED = 120.0  # seconds without one, after which an owner elsewhere is taken for dead
WATCHED = 2.5 * RENEWED  # seconds in which a living one would touch it


class Held(Failed):
    """Another process trains the run."""

    def __init__(self, path: Path, owner: Owner) -> None:
        super().__init__(f"run {path.parent.name} is being trained by process {owner.pid} on {owner.host}")
        self.path = path


class Lost(Failed):
    """Another process has taken the run over, because this one did not move for long."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lease."""

    host: str
    place: str  # the set of processes that `pid` belongs to
    pid: int
    started: str  # tells the process from a later one of the same number
    token: str

    @classmethod
    def this(cls) -> Owner:
        """This process, with a token of its own each time."""
        pid = os.getpid()
        return cls(platform.node(), _place(), pid, _started(pid) or "", uuid.uuid4().hex)

    @property
    def is_gone(self) -> bool | None:
        """Whether the process has ended; None where that cannot be seen from here."""
        if self.place != _place():
            return None
        started = _started(self.pid)
        return started is None or started != self.started


class Lease:
    """Held within the `with` block; `lost` once another process took it over.

    patience: seconds to wait for an owner of whom it is not known whether it is dead.

    Raises:
        Held: on entering, another process has it.
        InvalidInput: on entering, the folder cannot be written to.
    """

    def __init__(self, directory: Path, patience: float = 0.0) -> None:
        self.path = directory / NAME
        self.lost = False
        self._patience = patience
        self._owner = Owner.this()
        self._stop = threading.Event()
        self._renewal = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        until = time.monotonic() + self._patience
        try:
            while not _create(self.path, self._owner):
                holder = read_owner(self.path)
                if holder is not None and not _is_dead(self.path, holder):
                    if time.monotonic() >= until:
                        raise Held(self.path, holder)
                    time.sleep(1.0)
                elif holder is not None:
                    _remove(self.path, holder)
        except OSError as error:
            raise InvalidInput(f"runs_dir: cannot write to {self.path.parent}: {error.strerror}") from None
        self._renewal.start()
        _tidy(self.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._renewal.join()
        with contextlib.suppress(OSError):  # read-only by now: it is a dead owner's soon
            if not self.lost and read_owner(self.path) == self._owner:
                self.path.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._stop.wait(RENEWED):
            try:
                if read_owner(self.path) != self._owner:
                    self.lost = True
                    return
                os.utime(self.path)  # without a time: the file system's own
            except OSError:
                continue  # a file system that is away for a moment


def holder_of(directory: Path) -> Owner | None:
    """Who trains the run whose directory this is; None if nobody does, or the one who did is dead for all that is
    known at once."""
    path = directory / NAME
    try:
        holder = read_owner(path)
    except OSError:  # a mistake in runs_dir, which is reported when the run begins
        return None
    if holder is None:
        return None
    gone = holder.is_gone
    return None if gone or (gone is None and _expired(path)) else holder


def _create(path: Path, owner: Owner) -> bool:
    """Make the file whole, unless there is one."""
    aside = path.with_name(f".{NAME}.{owner.token}")
    try:
        aside.write_text(json.dumps(asdict(owner)) + "\n")
        try:
            os.link(aside, path)
        except FileExistsError:
            return read_owner(path) == owner  # NFS asks again where its first answer was lost
        except OSError:  # no hard links here
            return _create_exclusively(path, aside.read_bytes()) or read_owner(path) == owner
        return True
    finally:
        aside.unlink(missing_ok=True)


def _create_exclusively(path: Path, content: bytes) -> bool:
    try:
        with open(path, "xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def read_owner(path: Path) -> Owner | None:
    """The owner that the file names; nobody that is known, if it is damaged; None without a file.

    Raises:
        OSError: it cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return Owner(**json.loads(content))
    except (ValueError, TypeError):
        return Owner("an unknown machine", "", 0, "", "")


def _is_dead(path: Path, holder: Owner) -> bool:
    gone = holder.is_gone
    if gone is not None:
        return gone
    return _expired(path) and not _moves(path)


def _expired(path: Path) -> bool:
    """Whether the file was not touched for long. A time in the future is an old one of a clock that was set back."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".clock-") as probe:
            now = os.stat(probe.name).st_mtime
        return abs(now - path.stat().st_mtime) > EXPIRED
    except OSError:
        return False


def _moves(path: Path) -> bool:
    """Whether anybody touches the file, or puts another in its place, while it is watched."""

    def touched() -> tuple[int, int] | None:
        try:
            state = path.stat()
        except OSError:
            return None
        return state.st_ino, state.st_mtime_ns

    before = touched()
    time.sleep(WATCHED)
    return touched() != before


def _remove(path: Path, holder: Owner) -> None:
    """Take away the lease of a dead owner. One process at a time may: a second one, late, would take the lease that
    the first has made since."""
    guard = path.with_name(f".{NAME}.{holder.token}.dead")
    if _create(guard, Owner.this()):
        try:
            if read_owner(path) == holder:
                path.unlink(missing_ok=True)
        finally:
            guard.unlink(missing_ok=True)
        return
    other = read_owner(guard)
    if other is not None and _is_dead(guard, other):
        guard.unlink(missing_ok=True)
    else:
        time.sleep(0.01)


def _tidy(path: Path) -> None:
    """Take away what processes left that were killed while they made or removed a lease."""
    for aside in path.parent.glob(f".{path.name}.*"):
        with contextlib.suppress(OSError):
            owner = read_owner(aside)
            if owner is not None and (owner.is_gone or _expired(aside)):
                aside.unlink(missing_ok=True)
    for probe in path.parent.glob(".clock-*"):
        with contextlib.suppress(OSError):
            if _expired(probe):
                probe.unlink(missing_ok=True)


def _place() -> str:
    """The machine, its start, and the container."""
    parts = [platform.node()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        pass
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """When the process of this number began, in ticks that no clock moves; None if there is none that runs."""
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except OSError:
            pass
        return "unknown"
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
