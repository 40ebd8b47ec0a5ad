"""Postpones the import of torch's compiler, which takes a third of the time of importing timm and is not used here.

torchvision and timm want two functions of it while they are imported. They get stand-ins that load the compiler when
they are called; whatever else is asked of it loads it at once.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any

COMPILER, HELPERS = "torch._dynamo", "torch._dynamo.utils"


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """Import without the compiler; afterwards nothing is left of the stand-ins but the functions that were taken."""
    if COMPILER in sys.modules:
        yield
        return
    modules = {COMPILER: _stand_in(COMPILER, _disable), HELPERS: _stand_in(HELPERS, is_compile_supported)}
    sys.modules.update(modules)
    try:
        yield
    finally:
        _remove(modules)


def is_compile_supported(device: str) -> Any:
    """Return what the compiler says of a kind of device."""
    return importlib.import_module(HELPERS).is_compile_supported(device)


def _disable(function: Any = None, *args: Any, **options: Any) -> Any:
    """Keep a function from being compiled: by the compiler itself, when the function is first called."""
    disable: Callable[..., Any] = lambda: _real(COMPILER).disable(function, *args, **options)  # noqa: E731
    if not isinstance(function, FunctionType):
        return disable()

    @functools.wraps(function)
    def disabled(*given: Any, **named: Any) -> Any:
        return disable()(*given, **named)

    return disabled


def _stand_in(name: str, function: Callable[..., Any]) -> ModuleType:
    module = ModuleType(name)
    module.__dict__[function.__name__.lstrip("_")] = function

    def other(wanted: str) -> Any:
        if wanted.startswith("__"):  # whoever looks through all modules asks these for their files
            raise AttributeError(wanted)
        return getattr(_real(name), wanted)

    module.__dict__["__getattr__"] = other
    return module


def _real(name: str) -> Any:
    """Import what a stand-in stands for."""
    _remove({other: module for other in (COMPILER, HELPERS) if (module := sys.modules.get(other)) is not None})
    return importlib.import_module(name)


def _remove(modules: dict[str, ModuleType]) -> None:
    """Remove stand-ins; the compiler itself stays."""
    for name, module in modules.items():
        if sys.modules.get(name) is module and module.__spec__ is None:
            del sys.modules[name]
