"""The look at the files before training: what is left out is named, with its reason, and nothing is repaired."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from conftest import draw_folders

from headstart.data import images, sources, splits
from headstart.errors import DataError
from headstart.inspection import files
from headstart.records import Finding


def found(inspection: files.Inspection, code: str) -> Finding:
    """Return the one finding of this code."""
    (finding,) = [finding for finding in inspection.findings if finding.code == code]
    return finding


def codes(inspection: files.Inspection) -> set[str]:
    return {finding.code for finding in inspection.findings}


def look(root: Path) -> files.Inspection:
    return files.inspect(sources.read(root))


def test_clean_pictures_are_all_kept_without_a_finding(photos: Path):
    inspection = look(photos)
    assert len(inspection.dataset) == 36
    assert inspection.findings == ()
    first = inspection.dataset[0]
    assert inspection.digests[0] == images.digest(first.path.read_bytes())


def test_A1_zero_byte_file_is_left_out_with_its_reason(photos: Path):
    (photos / "birch" / "empty.jpg").touch()
    inspection = look(photos)
    assert len(inspection.dataset) == 36
    assert found(inspection, "unusable-pictures").names == ("birch/empty.jpg (the file is empty)",)
    assert found(inspection, "unusable-pictures").message.startswith("1 picture cannot be used and is left out")


@pytest.mark.timeout(30, method="thread")  # a thread that hangs in a pipe cannot be ended otherwise
def test_A21_a_pipe_and_a_link_to_nowhere_are_left_out_with_their_reasons(photos: Path):
    os.mkfifo(photos / "ash" / "x.jpg")
    (photos / "ash" / "y.jpg").symlink_to(photos / "gone.jpg")
    inspection = look(photos)
    assert found(inspection, "unusable-pictures").names == (
        "ash/x.jpg (not a regular file)",
        "ash/y.jpg (cannot be read: No such file or directory)",
    )


def test_A24_a_file_deleted_after_the_scan_is_left_out_with_its_reason(photos: Path):
    dataset = sources.read(photos)
    (photos / "cedar" / "cedar_03.png").unlink()
    inspection = files.inspect(dataset)
    assert len(inspection.dataset) == len(inspection.digests) == 35
    reason = "cedar/cedar_03.png (cannot be read: No such file or directory)"
    assert found(inspection, "unusable-pictures").names == (reason,)


def test_digests_stay_beside_their_pictures_when_some_are_left_out(photos: Path):
    (photos / "ash" / "ash_00.png").write_bytes(b"")
    inspection = look(photos)
    wanted = [images.digest(sample.path.read_bytes()) for sample in inspection.dataset]
    assert list(inspection.digests) == wanted


def test_E1_copies_are_kept_and_noted_and_share_a_group(photos: Path):
    shutil.copy(photos / "ash" / "ash_01.png", photos / "ash" / "copy.png")
    inspection = look(photos)
    assert found(inspection, "identical-pictures").names == ("ash/ash_01.png", "ash/copy.png")
    rows = [row for row, sample in enumerate(inspection.dataset) if sample.name in ("ash/ash_01.png", "ash/copy.png")]
    assert len(set(splits.group_ids(inspection.dataset, inspection.digests)[rows])) == 1


def test_B7_copies_that_disagree_on_the_class_are_all_left_out(photos: Path):
    shutil.copy(photos / "ash" / "ash_01.png", photos / "birch" / "copy.png")
    shutil.copy(photos / "ash" / "ash_01.png", photos / "ash" / "copy.png")
    inspection = look(photos)
    assert len(inspection.dataset) == 35
    conflict = "ash/ash_01.png (ash) = ash/copy.png (ash) = birch/copy.png (birch)"
    assert found(inspection, "conflicting-duplicates").names == (conflict,)
    assert found(inspection, "conflicting-duplicates").severity == "error"


def test_empty_files_of_different_classes_are_no_copies_of_each_other(photos: Path):
    for name in ("ash", "birch"):
        (photos / name / "empty.jpg").touch()
    inspection = look(photos)
    assert codes(inspection) == {"unusable-pictures"}
    assert len(found(inspection, "unusable-pictures").names) == 2


@pytest.mark.parametrize("each", [1, 2, 4])
def test_B13_classes_of_few_pictures_are_kept_and_warned_of(tmp_path: Path, each: int):
    draw_folders(tmp_path / "p", ("birch", "cedar"), each=8)
    inspection = look(draw_folders(tmp_path / "p", ("ash",), each=each))
    assert len(inspection.dataset) == 16 + each
    assert found(inspection, "tiny-classes").names == (f"ash ({each})",)


def test_B13_five_pictures_are_not_warned_of(tmp_path: Path):
    assert look(draw_folders(tmp_path / "p", each=5)).findings == ()


def test_B13_a_single_class_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"holds one class only \('ash'\); at least two classes are needed"):
        look(draw_folders(tmp_path / "p", ("ash",)))


def test_B13_a_single_class_left_by_unusable_files_is_refused_with_the_reason(tmp_path: Path):
    draw_folders(tmp_path / "p", ("ash", "elm"), each=2)
    for path in (tmp_path / "p" / "elm").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"one class only \('ash'\)") as refused:
        look(tmp_path / "p")
    assert "- 2 pictures cannot be used and are left out" in refused.value.message


def test_B13_no_usable_picture_is_refused_with_the_reason(tmp_path: Path):
    draw_folders(tmp_path / "p", ("ash", "elm"), each=1)
    for path in (tmp_path / "p").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="holds no usable picture") as refused:
        look(tmp_path / "p")
    assert "2 pictures cannot be used" in refused.value.message


@pytest.mark.parametrize(("many", "warned"), [(10, False), (11, True)])
def test_imbalance_is_warned_of_beyond_ten_to_one(tmp_path: Path, many: int, warned: bool):
    draw_folders(tmp_path / "p", ("ash",), each=many)
    inspection = look(draw_folders(tmp_path / "p", ("elm",), each=1))
    assert ("imbalance" in codes(inspection)) == warned
    if warned:
        assert found(inspection, "imbalance").names == ("ash (11)", "elm (1)")


def test_what_was_met_while_reading_is_passed_on(photos: Path):
    (photos / "notes.txt").write_text("x")
    assert codes(look(photos)) == {"other-suffixes"}


def test_progress_is_told_up_to_the_end(photos: Path):
    heard: list[tuple[str, int, int]] = []
    files.inspect(sources.read(photos), lambda *step: heard.append(step))
    assert heard[-1] == ("Reading", 36, 36)


def test_fingerprints_of_an_unreadable_file_are_empty(photos: Path):
    dataset = sources.read_pictures([photos / "gone.png", photos / "ash" / "ash_00.png"])
    digests, failures = files.fingerprints(dataset)
    assert failures == {0: "cannot be read: No such file or directory"}
    assert (digests[0], len(digests[1])) == ("", 64)


def test_A10_remarks_become_findings_that_name_the_pictures():
    findings = files.remarks({"many-frames": ("a.gif", "b.gif"), "sixteen-bit": ("c.png",), "wrong-suffix": ()})
    assert [(f.code, f.severity, f.names) for f in findings] == [
        ("many-frames", "note", ("a.gif", "b.gif")),
        ("sixteen-bit", "warning", ("c.png",)),
    ]
    assert findings[0].message.startswith("2 pictures have several frames")


def test_A4_no_picture_is_touched(photos: Path):
    def state() -> dict[Path, tuple[bytes, int]]:
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in photos.rglob("*") if path.is_file()}

    before = state()
    look(photos)
    assert len(before) == 36
    assert state() == before
