"""The text that asks for networks: what it may say, what it means, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from headstart.encoding import wanted
from headstart.encoding.wanted import Asked
from headstart.errors import ConfigError

LITE1, LITE2 = "tf_efficientnet_lite1", "tf_efficientnet_lite2"


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("lite2", [Asked(LITE2)]),
        ("lite2@320", [Asked(LITE2, 320)]),
        ("lite2@320+lite1@300/1.0", [Asked(LITE2, 320), Asked(LITE1, 300, 1.0)]),
        ("lite2 + lite1", [Asked(LITE2), Asked(LITE1)]),
        ("lite2@320+lite2@260", [Asked(LITE2, 320), Asked(LITE2, 260)]),
        ("lite2@320+lite2@320/1", [Asked(LITE2, 320), Asked(LITE2, 320, 1.0)]),
        ("convnext_tiny.fb_in22k@16/0.875", [Asked("convnext_tiny.fb_in22k", 16, 0.875)]),
        ("local-dir:a/b@224+lite1", [Asked("local-dir:a/b", 224), Asked(LITE1)]),
    ],
)
def test_a_text_asks_for_networks(text: str, asked: list[Asked]):
    assert wanted.parse(text) == tuple(asked)
    assert wanted.parse("+".join(map(str, asked))) == tuple(asked)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a name is missing"),
        ("lite2+", "a name is missing"),
        ("@320", "a name is missing"),
        ("lite2@", "the size of 'lite2@' is ''"),
        ("lite2@big", "the size of 'lite2@big' is 'big', not a whole number in 16 … 2048"),
        ("lite2@15", "is '15', not"),
        ("lite2@2049", "is '2049', not"),
        ("lite2@-320", "is '-320', not"),
        ("lite2@320.0", "is '320.0', not"),
        ("lite2@٣٢٠", "is '٣٢٠', not"),
        ("lite2@320/", "the crop of 'lite2@320/' is '', not a number in 0.01 … 1"),
        ("lite2@320/0", "is '0', not"),
        ("lite2@320/1.5", "is '1.5', not"),
        ("lite2@320/nan", "is 'nan', not"),
        ("lite2@320+tf_efficientnet_lite2@320", "tf_efficientnet_lite2@320 is asked for twice"),
        ("lite2+lite2", "tf_efficientnet_lite2 is asked for twice"),
        ("+".join(f"lite2@{size}" for size in range(100, 109)), "9 networks are asked for, at most 8"),
    ],
)
def test_a_text_that_asks_for_none_is_refused(text: str, said: str):
    with pytest.raises(ConfigError) as refused:
        wanted.parse(text)
    assert said in refused.value.message
    assert repr(text) in refused.value.message
    assert "NAME[@SIZE[/CROP]]" in refused.value.hint


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ConfigError, match=r"is 'big'.*is '7'"):
        wanted.parse("lite2@big+lite1@300/7")


@pytest.mark.parametrize("name", ["plain", "a+b", "a@b", "a@224", "a+b@64", "+"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str):
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").touch()
    folder = f"local-dir:{tmp_path / name}"
    assert wanted.parse(folder) == (Asked(folder),)
    assert wanted.parse(f"lite1+{folder}@64/0.5+lite2") == (Asked(LITE1), Asked(folder, 64, 0.5), Asked(LITE2))


def test_one_weights_file_is_refused_for_several_networks():
    with pytest.raises(ConfigError, match=r"encoder.weights is 'w.pth', and lite1\+lite2 asks for several networks"):
        wanted.refuse_contradictions("lite1+lite2", "w.pth")
    wanted.refuse_contradictions("lite1@300", "w.pth")
