"""Folders, tables and plain pictures → samples: names, labels and splits stay exact, and nothing leaves the root."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from conftest import PEAK, draw_folders, picture, write_table
from PIL import Image

from headstart.data import sources
from headstart.data.sources import Columns
from headstart.errors import ConfigError, DataError
from headstart.records import Dataset, Finding


def place(root: Path, *names: str) -> Path:
    """Write a little picture under each name, in the format of its suffix."""
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        kind = Image.registered_extensions().get(Path(name).suffix.lower(), "PNG")
        picture((90, 120, 60), seed, (8, 8)).save(root / name, kind)
    return root


def found(dataset: Dataset, code: str) -> Finding:
    """Return the one finding of this code."""
    (finding,) = [finding for finding in dataset.findings if finding.code == code]
    return finding


def names(dataset: Dataset) -> list[str]:
    return [sample.name for sample in dataset]


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A folder with `a.png` and `b.png`."""
    return place(tmp_path / "pictures", "a.png", "b.png")


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_folder_per_class_is_read_in_order_of_names(tmp_path: Path):
    dataset = sources.read(draw_folders(tmp_path / "photos", ("elm", "ash"), each=2))
    assert names(dataset) == ["ash/ash_00.png", "ash/ash_01.png", "elm/elm_00.png", "elm/elm_01.png"]
    assert dataset.labels == ("ash", "ash", "elm", "elm")
    assert (dataset.layout, dataset.findings) == ("folders", ())


def test_nested_class_folders_keep_their_whole_relative_name(tmp_path: Path):
    dataset = sources.read(place(tmp_path, "dog/pug/1.png", "dog/1.png", "cat/pug/1.png"))
    assert dataset.classes == ("cat/pug", "dog", "dog/pug")


def test_parent_folders_called_train_val_and_test_are_splits(tmp_path: Path):
    dataset = sources.read(place(tmp_path, "train/ash/1.png", "val/ash/2.png", "test/ash/3.png", "train/elm/4.png"))
    assert [(s.label, s.split) for s in dataset] == [
        ("ash", "test"),
        ("ash", "train"),
        ("elm", "train"),
        ("ash", "validation"),
    ]


def test_a_class_called_test_beside_others_is_a_class(tmp_path: Path):
    dataset = sources.read(place(tmp_path, "test/1.png", "ash/1.png"))
    assert [(s.label, s.split) for s in dataset] == [("ash", None), ("test", None)]


def test_pictures_without_a_class_folder_are_left_out_and_listed(tmp_path: Path):
    dataset = sources.read(place(tmp_path, "train/ash/1.png", "train/elm/2.png", "test/3.png", "4.png"))
    assert names(dataset) == ["train/ash/1.png", "train/elm/2.png"]
    assert found(dataset, "unlabelled-pictures").names == ("test/3.png",)
    assert found(dataset, "loose-pictures").names == ("4.png",)


def test_A16_every_known_suffix_in_any_case_is_found(tmp_path: Path):
    given = ["1.JPG", "2.JPEG", "3.PNG", "4.webp", "5.bmp", "6.tif", "7.Tiff", "8.gif", "9.jfif"]
    assert names(sources.read(place(tmp_path, *(f"ash/{name}" for name in given)))) == [f"ash/{n}" for n in given]


def test_A16_suffixes_that_are_passed_over_are_counted(tmp_path: Path):
    place(tmp_path, "ash/1.png")
    for name in ("a.txt", "b.TXT", "c.heic", "README"):
        (tmp_path / "ash" / name).write_text("x")
    finding = found(sources.read(tmp_path), "other-suffixes")
    assert finding.message.startswith("4 files are no pictures")
    assert finding.names == ("1 (no suffix)", "1 .heic", "2 .txt")


def test_A25_hidden_and_system_files_are_ignored_and_listed(tmp_path: Path):
    place(tmp_path, "ash/1.png", "ash/.hidden.png", "__MACOSX/._x.jpg", ".ipynb_checkpoints/1-copy.png")
    (tmp_path / "ash" / "Thumbs.db").touch()
    dataset = sources.read(tmp_path)
    assert names(dataset) == ["ash/1.png"]
    assert set(found(dataset, "hidden-files").names) == {
        "__MACOSX/",
        ".ipynb_checkpoints/",
        "ash/.hidden.png",
        "ash/Thumbs.db",
    }


def test_A21_pipes_and_sockets_keep_their_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place(tmp_path, "ash/1.png")
    os.mkfifo(tmp_path / "ash" / "2.jpg")
    monkeypatch.chdir(tmp_path / "ash")  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("3.jpg")
        assert names(sources.read(tmp_path)) == ["ash/1.png", "ash/2.jpg", "ash/3.jpg"]


def test_A21_a_folder_named_like_a_picture_is_a_folder(tmp_path: Path):
    dataset = sources.read(place(tmp_path, "ash/1.png", "x.jpg/2.png"))
    assert [(s.name, s.label) for s in dataset] == [("ash/1.png", "ash"), ("x.jpg/2.png", "x.jpg")]


