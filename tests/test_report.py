"""Tables are made of records alone, the same every time, and say what is missing."""

from __future__ import annotations

import dataclasses
import json
import shlex
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from runner import ROOT

from rpg_bench import InvalidInput
from rpg_bench.config import SharingConfig
from rpg_bench.corruption_names import CORRUPTIONS
from rpg_bench.report.cases import DEFAULT_RANKS
from rpg_bench.report.claims import CLAIMS, UNTESTED
from rpg_bench.report.command import PAGES, main, make_tables
from rpg_bench.report.csv_table import csv_table
from rpg_bench.report.effects import effect
from rpg_bench.report.experiments import PLAIN_GROUPS, Case, read_experiment, read_runs, recorded, under
from rpg_bench.report.fit import log_linear_fit
from rpg_bench.report.latex import latex
from rpg_bench.report.learning_rates import at_rate
from rpg_bench.report.page import Measured, Table
from rpg_bench.report.published import published
from rpg_bench.report.readme import TABLES, refreshed
from rpg_bench.report.records import read_records
from rpg_bench.runs import run_hash

TABLE = Path("results/tables/schemes_digits.md")


@pytest.fixture(scope="module")
def cases() -> Sequence[Case]:
    return read_experiment("schemes_digits")


@pytest.fixture(autouse=True)
def _folder() -> None:
    Path("results/records").mkdir(parents=True)


def case_of(cases: Sequence[Case], scheme: str, dof: object, backbone: str = "resnet18") -> Case:
    (found,) = [
        case
        for case in cases
        if (case.config.sharing.name, case.config.dof, case.config.backbone.name) == (scheme, dof, backbone)
    ]
    return found


def write(case: Case, seed: int = 0, top1: float = 97.5, **changes: Any) -> Path:
    """A record of a case, as a finished run leaves it."""
    config = dataclasses.replace(case.config, seed=seed)
    name = run_hash(config)
    record = {
        "format": 1,
        "hash": name,
        "status": "finished",
        "sweep": "another",
        "seed": seed,
        "config": dataclasses.asdict(config),
        "dof": {"dof": 36000, "total": 51306, "slot_scalars": 11157504},
        "final": {"test_top1": top1},
        "history": [{"test_top1": top1}] * config.recipe.epochs,
        "train_seconds": 600.0,
        "hardware": {"threads": 1},
        "git": {"commit": "0" * 40, "dirty": False},
        **changes,
    }
    path = Path("results/records") / f"{name}.json"
    path.write_text(json.dumps(record))
    return path


