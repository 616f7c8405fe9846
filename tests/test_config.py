"""The configuration files, and the hash that names a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models import make
from runner import composed, configured

from rpg_bench import InvalidInput, share
from rpg_bench.config import RecipeConfig, ScheduleConfig, SharingConfig, TrainConfig, config_directory, from_hydra
from rpg_bench.optim import create_optimizer, parameter_groups
from rpg_bench.runs import RunFiles, run_hash
from rpg_bench.sharing.scheme import SCHEMES

NEEDS_A_NAME = {"backbone": "resnet18", "optimizer": "lamb"}


def name_of(*overrides: str) -> str:
    return run_hash(configured(*overrides))


def choices() -> list[tuple[str, str]]:
    """Every file of every group, experiments and launchers apart."""
    files = sorted(config_directory().glob("*/*.yaml"))
    return [(path.parent.name, path.stem) for path in files if path.parent.name not in ("experiment", "hydra")]


@pytest.mark.parametrize(("group", "choice"), choices(), ids=str)
def test_every_file_composes(group: str, choice: str) -> None:
    named = [f"{group}.name={NEEDS_A_NAME[group]}"] if choice == "timm" else []
    data = ["dataset=cifar100"] if group == "recipe" else []
    config = configured(*data, f"{group}={choice}", *named)
    if group == "recipe":
        assert choice in (config.recipe.name, config.recipe.name.partition("-")[0])  # cpu-2 is a version of cpu
    if group == "dataset":
        assert config.dataset.name == choice
    if group == "tracking":
        assert config.tracking.mode == choice
    if group == "sharing":
        assert config.sharing.name == choice


def test_the_recipe_of_the_recorded_runs_is_frozen() -> None:
    """Whoever changes what `cpu-2` does makes a new version of it."""
    assert configured("dataset=cifar100").recipe.name == "cpu-2"
    assert name_of("dataset=cifar100", "sharing=none") == "c83c188edb73"
    assert name_of("dataset=cifar100", "sharing=rpg_global", "dof=36k") == "99ff36fc5d20"
    assert name_of("dataset=cifar100", "recipe=cpu-1", "sharing=none") == "008acd9615f4"
    assert name_of("dataset=cifar100", "recipe=cpu-1", "sharing=rpg_global", "dof=36k") == "30891c9588e2"


def test_training_images_are_no_larger_than_the_others() -> None:
    with pytest.raises(InvalidInput, match=r"recipe.train_sizes: 24 is outside 1..16.*train_sizes=\[\]"):
        configured("dataset=digits", "recipe=cpu")
    assert configured("dataset=digits", "recipe=cpu", "recipe.train_sizes=[]").recipe.train_sizes == []


def test_every_scheme_has_a_file() -> None:
    files = {path.stem for path in (config_directory() / "sharing").glob("*.yaml")}
    assert files == set(SCHEMES)


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_the_file_of_a_scheme_states_its_options_with_their_defaults(scheme: str) -> None:
    options = configured(f"sharing={scheme}").sharing.options
    assert options == SCHEMES[scheme]().options()


@pytest.mark.parametrize("recipe", [path.stem for path in sorted((config_directory() / "recipe").glob("*.yaml"))])
def test_the_optimizer_of_every_recipe_can_be_built(recipe: str) -> None:
    config = configured("dataset=cifar100", f"recipe={recipe}")
    groups = parameter_groups(make("resnet"), config.optimizer.weight_decay, config.recipe.no_decay)
    create_optimizer(config.optimizer, groups, config.recipe.batch_size)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], {"batch": 64, "lr": 0.1, "wd": 5e-4, "optimizer": "sgd", "clip": None}),
        (["recipe=rpg_cifar"], {"batch": 128, "lr": 0.1, "wd": 5e-4, "optimizer": "momentum", "clip": None}),
        (["recipe=rpg_imagenet"], {"batch": 256, "lr": 0.3, "wd": 3e-5, "optimizer": "momentum", "clip": None}),
        (["recipe=rpg_imagenet_code"], {"batch": 256, "lr": 0.3, "wd": 1e-4, "optimizer": "momentum", "clip": None}),
        (["recipe=lors_cifar"], {"batch": 1024, "lr": 1e-3, "wd": 0.05, "optimizer": "adamw", "clip": 5.0}),
        (["dataset=cifar100", "recipe=cpu"], {"batch": 128, "lr": 0.1, "wd": 5e-4, "optimizer": "sgd", "clip": None}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_recipe_brings_its_optimizer(overrides: list[str], expected: dict[str, object]) -> None:
    config = configured(*overrides)
    assert expected == {
        "batch": config.recipe.batch_size,
        "lr": config.optimizer.lr,
        "wd": config.optimizer.weight_decay,
        "optimizer": config.optimizer.name,
        "clip": config.recipe.clip_norm,
    }


@pytest.mark.parametrize(
    ("dataset", "recipe"),
    [("digits", "digits"), ("cifar10", "cpu-2"), ("cifar100", "cpu-2"), ("imagenet", "rpg_imagenet")],
)
def test_the_data_set_chooses_the_recipe(dataset: str, recipe: str) -> None:
    assert configured(f"dataset={dataset}").recipe.name == recipe


@pytest.mark.parametrize("dataset", ["digits", "cifar100", "imagenet"])
def test_a_recipe_and_an_optimizer_that_are_asked_for_win(dataset: str) -> None:
    config = configured("recipe=lors_cifar", f"dataset={dataset}", "optimizer=sgd", "optimizer.lr=0.5")
    assert config.recipe.name == "lors_cifar"
    assert config.dataset.name == dataset
    assert (config.optimizer.name, config.optimizer.lr) == ("momentum", 0.5)
    assert config.optimizer.options == {"momentum": 0.9}


@pytest.mark.parametrize(
    "overrides",
    [
        ["backbone.options={drop_path_rate: 0.1}"],
        ["backbone.options.drop_path_rate=0.1"],
        ["+backbone.options.drop_path_rate=0.1"],
    ],
    ids=" ".join,
)
def test_options_of_a_network_can_be_given(overrides: list[str]) -> None:
    options = configured(*overrides).backbone.options
    assert options == {"drop_path_rate": 0.1, "zero_init_last": False}  # the second is the ResNets' own


def test_options_of_an_optimizer_can_be_given() -> None:
    config = configured("optimizer=adamw", "optimizer.options.eps=1e-6")
    assert config.optimizer.options == {"betas": [0.9, 0.999], "eps": 1e-6}


def test_the_root_of_the_data_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RPG_BENCH_DATA", raising=False)
    assert configured("dataset=cifar100").dataset.root == "./data"
    monkeypatch.setenv("RPG_BENCH_DATA", "/elsewhere")
    assert configured("dataset=cifar100").dataset.root == "/elsewhere"
    assert configured("dataset=cifar100", "dataset.root=here").dataset.root == "here"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["dof=36k"], ["dof=36000"]),
        (["dof=36k"], ["dof=36_000"]),
        (["dof=2.4M"], ["dof=2400000"]),
        (["dof=18%"], ["dof=18.0%"]),
        ([], ["tracking=disabled"]),
        ([], ["tracking.tags=[a,b]", "tracking.project=x"]),
        ([], ["dataset.workers=0"]),
        (["dataset=cifar100"], ["dataset=cifar100", "dataset.root=elsewhere", "dataset.download=true"]),
        ([], ["runs_dir=a", "results_dir=b"]),
        ([], ["force=true", "checkpoint_seconds=1", "sweep=x"]),
        ([], ["sharing.permute=true", "sharing.order=shuffled"]),
        ([], ["recipe.label_smoothing=0"]),
        (["sharing=rpg_local"], ["sharing=rpg_local", "sharing.rings=null"]),
        ([], ["backbone=timm", "backbone.name=resnet18", "backbone.options.zero_init_last=false"]),
        ([], ["dataset.subset=1"]),
        ([], ["recipe=digits", "dataset=digits"]),
    ],
    ids=str,
)
def test_what_does_not_change_the_result_does_not_change_the_hash(one: list[str], other: list[str]) -> None:
    assert name_of(*one) == name_of(*other)


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=1"],
        ["dof=36k"],
        ["dof=18%"],
        ["sharing=none"],
        ["sharing=rpg_local"],
        ["sharing.permute=false"],
        ["sharing.flip_sign=false"],
        ["sharing.order=sequential"],
        ["sharing.seed=7"],
        ["sharing.include=[conv1.weight]"],
        ["sharing.exclude=['layer1.*']"],
        ["backbone=resnet34"],
        ["backbone.stem=half"],
        ["+backbone.options.drop_rate=0.1"],
        ["dataset=cifar10"],
        ["dataset.image_size=8"],
        ["dataset.subset=0.5"],
        ["dataset.validation=0.1"],
        ["recipe.epochs=11"],
        ["recipe.batch_size=32"],
        ["recipe.accumulate=2"],
        ["recipe.schedule.peak=0.5"],
        ["recipe.augment.flip=true"],
        ["recipe.augment.mixup=0.8"],
        ["recipe.label_smoothing=0.1"],
        ["recipe.clip_norm=1"],
        ["recipe.ema_decay=0.9"],
        ["recipe.no_decay=[bias]"],
        ["recipe.precision=bf16"],
        ["recipe.channels_last=false"],
        ["optimizer.lr=0.2"],
        ["optimizer.weight_decay=0"],
        ["optimizer.options.momentum=0.8"],
        ["optimizer=sgd"],
    ],
    ids=" ".join,
)
def test_what_changes_the_result_changes_the_hash(overrides: list[str]) -> None:
    assert name_of(*overrides) != name_of()


def test_the_order_in_which_rings_are_given_changes_nothing() -> None:
    """The hash does not see it."""
    orders = ("{a: 'layer[12]*', b: 'layer[34]*'}", "{b: 'layer[34]*', a: 'layer[12]*'}")
    assert len({name_of("sharing=rpg_local", f"sharing.rings={rings}") for rings in orders}) == 1
    models = [
        share(
            make("resnet"),
            "rpg_local",
            100,
            rings=configured("sharing=rpg_local", f"sharing.rings={rings}").sharing.options["rings"],
        )
        for rings in orders
    ]
    for name in ("layer1.0.conv1", "layer4.0.conv1"):
        first, second = (model.get_submodule(name).weight for model in models)
        assert torch.equal(first, second)


def test_files_are_named_by_the_hash() -> None:
    config = TrainConfig(runs_dir="a", results_dir="b")
    assert RunFiles.of(config).directory == Path("a") / run_hash(config)
    assert RunFiles.of(config).record == Path("b/records") / f"{run_hash(config)}.json"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (TrainConfig(), "bd0488843468"),
        (
            TrainConfig(seed=3, dof=36000, recipe=RecipeConfig(epochs=10, schedule=ScheduleConfig("cosine"))),
            "313272556186",
        ),
        (
            TrainConfig(sharing=SharingConfig("rpg_local", options={"permute": False, "flip_sign": True})),
            "241a9e042d69",
        ),
    ],
    ids=["default", "recipe", "scheme"],
)
def test_the_hash_of_a_run_stays_what_it_was(config: TrainConfig, expected: str) -> None:
    """Records and checkpoints are found by it. A field added later keeps it where its default is used."""
    assert run_hash(config) == expected


def test_an_interpolation_that_does_not_resolve_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"dataset\.root"):
        from_hydra(composed("dataset.root=${nowhere}"))
