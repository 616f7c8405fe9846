"""The benchmark measures in turn, judges ratios, and sees what has become slower."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models import make

from rpg_bench import InvalidInput, share
from rpg_bench.benchmarks import check, command, result, step, summary
from rpg_bench.benchmarks.networks import training_step
from rpg_bench.benchmarks.process import in_a_lasting_process, table_bytes
from rpg_bench.benchmarks.result import HIGHER, LOWER, Figure, Result, Settings
from rpg_bench.benchmarks.synthetic import synthetic_data
from rpg_bench.benchmarks.timing import Ratio, Times, in_turn
from rpg_bench.benchmarks.trainers import plain_loop, whole_trainer
from rpg_bench.benchmarks.yardstick import share_layer_by_layer, unpack
from rpg_bench.errors import Failed
from rpg_bench.sharing import sharing_of

CPU = torch.device("cpu")


def figure(value: float, better: str = LOWER, best: float | None = None) -> Figure:
    return Figure("unpacking", value, "x copy", better=better, best=best)


# --- Timing


def test_contestants_take_turns() -> None:
    calls: list[str] = []
    contestants: dict[str, Callable[[], object]] = {name: lambda name=name: calls.append(name) for name in "abc"}  # type: ignore[misc]
    times = in_turn(contestants, CPU, rounds=3, warmup=1)
    assert "".join(calls) == "abc" * 4
    assert {name: len(found.seconds) for name, found in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_ratio_is_taken_round_by_round() -> None:
    # The machine slows down three times over; the second contestant always takes twice as long.
    slowing = Times((1.0, 2.0, 3.0))
    ratio = Ratio.of(Times((2.0, 4.0, 6.0)), slowing)
    assert (ratio.median, ratio.best, ratio.spread) == (2.0, 2.0, 0.0)
    disturbed = Ratio.of(Times((2.0, 40.0, 6.0)), slowing)
    assert (disturbed.median, disturbed.best) == (2.0, 2.0)
    assert disturbed.spread > 1


# --- Verdicts


@pytest.mark.parametrize(
    ("better", "recorded", "found", "passed"),
    [
        (LOWER, 1.05, 1.05, True),
        (LOWER, 1.05, 1.25, True),  # within 0.25 more
        (LOWER, 1.05, 1.60, False),
        (LOWER, 4.0, 5.9, True),  # within half as much again
        (LOWER, 4.0, 6.1, False),
        (HIGHER, 60.0, 45.0, True),
        (HIGHER, 60.0, 35.0, False),
        (HIGHER, 0.3, 0.1, True),
    ],
)
def test_a_verdict_fails_on_a_figure_that_has_become_worse(
    better: str, recorded: float, found: float, passed: bool
) -> None:
    assert check.verdict(figure(recorded, better), [figure(found, better)]).passed is passed


def test_a_bound_that_is_missed_by_little_is_missed_in_the_file_too() -> None:
    measured = Figure("step", 1.02034, "x dense", bound=1.02)
    read = Figure.from_dict(json.loads(json.dumps(measured.to_dict())))
    assert read.met is measured.met is measured.to_dict()["met"] is False


def test_a_verdict_goes_by_the_least_disturbed_measurement() -> None:
    recorded = figure(2.0, best=1.1)
    assert not check.verdict(recorded, [figure(1.2, best=9.0)]).passed
    assert check.verdict(recorded, [figure(9.0, best=9.0), figure(9.0, best=1.2)]).passed


def measuring(*values: float) -> tuple[Callable[[str], Result], list[str]]:
    """Measurements that find these values one after another, the last for ever; and who asked."""
    left, asked = list(values), list[str]()

    def measure(name: str) -> Result:
        asked.append(name)
        return Result((figure(left.pop(0) if len(left) > 1 else left[0]),))

    return measure, asked


def record(folder: Path, found: Figure, device: torch.device = CPU) -> None:
    result.write(folder, "unpack", "Unpacking", Result((found,)), Settings(True, device), seconds=1.0)


def test_check_fails_on_a_regressed_figure_and_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tmp_path, figure(2.0))
    measure, asked = measuring(9.0)
    with pytest.raises(Failed, match="slower than recorded: unpacking"):
        check.compare(tmp_path, ["unpack"], CPU, measure)
    assert asked == ["unpack"] * check.ATTEMPTS
    assert "WORSE unpacking: 9.000, recorded 2.000, limit 3.000" in capsys.readouterr().out


def test_check_measures_again_before_it_fails(tmp_path: Path) -> None:
    record(tmp_path, figure(2.0))
    measure, asked = measuring(9.0, 2.1)
    check.compare(tmp_path, ["unpack"], CPU, measure)
    assert asked == ["unpack"] * 2


def test_check_is_more_generous_on_another_kind_of_processor(tmp_path: Path) -> None:
    record(tmp_path, figure(2.0))
    path = tmp_path / "unpack.json"
    content = json.loads(path.read_text())
    content["hardware"]["cpu"] = "an abacus"
    path.write_text(json.dumps(content))
    check.compare(tmp_path, ["unpack"], CPU, measuring(4.5)[0])
    with pytest.raises(Failed, match="slower"):
        check.compare(tmp_path, ["unpack"], CPU, measuring(9.0)[0])


def test_check_passes_over_what_is_not_to_be_compared(tmp_path: Path) -> None:
    record(tmp_path, dataclasses.replace(figure(2.0), compared=False))
    check.compare(tmp_path, ["unpack"], CPU, measuring(9.0)[0])


def test_check_refuses_what_cannot_be_compared(tmp_path: Path) -> None:
    measure, asked = measuring(2.0)
    with pytest.raises(InvalidInput, match="no recorded benchmark"):
        check.compare(tmp_path, ["unpack"], CPU, measure)
    record(tmp_path, dataclasses.replace(figure(2.0), name="gone"))
    with pytest.raises(InvalidInput, match="'gone', which is no longer measured"):
        check.compare(tmp_path, ["unpack"], CPU, measure)
    asked.clear()
    with pytest.raises(InvalidInput, match="recorded on cpu"):
        check.compare(tmp_path, ["unpack"], torch.device("cuda"), measure)
    assert not asked
    (tmp_path / "unpack.json").write_text("{}")
    with pytest.raises(InvalidInput, match="not a benchmark"):
        check.compare(tmp_path, ["unpack"], CPU, measure)


# --- Files and the command line


def test_a_section_is_written_with_where_it_was_measured(tmp_path: Path) -> None:
    found = dataclasses.replace(figure(1.234), bound=1.2)
    times = {"copy": Times((0.008, 0.009))}
    result.write(tmp_path, "unpack", "Unpacking", Result((found,), times), Settings(), seconds=1.0)
    content = json.loads((tmp_path / "unpack.json").read_text())
    assert content["figures"] == [{**found.to_dict(), "met": False}]
    assert Figure.from_dict(content["figures"][0]) == found
    assert content["times"]["copy"]["min_ms"] == 8.0
    assert content["device"] == "cpu"
    assert content.keys() >= {"git", "versions", "hardware", "measured_at", "short", "details"}
    text = summary.write(tmp_path, command.SECTIONS).read_text()
    assert "| unpacking | 1.234 |" in text
    assert "at most 1.2 | **no** |" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stepp"], "section: unknown 'stepp'; did you mean 'step'?"),
        (["growth", "short=true"], "section: unknown 'growth'"),
        (["shrot=true"], "command line: unknown 'shrot'; did you mean 'short'?"),
        (["short=1"], "short: '1' is neither true nor false"),
        (["device=gpu"], "device: unknown 'gpu'"),
    ],
)
def test_a_wrong_command_line_gets_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1


def test_the_command_line_chooses_sections_and_form() -> None:
    assert command.parse([]).sections == command.SECTIONS
    asked = command.parse(["step", "data", "short=true", "device=cpu", "output=here"])
    assert (asked.sections, asked.settings.short, asked.output) == (("step", "data"), True, Path("here/short"))
    assert command.parse(["check"]).compare
    assert command.parse(["check"]).settings.short


# --- Contestants


def test_the_yardstick_trains_the_same_number_of_parameters() -> None:
    ours, theirs = share(make("resnet"), "rpg_global", 500), share_layer_by_layer(make("resnet"), 500)
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in ours.parameters())
    batch = torch.randn(2, 3, 16, 16)
    assert theirs(batch).shape == ours(batch).shape
    found, expected = unpack(theirs), list(sharing_of(ours).produce())
    assert [slot.shape for slot in found] == [slot.shape for slot in expected]
    for mine, other in zip(expected, found, strict=True):
        assert 0.7 < float(mine.detach().std() / other.detach().std()) < 1.4
    theirs(batch).sum().backward()
    assert theirs.get_parameter("ring").grad is not None


def test_tables_are_counted_in_any_object() -> None:
    sharing = sharing_of(share(make("resnet"), "rpg_global", 500))
    sharing.produce()
    counted = table_bytes(sharing)
    assert counted >= 2 * sharing.plan.total  # no index is smaller than that
    sharing.more = [{"table": torch.zeros(25)}, torch.zeros(5).numpy()]  # type: ignore[assignment]
    sharing.again = sharing.more
    assert table_bytes(sharing) == counted + 120


def test_both_training_loops_train(tmp_path: Path) -> None:
    network = share(make("resnet"), "rpg_global", 500)
    data = synthetic_data(8, 4, CPU, test_images=2)
    data = dataclasses.replace(data, classes=tuple("01234"))
    for batches in (data.train, data.test):
        samples = batches._images  # type: ignore[attr-defined]
        samples._device_labels %= 5
    before = sharing_of(network).get_parameter("ring").clone()
    epoch = whole_trainer(network, data, 4, CPU, tmp_path)
    epoch()
    epoch()
    assert not torch.equal(sharing_of(network).get_parameter("ring"), before)
    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 100))
    start = plain[1].weight.clone()
    plain_loop(plain, 4, 2, CPU, tmp_path)()
    assert not torch.equal(plain[1].weight, start)
    assert torch.equal(torch.load(tmp_path / "checkpoint.pt")["network"]["1.weight"], plain[1].weight)


def test_the_plain_loop_trains_in_a_process_of_its_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = {"stem": "half", "batch_size": 2, "steps": 1, "device": "cpu", "dof": None, "directory": str(tmp_path)}
    with in_a_lasting_process("plain_child", arguments) as once_more:
        once_more()
        once_more()
    with (
        in_a_lasting_process("plain_child", {**arguments, "device": "nothing"}) as once_more,
        pytest.raises(Failed, match=r"plain_child .* exit code 1"),
    ):
        once_more()
    assert "nothing" in capfd.readouterr().err


@pytest.mark.parametrize("device", list(step.BOUNDS))
def test_each_bound_of_a_step_has_its_network(device: str) -> None:
    timed = step.subjects(Settings(False, torch.device(device)))
    assert set(step.BOUNDS[device]) <= {subject.name for subject in timed}


def test_a_device_times_large_images_too() -> None:
    subject = step.subjects(Settings(False, torch.device("cuda")))[-1]
    network = subject.network(CPU)
    assert sum(weight.numel() for weight in network.parameters()) > 20_000_000  # a ResNet50
    assert network(torch.randn(1, 3, subject.image_size, subject.image_size)).shape == (1, 100)


def test_a_training_step_leaves_no_gradient_behind() -> None:
    network = make("resnet")
    step = training_step(network, torch.randn(2, 3, 16, 16), torch.tensor([0, 1]))
    before = network.get_parameter("conv1.weight").clone()
    step()
    assert not torch.equal(network.get_parameter("conv1.weight"), before)
    assert all(parameter.grad is None for parameter in network.parameters())
