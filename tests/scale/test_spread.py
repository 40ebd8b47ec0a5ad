"""Heads that several workers fit together: the same bits as alone, whoever dies. No Ray here: a team that is played."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_crew import Team

from headstart import arrays
from headstart.errors import ConfigError, MissingExtraError
from headstart.learning import logistic, prior, spread
from headstart.learning import problem as problems
from headstart.learning.problem import Problem
from headstart.learning.spread import Fitting, Spread
from headstart.records import silence
from headstart.scale import hand
from headstart.scale.cluster import Died
from headstart.scale.crew import Crew
from headstart.scale.hand import Block, Station

CLASSES, FEATURES, ROWS = 4, 6, 300


class Played:
    """A filling whose workers are stations in this process; it keeps who was asked what."""

    def __init__(self, cache: Path, dying: dict[int, str] | None = None, begins: Any = None) -> None:
        self.cache, self.dying, self.begins = cache, dying or {}, begins
        self.stations: dict[str, Station] = {}
        self.asked: list[tuple[str, Any]] = []
        self.known: Crew | None = None

    def crew(self, job: Any, recipe: Any, progress: Any) -> Crew:
        if self.known is None:
            self.known = Crew(Team(self.said, 3, self.begins or recipe), job, recipe, progress)
        return self.known

    def said(self, place: str, block: Block, careful: bool) -> Any:
        self.asked.append((place, block.asked))
        if self.dying.get(len(self.asked)):
            self.stations.pop(place, None)
            return Died("killed")
        station = self.stations.setdefault(place, Station())
        if not hasattr(station, "_work"):
            station.begin(Fitting())
        return station.do(block, careful)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "FEW", 100)
    monkeypatch.setattr(problems, "STRETCH", 64)
    monkeypatch.setattr(arrays, "BLOCK", 16)
    monkeypatch.setattr(arrays, "NEAR", 128)


def drawn(**more: Any) -> Problem:
    """Return a problem of five stretches, in half precision."""
    generator = np.random.default_rng(0)
    targets = generator.integers(0, CLASSES, ROWS)
    centres = generator.normal(size=(CLASSES, FEATURES))
    values = (centres[targets, None] + generator.normal(size=(ROWS, 2, FEATURES))).astype(np.float16)
    fold = np.arange(ROWS) % 3
    return Problem.of(values, np.arange(ROWS), targets, prior.none(FEATURES, CLASSES), fold=fold, **more)


def test_what_is_written_is_read_again(tmp_path: Path):
    own = drawn(balanced=True, held=77)
    own.write(tmp_path)
    read = Problem.read(tmp_path)
    assert read.held == 77
    assert read.views == 2
    np.testing.assert_array_equal(read.fit(0.1, leave_out=1), own.fit(0.1, leave_out=1))
    np.testing.assert_array_equal(read.held_out_rows(), own.held_out_rows())


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("leave_out", [None, 2])
def test_workers_give_the_same_head_to_the_bit(tmp_path: Path, balanced: bool, leave_out: int | None):
    own, filling = drawn(balanced=balanced), Played(tmp_path / "cache")
    shown = Spread(filling, silence)(own)
    np.testing.assert_array_equal(shown.fit(0.1, leave_out=leave_out), own.fit(0.1, leave_out=leave_out))
    asked = [[stretch.start for stretch in one.stretches] for _, one in filling.asked if one.folder]
    assert sorted(asked[:3]) == [[0, 64], [128, 192], [256]]
    assert len(asked) > 3 * 3
    assert len({place for place, _ in filling.asked}) == 3


def test_a_stretch_stays_with_who_has_it(tmp_path: Path):
    filling = Played(tmp_path / "cache")
    Spread(filling, silence)(drawn()).fit(0.1)
    places: dict[int, set[str]] = defaultdict(set)
    for place, asked in filling.asked[1 + 3 :]:  # the first look is anybody's
        places[asked.stretches[0].start].add(place)
    assert all(len(one) == 1 for one in places.values())
    assert len(set().union(*places.values())) == 3


def test_large_gradients_come_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own, filling = drawn(), Played(tmp_path / "cache")
    monkeypatch.setattr(spread, "ANSWER", 2 * 8 * (FEATURES + 1) * CLASSES - 1)
    np.testing.assert_array_equal(Spread(filling, silence)(own).fit(0.1), own.fit(0.1))
    assert {len(asked.stretches) for _, asked in filling.asked if asked.folder} == {1}


def test_folds_are_fitted_beside_each_other_and_choose_the_same(tmp_path: Path):
    own, filling = drawn(), Played(tmp_path / "cache")
    alone = logistic.select_l2(own, (1.0, 0.1, 0.01))
    spreaded = logistic.select_l2(Spread(filling, silence)(own), (1.0, 0.1, 0.01))
    assert spreaded.scores == alone.scores
    np.testing.assert_array_equal(spreaded.logits, alone.logits)
    turns = [(place, asked.turn.fold) for place, asked in filling.asked if asked.turn]
    assert len(turns) >= 2 * 3
    assert len({place for place, _ in turns}) == 3


def test_workers_that_die_change_nothing(tmp_path: Path):
    own, filling = drawn(), Played(tmp_path / "cache", dying={4: "1", 9: "0", 10: "2"})
    np.testing.assert_array_equal(Spread(filling, silence)(own).fit(0.1), own.fit(0.1))


def test_few_rows_are_fitted_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(spread, "FEW", ROWS)
    own = drawn()
    assert Spread(Played(tmp_path / "cache"), silence)(own) is own


def test_workers_without_pytorch_leave_it_to_this_machine(tmp_path: Path):
    own = drawn()
    filling = Played(tmp_path / "cache", begins=MissingExtraError("To fit heads", "train", "torch"))
    shown = Spread(filling, silence)(own)
    with pytest.warns(UserWarning, match=r"fitted on this machine alone.*\(torch\)"):
        found = shown.fit(0.1)
    np.testing.assert_array_equal(found, own.fit(0.1))
    assert not filling.asked


def test_another_version_is_told_and_not_trusted(tmp_path: Path):
    filling = Played(tmp_path / "cache", begins=spread.recipe() | {"the version of torch": "1.0"})
    with pytest.warns(UserWarning, match=r"the version of torch is 1\.0 there"):
        Spread(filling, silence)(drawn()).fit(0.1)


@pytest.mark.parametrize("what", ["sums", "turns"])
def test_one_that_cannot_and_comes_later_ends_no_fit(tmp_path: Path, what: str):
    own, filling = drawn(), Played(tmp_path / "cache")
    said, answers = filling.said, []

    def later(place: str, block: Block, careful: bool) -> Any:
        answers.append(place)
        return said(place, block, careful) if len(answers) < 4 else MissingExtraError("To fit heads", "train", "torch")

    filling.said = later
    shown = Spread(filling, silence)(own)
    fit = (lambda one: [one.fit(0.1)]) if what == "sums" else (lambda one: logistic.out_of_fold(one, 0.1)[0])
    with pytest.warns(UserWarning, match="fitted on this machine alone"):
        found = fit(shown)
    for one, other in zip(found, fit(own), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(answers) < 9
    shown.fit(0.2)  # and nobody is asked any more
    assert len(answers) < 9


@pytest.mark.parametrize("what", ["sums", "turns"])
def test_a_cluster_without_room_for_workers_that_are_needed_again_ends_no_fit(tmp_path: Path, what: str):
    own, filling = drawn(), Played(tmp_path / "cache")
    shown = Spread(filling, silence)(own)
    fit = (lambda one: [one.fit(0.1)]) if what == "sums" else (lambda one: logistic.out_of_fold(one, 0.1)[0])
    fit(shown)

    def crew(*_: Any) -> Crew:
        raise ConfigError("No worker can begin: 0 of the cluster's 2 processors are free.")

    filling.crew = crew
    with pytest.warns(UserWarning, match=r"fitted on this machine alone\. No worker can begin"):
        found = fit(shown)
    for one, other in zip(found, fit(own), strict=True):
        np.testing.assert_array_equal(one, other)


def test_whatever_is_asked_keeps_the_folder_of_a_problem_fresh(tmp_path: Path):
    shown = Spread(Played(tmp_path / "cache"), silence)(drawn())
    for ask in (lambda: shown.fit(0.1), lambda: logistic.out_of_fold(shown, 0.1)):
        ask()
        (folder,) = (tmp_path / "cache").iterdir()
        os.utime(folder, (0, 0))
        ask()
        assert folder.stat().st_mtime > 0


def test_of_nothing_nobody_is_asked(tmp_path: Path):
    assert list(Spread(Played(tmp_path / "cache"), silence).said([])) == []


def test_what_the_workers_read_goes_with_the_problem(tmp_path: Path):
    filling = Played(tmp_path / "cache")
    shown = Spread(filling, silence)(drawn())
    shown.fit(0.1)
    (folder,) = (tmp_path / "cache").iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    del shown
    filling.stations.clear()
    assert not list((tmp_path / "cache").iterdir())


def test_a_worker_that_does_not_see_the_problem_says_which_folder(tmp_path: Path):
    station = Station()
    station.begin(Fitting())
    answer = station.do(Block(0, asked=spread.Asked(tmp_path / "nowhere")), False)
    assert str(tmp_path / "nowhere") in str(answer)
    assert "HEADSTART_CACHE" in str(answer)


def test_the_recipe_names_what_computes():
    assert {"the version of torch", "the version of scipy"} <= set(spread.recipe()) - set(hand.recipe(()))
