"""The values of the Slurm preset, checked before anything is submitted. Each has a line in
`configs/hydra/launcher/slurm.yaml`; sbatch judges names (partition, account, ...), which only the cluster knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rpg_bench.errors import InvalidInput, unknown

# Whole numbers, with the least of each; None where it can be left to the cluster.
_LEAST = {
    "array_parallelism": 1,
    "timeout_min": 1,
    "signal_delay_s": 1,
    "max_num_timeout": 0,
    "nodes": 1,
    "tasks_per_node": 1,
    "gpus_per_node": 0,
    "cpus_per_task": 1,
}
_LEFT_OPEN = ("gpus_per_node", "cpus_per_task")
_TEXTS = ("setup", "srun_args")
_OTHERS = ("partition", "account", "qos", "constraint", "comment", "exclude", "name", "submitit_folder")


def check(params: Mapping[str, Any]) -> None:
    """See that every value of the preset is of its kind.

    Raises:
        InvalidInput: one is not, or there is no such key.
    """
    known = {*_LEAST, *_TEXTS, *_OTHERS, "mem_gb", "additional_parameters", "stderr_to_stdout"}
    for key, value in params.items():
        field = f"hydra.launcher.{key}"
        if key not in known:
            raise unknown(field, key, known)
        if key in _LEAST:
            if value is None and key in _LEFT_OPEN:
                continue
            if type(value) is not int or value < _LEAST[key]:
                open_too = " or null" if key in _LEFT_OPEN else ""
                raise InvalidInput(f"{field}: {value!r} is not allowed; a whole number from {_LEAST[key]}{open_too} is")
        elif key == "mem_gb":
            if value is not None and (type(value) not in (int, float) or value <= 0):
                raise InvalidInput(f"{field}: {value!r} is not allowed; a number of GB above 0 or null is")
        elif key in _TEXTS:
            if not isinstance(value, (list, type(None))) or not all(isinstance(text, str) for text in value or ()):
                raise InvalidInput(f"{field}: {value!r} is not allowed; a list of texts is, as [{value!r}]")
        elif key == "additional_parameters" and not isinstance(value, (Mapping, type(None))):
            raise InvalidInput(f"{field}: {value!r} is not allowed; options of sbatch are, as {{requeue: true}}")
        elif key == "stderr_to_stdout" and not isinstance(value, bool):
            raise InvalidInput(f"{field}: {value!r} is not allowed; true or false is")
