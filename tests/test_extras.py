"""What is installed with the extra `train` alone: who needs it says so, with the line that installs it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import headstart
from headstart.errors import TRAINING, MissingExtraError, asked_for

HOME = Path(headstart.__file__).parent
PROJECT = HOME.parents[1] / "pyproject.toml"
BLOCKED = f"import sys\nfor name in {sorted(TRAINING)!r}:\n    sys.modules[name] = None\n"
MODULES = {"scikit-learn": "sklearn"}  # where the module has another name than its package


def python(code: str, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code where what trains cannot be imported."""
    command = [sys.executable, "-c", BLOCKED + code, *map(str, arguments)]
    environment = {"PYTHONPATH": str(HOME.parent)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, cwd=cwd)


def test_the_modules_that_train_are_those_of_the_extra():
    asked = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    named = {one.partition(">")[0] for one in asked["optional-dependencies"]["train"]}
    assert {MODULES.get(name, name.replace("-", "_")) for name in named} == TRAINING
    always = {one.partition(">")[0].replace("-", "_") for one in asked["dependencies"]}
    assert not always & TRAINING


@pytest.mark.parametrize("verb", ["train", "check", "audit", "models", "demo"])
def test_a_verb_that_trains_says_what_to_install(verb: str, photos: Path, tmp_path: Path):
    arguments = [] if verb in ("models", "demo") else [photos]
    ran = python(
        f"sys.argv = ['headstart', {verb!r}, *sys.argv[1:]]\nimport headstart.cli\nheadstart.cli.main()",
        *arguments,
        cwd=tmp_path,
    )
    assert ran.returncode == 2, ran.stderr
    assert f"headstart {verb} needs an optional part that is not installed" in ran.stderr
    assert "pip install 'headstart[train]'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_interface_says_it_too():
    code = "import headstart as hs\ntry:\n    hs.train\nexcept ImportError as error:\n    print(type(error).__name__, "
    assert python(f"{code}error.hint)").stdout == "MissingExtraError pip install 'headstart[train]'\n"


def test_a_model_that_was_saved_without_graphs_says_it_too():
    old = Path(__file__).parent / "artifacts" / "v4"
    code = "import headstart as hs\ntry:\n    hs.load(sys.argv[1])\nexcept ImportError as error:\n    print(error)"
    said = python(code, old).stdout
    assert "as a module of PyTorch needs an optional part" in said
    assert "pip install 'headstart[train]'" in said


def test_what_is_missing_for_another_reason_stays_what_it_is():
    with pytest.raises(ModuleNotFoundError) as told, asked_for("this"):
        raise ModuleNotFoundError("No module named 'elsewhere'", name="elsewhere")
    assert not isinstance(told.value, MissingExtraError)


@pytest.mark.parametrize("asked", ["None", "EncoderConfig(precision='f32')", "EncoderConfig(device='auto')"])
def test_a_model_that_ran_on_pytorch_runs_on_openvino_where_there_is_none(asked: str):
    """The model of format 5 was saved with the torch engine."""
    code = (
        "from headstart.config import EncoderConfig\nfrom headstart.model.artifact import load_classifier\n"
        f"plan = load_classifier(sys.argv[1], {asked}).encoders[0].plan\nprint(plan.engine, plan.device)"
    )
    ran = python(code, Path(__file__).parent / "artifacts" / "v5")
    assert ran.stdout == "openvino cpu\n", ran.stderr
    assert ("PyTorch, which is not installed here" in ran.stderr) == (asked == "None")
