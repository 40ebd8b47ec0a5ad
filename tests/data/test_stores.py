"""Files on a store: the same pictures, whatever a network does in between, and no word of who may read them."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from bucket import KEY, SECRET, Bucket
from conftest import Ran, write_table

from headstart.data import images, listings, manifest, sources, stores, uris
from headstart.delivery import streaming
from headstart.errors import ConfigError, DataError, PictureError, StorageError
from headstart.inspection import files
from headstart.records import Locator


@pytest.fixture
def filled(bucket: Bucket, photos: Path) -> Bucket:
    """A bucket with the pictures of `photos` below `photos/`."""
    bucket.fill(photos, "photos/")
    return bucket


def test_a_folder_on_a_store_is_read_as_one_of_this_machine(filled: Bucket, photos: Path):
    filled.objects |= {"photos/ash/notes.txt": b"x", "photos/.hidden/1.png": b"x", "photos/loose.png": b"x"}
    (photos / "ash" / "notes.txt").write_text("x")
    (photos / ".hidden").mkdir()
    (photos / ".hidden" / "1.png").write_text("x")
    (photos / "loose.png").write_text("x")
    here, there = sources.read(photos), sources.read("s3://bucket/photos")
    assert [(one.name, one.label) for one in there] == [(one.name, one.label) for one in here]
    assert there.findings == here.findings
    assert str(there.root) == "s3://bucket/photos"
    assert files.fingerprints(there)[0] == files.fingerprints(here)[0]
    assert filled.counts()["LIST"] > 5  # page by page


def test_pictures_to_predict_are_called_as_they_are_asked_for(filled: Bucket, photos: Path):
    (photos / "ash" / "ash_00.png").rename(photos / "one.png")
    given = [f"file://{photos}/one.png", "s3://bucket/photos/birch", "s3://bucket/photos/ash/ash_01.png"]
    names = list(listings.of(given).names())
    assert names[0] == str(photos / "one.png")
    assert names[1] == "s3://bucket/photos/birch/birch_00.png"
    assert names[-1] == given[-1]
    assert next(listings.of(given[1:2]).names()) == "birch_00.png"
    with pytest.raises(ConfigError, match="No picture was found in s3://bucket/nothing"):
        listings.of(["s3://bucket/nothing"])


def test_a_locator_travels_and_tells_what_it_is():
    one = Locator("s3://b/photos/", "ash/1.PNG", size=5, mark=7, query="sig=1")
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301
    assert (str(one), one.name, one.suffix) == ("s3://b/photos/ash/1.PNG", "1.PNG", ".PNG")
    assert "sig" not in repr(one) + str(one) + one.to_text()
    member = Locator("/a/x.tar", "ash/#1.png", "member", 512, 99)
    assert Locator.from_text(member.to_text()) == member
    assert Locator.from_text(str(one)).file == one.file


@pytest.mark.parametrize("fault", ["busy", "drop", "torn", "short", "reset", "slow"])
def test_A26_what_goes_wrong_once_or_twice_is_asked_for_again(
    filled: Bucket, fault: str, monkeypatch: pytest.MonkeyPatch
):
    if fault == "slow":
        monkeypatch.setattr(stores, "TIMEOUT", 1.0)
    place = sources.read("s3://bucket/photos")[0].path
    filled.faults.extend([fault] * (1 if fault == "slow" else 2))
    assert images.read_bytes(place) == filled.objects["photos/ash/ash_00.png"]
    assert not filled.faults


def test_A26_a_torn_answer_is_never_a_picture(filled: Bucket, monkeypatch: pytest.MonkeyPatch):
    dataset = sources.read("s3://bucket/photos")
    filled.broken.add("photos/ash/ash_00.png")
    monkeypatch.setattr(stores, "SILENT", 2)
    filled.denied |= {f"photos/{sample.name}" for sample in dataset.samples[1:4]}
    digests, failures = files.fingerprints(dataset)
    assert sorted(failures) == [0, 1, 2, 3]
    assert failures[1] == "cannot be read: the store refuses it to these credentials"
    assert digests[0] == ""
    assert failures[0].startswith("cannot be read: ")


def test_a_public_bucket_is_asked_without_a_signature(filled: Bucket, monkeypatch: pytest.MonkeyPatch):
    images.read_bytes(uris.place("s3://bucket/photos/ash/ash_00.png"))
    assert filled.signed == {True}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    stores.forget_connections()
    images.read_bytes(uris.place("s3://bucket/photos/ash/ash_00.png"))
    assert filled.signed == {True, False}


def test_a_store_that_cannot_be_opened_says_what_is_lacking(bucket: Bucket):
    with pytest.raises(StorageError, match="az://container cannot be opened: the environment does not tell"):
        sources.read("az://container/photos")


def test_a_store_without_encryption_says_which_variable_allows_it(filled: Bucket, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    stores.forget_connections()
    with pytest.raises(
        StorageError, match="s3://bucket is looked for at an endpoint that begins with http://"
    ) as refused:
        sources.read("s3://bucket/photos")
    assert "AWS_ALLOW_HTTP=true" in refused.value.hint
    assert filled.asked == []
    monkeypatch.setenv("AWS_ALLOW_HTTP", "1")
    assert len(sources.read("s3://bucket/photos")) == 36


def test_A26_an_answer_that_is_too_short_each_time_is_no_picture(filled: Bucket):
    place = sources.read("s3://bucket/photos")[0].path
    filled.faults.extend(["short"] * stores.ATTEMPTS)
    with pytest.raises(PictureError, match="fewer bytes came than it has"):
        images.read_bytes(place)


def test_a_page_that_is_lost_is_listed_again(filled: Bucket):
    wanted = [one.name for one in sources.read("s3://bucket/photos")]
    filled.faults.extend(["torn", "busy", "drop"])
    assert [one.name for one in sources.read("s3://bucket/photos")] == wanted


def test_a_store_that_refuses_says_so_without_a_word_of_its_own(filled: Bucket):
    filled.faults.append("denied")
    with pytest.raises(StorageError, match="refuses it to these credentials") as told:
        sources.read("s3://bucket/photos")
    assert KEY not in str(told.value)


def test_a_store_that_fails_all_the_time_is_given_up(filled: Bucket, monkeypatch: pytest.MonkeyPatch):
    dataset = sources.read("s3://bucket/photos")
    monkeypatch.setattr(stores, "SILENT", 5)
    filled.faults.extend(["busy"] * 10_000)
    with pytest.raises(StorageError, match="5 requests to s3://bucket failed one after the other: the server answers"):
        files.fingerprints(dataset)


def test_a_picture_that_is_gone_is_one_that_cannot_be_used(filled: Bucket):
    dataset = sources.read("s3://bucket/photos")
    del filled.objects["photos/ash/ash_00.png"]
    with pytest.raises(PictureError, match="it is not there"):
        images.read_bytes(dataset[0].path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (f"s3://{KEY}:{SECRET}@bucket/photos", "credentials"),
        (f"s3://{KEY}@bucket/photos", "credentials"),
        (f"https://user:{SECRET}@host/photos.csv", "credentials"),
        (f"az://bucket/photos?sig={SECRET}", "a query"),
        (f"http://host/{KEY}.jpg?sig={SECRET}", "are read"),
        (f"ftp://{KEY}:{SECRET}@host/1.jpg", "are read"),
        ("s3:///photos", "names no bucket"),
    ],
)
def test_A29_what_must_not_be_in_a_uri_is_refused_and_not_repeated(given: str, said: str):
    with pytest.raises(ConfigError, match=said) as told:
        sources.read(given)
    assert SECRET not in str(told.value)
    assert SECRET.partition("/")[2] not in str(told.value)


def test_a_key_with_an_at_or_a_question_mark_is_a_key():
    for text in ("s3://bucket/a@b.jpg", "s3://bucket/what?.jpg", "https://host:8080/a@b.jpg"):
        assert str(uris.place(text)) == text
        assert uris.shown(text) == text


def test_a_file_uri_is_a_path(photos: Path):
    assert uris.place(f"file://{photos}") == photos
    assert sources.read(f"file://{photos}") == sources.read(photos)
    assert uris.place("file:///C:/my%20photos") == Path("C:/my photos")


def test_a_file_uri_of_another_host_and_an_encoded_slash_are_refused():
    with pytest.raises(ConfigError, match="names the host data") as refused:
        uris.place("file://data/x.png")
    assert "file:///data/x.png" in refused.value.hint
    with pytest.raises(ConfigError, match="holds an encoded slash") as refused:
        uris.place("https://host/o/folder%2Fa.jpg?token=CANARY")
    assert "CANARY" not in str(refused.value)


def test_ids_of_a_table_may_be_uris(filled: Bucket, tmp_path: Path):
    rows = [f"s3://bucket/photos/{name}/{name}_0{row}.png,{name}" for name in ("ash", "birch") for row in range(3)]
    table = write_table(tmp_path / "labels.csv", "picture,kind", *rows)
    dataset = sources.dataset_of(table, sources.Columns(label="kind"))
    assert [one.name for one in dataset] == [row.partition(",")[0] for row in rows]
    assert not files.fingerprints(dataset)[1]
    with pytest.raises(DataError, match=r"names 1 of 7 pictures that are not there: 's3://bucket/photos/gone.png'"):
        sources.read(tmp_path, write_table(table, "id,label", *rows, "s3://bucket/photos/gone.png,ash"))


def test_many_uris_are_looked_up_in_a_listing(filled: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stores, "FEW", 2)
    rows = [f"s3://bucket/{key},x" for key in sorted(filled.objects)]
    dataset = sources.read(tmp_path, write_table(tmp_path / "labels.csv", "id,label", *rows))
    assert len(dataset) == len(rows)
    assert filled.counts()["HEAD"] == 0
    assert all(sample.path.mark for sample in dataset)


def test_a_row_with_credentials_is_refused_by_its_line(tmp_path: Path):
    table = write_table(tmp_path / "labels.csv", "id,label", "s3://b/1.png,x", f"s3://{KEY}:{SECRET}@b/2.png,x")
    with pytest.raises(DataError, match="line 3: s3://b/2.png was given with credentials") as told:
        sources.read(tmp_path, table)
    assert SECRET not in str(told.value)


def test_tables_and_pictures_lie_wherever_they_like(filled: Bucket, tmp_path: Path):
    filled.objects["labels.csv"] = b"id,label\nash/ash_00,x\nbirch/birch_00.png,y\n"
    table = tmp_path / "labels.csv"
    table.write_bytes(filled.objects["labels.csv"])
    one, other = sources.read("s3://bucket/photos", "s3://bucket/labels.csv"), sources.read("s3://bucket/photos", table)
    assert [(s.name, s.label) for s in one] == [("ash/ash_00", "x"), ("birch/birch_00.png", "y")]
    assert one == other
    web = sources.read(f"{filled.url}/bucket/photos", f"{filled.url}/bucket/labels.csv?sig=CANARY")
    assert [s.name for s in web] == ["ash/ash_00", "birch/birch_00.png"]
    assert images.read_bytes(web[1].path) == filled.objects["photos/birch/birch_00.png"]
    for read in (sources.read, lambda given: listings.of([given])):
        with pytest.raises(ConfigError, match="does not tell what lies in a folder"):
            read(f"{filled.url}/bucket/photos")


def test_a_large_file_is_put_in_parts(bucket: Bucket, tmp_path: Path):
    (tmp_path / "x").write_bytes(bytes(range(256)) * 50_000)
    stores.put(tmp_path / "x", Locator("s3://bucket/out/x"))
    assert bucket.objects == {"out/x": (tmp_path / "x").read_bytes()}
    assert bucket.counts() == {"POST": 2, "PUT": 3}
    bucket.faults.extend(["denied"] * 20)
    with pytest.raises(StorageError, match="s3://bucket/out/y cannot be written: the store refuses"):
        stores.put(tmp_path / "x", Locator("s3://bucket/out/y"))


def python(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_a_local_run_loads_nothing_of_this(photos: Path):
    code = "import sys\nfrom headstart.data import images, listings, sources\n"
    code += "read = sources.read(sys.argv[1]), listings.of([sys.argv[1]])\nimages.read_bytes(read[0][0].path)\n"
    assert python(code + "print({'obstore', 'pyarrow'} & set(sys.modules))", photos) == "set()\n"


@pytest.mark.parametrize("given", ["s3://bucket/photos", "x.parquet"])
def test_what_is_missing_is_told_with_what_installs_it(given: str, tmp_path: Path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    code = "import os, sys\nsys.modules |= {'obstore': None, 'pyarrow': None}\nimport headstart as hs\n"
    code += (
        "os.chdir(sys.argv[2])\ntry:\n    hs.read('.', sys.argv[1]) if 'x' in sys.argv[1] else hs.read(sys.argv[1])\n"
    )
    assert "pip install 'headstart[cloud]'" in python(
        f"{code}except hs.HeadstartError as error:\n    print(error)", given, tmp_path
    )


def test_a_kaggle_folder_on_a_store_is_one(filled: Bucket):
    for key in [key for key in filled.objects if "ash" in key]:
        name = key.rpartition("/")[2]
        filled.objects[f"dogs/train/{name}"] = filled.objects[f"dogs/test/t{name}"] = filled.objects[key]
    filled.objects["dogs/labels.csv"] = b"id,breed\nash_00,a\nash_01,b\n"
    dataset = sources.read("s3://bucket/dogs")
    assert (dataset.layout, len(dataset)) == ("kaggle", 2)
    assert next(listings.of(["s3://bucket/dogs"]).names()).startswith("tash")


def test_A29_a_signed_address_is_asked_for_and_not_shown(filled: Bucket, tmp_path: Path):
    url = f"{filled.url}/bucket/photos/ash/ash_00.png"
    dataset = sources.read(tmp_path, write_table(tmp_path / "t.csv", "id,label", f"{url}?X-Sig={SECRET},x"))
    assert dataset[0].name == url
    assert images.read_bytes(dataset[0].path) == filled.objects["photos/ash/ash_00.png"]
    assert SECRET not in repr(dataset[0])


def test_what_was_read_once_is_known(filled: Bucket, tmp_path: Path):
    first = files.fingerprints(sources.read("s3://bucket/photos"), cache=tmp_path / "cache")
    filled.asked.clear()
    again = files.fingerprints(sources.read("s3://bucket/photos"), cache=tmp_path / "cache")
    assert again == first
    assert filled.counts()["GET"] == 0
    filled.objects["photos/ash/ash_00.png"] += b"\0"
    changed = files.fingerprints(sources.read("s3://bucket/photos"), cache=tmp_path / "cache")
    assert filled.counts()["GET"] == 1
    manifest.clear(tmp_path / "cache")
    assert not any(manifest.recall(sources.read("s3://bucket/photos"), tmp_path / "cache"))
    assert [a != b for a, b in zip(changed[0], first[0], strict=True)] == [True] + [False] * 35


def test_another_endpoint_has_other_buckets(filled: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    dataset = sources.read("s3://bucket/photos")
    files.fingerprints(dataset, cache=tmp_path)
    assert all(manifest.recall(dataset, tmp_path))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert not any(manifest.recall(dataset, tmp_path))


@pytest.mark.parametrize("harm", ["cut", "flipped", "foreign", "empty", "name"])
def test_a_manifest_that_is_damaged_says_nothing(filled: Bucket, tmp_path: Path, harm: str):
    dataset = sources.read("s3://bucket/photos")
    digests, _ = files.fingerprints(dataset, cache=tmp_path)
    (file,) = (tmp_path / manifest.FOLDER).iterdir()
    content = file.read_bytes()
    if harm == "cut":
        file.write_bytes(content[:-7])
    elif harm == "flipped":
        file.write_bytes(content[:-7] + bytes([content[-7] ^ 1]) + content[-6:])
    elif harm == "foreign":
        file.chmod(0o666)
    elif harm == "empty":
        file.write_bytes(b"")
    else:
        (file.parent / "x-1.known").write_bytes(content)
        (file.parent / "00000009-y.known").mkdir()
    assert tuple(manifest.recall(dataset, tmp_path)) == (digests if harm == "name" else ("",) * len(dataset))
    assert files.fingerprints(dataset, cache=tmp_path)[0] == digests


def test_a_manifest_is_bounded_and_forgets_what_was_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(manifest, "MOST_FILES", 3)
    monkeypatch.setattr(manifest, "MOST_ROWS", 6)
    places = [Locator("s3://b/", f"{row}.png", size=1, mark=row + 1) for row in range(8)]
    for row, place in enumerate(places):
        manifest.note({place: f"{row:064x}"}, tmp_path)
    from headstart.records import Dataset, Sample

    dataset = Dataset(Path(), tuple(Sample(place, place.name) for place in places))
    known = manifest.recall(dataset, tmp_path)
    assert known[2:] == [f"{row:064x}" for row in range(2, 8)]
    assert len(list((tmp_path / manifest.FOLDER).iterdir())) <= 3
    manifest.forget(places[7:], tmp_path)
    assert manifest.recall(dataset, tmp_path)[7] == ""


@pytest.mark.slow
def test_train_and_predict_are_the_same_from_a_store_and_tell_no_secret(
    filled: Bucket, photos: Path, tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
):
    small = ["--backbone", "lite0@64", "--set", "split.folds=2"]
    here = run("train", photos, "--out", tmp_path / "here", *small)
    there = run("train", "s3://bucket/photos", "--out", tmp_path / "there", *small)
    assert (here.code, there.code) == (0, 0), there.err
    heads = [(tmp_path / name / "head.safetensors").read_bytes() for name in ("here", "there")]
    assert heads[0] == heads[1]
    rows = [(tmp_path / name / "predictions.csv").read_text() for name in ("here", "there")]
    assert rows[0] == rows[1]
    local = run("predict", tmp_path / "there", photos, "--format", "table")
    far = run("predict", tmp_path / "there", "s3://bucket/photos", "--format", "table")
    assert (local.code, local.out) == (far.code, far.out)
    url = f"{filled.url}/bucket/photos/ash/ash_00.png?X-Amz-Signature={SECRET}"
    signed = run("predict", tmp_path / "there", url, "--out", "s3://bucket/out/answers.csv")
    assert signed.code == 0, signed.err
    assert filled.objects["out/answers.csv"].decode().splitlines()[1].startswith(f"{filled.url}/bucket/photos/ash/ash_")
    assert run("evaluate", tmp_path / "there", "s3://bucket/photos").code == 0
    monkeypatch.setattr(streaming, "SOON", 16)
    crew = run("predict", tmp_path / "there", "s3://bucket/photos", "--format", "table", "--workers", 2, "--no-cache")
    assert (crew.code, crew.out) == (0, far.out)
    exported = run("export", tmp_path / "there", "--to", "openvino")
    assert exported.code == 0, exported.err
    assert run("audit", "s3://bucket/photos", "--out", tmp_path / "sheet.csv", "--backbone", "lite0@64").code == 0
    assert run("explain", tmp_path / "there", "s3://bucket/photos/ash/ash_00.png", "--out", tmp_path / "why").code == 0
    texts = [one for ran in (here, there, local, far, signed, crew, exported) for one in (ran.out, ran.err)]
    texts += [file.read_bytes().decode("latin-1") for file in tmp_path.rglob("*") if file.is_file()]
    for secret in (KEY, SECRET, SECRET.replace("/", "%2F"), "CANARYTOKEN", "X-Amz-Signature"):
        assert not [text[:200] for text in texts if secret in text]
