"""Settings: from TOML, pairs and flags to one configuration, from there to a plan, and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from headstart.config import STRENGTHS, EncoderPlan, Plan, TrainConfig, read_config, resolve, settings_table
from headstart.errors import ConfigError, HeadstartError
from headstart.records import Preprocess

ENCODER = EncoderPlan("tf_efficientnet_lite0", "", "openvino", "cpu", "f32")


def decided(config: TrainConfig) -> Plan:
    """Return the plan of a configuration, on a machine of no importance."""
    size = 224 if config.pictures.size == "auto" else config.pictures.size
    return resolve(config, Preprocess(size, 0.875, "bicubic", (0.5,) * 3, (0.5,) * 3), ENCODER)


def refused(*settings: str) -> str:
    """Return why these settings are refused."""
    with pytest.raises(ConfigError) as error:
        read_config(None, settings)
    return error.value.message


def test_nothing_asked_gives_the_defaults():
    assert read_config(None) == TrainConfig()


def test_a_file_is_overridden_by_settings_and_they_by_flags(tmp_path: Path):
    file = tmp_path / "run.toml"
    file.write_text("seed = 1\nrefit = false\n[head]\nl2 = 0.5\nprior = 'none'\n")
    config = read_config(file, ["head.l2=0.25", "seed=2"], {"seed": 3})
    assert (config.seed, config.head.l2, config.head.prior, config.refit) == (3, 0.25, "none", False)


def test_flags_that_were_not_given_change_nothing():
    assert read_config(None, ["seed=5"], {"seed": None}).seed == 5


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("pictures.size=64", "size", 64),
        ("pictures.size=auto", "size", "auto"),
        ("pictures.mirror=false", "mirror", False),
        ("pictures.resize=squash", "resize", "squash"),
        ('pictures.resize = "letterbox"', "resize", "letterbox"),
    ],
)
def test_settings_are_toml_or_bare_words(text: str, name: str, value: object):
    assert getattr(read_config(None, [text]).pictures, name) == value


def test_a_setting_may_be_a_list_and_hold_equals_signs():
    config = read_config(None, ["head.l2=[0.1, 1]", "encoder.weights=a=b.pth"])
    assert config.head.l2 == (0.1, 1)
    assert config.encoder.weights == "a=b.pth"


def test_a_setting_without_equals_sign_is_refused():
    assert "'head.l2'" in refused("head.l2")


def test_every_problem_is_in_one_message():
    text = refused("head.l2=-1", "split.folds=1", "sead=3", "pictures.size=big", "refit=maybe")
    assert len(text.splitlines()) == 5
    for name in ("head.l2 is -1", "split.folds is 1", "sead is not a setting", "size is 'big'", "refit is 'maybe'"):
        assert name in text


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("sead=1", "seed"),
        ("pictures.siez=64", "pictures.size"),
        ("head.L2=1", "head.l2"),
        ("l2=1", "head.l2"),
        ("backbone=lite0", "encoder.backbone"),
        ("size=64", "pictures.size"),
        ("resize=squash", "pictures.resize"),
    ],
)
def test_an_unknown_setting_is_answered_with_the_closest(asked: str, meant: str):
    assert refused(asked) == f"{asked.partition('=')[0]} is not a setting; did you mean {meant}?"


def test_an_unknown_section_is_answered_with_the_closest():
    assert refused("picture.size=64") == "picture is not a setting; did you mean pictures?"


def test_a_setting_like_no_other_gets_no_guess():
    assert refused("xyzzyqqq=1") == "xyzzyqqq is not a setting"


def test_a_section_is_no_value():
    assert refused("head=3") == "head is a section, so it cannot be 3"


def test_a_value_is_no_section():
    assert "pictures.size" in refused("pictures.size=64", "pictures.size.wide=3")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("seed=-1", "a whole number from 0"),
        ("seed=1.5", "a whole number"),
        ("seed=true", "a whole number"),
        ("split.validation=0.95", "a number from 0.01 to 0.9"),
        ("split.validation=nan", "a number from 0.01 to 0.9"),
        ("head.l2=[0.1, 0]", "a list of numbers"),
        ("pictures.resize=stretch", "'crop' or 'letterbox' or 'squash'"),
        ("pictures.size=8", "a whole number from 16 to 2048 or 'auto'"),
        ("encoder.backbone=3", "text"),
        ("refit=1", "true or false"),
    ],
)
def test_a_value_out_of_range_is_shown_with_what_was_expected(asked: str, expected: str):
    text = refused(asked)
    assert asked.partition("=")[0] in text
    assert expected in text


def test_a_configuration_made_in_python_is_checked_as_well():
    with pytest.raises(ConfigError, match="seed is 'seven'"):
        TrainConfig(seed="seven")


def test_a_configuration_error_is_a_value_error_with_exit_code_two():
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ConfigError, HeadstartError)
    assert ConfigError("").exit_code == 2


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read"):
        read_config(tmp_path / "none.toml")


def test_a_file_that_is_no_toml_is_named_with_the_place(tmp_path: Path):
    (tmp_path / "run.toml").write_text("seed = = 3")
    with pytest.raises(ConfigError, match=r"run\.toml is not TOML.*line 1"):
        read_config(tmp_path / "run.toml")


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["head.l2=0.1", "seed=7", "refit=false", "pictures.mirror=false"],
        ["head.l2=[0.01, 3, 0.5]", "pictures.size=96", "pictures.resize=letterbox", "split.folds=3"],
    ],
)
def test_a_plan_asks_for_itself(settings: list[str], tmp_path: Path):
    plan = decided(read_config(None, settings))
    (tmp_path / "plan.toml").write_text(plan.to_toml(), encoding="utf-8")
    again = read_config(tmp_path / "plan.toml")
    assert decided(again) == plan
    assert again.encoder.engine == "openvino"


def test_nothing_in_a_plan_is_auto():
    assert "auto" not in decided(TrainConfig()).to_toml()


def test_strengths_are_tried_strongest_first():
    assert decided(read_config(None, ["head.l2=[0.1, 10, 1]"])).head.l2 == (10, 1, 0.1)
    assert decided(TrainConfig()).head.l2 == STRENGTHS == tuple(sorted(STRENGTHS, reverse=True))


def test_the_table_of_settings_names_every_setting_and_its_default():
    table = {name: default for name, default, _ in settings_table()}
    plan = decided(TrainConfig()).to_dict()
    flat = {f"{section}.{key}" for section, values in plan.items() if isinstance(values, dict) for key in values}
    assert set(table) == flat | {"recipe", "seed", "refit"}
    assert read_config(None, flags=table) == TrainConfig()
