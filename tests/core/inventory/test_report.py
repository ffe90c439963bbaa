"""The report's figures against counts by hand, scikit-image and the bundled region, and its page as HTML."""

import csv
import json
from html.parser import HTMLParser

import numpy as np
import pyproj
import pytest
import shapely
from scipy.ndimage import gaussian_filter
from skimage.measure import perimeter_crofton

from napari_glacier.cli import main
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.correction.journal import Journal
from napari_glacier.core.data.array_layout import PLACE_FIELDS
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.inventory.borders import interface_length
from napari_glacier.core.inventory.map_source import open_maps
from napari_glacier.core.inventory.outlines import outline_maps
from napari_glacier.core.inventory.report import make_report
from napari_glacier.core.raster import write_mask, write_raster
from napari_glacier.core.raster.georef import GeoRef
from napari_glacier.core.raster.projection import pixel_areas_m2

FOUR = get_scheme("glacier4")


@pytest.fixture
def predicted(make_dataset, tmp_path):
    """A data set and a prediction of it that is wrong in places, with probabilities."""
    root = make_dataset(grid=(2, 3), size_px=64)
    dataset = open_dataset(root)
    rng = np.random.default_rng(0)
    out = tmp_path / "predicted"
    for tile in dataset.tiles:
        truth_HW = dataset.read_mask(tile)
        scores = np.stack(
            [2.5 * (truth_HW == k) + 12 * gaussian_filter(rng.normal(size=(64, 64)), 4) for k in range(4)]
        )
        share = np.exp(scores) / np.exp(scores).sum(axis=0)
        share[:, ~dataset.read_valid(tile)] = np.nan
        index_HW = np.where(dataset.read_valid(tile), scores.argmax(axis=0), 0).astype(np.uint8)
        write_mask(out / tile.name, index_HW, FOUR, tile.georef, {"ensemble": "test", "fingerprint": "f"})
        write_raster(out / "probabilities" / tile.name, share.astype(np.float32), tile.georef, nodata=float("nan"))
    return root, out


def test_areas_are_those_of_the_pixels_and_changes_those_of_the_labels(predicted):
    root, out = predicted
    report = make_report(open_maps(out), open_maps(root))
    dataset = open_dataset(root)
    totals, corrected, gained, lost = (np.zeros(4) for _ in range(4))
    for part in open_maps(out).maps[0].parts:
        area_HW = pixel_areas_m2(part.mask.georef, (64, 64)) / 1e6
        before, truth = _codes(part.mask.path) // 85, dataset.read_mask(dataset.tile(part.mask.id))
        for k in range(4):
            totals[k] += area_HW[before == k].sum()
            corrected[k] += area_HW[truth == k].sum()
            gained[k] += area_HW[(truth == k) & (before != k)].sum()
            lost[k] += area_HW[(truth != k) & (before == k)].sum()
    for k, name in enumerate(("glacier", "debris", "lake"), 1):
        area, change = report.areas[k - 1], report.changes[k - 1]
        assert (area.name, change.name) == (name, name)
        assert area.mapped == pytest.approx(totals[k], rel=1e-6)
        expected = (totals[k], corrected[k], gained[k], lost[k])
        assert (change.predicted, change.corrected, change.gained, change.lost) == pytest.approx(expected, rel=1e-5)
        assert sum(tile.areas[name].mapped for tile in report.tiles) == pytest.approx(area.mapped, rel=1e-9)
    assert report.areas[3].name == "glacier + debris"
    assert report.areas[3].mapped == pytest.approx(totals[1] + totals[2], rel=1e-6)
    assert len(report.tiles) == 6
    assert sum(tile.interface_km for tile in report.tiles) == pytest.approx(report.interface_km)


def test_without_truth_the_envelope_is_called_that(predicted):
    _, out = predicted
    source = open_maps(out)
    report = make_report(source, level=0.8)
    assert not any(area.is_calibrated for area in report.areas)
    assert any("not calibrated" in note for note in report.notes)
    share_HW = source.maps[0].read_probability([1])
    area = report.areas[0]
    pixel = area.mapped / area.pixels
    assert area.low == pytest.approx(pixel * (share_HW >= 0.9).sum(), rel=1e-3)
    assert area.high == pytest.approx(pixel * (share_HW > 0.1).sum(), rel=1e-3)
    assert area.expected == pytest.approx(pixel * np.nansum(share_HW), rel=1e-3)


