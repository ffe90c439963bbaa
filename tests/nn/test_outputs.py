import json

import numpy as np
import pytest
import rasterio

from napari_glacier.core.classes import get_scheme
from napari_glacier.core.dataset import open_dataset
from napari_glacier.core.errors import GlacierError
from napari_glacier.core.mosaic import plan_scenes
from napari_glacier.nn.outputs import write_predictions
from napari_glacier.nn.prediction import Prediction


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


def test_masks_carry_names_codes_and_place(make_dataset, tmp_path) -> None:
    dataset = open_dataset(make_dataset())
    (scene,) = plan_scenes(dataset)
    prediction = _prediction(scene)
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
            assert mask.dtypes == ("uint8",)
            assert mask.crs == band.crs
            assert mask.transform == band.transform
    record = json.loads((out / "provenance.json").read_text())
    assert record["scenes"][scene.name]["ensemble"] == "test"
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
            np.testing.assert_array_equal(file.read(1), expected)
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
    record = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert set(record["scenes"]) == {scene.name for scene in scenes}


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
