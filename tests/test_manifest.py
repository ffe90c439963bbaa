"""The manifest names things that exist and can be imported without the heavy libraries."""

from importlib import import_module
from pathlib import Path

import pytest
from npe2 import PluginManifest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def manifest() -> PluginManifest:
    return PluginManifest.from_file(ROOT / "napari_glacier" / "napari.yaml")


def test_name_is_the_distributions(manifest):
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert manifest.name == project["name"]
    assert project["entry-points"]["napari.manifest"] == {manifest.name: "napari_glacier:napari.yaml"}


def test_the_link_at_the_root_is_relative_and_leads_to_the_packaged_file():
    link = ROOT / "napari.yaml"
    if not link.is_symlink():
        pytest.skip("this checkout has no symbolic links")
    assert not link.readlink().is_absolute()
    assert link.resolve() == (ROOT / "napari_glacier" / "napari.yaml").resolve()


def test_every_command_leads_to_a_callable(manifest):
    for command in manifest.contributions.commands:
        module, name = command.python_name.split(":")
        assert callable(getattr(import_module(module), name)), command.id


def test_widgets_reader_writer_and_sample_are_offered(manifest):
    offered = manifest.contributions
    names = ["Start here", "Data", "Predict", "Correct", "Train", "Report"]
    assert [widget.display_name for widget in offered.widgets] == names
    assert offered.readers[0].accepts_directories
    assert offered.writers[0].layer_types == ["labels"]
    assert [sample.key for sample in offered.sample_data] == ["region"]


def test_the_icon_is_in_the_package(manifest):
    package, name = manifest.icon.split(":")
    assert (ROOT / package.replace(".", "/") / name).is_file()
