"""A built wheel, installed elsewhere, brings the manifest, the sample region, the ensemble and the recipes."""

import shutil
import subprocess
import sys
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


@pytest.mark.slow
def test_a_wheel_installed_elsewhere_is_complete(tmp_path):
    # From a copy: what an earlier build left in the tree must not end up in the wheel.
    source = tmp_path / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "demo_output", "runs")
    )
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    result = subprocess.run(build, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 25e6
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
    assert '"widgets": ["Data", "Predict", "Correct", "Train", "Report"]' in check.stdout
    assert '"tiles": 13, "scheme": "glacier4", "members": 3' in check.stdout
    assert '"bundled"' in check.stdout
