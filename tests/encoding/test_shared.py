"""A cache that a team shares: what one computed the others need not, and a bucket that fails costs nothing but that."""

from __future__ import annotations

import errno
import warnings
from pathlib import Path

import contracts
import numpy as np
import pytest
from bucket import Bucket
from conftest import draw_folders

from headstart.data import sources
from headstart.encoding import cache as caches
from headstart.encoding import features, shared
from headstart.errors import ConfigError
from headstart.inspection import files
from headstart.records import Dataset, FeatureTable


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return sources.read(draw_folders(tmp_path / "photos", each=4))


@pytest.fixture
def team(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A bucket that caches share, asked each time what is new."""
    monkeypatch.setenv(shared.VARIABLE, "s3://bucket/team")
    monkeypatch.setattr(shared, "AGAIN", 0.0)
    return bucket


def extracted(dataset: Dataset, cache: Path) -> FeatureTable:
    digests, _ = files.fingerprints(dataset)
    return features.extract(dataset, digests, [contracts.encoder()], with_properties=True, cache=cache).table


def shards(bucket: Bucket) -> set[str]:
    return {key for key in bucket.objects if key.startswith("team/")}


def test_what_one_computed_nobody_computes_again(team: Bucket, dataset: Dataset, tmp_path: Path):
    first = extracted(dataset, tmp_path / "one")
    assert (first.encoded, len(shards(team))) == (12, 2)  # features, and properties
    second = extracted(dataset, tmp_path / "two")
    assert second.encoded == 0
    np.testing.assert_array_equal(second.values, first.values)
    np.testing.assert_array_equal(second.properties.thumbnails, first.properties.thumbnails)
    team.objects.clear()
    assert extracted(dataset, tmp_path / "two").encoded == 0  # it lies here now


def test_light_shards_go_from_the_bucket_when_they_are_in_a_large_one(
    team: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(caches, "MANY_LIGHT", 4)
    store = caches.Store(tmp_path / "one", {"a": "recipe"}, 3)
    digests = [f"{number:064x}" for number in range(8)]
    values = np.arange(24, dtype=np.float32).reshape(8, 3)
    for begin in range(0, 8, 2):
        store.add(digests[begin : begin + 2], values[begin : begin + 2])
    assert len(shards(team)) == 1
    other = caches.Store(tmp_path / "two", {"a": "recipe"}, 3)
    (rows,) = other.take(digests)
    np.testing.assert_array_equal(rows.values[np.argsort([key.hex() for key in rows.keys])], values)


def test_a_bucket_that_refuses_is_told_of_once(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(shared.VARIABLE, "s3://bucket/team")
    for name in ("listed", "put"):
        monkeypatch.setattr(shared.stores, name, refused)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert extracted(dataset, tmp_path / "one").encoded == 12
    told = [str(one.message) for one in caught if "shared cache" in str(one.message)]
    assert len(told) == 4  # read and written, of features and of properties
    assert all("goes on without it: it is not yours" in text for text in told)
    assert extracted_here(dataset, tmp_path / "one", monkeypatch).encoded == 0


def refused(*_: object) -> None:
    raise shared.StorageError("it is not yours")


def extracted_here(dataset: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureTable:
    monkeypatch.delenv(shared.VARIABLE)
    return extracted(dataset, cache)


def test_a_damaged_shard_of_the_bucket_is_computed_here(team: Bucket, dataset: Dataset, tmp_path: Path):
    before = extracted(dataset, tmp_path / "one")
    for key in shards(team):
        team.objects[key] = team.objects[key][:-1] + b"!"
    with pytest.warns(UserWarning, match="is damaged and not used"):
        after = extracted(dataset, tmp_path / "two")
    assert after.encoded == 12
    np.testing.assert_array_equal(after.values, before.values)


def test_only_shards_are_fetched(team: Bucket, dataset: Dataset, tmp_path: Path):
    extracted(dataset, tmp_path / "one")
    folder = next(iter(shards(team))).rpartition("/")[0]
    team.objects |= {f"{folder}/{name}": b"x" for name in ("recipe.json", "x.safetensors", "deep/er.safetensors")}
    extracted(dataset, tmp_path / "two")
    assert not [path for path in (tmp_path / "two").rglob("*") if path.is_file() and path.read_bytes() == b"x"]


@pytest.mark.parametrize("named", ["features", "https://host/x"])
def test_what_is_no_bucket_is_refused(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(shared.VARIABLE, named)
    with pytest.raises(ConfigError, match="a bucket was expected"):
        caches.Store(tmp_path, {"a": "recipe"}, 3)


def test_A29_what_is_no_bucket_is_not_shown_with_its_signature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(shared.VARIABLE, "https://account.blob.core.windows.net/c?sv=1&sig=CANARY")
    with pytest.raises(ConfigError) as refused:
        caches.Store(tmp_path, {"a": "recipe"}, 3)
    assert "CANARY" not in str(refused.value)


def test_a_full_disk_ends_no_work_that_a_bucket_shares(
    team: Bucket, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    extracted(dataset, tmp_path / "one")
    with monkeypatch.context() as patch:
        patch.setattr(shared, "write_whole", full)
        with pytest.warns(UserWarning, match="cannot be read, and the work goes on without it.*No space left"):
            table = extracted(dataset, tmp_path / "two")
    assert table.encoded == len(dataset)


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