def test_A21_a_folder_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place(tmp_path, "ash/1.png", "elm/2.png")
    listed = os.scandir

    def refuse(folder: Path) -> object:  # the tests may run as root, whom no mode keeps out
        if Path(folder).name == "elm":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    dataset = sources.read(tmp_path)
    assert names(dataset) == ["ash/1.png"]
    assert found(dataset, "unreadable-folders").names == ("elm/ (Permission denied)",)


def test_A22_a_link_back_to_the_root_is_not_followed(tmp_path: Path):
    place(tmp_path, "ash/1.png")
    (tmp_path / "ash" / "again").symlink_to(tmp_path)
    dataset = sources.read(tmp_path)
    assert names(dataset) == ["ash/1.png"]
    assert found(dataset, "folder-links").names == ("ash/again",)


@pytest.mark.parametrize("follow_links", [False, True])
def test_A22_a_link_to_itself_does_not_end_the_walk(tmp_path: Path, follow_links: bool):
    place(tmp_path, "ash/1.png")
    (tmp_path / "ash" / "2.png").symlink_to("2.png")
    assert "ash/1.png" in names(sources.read(tmp_path, follow_links=follow_links))


@pytest.mark.parametrize("follow_links", [False, True])
def test_A22_a_folder_link_to_itself_does_not_end_the_walk(tmp_path: Path, follow_links: bool):
    place(tmp_path, "ash/1.png")
    (tmp_path / "elm").symlink_to("elm")
    assert names(sources.read(tmp_path, follow_links=follow_links)) == ["ash/1.png"]


def test_A22_a_link_that_leads_nowhere_is_no_crash(tmp_path: Path):
    place(tmp_path, "ash/1.png")
    (tmp_path / "ash" / "2.png").symlink_to(tmp_path / "gone.png")
    assert names(sources.read(tmp_path)) == ["ash/1.png", "ash/2.png"]


def test_A22_links_out_of_the_root_are_refused_and_listed(tmp_path: Path):
    place(tmp_path, "root/ash/1.png", "outside/2.png")
    (tmp_path / "root/ash/file.png").symlink_to(tmp_path / "outside/2.png")
    (tmp_path / "root/elm").symlink_to(tmp_path / "outside")
    dataset = sources.read(tmp_path / "root")
    assert names(dataset) == ["ash/1.png"]
    assert found(dataset, "links-outside").names == ("elm/", "ash/file.png")
    assert "--follow-links" in found(dataset, "links-outside").advice


def test_A22_links_out_of_the_root_are_followed_if_asked(tmp_path: Path):
    place(tmp_path, "root/ash/1.png", "outside/2.png")
    (tmp_path / "root/ash/file.png").symlink_to(tmp_path / "outside/2.png")
    (tmp_path / "root/elm").symlink_to(tmp_path / "outside")
    dataset = sources.read(tmp_path / "root", follow_links=True)
    assert names(dataset) == ["ash/1.png", "ash/file.png", "elm/2.png"]
    assert dataset.findings == ()


@pytest.mark.parametrize("link", ["alias", "zz"])
def test_A22_a_folder_is_known_by_its_own_name_not_by_a_link(tmp_path: Path, link: str):
    place(tmp_path, "elm/1.png", "oak/2.png")
    (tmp_path / link).symlink_to("elm")
    dataset = sources.read(tmp_path)
    assert names(dataset) == ["elm/1.png", "oak/2.png"]
    assert found(dataset, "folder-links").names == (link,)


def test_a_root_that_is_itself_a_link_is_read(tmp_path: Path):
    place(tmp_path / "real", "ash/1.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert names(sources.read(tmp_path / "link")) == ["ash/1.png"]


def test_B13_a_folder_without_pictures_is_refused(tmp_path: Path):
    (tmp_path / "ash").mkdir()
    with pytest.raises(DataError, match="No labelled picture was found under") as refused:
        sources.read(tmp_path)
    assert str(tmp_path) in refused.value.message
    assert ".webp" in refused.value.hint


def test_where_nothing_is_found_what_was_met_is_told(tmp_path: Path):
    place(tmp_path, "root/loose.png", "outside/ash/1.png")
    (tmp_path / "root/ash").symlink_to(tmp_path / "outside/ash")
    (tmp_path / "root/notes.txt").write_text("x")
    with pytest.raises(DataError, match="1 picture lies beside the class folders") as refused:
        sources.read(tmp_path / "root")
    assert "1 link leads out of the folder and is not followed" in refused.value.message
    assert "1 file is no picture by its suffix" in refused.value.message
    assert "Follow them with --follow-links. " in refused.value.hint
    (tmp_path / "root/loose.png").unlink()
    with pytest.raises(ConfigError, match="No picture was found in .*: .*1 link leads out of the folder") as refused:
        sources.read_pictures([tmp_path / "root"])
    assert refused.value.hint.startswith("Follow them with --follow-links.")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="nowhere is not there; a folder was expected"):
        sources.read(tmp_path / "nowhere")


def test_columns_without_a_table_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="there is no table"):
        sources.read(place(tmp_path, "ash/1.png"), columns=Columns(id="image"))


