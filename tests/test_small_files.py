"""The tables of compressed networks, and the two claims that they decide."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from runner import ROOT

from rpg_bench.compact.settings import Settings, compression_hash
from rpg_bench.report import claims, small_files
from rpg_bench.report.compressions import read_compressions
from rpg_bench.report.experiments import read_experiment
from rpg_bench.report.records import Records, read_records
from rpg_bench.runs import run_hash

RUN = "99ff36fc5d20"  # a ring of 36,000


def a_record(parent: dict[str, Any], top1: float, **settings: Any) -> dict[str, Any]:
    done = Settings(**settings)
    return {
        "format": 1,
        "kind": "compression",
        "hash": compression_hash(parent["hash"], done),
        "parent": parent["hash"],
        "settings": vars(done).copy(),
        "size": {"bytes": 1000 * done.bits, "zstd_bytes": 900 * done.bits, "bits_per_weight": 0.1, "dof_bits": 12345},
        "final": {"top1": top1},
        "parent_top1": parent["final"]["test_top1"],
        "git": {"commit": "0" * 40, "dirty": False},
    }


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A ring's runs of two seeds, and two files of each: at 8 bits, and at 8 bits with half of the entries."""
    (tmp_path / "records").mkdir()
    (tmp_path / "compressions").mkdir()
    original = json.loads((ROOT / "results" / "records" / f"{RUN}.json").read_text())
    from dataclasses import replace

    (case,) = [c for c in read_experiment("small_files") if c.overrides == ("sharing=rpg_global", "dof=36k")]
    for seed, pruned in ((0, 30.0), (1, 31.0)):
        run = copy.deepcopy(original)
        run["seed"] = run["config"]["seed"] = seed
        run["hash"] = run_hash(replace(case.config, seed=seed))
        (tmp_path / "records" / f"{run['hash']}.json").write_text(json.dumps(run))
        for made in (a_record(run, 34.3 + seed / 10, bits=8), a_record(run, pruned, bits=8, prune=0.5)):
            (tmp_path / "compressions" / f"{made['hash']}.json").write_text(json.dumps(made))
    return tmp_path


def test_the_experiments_runs_are_those_that_are_recorded() -> None:
    cases = {" ".join(case.overrides): run_hash(case.config) for case in read_experiment("small_files")}
    assert cases["sharing=rpg_global dof=36k"] == RUN
    assert cases["sharing=none"] == "c83c188edb73"


def test_a_row_for_each_file_with_the_mean_over_seeds(results: Path) -> None:
    page = small_files.make(read_records(results))
    (table,) = [table for table in page.tables if table.name == "files"]
    counts, sizes = ["36,000", "98,628", "8"], ["8,000", "7,200", "0.100", "12,345"]
    assert [[str(cell) for cell in row] for row in table.rows] == [
        ["resnet18 `rpg_global`, cpu-2", *counts, "0%", "", "bf16", "34.35 ± 0.07 (2)", "-0.06 ± 0.07 (2)", *sizes],
        ["resnet18 `rpg_global`, cpu-2", *counts, "50%", "", "bf16", "30.50 ± 0.71 (2)", "-3.91 ± 0.71 (2)", *sizes],
    ]
    assert page.plots


def test_the_claim_on_pruning_is_decided_by_what_each_run_loses(results: Path) -> None:
    (claim,) = [claim for claim in claims.CLAIMS if claim.published == "rpg-prune-quantize"]
    records = read_records(results)
    found = claim.test(records)
    assert "0% pruned: -0.06" in found.measured
    assert found.verdict == claims.FEW  # the interval over two seeds is wide
    assert claim.test(Records(records.found, (), ())).verdict == claims.NOT_RUN
    lost = small_files.losses(records, bits=8, prune=0.5)
    assert lost == {"resnet18 `rpg_global` 36,000": [pytest.approx(-4.41), pytest.approx(-3.41)]}


def test_a_run_that_was_trained_again_does_not_change_what_its_files_lost(results: Path) -> None:
    lost = small_files.losses(read_records(results), bits=8, prune=0.5)
    for path in (results / "records").glob("*.json"):
        run = json.loads(path.read_text())
        for of_the_end in (run["final"], run["history"][-1]):
            of_the_end["test_top1"] -= 1
        path.write_text(json.dumps(run))
    assert small_files.losses(read_records(results), bits=8, prune=0.5) == lost


@pytest.mark.parametrize(("ratio", "verdict"), [(1.01, claims.HOLDS), (1.2, claims.FAILS), (None, claims.NOT_RUN)])
def test_the_claim_on_compute_is_decided_by_the_measured_ratio(
    results: Path, ratio: float | None, verdict: str
) -> None:
    (claim,) = [claim for claim in claims.CLAIMS if claim.published == "lors-compute"]
    if ratio is not None:
        (results / "benchmarks").mkdir()
        figures = [{"name": small_files.LORS_RATIO, "value": ratio}]
        (results / "benchmarks" / "deployed.json").write_text(json.dumps({"figures": figures}))
    assert claim.test(read_records(results)).verdict == verdict


def test_what_is_no_evidence_is_left_out(results: Path) -> None:
    folder = results / "compressions"
    path = sorted(folder.glob("*.json"))[0]
    good = json.loads(path.read_text())
    runs = read_records(results).found
    before = len(read_compressions(results, runs)[0])
    for change, reason in (
        ({"git": {"commit": "x", "dirty": True}}, "not made from a clean commit"),
        ({"git": None}, "not made from a clean commit"),
        ({"settings": {**good["settings"], "bits": 4}}, "its settings are not those of its hash"),
        ({"settings": {"bit": 4}}, "is no record of a compression"),
        ({"parent": "abc"}, "is not recorded"),
        ({"final": {}}, "is not recorded"),
        ({"format": 2}, "its settings are not those of its hash"),
    ):
        path.write_text(json.dumps({**good, **change}))
        found, left_out = read_compressions(results, runs)
        assert len(found) == before - 1
        assert reason in left_out[0]
    path.write_text("{")
    assert "is no record" in read_compressions(results, runs)[1][0]
