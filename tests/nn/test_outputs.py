import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from napari_glacier.cli import main
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.data.mosaic import plan_scenes
from napari_glacier.core.errors import GlacierError
from napari_glacier.core.inventory.map_source import open_maps
from napari_glacier.core.inventory.outlines import outline_maps
from napari_glacier.core.raster import read_description, read_raster, write_mask
from napari_glacier.nn import batch, ensemble, outputs
from napari_glacier.nn.cleaning import Cleaning
from napari_glacier.nn.outputs import refuse_source_folder, write_predictions
from napari_glacier.nn.prediction import Prediction
from napari_glacier.nn.predictor import Predictor


def _prediction(scene, scheme: str = "glacier4") -> Prediction:
    rng = np.random.default_rng(0)
    valid = scene.valid()
    p = rng.dirichlet([1] * 4, scene.shape).transpose(2, 0, 1).astype(np.float32) * valid
    entropy, information = rng.random((2, *scene.shape)).astype(np.float32) * valid
    return Prediction(
        (p.argmax(0) * valid).astype(np.uint8),
        p,
        entropy,
        information,
        valid,
        get_scheme(scheme),
        {"ensemble": "test", "warnings": []},
    )


def _records(folder) -> dict[str, dict]:
    lines = (folder / "provenance.jsonl").read_text().splitlines()
    return {record["scene"]: record["provenance"] for record in map(json.loads, lines)}


def test_masks_carry_names_codes_and_place(make_dataset, tmp_path) -> None:
    dataset = open_dataset(make_dataset())
    (scene,) = plan_scenes(dataset)
    prediction = _prediction(scene)
    prediction.valid_HW[:9, :40] = False
    out = tmp_path / "out"
    written = write_predictions(prediction, scene, out)
    assert sorted(path.name for path in written) == sorted(tile.name for tile in dataset.tiles)
    codes = np.array([0, 85, 170, 255], np.uint8)
    for place in scene.placements:
        with (
            rasterio.open(out / place.tile.name) as mask,
            rasterio.open(next(iter(place.tile.bands.values())).path) as band,
        ):
            np.testing.assert_array_equal(mask.read(1), codes[prediction.index_HW[place.slices]])
            np.testing.assert_array_equal(mask.dataset_mask() > 0, prediction.valid_HW[place.slices])
            assert mask.dtypes == ("uint8",)
            assert mask.crs == band.crs
            assert mask.transform == band.transform
    assert _records(out)[scene.name]["ensemble"] == "test"
    assert not [path for path in out.rglob("*.tif") if path not in written]


def test_probabilities_and_uncertainty_lie_apart(make_dataset, tmp_path) -> None:
    (scene,) = plan_scenes(open_dataset(make_dataset()))
    prediction = _prediction(scene)
    written = write_predictions(prediction, scene, tmp_path / "out", probabilities=True, uncertainty=True)
    assert len(written) == 3 * len(scene.placements)
    for place in scene.placements:
        gone = ~prediction.valid_HW[place.slices]
        with rasterio.open(tmp_path / "out" / "probabilities" / place.tile.name) as file:
            expected = prediction.probabilities_KHW[:, *place.slices].copy()
            expected[:, gone] = np.nan
            np.testing.assert_array_equal(file.read(), expected)
            assert np.isnan(file.nodata)
        with rasterio.open(tmp_path / "out" / "uncertainty" / place.tile.name) as file:
            expected = np.where(gone, np.nan, prediction.entropy_HW[place.slices])
            np.testing.assert_allclose(file.read(1), expected, rtol=0, atol=1 / 8192)
    assert np.isfinite(prediction.probabilities_KHW).all()  # writing leaves the prediction alone


def test_codes_are_the_data_sets(make_dataset, tmp_path) -> None:
    (scene,) = plan_scenes(open_dataset(make_dataset(scheme="glacier4-index"), scheme="glacier4-index"))
    prediction = _prediction(scene, "glacier4")
    (first, *_) = write_predictions(prediction, scene, tmp_path / "out")
    with rasterio.open(first) as file:
        assert set(np.unique(file.read(1))) <= {0, 1, 2, 3}


def test_scenes_share_one_record(make_dataset, tmp_path) -> None:
    scenes = plan_scenes(open_dataset(make_dataset(georeferenced=False)))
    assert len(scenes) == 4
    for scene in scenes:
        write_predictions(_prediction(scene), scene, tmp_path / "out")
    records = _records(tmp_path / "out")
    assert set(records) == {scene.name for scene in scenes}
    assert records[scenes[0].name] == {"ensemble": "test", "warnings": []}


def test_a_record_that_a_crash_cut_off_spoils_no_other(make_dataset, tmp_path) -> None:
    (scene,) = plan_scenes(open_dataset(make_dataset()))
    write_predictions(_prediction(scene), scene, tmp_path / "out")
    path = tmp_path / "out" / "provenance.jsonl"
    path.write_text(path.read_text()[:20])
    write_predictions(_prediction(scene), scene, tmp_path / "out")
    assert json.loads(path.read_text().splitlines()[-1])["scene"] == scene.name


