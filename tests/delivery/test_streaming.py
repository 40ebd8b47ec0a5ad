"""Answers to pictures by the million: block by block, on a pipe or in a file, and the same bytes whatever happens."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import re
import shutil
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bucket import Bucket
from conftest import Ran, draw_folders, write_table

from headstart.cli import places
from headstart.data import listings, tables, uris
from headstart.delivery import forms, reports, streaming, submission, workers
from headstart.delivery.forms import Form, Part, Write
from headstart.delivery.parts import Computed, Parts
from headstart.delivery.reports import Told
from headstart.delivery.streaming import Request
from headstart.errors import HeadstartError, MissingExtraError, StorageError
from headstart.learning.heads import Head
from headstart.model import artifact
from headstart.model.classifier import Classifier
from headstart.predictions import Predictions
from headstart.records import ClassNames, Locator, silence

pytestmark = pytest.mark.slow  # loads a model, and starts processes

Run = Callable[..., Ran]
FORMS = ["labels", "probabilities", "table", "jsonl", "like"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pictures, of which two cannot be used."""
    folder = draw_folders(tmp_path_factory.mktemp("streamed") / "photos", each=6)
    (folder / "ash" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "cedar" / "empty.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def classifier(model_folder: Path) -> Classifier:
    return artifact.load_classifier(model_folder)


@pytest.fixture(scope="module")
def said(classifier: Classifier, photos: Path) -> Predictions:
    """What is said of all pictures at once."""
    return classifier.predict_many(photos)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "BLOCK", 8)
    monkeypatch.setattr(streaming, "SOON", 4)


@pytest.fixture
def sample(photos: Path, tmp_path: Path) -> tables.Table:
    rows = [f"{path.stem},0,0,0" for path in sorted(photos.rglob("*.*"), reverse=True)]
    return tables.read_table(write_table(tmp_path / "sample.csv", "id,cedar,birch,ash", *rows[:-3]))


@pytest.fixture
def ask(model_folder: Path, classifier: Classifier, photos: Path, sample: tables.Table) -> Callable[..., Request]:
    def call(form: str = "table", **changes: Any) -> Request:
        pictures = listings.of([photos])
        written: Form
        if form == "like":
            options = {"spreadsheet_safe": False, "fill_missing": False}
            written = forms.Filled(sample, classifier.classes, list(pictures.names()), **options)
        else:
            written = forms.Typed(classifier.classes) if form == "parquet" else forms.Lines(form, classifier.classes)
        return replace(Request(model_folder, None, classifier, pictures, written), **changes)

    return call


def expected(said: Predictions, form: str, sample: tables.Table) -> bytes:
    text = submission.render(said, "labels" if form == "like" else form, sample if form == "like" else None)
    return text.encode()


def to_file(request: Request, out: Path) -> list[str]:
    """Write a file, and return what was said."""
    told: list[str] = []
    streaming.to_file(request, out, silence, told.append)
    return told


class Stopped(Exception):
    """Something that ends a prediction in the midst of it."""


def stopped(request: Request, out: Path, after: int) -> None:
    """Write a file, and stop once so many pictures are done."""

    def stop(stage: str, done: int, total: int) -> None:
        if done > after:
            raise Stopped

    with pytest.raises(Stopped):
        streaming.to_file(request, out, stop, lambda _: None)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(".parts"))


# ── the same bytes ──


