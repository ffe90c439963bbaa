"""Scenes in the window: levels of a large one, and layers on request or the reason why not."""

import threading

import numpy as np
import pytest
import rasterio
from napari.components import ViewerModel

from napari_glacier.controllers import levels, pictures
from napari_glacier.controllers.extra_layers import extra_layers
from napari_glacier.controllers.gallery import Gallery
from napari_glacier.controllers.levels import Level, level_factors
from napari_glacier.controllers.overview import summary
from napari_glacier.controllers.session import Session
from napari_glacier.controllers.workspace import workspace_of
from napari_glacier.core.data import mosaic
from napari_glacier.core.errors import DataError
from napari_glacier.core.tiling import Window


@pytest.fixture
def open_in_viewer():
    """Open a folder in a viewer without a window; everything is let go at the end."""
    workspaces = []

    def opened(path):
        viewer = ViewerModel()
        workspace = workspace_of(viewer)
        workspaces.append((workspace, viewer))
        workspace.open(path)
        return workspace

    yield opened
    for workspace, _ in workspaces:
        workspace.close()


@pytest.fixture
def small_means_large(monkeypatch):
    """Scenes of a few pixels are treated as whole Landsat scenes are."""
    monkeypatch.setattr(mosaic, "LARGE_PX", 1000)
    monkeypatch.setattr(levels, "_COARSEST_PX", 16)


def test_a_large_scene_comes_in_levels_and_small_parts(make_landsat, open_in_viewer, small_means_large, monkeypatch):
    folder = make_landsat(shape=(90, 110))
    read = []
    original = mosaic.Dataset.read

    def noted(self, tile, bands, *part):
        read.append(part)
        return original(self, tile, bands, *part)

    monkeypatch.setattr(mosaic.Dataset, "read", noted)
    monkeypatch.setattr(mosaic, "_WHOLE_PX", 100)
    monkeypatch.setattr(mosaic, "_STRIP_ROWS", 16)
    session = Session.open(folder)
    session.layer_data()
    gallery = Gallery(session)
    gallery.want(session.tile_ids)
    assert [step.tile_id for step in gallery.job()] == list(session.tile_ids) * 2
    # Samples and views from afar, but never the whole of it.
    assert all(len(part) == 3 or part[0][1] - part[0][0] <= 16 for part in read)
    session.close()
    workspace = open_in_viewer(folder)
    layer = next(layer for layer in workspace.viewer.layers if layer.name == "B3 green")
    assert layer.multiscale
    assert [level.shape for level in layer.data] == [(90, 110), (45, 55), (23, 28), (12, 14)]
    with rasterio.open(next(folder.glob("*_B3.TIF"))) as file:
        green_HW = file.read(1)
    np.testing.assert_array_equal(layer.data[0][10:70, 5:100], green_HW[10:70, 5:100])
    np.testing.assert_array_equal(layer.data[0][80:10:-7, 3], green_HW[80:10:-7, 3])
    assert np.isin(layer.data[2][...], green_HW).all()
    assert workspace.labels_layer.data.shape == (90, 110)


def test_a_view_from_afar_lies_where_the_scene_does(make_dataset, small_means_large):
    session = Session.open(make_dataset(grid=(2, 3), size_px=50))
    (scene,) = session.scenes
    whole_CHW, _ = scene.read(scene.whole, ("B2",))
    for factor in (2, 4):
        height, width = scene.reduced_shape(factor)
        reduced_CHW, valid_HW = scene.read_reduced(factor, Window(0, 0, height, width), ("B2",))
        blocks = [
            whole_CHW[0, row * factor : (row + 1) * factor, col * factor : (col + 1) * factor]
            for row in range(height)
            for col in range(width)
        ]
        # Each pixel is one of those that it stands for, or a next neighbour at a tile's end.
        near = [value in block for value, block in zip(reduced_CHW[0].ravel(), blocks, strict=True)]
        assert np.mean(near) > 0.95
        part_CHW, part_valid_HW = scene.read_reduced(factor, Window(3, 5, 10, 12), ("B2",))
        np.testing.assert_array_equal(part_CHW, reduced_CHW[:, 3:13, 5:17])
        np.testing.assert_array_equal(part_valid_HW, valid_HW[3:13, 5:17])
    session.close()


