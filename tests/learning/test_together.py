"""Networks trained by two processes: what one alone learns up to rounding, whoever dies in between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pairs import Pair
from test_finetune import Case, case, head_of, striped, task, untrained

from headstart.errors import ConfigError, DataError, HeadstartError
from headstart.learning import elsewhere, finetune
from headstart.learning.clock import Limits
from headstart.learning.elsewhere import Elsewhere
from headstart.learning.task import Rows, Task, Tuned
from headstart.scale.cluster import Died, Place


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    team = Pair()
    yield team
    for worker in (*team.spare, *team.working):
        worker.process.kill()


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
def test_two_processes_learn_what_one_does(pair: Pair, visible: Case, balanced: bool):
    asked, rows = task(visible, balanced=balanced), uneven(visible)
    assert len(rows.learned) % asked.plan.batch == 1  # of the last batch the second process has no picture
    heard: list[int] = []
    alone = finetune.fit(asked, head_of(visible), rows)
    check_alike(together(pair, asked, visible, rows, lambda step: heard.append(step.number)), alone)
    assert heard == [0, 1, 2]
    assert pair.begun == 2


@pytest.mark.slow
def test_all_stop_when_the_one_who_asked_wants_it(pair: Pair, visible: Case):
    steps: list[int] = []
    limits = Limits(stop=lambda: len(steps) > 3)
    asked = task(visible, limits=limits, progress=lambda stage, done, total: steps.append(done))
    tuned = together(pair, asked, visible, uneven(visible, epochs=200))
    assert tuned.ended == "stop"


@pytest.mark.slow
def test_where_one_is_killed_others_go_on_where_the_epoch_ended(pair: Pair, visible: Case, tmp_path: Path):
    asked, rows, heard = task(visible), uneven(visible, epochs=5), []
    alone = finetune.fit(asked, head_of(visible), rows)

    def kill(step: Any) -> None:
        heard.append(step.number)
        if step.number == 1:
            pair.working[1].process.kill()

    before = pair.begun
    tuned = together(pair, replace(asked, checkpoints=tmp_path), visible, rows, kill)
    assert pair.begun >= before + 2
    assert heard == [step.number for step in alone.history]
    check_alike(tuned, alone)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_picture_that_only_one_of_them_reads_and_has_changed_ends_it_for_all(pair: Pair, tmp_path: Path):
    given = case(striped(tmp_path / "photos", 20, each=40), untrained())
    rows = Rows(given.train, given.test, 1)
    second = np.random.default_rng([0, 1]).permutation(rows.learned)[1]
    path = given.learner.features.dataset[second].path
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DataError, match=f"1 picture changed.*{path.name}"):
        together(pair, task(given), given, rows)
    for worker in pair.spare:
        worker.process.kill()  # they wait for one another
    pair.spare.clear()


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
        self.said, self.hired = said, 0

    def places(self) -> list[Place]:
        return [Place("first", "", 1), Place("second", "", 1)]

    def hire(self, place: Place) -> Any:
        self.hired += 1
        return Player(place, self.said)

    def dismiss(self, worker: Any) -> None:
        worker.asked = None

    def hear(self, workers: Iterable[Any], seconds: float) -> Iterator[tuple[Any, Any]]:
        for worker in [one for one in workers if one.asked]:
            asked, worker.asked = worker.asked, None
            if (said := self.said(worker.place.name, *asked)) is not None:
                yield worker, said


def test_a_machine_without_pytorch_is_refused_before_anything_travels(visible: Case):
    def said(place: str, question: str, *arguments: Any) -> Any:
        theirs = {} if question == "ping" else {**arguments[0].recipe, "the version of torch": "none"}
        return theirs or "there"

    with pytest.raises(ConfigError, match=r"on there would not train.*version of torch is none there and \d") as told:
        together(Played(said), task(visible), visible, uneven(visible))
    assert "headstart[train,ray]" in told.value.hint


def test_processes_that_always_die_are_not_begun_for_ever(visible: Case):
    team = Played(lambda place, question, *arguments: Died("out of memory") if question != "ping" else place)
    with pytest.raises(HeadstartError, match="3 times a process ended.*out of memory"):
        together(team, task(visible), visible, uneven(visible))
    assert team.hired == 2 * elsewhere.MOST_TRIES


def test_a_cluster_where_no_process_comes_is_not_waited_for_for_ever(visible: Case, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(elsewhere, "COMING", 0.1)
    with pytest.raises(ConfigError, match="No worker can begin: 2 of the cluster's 2 processors are free"):
        together(Played(lambda *_: None), task(visible), visible, uneven(visible))


def test_no_more_processes_are_asked_than_a_batch_has_pictures(visible: Case):
    team = Played(lambda *_: Died("gone"))
    asked = task(visible)
    with pytest.raises(HeadstartError, match="3 times"):
        together(team, replace(asked, plan=replace(asked.plan, batch=1)), visible, uneven(visible))
    assert team.hired == elsewhere.MOST_TRIES
