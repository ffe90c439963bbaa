"""All settings of a run, read off the configuration, and what a person changes of them."""

import pytest

from napari_glacier.controllers.settings_tree import SettingsTree, setting_groups
from napari_glacier.controllers.training_plans import FORM_KEYS, Plan, overrides
from napari_glacier.core.config import RunConfig
from napari_glacier.core.config_files import load_config, recipe_names

DATA = "data.train=."


def _leaves():
    """Keys with their JSON schemas; nothing here looks at annotations."""
    schema = RunConfig.model_json_schema()
    found = {}
    for name, field in schema["properties"].items():
        named = [choice["$ref"] for choice in (field, *field.get("anyOf", ())) if "$ref" in choice]
        if named:
            (model,) = named
            parts = schema["$defs"][model.rsplit("/", 1)[1]]["properties"]
            found |= {f"{name}.{part}": inner for part, inner in parts.items()}
        else:
            found[name] = field
    return found


def test_every_field_of_the_configuration_is_asked_for_once():
    keys = [setting.key for group in setting_groups() for setting in group.settings]
    assert sorted([*keys, *FORM_KEYS]) == sorted(_leaves())
    names = [group.name for group in setting_groups()]
    assert names[:2] == ["model", "loss"]
    assert names[-2:] == ["data", "run"]
    assert all(group.help and group.settings for group in setting_groups())


def test_the_form_sets_the_keys_that_are_left_to_it(tmp_path):
    plan = Plan("smoke", tmp_path, tmp_path, epochs=1, tiles=("a",))
    assert {text.partition("=")[0] for text in overrides(plan)} == FORM_KEYS - {"version", "recipe"}


def test_types_bounds_and_choices_are_those_of_the_schema():
    leaves = _leaves()
    for group in setting_groups():
        for setting in group.settings:
            schema = leaves[setting.key]
            assert setting.help == schema["description"]
            if setting.kind in {"whole", "number"}:
                assert schema["type"] == {"whole": "integer", "number": "number"}[setting.kind]
                assert setting.least == schema.get("minimum", schema.get("exclusiveMinimum"))
                assert setting.most == schema.get("maximum", schema.get("exclusiveMaximum"))
            elif setting.kind == "choice":
                parts = schema.get("anyOf", [schema])
                allowed = {"null": [None], "boolean": [True, False]}
                wanted = [value for part in parts for value in part.get("enum", allowed.get(part.get("type")))]
                assert sorted(map(str, setting.choices)) == sorted(map(str, wanted))
            else:
                assert schema.get("type") not in {"integer", "number", "boolean"} or setting.section is not None


@pytest.mark.parametrize("recipe", recipe_names())
def test_what_is_shown_of_a_recipe_is_what_it_says(recipe):
    tree = SettingsTree(recipe)
    config = load_config(recipe, [DATA])
    shown = [
        f"{setting.key}={tree.text(setting.key) or 'null'}"
        for setting in tree
        if setting.section is None or getattr(config, setting.section) is not None
    ]
    assert len(shown) > 60
    assert load_config(recipe, [DATA, *shown]) == config
    for setting in tree:
        tree.set_text(setting.key, tree.text(setting.key))
    assert tree.overrides == ()


def test_changes_are_the_same_as_set_at_the_terminal():
    tree = SettingsTree("default")
    tree.set_text("optim.lr", "2e-3")
    tree.set_text("train.amp", "off")
    tree.set_text("loss.terms", "{focal: 0.5, boundary: {start: 0, end: 0.5, epochs: 3}}")
    tree.set_text("data.zero_is_nodata", "true")
    tree.set_text("sampling.crop_px", "128")
    tree.set_text("sampling.crop_px", "256")  # as it was
    assert set(tree.overrides) == {
        "optim.lr=2e-3",
        "train.amp=off",
        "loss.terms={focal: 0.5, boundary: {start: 0, end: 0.5, epochs: 3}}",
        "data.zero_is_nodata=true",
    }
    assert tree.problem == ""
    config = load_config("default", [DATA, *tree.overrides])
    assert (config.optim.lr, config.train.amp, config.data.zero_is_nodata) == (0.002, "off", True)
    assert config.loss.terms["boundary"].end == 0.5
    assert tree.is_changed("optim.lr")
    tree.reset("optim.lr")
    assert not tree.is_changed("optim.lr")
    assert tree.text("optim.lr") == "0.0005"
    tree.reset()
    assert load_config("default", [DATA, *tree.overrides]) == load_config("default", [DATA])
    with pytest.raises(KeyError):
        tree.set_text("optim.nonsense", "1")


