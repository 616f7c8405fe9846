"""The records of compressed networks, and the times of deployed ones: what the tables of small files are made of."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpg_bench.compact.settings import Settings, compression_hash

if TYPE_CHECKING:
    from rpg_bench.report.records import Record

FORMAT = 1
FOLDER = "compressions"


@dataclass(frozen=True)
class Compression:
    """One file that was made of a recorded run by clean code, and measured."""

    values: dict[str, Any]
    settings: Settings
    parent: Record

    @property
    def top1(self) -> float:
        """Of what is read back from the file, percent of the test images."""
        return float(self.values["final"]["top1"])

    @property
    def lost(self) -> float:
        """Points of top-1 against its own run, as it was when the file was made; negative where it is worse.

        That run's record may have been replaced since: the same run again, on another machine, ends elsewhere.
        """
        return self.top1 - float(self.values["parent_top1"])

    @property
    def bytes(self) -> int:
        return int(self.values["size"]["bytes"])

    @property
    def zstd_bytes(self) -> int:
        """After zstd, at the level that the record states."""
        return int(self.values["size"]["zstd_bytes"])

    @property
    def bits_per_weight(self) -> float:
        """Of the dense network."""
        return float(self.values["size"]["bits_per_weight"])

    @property
    def dof_bits(self) -> int:
        """Free numbers that are stored x their width, and their scales and masks."""
        return int(self.values["size"]["dof_bits"])


def read_compressions(results: Path, runs: Mapping[str, Record]) -> tuple[tuple[Compression, ...], tuple[str, ...]]:
    """Those of these runs, in the order of their files' names; and a line for each file that is no evidence."""
    found: list[Compression] = []
    left_out: list[str] = []
    for path in sorted((results / FOLDER).glob("*.json")):
        try:
            values = json.loads(path.read_bytes())
            settings = Settings(**values["settings"])
            made = compression_hash(values["parent"], settings)
            compression = Compression(values, settings, runs[values["parent"]])
            _ = (compression.lost, compression.bytes, compression.zstd_bytes, compression.dof_bits)
        except KeyError as error:
            left_out.append(f"{FOLDER}/{path.name}: {error} is not recorded")
            continue
        except (OSError, TypeError, ValueError) as error:
            left_out.append(f"{FOLDER}/{path.name}: is no record of a compression ({' '.join(str(error).split())})")
            continue
        if values.get("format") != FORMAT or made != values.get("hash") or made != path.stem:
            left_out.append(f"{FOLDER}/{path.name}: its settings are not those of its hash")
        elif (values.get("git") or {"dirty": True})["dirty"]:
            left_out.append(f"{FOLDER}/{path.name}: not made from a clean commit")
        else:
            found.append(compression)
    return tuple(found), tuple(left_out)


def read_deployed(results: Path) -> dict[str, float]:
    """The ratios that `python -m rpg_bench.benchmarks deployed` found, by name; none, where it was not run."""
    try:
        values = json.loads((results / "benchmarks" / "deployed.json").read_bytes())
        return {figure["name"]: float(figure["value"]) for figure in values["figures"]}
    except (OSError, KeyError, TypeError, ValueError):
        return {}


def described(settings: Settings) -> str:
    """What was done to the numbers beyond bits and pruning."""
    changed = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(Settings)
        if field.name not in ("bits", "prune") and getattr(settings, field.name) != field.default
    }
    words = []
    if settings.tune:
        rounds = f"{settings.rounds} rounds of " if settings.rounds > 1 else ""
        share = f" of {settings.tune_images:.0%}" if settings.tune_images < 1 else ""
        words.append(f"{rounds}{settings.tune} epochs{share}")
    words += [f"{name} {value}" for name, value in changed.items() if name in ("block", "calibrate", "tune_rate")]
    return ", ".join(words)
