"""From usable pictures to a head in epochs: who is learned from, who is watched, who decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from headstart import arrays, metrics
from headstart.config import SplitConfig, read_config
from headstart.data import splits
from headstart.data.splits import Grouping
from headstart.errors import ConfigError
from headstart.learning import calibration, learners, linear, out_of_distribution, rules, sgd
from headstart.learning import problem as problems
from headstart.learning.calibration import Calibration
from headstart.learning.heads import Head
from headstart.learning.learner import NOBODY, Fitted, Learner
from headstart.learning.prior import LabelRows
from headstart.learning.rules import PredictionRules
from headstart.learning.sgd import Rows
from headstart.plans import EncoderPlan, Plan, SplitPlan, resolve
from headstart.records import Dataset, Finding, LabelledFeatures, Preprocess, Sample, Splits

FEATURES = 10
NAMES = ("ash", "birch", "cedar")


def samples(each: int, group: Callable[[int], str] | None = None, parts: tuple[str, ...] = ()) -> Dataset:
    """Return so many samples of each class; their groups and parts by their number within the class."""
    return Dataset(
        Path("/nowhere"),
        tuple(
            Sample(
                Path(f"/nowhere/{name}/{number}.png"),
                f"{name}/{number:03d}.png",
                name,
                group(number) if group else None,
                parts[number % len(parts)] if parts else None,
            )
            for name in NAMES
            for number in range(each)
        ),
    )


class Case(NamedTuple):
    """Features, what stays together among them, and who learns and measures."""

    features: LabelledFeatures
    groups: np.ndarray
    parts: Splits


class Learned(NamedTuple):
    """A head and the rules that go with it."""

    fitted: Fitted
    rules: PredictionRules


def case(dataset: Dataset, spread: float = 2.0) -> Case:
    """Return clouds of features, one a class, as features of these samples."""
    generator = np.random.default_rng(0)
    classes = dataset.classes
    targets = classes.encode(dataset.labels)
    centres = generator.normal(0, 1, (len(classes), FEATURES))
    values = centres[targets][:, None] + generator.normal(0, spread, (len(dataset), 2, FEATURES))
    digests = tuple(f"{row:064d}" for row in range(len(dataset)))
    groups = splits.group_ids(dataset, digests)
    grouping = Grouping(groups, groups, np.zeros(len(dataset), dtype=bool))
    parts = splits.partition(dataset, grouping, SplitPlan(), 0).final
    return Case(LabelledFeatures(dataset, values.astype(np.float32), classes, targets, digests), groups, parts)


def plan(*settings: str) -> Plan:
    """Return the tutorial's plan of a small head in few epochs."""
    return decide("recipe=tutorial", "head.hidden=[8]", "head.epochs=6", *settings)


def decide(*settings: str) -> Plan:
    """Return the plan of these settings."""
    return resolve(
        read_config(None, settings),
        Preprocess(64, 1, "bicubic", (0.5,) * 3, (0.5,) * 3),
        EncoderPlan("x", "", "torch", "cpu", "f32"),
    )


def build(features: LabelledFeatures, decided: Plan, **more: Any) -> Learner:
    """Return what fits heads as a plan says; nothing is known of any label."""
    none = np.zeros((0, FEATURES), np.float32)
    return learners.build(features, decided.head, LabelRows((), none, none[:, 0]), decided.seed, **more)


def learn(given: Case, *settings: str, **more: Any) -> Learned:
    """Fit the head, and its rules."""
    decided, parts = plan(*settings), given.parts
    watch = parts.validation if len(parts.validation) or decided.head.watch == "validation" else parts.test
    own = build(given.features, decided, **more)
    fitted = own.fit(parts.train, watch, given.groups)
    return Learned(fitted, rules.fit(own, fitted, parts.train, given.groups, decided.calibration))


def same(one: Head, other: Head) -> bool:
    """Whether two heads are equal to the bit."""
    return all(np.array_equal(value, other.tensors[name]) for name, value in one.tensors.items())


def found(learned: Learned, code: str) -> Finding | None:
    """Return the finding with this code, if there is one."""
    return next((finding for finding in learned.fitted.findings if finding.code == code), None)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Rows]:
    """Which rows each fit in epochs was asked to use."""
    heard: list[Rows] = []
    real = sgd.fit

    def fit(*arguments: Any, **more: Any) -> sgd.SgdFit:
        heard.append(arguments[1])
        return real(*arguments, **more)

    monkeypatch.setattr(sgd, "fit", fit)
    return heard


