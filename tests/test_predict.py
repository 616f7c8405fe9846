"""`python -m rpg_bench.predict` and `python -m rpg_bench.evaluate`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runner import only_record

from rpg_bench import InvalidInput, arguments, load
from rpg_bench.errors import Failed
from rpg_bench.evaluate import evaluate
from rpg_bench.export import export
from rpg_bench.metrics import evaluate as measured
from rpg_bench.predict import picture, predict


@pytest.fixture
def model(finished_run: Callable[..., str]) -> Path:
    """A compact file of a small run."""
    run = finished_run("backbone.stem=cifar", "dataset.subset=1", "recipe.epochs=3")
    export([f"run={run}", "output=model.safetensors", "images=10"])
    return Path("model.safetensors")


def some_pictures(folder: Path) -> None:
    folder.mkdir()
    random = np.random.RandomState(0)
    Image.fromarray(random.randint(0, 256, (8, 8), np.uint8)).save(folder / "small.png")
    Image.fromarray(random.randint(0, 256, (60, 90, 3), np.uint8)).save(folder / "wide.jpg")
    Image.fromarray(random.randint(0, 256, (9, 9, 4), np.uint8), "RGBA").save(folder / "transparent.png")
    (folder / "notes.txt").write_text("no picture")


def test_a_missing_data_folder_is_named_as_the_command_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        arguments.run(evaluate, "", ["model=resnet18-cifar100-ring-36k-8bit", "root=nowhere"])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: root: 'nowhere' does not exist; set root (")
    assert "dataset" not in said


def test_pictures_of_any_size_and_mode_are_named(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some_pictures(Path("pictures"))
    capsys.readouterr()
    predict([f"model={model}", "input=pictures", "topk=3", "json=answers.json"])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == f"model: test_resnet, 10 classes, {model.stat().st_size:,} bytes"
    assert [line.split()[0] for line in lines] == [
        f"pictures/{n}" for n in ("small.png", "transparent.png", "wide.jpg")
    ]
    answers = json.loads(Path("answers.json").read_text())
    network = load(model)
    for answer in answers:
        with torch.no_grad():
            shares = network(picture(Path(answer["file"]), network.recipe)[None]).softmax(1)[0]
        assert [item["name"] for item in answer["classes"]] == [str(n) for n in shares.topk(3).indices.tolist()]
        assert answer["classes"][0]["probability"] == pytest.approx(float(shares.max()), rel=1e-5)
    predict([f"model={model}", "input=pictures/small.png", "topk=50", "json=-"])
    (only,) = json.loads(capsys.readouterr().out)
    assert sum(item["probability"] for item in only["classes"]) == pytest.approx(1)
    assert len(only["classes"]) == 10


def test_a_picture_of_the_data_set_is_seen_as_in_training(model: Path) -> None:
    from rpg_bench.compact.source import evaluation_batches

    recipe = load(model).recipe
    (images, _), *_ = evaluation_batches(recipe, "", images=1)
    pixels = ((images[0, 0] * recipe.std[0] + recipe.mean[0]) * 255).round().to(torch.uint8)
    Image.fromarray(pixels.numpy()).save("digit.png")
    torch.testing.assert_close(picture(Path("digit.png"), recipe), images[0])


def test_an_unreadable_picture_does_not_stop_the_others(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some_pictures(Path("pictures"))
    Path("pictures/broken.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(Failed, match=r"input: 1 of 4 pictures cannot be read"):
        predict([f"model={model}", "input=pictures"])
    printed = capsys.readouterr()
    assert "left out: pictures/broken.png is no picture that can be read" in printed.err
    assert "pictures/wide.jpg" in printed.out


def test_mistakes_are_one_line(model: Path) -> None:
    some_pictures(Path("pictures"))
    Path("empty").mkdir()
    for given, message in (
        ([f"model={model}"], "input: give a picture"),
        ([f"model={model}", "input=nowhere"], "input: there is no file or folder nowhere"),
        ([f"model={model}", "input=empty"], "input: there is no picture in empty"),
        (["model=none.safetensors", "input=pictures"], "model: unknown 'none.safetensors'"),
        (["model=pictures/notes.txt", "input=pictures"], "file: pictures/notes.txt is no .safetensors file"),
        ([f"model={model}", "input=pictures", "json=no/where.json"], "json: there is no folder no"),
        ([], "model: give a compact file, or one of:"),
    ):
        with pytest.raises(InvalidInput, match=message):
            predict(given)


def test_evaluation_agrees_with_the_record(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = only_record(tmp_path)
    evaluate([f"model={model}", "json=all.json"])
    values = json.loads(Path("all.json").read_text())
    assert values["top1"] == pytest.approx(record["final"]["test_top1"], abs=0.3)  # an image may be on an edge
    assert values["loss"] == pytest.approx(record["final"]["test_loss"], rel=1e-3)
    assert values["images"] == 360
    assert list(values["per_class"]) == [str(number) for number in range(10)]
    assert "(15 bins)" in capsys.readouterr().out
    evaluate([f"run={record['hash']}", "json=run.json", "classes=false", "split=train", "images=100"])
    values = json.loads(Path("run.json").read_text())
    assert (values["images"], values["split"]) == (100, "train")
    with pytest.raises(InvalidInput, match=r"data: unknown 'digit'; did you mean 'digits'"):
        evaluate([f"model={model}", "data=digit"])
    with pytest.raises(InvalidInput, match=r"give one of model=FILE|NAME, run=HASH and checkpoint=PATH"):
        evaluate([f"model={model}", "run=abc"])


def test_calibration_error_is_that_of_its_definition() -> None:
    """Two bins: 0.8 sure and right in half of four, 0.6 sure and always right in six."""
    sure, less = torch.tensor([0.8, 0.2]).log(), torch.tensor([0.6, 0.4]).log()
    logits = torch.stack([sure] * 4 + [less] * 6)
    labels = torch.tensor([0, 0, 1, 1, 0, 0, 0, 0, 0, 0])
    numbers = torch.arange(10.0)[:, None]
    batches = [(numbers[:7], labels[:7]), (numbers[7:], labels[7:])]
    found = measured(lambda images: logits[images[:, 0].long()], batches, 2)
    assert found.calibration_error == pytest.approx(100 * (4 * 0.3 + 6 * 0.4) / 10, rel=1e-5)
    assert found.top1 == pytest.approx(80)
    assert found.top5 is None
    assert found.per_class == (100.0, 0.0)
    expected = torch.nn.functional.cross_entropy(logits, labels)
    assert found.loss == pytest.approx(float(expected), rel=1e-5)
