"""Features of several networks: those of each alone, side by side, to the bit; read once, and never computed twice."""

from __future__ import annotations

import copy
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import contracts
import numpy as np
import pytest
from conftest import draw_folders, picture
from PIL import Image

from headstart.data import images, manifest, sources
from headstart.encoding import cache as caches
from headstart.encoding import features, reading, runtime
from headstart.encoding.eager import TorchEncoder
from headstart.encoding.encoder import Encoder
from headstart.inspection import files
from headstart.records import Dataset, FeatureTable, Floats, Pixels, Preprocess

BOTH = ("original", "mirror")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return sources.read(draw_folders(tmp_path / "photos", each=4))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many pictures each network was given, comparisons aside."""
    for encoder in contracts.toy_encoders():
        runtime.verified(encoder, contracts.noise(2, encoder.preprocess.size))
    count, real = Counter[str](), TorchEncoder.encode

    def encode(self: TorchEncoder, pictures: Iterable[Pixels]) -> Iterator[Floats]:
        return real(self, (count.update([self.network.name]) or one for one in pictures))

    monkeypatch.setattr(TorchEncoder, "encode", encode)
    return count


def extracted(
    dataset: Dataset,
    cache: Path | None = None,
    encoders: Sequence[Encoder] | None = None,
    views: tuple[str, ...] = ("original",),
    *,
    digests: bool = True,
) -> FeatureTable:
    known = files.fingerprints(dataset)[0] if digests else None
    return features.extract(dataset, known, encoders or contracts.toy_encoders(), views=views, cache=cache).table


@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("views", [("original",), BOTH])
def test_each_network_gives_what_it_gives_alone(dataset: Dataset, views: tuple[str, ...], digests: bool):
    alone = [extracted(dataset, encoders=[encoder], views=views).values for encoder in contracts.toy_encoders()]
    together = extracted(dataset, views=views, digests=digests).values
    assert together.shape == (12, len(views), contracts.toys().dim)
    np.testing.assert_array_equal(together, np.concatenate(alone, axis=2))


@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("first", [0, 1])
def test_what_one_network_left_serves_the_combination(
    dataset: Dataset, cache: Path, seen: Counter[str], first: int, digests: bool
):
    expected, names = extracted(dataset), [one.name for one in contracts.toys().networks]
    extracted(dataset, cache, [contracts.toy_encoders()[first]])
    seen.clear()
    together = extracted(dataset, cache, digests=digests)
    assert seen == {names[1 - first]: 12}
    np.testing.assert_array_equal(together.values, expected.values)
    assert together.digests == expected.digests


@pytest.mark.parametrize("digests", [True, False])
def test_what_the_combination_left_serves_each_network(
    dataset: Dataset, cache: Path, seen: Counter[str], digests: bool
):
    together = extracted(dataset, cache).values
    seen.clear()
    backwards = contracts.toy_encoders()[::-1]
    alone = [extracted(dataset, cache, [encoder], digests=digests).values for encoder in backwards]
    np.testing.assert_array_equal(np.concatenate(alone[::-1], axis=2), together)
    np.testing.assert_array_equal(
        extracted(dataset, cache, backwards, digests=digests).values, np.concatenate(alone, axis=2)
    )
    assert not seen


@pytest.mark.parametrize("digests", [True, False])
def test_only_the_missing_network_view_and_picture_is_computed(
    dataset: Dataset, cache: Path, seen: Counter[str], digests: bool
):
    expected, (one, other) = extracted(dataset, views=BOTH).values, contracts.toy_encoders()
    extracted(dataset.select(range(7)), cache, [one])
    extracted(dataset.select(range(3, 12)), cache, [other], ("mirror",))
    seen.clear()
    np.testing.assert_array_equal(extracted(dataset, cache, views=BOTH, digests=digests).values, expected)
    assert seen == {one.network.name: 24 - 7, other.network.name: 24 - 9}
    assert {state.rows for state in caches.survey(cache)} <= {3, 5, 7, 9, 12}  # no row a second time


@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("kept", [0, 5])
def test_each_file_is_read_once_for_all_networks(
    dataset: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch, digests: bool, kept: int
):
    encoders = [copy.copy(encoder) for encoder in contracts.toy_encoders()]
    for encoder in encoders:
        encoder.trusted = None  # so that engines are compared first
    if kept:
        extracted(dataset.select(range(kept)), cache, encoders[:1])
    known = files.fingerprints(dataset)[0] if digests else None
    real, read = images.fetch, Counter[Path]()
    monkeypatch.setattr(images, "fetch", lambda path: read.update([path]) or real(path))
    features.extract(dataset, known, encoders, cache=cache)
    assert read == Counter(sample.path for sample in dataset)


def load(path: Path, sizes: Sequence[int]) -> reading.Loaded:
    """Read a picture for networks that want these sizes."""
    wanted = [Preprocess(size, 1.0, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)) for size in sizes]
    return reading.load(path, wanted, lambda _: tuple((number, 0) for number in range(len(sizes))))


@pytest.mark.parametrize(
    ("shape", "sizes", "times"),
    [
        ((640, 480), (56, 96), 2),  # a quarter has 120 pixels, enough for one of them; a half for the other
        ((640, 480), (64, 120, 60), 2),
        ((641, 481), (64, 96), 1),  # odd sides are decoded whole
        ((640, 480), (300, 260), 1),
    ],
)
def test_a_jpeg_is_decoded_once_for_each_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], sizes: tuple[int, ...], times: int
):
    noise = np.random.default_rng(0).integers(0, 256, (*shape[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    alone = [load(tmp_path / "a.jpg", [size]).pixels[0] for size in sizes]
    real, decoded = images.decode, []
    monkeypatch.setattr(images, "decode", lambda *given, **how: decoded.append(1) or real(*given, **how))
    together = load(tmp_path / "a.jpg", sizes).pixels
    assert len(decoded) == times
    for number, pixels in enumerate(alone):
        np.testing.assert_array_equal(together[number], pixels)


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.bmp", "a.webp", "a.tif"])
def test_other_formats_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    picture((90, 110, 90), 0).save(tmp_path / name)
    alone = [load(tmp_path / name, [size]).pixels[0] for size in (16, 64)]
    real, decoded = images.decode, []
    monkeypatch.setattr(images, "decode", lambda *given, **how: decoded.append(1) or real(*given, **how))
    together = load(tmp_path / name, (16, 64)).pixels
    assert len(decoded) == 1
    assert all(np.array_equal(together[number], pixels) for number, pixels in enumerate(alone))


def test_properties_are_those_of_the_first_network(dataset: Dataset, cache: Path):
    def properties(encoders: Sequence[Encoder], place: Path | None) -> np.ndarray:
        digests, _ = files.fingerprints(dataset)
        table = features.extract(dataset, digests, encoders, with_properties=True, cache=place).table
        return np.hstack([table.properties.figures, table.properties.thumbnails.reshape(12, -1)])

    one, other = contracts.toy_encoders()
    expected = properties([one], None)
    extracted(dataset, cache, [one])  # so that the second has something to do, and the first has not
    np.testing.assert_array_equal(properties([one, other], cache), expected)
    np.testing.assert_array_equal(properties([one, other], None), expected)


def test_a_picture_that_cannot_be_used_has_no_features_of_any_network(dataset: Dataset, cache: Path):
    extracted(dataset, cache, contracts.toy_encoders()[:1])
    digests, _ = files.fingerprints(dataset)
    dataset[3].path.unlink()
    table = features.extract(dataset, digests, contracts.toy_encoders(), cache=cache).table
    assert list(table.failures) == [3]
    assert not table.values[3].any()
    assert table.values[[*range(3), *range(4, 12)]].any(axis=2).all()


def test_a_file_that_changed_is_computed_anew_for_every_network(dataset: Dataset, cache: Path):
    extracted(dataset, cache, contracts.toy_encoders()[:1])
    digests, _ = files.fingerprints(dataset)
    picture((1, 2, 3), 99).save(dataset[4].path)
    table = features.extract(dataset, digests, contracts.toy_encoders(), cache=cache).table
    assert table.changed == (dataset[4].name,)
    np.testing.assert_array_equal(table.values, extracted(dataset).values)


def test_what_was_computed_before_an_interruption_is_kept(
    dataset: Dataset, cache: Path, seen: Counter[str], monkeypatch: pytest.MonkeyPatch
):
    expected, digests = extracted(dataset).values, files.fingerprints(dataset)[0]

    def interrupt(_stage: str, done: int, _total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features.extract(dataset, digests, contracts.toy_encoders(), cache=cache, progress=interrupt)
    assert {state.rows for state in caches.survey(cache)} == {5}
    seen.clear()
    np.testing.assert_array_equal(extracted(dataset, cache).values, expected)
    assert set(seen.values()) == {7}


def spoilt(name: str) -> Callable[..., Iterator[Floats]]:
    """`OpenVinoEncoder.encode` with a bug for one network."""
    real = runtime.OpenVinoEncoder.encode

    def encode(self: runtime.OpenVinoEncoder, pictures: Iterable[Pixels]) -> Iterator[Floats]:
        return (-one if self.network.name == name else one for one in real(self, pictures))

    return encode


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [0, 1])
def test_all_networks_run_on_the_engine_that_all_can_trust(
    dataset: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch, wrong: int
):
    name = contracts.toys().networks[wrong].name
    monkeypatch.setattr(runtime.OpenVinoEncoder, "encode", spoilt(name))
    plan = runtime.EncoderPlan("toys", "", "openvino", "cpu", "f32")
    encoders, digests = runtime.build_all(contracts.toys(), plan), files.fingerprints(dataset)[0]
    with pytest.warns(UserWarning, match="torch in f32 is used instead") as told:
        done = features.extract(dataset, digests, encoders, cache=cache)
    assert len(told) == 1
    assert [one.plan.engine for one in done.encoders] == ["torch", "torch"]
    np.testing.assert_array_equal(done.table.values, extracted(dataset).values)
    again = features.extract(dataset, digests, encoders, cache=cache)
    assert again.encoders == done.encoders  # not built and compared once more
    assert again.table.encoded == 0


def test_the_agreement_is_that_of_the_worst(dataset: Dataset, cache: Path):
    digests, _ = files.fingerprints(dataset)
    first, second = (runtime.Agreement(1e-3, 0.9, 8), runtime.Agreement(1e-4, 0.5, 3))
    assert runtime.worst([first, None, second]) == runtime.Agreement(1e-3, 0.5, 3)
    assert runtime.worst([None, None]) is None
    done = features.extract(dataset, digests, contracts.toy_encoders(), cache=cache)
    assert done.agreement == features.extract(dataset, digests, contracts.toy_encoders(), cache=cache).agreement


def test_a_damaged_shard_of_one_network_costs_only_its_own_rows(dataset: Dataset, cache: Path, seen: Counter[str]):
    expected = extracted(dataset, cache).values
    shard = next(iter(caches.survey(cache))).path
    shard.write_bytes(shard.read_bytes()[:-1])
    seen.clear()
    with pytest.warns(UserWarning, match=re.escape(str(shard))):
        again = extracted(dataset, cache)
    assert list(seen.values()) == [12]
    np.testing.assert_array_equal(again.values, expected)


def test_the_mean_of_views_is_their_sum_in_order_divided_by_their_number():
    values = np.random.default_rng(0).normal(size=(5, 2, 7)).astype(np.float32)
    np.testing.assert_array_equal(features.mean(values[:, :1]), values[:, :1])
    mean = features.mean(values)
    assert (mean.dtype, mean.shape) == (np.float32, (5, 1, 7))
    np.testing.assert_array_equal(mean[:, 0], (values[:, 0] + values[:, 1]) / np.float32(2))


@pytest.mark.skipif(os.name != "posix", reason="elsewhere nothing is known unread")
def test_nothing_stays_of_what_a_wrong_note_told(dataset: Dataset, cache: Path):
    """Of both pictures one network's part is kept; the note takes one of them for the other."""
    known = files.fingerprints(dataset)[0]
    extracted(dataset.select([0, 1]), cache, contracts.toy_encoders()[:1])
    place = manifest.version(dataset[1].path)
    assert place is not None
    manifest.note({place: known[0]}, cache)
    found = extracted(dataset.select([1]), cache, digests=False)
    np.testing.assert_array_equal(found.values, extracted(dataset.select([1]), None).values)
    assert found.digests[0] == known[1]