def test_watched_pictures_are_a_tenth_of_the_training_part_of_every_class(asked: list[Rows]):
    given = case(samples(100))
    learned = learn(given)
    (rows,) = asked
    assert sorted([*rows.learned, *rows.watched]) == given.parts.train.tolist()
    assert np.bincount(given.features.targets[rows.watched]).tolist() == [8, 8, 8]
    assert learned.fitted.provenance["watched"] == 24


def test_E5_validation_pictures_are_neither_learned_from_nor_watched(asked: list[Rows]):
    given = case(samples(40))
    learn(given)
    (rows,) = asked
    assert not {*rows.learned, *rows.watched} & {*given.parts.validation}
    assert rows.shown.tolist() == given.parts.validation.tolist()


def test_E1_groups_are_never_on_both_sides_of_the_watch(asked: list[Rows]):
    given = case(samples(60, group=lambda number: f"owner {number // 3}"))
    learn(given)
    (rows,) = asked
    assert len(rows.watched) > 0
    assert not {*given.groups[rows.watched]} & {*given.groups[rows.learned]}


def test_a_large_group_is_not_what_is_watched(asked: list[Rows]):
    learn(case(samples(40, group=lambda number: "one" if number < 20 else str(number))))
    (rows,) = asked
    assert 5 <= len(rows.watched) <= 13  # of 96


def test_E5_validation_pictures_decide_nothing():
    given = case(samples(130))
    values, targets = given.features.values.copy(), given.features.targets.copy()
    values[given.parts.validation], targets[given.parts.validation] = 50, 0
    clean, poisoned = (
        learn(given),
        learn(given._replace(features=replace(given.features, values=values, targets=targets))),
    )
    assert same(clean.fitted.head, poisoned.fitted.head)
    assert clean.rules.calibration == poisoned.rules.calibration != Calibration()
    assert clean.fitted.provenance == poisoned.fitted.provenance
    assert clean.fitted.history[-1].validation_loss != poisoned.fitted.history[-1].validation_loss


def test_the_temperature_comes_from_the_watched_pictures(asked: list[Rows]):
    given = case(samples(130))
    learned = learn(given)
    watched = asked[0].watched
    logits = learned.fitted.head.logits(given.features.values[watched, 0])
    assert len(watched) >= calibration.FEWEST
    assert (
        learned.rules.calibration.temperature
        == calibration.fit_temperature(logits, given.features.targets[watched])[0]
        != 1
    )
    assert learned.fitted.findings == ()


def test_too_few_to_watch_are_said_to_be_and_make_no_answer_sure():
    learned = learn(case(samples(20)))
    finding, held = found(learned, "too-few-to-watch"), learned.fitted.held
    assert learned.rules.calibration.probabilities(held.logits).max(axis=1).mean() < 1 - 0.9 / (5 + 2)
    assert finding is not None
    assert finding.severity == "warning"
    assert "only 5 pictures can be watched" in finding.message


def test_where_none_can_be_watched_all_epochs_run():
    given = case(samples(6, parts=("train", "test", "test", "test", "test", "test")))
    learned = learn(given, "head.patience=1", "head.min_delta=50")
    assert learned.rules.calibration == Calibration()
    assert learned.fitted.provenance["watched"] == 0
    assert len(learned.fitted.history) == 6
    assert found(learned, "too-few-to-watch") is not None


def test_watching_validation_watches_it_all_and_says_that_it_flatters(asked: list[Rows]):
    given = case(samples(60))
    learned = learn(given, "head.watch=validation")
    (rows,) = asked
    assert rows.learned.tolist() == given.parts.train.tolist()
    assert rows.watched.tolist() == given.parts.validation.tolist()
    assert all(step.watched_loss <= step.validation_loss for step in learned.fitted.history)  # scaled by a temperature
    finding = found(learned, "watched-validation")
    assert finding is not None
    assert finding.names == (f"{learned.fitted.provenance['watched']} pictures",)


def test_watching_training_flatters_nothing():
    assert found(learn(case(samples(40))), "watched-validation") is None


def test_watching_validation_where_there_is_none_is_refused():
    given = case(samples(20, parts=("train", "train", "test")))
    with pytest.raises(ConfigError, match=r"head\.watch is 'validation'.*no validation pictures") as refused:
        learn(given, "head.watch=validation")
    assert "head.watch=training" in refused.value.hint