@pytest.mark.parametrize("form", FORMS)
def test_blocks_come_to_the_bytes_of_all_at_once(
    ask: Callable[..., Request], said: Predictions, sample: tables.Table, tmp_path: Path, form: str
):
    to_file(ask(form), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == expected(said, form, sample)
    assert leftovers(tmp_path) == []
    printed: list[bytes] = []
    streaming.to_stream(ask(form), printed.append, silence)
    assert b"".join(printed) == expected(said, form, sample)


def test_what_there_is_to_tell_is_that_of_all_at_once(ask: Callable[..., Request], said: Predictions, tmp_path: Path):
    report = streaming.to_file(ask(), tmp_path / "out", silence, lambda _: None)
    assert report.pictures == len(said) == 20
    assert report.failed == 2
    assert report.failures == [(said.names[row], reason) for row, reason in said.errors.items()]
    line = submission.line_of_unknown(report.strange, said.names.__getitem__)
    assert line == submission.unknown_line(said)


def test_of_many_remarks_the_first_are_named_and_all_are_counted():
    report = reports.Report(30)
    for begin in (10, 0, 20):
        names = [f"{number:02d}.png" for number in range(begin, begin + 10)]
        report.add(reports.Told(10, 10, [(name, "broken") for name in names], [1], {"many-frames": (10, names[:3])}))
    (finding,) = report.findings
    assert finding.message == "30 pictures have several frames; the first is used"
    assert (finding.names, finding.unnamed) == (("00.png", "01.png", "02.png"), 27)
    assert (report.failed, len(report.failures)) == (30, reports.FAILURES)
    assert np.flatnonzero(report.strange).tolist() == [1, 11, 21]


def test_a_sample_is_filled_from_more_parts_than_files_may_be_open(tmp_path: Path):
    resource = pytest.importorskip("resource", reason="the system sets no such limit")
    names = [f"{row}.png" for row in range(64 * forms.BLOCK)]
    sample = tables.read_table(write_table(tmp_path / "sample.csv", "id,b,a", *(f"{name},0,0" for name in names[::-1])))
    form = forms.Filled(sample, ClassNames(("a", "b")), names, spreadsheet_safe=False, fill_missing=False)
    shares = np.arange(2.0 * len(names)).reshape(64, -1)
    for number, content in enumerate(shares):
        (tmp_path / f"{number}.part").write_bytes(content.astype("<f8").tobytes())
    written: list[bytes] = []
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 32, limits[1]))
    try:
        form.finish([tmp_path / f"{number}.part" for number in range(64)], written.append)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    lines = b"".join(written).decode().split()
    assert (lines[1], lines[-1]) == ("511.png,1023.0,1022.0", "0.png,1.0,0.0")


# ── as they are computed ──


def test_a_pipe_gets_rows_while_others_are_not_yet_looked_at(ask: Callable[..., Request]):
    done, rows = [0], []

    def hear(stage: str, now: int, total: int) -> None:
        done.append(now)

    streaming.to_stream(ask("jsonl"), lambda data: rows.append((done[-1], data.count(b"\n"))), hear)
    assert rows == [(4, 4), (8, 4), (12, 4), (16, 4), (20, 4)]
    assert done == sorted(done)


@pytest.mark.parametrize("form", ["table", "parquet"])
def test_no_more_than_a_block_is_in_memory(
    ask: Callable[..., Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
):
    alive: list[weakref.ref[Any]] = []
    most = [0]
    real = Classifier.predict_features

    def watched(self: Classifier, *arguments: Any, **named: Any) -> Predictions:
        answers = real(self, *arguments, **named)
        alive.append(weakref.ref(answers.probabilities))
        most.append(sum(len(one()) for one in alive if one() is not None))
        return answers

    monkeypatch.setattr(Classifier, "predict_features", watched)
    to_file(ask(form), tmp_path / "out")
    assert len(alive) == 3
    assert max(most) <= 2 * forms.BLOCK  # the one that is written, and the one that comes


# ── stopped, and asked again ──


def test_what_could_not_be_read_is_asked_for_again_and_what_is_no_picture_is_not(tmp_path: Path):
    with pytest.raises(Stopped), Parts(tmp_path / "out", {}) as parts:  # noqa: PT012
        for number, (failed, unread) in enumerate([(0, 0), (1, 0), (2, 1)]):
            parts.put(Computed(number, b"rows", Told(8, failed, [], [], {}, unread)))
        raise Stopped
    for again, kept in ((False, [0, 1, 2]), (True, [0, 1])):
        with pytest.raises(Stopped), Parts(tmp_path / "out", {}, again) as parts:  # noqa: PT012
            assert sorted(parts.sizes) == kept
            raise Stopped


def test_pictures_that_could_not_be_read_are_counted_apart(
    classifier: Classifier, photos: Path, bucket: Bucket, tmp_path: Path
):
    bucket.objects, bucket.broken = {"torn.png": b"x" * 4000}, {"torn.png"}
    pictures = [photos / "ash" / "broken.jpg", photos / "cedar" / "empty.png", tmp_path / "gone.png"]
    told = reports.told(classifier.predict_many([*pictures, "s3://bucket/torn.png"]))
    assert (told.failed, told.unread) == (4, 2)


@pytest.mark.parametrize("form", [*FORMS, "parquet"])
def test_stopped_and_asked_again_it_goes_on_and_gives_the_same_bytes(
    ask: Callable[..., Request], tmp_path: Path, form: str
):
    to_file(ask(form), tmp_path / "whole")
    stopped(ask(form), tmp_path / "out", after=16)
    assert not (tmp_path / "out").exists()
    asked: list[int] = []
    predict = Classifier.predict_blocks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Classifier,
            "predict_blocks",
            lambda self, blocks, **more: predict(self, (asked.append(len(one)) or one for one in blocks), **more),
        )
        assert to_file(ask(form), tmp_path / "out") == ["Going on: 16 of 20 pictures have their rows already."]
    assert asked == [4]
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()
    assert leftovers(tmp_path) == []


