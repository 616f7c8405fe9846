"""What a record must hold for tables to be made of it: a file that was changed by hand is named, not used."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_ABSENT = object()


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _percent(value: Any) -> bool:
    return _number(value) and value <= 100


def _mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _epochs(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(epoch, dict) and _percent(epoch.get("test_top1")) for epoch in value
    )


def _corruptions(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(row, list) and all(map(_percent, row)) for row in value.values())


def _commit(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and isinstance(value.get("dirty"), bool))


Check = Callable[[Any], bool]
# Of every record, and of a finished one besides.
EVERY: Mapping[str, tuple[Check, str]] = {
    "status": (lambda value: isinstance(value, str), "text"),
    "seed": (_whole, "whole number"),
    "config": (_mapping, "mapping"),
    "dof": (_mapping, "mapping"),
}
FINISHED: Mapping[str, tuple[Check, str]] = {
    "dof.dof": (_whole, "whole number"),
    "dof.total": (_whole, "whole number"),
    "dof.slot_scalars": (lambda value: _whole(value) and value > 0, "whole number above 0"),
    "history": (_epochs, "list of epochs with test_top1 in percent"),
    "final.test_top1": (_percent, "number of percent"),
    "train_seconds": (_number, "number of seconds"),
}
OPTIONAL: Mapping[str, tuple[Check, str]] = {
    "git": (_commit, "commit"),
    "git.commit": (lambda value: isinstance(value, str), "text"),
    "finished_at": (lambda value: isinstance(value, str), "text"),
    "hardware": (_mapping, "mapping"),
    "versions": (_mapping, "mapping"),
    "data": (_mapping, "mapping"),
    "generalisation": (_mapping, "mapping"),
    "generalisation.train_top1": (_percent, "number of percent"),
    "generalisation.corruptions": (_corruptions, "mapping of lists of percent"),
}


def problem(values: Mapping[str, Any]) -> str:
    """What is missing or of another kind than a run leaves it; empty if nothing is."""
    needed = {**EVERY, **(FINISHED if values.get("status") == "finished" else {})}
    lacking = [name for name in needed if _at(values, name) is _ABSENT]
    if lacking:
        return f"lacks {', '.join(lacking)}"
    for name, (check, kind) in {**needed, **OPTIONAL}.items():
        value = _at(values, name)
        if value is not _ABSENT and not check(value):
            return f"{name}: {_short(value)} is no {kind}"
    dof = values["dof"]
    if "private" in dof and dof["dof"] + dof["private"] != dof["total"]:
        return f"dof.total: {dof['total']} is not dof + private, {dof['dof'] + dof['private']}"
    return ""


def _at(values: Mapping[str, Any], name: str) -> Any:
    """The value of a dotted name; of nothing, and below what is no mapping, absent."""
    found: Any = values
    for key in name.split("."):
        if not isinstance(found, dict) or key not in found:
            return _ABSENT
        found = found[key]
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 or not isinstance(value, Sequence) else f"{text[:40]}..."