def test_watching_validation_where_there_is_none_is_found_out_before_any_work():
    dataset = samples(20, parts=("train", "train", "test"))
    with pytest.raises(ConfigError, match="no validation part"):
        splits.check(dataset, SplitConfig(), "head.watch")
    splits.check(dataset, SplitConfig(), "")
    splits.check(samples(20), SplitConfig(), "head.watch")


def test_where_there_is_no_validation_part_the_test_part_is_shown(asked: list[Rows]):
    given = case(samples(20, parts=("train", "train", "test")))
    learn(given)
    assert asked[0].shown.tolist() == given.parts.test.tolist()


def test_E6_test_pictures_of_a_given_split_decide_nothing():
    given = case(samples(20, parts=("train", "train", "validation", "test")))
    values, targets = given.features.values.copy(), given.features.targets.copy()
    values[given.parts.test], targets[given.parts.test] = 50, 0
    assert same(
        learn(given).fitted.head,
        learn(given._replace(features=replace(given.features, values=values, targets=targets))).fitted.head,
    )


def test_the_refit_learns_from_the_rows_it_is_given_for_the_best_number_of_epochs(asked: list[Rows]):
    given, decided = case(samples(60)), plan("head.epochs=20", "head.patience=3", "head.learning_rate=0.05")
    own = build(given.features, decided)
    fitted = own.fit(given.parts.train, given.parts.validation, given.groups)
    best, rows = fitted.provenance["best_epoch"], np.arange(len(given.features))
    head = own.refit(rows, fitted.best).head
    nothing = np.array([], dtype=np.int64)
    assert best < len(fitted.history) < 20  # or there is nothing to tell apart
    assert asked[1].learned.tolist() == rows.tolist()
    assert len(asked[1].watched) == 0
    until = Rows(rows, nothing, nothing, until=best)  # with the schedule of all epochs
    assert same(head, sgd.fit(given.features, until, decided.head, 0).head)


def test_what_is_told_of_the_fit_is_what_happened():
    learned = learn(case(samples(60)), "head.epochs=20", "head.patience=3", "head.learning_rate=0.05")
    epochs = len(learned.fitted.history)
    best = 1 + int(
        np.argmin([step.watched_loss for step in learned.fitted.history[: learned.fitted.provenance["best_epoch"]]])
    )
    assert learned.fitted.provenance == {
        "head": f"dense 8 → 3, adam, epoch {best} of {epochs} was best",
        "best_epoch": best,
        "epochs": epochs,
        "stopped_early": True,
        "watched": 14,
        "matched": {},
    }


def test_a_killed_fit_goes_on_from_the_cache_and_leaves_nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sgd, "SAVE_EVERY", 0)
    given = case(samples(40))

    def die(stage: str, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(given, checkpoints=tmp_path / "fits", progress=die)
    assert len(list((tmp_path / "fits").iterdir())) == 1
    begun: list[int] = []
    again = learn(given, checkpoints=tmp_path / "fits", progress=lambda _, done, __: begun.append(done))
    assert begun[0] == 4  # nothing is done twice
    assert same(again.fitted.head, learn(given).fitted.head)
    assert not list((tmp_path / "fits").iterdir())


@pytest.mark.parametrize("decided", [decide("head.l2=1"), plan("head.epochs=2")])
def test_E5_what_measures_a_fold_has_not_learned_from_it(decided: Plan):
    given = case(samples(20))
    targets = given.features.targets
    rows, fold = np.arange(len(targets)), np.arange(len(targets)) % 4
    own, other = (
        build(replace(given.features, targets=labels), decided).in_turn(rows, NOBODY, fold, given.groups)
        for labels in (targets, np.where(fold == 2, (targets + 1) % len(NAMES), targets))
    )
    assert sorted(own.turns) == [0, 1, 2, 3]
    assert same(own.turns[2].head, other.turns[2].head)
    assert not same(own.turns[1].head, other.turns[1].head)
    for number, fitted in own.turns.items():
        assert fitted.held is not None
        assert number not in fold[fitted.held.rows]


def test_the_penalty_of_a_fold_is_chosen_by_the_others():
    given = case(samples(30))
    rows, fold = np.arange(len(given.features)), np.arange(len(given.features)) % 3
    own = build(given.features, decide())
    fits = own.in_turn(rows, NOBODY, fold, given.groups)
    assert fits.last.held is not None
    assert sorted(fits.last.held.rows.tolist()) == rows.tolist()
    scores = dict(fits.turns[0].provenance["l2_tried"])
    assert fits.turns[0].best == min(scores, key=scores.__getitem__)
    assert scores != dict(fits.last.provenance["l2_tried"])


@pytest.fixture
def _many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "MANY", 200)
    monkeypatch.setattr(linear, "CHOSEN_BY", 90)
    monkeypatch.setattr(linear, "APART", 60)


