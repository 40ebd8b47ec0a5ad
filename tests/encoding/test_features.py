"""The feature cache: whatever happens to its files or to the pictures, the features are those of an honest run."""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
import re
import resource
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import contracts
import numpy as np
import pytest
from conftest import draw_folders, picture
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save

import headstart
from headstart import arrays, storage
from headstart.data import images, sources
from headstart.encoding import cache as caches
from headstart.encoding import features, reading, shelves
from headstart.encoding import shards as shard_files
from headstart.encoding.opened import Opened
from headstart.encoding.runtime import OpenVinoEncoder
from headstart.errors import StorageError
from headstart.inspection import files
from headstart.records import Dataset, FeatureTable

RECIPE = {"a recipe": "for tests"}
DIGESTS = [hashlib.sha256(bytes([number])).hexdigest() for number in range(5)]
VALUES = np.arange(20, dtype=np.float32).reshape(5, 4)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return sources.read(draw_folders(tmp_path / "photos", each=4))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def _umask_000() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def extracted(
    dataset: Dataset,
    cache: Path | None = None,
    engine: str = "openvino-f32",
    views: tuple[str, ...] = ("original",),
    *,
    digests: bool = True,
) -> FeatureTable:
    known = files.fingerprints(dataset)[0] if digests else None
    encoder = contracts.encoder(engine)
    return features.extract(dataset, known, [encoder], views=views, cache=cache).table


def shards(cache: Path) -> list[Path]:
    return sorted((cache / "features").rglob("*.safetensors"))


def taken(cache: Path, digests: list[str] = DIGESTS, dim: int = 4) -> dict[str, tuple[list[float], int]]:
    """Return what a new store gives of these digests: values and remarks."""
    held = caches.Store(cache, RECIPE, dim).take(digests)
    return {key.hex(): (vector.tolist(), int(code)) for rows in held for key, vector, code in zip(*rows, strict=True)}


def rows(cache: Path) -> int:
    return sum(state.rows for state in caches.survey(cache))


@pytest.mark.slow
def test_second_run_computes_nothing(dataset: Dataset, cache: Path):
    first, second = extracted(dataset, cache), extracted(dataset, cache)
    assert (first.encoded, second.encoded) == (12, 0)
    np.testing.assert_array_equal(first.values, second.values)


@pytest.mark.slow
def test_cache_changes_no_bit(dataset: Dataset, cache: Path):
    np.testing.assert_array_equal(extracted(dataset, cache).values, extracted(dataset).values)


def test_rows_follow_the_dataset_not_the_cache(dataset: Dataset, cache: Path):
    whole = extracted(dataset, cache).values
    order = [7, 0, 11, 7]
    np.testing.assert_array_equal(extracted(dataset.select(order), cache).values, whole[order])


def test_only_new_pictures_are_computed(dataset: Dataset, cache: Path):
    extracted(dataset.select(range(5)), cache)
    assert extracted(dataset, cache).encoded == 7


def test_copies_are_computed_once(dataset: Dataset, cache: Path, tmp_path: Path):
    for name in ("copy1.png", "copy2.png"):
        shutil.copy(dataset[0].path, dataset[0].path.with_name(name))
    table = extracted(sources.read(tmp_path / "photos"), cache)
    assert table.encoded == rows(cache) == 12
    same = [row for row, digest in enumerate(table.digests) if digest == table.digests[0]]
    assert len(same) == 3
    assert len(np.unique(table.values[same], axis=0)) == 1


def test_views_are_kept_apart(dataset: Dataset, cache: Path):
    both = extracted(dataset, cache, views=("original", "mirror"))
    assert not np.array_equal(both.values[:, 0], both.values[:, 1])
    mirrored = extracted(dataset, cache, views=("mirror",))
    assert mirrored.encoded == 0
    np.testing.assert_array_equal(mirrored.values[:, 0], both.values[:, 1])


def test_content_decides_and_not_the_name_or_the_time(dataset: Dataset, cache: Path):
    before = extracted(dataset, cache).values
    state = dataset[0].path.stat()
    shutil.copy(dataset[1].path, dataset[0].path)
    os.utime(dataset[0].path, ns=(state.st_atime_ns, state.st_mtime_ns))
    after = extracted(dataset, cache)
    assert after.encoded == 0
    np.testing.assert_array_equal(after.values[0], before[1])


def test_engines_do_not_share_features(dataset: Dataset, cache: Path):
    extracted(dataset, cache)
    assert extracted(dataset, cache, "torch-f32").encoded == 12