def row(scheme: str, section: str) -> list[str]:
    """Cells of a scheme's row in the section of that title."""
    (part,) = [part for part in TABLE.read_text().split("\n## ") if part.startswith(section)]
    (line,) = [line for line in part.splitlines() if line.startswith(f"| `{scheme}`")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def everything_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_case_has_a_row_and_what_is_missing_says_so(cases: Sequence[Case]) -> None:
    make_tables(["schemes_digits"], Path("results"))
    assert TABLE.read_text().count("| missing |") == len(cases)


def test_the_experiment_has_every_scheme(cases: Sequence[Case]) -> None:
    from rpg_bench.sharing import SCHEMES

    assert {case.config.sharing.name for case in cases} == set(SCHEMES)
    assert len({run_hash(case.config) for case in cases}) == len(cases)


@pytest.mark.parametrize(
    "name",
    [*(name for name in PAGES if name not in ("claims", "schemes_digits")), "rpg_lors_search"],
)
def test_the_cases_of_an_experiment_are_different_runs_of_one_recipe(name: str) -> None:
    cases = read_experiment(name)
    assert len({run_hash(case.config) for case in cases}) == len(cases)
    assert {case.config.sweep for case in cases} == {name}
    assert len({case.config.recipe.epochs for case in cases}) == 1


def test_every_candidate_for_the_recipe_is_tried_on_the_same_schemes() -> None:
    cases = read_experiment("cpu_recipe_search")
    assert len({run_hash(case.config) for case in cases}) == len(cases)
    tried = Counter(run_hash(dataclasses.replace(case.config, sharing=SharingConfig(), dof=None)) for case in cases)
    assert {case.config.dataset.validation for case in cases} == {0.1}
    assert set(tried.values()) == {2}


def test_every_scheme_is_given_the_same_search_for_a_learning_rate() -> None:
    schemes = {case.overrides for case in read_experiment("learning_rates")}
    rivals = [case for case in read_experiment("against_rivals") if case.config.dof in (36_000, None)]
    assert schemes == {case.overrides for case in rivals}
    runs = read_runs("learning_rates")
    assert {case.config.dataset.validation for case in runs} == {0.1}
    tried = Counter(case.config.optimizer.lr for case in runs)
    assert set(tried) == {0.03, 0.1, 0.3}
    assert set(tried.values()) == {len(schemes)}
    assert len({run_hash(case.config) for case in runs}) == len(runs)


def test_the_best_rate_is_chosen_on_the_validation_split_and_its_run_is_asked_for() -> None:
    def tried(rate: float) -> Case:
        (found,) = [
            case
            for case in read_runs("learning_rates")
            if {"sharing=snip", "dof=36k"} < set(case.overrides) and case.config.optimizer.lr == rate
        ]
        return found

    def cells() -> list[str]:
        make_tables(["learning_rates"], Path("results"))
        (line,) = [line for line in page.read_text().splitlines() if line.startswith("| `snip`")]
        return [cell.strip() for cell in line.strip("|").split("|")]

    page = Path("results/tables/learning_rates.md")
    (rival,) = [case for case in read_experiment("against_rivals") if case.overrides == ("sharing=snip", "dof=36k")]
    write(rival, top1=40.0)
    write(tried(0.1), top1=20.0)
    write(tried(0.3), top1=25.0)
    assert cells()[2:] == ["missing", "20.00 (1)", "25.00 (1)", "missing", "40.00 (1)", "missing"]
    assert "```" not in page.read_text()
    write(tried(0.03), top1=10.0)
    assert cells()[2:] == ["10.00 (1)", "20.00 (1)", "25.00 (1)", "0.3", "40.00 (1)", "missing"]
    (command,) = [line for line in page.read_text().splitlines() if line.startswith("python")]
    assert "+experiment=against_rivals seed=0" in command
    again = at_rate(rival, 0.3)
    assert list(again.overrides) == json.loads(shlex.split(command)[-1].partition("=")[2])[0]
    write(again, top1=44.0)
    assert cells()[-3:] == ["0.3", "40.00 (1)", "44.00 (1)"]
    assert "```" not in page.read_text()


def test_what_was_tried_and_what_was_measured_are_told_apart() -> None:
    write(read_experiment("rpg_lors")[1], top1=30.0)
    write(read_experiment("rpg_lors_search")[1], top1=20.0)
    make_tables(["rpg_lors"], Path("results"))
    measured, tried = Path("results/tables/rpg_lors.md").read_text().split("## What was tried")
    assert "30.00 (1)" in measured
    assert "20.00" not in measured
    assert "20.00 (1)" in tried
    assert "30.00" not in tried


def test_a_cell_is_mean_spread_and_number_of_runs(cases: Sequence[Case]) -> None:
    case = case_of(cases, "rpg_global", 36000)
    for seed, top1 in enumerate((96.0, 97.0, 98.0)):
        write(case, seed, top1)
    write(case_of(cases, "hashed", 36000), seed=7, top1=95.0)
    make_tables(["schemes_digits"], Path("results"))
    assert row("rpg_global", "ResNet18 at 36,000") == [
        "`rpg_global`",
        "36,000",
        "36,000",
        "0.32%",
        "51,306",
        "97.00 ± 1.00 (3)",
    ]
    assert row("hashed", "ResNet18 at 36,000")[-1] == "95.00 (1)"
    assert row("rpg_global", "ResNet18 at 10% of D")[-1] == "missing"


def test_the_same_records_make_the_same_bytes(cases: Sequence[Case]) -> None:
    write(case_of(cases, "snip", "10%"))
    write(read_experiment("accuracy_vs_dof")[0])
    make_tables([], Path("results"))
    first = everything_below(Path("results"))
    assert {path.suffix for path in first} == {".json", ".md", ".csv", ".tex", ".pdf", ".png", ".html"}
    assert Path("results/README.md") in first
    make_tables([], Path("results"))
    assert everything_below(Path("results")) == first


def test_a_run_of_another_recipe_is_not_taken(cases: Sequence[Case]) -> None:
    case = case_of(cases, "rpg_global", 36000)
    recipe = dataclasses.replace(case.config.recipe, epochs=50)
    write(Case(case.overrides, dataclasses.replace(case.config, recipe=recipe)))
    make_tables(["schemes_digits"], Path("results"))
    assert row("rpg_global", "ResNet18 at 36,000")[-1] == "missing"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"git": {"commit": "0" * 40, "dirty": True}}, "not made from a clean commit"),
        ({"git": None}, "not made from a clean commit"),
        ({"status": "failed", "final": {}}, "the run failed"),
    ],
)
def test_what_is_no_evidence_is_left_out(cases: Sequence[Case], changes: dict[str, Any], named: str) -> None:
    write(case_of(cases, "rpg_global", 36000), **changes)
    records = read_records(Path("results"))
    assert not records.found
    assert named in records.left_out[0]
    assert not records.damaged


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 0}', '{"format": 1}', "\x00"])
def test_a_damaged_record_is_named_and_left_out(
    cases: Sequence[Case], content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(case_of(cases, "rpg_global", 36000))
    path.write_text(content)
    main(["schemes_digits"])
    assert f"left out: {path.name}" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        main(["schemes_digits", "--strict"])
    assert left.value.code == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"final": {"test_top1": 99.0}}, "its final top-1 is not that of its last epoch, 97.5"),
        ({"seed": 5}, "its configuration is not that of its hash"),
        ({"history": []}, "is not as a run leaves it"),
        ({"config": {}}, "is not as a run leaves it"),
        ({"history": [{"test_top1": 97.5}] * 3}, "its history has 3 of 5 epochs"),
        ({"git": 7}, "git: 7 is no commit"),
        ({"train_seconds": None}, "train_seconds: None is no number of seconds"),
        ({"hardware": None}, "hardware: None is no mapping"),
        ({"final": {"test_top1": "much"}}, "final.test_top1: 'much' is no number of percent"),
        ({"final": {"test_top1": 101}}, "final.test_top1: 101 is no number of percent"),
        ({"final": 3}, "lacks final.test_top1"),
        ({"history": [{"test_top1": None}]}, "history: [{'test_top1': None}] is no list of epochs"),
        ({"dof": {"dof": None, "total": 1, "slot_scalars": 1}}, "dof.dof: None is no whole number"),
        ({"dof": {"dof": 9, "private": 1, "total": 9, "slot_scalars": 9}}, "dof.total: 9 is not dof + private, 10"),
        ({"seed": "x"}, "seed: 'x' is no whole number"),
        ({"status": ["finished"]}, "status: ['finished'] is no text"),
        ({"generalisation": {"corruptions": {"fog": 3}}}, "generalisation.corruptions: {'fog': 3} is no mapping"),
        ({"format": 0}, "is a record of format 0; this version reads format 1"),
    ],
)
def test_a_record_that_was_edited_by_hand_is_named(cases: Sequence[Case], change: dict[str, Any], named: str) -> None:
    path = write(case_of(cases, "rpg_global", 36000))
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    records = read_records(Path("results"))
    assert not records.found
    assert len(records.damaged) == 1
    assert records.damaged[0].startswith(f"{path.name}: {named}")


