"""What is learned from and what measures: never the same thing on both sides, and the same for the same seed."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from headstart.data import sources, splits
from headstart.data.splits import Grouping
from headstart.errors import DataError
from headstart.inspection import files
from headstart.plans import SplitPlan
from headstart.records import Dataset, Sample, Splits

QUICK = settings(max_examples=100, deadline=None, derandomize=True, database=None)


class Row(NamedTuple):
    label: str
    group: str | None = None
    content: int | None = None  # rows of the same number are byte-identical
    split: str | None = None


def made(rows: list[Row]) -> tuple[Dataset, np.ndarray]:
    """Return a dataset of these rows and what belongs together in it."""
    samples = tuple(Sample(Path(f"{n:03d}.png"), f"{n:03d}.png", r.label, r.group, r.split) for n, r in enumerate(rows))
    digests = [f"own-{n}" if row.content is None else f"same-{row.content}" for n, row in enumerate(rows)]
    dataset = Dataset(Path("pictures"), samples)
    return dataset, splits.group_ids(dataset, digests)


def grouping(groups: np.ndarray, aside: np.ndarray | None = None, same_object: bool = False) -> Grouping:
    """Return a grouping that keeps these groups together, whoever divides."""
    aside = np.zeros(len(groups), dtype=bool) if aside is None else aside
    return Grouping(groups, groups, aside, same_object)


def brought(dataset: Dataset, groups: np.ndarray, aside: np.ndarray | None = None) -> Splits:
    """Return the split that the data brings."""
    return splits.partition(dataset, grouping(groups, aside), SplitPlan(), 0).final


def groups_of_classes(dataset: Dataset, groups: np.ndarray) -> dict[str, set[int]]:
    """Return class → its groups."""
    found: dict[str, set[int]] = defaultdict(set)
    for sample, group in zip(dataset, groups.tolist(), strict=True):
        found[str(sample.label)].add(group)
    return found


def labels_at(dataset: Dataset, rows: np.ndarray) -> Counter[str]:
    return Counter(str(dataset[row].label) for row in rows)


# rows whose groups and copies cross the classes at will, and rows whose groups stay inside one class
CLASSES = st.sampled_from("abcd")
MIXED = st.lists(
    st.tuples(CLASSES, st.none() | st.sampled_from(["g1", "g2", "g3", "g4"]), st.none() | st.integers(0, 5)),
    min_size=1,
    max_size=30,
).map(lambda cells: [Row(*cell) for cell in cells])
PURE = st.dictionaries(CLASSES, st.lists(st.integers(1, 5), min_size=1, max_size=7), min_size=1).map(
    lambda sizes: [Row(k, f"{k}{n}") for k, its in sizes.items() for n, size in enumerate(its) for _ in range(size)]
)
SHARE = st.sampled_from([0.01, 0.1, 0.2, 0.35, 0.5])


# --- what belongs together --------------------------------------------------------------------------------------------


def test_rows_that_share_bytes_or_group_belong_together_through_others():
    _, groups = made([Row("a", "g"), Row("a", "g", 1), Row("a", None, 1), Row("a"), Row("a", "h"), Row("a", "")])
    assert len(set(groups[:3])) == 1
    assert len(set(groups)) == 4


def test_pictures_that_cannot_be_read_do_not_belong_together():
    dataset, _ = made([Row("a"), Row("a")])
    assert len(set(splits.group_ids(dataset, ["", ""]))) == 2


def test_a_group_called_like_a_digest_is_no_copy():
    dataset, _ = made([Row("a", "x"), Row("a")])
    assert len(set(splits.group_ids(dataset, ["y", "x"]))) == 2


# --- holding out ------------------------------------------------------------------------------------------------------


def test_the_share_is_held_out_of_every_class():
    dataset, groups = made([Row("a")] * 100 + [Row("b")] * 50)
    parts = splits.split(dataset, groups, 0.2, seed=0)
    assert labels_at(dataset, parts.validation) == {"a": 20, "b": 10}
    assert labels_at(dataset, parts.train) == {"a": 80, "b": 40}
    assert (parts.test.size, parts.findings, parts.origin) == (0, (), "drawn")


@QUICK
@given(MIXED, SHARE, st.integers(0, 5))
def test_every_row_is_in_exactly_one_part_and_groups_never_straddle(rows: list[Row], share: float, seed: int):
    dataset, groups = made(rows)
    try:
        parts = splits.split(dataset, groups, share, seed)
    except DataError:
        return
    assert sorted([*parts.train, *parts.validation, *parts.test]) == list(range(len(rows)))
    assert not set(groups[parts.train]) & set(groups[parts.validation])


@QUICK
@given(MIXED, SHARE, st.integers(0, 5))
def test_no_class_is_measured_that_is_not_learned(rows: list[Row], share: float, seed: int):
    dataset, groups = made(rows)
    try:
        parts = splits.split(dataset, groups, share, seed)
    except DataError:
        return
    assert labels_at(dataset, parts.train).keys() == set(dataset.classes)


@QUICK
@given(PURE, SHARE, st.integers(0, 5))
def test_every_class_of_two_groups_is_measured_and_learned(rows: list[Row], share: float, seed: int):
    dataset, groups = made(rows)
    several = {label for label, its in groups_of_classes(dataset, groups).items() if len(its) >= 2}
    assume(several)
    parts = splits.split(dataset, groups, share, seed)
    assert labels_at(dataset, parts.validation).keys() == several
    assert labels_at(dataset, parts.train).keys() == set(dataset.classes)


@QUICK
@given(PURE, SHARE, st.integers(0, 5))
def test_classes_that_are_not_measured_are_all_named(rows: list[Row], share: float, seed: int):
    dataset, groups = made(rows)
    try:
        parts = splits.split(dataset, groups, share, seed)
    except DataError:
        return
    named = [name for finding in parts.findings if finding.code == "unmeasured-classes" for name in finding.names]
    assert set(named) == set(dataset.classes) - labels_at(dataset, parts.validation).keys()


def test_B13_a_class_of_one_is_learned_and_named_as_not_measured():
    dataset, groups = made([Row("a")] * 10 + [Row("lone")])
    parts = splits.split(dataset, groups, 0.2, seed=0)
    assert 10 in parts.train
    assert [(f.code, f.severity, f.names) for f in parts.findings] == [("unmeasured-classes", "warning", ("lone",))]


@pytest.mark.parametrize("seed", range(5))
def test_B13_a_class_of_two_is_learned_from_one_and_measured_on_the_other(seed: int):
    dataset, groups = made([Row("a")] * 10 + [Row("pair")] * 2)
    parts = splits.split(dataset, groups, 0.2, seed)
    assert labels_at(dataset, parts.train)["pair"] == labels_at(dataset, parts.validation)["pair"] == 1


def test_B13_a_class_of_two_copies_counts_as_one():
    dataset, groups = made([Row("a")] * 10 + [Row("pair", None, 1)] * 2)
    parts = splits.split(dataset, groups, 0.2, seed=0)
    assert labels_at(dataset, parts.train)["pair"] == 2
    assert parts.findings[0].names == ("pair",)


def test_B13_nothing_to_hold_out_is_refused():
    dataset, groups = made([Row("a"), Row("b")])
    with pytest.raises(DataError, match="No picture can be held out.*every class of pictures has a single picture"):
        splits.split(dataset, groups, 0.2, seed=0)


@pytest.mark.parametrize("seed", range(5))
def test_E1_copies_never_straddle_the_split_nor_the_folds(seed: int):
    dataset, groups = made([Row("ab"[n % 2], None, n % 20) for n in range(100)])
    parts, fold = splits.split(dataset, groups, 0.2, seed), splits.folds(dataset, groups, 5, seed)
    contents = np.arange(100) % 20
    assert not set(contents[parts.train]) & set(contents[parts.validation])
    assert [len(set(fold[contents == content])) for content in range(20)] == [1] * 20


def test_E1_copies_on_disk_never_straddle_the_split(photos: Path):
    for path in sorted(photos.rglob("*_0[0-5].png")):
        for number in range(2):
            (path.parent / f"{path.stem}_again{number}.png").write_bytes(path.read_bytes())
    seen = files.inspect(sources.read(photos))
    digests = np.array(seen.digests)
    parts = splits.split(seen.dataset, splits.group_ids(seen.dataset, seen.digests), 0.2, seed=1)
    assert len(digests) == 72
    assert not set(digests[parts.train]) & set(digests[parts.validation])


@pytest.mark.parametrize("seed", range(5))
def test_E4_a_group_never_straddles_the_split_nor_the_folds(seed: int):
    patients = [f"patient {n % 13}" for n in range(120)]
    dataset, groups = made([Row("abc"[n % 3], patient) for n, patient in enumerate(patients)])
    parts, fold = splits.split(dataset, groups, 0.2, seed), splits.folds(dataset, groups, 4, seed)
    named = np.array(patients)
    assert not set(named[parts.train]) & set(named[parts.validation])
    assert [len(set(fold[named == patient])) for patient in sorted(set(patients))] == [1] * 13


@pytest.mark.parametrize("each", [2, 3, 10, 40])
def test_E4_two_large_groups_of_a_class_are_one_learned_and_one_measured(each: int):
    dataset, groups = made([Row(label, f"{label}{half}") for label in "ab" for half in (0, 1) for _ in range(each)])
    parts = splits.split(dataset, groups, 0.2, seed=0)
    assert labels_at(dataset, parts.train) == labels_at(dataset, parts.validation) == {"a": each, "b": each}


def test_E4_groups_leave_the_share_about_as_asked():
    dataset, groups = made([Row("ab"[n // 200], f"camera {n // 4}") for n in range(400)])
    parts = splits.split(dataset, groups, 0.2, seed=0)
    assert labels_at(dataset, parts.validation) == {"a": 40, "b": 40}


# --- the same again ---------------------------------------------------------------------------------------------------


def held(dataset: Dataset, seed: int) -> set[str]:
    """Return the names that are held out; rows of one hundred belong together."""
    groups = splits.group_ids(dataset, [f"d{sample.name[:2]}" for sample in dataset])
    return {dataset[row].name for row in splits.split(dataset, groups, 0.2, seed).validation}


def test_E8_the_same_seed_gives_the_same_split_and_another_seed_another():
    dataset, _ = made([Row("ab"[n % 20 // 10]) for n in range(200)])
    assert held(dataset, 7) == held(dataset, 7)
    assert held(dataset, 7) != held(dataset, 8)


@pytest.mark.parametrize("shuffle", range(4))
def test_E8_the_order_of_the_rows_does_not_matter(shuffle: int):
    dataset, _ = made([Row("ab"[n % 20 // 10]) for n in range(200)])
    order = np.random.default_rng(shuffle).permutation(200)
    assert held(dataset.select(order), 7) == held(dataset, 7)


@pytest.mark.parametrize("shuffle", range(4))
def test_E8_the_order_of_the_rows_does_not_matter_for_folds(shuffle: int):
    dataset, _ = made([Row("ab"[n % 2]) for n in range(60)])
    order = np.random.default_rng(shuffle).permutation(60)
    plain = splits.folds(dataset, np.arange(60), 5, seed=3)
    shuffled = splits.folds(dataset.select(order), np.arange(60), 5, seed=3)
    np.testing.assert_array_equal(shuffled, plain[order])


def test_E8_another_seed_gives_other_folds():
    dataset, groups = made([Row("ab"[n % 2]) for n in range(60)])
    first, again, other = (splits.folds(dataset, groups, 5, seed) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_E8_the_order_of_walking_and_of_the_table_does_not_matter(photos: Path, tmp_path: Path):
    rows = [f"{path.relative_to(photos).as_posix()},{path.parent.name}" for path in sorted(photos.rglob("*.png"))]
    parts = []
    for order in (rows, rows[::-1]):
        (tmp_path / "t.csv").write_text("\n".join(["id,label", *order]))
        for dataset in (sources.read(photos, tmp_path / "t.csv"), sources.read(photos)):
            seen = files.inspect(dataset)
            chosen = splits.split(seen.dataset, splits.group_ids(seen.dataset, seen.digests), 0.2, seed=5)
            parts.append({seen.dataset[row].name for row in chosen.validation})
    assert len(parts[0]) == 6
    assert parts == [parts[0]] * 4


# --- folds ------------------------------------------------------------------------------------------------------------


def test_folds_deal_every_class_out_evenly():
    dataset, groups = made([Row("a")] * 50 + [Row("b")] * 20)
    fold = splits.folds(dataset, groups, 5, seed=0)
    assert [labels_at(dataset, np.flatnonzero(fold == f)) for f in range(5)] == [{"a": 10, "b": 4}] * 5


@QUICK
@given(MIXED, st.integers(2, 6), st.integers(0, 5))
def test_folds_never_part_a_group_and_stay_in_range(rows: list[Row], number: int, seed: int):
    dataset, groups = made(rows)
    fold = splits.folds(dataset, groups, number, seed)
    assert set(fold.tolist()) <= set(range(-1, number))
    assert all(len(set(fold[groups == group])) == 1 for group in set(groups.tolist()))


@QUICK
@given(MIXED, st.integers(2, 6), st.integers(0, 5))
def test_classes_of_a_single_group_stay_out_of_the_folds(rows: list[Row], number: int, seed: int):
    dataset, groups = made(rows)
    fold = splits.folds(dataset, groups, number, seed)
    single = [label for label, its in groups_of_classes(dataset, groups).items() if len(its) == 1]
    assert set(fold[np.isin(dataset.labels, single)].tolist()) <= {-1}


@QUICK
@given(PURE, st.integers(2, 6), st.integers(0, 5))
def test_a_class_occurs_in_as_many_folds_as_it_has_groups(rows: list[Row], number: int, seed: int):
    dataset, groups = made(rows)
    fold = splits.folds(dataset, groups, number, seed)
    for label, its in groups_of_classes(dataset, groups).items():
        occurs = set(fold[np.array(dataset.labels) == label].tolist())
        assert occurs == {-1} if len(its) == 1 else len(occurs - {-1}) == min(len(its), number)


# --- a split that the data brings -------------------------------------------------------------------------------------


def given_split(*rows: tuple[str, str | None]) -> Splits:
    dataset, groups = made([Row(label, split=split) for label, split in rows])
    return brought(dataset, groups)


def test_a_given_split_is_kept_as_it_is():
    parts = given_split(("a", "train"), ("b", "test"), ("a", "validation"), ("b", "train"), ("a", None))
    assert [part.tolist() for part in (parts.train, parts.validation, parts.test)] == [[0, 3, 4], [2], [1]]
    assert (parts.origin, parts.findings) == ("data", ())
    assert parts.part("test").tolist() == [1]


def test_train_and_val_folders_are_a_given_split(tmp_path: Path, photos: Path):
    for part, wanted in (("train", "*_0*.png"), ("val", "*_1*.png")):
        for path in photos.rglob(wanted):
            target = tmp_path / "parted" / part / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    dataset = sources.read(tmp_path / "parted")
    parts = brought(dataset, np.arange(len(dataset)))
    assert (parts.origin, len(parts.train), len(parts.validation), len(parts.test)) == ("data", 30, 6, 0)


def test_training_pictures_alone_are_split_like_any_others():
    parts = given_split(*[("a", "train")] * 10, *[("b", "train")] * 10)
    assert (parts.origin, len(parts.validation)) == ("drawn", 4)


def test_a_given_split_without_training_pictures_is_refused():
    with pytest.raises(DataError, match="has no training pictures"):
        given_split(("a", "test"), ("b", "validation"))


def test_B16_a_class_that_is_measured_and_never_learned_is_refused():
    with pytest.raises(DataError, match="1 class.*measured but never learned: 'new'; learned are 'a', 'b'"):
        given_split(("a", "train"), ("b", "train"), ("new", "test"))


def test_a_class_in_no_measured_part_is_named():
    parts = given_split(("a", "train"), ("b", "train"), ("a", "test"))
    assert [(f.code, f.names) for f in parts.findings] == [("unmeasured-classes", ("b",))]


def test_E1_a_copy_of_a_test_picture_is_left_out_of_a_given_training_part():
    rows = [Row("a", None, 1, "train"), Row("a", None, 1, "test"), Row("b", split="train"), Row("b", split="test")]
    parts = brought(*made([*rows, Row("a", split="train")]))
    (leak,) = parts.findings
    assert (leak.code, leak.severity, leak.names) == ("split-leak", "warning", ("000.png",))
    assert (parts.train.tolist(), parts.test.tolist()) == ([2, 4], [1, 3])


def test_a_class_of_the_training_part_that_would_be_left_out_whole_stays_and_is_told():
    rows = [Row("a", "scene", split=part) for part in ("train", "train", "test")]
    parts = brought(*made([*rows, Row("b", split="train"), Row("b", split="test")]))
    assert (parts.train.tolist(), parts.test.tolist()) == ([0, 1, 3], [2, 4])
    (told,) = parts.findings
    assert (told.code, told.names) == ("split-leak-kept", ("000.png", "001.png"))
    assert "figures flatter" in told.message


def test_a_validation_part_whose_pictures_all_have_a_copy_in_test_stays_and_is_told():
    rows = [Row(label, f"{label} scene", split=part) for label in "ab" for part in ("validation", "test")]
    parts = brought(*made([*rows, Row("a", split="train"), Row("b", split="train")]))
    assert (parts.validation.tolist(), parts.test.tolist()) == ([0, 2], [1, 3])
    assert [finding.code for finding in parts.findings] == ["split-leak-kept"]


def test_a_part_of_doubtful_pictures_alone_is_measured_all_the_same():
    dataset, groups = made([Row("a"), Row("b"), Row("a", split="test"), Row("b", split="test")])
    found = brought(dataset, groups, np.array([False, False, True, True]))
    assert found.test.tolist() == [2, 3]


# --- a previous run ---------------------------------------------------------------------------------------------------


def followed(dataset: Dataset, groups: np.ndarray, *parts: str) -> Splits:
    """Return the split of pictures of which a previous run had some."""
    return splits.partition(dataset, grouping(groups), SplitPlan(), 0, previous=np.array(parts)).final


def test_pictures_of_a_previous_run_stay_where_they_were_and_new_ones_are_dealt_out():
    dataset, groups = made([Row(label) for label in "ab" for _ in range(15)])
    old = [*["train"] * 4, "validation", *[""] * 10]
    found = followed(dataset, groups, *old, *old)
    assert {4, 19} <= set(found.validation)
    assert set(range(4)) | set(range(15, 19)) <= set(found.train)
    assert len(found.validation) == 2 + 4  # a fifth of the new ones of each class
    assert found.origin == "previous run"


def test_new_pictures_follow_their_group():
    rows = [Row("a", "g"), Row("a", "g"), Row("b", "h"), Row("b", "h"), Row("a"), Row("b")]
    found = followed(*made(rows), "validation", "", "train", "", "train", "validation")
    assert (found.train.tolist(), found.validation.tolist()) == ([2, 3, 4], [0, 1, 5])


# --- rounds -----------------------------------------------------------------------------------------------------------


def balanced(each: int = 10, classes: str = "abc") -> tuple[Dataset, np.ndarray]:
    return made([Row(label) for label in classes for _ in range(each)])


def test_one_share_is_one_round_and_what_is_learned_last():
    dataset, groups = balanced()
    found = splits.partition(dataset, grouping(groups), SplitPlan(), 0)
    (only,) = found.rounds
    assert only is found.final
    np.testing.assert_array_equal(only.validation, splits.split(dataset, groups, 0.2, 0).validation)


def test_folds_measure_every_picture_once_and_learn_from_all_at_the_end():
    dataset, groups = balanced()
    found = splits.partition(dataset, grouping(groups), SplitPlan(folds=5), 0)
    measured = np.concatenate([one.validation for one in found.rounds])
    assert sorted(measured.tolist()) == list(range(30))
    assert all(not set(one.train) & set(one.validation) for one in found.rounds)
    assert (found.final.train.tolist(), len(found.final.validation)) == (list(range(30)), 0)


def test_repeats_hold_out_other_pictures_each_time():
    dataset, groups = balanced()
    found = splits.partition(dataset, grouping(groups), SplitPlan(repeats=3), 0)
    assert len({tuple(one.validation) for one in found.rounds}) == 3
    assert len(found.final.train) == 30


def test_E4_groups_stay_together_in_every_round():
    dataset, groups = made([Row(label, f"{label}{n // 3}") for label in "ab" for n in range(15)])
    for one in splits.partition(dataset, grouping(groups), SplitPlan(folds=4, repeats=2), 0).rounds:
        assert not set(groups[one.train]) & set(groups[one.validation])


def test_an_even_partition_measures_large_groups_too():
    rows = [Row(label, f"{label}{n // 6}") for label in "ab" for n in range(18)]  # six of eighteen are over a fifth
    dataset, groups = made(rows)
    measured = np.concatenate(
        [one.validation for one in splits.partition(dataset, grouping(groups, same_object=True), SplitPlan(), 0).rounds]
    )
    assert sorted(measured.tolist()) == list(range(36))


@pytest.mark.parametrize("config", [SplitPlan(), SplitPlan(folds=3)])
def test_E3_pictures_set_aside_are_learned_from_and_measure_nothing(config: SplitPlan):
    dataset, groups = made([Row(label) for label in "ab" for _ in range(10)])
    aside = np.arange(20) % 4 == 0
    for one in splits.partition(dataset, grouping(groups, aside), config, 0).rounds:
        assert set(np.flatnonzero(aside)) <= set(one.train)


def test_E3_pictures_set_aside_leave_a_given_test_part():
    dataset, groups = made([Row("a"), Row("b"), Row("a", split="test"), Row("b", split="test")])
    found = brought(dataset, groups, np.array([False, False, True, False]))
    assert (found.train.tolist(), found.test.tolist()) == ([0, 1], [3])


def test_folds_of_a_given_split_leave_its_test_part_alone():
    rows = [Row(label, split="test" if n < 2 else "train") for label in "ab" for n in range(12)]
    dataset, groups = made(rows)
    found = splits.partition(dataset, grouping(groups), SplitPlan(folds=4), 0)
    tested = {0, 1, 12, 13}
    assert set(found.final.test) == tested
    assert not tested & {int(row) for one in found.rounds for row in (*one.train, *one.validation)}


def test_without_turns_one_share_is_held_out_even_of_large_groups():
    dataset, groups = made([Row(label, f"{label}{n // 6}") for label in "ab" for n in range(18)])
    found = splits.partition(dataset, grouping(groups, same_object=True), SplitPlan(), 0, in_turn=False)
    assert len(found.rounds) == 1


def test_joined_rows_are_called_by_their_first_and_join_through_others():
    pairs = np.array([[1, 4], [4, 2], [5, 3]])
    assert splits.joined(np.arange(6), pairs).tolist() == [0, 1, 1, 3, 1, 3]
    assert splits.joined(np.array([7, 7, 2, 3]), np.zeros((0, 2), int)).tolist() == [0, 0, 2, 3]
