"""The main job on the 15 real tiles: one mosaic, train, predict, correct across a tile border."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import rasterio

from napari_glacier.cli import main
from napari_glacier.controllers.exchange import write_layer
from napari_glacier.controllers.layers import KEY
from napari_glacier.controllers.session import Session
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.data.mosaic import Mosaic, Placement, plan_scenes
from napari_glacier.core.runfiles import RunFolder
from napari_glacier.nn.ensemble import Ensemble, resolve_models
from napari_glacier.nn.predictor import Predictor


@pytest.fixture
def linked_tiles(real_tiles, tmp_path):
    """The real tiles as a folder of one's own: bands linked, masks copied."""
    root = tmp_path / "Train"
    for folder in sorted(real_tiles.iterdir()):
        if folder.name == "label":
            shutil.copytree(folder, root / folder.name, copy_function=shutil.copyfile)
        elif folder.is_dir():
            (root / folder.name).mkdir(parents=True, exist_ok=True)
            for file in folder.iterdir():
                (root / folder.name / file.name).symlink_to(file)
    return root


@pytest.mark.slow
def test_training_on_the_real_tiles_gives_a_model_that_predicts_them(linked_tiles, tmp_path, capsys):
    out = tmp_path / "out"
    settings = [f"data.train={linked_tiles}", f"output={tmp_path / 'runs'}", "device=cpu", "sampling.crops_per_epoch=8"]
    command = [sys.executable, "-P", "-m", "training.run", "--config", "smoke", "--set", *settings]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    run = RunFolder(result.stdout.strip().splitlines()[-1])
    assert [event["epoch"] for event in run.events() if event["event"] == "epoch"] == [1, 2]

    arguments = ["predict", "--data", str(linked_tiles), "--out", str(out), "--model", str(run.path), "--tta", "off"]
    assert main([*arguments, "--device", "cpu"]) == 0
    dataset = open_dataset(linked_tiles)
    assert {path.name for path in out.glob("*.tif")} == {tile.name for tile in dataset.tiles}
    assert len(dataset.tiles) == 15
    for tile in dataset.tiles:
        with rasterio.open(out / tile.name) as mask, rasterio.open(tile.bands["B2"].path) as band:
            assert mask.crs == band.crs
            assert mask.transform == band.transform
            codes_HW = mask.read(1)
            assert set(np.unique(codes_HW)) <= {0, 255}
            assert not codes_HW[~dataset.read_valid(tile)].any()

    truth = ["evaluate", "--pred", str(out), "--truth", str(linked_tiles / "label"), "--data", str(linked_tiles)]
    assert main(truth) == 0
    assert "Valid pixels" in capsys.readouterr().out


def _share_of_changes(labels_HW, valid_HW, *, across_borders):
    """Share of neighbouring valid pixels with another label: across tile borders, or elsewhere."""
    changes = pairs = 0
    for label, valid in ((labels_HW, valid_HW), (labels_HW.T, valid_HW.T)):
        both = valid[:, 1:] & valid[:, :-1]
        where = (np.arange(1, label.shape[1]) % 512 == 0) == across_borders
        changes += (both & (label[:, 1:] != label[:, :-1]))[:, where].sum()
        pairs += both[:, where].sum()
    return changes / pairs


@pytest.mark.slow
def test_no_seam_runs_along_the_borders_of_the_tiles(real_tiles):
    dataset = open_dataset(real_tiles)
    (scene,) = plan_scenes(dataset)
    predictor = Predictor(Ensemble([resolve_models().members[0]]), tta="off", device="cpu")

    def mapped(scene):
        steps = predictor.run(scene)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value

    together, alone_HW = mapped(scene), np.zeros(scene.shape, np.uint8)
    for place in scene.placements:
        alone_HW[place.slices] = mapped(Mosaic(dataset, (Placement(place.tile, 0, 0),), place.tile.georef)).index_HW
    at, off = (_share_of_changes(together.index_HW, together.valid_HW, across_borders=there) for there in (True, False))
    assert at < 1.25 * off
    at, off = (_share_of_changes(alone_HW, together.valid_HW, across_borders=there) for there in (True, False))
    assert at > 3 * off, "tiles mapped one by one have seams"


def test_a_correction_across_a_border_lands_in_both_tiles_and_nowhere_else(linked_tiles):
    before = {path.name: path.read_bytes() for path in (linked_tiles / "label").iterdir()}
    session = Session.open(linked_tiles)
    try:
        (scene,) = session.scenes
        assert scene.shape == (3072, 3072)
        _, left = session.find("04_08")
        _, right = session.find("04_09")
        assert (left.row, left.col + 512) == (right.row, right.col)
        # Where both sides of the border carry data for a stretch of rows.
        border = session.valid[left.row : left.row + 512, right.col - 6 : right.col + 6].all(axis=1)
        row = left.row + int(np.flatnonzero(np.convolve(border, np.ones(8), "valid") == 8)[0])
        region = np.s_[row : row + 8, right.col - 6 : right.col + 6]
        old_HW = np.asarray(session.mask[region])
        session.mask[region] = 1 - int(np.median(old_HW))
        new_HW = np.asarray(session.mask[region])
        session.commit()
        assert set(session.unsaved()) == {"04_08", "04_09"}
        report = session.save()
        assert not session.unsaved(), report
    finally:
        session.close()
    changed = {path.name for path in (linked_tiles / "label").iterdir() if path.read_bytes() != before.get(path.name)}
    assert changed == {"Y_output_resized_04_08.tif", "Y_output_resized_04_09.tif"}
    for place, cols_in_tile, cols_in_patch in ((left, np.s_[506:512], np.s_[:6]), (right, np.s_[0:6], np.s_[6:])):
        name = f"Y_output_resized_{place.tile.id}.tif"
        with rasterio.open(linked_tiles / "label" / name) as now:
            codes_HW = now.read(1)
            with rasterio.MemoryFile(before[name]) as memory, memory.open() as then:
                expected_HW = then.read(1)
                assert now.profile == then.profile
        rows = np.s_[row - place.row : row - place.row + 8]
        expected_HW[rows, cols_in_tile] = new_HW[:, cols_in_patch] * 255
        np.testing.assert_array_equal(codes_HW, expected_HW)


def test_the_mosaic_saved_as_one_geotiff_lies_where_its_tiles_lie(linked_tiles, tmp_path):
    session = Session.open(linked_tiles)
    try:
        (path,) = write_layer(tmp_path / "mosaic.tif", session.mask, {KEY: {"session": session}})
        tiles = session.dataset.tiles
    finally:
        session.close()
    with rasterio.open(path) as mosaic:
        boxes = []
        for tile in tiles:
            with rasterio.open(tile.bands["B2"].path) as band, rasterio.open(tile.mask_path) as label:
                assert band.crs == mosaic.crs
                box = band.bounds
                under_HW = mosaic.read(1, window=mosaic.window(*box))
                assert np.array_equal(under_HW, label.read(1)), tile.id
            boxes.append(box)
        left, bottom = (min(box[k] for box in boxes) for k in (0, 1))
        right, top = (max(box[k] for box in boxes) for k in (2, 3))
        assert tuple(mosaic.bounds) == (left, bottom, right, top)
