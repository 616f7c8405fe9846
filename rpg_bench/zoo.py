"""Trained networks that come with the package, by name."""

from __future__ import annotations

from pathlib import Path

from rpg_bench.errors import unknown


def models_directory() -> Path:
    """Where their files lie: in the wheel inside the package, in a checkout in `results/models`."""
    package = Path(__file__).resolve().parent
    inside = package / "models"
    return inside if inside.is_dir() else package.parent / "results" / "models"


def names() -> list[str]:
    """What `find` knows."""
    return sorted(path.stem for path in models_directory().glob("*.safetensors"))


def find(model: str) -> Path:
    """The compact file of that path, or of that name.

    Raises:
        InvalidInput: there is neither such a file nor such a name.
    """
    path = Path(model)
    if path.is_file():
        return path
    if model not in names():
        raise unknown("model", model, names())
    return models_directory() / f"{model}.safetensors"
