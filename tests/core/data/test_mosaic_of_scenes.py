"""Scenes that overlap open as one mosaic by a stated rule, pixel by pixel as rasterio merges them."""

import numpy as np
import pytest
import rasterio
from rasterio.merge import merge

from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.data.joining import NO_SCENE
from napari_glacier.core.data.mosaic import plan_scenes
from napari_glacier.core.errors import DataError
from napari_glacier.core.prepare.tiles import TileSettings, prepare_tiles
from napari_glacier.core.raster import GeoRef, write_mask, write_raster
from napari_glacier.core.tiling import Window

# rasterio's merge multiplies transforms in a way that affine is about to give up.
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

BANDS = ("SR_B2", "SR_B3", "SR_B4", "SR_B6", "ST_B10")
SIDE = 60
CLOUD, CLEAR, FILL = 1 << 3, 1 << 6, 1
# Name, first row and column on the common grid, day.
OLD = ("LC08_L2SP_149035_20200731_20200908_02_T1", 0, 0)
NEW = ("LC08_L2SP_149036_20210802_20210908_02_T1", 35, 20)
MIDDLE = ("LC09_L2SP_148035_20201015_20210908_02_T1", 10, 45)


def write_scene(root, scene, *, epsg=32643, bands=BANDS, shift=0.0, seed=None):
    """A Level-2 scene with a ragged border and clouds in squares; gives its pixels and quality."""
    name, row, col = scene
    folder = root / name
    folder.mkdir(parents=True)
    rng = np.random.default_rng(row + 7 * col if seed is None else seed)
    image_CHW = rng.integers(8000, 40000, (len(bands), SIDE, SIDE)).astype(np.uint16)
    quality_HW = np.full((SIDE, SIDE), CLEAR, np.uint16)
    quality_HW[np.kron(rng.random((6, 6)) < 0.3, np.ones((10, 10), bool))] = CLOUD
    fill_HW = np.add.outer(np.arange(SIDE), np.arange(SIDE)) < 12
    image_CHW[:, fill_HW], quality_HW[fill_HW] = 0, FILL
    ref = GeoRef.from_epsg(epsg, (30.0, 0.0, 460000.0 + 30 * col + shift, 0.0, -30.0, 3800000.0 - 30 * row))
    for band, plane_HW in zip(bands, image_CHW, strict=True):
        write_raster(folder / f"{name}_{band}.TIF", plane_HW, ref, 0)
    write_raster(folder / f"{name}_QA_PIXEL.TIF", quality_HW, ref)
    return folder


def merged(folders, bands=BANDS):
    """What rasterio's own merge makes of scenes in this order: the first that has data counts."""
    return np.stack(
        [merge([folder / f"{folder.name}_{band}.TIF" for folder in folders], nodata=0)[0][0] for band in bands]
    )


def brute_force(folders, bands=BANDS):
    """The newest clear pixel, else the newest that has data, one by one; and which scene that is."""
    opened = []
    for folder in folders:
        with rasterio.open(folder / f"{folder.name}_QA_PIXEL.TIF") as file:
            quality_HW, transform = file.read(1), file.transform
        planes = []
        for band in bands:
            with rasterio.open(folder / f"{folder.name}_{band}.TIF") as file:
                planes.append(file.read(1))
        row, col = round((3800000 - transform.f) / 30), round((transform.c - 460000) / 30)
        opened.append((np.stack(planes), quality_HW, row, col))
    top, left = min(one[2] for one in opened), min(one[3] for one in opened)
    height = max(one[2] for one in opened) + SIDE - top
    width = max(one[3] for one in opened) + SIDE - left
    image_CHW = np.zeros((len(bands), height, width), np.float32)
    source_HW = np.full((height, width), NO_SCENE)
    for y in range(height):
        for x in range(width):
            seen = []
            for number, (planes_CHW, quality_HW, row, col) in enumerate(opened):
                r, c = y + top - row, x + left - col
                if 0 <= r < SIDE and 0 <= c < SIDE and not quality_HW[r, c] & FILL and planes_CHW[:, r, c].any():
                    seen.append((bool(quality_HW[r, c] & CLOUD), number, planes_CHW[:, r, c]))
            if seen:
                _, source_HW[y, x], image_CHW[:, y, x] = min(seen, key=lambda one: one[:2])
    return image_CHW, source_HW


@pytest.fixture
def three(tmp_path):
    root = tmp_path / "three"
    return root, *(write_scene(root, scene) for scene in (OLD, NEW, MIDDLE))


