"""Pictures inside of tars and tables are read where they lie; whatever is strange in there is told and left alone."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bucket import Bucket
from conftest import HUES, Ran, picture, write_table

from headstart.data import arrows, images, listings, manifest, shards, sources, tars
from headstart.errors import ConfigError, DataError, PictureError
from headstart.inspection import files
from headstart.records import Dataset, Locator


def png(number: int, label: str = "ash") -> bytes:
    file = io.BytesIO()
    picture(HUES[label], number).save(file, "PNG")
    return file.getvalue()


Entry = tuple[str, bytes] | tarfile.TarInfo


def write_tar(path: Path, *entries: Entry, form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for entry in entries:
            info = entry if isinstance(entry, tarfile.TarInfo) else tarfile.TarInfo(entry[0])
            data = b"" if isinstance(entry, tarfile.TarInfo) else entry[1]
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def webdataset(folder: Path, several: int = 2) -> list[Path]:
    """Write tars of six pictures each, with their classes in one way or the other."""
    folder.mkdir(exist_ok=True)
    made = []
    for shard in range(several):
        entries: list[Entry] = []
        for row in range(6):
            name, label = f"{shard}{row:03d}", ("ash", "birch")[row % 2]
            told = (
                (f"{name}.cls", label.encode()) if row < 3 else (f"{name}.json", json.dumps({"label": label}).encode())
            )
            entries += [(f"{name}.jpg", png(10 * shard + row, label)), told]
        made.append(write_tar(folder / f"shard-{shard:03d}.tar", *entries))
    return made


def contents(dataset: Dataset) -> list[tuple[str | None, bytes]]:
    return [(sample.label, images.read_bytes(sample.path)) for sample in dataset]


EXPECTED = [
    (("ash", "birch")[row % 2], png(10 * shard + row, ("ash", "birch")[row % 2]))
    for shard in (0, 1)
    for row in range(6)
]


@pytest.mark.parametrize("how", ["folder", "pattern", "glob"])
def test_pictures_of_tars_have_the_class_beside_them(tmp_path: Path, how: str):
    webdataset(tmp_path / "tars")
    given = {"folder": "tars", "pattern": "tars/shard-{000..001}.tar", "glob": "tars/shard-*.tar"}[how]
    dataset = sources.dataset_of(tmp_path / given)
    assert contents(dataset) == EXPECTED
    assert dataset[0].name == "shard-000.tar/0000.jpg"
    assert dataset.findings == ()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["shard-000.tar", "shard-001.tar", "tars"]


def test_classes_of_a_tar_may_be_numbers_or_folders(tmp_path: Path):
    numbers = write_tar(
        tmp_path / "n.tar", ("a.jpg", png(0)), ("a.cls", b" 7\n"), ("b.jpg", png(1)), ("b.json", b'{"label": 12}')
    )
    assert [sample.label for sample in sources.read(numbers)] == ["7", "12"]
    folders = write_tar(tmp_path / "f.tar", ("./ash/a.jpg", png(0)), ("birch/x/b.jpg", png(1)), form=tarfile.GNU_FORMAT)
    assert [(sample.name, sample.label) for sample in sources.read(folders)] == [
        ("ash/a.jpg", "ash"),
        ("birch/x/b.jpg", "birch/x"),
    ]


def test_names_of_tars_may_tell_the_split(tmp_path: Path):
    for split in ("train", "val"):
        write_tar(tmp_path / f"{split}-000.tar", ("ash/a.jpg", png(0)), ("birch/b.jpg", png(1)))
    assert [sample.split for sample in sources.read(tmp_path)] == ["train", "train", "validation", "validation"]


@pytest.mark.parametrize("given", ["*/*.tar", "**/*.tar", "{0..1}/*.tar", "", "data"])
def test_names_of_tars_may_tell_the_split_within_folders(tmp_path: Path, given: str):
    for folder in ("0", "1"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for split in ("train", "val"):
            write_tar(tmp_path / "data" / folder / f"{split}-0.tar", (f"ash/{split}{folder}.jpg", png(0)))
    dataset = sources.read(tmp_path / given if given in ("", "data") else tmp_path / "data" / given)
    assert [sample.split for sample in dataset] == ["train", "validation"] * 2


@pytest.mark.parametrize("names", [("train/x/0.tar", "test/x/0.tar"), ("x/train/0.tar", "x/test/0.tar")])
def test_folders_of_tars_may_tell_the_split(tmp_path: Path, names: tuple[str, str]):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True)
        write_tar(tmp_path / name, ("ash/a.jpg", png(0)))
    assert sorted(str(sample.split) for sample in sources.read(tmp_path)) == ["test", "train"]


def test_folders_of_a_tar_may_tell_the_split(tmp_path: Path):
    entries = [(f"{top}/{label}/{top}.jpg", png(0, label)) for top in ("train", "val") for label in ("ash", "birch")]
    dataset = sources.read(write_tar(tmp_path / "photos.tar", *entries))
    assert [(sample.label, sample.split) for sample in dataset] == [
        ("ash", "train"),
        ("birch", "train"),
        ("ash", "validation"),
        ("birch", "validation"),
    ]


def test_A25_hidden_members_of_a_tar_are_no_pictures(tmp_path: Path):
    hidden = [("ash/._a.jpg", b"x"), ("__MACOSX/ash/a.jpg", b"x"), (".trash/ash/b.jpg", png(1))]
    made = write_tar(tmp_path / "mac.tar", ("ash/a.jpg", png(0)), ("birch/b.jpg", png(1)), *hidden)
    assert [sample.name for sample in sources.read(made)] == ["ash/a.jpg", "birch/b.jpg"]
    assert list(listings.of([made]).names()) == ["ash/a.jpg", "birch/b.jpg"]
    (finding,) = sources.read(made).findings
    assert listings.of([made]).findings == (finding,)
    assert (finding.code, finding.names) == ("hidden-files", ("ash/._a.jpg", "__MACOSX/", ".trash/"))


def test_a_hidden_folder_that_all_pictures_of_tars_lie_in_hides_none(tmp_path: Path):
    for shard in range(2):
        inner = [(".cache/p/ash/a.jpg", png(0)), (".cache/p/ash/.b.jpg", png(1)), (".cache/readme.txt", b"x")]
        write_tar(tmp_path / f"{shard}.tar", *inner)
    dataset = sources.read(tmp_path)
    assert [sample.name for sample in dataset] == [f"{shard}.tar/.cache/p/ash/a.jpg" for shard in (0, 1)]
    assert dataset.findings[0].names == tuple(f"{shard}.tar/.cache/p/ash/.b.jpg" for shard in (0, 1))
    told = [(".cache/a.jpg", png(0)), (".cache/a.cls", b"ash"), (".cache/._a.cls", b"\0\5")]
    dataset = sources.read(write_tar(tmp_path / "0.tar", *told))
    assert ([sample.label for sample in dataset], dataset.findings) == (["ash"], ())


def test_hidden_members_of_a_tar_tell_no_class(tmp_path: Path):
    dataset = sources.read(write_tar(tmp_path / "x.tar", ("ash/a.jpg", png(0)), ("ash/._a.cls", b"\0\5")))
    assert ([sample.label for sample in dataset], dataset.findings) == (["ash"], ())


def test_hidden_tars_and_tables_are_passed_over_here_and_on_a_store(bucket: Bucket, tmp_path: Path):
    write_tar(tmp_path / "0.tar", ("ash/a.jpg", png(0)))
    for name in ("._0.tar", ".x.parquet"):
        (tmp_path / name).write_bytes(b"\0\5")
    bucket.fill(tmp_path, "tars/")
    for given in (tmp_path, "s3://bucket/tars"):
        assert [sample.name for sample in sources.read(given)] == ["ash/a.jpg"]


def test_a_member_that_is_called_like_a_suffix_is_a_label_of_nothing(tmp_path: Path):
    odd = [(".json", b"{}"), ("x/.cls", b"elm")]
    dataset = sources.read(write_tar(tmp_path / "odd.tar", ("a.jpg", png(0)), ("a.cls", b"ash"), *odd))
    assert [sample.label for sample in dataset] == ["ash"]


@pytest.mark.parametrize("pattern", ["*/part.tar", "**/part.tar", "p-{0..1}/part.tar"])
def test_shards_of_one_name_in_several_folders_are_all_read(tmp_path: Path, pattern: str):
    for shard in range(2):
        (tmp_path / f"p-{shard}").mkdir()
        write_tar(tmp_path / f"p-{shard}" / "part.tar", ("a.jpg", png(shard)), ("a.cls", b"ash"))
        pq.write_table(table("struct", first=10 * shard), tmp_path / f"p-{shard}" / "part.parquet")
    assert [one.name for one in sources.read(tmp_path / pattern)] == ["p-0/part.tar/a.jpg", "p-1/part.tar/a.jpg"]
    tables = tmp_path / pattern.replace(".tar", ".parquet")
    assert contents(sources.dataset_of(tables)) == EXPECTED
    assert len(set(listings.of([tables]).names())) == 12


@pytest.mark.parametrize(
    ("pattern", "flag"),
    [("*/shard-000.tar", []), ("*/x.parquet", []), ("p-{0..1}/x.parquet", []), ("*/x.parquet", ["--labels"])],
)
def test_the_command_line_takes_patterns(tmp_path: Path, run: Callable[..., Ran], pattern: str, flag: list[str]):
    for shard in range(2):
        webdataset(tmp_path / f"p-{shard}", 1)
        pq.write_table(table("struct", first=10 * shard), tmp_path / f"p-{shard}" / "x.parquet")
    shown = run("show", *flag, tmp_path / pattern, "--rows", 20)
    assert (shown.code, len(shown.out.splitlines())) == (0, 14), shown.err
    gone = run("show", *flag, tmp_path / "gone" / "*.parquet")
    assert (gone.code, "is not there" in gone.err) == (2, True)


def test_a_table_that_is_called_like_a_tar_tells_of_it_and_others_are_not_mixed_in(tmp_path: Path):
    write_tar(tmp_path / "00000.tar", ("a.jpg", png(0)), ("a.cls", b"ash"))
    pq.write_table(pa.table({"url": ["http://x/a.jpg"]}), tmp_path / "00000.parquet")
    assert [sample.name for sample in sources.read(tmp_path)] == ["a.jpg"]
    pq.write_table(table("struct"), tmp_path / "more.parquet")
    with pytest.raises(ConfigError, match=r"holds tars and tables, e\.g\. 00000\.tar and more\.parquet") as refused:
        sources.read(tmp_path)
    assert "shard-{000..012}.tar" in refused.value.hint


def test_tars_whose_names_differ_by_letter_case_are_no_table(bucket: Bucket, tmp_path: Path):
    for name in ("0.tar", "0.TAR"):  # a disk may know one of them only
        bucket.objects[f"tars/{name}"] = write_tar(tmp_path / name, ("ash/a.jpg", png(0))).read_bytes()
    assert [sample.name for sample in sources.read("s3://bucket/tars")] == ["0.TAR/ash/a.jpg", "0.tar/ash/a.jpg"]


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


def test_A27_a_hostile_tar_is_told_and_never_written(tmp_path: Path):
    inner = tmp_path / "inner"
    inner.mkdir()
    write_tar(
        inner / "x.tar",
        ("ash/good.jpg", png(0)),
        link("ash/link.jpg", "/etc/passwd"),
        link("ash/hard.jpg", "ash/good.jpg", tarfile.LNKTYPE),
        link("ash/pipe.jpg", "", tarfile.FIFOTYPE),
        ("/abs/a.jpg", png(1)),
        ("../../up.jpg", png(2)),
        ("C:\\windows.jpg", png(3)),
        ("ash/twice.jpg", png(4)),
        ("ash/twice.jpg", png(5)),
        ("birch/good.jpg", png(6, "birch")),
        ("birch/bad.cls", b""),
    )
    dataset = shards.from_tars(shards.shards(inner / "x.tar"))
    (strange, bad, _) = dataset[1]
    assert [strange.code, strange.severity] == ["strange-members", "error"]
    assert strange.names == (
        "'ash/link.jpg' (a link)",
        "'ash/hard.jpg' (a link)",
        "'ash/pipe.jpg' (no regular file)",
        "'/abs/a.jpg' (its name leads elsewhere)",
        "'../../up.jpg' (its name leads elsewhere)",
        "'C:\\\\windows.jpg' (its name leads elsewhere)",
        "'ash/twice.jpg' (there are 2 of that name)",
    )
    assert bad.names == ("birch/bad.cls",)
    assert [sample.name for sample in dataset[0]] == ["ash/good.jpg", "birch/good.jpg"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["inner", "x.tar"]


@pytest.mark.parametrize("left", [100, 511, 512, 513, 1000, 0.4, 0.7])
def test_A28_a_tar_that_is_cut_off_is_refused(tmp_path: Path, left: float):
    (path, _) = webdataset(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(left if left > 1 else left * len(whole))])
    with pytest.raises(DataError, match="cut off|is no tar"):
        sources.read(path)


def test_a_tar_that_ends_between_two_members_is_refused(tmp_path: Path):
    path = write_tar(tmp_path / "x.tar", ("ash/a.jpg", bytes(512)), ("birch/b.jpg", bytes(512)))
    path.write_bytes(path.read_bytes()[: 2 * 1024])
    with pytest.raises(DataError, match="cut off"):
        sources.read(path)


def test_A28_a_header_may_not_ask_for_memory(tmp_path: Path):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    path = tmp_path / "x.tar"
    with open(path, "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(1 << 34)
    with pytest.raises((DataError, OSError, Exception), match="at once|cut off"):
        tars.index(path, lambda _: False)


@pytest.mark.parametrize("content", [b"", b"x" * 5000, b"\x1f\x8b" + bytes(2000), bytes(5000)])
def test_A28_what_is_no_tar_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(DataError, match="is no tar|cut off|No labelled"):
        sources.read(tmp_path / "x.tar")
    with pytest.raises(ConfigError, match="not there"):
        sources.read(tmp_path / "gone")


def test_A30_a_tar_that_changed_is_not_read_at_the_old_places(tmp_path: Path):
    (path, _) = webdataset(tmp_path)
    dataset = sources.read(path)
    path.write_bytes(path.read_bytes() + bytes(512))
    with pytest.raises(PictureError, match="is not the file any more"):
        images.read_bytes(dataset[0].path)
    path.unlink()
    with pytest.raises(PictureError, match="No such file"):
        images.read_bytes(dataset[0].path)


def test_a_tar_on_a_store_is_walked_through_once(bucket: Bucket, tmp_path: Path):
    webdataset(tmp_path / "tars")
    bucket.fill(tmp_path / "tars", "tars/")
    cache = tmp_path / "cache"
    first = sources.dataset_of("s3://bucket/tars", cache=cache)
    bucket.asked.clear()
    assert sources.dataset_of("s3://bucket/tars", cache=cache) == first
    assert list(listings.of(["s3://bucket/tars"], cache=cache)) == [replace(sample, label=None) for sample in first]
    assert bucket.counts()["GET"] == 0
    for file in (cache / manifest.FOLDER).iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    assert contents(sources.dataset_of("s3://bucket/tars", cache=cache)) == EXPECTED
    bucket.objects["tars/shard-000.tar"] = bucket.objects["tars/shard-001.tar"]
    changed = sources.dataset_of("s3://bucket/tars", cache=cache)
    assert contents(changed) == 2 * EXPECTED[6:]
    manifest.clear(cache)
    assert list((cache / manifest.FOLDER).iterdir()) == []


def test_a_folder_that_is_called_like_a_tar_is_one(tmp_path: Path):
    for name in ("ash", "birch"):
        (tmp_path / "x.tar" / name).mkdir(parents=True)
        (tmp_path / "x.tar" / name / "1.png").write_bytes(png(1))
    assert sources.dataset_of(tmp_path / "x.tar").layout == "folders"
    assert len(listings.of([tmp_path / "x.tar"])) == 2


def test_links_to_tars_elsewhere_are_not_followed(tmp_path: Path):
    webdataset(tmp_path / "elsewhere")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "x.tar").symlink_to(tmp_path / "elsewhere" / "shard-000.tar")
    (tmp_path / "here" / ".hidden").mkdir()
    webdataset(tmp_path / "here" / ".hidden")
    with pytest.raises(DataError, match="No labelled picture"):
        sources.read(tmp_path / "here")


def test_tars_on_a_store_are_read_by_ranges(bucket: Bucket, tmp_path: Path):
    webdataset(tmp_path / "tars")
    large = write_tar(tmp_path / "large.tar", *((f"{n % 2}/{n}.png", bytes([n]) * 300_000) for n in range(1, 5)))
    bucket.fill(tmp_path / "tars", "tars/")
    bucket.objects["large.tar"] = large.read_bytes()
    for given in ("s3://bucket/tars", "s3://bucket/tars/shard-{000..001}.tar"):
        assert contents(sources.dataset_of(given)) == EXPECTED
    bucket.asked.clear()
    dataset = sources.read("s3://bucket/large.tar")
    spans = [key.removesuffix("]").partition("[")[2].split("-") for method, key in bucket.asked if method == "GET"]
    assert sum(int(end) - int(begin) for begin, end in spans) < 60_000
    assert images.read_bytes(dataset[1].path) == bytes([2]) * 300_000
    assert all(files.fingerprints(dataset, cache=tmp_path / "cache")[0])
    bucket.asked.clear()
    assert all(files.fingerprints(dataset, cache=tmp_path / "cache")[0])
    assert bucket.asked == []
    bucket.objects["large.tar"] += bytes(512)
    with pytest.raises(PictureError, match="is not the file any more"):
        images.read_bytes(dataset[1].path)


def features(names: list[str]) -> dict[bytes, bytes]:
    told = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}}}
    return {b"huggingface": json.dumps(told).encode()}


def table(kind: str, rows: int = 6, first: int = 0) -> Any:
    pictures = [png(first + row, ("ash", "birch")[row % 2]) for row in range(rows)]
    image: Any = pictures if kind == "binary" else [{"bytes": one, "path": None} for one in pictures]
    return pa.table({"image": image, "label": [row % 2 for row in range(rows)]}).replace_schema_metadata(
        features(["ash", "birch"])
    )


@pytest.mark.parametrize("kind", ["table", "tar"])
def test_of_a_file_with_other_pictures_a_list_has_another_digest(tmp_path: Path, kind: str):
    file = tmp_path / ("t.parquet" if kind == "table" else "t.tar")

    def digest(*rows: int) -> str:
        if kind == "table":
            pq.write_table(pa.table({"image": [png(row) for row in rows]}), file)
        else:
            write_tar(file, *((f"{name}.jpg", png(row)) for name, row in enumerate(rows)))
        assert listings.of([file]).digest() == listings.of([file]).digest()
        return listings.of([file]).digest()

    assert digest(0, 1) != digest(1, 0)


@pytest.mark.parametrize("kind", ["binary", "struct"])
def test_pictures_of_a_table_are_read_row_by_row(tmp_path: Path, kind: str):
    pq.write_table(table(kind), tmp_path / "train.parquet", row_group_size=2)
    dataset = sources.dataset_of(tmp_path / "train.parquet")
    assert contents(dataset) == EXPECTED[:6]
    assert [sample.name for sample in dataset][:2] == ["train.parquet/0", "train.parquet/1"]
    assert contents(dataset.select([5, 0, 3])) == [EXPECTED[5], EXPECTED[0], EXPECTED[3]]
    pq.write_table(table(kind, first=10), tmp_path / "train.parquet", row_group_size=2)
    assert contents(sources.dataset_of(tmp_path / "train.parquet")) == EXPECTED[6:]
    pq.write_table(table(kind), tmp_path / "train.parquet", row_group_size=2)
    said = list(listings.of([tmp_path / "train.parquet"]))
    assert [images.read_bytes(sample.path) for sample in said] == [data for _, data in EXPECTED[:6]]


def test_columns_that_are_not_asked_for_keep_no_picture_back(tmp_path: Path):
    wide = table("struct").append_column("embedding", pa.array([[0.5, 1.0]] * 6))
    pq.write_table(wide, tmp_path / "wide.parquet")
    assert contents(sources.dataset_of(tmp_path / "wide.parquet")) == EXPECTED[:6]
    assert arrows.read(tmp_path / "wide.parquet").unread == ("embedding",)
    pq.write_table(table("struct", first=10), tmp_path / "narrow.parquet")  # nor does one that others lack
    assert len(sources.dataset_of(tmp_path)) == 12
    pq.write_table(table("struct").append_column("target", pa.array([0.5] * 6)), tmp_path / "wide.parquet")
    assert len(listings.of([tmp_path / "wide.parquet"])) == 6


@pytest.mark.parametrize("name", ["label", "patient", "split", "kind"])
def test_a_column_of_lists_that_means_something_is_refused(tmp_path: Path, name: str):
    path, columns = tmp_path / "x.parquet", sources.Columns(group="kind" if name == "kind" else None)
    pictures = table("struct").rename_columns(["image", "other" if name == "label" else "class"])
    pq.write_table(pictures.append_column(name, pa.array([[1, 2]] * 6)), path)
    with pytest.raises(DataError, match=f"The column '{name}' of .*x.parquet holds values that are no text in row 0"):
        sources.dataset_of(path, columns)
    assert len(listings.of([path])) == 6


def test_tables_of_one_folder_belong_together(tmp_path: Path, bucket: Bucket):
    pq.write_table(table("struct"), tmp_path / "train-00000-of-00001.parquet")
    pq.write_table(table("struct", first=10), tmp_path / "test-00000-of-00001.parquet")
    bucket.fill(tmp_path, "data/")
    for given in (tmp_path, "s3://bucket/data"):
        dataset = sources.dataset_of(given)
        assert {(sample.name.partition("-")[0], sample.split) for sample in dataset} == {
            ("train", "train"),
            ("test", "test"),
        }
        assert sorted(data for _, data in contents(dataset)) == sorted(data for _, data in EXPECTED)


def test_a_table_may_name_files_or_objects(tmp_path: Path, bucket: Bucket):
    for row in range(2):
        (tmp_path / f"{row}.png").write_bytes(png(row))
        bucket.objects[f"p/{row}.png"] = png(row)
    pq.write_table(pa.table({"file": ["0.png", "1.png"], "kind": [3, 4], "size": [0.5, 1.5]}), tmp_path / "t.parquet")
    assert [sample.label for sample in sources.dataset_of(tmp_path / "t.parquet")] == ["3", "4"]
    pq.write_table(
        pa.table({"url": [f"s3://bucket/p/{row}.png" for row in (0, 1)], "label": ["a", "b"]}), tmp_path / "u.parquet"
    )
    assert [data for _, data in contents(sources.dataset_of(tmp_path / "u.parquet"))] == [png(0), png(1)]


def test_threads_may_read_a_table_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(arrows, "GROUPS_BYTES", 1)  # nothing is kept but what was read last
    pq.write_table(table("struct", 12), tmp_path / "x.parquet", row_group_size=3)
    dataset = sources.dataset_of(tmp_path / "x.parquet")
    expected = contents(dataset)
    wrong: list[int] = []

    def work(seed: int) -> None:
        for row in np.random.default_rng(seed).permutation(12).tolist():
            wrong.extend([row] if images.read_bytes(dataset[row].path) != expected[row][1] else [])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def write_stream(file: Path, *tables: Any) -> None:
    """Write a table as `datasets` does."""
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, tables[0].schema) as writer:
        for one in tables:
            writer.write_table(one)


def save_to_disk(folder: Path, *tables: Any) -> Path:
    """Write what `datasets.Dataset.save_to_disk` leaves."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05d}-of-{len(tables):05d}.arrow" for number in range(len(tables))]
    for name, one in zip(names, tables, strict=True):
        write_stream(folder / name, one)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_a_folder_of_datasets_is_read(tmp_path: Path):
    folder = save_to_disk(tmp_path / "one", table("struct"), table("struct", first=10))
    assert contents(sources.read(folder)) == EXPECTED
    save_to_disk(tmp_path / "both" / "train", table("struct"))
    save_to_disk(tmp_path / "both" / "test", table("struct", first=10))
    (tmp_path / "both" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    both = sources.read(tmp_path / "both")
    assert [sample.split for sample in both] == ["train"] * 6 + ["test"] * 6
    (folder / "state.json").write_text('{"_data_files": [{"filename": "../../etc/passwd"}]}')
    with pytest.raises(DataError, match="is none of this folder"):
        sources.read(folder)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}], "_indices_data_files": [1]}')
    with pytest.raises(DataError, match="was not written as a whole"):
        sources.read(folder)


