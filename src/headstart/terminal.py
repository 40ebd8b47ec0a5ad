"""What the commands say, and where: data on stdout, everything else (progress, findings, errors) on stderr."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from headstart.encoding import wanted
from headstart.errors import HeadstartError
from headstart.records import silence
from headstart.report.summary import FIGURES, minutes

if TYPE_CHECKING:
    from headstart.data.shapes import Cropped
    from headstart.learning.heads import Step
    from headstart.plans import Plan
    from headstart.records import Finding
    from headstart.workflows.budget import Budget

stderr = Console(stderr=True, highlight=False, emoji=False)
stdout = Console(highlight=False, emoji=False)
STYLES = {"error": "red", "warning": "yellow", "note": "cyan"}
OFTEN = 10.0  # seconds between lines that tell how far a long stage is
_drawn: list[Progress] = []  # the bars that are on the terminal now


@contextmanager
def progress(quiet: bool) -> Iterator[Any]:
    """Give a listener that draws a bar on a terminal, or prints a line now and then elsewhere."""
    if quiet:
        yield silence
    elif stderr.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=stderr) as bars:
            _drawn.append(bars)
            try:
                yield _Bars(bars)
            finally:
                _drawn.remove(bars)
    else:
        yield _Lines()


class _Bars:
    """One bar for each stage."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._begun: dict[str, tuple[float, int]] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total, completed=done, rate="")
            self._begun[stage] = (time.monotonic(), done)
        self._bars.update(self._tasks[stage], completed=done, total=total, rate=_rate(self._begun[stage], done))


class _Lines:
    """A line for each stage every ten seconds and when it ends, unless it ended the same way before: for logs."""

    def __init__(self) -> None:
        self._begun: dict[str, tuple[float, int]] = {}
        self._said: dict[str, float] = {}
        self._ended: set[tuple[str, int]] = set()

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        begun = self._begun.setdefault(stage, (now, done))
        if done >= total:
            told, self._ended = (stage, total) in self._ended, {*self._ended, (stage, total)}
            self._said.pop(stage, None)
            del self._begun[stage]  # one that comes again has a rate of its own
        else:
            told = now - self._said.get(stage, begun[0]) < OFTEN
            self._said |= {} if told else {stage: now}
        if not told:
            stderr.print(f"{stage}: {done} of {total} {_rate(begun, done)}{_left(begun, done, total)}".rstrip())


def _rate(begun: tuple[float, int], done: int) -> str:
    rate = _speed(begun, done)
    return f"{rate:.0f}/s" if rate >= 1 else ""


def _left(begun: tuple[float, int], done: int, total: int) -> str:
    """Return e.g. `, 12 min 30 s left`, as long as there is something left and a rate to tell it by."""
    rate = _speed(begun, done)
    return f", {minutes((total - done) / rate)} left" if rate and done < total else ""


def _speed(begun: tuple[float, int], done: int) -> float:
    """Return how many are done in a second since a stage began; 0 while that cannot be told."""
    seconds = time.monotonic() - begun[0]
    return (done - begun[1]) / seconds if seconds > 0.5 else 0


def say(quiet: bool, text: str) -> None:
    """Print a remark on stderr, unless the user wants quiet."""
    if not quiet:
        stderr.print(text, markup=False, soft_wrap=True)


def print_line(text: str) -> None:
    """Print a line of data: as it is, whatever the width of the terminal."""
    stdout.print(text, markup=False, soft_wrap=True)


def print_json(content: object) -> None:
    """Print data for programs."""
    print_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def print_text(text: str) -> None:
    """Print text as UTF-8, with the bytes of file names that are none."""
    print_bytes(text.encode("utf-8", "surrogateescape"))


def print_bytes(data: bytes) -> None:
    """Print data as it is; bars that stand on the same terminal step aside."""
    with _aside():
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


@contextmanager
def _aside() -> Iterator[None]:
    """Take the bars off the terminal for a while, where what is printed goes there too."""
    drawn = _drawn if sys.stdout.isatty() else []
    for bars in drawn:
        bars.live.transient = True  # stopped, it leaves nothing behind
        bars.stop()
    yield
    for bars in drawn:
        bars.live.transient = False
        bars.start()


