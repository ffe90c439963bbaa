"""Mapping the scenes of a folder, at the terminal and on a cluster: what fails, what is there already, what goes on."""

import os
import signal
import subprocess
import sys
import time
from itertools import product

import numpy as np
import pyogrio
import pytest
import rasterio
from PIL import Image

from napari_glacier.cli import main
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.data.mosaic import plan_scenes
from napari_glacier.core.raster import read_description, read_mask_codes, read_raster
from napari_glacier.nn import batch, outputs


def _predict(root, out, checkpoint, *more):
    usual = ["predict", "--data", str(root), "--out", str(out), "--model", str(checkpoint), "--tta", "off"]
    return main([*usual, "--engine", "torch", "--device", "cpu", *map(str, more)])


def _masks(out):
    return {path.name: read_mask_codes(path) for path in sorted(out.glob("*.tif"))}


def _damage(root):
    """Cut one band short and write noise into another; gives them with what they held."""
    short, noisy = (sorted((root / "Band3").iterdir())[number] for number in (2, 5))
    whole = {path: path.read_bytes() for path in (short, noisy)}
    half = len(whole[short]) // 2
    short.write_bytes(whole[short][:half])
    noisy.write_bytes(whole[noisy][:200] + os.urandom(half - 200) + whole[noisy][half:])
    return whole


def test_damaged_scenes_stop_neither_one_process_nor_a_cluster(make_dataset, make_checkpoint, tmp_path, capsys):
    # Tiles that no grid joins: each is a scene.
    root, checkpoint = make_dataset(grid=(2, 4), georeferenced=False), make_checkpoint()
    whole = _damage(root)
    alone, together = tmp_path / "alone", tmp_path / "together"
    for out, scheduler in ((alone, ()), (together, ("--scheduler", "local:2"))):
        assert _predict(root, out, checkpoint, *scheduler) == 1
        said = capsys.readouterr().err
        assert len(_masks(out)) == 6
        assert said.count("Failed: ") == 2
        assert all(path.name in said for path in whole)
        assert "2 of 8 failed" in said
    assert "Progress page: http" in said

    for path, content in whole.items():
        path.write_bytes(content)
    assert _predict(root, alone, checkpoint) == 0
    assert _predict(root, together, checkpoint, "--scheduler", "local:2") == 0
    by_one, by_many = _masks(alone), _masks(together)
    assert len(by_one) == 8
    assert by_one.keys() == by_many.keys()
    for name, codes_HW in by_one.items():
        np.testing.assert_array_equal(by_many[name], codes_HW)


def test_a_tile_cut_short_is_a_gap_in_its_mosaic(make_dataset, make_checkpoint, tmp_path, capsys):
    root, checkpoint, out = make_dataset(), make_checkpoint(), tmp_path / "out"
    damaged = sorted((root / "Band3").iterdir())[3]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    assert _predict(root, out, checkpoint) == 1
    assert damaged.name in capsys.readouterr().err
    assert len(_masks(out)) == 3
    damaged.write_bytes(whole)
    assert _predict(root, out, checkpoint) == 0
    assert len(_masks(out)) == 4


def test_what_is_there_is_not_made_again_unless_something_changed(make_dataset, make_checkpoint, tmp_path, capsys):
    root, checkpoint, out = make_dataset(grid=(1, 3), georeferenced=False), make_checkpoint(), tmp_path / "out"
    assert _predict(root, out, checkpoint) == 0
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.tif")}
    capsys.readouterr()
    assert _predict(root, out, checkpoint) == 0
    assert "3 scenes were there already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.tif")} == before
    sorted(out.glob("*.tif"))[1].unlink()
    (root / "Band2").joinpath(sorted(p.name for p in (root / "Band2").iterdir())[0]).touch()
    assert _predict(root, out, checkpoint) == 0
    assert "1 scene was there already" in capsys.readouterr().out
    assert _predict(root, out, checkpoint, "--uncertainty") == 0
    assert "there already" not in capsys.readouterr().out
    assert _predict(root, out, checkpoint, "--clean") == 0
    assert "there already" not in capsys.readouterr().out
    assert not (out / ".jobs").exists()