def test_a_file_without_overviews_is_decoded_once_for_all_views_from_afar(make_landsat, small_means_large, monkeypatch):
    monkeypatch.setattr(mosaic, "_WHOLE_PX", 30 * 30)
    session = Session.open(make_landsat(shape=(90, 110)))
    (scene,) = session.scenes
    read = []
    original = mosaic.Dataset.read

    def noted(self, tile, bands, *part):
        read.append(part)
        return original(self, tile, bands, *part)

    monkeypatch.setattr(mosaic.Dataset, "read", noted)
    whole_CHW, whole_HW = scene.read(scene.whole, ("B2",))
    read.clear()
    for factor in (16, 8, 4):
        height, width = scene.reduced_shape(factor)
        image_CHW, valid_HW = scene.read_reduced(factor, Window(0, 0, height, width), ("B2",))
        for row, col in np.ndindex(height, width):
            block = np.s_[row * factor : (row + 1) * factor, col * factor : (col + 1) * factor]
            assert valid_HW[row, col] <= whole_HW[block].any()
            assert not valid_HW[row, col] or image_CHW[0, row, col] in whole_CHW[0][block]
        part_CHW, _ = scene.read_reduced(factor, Window(1, 2, 3, 4), ("B2",))
        np.testing.assert_array_equal(part_CHW, image_CHW[:, 1:4, 2:6])
    assert read == [((0, 90), (0, 110), (23, 28))]
    session.close()


def test_validity_of_a_large_scene_is_read_where_it_is_painted(make_landsat, small_means_large):
    session = Session.open(make_landsat())
    expected_HW = session.scenes[0].valid()
    np.testing.assert_array_equal(np.asarray(session.valid), expected_HW)
    session.mask[0:10, 0:12] = 1
    np.testing.assert_array_equal(np.asarray(session.mask[0:10, 0:12]) == 1, expected_HW[:10, :12])
    rows, cols = np.array([1, 20, 39]), np.array([2, 20, 49])
    session.mask[rows, cols] = 2
    assert np.asarray(session.mask[rows, cols]).tolist() == [0, 2, 2]
    session.close()


def test_layers_on_request_lie_below_the_labels_and_are_made_once(make_landsat, open_in_viewer):
    workspace = open_in_viewer(make_landsat())
    session = workspace.session
    assert not any(extra.reason for extra in extra_layers(session))
    layer = workspace.add_extra("temperature")
    assert layer.name == "Brightness temperature (K)"
    names = [other.name for other in workspace.viewer.layers]
    assert names.index(layer.name) == names.index("Labels") - 1
    assert workspace.viewer.layers.selection.active is workspace.labels_layer
    low, high = layer.contrast_limits
    values = np.asarray(layer.data)
    assert 150 < low < high < 400
    assert np.isnan(values[:6, :8]).all()
    layer.visible = False
    assert workspace.add_extra("temperature") is layer
    assert layer.visible
    clouds = workspace.add_extra("quality")
    assert (np.asarray(clouds.data) == 1).sum() == 40
    assert not clouds.editable
    assert session.mask.shape == (40, 50)
    assert ("Acquired", "2020-07-31") in summary(session)