def test_bounds_are_told_in_words():
    ranges = {setting.key: setting.range for setting in SettingsTree("default")}
    assert (ranges["train.ema"], ranges["sampling.crop_px"], ranges["folds"]) == ("0 to 1", "from 32", "from 2")
    assert ranges["model.name"] == ""


def test_nothing_written_is_none():
    tree = SettingsTree("sam2")
    assert tree.text("sampling.crops_per_epoch") == ""
    tree.set_text("sampling.crops_per_epoch", "64")
    tree.set_text("sampling.crops_per_epoch", " ")
    assert tree.overrides == ()
    tree = SettingsTree("tiny_data")
    tree.set_text("sampling.crops_per_epoch", "")
    assert tree.overrides == ("sampling.crops_per_epoch=null",)
    assert load_config("tiny_data", [DATA, *tree.overrides]).sampling.crops_per_epoch is None


@pytest.mark.parametrize(
    ("key", "text", "told"),
    [
        ("optim.lr", "0", "optim.lr is 0: Input should be greater than 0."),
        ("data.channels", "[B2, B99]", "data.channels is "),
        ("loss.terms", "{ce: 1", "--set 'loss.terms={ce: 1': the value is not readable as YAML."),
        ("optim.lr", "!!int abc", "--set 'optim.lr=!!int abc': the value is not readable as YAML."),
        ("optim.lr", "1" * 5000, "the value is not readable as YAML."),
        ("optim.lr", "!!bool x", "the value is not readable as YAML."),
        ("loss.terms", "[" * 3000, "the value is not readable as YAML."),
        ("loss.terms", "{kl: 1}", "distill.teachers and the loss term kl go together"),
        ("train.batch_size", "", "train.batch_size is None: Input should be a valid integer."),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(key, text, told):
    tree = SettingsTree("default")
    tree.set_text(key, text)
    assert told in tree.problem
    assert "default.yaml" not in tree.problem
    tree.reset(key)
    assert tree.problem == ""


def test_changes_outlive_the_recipe():
    tree = SettingsTree("default")
    tree.set_text("train.batch_size", "32")
    tree.set_text("loss.focal_gamma", "1.5")
    tree.take_recipe("finetune")
    assert load_config("finetune", [DATA]).train.batch_size == 32
    assert tree.overrides == ("loss.focal_gamma=1.5",), "the recipe says the same of the batch"
    assert tree.text("optim.lr") == "0.0001"
    tree.take_recipe("default")
    assert tree.overrides == ("loss.focal_gamma=1.5", "train.batch_size=32")


def test_a_section_that_a_recipe_has_not_takes_its_changes_along():
    tree = SettingsTree("distill")
    assert tree.text("distill.teachers") == "[bundled]"
    tree.set_text("distill.temperature", "4")
    tree.set_text("train.patience", "3")
    tree.take_recipe("default")
    assert (tree.overrides, tree.problem) == (("train.patience=3",), "")
    assert tree.text("distill.temperature") == ""
    # Where a person begins the section, it stays.
    tree.set_text("distill.teachers", "[runs/A]")
    assert "go together" in tree.problem
    tree.set_text("loss.terms", "{kl: 0.5, ce: 0.5}")
    assert tree.problem == ""
    tree.take_recipe("quick")
    assert load_config("quick", [DATA, *tree.overrides]).distill.teachers == ["runs/A"]


def test_words_find_settings_by_key_and_description():
    tree = SettingsTree("default")
    assert {"optim.lr", "optim.encoder_lr"} <= tree.matching("Learning RATE")
    assert "optim.betas" not in tree.matching("Learning RATE")
    assert tree.matching("crop_px") == {"sampling.crop_px"}
    assert tree.matching("zzz") == frozenset()
    assert len(tree.matching("")) == len(list(tree))