def test_what_another_model_wrote_between_is_made_again(make_dataset, make_checkpoint, tmp_path, capsys, monkeypatch):
    root, first, out = make_dataset(), make_checkpoint(), tmp_path / "out"
    second = make_checkpoint("other")
    assert _predict(root, out, first, "--probabilities") == 0
    whole = _masks(out)

    # Stopped between two masks: provenance still tells of the first model alone.
    write_mask, written = outputs.write_mask, []

    def write_two(path, *arguments, **options):
        if len(written) == 2:
            raise KeyboardInterrupt
        write_mask(path, *arguments, **options)
        written.append(path)

    with monkeypatch.context() as patch:
        patch.setattr(outputs, "write_mask", write_two)
        _predict(root, out, second)
    made_by = {path.name: read_description(path)["ensemble"] for path in out.glob("*.tif")}
    assert set(made_by.values()) == {"tiny", "other"}
    assert _predict(root, out, first) == 0
    assert "there already" not in capsys.readouterr().out
    assert {read_description(path)["ensemble"] for path in out.glob("*.tif")} == {"tiny"}
    assert _masks(out).keys() == whole.keys()

    # Whole, and with measures, which the first model is then not asked for.
    assert _predict(root, out, second, "--probabilities") == 0
    assert _predict(root, out, first) == 0
    capsys.readouterr()
    assert _predict(root, out, first, "--probabilities") == 0
    assert "there already" not in capsys.readouterr().out
    assert {read_description(path)["ensemble"] for path in out.rglob("*.tif")} == {"tiny"}


def test_other_codes_are_written_though_the_map_is_there(make_dataset, make_checkpoint, tmp_path, capsys):
    root, checkpoint, out = make_dataset(masks=False), make_checkpoint(), tmp_path / "out"
    assert _predict(root, out, checkpoint) == 0
    by_index = {name: np.searchsorted([0, 85, 170, 255], codes_HW) for name, codes_HW in _masks(out).items()}
    capsys.readouterr()
    assert _predict(root, out, checkpoint, "--scheme", "glacier4-index") == 0
    assert "there already" not in capsys.readouterr().out
    for name, codes_HW in _masks(out).items():
        np.testing.assert_array_equal(codes_HW, by_index[name])
    assert _predict(root, out, checkpoint, "--scheme", "glacier4-index") == 0
    assert "there already" in capsys.readouterr().out


