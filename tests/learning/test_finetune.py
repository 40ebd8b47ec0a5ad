"""Networks trained with their heads: kept where they prove better, left alone where they do not, resumed to the bit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import contracts
import numpy as np
import pytest
import timm
import torch
from PIL import Image

from headstart import arrays
from headstart.config import CalibrationConfig, HeadConfig
from headstart.data import images, sources
from headstart.encoding import crops, features, pretrained, runtime, sizes, stages
from headstart.encoding.backbone import Backbone
from headstart.encoding.ondemand import OnDemand
from headstart.errors import DataError
from headstart.learning import finetune, rates, rules
from headstart.learning.augment import Augmentation
from headstart.learning.clock import TIMED, WARMING, Clock, Limits
from headstart.learning.learner import Fitted
from headstart.learning.linear import LogisticLearner
from headstart.learning.prior import LabelRows
from headstart.learning.task import Rows, Task
from headstart.learning.together import ALONE
from headstart.learning.tuner import FineTuneLearner, Tuning
from headstart.model.classifier import Classifier
from headstart.plans import EncoderPlan, FineTunePlan, resolve_head
from headstart.records import LabelledFeatures, Preprocess, Splits
from headstart.workflows import train
from headstart.workflows.train import Round

SIDE = 32
EACH = 240
PLAN = EncoderPlan("test_resnet", "", "torch", "cpu", "f32")
NOTHING = np.zeros((0, 1), np.float32)
NONE = np.array([], dtype=np.int64)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small pictures are trained on faster without threads, above all where cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def striped(root: Path, contrast: float, each: int = EACH) -> Path:
    """Draw stripes across and down, of a phase and a colour of their own; the lower the contrast, the harder."""
    for k, name in enumerate(("across", "down")):
        (root / name).mkdir(parents=True)
        for number in range(each):
            drawn = np.random.default_rng([k, number])
            stripes = (np.arange(SIDE) + drawn.integers(6)) // 3 % 2 - 0.5
            plane = np.broadcast_to(stripes[:, None] if k == 0 else stripes[None], (SIDE, SIDE))
            pixels = drawn.integers(90, 160, 3) + plane[..., None] * contrast + drawn.normal(0, 20, (SIDE, SIDE, 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / name / f"{name}{number:03d}.png")
    return root


def untrained(name: str = "test_resnet") -> Backbone:
    """Return a network whose weights mean nothing."""
    torch.manual_seed(0)
    options = {"img_size": SIDE} if "vit" in name else {}
    state = timm.create_model(name, num_classes=0, **options).state_dict()
    return Backbone((pretrained.rebuild(name, state, Preprocess(SIDE, 1.0, "bicubic", (0.5,) * 3, (0.5,) * 3), {}),))


class Case(NamedTuple):
    """A learner, and its pictures: every tenth is never learned from."""

    learner: FineTuneLearner
    train: np.ndarray
    test: np.ndarray

    @property
    def groups(self) -> np.ndarray:
        return np.arange(len(self.learner.features))

    def fit(self, **changes: Any) -> Fitted:
        learner = replace(self.learner, **changes)
        return learner.fit(self.train, self.test, self.groups)

    def limited(self, **limits: Any) -> Fitted:
        return self.fit(tuning=replace(self.learner.tuning, limits=Limits(**limits)))


def case(root: Path, backbone: Backbone, **plan: Any) -> Case:
    """Return a case on the pictures of a folder."""
    dataset = sources.read(root)
    digests = tuple(images.digest(sample.path.read_bytes()) for sample in dataset)
    values = features.extract(dataset, digests, runtime.build_all(backbone, PLAN)).table.values
    labelled = LabelledFeatures(dataset, values, dataset.classes, dataset.classes.encode(dataset.labels), digests)
    linear = LogisticLearner(labelled, resolve_head(HeadConfig(hidden=())), LabelRows((), NOTHING, NOTHING[:, 0]), 0)
    asked = {"epochs": 6, "learning_rate": 0.001, "patience": 6, "flip": False} | plan
    tuning = Tuning(backbone, PLAN, FineTunePlan(**asked))
    rows = np.arange(len(dataset))
    return Case(FineTuneLearner(linear, tuning), rows[rows % 10 > 0], rows[rows % 10 == 0])


@pytest.fixture(scope="module")
def visible(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Stripes that training can tell apart better than features that mean nothing."""
    return case(striped(tmp_path_factory.mktemp("visible") / "photos", 20), untrained())


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Noise: nothing can be learned."""
    return case(striped(tmp_path_factory.mktemp("hidden") / "photos", 0), untrained(), epochs=2)


@pytest.fixture(scope="module")
def won(visible: Case) -> Fitted:
    return visible.fit()


def right(given: Case, fitted: Fitted) -> float:
    """Return the share of the pictures never learned from that is answered rightly."""
    return float((fitted.logits(given.test).argmax(axis=1) == given.learner.features.targets[given.test]).mean())


def told(fitted: Fitted) -> dict[str, Any]:
    """Return what is told of the attempt."""
    return dict(fitted.provenance["finetune"])


@pytest.mark.slow
def test_a_network_that_proves_better_is_kept_and_says_by_how_much(visible: Case, won: Fitted):
    frozen = visible.learner.linear.fit(visible.train, visible.test, visible.groups)
    assert won.tuned is not None
    assert right(visible, won) > right(visible, frozen) + 0.05
    assert told(won)["kept"]
    assert told(won)["log_loss_difference"][2] < 0
    assert won.findings[0].code == "fine-tuned"
    assert "accuracy +" in won.findings[0].message
    assert [step.number for step in won.history] == list(range(len(won.history)))


@pytest.mark.slow
def test_what_was_held_out_is_what_the_saved_network_will_say(visible: Case, won: Fitted, tmp_path: Path):
    made = rules.fit(visible.learner, won, visible.train, visible.groups, CalibrationConfig(unknown="neighbours"))
    classes = visible.learner.features.classes
    frozen = untrained()
    encoders = (*won.tuned.encoders, *runtime.build_all(frozen, PLAN))
    backbone = Backbone((*won.tuned.backbone.networks, *frozen.networks))
    classifier = Classifier(backbone, encoders, won.head, made, classes)
    pictures = visible.learner.features.dataset.select(won.held.rows)
    said = classifier.predict_many(pictures).probabilities
    np.testing.assert_array_equal(said, made.calibration.probabilities(won.held.logits))
    contracts.check_artifact(classifier, tmp_path / "model", pictures)


@pytest.mark.slow
def test_features_are_computed_for_the_rows_that_are_asked_for_and_once(
    visible: Case, won: Fitted, monkeypatch: pytest.MonkeyPatch
):
    heard: list[int] = []
    known, rows = visible.learner.features, visible.test[:4]
    seen = OnDemand(
        known.dataset,
        known.digests,
        won.tuned.encoders,
        beside=known.values[:, 0],
        progress=lambda stage, done, total: heard.append(total),
    )
    first = seen.table(rows)[rows].copy()
    assert set(heard) == {4}
    heard.clear()
    np.testing.assert_array_equal(seen.table(rows)[rows], first)
    assert not heard
    np.testing.assert_array_equal(first, won.embed(rows))
    np.testing.assert_array_equal(seen.table(rows)[:, -known.values.shape[2] :], known.values[:, 0])
    monkeypatch.setattr(arrays, "RESIDENT", 0)  # of very many pictures they lie in a file
    mapped = OnDemand(known.dataset, known.digests, won.tuned.encoders, beside=known.values[:, 0]).table(rows)
    assert arrays.is_mapped(mapped)
    np.testing.assert_allclose(mapped, seen.table(rows), rtol=2e-3, atol=2e-3)  # extracted in half precision there


@pytest.mark.slow
def test_the_refit_learns_from_all_rows_for_as_many_epochs(visible: Case, won: Fitted):
    rows = visible.groups
    again = visible.learner.refit(rows, won.best, begin=won)
    assert again.tuned is not None
    assert again.tuned.epochs == told(won)["best_epoch"]
    assert right(visible, again) > 0.9
    assert visible.learner.refit(rows, won.best).tuned is None  # an experiment is a linear head


@pytest.mark.slow
def test_rules_of_features_are_learned_anew_for_the_refitted_network(visible: Case, won: Fitted):
    plan = CalibrationConfig(unknown="neighbours")
    made = rules.fit(visible.learner, won, visible.train, visible.groups, plan)
    again = visible.learner.refit(visible.groups, won.best, begin=won)
    carried = rules.carried(made, again, visible.groups, 0)
    assert carried.out_of_distribution.own == made.out_of_distribution.own
    mean = again.embed(visible.groups).mean(axis=0)
    np.testing.assert_allclose(carried.out_of_distribution.arrays["mean"], mean, rtol=1e-5)


@pytest.mark.slow
def test_what_is_measured_learns_from_what_was_watched_too_where_there_is_time(visible: Case, won: Fitted):
    made = rules.fit(visible.learner, won, visible.train, visible.groups, CalibrationConfig(unknown="neighbours"))
    first = Round(won, made, Splits(visible.train, visible.test, NONE))
    saved = visible.learner.refit(visible.groups, won.best, begin=won)
    whole = train._whole(visible.learner, first, saved, visible.groups).fitted
    assert whole.tuned is not None
    digests = [one.tuned.backbone.networks[0].digest for one in (won, saved, whole)]
    assert len(set(digests)) == 3
    assert (whole.held, whole.provenance["watched"]) == (won.held, 0)
    hurried = replace(visible.learner, tuning=replace(visible.learner.tuning, limits=Limits(time.monotonic())))
    assert train._whole(hurried, first, saved, visible.groups) is first


@pytest.mark.slow
def test_validation_pictures_prove_it_and_stop_it_where_the_plan_says_so(visible: Case):
    tuning = visible.learner.tuning
    learner = replace(visible.learner, tuning=replace(tuning, plan=replace(tuning.plan, watch="validation")))
    watch = np.arange(3, len(visible.groups), 4)
    fitted = learner.fit(np.setdiff1d(visible.groups, watch), watch, visible.groups)
    np.testing.assert_array_equal(fitted.held.rows, watch)
    assert fitted.provenance["watched"] == 0  # training pictures
    assert [one.code for one in fitted.findings] == ["fine-tuned", "watched-validation"]
    assert f"on {len(watch)} validation pictures" in fitted.findings[0].message


@pytest.mark.slow
def test_where_nothing_is_won_the_frozen_head_stays_to_the_bit(hidden: Case):
    frozen = hidden.learner.linear.fit(hidden.train, hidden.test, hidden.groups)
    fitted = hidden.fit()
    assert fitted.tuned is None
    np.testing.assert_array_equal(fitted.logits(hidden.groups), frozen.logits(hidden.groups))
    np.testing.assert_array_equal(fitted.held.logits, frozen.held.logits)
    assert fitted.history == frozen.history
    assert not told(fitted)["kept"]
    assert fitted.findings[-1].code == "not-fine-tuned"
    assert "so it is left out: log-loss" in fitted.findings[-1].message


def test_too_few_watched_pictures_leave_the_frozen_head(tmp_path: Path):
    given = case(striped(tmp_path / "photos", 20, each=20), untrained())
    fitted = given.fit()
    assert fitted.tuned is None
    assert "can be left out to compare" in fitted.findings[-1].message


class Killed(BaseException):
    """What no code expects."""


def killed_after(epoch: int) -> Callable[[Any], None]:
    def listen(step: Any) -> None:
        if step.number == epoch:
            raise Killed

    return listen


def task(given: Case, folder: Path | None = None, **changes: Any) -> Task:
    return replace(given.learner._task(), checkpoints=folder, **changes)


def rows_of(given: Case, epochs: int = 2) -> Rows:
    """Return a few rows, so that an epoch takes no time."""
    return Rows(given.train[::4], given.test, epochs)


def head_of(given: Case) -> Any:
    return given.learner.linear.refit(given.train[::4], 0.01).head


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_killed_training_goes_on_to_the_same_bits(visible: Case, tmp_path: Path, epoch: int):
    head, rows = head_of(visible), rows_of(visible)
    whole = finetune.fit(task(visible), head, rows)
    with pytest.raises(Killed):
        finetune.fit(task(visible, tmp_path), head, rows, listen=killed_after(epoch))
    assert bool(list(tmp_path.iterdir())) == (epoch > 0)
    resumed = finetune.fit(task(visible, tmp_path), head, rows)
    assert resumed.backbone.networks[0].digest == whole.backbone.networks[0].digest
    assert np.array_equal(resumed.head.weight, whole.head.weight)
    assert [step.watched_loss for step in resumed.history] == [step.watched_loss for step in whole.history]
    assert not list(tmp_path.iterdir())


def test_at_first_the_network_says_what_the_frozen_one_says(visible: Case):
    head, rows = head_of(visible), rows_of(visible, epochs=1)
    tuned = finetune.fit(task(visible), head, rows)
    said = head.logits(visible.learner.features.values[rows.watched, 0])
    np.testing.assert_allclose(tuned.logits[0], said, atol=1e-4)
    assert tuned.history[0].train_accuracy > 0.9
    assert len(tuned.logits) == len(tuned.history) == 2


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit", "test_convnext"])
def test_networks_of_other_kinds_are_trained_and_their_statistics_stay(name: str, visible: Case):
    backbone = untrained(name)
    before = {key: value.clone() for key, value in backbone.networks[0].module.state_dict().items()}
    values = np.zeros((len(visible.groups), 1, backbone.dim), np.float32)
    seen = visible.learner._task().augmentation
    seen = replace(seen, features=replace(seen.features, values=values))
    head = contracts.head(backbone.dim, 2)
    tuned = finetune.fit(task(visible, backbone=backbone, augmentation=seen), head, Rows(visible.train[::8], NONE, 1))
    after = tuned.backbone.networks[0].module.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert not {key for key in changed if "running" in key}
    assert all(torch.equal(before[key], value) for key, value in backbone.networks[0].module.state_dict().items())


def test_networks_side_by_side_are_trained_together(visible: Case):
    one, other = untrained().networks[0], untrained("test_efficientnet").networks[0]
    both = Backbone((one, replace(other, preprocess=replace(other.preprocess, size=48))))
    values = np.zeros((len(visible.groups), 1, both.dim), np.float32)
    features_of = replace(visible.learner.features, values=values)
    preprocesses = tuple(network.preprocess for network in both.networks)
    seen = Augmentation(features_of, preprocesses, preprocesses, mirror=True, seed=0)
    head = contracts.head(both.dim, 2)
    tuned = finetune.fit(Task(seen, both, FineTunePlan(epochs=1)), head, Rows(visible.train[::8], NONE, 1))
    digests = [network.digest for network in both.networks]
    assert all(new.digest != old for new, old in zip(tuned.backbone.networks, digests, strict=True))


def test_stages_far_from_the_head_can_be_left_as_they_are(visible: Case):
    own = task(visible)
    tuned = finetune.fit(replace(own, plan=replace(own.plan, epochs=1, stages=2)), head_of(visible), rows_of(visible))
    before, after = (one.networks[0].module for one in (own.backbone, tuned.backbone))
    changed = {name for name, weight in before.named_parameters() if not torch.equal(weight, after.get_parameter(name))}
    near = {name for name, far in stages.distances(before).items() if far < 2}
    assert changed == near
    assert len(near) < len(list(before.parameters()))


def test_the_further_from_the_head_the_smaller_the_learning_rate(visible: Case):
    run = finetune._Run(task(visible), head_of(visible), rows_of(visible), ALONE)
    rates = sorted({group["highest"] for group in run.optimizer.param_groups})
    assert rates[-1] == visible.learner.tuning.plan.learning_rate
    np.testing.assert_allclose(np.array(rates[:-1]) / np.array(rates[1:]), 0.75)
    assert len(rates) == 5


def test_parts_are_learned_from_at_the_size_that_the_network_was_trained_on(visible: Case):
    one = visible.learner.tuning.backbone.networks[0]
    large = Backbone((replace(one, preprocess=replace(one.preprocess, size=320)),))
    seen = replace(visible.learner, tuning=replace(visible.learner.tuning, backbone=large))._task().augmentation
    assert [sizes.trained_on(one), seen.shown[0].size, seen.preprocesses[0].size] == [SIDE, 160, 320]
    assert [seen.load(0, epoch).pixels[0].shape[0] for epoch in (None, 1)] == [320, 160]


def test_the_learning_rate_rises_for_an_epoch_and_then_falls_to_nothing():
    pace = [rates.pace(step, 10, 3) for step in range(30)]
    assert pace[9] == pace[10] == 1
    assert pace[:10] == sorted(pace[:10])
    assert pace[10:] == sorted(pace[10:], reverse=True)
    assert pace[-1] < 0.01


def test_one_who_stops_it_gets_what_was_best_so_far(visible: Case):
    asked = iter([False] * 8 + [True] * 1000)
    limits = Limits(stop=lambda: next(asked))
    tuned = finetune.fit(task(visible, limits=limits), head_of(visible), rows_of(visible))
    assert tuned.ended == "stop"
    assert [step.number for step in tuned.history] == [0, 1]  # the second epoch had begun


def test_one_who_stops_it_at_once_gets_the_frozen_head(visible: Case):
    fitted = visible.limited(stop=lambda: True)
    assert fitted.tuned is None
    assert "no epoch came to its end; it was stopped" in fitted.findings[-1].message


def test_without_time_for_two_epochs_the_frozen_head_stays(visible: Case):
    fitted = visible.limited(deadline=time.monotonic() + 0.01)
    assert fitted.tuned is None
    assert told(fitted)["ended"] == "deadline"
    assert "there was no time for more" in fitted.findings[-1].message


def ticking(
    monkeypatch: pytest.MonkeyPatch, deadline: float, *, planning: bool = True, done: int = 0, follows: float = 1.5
) -> tuple[Clock, list[float]]:
    """Return a clock of 8 epochs of 100 seconds that thinks so, with 150 to follow for each, and the time."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = Clock(Limits(deadline=deadline), lambda *_: None, epochs=8, steps=20, follows=follows if planning else 0.0)
    for step in range(1, TIMED + 1):
        now[0] += 5 if step > WARMING else 0
        clock.tick(done + step, planning=planning)
    assert clock.epoch_seconds() == 100
    return clock, now