@pytest.mark.slow
def test_progress_ends_at_the_whole(dataset: Dataset, cache: Path):
    heard: list[tuple[str, int, int]] = []
    digests, _ = files.fingerprints(dataset)
    dataset[3].path.write_bytes(b"no picture")
    features.extract(dataset, digests, [contracts.encoder()], cache=cache, progress=lambda *step: heard.append(step))
    assert heard[-1] == ("Encoding", 12, 12)
    assert [done for _, done, _ in heard] == sorted(done for _, done, _ in heard)


@pytest.mark.slow
def test_agreement_is_recorded_beside_the_features(dataset: Dataset, cache: Path):
    digests, _ = files.fingerprints(dataset)
    arguments = (dataset, digests, [contracts.encoder()])
    first = features.extract(*arguments, cache=cache).agreement
    assert first is not None
    assert first.relative_error < 1e-3
    assert features.extract(*arguments, cache=cache).agreement == first


def test_features_of_a_wrong_engine_never_reach_the_cache(
    dataset: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    real, own = OpenVinoEncoder.encode, copy.copy(contracts.encoder())
    own.trusted = None
    monkeypatch.setattr(OpenVinoEncoder, "encode", lambda self, pictures: (-v for v in real(self, pictures)))
    digests, _ = files.fingerprints(dataset)
    with pytest.warns(UserWarning, match="torch in f32 is used instead"):
        done = features.extract(dataset, digests, [own], cache=cache)
    assert done.encoders[0].plan.engine == "torch"
    np.testing.assert_array_equal(done.table.values, extracted(dataset, engine="torch-f32").values)
    assert extracted(dataset, cache, "torch-f32").encoded == 0
    monkeypatch.undo()
    assert extracted(dataset, cache).encoded == 12


@pytest.mark.parametrize("damage", ["flip", "truncate", "swap", "empty", "text"])
def test_C6_damaged_shard_is_computed_again(dataset: Dataset, cache: Path, tmp_path: Path, damage: str):
    before = extracted(dataset, cache).values
    (shard,) = shards(cache)
    data = bytearray(shard.read_bytes())
    if damage == "flip":
        data[-1000] ^= 1
    elif damage == "truncate":
        data = data[:-1000]
    elif damage == "swap":
        extracted(dataset, tmp_path / "other", "torch-f32")
        data = bytearray(shards(tmp_path / "other")[0].read_bytes())
    else:
        data = bytearray() if damage == "empty" else bytearray(b"no shard at all")
    shard.write_bytes(data)
    with pytest.warns(UserWarning, match=re.escape(str(shard))):
        again = extracted(dataset, cache)
    assert again.encoded == 12
    np.testing.assert_array_equal(again.values, before)


@pytest.mark.slow
def test_C6_no_single_bit_of_a_shard_can_flip_unseen(cache: Path):
    store = caches.Store(cache, RECIPE, 4)
    store.add(DIGESTS[:2], VALUES[:2], [1, 0])
    (shard,) = shards(cache)
    whole, (keys, values, remarks) = shard.read_bytes(), shard_files.read(shard, store.recipe)
    unseen = []
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        shard.write_bytes(data)
        try:
            got = shard_files.read(shard, store.recipe)
        except (caches.SafetensorError, ValueError):
            continue
        same = got.values.dtype == values.dtype and np.array_equal(got.values, values)
        if got.keys != keys or not same or not np.array_equal(got.remarks, remarks):
            unseen.append(bit)
    assert unseen == []


def test_rows_committed_again_make_no_second_shard(cache: Path):
    for _ in range(10):  # as when a signal comes while the views are committed one after the other
        caches.Store(cache, RECIPE, 4).add(DIGESTS, VALUES)
    assert len(shards(cache)) == 1


def test_C6_damaged_shard_costs_only_its_own_rows(dataset: Dataset, cache: Path):
    extracted(dataset.select(range(5)), cache)
    (first,) = shards(cache)
    extracted(dataset, cache)
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="is damaged and not used"):
        assert extracted(dataset, cache).encoded == 5


@pytest.mark.parametrize("forged", contracts.FORGED)
def test_C3_hostile_safetensors_as_shard_is_passed_over(cache: Path, forged: str):
    store = caches.Store(cache, RECIPE, 4)
    store.add(DIGESTS, VALUES)
    (store.folder / "0.safetensors").write_bytes(contracts.FORGED[forged])
    (store.folder / "0.safetensors").chmod(0o600)  # what others may write is passed over unread
    with pytest.warns(UserWarning, match=r"0\.safetensors is damaged"):
        got = set(taken(cache))
    assert got == set(DIGESTS)


