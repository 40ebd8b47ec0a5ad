"""The compiler of torch is imported by whoever uses it, and by nobody else."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from headstart.encoding import compiler


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Have something else stand where the compiler is imported from, and nothing where it was imported."""
    real = ModuleType(compiler.COMPILER)
    real.__dict__.update(disable=lambda function, *args, **options: lambda: ("disabled", function()), config="its own")
    for name in (compiler.COMPILER, compiler.HELPERS):
        monkeypatch.setitem(sys.modules, name, real)  # so that it is put back
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(compiler.importlib, "import_module", lambda name: sys.modules.setdefault(name, real))
    return real


def test_what_is_imported_meanwhile_gets_a_function_that_asks_the_compiler_when_it_is_called(real: ModuleType) -> None:
    with compiler.postponed():
        later = sys.modules[compiler.COMPILER].disable(lambda: 3)
    assert compiler.COMPILER not in sys.modules
    assert compiler.HELPERS not in sys.modules
    assert later() == ("disabled", 3)
    assert sys.modules[compiler.COMPILER] is real


def test_whatever_else_is_asked_of_it_imports_the_compiler(real: ModuleType) -> None:
    with compiler.postponed():
        stand_in = sys.modules[compiler.COMPILER]
        assert not hasattr(stand_in, "__file__")
        assert sys.modules[compiler.COMPILER] is stand_in
        assert stand_in.config == "its own"
    assert sys.modules[compiler.COMPILER] is real


def test_a_compiler_that_is_there_stays(real: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, compiler.COMPILER, real)
    with compiler.postponed():
        assert sys.modules[compiler.COMPILER] is real
    assert sys.modules[compiler.COMPILER] is real
