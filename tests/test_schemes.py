"""The list of schemes says what is true of each, and its command prints it."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from models import NETWORKS, images, make
from torch import Tensor

from rpg_bench import InvalidInput, share
from rpg_bench.command_line import run_command
from rpg_bench.schemes import SWITCHES, show
from rpg_bench.sharing import SCHEMES, get_scheme, sharing_of
from rpg_bench.sharing.slots import find_slots, total_size

SMALL = ("backbone=timm", "backbone.name=test_vit", "dataset.image_size=16", "recipe.batch_size=4")

List = Callable[..., tuple[str, str]]


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    yield images(), torch.arange(4)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> List:
    """Run the command; stdout and stderr."""

    def run(*arguments: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["rpg_bench.schemes", *arguments])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        with contextlib.suppress(SystemExit):
            run_command(show, SWITCHES)
        out, err = capsys.readouterr()
        return out, err

    return run


@pytest.mark.parametrize("network", list(NETWORKS))
@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_the_stated_range_is_what_a_plan_accepts(scheme: str, network: str) -> None:
    slots = find_slots(make(network))
    made = get_scheme(scheme)
    try:
        least, most = made.range(slots)
    except InvalidInput:
        with pytest.raises(InvalidInput):
            made.plan(slots, None, 0)
        return
    assert 1 <= least <= most == total_size(slots)
    for dof in (least, most):
        assert made.plan(slots, dof, 0).dof <= dof
    for dof in (least - 1, most + 1):
        with pytest.raises(InvalidInput, match="dof"):
            made.plan(slots, dof, 0)


@pytest.mark.parametrize(
    ("scheme", "options"), [*((name, {}) for name in sorted(SCHEMES)), ("rpg_global", {"block": 16})]
)
def test_the_stated_memory_is_what_the_tables_take(scheme: str, options: dict[str, Any]) -> None:
    model = share(make("vit"), scheme, batches=batches, **options)
    sharing = sharing_of(model)
    model(images())  # a ring makes its table when it is first read
    taken = sum(buffer.nbytes for buffer in sharing.buffers())
    for module in sharing.modules():
        table = getattr(module, "_table", None)
        names = getattr(module, "_tables", []) if table is None else []
        taken += sum(getattr(module, name).nbytes for name in names) + getattr(table, "bytes", 0)
    assert get_scheme(scheme, **options).table_bytes(sharing.plan) == pytest.approx(taken, rel=0.15)


def test_every_scheme_is_listed_with_its_source_and_range(listed: List) -> None:
    out, err = listed(*SMALL)
    assert err == ""
    assert "245,760 scalars" in out
    for name in SCHEMES:
        (line,) = [line for line in out.splitlines() if line.startswith(f"{name} ")]
        least, most = get_scheme(name).range(find_slots(make_test_vit()))
        if name != "none":  # which builds narrower networks
            assert f"{least:,}..{most:,}" in line
    assert re.search(r"^none +[\d,]+\.\.245,760", out, re.MULTILINE)
    assert list(Path().iterdir()) == []


def make_test_vit() -> Any:
    import timm

    return timm.create_model("test_vit", img_size=16, patch_size=2)


def test_programs_can_read_it(listed: List) -> None:
    found = json.loads(listed(*SMALL, "json=true", "dof=10%")[0])
    assert found["slot_scalars"] == 245_760
    by_name = {row["scheme"]: row for row in found["schemes"]}
    assert set(by_name) == set(SCHEMES)
    assert by_name["rpg_global"]["dof"] == 24_576
    assert by_name["lors"]["dof"] == by_name["lors"]["least"]
    assert by_name["none"]["dof"] <= 24_576
    assert all(row["step_ratio"] is None for row in found["schemes"])


def test_a_scheme_that_cannot_serve_the_network_says_why(listed: List) -> None:
    out, _ = listed("backbone=timm", "backbone.name=test_resnet", "json=true")
    (row,) = [row for row in json.loads(out)["schemes"] if row["scheme"] == "tied"]
    assert row["least"] is None
    assert "equal shape" in row["refused"]


def test_time_is_measured_on_request(listed: List, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: SCHEMES[name] for name in ("none", "rpg_global", "snip")}
    monkeypatch.setattr("rpg_bench.schemes.SCHEMES", few)
    monkeypatch.setattr("rpg_bench.schemes.ROUNDS", 2)
    out, _ = listed(*SMALL, "json=true", "time=true", "dof=50%")
    ratios = [row["step_ratio"] for row in json.loads(out)["schemes"]]
    assert all(ratio > 0 for ratio in ratios)


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        (["time=7"], "time: 7"),
        (["backbone=resnet81"], "did you mean 'resnet18'"),
        (["dof=abc"], "dof: 'abc'"),
        ([*SMALL, "backbone.name=test_vitt"], "did you mean 'test_vit"),
        (["recipe.epoch=1"], "did you mean 'recipe.epochs'"),
    ],
)
def test_a_mistake_is_one_line(listed: List, arguments: list[str], mentioned: str) -> None:
    out, err = listed(*arguments)
    assert out == ""
    assert len(err.splitlines()) == 1
    assert mentioned in err