SHAPES = {  # what becomes of the values of a shard; its digests agree all the same
    "fewer-values-than-keys": lambda values: values[:3].copy(),
    "values-of-one-column": lambda values: values[:, :1].copy(),
    "flat-values": lambda values: values[:, 0].copy(),
    "values-of-integers": lambda values: values.view(np.int32),
    "values-of-float64": lambda values: values.astype(np.float64),
}


@pytest.mark.parametrize("wrong", SHAPES)
def test_C3_shard_of_the_wrong_shape_is_passed_over(dataset: Dataset, cache: Path, wrong: str):
    before = extracted(dataset, cache).values
    (shard,) = shards(cache)
    with safe_open(shard, framework="numpy") as file:
        recipe, keys = file.metadata()["recipe"], file.get_tensor("keys")
        values = SHAPES[wrong](file.get_tensor("values"))
    sha = {"keys": hashlib.sha256(keys).hexdigest(), "values": hashlib.sha256(values).hexdigest()}
    shard.write_bytes(save({"keys": keys, "values": values}, {"recipe": recipe, **sha}))
    with pytest.warns(UserWarning, match="is damaged and not used"):
        np.testing.assert_array_equal(extracted(dataset, cache).values, before)


@pytest.mark.parametrize("name", ["features.npy", "remembered.json", "recipe.json", "0.safetensors"])
@pytest.mark.filterwarnings("ignore:The cache file")
def test_C7_pickle_in_the_cache_is_never_loaded(dataset: Dataset, cache: Path, tmp_path: Path, name: str):
    before = extracted(dataset, cache).values
    mark = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(mark),)

    folder = shards(cache)[0].parent
    np.save(tmp_path / "hostile.npy", np.array([Hostile()], dtype=object), allow_pickle=True)
    shutil.copy(tmp_path / "hostile.npy", folder / name)
    (cache / "index.pkl").write_bytes(pickle.dumps(Hostile()))
    for planted in (folder / name, cache / "index.pkl"):
        planted.chmod(0o600)
    np.testing.assert_array_equal(extracted(dataset, cache).values, before)
    caches.survey(cache, verify=True)
    assert not mark.exists()


@pytest.mark.parametrize("mode", [0o777, 0o702, 0o1777])
def test_C8_cache_that_everybody_may_write_is_refused(dataset: Dataset, cache: Path, mode: int):
    cache.mkdir()
    cache.chmod(mode)
    with pytest.raises(StorageError, match=f"mode {mode:o}"):
        extracted(dataset, cache)
    assert list(cache.iterdir()) == []


@pytest.mark.usefixtures("_umask_000")
def test_C8_created_folders_are_for_the_owner_alone(dataset: Dataset, cache: Path):
    extracted(dataset, cache)
    folders = [cache, *(path for path in cache.rglob("*") if path.is_dir())]
    assert len(folders) == 3
    assert [f"{path.name} {stat.S_IMODE(path.stat().st_mode):o}" for path in folders] == [
        f"{path.name} 700" for path in folders
    ]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_D4_full_disk_is_an_error_that_leaves_the_cache_intact(
    dataset: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch, call: str
):
    before = extracted(dataset.select(range(5)), cache).values
    old = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(StorageError, match="No space left on device"):
            extracted(dataset, cache)
    assert {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()} == old
    np.testing.assert_array_equal(extracted(dataset, cache).values[:5], before)


