"""The figures against scikit-learn and slow references, and what their intervals promise."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from headstart import metrics


def simulated(rows: int = 300, classes: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities and a targets that mostly agree."""
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, classes, rows)
    logits = generator.normal(0, 1.5, (rows, classes)) + 2.5 * np.eye(classes)[targets]
    shares = np.exp(logits)
    return shares / shares.sum(axis=1, keepdims=True), targets


def slow_ece(probabilities: np.ndarray, targets: np.ndarray, bins: int = 15) -> float:
    """Return the expected calibration error as Guo et al. (2017) write it, bin by bin."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == targets
    total = 0.0
    for index in range(bins):
        inside = (confidence > index / bins) & (confidence <= (index + 1) / bins)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def pooled(groups: int, rows: int, share: float, generator: np.random.Generator, alike: float = 0.5) -> np.ndarray:
    """Return (groups, rows) hits, of which two of one group have the correlation `alike`."""
    common, own = generator.random((groups, 1)) < share, generator.random((groups, rows)) < share
    return np.where(generator.random((groups, rows)) < np.sqrt(alike), common, own)


def slow_risks(confidence: np.ndarray, correct: np.ndarray) -> list[float]:
    """Return the error among the n most confident rows, n = 1 … N, from many random orders of equals."""
    generator, rounds = np.random.default_rng(0), 2000 if len(set(confidence)) < len(confidence) else 1
    total = np.zeros(len(correct))
    for _ in range(rounds):
        order = sorted(range(len(correct)), key=lambda row: (-confidence[row], generator.random()))
        total += [1 - correct[order[: n + 1]].mean() for n in range(len(order))]
    return list(total / rounds)


def test_accuracy_is_that_of_scikit_learn():
    said, targets = simulated()
    assert metrics.accuracy(said, targets) == pytest.approx(reference.accuracy_score(targets, said.argmax(axis=1)))


def test_top5_accuracy_is_that_of_scikit_learn():
    said, targets = simulated(classes=20)
    wanted = reference.top_k_accuracy_score(targets, said, k=5, labels=range(20))
    assert 0.5 < wanted < 1
    assert metrics.top5_accuracy(said, targets) == pytest.approx(wanted)


def test_top5_accuracy_gives_no_credit_for_ties():
    assert metrics.top5_accuracy(np.full((4, 10), 0.1), np.array([0, 3, 5, 9])) == 0


def test_log_loss_is_that_of_scikit_learn():
    said, targets = simulated()
    assert metrics.log_loss(said, targets) == pytest.approx(reference.log_loss(targets, said, labels=range(8)))


def test_log_loss_of_an_impossible_targets_is_large_and_finite():
    assert metrics.log_loss(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(-np.log(metrics.SMALLEST))


def test_macro_f1_is_that_of_scikit_learn():
    said, targets = simulated()
    wanted = reference.f1_score(targets, said.argmax(axis=1), average="macro")
    assert metrics.macro_f1(said, targets) == pytest.approx(wanted)


def test_macro_f1_leaves_out_classes_that_nobody_mentions():
    said, targets = simulated(classes=3)
    wider = np.hstack([said, np.zeros((len(said), 2))])
    assert metrics.macro_f1(wider, targets) == pytest.approx(metrics.macro_f1(said, targets))


def test_brier_is_that_of_scikit_learn():
    said, targets = simulated()
    wanted = reference.brier_score_loss(targets, said, labels=range(8), scale_by_half=False)
    assert metrics.brier(said, targets) == pytest.approx(wanted)


@pytest.mark.parametrize("seed", range(5))
def test_ece_is_that_of_a_slow_reference(seed: int):
    said, targets = simulated(seed=seed)
    assert metrics.ece(said, targets) == pytest.approx(slow_ece(said, targets))


def test_ece_counts_a_confidence_on_a_bin_edge_once():
    said = np.array([[1.0, 0.0], [2 / 3, 1 / 3], [0.6, 0.4]])
    targets = np.array([0, 1, 0])
    assert metrics.ece(said, targets) == pytest.approx((0 + 2 / 3 + 0.4) / 3)


def test_confusion_is_that_of_scikit_learn():
    said, targets = simulated()
    wanted = reference.confusion_matrix(targets, said.argmax(axis=1), labels=range(8))
    given, predicted, counts = metrics.confusion(metrics.look(said, targets)).T
    np.testing.assert_array_equal(counts, wanted[given, predicted])
    assert counts.sum() == len(targets)


def test_reliability_accounts_for_every_row_and_for_the_ece():
    said, targets = simulated()
    rows = metrics.reliability(metrics.look(said, targets))
    assert sum(count for *_, count in rows) == len(targets)
    gap = sum(count * abs(confidence - right) for confidence, right, count in rows) / len(targets)
    assert gap == pytest.approx(metrics.ece(said, targets))


@pytest.mark.parametrize("name", metrics.OVERALL)
def test_weights_give_the_same_as_repeated_rows(name: str):
    said, targets = simulated(rows=60)
    times = np.random.default_rng(1).integers(0, 4, 60)
    repeated = metrics.OVERALL[name](np.repeat(said, times, axis=0), np.repeat(targets, times), None)
    assert metrics.OVERALL[name](said, targets, times.astype(float)) == pytest.approx(repeated)


@pytest.mark.parametrize("name", metrics.OVERALL)
def test_a_stack_of_weights_gives_one_figure_each(name: str):
    said, targets = simulated(rows=60)
    stack = np.random.default_rng(1).integers(0, 4, (3, 60)).astype(float)
    wanted = [metrics.OVERALL[name](said, targets, weights) for weights in stack]
    np.testing.assert_allclose(metrics.OVERALL[name](said, targets, stack), wanted)


@pytest.mark.parametrize("rows", [5, 40, 400])
def test_intervals_contain_their_value(rows: int):
    for name, (value, low, high) in metrics.overall_intervals(*simulated(rows=rows)).items():
        assert low <= value <= high, name
        assert name in ("log_loss", "brier") or 0 <= low <= high <= 1, name


@pytest.mark.parametrize(("temperature", "wanted"), [(1.0, 0.0), (0.6, 0.078)])
def test_the_ece_interval_lies_about_its_value_and_holds_the_error_of_many_pictures(temperature: float, wanted: float):
    generator, around, held = np.random.default_rng(0), 0, 0
    for seed in range(40):
        logits = generator.normal(0, 1.2, (400, 10))
        logits[:, 0] += generator.choice([2, 6, 10], 400)
        targets = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
        said = np.exp(logits / temperature) / np.exp(logits / temperature).sum(axis=1, keepdims=True)
        value, low, high = metrics.overall_intervals(said, targets, rounds=200, seed=seed)["ece"]
        around += low < value - 0.01 and high > value + 0.01
        held += low <= wanted + 0.005 and wanted <= high
    assert around == 40
    assert held >= 34  # none and 37 with the plain percentiles


def test_intervals_depend_on_the_seed_alone():
    said, targets = simulated(rows=80)
    first = metrics.overall_intervals(said, targets, seed=3)
    assert first == metrics.overall_intervals(said, targets, seed=3)
    assert first != metrics.overall_intervals(said, targets, seed=4)


def test_copies_in_one_group_do_not_narrow_the_interval():
    said, targets = simulated(rows=100)
    alone = metrics.overall_intervals(said, targets)["accuracy"]
    copied = (np.repeat(said, 5, axis=0), np.repeat(targets, 5))
    grouped = metrics.overall_intervals(*copied, np.repeat(np.arange(100), 5))["accuracy"]
    naive = metrics.overall_intervals(*copied)["accuracy"]
    assert grouped == pytest.approx(alone)
    assert naive.high - naive.low < 0.6 * (grouped.high - grouped.low)


def test_copies_in_one_group_do_not_narrow_the_interval_of_a_perfect_score():
    right, targets = np.eye(2)[[0, 1] * 7], np.array([0, 1] * 7)
    alone = metrics.overall_intervals(right, targets)["accuracy"]
    groups = np.repeat(np.arange(14), 5)
    copied = metrics.overall_intervals(np.repeat(right, 5, axis=0), np.repeat(targets, 5), groups)["accuracy"]
    assert copied == pytest.approx(alone)


def test_groups_may_have_any_numbers():
    said, targets = simulated(rows=40)
    groups = np.arange(40) // 2
    assert metrics.overall_intervals(said, targets, groups) == metrics.overall_intervals(
        said, targets, 1000 + 7 * groups
    )


def test_resampling_draws_as_many_rows_as_there_are():
    counts = np.concatenate([*metrics.resample(50, None, 20, 0)])
    np.testing.assert_array_equal(counts.sum(axis=1), 50)


def test_figures_do_not_depend_on_how_much_is_held_at_once(monkeypatch: pytest.MonkeyPatch):
    said, targets = simulated(rows=200)
    groups = np.arange(200) // 3
    whole = metrics.overall_intervals(said, targets, groups, 100), metrics.class_intervals(said, targets, groups, 100)
    mean = metrics.mean_interval(said.max(axis=1), groups)
    monkeypatch.setattr(metrics, "BLOCK", 1500)  # 187 rows, seven rounds
    parts = metrics.overall_intervals(said, targets, groups, 100), metrics.class_intervals(said, targets, groups, 100)
    for name, figure in whole[0].items():
        assert parts[0][name] == pytest.approx(figure, abs=1e-12)
    for k, figures in whole[1].items():
        for name, figure in figures.items():
            assert parts[1][k][name] == pytest.approx(figure, abs=1e-12)
    assert metrics.mean_interval(said.max(axis=1), groups) == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("groups", [None, np.arange(400) // 2])
def test_many_units_are_drawn_by_the_same_law(groups: np.ndarray | None, monkeypatch: pytest.MonkeyPatch):
    said, targets = simulated(rows=400)
    few = metrics.overall_intervals(said, targets, groups)
    monkeypatch.setattr(metrics, "MANY", 0)
    counts = np.concatenate([*metrics.resample(400, groups, 200, 0)])
    assert (counts.sum() if groups is None else counts[:, ::2].sum()) == 200 * (400 if groups is None else 200)
    for name, (value, low, high) in metrics.overall_intervals(said, targets, groups).items():
        assert value == few[name].value
        assert (low, high) == pytest.approx(few[name][1:], abs=0.15 * (few[name].high - few[name].low))


def test_resampling_draws_groups_as_a_whole():
    groups = np.array([4, 4, 4, 9, 9, 2])
    counts = np.concatenate([*metrics.resample(6, groups, 50, 0)])
    assert (counts[:, 0] == counts[:, 2]).all()
    assert (counts[:, 3] == counts[:, 4]).all()
    assert (counts[:, 0] != counts[:, 3]).any()


def test_the_accuracy_interval_holds_the_true_value_as_often_as_it_says():
    generator = np.random.default_rng(2)
    held = 0
    for round_ in range(200):
        targets = np.zeros(150, dtype=np.int64)
        said = np.eye(2)[(generator.random(150) > 0.8).astype(int)]
        _, low, high = metrics.overall_intervals(said, targets, rounds=400, seed=round_)["accuracy"]
        held += low <= 0.8 <= high
    assert 184 <= held <= 196


@pytest.mark.parametrize("accuracy", [0.7, 0.87, 0.97])
@pytest.mark.parametrize(("rows", "grouped"), [(n, g) for n in (100, 400, 1700) for g in (1, 4)])
def test_the_accuracy_interval_of_a_split_holds_that_of_the_pool(rows: int, grouped: int, accuracy: float):
    generator = np.random.default_rng(3)
    pool = pooled(100_000, grouped, accuracy, generator)
    groups = np.repeat(np.arange(rows // grouped), grouped)
    splits = (generator.choice(len(pool), rows // grouped, replace=False) for _ in range(200))
    intervals = [metrics.share_interval(pool[split].ravel(), groups) for split in splits]
    assert 184 <= sum(low <= pool.mean() <= high for _, low, high in intervals) <= 196


@pytest.mark.parametrize("alike", [0.0, 0.3, 0.6])
def test_few_groups_do_not_promise_too_much(alike: float):
    generator = np.random.default_rng(4)
    pool = pooled(100_000, 4, 0.8, generator, alike)
    splits = generator.integers(0, len(pool), (1000, 15))
    intervals = [metrics.share_interval(pool[split].ravel(), np.repeat(np.arange(15), 4)) for split in splits]
    assert sum(low <= pool.mean() <= high for _, low, high in intervals) > 930


def test_the_interval_of_independent_rows_is_wilsons():
    hits = np.arange(30) < 21
    wanted = (0.7, *metrics.wilson(0.7, 30))
    assert metrics.share_interval(hits) == pytest.approx(wanted)
    assert metrics.share_interval(hits, 100 - np.arange(30)) == pytest.approx(wanted)
    assert metrics.share_interval(hits.astype(float)) == pytest.approx(wanted)


@pytest.mark.parametrize("units", [3, 12, 200])
@pytest.mark.parametrize("copies", [2, 7])
def test_copies_are_worth_one_row(units: int, copies: int):
    hits = np.random.default_rng(0).random(units) < 0.8
    hits[:2] = True, False
    grouped = metrics.share_interval(np.repeat(hits, copies), np.repeat(np.arange(units), copies))
    assert grouped == pytest.approx(metrics.share_interval(hits))


@pytest.mark.parametrize("share", [0, 1])
def test_where_nothing_varies_each_group_counts_once(share: int):
    groups = np.array([0, 0, 0, 1, 2, 2])
    wanted = (share, *metrics.wilson(share, 3))
    assert metrics.share_interval(np.full(6, share), groups) == pytest.approx(wanted)


def test_rows_are_never_worth_more_than_their_number():
    hits = np.tile([True, False], 50)  # the same in every group: between the groups nothing varies
    assert metrics.share_interval(hits, np.arange(100) // 2) == pytest.approx((0.5, *metrics.wilson(0.5, 100)))


def test_one_group_tells_as_much_as_one_row():
    assert metrics.share_interval(np.arange(10) < 7, np.zeros(10)) == pytest.approx((0.7, *metrics.wilson(0.7, 1)))


def test_the_more_alike_the_rows_of_a_group_the_wider_the_interval():
    pools = [pooled(100, 4, 0.8, np.random.default_rng(5), alike) for alike in (0.0, 0.5, 1.0)]
    found = [metrics.share_interval(pool.ravel(), np.repeat(np.arange(100), 4)) for pool in pools]
    widths = [high - low for _, low, high in found]
    assert widths == sorted(widths)
    assert widths[2] > 1.5 * widths[0]


def test_no_rows_say_nothing():
    value, low, high = metrics.share_interval(np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int64))
    assert np.isnan(value)
    assert (low, high) == (0, 1)


def test_shares_among_the_figures_have_the_interval_of_shares():
    said, targets = simulated(classes=8)
    groups = np.arange(300) // 3
    right, own = said.argmax(axis=1) == targets, targets == 2
    assert metrics.overall_intervals(said, targets, groups, 20)["accuracy"] == metrics.share_interval(right, groups)
    recall = metrics.class_intervals(said, targets, groups, 20)[2]["recall"]
    assert recall == metrics.share_interval(right[own], groups[own])


@pytest.mark.parametrize("name", ["accuracy", "top5_accuracy", "macro_f1"])
def test_fourteen_of_fourteen_right_is_not_certainty(name: str):
    targets = np.arange(14) % 7
    value, low, high = metrics.overall_intervals(np.eye(7)[targets], targets)[name]
    assert (value, high) == (1, 1)
    assert 0.6 < low < 0.9


def test_none_of_fourteen_right_is_not_certainty_either():
    targets = np.zeros(14, dtype=np.int64)
    _, low, high = metrics.overall_intervals(np.eye(2)[1 - targets], targets)["accuracy"]
    assert low == 0
    assert 0.1 < high < 0.4


def test_wilson_is_the_textbook_interval():
    # Newcombe 1998, table I: 81 of 263 and 0 of 20
    assert metrics.wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert metrics.wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)


def test_class_figures_are_those_of_scikit_learn():
    said, targets = simulated(classes=4)
    precision, recall, f1, _ = reference.precision_recall_fscore_support(targets, said.argmax(axis=1))
    figures = metrics.class_intervals(said, targets, rounds=50)
    assert [figures[k]["precision"].value for k in range(4)] == pytest.approx(precision.tolist())
    assert [figures[k]["recall"].value for k in range(4)] == pytest.approx(recall.tolist())
    assert [figures[k]["f1"].value for k in range(4)] == pytest.approx(f1.tolist())


def test_class_log_loss_looks_at_the_pictures_of_the_class():
    said, targets = simulated(classes=4)
    own = targets == 2
    wanted = reference.log_loss(targets[own], said[own], labels=range(4))
    assert metrics.class_intervals(said, targets, rounds=50)[2]["log_loss"].value == pytest.approx(wanted)


def test_classes_without_pictures_have_no_figures():
    said, targets = simulated(classes=4)
    assert sorted(metrics.class_intervals(said[targets != 1], targets[targets != 1], rounds=50)) == [0, 2, 3]


def test_a_class_of_one_picture_has_wide_but_finite_intervals():
    said, targets = np.eye(3)[[0, 1, 1, 2]], np.array([0, 1, 1, 2])
    value, low, high = metrics.class_intervals(said, targets, rounds=200)[0]["recall"]
    assert (value, high) == (1, 1)
    assert low == pytest.approx(metrics.wilson(1.0, 1)[0])


def test_a_class_that_is_never_predicted_has_no_precision():
    said = np.eye(2)[[0, 0, 0]]
    figures = metrics.class_intervals(said, np.array([0, 0, 1]), rounds=50)[1]
    assert figures["precision"].value == figures["recall"].value == figures["f1"].value == 0


def test_a_perfect_precision_is_not_doubted_for_resamples_without_the_class():
    targets = np.repeat(np.arange(3), 3)  # one resample in forty holds no row of a class
    value, low, _ = metrics.class_intervals(np.eye(3)[targets], targets)[1]["precision"]
    assert value == 1
    assert low == pytest.approx(metrics.wilson(1.0, 3)[0])


@pytest.mark.parametrize(("levels", "tolerance"), [(None, 1e-9), (5, 0.03)])
def test_risk_at_every_share_is_that_of_a_slow_loop(levels: int | None, tolerance: float):
    generator = np.random.default_rng(0)
    confidence = generator.random(40) if levels is None else generator.integers(0, levels, 40) / levels
    correct = generator.random(40) < 0.3 + 0.7 * confidence
    wanted = slow_risks(confidence, correct)
    shares, errors = zip(*metrics.risk_coverage(confidence, correct), strict=True)
    assert shares == pytest.approx([n / 40 for n in range(1, 41)])
    assert errors == pytest.approx(wanted, abs=tolerance)
    assert metrics.aurc(confidence, correct) == pytest.approx(np.mean(wanted), abs=tolerance)


@pytest.mark.parametrize("rows", [50, 99, 1234])
def test_a_risk_coverage_curve_has_fifty_even_points_and_ends_at_the_error_of_all(rows: int):
    generator = np.random.default_rng(1)
    confidence, correct = generator.random(rows), generator.random(rows) < 0.8
    curve = metrics.risk_coverage(confidence, correct)
    assert [share for share, _ in curve] == pytest.approx(np.arange(1, 51) / 50, abs=1 / rows)
    assert curve[-1] == pytest.approx((1, 1 - correct.mean()))


def test_the_order_of_equally_confident_rows_decides_nothing():
    confidence, correct = np.full(20, 0.5), np.arange(20) < 15
    curve = metrics.risk_coverage(confidence, correct)
    assert curve == metrics.risk_coverage(confidence, correct[::-1])
    assert {error for _, error in curve} == {0.25}


def test_a_confidence_that_knows_its_errors_has_the_smallest_area():
    correct = np.arange(100) < 80
    best, none, worst = (metrics.aurc(c, correct) for c in (-np.arange(100.0), np.ones(100), np.arange(100.0)))
    assert best < none < worst
    assert none == pytest.approx(0.2)


def test_without_rows_there_is_no_curve():
    nothing = np.zeros(0)
    assert metrics.risk_coverage(nothing, nothing > 0) == ()
    assert np.isnan(metrics.aurc(nothing, nothing > 0))


def test_a_mean_has_the_interval_that_theory_gives_and_groups_widen_it():
    values = np.random.default_rng(0).normal(2.0, 1.0, 400)
    alone = metrics.mean_interval(values)
    assert alone.value == pytest.approx(values.mean())
    assert (alone.high - alone.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)
    copies = metrics.mean_interval(np.repeat(values, 4), np.repeat(np.arange(400), 4))
    assert copies.high - copies.low == pytest.approx(alone.high - alone.low, rel=0.1)


@pytest.mark.parametrize("rows", [40, 400])
def test_the_interval_of_a_change_holds_the_true_one(rows: int):
    generator, inside = np.random.default_rng(0), 0
    for _ in range(400):
        cells = generator.choice(4, rows, p=[0.85, 0.02, 0.04, 0.09])  # both right, won, lost, both wrong
        found = metrics.change_interval((cells == 0) | (cells == 2), cells <= 1)
        inside += found.low <= -0.02 <= found.high
    assert inside / 400 >= 0.93


def test_a_change_of_nothing_in_a_few_rows_is_not_certain():
    right = np.ones(30, dtype=bool)
    assert metrics.change_interval(right, right) == pytest.approx((0, -0.061, 0.061), abs=1e-3)
