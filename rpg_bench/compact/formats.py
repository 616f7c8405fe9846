"""A network in the formats of others: plain weights, ONNX, torch.export; each read back and compared."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rpg_bench.compact.load import load
from rpg_bench.compact.recipe import Recipe
from rpg_bench.compact.write import compact
from rpg_bench.errors import Failed, InvalidInput
from rpg_bench.files import write_aside
from rpg_bench.sharing import materialize

FORMATS = {"compact": ".safetensors", "dense": ".safetensors", "onnx": ".onnx", "torch_export": ".pt2"}
TOLERANCE = 1e-3  # of logits, relative to the largest; another runtime sums in another order

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Comparison:
    """A written network against its source."""

    images: int
    difference: float  # largest, of any logit
    agreement: float  # share of the images with the same top-1
    largest: float  # magnitude of the source's logits

    def __str__(self) -> str:
        return (
            f"max abs difference {self.difference:.3g} (logits up to {self.largest:.3g}), same top-1 on "
            f"{self.agreement:.2%} of {self.images} images"
        )


@torch.inference_mode()
def compare(source: Network, written: Network, images: Tensor) -> Comparison:
    """Outputs of both on the same images, (n, c, h, w) float32."""
    expected, found = source(images).float(), written(images).float()
    return Comparison(
        len(images),
        float((expected - found).abs().max()),
        float((expected.argmax(1) == found.argmax(1)).float().mean()),
        float(expected.abs().max()),
    )


def write(model: nn.Module, recipe: Recipe, kind: str, path: Path) -> None:
    """Write the network in one of `FORMATS`, whole or not at all.

    Raises:
        InvalidInput: a package is missing, or the network cannot be written so.
    """
    content = _WRITERS[kind](model, recipe)
    try:
        write_aside(path, content)
    except OSError as error:
        raise InvalidInput(f"output: {path} cannot be written: {error.strerror}") from None


def read(kind: str, path: Path, model: nn.Module) -> Network:
    """The network of a written file, by the means that its users have.

    model: gives the architecture where the format has only weights.
    """
    return _READERS[kind](path, model)


def check(kind: str, found: Comparison) -> None:
    """Refuse what is not the source's network; the compact file must be it bit for bit.

    Raises:
        Failed: the outputs differ.
    """
    allowed = 0.0 if kind == "compact" else TOLERANCE * max(found.largest, 1.0)
    if not found.difference <= allowed:
        raise Failed(f"format: what was written as {kind} is not the network: {found}")


def _compact(model: nn.Module, recipe: Recipe) -> bytes:
    return compact(model, recipe).content


def _dense(model: nn.Module, recipe: Recipe) -> bytes:
    from safetensors.torch import save

    return save(_plain_state(model))


def _plain_state(model: nn.Module) -> dict[str, Tensor]:
    """Tied weights under each of their names: a plain model has them too."""
    return {name: value.clone().contiguous() for name, value in materialize(model).state_dict().items()}


def _read_dense(path: Path, model: nn.Module) -> Network:
    from safetensors.torch import load_file

    plain = materialize(model)  # an ordinary network of timm; its values are overwritten
    for tensor in plain.state_dict().values():
        tensor.zero_()
    plain.load_state_dict(load_file(str(path)))
    return plain.eval()


def _onnx(model: nn.Module, recipe: Recipe) -> bytes:
    _needs("onnx", "onnxscript", "onnxruntime")
    images = _example(recipe)
    with quietly():
        program = torch.onnx.export(
            materialize(model).eval(),
            (images,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def _read_onnx(path: Path, model: nn.Module) -> Network:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _torch_export(model: nn.Module, recipe: Recipe) -> bytes:
    with quietly():
        program = torch.export.export(
            materialize(model).eval(), (_example(recipe),), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
    return buffer.getvalue()


def _read_torch_export(path: Path, model: nn.Module) -> Network:
    with quietly():
        module: Any = torch.export.load(str(path)).module()
    return lambda images: module(images)


def _example(recipe: Recipe) -> Tensor:
    return torch.zeros(2, recipe.channels, recipe.image_size, recipe.image_size)


def _needs(*packages: str) -> None:
    from importlib.util import find_spec

    for package in packages:
        if find_spec(package) is None:
            raise InvalidInput(f"format: onnx needs {package}; pip install 'rpg-bench[export]'")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the remarks of torch's exporters."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


_WRITERS: dict[str, Callable[[nn.Module, Recipe], bytes]] = {
    "compact": _compact,
    "dense": _dense,
    "onnx": _onnx,
    "torch_export": _torch_export,
}
_READERS: dict[str, Callable[[Path, nn.Module], Network]] = {
    "compact": lambda path, _: load(path),
    "dense": _read_dense,
    "onnx": _read_onnx,
    "torch_export": _read_torch_export,
}