def test_D4_small_file_limit_is_an_error(dataset: Dataset, cache: Path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(StorageError, match="File too large"):
            extracted(dataset, cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert shards(cache) == list(cache.rglob(".*.tmp")) == []
    assert extracted(dataset, cache).encoded == 12


@pytest.mark.parametrize("place", ["under-a-file", "/proc/headstart-cache"])
def test_D5_cache_that_cannot_be_made_is_refused_before_any_work(dataset: Dataset, tmp_path: Path, place: str):
    (tmp_path / "under-a-file").write_text("a regular file")
    folder = Path(place) if place.startswith("/proc") else tmp_path / place / "cache"
    with pytest.raises(StorageError, match="HEADSTART_CACHE") as refused:
        extracted(dataset, folder)
    assert str(folder) in str(refused.value)


def test_D7_no_lock_is_taken_anywhere():
    locks = re.compile(r"\b(fcntl\.fcntl|flock|lockf|filelock|msvcrt)\b")
    sources_of = sorted(Path(headstart.__file__).parent.rglob("*.py"))
    assert len(sources_of) > 10
    assert [str(path) for path in sources_of if locks.search(path.read_text(encoding="utf-8"))] == []


def test_D7_rows_that_were_stored_twice_are_the_same(dataset: Dataset, cache: Path, tmp_path: Path):
    extracted(dataset.select(range(8)), cache)
    extracted(dataset.select(range(4, 12)), tmp_path / "other")
    shutil.copytree(tmp_path / "other", cache, dirs_exist_ok=True)
    assert rows(cache) == 16
    again = extracted(dataset, cache)
    assert again.encoded == 0
    np.testing.assert_array_equal(again.values, extracted(dataset).values)


@pytest.mark.parametrize("change", ["removed", "replaced"])
def test_D8_reader_keeps_a_shard_that_goes_away(dataset: Dataset, cache: Path, tmp_path: Path, change: str):
    before = extracted(dataset, cache)
    (shard,) = shards(cache)
    with safe_open(shard, framework="numpy") as reader:
        caches.clear(cache)
        if change == "replaced":
            extracted(dataset, cache)
            shards(cache)[0].replace(shard)
        kept = reader.get_tensor("values")
    assert {row.tobytes() for row in kept} == {row.tobytes() for row in before.values[:, 0]}


def test_D8_shard_that_vanishes_between_listing_and_reading_is_recomputed(
    dataset: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    before = extracted(dataset, cache).values
    real = shard_files.read

    def vanish(path: Path, *arguments: object) -> object:
        path.unlink()
        return real(path, *arguments)

    monkeypatch.setattr(shard_files, "read", vanish)
    table = extracted(dataset, cache)
    np.testing.assert_array_equal(table.values, before)
    assert table.encoded == 12


def test_D10_leftovers_are_collected_by_age(dataset: Dataset, cache: Path):
    extracted(dataset, cache)
    folder = shards(cache)[0].parent
    old, fresh = folder / ".old.1.tmp", folder / ".fresh.1.tmp"
    for path in (old, fresh):
        path.write_bytes(b"half a shard")
    os.utime(old, (time.time() - 2 * storage.STALE_SECONDS,) * 2)
    extracted(dataset, cache)
    assert (old.exists(), fresh.exists()) == (False, True)


def test_D10_leftovers_are_no_shards(dataset: Dataset, cache: Path):
    extracted(dataset, cache)
    (shard,) = shards(cache)
    shard.rename(shard.with_name(f".{shard.name}.1.2.tmp"))
    assert caches.survey(cache) == []
    assert extracted(dataset, cache).encoded == 12


def test_D12_nothing_goes_through_the_temporary_folder(
    dataset: Dataset, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert extracted(dataset, cache).encoded == 12


def test_A23_file_that_changed_since_it_was_fingerprinted_is_taken_as_it_is_now(dataset: Dataset, cache: Path):
    digests, _ = files.fingerprints(dataset)
    picture((1, 2, 3), 99).save(dataset[4].path)
    table = features.extract(dataset, digests, [contracts.encoder()], cache=cache).table
    assert table.changed == table.observations["changed-file"] == (dataset[4].name,)
    assert table.digests == files.fingerprints(dataset)[0]
    np.testing.assert_array_equal(table.values, extracted(dataset).values)
    assert extracted(dataset, cache).encoded == 0  # it was stored under its new digest
    assert [finding.code for finding in files.remarks(table.observations)] == ["changed-file"]


def test_A23_copy_of_a_file_that_changed_keeps_its_own_features(dataset: Dataset, cache: Path):
    shutil.copy(dataset[0].path, dataset[1].path)
    digests, _ = files.fingerprints(dataset)
    picture((1, 2, 3), 99).save(dataset[0].path)
    table = features.extract(dataset, digests, [contracts.encoder()], cache=cache).table
    assert table.changed == (dataset[0].name,)
    np.testing.assert_array_equal(table.values, extracted(dataset).values)


@pytest.mark.parametrize("copies", [False, True])
def test_A24_file_that_was_deleted_since_fails_alone(dataset: Dataset, cache: Path, copies: bool):
    if copies:
        shutil.copy(dataset[0].path, dataset[1].path)
    expected = extracted(dataset).values
    digests, _ = files.fingerprints(dataset)
    dataset[0].path.unlink()
    table = features.extract(dataset, digests, [contracts.encoder()], cache=cache).table
    assert list(table.failures) == [0]
    assert "No such file" in table.failures[0]
    np.testing.assert_array_equal(table.values[1:], expected[1:])
    assert not table.values[0].any()


def test_A24_file_that_was_broken_since_fails_alone(dataset: Dataset, cache: Path):
    shutil.copy(dataset[0].path, dataset[1].path)
    digests, _ = files.fingerprints(dataset)
    dataset[0].path.write_bytes(b"no picture any more")
    table = features.extract(dataset, digests, [contracts.encoder()], cache=cache).table
    assert list(table.failures) == [0]


@pytest.mark.parametrize("where", [0, 5, 11])
def test_A3_bad_picture_changes_no_other_row(dataset: Dataset, cache: Path, where: int):
    expected = extracted(dataset).values
    dataset[where].path.write_bytes(b"no picture")
    table = extracted(dataset, cache)
    assert list(table.failures) == [where]
    np.testing.assert_array_equal(np.delete(table.values, where, 0), np.delete(expected, where, 0))


def test_all_pictures_bad_is_no_crash(dataset: Dataset, cache: Path):
    for sample in dataset:
        sample.path.write_bytes(b"no picture")
    table = extracted(dataset, cache)
    assert len(table.failures) == len(dataset)
    assert table.encoded == 0


def test_verify_finds_the_damaged_shard_and_clear_leaves_foreign_files(dataset: Dataset, cache: Path):
    extracted(dataset, cache)
    (shard,) = shards(cache)
    assert [state.problem for state in caches.survey(cache, verify=True)] == [""]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert "digest" in caches.survey(cache, verify=True)[0].problem
    (cache / "features" / "mine.txt").write_text("mine")
    caches.clear(cache)
    assert shards(cache) == []
    assert (cache / "features" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("views", [("original",), ("original", "mirror")])
def test_digests_need_not_be_known_beforehand(dataset: Dataset, cache: Path, views: tuple[str, ...]):
    shutil.copy(dataset[0].path, dataset[7].path)
    expected = extracted(dataset, views=views)
    for encoded in (11, 0):
        table = extracted(dataset, cache, views=views, digests=False)
        np.testing.assert_array_equal(table.values, expected.values)
        assert (table.digests, table.encoded) == (expected.digests, encoded)


@pytest.mark.parametrize("tensor", ["keys", "values"])
def test_digests_that_are_found_out_survive_a_damaged_shard(dataset: Dataset, cache: Path, tensor: str):
    expected = extracted(dataset, cache)
    (shard,) = shards(cache)
    begin = bytes.fromhex(expected.digests[0]) if tensor == "keys" else expected.values[0].tobytes()
    shard.write_bytes(shard.read_bytes().replace(begin, bytes(len(begin))))
    with pytest.warns(UserWarning, match="damaged"):
        np.testing.assert_array_equal(extracted(dataset, cache, digests=False).values, expected.values)


def test_only_what_the_cache_lacks_is_decoded(dataset: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch):
    extracted(dataset.select(range(5)), cache)
    real, decoded = images.decode, []
    monkeypatch.setattr(images, "decode", lambda *given, **how: decoded.append(1) or real(*given, **how))
    assert extracted(dataset, cache, digests=False).encoded == len(decoded) == 7


@pytest.mark.parametrize("digests", [True, False])
def test_remarks_are_told_with_a_warm_cache_too(tmp_path: Path, cache: Path, digests: bool):
    deep = np.random.default_rng(0).integers(0, 2**16, (40, 40), dtype=np.uint16)
    for name, kind in (("deep.png", "PNG"), ("deep.tif", "TIFF")):
        Image.fromarray(deep).save(tmp_path / name, format=kind)
    shutil.copy(tmp_path / "deep.png", tmp_path / "called.jpg")
    dataset = sources.read_pictures([tmp_path / name for name in ("deep.png", "called.jpg", "deep.tif")])
    for _ in range(2):
        told = extracted(dataset, cache, digests=digests).observations
        names = [sample.name for sample in dataset]
        assert told == {"sixteen-bit": tuple(sorted(names)), "wrong-suffix": (names[1],)}


def test_every_remark_has_a_code_and_a_sentence():
    named = re.search(r"remarks: What was noteworthy, from (.*)", images.Picture.__doc__)[1]
    kept = set(re.findall(r'"([a-z-]+)"', named))
    assert kept == {*reading.REMARKS, "wrong-suffix"}
    assert {finding.code for finding in files.remarks(dict.fromkeys(kept, ("a.png",)))} == kept


@pytest.mark.parametrize("name", ["0.safetensors", "remembered.json", "recipe.json"])
@pytest.mark.filterwarnings("ignore:1 file")
def test_a_pipe_in_the_cache_hangs_nobody(dataset: Dataset, cache: Path, name: str):
    expected = extracted(dataset, cache)
    folder = shards(cache)[0].parent
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    for digests in (True, False):
        np.testing.assert_array_equal(extracted(dataset, cache, digests=digests).values, expected.values)
    caches.survey(cache, verify=True)


def test_shards_that_others_may_write_are_not_used(dataset: Dataset, cache: Path):
    extracted(dataset.select(range(5)), cache)
    extracted(dataset, cache)
    for shard in shards(cache):
        shard.chmod(0o620)
    with pytest.warns(UserWarning, match=r"2 files of the cache .*others may write it \(mode 620\)") as told:
        assert extracted(dataset, cache).encoded == 12
    assert len(told) == 1
    assert {state.problem for state in caches.survey(cache)} == {"others may write it (mode 620)", ""}


@pytest.mark.parametrize("folder", [".", "features"])
def test_a_folder_that_others_may_write_is_not_used(dataset: Dataset, cache: Path, folder: str):
    extracted(dataset, cache)
    before = sorted(cache.rglob("*"))
    (cache / folder).chmod(0o770)
    with pytest.warns(UserWarning, match="is not used: others may write it"):
        assert extracted(dataset, cache).encoded == 12
    assert sorted(cache.rglob("*")) == before


@pytest.mark.skipif(os.name != "posix", reason="files have no owners here")
def test_a_cache_of_another_user_is_not_used(dataset: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch):
    extracted(dataset, cache)
    monkeypatch.setattr(os, "geteuid", lambda: cache.stat().st_uid + 1)
    with pytest.warns(UserWarning, match="belongs to another user"):
        assert extracted(dataset, cache).encoded == 12


@pytest.mark.usefixtures("_umask_000")
def test_files_of_the_cache_are_for_the_owner_alone(dataset: Dataset, cache: Path):
    extracted(dataset, cache)
    assert {stat.S_IMODE(path.stat().st_mode) for path in cache.rglob("*") if path.is_file()} == {0o600}
    assert extracted(dataset, cache).encoded == 0


def test_shards_without_remarks_are_still_read(cache: Path):
    store = caches.Store(cache, RECIPE, 4)
    store.add(DIGESTS[:2], VALUES[:2])
    store.add(DIGESTS[2:], VALUES[2:], [0, 5, 0])
    assert {key: code for key, (_, code) in taken(cache).items()} == dict(zip(DIGESTS, [0, 0, 0, 5, 0], strict=True))


def test_an_index_finds_the_last_shard_of_a_key_and_none_that_is_forgotten(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(caches, "MERGED_KEYS", 64)
    keys = [hashlib.sha256(bytes([number])).digest() for number in range(200)]
    index = caches._Index()
    for shard in range(20):
        index.add(f"{shard}", keys[10 * shard : 10 * shard + 10])
    assert [index.find(key) for key in keys] == [f"{number // 10}" for number in range(200)]
    index.add("20", keys[:5])
    assert [index.find(key) for key in keys[:10]] == ["20"] * 5 + ["0"] * 5
    assert {name: len(own) for name, own in index.by_shard([*keys, bytes(32)]).items()} == {"0": 5, "20": 5} | {
        f"{number}": 10 for number in range(1, 20)
    }
    assert index.by_shard(keys[:10])["20"] == set(keys[:5])
    index.forget("20")
    assert index.by_shard(keys[:10]) == {"0": set(keys[5:10])}
    assert [index.find(key) for key in keys[:10]] == [None] * 5 + ["0"] * 5
    assert index.find(bytes(32)) is None


def test_blocks_read_the_shards_that_hold_them_and_no_other(
    dataset: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(caches, "SHARD_ROWS", 4)
    before = extracted(dataset, cache)
    opened = Opened()
    read: list[Path] = []
    real = shard_files.read
    monkeypatch.setattr(shard_files, "read", lambda path, *more: read.append(path) or real(path, *more))
    for begin in range(0, len(dataset), 4):
        block = dataset.select(range(begin, begin + 4))
        got = features.extract(block, None, [contracts.encoder()], cache=cache, opened=opened).table
        assert got.encoded == 0
        np.testing.assert_array_equal(got.values, before.values[begin : begin + 4])
    assert len(read) == len(shards(cache)) == len(dataset) // 4
    assert len(opened.stores) == 1


@pytest.mark.parametrize("blind", [False, True])
def test_what_this_process_adds_is_not_looked_for_among_all_rows_again(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, blind: bool
):
    dataset = sources.read(draw_folders(tmp_path / "many", each=30))
    monkeypatch.setattr(caches, "SHARD_ROWS", 2)
    monkeypatch.setattr(reading.limits, "available_cores", lambda: 1)
    looked: list[int] = []
    real = features.Finder

    def finder(digests: Any, rows: Any) -> Any:
        looked.append(len(rows))
        return real(digests, rows)

    monkeypatch.setattr(features, "Finder", finder)
    digests = None if blind else files.fingerprints(dataset)[0]
    table = features.extract(dataset, digests, [contracts.encoder()], cache=cache).table
    assert len(shards(cache)) >= 4
    assert len(looked) <= 2
    np.testing.assert_array_equal(table.values, extracted(dataset, None).values)


def test_the_same_picture_once_more_far_behind_has_the_features_that_were_kept_meanwhile(
    dataset: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(caches, "SHARD_ROWS", 2)
    twice = Dataset(dataset.root, (*dataset, *dataset))
    table = features.extract(twice, None, [contracts.encoder()], cache=cache).table
    assert not table.failures
    np.testing.assert_array_equal(table.values[: len(dataset)], table.values[len(dataset) :])
    assert np.abs(table.values).sum(axis=(1, 2)).min() > 0


def many(count: int) -> tuple[list[str], np.ndarray]:
    digests = [hashlib.sha256(number.to_bytes(4, "big")).hexdigest() for number in range(count)]
    return digests, np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)


def test_light_shards_become_large_ones_and_hold_the_same_rows(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(caches, "LARGE_SHARD", 600)
    monkeypatch.setattr(caches, "MANY_LIGHT", 8)
    digests, values = many(1500)
    store = caches.Store(cache, RECIPE, 4)
    for begin in range(0, 1500, 50):
        store.add(digests[begin : begin + 50], values[begin : begin + 50], [begin] * 50)
    sizes = [state.rows for state in caches.survey(cache, verify=True)]
    assert sum(sizes) == 1500
    assert len(sizes) < 16
    assert max(sizes) > 300
    got = taken(cache, digests)
    assert [got[digest] for digest in digests] == [
        (row.tolist(), 50 * (place // 50)) for place, row in enumerate(values)
    ]


def test_who_knew_the_light_shards_finds_their_rows_in_the_large_one(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(caches, "MANY_LIGHT", 8)
    digests, values = many(80)
    reader, writer = (caches.Store(cache, RECIPE, 4) for _ in range(2))
    for begin in range(0, 70, 10):
        writer.add(digests[begin : begin + 10], values[begin : begin + 10])
    assert reader.look() == 7
    writer.add(digests[70:], values[70:])
    assert len(shards(cache)) == 1
    assert {key.hex() for rows in reader.take(digests[:70]) for key in rows.keys} == set(digests[:70])
    other = caches.Store(cache, RECIPE, 4)
    assert other.look() == 1
    shards(cache)[0].unlink()
    assert list(other.take(digests)) == []


def test_C6_a_damaged_chunk_of_a_large_shard_is_told_only_where_it_is_read(cache: Path):
    digests, values = many(600)
    caches.Store(cache, RECIPE, 4).add(digests, values)
    (shard,) = shards(cache)
    data = bytearray(shard.read_bytes())
    data[data.index(values[-1].tobytes())] ^= 1
    shard.write_bytes(data)
    assert taken(cache, digests[:10]).keys() == set(digests[:10])
    with pytest.warns(UserWarning, match="is damaged and not used"):
        assert taken(cache, digests[590:]) == {}
    assert "digest" in caches.survey(cache, verify=True)[0].problem


def test_a_damaged_light_shard_stays_where_it_is_and_stops_no_merging(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(caches, "MANY_LIGHT", 3)
    digests, values = many(30)
    store = caches.Store(cache, RECIPE, 4)
    store.add(digests[:10], values[:10])
    (first,) = shards(cache)
    first.write_bytes(first.read_bytes()[:-1] + b"!")
    store.add(digests[10:20], values[10:20])
    with pytest.warns(UserWarning, match="is damaged and not used"):
        store.add(digests[20:], values[20:])
    assert first in shards(cache)
    assert len(shards(cache)) == 2
    with pytest.warns(UserWarning, match="is damaged and not used"):
        assert taken(cache, digests).keys() == set(digests[10:])


def test_a_shard_that_alone_is_whole_stays(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(caches, "MANY_LIGHT", 2)
    digests, values = many(20)
    store = caches.Store(cache, RECIPE, 4)
    store.add(digests[:10], values[:10])
    (first,) = shards(cache)
    first.write_bytes(first.read_bytes()[:-1] + b"!")
    with pytest.warns(UserWarning, match="is damaged and not used"):
        store.add(digests[10:], values[10:])
    with pytest.warns(UserWarning, match="is damaged and not used"):
        assert taken(cache, digests).keys() == set(digests[10:])


def test_features_beyond_memory_lie_in_a_file_in_half_precision(
    dataset: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    before = extracted(dataset, cache, views=("original", "mirror")).values
    monkeypatch.setattr(arrays, "RESIDENT", 1000)
    for known in (True, False):
        table = extracted(dataset, cache, views=("original", "mirror"), digests=known)
        assert arrays.is_mapped(table.values)
        assert table.values.dtype == np.float16
        np.testing.assert_array_equal(table.values, before.astype(np.float16))
    assert not list(cache.glob("tmp*"))


def test_features_that_are_kept_beyond_memory_are_no_copy_in_memory(
    dataset: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    half, digests = np.arange(len(dataset) // 2), files.fingerprints(dataset)[0]
    encoders = [contracts.encoder("openvino-f32")]
    before = extracted(dataset.select(half), cache).values
    monkeypatch.setattr(arrays, "RESIDENT", 1000)
    rows, values = features.kept(dataset, digests, encoders, views=("original",), cache=cache)
    assert rows.tolist() == half.tolist()
    assert arrays.is_mapped(values)
    np.testing.assert_array_equal(values, before.astype(np.float16))


def test_features_that_half_precision_cannot_hold_stay_single(
    dataset: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    before = extracted(dataset, cache).values
    monkeypatch.setattr(arrays, "RESIDENT", 1000)
    monkeypatch.setattr(arrays, "HALF", 0.5 * float(before.max()))
    table = extracted(dataset, cache)
    assert table.values.dtype == np.float32
    np.testing.assert_array_equal(table.values, before)


def test_D16_the_disk_holds_a_shard_before_its_name_and_the_large_one_before_the_light_ones_go(
    cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(caches, "MANY_LIGHT", 2)
    digests, values = many(20)
    store = caches.Store(cache, RECIPE, 4)
    store.add(digests[:10], values[:10])
    done: list[str] = []

    def noted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(what: Any, *more: Any, **named: Any) -> Any:
            kind = "folder" if isinstance(what, int) and stat.S_ISDIR(os.fstat(what).st_mode) else "file"
            done.append(f"{name} {kind}")
            return real(what, *more, **named)

        return call

    for name in ("fsync", "replace", "unlink"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    store.add(digests[10:], values[10:])
    written = ["fsync file", "replace file", "fsync folder"]
    assert done == [*written, *written, "unlink file", "unlink file"]


def test_D17_making_room_spares_what_is_in_use_and_loses_no_row_of_a_reader(dataset: Dataset, cache: Path):
    before = extracted(dataset, cache, views=("original", "mirror"))
    old = time.time() - 2 * caches.IN_USE
    for path in shards(cache):
        os.utime(path, (old, old))
    extracted(dataset, cache)  # uses the one of the pictures as they are
    sizes = {path: path.stat().st_size for path in shards(cache)}
    reader = caches.Store(cache, shelves.recipe(contracts.encoder(), "mirror"), contracts.encoder().dim)
    assert reader.look() == 1
    removed = caches.trim(cache, 0)
    assert [state.path.parent.name for state in removed] == [reader.folder.name]
    assert sum(sizes.values()) - removed[0].size == sum(path.stat().st_size for path in shards(cache))
    assert list(reader.take(before.digests)) == []
    again = extracted(dataset, cache, views=("original", "mirror"))
    np.testing.assert_array_equal(again.values, before.values)
    assert caches.trim(cache, 10**9) == []