def test_parts_of_another_model_are_not_mixed_in(
    ask: Callable[..., Request], classifier: Classifier, said: Predictions, tmp_path: Path, sample: tables.Table
):
    artifact.save(replace(classifier, classes=ClassNames(("oak", "pine", "yew"))), tmp_path / "other")
    other = artifact.load_classifier(tmp_path / "other")
    second = ask(classifier=other, model=tmp_path / "other")
    stopped(ask(), tmp_path / "out", after=8)
    stopped(second, tmp_path / "out", after=16)
    assert len(leftovers(tmp_path)) == 2
    (told, *more) = to_file(second, tmp_path / "out")
    assert "holds parts of another command (the model differs): they are left alone" in told
    assert more == ["Going on: 16 of 20 pictures have their rows already."]
    answers = (tmp_path / "out").read_bytes()
    assert answers != expected(said, "table", sample)
    assert answers == submission.render(other.predict_many(ask().pictures.dataset()), "table").encode()
    assert leftovers(tmp_path) == []


def test_other_pictures_and_another_form_begin_anew(ask: Callable[..., Request], photos: Path, tmp_path: Path):
    stopped(ask(), tmp_path / "out", after=8)
    (told,) = to_file(ask("labels", pictures=listings.of([photos / "ash"])), tmp_path / "out")
    assert "(the list of pictures; the form of the answers differ)" in told


@pytest.mark.parametrize("damage", ["part", "note", "note-gone"])
def test_a_damaged_part_is_computed_again(
    ask: Callable[..., Request], said: Predictions, tmp_path: Path, sample: tables.Table, damage: str
):
    stopped(ask(), tmp_path / "out", after=16)
    (folder,) = tmp_path.glob(".out.*.parts")
    victim = folder / ("000000.part" if damage == "part" else "000000.json")
    victim.unlink() if damage == "note-gone" else victim.write_bytes(victim.read_bytes()[:-1])
    assert to_file(ask(), tmp_path / "out") == ["Going on: 8 of 20 pictures have their rows already."]
    assert (tmp_path / "out").read_bytes() == expected(said, "table", sample)


@pytest.mark.skipif(os.name != "posix", reason="files have no owners")
def test_parts_that_somebody_else_could_have_written_are_refused(ask: Callable[..., Request], tmp_path: Path):
    stopped(ask(), tmp_path / "out", after=8)
    (folder,) = tmp_path.glob(".out.*.parts")
    folder.chmod(0o777)
    with pytest.raises(StorageError, match=r"is not used: others may write it"):
        to_file(ask(), tmp_path / "out")


def test_where_parts_could_not_be_used_again_that_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("headstart.storage.distrust", lambda _: "others may write it (mode 777)")
    with (
        pytest.warns(UserWarning, match=r"Stopped, this cannot go on: .* others may write it"),
        Parts(tmp_path / "a", {}),
    ):
        pass


def test_parts_of_which_all_are_asked_for_again_outlast_an_error(tmp_path: Path):
    with pytest.raises(Stopped), Parts(tmp_path / "out", {}) as parts:  # noqa: PT012
        parts.put(Computed(0, b"rows", Told(8, 1, [], [], {}, 1)))
        raise Stopped
    with pytest.raises(Stopped), Parts(tmp_path / "out", {}, again=True):
        raise Stopped
    with pytest.raises(Stopped), Parts(tmp_path / "out", {}) as parts:  # noqa: PT012
        assert list(parts.sizes) == [0]
        raise Stopped