def test_a_record_of_another_configuration_than_its_name_is_named(cases: Sequence[Case]) -> None:
    path = write(case_of(cases, "rpg_global", 36000))
    values = json.loads(path.read_text())
    values["config"]["optimizer"]["lr"] = 0.2
    path.write_text(json.dumps(values))
    assert "its configuration is not that of its hash" in read_records(Path("results")).damaged[0]


def test_of_two_records_of_one_run_the_newest_counts(cases: Sequence[Case]) -> None:
    case = case_of(cases, "rpg_global", 36000)
    old = write(case, top1=90.0, finished_at="2026-01-01T00:00:00Z")
    old.rename(old.with_name(f"{old.stem}-elsewhere.json"))
    write(case, top1=91.0, finished_at="2026-01-02T00:00:00Z")
    records = read_records(Path("results"))
    assert [record.top1 for record in records.found.values()] == [91.0]
    assert records.left_out == (f"{old.stem}-elsewhere.json: {old.name} is of the same run and finished later",)
    assert not records.damaged


def test_every_record_of_the_project_is_evidence() -> None:
    records = read_records(ROOT / "results")
    assert len(records.found) > 50
    assert not records.damaged
    assert not records.left_out


def test_a_record_under_another_name_is_damaged(cases: Sequence[Case]) -> None:
    path = write(case_of(cases, "rpg_global", 36000))
    path.rename(path.with_name("123456789abc.json"))
    assert "says that it is" in read_records(Path("results")).damaged[0]


