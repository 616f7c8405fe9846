"""The record of a compression: which run it was made of, what was done, how large the file is, what it is worth.

`results/compressions/HASH.json`, one for each file that was measured; HASH covers the run's hash and what was done.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpg_bench.compact.settings import Settings, compression_hash

if TYPE_CHECKING:
    from rpg_bench.compact.write import Compact
    from rpg_bench.metrics import Metrics
    from rpg_bench.sharing import DofReport

FORMAT = 1
FOLDER = "compressions"
ZSTD_LEVEL = 19


def record_path(results_dir: str, name: str) -> Path:
    """Where the record of that hash lies."""
    return Path(results_dir) / FOLDER / f"{name}.json"


def entropy_coded(content: bytes) -> int:
    """Bytes of a file after zstd."""
    import pyarrow

    return len(pyarrow.Codec("zstd", compression_level=ZSTD_LEVEL).compress(content, asbytes=True))


def make_record(
    parent: Mapping[str, Any],
    settings: Settings,
    file: Compact,
    metrics: Metrics,
    report: DofReport,
    seconds: float,
) -> dict[str, Any]:
    """Everything that a table needs, and what it takes to do it again."""
    from rpg_bench.records import provenance

    free = file.sizes["free"]
    return {
        "format": FORMAT,
        "kind": "compression",
        "hash": compression_hash(parent["hash"], settings),
        "status": "finished",
        "parent": parent["hash"],
        "seed": parent["seed"],
        "settings": dataclasses.asdict(settings),
        "backbone": parent["config"]["backbone"]["name"],
        "recipe": parent["config"]["recipe"]["name"],
        # In which it was evaluated.
        "precision": "int8" if settings.activations == 8 else parent["config"]["recipe"]["precision"],
        "dof": report.to_dict(),
        "data": parent["data"],
        "size": {
            "bytes": len(file.content),
            "bits_per_weight": round(8 * len(file.content) / report.dense, 4),
            "zstd_bytes": entropy_coded(file.content),
            "zstd_level": ZSTD_LEVEL,
            "dof_bits": free.total,  # numbers x width + scales + masks
            "parts": {part: size.to_dict() for part, size in file.sizes.items() if size.total},
        },
        "sha256": hashlib.sha256(file.content).hexdigest(),
        "final": metrics.to_dict(),
        "parent_top1": parent["final"]["test_top1"],
        "seconds": round(seconds, 1),
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **provenance(),
    }
