"""A limit on what the construction of a network allocates, for recipes from files that nobody vouches for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from rpg_bench.errors import InvalidInput

MOST_MODULES = 20_000
_TOO_LARGE = "file: its network needs more memory than the numbers in the file say"
_SPARE = 1 << 24  # scalars beside the network's own: tables, positions, what is replaced
_SPARE_PARAMETERS = 1 << 29  # of the full network that a narrower one is derived from


@contextlib.contextmanager
def rationed(scalars: int) -> Iterator[None]:
    """Within this block no more than a few times `scalars` are allocated, and not too many modules made.

    Every operation of torch is first done without memory, on the meta device, to see how much it would take. What that
    leaves room for, since most of it is freed at once, is no room for parameters, which stay: they are counted too.

    Raises:
        InvalidInput: more is asked for.
    """
    modules, parameters = 0, 0
    most = 2 * scalars + _SPARE_PARAMETERS

    def count(module: nn.Module, name: str, submodule: nn.Module | None) -> None:
        nonlocal modules
        modules += 1
        if modules > MOST_MODULES:
            raise InvalidInput(f"file: its network has more than {MOST_MODULES:,} modules")

    def weigh(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal parameters
        parameters += 0 if parameter is None else parameter.numel()
        if parameters > most:
            raise InvalidInput(_TOO_LARGE)

    handles = (register_module_module_registration_hook(count), register_module_parameter_registration_hook(weigh))
    try:
        with _Ration(4 * scalars + _SPARE):
            yield
    finally:
        for handle in handles:
            handle.remove()


class _Ration(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no hint
    def __init__(self, scalars: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._largest, self._left = scalars, 16 * scalars  # of one tensor; of all, most of which are freed at once

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(func.overloadpacket).rpartition(".")[2]
        if not name.endswith("_") and not func.is_view:
            wanted = self._wanted(func, args, kwargs)
            self._left -= wanted
            if wanted > self._largest or self._left < 0:
                raise InvalidInput(_TOO_LARGE)
        return func(*args, **kwargs)

    @staticmethod
    def _wanted(func: Any, args: Any, kwargs: Any) -> int:
        """Scalars of the largest result."""

        def meta(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to("meta")
            return torch.device("meta") if isinstance(value, torch.device) else value

        arguments = tree_map(meta, args), tree_map(meta, kwargs)
        if any(argument.name == "device" for argument in func._schema.arguments):
            arguments[1]["device"] = torch.device("meta")
        arguments[1].pop("pin_memory", None)
        arguments[1].pop("generator", None)
        try:
            results = func(*arguments[0], **arguments[1])
        except Exception:  # an operation that looks at values: it takes no more than it was given
            return 0
        found = results if isinstance(results, (list, tuple)) else [results]
        return max((result.numel() for result in found if isinstance(result, Tensor)), default=0)