def test_neighbours_open_as_one_mosaic_of_the_newest_clear_pixels(three):
    root, old, new, middle = three
    dataset = open_dataset(root)
    (tile,) = dataset.tiles
    assert [part.tile.id for part in tile.parts] == [new.name, middle.name, old.name]
    assert [part.tile.product.date for part in tile.parts] == ["2021-08-02", "2020-10-15", "2020-07-31"]
    expected_CHW, expected_HW = brute_force((new, middle, old))
    (scene,) = plan_scenes(dataset)
    image_CHW, valid_HW = scene.read(scene.whole)
    np.testing.assert_array_equal(image_CHW, expected_CHW)
    np.testing.assert_array_equal(dataset.read_sources(tile), expected_HW)
    np.testing.assert_array_equal(valid_HW, expected_HW != NO_SCENE)
    # All three have a share, and clouds decided somewhere: the rule is not that of the newest.
    assert set(np.unique(expected_HW)) == {0, 1, 2, NO_SCENE}
    assert (image_CHW != merged((new, middle, old))).any()
    (said,) = dataset.assumed
    assert "newest scene that saw it without cloud" in said
    assert said.index(new.name) < said.index(f"2020-10-15 {middle.name}") < said.index(old.name)
    with rasterio.open(old / f"{old.name}_SR_B2.TIF") as file:
        assert tile.georef.transform == tuple(file.transform)[:6]
    # The clouds that are shown are those of the scene that the pixel is of.
    cloudy_HW = dataset.read_quality(tile) == 1
    assert 0 < cloudy_HW.sum() < (dataset.read_quality(tile.parts[0].tile) == 1).sum() * 3


@pytest.mark.parametrize(("rule", "order"), [("newest", (2, 3, 1)), ("name", (1, 2, 3))])
def test_the_other_rules_are_those_of_rasterio_merge(three, rule, order):
    root = three[0]
    (root / "dataset.yaml").write_text(f"mosaic: {rule}\n")
    dataset = open_dataset(root)
    (tile,) = dataset.tiles
    image_CHW, valid_HW = dataset.read(tile)
    expected_CHW = merged([three[k] for k in order])
    np.testing.assert_array_equal(image_CHW, expected_CHW)
    np.testing.assert_array_equal(valid_HW, expected_CHW.any(axis=0))


@pytest.mark.parametrize("rule", ["newest-clear", "newest"])
def test_pixels_do_not_depend_on_the_window(three, rule):
    dataset = open_dataset(three[0], mosaic=rule)
    (tile,), (scene,) = dataset.tiles, plan_scenes(dataset)
    whole_CHW, whole_HW = dataset.read(tile)
    rng = np.random.default_rng(1)
    for _ in range(40):
        (top, bottom), (left, right) = (sorted(rng.choice(length + 1, 2, replace=False)) for length in scene.shape)
        window = Window(int(top), int(left), int(bottom - top), int(right - left))
        image_CHW, valid_HW = scene.read(window, ("B6", "B2"))
        np.testing.assert_array_equal(image_CHW, whole_CHW[[3, 0]][:, *window.slices])
        np.testing.assert_array_equal(valid_HW, whole_HW[window.slices])
        values = dataset.read_values(tile, ("B10",), (int(top), int(bottom)), (int(left), int(right)))
        np.testing.assert_array_equal(values[0], whole_CHW[4][window.slices])
        assert values[0].dtype == np.uint16


def test_a_view_from_afar_picks_pixels_of_the_same_places(three):
    root, *folders = three
    (scene,) = plan_scenes(open_dataset(root))
    _, whole_HW = scene.read(scene.whole, ("B3",))
    # Which scene a picked pixel is of depends on its own cloud: any scene's pixel thereabouts will do.
    each_HW = [merged([folder, *folders], ("SR_B3",))[0] for folder in folders]
    height, width = scene.reduced_shape(4)
    afar_CHW, afar_HW = scene.read_reduced(4, Window(0, 0, height, width), ("B3",))
    for y, x in np.ndindex(height, width):
        block = np.s_[max(4 * y - 4, 0) : 4 * y + 8, max(4 * x - 4, 0) : 4 * x + 8]
        assert not afar_HW[y, x] or any(afar_CHW[0, y, x] in one_HW[block] for one_HW in each_HW)
    assert abs(afar_HW.mean() - whole_HW.mean()) < 0.1