def test_a_stack_is_written_in_time_linear_in_its_tiles(make_dataset, tmp_path, monkeypatch) -> None:
    """Every scene of a stack asks for the same folders; they are looked up once, and no record is rewritten."""
    dataset = open_dataset(make_dataset(grid=(3, 4), size_px=16, georeferenced=False))
    scenes = plan_scenes(dataset)
    assert len(scenes) == 12
    names, resolved = [], []
    name, resolve = outputs.raster_name, Path.resolve
    monkeypatch.setattr(outputs, "raster_name", lambda tile_name: names.append(tile_name) or name(tile_name))
    monkeypatch.setattr(Path, "resolve", lambda path, *args: resolved.append(path) or resolve(path, *args))
    length = []
    for scene in scenes:
        write_predictions(_prediction(scene), scene, tmp_path / "out")
        length.append((tmp_path / "out" / "provenance.jsonl").stat().st_size)
    assert len(names) == 2 * len(scenes)  # once to count them, once for the tile's own
    assert len(resolved) <= 6 * len(scenes) + 6
    assert np.ptp(np.diff(length)) == 0


def test_labels_and_images_are_never_written_over(make_dataset, tmp_path) -> None:
    root = make_dataset()
    (scene,) = plan_scenes(open_dataset(root))
    before = {path: path.read_bytes() for path in root.rglob("*.tif")}
    link = tmp_path / "link"
    link.symlink_to(root / "label")
    for folder in (root / "label", link, root / "Band1" / ".." / "label"):
        with pytest.raises(GlacierError, match="label folder"):
            write_predictions(_prediction(scene), scene, folder)
    with pytest.raises(GlacierError, match="holds the images"):
        write_predictions(_prediction(scene), scene, root / "Band1")
    assert {path: path.read_bytes() for path in root.rglob("*.tif")} == before
    # Without any mask yet, the folder where masks would go is refused as well.
    (scene,) = plan_scenes(open_dataset(make_dataset("bare", masks=False)))
    with pytest.raises(GlacierError, match="label folder"):
        write_predictions(_prediction(scene), scene, scene.placements[0].tile.new_mask_path.parent)


@pytest.mark.parametrize("name", ["val_masks", "Old_Masks", "labels", "MASK", "B2", "band5"])
def test_folders_of_labels_and_bands_are_refused_by_their_names(make_dataset, tmp_path, name) -> None:
    """A split opened by itself knows nothing of the other splits' labels."""
    root = make_dataset(splits=("train", "val"))
    dataset = open_dataset(root / "train")
    assert dataset.root == root
    before = {path: path.read_bytes() for path in root.rglob("*.tif")}
    link = tmp_path / "link"
    link.symlink_to(root / name)
    for folder in (root / name, root / "val" / name, link, root / "train" / ".." / name):
        with pytest.raises(GlacierError, match="would replace"):
            refuse_source_folder(dataset, folder)
        for scene in plan_scenes(dataset):
            with pytest.raises(GlacierError, match="would replace"):
                write_predictions(_prediction(scene), scene, folder)
    assert {path: path.read_bytes() for path in root.rglob("*.tif")} == before
    away = tmp_path / "away"
    away.mkdir()
    (root / "old_masks").symlink_to(away)
    with pytest.raises(GlacierError, match="label folder"):
        refuse_source_folder(dataset, root / "old_masks")
    refuse_source_folder(dataset, root / "predictions")
    refuse_source_folder(dataset, root / ".." / name)
    refuse_source_folder(dataset, tmp_path / "elsewhere" / name)