def test_the_truth_of_tiles_not_calibrated_on_lies_in_the_interval(predicted):
    root, out = predicted
    labels = open_maps(root)
    assert any("Labels have no probabilities" in note for note in make_report(labels).notes)
    ids = [mask.id for mask in labels.masks]
    report = make_report(open_maps(out), labels, calibrate_on=ids[:4], level=0.99)
    assert all(area.is_calibrated for area in report.areas)
    dataset = open_dataset(root)
    for tile in report.tiles:
        truth_HW = dataset.read_mask(dataset.tile(tile.id))
        for k, name in enumerate(("glacier", "debris", "lake"), 1):
            area = tile.areas[name]
            true_km2 = (truth_HW == k).sum() * 9e-4
            assert area.low - 0.02 < true_km2 < area.high + 0.02
    whole = report.areas[0]
    # The sum of the tiles is as wide as they are only if all err alike.
    widths = [tile.areas["glacier"].high - tile.areas["glacier"].low for tile in report.tiles]
    assert max(widths) < whole.high - whole.low < sum(widths) * 1.01


def test_borders_have_their_true_length_whichever_way_they_run():
    rows, cols = np.mgrid[:400, :400] - 200.0
    disc = np.hypot(rows, cols) < 150
    ring = (np.hypot(rows, cols) < 180) & ~disc
    assert interface_length(disc, ring, (30.0, 30.0)) == pytest.approx(2 * np.pi * 150 * 30, rel=0.01)
    assert interface_length(disc, ~disc, (1.0, 1.0)) == pytest.approx(perimeter_crofton(disc, directions=4), rel=1e-6)
    # Pixels twice as wide as high: the same disc in metres.
    flat = np.hypot(rows, 2 * cols) < 150
    assert interface_length(flat, ~flat, (2.0, 1.0)) == pytest.approx(2 * np.pi * 150, rel=0.02)
    for angle in np.radians([0, 10, 22.5, 37, 45, 60, 90, 120, 157.5]):
        side = rows * np.cos(angle) + cols * np.sin(angle) < 0.3
        inside = np.hypot(rows, cols) < 150
        assert interface_length(side & inside, ~side & inside, (1.0, 1.0)) == pytest.approx(300, rel=0.06)


def test_debris_borders_and_lakes_are_counted(tmp_path):
    index_HW = np.zeros((64, 64), np.uint8)
    index_HW[10:30, 10:30], index_HW[10:30, 30:50] = 1, 2
    index_HW[30:34, 40:44] = 3  # touches debris
    index_HW[34:36, 44:46] = 3  # touches that lake by a corner
    index_HW[60:62, 2:4] = 3  # alone
    georef = GeoRef.from_epsg(32643, (30.0, 0.0, 500_000.0, 0.0, -30.0, 3_800_000.0))
    for number, part in enumerate((index_HW[:32], index_HW[32:])):
        write_mask(tmp_path / "m" / f"{number}.tif", part, FOUR, georef.offset(32 * number, 0))
    report = make_report(open_maps(tmp_path / "m"))
    assert report.interface_km == pytest.approx(20 * 0.03, rel=0.08)
    lakes = report.lakes
    assert (lakes.count, lakes.touching) == (2, 1)
    assert lakes.area_km2 == pytest.approx(24 * 9e-4, rel=2e-3)
    assert lakes.touching_area_km2 == pytest.approx(20 * 9e-4, rel=2e-3)
    assert lakes.contact_km == pytest.approx(4 * 0.03, rel=0.3)


