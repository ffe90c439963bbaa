"""Masks to polygons and back, against rasterio, shapely's checks and the RGI's own outlines."""

import numpy as np
import pytest
import rasterio
import rasterio.features
import rasterio.warp
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import label

from napari_glacier.core.classes import IGNORE_INDEX
from napari_glacier.core.errors import DataError
from napari_glacier.core.inventory.vectorize import polygonise, rasterise, smooth, to_map, to_pixels
from napari_glacier.core.raster import read_info
from napari_glacier.core.raster.georef import GeoRef

GEOREF = GeoRef.from_epsg(32643, (30.0, 0.0, 460_425.0, 0.0, -30.0, 3_802_575.0))
# Four values on few pixels: holes, diagonal touches and borders of three and four classes are the rule.
masks = arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 3))


@settings(deadline=None, max_examples=150)
@given(masks)
def test_polygons_are_a_valid_coverage_and_give_the_mask_back(index_HW):
    polygons, classes, label_HW = polygonise(index_HW)
    assert len(polygons) == len(classes) == sum(label(index_HW == k)[1] for k in (1, 2, 3))
    np.testing.assert_array_equal(rasterise(polygons, classes, index_HW.shape), index_HW)
    np.testing.assert_array_equal(label_HW > 0, index_HW > 0)
    np.testing.assert_array_equal(np.r_[0, classes][label_HW], index_HW)
    if not len(polygons):
        return
    assert shapely.is_valid(polygons).all()
    assert shapely.coverage_is_valid(polygons)
    np.testing.assert_array_equal(shapely.area(polygons), np.bincount(label_HW.ravel())[1:])


@settings(deadline=None, max_examples=60)
@given(masks, st.sampled_from([0.4, 1.0, 3.0]))
def test_smoothing_tears_no_shared_border_and_loses_no_polygon(index_HW, tolerance):
    polygons, _, _ = polygonise(index_HW)
    smoothed = smooth(polygons, tolerance)
    assert len(smoothed) == len(polygons)
    if len(polygons):
        assert shapely.is_valid(smoothed).all()
        assert not shapely.is_empty(smoothed).any()
        assert shapely.coverage_is_valid(smoothed)
        # Overlaps would make the sum larger than the union, gaps within would show as a union with more holes.
        assert shapely.area(smoothed).sum() == pytest.approx(shapely.area(shapely.union_all(smoothed)), abs=1e-9)


def test_smoothing_takes_the_stairs_away_and_keeps_the_border_between_classes():
    rows, cols = np.mgrid[:60, :60]
    index_HW = np.where(rows + 2 * cols < 80, 1, 2).astype(np.uint8)
    polygons, classes, _ = polygonise(index_HW)
    smoothed = smooth(polygons, 1.0)
    assert shapely.get_num_coordinates(smoothed).sum() < shapely.get_num_coordinates(polygons).sum() / 5
    first, second = smoothed[classes == 1][0], smoothed[classes == 2][0]
    border = shapely.intersection(first, second)
    # The true border is straight, from the top edge at column 40 to the left or bottom edge.
    assert shapely.length(border) == pytest.approx(np.hypot(60, 30), rel=0.03)
    # Two polygons without gap or overlap fill the square; its corners may be cut by half the tolerance's square.
    assert shapely.area(first) + shapely.area(second) == pytest.approx(3600, abs=4)


def test_holes_stay_holes_and_what_lies_in_them_fits_exactly():
    index_HW = np.ones((9, 9), np.uint8)
    index_HW[2:5, 2:5] = 0
    index_HW[3, 3] = 2
    index_HW[6:8, 6:8] = 3
    polygons, classes, _ = polygonise(index_HW)
    glacier = polygons[classes == 1][0]
    assert shapely.get_num_interior_rings(glacier) == 2
    holes = shapely.polygons(shapely.get_rings(glacier)[1:])
    for expected in (shapely.box(2, 2, 5, 5), shapely.box(6, 6, 8, 8)):
        assert shapely.equals(holes, expected).sum() == 1
    assert shapely.equals(polygons[classes == 2][0], shapely.box(3, 3, 4, 4))
    assert shapely.touches(glacier, polygons[classes == 3][0])


def test_pixels_that_touch_at_a_corner_are_two_polygons():
    polygons, _, _ = polygonise(np.eye(3, dtype=np.uint8))
    assert len(polygons) == 3
    assert shapely.is_valid(polygons).all()


