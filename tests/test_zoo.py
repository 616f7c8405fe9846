"""Networks that come with the package: found by name, made of records, and small."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runner import ROOT

from rpg_bench import InvalidInput, load, zoo
from rpg_bench.compact.settings import Settings, compression_hash
from rpg_bench.predict import predict

SHIPPED = sorted((ROOT / "results" / "models").glob("*.safetensors"))


def test_names_and_files_are_found() -> None:
    assert zoo.models_directory() == ROOT / "results" / "models"
    assert zoo.names() == sorted(path.stem for path in SHIPPED)
    assert set(zoo.names()) <= {entry.name for entry in zoo.ENTRIES}
    Path("file.safetensors").write_bytes(b"")
    assert zoo.find("file.safetensors") == Path("file.safetensors")
    with pytest.raises(InvalidInput, match=r"model: unknown 'resnet'"):
        zoo.find("resnet")


def test_the_zoo_is_small() -> None:
    sizes = [path.stat().st_size for path in SHIPPED]
    assert all(size <= 1_500_000 for size in sizes)
    assert sum(sizes) <= 8_000_000


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_network_is_that_of_its_records(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (entry,) = [entry for entry in zoo.ENTRIES if entry.name == path.stem]
    model = load(path)
    run = model.recipe.run
    name = compression_hash(run, Settings(bits=entry.bits))
    record = json.loads((ROOT / "results" / "compressions" / f"{name}.json").read_text())
    parent = json.loads((ROOT / "results" / "records" / f"{run}.json").read_text())
    assert hashlib.sha256(path.read_bytes()).hexdigest() == record["sha256"]
    assert not record["git"]["dirty"]
    assert path.with_suffix(".md").read_text() == zoo.card(entry.name, record, parent)
    Image.fromarray(np.full((50, 40, 3), 128, np.uint8)).save("grey.png")
    predict([f"model={path.stem}", "input=grey.png", "topk=2"])
    assert capsys.readouterr().out.startswith(f"{path.stem}: ")


def test_every_entry_is_a_case_of_the_experiment() -> None:
    from rpg_bench.report.experiments import read_experiment

    for entry in zoo.ENTRIES:
        assert entry.case in [" ".join(case.overrides) for case in read_experiment(entry.experiment)]


def test_what_is_missing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    zoo.build(["runs_dir=nowhere", "results_dir=nothing"])
    printed = capsys.readouterr().out
    for entry in zoo.ENTRIES:
        assert f"{entry.name}: no record of run " in printed
    assert "0 networks, 0 bytes" in printed
