"""A fine-tuning → the same, by processes of a cluster that train together.

Whoever asks trains nothing: it finds the processes, has them join one another, and hears how far they are. Where one of
them dies the others cannot go on; then new ones begin where the last epoch ended.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from headstart.encoding import stages, weights
from headstart.encoding.backbone import Backbone
from headstart.errors import ConfigError, HeadstartError, MissingExtraError
from headstart.learning import finetune, member, spread
from headstart.learning.heads import Head, Listener, Step, ignore
from headstart.learning.member import Far, Join, Learned, Look, Lost, Training
from headstart.learning.task import Rows, Task, Tuned
from headstart.scale.cluster import Died, Worker
from headstart.scale.crew import PAUSE, STAGE, Team
from headstart.scale.hand import Block, Recipe, differences

MOST_TRIES = 3  # of a fine-tuning whose processes die
COMING = 60.0  # seconds in which processes come; later ones are not waited for


class _Over(Exception):  # noqa: N818  # no error before it has happened too often
    """A process has gone."""


class Elsewhere:
    """Asked as `finetune.fit` is, it has a cluster do it."""

    def __init__(self, opened: Callable[..., Team]) -> None:
        """Keep who opens the cluster; arguments are those of `Filling.opened`."""
        self._opened = opened

    def __call__(self, task: Task, head: Head, rows: Rows, *, listen: Listener = ignore) -> Tuned:
        """Return what `finetune.fit` does.

        Raises:
            DataError: A picture can no longer be used, or has changed since it was first read.
            HeadstartError: Processes died again and again.

        Warns:
            UserWarning: None can begin, or one would not train what this machine trains; then this machine does.
        """
        team = self._opened(task.progress, graphics=task.device == "cuda")
        job, heard, reason = Training.of(task, head, rows), _Heard(task, listen), ""
        for _ in range(MOST_TRIES):
            try:
                with _gathered(team, task) as names:
                    return _tuned(task, _together(team, names, job, heard))
            except _Over as over:
                reason = str(over)
            except (ConfigError, MissingExtraError) as error:
                warnings.warn(f"Networks are trained on this machine alone. {error}", stacklevel=2)
                return finetune.fit(task, head, rows, listen=listen)
        raise HeadstartError(
            f"{MOST_TRIES} times a process ended of those that train networks together. The last one said: {reason}",
            "What was learned until then is kept, and the same command goes on from there.",
        )


class _Heard:
    """What is heard of a training, each epoch once, however often it is begun."""

    def __init__(self, task: Task, listen: Listener) -> None:
        self.task, self._listen, self._steps = task, listen, 0

    def pass_on(self, news: Sequence[Any]) -> Learned | None:
        """Tell what is new to whom it concerns, and return the result where it is there."""
        for one in news:
            if isinstance(one, HeadstartError):
                raise one
            if isinstance(one, Lost):
                raise _Over(one.reason)
            if isinstance(one, Learned):
                return one
            if isinstance(one, Far):
                self.task.progress(*one)
            elif isinstance(one, Step) and one.number == self._steps:
                self._steps += 1
                self._listen(one)
        return None


@contextlib.contextmanager
def _gathered(team: Team, task: Task) -> Iterator[dict[Worker, str]]:
    """Give processes that have what it takes, at most one for each picture of a batch, by name; at the end they go.

    Raises:
        ConfigError: None can begin, or one has not the versions of this machine.
        MissingExtraError: One has no PyTorch.
        _Over: One of them has gone.
    """
    hired = [team.hire(place) for place in team.places()[: task.plan.batch]]
    try:
        task.progress(STAGE, 0, len(hired))
        for worker in hired:
            worker.ask("ping")
        names = {worker: f"The worker on {word}" for worker, word in _answers(team, hired, COMING).items()}
        if not names:
            raise ConfigError(
                f"No worker can begin: {team.free():g} of the cluster's {team.total():g} processors are free.",
                "Others work on it; wait for them, or add machines.",
            )
        # what has no PyTorch could not even take the job of training
        for worker, theirs in _asked(team, names, "begin", spread.Fitting()).items():
            _compare(names[worker], theirs, spread.recipe())
        task.progress(STAGE, len(names), len(hired))
        yield names
    finally:
        for worker in hired:
            team.dismiss(worker)


def _together(team: Team, names: Mapping[Worker, str], job: Training, heard: _Heard) -> Learned:
    """Have processes join one another, and return what they have learned together.

    Raises:
        _Over: One of them has gone.
    """
    ours, limits = member.recipe(heard.task.backbone), heard.task.limits
    for worker, theirs in _asked(team, names, "begin", team.shared(job)).items():
        _compare(names[worker], theirs, ours)
    left = None if limits.deadline is None else limits.deadline - time.monotonic()
    first, port = next(iter(names)).place.address, 0
    for place, worker in enumerate(names):
        word = Join(place, len(names), worker.place.address, first, port, left)
        port = _told(team, [worker], word)[0]
    while True:
        for news in _told(team, names, Look(limits.stop())):
            if learned := heard.pass_on(news):
                return learned


def _told(team: Team, workers: Iterable[Worker], word: Join | Look) -> list[Any]:
    """Tell members that train something, and return what they say."""
    return [answer.value for answer in _asked(team, workers, "do", Block(0, asked=word), False).values()]


def _asked(team: Team, workers: Iterable[Worker], question: str, *arguments: Any) -> dict[Worker, Any]:
    """Ask all workers the same, and return what they say; see `_answers`."""
    for worker in workers:
        worker.ask(question, *arguments)
    return _answers(team, workers)


def _answers(team: Team, workers: Iterable[Worker], seconds: float = math.inf) -> dict[Worker, Any]:
    """Return what workers say that were asked, of those that answer in that time.

    Raises:
        HeadstartError: One of them says that it cannot.
        _Over: One of them has gone.
    """
    waited, end = list(workers), time.monotonic() + seconds
    said: dict[Worker, Any] = {}
    while waited and time.monotonic() < end:
        for worker, word in team.hear(waited, PAUSE):
            if isinstance(word, HeadstartError):
                raise word
            if isinstance(word, Died):
                raise _Over(word.reason)
            said[worker] = word
        waited = [one for one in waited if one not in said]
    return said


def _compare(name: str, theirs: Recipe, ours: Recipe) -> None:
    """Refuse a process that would not compute what this one computes.

    Raises:
        ConfigError: With what differs, on both sides.
    """
    if different := differences(theirs, ours):
        raise ConfigError(
            f"{name} would not train what this machine trains: {'; '.join(different)}.",
            "Install the same versions on all machines of the cluster: headstart[train,ray].",
        )


def _tuned(task: Task, learned: Learned) -> Tuned:
    """Return the networks of this process with the weights that were learned elsewhere."""
    networks = []
    for network, content in zip(task.backbone.networks, learned.weights, strict=True):
        module = copy.deepcopy(network.module)
        weights.fill(module, weights.of_content(content, network.name), network.name)
        networks.append(stages.retrained(network, module))
    return Tuned(Backbone(tuple(networks)), **learned.told)
