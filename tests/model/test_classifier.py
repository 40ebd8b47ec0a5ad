"""A classifier: whatever engine runs it, a row depends on its own picture alone."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import contracts
import numpy as np
import pytest
from conftest import draw_folders
from PIL import Image

from headstart.data import images, manifest, sources
from headstart.encoding import cache as caches
from headstart.encoding import runtime
from headstart.encoding.runtime import OpenVinoEncoder
from headstart.errors import ConfigError, DataError, PictureError
from headstart.evaluation import measure
from headstart.model.classifier import Classifier
from headstart.workflows.train import TrainingResult


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    return sorted(draw_folders(tmp_path / "new", each=12).rglob("*.png"))


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0 not much of a JPEG")
    return path


@pytest.fixture
def classifier(small_result: TrainingResult) -> Classifier:
    return on("openvino-f32", small_result.classifier)


def on(engine: str, classifier: Classifier) -> Classifier:
    """The same classifier on another engine."""
    try:
        return replace(classifier, encoders=(contracts.encoder(engine),), backbone=contracts.lite0())
    except ConfigError as error:
        pytest.skip(str(error))  # no bf16 in this processor


@pytest.mark.slow
@pytest.mark.parametrize("engine", contracts.ENGINES)
def test_classifier_keeps_the_contract(small_result: TrainingResult, pictures: list[Path], bad: Path, engine: str):
    contracts.check_classifier(on(engine, small_result.classifier), pictures, bad)


def test_classifier_is_right_and_names_its_classes(classifier: Classifier, pictures: list[Path]):
    said = classifier.predict_many(pictures)
    assert [one.label for one in said] == [path.parent.name for path in pictures]
    assert {name for name, _ in said[0].top} == {"ash", "birch", "cedar"}


def test_engines_agree_on_the_class(small_result: TrainingResult, pictures: list[Path]):
    labels = [
        [one.label for one in on(engine, small_result.classifier).predict_many(pictures)]
        for engine in ("torch-f32", "openvino-f32")
    ]
    assert labels[0] == labels[1]


@pytest.mark.parametrize("where", [0, 17, 36])
def test_A3_bad_picture_keeps_its_row_and_changes_no_other(
    classifier: Classifier, pictures: list[Path], bad: Path, where: int
):
    without = classifier.predict_many(pictures).probabilities
    said = classifier.predict_many([*pictures[:where], bad, *pictures[where:]])
    assert (said[where].path, said[where].status, said[where].label) == (str(bad), "error", None)
    assert np.delete(said.probabilities, where, axis=0).tobytes() == without.tobytes()


def test_A3_bad_pictures_alone_are_rows_too(classifier: Classifier, bad: Path, tmp_path: Path):
    empty = tmp_path / "empty.png"
    empty.write_bytes(b"")
    said = classifier.predict_many([bad, empty])
    assert [one.status for one in said] == ["error", "error"]
    assert said[1].error == "the file is empty"


def test_predict_raises_for_a_bad_picture(classifier: Classifier, bad: Path):
    with pytest.raises(PictureError, match=r"bad\.jpg: "):
        classifier.predict(bad)


def test_predict_takes_one_picture(classifier: Classifier, pictures: list[Path]):
    with pytest.raises(ConfigError, match="stands for 36 pictures"):
        classifier.predict(pictures[0].parent.parent)


def test_predict_of_a_missing_file_names_it(classifier: Classifier, tmp_path: Path):
    with pytest.raises((DataError, PictureError), match=r"nowhere\.png"):
        classifier.predict(tmp_path / "nowhere.png")


def test_embeddings_and_probabilities_of_bad_pictures_are_nan(classifier: Classifier, pictures: list[Path], bad: Path):
    embedded, probable = classifier.embed([pictures[0], bad]), classifier.predict_proba([pictures[0], bad])
    assert embedded.shape == (2, classifier.backbone.dim)
    assert probable.shape == (2, 3)
    for values in (embedded, probable):
        assert np.isfinite(values[0]).all()
        assert np.isnan(values[1]).all()


def test_cache_changes_no_prediction(classifier: Classifier, pictures: list[Path], tmp_path: Path):
    plain = classifier.predict_many(pictures)
    for _ in range(2):
        cached = classifier.predict_many(pictures, cache=tmp_path / "cache")
        np.testing.assert_array_equal(cached.probabilities, plain.probabilities)
    assert list((tmp_path / "cache").rglob("*.safetensors"))


def test_without_a_cache_nothing_is_written(classifier: Classifier, pictures: list[Path], tmp_path: Path):
    before = sorted(tmp_path.rglob("*"))
    classifier.predict_many(pictures)
    assert sorted(tmp_path.rglob("*")) == before


def test_same_picture_twice_is_two_equal_rows(classifier: Classifier, pictures: list[Path]):
    said = classifier.predict_many([pictures[0], pictures[20], pictures[0]])
    np.testing.assert_array_equal(said.probabilities[0], said.probabilities[2])
    assert said[0] == said[2]


FORMS = {  # what a caller may have of a picture file
    "path": lambda path: path,
    "text": str,
    "bytes": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "image": Image.open,
    "array": lambda path: np.asarray(Image.open(path)),
    "opaque": lambda path: np.asarray(Image.open(path).convert("RGBA")),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_is_the_same_in_every_form(classifier: Classifier, pictures: list[Path], form: str):
    said = classifier.predict_many([FORMS[form](pictures[0])])
    np.testing.assert_array_equal(said.probabilities, classifier.predict_many(pictures[:1]).probabilities)
    assert said.names == ((str(pictures[0]),) if form in ("path", "text") else ("picture 0",))
    assert classifier.predict(FORMS[form](pictures[0])).label == "ash"


def test_forms_may_be_mixed_in_one_list(classifier: Classifier, pictures: list[Path], bad: Path):
    given = [
        pictures[0],
        pictures[13].read_bytes(),
        bad.read_bytes(),
        Image.open(pictures[30]),
        str(pictures[5].parent),
    ]
    said = classifier.predict_many(given)
    assert said.names[:4] == (str(pictures[0]), "picture 1", "picture 2", "picture 3")
    assert said.names[4:] == tuple(map(str, pictures[:12]))
    assert [said[row].label for row in range(4)] == ["ash", "birch", None, "cedar"]
    assert list(said.errors) == [2]


def test_grey_arrays_may_have_a_channel_or_none(classifier: Classifier):
    grey = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    embedded = classifier.embed([grey, grey[..., None], np.repeat(grey[..., None], 3, axis=2)])
    np.testing.assert_array_equal(embedded, embedded[[0, 0, 0]])


def test_an_array_of_four_dimensions_is_many_pictures(classifier: Classifier, pictures: list[Path]):
    arrays = np.stack([np.asarray(Image.open(path)) for path in pictures[:3]])
    np.testing.assert_array_equal(classifier.predict_proba(arrays), classifier.predict_proba(pictures[:3]))


def test_single_pictures_need_no_list(classifier: Classifier, pictures: list[Path]):
    assert len(classifier.predict_many(str(pictures[0].parent))) == 12
    assert classifier.predict_many(pictures[0].read_bytes()).names == ("picture 0",)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (np.zeros((8, 8, 3), np.uint8), "may be one picture or many"),
        ([np.zeros((8, 8, 3))], "uint8"),
        ([np.zeros((8, 8, 2), np.uint8)], r"\(8, 8, 2\)"),
        ([17], "cannot be a int"),
        (17, "cannot be a int"),
        ([], "No picture"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(classifier: Classifier, given: object, told: str):
    with pytest.raises(ConfigError, match=told):
        classifier.predict_many(given)


def test_pictures_in_memory_are_kept_in_a_cache_too(classifier: Classifier, pictures: list[Path], tmp_path: Path):
    image, cache = Image.open(pictures[0]), tmp_path / "cache"
    first = classifier.predict_many([image, pictures[0].read_bytes()], cache=cache)
    again = classifier.predict_many([np.asarray(image), pictures[0]], cache=cache)
    np.testing.assert_array_equal(first.probabilities, again.probabilities)
    assert len(list(cache.rglob("*.safetensors"))) == 1


def test_logits_and_predictions_of_features(classifier: Classifier, pictures: list[Path]):
    embedded, said = classifier.embed(pictures), classifier.predict_many(pictures)
    assert classifier.head_logits(embedded).shape == (36, 3)
    again = classifier.predict_features(embedded)
    np.testing.assert_array_equal(again.probabilities, said.probabilities)
    np.testing.assert_array_equal(again.known, said.known)
    assert again.names[:2] == ("picture 0", "picture 1")
    assert classifier.predict_features(embedded[:1], ["mine"])[0].path == "mine"
    assert classifier.predict_features(embedded[:0]).probabilities.shape == (0, 3)


@pytest.mark.parametrize("shape", [(1280,), (2, 1279), (1, 2, 1280)])
def test_features_of_another_shape_are_refused(classifier: Classifier, shape: tuple[int, ...]):
    with pytest.raises(ConfigError, match=r"\(N, 1280\)"):
        classifier.head_logits(np.zeros(shape))


def test_names_must_be_as_many_as_features(classifier: Classifier):
    with pytest.raises(ConfigError, match="2 rows of features came with 1 names"):
        classifier.predict_features(np.zeros((2, 1280)), ["one"])


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_answers_that_are_not_finite_are_errors(classifier: Classifier, pictures: list[Path], value: float):
    embedded = classifier.embed(pictures[:3])
    fine = classifier.predict_features(embedded)
    embedded[1] = value
    said = classifier.predict_features(embedded)
    assert list(said.errors) == [1]
    assert (said[1].status, said[1].label) == ("error", None)
    assert "not finite" in said[1].error
    np.testing.assert_array_equal(said.probabilities[[0, 2]], fine.probabilities[[0, 2]])


def test_network_that_gives_no_numbers_makes_errors_and_no_cache(
    classifier: Classifier, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    honest = classifier.predict_many(pictures[:3]).probabilities  # compared with PyTorch before the network fails
    monkeypatch.setattr(OpenVinoEncoder, "encode", lambda self, given: (np.full(1280, np.nan, "f4") for _ in given))
    said = classifier.predict_many(pictures[:3], cache=tmp_path / "cache")
    assert {one.error for one in said} == {"the network gave numbers that are not finite"}
    assert np.isnan(classifier.embed(pictures[:1])).all()
    monkeypatch.undo()
    np.testing.assert_array_equal(classifier.predict_many(pictures[:3], cache=tmp_path / "cache").probabilities, honest)


@pytest.mark.parametrize("cached", [False, True])
def test_each_file_is_read_once(
    classifier: Classifier,
    pictures: list[Path],
    bad: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cached: bool,
):
    monkeypatch.setattr(manifest, "SETTLED", 10**18)  # as of files that are always just written
    real, read = images.fetch, Counter()
    monkeypatch.setattr(images, "fetch", lambda path: read.update([path]) or real(path))
    fresh = copy.copy(classifier.encoders[0])
    fresh.trusted = None  # so that the engine is compared with PyTorch first
    given, cache = [*pictures, bad], tmp_path / "cache" if cached else None
    for _ in range(2):
        said = replace(classifier, encoders=(fresh,)).predict_many(given, cache=cache)
        assert read == Counter(given)
        read.clear()
    np.testing.assert_array_equal(said.probabilities[:-1], classifier.predict_many(pictures).probabilities)


@pytest.mark.slow
def test_several_threads_get_the_answers_of_one(small_result: TrainingResult, pictures: list[Path], tmp_path: Path):
    filters, compiled, real = list(warnings.filters), [], OpenVinoEncoder._compile
    encoder = runtime.build(contracts.lite0().networks[0], contracts.encoder().plan)
    shared = replace(small_result.classifier, encoders=(encoder,), backbone=contracts.lite0())
    given = [*pictures[:6], Image.open(pictures[7]), pictures[8].read_bytes()]
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(8) as pool:
        patch.setattr(OpenVinoEncoder, "_compile", lambda self: compiled.append(self) or real(self))
        jobs = [(given[number:], tmp_path / "cache" if number % 2 else None) for number in range(8)] * 2
        said = list(pool.map(lambda job: shared.predict_many(job[0], cache=job[1]).probabilities, jobs))
    assert compiled == [encoder]
    assert warnings.filters == filters
    for (rows, _), probabilities in zip(jobs, said, strict=True):
        np.testing.assert_array_equal(probabilities, shared.predict_many(rows).probabilities)


@pytest.mark.parametrize("cached", [False, True])
def test_what_is_noticed_of_pictures_is_told(
    classifier: Classifier, pictures: list[Path], tmp_path: Path, cached: bool
):
    first, second = Image.open(pictures[0]), Image.open(pictures[1])
    first.save(tmp_path / "moving.gif", save_all=True, append_images=[second])
    for _ in range(2):
        said = classifier.predict_many([pictures[0], tmp_path / "moving.gif"], cache=tmp_path / "c" if cached else None)
        assert [(one.code, one.names) for one in said.findings] == [("many-frames", (str(tmp_path / "moving.gif"),))]


def test_cache_none_keeps_nothing_and_default_is_the_default_folder(classifier: Classifier, pictures: list[Path]):
    dataset, folder = sources.read(pictures[0].parent.parent), caches.default_cache()
    measure.evaluate(classifier, dataset, cache=None)
    classifier.embed(pictures)
    assert not folder.exists()
    measure.evaluate(classifier, dataset)
    assert list(folder.rglob("*.safetensors"))
    assert [caches.resolve(given) for given in (caches.DEFAULT, None, "here")] == [folder, None, Path("here")]
    assert repr(caches.DEFAULT) == "DEFAULT"


@pytest.mark.parametrize("views", [("original",), ("original", "mirror")])
def test_several_networks_and_views_keep_the_contract(pictures: list[Path], bad: Path, views: tuple[str, ...]):
    contracts.check_classifier(contracts.toy_classifier(views), pictures, bad)


@pytest.mark.parametrize("cached", [False, True])
def test_features_are_the_mean_over_the_views(pictures: list[Path], tmp_path: Path, cached: bool):
    mirrored = []
    for number, path in enumerate(pictures):
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / f"{number}.png")
        mirrored.append(tmp_path / f"{number}.png")
    plain, both = contracts.toy_classifier(("original",)), contracts.toy_classifier(("original", "mirror"))
    mean = (plain.embed(pictures) + plain.embed(mirrored)) / np.float32(2)
    for _ in range(2):
        got = both.embed(pictures, cache=tmp_path / "cache" if cached else None)
        np.testing.assert_allclose(got, mean, rtol=1e-4, atol=1e-5)  # a mirrored crop may begin half a pixel beside
        np.testing.assert_array_equal(both.embed([Image.open(path) for path in pictures]), got)
        np.testing.assert_array_equal(
            both.predict_many(pictures).probabilities, both.predict_features(got).probabilities
        )


def test_representation_names_networks_and_views():
    seen = "test_resnet at 64 px + test_efficientnet at 48 px"
    assert repr(contracts.toy_classifier(("original",))) == f"Classifier(2 classes, {seen}, linear head, torch f32)"
    both = repr(contracts.toy_classifier(("original", "mirror")))
    assert both == f"Classifier(2 classes, {seen}, original and mirror, linear head, torch f32)"


def test_representation_is_one_line(classifier: Classifier):
    line = "Classifier(3 classes, tf_efficientnet_lite0 at 64 px, linear head, openvino f32)"
    assert repr(classifier) == line
    for part in (classifier.backbone, classifier.encoders[0], contracts.encoder("torch-f32")):
        assert len(repr(part)) < 100
        assert "64 px" in repr(part)


def test_blocks_get_the_answers_of_all_pictures_at_once(classifier: Classifier, pictures: list[Path], tmp_path: Path):
    whole = classifier.predict_many(pictures)
    asked = (pictures[begin : begin + 5] for begin in range(0, len(pictures), 5))
    blocks = list(classifier.predict_blocks(asked, cache=tmp_path / "cache"))
    assert [len(block) for block in blocks] == [5] * (len(pictures) // 5) + [len(pictures) % 5]
    assert np.concatenate([block.probabilities for block in blocks]).tobytes() == whole.probabilities.tobytes()
    again = classifier.predict_blocks([pictures[3:9]], cache=tmp_path / "cache")
    np.testing.assert_array_equal(next(again).probabilities, whole.probabilities[3:9])
