"""The page of all runs, as a real browser shows it."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from runner import ROOT

from rpg_bench.report.commands import command_of
from rpg_bench.report.experiments import read_runs
from rpg_bench.report.records import Records, read_records
from rpg_bench.report.style import STYLES
from rpg_bench.report.web import web_page
from rpg_bench.runs import hash_of
from rpg_bench.sharing import SCHEMES
from rpg_bench.sweeper import expand

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
in_a_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")


@pytest.fixture(scope="module")
def records() -> Records:
    return read_records(ROOT / "results")


@pytest.fixture(scope="module")
def page(records: Records, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(web_page(records, ["cpu_recipe"]), encoding="utf-8")
    return path


def shown(page: Path, state: str = "", width: int = 1200) -> str:
    """The document after its scripts have run."""
    assert BROWSER is not None
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},900"]
    command = [BROWSER, *options, "--dump-dom", f"{page.as_uri()}#{state}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(document: str) -> list[list[str]]:
    body = document.split('<tbody id="rows">')[1].split("</tbody>")[0]
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in body.split("</tr>")[:-1]]


@in_a_browser
def test_every_run_has_a_row_and_a_point(page: Path, records: Records) -> None:
    document = shown(page, "dataset=all&evaluated=all")
    assert len(rows(document)) == len(records.found)
    assert document.count('class="point"') == len(records.found)
    top1 = [float(row[2]) for row in rows(document)]
    assert top1 == sorted(top1, reverse=True)


@in_a_browser
def test_runs_are_chosen_and_sorted_by_the_address(page: Path, records: Records) -> None:
    found = rows(shown(page, "dataset=cifar100&evaluated=all&scheme=none&sort=top1&order=up"))
    configs = [record.values["config"] for record in records.found.values()]
    wanted = [c for c in configs if (c["dataset"]["name"], c["sharing"]["name"]) == ("cifar100", "none")]
    assert len(found) == len(wanted) > 1
    assert {(row[0], row[7]) for row in found} == {("none", "cifar100")}
    top1 = [float(row[2]) for row in found]
    assert top1 == sorted(top1)


@in_a_browser
def test_a_choice_without_runs_is_said(page: Path) -> None:
    document = shown(page, "scheme=nothing")
    assert "no such run" in document
    assert rows(document) == []


@in_a_browser
def test_a_run_that_is_pointed_at_shows_its_command(page: Path) -> None:
    pointing = page.with_name("pointing.html")
    script = (
        "<script>document.querySelector('[data-run=\"c83c188edb73\"]').dispatchEvent(new Event('mouseenter'))</script>"
    )
    pointing.write_text(page.read_text(encoding="utf-8").replace("</html>", f"{script}</html>"), encoding="utf-8")
    document = shown(pointing)
    details = document.split('<div id="details">')[1].split("</div>")[0]
    record = json.loads((ROOT / "results" / "records" / "c83c188edb73.json").read_text())
    assert f"{record['final']['test_top1']:.2f} %" in details
    assert "+experiment=cpu_recipe seed=0" in details
    assert document.count('class="point chosen"') == 1
    assert document.count('<tr data-run="c83c188edb73" tabindex="0" class="chosen">') == 1


@in_a_browser
def test_only_runs_that_compare_are_shown_at_first(page: Path) -> None:
    found = rows(shown(page))
    assert len(found) > 5
    assert {(row[7], row[8]) for row in found} == {("cifar100", "test images")}


@in_a_browser
def test_the_command_is_copied_by_a_button(page: Path) -> None:
    copying = page.with_name("copying.html")
    script = """<script>
    document.querySelector('[data-run="c83c188edb73"]').dispatchEvent(new Event("mouseenter"));
    Object.defineProperty(navigator, "clipboard", { value: { writeText: text => { document.title = text; } } });
    document.querySelector("#details button").click();
    </script>"""
    copying.write_text(page.read_text(encoding="utf-8").replace("</html>", f"{script}</html>"), encoding="utf-8")
    document = shown(copying)
    assert "<title>python -m rpg_bench.train --multirun +experiment=cpu_recipe seed=0" in document
    assert ">copied</button>" in document


@in_a_browser
@pytest.mark.parametrize("width", [360, 1200])
def test_the_axis_names_budgets_that_do_not_touch(page: Path, width: int) -> None:
    document = shown(page, width=width)
    places = sorted(float(x) for x in re.findall(r'<text x="([\d.]+)" y="336" text-anchor="middle">', document))
    names = re.findall(r'y="336" text-anchor="middle">([\d.]+[kM]?)<', document)
    assert {"8k", "36k", "1M"} <= set(names)
    assert all(right - left >= 36 for left, right in itertools.pairwise(places))


def test_nothing_is_fetched_from_elsewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|src=|@import|url\(", text)


def test_a_text_in_a_record_cannot_leave_its_place(records: Records) -> None:
    name, record = next(iter(records.found.items()))
    values = json.loads(json.dumps(record.values))
    values["config"]["sharing"]["options"] = {"order": "</script><script>alert(1)</script>"}
    text = web_page(Records({name: type(record)(values)}, (), ()), [])
    assert text.count("</script>") == 2


def test_the_command_of_a_run_is_the_run() -> None:
    for name in ("rpg_lors", "learning_rates"):
        for case in read_runs(name):
            words = shlex.split(command_of(name, case, seed=0))
            assert words[:4] == ["python", "-m", "rpg_bench.train", "--multirun"]
            assert words[4] == f"+experiment={name}"
            cases = words[-1]
            assert cases.startswith("hydra.sweeper.cases=")
            parser = OverridesParser.create()
            parsed = parser.parse_overrides([cases])[0].value()
            assert [set(run) for run in expand(parsed, words[5:-1], parser)] == [set(case.overrides)]


def test_a_run_of_any_seed_has_its_command(records: Records) -> None:
    name, record = "c83c188edb73", records.found["c83c188edb73"]
    values = json.loads(json.dumps(record.values))
    values["seed"] = values["config"]["seed"] = 7
    values["hash"] = hash_of(values["config"])
    assert values["hash"] != name
    text = web_page(Records({values["hash"]: type(record)(values)}, (), ()), ["accuracy_vs_dof"])
    assert "+experiment=accuracy_vs_dof seed=7" in text


def test_every_scheme_has_a_look_of_its_own() -> None:
    assert set(STYLES) == set(SCHEMES)
    assert len(set(STYLES.values())) == len(STYLES)
