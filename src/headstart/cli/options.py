"""Options that several verbs share, each group a dataclass that knows what to do with them.

Nothing heavy is imported before a method is called.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import re
import shlex
import textwrap
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.models import OptionInfo

from headstart.cli import places
from headstart.errors import ConfigError

if TYPE_CHECKING:
    from headstart.config import EncoderConfig
    from headstart.model.classifier import Classifier
    from headstart.records import Dataset, Place

# paths or URIs, which a path would not keep as they are
Data = Annotated[
    str | None,
    typer.Argument(
        help="A folder with one folder per class, a Kaggle competition folder, a CSV/TSV of labels, or tars or Parquet"
        " that hold pictures; here or on a store (s3://, gs://, az://, https://).",
    ),
]
Labels = Annotated[
    str | None, typer.Option("--labels", metavar="PATH", help="A CSV or TSV with an id and a label column, or Parquet.")
]
Images = Annotated[
    str | None, typer.Option("--images", metavar="PATH", help="The folder that the ids of the table are relative to.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only results and errors.")]
Open = Annotated[bool, typer.Option("--open", help="Open the page in the browser.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Neither read nor keep computed features.")]
OnCluster = Annotated[
    str | None,
    typer.Option("--cluster", help="Share the work: local:N workers, or a Ray cluster: auto or HOST:PORT."),
]
Corrections = Annotated[
    Path | None, typer.Option("--corrections", help="A sheet of `headstart audit` that was filled in.")
]
Model = Annotated[Path, typer.Argument(help="A folder that `headstart train` wrote.")]
FollowLinks = Annotated[bool, typer.Option("--follow-links", help="Follow links that lead out of the folder.")]


@dataclass(frozen=True)
class Source:
    """Which labelled pictures."""

    data: Data = None
    labels: Labels = None
    images: Images = None
    id_column: Annotated[str | None, typer.Option(help="The column of picture names, if nothing tells.")] = None
    label_column: Annotated[str | None, typer.Option(help="The column of labels, if nothing tells.")] = None
    group_column: Annotated[
        str | None,
        typer.Option(help="A column whose values must not straddle a split (a patient); '' uses none."),
    ] = None
    split_column: Annotated[
        str | None, typer.Option(help="A column with train, val, test; '' ignores a column `split`.")
    ] = None
    missing: Annotated[
        str, typer.Option(help="Rows whose file is missing: 'error' refuses them, 'drop' leaves them out.")
    ] = "error"
    follow_links: FollowLinks = False

    @property
    def named(self) -> bool:
        """Whether any pictures were named."""
        return not (self.data is None and self.labels is None and self.images is None)

    @property
    def root(self) -> Place:
        """The folder of the pictures."""
        return locate(self.data, self.labels, self.images)[0]

    @property
    def table(self) -> Place | None:
        """The table of their labels, if there is one."""
        return locate(self.data, self.labels, self.images)[1]

    def read(self, cache: Path | None = None) -> Dataset:
        """Return the pictures with their labels; `cache` as in `tars.index`."""
        from headstart.data import sources

        root, table = locate(self.data, self.labels, self.images)
        columns = sources.Columns(self.id_column, self.label_column, self.group_column, self.split_column)
        how: dict[str, Any] = {"missing": self.missing, "follow_links": self.follow_links, "cache": cache}
        return sources.read(root, table, columns=columns, **how)


@dataclass(frozen=True)
class Shown:
    """How much work a picture is worth, and what looks at it."""

    quality: Annotated[
        str | None, typer.Option(help="fast, balanced (the default) or best: how much work an answer is worth.")
    ] = None
    backbone: Annotated[
        str | None,
        typer.Option(help="NAME, NAME@SIZE or NAME@SIZE/CROP, several joined by +; see `headstart models`."),
    ] = None
    resize: Annotated[str | None, typer.Option(help="crop, letterbox or squash.")] = None
    mirror: Annotated[
        bool | None,
        typer.Option("--mirror/--no-mirror", help="Learn from mirror images too, or they show something else."),
    ] = None

    @property
    def flags(self) -> dict[str, Any]:
        """The settings that were asked for."""
        return {
            "quality": self.quality,
            "encoder.backbone": self.backbone,
            "pictures.resize": self.resize,
            "pictures.mirror": self.mirror,
        }


@dataclass(frozen=True)
class Engine:
    """What computes the features."""

    engine: Annotated[str | None, typer.Option(help="auto, openvino or torch.")] = None
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None
    precision: Annotated[str | None, typer.Option(help="auto, f32, bf16 or int8.")] = None

    @property
    def flags(self) -> dict[str, Any]:
        """The settings that were asked for."""
        return {f"encoder.{name}": value for name, value in dataclasses.asdict(self).items()}

    def load(self, model: Path) -> Classifier:
        """Return a saved model, run as asked."""
        places.check_model(model)
        from headstart.model import artifact

        return artifact.load_classifier(model, self.asked())

    def asked(self) -> EncoderConfig | None:
        """Return what was asked for; None: nothing."""
        from headstart.config import read_config

        return read_config(None, flags=self.flags).encoder if any(self.flags.values()) else None


def locate(data: str | None, labels: str | None, images: str | None) -> tuple[Place, Place | None]:
    """Return (folder of pictures, table or None) of the ways in which data can be named.

    Raises:
        ConfigError: Nothing is named, or too much, or what is not there.
    """
    from headstart.data import sources, uris

    table, folder = (None if one is None else uris.place(one) for one in (labels, images))
    named = None if data is None else uris.place(data)
    if named is not None and sources.is_table(named):
        if table is not None:
            raise ConfigError(f"{named} and --labels {table} are both tables; one is enough.")
        named, table = None, named
    if named is not None and folder is not None:
        raise ConfigError(f"{named} and --images {folder} are both folders of pictures; one is enough.")
    root = named or folder or (sources.parent(table) if table is not None else None)
    if root is None:
        raise ConfigError("Which pictures?", "headstart train photos/, or --labels labels.csv --images photos/")
    for path, expected in ((root, "a folder of pictures"), (table, "a table of labels")):
        if isinstance(path, Path) and not path.exists() and not sources.is_pattern(path):
            hint = "DATA is a folder of pictures, or a table of labels beside them; --images names another folder."
            raise ConfigError(f"{path} is not there; {expected} was expected.", hint)
    return root, table


def seconds_of(text: str) -> float:
    """Return the seconds of a duration such as `90s`, `10m`, `1h30m` or `600`.

    Raises:
        ConfigError: It is none.

    >>> seconds_of("1h30m"), seconds_of("90s"), seconds_of("600"), seconds_of("1.5m")
    (5400.0, 90.0, 600.0, 90.0)
    """
    number = r"(\d+(?:\.\d+)?)"
    found = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s?)?", text.strip().lower())
    hours, minutes, seconds = (float(part or 0) for part in found.groups()) if found else (0.0, 0.0, 0.0)
    total = 3600 * hours + 60 * minutes + seconds
    if not total:
        raise ConfigError(f"{text!r} is no duration.", "Write e.g. 90s, 10m or 1h30m.")
    return total


def given(group: Any) -> list[str]:
    """Return those flags of a group of options that were given."""
    fields = dataclasses.fields(group)
    return [f"--{f.name.replace('_', '-')}" for f in fields if getattr(group, f.name) not in (f.default, None)]


def typed(source: Source) -> str:
    """Return the arguments that name the same pictures to another verb."""
    from headstart.data import uris

    values = {f.name: getattr(source, f.name) for f in dataclasses.fields(source)}
    data = values.pop("data")
    words = [] if data is None else [str(data)]
    for flag in given(source):
        value = values.get(flag.removeprefix("--").replace("-", "_"))
        words += [] if value is None else [flag] if value is True else [flag, str(value)]
    return shlex.join(map(uris.shown, words))


def unfolded(command: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the fields of its dataclass parameters as options of its own; it is called with the dataclasses.

    In the help, the options of a dataclass stand together under the first words of its docstring.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        group = groups.get(parameter.name)
        if group is None:
            parameters.append(parameter.replace(annotation=_placed(hints[parameter.name])))
            continue
        inner = typing.get_type_hints(group, include_extras=True)
        title = re.split("[.;]", inspect.getdoc(group) or "")[0]
        parameters += [
            inspect.Parameter(f.name, parameter.kind, default=f.default, annotation=_placed(inner[f.name], title))
            for f in dataclasses.fields(group)
        ]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{f.name: values.pop(f.name) for f in dataclasses.fields(group)})
        command(**values)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def explained(command: Callable[..., None]) -> tuple[str, str]:
    """Return the help of a verb and, below its options, the examples: the two parts of its docstring."""
    text, _, examples = (inspect.getdoc(command) or "").partition("\n\nExamples:\n")
    lines = textwrap.dedent(examples).splitlines()
    flowing = re.sub(r"(?<!\n)\n(?!\n)", " ", text)  # a terminal has lines of its own
    return flowing, "\n".join(["For example:", *lines] if lines else [])


def _placed(annotation: Any, title: str | None = None) -> Any:
    """Return an annotation whose option stands under a title, and leaves eighty columns to its help."""
    kind, about = typing.get_args(annotation)
    if not isinstance(about, OptionInfo):
        return annotation
    about = copy.copy(about)
    about.rich_help_panel = title
    if about.metavar is None:
        about.metavar = "" if kind in (bool, bool | None) else "N" if kind in (int, int | None) else None
    return Annotated[kind, about]
