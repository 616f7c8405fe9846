"""What says that a run is finished: its record. Read without torch, as whoever asks may have nothing to train."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rpg_bench.config import EvaluationConfig, TrainConfig
from rpg_bench.corruption_names import chosen
from rpg_bench.errors import InvalidInput
from rpg_bench.runs import RunFiles

FORMAT = 1  # of records
GENERALISATION = "generalisation"  # the key of what was measured besides the test images


def finished_record(config: TrainConfig) -> dict[str, Any] | None:
    """The record of this very run, if it holds all that is asked for and `force` does not ask for another."""
    record = None if config.force else read_record(RunFiles.of(config).record)
    if record is None or record["status"] != "finished":
        return None
    if lacks_evaluation(record, config.evaluation):
        return None  # continued from its last checkpoint, where there is one
    return record


def lacks_evaluation(record: Mapping[str, Any], evaluation: EvaluationConfig) -> bool:
    """Whether the record of a finished run does not hold what is asked for."""
    held = record.get(GENERALISATION, {})
    names = chosen(evaluation.corruptions)
    if names and held.get("images_asked_for") != evaluation.corrupted_images:
        return True
    return (evaluation.train and "train_top1" not in held) or not set(names) <= set(held.get("corruptions", {}))


def read_record(path: Path) -> dict[str, Any] | None:
    """Read a record; None if there is none.

    Raises:
        InvalidInput: the file is no record of this format.
    """
    try:
        record: Any = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):  # the latter is a mistake in results_dir, reported later
        return None
    except (OSError, ValueError) as error:
        raise InvalidInput(f"results_dir: {path} is not a readable record ({error}); move it away") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT or "status" not in record:
        raise InvalidInput(f"results_dir: {path} is not a record of format {FORMAT}; move it away")
    if record["status"] == "finished" and "test_top1" not in record.get("final", {}):
        raise InvalidInput(f"results_dir: {path} is finished and has no result; move it away")
    return record