@pytest.mark.parametrize(("deadline", "epochs"), [(2300.0, 8), (2000.0, 7), (600.0, 2), (500.0, 4), (250.0, 2)])
def test_a_deadline_drops_epochs_and_then_the_refit(monkeypatch: pytest.MonkeyPatch, deadline: float, epochs: int):
    clock, now = ticking(monkeypatch, deadline)
    assert (clock.epochs, clock.ended) == (epochs, "")
    now[0] = deadline - 99
    clock.before(epochs)
    assert clock.ended == "deadline"


@pytest.mark.parametrize(("deadline", "epochs"), [(1950.0, 8), (1250.0, 5), (1100.0, 8), (600.0, 5), (250.0, 2)])
def test_five_epochs_go_before_a_refit_on_a_few_more_pictures(
    monkeypatch: pytest.MonkeyPatch, deadline: float, epochs: int
):
    clock, _ = ticking(monkeypatch, deadline, follows=1.1)
    assert (clock.epochs, clock.ended) == (epochs, "")


def test_an_epoch_ends_with_the_time_and_a_refit_without_time_does_not_begin(monkeypatch: pytest.MonkeyPatch):
    clock, now = ticking(monkeypatch, 1000.0)
    now[0] = 1001
    clock.tick(TIMED + 1, planning=True)
    assert clock.ended == "deadline"
    assert ticking(monkeypatch, 700.0, planning=False)[0].ended == "deadline"
    assert ticking(monkeypatch, 1000.0, planning=False)[0].ended == ""


