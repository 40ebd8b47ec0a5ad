"""Columns of pictures: whatever goes in comes out again, and a picture takes few bytes."""

from __future__ import annotations

import pickle
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headstart import arrays
from headstart.errors import DataError
from headstart.packed import Digests, Texts, Values, values_of
from headstart.records import ClassNames, Dataset, Locator, Sample
from headstart.samples import Samples

ODD = (
    Sample(Path("/photos/ash/1.jpg"), "ash/1.jpg", "ash"),
    Sample(Path("/photos/ash/2.jpg"), "ash/2", "ash", "tree 7", "train"),
    Sample(Path("photos/3.jpg"), "./photos/3.jpg", None, ""),
    Sample(Path("/photos/\udcff\udce4.jpg"), "\udcff\udce4.jpg", "\udcff"),
    Sample(Path("cafe\u0301.jpg"), "café", "\U0001f33f"),
    Sample(Locator("s3://bucket/photos/", "a/4.jpg", size=3, mark=2**62), "a/4.jpg", "a", split="test"),
    Sample(Locator("s3://bucket/photos/5.jpg", size=9), "s3://bucket/photos/5.jpg"),
    Sample(Locator("https://host/", "6.jpg", query="signed"), "https://host/6.jpg", ""),
    Sample(Locator("/data/one.tar", "in/7.jpg", "member", 512, 77, 5), "one.tar/in/7.jpg"),
    Sample(Locator("/data/one.parquet", "image", "cell", 12, -1, 5), "one.parquet/12"),
    Sample(Path(), "picture 8"),
    Sample(Path("/photos/9"), ""),
)


def shown(samples: object) -> list[str]:
    """Return what there is to see of samples, with what is never compared."""
    return [f"{one!r} {getattr(one.path, 'query', '')}" for one in samples]


@pytest.mark.parametrize("order", [range(len(ODD)), reversed(range(len(ODD)))])
def test_samples_come_out_as_they_went_in(order):
    given = tuple(ODD[row] for row in order)
    kept = Dataset(Path("/photos"), given).samples
    assert kept == given
    assert given == kept
    assert shown(kept) == shown(given)
    assert hash(kept) == hash(given)
    assert list(kept.far) == [isinstance(one.path, Locator) for one in given]


texts = st.text(st.sampled_from("ab/.\\\u00e9\u0301\U0001f33f\udc80"), max_size=8)
locators = st.builds(
    Locator, texts, texts, st.sampled_from(["object", "member", "cell"]), st.integers(0, 2**62), st.integers(-1, 2**62)
)
places = locators | st.builds(Path, texts.filter(lambda text: "\0" not in text))


@settings(deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.builds(Sample, places, texts, st.none() | texts, st.none() | texts), max_size=5))
def test_any_sample_comes_out_as_it_went_in(given):
    assert shown(Samples.of(given)) == shown(given)


def test_a_selection_is_what_it_would_be_of_a_tuple():
    dataset = Dataset(Path("/photos"), ODD)
    chosen = dataset.select([5, 1, -1, 5]).select(np.array([3, 0, 1]))
    assert tuple(chosen) == (ODD[5], ODD[5], ODD[1])
    assert chosen.names == ("a/4.jpg", "a/4.jpg", "ash/2")
    assert chosen.labels == ("a", "a", "ash")
    assert chosen.classes == ("a", "ash")
    assert list(chosen.packed.groups) == [None, None, "tree 7"]
    assert dataset.samples[2:9:3] == ODD[2:9:3]
    assert dataset[-1] == ODD[-1]
    assert dataset.select(range(len(dataset))).samples is dataset.samples
    with pytest.raises(IndexError):
        dataset.select([len(ODD)])


def test_what_is_sent_elsewhere_is_the_selection_alone():
    many = Samples.of(Sample(Path(f"{row}.jpg"), f"{row}.jpg", "ash") for row in range(2000))
    few = many.select(np.array([3, 1500]))
    sent = pickle.dumps(few)
    assert len(sent) < 1000
    assert pickle.loads(sent) == few


def test_replacing_samples_keeps_them_in_columns():
    dataset = Dataset(Path(), ODD)
    changed = replace(dataset, samples=tuple(replace(one, label="oak") for one in dataset))
    assert changed.classes == ("oak",)
    assert changed.names == dataset.names


def test_a_picture_takes_few_bytes():
    rows = 20_000
    order = np.random.default_rng(0).permutation(rows)
    names = [f"class-{row % 100:03d}/{row:08d}.jpg" for row in range(rows)]
    paths = [Path("/data/photos", name) for name in names]
    assert all(map(str, paths))  # which they keep, as Python does their parts
    tracemalloc.start()
    try:
        told = (Sample(path, name, name.partition("/")[0]) for path, name in zip(paths, names, strict=True))
        dataset = Dataset(Path("/data/photos"), Samples.of(told))
        digests = Digests.of(f"{row:064x}" for row in range(rows))
        shuffled = dataset.select(order)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(shuffled) == len(digests) == rows
    assert taken / rows <= 90


def test_labels_are_joined_to_classes_whatever_else_the_column_holds():
    labels = Dataset(Path(), ODD).labels
    assert ClassNames(["a", "ash"]).encode(labels.select(np.array([5, 0, 1]))).tolist() == [0, 1, 1]
    with pytest.raises(DataError, match="None"):
        ClassNames(["a", "ash"]).encode(labels)


def test_digests_are_what_they_were():
    given = ["00" * 32, "", "ab" * 32, "00" * 32, "", "0f" * 31 + "00"]
    digests = Digests.of(given)
    assert digests == given
    assert digests.known.tolist() == [True, False, True, True, False, True]
    copy = Digests.of(digests)
    copy[1], copy[2] = "cd" * 32, ""
    assert list(copy)[:3] == ["00" * 32, "cd" * 32, ""]
    assert digests == given
    assert list(Digests.unknown(2)) == ["", ""]
    assert pickle.loads(pickle.dumps(digests.select(np.array([2, 1])))) == ["ab" * 32, ""]
    with pytest.raises(ValueError, match="hex"):
        Digests.of(["no digest"])


@pytest.mark.parametrize("column", [Digests.of(["ab" * 32, "", "00" * 32, "ab" * 32, ""]), ["b", "", "a", "b", ""]])
def test_values_of_a_column_are_each_there_once(column):
    values = values_of(column)
    assert list(values) == list(column)
    assert len(values.distinct) == len(set(values.codes.tolist())) == 3
    assert values.where(map(bool, values.distinct)).tolist() == [True, False, True, True, False]


def test_columns_of_nothing():
    assert Texts.of([]) == Values.of([]) == Digests.of([]) == Samples.of([]) == ()
    assert Dataset(Path(), ()).classes == ()


def test_many_answers_lie_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(arrays, "ANSWERS", 800)
    small, large = arrays.answers((10, 10), float, tmp_path), arrays.answers((10, 11), float, tmp_path)
    assert [arrays.is_mapped(one) for one in (small, large)] == [False, True]
    large[:] = 1
    assert arrays.together([large, large], tmp_path).tolist() == [[1.0] * 11] * 20
    assert not list(tmp_path.iterdir())