def test_a_scene_that_is_covered_is_not_read(tmp_path, monkeypatch):
    root = tmp_path / "covered"
    write_scene(root, ("LC08_L2SP_149035_20200731_20200908_02_T1", 0, 0))
    write_scene(root, ("LC08_L2SP_149036_20210731_20210908_02_T1", 0, 20))
    dataset = open_dataset(root, mosaic="newest")
    read = []
    usual = type(dataset).read

    def noted(self, tile, *rest):
        read.append(tile.id)
        return usual(self, tile, *rest)

    monkeypatch.setattr(type(dataset), "read", noted)
    dataset.read(dataset.tiles[0], ("B2",), (30, 50), (40, 60))
    assert [name[10:16] for name in read if name.startswith("LC08")] == ["149036"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epsg": 32644}, "EPSG:32644"),
        ({"shift": 15.0}, "lie between"),
        ({"bands": ("SR_B2", "SR_B3", "SR_B4", "SR_B6")}, "has the bands"),
    ],
)
def test_scenes_that_do_not_fit_stay_apart_and_say_why(tmp_path, change, words):
    write_scene(tmp_path, OLD)
    write_scene(tmp_path, NEW, **change)
    dataset = open_dataset(tmp_path)
    assert [len(tile.parts) for tile in dataset.tiles] == [0, 0]
    assert any(words in text for text in dataset.warnings)


def test_several_dates_of_one_place_are_joined_on_request_only(tmp_path):
    write_scene(tmp_path, OLD)
    write_scene(tmp_path, (OLD[0].replace("20200731", "20210731"), 0, 0), seed=9)
    dataset = open_dataset(tmp_path)
    assert len(dataset.tiles) == 2
    assert any("several dates of one place" in text and "mosaic: newest-clear" in text for text in dataset.warnings)
    (tmp_path / "dataset.yaml").write_text("mosaic: newest-clear\n")
    assert len(open_dataset(tmp_path).tiles[0].parts) == 2
    (tmp_path / "dataset.yaml").write_text("mosaic: apart\n")
    apart = open_dataset(tmp_path)
    assert len(apart.tiles) == 2
    assert not any("one place" in text for text in apart.warnings)
    (tmp_path / "dataset.yaml").write_text("mosaic: sometimes\n")
    with pytest.raises(DataError, match="Known are"):
        open_dataset(tmp_path)


def test_scenes_with_labels_are_not_hidden_in_a_mosaic(three):
    root, old, *_ = three
    write_raster(old / "label" / f"{old.name}_SR_B2.TIF", np.zeros((SIDE, SIDE), np.uint8))
    assert len(open_dataset(root, "glacier2").tiles) == 3
    with pytest.raises(DataError, match="labels of its own"):
        open_dataset(root, "glacier2", mosaic="newest")


def test_sentinel_2_neighbours_are_joined(make_sentinel2, tmp_path):
    first = make_sentinel2()
    second = make_sentinel2(first.name.removesuffix(".SAFE").replace("T43SFV", "T43SGV").replace("0715T", "0718T"))
    metadata = second / "MTD_MSIL2A.xml"
    metadata.write_text(metadata.read_text().replace("2023-07-15T05", "2023-07-18T05"))
    dataset = open_dataset(first.parent)
    (tile,) = dataset.tiles
    assert [part.tile.id for part in tile.parts] == [second.stem, first.stem]


def test_labels_of_a_mosaic_are_found_again_and_the_scenes_are_tiles_for_training(three, tmp_path):
    import pyogrio
    import shapely

    root = three[0]
    dataset = open_dataset(root)
    (tile,) = dataset.tiles
    mask_HW = (np.indices((tile.height, tile.width)).sum(axis=0) % 3 == 0).astype(np.uint8)
    write_mask(tile.new_mask_path, mask_HW, open_dataset(root, "glacier2").scheme, tile.georef)
    again = open_dataset(root, "glacier2")
    np.testing.assert_array_equal(again.read_mask(again.tiles[0]), mask_HW)

    outlines = tmp_path / "ice.gpkg"
    box = shapely.box(460000 + 600, 3800000 - 2400, 460000 + 2400, 3800000 - 600)
    pyogrio.raw.write(outlines, shapely.to_wkb([box]), [], [], geometry_type="Polygon", crs="EPSG:32643")
    steps = prepare_tiles(root, [outlines], tmp_path / "tiles", TileSettings(tile_px=40))
    for _ in steps:
        pass
    cut = open_dataset(tmp_path / "tiles")
    (scene,) = plan_scenes(cut)
    image_CHW, valid_HW = scene.read(scene.whole)
    expected_CHW, expected_HW = dataset.read(tile)
    height, width = expected_HW.shape
    np.testing.assert_array_equal(valid_HW[:height, :width], expected_HW)
    np.testing.assert_array_equal(image_CHW[:, :height, :width], expected_CHW)
