"""Outlines of masks, folders and data sets, their attributes and files, against GDAL's reading of them."""

import json
import re
import shutil

import numpy as np
import pyogrio
import pyproj
import pytest
import rasterio
import shapely
from scipy.ndimage import label

from napari_glacier.cli import main
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.correction.journal import Journal, Patch
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.errors import ConfigError, DataError, SaveError, SchemeError
from napari_glacier.core.inventory.map_source import open_maps
from napari_glacier.core.inventory.outline_files import SHAPEFILE_NAMES, read_polygons, write_outlines
from napari_glacier.core.inventory.outlines import COLUMNS, OutlineOptions, outline_maps
from napari_glacier.core.raster import read_mask_codes, write_mask, write_raster
from napari_glacier.core.raster.georef import GeoRef

FOUR = get_scheme("glacier4")
GEOD = pyproj.Geod(ellps="WGS84")


def georef_at(col: int, row: int, epsg: int = 32643) -> GeoRef:
    return GeoRef.from_epsg(epsg, (30.0, 0.0, 500_000.0 + 30 * col, 0.0, -30.0, 3_800_000.0 - 30 * row))


@pytest.fixture
def tiles(tmp_path):
    """Two masks that abut, with a glacier over both, probabilities beside them and tags as `predict` writes them."""
    whole_HW = np.zeros((20, 40), np.uint8)
    whole_HW[4:12, 10:30] = 1
    whole_HW[6:8, 14:16] = 2
    whole_HW[12:14, 28:32] = 3
    folder = tmp_path / "masks"
    for number, name in enumerate(("B2_00_00.tif", "B2_00_01.tif")):
        own = np.s_[:, 20 * number : 20 * number + 20]
        tags = {"ensemble": "everest", "fingerprint": f"hash{number}", "tile": f"00_0{number}"}
        write_mask(folder / name, whole_HW[own], FOUR, georef_at(20 * number, 0), tags)
        probability = np.full((4, 20, 20), 0.05, np.float32)
        for k in range(4):
            probability[k][whole_HW[own] == k] = 0.85
        # The glacier is sure in its middle; beyond it to the south a strip may be glacier, too.
        probability[1][whole_HW[own] == 1] = 0.99
        probability[1, 12, :15] = 0.3
        write_raster(folder / "probabilities" / name, probability, georef_at(20 * number, 0), nodata=float("nan"))
    return folder, whole_HW


def read(path):
    meta, _, wkb, values = pyogrio.raw.read(path)
    return meta, shapely.from_wkb(wkb), dict(zip(meta["fields"].tolist(), values, strict=True))


def test_tiles_that_abut_are_one_map_and_a_glacier_over_both_is_one_polygon(tiles, tmp_path):
    folder, whole_HW = tiles
    out = tmp_path / "outlines.gpkg"
    assert main(["outlines", str(folder), "--out", str(out), "--date", "2020-09-30"]) == 0
    meta, polygons, fields = read(out)
    assert meta["crs"] == "EPSG:32643"
    assert list(fields) == list(COLUMNS)
    assert fields["class"].tolist() == ["glacier", "debris", "lake"]
    assert fields["id"].tolist() == ["glacier-00001", "debris-00001", "lake-00001"]
    assert shapely.is_valid(polygons).all()
    np.testing.assert_allclose(shapely.area(polygons), 900 * np.array([(whole_HW == k).sum() for k in (1, 2, 3)]))
    assert fields["src_date"].tolist() == ["2020-09-30T00:00:00"] * 3
    assert fields["ensemble"].tolist() == ["everest"] * 3
    assert fields["fingerprint"].tolist() == ["hash0, hash1", "hash0", "hash1"]
    assert fields["tiles"].tolist() == ["00_00, 00_01", "00_00", "00_01"]
    assert fields["utm_zone"].tolist() == [43] * 3
    to_degrees = pyproj.Transformer.from_crs(32643, 4326, always_xy=True)
    for k in range(3):
        dense = shapely.segmentize(polygons[k], 10.0)
        degrees = shapely.transform(dense, lambda xy: np.column_stack(to_degrees.transform(*xy.T)))
        area, _ = GEOD.geometry_area_perimeter(shapely.geometry.polygon.orient(degrees))
        assert fields["area_km2"][k] == pytest.approx(area / 1e6, rel=1e-6)
        assert fields["perimeter_km"][k] == pytest.approx(GEOD.geometry_length(degrees.boundary) / 1e3, rel=1e-6)
        assert shapely.contains_xy(degrees, fields["cenlon"][k], fields["cenlat"][k])