def test_the_command_writes_tables_and_a_page_that_needs_nothing_else(predicted, tmp_path, capsys):
    root, out = predicted
    with Journal.open(root) as journal:
        journal.set_review(open_dataset(root).tiles[0].id, "approved")
    to = tmp_path / "report"
    arguments = ["report", str(out), "--labels", str(root), "--calibrate-on", "all", "--out", str(to)]
    assert main(arguments) == 0
    assert {path.name for path in to.iterdir()} == {"report.html", "areas.csv", "tiles.csv", "calibration.json"}
    with (to / "areas.csv").open() as file:
        areas = list(csv.DictReader(file))
    assert [row["class"] for row in areas] == ["glacier", "debris", "lake", "glacier + debris"]
    assert {row["interval"] for row in areas} == {"calibrated"}
    for row in areas:
        assert float(row["low_km2"]) < float(row["expected_km2"]) < float(row["high_km2"])
    with (to / "tiles.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6
    page = _Page()
    page.feed((to / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert page.headings == ["Areas", "Maps", "Change by correction", "Debris and lakes", "Calibration", "Tiles"]
    assert page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "Calibrated on 6 tile(s)" in capsys.readouterr().err
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    outlines = ["outlines", str(out), "--out", str(tmp_path / "a.gpkg")]
    assert main([*outlines, "--calibration", str(to / "calibration.json")]) == 0
    curves = json.loads((to / "calibration.json").read_text())["calibration"]
    assert set(curves) == {"glacier", "debris", "lake", "glacier + debris"}


def test_names_from_files_are_text_in_the_page(tmp_path):
    index_HW = np.ones((8, 8), np.uint8)
    georef = GeoRef.from_epsg(32643, (30.0, 0.0, 500_000.0, 0.0, -30.0, 3_800_000.0))
    write_mask(
        tmp_path / "m" / "a.tif", index_HW, FOUR, georef, {"tile": "<script>alert(1)</script>", "ensemble": "<b>"}
    )
    assert main(["report", str(tmp_path / "m"), "--out", str(tmp_path / "r")]) == 0
    text = (tmp_path / "r" / "report.html").read_text()
    assert "<script" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--calibrate-on", "all"], "--labels"),
        (["--labels", "DATASET", "--calibrate-on", "99_99"], "there are labels for"),
        (["--labels", "DATASET", "--level", "1"], "between 0 and 1"),
        (["--labels", "ELSEWHERE"], "nothing to compare"),
        (["--labels", "OTHER_CLASSES"], "--glacier-classes"),
        (["--labels", "OTHER_CLASSES", "--glacier-classes", "ice"], "names ['ice']"),
        (["--glacier-classes", "glacier"], "--labels"),
    ],
)
def test_wrong_options_are_named_with_the_mend(predicted, tmp_path, capsys, options, words):
    root, out = predicted
    tile = open_dataset(root).tiles[0]
    write_mask(tmp_path / "far" / "a.tif", np.ones((64, 64), np.uint8), FOUR, tile.georef.offset(9000, 9000))
    write_mask(tmp_path / "two" / "a.tif", np.ones((64, 64), np.uint8), get_scheme("glacier2"), tile.georef)
    places = {"DATASET": root, "ELSEWHERE": tmp_path / "far", "OTHER_CLASSES": tmp_path / "two"}
    given = [str(places.get(option, option)) for option in options]
    assert main(["report", str(out), "--out", str(tmp_path / "r"), *given]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_a_report_is_replaced_when_that_is_said(tmp_path):
    georef = GeoRef.from_epsg(32643, (30.0, 0.0, 500_000.0, 0.0, -30.0, 3_800_000.0))
    write_mask(tmp_path / "a.tif", np.ones((8, 8), np.uint8), FOUR, georef)
    arguments = ["report", str(tmp_path / "a.tif"), "--out", str(tmp_path / "r")]
    assert [main(arguments), main(arguments), main([*arguments, "--overwrite"])] == [0, 2, 0]


def test_masks_without_probabilities_cannot_be_calibrated(predicted, tmp_path, capsys):
    root, _ = predicted
    arguments = ["report", str(root), "--labels", str(root), "--calibrate-on", "all", "--out", str(tmp_path / "r")]
    assert main(arguments) == 2
    assert "--probabilities" in capsys.readouterr().err
    assert main(["report", str(root), "--out", str(tmp_path / "r")]) == 0
    assert "no interval" in capsys.readouterr().err


def test_a_four_class_map_is_measured_against_two_class_labels(predicted, tmp_path, capsys):
    root, out = predicted
    dataset = open_dataset(root)
    two = get_scheme("glacier2")
    merged = np.array([0, 1, 1, 0], np.uint8)
    for tile in dataset.tiles:
        write_mask(tmp_path / "two" / tile.name, merged[dataset.read_mask(tile)], two, tile.georef)
    command = ["report", str(out), "--labels", str(tmp_path / "two"), "--glacier-classes", "debris", "glacier"]

    assert main([*command, "--calibrate-on", "all", "--out", str(tmp_path / "r")]) == 0

    assert "not calibrated" in capsys.readouterr().err
    rows = {row["class"]: row for row in _rows(tmp_path / "r" / "areas.csv")}
    assert rows["glacier + debris"]["interval"] == "calibrated"
    assert rows["lake"]["interval"] == "uncalibrated envelope"
    report = make_report(open_maps(out), open_maps(tmp_path / "two"), glacier_classes=("glacier", "debris"))
    (change,) = report.changes
    # The same question asked of four-class labels has the same answer.
    four = {one.name: one for one in make_report(open_maps(out), open_maps(root)).changes}
    assert change == four["glacier + debris"]
    # Labels that call lakes glacier, too, are of a quantity of their own.
    wide = make_report(open_maps(out), open_maps(tmp_path / "two"), glacier_classes=("glacier", "debris", "lake"))
    assert [area.name for area in wide.areas][-1] == "glacier + debris + lake"
    assert wide.areas[-1].mapped == pytest.approx(sum(area.mapped for area in wide.areas[:3]))


def _rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_progress_is_told(predicted):
    told = []
    make_report(open_maps(predicted[1]), on_progress=lambda *step: told.append(step))
    assert told[-1][0] == told[-1][1] > 3
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)


def _codes(path):
    import rasterio

    with rasterio.open(path) as file:
        return file.read(1)


class _Page(HTMLParser):
    """Headings and images of a page, and tags that were not closed."""

    def __init__(self):
        super().__init__()
        self.open, self.headings, self.sources = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.sources.append(dict(attrs)["src"])
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def test_masks_without_a_place_take_that_of_the_tiles(make_dataset, tmp_path, capsys):
    root = make_dataset()
    dataset = open_dataset(root)
    for tile in dataset.tiles:
        write_mask(tmp_path / "bare" / tile.name, dataset.read_mask(tile), FOUR, None)
    arguments = ["report", str(tmp_path / "bare"), "--out", str(tmp_path / "r")]
    assert main(arguments) == 2
    assert "has no georeference" in capsys.readouterr().err
    assert main([*arguments, "--data", str(root)]) == 0
    assert main(["report", str(root), "--out", str(tmp_path / "own")]) == 0
    assert (tmp_path / "r" / "areas.csv").read_text() == (tmp_path / "own" / "areas.csv").read_text()


@pytest.mark.parametrize("empty_corner", [False, True])
def test_ground_in_two_zones_counts_once(tmp_path, empty_corner):
    # Two masks on both sides of 78 degrees, each in its own zone, of one ellipse that reaches over both.
    shape, georefs = (300, 400), []
    for number, epsg in enumerate((32643, 32644)):
        to_zone = pyproj.Transformer.from_crs(4326, epsg, always_xy=True)
        x, y = to_zone.transform(77.99 + 0.04 * number, 35.0)
        georef = GeoRef.from_epsg(epsg, (30.0, 0.0, round(x) - 6000.0, 0.0, -30.0, round(y) + 4500.0))
        rows, cols = np.mgrid[: shape[0], : shape[1]] + 0.5
        x, y = georef.transform[2] + 30 * cols, georef.transform[5] - 30 * rows
        lon, lat = to_zone.transform(x, y, direction="INVERSE")
        inside_HW = np.hypot((lon - 78.01) / 0.06, (lat - 35.0) / 0.03) < 1
        valid_HW = np.ones(shape, bool)
        if empty_corner and number == 0:
            valid_HW[:, 330:] = False
        index_HW = (inside_HW & valid_HW).astype(np.uint8)
        write_mask(tmp_path / "masks" / f"{number}.tif", index_HW, FOUR, georef, valid_HW=valid_HW)
        georefs.append(georef)
    report = make_report(open_maps(tmp_path / "masks"))
    # The ellipse, as far as one of the masks saw it, on a fine plane of degrees.
    lon, lat = np.meshgrid(np.linspace(77.94, 78.08, 1401), np.linspace(34.96, 35.04, 1601))
    seen = np.zeros(lon.shape, bool)
    for number, georef in enumerate(georefs):
        x, y = pyproj.Transformer.from_crs(4326, georef.epsg, always_xy=True).transform(lon, lat)
        row, col = (georef.transform[5] - y) / 30, (x - georef.transform[2]) / 30
        right = 330 if empty_corner and number == 0 else 400
        seen |= (row >= 0) & (row < 300) & (col >= 0) & (col < right)
    inside = seen & (np.hypot((lon - 78.01) / 0.06, (lat - 35.0) / 0.03) < 1)
    cell = pyproj.Geod(ellps="WGS84").geometry_area_perimeter(shapely.box(78.01, 35.0, 78.0101, 35.00005))[0]
    assert report.areas[0].mapped == pytest.approx(inside.sum() * abs(cell) / 1e6, rel=2e-3)
    assert sum(tile.areas["glacier"].mapped for tile in report.tiles) == pytest.approx(report.areas[0].mapped)
    (note,) = [note for note in report.notes if "different grids" in note]
    assert "counts once" in note
    assert any("lie on one another" in note for note in outline_maps(open_maps(tmp_path / "masks")).notes)


def test_maps_in_two_zones_that_share_no_ground_are_all_counted(tmp_path):
    for epsg, x in ((32643, 700_000.0), (32644, 300_000.0)):
        georef = GeoRef.from_epsg(epsg, (30.0, 0.0, x, 0.0, -30.0, 3_800_000.0))
        write_mask(tmp_path / f"{epsg}.tif", np.ones((20, 20), np.uint8), FOUR, georef)
    report = make_report(open_maps(tmp_path))
    assert report.areas[0].pixels == 800
    assert not any("different grids" in note for note in report.notes)


@pytest.mark.parametrize("stacked", [False, True])
def test_labels_in_numpy_files_count_where_their_tiles_have_a_place(make_dataset, tmp_path, capsys, stacked):
    dataset = open_dataset(make_dataset())
    root, places = tmp_path / "arrays", []
    masks = {tile.id: dataset.read_mask(tile) for tile in dataset.tiles}
    bands = {name: np.ones((*mask_HW.shape, 5), np.float32) for name, mask_HW in masks.items()}
    for folder, arrays in (("images", bands), ("masks", masks)):
        (root / folder).mkdir(parents=True)
        for name, array in {"all": np.stack(list(arrays.values()))}.items() if stacked else arrays.items():
            np.save(root / folder / f"{name}.npy", array)
    assert main(["report", str(root), "--out", str(tmp_path / "r")]) == 2
    assert "no slices.csv says where its tile lies" in capsys.readouterr().err
    for number, tile in enumerate(dataset.tiles):
        name = f"all_{number:05d}" if stacked else tile.id
        values = (name, "", "", 0, 0, tile.georef.epsg, "no", *tile.georef.transform)
        places.append(dict(zip(PLACE_FIELDS, values, strict=True)))
    with (root / "slices.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, PLACE_FIELDS)
        writer.writeheader()
        writer.writerows(places)
    assert main(["report", str(root), "--out", str(tmp_path / "r")]) == 0
    assert main(["report", str(dataset.root), "--out", str(tmp_path / "own")]) == 0
    assert (tmp_path / "r" / "areas.csv").read_text() == (tmp_path / "own" / "areas.csv").read_text()
    for alone in (root / "masks", next((root / "masks").iterdir())):
        assert main(["report", str(alone), "--out", str(tmp_path / "alone")]) == 2
        assert "is a NumPy file, which does not say where" in capsys.readouterr().err