def test_pictures_that_were_removed_come_back_below_what_is_made_of_them(make_landsat, open_in_viewer):
    workspace = open_in_viewer(make_landsat())
    layers = workspace.viewer.layers
    index = workspace.add_extra("NDSI").name
    before = {layer.name: np.asarray(layer.data) for layer in layers if layer.name in ("True colour", "B10 thermal")}
    limits = layers["B10 thermal"].contrast_limits
    for name in before:
        layers.remove(name)

    for name, pixels in before.items():
        assert name in [extra.title for extra in extra_layers(workspace.session) if not extra.reason]
        layer = workspace.add_extra(name)
        assert layer.visible
        np.testing.assert_array_equal(np.asarray(layer.data), pixels)
        assert layers.selection.active is workspace.labels_layer
        assert [one.name for one in layers][-3:] == [name, index, "Labels"]
    assert layers["B10 thermal"].contrast_limits == limits
    assert workspace.add_extra("True colour") is layers["True colour"]
    # With all of them gone it lies lowest, as pictures do.
    for layer in [one for one in layers if one.name not in (index, "Labels")]:
        layers.remove(layer)
    workspace.add_extra("B2 blue")
    assert [one.name for one in layers] == ["B2 blue", index, "Labels"]


def test_what_cannot_be_made_says_why(make_dataset, make_sentinel2, open_in_viewer):
    workspace = open_in_viewer(make_dataset())
    reasons = {extra.key: extra.reason for extra in extra_layers(workspace.session)}
    assert not reasons["NDSI"]
    assert "landsat-c2-l2" in reasons["temperature"]
    assert "QA_PIXEL" in reasons["quality"]
    with pytest.raises(DataError, match="landsat-c2-l2"):
        workspace.add_extra("reflectance B2")
    assert workspace.add_extra("NDSI").name == "NDSI (raw numbers)"
    workspace = open_in_viewer(make_sentinel2())
    with pytest.raises(DataError, match="B10, which is not there"):
        workspace.add_extra("temperature")
    assert workspace.add_extra("NDSI").name == "NDSI (snow and ice)"


def test_reflectance_that_somebody_made_is_not_scaled_again(make_landsat, open_in_viewer):
    from napari_glacier.core.raster import read_info, read_raster, write_raster

    folder = make_landsat()
    path = next(folder.glob("*_B3.TIF"))
    write_raster(path, read_raster(path)[0].astype(np.float32) / 1e5, read_info(path).georef)
    workspace = open_in_viewer(folder)
    with pytest.raises(DataError, match="not the product's digital numbers"):
        workspace.add_extra("reflectance B3")


def test_two_archives_of_one_folder_are_two_sessions(make_landsat):
    first = Session.open(make_landsat(tar=True))
    second = Session.open(make_landsat("LE07_L1TP_149035_20020731_20200908_02_T1", tar=True))
    try:
        assert first is not second
        second.mask[20:24, 20:24] = 1
        second.commit()
        second.save()
        assert (second.root / "label" / f"{second.root.name}_B1.TIF").is_file()
        assert not first.root.exists()
    finally:
        first.close()
        second.close()


def test_levels_stop_where_a_canvas_has_room():
    assert level_factors((7800, 7800)) == [1, 2, 4, 8]
    assert level_factors((900, 1000)) == [1]


def test_a_level_takes_every_index(make_landsat):
    session = Session.open(make_landsat())
    scene = session.scenes[0]
    whole_HW = scene.read(scene.whole, ("B2",))[0][0]
    level = Level(
        scene,
        1,
        lambda window: scene.read(window, ("B2",))[0][0],
        np.float32,
    )
    for key in (
        np.s_[...],
        np.s_[3],
        np.s_[3, 4],
        np.s_[:, 5],
        np.s_[2:9:3, 20:4:-5],
        np.s_[4:4],
        (np.array([1, 7]), 3),
    ):
        np.testing.assert_array_equal(level[key], whole_HW[key])
    session.close()