def test_areas_low_and_high_count_sure_pixels_and_joined_possible_ones(tiles):
    folder, whole_HW = tiles
    outlines = outline_maps(open_maps(folder), OutlineOptions(level=0.9))
    of = {name: values[0] for name, values in outlines.columns.items()}
    pixel = of["area_km2"] / (whole_HW == 1).sum()
    assert of["mean_probability"] == pytest.approx(0.99, rel=1e-5)
    assert of["area_low_km2"] == pytest.approx(of["area_km2"], rel=1e-5)
    # The strip of row 12 (columns 0-14 and 20-34) hangs together and on the glacier; that the lake's pixels in it
    # are mapped as lake does not rule glacier out.
    assert of["area_high_km2"] == pytest.approx(of["area_km2"] + 30 * pixel, rel=1e-5)
    lake = {name: values[2] for name, values in outlines.columns.items()}
    assert lake["area_low_km2"] == 0.0


def test_without_probabilities_these_columns_are_empty(tiles, tmp_path):
    folder, _ = tiles
    out = tmp_path / "one.gpkg"
    assert main(["outlines", str(folder / "B2_00_00.tif"), "--out", str(out)]) == 0
    single = tmp_path / "single"
    single.mkdir()
    (single / "mask.tif").write_bytes((folder / "B2_00_00.tif").read_bytes())
    outlines = outline_maps(open_maps(single))
    assert np.isnan(outlines.columns["mean_probability"]).all()
    assert np.isnan(outlines.columns["area_high_km2"]).all()
    assert any("--probabilities" in note for note in outlines.notes)


