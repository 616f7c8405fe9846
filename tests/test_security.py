"""Nothing that is read executes code, and no secret is written."""

from __future__ import annotations

import ast
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runner import ROOT, TINY, configured, train_tiny
from test_resume import stopping_after

from rpg_bench import InvalidInput
from rpg_bench.backbones import create_backbone
from rpg_bench.command_line import run_command
from rpg_bench.config import BackboneConfig
from rpg_bench.engine import Trainer
from rpg_bench.secrets import HIDDEN, redacted, refuse_secrets
from rpg_bench.signals import Interrupted
from rpg_bench.train import train

Run = Callable[..., tuple[int, str, str]]

SECRET = "0123456789abcdef0123456789abcdef01234567"
EXPERIMENT = """
# @package _global_
sweep: theirs
defaults:
  - override /backbone: timm
  - override /tracking: disabled
  - _self_
backbone: {name: test_resnet}
dataset: {subset: 0.2, image_size: 8}
recipe: {epochs: 1, batch_size: 32}
device: cpu
dof: 5k
hydra:
  mode: MULTIRUN
"""


@pytest.fixture
def colleague(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run an experiment file that a colleague sent, with more lines below `hydra:`; exit code, stdout, stderr."""

    def run(lines: str, *arguments: str, head: str = EXPERIMENT) -> tuple[int, str, str]:
        folder = Path("theirs/experiment")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "theirs.yaml").write_text(head + "".join(f"  {line}\n" for line in lines.splitlines()))
        command = ["rpg_bench.train", "--config-dir", "theirs", "+experiment=theirs", *arguments]
        monkeypatch.setattr(sys, "argv", command)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        code = 0
        capsys.readouterr()
        try:
            run_command(train)
        except SystemExit as left:
            code = int(left.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


TOUCH = "{_target_: os.system, command: touch executed}"
ATTACKS: dict[str, tuple[str, str]] = {
    "launcher": ("launcher: {_target_: os.abort}", "hydra.launcher._target_"),
    "launcher, with arguments": (f"launcher: {TOUCH}", "hydra.launcher.command"),
    "a function of ours as launcher": ("launcher: {_target_: rpg_bench.train.main}", "hydra.launcher._target_"),
    "sweeper": (f"sweeper: {TOUCH}", "hydra.sweeper._target_"),
    "within the sweeper": (f"sweeper: {{params: {TOUCH}}}", "hydra.sweeper.params._target_"),
    "within a list": (f"sweeper: {{cases: [{TOUCH}]}}", "hydra.sweeper.cases.0._target_"),
    "by interpolation": ("sweeper: {params: '${backbone.options}'}", "hydra.sweeper.params._target_"),
    "callback": (f"callbacks: {{one: {TOUCH}}}", "hydra.callbacks"),
    "logging, a factory": (
        "job_logging: {handlers: {one: {(): os.system, command: touch executed}}, root: {handlers: [one]}}",
        "hydra.job_logging.handlers.one.()",
    ),
    "logging, a class": (
        "hydra_logging: {handlers: {one: {class: subprocess.Popen, args: [touch, executed]}}}",
        "hydra.hydra_logging.handlers.one.class",
    ),
    "logging, an import": (
        "job_logging: {handlers: {one: {class: logging.StreamHandler, stream: 'ext://antigravity'}}}",
        "ext://antigravity",
    ),
    "logging into a file": (
        "job_logging: {handlers: {one: {class: logging.FileHandler, filename: executed}}}",
        "hydra.job_logging.handlers.one.filename",
    ),
    "environment": ("job: {env_set: {PATH: /tmp/theirs}}", "hydra.job.env_set: 'PATH'"),
    "environment, copied": ("job: {env_copy: [HOME]}", "hydra.job.env_set: 'HOME'"),
    "overrides that nobody gave": ("overrides: {hydra: ['hydra.job.env_set={PATH: x}']}", "hydra.overrides"),
    "a case for hydra": ("sweeper: {cases: ['hydra.job.name=x']}", "hydra.sweeper.cases[0]"),
    "a grid for hydra": ("sweeper: {params: {hydra.job.name: x}}", "hydra.sweeper.params"),
}


@pytest.mark.parametrize(("lines", "mentioned"), ATTACKS.values(), ids=ATTACKS.keys())
def test_an_experiment_file_cannot_run_code(colleague: Run, lines: str, mentioned: str) -> None:
    head = EXPERIMENT
    if "backbone.options" in lines:
        head = EXPERIMENT.replace("{name: test_resnet}", f"{{name: test_resnet, options: {TOUCH}}}")
    code, _, err = colleague(lines, head=head)
    assert code == 2, err
    assert len(err.splitlines()) == 1, err
    assert mentioned in err
    assert not Path("executed").exists()
    assert os.listdir() == ["theirs"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("setup", "['touch executed']"),
        ("srun_args", "['--prolog=executed']"),
        ("additional_parameters", "{export: 'LD_PRELOAD=x'}"),
        ("comment", '"x\\ntouch executed"'),
    ],
)
def test_an_experiment_file_cannot_put_text_into_a_shell(colleague: Run, key: str, value: str) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    head = EXPERIMENT.replace("  - _self_", "  - override /hydra/launcher: slurm\n  - _self_")
    code, _, err = colleague(f"launcher: {{{key}: {value}}}", head=head)
    assert code == 2, err
    assert len(err.splitlines()) == 1, err
    assert f"hydra.launcher.{key}" in err
    assert not Path("executed").exists()


def test_what_joblib_would_compute_is_a_number(colleague: Run) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    head = EXPERIMENT.replace("  - _self_", "  - override /hydra/launcher: joblib\n  - _self_")
    code, _, err = colleague("""launcher: {pre_dispatch: "__import__('os').system('touch executed')"}""", head=head)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "hydra.launcher.pre_dispatch" in err
    assert not Path("executed").exists()


def test_the_user_may_set_on_the_command_line_what_a_file_may_not(colleague: Run) -> None:
    code, _, err = colleague("", "+hydra.job.env_set.MY_OWN=1", "seed=0")
    assert (code, err) == (0, "")
    code, _, err = colleague("", "hydra/launcher=slurm", "hydra.launcher.setup=[module load cuda]", "--cfg", "hydra")
    assert (code, err) == (0, "")


def test_an_ordinary_experiment_of_a_colleague_runs(colleague: Run) -> None:
    code, out, err = colleague("sweeper: {cases: [sharing=none dof=10k], params: {seed: '0'}}")
    assert (code, err) == (0, "")
    assert "1 of 1 runs are finished" in out


@pytest.mark.parametrize(
    "options",
    [
        {"checkpoint_path": "theirs.pt"},
        {"pretrained": True},
        {"pretrained_cfg": {"file": "theirs.pt"}},
        {"pretrained_cfg_overlay": {"url": "http://localhost/theirs.pt"}},
        {"cache_dir": "theirs"},
    ],
)
def test_a_network_reads_no_file(options: dict[str, Any]) -> None:
    backbone = BackboneConfig(name="test_resnet", options=options)
    with pytest.raises(InvalidInput, match=next(iter(options))):
        create_backbone(backbone, classes=10, channels=3, image_size=32)


@pytest.mark.parametrize(
    "name", ["hf-hub:timm/resnet18.a1_in1k", "hf_hub:timm/resnet18", "local-dir:theirs", "resnet18.local-dir:theirs"]
)
def test_a_network_is_known_by_its_name_alone(name: str) -> None:
    with pytest.raises(InvalidInput, match="backbone"):
        create_backbone(BackboneConfig(name=name), classes=10, channels=3, image_size=32)


# What executes what it is given.
DANGEROUS = ("eval", "exec", "compile", "__import__", "instantiate", "unsafe_load", "full_load", "call")


def test_no_code_of_ours_executes_what_it_reads() -> None:
    """Every call of pickle, torch.load, np.load, yaml.load, eval and the like in the package."""
    found = []
    for path in sorted([*(ROOT / "rpg_bench").rglob("*.py"), *(ROOT / "hydra_plugins").rglob("*.py")]):
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            last = called.rpartition(".")[2]
            keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if called in ("torch.load",):
                assert keywords.get("weights_only") == "True", f"{name}:{node.lineno}"
            elif called in ("np.load", "numpy.load"):
                assert keywords.get("allow_pickle", "False") == "False", f"{name}:{node.lineno}"
            elif called.startswith(("pickle.", "cloudpickle.", "marshal.", "shelve.", "joblib.", "yaml.")):
                if last not in ("UnpicklingError", "safe_load", "dumps"):
                    found.append(f"{name}:{node.lineno}: {called}")
            elif called in (*DANGEROUS, "os.system", "os.popen", "hydra.utils.instantiate", "hydra.utils.call"):
                found.append(f"{name}:{node.lineno}: {called}")
            elif keywords.get("shell") == "True":
                found.append(f"{name}:{node.lineno}: {called} in a shell")
    assert found == []


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("MY_DATABASE_PASSWORD", "correct horse battery")


def holders(folder: Path, *texts: str) -> list[str]:
    """The files below that hold one of the texts, as they are or in base64."""
    import base64

    wanted = [text.encode() for text in texts]
    wanted += [base64.b64encode(text)[:-4] for text in wanted]
    paths = [path for path in folder.rglob("*") if path.is_file()]
    assert paths
    return [str(path) for path in paths if any(text in path.read_bytes() for text in wanted)]


def test_no_secret_is_written(
    tmp_path: Path, keys: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Record, checkpoints, W&B's files, progress, failure, plan and output of runs that finish, stop and fail."""
    train_tiny("tracking=offline")
    with stopping_after(monkeypatch, 5), pytest.raises(Interrupted):
        train_tiny("tracking=offline", "seed=1")
    step = Trainer._step

    def failing(self: Trainer, batches: Any) -> None:
        step(self, batches)
        raise RuntimeError(f"401 for {os.environ['WANDB_API_KEY']} and {os.environ['MY_DATABASE_PASSWORD']}")

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_step", failing)
        patched.setattr(sys, "argv", ["rpg_bench.train", "--multirun", *TINY, "seed=2", "tracking=offline"])
        with pytest.raises(SystemExit):
            run_command(train)
    (failure,) = tmp_path.rglob("failure.json")
    assert json.loads(failure.read_text())["message"] == f"401 for {HIDDEN} and {HIDDEN}"
    assert {path.suffix for path in tmp_path.rglob("*")} >= {".json", ".pt", ".wandb"}
    assert holders(tmp_path, SECRET, "correct horse battery") == []
    said = capfd.readouterr()
    assert SECRET not in said.out + said.err
    assert "correct horse" not in said.out + said.err


@pytest.mark.parametrize(
    "argument",
    [
        "tracking.name=${oc.env:WANDB_API_KEY}",
        "tracking.tags=['of ${oc.env:MY_DATABASE_PASSWORD}']",
        "sweep=${oc.env:WANDB_API_KEY}",
        "+backbone.options.x=${oc.env:WANDB_API_KEY}",
        f"tracking.project={SECRET}",
    ],
)
def test_a_configuration_that_holds_a_secret_is_refused(keys: None, argument: str) -> None:
    with pytest.raises(InvalidInput, match=r"environment variable (WANDB_API_KEY|MY_DATABASE_PASSWORD)") as refusal:
        configured(*TINY, argument)
    assert SECRET not in str(refusal.value)
    assert "correct horse" not in str(refusal.value)


def test_a_sweep_with_a_secret_leaves_nothing_of_it(
    tmp_path: Path, keys: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for argument in ("tracking.name=${oc.env:WANDB_API_KEY}", f"tracking.name={SECRET}"):
        monkeypatch.setattr(sys, "argv", ["rpg_bench.train", "--multirun", *TINY, argument, "seed=0"])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        with pytest.raises(SystemExit) as left:
            run_command(train)
        assert left.value.code == 2
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err
    assert holders(tmp_path, SECRET) == []


def test_what_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        monkeypatch.delenv(name)
    values = {"HF_TOKEN": "hf_abcdefgh", "AWS_SECRET_ACCESS_KEY": "aws/abcdefgh", "GITHUBTOKEN": "ghp_abcdefgh"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    for name, value in {
        "GIT_AUTHOR_NAME": "A. N. Other",
        "KEYBOARD": "querty-us",
        "API_KEY": "short",
        "HOME": "/home/me",
    }.items():
        monkeypatch.setenv(name, value)
    assert redacted("hf_abcdefgh aws/abcdefgh ghp_abcdefgh") == " ".join([HIDDEN] * 3)
    assert redacted("A. N. Other querty-us short /home/me") == "A. N. Other querty-us short /home/me"
    refuse_secrets({"a": ["A. N. Other"], "b": {"c": 3, "d": None}})
    with pytest.raises(InvalidInput, match=r"^b\.c\[1\]: holds the value of the environment variable HF_TOKEN"):
        refuse_secrets({"a": 1, "b": {"c": ["x", "my hf_abcdefgh"]}})