def test_ignored_pixels_are_background():
    index_HW = np.full((4, 4), IGNORE_INDEX, np.uint8)
    index_HW[1, 1] = 1
    polygons, classes, _ = polygonise(index_HW)
    assert classes.tolist() == [1]
    assert shapely.area(polygons).tolist() == [1.0]


@pytest.mark.parametrize("tolerance", [0.0, -1.0, float("nan"), float("inf")])
def test_a_tolerance_that_is_none_is_refused(tolerance):
    with pytest.raises(DataError, match="above 0"):
        smooth(np.array([shapely.box(0, 0, 1, 1)], object), tolerance)


def test_pixels_and_map_coordinates_go_both_ways_on_a_turned_grid():
    turned = GeoRef.from_epsg(32643, (20.0, 12.0, 460_425.0, 9.0, -25.0, 3_802_575.0))
    polygons, _, _ = polygonise(np.random.default_rng(0).integers(0, 3, (20, 30)).astype(np.uint8))
    there = to_map(polygons, turned)
    back = to_pixels(there, turned)
    assert np.abs(shapely.get_coordinates(back) - shapely.get_coordinates(polygons)).max() < 1e-6
    columns_rows = shapely.get_coordinates(polygons)
    affine = np.array(turned.transform).reshape(2, 3)
    expected = columns_rows @ affine[:, :2].T + affine[:, 2]
    np.testing.assert_allclose(shapely.get_coordinates(there), expected, rtol=1e-12)


def test_rgi_outlines_cover_the_same_pixels_as_with_rasterio_and_survive_the_round_trip(real_data):
    import pyogrio

    image = real_data / "everest" / "LE71400412000304SGS00_B4.tif"
    info = read_info(image)
    outlines = real_data / "everest" / "15_rgi60_glacier_outlines.gpkg"
    _, _, wkb, _ = pyogrio.raw.read(outlines)
    shapes = shapely.from_wkb(wkb)
    assert len(shapes) == 86
    with rasterio.open(image) as dataset:
        moved = [rasterio.warp.transform_geom("EPSG:4326", dataset.crs, shapely.geometry.mapping(s)) for s in shapes]
        expected_HW = rasterio.features.rasterize(moved, out_shape=dataset.shape, transform=dataset.transform)
    in_map = np.array([shapely.geometry.shape(shape) for shape in moved], object)
    shape = (info.height, info.width)
    index_HW = rasterise(to_pixels(in_map, info.georef), [1] * len(in_map), shape)
    np.testing.assert_array_equal(index_HW, expected_HW)
    # Pixels chosen at random lie in an outline exactly when their centres do.
    rng = np.random.default_rng(1)
    rows, cols = rng.integers(0, info.height, 3000), rng.integers(0, info.width, 3000)
    x, y = np.array(info.georef.transform).reshape(2, 3) @ np.stack([cols + 0.5, rows + 0.5, np.ones(3000)])
    inside = shapely.contains_xy(shapely.union_all(in_map), x, y)
    assert 100 < inside.sum() < 2900
    np.testing.assert_array_equal(index_HW[rows, cols] == 1, inside)
    polygons, classes, _ = polygonise(index_HW)
    assert shapely.is_valid(polygons).all()
    np.testing.assert_array_equal(
        rasterise(to_pixels(to_map(polygons, info.georef), info.georef), classes, shape), index_HW
    )


def test_a_large_mosaic_of_many_patches_comes_back_whole():
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(np.random.default_rng(0).normal(size=(1024, 1024)), 4)
    index_HW = np.digitize(field, np.quantile(field, [0.4, 0.7, 0.9])).astype(np.uint8)
    polygons, classes, _ = polygonise(index_HW)
    assert len(polygons) > 1000
    np.testing.assert_array_equal(rasterise(polygons, classes, index_HW.shape), index_HW)
    # An independent count of border: every pixel edge between different pixels, counted from both sides.
    padded = np.pad(index_HW, 1)
    across = (padded[:, 1:] != padded[:, :-1]) * (1 * (padded[:, 1:] > 0) + (padded[:, :-1] > 0))
    down = (padded[1:] != padded[:-1]) * (1 * (padded[1:] > 0) + (padded[:-1] > 0))
    assert shapely.length(polygons).sum() == across.sum() + down.sum()