def test_rows_without_a_class_are_left_out(tmp_path: Path):
    one = table("struct").set_column(1, "label", pa.array([0, 1, -1, 0, 1, None]))
    pq.write_table(one.replace_schema_metadata(features(["ash", "birch"])), tmp_path / "x.parquet")
    dataset = sources.dataset_of(tmp_path / "x.parquet")
    assert [sample.label for sample in dataset] == ["ash", "birch", "ash", "birch"]
    assert [finding.names for finding in dataset.findings if finding.code == "unlabelled-pictures"] == [
        ("x.parquet/2", "x.parquet/5")
    ]


def test_tables_that_cannot_be_used_say_why(tmp_path: Path):
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="cannot be read"):
        sources.dataset_of(path)
    pq.write_table(table("struct").append_column("other", [[b"x"] * 6]), path)
    with pytest.raises(DataError, match="in several columns: image, other"):
        sources.dataset_of(path)
    pq.write_table(
        table("struct").set_column(1, "label", [[0, 1, 2, 0, 1, 2]]).replace_schema_metadata(features(["a", "b"])), path
    )
    with pytest.raises(DataError, match="a label 2, but only the names of 2 classes"):
        sources.dataset_of(path)
    pq.write_table(pa.table({"image": [png(0), None, b""], "label": ["a", "b", "c"]}), path)
    dataset = sources.dataset_of(path)
    assert files.fingerprints(dataset)[1] == {1: "the cell is empty", 2: "the cell is empty"}
    pq.write_table(table("struct"), path)
    with pytest.raises(PictureError, match="changed since it was read"):
        images.read_bytes(dataset[0].path)
    with pytest.raises(PictureError, match="cannot be read"):
        images.read_bytes(Locator(str(tmp_path / "gone.parquet"), "image", "cell", 0))


