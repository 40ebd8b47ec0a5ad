"""Files of this machine that were read once: known unread, until they are changed in whatever way."""

from __future__ import annotations

import os
import tarfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from bucket import Bucket
from conftest import draw_folders

from headstart.data import images, manifest, sources
from headstart.errors import StorageError
from headstart.inspection import files
from headstart.model import artifact
from headstart.model import classifier as classifiers
from headstart.model.classifier import Classifier
from headstart.records import Dataset, Locator, Sample

pytestmark = pytest.mark.skipif(os.name != "posix", reason="elsewhere nothing tells that an entry was changed")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return sources.read(draw_folders(tmp_path / "photos", each=2))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    fetch, seen = images.fetch, []

    def counted(path: Path) -> object:
        seen.append(path.name)
        return fetch(path)

    monkeypatch.setattr(images, "fetch", counted)
    return seen


def replaced(path: Path) -> None:
    """Put another file of the same size and time in its place, as unpacking an archive does."""
    state, other = path.stat(), path.with_name("other")
    other.write_bytes(path.read_bytes()[:-1] + b"\0")
    os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
    other.rename(path)


def overwritten(path: Path) -> None:
    """Change it where it is, and turn its time back."""
    state = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\0")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def appended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def test_a_file_that_is_as_it_was_is_not_read_again(
    dataset: Dataset, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(manifest, "SETTLED", 0)
    first = files.fingerprints(dataset, cache=tmp_path / "cache")
    assert len(reads) == len(dataset)
    reads.clear()
    assert files.fingerprints(dataset, cache=tmp_path / "cache") == first
    assert reads == []
    assert files.fingerprints(dataset) == first
    assert len(reads) == len(dataset)


@pytest.mark.parametrize("change", [replaced, overwritten, appended])
def test_a_file_that_was_changed_is_read(
    dataset: Dataset, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
):
    monkeypatch.setattr(manifest, "SETTLED", 0)
    before, _ = files.fingerprints(dataset, cache=tmp_path / "cache")
    reads.clear()
    time.sleep(0.02)  # the clock of a file system goes in steps
    change(dataset[0].path)
    after, _ = files.fingerprints(dataset, cache=tmp_path / "cache")
    assert reads == [dataset[0].path.name]
    assert after[0] != before[0]
    assert after[0] == images.digest(dataset[0].path.read_bytes())
    assert after[1:] == before[1:]