def test_a_file_grows_among_its_parts_so_that_what_a_kill_leaves_of_it_goes_with_them(
    ask: Callable[..., Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen: list[str] = []
    finish = forms.Lines.finish

    def watched(self: forms.Lines, parts: Sequence[Part], write: Write) -> None:
        seen.extend(path.parent.name for path in tmp_path.rglob(".out.*.tmp"))
        finish(self, parts, write)

    monkeypatch.setattr(forms.Lines, "finish", watched)
    stopped(ask(), tmp_path / "out", after=8)
    (folder,) = tmp_path.glob(".out.*.parts")
    left = folder / ".out.1.2.3.tmp"
    left.write_bytes(b"rows")
    os.utime(left, (0, 0))
    to_file(ask(), tmp_path / "out")
    assert seen == [folder.name]
    assert leftovers(tmp_path) == []


def test_of_a_file_that_a_store_refuses_the_parts_are_kept(ask: Callable[..., Request], bucket: Bucket, tmp_path: Path):
    file, out = tmp_path / "growing", uris.place("s3://bucket/answers.csv")
    assert isinstance(out, Locator)
    bucket.denied = {"answers.csv"}
    with pytest.raises(StorageError, match="the store refuses it to these credentials"):
        streaming.to_file(ask(), file, silence, lambda _: None, partial(places.send, out=out))
    assert (len(leftovers(tmp_path)), file.exists()) == (1, False)
    bucket.denied = set()
    told: list[str] = []
    streaming.to_file(ask(), file, silence, told.append, partial(places.send, out=out))
    assert told == ["Going on: 20 of 20 pictures have their rows already."]
    assert (leftovers(tmp_path), file.exists()) == ([], False)
    to_file(ask(), tmp_path / "here")
    assert bucket.objects["answers.csv"] == (tmp_path / "here").read_bytes()


def test_an_error_before_the_first_part_leaves_nothing_behind(ask: Callable[..., Request], tmp_path: Path):
    stopped(ask(), tmp_path / "out", after=2)
    assert leftovers(tmp_path) == []


# ── several processes ──


@pytest.fixture
def _spawned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Processes begin with the path of this one, and not with the program of the test runner."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", None, raising=False)
    yield
    assert multiprocessing.active_children() == []


@pytest.mark.usefixtures("_spawned")
def test_two_processes_change_no_byte(
    ask: Callable[..., Request], said: Predictions, tmp_path: Path, sample: tables.Table
):
    heard: list[tuple[int, int]] = []

    def hear(stage: str, done: int, total: int) -> None:
        heard.append((done, total))

    report = streaming.to_file(ask(processes=2), tmp_path / "out", hear, lambda _: None)
    assert (tmp_path / "out").read_bytes() == expected(said, "table", sample)
    assert (report.failed, heard[-1]) == (2, (20, 20))
    printed: list[bytes] = []
    streaming.to_stream(ask("jsonl", processes=2), printed.append, silence)
    assert b"".join(printed) == expected(said, "jsonl", sample)


@pytest.mark.usefixtures("_spawned")
def test_D14_a_process_that_is_killed_is_told_and_what_is_there_is_kept(
    ask: Callable[..., Request], said: Predictions, tmp_path: Path, sample: tables.Table
):
    def kill(stage: str, done: int, total: int) -> None:
        if list(tmp_path.glob(".out.*.parts/[0-9]*.json")):  # a part is kept, and not all are
            for process in multiprocessing.active_children():
                process.kill()

    with pytest.raises(HeadstartError, match=r"ended by signal 9") as caught:
        streaming.to_file(ask(processes=2), tmp_path / "out", kill, lambda _: None)
    assert "fewer --workers" in caught.value.hint
    (told,) = to_file(ask(), tmp_path / "out")
    assert told.startswith("Going on: ")
    assert (tmp_path / "out").read_bytes() == expected(said, "table", sample)


@pytest.mark.usefixtures("_spawned")
def test_a_process_that_cannot_go_on_says_why(ask: Callable[..., Request], model_folder: Path, tmp_path: Path):
    shutil.copytree(model_folder, tmp_path / "model")
    (tmp_path / "model" / "head.safetensors").write_bytes(b"")
    job = workers.Job(tmp_path / "model", None, None, ask().form.encode, "")
    tasks = iter([(0, ask().pictures.dataset(0, 4))])
    with pytest.raises(HeadstartError, match=r"head\.safetensors"):
        list(workers.in_parallel(1, job, tasks, hear=silence, in_order=True))


@pytest.mark.usefixtures("_spawned")
def test_a_model_that_was_replaced_in_the_meantime_answers_nothing(
    ask: Callable[..., Request], classifier: Classifier, tmp_path: Path
):
    weight = classifier.head.weight + np.float32(0.01)
    artifact.save(replace(classifier, head=Head.of_linear(weight, classifier.head.bias)), tmp_path / "model")
    with pytest.raises(HeadstartError, match="is another model than the one that was loaded"):
        to_file(ask(model=tmp_path / "model", processes=2), tmp_path / "out")
    assert leftovers(tmp_path) == []


def test_a_model_has_one_digest_wherever_it_is_loaded(classifier: Classifier, model_folder: Path, tmp_path: Path):
    digest = artifact.load_classifier(model_folder).digest
    assert re.fullmatch("[0-9a-f]{64}", digest)
    artifact.save(classifier, tmp_path / "same")
    assert artifact.load_classifier(tmp_path / "same").digest == digest
    turned = Head.of_linear(classifier.head.weight[::-1], classifier.head.bias)
    colder = replace(classifier.rules, calibration=replace(classifier.rules.calibration, temperature=0.5))
    for number, other in enumerate((replace(classifier, head=turned), replace(classifier, rules=colder))):
        artifact.save(other, tmp_path / str(number))
        assert artifact.load_classifier(tmp_path / str(number)).digest != digest


# ── Parquet ──


def test_parquet_has_every_column_of_a_table_and_all_probabilities_typed(
    ask: Callable[..., Request], said: Predictions, tmp_path: Path
):
    import pyarrow.parquet

    to_file(ask("parquet"), tmp_path / "out.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert {name: str(kind) for name, kind in zip(table.column_names, table.schema.types, strict=True)} == {
        "image_id": "string",
        "label": "string",
        "probability": "double",
        "known": "bool",
        "p_value": "double",
        "set": "list<element: string>",
        "error": "string",
        **{f"probability:{name}": "double" for name in said.classes},
    }
    for row, (got, one) in enumerate(zip(table.to_pylist(), said, strict=True)):
        assert (got["image_id"], got["label"], got["error"]) == (one.path, one.label, one.error)
        assert (got["probability"], got["known"], got["p_value"]) == (one.probability, one.known, one.p_value)
        assert got["set"] == (None if one.error else list(one.set))
        shares = [got[f"probability:{name}"] for name in said.classes]
        assert shares == ([None] * 3 if one.error else said.probabilities[row].tolist())


def test_parquet_is_written_in_groups(ask: Callable[..., Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import pyarrow.parquet

    monkeypatch.setattr("headstart.delivery.parquet.GROUP_BYTES", 2 * 8 * 3 * forms.BLOCK)
    to_file(ask("parquet"), tmp_path / "out.parquet")
    told = pyarrow.parquet.ParquetFile(tmp_path / "out.parquet").metadata
    assert [told.row_group(group).num_rows for group in range(told.num_row_groups)] == [16, 4]


def test_B10_a_name_that_is_no_utf_8_is_escaped_in_parquet(said: Predictions):
    import pyarrow.parquet

    from headstart.delivery import parquet

    names = (os.fsdecode(b"caf\xe9.png"), *said.names[1:])
    table = pyarrow.parquet.read_table(io.BytesIO(parquet.part(replace(said, names=names))))
    assert table["image_id"][0].as_py() == r"caf\xe9.png"


def test_without_pyarrow_the_line_that_installs_it_is_told(
    ask: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError) as caught:
        ask("parquet")
    assert caught.value.hint == "pip install 'headstart[parquet]'"


# ── as it is typed ──


def test_a_file_that_ends_in_parquet_is_parquet(run: Run, model_folder: Path, photos: Path, tmp_path: Path):
    ran = run("predict", model_folder, photos / "ash", "--out", tmp_path / "a.parquet")
    assert (ran.code, "Wrote 7 rows" in ran.err) == (1, True)
    assert (tmp_path / "a.parquet").read_bytes()[:4] == b"PAR1"


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--format", "parquet"), "name the file with --out FILE"),
        (("--like", "sample.csv", "--out", "a.parquet"), "it does not go with --out a.parquet"),
        (("--workers", "0"), "--workers"),
    ],
)
def test_what_does_not_go_together_is_refused(
    run: Run,
    model_folder: Path,
    photos: Path,
    sample: tables.Table,
    monkeypatch: pytest.MonkeyPatch,
    flags: Any,
    text: str,
):
    monkeypatch.chdir(sample.path.parent)
    ran = run("predict", model_folder, photos, *flags)
    assert (ran.code, ran.out, text in ran.err) == (2, "", True)


def test_job_files_can_be_read_by_a_person(ask: Callable[..., Request], tmp_path: Path):
    stopped(ask(), tmp_path / "out", after=8)
    (folder,) = tmp_path.glob(".out.*.parts")
    job = json.loads((folder / "job.json").read_text())
    assert list(job)[:2] == ["the model", "the list of pictures"]