def test_learning_curves_and_the_search_are_made_of_their_records() -> None:
    def history(before: float, last: float) -> dict[str, Any]:
        return {"history": [{"test_top1": value} for value in (*[before] * 7, last)]}

    dense, ring = read_experiment("cpu_recipe")
    write(dense, top1=20.0, **history(10.0, 20.0))
    write(dense, seed=1, top1=22.0, **history(12.0, 22.0))
    write(ring, top1=15.0, **history(5.0, 15.0))
    write(read_experiment("cpu_recipe_search")[1], top1=7.5)
    make_tables(["cpu_recipe"], Path("results"))
    text = Path("results/tables/cpu_recipe.md").read_text()
    assert f"| `none` | 36,000 | 51,306 |{' 11.0 |' * 7} 21.00 ± 1.41 (2) | 10 on 1 thread |" in text
    assert f"| `rpg_global 36,000` | 36,000 | 51,306 |{' 5.0 |' * 7} 15.00 (1) | 10 on 1 thread |" in text
    assert "| as it is | missing | 7.50 (1) | 1.00 |" in text
    first = {path: path.read_bytes() for path in Path("results/figures").iterdir()}
    assert {path.suffix for path in first} == {".png", ".pdf"}
    make_tables(["cpu_recipe"], Path("results"))
    assert {path: path.read_bytes() for path in Path("results/figures").iterdir()} == first


def test_runs_are_found_by_what_they_are_not_by_their_sweep(cases: Sequence[Case]) -> None:
    case = case_of(cases, "tied", None)
    write(case, seed=3)
    records = read_records(Path("results"))
    assert [record.seed for record in recorded(case, records)] == [3]
    assert recorded(case, records, seeds=[0]) == []


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        (["schemes_digit"], "did you mean 'schemes_digits'"),
        (["--results", "nowhere"], "nowhere"),
        (["--stric"], "command line"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], mentioned: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert mentioned in err


def test_an_unknown_experiment_names_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="did you mean 'schemes_digits'"):
        read_experiment("scheme_digits")


def test_cases_are_what_hydra_composes() -> None:
    from hydra import compose, initialize_config_dir

    from rpg_bench.config import config_directory, from_hydra

    chosen = {
        "schemes_digits": (4, 26, 28, 30),
        "rpg_lors_search": (2, 4, 6),
        "lors_deit": (3,),
        "accuracy_vs_dof": (15, 33),
        "against_rivals": (8, 9, 15),
        "destructive_sharing": (5,),
    }
    for name, numbers in chosen.items():
        cases = read_experiment(name)
        with initialize_config_dir(str(config_directory()), version_base="1.3"):
            for number in numbers:
                composed = compose("train", [f"+experiment={name}", *cases[number].overrides])
                assert from_hydra(composed) == cases[number].config