def test_a_file_that_was_written_just_now_is_not_trusted(
    dataset: Dataset, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(manifest, "SETTLED", 3600 * 10**9)
    files.fingerprints(dataset, cache=tmp_path / "cache")
    reads.clear()
    files.fingerprints(dataset, cache=tmp_path / "cache")
    assert len(reads) == len(dataset)


def test_what_turned_out_to_be_something_else_is_forgotten(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(manifest, "SETTLED", 0)
    files.fingerprints(dataset, cache=tmp_path / "cache")
    manifest.forget([dataset[0].path], tmp_path / "cache")
    assert [bool(one) for one in manifest.recall(dataset, tmp_path / "cache")] == [False] + [True] * (len(dataset) - 1)


def test_members_of_a_tar_are_known_until_it_is_another_one(
    dataset: Dataset, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(manifest, "SETTLED", 0)
    tar = tmp_path / "photos.tar"
    with tarfile.open(tar, "w") as file:
        file.add(dataset.root, "photos")
    before = files.fingerprints(sources.read(tar), cache=tmp_path / "cache")
    reads.clear()
    assert files.fingerprints(sources.read(tar), cache=tmp_path / "cache") == before
    assert reads == []
    time.sleep(0.02)
    overwritten(tar)
    assert files.fingerprints(sources.read(tar), cache=tmp_path / "cache") == before
    assert len(reads) == len(dataset)


def test_few_files_are_sooner_read_than_many_versions(
    dataset: Dataset, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(manifest, "SETTLED", 0)
    first = files.fingerprints(dataset, cache=tmp_path)
    monkeypatch.setattr(manifest, "WORTH", 1)  # six rows and a head are more than six rows
    reads.clear()
    known = manifest.Manifest(tmp_path)
    assert not known.recall(dataset).known.any()
    assert known.recall(dataset) == first[0]  # asked about twelve by now
    assert files.fingerprints(dataset, cache=tmp_path) == first
    assert len(reads) == len(dataset)


def test_what_is_noted_is_kept_at_the_end_whatever_ends_it(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(manifest, "NOTED", 4)
    digest, kept = "ab" * 32, tmp_path / "cache" / manifest.FOLDER

    def interrupted() -> None:
        with manifest.Manifest(tmp_path / "cache") as known:
            for row, sample in enumerate(dataset):
                assert bool(list(kept.glob("*"))) == (row >= 4)
                known.note(manifest.version(sample.path), digest)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert set(manifest.recall(dataset, tmp_path / "cache")) == {digest}


def numbered(number: int) -> Locator:
    return Locator("s3://bucket", f"{number}.jpg", size=9, mark=number + 1)


def test_what_is_noted_is_written_no_more_often_than_asked(tmp_path: Path):
    known = manifest.Manifest(tmp_path)
    known.note(numbered(0), "ab" * 32)
    known.keep(after=60)
    assert not (tmp_path / manifest.FOLDER).exists()
    known.keep(after=0)
    assert len(list((tmp_path / manifest.FOLDER).iterdir())) == 1


def test_the_folders_above_a_cache_are_made(tmp_path: Path):
    cache = tmp_path / "not" / "there" / "yet"
    manifest.note({numbered(0): "ab" * 32}, cache)
    assert list(manifest.recall(Dataset(Path(), (Sample(numbered(0), "0"),)), cache)) == ["ab" * 32]


def test_what_is_noted_again_and_again_is_not_lost(tmp_path: Path):
    for _ in range(2 * manifest.MOST_FILES):
        manifest.note({numbered(0): "ab" * 32}, tmp_path)
    assert list(manifest.recall(Dataset(Path(), (Sample(numbered(0), "0"),)), tmp_path)) == ["ab" * 32]


def test_files_of_a_manifest_stay_few_and_what_was_noted_last_counts(tmp_path: Path):
    written = []
    for number in range(200):
        with manifest.Manifest(tmp_path) as known:
            known.note(numbered(number), f"{number + 1000:064x}")
            known.note(numbered(7), f"{number + 1:064x}")
        files = sorted((tmp_path / manifest.FOLDER).iterdir())
        assert len(files) <= manifest.MOST_FILES + 1
        written.append({file.name: file.stat().st_size for file in files})
    pictures = Dataset(Locator("s3://bucket"), tuple(Sample(numbered(n), f"{n}.jpg", "a") for n in range(200)))
    told = [f"{number + 1000:064x}" for number in range(200)]
    told[7] = f"{200:064x}"
    assert list(manifest.recall(pictures, tmp_path)) == told
    rewritten = sum(size for one, before in pairwise(written[::-1]) for name, size in one.items() if name not in before)
    assert rewritten < 8 * sum(written[-1].values())  # not the whole each time
    assert sum(written[-1].values()) < 48 * (200 + 2 * manifest.MOST_FILES) + 100 * len(written[-1])


def test_a_file_that_was_made_part_of_another_meanwhile_is_not_missed(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    manifest.note({numbered(0): "ab" * 32}, tmp_path)
    manifest.note({numbered(1): "cd" * 32}, tmp_path)
    real, joined = manifest._joined, []

    def late(files: Sequence[Path]) -> object:
        if not joined:
            joined.append(True)
            manifest._join(tmp_path / manifest.FOLDER)
        return real(files)

    monkeypatch.setattr(manifest, "_joined", late)
    pictures = Dataset(Locator("s3://bucket"), tuple(Sample(numbered(n), f"{n}.jpg", "a") for n in range(2)))
    assert list(manifest.recall(pictures, tmp_path)) == ["ab" * 32, "cd" * 32]


def test_what_lies_on_the_web_is_not_noted(tmp_path: Path):
    manifest.note({Locator("https://example.org/a.jpg", size=9, mark=7): "ab" * 32}, tmp_path)
    assert not (tmp_path / manifest.FOLDER).exists()


class TestPredictions:
    """A classifier asked again reads nothing of which it has features, and all the rest."""

    pytestmark = pytest.mark.slow

    @pytest.fixture
    def classifier(self, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Classifier:
        monkeypatch.setattr(manifest, "SETTLED", 0)
        return artifact.load_classifier(model_folder)

    def test_features_that_are_kept_need_no_file(
        self, classifier: Classifier, dataset: Dataset, tmp_path: Path, reads: list[str]
    ):
        first = classifier.predict_many(dataset, cache=tmp_path)
        assert sorted(reads) == sorted(sample.path.name for sample in dataset)
        reads.clear()
        again = classifier.predict_many(dataset, cache=tmp_path)
        assert reads == []
        np.testing.assert_array_equal(again.probabilities, first.probabilities)
        assert again.findings == first.findings
        blocks = list(classifier.predict_blocks([dataset.select([1, 0]), dataset.select([3])], cache=tmp_path))
        assert reads == []
        np.testing.assert_array_equal(blocks[0].probabilities, first.probabilities[[1, 0]])
        classifier.predict_many(dataset)
        assert len(reads) == len(dataset)

    @pytest.mark.parametrize("change", [replaced, overwritten, appended])
    def test_what_was_changed_is_read_and_nothing_else(
        self, classifier: Classifier, dataset: Dataset, tmp_path: Path, reads: list[str], change: Callable[[Path], None]
    ):
        classifier.predict_many(dataset, cache=tmp_path)
        reads.clear()
        time.sleep(0.02)
        change(dataset[2].path)
        changed = classifier.predict_many(dataset, cache=tmp_path)
        assert reads == [dataset[2].path.name]
        assert not any(finding.code == "changed-file" for finding in changed.findings)

    def test_what_is_known_and_not_kept_is_read(
        self, classifier: Classifier, dataset: Dataset, tmp_path: Path, reads: list[str]
    ):
        files.fingerprints(dataset, cache=tmp_path)
        reads.clear()
        said = classifier.predict_many(dataset, cache=tmp_path)
        assert sorted(reads) == sorted(sample.path.name for sample in dataset)
        np.testing.assert_array_equal(said.probabilities, classifier.predict_many(dataset).probabilities)

    def test_a_digest_that_was_wrong_is_not_believed_once_the_file_is_read(
        self, classifier: Classifier, dataset: Dataset, tmp_path: Path
    ):
        versions = [manifest.version(sample.path) for sample in dataset]
        manifest.note({place: "cd" * 32 for place in versions if place}, tmp_path)
        said = classifier.predict_many(dataset, cache=tmp_path)
        np.testing.assert_array_equal(said.probabilities, classifier.predict_many(dataset).probabilities)
        assert not said.findings
        wanted = [images.digest(sample.path.read_bytes()) for sample in dataset]
        assert list(manifest.recall(dataset, tmp_path)) == wanted

    def test_what_is_kept_of_files_that_are_not_known_is_not_computed_again(
        self, classifier: Classifier, dataset: Dataset, tmp_path: Path, reads: list[str]
    ):
        """As where the first seconds' files had just been written, or were copied since."""
        first = classifier.predict_many(dataset, cache=tmp_path)
        copied = dataset.root / "ash" / "copied.png"
        copied.write_bytes(dataset[0].path.read_bytes())
        both, told = sources.read(dataset.root), list[tuple[int, int]]()
        reads.clear()
        table = classifier.extract(both, cache=tmp_path, progress=lambda _, done, of: told.append((done, of))).table
        assert table.encoded == 0
        assert reads == ["copied.png"]
        assert max(done for done, _ in told) == len(both)
        (row,) = [row for row, sample in enumerate(both) if sample.path == copied]
        again = classifier.predict_many(both, cache=tmp_path).probabilities
        np.testing.assert_array_equal(again[row], first.probabilities[0])
        np.testing.assert_array_equal(np.delete(again, row, axis=0), first.probabilities)

    def test_a_note_that_cannot_be_written_is_told_and_costs_no_answer(
        self, classifier: Classifier, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        def full(*_: object) -> None:
            raise StorageError("There is no room.", "Make room.")

        monkeypatch.setattr(manifest, "_write", full)
        with pytest.warns(UserWarning, match="not remembered: There is no room"):
            said = classifier.predict_many(dataset, cache=tmp_path)
        np.testing.assert_array_equal(said.probabilities, classifier.predict_many(dataset).probabilities)

    def test_blocks_are_noted_before_the_next_is_asked_for(
        self, classifier: Classifier, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(classifiers, "OFTEN", 0.0)
        blocks = classifier.predict_blocks([dataset.select([1, 0]), dataset.select([3])], cache=tmp_path)
        next(blocks)
        assert [bool(one) for one in manifest.recall(dataset, tmp_path)[:4]] == [True, True, False, False]

    def test_pictures_of_a_store_are_asked_for_once(
        self, classifier: Classifier, dataset: Dataset, tmp_path: Path, bucket: Bucket
    ):
        bucket.fill(dataset.root, "photos/")
        (first,) = classifier.predict_blocks([sources.read_pictures(["s3://bucket/photos"])], cache=tmp_path)
        bucket.asked.clear()
        (again,) = classifier.predict_blocks([sources.read_pictures(["s3://bucket/photos"])], cache=tmp_path)
        assert bucket.counts()["GET"] == 0
        np.testing.assert_array_equal(again.probabilities, first.probabilities)
        np.testing.assert_array_equal(first.probabilities, classifier.predict_many(dataset).probabilities)