@pytest.mark.parametrize(("seconds", "epochs"), [(50.0, 8), (100.0, 5), (200.0, 2)])
def test_the_first_epoch_says_how_many_there_is_time_for(monkeypatch: pytest.MonkeyPatch, seconds: float, epochs: int):
    clock, now = ticking(monkeypatch, 1600.0)
    assert clock.epochs == 5  # of 250 seconds with what follows, 0.9 of the time being planned with
    now[0] = seconds
    clock.after(1, seconds, planning=True)
    assert (clock.epochs, clock.ended) == (epochs, "")


def test_each_epoch_but_the_last_may_change_how_many_there_are(monkeypatch: pytest.MonkeyPatch):
    clock, now = ticking(monkeypatch, 1600.0)
    for epoch, seconds, planned in [(1, 250.0, 2), (2, 50.0, 2)]:  # what was slow at first may be so no more
        now[0] += seconds
        clock.after(epoch, seconds, planning=True)
        assert clock.epochs == planned
    clock, now = ticking(monkeypatch, 1600.0)
    for epoch, seconds, planned in [(1, 150.0, 3), (2, 50.0, 8), (3, 150.0, 4), (4, 50.0, 4)]:
        now[0] += seconds
        clock.after(epoch, seconds, planning=True)
        assert clock.epochs == planned