@pytest.mark.slow
def test_train_predict_explain_and_export_from_within(tmp_path: Path, run: Callable[..., Ran]):
    small = ["--backbone", "lite0@64", "--set", "split.folds=2", "--quiet"]
    webdataset(tmp_path / "tars")
    pq.write_table(
        pa.concat_tables([table("struct"), table("struct", first=10)]), tmp_path / "t.parquet", row_group_size=4
    )
    for given in ("tars", "t.parquet"):
        place, model = tmp_path / given, tmp_path / f"model-{given}"
        assert run("check", place, "--backbone", "lite0@64", "--quiet").code == 0
        trained = run("train", place, "--out", model, *small)
        assert trained.code == 0, trained.err
        assert json.loads((model / "album.json").read_text())["pictures"] is not None
        assert (model / "pictures.csv").read_text().splitlines()[0] == "path,label,split,sha256,place"
        said = run("predict", model, place, "--workers", 2, "--no-cache")
        assert (said.code, len(said.out.splitlines())) == (0, 13), said.err
        assert run("audit", place, "--out", tmp_path / f"{given}.csv", "--backbone", "lite0@64").code == 0
        why = run("explain", model, place, "--out", tmp_path / f"why-{given}", "--json")
        assert why.code == 0, why.err
        assert json.loads(why.out)[0]["nearest"]
        exported = run("export", model, "--to", "openvino")
        assert exported.code == 0, exported.err


