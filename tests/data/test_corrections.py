"""The sheet of corrections: what a person filled in is done, told, or refused with its line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import write_table

from headstart.data import corrections
from headstart.data.tables import read_table
from headstart.errors import DataError
from headstart.records import Dataset, Finding, Sample

HEADER = ",".join(corrections.COLUMNS)
EARLIER = Finding("other-suffixes", "note", "2 files are no pictures")


@dataclass(frozen=True)
class Doubted:
    name: str
    label: str
    suggested: str
    confidence: float
    duplicate_of: str = ""


def dataset(*labels: str) -> Dataset:
    """Return pictures a.jpg, b.jpg, … with these labels."""
    samples = (Sample(Path(f"{name}.jpg"), f"{name}.jpg", label) for name, label in zip("abcdef", labels, strict=False))
    return Dataset(Path(), tuple(samples), (EARLIER,))


def corrected(folder: Path, data: Dataset, *rows: str, header: str = HEADER) -> Dataset:
    return corrections.apply(data, read_table(write_table(folder / "suspects.csv", header, *rows)))


def found(data: Dataset) -> dict[str, tuple[str, ...]]:
    """Return code → names of the findings that the sheet brought."""
    assert data.findings[0] == EARLIER
    return {finding.code: finding.names for finding in data.findings[1:]}


def refused(folder: Path, *rows: str, header: str = HEADER) -> DataError:
    with pytest.raises(DataError) as error:
        corrected(folder, dataset("beagle", "whippet"), *rows, header=header)
    return error.value


def test_a_sheet_has_a_row_for_each_doubt_and_an_empty_correction():
    doubts = [Doubted("a, b.jpg", "beagle", "whippet", 0.98765, "c.jpg")]
    assert corrections.sheet(doubts) == f'{HEADER}\n"a, b.jpg",beagle,whippet,0.988,c.jpg,\n'


def test_a_sheet_is_read_back_as_it_was_written(tmp_path: Path):
    path = tmp_path / "suspects.csv"
    path.write_text(corrections.sheet([Doubted('é "x"\r.jpg', "ash;1", " elm", 1)]), encoding="utf-8", newline="")
    assert read_table(path).rows == (('é "x"\r.jpg', "ash;1", " elm", "1.000", "", ""),)


FORMULAS = ["=1+1", "+1", "-1", "@a", "\tx", "\rx", "＝1", "＋1", "－1", "＠a"]
PLAIN = ["'=1", "''=1", "'", "''", "'tis", "a=1", "x\n=1"]


@pytest.mark.parametrize("text", [*FORMULAS, *PLAIN])
def test_a_sheet_runs_no_formula_and_gives_every_text_back(tmp_path: Path, text: str):
    data = Dataset(Path(), (Sample(Path("a.png"), text, text), Sample(Path("b.png"), "b", "ash")))
    path = tmp_path / "suspects.csv"
    written = corrections.sheet([Doubted(text, text, "ash", 0.9), Doubted("b", "ash", text, 0.9)])
    path.write_text(written.replace(",0.900,,\n", ",0.900,,accept\n"), encoding="utf-8", newline="")
    assert not [cell for row in read_table(path).rows for cell in row if cell[:1] in tuple("=+-@\t\r\n＝＋－＠")]
    assert corrections.apply(data, read_table(path)).labels == ("ash", text)


def test_a_sheet_whose_apostrophes_were_swallowed_is_read(tmp_path: Path):
    data = Dataset(Path(), (Sample(Path("a.png"), "=a", "+ash"),), (EARLIER,))
    assert corrected(tmp_path, data, "=a,+ash,elm,0.9,,accept").labels == ("elm",)


def test_a_class_copied_from_the_sheet_into_a_correction_is_that_class(tmp_path: Path):
    data = Dataset(Path(), (Sample(Path("a.png"), "a", "ash"), Sample(Path("b.png"), "b", "=elm")), (EARLIER,))
    assert corrected(tmp_path, data, "a,ash,'=elm,0.9,,'=elm").labels == ("=elm", "=elm")


@pytest.mark.parametrize("word", ["accept", " Accept ", "ACCEPT", "whippet", " whippet"])
def test_a_label_is_accepted_or_named(tmp_path: Path, word: str):
    after = corrected(tmp_path, dataset("beagle", "whippet"), f"a.jpg,beagle,whippet,0.9,,{word}")
    assert after.labels == ("whippet", "whippet")
    assert found(after) == {"relabelled-pictures": ("a.jpg: beagle -> whippet",)}


@pytest.mark.parametrize("word", ["remove", " Remove "])
def test_a_picture_is_removed_and_the_others_stay_in_order(tmp_path: Path, word: str):
    after = corrected(tmp_path, dataset("beagle", "whippet", "beagle"), f"b.jpg,whippet,beagle,0.9,,{word}")
    assert [sample.name for sample in after] == ["a.jpg", "c.jpg"]
    assert found(after) == {"removed-pictures": ("b.jpg",)}


def test_an_empty_correction_and_the_same_label_change_nothing(tmp_path: Path):
    before = dataset("beagle", "whippet")
    rows = ("a.jpg,beagle,whippet,0.9,, ", "b.jpg,whippet,beagle,0.9,,whippet")
    assert corrected(tmp_path, before, *rows) == before


def test_a_class_called_like_a_word_goes_first(tmp_path: Path):
    rows = ("a.jpg,beagle,whippet,0.9,,remove", "b.jpg,whippet,beagle,0.9,,REMOVE")
    after = corrected(tmp_path, dataset("beagle", "whippet", "remove"), *rows)
    assert after.labels == ("remove", "remove")
    assert found(after)["removed-pictures"] == ("b.jpg",)


def test_a_class_with_spaces_around_it_is_met_exactly(tmp_path: Path):
    after = corrected(tmp_path, dataset("beagle", " whippet"), "a.jpg,beagle,,0.9,, whippet")
    assert after.labels == (" whippet", " whippet")


def test_new_classes_are_made_and_named_with_the_closest_old_one(tmp_path: Path):
    rows = ("a.jpg,beagle,whippet,0.9,,WHIPET", "b.jpg,whippet,beagle,0.9,,ox")
    after = corrected(tmp_path, dataset("beagle", "whippet", "whippet"), *rows)
    assert after.labels == ("WHIPET", "ox", "whippet")
    assert found(after)["new-classes"] == ("WHIPET (did you mean whippet?)", "ox")


def test_a_correction_of_another_label_is_passed_over_and_named(tmp_path: Path):
    before = dataset("beagle", "whippet")
    after = corrected(tmp_path, before, "a.jpg,pug,whippet,0.9,,accept", "b.jpg,pug,beagle,0.9,,remove")
    assert after.samples == before.samples
    assert found(after) == {
        "stale-corrections": ("a.jpg: pug in the sheet, beagle now", "b.jpg: pug in the sheet, whippet now")
    }


def test_corrections_of_absent_pictures_are_named(tmp_path: Path):
    before = dataset("beagle", "whippet")
    after = corrected(tmp_path, before, "./a.jpg,beagle,whippet,0.9,,accept", "z.jpg,beagle,whippet,0.9,,")
    assert after.samples == before.samples
    assert found(after) == {"absent-corrections": ("./a.jpg",)}


def test_a_sheet_that_a_spreadsheet_program_saved_is_read(tmp_path: Path):
    path = tmp_path / "suspects.csv"
    lines = (HEADER.replace(",", ";"), "a.jpg;beagle;whippet;0,98;;Accept ", "b.jpg;whippet;beagle;0,9;;")
    path.write_bytes(b"\xef\xbb\xbf" + "".join(line + "\r\n" for line in lines).encode())
    assert corrections.apply(dataset("beagle", "whippet"), read_table(path)).labels == ("whippet", "whippet")


def test_the_same_correction_twice_is_one(tmp_path: Path):
    rows = ("a.jpg,beagle,whippet,0.9,,accept", "a.jpg,beagle,,0.9,,whippet", "a.jpg,beagle,whippet,0.9,,")
    assert corrected(tmp_path, dataset("beagle", "whippet"), *rows).labels == ("whippet", "whippet")


def test_missing_columns_are_all_named(tmp_path: Path):
    error = refused(tmp_path, "a.jpg,beagle", header="path,Label")
    assert "suspects.csv is no sheet of corrections" in error.message
    assert "lacks 'label', 'suggested', 'correction'; its columns are 'path', 'Label'." in error.message
    assert error.hint == f"Its first line must be {HEADER}."


def test_a_sheet_without_a_correction_is_refused(tmp_path: Path):
    error = refused(tmp_path, "a.jpg,beagle,whippet,0.9,,", "b.jpg,whippet,beagle,0.9,, ")
    assert error.message.startswith("None of the 2 rows of ")
    assert error.message.endswith("suspects.csv has a correction; nothing was changed.")
    assert error.hint.startswith("Fill in the column `correction` with accept (the suggested label), remove or a class")


def test_all_lines_that_cannot_be_followed_are_shown(tmp_path: Path):
    error = refused(
        tmp_path,
        "a.jpg,beagle,whippet,0.9,,accept",
        "b.jpg,whippet,,0.9,,accept",
        "a.jpg,beagle,whippet,0.9,,remove",
    )
    assert "line 3: 'b.jpg' accepts a suggested label, but there is none" in error.message
    assert "line 4: 'a.jpg' is corrected otherwise than on line 2" in error.message
    assert error.hint.startswith("Fill in the column `correction`")


def test_labels_that_changed_since_a_previous_run_are_named():
    previous = {"1": "beagle", "2": "beagle", "": "pug", "9": "pug"}
    (finding,) = corrections.changed_labels(previous, dataset("beagle", "whippet", "pug", "ash"), ["1", "2", "3", ""])
    assert finding.message == "1 label changed since the previous run"
    assert finding.names == ("b.jpg: beagle → whippet",)


def test_labels_that_stayed_are_no_finding():
    assert corrections.changed_labels({"1": "beagle"}, dataset("beagle"), ["1"]) == []