def test_rasters_that_were_not_predicted_are_never_replaced(make_dataset, tmp_path) -> None:
    dataset = open_dataset(make_dataset())
    (scene,) = plan_scenes(dataset)
    prediction = _prediction(scene)
    out = tmp_path / "out"
    for path in write_predictions(prediction, scene, out, probabilities=True, uncertainty=True):
        assert read_description(path)["made_by"] == "napari-glacier"
        with rasterio.open(path) as file:
            assert file.tags()["made_by"] == "napari-glacier"
    refuse_source_folder(dataset, out)
    write_predictions(prediction, scene, out, probabilities=True, uncertainty=True)  # our own, a second time

    tile = dataset.tiles[2]
    write_mask(out / tile.name, np.zeros((64, 64), np.uint8), get_scheme("glacier4"), tile.georef)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(GlacierError, match=f"{tile.name} exists .* Choose another folder"):
        refuse_source_folder(dataset, out)
    with pytest.raises(GlacierError, match=f"{tile.name} exists"):
        write_predictions(prediction, scene, out)
    (out / tile.name).write_bytes(b"no TIFF at all")
    before[out / tile.name] = b"no TIFF at all"
    with pytest.raises(GlacierError, match=f"{tile.name} exists"):
        write_predictions(prediction, scene, out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.fixture
def terminal(make_dataset, make_member, tmp_path, monkeypatch):
    """`predict` at the terminal, with a small model whose map is full of specks."""
    root = make_dataset(grid=(1, 1))
    bundled = ensemble.Ensemble([make_member(synthetic=True)])
    monkeypatch.setattr(batch, "resolve_models", lambda _: bundled)

    def run(*arguments: str) -> np.ndarray:
        out = tmp_path / "out"
        usual = ["predict", "--data", str(root), "--out", str(out), "--tta", "off", "--device", "cpu"]
        usual += ["--engine", "torch"]
        assert main([*usual, *arguments]) == 0
        return read_raster(next(out.glob("*.tif")))[0]

    def expected(**settings) -> np.ndarray:
        predictor = Predictor(bundled, tta="off", device="cpu", engine="torch", **settings)
        steps = predictor.run(plan_scenes(open_dataset(root))[0])
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return get_scheme("glacier4").encode(end.value.index_HW)

    run.expected = expected
    return run


def test_clean_at_the_terminal(terminal) -> None:
    expected = terminal.expected
    plain, clean = terminal(), terminal("--clean")
    assert (plain != clean).any()
    np.testing.assert_array_equal(plain, expected())
    np.testing.assert_array_equal(clean, expected(cleaning=Cleaning(minimum_component_px=100, fill_holes_px=50)))
    smooth = terminal("--opening", "1", "--closing", "2")
    np.testing.assert_array_equal(smooth, expected(cleaning=Cleaning(opening_px=1, closing_px=2)))


def test_a_warning_is_said_once_at_the_terminal(terminal, capsys, caplog, make_dataset, tmp_path) -> None:
    terminal()
    assert (capsys.readouterr().err + caplog.text).count("trained on synthetic scenes") == 1
    stack = make_dataset("stack", grid=(1, 3), georeferenced=False)
    arguments = ["predict", "--data", str(stack), "--out", str(tmp_path / "three"), "--tta", "off", "--device", "cpu"]
    assert main([*arguments, "--engine", "torch"]) == 0
    assert len(list((tmp_path / "three").glob("*.tif"))) == 3
    assert capsys.readouterr().err.count("trained on synthetic scenes") == 1


def test_thresholds_at_the_terminal(terminal, capsys) -> None:
    seldom = terminal("--threshold", "glacier=0.9999", "lake=0.01")
    assert (seldom != terminal.expected()).any()
    np.testing.assert_array_equal(seldom, terminal.expected(thresholds={"glacier": 0.9999, "lake": 0.01}))
    with pytest.raises(AssertionError):
        terminal("--threshold", "debris")
    assert "--threshold debris is not of the form CLASS=P" in capsys.readouterr().err


def test_a_mosaic_of_scenes_is_mapped_as_one_and_keeps_the_days(make_landsat, make_member, tmp_path, monkeypatch):
    bundled = ensemble.Ensemble([make_member(synthetic=True)])
    monkeypatch.setattr(batch, "resolve_models", lambda _: bundled)
    old = make_landsat("LC08_L2SP_149035_20200731_20200908_02_T1", shape=(70, 80))
    make_landsat("LC08_L2SP_149036_20210802_20210908_02_T1", shape=(70, 80), origin=(40, 30), seed=4, mtl=False)
    out = tmp_path / "maps"
    arguments = ["predict", "--data", str(old.parent), "--out", str(out), "--tta", "off", "--device", "cpu"]
    arguments += ["--engine", "torch"]
    assert main(arguments) == 0
    with rasterio.open(out / "mosaic_32643.tif") as file:
        assert file.shape == (110, 110)
        assert "DATE_ACQUIRED" not in file.tags()
    with rasterio.open(out / "sources" / "mosaic_32643.tif") as file:
        sources_HW, tags = file.read(1), file.tags()
    assert (tags["scene_1"], tags["date_0"], tags["date_1"]) == (old.name, "2021-08-02", "2020-07-31")
    dataset = open_dataset(old.parent)
    np.testing.assert_array_equal(sources_HW, dataset.read_sources(dataset.tiles[0]))
    # Two patches, one on each scene: each polygon is of its own day.
    with rasterio.open(out / "mosaic_32643.tif", "r+") as file:
        codes_HW = np.zeros(file.shape, np.uint8)
        codes_HW[20:30, 5:25] = codes_HW[80:90, 60:80] = 85
        file.write(codes_HW, 1)
    columns = outline_maps(open_maps(out)).columns
    day_of = dict(zip(np.round(columns["cenlat"], 3), columns["src_date"], strict=True))
    assert [day_of[latitude][:10] for latitude in sorted(day_of)] == ["2021-08-02", "2020-07-31"]
    # Another rule is another map.
    assert main([*arguments, "--mosaic", "name"]) == 0
    with rasterio.open(out / "sources" / "mosaic_32643.tif") as file:
        assert file.tags()["scene_0"] == old.name
