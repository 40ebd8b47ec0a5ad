"""Networks trained by two processes: what one alone learns up to rounding, whoever dies in between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pairs import Pair
from serving import loopback
from test_finetune import Case, case, head_of, striped, task, untrained

from headstart.errors import DataError, HeadstartError, MissingExtraError
from headstart.learning import elsewhere, finetune
from headstart.learning.clock import Limits
from headstart.learning.elsewhere import Elsewhere
from headstart.learning.task import Rows, Task, Tuned
from headstart.scale.cluster import Died, Place

pytestmark = pytest.mark.usefixtures("_this_machine_only")
_this_machine_only = pytest.fixture(loopback)


@pytest.fixture(scope="module")
def visible(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Stripes that training can tell apart better than features that mean nothing."""
    return case(striped(tmp_path_factory.mktemp("visible") / "photos", 20, each=120), untrained())


def uneven(given: Case, epochs: int = 2) -> Rows:
    """Return twice as many rows of one class as of the other, the last of which is a batch."""
    return Rows(np.concatenate([given.train[:65], given.train[-32:]]), given.test, epochs)


def together(team: Any, asked: Task, given: Case, rows: Rows, listen: Any = lambda step: None) -> Tuned:
    return Elsewhere(lambda *_, **__: team)(asked, head_of(given), rows, listen=listen)


def check_alike(one: Tuned, other: Tuned) -> None:
    """Check that two trainings came to the same, up to rounding."""
    assert one.best == other.best
    assert one.epochs == other.epochs
    for name in ("train_loss", "train_accuracy", "watched_loss"):
        ours, theirs = ([getattr(step, name) for step in tuned.history] for tuned in (one, other))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    np.testing.assert_allclose(one.logits, other.logits, atol=1e-3)
    np.testing.assert_allclose(one.head.weight, other.head.weight, atol=1e-4)
    ours, theirs = (tuned.backbone.networks[0].module.state_dict() for tuned in (one, other))
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], atol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("balanced", [False, True])
def test_two_processes_learn_what_one_does(visible: Case, balanced: bool):
    asked, rows = task(visible, balanced=balanced), uneven(visible)
    assert len(rows.learned) % asked.plan.batch == 1  # of the last batch the second process has no picture
    heard: list[int] = []
    alone = finetune.fit(asked, head_of(visible), rows)
    check_alike(together(team := Pair(), asked, visible, rows, lambda step: heard.append(step.number)), alone)
    assert heard == [0, 1, 2]
    assert len(team.hired) == 2


@pytest.mark.slow
def test_all_stop_when_the_one_who_asked_wants_it(visible: Case):
    steps: list[int] = []
    limits = Limits(stop=lambda: len(steps) > 3)
    asked = task(visible, limits=limits, progress=lambda stage, done, total: steps.append(done))
    tuned = together(Pair(), asked, visible, uneven(visible, epochs=200))
    assert tuned.ended == "stop"


@pytest.mark.slow
def test_where_one_is_killed_others_go_on_where_the_epoch_ended(visible: Case, tmp_path: Path):
    asked, rows, heard = task(visible), uneven(visible, epochs=3), []  # each makes a hundred times more of rounding
    alone = finetune.fit(asked, head_of(visible), rows)

    def kill(step: Any) -> None:
        heard.append(step.number)
        if step.number == 1:
            team.hired[1].process.kill()

    team = Pair()
    tuned = together(team, replace(asked, checkpoints=tmp_path), visible, rows, kill)
    assert len(team.hired) == 4
    assert heard == [step.number for step in alone.history]
    check_alike(tuned, alone)
    assert not list(tmp_path.glob("*.safetensors"))  # one that was killed while it wrote may leave a temporary file


@pytest.mark.slow
def test_a_picture_that_only_one_of_them_reads_and_has_changed_ends_it_for_all(tmp_path: Path):
    given = case(striped(tmp_path / "photos", 20, each=40), untrained())
    rows = Rows(given.train, given.test, 1)
    second = np.random.default_rng([0, 1]).permutation(rows.learned)[1]
    path = given.learner.features.dataset[second].path
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DataError, match=f"1 picture changed.*{path.name}"):
        together(team := Pair(), task(given), given, rows)
    assert len(team.hired) == 2
    assert not any(one.process.is_alive() for one in team.hired)


class Player:
    """A worker that says what a function says of the question."""

    def __init__(self, place: Place, said: Any) -> None:
        self.place, self.said, self.asked = place, said, None

    def ask(self, question: str, *arguments: Any) -> None:
        self.asked = question, *arguments


class Played(Pair):
    """A team of players."""

    def __init__(self, said: Any) -> None:
        super().__init__()
        self.said = said

    def hire(self, place: Place) -> Any:
        self.hired.append(Player(place, self.said))
        return self.hired[-1]

    def dismiss(self, worker: Any) -> None:
        worker.asked = None

    def hear(self, workers: Iterable[Any], seconds: float) -> Iterator[tuple[Any, Any]]:
        for worker in [one for one in workers if one.asked]:
            asked, worker.asked = worker.asked, None
            if (said := self.said(worker.place.name, *asked)) is not None:
                yield worker, said


def test_with_a_machine_without_pytorch_nothing_travels_and_this_one_trains_alone(visible: Case):
    def said(place: str, question: str, *arguments: Any) -> Any:
        return MissingExtraError("To fit heads", "train", "torch") if question == "begin" else "there"

    asked, rows = task(visible), uneven(visible, epochs=1)
    with pytest.warns(UserWarning, match=r"alone. To fit heads needs.*\(torch\)"):
        tuned = together(Played(said), asked, visible, rows)
    check_alike(tuned, finetune.fit(asked, head_of(visible), rows))


def test_with_a_machine_of_another_version_this_one_trains_alone(visible: Case):
    def said(place: str, question: str, *arguments: Any) -> Any:
        return arguments[0].recipe | {"the version of torch": "1.0"} if question == "begin" else "there"

    with pytest.warns(UserWarning, match=r"The worker on there would not.*version of torch is 1.0 there and 2\."):
        together(Played(said), task(visible), visible, uneven(visible, epochs=1))


def test_processes_that_always_die_are_not_begun_for_ever(visible: Case):
    team = Played(lambda place, question, *arguments: Died("out of memory") if question != "ping" else place)
    with pytest.raises(HeadstartError, match="3 times a process ended.*out of memory"):
        together(team, task(visible), visible, uneven(visible))
    assert len(team.hired) == 2 * elsewhere.MOST_TRIES


def test_a_cluster_where_no_process_comes_is_not_waited_for_for_ever(visible: Case, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(elsewhere, "COMING", 0.1)
    with pytest.warns(UserWarning, match="alone. No worker can begin: 2 of the cluster's 2 processors are free"):
        together(Played(lambda *_: None), task(visible), visible, uneven(visible, epochs=1))


def test_no_more_processes_are_asked_than_a_batch_has_pictures(visible: Case):
    team = Played(lambda *_: Died("gone"))
    asked = task(visible)
    with pytest.raises(HeadstartError, match="3 times"):
        together(team, replace(asked, plan=replace(asked.plan, batch=1)), visible, uneven(visible))
    assert len(team.hired) == elsewhere.MOST_TRIES