@pytest.mark.parametrize("group", PLAIN_GROUPS)
def test_choosing_in_a_plain_group_changes_its_node_alone(group: str) -> None:
    folder = ROOT / "configs"
    for path in (folder / group).glob("*.yaml"):
        assert "defaults" not in OmegaConf.load(path)
        assert "@package" not in path.read_text().splitlines()[0]
    for path in (*(folder / "dataset").glob("*.yaml"), *(folder / "recipe").glob("*.yaml"), folder / "train.yaml"):
        assert group not in OmegaConf.load(path)


def test_rows_are_by_scheme_and_budget_and_say_what_is_asked(cases: Sequence[Case]) -> None:
    found = {case.overrides: case for case in read_experiment("accuracy_vs_dof")}
    write(found["sharing=none", "dof=36k"])
    make_tables(["accuracy_vs_dof", "global_vs_local"], Path("results"))
    text = Path("results/tables/accuracy_vs_dof.md").read_text()
    lines = [line for line in text.split("## ResNet34")[0].splitlines() if line.startswith("| `")]
    budgets = ["8,000", "36,000", "112,000", "360,000", "1,100,000", "3,500,000"]
    assert [tuple(cell.strip() for cell in line.strip("|").split("|")[:2]) for line in lines] == [
        *(("`none`", budget) for budget in (*budgets, "all")),
        *(("`rpg_global`", budget) for budget in (*budgets, "11,157,504")),
        *(("`lors`", f"rank {rank}") for rank in (1, 8, 32)),
    ]
    assert "| `none` | 112,000 |  |  |  | missing |" in text
    both = Path("results/tables/global_vs_local.md").read_text()
    assert "| ResNet34 | `rpg_local` | 11,157,504 |  |  |  | missing |" in both
    assert "| ResNet18 | `rpg_local` | 18% of D |  |  |  | missing |" in both


def test_the_ranks_that_tables_name_are_the_schemes_own() -> None:
    from rpg_bench.sharing import SCHEMES

    assert {name: scheme.default_rank for name, scheme in SCHEMES.items() if name in DEFAULT_RANKS} == DEFAULT_RANKS
    assert {name for name, scheme in SCHEMES.items() if hasattr(scheme, "default_rank")} == set(DEFAULT_RANKS)


def test_every_claim_and_every_figure_of_the_papers_has_a_row() -> None:
    make_tables(["claims"], Path("results"))
    rows = [line for line in Path("results/tables/claims.md").read_text().splitlines() if "| **" in line]
    papers = {key for key, row in published().items() if row.paper.startswith(("RPG", "LORS"))}
    assert papers - {"dense-in-r34"} == {claim.published for claim in CLAIMS} | set(UNTESTED)
    assert len(rows) == len(CLAIMS) + len(UNTESTED)
    assert all("| **not run** |" in row for row in rows)


def verdicts() -> dict[str, str]:
    """The verdict on each claim, by how its statement begins."""
    make_tables(["claims"], Path("results"))
    lines = [line for line in Path("results/tables/claims.md").read_text().splitlines() if "| **" in line]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1].strip("*") for row in cells}


@pytest.mark.parametrize(
    ("ring", "plain", "verdict"),
    [
        ((30.0, 30.5, 31.0), (20.0, 20.5, 21.0), "holds"),
        ((20.0, 20.5, 21.0), (30.0, 30.5, 31.0), "does not hold"),
        ((20.0, 30.0, 40.0), (19.0, 29.0, 39.0), "not enough runs"),
        ((30.0,), (20.0,), "not enough runs"),
        ((30.0, 30.5), (), "not run"),
    ],
)
def test_verdicts_are_computed_from_the_runs(ring: tuple[float, ...], plain: tuple[float, ...], verdict: str) -> None:
    cases = {case.overrides: case for case in read_experiment("destructive_sharing")}
    for overrides, values in ((("sharing=rpg_global",), ring), (("sharing=recurrent",), plain)):
        for seed, top1 in enumerate(values):
            write(cases[overrides], seed, top1)
    assert verdicts()["permutation and sign flips beat plain recurrent sharing"] == verdict