# --- tables: ids ------------------------------------------------------------------------------------------------------

ELSEWHERE = ["../../etc/passwd", "/etc/passwd", r"C:\x", "c:/x", "~/x", "~root/x", "https://a.org/x.png", "file:///x"]


@pytest.mark.parametrize("name", [*ELSEWHERE, r"..\x", r"\\server\x", "a/../../x", ".."])
def test_B1_an_id_that_leads_elsewhere_is_refused_with_its_line(pair: Path, tmp_path: Path, name: str):
    table = write_table(tmp_path / "t.csv", "id,label", "a,ash", f"{name},elm")
    with pytest.raises(DataError) as refused:
        sources.read(pair, table, missing="drop")
    assert f"line 3: the id {name!r} is no plain path inside the folder" in refused.value.message


def test_B1_a_nul_byte_in_an_id_is_refused_with_its_line(pair: Path, tmp_path: Path):
    table = write_table(tmp_path / "t.csv", "id,label", "a,ash", "b\x00.png,elm")
    with pytest.raises(DataError, match="NUL byte.* line 3|line 3.*NUL byte"):
        sources.read(pair, table)


def test_B1_all_bad_ids_are_told_at_once(pair: Path, tmp_path: Path):
    table = write_table(tmp_path / "t.csv", "id,label", "../x,ash", "b,elm", "/y,ash")
    with pytest.raises(DataError, match=r"line 2: the id '\.\./x'.*line 4: the id '/y'"):
        sources.read(pair, table)


def test_B2_an_id_through_a_link_out_of_the_root_is_refused(pair: Path, tmp_path: Path):
    place(tmp_path / "outside", "x.png")
    (pair / "sub").symlink_to(tmp_path / "outside")
    table = write_table(tmp_path / "t.csv", "id,label", "a,ash", "sub/x.png,elm")
    with pytest.raises(DataError, match=r"line 3: 'sub/x\.png' leads out of .*pictures through a link"):
        sources.read(pair, table)


@pytest.mark.parametrize(("name", "why"), [("x.png", "line 3: 'x.png' leads out of "), ("x", "not under .*: 'x'")])
def test_B2_an_id_that_is_a_link_out_of_the_root_is_refused(pair: Path, tmp_path: Path, name: str, why: str):
    place(tmp_path / "outside", "x.png")
    (pair / "x.png").symlink_to(tmp_path / "outside/x.png")
    table = write_table(tmp_path / "t.csv", "id,label", "a,ash", f"{name},elm")
    with pytest.raises(DataError, match=why):
        sources.read(pair, table)


def test_B2_a_link_out_of_the_root_is_followed_if_asked(pair: Path, tmp_path: Path):
    place(tmp_path / "outside", "x.png")
    (pair / "sub").symlink_to(tmp_path / "outside")
    table = write_table(tmp_path / "t.csv", "id,label", "a,ash", "sub/x.png,elm")
    assert names(sources.read(pair, table, follow_links=True)) == ["a", "sub/x.png"]


STRANGE_LABELS = ["NA", "None", "null", "nan", "NaN", "N/A", "True", "false", "1.0", "007", "-", "<script>", "../x"]


def test_B3_labels_that_look_like_values_stay_text(tmp_path: Path):
    place(tmp_path / "p", *(f"{index}.png" for index in range(len(STRANGE_LABELS))))
    rows = [f"{index},{label}" for index, label in enumerate(STRANGE_LABELS)]
    dataset = sources.read(tmp_path / "p", write_table(tmp_path / "t.csv", "id,label", *rows))
    assert list(dataset.labels) == STRANGE_LABELS


@pytest.mark.parametrize(("row", "what"), [("b,", "label"), ("b,  ", "label"), (",elm", "id")])
def test_B3_an_empty_cell_is_refused_with_its_line(pair: Path, tmp_path: Path, row: str, what: str):
    table = write_table(tmp_path / "t.csv", "id,label", "a,ash", row)
    with pytest.raises(DataError, match=f"line 3 has an empty {what}"):
        sources.read(pair, table)


def test_B4_ids_that_look_like_numbers_stay_text(tmp_path: Path):
    ids = ["00017", "17", "1e5", "0x1F", "1.50"]
    place(tmp_path / "p", *(f"{name}.png" for name in ids))
    dataset = sources.read(tmp_path / "p", write_table(tmp_path / "t.csv", "id,label", *(f"{i},x" for i in ids)))
    assert [(s.name, s.path.name) for s in dataset] == [(name, f"{name}.png") for name in ids]


def test_an_id_that_fits_two_pictures_is_refused(tmp_path: Path):
    place(tmp_path / "p", "a.png", "a.jpg")
    with pytest.raises(DataError, match=r"line 2: 'a' may be any of a\.jpg, a\.png"):
        sources.read(tmp_path / "p", write_table(tmp_path / "t.csv", "id,label", "a,ash"))


def test_an_id_with_its_suffix_means_that_file_alone(tmp_path: Path):
    place(tmp_path / "p", "a.png", "a.png.jpg")
    dataset = sources.read(tmp_path / "p", write_table(tmp_path / "t.csv", "id,label", "a.png,ash"))
    assert [sample.path.name for sample in dataset] == ["a.png"]


