"""What Slurm jobs leave below `runs_dir/slurm`: logs, and the pickles through which submitit starts a run again."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

from rpg_bench import slurm

FOLDER = "slurm"  # below runs_dir, as configs/hydra/launcher/slurm.yaml has it
_JOB = re.compile(r"(\d+)(_\d+)?")
_OLD = 3600.0  # seconds after which nobody is submitting any more


def removable(runs: Path, days: float) -> Iterator[tuple[Path, str]]:
    """What can go, and why: of jobs that are not in the queue, and have left nothing new for days.

    Nothing of jobs, where Slurm does not say which are in its queue.
    """
    folder = runs / FOLDER
    if not folder.is_dir():
        return
    old = {
        path: found[1]
        for path in folder.iterdir()
        if (found := _JOB.fullmatch(path.name)) and _age(path) > days * 86400
    }
    queue = slurm.queued(path.name for path in old) if old else {}
    if queue is not None:
        waiting = {job.partition("_")[0] for job in queue}
        ended = sorted(path for path, number in old.items() if number not in waiting)
        for path in ended:
            yield path, f"of a Slurm job that ended more than {days:g} days ago"
        for link in sorted(folder.glob(".submission_file_*.sh")):
            if link.is_symlink() and (not link.exists() or link.resolve().parent in [path.resolve() for path in ended]):
                yield link, "a link to what such a job left"
    for path in sorted(folder.glob("*.pkl")):
        if _age(path) > _OLD:
            yield path, "of a job that was never submitted"


def _age(path: Path) -> float:
    """Seconds since anything in it was changed; 0 where that cannot be seen."""
    try:
        inside = list(path.iterdir()) if path.is_dir() else []
        return time.time() - max(one.lstat().st_mtime for one in (path, *inside))
    except OSError:
        return 0.0