@pytest.mark.usefixtures("_many")
def test_of_very_many_pictures_some_choose_and_others_calibrate():
    given = case(samples(200, group=lambda number: f"{number // 4}"))
    own, parts = build(given.features, decide()), given.parts
    assert len(parts.train) > 200
    fitted = own.fit(parts.train, parts.validation, given.groups)
    apart = fitted.held.rows
    assert 60 <= len(apart) < 90
    assert set(apart.tolist()) <= set(parts.train.tolist())
    learned = np.setdiff1d(parts.train, apart)
    assert not np.isin(given.groups[apart], given.groups[learned]).any()
    alone = own.refit(learned, fitted.best)
    np.testing.assert_allclose(fitted.logits(parts.validation), alone.logits(parts.validation), atol=0.05)
    np.testing.assert_array_equal(fitted.left_out, apart)
    made = rules.fit(own, fitted, parts.train, given.groups, decide().calibration)
    assert 0.5 < made.calibration.temperature < 2
    assert not len(own.refit(parts.train, fitted.best, begin=fitted).left_out)


@pytest.mark.usefixtures("_many")
def test_no_class_is_held_out_whole_to_calibrate():
    dataset = samples(240)
    rare = tuple(Sample(Path(f"/{number}.png"), f"{number}.png", f"rare {number:02d}") for number in range(40))
    given = case(Dataset(dataset.root, (*dataset.samples, *rare)))
    own, train = build(given.features, decide()), np.arange(len(given.groups))
    fitted = own.fit(train, NOBODY, given.groups)
    assert len(fitted.left_out) > 50
    targets = given.features.targets
    assert set(np.delete(targets, fitted.left_out)) == set(targets)


@pytest.mark.usefixtures("_many")
def test_the_head_of_very_many_pictures_is_as_good_as_that_of_all_folds(monkeypatch: pytest.MonkeyPatch):
    given = case(samples(400))
    own, parts = build(given.features, decide()), given.parts

    def loss() -> float:
        fitted = own.fit(parts.train, parts.validation, given.groups)
        made = rules.fit(own, fitted, parts.train, given.groups, decide().calibration)
        said = made.calibration.probabilities(fitted.logits(parts.validation))
        return metrics.log_loss(said, given.features.targets[parts.validation])

    some = loss()
    monkeypatch.setattr(linear, "MANY", 10**6)
    assert some == pytest.approx(loss(), abs=0.02)


@pytest.mark.usefixtures("_many")
def test_where_a_group_holds_most_pictures_the_folds_decide_as_they_do_of_few():
    given = case(samples(200, group=lambda number: "one" if number < 150 else f"{number}"))
    own, parts = build(given.features, decide()), given.parts
    fitted = own.fit(parts.train, parts.validation, given.groups)
    assert len(fitted.held.rows) > 100


def many(classes: int, each: int) -> tuple[LabelledFeatures, Learner]:
    """Return so many clouds, and what fits heads to them."""
    targets = np.arange(classes * each) % classes
    centres = np.random.default_rng(0).normal(0, 1, (classes, 24))
    values = centres[targets] + np.random.default_rng(1).normal(0, 0.25, (len(targets), 24))
    names = [f"species {number:04d}" for number in range(classes)]
    dataset = Dataset(Path(), tuple(Sample(Path(), f"{row}", names[k]) for row, k in enumerate(targets)))
    digests = tuple(f"{row:064d}" for row in range(len(targets)))
    features = LabelledFeatures(dataset, values.astype(np.float32)[:, None], dataset.classes, targets, digests)
    none = np.zeros((0, 24), np.float32)
    own = learners.build(features, decide("head.l2=[0.01,0.001]").head, LabelRows((), none, none[:, 0]), 0)
    return features, own


