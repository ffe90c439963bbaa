import math

import pytest

from napari_glacier.core.config import RunConfig
from napari_glacier.core.config_files import load_config, parse_config, recipe_names, recipe_path, save_config
from napari_glacier.core.errors import ConfigError


def _write(path, text):
    path.write_text(text)
    return path


def test_what_is_saved_loads_back_equal(tmp_path):
    config = load_config(
        _write(tmp_path / "a.yaml", "data: {train: tiles}\n"), ["optim.lr=1e-3", "loss.terms={dice: 1}"]
    )
    assert config.optim.lr == 1e-3
    assert config.loss.terms == {"dice": 1}
    save_config(config, tmp_path / "b.yaml")
    assert load_config(tmp_path / "b.yaml") == config
    assert load_config(tmp_path / "b.yaml").data.train.name == "tiles"


def test_values_are_read_as_people_write_them(tmp_path):
    path = _write(tmp_path / "a.yaml", "data: {train: a, tiles: [02_07, 010]}\ntrain: {amp: off}\noptim: {lr: 1e-4}\n")
    config = load_config(path, ["data.train=2024_01"])
    assert config.data.tiles == ["02_07", "010"]
    assert str(config.data.train) == "2024_01"
    assert config.train.amp == "off"
    assert config.optim.lr == 1e-4
    save_config(config, tmp_path / "b.yaml")
    assert load_config(tmp_path / "b.yaml") == config


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("data: {train: a}\ntrain: {epoch: 3}", [], r"unknown key train\.epoch; known here are epochs, batch_size"),
        ("data: {train: a}\nfoo: 1", [], "unknown key foo; known here are version"),
        ("data: {train: a}", ["train.epochs=0"], r"train\.epochs is 0"),
        ("data: {train: a}", ["train.epochs=many"], r"train\.epochs is 'many'"),
        ("data: {train: a}", ["data.channels=[B2, B9]"], r"Channels \['B9'\] are not known"),
        ("data: {train: a}", ["data.mean=[1, 2]"], r"a\.yaml: data\.mean (and data\.std go together|has 2 numbers)"),
        ("data: {train: a}", ["data.scheme=glacier9"], "no class scheme 'glacier9'"),
        ("data: {train: a}", ["train"], r"not of the form key\.sub=value"),
        ("data: {train: a}", ["seed.x=1"], "unknown key|is a value|seed"),
        ("seed: 1", [], "data is missing"),
        ("- a\n- b", [], "holds a list"),
        ("a: [", [], "not readable as YAML"),
        ("seed: !!int abc", [], "not readable as YAML: a value does not fit its tag"),
        ("a: " + "[" * 3000, [], "not readable as YAML: it is nested too deeply"),
        ("data: {train: a}", ["optim.lr=!!bool x"], "the value is not readable as YAML"),
    ],
)
def test_every_mistake_is_a_sentence(tmp_path, text, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(_write(tmp_path / "a.yaml", text), overrides)


ONES = [1.0] * 5


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("data", {"mean": ONES, "std": [1, 1, 1, 1, -10]}, r"data\.std\.4 is -10: .* greater than 0"),
        ("data", {"mean": ONES, "std": [1, 0, 1, 1, 1]}, r"data\.std\.1 is 0: .* greater than 0"),
        ("data", {"mean": ONES, "std": [1, 1, 1, 1, math.nan]}, r"data\.std\.4 is nan: .* finite"),
        ("data", {"mean": ONES, "std": [1, 1, 1, 1, math.inf]}, r"data\.std\.4 is inf: .* finite"),
        ("data", {"mean": [math.nan, 1, 1, 1, 1], "std": ONES}, r"data\.mean\.0 is nan: .* finite"),
        ("optim", {"lr": math.inf}, r"optim\.lr is inf: .* finite"),
        ("optim", {"lr": "inf"}, r"optim\.lr is 'inf': .* finite"),
        ("optim", {"betas": [0.9, 5]}, r"optim\.betas\.1 is 5: .* less than 1"),
        ("optim", {"betas": [-0.1, 0.9]}, r"optim\.betas\.0 is -0\.1: .* or equal to 0"),
        ("loss", {"focal_gamma": math.inf}, r"loss\.focal_gamma is inf: .* finite"),
        ("loss", {"focal_alpha": [1, 1, 1, math.nan]}, r"loss\.focal_alpha\.3 is nan: .* finite"),
        ("loss", {"focal_alpha": [0, 0, 0, 0]}, r"loss\.focal_alpha is \[0, 0, 0, 0\]: .* above 0"),
        ("loss", {"tversky": [math.inf, 1]}, r"loss\.tversky\.0 is inf: .* finite"),
        ("train", {"min_delta": math.inf}, r"train\.min_delta is inf: .* finite"),
        ("sampling", {"target_mix": [math.nan, 1, 1, 1]}, r"sampling\.target_mix\.0 is nan: .* finite"),
        ("sampling", {"target_mix": [1, 1, 1, -0.5]}, r"sampling\.target_mix\.3 is -0\.5: .* or equal to 0"),
        ("sampling", {"target_mix": [0, 0, 0, 0]}, r"sampling\.target_mix is \[0, 0, 0, 0\]: .* above 0"),
    ],
)
def test_impossible_numbers_are_one_sentence_each(section, values, message):
    tree = {"data": {"train": "a"}}
    tree[section] = {**tree.get(section, {}), **values}
    with pytest.raises(ConfigError, match=rf"^the configuration: {message}[^;]*\.$"):
        parse_config(tree)


def test_a_recipe_that_is_not_there_lists_those_that_are():
    with pytest.raises(ConfigError, match="smoke"):
        load_config("nonesuch")
    with pytest.raises(ConfigError, match=r"nonesuch\.yaml does not exist"):
        load_config("nonesuch.yaml")


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid_and_explained(name):
    config = load_config(name, ["data.train=somewhere"])
    assert isinstance(config, RunConfig)
    assert config.recipe == name
    text = recipe_path(name).read_text()
    assert text.startswith("#")


def test_every_field_is_described():
    def walk(model):
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name} has no description"
            if hasattr(field.annotation, "model_fields"):
                walk(field.annotation)

    walk(RunConfig)
