"""Settings: from TOML, pairs and flags to one configuration, from there to a plan, and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from headstart.config import FORMER_NAMES, RECIPES, HeadConfig, TrainConfig, apply_recipe, read_config, settings_table
from headstart.errors import ConfigError, HeadstartError
from headstart.plans import L2_CANDIDATES, EncoderPlan, Plan, refuse_contradictions, resolve, resolve_head
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
    text = refused("head.l2=-1", "head.folds=1", "sead=3", "pictures.size=big", "refit=maybe")
    assert len(text.splitlines()) == 5
    for name in ("head.l2 is -1", "head.folds is 1", "sead is not a setting", "size is 'big'", "refit is 'maybe'"):
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
    assert decided(TrainConfig()).head.l2 == L2_CANDIDATES == tuple(sorted(L2_CANDIDATES, reverse=True))


def test_the_table_of_settings_names_every_setting_and_its_default():
    table = {name: default for name, default, _ in settings_table()}
    plan = decided(TrainConfig()).to_dict()
    flat = {f"{section}.{key}" for section, values in plan.items() if isinstance(values, dict) for key in values}
    assert set(table) == flat | {"recipe", "quality", "budget", "seed", "refit"}
    assert read_config(None, flags=table) == TrainConfig()


def test_former_names_are_understood_in_files_and_settings(tmp_path: Path):
    (tmp_path / "plan.toml").write_text("[split]\ncopies = 'apart'\nlook_alikes = 'together'\n")
    split = read_config(tmp_path / "plan.toml", ["split.look_alikes=apart"]).split
    assert (split.near_duplicates, split.same_object) == ("apart", "apart")
    assert set(FORMER_NAMES.values()) <= {name for name, _, _ in settings_table()}


def test_a_former_name_beside_todays_is_refused(tmp_path: Path):
    (tmp_path / "plan.toml").write_text("[split]\ncopies = 'apart'\nnear_duplicates = 'together'\n")
    with pytest.raises(ConfigError, match=r"split\.copies is not a setting"):
        read_config(tmp_path / "plan.toml")


def test_the_help_says_which_optimizers_heed_a_setting():
    about = {name: text for name, _, text in settings_table()}
    assert about["head.l2"].startswith("lbfgs: l2 penalty")
    assert about["head.batch"] == "epochs: pictures a step"
    assert about["head.momentum"] == "sgd: momentum"
    assert not about["head.hidden"].startswith(("lbfgs", "epochs"))


# ── recipes ──


@pytest.mark.parametrize("recipe", RECIPES)
def test_another_recipe_than_that_of_a_plan_is_refused(recipe: str, tmp_path: Path):
    file, other = tmp_path / "plan.toml", next(name for name in RECIPES if name != recipe)
    file.write_text(decided(apply_recipe(read_config(None, [f"recipe={recipe}"]))).to_toml(), encoding="utf-8")
    with pytest.raises(ConfigError, match=f"'{other}', but .* was made by '{recipe}'.*only the name would change"):
        read_config(file, flags={"recipe": other})
    assert read_config(file, flags={"recipe": recipe}).recipe == recipe
    assert read_config(file, ["head.hidden=auto"], {"recipe": other}).recipe == other


def test_another_quality_than_that_of_a_plan_is_refused(tmp_path: Path):
    file = tmp_path / "plan.toml"
    file.write_text(decided(apply_recipe(read_config(None))).to_toml(), encoding="utf-8")
    with pytest.raises(ConfigError, match="quality is 'best', but .* by 'balanced'.*only the name"):
        read_config(file, flags={"quality": "best"})
    assert read_config(file, flags={"quality": "balanced"}).quality == "balanced"
    for opened in ("encoder.backbone=auto", "pictures.size=auto"):
        assert read_config(file, [opened], {"quality": "best"}).quality == "best"


def test_another_recipe_than_that_of_a_file_that_leaves_it_open_is_heeded(tmp_path: Path):
    (tmp_path / "own.toml").write_text("recipe = 'headstart'\nseed = 3\n")
    assert read_config(tmp_path / "own.toml", flags={"recipe": "tutorial"}).recipe == "tutorial"


def excluded(*settings: str) -> list[str]:
    """Return why these settings of the head do not go together, one a line."""
    with pytest.raises(ConfigError) as error:
        resolve_head(apply_recipe(read_config(None, settings)).head)
    assert error.value.hint == "`headstart settings` lists them all."
    return error.value.message.splitlines()


def test_the_recipe_of_the_tutorial_is_that_of_its_table():
    asked = read_config(None, ["recipe=tutorial"])
    plan, head = decided(apply_recipe(asked)), decided(asked).head
    assert apply_recipe(asked).encoder.backbone == "inception_resnet_v2"
    assert (plan.pictures.size, plan.refit, plan.recipe) == (331, False, "tutorial")
    assert (head.hidden, head.dropout, head.batch_norm) == ((512, 256, 128), 0.5, True)
    assert (head.optimizer, head.epochs, head.batch) == ("adam", 25, 32)
    assert (head.patience, head.min_delta, head.watch) == (10, 0.001, "training")
    assert (head.weight_decay, head.class_weight, head.prior, head.l2) == (0.0, "none", "none", ())
    assert head.in_epochs


def test_the_usual_recipe_is_lite2_and_a_linear_head_fitted_to_its_end():
    asked = read_config(None)
    plan = decided(asked)
    assert apply_recipe(asked).encoder.backbone == "tf_efficientnet_lite2"
    assert (plan.head.hidden, plan.head.optimizer, plan.head.prior) == ((), "lbfgs", "names")
    assert (plan.refit, plan.recipe, plan.head.in_epochs) == (True, "headstart", False)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pictures.size", 96),
        ("pictures.mirror", False),
        ("head.hidden", (64, 32)),
        ("head.optimizer", "adamw"),
        ("head.class_weight", "balanced"),
        ("head.dropout", 0.25),
        ("head.batch_norm", False),
        ("head.learning_rate", 0.07),
        ("head.schedule", "plateau"),
        ("head.momentum", 0.5),
        ("head.weight_decay", 0.02),
        ("head.epochs", 3),
        ("head.batch", 7),
        ("head.patience", 4),
        ("head.min_delta", 0.5),
        ("head.watch", "validation"),
        ("split.validation", 0.3),
        ("seed", 9),
        ("refit", True),
        ("refit", False),
    ],
)
def test_every_piece_of_a_recipe_can_be_replaced(recipe: str, name: str, value: object):
    text = f"{name}={str(list(value) if isinstance(value, tuple) else value).lower()}"
    plan = decided(read_config(None, [f"recipe={recipe}", "head.optimizer=sgd", text])).to_dict()
    section, _, key = name.rpartition(".")
    assert (plan[section][key] if section else plan[key]) == value


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_backbone_that_was_named_is_kept_by_every_recipe(recipe: str):
    assert apply_recipe(read_config(None, [f"recipe={recipe}", "encoder.backbone=lite0"])).encoder.backbone == "lite0"


def test_applying_a_recipe_twice_changes_nothing():
    for recipe in RECIPES:
        once = apply_recipe(TrainConfig(recipe=recipe))
        assert apply_recipe(once) == once


def test_an_unknown_recipe_is_answered_with_those_that_there_are():
    assert refused("recipe=tutorail") == "recipe is 'tutorail', but must be 'headstart' or 'tutorial'"


@pytest.mark.parametrize(
    ("asked", "optimizer"),
    [
        (HeadConfig(), "lbfgs"),
        (HeadConfig(hidden=()), "lbfgs"),
        (HeadConfig(hidden=(8,)), "adam"),
        (HeadConfig(hidden=(), optimizer="sgd"), "sgd"),
    ],
)
def test_hidden_layers_ask_for_epochs(asked: HeadConfig, optimizer: str):
    head = decided(TrainConfig(head=asked)).head
    assert (head.optimizer, head.in_epochs) == (optimizer, optimizer != "lbfgs")


@pytest.mark.parametrize(
    ("settings", "rate", "decay", "dropout"),
    [
        (["head.optimizer=adam"], 0.0003, 0.0, 0.5),
        (["head.optimizer=adamw"], 0.0003, 0.01, 0.5),
        (["head.optimizer=sgd"], 0.01, 0.0, 0.5),
        (["head.optimizer=sgd", "head.hidden=[]"], 0.01, 0.0, 0.0),
    ],
)
def test_what_is_left_open_depends_on_the_optimizer_and_the_layers(
    settings: list[str], rate: float, decay: float, dropout: float
):
    head = decided(read_config(None, ["recipe=tutorial", *settings])).head
    assert (head.learning_rate, head.weight_decay, head.dropout) == (rate, decay, dropout)


@pytest.mark.parametrize(
    "setting",
    [
        "head.dropout=0.3",
        "head.batch_norm=false",
        "head.learning_rate=0.1",
        "head.schedule=step",
        "head.momentum=0.5",
        "head.weight_decay=0.1",
        "head.epochs=5",
        "head.batch=8",
        "head.patience=3",
        "head.min_delta=0.1",
        "head.watch=validation",
    ],
)
def test_what_only_epochs_use_is_refused_where_there_are_none(setting: str):
    (line,) = excluded(setting)
    assert line.startswith(f"{setting.partition('=')[0]} is ")
    assert line.endswith("which head.optimizer 'lbfgs' does not use")


@pytest.mark.parametrize("setting", ["head.l2=0.1", "head.l2=[1, 2]", "head.prior=names", "head.max_iterations=7"])
def test_what_only_lbfgs_uses_is_refused_in_epochs(setting: str):
    (line,) = excluded("recipe=tutorial", setting)
    assert line.startswith(f"{setting.partition('=')[0]} is ")
    assert line.endswith("which head.optimizer 'adam' does not use")


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_momentum_is_for_sgd_alone(optimizer: str):
    (line,) = excluded("recipe=tutorial", f"head.optimizer={optimizer}", "head.momentum=0.5")
    assert line == f"head.momentum is 0.5, which head.optimizer {optimizer!r} does not use"


def test_lbfgs_fits_no_hidden_layers():
    assert excluded("recipe=tutorial", "head.optimizer=lbfgs") == [
        "head.optimizer is 'lbfgs', which fits no hidden layers; head.hidden is [512, 256, 128]"
    ]


def test_all_that_excludes_each_other_is_in_one_message():
    lines = excluded("head.optimizer=lbfgs", "head.hidden=[8]", "head.l2=[]", "head.epochs=3", "head.momentum=0.1")
    assert [line.split(" is ")[0] for line in lines] == [
        "head.optimizer",
        "head.l2",
        "head.momentum",
        "head.epochs",
    ]


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["head.optimizer=sgd", "head.momentum=0.5", "head.schedule=plateau", "refit=true"],
        ["head.optimizer=adamw", "head.hidden=[]", "head.watch=validation"],
        ["head.optimizer=lbfgs", "head.hidden=[]", "head.l2=0.3", "pictures.size=299"],
        ["head.hidden=[64]", "head.dropout=0", "head.class_weight=balanced", "head.learning_rate=1"],
    ],
)
def test_a_plan_of_the_tutorial_asks_for_itself(settings: list[str], tmp_path: Path):
    plan = decided(apply_recipe(read_config(None, ["recipe=tutorial", *settings])))
    (tmp_path / "plan.toml").write_text(plan.to_toml(), encoding="utf-8")
    assert "auto" not in plan.to_toml()
    assert decided(read_config(tmp_path / "plan.toml")) == plan


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("head.hidden=[0]", "a list of whole numbers from 1 to 65536"),
        ("head.hidden=[8.5]", "a list of whole numbers"),
        ("head.hidden=8", "a list of whole numbers"),
        ("head.dropout=1", "a number from 0 to 0.99"),
        ("head.batch=1", "a whole number from 2"),
        ("head.epochs=0", "a whole number from 1"),
        ("head.patience=0", "a whole number from 1"),
        ("head.learning_rate=0", "a number from 1e-08 to 100"),
        ("head.optimizer=adagrad", "'auto' or 'lbfgs' or 'adam' or 'adamw' or 'sgd'"),
        ("head.watch=test", "'training' or 'validation'"),
    ],
)
def test_a_setting_of_the_epochs_out_of_range_is_shown_with_what_was_expected(asked: str, expected: str):
    text = refused("recipe=tutorial", asked)
    assert asked.partition("=")[0] in text
    assert expected in text


@pytest.mark.parametrize("setting", ["split.folds=5", "split.repeats=2"])
def test_watching_validation_pictures_that_the_saved_head_learns_from_is_refused(setting: str):
    asked = read_config(None, ["recipe=tutorial", "head.watch=validation", setting])
    with pytest.raises(ConfigError, match="none is left to watch") as refused:
        refuse_contradictions(apply_recipe(asked))
    assert "head.watch=training" in refused.value.hint