@pytest.mark.parametrize(("bend", "verdict"), [(0.0, "not enough runs"), (40.0, "does not hold")])
def test_a_line_is_a_line_on_every_network_only(bend: float, verdict: str) -> None:
    dofs = []
    for case in read_experiment("accuracy_vs_dof"):
        config = case.config
        if (config.backbone.name, config.sharing.name) == ("resnet18", "rpg_global"):
            dofs.append(int(config.dof))
            x = len(str(config.dof))
            top1 = 10.0 * x - bend * (config.dof > 1_000_000)
            counts = {"dof": 10**x, "total": config.dof, "slot_scalars": 11157504}
            write(case, top1=top1, dof=counts)
    assert len(dofs) == 7
    (found,) = [verdict for claim, verdict in verdicts().items() if "log-linearly" in claim]
    assert found == verdict


def generalisation(train: float, corrupted: float, *names: str) -> dict[str, Any]:
    measured = {name: [corrupted - 2, corrupted - 1, corrupted, corrupted + 1, corrupted + 2] for name in names}
    return {"generalisation": {"train_top1": train, "corruptions": measured, "images": 1000}}


def test_the_gap_and_corrupted_images_are_means_of_what_was_measured() -> None:
    cases = read_experiment("generalisation")
    ring, dense = (
        next(case for case in cases if (case.config.sharing.name, case.config.dof) == (name, 36_000))
        for name in ("rpg_global", "none")
    )
    for seed in (0, 1, 2):
        write(ring, seed, top1=30.0 + seed, **generalisation(33.0 + seed, 20.0 + seed, *CORRUPTIONS))
        write(dense, seed, top1=20.0 + seed, **generalisation(21.0 + seed, 10.0 + seed, *CORRUPTIONS))
    # Of one that was measured on fog alone nothing is averaged.
    write(next(case for case in cases if case.config.dof is None), **generalisation(50.0, 5.0, "fog"))
    make_tables(["generalisation"], Path("results"))
    text = Path("results/tables/generalisation.md").read_text()
    assert "| `rpg_global` | 36,000 | 36,000 | 51,306 | 34.00 ± 1.00 (3) | 31.00 ± 1.00 (3) | 3.00 ± 0.00 (3) |" in text
    assert f"| `rpg_global` | 36,000 | 36,000 | 51,306 |{' 21.00 ± 1.00 (3) |' * 5} 67.72 ± 1.04 (3) |" in text
    assert f"| `none` | all | 36,000 | 51,306 |{' missing |' * 6}" in text
    assert "| 36,000 | +10.00 [+7.73, +12.27] | 3, 3 |" in text
    (found,) = [verdict for claim, verdict in verdicts().items() if "out of distribution" in claim]
    assert found == "not enough runs"  # the other budgets have none


def test_the_fit_is_drawn_and_stated() -> None:
    for case in read_experiment("accuracy_vs_dof")[:11]:
        if case.config.sharing.name == "rpg_global":
            write(
                case, top1=float(len(str(case.config.dof))), dof={"dof": case.config.dof, "total": 1, "slot_scalars": 2}
            )
    make_tables(["accuracy_vs_dof"], Path("results"))
    text = Path("results/tables/accuracy_vs_dof.md").read_text()
    fit = log_linear_fit([(n, float(len(str(n)))) for n in (8000, 36000, 112000, 360000, 1100000, 3500000, 11157504)])
    assert fit is not None
    assert (
        f"| ResNet18 | {fit.slope:.3f} | {fit.intercept:.3f} | {fit.r_squared:.3f} | 8,000 to 11,157,504 | 7 |" in text
    )
    assert "| ResNet34 | missing |" in text
    assert Path("results/figures/accuracy_vs_dof-resnet18.png").read_bytes().startswith(b"\x89PNG")
    assert not Path("results/figures/accuracy_vs_dof-resnet34.png").exists()