def print_plan(
    plan: Plan, pictures: int, classes: int, cropped: Cropped | None = None, budget: Budget | None = None
) -> None:
    """Print what training is going to do.

    Args:
        plan: That was decided.
        pictures: How many there are.
        classes: The same.
        cropped: What the crop cuts away of them, where that is known.
        budget: How the time is spent, where it matters.
    """
    encoder = plan.encoder
    mirrored = "; each picture and its mirror image" if plan.pictures.mirror else ""
    if plan.predict.views == "mirror":
        mirrored = "; each picture averaged with its mirror image, in predictions too"
    cut = "" if cropped is None else f"\n             {cropped}"
    tuning = f"\n  network    {_finetuning(plan)}" if plan.head.finetune != "none" else ""
    say(
        False,
        f"""Plan: {pictures} pictures of {classes} classes, quality {plan.quality}{_spent(budget)}
  pictures   {_sizes(plan)} px, {plan.pictures.resize}{mirrored}{_crops(plan)}{cut}
  backbone   {encoder.backbone}, frozen, on {encoder.engine} ({encoder.device}, {encoder.precision})
  split      {_held_out(plan)}, unless the data brings a split; seed {plan.seed}
  head       {_head(plan)}, class weights: {plan.head.class_weight}{tuning}
  then       {_then(plan)}""",
    )


def _crops(plan: Plan) -> str:
    count = plan.pictures.crops
    if count == "if-better":
        return "; parts of each too, if they prove better"
    return f"; {count} parts of each too" if count else ""


def _spent(budget: Budget | None) -> str:
    """Return what each level would take."""
    levels = ", ".join(f"{one.quality} {minutes(one.seconds)}" for one in budget.estimates) if budget else ""
    return "" if budget is None else f" (of {minutes(budget.seconds)}; measured on this machine: {levels})"


def _then(plan: Plan) -> str:
    if plan.split.folds:
        return "fit once more on all of them"
    return "fit once more on training and validation pictures" if plan.refit else "keep the measured head"


def _sizes(plan: Plan) -> str:
    """Return the side of the pictures, of several networks that of each."""
    sizes = [one.size or plan.pictures.size for one in wanted.parse(plan.encoder.backbone)]
    return " + ".join(map(str, sizes))


def _held_out(plan: Plan) -> str:
    split = plan.split
    share = f"about {split.validation:.0%} of each class, at least one picture, held out"
    share = f"{split.folds} folds held out in turn" if split.folds else share
    return share + (f", {split.repeats} times" if split.repeats > 1 else "")


def _finetuning(plan: Plan) -> str:
    tuning = plan.finetune
    watched = "some of the training part" if tuning.watch == "training" else "the validation part"
    stages = f"its last {tuning.stages} stages " if tuning.stages else ""
    return (
        f"{stages}trained with that head, at most {tuning.epochs} epochs in batches of {tuning.batch}, learning rate\n"
        f"             {tuning.learning_rate:g}, times {tuning.layer_decay:g} a stage downwards, stopped by "
        f"{watched};\n             kept only if it proves better there than the frozen one"
    )


def _head(plan: Plan) -> str:
    head = plan.head
    if not head.in_epochs:
        l2 = f"l2 {head.l2[0]:g}" if len(head.l2) == 1 else f"l2 chosen by {head.folds} folds"
        return f"logistic regression, {l2}, prior: {head.prior}"
    layers = f"dense {', '.join(map(str, head.hidden))}" if head.hidden else "linear"
    watched = "a tenth of the training part" if head.watch == "training" else "the validation part"
    return (
        f"{layers}, dropout {head.dropout:g}; by {head.optimizer}, learning rate {head.learning_rate:g} "
        f"({head.schedule}),\n"
        f"             at most {head.epochs} epochs in batches of {head.batch}, stopped by {watched}"
    )


def epochs(plan: Plan, quiet: bool) -> Callable[[Step], None]:
    """Return a listener that prints a line an epoch; of L-BFGS, which most often takes a second or two in all, one for
    a step in ten seconds.
    """
    in_epochs = plan.head.in_epochs or plan.head.finetune != "none"
    most = f"/{plan.head.epochs}" if plan.head.in_epochs else f" of at most {plan.finetune.epochs}"  # time may be short
    told = 0.0

    def listen(step: Step) -> None:
        """Print the figures of a step."""
        nonlocal told
        if not in_epochs:
            now = time.monotonic()
            if step.number and now - told < OFTEN:
                return
            told = now
            if step.number == 0:  # where L-BFGS begins
                return
        figures = f"loss {step.train_loss:.4f}, accuracy {step.train_accuracy:.4f}"
        if step.validation_loss == step.validation_loss:
            figures += f"; held out {step.validation_loss:.4f}, {step.validation_accuracy:.4f}"
        if plan.head.watch == "training" and step.watched_loss == step.watched_loss:
            figures += f"; watched {step.watched_loss:.4f}"
        name = f"epoch {step.number}{most}" if in_epochs else f"Fitting: step {step.number}"
        say(False, f"{name}: {figures}; {step.seconds:.1f} s")

    return (lambda _: None) if quiet else listen


