"""What is written of predictions: the formats, the columns of others, and names as they are."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import write_table

from headstart.data.tables import Table, read_table
from headstart.delivery import submission
from headstart.errors import ConfigError, DataError
from headstart.predictions import Predictions
from headstart.records import ClassNames

NAMES = ("b/2.png", "a/1.jpg", "c.webp")


def said(
    names: tuple[str, ...] = NAMES, classes: tuple[str, ...] = ("ash", "birch"), errors: dict[int, str] | None = None
) -> Predictions:
    """Return predictions whose probabilities all differ; the even rows take the first class."""
    shares = np.full((len(names), len(classes)), 0.0)
    for row in range(len(names)):
        shares[row, row % 2] = 2 / 3 + row / 97
        shares[row, 1 - row % 2] = 1 - shares[row, row % 2]
    shares[list(errors or {})] = np.nan
    return Predictions(names, ClassNames(classes), shares, errors or {})


def cells(text: str) -> list[list[str]]:
    """Return the cells of a CSV text as any reader would see them."""
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))


def sample(tmp_path: Path, *rows: str) -> Table:
    """Return a sample submission."""
    return read_table(write_table(tmp_path / "sample_submission.csv", *rows))


def test_labels_are_an_id_and_a_label_a_row_in_the_order_asked():
    assert submission.render(said()) == "image_id,label\nb/2.png,ash\na/1.jpg,birch\nc.webp,ash\n"


def test_probabilities_have_a_column_a_class_and_lose_no_digit():
    header, *rows = cells(submission.render(said(), "probabilities"))
    assert header == ["image_id", "ash", "birch"]
    np.testing.assert_array_equal([[float(cell) for cell in row[1:]] for row in rows], said().probabilities)


def test_jsonl_is_one_object_a_picture():
    lines = [json.loads(line) for line in submission.render(said(), "jsonl").splitlines()]
    assert [line["path"] for line in lines] == list(NAMES)
    assert lines[1]["label"] == "birch"
    assert lines[1]["probability"] == said().probabilities[1, 1] == lines[1]["top"][0]["probability"]
    assert [one["label"] for one in lines[1]["top"]] == ["birch", "ash"]
    assert {line["status"] for line in lines} == {"ok"}


def test_an_unknown_format_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'xml' is none of labels, probabilities, table, jsonl"):
        submission.render(said(), "xml")


@pytest.mark.parametrize("form", ["labels", "probabilities", "table"])
def test_names_stay_whole(form: str):
    assert [row[0] for row in cells(submission.render(said(("x.png", "x.jpg", "y.png")), form))[1:]] == [
        "x.png",
        "x.jpg",
        "y.png",
    ]


@pytest.mark.parametrize("form", ["labels", "probabilities"])
def test_A3_a_bad_picture_keeps_its_row_with_empty_cells(form: str):
    good, bad = (cells(submission.render(said(errors=e), form)) for e in ({}, {1: "truncated"}))
    assert bad[2] == ["a/1.jpg"] + [""] * (len(good[2]) - 1)
    assert [*bad[:2], *bad[3:]] == [*good[:2], *good[3:]]


def test_A3_a_bad_picture_keeps_its_line_with_the_reason():
    lines = [json.loads(line) for line in submission.render(said(errors={1: "truncated"}), "jsonl").splitlines()]
    assert lines[1] == {
        "path": "a/1.jpg",
        "label": None,
        "probability": None,
        "top": [],
        "set": [],
        "known": None,
        "p_value": None,
        "status": "error",
        "error": "truncated",
    }
    assert "error" not in lines[0]


def test_a_sample_gives_the_columns_and_the_rows_in_its_order(tmp_path: Path):
    like = sample(tmp_path, "image,birch,ash", "c,0,0", "1,0,0", "b/2.png,0,0")
    header, *rows = cells(submission.render(said(), like=like))
    assert header == ["image", "birch", "ash"]
    assert [row[0] for row in rows] == ["c", "1", "b/2.png"]
    wanted = said().probabilities[[2, 1, 0]][:, [1, 0]]
    np.testing.assert_array_equal([[float(cell) for cell in row[1:]] for row in rows], wanted)


def test_a_sample_may_ask_for_fewer_pictures(tmp_path: Path):
    assert len(cells(submission.render(said(), like=sample(tmp_path, "id,ash,birch", "1,0,0")))) == 2


def test_A3_a_bad_picture_keeps_its_row_in_the_columns_of_a_sample(tmp_path: Path):
    like = sample(tmp_path, "id,ash,birch", "c,0,0", "1,0,0")
    assert cells(submission.render(said(errors={1: "empty"}), like=like))[2] == ["1", "", ""]


def test_classes_on_one_side_only_are_refused_with_both_lists(tmp_path: Path):
    with pytest.raises(DataError) as error:
        submission.render(said(), like=sample(tmp_path, "id,ash,oak,elm", "1,0,0,0"))
    assert "Only in the sample (2): 'oak', 'elm'" in error.value.message
    assert "Only in the model (1): 'birch'" in error.value.message


def test_classes_that_only_the_model_has_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"Only in the sample \(0\): none\nOnly in the model \(1\): 'birch'"):
        submission.check_like(sample(tmp_path, "id,ash", "1,0"), ClassNames(["ash", "birch"]))


def test_classes_that_the_model_does_not_know_are_filled_with_zeros_if_asked(tmp_path: Path):
    like = sample(tmp_path, "id,ash,oak,birch", "1,.3,.3,.3")
    with pytest.raises(DataError) as error:
        submission.render(said(), like=like)
    assert "--fill-missing" in error.value.hint
    _, row = cells(submission.render(said(), like=like, fill_missing=True))
    assert (row[0], float(row[2])) == ("1", 0)
    assert sum(map(float, row[1:])) == pytest.approx(1)


def test_classes_that_the_sample_lacks_are_never_left_out(tmp_path: Path):
    with pytest.raises(DataError, match=r"Only in the model \(1\): 'birch'"):
        submission.render(said(), like=sample(tmp_path, "id,ash,oak", "1,0,0"), fill_missing=True)


def test_ids_that_were_not_given_are_listed(tmp_path: Path):
    with pytest.raises(DataError, match=r"asks for 2 of its 3 pictures.*'7', '8'.*Given are 3"):
        submission.render(said(), like=sample(tmp_path, "id,ash,birch", "7,0,0", "1,0,0", "8,0,0"))


def test_an_id_that_fits_two_pictures_is_refused(tmp_path: Path):
    like = sample(tmp_path, "id,ash,birch", "1,0,0")
    with pytest.raises(DataError, match=r"'1' fits 'a/1\.png' and 'b/1\.png'"):
        submission.render(said(("a/1.png", "b/1.png")), like=like)


def test_ids_without_a_suffix_that_fit_two_kinds_of_file_are_refused_with_both(tmp_path: Path):
    like = sample(tmp_path, "id,ash,birch", "x,0,0")
    with pytest.raises(DataError, match=r"'x' fits 'x\.jpg' and 'x\.png'"):
        submission.render(said(("x.jpg", "x.png")), like=like)


def test_a_whole_name_goes_before_one_without_its_folder(tmp_path: Path):
    like = sample(tmp_path, "id,ash,birch", "x.jpg,0,0", "b/x.jpg,0,0")
    predictions = said(("b/x.jpg", "x.jpg"))
    rows = cells(submission.render(predictions, like=like))[1:]
    assert [float(row[1]) for row in rows] == predictions.probabilities[[1, 0], 0].tolist()


def test_an_id_that_is_asked_for_twice_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="more than once for '1'"):
        submission.render(said(), like=sample(tmp_path, "id,ash,birch", "1,0,0", "1,0,0"))


def test_B4_ids_stay_text(tmp_path: Path):
    names = ("00017.png", "1e5.png", "0x1F.png")
    like = sample(tmp_path, "id,ash,birch", "00017,0,0", "1e5,0,0", "0x1F,0,0")
    assert [row[0] for row in cells(submission.render(said(names), like=like))[1:]] == ["00017", "1e5", "0x1F"]
    assert [row[0] for row in cells(submission.render(said(("00017", "1e5", "0x1F"))))[1:]] == ["00017", "1e5", "0x1F"]


@pytest.mark.parametrize("name", ["=1+1", "+A1", "-A1", "@SUM(A1)", "\tx", "\rx", "=cmd|' /C calc'!A0"])
@pytest.mark.parametrize("form", ["labels", "probabilities"])
def test_B9_formulas_are_defused_only_when_asked(name: str, form: str):
    predictions = said((f"{name}.png", "plain.png"), (name, "ash"))
    faithful = cells(submission.render(predictions, form))
    safe = cells(submission.render(predictions, form, spreadsheet_safe=True))
    assert faithful[1][0] == f"{name}.png"
    assert safe[1][0] == f"'{name}.png"
    assert safe[2] == faithful[2] or form == "probabilities"
    assert name in faithful[0] + faithful[1]
    assert f"'{name}" in safe[0] + safe[1][1:]


def test_B9_numbers_are_no_formulas(tmp_path: Path):
    names, like = ("-17.png", "a.png"), sample(tmp_path, "id,ash,birch", "-17,0,0")
    text = submission.render(said(names), like=like, spreadsheet_safe=True)
    assert text == submission.render(said(names), like=like)


def test_B9_the_columns_of_a_sample_are_defused_too(tmp_path: Path):
    like = sample(tmp_path, "id,=1+1,ash", "@a,0,0")
    predictions = said(("@a.png",), ("=1+1", "ash"))
    assert cells(submission.render(predictions, like=like, spreadsheet_safe=True))[0] == ["id", "'=1+1", "ash"]
    assert cells(submission.render(predictions, like=like))[1][0] == "@a"


@pytest.mark.parametrize(
    "name",
    [
        "caf\u00e9",
        "cafe\u0301",
        "\u05e9\u05dc\u05d5\u05dd",
        "🐕",
        "two\nlines",
        'quo"te',
        "a,b",
        "a;b",
        " spaces ",
        "x" * 251,
    ],
)
@pytest.mark.parametrize("form", ["labels", "jsonl"])
def test_B10_names_come_back_exactly_as_they_are(name: str, form: str):
    text = submission.render(said((f"{name}.png", "other.png"), (name, "ash")), form)
    if form == "labels":
        assert cells(text)[1] == [f"{name}.png", name]
    else:
        assert json.loads(text.split("\n")[0])["path"] == f"{name}.png"
        assert json.loads(text.split("\n")[0])["label"] == name


@pytest.mark.parametrize("name", ["carriage\rreturn", "form\ffeed", "line\u2028separator", "nel\x85"])
def test_B10_unusual_line_ends_stay_inside_their_cell(name: str):
    text = submission.render(said((f"{name}.png", "other.png")))
    assert [row[0] for row in cells(text)[1:]] == [f"{name}.png", "other.png"]


def test_B11_class_names_are_cells_and_nothing_else():
    classes = ("<script>alert(1)</script>", "../x", "CON", "x" * 300, "a/b")
    text = submission.render(said(classes=classes), "probabilities")
    assert cells(text)[0] == ["image_id", *classes]


# --- known ------------------------------------------------------------------------------------------------------------


def doubted() -> Predictions:
    """Return three predictions: one that is known, one that is not, and one that could not be made."""
    known = np.array([True, False, False])
    return dataclasses.replace(said(errors={2: "truncated"}), known=known, p_value=np.array([0.5, 0.001, np.nan]))


@pytest.mark.parametrize("form", ["labels", "probabilities"])
def test_a_column_says_what_is_known_if_asked(form: str):
    plain, told = cells(submission.render(doubted(), form)), cells(submission.render(doubted(), form, known=True))
    assert [row[:-1] for row in told] == plain
    assert [row[-1] for row in told] == ["known", "yes", "no", ""]


def test_the_columns_of_a_sample_have_no_place_for_known(tmp_path: Path):
    with pytest.raises(ConfigError, match="no place for a column 'known'"):
        submission.render(doubted(), like=sample(tmp_path, "id,ash,birch", "1,0,0"), known=True)


def test_a_class_called_known_keeps_its_column():
    with pytest.raises(ConfigError, match="A class is called 'known'"):
        submission.render(said(classes=("ash", "known")), "probabilities", known=True)


def test_a_table_gives_the_reason_of_a_bad_row():
    header, good, _, bad = cells(submission.render(doubted(), "table"))
    assert (header[-1], good[-1], bad[-1]) == ("error", "", "truncated")
    assert bad[:-1] == ["c.webp", "", "", "", "", ""]


def test_unknown_pictures_are_counted_with_their_rows(tmp_path: Path):
    text = "1 of 3 pictures looks like none of the model's classes: row"
    assert submission.unknown_line(doubted()) == f"{text} 3 (a/1.jpg)"
    assert submission.unknown_line(doubted(), header=False) == f"{text} 2 (a/1.jpg)"
    like = sample(tmp_path, "id,ash,birch", "1,0,0", "2,0,0")
    assert submission.unknown_line(doubted(), like) == f"{text.replace('3', '2')} 2 (a/1.jpg)"
    assert submission.unknown_line(said()) == ""
