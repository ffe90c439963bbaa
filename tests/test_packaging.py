"""What is built is complete: the wheel brings what the plugin needs, the source what a packager needs."""

import email
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

CHECK = """
import json, sys
from importlib.metadata import distribution
from pathlib import Path

import napari_glacier
from napari_glacier.controllers.exchange import sample_copy
from napari_glacier.core.config_files import load_config, recipe_names
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.nn.ensemble import resolve_models
from npe2 import PluginManifest

elsewhere = Path(sys.argv[1])
assert Path(napari_glacier.__file__).is_relative_to(elsewhere), napari_glacier.__file__
manifest = PluginManifest.from_distribution("napari-glacier")
assert manifest.name == distribution("napari-glacier").metadata["Name"]
dataset = open_dataset(sample_copy(elsewhere / "copy"))
ensemble = resolve_models(None)
print(json.dumps({
    "widgets": [widget.display_name for widget in manifest.contributions.widgets],
    "tiles": len(dataset.tiles), "scheme": dataset.scheme.name,
    "members": len(ensemble.members), "recipes": recipe_names(),
}))
"""


def _check_wheel(wheel: zipfile.ZipFile) -> None:
    """Every module and data file of the tree is there, nothing else, and the listing's facts."""
    names = set(wheel.namelist())
    modules = {str(path.relative_to(ROOT).as_posix()) for top in ("napari_glacier", "training") for path in
               (ROOT / top).rglob("*") if path.suffix in {".py", ".yaml", ".svg", ".typed"}}  # fmt: skip
    assert modules <= names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"napari_glacier", "training", "napari_glacier-0.1.0.dist-info"}
    (path,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    facts = email.message_from_bytes(wheel.read(path))
    assert "Framework :: napari" in facts.get_all("Classifier")
    assert facts["License-Expression"] == "BSD-3-Clause"
    assert 20 < len(facts["Summary"]) < 120
    assert facts["Description-Content-Type"] == "text/markdown"
    assert facts.get_payload().startswith("# napari-glacier")


@pytest.mark.slow
def test_a_wheel_installed_elsewhere_is_complete(tmp_path):
    # From a copy: what an earlier build left in the tree must not end up in the wheel.
    source = tmp_path / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "demo_output", "runs")
    )
    # The wheel is made of the source distribution, so that one lacks nothing either.
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    result = subprocess.run(build, capture_output=True, text=True, check=False)
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    assert not re.search(r"Deprecat|is absent from|SetuptoolsWarning", said), said
    (wheel,) = tmp_path.glob("*.whl")
    (archive,) = tmp_path.glob("*.tar.gz")
    assert wheel.stat().st_size < 25e6
    assert archive.stat().st_size < 50e6
    with zipfile.ZipFile(wheel) as file:
        _check_wheel(file)
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"Makefile", "constraints.txt", "CONTRIBUTING.md", "napari.yaml", "docs/tutorial.md"} <= names
    assert {"tests/conftest.py", "scripts/with_display.sh", "sample_data/region/dataset.yaml"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith((".", "build", "runs"))]
    elsewhere = tmp_path / "elsewhere"
    install = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(elsewhere),
        str(wheel),
    ]
    subprocess.run(install, check=True)
    environment = {"PYTHONPATH": str(elsewhere), "PATH": "", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    check = subprocess.run(
        [sys.executable, "-c", CHECK, str(elsewhere)],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert check.returncode == 0, check.stderr
    assert '"widgets": ["Start here", "Data", "Predict", "Correct", "Train", "Report"]' in check.stdout
    assert '"tiles": 13, "scheme": "glacier4", "members": 3' in check.stdout
    assert '"bundled"' in check.stdout
