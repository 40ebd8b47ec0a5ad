"""The house in order: who imports whom, one door per outside library, and the surface that users rely on."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import headstart
from headstart import cli

HOME = Path(headstart.__file__).parent

# A room imports only from rooms above it. Rooms of one line are one wing, from left to right.
ORDER = [
    "errors",
    "packed",
    "threads",
    "samples",
    "records",
    "storage",
    "arrays",
    "predictions",
    "metrics",
    "settings",
    "levels",
    "config",
    "plans",
    "schema",
    "data.uris",
    "data.stores",
    "data.ranges",
    "data.arrows",
    "data.limits",
    "data.images",
    "data.manifest",
    "data.tars",
    "data.shapes",
    "data.tables",
    "data.columns",
    "data.frames",
    "data.folders",
    "data.shards",
    "data.listings",
    "data.corrections",
    "data.rows",
    "data.sources",
    "data.pictures",
    "data.units",
    "data.splits",
    "inspection.properties",
    "inspection.files",
    "inspection.quality",
    "inspection.shortcuts",
    "inspection.blocks",
    "inspection.neighbours",
    "inspection.similarity",
    "inspection.thumbnails",
    "inspection.scenes",
    "inspection.duplicates",
    "encoding.wanted",
    "encoding.weights",
    "encoding.architecture",
    "encoding.graph",
    "encoding.network",
    "encoding.pretrained",
    "encoding.quantized",
    "encoding.graphs",
    "encoding.sizes",
    "encoding.backbone",
    "encoding.at_hand",
    "encoding.encoder",
    "encoding.eager",
    "encoding.runtime",
    "encoding.shards",
    "encoding.shared",
    "encoding.cache",
    "encoding.crops",
    "encoding.reading",
    "encoding.opened",
    "encoding.shelves",
    "encoding.side_by_side",
    "encoding.kept_properties",
    "encoding.features",
    "encoding.ondemand",
    "encoding.stages",
    "scale.address",
    "scale.screening",
    "scale.hand",
    "scale.cluster",
    "scale.crew",
    "scale.shipped",
    "scale.encoding",
    "scale.filling",
    "learning.prior",
    "learning.calibration",
    "learning.conformal",
    "learning.exact",
    "learning.out_of_distribution",
    "learning.heads",
    "learning.modules",
    "learning.standardised",
    "learning.problem",
    "learning.logistic",
    "learning.spread",
    "learning.checkpoint",
    "learning.sgd",
    "learning.augment",
    "learning.proof",
    "learning.clock",
    "learning.rates",
    "learning.task",
    "learning.together",
    "learning.finetune",
    "learning.member",
    "learning.elsewhere",
    "learning.learner",
    "learning.linear",
    "learning.epochs",
    "learning.tuner",
    "learning.learners",
    "learning.rules",
    "model.classifier",
    "model.attribution",
    "model.formats",
    "model.description",
    "model.artifact",
    "model.layers",
    "model.portable",
    "experiments.grouping",
    "experiments.random_split",
    "experiments.leakage",
    "experiments.learning_curve",
    "experiments.expectation",
    "experiments.trying",
    "experiments.crops",
    "evaluation.measure",
    "evaluation.comparison",
    "evaluation.label_errors",
    "evaluation.showcase",
    "evaluation.explanation",
    "evaluation.speed",
    "workflows.decide",
    "workflows.budget",
    "workflows.quantizing",
    "workflows.prepare",
    "workflows.check",
    "workflows.audit",
    "workflows.trying",
    "workflows.crops",
    "workflows.resume",
    "workflows.provenance",
    "workflows.train",
    "delivery.submission",
    "delivery.parquet",
    "delivery.forms",
    "delivery.reports",
    "delivery.parts",
    "delivery.blocks",
    "delivery.workers",
    "delivery.clustered",
    "delivery.streaming",
    "delivery.integers",
    "delivery.exports",
    "delivery.runtimes",
    "delivery.parity",
    "report.plots",
    "report.summary",
    "report.stored",
    "report.runs",
    "report.redraw",
    "report.vector",
    "report.story",
    "report.card",
    "report.page",
    "report.gallery",
    "report.origin",
    "report.explained",
    "report.usage",
    "report.exported",
    "report.album",
    "report.notebook",
    "report.bar",
    "report.run",
    "report.logs",
    "serve.limits",
    "serve.inference",
    "serve.processes",
    "serve.queueing",
    "serve.metrics",
    "serve.problems",
    "serve.guard",
    "serve.service",
    "serve.contract",
    "serve.app",
    "serve.server",
    "demo",
    "terminal",
    "cli.places",
    "cli.options",
    "cli.housekeeping",
    "cli.look",
    "cli.train",
    "cli.judge",
    "cli.use",
    "cli.serve",
    "cli",
    "__main__",
]

DOORS = {
    "timm": {"delivery.exports", "delivery.runtimes", "encoding.pretrained", "encoding.at_hand", "encoding.stages"},
    "huggingface_hub": {"encoding.pretrained", "encoding.at_hand"},
    "openvino": {"encoding.graphs"},
    "nncf": {"encoding.quantized"},
    "onnx": {"delivery.integers", "delivery.exports"},
    "onnxruntime": {"delivery.integers", "delivery.runtimes"},
    "obstore": {"data.stores"},
    "pyarrow": {"data.arrows", "delivery.parquet"},
    "ray": {"scale.cluster"},
    "safetensors": {
        "delivery.exports",
        "encoding.weights",
        "encoding.graph",
        "encoding.cache",
        "encoding.shards",
        "learning.checkpoint",
        "learning.problem",
        "model.artifact",
    },
    "platformdirs": {"encoding.cache"},
    "matplotlib": {"report.plots", "report.vector", "report.gallery", "report.explained"},
    "typer": {"cli", "cli.housekeeping", "cli.judge", "cli.look", "cli.options", "cli.serve", "cli.train", "cli.use"},
    "fastapi": {"serve.app"},
    "starlette": {"serve.app", "serve.guard", "serve.problems"},
    "uvicorn": {"serve.server"},
    "prometheus_client": {"serve.metrics"},
    "rich": {"terminal"},
    "tqdm": {"report.bar"},
    "tensorboardX": {"report.logs"},
    "mlflow": {"report.logs"},
    "PIL": {
        "delivery.runtimes",
        "data.images",
        "data.pictures",
        "data.shapes",
        "inspection.properties",
        "report.album",
        "demo",
    },
    "jinja2": {"report.page"},
    "cleanlab": {"evaluation.label_errors"},
    "sklearn": {"inspection.shortcuts", "demo"},
    "scipy": {
        "evaluation.comparison",
        "inspection.thumbnails",
        "learning.calibration",
        "learning.out_of_distribution",
        "learning.problem",
    },
    "torchvision": {"encoding.crops"},
    "usearch": {"inspection.neighbours"},
    "threadpoolctl": {"learning.problem"},
    "tomli_w": {"plans"},
    "tomllib": {"settings"},
}

PUBLIC = [
    "Classifier",
    "Columns",
    "Dataset",
    "Evaluation",
    "Explanation",
    "HeadstartError",
    "Prediction",
    "Predictions",
    "ProgressBar",
    "TrainConfig",
    "TrainingResult",
    "audit",
    "check",
    "evaluate",
    "explain",
    "export",
    "load",
    "read",
    "save",
    "train",
    "try_backbones",
]

VERBS = [
    "audit",
    "cache",
    "check",
    "compare",
    "demo",
    "evaluate",
    "explain",
    "export",
    "models",
    "predict",
    "report",
    "serve",
    "settings",
    "show",
    "summary",
    "train",
]

TRAIN_FLAGS = [
    "--recipe",
    "--log",
    "--out",
    "--labels",
    "--images",
    "--id-column",
    "--label-column",
    "--group-column",
    "--split-column",
    "--missing",
    "--follow-links",
    "--backbone",
    "--weights",
    "--quality",
    "--budget",
    "--resize",
    "--mirror",
    "--no-mirror",
    "--folds",
    "--learning-curve",
    "--corrections",
    "--from",
    "--refit",
    "--no-refit",
    "--seed",
    "--engine",
    "--device",
    "--precision",
    "--config",
    "--set",
    "--cluster",
    "--no-cache",
    "--json",
    "--quiet",
    "-q",
]


@functools.cache
def rooms() -> dict[str, ast.Module]:
    """Return every module but the facade and the empty fronts of wings, by its name inside the package.

    The front of `cli` is a room: it holds the program.
    """
    files = [file for file in HOME.rglob("*.py") if file.name != "__init__.py"]
    trees = {".".join(file.relative_to(HOME).with_suffix("").parts): file for file in files}
    trees["cli"] = HOME / "cli" / "__init__.py"
    return {name: ast.parse(file.read_text("utf-8")) for name, file in trees.items()}


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the full name of all that a module imports, wherever in it, also by `importlib`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            yield from (part.value for part in node.args if isinstance(part, ast.Constant))


def inside(tree: ast.Module) -> set[str]:
    """Return the rooms that a module imports from."""
    found = {name.removeprefix("headstart.") for name in imported(tree) if name.split(".")[0] == "headstart"}
    return {next((room for room in ORDER if name == room or name.startswith(f"{room}.")), name) for name in found}


def test_every_room_has_its_place():
    assert sorted(rooms()) == sorted(ORDER)


@pytest.mark.parametrize("room", ORDER)
def test_a_room_imports_only_from_rooms_above(room: str):
    above = set(ORDER[: ORDER.index(room)])
    wrong = inside(rooms()[room]) - above - ({"__version__"} if room == "cli" else set())
    assert not wrong


def test_the_fronts_of_wings_are_empty():
    for file in set(HOME.glob("*/__init__.py")) - {HOME / "cli" / "__init__.py"}:
        (docstring,) = ast.parse(file.read_text("utf-8")).body
        assert isinstance(docstring, ast.Expr)


@pytest.mark.parametrize("library", DOORS)
def test_a_library_has_its_door(library: str):
    users = {room for room, tree in rooms().items() if library in {name.split(".")[0] for name in imported(tree)}}
    assert users == DOORS[library]


def test_the_first_rooms_need_numpy_and_scipy_at_most():
    own = {"headstart", "numpy", "scipy", "tomli_w", *sys.stdlib_module_names}
    for room in ("errors", "records", "predictions", "metrics", "settings", "config", "storage"):
        assert {name.split(".")[0] for name in imported(rooms()[room])} <= own


def test_the_public_names_are_these():
    assert headstart.__all__ == PUBLIC
    assert dir(headstart) == sorted([*PUBLIC, "__version__"])


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_there_and_explained(name: str):
    assert getattr(headstart, name).__doc__


def test_other_names_are_not_there():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        headstart.trian  # noqa: B018


def test_the_verbs_are_these():
    commands = typer.main.get_command(cli.app).commands
    assert sorted(commands) == VERBS
    assert sorted(commands["cache"].commands) == ["clear", "trim", "verify"]


def test_the_flags_of_train_are_these():
    parameters = typer.main.get_command(cli.app).commands["train"].params
    flags = [flag for p in parameters for flag in (*p.opts, *p.secondary_opts) if flag.startswith("-")]
    assert sorted(flags) == sorted(TRAIN_FLAGS)


def commands() -> dict[str, Any]:
    """Return every verb, those of `cache` too."""
    top = typer.main.get_command(cli.app).commands
    return top | {f"cache {name}": command for name, command in top["cache"].commands.items()}


@pytest.mark.parametrize("verb", [*VERBS, "cache clear", "cache trim", "cache verify"])
def test_a_verb_and_its_flags_are_explained(verb: str):
    command = commands()[verb]
    assert command.help
    assert all(p.help for p in command.params if p.name != "help")


def loaded_after(code: str) -> set[str]:
    """Return the top names of the modules that a fresh interpreter has loaded after running some code."""
    listing = f"import sys\n{code}\nprint('LOADED', *sorted({{name.split('.')[0] for name in sys.modules}}))"
    ran = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    return set(ran.stdout.rpartition("LOADED")[2].split())


HEAVY = {"ray", "torch", "timm", "openvino", "matplotlib", "scipy", "sklearn", "PIL", "torchvision", "huggingface_hub"}


def test_importing_loads_nothing():
    assert not loaded_after("import headstart; headstart.__version__; dir(headstart)") & (HEAVY | {"numpy", "rich"})


def test_work_without_a_cluster_does_not_load_ray():
    modules = "headstart.workflows.train, headstart.workflows.check, headstart.delivery.streaming, headstart.scale.crew"
    assert "ray" not in loaded_after(f"import {modules}")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"], ["settings"]])
def test_help_loads_nothing_heavy(arguments: list[str]):
    code = (
        f"sys.argv = ['headstart', *{arguments}]\nfrom headstart.cli import main\ntry: main()\nexcept SystemExit: pass"
    )
    assert not loaded_after(code) & HEAVY


@pytest.mark.parametrize("verb", ["train", "check", "audit", "show", "evaluate", "predict"])
def test_a_place_that_is_not_there_is_refused_before_anything_heavy_is_loaded(verb: str):
    arguments = ["headstart", verb, "phtoos", *(["pictures.png"] if verb in ("evaluate", "predict") else [])]
    code = f"sys.argv = {arguments}\nfrom headstart.cli import main\ntry: main()\nexcept SystemExit: pass"
    assert not loaded_after(code) & (HEAVY - {"PIL"})


def test_nothing_pickles():
    for room, tree in rooms().items():
        tops = {name.split(".")[0] for name in imported(tree)}
        assert not tops & {"pickle", "cPickle", "_pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}, room


def test_whatever_could_unpickle_is_told_not_to():
    for room, tree in rooms().items():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            text, keywords = ast.unparse(call.func), {k.arg: ast.unparse(k.value) for k in call.keywords}
            assert text != "torch.load" or keywords.get("weights_only") == "True", room
            assert not text.startswith(("np.load", "numpy.load", "torch.save")), room
            assert keywords.get("allow_pickle", "False") == "False", room


def test_nothing_runs_text_as_code():
    for room, tree in rooms().items():
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not calls & {"eval", "exec", "compile", "os.system", "subprocess.run", "subprocess.Popen"}, room


def test_every_module_opens_with_what_it_is():
    for room, tree in rooms().items():
        assert ast.get_docstring(tree), room


def public(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Yield the public functions and classes of a module, and the methods of the latter."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not re.match("_(?!_)", node.name):
            yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public(node, f"{node.name}.")


def test_everything_public_is_explained():
    silent = [
        f"{room}.{name}" for room, tree in rooms().items() for name, node in public(tree) if not ast.get_docstring(node)
    ]
    assert not silent


def test_there_is_no_room_for_leftovers():
    assert not [room for room in rooms() if re.search("util|helper|misc|common", room)]
