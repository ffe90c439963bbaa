"""Areas and lengths on the ellipsoid, against pyproj.Geod and the projection's own scale."""

import numpy as np
import pyproj
import pytest

from napari_glacier.core.errors import DataError
from napari_glacier.core.raster.georef import GeoRef
from napari_glacier.core.raster.projection import (
    crs_of,
    pixel_areas_m2,
    pixel_size_m,
    to_longitude_latitude,
    utm_zones,
    xy_of,
)

GEOD = pyproj.Geod(ellps="WGS84")


@pytest.mark.parametrize(
    ("georef", "shape"),
    [
        (GeoRef.from_epsg(32643, (30.0, 0.0, 460_425.0, 0.0, -30.0, 3_802_575.0)), (700, 500)),
        (GeoRef.from_epsg(32643, (30.0, 0.0, 820_000.0, 0.0, -30.0, 3_802_575.0)), (40, 500)),
        (GeoRef.from_epsg(4326, (0.0003, 0.0, 86.0, 0.0, -0.0003, 62.0), geographic=True), (300, 300)),
        (GeoRef.from_epsg(3413, (100.0, 40.0, -200_000.0, 30.0, -90.0, -2_000_000.0)), (300, 200)),
        (GeoRef.from_epsg(32643, (30.0, 0.0, 460_425.0, 0.0, -30.0, 3_802_575.0)), (2, 3)),
    ],
)
def test_pixel_areas_are_those_of_geodesics(georef, shape):
    areas_HW = pixel_areas_m2(georef, shape)
    assert areas_HW.shape == shape
    to_degrees = to_longitude_latitude(crs_of(georef))
    rng = np.random.default_rng(0)
    for row, col in [(0, 0), (shape[0] - 1, shape[1] - 1), *zip(*(rng.integers(0, n, 8) for n in shape), strict=True)]:
        # A block of 50 pixels' side would be too coarse for its edges; a pixel's edges are as good as geodesics.
        x, y = xy_of(georef, np.array([row, row, row + 1, row + 1]), np.array([col, col + 1, col + 1, col]))
        expected, _ = GEOD.polygon_area_perimeter(*to_degrees.transform(x, y))
        assert areas_HW[row, col] == pytest.approx(abs(expected), rel=2e-6)


def test_utm_areas_differ_from_the_ellipsoid_s_by_the_scale_of_the_projection():
    georef = GeoRef.from_epsg(32643, (30.0, 0.0, 500_000.0, 0.0, -30.0, 3_802_575.0))
    assert pixel_areas_m2(georef, (8, 8)).mean() / 900 == pytest.approx(1 / 0.9996**2, rel=1e-6)


def test_the_size_of_a_pixel_in_degrees_is_given_in_metres():
    georef = GeoRef.from_epsg(4326, (0.0003, 0.0, 86.0, 0.0, -0.0003, 60.015), geographic=True)
    width, height = pixel_size_m(georef, (100, 100))
    _, _, expected = GEOD.inv(86.015, 60.0, 86.0153, 60.0)
    assert width == pytest.approx(expected, rel=1e-5)
    _, _, expected = GEOD.inv(86.015, 60.0, 86.015, 59.9997)
    assert height == pytest.approx(expected, rel=1e-5)


def test_a_system_without_a_code_is_read_from_its_parameters(tmp_path):
    import rasterio

    from napari_glacier.core.raster import read_info

    path = tmp_path / "own.tif"
    own = "+proj=laea +lat_0=30 +lon_0=80 +datum=WGS84 +units=m"
    with rasterio.open(
        path, "w", driver="GTiff", width=4, height=4, count=1, dtype="uint8", crs=own, transform=(30, 0, 5, 0, -30, 7)
    ) as file:
        file.write(np.ones((1, 4, 4), np.uint8))
    georef = read_info(path).georef
    assert georef.epsg is None
    lon, lat = to_longitude_latitude(crs_of(georef)).transform(0.0, 0.0)
    assert (lon, lat) == pytest.approx((80.0, 30.0), abs=1e-9)
    np.testing.assert_allclose(pixel_areas_m2(georef, (4, 4)), 900, rtol=1e-6)


def test_a_georeference_without_a_system_says_so():
    with pytest.raises(DataError, match="no coordinate system"):
        crs_of(GeoRef((30.0, 0.0, 0.0, 0.0, -30.0, 0.0), None), "mask.tif")


def test_utm_zones():
    assert utm_zones(np.array([-180.0, -177.1, 0.0, 75.0, 86.9, 179.9, 180.0])).tolist() == [1, 1, 31, 43, 45, 60, 1]
