"""Torch's compiler, imported only by who compiles: the training command does not, and it takes two seconds."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, NoneType, SimpleNamespace
from typing import Any, ParamSpec, TypeVar

COMPILER = "torch._dynamo"

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class _Deferred(ModuleType):
    """Stands for a module until something is asked of it that is not among its `known` attributes."""

    def __init__(self, name: str, imported: Callable[[str], ModuleType], **known: Any) -> None:
        super().__init__(name)
        self.__dict__.update(known, _imported=imported)

    def __getattr__(self, attribute: str) -> Any:
        # Who looks through all modules asks for names like __file__; who imports a submodule, for __path__.
        if attribute.startswith("__") and (self.__name__, attribute) != (COMPILER, "__path__"):
            raise AttributeError(attribute)
        return getattr(self._imported(self.__name__), attribute)


@contextlib.contextmanager
def without_compiler() -> Iterator[None]:
    """Within this block the compiler is imported only when more is asked of it than whether it is in use.

    Torch's optimizers import it to mark functions that it shall leave alone, timm's to set an option of
    it, torchvision for a check of an operation that is not used here, accelerate to see whether a network
    is compiled.
    """
    if COMPILER in sys.modules:
        yield
        return

    def disable(function: Callable[..., Any], *_: object, **__: object) -> Callable[..., Any]:
        return function

    def is_compile_supported(device: str) -> bool:
        return bool(imported(utilities).is_compile_supported(device))

    def graph_break() -> None:
        """There is no graph."""

    class OptimizedModule:
        """No network is one yet."""

    def imported(name: str) -> ModuleType:
        """The module itself, from now on for everybody."""
        withdraw()
        module = importlib.import_module(name)
        for option, value in vars(settings).items():
            setattr(importlib.import_module(f"{COMPILER}.config"), option, value)
        return module

    def withdraw() -> None:
        for name in (COMPILER, utilities):
            if isinstance(sys.modules.get(name), _Deferred):
                del sys.modules[name]

    utilities, settings = f"{COMPILER}.utils", SimpleNamespace()
    frames = SimpleNamespace(OptimizedModule=OptimizedModule)
    known = {"disable": disable, "graph_break": graph_break, "eval_frame": frames, "config": settings}
    sys.modules[COMPILER] = _Deferred(COMPILER, imported, **known)
    sys.modules[utilities] = _Deferred(utilities, imported, is_compile_supported=is_compile_supported)
    try:
        yield
    finally:
        withdraw()


def outside_of_graphs(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """`torch.compiler.disable`, put off until there is a compiler to tell."""
    disabled: Callable[_Arguments, _Result] | None = None

    @functools.wraps(function)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        nonlocal disabled
        if isinstance(sys.modules.get(COMPILER), (_Deferred, NoneType)):
            return function(*args, **kwargs)
        if disabled is None:
            disabled = importlib.import_module("torch").compiler.disable(function)
        return disabled(*args, **kwargs)

    return call
