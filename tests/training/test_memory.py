"""The memory estimate against what real runs held at their peak."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.config_files import load_config
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.models import training_memory
from napari_glacier.core.models.network_sizes import NETWORK_SIZES
from napari_glacier.core.models.training_memory import estimate_memory, peak_memory_gb
from napari_glacier.core.runfiles import RunFolder
from napari_glacier.nn.zoo import build_model

ROOT = Path(__file__).parents[2]
# What the estimate promises.
FACTOR = 1.4


@pytest.mark.slow
def test_the_estimate_is_near_the_peak_of_a_run(make_dataset, tmp_path):
    root = make_dataset(grid=(1, 4), size_px=256)
    # So that the step, and not the libraries, is the larger part.
    changes = [f"data.train={root}", f"output={tmp_path}", "train.epochs=1", "train.batch_size=16", "train.amp=off"]
    changes += ["sampling.crop_px=256", "sampling.crops_per_epoch=16", "device=cpu", "data.buffer_px=0"]
    command = [sys.executable, "-m", "training.run", "--config", "smoke", "--set", *changes]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    events = RunFolder(Path(done.stdout.splitlines()[-1])).events()
    (told,) = [event for event in events if event["event"] == "memory"]
    config = load_config("smoke", changes)
    tiles = open_dataset(root).tiles
    step = estimate_memory(config, ("ba_unet", "tu-mobilenetv3_small_050"), tiles)
    assert step.host > 1.4 * training_memory._LIBRARIES / 1e9
    assert told["host_gb"] / FACTOR < step.host < told["host_gb"] * FACTOR, (step, told)


def test_the_table_has_the_networks_as_they_are_built():
    for key in (("ba_unet", "resnet34"), ("linknet", "resnet34"), ("segnet", "")):
        model = build_model(key[0], channels=("B2", "B3", "B4", "B6", "B10"), num_classes=4)
        assert NETWORK_SIZES[key].parameters == sum(parameter.numel() for parameter in model.parameters())
        assert NETWORK_SIZES[key].kept_half < NETWORK_SIZES[key].kept
        assert NETWORK_SIZES[key].features == 0
    recipe = load_config("surroundings", ["data.train=."]).model
    model = build_model(recipe.name, channels=CANONICAL_BANDS, num_classes=4, **recipe.arguments)
    image = torch.zeros(1, 5, 3, 3)
    described = model.describe(image)[0, :, 0, 0]
    size = NETWORK_SIZES[recipe.name, ""]
    assert (size.parameters, size.features) == (sum(p.numel() for p in model.parameters()), described.nbytes)


def test_gpus_share_the_batch_and_half_precision_takes_half():
    config = load_config("finetune", ["data.train=."])
    network = ("ba_unet", "resnet34")
    one, two = (estimate_memory(config, network, (), gpus=gpus, half=True) for gpus in (1, 2))
    whole = estimate_memory(config, network, (), gpus=1)
    states = NETWORK_SIZES[network].parameters * 16 / 1e9 + 0.6
    assert two.device - states == pytest.approx((one.device - states) / 2)
    assert 1.7 < (whole.device - states) / (one.device - states) < 2.1
    assert two.host > 1.5 * one.host
    assert estimate_memory(config, ("nobody", "knows"), ()) is None


def test_the_peak_is_that_of_the_process_and_not_of_whoever_started_it():
    code = "from napari_glacier.core.models.training_memory import peak_memory_gb; print(peak_memory_gb())"
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    held = np.ones(250_000_000)  # 2 GB
    beside = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert float(beside.stdout) < float(alone.stdout) + 0.5
    assert held.all()


def test_the_peak_is_asked_of_each_system_in_its_own_way(monkeypatch):
    import psutil

    here = peak_memory_gb()
    assert here >= psutil.Process().memory_info().rss / 1e9 * 0.5
    resource = pytest.importorskip("resource")
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    monkeypatch.setattr(training_memory.sys, "platform", "darwin")
    assert peak_memory_gb() == pytest.approx(kilobytes / 1e9, rel=0.1)
    monkeypatch.setattr(training_memory.sys, "platform", "win32")

    class OnWindows:
        def memory_info(self):
            return type("info", (), {"peak_wset": 3e9})

    monkeypatch.setattr(training_memory.psutil, "Process", OnWindows)
    assert peak_memory_gb() == 3.0
