"""Where the files of a data set may lie below `dataset.root`."""

from __future__ import annotations

import os
from pathlib import Path

from rpg_bench.config import DatasetConfig
from rpg_bench.errors import InvalidInput

ADVICE = "set dataset.root (or the environment variable RPG_BENCH_DATA) to the folder that holds the files"


def readable_root(dataset: DatasetConfig) -> Path:
    """Return `dataset.root`; raises InvalidInput where it is not a folder that can be listed."""
    root = Path(dataset.root).expanduser()
    try:
        with os.scandir(root):
            return root
    except FileNotFoundError:
        problem = "does not exist"
    except NotADirectoryError:
        problem = "is not a folder"
    except (OSError, ValueError) as error:
        problem = f"cannot be read ({getattr(error, 'strerror', None) or error})"
    raise InvalidInput(f"dataset.root: {dataset.root!r} {problem}; {ADVICE}")


def existing_folders(root: Path, *below: str) -> list[Path]:
    """Return the folders among root/<below>, in order."""
    return [folder for folder in (root / name for name in below) if folder.is_dir()]