def test_published_figures_have_columns_of_their_own() -> None:
    write(read_experiment("against_rivals")[1], top1=41.25)
    make_tables(["against_rivals"], Path("results"))
    measured, theirs = Path("results/tables/against_rivals.md").read_text().split("## Published")
    assert "| published, other protocol |" in measured
    assert "| 41.25 (1) | 50.17 ± 0.17 at 35,450 |" in measured
    assert "| `rpg_global` | 36,000 |  |  |  | missing |  |" in measured
    assert "at 11,210" not in measured  # is not the budget of 8,000
    assert "50.17 ± 0.17" in theirs
    assert "41.25" not in theirs


def test_an_interval_needs_two_seeds_on_both_sides() -> None:
    alone = effect([2.0], [1.0])
    assert alone is not None
    assert str(alone) == "+1.00"
    assert effect([], [1.0]) is None
    several = effect([2.0, 3.0, 4.0], [1.0, 1.0, 1.0])
    assert several is not None
    assert several.low < 2.0 < several.high


def test_tables_for_programs_and_for_papers_are_escaped() -> None:
    table = Table(
        ("a_b", "top-1, %"), [["`rpg_global` 50% & more", Measured([1.0, 2.0])], ['say "so", then', Measured([])]]
    )
    assert csv_table(table).splitlines() == [
        'a_b,"top-1, %: mean",std,n',
        "rpg_global 50% & more,1.50,0.71,2",
        '"say ""so"", then",,,0',
    ]
    assert r"a\_b & top-1, \% \\" in latex(table)
    assert r"\texttt{rpg\_global} 50\% \& more & 1.50 $\pm$ 0.71 (2) \\" in latex(table)


def test_long_texts_are_broken_in_latex() -> None:
    table = Table(("claim", "verdict"), [["a ring is better than a dense network", "holds"]], prose=True)
    assert r"\begin{tabular}{p{0.82\linewidth}l}" in latex(table)


def test_the_first_command_of_a_newcomer_is_nobodys_record() -> None:
    from hydra import compose, initialize_config_dir

    from rpg_bench.command_line import register_schema
    from rpg_bench.config import config_directory, from_hydra

    register_schema()
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        config = from_hydra(compose("train", ["backbone=resnet18", "sharing=rpg_global", "dof=36k"]))
    # What comes with the project, not what its user has run since.
    tracked = subprocess.run(
        ["git", "ls-files", "results/records"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if tracked.returncode:
        pytest.skip("not a git checkout")
    assert tracked.stdout
    assert run_hash(config) not in {Path(line).stem for line in tracked.stdout.splitlines()}


def test_the_readme_shows_what_is_recorded() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("<!-- table: ") == len(TABLES)
    assert refreshed(text, read_records(ROOT / "results")) == text


def test_runs_under_a_papers_recipe_have_pages_of_their_own() -> None:
    with under("paper"):
        case = read_experiment("destructive_sharing")[0]
    assert (case.config.recipe.name, case.config.recipe.epochs) == ("rpg_cifar", 200)
    assert case.overrides == read_experiment("destructive_sharing")[0].overrides
    write(case, top1=71.25)
    make_tables(["destructive_sharing", "schemes_digits"], Path("results"))
    own, theirs = (Path(f"results/tables/destructive_sharing{suffix}.md").read_text() for suffix in ("", "-paper"))
    assert "71.25" not in own
    assert "71.25 (1)" in theirs
    assert "200 epochs" in theirs
    assert not Path("results/tables/schemes_digits-paper.md").exists()


def test_a_demonstration_is_made_when_it_is_asked_for() -> None:
    write(read_experiment("sweep_demo")[1], git=None)  # it is no evidence: any code may have made it
    make_tables(["sweep_demo"], Path("results"))
    assert "97.50 (1)" in Path("results/tables/sweep_demo.md").read_text()
    assert Path("results/figures/sweep_demo.png").exists()
    assert "sweep_demo" not in PAGES
