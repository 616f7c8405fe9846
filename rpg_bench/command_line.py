"""Hydra around a command: where the configuration lies, and one line instead of a trace for bad input."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rpg_bench import processes, slurm
from rpg_bench.config import TrainConfig, config_directory, unknown_key
from rpg_bench.errors import BAD_INPUT, FAILED, INTERRUPTED, Failed, InvalidInput, unknown
from rpg_bench.hydra_check import checked_configurations
from rpg_bench.lease import Held
from rpg_bench.secrets import redacted
from rpg_bench.signals import Interrupted
from rpg_bench.sweeper import Deferred, Failure, SweepFailed

_LAUNCHER = "hydra.launcher."


def register_schema(switches: Mapping[str, bool] | None = None) -> None:
    """Make every key of `TrainConfig` known to Hydra with its default, so that any can be overridden.

    switches: keys that one command has in addition.
    """
    schema: Any = OmegaConf.to_container(OmegaConf.structured(TrainConfig))
    for group in ("dataset", "backbone", "sharing", "optimizer", "tracking"):
        schema[group].pop("name", None)  # the file that is chosen gives it
    del schema["sharing"]["options"]
    node = OmegaConf.create({**schema, **(switches or {})})
    for group in ("backbone", "optimizer"):  # any key may be set below these
        OmegaConf.set_struct(node[group].options, False)
    ConfigStore.instance().store("schema", node)


def run_command(task: Callable[[DictConfig], Any], switches: Mapping[str, bool] | None = None) -> None:
    """Run `task` on the configuration that the command line composes, and exit.

    `switches` are keys that this command has in addition, with their defaults; they reach the task too.

    A run of a sweep that fails does not stop the others. Exit codes: 0 done, 1 failed, 2 bad input,
    128 + n stopped by signal n; of a sweep, that of its first failure.
    """
    failures: list[int] = []

    def guarded(composed: DictConfig) -> Any:
        hydra_config = HydraConfig.get()
        sweeping = hydra_config.mode == RunMode.MULTIRUN
        if sweeping:
            print(redacted(f"\n[{hydra_config.job.num + 1}] {' '.join(hydra_config.overrides.task)}"), flush=True)
        slurm.join_step()
        slurm.requeue_before_training()
        # Reported here: Hydra would add a line of its own to what it sees raised.
        try:
            return task(composed)
        except Interrupted as stop:
            slurm.leave(stop)
            raise SystemExit(stop.exit_code) from None
        except InvalidInput as error:
            failure = Failure(BAD_INPUT, str(error))
        except Held as held:
            if sweeping:
                print(f"{held}; left for the end", flush=True)
                return Deferred(held.path)
            failure = Failure(FAILED, str(held))
        except Failed as error:
            failure = Failure(FAILED, str(error))
        except Exception as error:
            if processes.count() > 1:
                processes.abandon(error)
            if not sweeping:
                raise
            print(redacted(traceback.format_exc()), file=sys.stderr, flush=True)
            failure = Failure(FAILED, " ".join(f"{type(error).__name__}: {error}".split()))
        _report(failure.message)
        failures.append(failure.code)
        return failure  # where the run has a process of its own, all that is left of it

    # Hydra would print its own messages and exit with 1; this hands its exceptions to us.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.excepthook = _print_trace
    register_schema(switches)
    try:
        with checked_configurations():
            hydra.main(version_base="1.3", config_path=str(config_directory()), config_name="train")(guarded)()
    except (HydraException, OmegaConfBaseException) as error:
        _report(explain(error))
        failures.append(BAD_INPUT)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        _report(f"configuration file: {' '.join(str(error).split())}")
        failures.append(BAD_INPUT)
    except InvalidInput as error:  # in the experiment itself
        _report(str(error))
        failures.append(BAD_INPUT)
    except BrokenProcessPool:  # joblib's; it has ended the others
        _report(
            "a process of the sweep was killed, as where memory is short, and the others with it; the same command "
            "continues them"
        )
        failures.append(FAILED)
    except Failed as error:  # as of Slurm, that does not answer
        _report(str(error))
        failures.append(FAILED)
    except SweepFailed as error:
        failures.append(error.code)
    except KeyboardInterrupt:
        _report("interrupted; the same command goes on from the last checkpoint, if there is one")
        raise SystemExit(INTERRUPTED) from None
    if failures:
        raise SystemExit(failures[0])


def is_sweep() -> bool:
    """Whether the run at hand is one of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def explain(error: Exception) -> str:
    """Turn an exception of Hydra or OmegaConf into one line with the nearest valid choice."""
    text = str(error)
    if isinstance(error, OverrideParseException):
        return f"command line: {error.override}: {text.splitlines()[0]}"
    if isinstance(error, MissingConfigException) and (found := re.search(r"Could not find '([^']+)/([^'/]+)'", text)):
        group, name = found.groups()
        if (group, name) == ("hydra/launcher", "joblib"):
            return "hydra/launcher: 'joblib' needs hydra-joblib-launcher; pip install 'rpg-bench[cluster]' brings it"
        options = error.options if error.options is not None else re.findall(r"^\t([\w.-]+)$", text, re.MULTILINE)
        return str(unknown(group, name, options))
    if found := re.search(r"Could not override '([^']+)'", text):
        key = found.group(1)
        return str(_unknown_launcher_key(key) if key.startswith(_LAUNCHER) else unknown_key(key, TrainConfig()))
    if found := re.search(r"Could not append to config.*'([^']+)'|at '([^']+)' is already", text):
        return text.split("\n")[0]
    return f"command line: {' '.join(text.split())}"


def _unknown_launcher_key(key: str) -> InvalidInput:
    """Of the launcher that the command line chooses."""
    chosen = [text.partition("=")[2] for text in sys.argv if text.startswith("hydra/launcher=")]
    file = config_directory() / "hydra" / "launcher" / f"{chosen[-1] if chosen else 'local'}.yaml"
    if file.is_file():
        values: Any = OmegaConf.load(file)
    else:
        plugins: Any = ConfigStore.instance().repo.get("hydra", {}).get("launcher", {})
        values = plugins[file.name].node if file.name in plugins else {}
    names = [name for name in values if name != "_target_"]
    return unknown(key.removesuffix(f".{key.removeprefix(_LAUNCHER)}"), key.removeprefix(_LAUNCHER), names)


def _print_trace(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The trace of a defect, as Python prints it but for secrets."""
    print(redacted("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr, flush=True)


def _report(message: str) -> None:
    if processes.rank() == 0:  # all processes of a run agree on these errors
        print(f"error: {redacted(message)}", file=sys.stderr, flush=True)