def test_answers_are_the_classes_of_the_largest_logits(monkeypatch: pytest.MonkeyPatch):
    fitted, rows = learn(case(samples(20))).fitted, np.arange(59, -1, -1)
    monkeypatch.setattr(arrays, "BLOCK", 7)
    assert fitted.answers(rows).tolist() == fitted.logits(rows).argmax(axis=1).tolist()


def test_of_very_many_watched_pictures_some_make_the_rules(asked: list[Rows], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(calibration, "HELD", 3 * 8)
    given = case(samples(100))
    learned = learn(given)
    (rows,), held = asked, learned.fitted.held
    assert held.rows.tolist() == rows.watched[np.linspace(0, 23, 8).astype(int)].tolist()
    np.testing.assert_array_equal(held.logits, learned.fitted.logits(held.rows))
    assert learned.rules.out_of_distribution.count == 8


@pytest.mark.slow
def test_B14_thousands_of_classes_are_learned(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(problems, "MANY_WEIGHTS", 1000)  # as of 10,000 classes and 1,280 features
    monkeypatch.setattr(calibration, "HELD", 1 << 20)
    classes = 1000
    features, own = many(classes, 4)
    targets = features.targets
    groups = np.arange(len(targets))
    train, held = groups[: 3 * classes], groups[3 * classes :]
    fitted = own.fit(train, held, groups)
    assert len(fitted.held.rows) <= (1 << 20) // classes
    made = rules.fit(own, fitted, train, groups, decide().calibration)
    said = rules.apply_to(made, fitted, held)
    assert (said.probabilities.argmax(axis=1) == targets[held]).mean() > 0.9


def test_B14_of_thousands_of_classes_with_one_picture_each_a_bounded_number_is_held_out(
    monkeypatch: pytest.MonkeyPatch,
):
    classes = 500
    features, own = many(classes, 2)
    groups, train = np.arange(2 * classes), np.arange(classes)
    fitted = own.fit(train, train + classes, groups)
    assert not len(fitted.held.rows)
    real, without = out_of_distribution.learn, []

    def learn(score: Any, values: Any, targets: Any, rows: Any, *more: Any, **others: Any) -> Any:
        without.append(np.setdiff1d(train, rows))
        return real(score, values, targets, rows, *more, **others)

    monkeypatch.setattr(out_of_distribution, "learn", learn)
    rule = rules.fit(own, fitted, train, groups, decide().calibration).out_of_distribution
    assert (rule.score, rule.count) == ("neighbours", classes)
    left = [rows for rows in without if len(rows)]
    assert len(left) == out_of_distribution.MOST_FOLDS
    np.testing.assert_array_equal(np.sort(np.concatenate(left)), train)


@pytest.mark.parametrize("score", out_of_distribution.NEED_LOGITS)
def test_a_score_that_nothing_was_held_out_for_refuses_nothing_and_says_so(score: str):
    features, own = many(6, 2)
    nothing_like = LabelRows(("one", "two"), np.zeros((2, 24), np.float32), np.array([0, -9], np.float32))
    own = replace(own, label_rows=nothing_like)
    groups, train = np.arange(12), np.arange(6)
    fitted, asked = own.fit(train, train + 6, groups), decide(f"calibration.unknown={score}").calibration
    made = rules.fit(own, fitted, train, groups, asked)
    assert made.out_of_distribution is None
    (told,) = [one for one in rules.findings(made, fitted, groups, asked) if one.code == "refuses-nothing"]
    assert told.names == (score,)
    assert "calibration.unknown=neighbours" in told.advice
    none = decide("calibration.unknown=none").calibration
    assert not [one for one in rules.findings(made, fitted, groups, none) if one.code == "refuses-nothing"]


def test_a_refit_tells_how_far_it_is():
    features, own = many(6, 4)
    heard: list[tuple[str, int, int]] = []
    own = replace(own, progress=lambda *told: heard.append(told))
    groups = np.arange(24)
    fitted = own.fit(groups[:18], groups[18:], groups)
    heard.clear()
    own.refit(groups, fitted.best)
    assert heard[0] == ("Refitting", 0, 1)
    assert heard[-1] == ("Refitting", 1, 1)
    assert [done for _, done, _ in heard[1:-1]] == list(range(1, len(heard) - 1))
    assert all(done < total for _, done, total in heard[:-1])