@pytest.mark.parametrize("ending", [".gpkg", ".geojson", ".shp"])
def test_masks_come_back_without_a_changed_pixel(tiles, tmp_path, ending):
    folder, whole_HW = tiles
    out = tmp_path / f"outlines{ending}"
    assert main(["outlines", str(folder), "--out", str(out)]) == 0
    assert main(["outlines", str(out), "--like", str(folder), "--out", str(tmp_path / "back")]) == 0
    for number, name in enumerate(("B2_00_00.tif", "B2_00_01.tif")):
        with rasterio.open(tmp_path / "back" / name) as back, rasterio.open(folder / name) as mask:
            assert (back.crs, back.transform) == (mask.crs, mask.transform)
            np.testing.assert_array_equal(back.read(1), mask.read(1))
            np.testing.assert_array_equal(back.read(1) // 85, whole_HW[:, 20 * number : 20 * number + 20])


def test_geojson_is_in_longitude_and_latitude_and_shapefiles_keep_their_columns(tiles, tmp_path):
    folder, _ = tiles
    assert main(["outlines", str(folder), "--out", str(tmp_path / "a.geojson")]) == 0
    assert main(["outlines", str(folder), "--out", str(tmp_path / "a.shp")]) == 0
    content = json.loads((tmp_path / "a.geojson").read_text())
    assert "crs" not in content
    lon, lat = content["features"][0]["geometry"]["coordinates"][0][0]
    assert (round(lon), round(lat)) == (75, 34)
    # RFC 7946, 3.1.6: outer rings run anticlockwise.
    for feature in content["features"]:
        assert shapely.LinearRing(feature["geometry"]["coordinates"][0]).is_ccw
    assert read(tmp_path / "a.geojson")[0]["crs"] == "EPSG:4326"
    _, polygons, fields = read(tmp_path / "a.shp")
    assert list(fields) == [SHAPEFILE_NAMES.get(name, name) for name in COLUMNS]
    assert max(map(len, fields)) <= 10
    assert shapely.is_valid(polygons).all()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_real_mosaic_agrees_with_geodesics_and_comes_back(real_tiles, tmp_path):
    source = open_maps(real_tiles)
    outlines = outline_maps(source)
    assert shapely.is_valid(outlines.polygons).all()
    to_degrees = pyproj.Transformer.from_crs(32643, 4326, always_xy=True)
    largest = np.argsort(-outlines.columns["area_km2"])[:60]
    total = 0.0
    for k in largest:
        dense = shapely.segmentize(outlines.polygons[k], 100.0)
        degrees = shapely.transform(dense, lambda xy: np.column_stack(to_degrees.transform(*xy.T)))
        area = GEOD.geometry_area_perimeter(shapely.geometry.polygon.orient(degrees))[0] / 1e6
        assert outlines.columns["area_km2"][k] == pytest.approx(area, rel=1e-5)
        total += area
    assert outlines.columns["area_km2"][largest].sum() == pytest.approx(total, rel=1e-6)
    # What the projection would say is another figure.
    assert abs(shapely.area(outlines.polygons[largest]).sum() / 1e6 / total - 1) > 1e-4
    labels = [read_mask_codes(path) for path in sorted((real_tiles / "label").glob("*.tif"))]
    pixels = sum(int((codes > 0).sum()) for codes in labels)
    assert shapely.area(outlines.polygons).sum() == pytest.approx(pixels * 900, rel=1e-12)
    mosaic_HW = np.zeros((3072, 3072), bool)
    for part in source.maps[0].parts:
        mosaic_HW[part.slices] = read_mask_codes(part.mask.path) > 0
    assert len(outlines.polygons) == label(mosaic_HW)[1]
    write_outlines(tmp_path / "real.gpkg", outlines)
    back = tmp_path / "back"
    assert (
        main(
            [
                "outlines",
                str(tmp_path / "real.gpkg"),
                "--like",
                str(real_tiles),
                "--out",
                str(back),
                "--scheme",
                "glacier2",
            ]
        )
        == 0
    )
    by_tile = {tile.name: tile for tile in open_dataset(real_tiles).tiles}
    assert {path.name for path in back.glob("*.tif")} == set(by_tile)
    for name, tile in by_tile.items():
        np.testing.assert_array_equal(read_mask_codes(back / name), read_mask_codes(tile.mask_path))


def test_labels_of_a_dataset_with_review_states_and_unsaved_strokes(make_dataset, tmp_path, capsys):
    root = make_dataset()
    dataset = open_dataset(root)
    with Journal.open(root) as journal:
        journal.set_review(dataset.tiles[0].id, "approved")
        before = np.zeros((2, 2), np.uint8)
        journal.record([Patch(dataset.tiles[1].id, 0, 0, before, before + 1)], tool="paint")
    files = {path.name for path in root.iterdir()}
    out = tmp_path / "labels.gpkg"
    assert main(["outlines", str(root), "--out", str(out)]) == 0
    _, _, fields = read(out)
    states = {dataset.tiles[0].id: "approved", dataset.tiles[1].id: "in progress"}
    for tiles, review in zip(fields["tiles"], fields["review"], strict=True):
        own = {states.get(tile_id, "todo") for tile_id in tiles.split(", ")}
        assert review == ", ".join(state for state in ("todo", "in progress", "approved") if state in own)
    assert set(fields["tiles"]) - {tile.id for tile in dataset.tiles}
    said = capsys.readouterr().err
    assert "1 tile(s) have strokes that are not saved" in said
    assert {path.name for path in root.iterdir()} == files


def test_a_dataset_without_a_journal_gets_none(make_dataset, tmp_path):
    root = make_dataset()
    assert main(["outlines", str(root), "--out", str(tmp_path / "a.gpkg")]) == 0
    assert not (root / "glacier.sqlite").exists()
    assert set(read(tmp_path / "a.gpkg")[2]["review"]) == {""}


def test_merging_choosing_and_smoothing(tiles, tmp_path):
    folder, whole_HW = tiles
    merged = outline_maps(open_maps(folder), OutlineOptions(merge=("glacier", "debris"), classes=("glacier",)))
    assert merged.columns["class"].tolist() == ["glacier"]
    assert shapely.area(merged.polygons).tolist() == [900.0 * np.isin(whole_HW, (1, 2)).sum()]
    assert shapely.get_num_interior_rings(merged.polygons).tolist() == [0]
    # Debris pixels count with the probability of both classes: 0.85 + 0.05.
    expected = (0.99 * (whole_HW == 1).sum() + 0.05 * (whole_HW == 1).sum() + 0.9 * (whole_HW == 2).sum()) / (
        np.isin(whole_HW, (1, 2)).sum()
    )
    assert merged.columns["mean_probability"][0] == pytest.approx(expected, rel=1e-3)
    large = outline_maps(open_maps(folder), OutlineOptions(min_area_km2=0.05))
    assert large.columns["class"].tolist() == ["glacier"]
    smoothed = outline_maps(open_maps(folder), OutlineOptions(smooth_px=1.5))
    glacier, debris = smoothed.polygons[:2]
    assert shapely.area(shapely.intersection(glacier, debris)) == 0
    assert shapely.equals(shapely.Polygon(glacier.interiors[0]), debris)


@pytest.mark.parametrize("ending", [".gpkg", ".shp"])
def test_smoothing_changes_no_area_that_one_would_report(tiles, tmp_path, ending, capsys):
    folder, whole_HW = tiles
    plain, smooth = tmp_path / f"plain{ending}", tmp_path / f"smooth{ending}"
    assert main(["outlines", str(folder), "--out", str(plain)]) == 0
    told = capsys.readouterr().out.replace(plain.name, "")
    assert main(["outlines", str(folder), "--out", str(smooth), "--smooth", "1.5"]) == 0
    assert capsys.readouterr().out.replace(smooth.name, "") == told
    _, polygons, fields = read(smooth)
    polygon_km2 = fields["poly_km2" if ending == ".shp" else "polygon_km2"]
    own = read(plain)[2]
    # UTM shows 0.9996 of a length here.
    np.testing.assert_allclose(fields["area_km2"], [(whole_HW == k).sum() * 9e-4 for k in (1, 2, 3)], rtol=1e-3)
    np.testing.assert_allclose(fields["area_km2"], own["area_km2"], rtol=1e-6)
    np.testing.assert_allclose(polygon_km2, shapely.area(polygons) / 1e6, rtol=1e-3)
    assert (polygon_km2 / fields["area_km2"]).min() < 0.9


def test_masks_in_two_zones_and_masks_apart(tmp_path):
    index_HW = np.zeros((8, 8), np.uint8)
    index_HW[2:4, 2:6] = 1
    for name, georef in (
        ("a.tif", georef_at(0, 0)),
        ("b.tif", georef_at(500, 0)),
        ("c.tif", georef_at(0, 0, epsg=32644)),
    ):
        write_mask(tmp_path / "masks" / name, index_HW, FOUR, georef)
    source = open_maps(tmp_path / "masks")
    assert sorted(len(class_map.parts) for class_map in source.maps) == [1, 1, 1]
    outlines = outline_maps(source)
    assert outlines.crs.to_epsg() == 4326
    assert sorted(outlines.columns["utm_zone"].tolist()) == [43, 43, 44]
    assert any("several coordinate systems" in note for note in outlines.notes)
    assert outline_maps(source, crs="EPSG:6933").crs.to_epsg() == 6933


def test_where_masks_overlap_a_pixel_is_that_of_the_deeper_mask(tmp_path):
    for name, value, col in (("a.tif", 1, 0), ("b.tif", 2, 6)):
        write_mask(tmp_path / "masks" / name, np.full((10, 10), value, np.uint8), FOUR, georef_at(col, 0))
    outlines = outline_maps(open_maps(tmp_path / "masks"))
    assert shapely.area(outlines.polygons).sum() == 900 * 160
    assert shapely.area(shapely.intersection(*outlines.polygons)) == 0
    # In the middle row the overlap (columns 6-9) is cut in its middle.
    row = shapely.box(500_000, 3_800_000 - 150, 600_000, 3_800_000 - 120)
    first = outlines.polygons[outlines.columns["class"] == "glacier"][0]
    assert shapely.bounds(shapely.intersection(first, row))[2] == 500_000 + 30 * 8


def test_dates_come_from_tags_and_landsat_names(tmp_path):
    index_HW = np.ones((4, 4), np.uint8)
    scene = tmp_path / "m" / "LC08_L2SP_140041_20201023_20201105_02_T1_mask.tif"
    write_mask(scene, index_HW, FOUR, georef_at(0, 0))
    write_mask(tmp_path / "m" / "b.tif", index_HW, FOUR, georef_at(50, 0), {"DATE_ACQUIRED": "2019-01-02"})
    dates = outline_maps(open_maps(tmp_path / "m")).columns["src_date"]
    assert sorted(dates) == ["2019-01-02T00:00:00", "2020-10-23T00:00:00"]


def test_nothing_of_a_person_is_overwritten(tiles, tmp_path, capsys):
    folder, _ = tiles
    out = tmp_path / "edited.gpkg"
    out.write_bytes(b"hours of work")
    assert main(["outlines", str(folder), "--out", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_bytes() == b"hours of work"
    assert main(["outlines", str(folder), "--out", str(out), "--overwrite"]) == 0
    assert len(read(out)[1]) == 3
    before = (folder / "B2_00_00.tif").read_bytes()
    arguments = ["outlines", str(out), "--like", str(folder), "--out", str(folder), "--overwrite"]
    assert main(arguments) == 2
    assert (folder / "B2_00_00.tif").read_bytes() == before
    back = [*arguments[:-3], "--out", str(tmp_path / "back")]
    assert main(back) == 0
    assert main(back) == 2
    assert main([*back, "--overwrite"]) == 0


def test_a_tile_id_that_climbs_out_of_the_folder_writes_nothing_there(tmp_path):
    index_HW = np.ones((4, 4), np.uint8)
    write_mask(tmp_path / "in" / "masks" / "a.tif", index_HW, FOUR, georef_at(0, 0), {"tile": "../../x"})
    out = tmp_path / "in" / "out" / "a.gpkg"
    assert main(["outlines", str(tmp_path / "in" / "masks"), "--out", str(out)]) == 0
    assert read(out)[2]["tiles"].tolist() == ["../../x"]
    back = tmp_path / "in" / "out" / "back"
    assert main(["outlines", str(out), "--like", str(tmp_path / "in" / "masks"), "--out", str(back)]) == 0
    report = tmp_path / "in" / "out" / "report"
    assert main(["report", str(tmp_path / "in" / "masks"), "--out", str(report)]) == 0
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert all(name.startswith(("in/masks/a.tif", "in/out/")) for name in files)
    assert {path.name for path in back.iterdir()} == {"a.tif", "a.tif.aux.xml"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--classes", "snow"], "snow"),
        (["--merge", "glacier"], "two classes"),
        (["--merge", "glacier", "debris", "--classes", "debris"], "Add it"),
        (["--date", "30.9.2020"], "2020-09-30"),
        (["--date", "2020-W10-1"], "2020-09-30"),
        (["--min-area", "-1"], "negative"),
        (["--min-area", "9999"], "nothing to outline"),
        (["--level", "95"], "between 0 and 1"),
        (["--crs", "EPSG:99999999"], "no coordinate system"),
        (["--scheme", "glacier9"], "Known schemes"),
        (["--scheme", "glacier2"], "does not know"),
        (["--calibration", "nowhere.json"], "calibration.json"),
    ],
)
def test_wrong_options_are_named_with_the_mend(tiles, tmp_path, capsys, options, words):
    assert main(["outlines", str(tiles[0]), "--out", str(tmp_path / "o.gpkg"), *options]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "o.gpkg").exists()


def test_wrong_masks_are_named_with_the_mend(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="holds no mask"):
        open_maps(empty)
    with pytest.raises(DataError, match="does not exist"):
        open_maps(tmp_path / "nowhere")
    index_HW = np.ones((4, 4), np.uint8)
    write_mask(tmp_path / "bare" / "a.tif", index_HW, FOUR)
    with pytest.raises(DataError, match=r"no georeference.*--data"):
        open_maps(tmp_path / "bare")
    write_mask(tmp_path / "local" / "a.tif", index_HW, FOUR, GeoRef((30.0, 0.0, 0.0, 0.0, -30.0, 0.0), None))
    with pytest.raises(DataError, match="no coordinate system"):
        outline_maps(open_maps(tmp_path / "local"))
    write_raster(tmp_path / "odd" / "a.tif", np.full((4, 4), 7, np.uint8), georef_at(0, 0))
    with pytest.raises(SchemeError, match="7"):
        open_maps(tmp_path / "odd")
    write_raster(tmp_path / "bands" / "a.tif", np.ones((5, 4, 4), np.uint8), georef_at(0, 0))
    with pytest.raises(SchemeError, match="5 bands"):
        open_maps(tmp_path / "bands")
    write_mask(tmp_path / "nothing" / "a.tif", index_HW * 0, FOUR, georef_at(0, 0))
    with pytest.raises(DataError, match="nothing to outline"):
        outline_maps(open_maps(tmp_path / "nothing"))


def test_masks_without_a_georeference_take_that_of_their_tiles(make_dataset, tmp_path):
    root = make_dataset()
    dataset = open_dataset(root)
    for tile in dataset.tiles:
        write_mask(tmp_path / "bare" / tile.name, dataset.read_mask(tile), dataset.scheme)
    with pytest.raises(DataError, match="no georeference"):
        open_maps(tmp_path / "bare")
    bare, own = outline_maps(open_maps(tmp_path / "bare", data=root)), outline_maps(open_maps(root))
    np.testing.assert_array_equal(bare.columns["area_km2"], own.columns["area_km2"])
    assert shapely.equals(bare.polygons, own.polygons).all()


def test_foreign_polygons_need_a_class_and_a_system(real_data, tmp_path, capsys):
    outlines = real_data / "everest" / "15_rgi60_glacier_outlines.gpkg"
    like = real_data / "everest" / "LE71400412000304SGS00_B4.tif"
    arguments = ["outlines", str(outlines), "--like", str(like), "--out", str(tmp_path / "back")]
    assert main(arguments) == 2
    assert "--class" in capsys.readouterr().err
    assert main([*arguments, "--class", "lava"]) == 2
    assert main([*arguments, "--class", "glacier"]) == 0
    mask = tmp_path / "back" / like.name
    polygons, _, crs = read_polygons(outlines)
    assert (len(polygons), crs.to_epsg()) == (86, 4326)
    with rasterio.open(mask) as back:
        moved = [rasterio.warp.transform_geom("EPSG:4326", back.crs, shapely.geometry.mapping(p)) for p in polygons]
        expected_HW = rasterio.features.rasterize(moved, out_shape=back.shape, transform=back.transform)
        np.testing.assert_array_equal(back.read(1) == 85, expected_HW == 1)
    again = tmp_path / "again.geojson"
    assert main(["outlines", str(mask), "--out", str(again)]) == 0
    assert main(["outlines", str(again), "--like", str(mask), "--out", str(tmp_path / "twice")]) == 0
    np.testing.assert_array_equal(read_mask_codes(tmp_path / "twice" / like.name), read_mask_codes(mask))


def test_files_that_are_no_vectors_are_refused(tmp_path):
    path = tmp_path / "a.gpkg"
    with pytest.raises(DataError, match="does not exist"):
        read_polygons(path)
    path.write_text("no geopackage")
    with pytest.raises(DataError, match="cannot be read as vectors"):
        read_polygons(path)
    points = tmp_path / "points.geojson"
    pyogrio.raw.write(
        points,
        shapely.to_wkb(shapely.points([[1.0, 2.0]])),
        [],
        [],
        geometry_type="Point",
        crs="EPSG:4326",
        driver="GeoJSON",
    )
    with pytest.raises(DataError, match="polygons"):
        read_polygons(points)


def test_an_ending_of_no_format_and_a_folder_that_cannot_be_written(tiles, tmp_path):
    outlines = outline_maps(open_maps(tiles[0]))
    with pytest.raises(SaveError, match=re.escape(".gpkg, .geojson")):
        write_outlines(tmp_path / "a.kml", outlines)
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="could not be written"):
        write_outlines(tmp_path / "file" / "a.gpkg", outlines)


def test_progress_is_told_and_can_stop_the_work(tiles):
    told = []
    outline_maps(open_maps(tiles[0]), on_progress=lambda *step: told.append(step))
    assert [step[:2] for step in told] == [(0, 1), (1, 1)]

    def stop(done, total, text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        outline_maps(open_maps(tiles[0]), on_progress=stop)


def test_another_dataset_for_a_dataset_is_refused(make_dataset, tmp_path):
    with pytest.raises(DataError, match="is a dataset itself"):
        open_maps(make_dataset("one"), data=make_dataset("two"))
    with pytest.raises(ConfigError, match="--merge"):
        outline_maps(open_maps(make_dataset("three")), OutlineOptions(merge=("glacier", "ice")))


@pytest.mark.parametrize("ending", [".gpkg", ".shp", ".geojson"])
def test_outlines_across_the_antimeridian_are_two_parts_in_degrees(tmp_path, ending):
    # In polar stereographic coordinates of Antarctica 180 degrees lie straight below the pole.
    georef = GeoRef.from_epsg(3031, (30.0, 0.0, -600.0, 0.0, -30.0, -1_500_000.0))
    index_HW = np.zeros((30, 40), np.uint8)
    index_HW[5:25, 10:34] = 1
    index_HW[10:14, 18:22] = 0
    write_mask(tmp_path / "masks" / "mask.tif", index_HW, FOUR, georef)
    outlines = outline_maps(open_maps(tmp_path / "masks"), crs="EPSG:4326")
    path = tmp_path / f"outlines{ending}"
    write_outlines(path, outlines)
    _, polygons, columns = read(path)
    assert shapely.is_valid(polygons).all()
    left, _, right, _ = shapely.bounds(shapely.get_parts(polygons)).T
    assert (right - left < 1).all()
    assert left.min() == pytest.approx(-180)
    assert right.max() == pytest.approx(180)
    # The parts have the area of the whole.
    area_m2 = sum(abs(GEOD.geometry_area_perimeter(part)[0]) for part in shapely.get_parts(polygons))
    assert area_m2 / 1e6 == pytest.approx(columns["area_km2"].sum(), rel=1e-3)
    assert main(["outlines", str(path), "--like", str(tmp_path / "masks"), "--out", str(tmp_path / "back")]) == 0
    np.testing.assert_array_equal(read_mask_codes(tmp_path / "back" / "mask.tif"), FOUR.encode(index_HW))


@pytest.mark.parametrize("west", [179.0, -181.0, -180.0, 178.0, 359.0, 300.0])
def test_rasters_beyond_180_degrees_come_back_from_geojson(tmp_path, west):
    georef = GeoRef.from_epsg(4326, (0.05, 0.0, west, 0.0, -0.05, 60.0), geographic=True)
    blocks_HW = np.random.default_rng(0).integers(0, 4, (5, 10), np.uint8)
    index_HW = np.kron(blocks_HW, np.ones((4, 4), np.uint8))
    write_mask(tmp_path / "masks" / "mask.tif", index_HW, FOUR, georef)
    path = tmp_path / "outlines.geojson"
    assert main(["outlines", str(tmp_path / "masks"), "--out", str(path)]) == 0
    _, polygons, columns = read(path)
    left, _, right, _ = shapely.bounds(shapely.get_parts(polygons)).T
    assert left.min() >= -180
    assert right.max() <= 180
    assert np.abs(columns["cenlon"]).max() <= 180
    assert ((columns["cenlon"] - west) % 360 < 2).all()
    assert main(["outlines", str(path), "--like", str(tmp_path / "masks"), "--out", str(tmp_path / "back")]) == 0
    np.testing.assert_array_equal(read_mask_codes(tmp_path / "back" / "mask.tif"), FOUR.encode(index_HW))


def test_masks_of_a_turned_raster_are_outlined(tmp_path):
    georef = GeoRef.from_epsg(32643, (0.0, 30.0, 500_000.0, 30.0, 0.0, 3_800_000.0))
    index_HW = np.zeros((10, 12), np.uint8)
    index_HW[2:5, 3:9] = 1
    write_mask(tmp_path / "masks" / "mask.tif", index_HW, FOUR, georef)
    outlines = outline_maps(open_maps(tmp_path / "masks"))
    assert shapely.bounds(outlines.polygons).tolist() == [[500_060.0, 3_800_090.0, 500_150.0, 3_800_270.0]]


def test_outlines_of_the_whole_earth_are_burnt_where_a_raster_lies(tmp_path):
    # Ecuador has no place in the zone of the Alps.
    georef = GeoRef.from_epsg(32632, (30.0, 0.0, 400_000.0, 0.0, -30.0, 5_100_000.0))
    write_raster(tmp_path / "alps.tif", np.ones((20, 20), np.uint8), georef)
    to_degrees = pyproj.Transformer.from_crs(32632, 4326, always_xy=True)
    square = shapely.box(400_090, 5_099_700, 400_300, 5_099_910)
    alps = shapely.transform(square, lambda xy: np.column_stack(to_degrees.transform(xy[:, 0], xy[:, 1])))
    both = [alps, shapely.box(-78.46, -0.69, -78.42, -0.66)]
    pyogrio.raw.write(
        tmp_path / "world.gpkg", shapely.to_wkb(both), [], [], crs="EPSG:4326", geometry_type="Polygon", driver="GPKG"
    )
    arguments = ["--like", str(tmp_path / "alps.tif"), "--class", "glacier", "--out", str(tmp_path / "out")]
    assert main(["outlines", str(tmp_path / "world.gpkg"), *arguments]) == 0
    burnt = read_mask_codes(tmp_path / "out" / "alps.tif") > 0
    expected = np.zeros((20, 20), bool)
    expected[3:10, 3:10] = True
    np.testing.assert_array_equal(burnt, expected)


def test_what_belongs_to_an_older_shapefile_is_neither_replaced_unasked_nor_left_to_mislead(tiles, tmp_path):
    outlines = outline_maps(open_maps(tiles[0]))
    (tmp_path / "g.dbf").write_bytes(b"a person's table")
    with pytest.raises(SaveError, match=r"g\.dbf exists"):
        write_outlines(tmp_path / "g.shp", outlines)
    assert (tmp_path / "g.dbf").read_bytes() == b"a person's table"
    (tmp_path / "g.qix").write_bytes(b"of what was there before")
    write_outlines(tmp_path / "g.shp", outlines, overwrite=True)
    assert not (tmp_path / "g.qix").exists()
    assert len(read(tmp_path / "g.shp")[1]) == len(outlines.polygons)


def test_masks_of_two_dates_are_told_apart(make_landsat, tmp_path):
    scenes = ("LC08_L2SP_149035_20130731_20200908_02_T1", "LC08_L2SP_149035_20200731_20200908_02_T1")
    for scene in scenes:
        shutil.move(make_landsat(scene, mtl=False), tmp_path / "scenes" / scene)
    dataset = open_dataset(tmp_path / "scenes")
    for number, tile in enumerate(dataset.tiles):
        index_HW = np.zeros((tile.height, tile.width), np.uint8)
        index_HW[5:15, 5 + 10 * number : 15 + 10 * number] = 1
        write_mask(tmp_path / "maps" / tile.name, index_HW, FOUR, tile.georef)
    source = open_maps(tmp_path / "maps", data=tmp_path / "scenes")
    assert [mask.id for mask in source.masks] == [tile.id for tile in dataset.tiles]
    assert [mask.tags["DATE_ACQUIRED"] for mask in source.masks] == ["2013-07-31", "2020-07-31"]
    assert any("1 mask(s) lie on the place of others" in note for note in source.notes)


@pytest.mark.parametrize("told_by", ["probabilities", "mask band"])
def test_what_one_scene_saw_comes_before_what_another_did_not(tmp_path, told_by):
    # The second map holds a glacier in the corner that the first one's scene left empty.
    for number, (row, col) in enumerate(((0, 0), (10, 10))):
        index_HW, seen_HW = np.zeros((40, 40), np.uint8), np.ones((40, 40), bool)
        if number:
            index_HW[10:20, 10:20] = 1
        else:
            seen_HW[15:, 15:] = False
        valid_HW = seen_HW if told_by == "mask band" else None
        write_mask(tmp_path / "maps" / f"{number}.tif", index_HW, FOUR, georef_at(col, row), valid_HW=valid_HW)
        if told_by == "mask band":
            continue
        probability = np.where(seen_HW, np.float32(0.25), np.float32(np.nan))[None].repeat(4, axis=0)
        write_raster(tmp_path / "maps" / "probabilities" / f"{number}.tif", probability, georef_at(col, row))
    outlines = outline_maps(open_maps(tmp_path / "maps"))
    assert outlines.columns["area_km2"].sum() == pytest.approx(0.09, rel=2e-3)


def test_a_mask_says_what_is_nodata(tmp_path):
    codes_HW = np.zeros((60, 60), np.uint8)
    codes_HW[10:20, 10:20], codes_HW[40:] = 1, 255
    write_raster(tmp_path / "maps" / "mask.tif", codes_HW, georef_at(0, 0), nodata=255)
    outlines = outline_maps(open_maps(tmp_path / "maps"))
    assert outlines.columns["area_km2"].sum() == pytest.approx(0.09, rel=2e-3)


def test_a_file_of_two_layers_and_an_open_one_are_refused(tiles, tmp_path):
    square = shapely.to_wkb(np.array([shapely.box(500_000, 3_799_000, 500_300, 3_799_300)], object))
    path = tmp_path / "two.gpkg"
    for layer in ("notes", "glaciers"):
        more = {"layer": layer, "append": path.exists()}
        pyogrio.raw.write(path, square, [], [], crs="EPSG:32643", geometry_type="Polygon", driver="GPKG", **more)
    with pytest.raises(DataError, match=r"2 layers \(notes, glaciers\)"):
        read_polygons(path)
    outlines = outline_maps(open_maps(tiles[0]))
    before = path.read_bytes()
    (tmp_path / "two.gpkg-wal").write_bytes(b"changes of another program")
    with pytest.raises(SaveError, match="is open in another program"):
        write_outlines(path, outlines, overwrite=True)
    assert path.read_bytes() == before
    with pytest.raises(SaveError, match=r"Name it so"):
        write_outlines(tmp_path / "x.SHP", outlines)


def test_labels_of_other_names_are_not_joined_by_burnt_ones(make_dataset, tmp_path, capsys):
    root = make_dataset()
    assert main(["outlines", str(root), "--out", str(tmp_path / "o.gpkg")]) == 0
    arguments = ["outlines", str(tmp_path / "o.gpkg"), "--like", str(root), "--out"]
    assert main([*arguments, str(root / "label")]) == 2
    assert "under other names" in capsys.readouterr().err
    assert open_dataset(root).tiles
    assert main([*arguments, str(tmp_path / "burnt")]) == 0


@pytest.mark.parametrize("crs", ["EPSG:5773", "EPSG:4978"], ids=["height", "geocentric"])
def test_systems_that_are_none_for_maps_are_refused(tiles, crs):
    with pytest.raises(ConfigError, match="no system for maps"):
        outline_maps(open_maps(tiles[0]), crs=crs)