def print_findings(findings: Sequence[Finding], *, brief: bool = False) -> None:
    """Print what was found in the data, a line each with up to three names.

    Args:
        findings: In this order.
        brief: Leave out what to do about them, and let the width of a terminal cut the lines, for whoever finds them
            whole elsewhere.
    """
    for finding in findings:
        shown = [escape(printable(name)) for name in finding.names[:3]]
        rest = len(finding.names) + finding.unnamed - len(shown)
        more = f", … {rest} more" if rest else ""
        names = f": {', '.join(shown)}{more}" if shown else ""
        advice = f". {escape(finding.advice)}" if finding.advice and not brief else "." * (not brief)
        line = f"[{STYLES[finding.severity]}]{finding.severity}[/] {escape(finding.message)}{names}{advice}"
        if brief and stderr.is_terminal:
            stderr.print(line, no_wrap=True, overflow="ellipsis")
        else:
            stderr.print(line, soft_wrap=True)


def print_findings_table(findings: Sequence[Finding]) -> None:
    """Print what was found, the gravest first, as a table: what it is, examples, what to do."""
    if not findings:
        print_line("Nothing was found that should worry you.")
        return
    table = Table(show_lines=True)
    table.add_column("severity")
    table.add_column("finding", ratio=5, overflow="fold")
    table.add_column("for example", ratio=4, overflow="fold")
    table.add_column("what to do", ratio=3, overflow="fold")
    order = {"error": 0, "warning": 1, "note": 2}
    for finding in sorted(findings, key=lambda one: order[one.severity]):
        shown = [escape(printable(name)) for name in finding.names[:3]]
        rest = len(finding.names) + finding.unnamed - len(shown)
        more = [f"… {rest} more"] if rest else []
        severity = f"[{STYLES[finding.severity]}]{finding.severity}[/]"
        table.add_row(severity, escape(finding.message), "\n".join([*shown, *more]), escape(finding.advice))
    stdout.print(table)
    counts = {name: sum(finding.severity == name for finding in findings) for name in order}
    print_line(", ".join(f"{count} {name}{'s' if count != 1 else ''}" for name, count in counts.items() if count) + ".")


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Collection[str] = (), title: str | None = None
) -> None:
    """Print a table whose cells, of whatever they hold, stay whole; the columns of numbers are set to the right."""
    table = Table(title=title and escape(title))
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in numbers else "left")
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row))
    stdout.print(table)


def print_trust(trust: Mapping[str, Any]) -> None:
    """Print how far the figures can be believed."""
    from headstart.report.summary import trust_lines

    for line in trust_lines(trust):
        print_line(f"{line}.")
    if trust["changes"]:
        print_changes(trust["changes"], "Since the previous run, on the same pictures", "trust.json")


def print_changes(changes: Sequence[Mapping[str, Any]], title: str, where: str) -> None:
    """Print what changed between two runs, on the pictures that both measured; of many classes the first ten.

    Args:
        changes: All pictures, then each class.
        title: Of the table.
        where: What holds all of it.
    """
    columns = ("class", "pictures", "before", "after", "lost", "won", "p, corrected")
    moved = [change for change in changes[1:] if change["lost"] or change["won"]]
    rows = [
        (
            change["name"] or "all",
            f"{change['pictures']:,}",
            *(f"{change[name]:.3f}" for name in ("before", "after")),
            *(str(change[name]) for name in ("lost", "won")),
            f"{change['adjusted']:.3f}",
        )
        for change in [changes[0], *moved[:10]]
    ]
    print_table(columns, rows, numbers=columns[1:], title=title)
    print_line(f"{len(changes) - 1 - len(moved)} of {len(changes) - 1} classes did not change; all are in {where}.")


