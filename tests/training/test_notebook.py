"""The notebook for hosted machines, carried out on the sample region in miniature."""

import csv
import json
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from napari_glacier.core.config_files import load_config, recipe_names
from napari_glacier.core.raster import read_raster
from napari_glacier.nn.checkpoint import read_card

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "notebooks" / "hosted_gpus.ipynb"
REGION = ROOT / "sample_data" / "region"
# In a process of its own: the kernel's client starts threads and event loops.
EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
try:
    where = {"metadata": {"path": sys.argv[3]}}
    NotebookClient(notebook, timeout=400, kernel_name="python3", resources=where).execute()
finally:
    nbformat.write(notebook, sys.argv[2])
"""


def _cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def _printed(cells: list[dict]) -> str:
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    return "".join("".join(output["text"]) for output in outputs if output["output_type"] == "stream")


def test_no_outputs_are_stored():
    code = [cell for cell in _cells(NOTEBOOK) if cell["cell_type"] == "code"]
    assert len(code) >= 8
    for cell in code:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        # Shell magics would tie it to a notebook server.
        assert not any(line.lstrip().startswith(("!", "%")) for line in cell["source"])


def test_it_uses_recipes_that_are_there():
    source = "".join("".join(cell["source"]) for cell in _cells(NOTEBOOK))
    assert {"hkh_pretrain", "finetune"} <= set(recipe_names())
    assert 'train("hkh_pretrain", HKH' in source
    assert 'train("finetune", DATA, [f"model.init_from={pretrained}"' in source


@pytest.mark.slow
@pytest.mark.timeout(480)
@pytest.mark.skipif(find_spec("nbclient") is None or find_spec("ipykernel") is None, reason="needs nbclient, ipykernel")
def test_it_goes_from_the_check_to_the_download(tmp_path):
    out, executed = tmp_path / "out", tmp_path / "executed.ipynb"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GLACIER_")} | {
        "GLACIER_HKH": str(REGION),
        "GLACIER_DATA": str(REGION),
        "GLACIER_OUT": str(out),
        "GLACIER_DEVICES": "cpu",
        "GLACIER_MINI": "1",
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "jupyter"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    result = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(NOTEBOOK), str(executed), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    printed = _printed(_cells(executed))
    assert result.returncode == 0, printed[-2000:] + result.stderr[-2000:]

    # Check: devices, data and mix, for both data sets.
    assert printed.count("classes    glacier4") == 2
    assert printed.count("target 40.00%") == 2

    pretrained, finetuned = sorted((out / "runs").iterdir())
    for folder, recipe in ((pretrained, "hkh_pretrain"), (finetuned, "finetune")):
        assert load_config(folder / "run.yaml").recipe == recipe
        with (folder / "history.csv").open(newline="") as file:
            assert len(list(csv.DictReader(file))) == 2
    assert load_config(finetuned / "run.yaml").model.init_from == str(pretrained)
    assert (
        read_card(finetuned / "best.safetensors").normalisation
        == read_card(pretrained / "best.safetensors").normalisation
    )

    masks = sorted(path.name for path in (out / "predictions").glob("*.tif"))
    assert masks == sorted(path.name for path in (REGION / "val" / "B2").glob("*.tif"))
    assert set(read_raster(out / "predictions" / masks[0]).ravel().tolist()) <= {0, 85, 170, 255}

    scores = json.loads((out / "scores.json").read_text())
    assert len(scores["tiles"]) == len(masks)
    for counted in ("all_pixels", "valid_pixels"):
        assert f"{counted}: MCC {scores[counted]['mcc']:.4f}, mean IoU {scores[counted]['iou']:.4f}" in printed
        assert -1 <= scores[counted]["mcc"] <= 1

    with zipfile.ZipFile(out / "glacier.zip") as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
    assert {f"predictions/{name}" for name in masks} <= names
    for folder in (pretrained, finetuned):
        for name in ("best.safetensors", "run.yaml", "history.csv", "curves.png", "per_class.csv"):
            assert f"runs/{folder.name}/{name}" in names


def test_a_command_that_fails_stops_the_notebook(tmp_path):
    code = [cell for cell in _cells(NOTEBOOK) if cell["cell_type"] == "code"]
    helper = next("".join(cell["source"]) for cell in code if "def run(" in "".join(cell["source"]))
    scope: dict = {"sys": sys, "subprocess": subprocess, "Path": Path}
    exec(helper, scope)  # the cell as it stands
    with pytest.raises(RuntimeError, match=r"training\.run ended with exit code 2"):
        scope["run"]("training.run", "--config", "nonesuch")