def test_a_fit_that_goes_on_needs_time_for_the_epochs_that_are_left(monkeypatch: pytest.MonkeyPatch):
    assert ticking(monkeypatch, 700.0, planning=False, done=40)[0].ended == ""  # six of eight are left
    assert ticking(monkeypatch, 600.0, planning=False, done=40)[0].ended == "deadline"


@pytest.mark.parametrize(("done", "epochs"), [(20, 7), (140, 8)])
def test_a_fit_that_goes_on_is_planned_anew_unless_its_last_epoch_runs(
    monkeypatch: pytest.MonkeyPatch, done: int, epochs: int
):
    clock, _ = ticking(monkeypatch, 700.0, done=done, follows=1.1)
    assert clock.epochs == epochs


def test_progress_says_how_long_an_epoch_takes(visible: Case):
    heard: list[tuple[str, int, int]] = []
    plain = replace(task(visible), progress=lambda *said: heard.append(said))
    finetune.fit(plain, head_of(visible), rows_of(visible, epochs=1))
    assert heard[-1][0].startswith("Fine-tuning, about ")
    assert heard[-1][1] == heard[-1][2] > 4


def test_no_picture_is_mirrored_where_that_shows_another_thing():
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:, :20] = 255
    preprocess = Preprocess(SIDE, 1.0, "bicubic", (0.5,) * 3, (0.5,) * 3)
    sides = {
        mirror: {
            bool(shown[:, 0].mean() > shown[:, -1].mean())
            for seed in range(20)
            for shown in [crops.augmented(pixels, preprocess, mirror, np.random.default_rng(seed))]
        }
        for mirror in (False, True)
    }
    assert sides == {False: {True}, True: {True, False}}