# --- tables: the file -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("row", "cells"), [("b", 1), ("b,elm,", 3), ("b,elm,oak,yew", 4)])
def test_B5_a_ragged_row_is_refused_with_its_line(pair: Path, tmp_path: Path, row: str, cells: int):
    table = write_table(tmp_path / "t.csv", "id,label", "a,ash", row)
    with pytest.raises(DataError, match=f"line 3 has {cells} cells instead of 2"):
        sources.read(pair, table)


@pytest.mark.parametrize("row", ['b,"elm', '"b"x,elm'])
def test_B5_a_broken_quote_is_refused_with_its_line(pair: Path, tmp_path: Path, row: str):
    table = write_table(tmp_path / "t.csv", "id,label", "a,ash", row)
    with pytest.raises(DataError, match=r"t\.csv is damaged: line 3: "):
        sources.read(pair, table)


def test_B5_a_repeated_column_is_refused(pair: Path, tmp_path: Path):
    with pytest.raises(DataError, match="the column 'label' occurs more than once"):
        sources.read(pair, write_table(tmp_path / "t.csv", "id,label,label", "a,ash,elm"))


@pytest.mark.parametrize("text", ["", "id,label\n"])
def test_B5_a_table_without_rows_is_refused(pair: Path, tmp_path: Path, text: str):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=r"t\.csv has no rows"):
        sources.read(pair, tmp_path / "t.csv")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_B6_marks_line_ends_and_delimiters_are_understood(
    pair: Path, tmp_path: Path, mark: bytes, end: str, delimiter: str
):
    lines = ["id,label", "a,Erle", 'b,"Weißdorn, groß; alt"']
    table = end.join(line.replace(",", delimiter, 1) for line in lines) + end
    (tmp_path / "t.csv").write_bytes(mark + table.encode())
    dataset = sources.read(pair, tmp_path / "t.csv")
    assert [(s.name, s.label) for s in dataset] == [("a", "Erle"), ("b", "Weißdorn, groß; alt")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le"])
def test_B6_utf_16_is_refused(pair: Path, tmp_path: Path, encoding: str):
    (tmp_path / "t.csv").write_bytes("id,label\na,ash\n".encode(encoding))
    with pytest.raises(DataError, match="is in UTF-16; UTF-8 was expected|NUL byte"):
        sources.read(pair, tmp_path / "t.csv")


def test_B6_latin_1_is_refused_with_line_and_byte(pair: Path, tmp_path: Path):
    (tmp_path / "t.csv").write_bytes("id,label\na,ash\nb,Weißdorn\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"is not UTF-8: line 3 holds the byte 0xdf \('ß' in Latin-1\)"):
        sources.read(pair, tmp_path / "t.csv")


def test_a_table_that_is_not_there_is_refused(pair: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"gone\.csv cannot be read: No such file or directory"):
        sources.read(pair, tmp_path / "gone.csv")


def test_columns_are_found_by_name_or_named(pair: Path, tmp_path: Path):
    table = write_table(tmp_path / "t.csv", "Image,what,where", "a,ash,here", "b,elm,there")
    with pytest.raises(ConfigError, match="which column holds the label\\? None of 'what', 'where' has a usual name"):
        sources.read(pair, table)
    assert sources.read(pair, table, columns=Columns(label="what")).labels == ("ash", "elm")


def test_a_named_column_that_is_not_there_is_refused(pair: Path, tmp_path: Path):
    table = write_table(tmp_path / "t.csv", "id,label", "a,ash")
    with pytest.raises(ConfigError, match="has no column 'breed'; its columns are 'id', 'label'"):
        sources.read(pair, table, columns=Columns(label="breed"))


# --- tables: columns found by looking ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".png"])
@pytest.mark.parametrize("header", ["pic,what", "what,pic"])
def test_a_table_of_pictures_and_one_other_column_needs_no_flags(pair: Path, tmp_path: Path, header: str, suffix: str):
    rows = [(f"a{suffix}", "ash"), (f"b{suffix}", "elm")]
    ordered = rows if header == "pic,what" else [row[::-1] for row in rows]
    dataset = sources.read(pair, write_table(tmp_path / "t.csv", header, *map(",".join, ordered)))
    assert [(sample.path.name, sample.label) for sample in dataset] == [("a.png", "ash"), ("b.png", "elm")]
    told = found(dataset, "columns-found")
    assert (told.severity, "'pic'" in told.message, "'what'" in told.message) == ("note", True, True)


def test_only_what_was_found_by_looking_is_told(pair: Path, tmp_path: Path):
    assert sources.read(pair, write_table(tmp_path / "t.csv", "id,label", "a,ash", "b,elm")).findings == ()
    told = found(sources.read(pair, write_table(tmp_path / "t.csv", "id,what", "a,ash", "b,elm")), "columns-found")
    assert "'what'" in told.message
    assert "'id'" not in told.message


def test_a_usual_name_without_pictures_gives_way_to_a_column_with_them(pair: Path, tmp_path: Path):
    table = write_table(tmp_path / "t.csv", "id,file,label", "1,a.png,ash", "2,b.png,elm")
    assert names(sources.read(pair, table)) == ["a.png", "b.png"]


def test_labels_that_are_called_like_a_few_pictures_are_no_pictures(tmp_path: Path):
    place(tmp_path / "p", *(f"{number}.png" for number in range(6)))
    rows = [f"{number},{number % 2}" for number in range(6)]
    assert sources.read(tmp_path / "p", write_table(tmp_path / "t.csv", "scan,digit", *rows)).labels == tuple("010101")


def test_two_columns_of_pictures_are_asked_about_by_name(pair: Path, tmp_path: Path):
    table = write_table(tmp_path / "t.csv", "left,right,label", "a,b,ash", "b,a,elm")
    with pytest.raises(ConfigError, match="The cells of 'left', 'right' all name pictures") as refused:
        sources.read(pair, table)
    assert "--id-column" in refused.value.hint
    assert names(sources.read(pair, table, columns=Columns(id="right"))) == ["b", "a"]


def test_a_table_without_pictures_in_it_is_asked_about(pair: Path, tmp_path: Path):
    with pytest.raises(
        ConfigError, match="which column holds the id\\? None of 'x', 'y' has .* or names files that are there"
    ):
        sources.read(pair, write_table(tmp_path / "t.csv", "x,y", "c,ash", "d,elm"))


def test_a_table_without_names_of_columns_loses_no_row(pair: Path, tmp_path: Path):
    place(pair, "c.png")
    with pytest.raises(DataError, match=r"The first line of .*t\.csv names the picture 'a\.png'"):
        sources.read(pair, write_table(tmp_path / "t.csv", "a.png,ash", "b.png,elm", "c.png,elm"))


def test_a_table_of_uris_without_names_of_columns_loses_no_row(pair: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"The first line of .*t\.csv names the picture 's3://bucket/a\.png'"):
        sources.read(pair, write_table(tmp_path / "t.csv", "s3://bucket/a.png,ash", "s3://bucket/b.png,elm"))


def test_uris_that_differ_by_their_query_alone_are_told(pair: Path, tmp_path: Path):
    rows = [f"https://host/image?id={number}&key=CANARY,ash" for number in (1, 2)]
    with pytest.raises(DataError, match="line 3: https://host/image was named before with another query") as refused:
        sources.read(pair, write_table(tmp_path / "t.csv", "id,label", *rows))
    assert "CANARY" not in str(refused.value)
    assert refused.value.hint == "Pictures are told apart by what stands before the query."


@pytest.mark.parametrize("uri", ["https://host/o/dir%2F1.jpg?alt=media", "s3://user:word@b/1.jpg"])
def test_a_uri_of_a_table_that_is_not_read_has_the_hint_that_goes_with_it(pair: Path, tmp_path: Path, uri: str):
    with pytest.raises(DataError, match="line 2: ") as refused:
        sources.read(pair, write_table(tmp_path / "t.csv", "id,label", f"{uri},ash"))
    with pytest.raises(ConfigError) as alone:
        sources.read(uri)
    assert refused.value.hint == alone.value.hint


@pytest.mark.skipif(os.name != "posix", reason="elsewhere names of files are text")
def test_B10_a_class_whose_name_is_no_utf_8_is_refused_before_any_work(pair: Path):
    folder = pair / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    shutil.copy(next(pair.rglob("*.png")), folder / "x.png")
    with pytest.raises(DataError, match=r"1 class has a name that is no UTF-8: 'caf\\udce9'") as refused:
        sources.read(pair)
    assert "convmv" in refused.value.hint


def test_a_column_that_keeps_pictures_together_by_its_name_is_told(pair: Path, tmp_path: Path):
    table = write_table(tmp_path / "t.csv", "id,label,camera", "a,ash,1", "b,elm,2")
    dataset = sources.read(pair, table)
    assert "'camera' keeps pictures together" in found(dataset, "group-column").message
    assert "--group-column ''" in found(dataset, "group-column").advice
    ignored = sources.read(pair, table, columns=Columns(group=""))
    assert ([sample.group for sample in ignored], ignored.findings) == ([None, None], ())
    assert sources.read(pair, table, columns=Columns(group="camera")).findings == ()


def test_a_column_of_labels_is_no_group_for_its_name(pair: Path, tmp_path: Path):
    table = write_table(tmp_path / "t.csv", "id,camera", "a,leica", "b,nikon")
    for columns in (Columns(), Columns(label="camera")):
        dataset = sources.read(pair, table, columns=columns)
        assert [(sample.label, sample.group) for sample in dataset] == [("leica", None), ("nikon", None)]


# --- tables: rows and files -------------------------------------------------------------------------------------------


def test_B7_rows_that_agree_are_used_once_and_counted(pair: Path, tmp_path: Path):
    table = write_table(tmp_path / "t.csv", "id,label", "a,ash", "b,elm", "a.png,ash", "./a,ash")
    dataset = sources.read(pair, table)
    assert names(dataset) == ["a", "b"]
    assert found(dataset, "duplicate-rows").names == ("a",)


def test_B7_rows_that_disagree_leave_their_picture_out(pair: Path, tmp_path: Path):
    table = write_table(tmp_path / "t.csv", "id,label", "a,elm", "b,elm", "a.png,ash")
    dataset = sources.read(pair, table)
    assert names(dataset) == ["b"]
    assert found(dataset, "conflicting-rows").severity == "error"
    assert found(dataset, "conflicting-rows").names == ("a (ash / elm)",)


def test_B7_a_table_of_conflicts_only_is_refused(pair: Path, tmp_path: Path):
    table = write_table(tmp_path / "t.csv", "id,label", "a,elm", "a,ash")
    with pytest.raises(DataError, match="leaves no usable picture: .*rows that disagree"):
        sources.read(pair, table)


def test_B8_a_missing_file_is_an_error_by_default(pair: Path, tmp_path: Path):
    table = write_table(tmp_path / "t.csv", "id,label", "a,ash", "gone,elm")
    with pytest.raises(DataError, match="names 1 of 2 picture.*: 'gone'") as refused:
        sources.read(pair, table)
    assert "--missing drop" in refused.value.hint


def test_B8_a_missing_file_is_dropped_and_listed_if_asked(pair: Path, tmp_path: Path):
    table = write_table(tmp_path / "t.csv", "id,label", "a,ash", "gone,elm", "b,elm")
    dataset = sources.read(pair, table, missing="drop")
    assert names(dataset) == ["a", "b"]
    assert found(dataset, "missing-files").names == ("gone",)


def test_B8_nothing_but_missing_files_is_an_error_all_the_same(pair: Path, tmp_path: Path):
    table = write_table(tmp_path / "t.csv", "id,label", "gone,elm")
    with pytest.raises(DataError, match="names 1 of 1 picture.*: 'gone'"):
        sources.read(pair, table, missing="drop")


def test_B8_files_that_are_not_in_the_table_are_listed(pair: Path, tmp_path: Path):
    place(pair, "deep/c.png")
    dataset = sources.read(pair, write_table(tmp_path / "t.csv", "id,label", "a,ash"))
    assert names(dataset) == ["a"]
    assert found(dataset, "unlisted-files").names == ("b.png", "deep/c.png")


def test_B8_another_policy_is_refused(pair: Path):
    with pytest.raises(ConfigError, match="missing is 'ignore', but must be 'error' or 'drop'"):
        sources.read(pair, missing="ignore")


def test_the_kaggle_layout_is_known(tmp_path: Path):
    place(tmp_path, "train/1.jpg", "train/2.jpg", "test/3.jpg")
    write_table(tmp_path / "labels.csv", "id,breed", "2,pug", "1,boxer")
    dataset = sources.read(tmp_path)
    assert (dataset.layout, dataset.root) == ("kaggle", tmp_path / "train")
    assert [(s.name, s.label) for s in dataset] == [("2", "pug"), ("1", "boxer")]


def test_a_split_column_is_read(pair: Path, tmp_path: Path):
    table = write_table(tmp_path / "t.csv", "id,label,split", "a,ash,train", "b,ash,Val")
    assert [sample.split for sample in sources.read(pair, table)] == ["train", "validation"]
    unused = sources.read(pair, table, columns=Columns(split=""))
    assert [sample.split for sample in unused] == [None, None]


def test_a_split_of_another_name_is_refused_with_its_line(pair: Path, tmp_path: Path):
    table = write_table(tmp_path / "t.csv", "id,label,split", "a,ash,train", "b,ash,holdout")
    with pytest.raises(DataError, match="line 3: the split 'holdout' is none of train, "):
        sources.read(pair, table)


def test_a_group_column_is_read_and_may_be_empty(pair: Path, tmp_path: Path):
    table = write_table(tmp_path / "t.csv", "id,label,patient", "a,ash,007", "b,ash,")
    assert [sample.group for sample in sources.read(pair, table)] == ["007", None]


# --- DataFrames, and whatever else labelled pictures may be -----------------------------------------------------------


class Frame(dict[str, list[object]]):
    """What pandas and polars have in common."""

    @property
    def columns(self) -> list[str]:
        return list(self)


def test_a_data_frame_gives_paths_and_labels(pair: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(pair.parent)
    frame = Frame(shot=[pair / "a.png", "pictures/b.png"], what=["ash", 7], weight=[0.5, 0.25])
    dataset = sources.dataset_of(frame)
    assert [(sample.name, sample.label) for sample in dataset] == [
        (str(pair / "a.png"), "ash"),
        ("pictures/b.png", "7"),
    ]
    assert all(sample.path.is_file() for sample in dataset)
    assert (dataset.root, dataset.layout) == (pair, "table")
    assert found(dataset, "columns-found").severity == "note"


@pytest.mark.parametrize("missing", [None, float("nan"), np.float32("nan"), type("NAType", (), {})(), ""])
def test_labels_that_a_data_frame_lacks_are_refused_with_their_rows(pair: Path, missing: object):
    frame = Frame(path=[str(pair / "a.png")] * 3, label=["ash", missing, missing])
    with pytest.raises(DataError, match=r"The DataFrame: row 1 has an empty label; row 2 has an empty label\."):
        sources.dataset_of(frame)


def test_labels_that_are_fractions_are_refused_with_their_rows(pair: Path):
    frame = Frame(path=[str(pair / "a.png"), str(pair / "b.png")], label=["1", 2.0])
    with pytest.raises(DataError, match="The column 'label' of the DataFrame holds values that are no text in row 1"):
        sources.dataset_of(frame)


def test_paths_of_a_data_frame_that_are_not_there_are_refused_with_their_rows(pair: Path):
    frame = Frame(path=[str(pair / "a.png"), "gone.png"], label=["ash", "elm"])
    with pytest.raises(DataError, match=r"The DataFrame names 1 of 2 picture.* not there: row 1: 'gone\.png'"):
        sources.dataset_of(frame)


@pytest.mark.parametrize("query", ["?id={}", "%2F{}.png"])
def test_uris_of_a_data_frame_are_looked_at_only_where_they_name_the_pictures(pair: Path, query: str):
    paths, uris = [str(pair / "a.png"), str(pair / "b.png")], [f"https://host/i{query.format(row)}" for row in (0, 1)]
    frame = Frame(path=paths, url=uris, label=["ash", "elm"])
    assert names(sources.dataset_of(frame)) == paths
    with pytest.raises(DataError, match=r"named before with another query|row 0: .* holds an encoded slash"):
        sources.dataset_of(frame, Columns(id="url"))
    with pytest.raises(ConfigError, match="The cells of 'photo', 'url' all name pictures"):
        sources.dataset_of(Frame(photo=paths, url=uris, label=["ash", "elm"]))


@pytest.mark.parametrize("columns", [["url"], ["id", "url"], ["image", "url"]])
def test_a_column_of_uris_of_a_data_frame_is_found(columns: list[str]):
    uris = ["https://host/0.png?sig=CANARY", "https://host/1.png?sig=CANARY"]
    cells: dict[str, list[object]] = {name: ["7", "8"] if name == "id" else list(uris) for name in columns}
    dataset = sources.dataset_of(Frame(**cells, label=["ash", "elm"]))
    assert names(dataset) == ["https://host/0.png", "https://host/1.png"]
    assert "CANARY" not in repr(dataset.findings)


def test_columns_of_a_data_frame_are_named_where_looking_does_not_tell(pair: Path):
    frame = Frame(path=[str(pair / "a.png"), str(pair / "b.png")], one=["ash", "elm"], two=["x", "y"])
    with pytest.raises(ConfigError, match="The DataFrame: which column holds the label\\? None of 'one', 'two'"):
        sources.dataset_of(frame)
    assert sources.dataset_of(frame, Columns(label="two")).labels == ("x", "y")


def test_rows_of_a_data_frame_that_agree_are_used_once(pair: Path):
    frame = Frame(path=[str(pair / "a.png")] * 2, label=["ash", "ash"])
    assert found(sources.dataset_of(frame), "duplicate-rows").names == (str(pair / "a.png"),)


def test_a_path_is_read_and_a_dataset_is_itself(tmp_path: Path):
    root = draw_folders(tmp_path / "photos", ("elm", "ash"), each=2)
    dataset = sources.read(root)
    assert sources.dataset_of(root) == sources.dataset_of(str(root)) == dataset
    assert sources.dataset_of(dataset) is dataset
    table = write_table(root / "t.csv", "id,label", "ash/ash_00,ash", "elm/elm_00,elm")
    assert sources.dataset_of(table).labels == ("ash", "elm")


@pytest.mark.parametrize("data", [None, 3, ["a.png"]])
def test_anything_else_is_refused_by_its_kind(data: object):
    with pytest.raises(ConfigError, match=f"Labelled pictures were expected, not {type(data).__name__}"):
        sources.dataset_of(data)


# --- names ------------------------------------------------------------------------------------------------------------

ODD_NAMES = ["ünï", unicodedata.normalize("NFD", "ünï"), "שלום", "🐕", "new\nline", "x" * 251, " blank ", "a,b;'\"c"]


def test_B10_odd_file_names_survive_in_folders(tmp_path: Path):
    place(tmp_path, *(f"ash/{name}.png" for name in ODD_NAMES))
    assert set(names(sources.read(tmp_path))) == {f"ash/{name}.png" for name in ODD_NAMES}


def test_B10_odd_file_names_survive_in_tables(tmp_path: Path):
    place(tmp_path / "p", *(f"{name}.png" for name in ODD_NAMES))
    quoted = ['"' + name.replace('"', '""') + '",ash' for name in ODD_NAMES]
    dataset = sources.read(tmp_path / "p", write_table(tmp_path / "t.csv", "id,label", *quoted))
    assert [(s.name, s.path.name) for s in dataset] == [(name, f"{name}.png") for name in ODD_NAMES]


def test_B10_classes_that_differ_by_unicode_form_are_warned_of(tmp_path: Path):
    composed, parted = unicodedata.normalize("NFC", "ünï"), unicodedata.normalize("NFD", "ünï")
    dataset = sources.read(place(tmp_path, f"{composed}/1.png", f"{parted}/2.png"))
    assert set(dataset.classes) == {composed, parted}
    assert found(dataset, "similar-classes").names == (" / ".join(ascii(n) for n in sorted([composed, parted])),)


def test_B12_classes_that_differ_by_case_or_blanks_are_warned_of_and_kept_apart(pair: Path, tmp_path: Path):
    place(pair, "c.png", "d.png")
    table = write_table(tmp_path / "t.csv", "id,label", "a,Pug", "b,pug", "c,pug ", "d,boxer")
    dataset = sources.read(pair, table)
    assert dataset.classes == ("Pug", "boxer", "pug", "pug ")
    assert found(dataset, "similar-classes").names == ("'Pug' / 'pug' / 'pug '",)


# --- pictures to predict ----------------------------------------------------------------------------------------------


def test_pictures_keep_the_order_they_were_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(place(tmp_path, "b.png", "a.png", "many/2.png", "many/sub/1.png", "glob/y.jpg", "glob/x.jpg"))
    dataset = sources.read_pictures(["b.png", "many", "glob/*.jpg", "a.png"])
    assert names(dataset) == ["b.png", "many/2.png", "many/sub/1.png", "glob/x.jpg", "glob/y.jpg", "a.png"]
    assert [sample.path.is_file() for sample in dataset] == [True] * 6
    assert set(dataset.labels) == {None}


def test_globs_search_deep_and_leave_folders_out(tmp_path: Path):
    place(tmp_path, "a.png", "sub/b.png", "sub.png/c.png")
    dataset = sources.read_pictures([f"{tmp_path}/**/*.png"])
    assert [Path(name).name for name in names(dataset)] == ["a.png", "c.png", "b.png"]


def test_a_picture_whose_name_looks_like_a_glob_is_itself(tmp_path: Path):
    place(tmp_path, "a[1].png", "a1.png")
    assert names(sources.read_pictures([tmp_path / "a[1].png"])) == [str(tmp_path / "a[1].png")]


def test_B8_a_missing_picture_keeps_its_row(tmp_path: Path):
    place(tmp_path, "a.png")
    given = [str(tmp_path / "gone.png"), str(tmp_path / "a.png")]
    assert names(sources.read_pictures(given)) == given


def test_a_folder_that_is_not_there_is_refused_at_once(tmp_path: Path):
    place(tmp_path, "a.png")
    with pytest.raises(ConfigError, match=r"phtoos' is not there; a picture or a folder of pictures was expected"):
        sources.read_pictures([tmp_path / "a.png", tmp_path / "phtoos"])


def test_a_glob_that_matches_nothing_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"\*\.png' matches no file"):
        sources.read_pictures([f"{tmp_path}/*.png"])


def test_a_folder_without_pictures_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="No picture was found in ") as refused:
        sources.read_pictures([tmp_path])
    assert str(tmp_path) in refused.value.message


def test_the_kaggle_folder_stands_for_its_test_pictures(tmp_path: Path):
    place(tmp_path, "train/1.jpg", "test/3.jpg", "test/2.jpg")
    write_table(tmp_path / "labels.csv", "id,breed", "1,boxer")
    assert names(sources.read_pictures([tmp_path])) == ["2.jpg", "3.jpg"]


def test_A22_a_folder_to_predict_is_not_left_through_links(tmp_path: Path):
    place(tmp_path, "root/1.png", "outside/2.png")
    (tmp_path / "root/2.png").symlink_to(tmp_path / "outside/2.png")
    assert names(sources.read_pictures([tmp_path / "root"])) == ["1.png"]
    assert names(sources.read_pictures([tmp_path / "root"], follow_links=True)) == ["1.png", "2.png"]


MANY_ROWS = f"""{PEAK}
import json
from headstart.data import sources
first = sources.read(Path(sys.argv[1]) / "few", Path(sys.argv[1]) / "few.csv")
before = peak()
many = sources.read(Path(sys.argv[1]) / "many", Path(sys.argv[1]) / "many.csv")
print(json.dumps([len(many), len(many.classes), (peak() - before) / len(many)]))
"""


@pytest.mark.slow
def test_B15_a_table_takes_less_than_three_kilobytes_a_row(tmp_path: Path):
    for name, count in (("few", 10), ("many", 20_000)):
        lines = ["id,label"]
        for number in range(count):
            folder = tmp_path / name / f"{number // 1000:02d}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:07d}.jpg").touch()
            lines.append(f"{number // 1000:02d}/{number:07d}.jpg,breed {number % 120}")
        (tmp_path / f"{name}.csv").write_text("\n".join(lines))
    ran = subprocess.run(
        [sys.executable, "-c", MANY_ROWS, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120
    )
    rows, classes, bytes_a_row = json.loads(ran.stdout)
    assert (rows, classes) == (20_000, 120)
    assert bytes_a_row < 3000  # 1,420 where 200,000 were read