def test_a_table_of_text_is_no_table_of_pictures(tmp_path: Path):
    write_table(tmp_path / "a.csv", "id,label", "x.png,a")
    pq.write_table(pa.table({"a": ["x"]}), tmp_path / "x.parquet")
    with pytest.raises(ConfigError, match="holds no pictures, only a"):
        listings.of([tmp_path / "x.parquet"])


GUIDE = Path(__file__).parents[2] / "docs/guides/where-pictures-are.md"
LMDB = """
import contextlib
import types


class Store:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    begin = __enter__

    def cursor(self):
        yield from ((f"{name}/{row}.png".encode(), open(f"{row}.png", "rb").read()) for name in "ab" for row in (0, 1))


def open_store(path, readonly, lock):
    assert (path, readonly, lock) == ("photos.lmdb", True, False)
    return Store()


import sys

sys.modules["lmdb"] = types.SimpleNamespace(open=open_store)
"""


def test_the_conversions_of_the_guide_do_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    coco, lmdb = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.M | re.S)
    monkeypatch.chdir(tmp_path)
    for row in range(2):
        Path(f"{row}.png").write_bytes(png(row))
    told: dict[str, Any] = {"images": [{"id": 7 + row, "file_name": f"{row}.png"} for row in range(3)]}
    told["categories"] = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    told["annotations"] = [
        {"image_id": image, "category_id": one} for image, one in ((7, 1), (7, 1), (8, 2), (9, 1), (9, 2))
    ]
    Path("annotations.json").write_text(json.dumps(told))
    for code in (coco, f"{LMDB}{lmdb}"):
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert Path("labels.csv").read_text().split() == ["id,label", "0.png,dog", "1.png,cat"]
    assert [sample.label for sample in sources.dataset_of("photos.tar")] == ["a", "a", "b", "b"]