SIZES = [((640, 480), True), ((30, 300), False), ((10, 4000), True), ((1, 1), True)]


@pytest.mark.parametrize(("size", "square"), SIZES)
def test_parts_lie_in_the_picture(size: tuple[int, int], square: bool):
    for seed in range(50):
        left, top, across, down = crops.part(*size, square, np.random.default_rng(seed))
        assert 0 <= left <= left + across <= size[0]
        assert 0 <= top <= top + down <= size[1]
        assert across > 0
        assert down > 0


def test_what_is_drawn_depends_on_seed_epoch_and_picture_alone(visible: Case):
    seen = visible.learner._task().augmentation
    one = seen.load(3, 1).pixels[0]
    assert not np.array_equal(one, seen.load(3, 2).pixels[0])
    np.testing.assert_array_equal(one, seen.load(3, 1).pixels[0])


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_picture_that_is_no_longer_what_it_was_ends_the_training(tmp_path: Path, damage: str):
    given = case(striped(tmp_path / "photos", 20, each=40), untrained())
    path = given.learner.features.dataset[given.train[0]].path
    path.unlink() if damage == "gone" else path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DataError, match="1 picture changed.*while being learned from: across/across001.png"):
        finetune.fit(given.learner._task(), head_of(given), Rows(given.train, given.test, 1))


@pytest.mark.slow
def test_in_turn_each_fold_has_a_network_that_has_not_seen_it(visible: Case, monkeypatch: pytest.MonkeyPatch):
    learned: list[set[int]] = []
    fit = finetune.fit

    def spied(asked: Task, head: Any, rows: Rows, **more: Any) -> Any:
        learned.append({*rows.learned.tolist(), *rows.watched.tolist()})
        return fit(asked, head, replace(rows, epochs=1), **more)

    monkeypatch.setattr(finetune, "fit", spied)
    place = np.arange(len(visible.train)) % 40
    fold = np.where(place < 2, place, -1)
    fits = visible.learner.in_turn(visible.train, visible.test, fold, visible.groups)
    assert learned == [{*visible.train[fold != number].tolist()} for number in (0, 1)] + [{*visible.train.tolist()}]
    assert list(fits.turns) == [0, 1]
    assert all("finetune" in one.provenance for one in (fits.last, *fits.turns.values()))