@pytest.mark.parametrize("rows", [128, 768], ids=["within a row of windows", "behind it"])
def test_a_killed_prediction_goes_on_and_leaves_nothing_behind(make_dataset, make_checkpoint, tmp_path, rows):
    root, checkpoint = make_dataset(grid=(10, 2), size_px=128), make_checkpoint()  # 1280 x 256 px: 2 windows
    arguments = ["--data", root, "--model", checkpoint, "--tta", "off", "--engine", "torch", "--device", "cpu"]
    program = (
        "import time, sys\n"
        "from napari_glacier.nn import store\n"
        "put = store.JobFolder.put\n"
        "def slow(self, rows):\n"
        "    put(self, rows)\n"
        "    print('rows', self.rows_done, flush=True)\n"
        f"    time.sleep(60 * (self.rows_done == {rows}))\n"
        "store.JobFolder.put = slow\n"
        "from napari_glacier.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-P", "-c", program, "predict", *map(str, arguments), "--out", str(tmp_path / "killed")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        said = [process.stdout.readline() for _ in range(rows // 128)]
        process.send_signal(signal.SIGKILL)
    assert said[-1] == f"rows {rows}\n"
    assert list((tmp_path / "killed" / ".jobs").iterdir())
    assert not _masks(tmp_path / "killed")
    started = time.time()
    assert main(["predict", *map(str, arguments), "--out", str(tmp_path / "killed")]) == 0
    assert main(["predict", *map(str, arguments), "--out", str(tmp_path / "straight")]) == 0
    assert not (tmp_path / "killed" / ".jobs").exists()
    ours, expected = _masks(tmp_path / "killed"), _masks(tmp_path / "straight")
    assert len(ours) == 20
    for name, codes_HW in expected.items():
        np.testing.assert_array_equal(ours[name], codes_HW)
    assert all(path.stat().st_mtime >= started - 1 for path in (tmp_path / "killed").glob("*.tif"))


def test_two_processes_never_write_one_scene(make_dataset, make_checkpoint, tmp_path, capsys):
    root, checkpoint, out = make_dataset(), make_checkpoint(), tmp_path / "out"
    (scene,) = plan_scenes(open_dataset(root))
    folder = batch._job_folder(out, scene.name)
    with batch._alone(folder):
        assert _predict(root, out, checkpoint) == 2
    assert "Another process is writing this scene" in capsys.readouterr().err
    assert not _masks(out)
    assert _predict(root, out, checkpoint) == 0
    assert len(_masks(out)) == 4
    # Scenes whose names look alike as names of files do not share a folder.
    assert batch._job_folder(out, "train/a") != batch._job_folder(out, "train_a")


def test_a_scheduler_that_is_none_is_said(make_dataset, make_checkpoint, tmp_path, capsys):
    assert _predict(make_dataset(), tmp_path / "out", make_checkpoint(), "--scheduler", "everywhere") == 2
    assert "neither local, local:N nor an address" in capsys.readouterr().err


def test_a_whole_tile_is_read_in_strips_as_at_once(make_dataset, monkeypatch):
    from napari_glacier.core.data import mosaic
    from napari_glacier.core.data.dataset import open_dataset
    from napari_glacier.core.tiling import Window

    root = make_dataset(grid=(2, 2), size_px=96)
    dataset = open_dataset(root)
    whole = mosaic.plan_scenes(dataset)[0]
    windows = (whole.whole, Window(5, 7, 130, 60), Window(90, 90, 10, 10), Window(170, 0, 40, 192))
    expected = [whole.read(window) for window in windows]
    valid_HW = whole.valid()
    monkeypatch.setattr(mosaic, "_WHOLE_PX", 64)
    monkeypatch.setattr(mosaic, "_STRIP_ROWS", 25)
    reads = []
    original = mosaic.Dataset.read

    def noted(self, tile, bands=(), rows=None):
        reads.append(rows)
        return original(self, tile, bands, rows)

    monkeypatch.setattr(mosaic.Dataset, "read", noted)
    strips = mosaic.plan_scenes(dataset)[0]
    for window, (image_CHW, valid) in zip(windows, expected, strict=True):
        ours_CHW, ours_valid = strips.read(window)
        np.testing.assert_array_equal(ours_CHW, image_CHW)
        np.testing.assert_array_equal(ours_valid, valid)
    np.testing.assert_array_equal(strips.valid(), valid_HW)
    assert set(reads) == {(0, 25), (25, 50), (50, 75), (75, 96)}


def test_rows_of_a_raster_are_those_of_the_whole(make_dataset):
    from napari_glacier.core.raster import read_part

    path = next((make_dataset() / "Band1").iterdir())
    np.testing.assert_array_equal(read_part(path, (11, 40)), read_raster(path)[:, 11:40])


def test_what_is_wrong_with_all_tiles_is_said_once(tmp_path, make_checkpoint, capsys):
    pixels_HW = np.random.default_rng(0).integers(0, 200, (33, 33)).astype("u1")
    for name, folder in product("abc", ("images", "masks")):
        (tmp_path / "salt" / "train" / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels_HW).save(tmp_path / "salt" / "train" / folder / f"{name}.png")
    assert _predict(tmp_path / "salt", tmp_path / "out", make_checkpoint()) == 2
    assert capsys.readouterr().err.count("would see nothing") == 1


def test_the_day_of_a_scene_reaches_its_masks_and_outlines(make_landsat, make_checkpoint, tmp_path):
    """Also where the name does not tell it, as of scenes before the collections."""
    out = tmp_path / "out"
    assert _predict(make_landsat("LC08_L1TP_149035_20200731_20200908_02_T1"), out, make_checkpoint()) == 0
    (path,) = out.glob("*.TIF")
    with rasterio.open(path) as file:
        assert file.tags()["DATE_ACQUIRED"] == "2020-07-31"
    renamed = path.rename(out / "mask.tif")
    assert main(["outlines", str(renamed), "--out", str(tmp_path / "o.gpkg")]) == 0
    meta, _, _, fields = pyogrio.raw.read(tmp_path / "o.gpkg")
    assert set(fields[list(meta["fields"]).index("src_date")]) == {"2020-07-31T00:00:00"}