def printable(name: str) -> str:
    """Return a name that stays on its line and says what is in it."""
    return name if name.isprintable() else repr(name)


def print_evaluation(evaluation: Mapping[str, Any], title: str) -> None:
    """Print the figures of `summary.of_evaluation` with their intervals, and what is confused most."""
    print_line(title)
    table = Table()
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    overall = {
        key: [math.nan if figure is None else figure for figure in figures]
        for key, figures in evaluation["overall"].items()
    }
    for key, (value, low, high) in overall.items():
        if key == "top5_accuracy" and len(evaluation["per_class"]) <= 5:
            continue  # always 1
        table.add_row(FIGURES[key], f"{value:.4f}", f"{low:.4f} … {high:.4f}")
    stdout.print(table)
    if "accuracy" in overall:
        print_line(f"Accuracy {100 * overall['accuracy'][0]:.2f} %, loss {overall['log_loss'][0]:.4f}.")
    if pairs := evaluation["most_confused"][:5]:
        told = [f"{pair['given']} taken for {pair['predicted']} ({pair['pictures']})" for pair in pairs]
        print_line("Most confused: " + ", ".join(map(printable, told)) + ".")


def print_parts(figures: Mapping[str, Any], pictures: int = 0) -> None:
    """Print the figures of `summary.of_evaluations`: validation, test; of how many pictures, where that is known."""
    for name, evaluation in figures.items():
        measured = evaluation["pictures"]
        share = f" ({measured / pictures:.0%} of {pictures})" if measured < pictures else ""
        share = " (each in its turn)" if name == "validation" and measured == pictures else share
        print_evaluation(evaluation, f"{name.capitalize()}: {measured} pictures, held out{share}")


def print_rows(header: Sequence[str], rows: Sequence[Sequence[str]], total: int) -> None:
    """Print the first rows of a table in columns, and how large it is; of many columns the first six."""
    cells = [[_cut(printable(cell)) for cell in row[:6]] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        print_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    more = f", {len(header) - 6} more columns" if len(header) > 6 else ""
    print_line(f"({len(rows)} of {total:,} rows{more})")


def _cut(text: str, most: int = 40) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def print_trials(trials: Sequence[Mapping[str, Any]]) -> None:
    """Print how the backbones of `summary.of_trials` did, and what the marks mean."""
    table = Table(box=None, padding=(0, 1), collapse_padding=True, pad_edge=False)
    # where the terminal is narrow, a value stands above its interval, and neither is broken
    widths = {"accuracy": 13, "log-loss": 13, "above the best": 14, "pictures /s": 8, "params": 6, "MB": 2}
    for column, least in ({"": None, "backbone": None} | widths).items():
        table.add_column(column, justify="right" if least else "left", min_width=least, overflow="fold")
    for place, one in enumerate(trials, start=1):
        unsure = "" if one["surely_worse"] else "~"
        table.add_row(
            f"{place}{'*' if one['on_front'] else ' '}",
            escape(printable(one["candidate"])),
            *("{:.3f} [{:.3f},{:.3f}]".format(*one[name]) for name in ("accuracy", "log_loss")),
            "best" if place == 1 else "{}{:+.3f} [{:.3f},{:.3f}]".format(unsure, *one["difference"]),
            f"{one['pictures_per_second']:.3g}",
            f"{one['parameters'] / 1e6:.1f}M",
            f"{one['megabytes']:.0f}",
        )
    stdout.print(table)
    print_line("* on the Pareto front: no other one is as accurate and faster, or as fast and more accurate")
    if any(not one["surely_worse"] for one in trials[1:]):
        print_line("~ not surely worse than the best: the difference of the log-losses may be chance")


def print_error(error: HeadstartError) -> None:
    """Print what happened, and after a blank line the hint."""
    stderr.print(f"error: {error.message}", style="red", markup=False, soft_wrap=True)
    if error.hint:
        stderr.print(f"\nhint: {error.hint}", markup=False, soft_wrap=True)


def show_warning(message: Warning | str, category: type[Warning], filename: str, *_: object, **__: object) -> None:
    """Print a warning of this package like any other remark; those of libraries are not for its users."""
    if issubclass(category, UserWarning) and Path(filename).is_relative_to(Path(__file__).parent):
        stderr.print(f"warning: {message}", style="yellow", markup=False, soft_wrap=True)
