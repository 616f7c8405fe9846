"""What a configuration may make Hydra do, checked before Hydra does it.

Hydra instantiates classes that a configuration names: launchers, sweepers, callbacks, handlers of logging. An
experiment file may come from anybody; so what is in the composed `hydra` node is held to a list, whatever file it is
from. What would reach a shell is allowed where it is our preset's own, or stands on the command line, the user's.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rpg_bench.config import config_directory
from rpg_bench.errors import InvalidInput, unknown

TARGETS: Mapping[str, Collection[str]] = {
    "hydra.launcher": (
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
        "hydra_plugins.rpg_bench_slurm.SlurmLauncher",
    ),
    "hydra.sweeper": (
        "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
        "hydra_plugins.rpg_bench_cases.CaseSweeper",
    ),
}
# Keys of launchers whose values reach a shell, or programs that run others.
SHELL = ("setup", "srun_args", "additional_parameters")
# Keys of the environment that a configuration may set for a run.
ENVIRONMENT = re.compile(
    r"(OMP|MKL|OPENBLAS|NUMEXPR|VECLIB_MAXIMUM)_NUM_THREADS|OMP_PROC_BIND|OMP_PLACES|CUDA_VISIBLE_DEVICES"
    r"|CUDA_DEVICE_ORDER|CUBLAS_WORKSPACE_CONFIG|NCCL_(DEBUG|SOCKET_IFNAME|IB_DISABLE|P2P_DISABLE)|GLOO_SOCKET_IFNAME"
    r"|WANDB_(MODE|SILENT)|RPG_BENCH_(DATA|NATIVE)"
)
_HANDLERS = ("logging.StreamHandler", "logging.NullHandler")
_FILE_HANDLER, _LOG_FILE = "logging.FileHandler", "${hydra.runtime.output_dir}/${hydra.job.name}.log"
_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
_PRE_DISPATCH = re.compile(r"all|[0-9n_jobs*+ ]+")  # joblib computes it


@contextlib.contextmanager
def checked_configurations() -> Iterator[None]:
    """Within this block, Hydra composes nothing that `check` refuses."""
    compose = ConfigLoaderImpl.load_configuration
    signature = inspect.signature(compose)

    @functools.wraps(compose)
    def checked(*arguments: Any, **options: Any) -> DictConfig:
        composed = compose(*arguments, **options)
        check(composed, signature.bind(*arguments, **options).arguments["overrides"])
        return composed

    ConfigLoaderImpl.load_configuration = checked  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration = compose  # type: ignore[method-assign]


def check(composed: DictConfig, given: Sequence[str]) -> None:
    """See that a composed configuration makes Hydra run nothing but what is known here.

    Args:
        composed: with its `hydra` node.
        given: the overrides of the command line.

    Raises:
        InvalidInput: it would.
    """
    hydra = composed.hydra
    overrides: Any = OmegaConf.to_container(hydra.overrides, resolve=False)
    smuggled = [text for text in [*overrides["hydra"], *overrides["task"]] if text not in given]
    if smuggled:
        raise InvalidInput(f"hydra.overrides: {smuggled[0]!r} was not given; only the command line overrides")
    if hydra.get("callbacks"):
        raise InvalidInput(f"hydra.callbacks: {next(iter(hydra.callbacks))!r} is not allowed; there are none here")
    for name in ("job_logging", "hydra_logging"):
        _check_logging(hydra.get(name), f"hydra.{name}")
    for field, target in _targets(hydra, "hydra"):
        allowed = TARGETS.get(field.removesuffix("._target_"), ())
        if not allowed:
            raise InvalidInput(f"{field}: {target!r} is not allowed; nothing is instantiated there")
        if target not in allowed:
            raise unknown(field, target, allowed)
    own = {text.lstrip("+~").partition("=")[0] for text in given}
    _check_environment(hydra, own)
    _check_launcher(hydra, own)


def _targets(node: Any, field: str) -> Iterator[tuple[str, Any]]:
    """Every `_target_` below, with its dotted name; through interpolations too, as Hydra follows them."""
    if isinstance(node, (DictConfig, ListConfig)) and not (node._is_none() or node._is_missing()):
        keys: Iterable[Any] = node if isinstance(node, DictConfig) else range(len(node))
        for key in keys:
            name = f"{field}.{key}"
            try:
                value = node[key]
            except OmegaConfBaseException:  # a value that is missing yet, as the job's number
                if key == "_target_":
                    raise InvalidInput(f"{name}: cannot be read, and is not allowed so") from None
                continue
            if key == "_target_":
                yield name, value
            yield from _targets(value, name)


def _check_logging(node: Any, field: str) -> None:
    if node is None:
        return
    values = OmegaConf.to_container(node, resolve=False)
    assert isinstance(values, dict)
    for place, value in _leaves(values, field):
        key = place.rpartition(".")[2]
        if key == "()":
            raise InvalidInput(f"{place}: {value!r} is not allowed; logging would call it")
        if isinstance(value, str) and "ext://" in value and value not in _STREAMS:
            raise InvalidInput(f"{place}: {value!r} is not allowed; allowed: {', '.join(_STREAMS)}")
    for name, handler in (values.get("handlers") or {}).items():
        place, kind = f"{field}.handlers.{name}", handler.get("class")
        if kind == _FILE_HANDLER:
            if handler.get("filename") != _LOG_FILE:
                raise InvalidInput(f"{place}.filename: {handler.get('filename')!r} is not allowed; only {_LOG_FILE!r}")
        elif kind not in _HANDLERS:
            raise InvalidInput(f"{place}.class: {kind!r} is not allowed; allowed: {', '.join(_HANDLERS)}")
    for name, formatter in (values.get("formatters") or {}).items():
        if "class" in formatter:
            raise InvalidInput(f"{field}.formatters.{name}.class: {formatter['class']!r} is not allowed")


def _check_environment(hydra: DictConfig, own: Collection[str]) -> None:
    copied = "hydra.job.env_copy" in own  # Hydra has put these among those that are set
    for name in map(str, hydra.job.env_set):
        given = {"hydra.job.env_set", f"hydra.job.env_set.{name}"} & set(own) or (copied and name in hydra.job.env_copy)
        if not given and not ENVIRONMENT.fullmatch(name):
            raise InvalidInput(
                f"hydra.job.env_set: {name!r} is not allowed in a file; set it where you start the command"
            )


def _check_launcher(hydra: DictConfig, own: Collection[str]) -> None:
    launcher = hydra.get("launcher")
    if launcher is None:
        return
    preset = config_directory() / "hydra" / "launcher" / f"{hydra.runtime.choices.get('hydra/launcher')}.yaml"
    ours: Any = OmegaConf.to_container(OmegaConf.load(preset)) if preset.is_file() else {}
    values: Any = OmegaConf.to_container(launcher, resolve=False)
    for key in SHELL:
        given = any(text == f"hydra.launcher.{key}" or text.startswith(f"hydra.launcher.{key}.") for text in own)
        if values.get(key) and values[key] != ours.get(key) and not given:
            raise InvalidInput(
                f"hydra.launcher.{key}: {values[key]!r} is not allowed in a file, as a shell would read it; give it on "
                "the command line"
            )
    for place, value in _leaves({key: values[key] for key in values if key not in SHELL}, "hydra.launcher"):
        if isinstance(value, str) and not value.isprintable():
            raise InvalidInput(f"{place}: {value!r} has characters that cannot be printed")
    dispatch = str(values.get("pre_dispatch", "all"))
    if dispatch != str(ours.get("pre_dispatch")) and not _PRE_DISPATCH.fullmatch(dispatch):
        raise InvalidInput(f"hydra.launcher.pre_dispatch: {dispatch!r} is not allowed; allowed: all, 3, 2*n_jobs")


def _leaves(values: Any, field: str) -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _leaves(value, f"{field}.{key}")
    elif isinstance(values, list):
        for number, value in enumerate(values):
            yield from _leaves(value, f"{field}.{number}")
    else:
        yield field, values