def test_what_lies_around_the_view_is_read_before_it_gets_there(make_landsat, monkeypatch):
    monkeypatch.setattr(levels, "_SQUARE_PX", 16)
    session = Session.open(make_landsat(shape=(200, 210)))
    scene = session.scenes[0]
    whole_HW = scene.read(scene.whole, ("B2",))[0][0]
    read = []

    def noted(window):
        read.append((window, threading.current_thread() is threading.main_thread()))
        return scene.read(window, ("B2",))[0][0]

    def wait():
        levels.AHEAD.submit(lambda: None).result()

    level = Level(scene, 1, noted, np.float32)
    # napari rounds a view up to whole squares.
    assert level.chunks == (16, 16)
    for key in (np.s_[64:112, 64:128], np.s_[80:128, 80:144], np.s_[152:200, 160:210], np.s_[0:3, 0:210]):
        np.testing.assert_array_equal(level[key], whole_HW[key])
        wait()
    # The second view lay beside the first one, the others elsewhere.
    assert [window for window, waited_for in read if waited_for] == [
        Window(64, 64, 48, 64),
        Window(144, 160, 56, 50),
        Window(0, 0, 16, 210),
    ]
    num_read = len(read)
    level[80:128, 80:144]
    wait()
    assert len(read) == num_read
    session.close()


def test_napari_asks_for_nothing_while_the_view_moves_within_squares(make_landsat, open_in_viewer, small_means_large):
    workspace = open_in_viewer(make_landsat(shape=(300, 600)))
    layer = next(one for one in workspace.viewer.layers if one.visible and one.multiscale)
    asked = []

    def look_at(row, col):
        # As the canvas does when it is drawn.
        corners = [layer.data_to_world((row - 30, col - 30)), layer.data_to_world((row + 30, col + 30))]
        layer._update_draw(1.0, np.array(corners), (60, 60))

    look_at(100, 100)
    assert layer.data_level == 0
    layer.events.set_data.connect(asked.append)
    look_at(110, 120)
    assert not asked
    look_at(100, 400)
    assert asked


def test_limits_of_a_large_scene_come_from_its_overviews(make_landsat, small_means_large, monkeypatch):
    import rasterio.shutil

    # Enough pixels for percentiles.
    monkeypatch.setattr(levels, "_COARSEST_PX", 300)
    folder = make_landsat(shape=(1200, 1100), quality=False)
    for path in folder.glob("*.TIF"):
        rasterio.shutil.copy(path, path.with_suffix(".cog"), driver="COG", overview_resampling="nearest", blocksize=128)
        path.with_suffix(".cog").replace(path)
    session = Session.open(folder)
    (scene,) = session.scenes
    (place,) = scene.placements
    assert place.tile.reduced
    assert place.tile.blocked
    image_CHW, valid_HW = scene.read(scene.whole, ("B3",))
    expected = np.percentile(image_CHW[0][valid_HW], [2, 98])
    np.testing.assert_allclose(pictures.band_limits([scene], ("B3",))["B3"], expected, rtol=0.05)
    session.close()


def test_a_mosaic_of_scenes_is_looked_at_labelled_and_saved_as_one(make_landsat, open_in_viewer):
    old = make_landsat("LC08_L2SP_149035_20200731_20200908_02_T1")
    new = make_landsat("LC08_L2SP_149036_20210802_20210908_02_T1", origin=(25, 10), seed=4, mtl=False)
    workspace = open_in_viewer(old.parent)
    session = workspace.session
    assert session.mask.shape == (65, 60)
    assert ("Acquired", "2020-07-31, 2021-08-02") in summary(session)
    layer = workspace.add_extra("sources")
    sources_HW = np.asarray(layer.data)
    # Gap, the newer scene, the older one below its cloud, and where it ends.
    assert sources_HW[64, 0] == 0
    assert (sources_HW[35:39, 20:30] == 2).all()
    assert sources_HW[40, 30] == 1
    assert sources_HW[10, 30] == 2
    assert list(layer.features["day"]) == ["", "2021-08-02", "2020-07-31"]
    session.mask[30:50, 20:40] = 1
    report = session.save()
    assert not report.failed
    workspace.close()
    again = open_in_viewer(new.parent).session
    assert (np.asarray(again.mask)[30:50, 20:40] == 1).all()
    assert not (old / "label").exists()
    assert (new.parent / "label" / "mosaic_32643.tif").is_file()
