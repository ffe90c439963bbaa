"""Raw images and outlines become tiles: a miniature of the HKH data goes all the way to training and back.

The masks are checked against point-in-polygon tests of every pixel's middle, the pixels against rasterio.
"""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyogrio
import pyproj
import pytest
import rasterio
import shapely
import yaml
from rasterio.transform import Affine
from sklearn.metrics import matthews_corrcoef, recall_score

from napari_glacier.cli import main
from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.errors import OutlineError, PairingError, SaveError
from napari_glacier.core.prepare import hkh as module
from napari_glacier.core.prepare.burning import ClassRule, Outlines, read_outlines
from napari_glacier.core.prepare.hkh import HkhSettings, prepare_hkh
from napari_glacier.core.raster import GeoRef, read_mask_codes, read_raster, write_raster
from training.run import main as train

POSITIONS = [0, 1, 2, 4, 5]
HEIGHT, WIDTH, TILE = 150, 130, 64
NUTM44 = "EPSG:32644"


def _scene_transform(number):
    return Affine(30, 0, 400_000 + 20_000 * number, 0, -30, 3_500_000)


def _places(number, cols, rows):
    origin = _scene_transform(number)
    return origin.c + 30 * cols, origin.f - 30 * rows


def _square(number, left, top, right, bottom, *holes):
    """A polygon given in pixels of a scene, not aligned with them; brought to degrees."""

    def ring(x0, y0, x1, y1):
        along = np.linspace(0, 1, 9)[:-1]
        xs = np.concatenate([x0 + (x1 - x0) * along, np.full(8, x1), x1 + (x0 - x1) * along, np.full(8, x0)])
        ys = np.concatenate([np.full(8, y0), y0 + (y1 - y0) * along, np.full(8, y1), y1 + (y0 - y1) * along])
        x, y = _places(number, xs, ys)
        return np.column_stack(pyproj.Transformer.from_crs(NUTM44, "EPSG:4326", always_xy=True).transform(x, y))

    return shapely.Polygon(ring(left, top, right, bottom), [ring(*hole) for hole in holes])


def _polygons(number):
    """Clean ice with a nunatak, debris on its tongue, and ice in the right lower remainder of the tiling."""
    return [
        (_square(number, 10.3, 8.2, 70.4, 60.6, (30.3, 20.2, 44.7, 36.4)), "Clean Ice"),
        (_square(number, 52.3, 40.2, 90.4, 66.6), "Debris covered"),
        (_square(number, 112.3, 120.2, 129.4, 149.6), "Clean Ice"),
    ]


def _write_vector(path, polygons, values, crs="EPSG:4326", field="Glaciers"):
    pyogrio.raw.write(
        path,
        np.array([shapely.to_wkb(p) for p in polygons], object),
        [np.array(values, object)],
        [field],
        geometry_type="Polygon",
        crs=crs,
    )


@pytest.fixture
def raw(tmp_path):
    """Raw data of three scenes in three regions, 15 bands each, a nodata corner in every one."""
    root = tmp_path / "hkh"
    (root / "HKH_images").mkdir(parents=True)
    (root / "HKH_labels").mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        image = rng.uniform(1, 200, (15, HEIGHT, WIDTH)).astype("f4") + np.arange(15, dtype="f4")[:, None, None] * 300
        image[:, :12, :20] = 0
        profile = {"driver": "GTiff", "height": HEIGHT, "width": WIDTH, "count": 15, "dtype": "float32"}
        path = root / "HKH_images" / f"LE07_{number}.tif"
        with rasterio.open(path, "w", crs=NUTM44, transform=_scene_transform(number), **profile) as out:
            out.write(image)
    drawn = [pair for number in range(3) for pair in _polygons(number)]
    _write_vector(root / "HKH_labels" / "Glacier_2005.shp", *zip(*drawn, strict=True))
    lines = ["Image,Region", *(f"LE07_{n}.tif,{r}" for n, r in enumerate(("Nepal", "Bhutan", "Nepal")))]
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")
    return root


SMALL = ["--tile-px", str(TILE), "--min-glacier-px", "20"]


def _expected_scene(root, number):
    """The five bands and the classes of a whole scene, pixel by pixel."""
    with rasterio.open(root / "HKH_images" / f"LE07_{number}.tif") as scene:
        image = scene.read([p + 1 for p in POSITIONS])
    to_scene = pyproj.Transformer.from_crs("EPSG:4326", NUTM44, always_xy=True)
    rows, cols = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    xs, ys = _places(number, cols, rows)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for polygon, value in sorted(_polygons(number), key=lambda pair: pair[1]):
        moved = shapely.transform(polygon, lambda p: np.column_stack(to_scene.transform(p[:, 0], p[:, 1])))
        mask[shapely.contains_xy(moved, xs, ys)] = 1 if value == "Clean Ice" else 2
    mask[(image == 0).all(0)] = 0
    return image, mask


def test_tiles_are_those_of_the_scenes_pixel_by_pixel(raw, capsys):
    assert main(["prepare", "hkh", str(raw), *SMALL]) == 0
    out = Path(capsys.readouterr().out.splitlines()[-1])
    assert out == raw / "processed"
    step = TILE - round(TILE * 0.1)
    expected = {}
    for number in range(3):
        image, mask = _expected_scene(raw, number)
        assert not mask[20:36, 31:44].any()  # the nunatak is a hole
        assert (mask == 2).any()
        padded = np.pad(image, ((0, 0), (0, 200), (0, 200)))
        padded_mask = np.pad(mask, ((0, 200), (0, 200)))
        for row in range(0, 3 * step, step):
            for col in range(0, 3 * step, step):
                at = np.s_[row : row + TILE, col : col + TILE]
                if (padded_mask[at] > 0).sum() >= 20:
                    name = f"LE07_{number}_r{row:05d}_c{col:05d}"
                    expected[name] = padded[:, *at], padded_mask[at]
    # The right lower remainder, which reaches past the scene, is among them.
    assert f"LE07_0_r{2 * step:05d}_c{2 * step:05d}" in expected
    assert {path.stem for path in (out / "images").iterdir()} == set(expected)
    for name, (image, mask) in expected.items():
        stored = np.load(out / "images" / f"{name}.npy")
        assert stored.shape == (TILE, TILE, 5)
        assert stored.dtype == np.float32
        np.testing.assert_array_equal(np.moveaxis(stored, 2, 0), image)
        np.testing.assert_array_equal(np.load(out / "masks" / f"{name}.npy"), mask)
    dataset = open_dataset(out)
    assert {tile.id for tile in dataset.tiles} == set(expected)
    assert dataset.scheme.name == "glacier4-index"
    tile = dataset.tile(f"LE07_1_r{step:05d}_c{step:05d}")
    assert tile.georef.transform[2::3] == (420_000 + 30 * step, 3_500_000 - 30 * step)
    assert tile.georef.crs_name == NUTM44
    image_CHW, valid_HW = dataset.read(tile)
    np.testing.assert_array_equal(image_CHW, expected[tile.id][0])
    np.testing.assert_array_equal(valid_HW, expected[tile.id][0].any(0))
    np.testing.assert_array_equal(dataset.read_mask(tile), expected[tile.id][1])


def test_splits_by_region_statistics_and_filters(raw, capsys):
    assert main(["prepare", "hkh", str(raw), *SMALL, "--min-debris-px", "200", "--max-background", "0.7"]) == 0
    out = raw / "processed"
    ids = {name: (out / f"{name}_ids.txt").read_text().split() for name in ("train", "val")}
    with (out / "slices.csv").open() as file:
        rows = {row["tile"]: row for row in csv.DictReader(file)}
    regions = [{rows[tile]["region"] for tile in ids[name]} for name in ("train", "val")]
    assert regions in ([{"Nepal"}, {"Bhutan"}], [{"Bhutan"}, {"Nepal"}])
    assert set(ids["train"]) | set(ids["val"]) == set(rows)
    # Statistics: by two passes over all valid pixels of the training tiles at once.
    pixels = np.concatenate([np.load(out / "images" / f"{t}.npy").reshape(-1, 5) for t in ids["train"]]).astype("f8")
    pixels = pixels[(pixels != 0).any(1)]
    np.testing.assert_allclose(np.load(out / "mean.npy"), pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(np.load(out / "std.npy"), pixels.std(0), rtol=1e-9)
    passing = set()
    for name in rows:
        image, mask = np.load(out / "images" / f"{name}.npy"), np.load(out / "masks" / f"{name}.npy")
        valid = image.any(2)
        if (mask == 2).sum() >= 200 and (mask[valid] == 0).mean() <= 0.7:
            passing.add(name)
        assert int(rows[name]["debris"]) == (mask == 2).sum()
    assert 0 < len(passing) < len(rows)
    filtered = open_dataset(out / "filtered")
    assert {tile.id for tile in filtered.tiles} == passing
    assert {tile.id for tile in filtered.split("val")} == passing & set(ids["val"])
    assert "hold" not in capsys.readouterr().err


def test_thermal_is_position_five_and_swir_is_four(raw):
    """Older scripts took position 5, low-gain thermal, for SWIR."""
    assert main(["prepare", "hkh", str(raw), *SMALL, "--high-gain-thermal", "--terrain"]) == 0
    dataset = open_dataset(raw / "processed")
    tile = dataset.tiles[-1]
    image_CHW, valid_HW = dataset.read(tile, dataset.bands)
    # Each band of the miniature lies 300 above the one before it.
    means = image_CHW[:, valid_HW].mean(1) // 300
    assert dict(zip(dataset.bands, means, strict=True)) == {
        "B2": 0,
        "B3": 1,
        "B4": 2,
        "B6": 4,
        "B10": 6,
        "elevation": 13,
        "slope": 14,
    }


def _contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".prepare" not in path.parts
    }


def test_a_killed_run_goes_on_and_gives_the_same_bytes(raw, tmp_path, monkeypatch):
    settings = HkhSettings(tile_px=TILE, min_glacier_px=20)
    straight, broken = tmp_path / "a" / "processed", tmp_path / "b" / "processed"
    list(prepare_hkh(raw, straight, settings))
    for steps in (3, 12):
        run = prepare_hkh(raw, broken, settings)
        for _ in range(steps):
            next(run)
        run.close()
    # A crash in the middle of a file leaves at most a hidden one, which the next run clears away.
    (broken / "images" / ".LE07_0-xyz.npy").write_bytes(b"half")
    cut = []
    original = module._cut
    monkeypatch.setattr(module, "_cut", lambda *a, **k: (cut.append(a[1]), original(*a, **k))[1])
    list(prepare_hkh(raw, broken, settings))
    assert set(cut) == {"LE07_1", "LE07_2"}  # the first image was done
    assert _contents(straight) == _contents(broken)
    cut.clear()
    list(prepare_hkh(raw, broken, settings))
    assert not cut
    with pytest.raises(SaveError, match="other settings"):
        list(prepare_hkh(raw, broken, HkhSettings(tile_px=TILE, min_glacier_px=21)))


def test_what_lies_in_the_output_folder_is_not_written_over(raw, tmp_path, capsys):
    (tmp_path / "mine" / "processed" / "images").mkdir(parents=True)
    (tmp_path / "mine" / "processed" / "images" / "a.npy").write_bytes(b"mine")
    assert main(["prepare", "hkh", str(raw), "--out", str(tmp_path / "mine")]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert _contents(tmp_path / "mine") == {"processed/images/a.npy": b"mine"}


def test_a_scene_stored_south_up_comes_out_north_up(raw, tmp_path):
    """Older scripts gave such tiles with their rows flipped against the mask."""
    list(prepare_hkh(raw, tmp_path / "usual" / "processed", HkhSettings(tile_px=TILE, min_glacier_px=20)))
    for path in sorted((raw / "HKH_images").iterdir()):
        with rasterio.open(path) as scene:
            image, profile = scene.read(), scene.profile
        profile["transform"] = Affine(30, 0, profile["transform"].c, 0, 30, profile["transform"].f - 30 * HEIGHT)
        with rasterio.open(path, "w", **profile) as out:
            out.write(image[:, ::-1])
    list(prepare_hkh(raw, tmp_path / "flipped" / "processed", HkhSettings(tile_px=TILE, min_glacier_px=20)))
    assert _contents(tmp_path / "usual") == _contents(tmp_path / "flipped")


def test_the_miniature_trains_and_its_model_predicts(raw, tmp_path, capsys):
    assert main(["prepare", "hkh", str(raw), *SMALL]) == 0
    out = raw / "processed"
    settings = ["train.epochs=1", "sampling.crops_per_epoch=8", f"output={tmp_path / 'runs'}", "device=cpu"]
    assert train(["--config", "smoke", "--train_data", str(out), "--set", *settings]) == 0
    run = Path(capsys.readouterr().out.splitlines()[-1])
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    (epoch,) = [event for event in events if event["event"] == "epoch"]
    assert np.isfinite(epoch["val_loss"])
    dataset = open_dataset(out)
    config = yaml.safe_load((run / "run.yaml").read_text())
    assert config["data"]["val_tiles"] is None  # the data set's own split was taken
    maps = tmp_path / "maps"
    arguments = ["--data", str(out), "--out", str(maps), "--model", str(run), "--tta", "off", "--device", "cpu"]
    assert main(["predict", *arguments, "--engine", "torch"]) == 0
    assert {path.stem for path in maps.glob("*.tif")} == {tile.id for tile in dataset.tiles}
    report = tmp_path / "e.json"
    assert (
        main(
            ["evaluate", "--pred", str(maps), "--truth", str(out / "masks"), "--data", str(out), "--json", str(report)]
        )
        == 0
    )
    truth = np.concatenate([np.load(out / "masks" / f"{tile.id}.npy").ravel() for tile in dataset.tiles])
    guess = np.concatenate([read_mask_codes(maps / f"{tile.id}.tif").ravel() for tile in dataset.tiles])
    scores = json.loads(report.read_text())["all_pixels"]
    assert scores["mcc"] == pytest.approx(matthews_corrcoef(truth, guess), abs=1e-9)
    recalls = [scores["per_class"][name]["recall"] for name in ("background", "glacier", "debris")]
    assert recalls == pytest.approx(recall_score(truth, guess, labels=[0, 1, 2], average=None), abs=1e-9)
    assert sum(recalls) > 0
    tile = dataset.tiles[0]
    with rasterio.open(maps / f"{tile.id}.tif") as mask:
        assert mask.crs == NUTM44
        assert tuple(mask.transform)[:6] == tile.georef.transform
        assert not mask.read(1)[~dataset.read_valid(tile)].any()


def test_stacks_of_tiles_and_folders_of_splits_open(tmp_path):
    rng = np.random.default_rng(0)
    image, mask = rng.integers(1, 99, (3, 20, 24, 5)).astype("u2"), rng.integers(0, 4, (3, 20, 24)).astype("u1")
    for split in ("train", "val"):
        for kind, array in (("images", image), ("masks", mask)):
            (tmp_path / split / kind).mkdir(parents=True)
            np.save(tmp_path / split / kind / "part1.npy", array)
    dataset = open_dataset(tmp_path)
    assert {split: len(dataset.split(split)) for split in dataset.splits} == {"train": 3, "val": 3}
    tile = dataset.tile("val/part1_00002")
    np.testing.assert_array_equal(dataset.read(tile)[0], np.moveaxis(image[2], 2, 0))
    np.testing.assert_array_equal(dataset.read(tile, rows=(3, 9))[0], np.moveaxis(image[2, 3:9], 2, 0))
    np.testing.assert_array_equal(dataset.read_mask(tile), mask[2])
    assert len({tile.name for tile in dataset.split("val")}) == 3


def test_ids_of_tiles_that_are_not_there_are_named(tmp_path):
    (tmp_path / "images").mkdir()
    np.save(tmp_path / "images" / "a.npy", np.ones((8, 8, 5), "u1"))
    (tmp_path / "train_ids.txt").write_text("a\n../../x\n")
    with pytest.raises(PairingError, match=r"\.\./\.\./x"):
        open_dataset(tmp_path)
    (tmp_path / "train_ids.txt").write_text("a.npy\n\n")
    assert [tile.split for tile in open_dataset(tmp_path).tiles] == ["train"]


# prepare tiles


def test_outlines_that_are_all_called_glacier_make_two_classes(raw, tmp_path, capsys):
    classes = ["--class", "clean ice=glacier", "Debris covered=glacier"]
    assert main(["prepare", "hkh", str(raw), *SMALL, *classes]) == 2
    assert "--attribute" in capsys.readouterr().err
    arguments = ["--attribute", "Glaciers", *classes, "--out", str(tmp_path / "two")]
    assert main(["prepare", "hkh", str(raw), *SMALL, *arguments]) == 0
    dataset = open_dataset(tmp_path / "two" / "processed" / "filtered")
    assert dataset.scheme.class_names == ("background", "glacier")
    tile = dataset.tiles[0]
    _, mask = _expected_scene(raw, int(tile.id.split("_")[1]))
    row, col = (int(part[1:]) for part in tile.id.split("_")[-2:])
    expected = np.pad(mask > 0, ((0, 200), (0, 200)))[row : row + TILE, col : col + TILE]
    np.testing.assert_array_equal(dataset.read_mask(tile), expected)


@pytest.mark.parametrize("suffix", ["shp", "gpkg", "geojson"])
def test_any_scene_and_outlines_become_a_dataset(raw, tmp_path, suffix):
    """Five bands of the 15, outlines in degrees; the tiles abut, and put together are the scene."""
    outlines, out = tmp_path / f"outlines.{suffix}", tmp_path / "set"
    _write_vector(outlines, *zip(*_polygons(0), strict=True))
    scene = raw / "HKH_images" / "LE07_0.tif"
    arguments = ["prepare", "tiles", str(scene), "--outlines", str(outlines), "--out", str(out), "--tile-px", str(TILE)]
    arguments += ["--bands", "1", "2", "3", "5", "6", "--attribute", "Glaciers"]
    assert main([*arguments, "--class", "clean ice=glacier", "Debris covered=debris"]) == 0
    dataset = open_dataset(out)
    assert dataset.scheme.name == "glacier4"
    image, mask = _expected_scene(raw, 0)
    built, built_mask = np.zeros((5, 192, 192), "f4"), np.zeros((192, 192), "u1")
    for tile in dataset.tiles:
        row, col = (TILE * int(part) for part in tile.id.split("_")[-2:])
        at = np.s_[row : row + TILE, col : col + TILE]
        built[:, *at], built_mask[at] = dataset.read(tile)[0], dataset.read_mask(tile)
        assert tile.georef.transform[2::3] == (400_000 + 30 * col, 3_500_000 - 30 * row)
    np.testing.assert_array_equal(built[:, :HEIGHT, :WIDTH], image)
    np.testing.assert_array_equal(built_mask[:HEIGHT, :WIDTH], mask)
    assert not built[:, HEIGHT:].any()
    before = _contents(out)
    assert main([*arguments, "--class", "clean ice=glacier", "Debris covered=debris"]) == 0
    assert _contents(out) == before


def test_a_dataset_gets_the_masks_of_other_outlines(make_dataset, tmp_path, capsys):
    root, outlines = make_dataset(), tmp_path / "o.gpkg"
    x, y = 500_000.0, 3_800_000.0
    polygon = shapely.box(x + 600, y - 2400, x + 3000, y - 900)
    _write_vector(outlines, [polygon], ["x"], "EPSG:32643")
    assert main(["prepare", "tiles", str(root), "--outlines", str(outlines), "--out", str(tmp_path / "n")]) == 0
    made = open_dataset(tmp_path / "n")
    assert made.scheme.name == "glacier2"
    source = open_dataset(root)
    (tile,) = [t for t in made.tiles if t.id.startswith("00_00")]
    np.testing.assert_array_equal(made.read(tile)[0][:, :64, :64], source.read(source.tile("00_00"))[0])
    expected = np.zeros((64, 64), np.uint8)
    expected[30:64, 20:64] = 1
    np.testing.assert_array_equal(made.read_mask(tile)[:64, :64], expected)
    assert read_raster(tile.bands["B2"].path).dtype == np.uint16
    assert "missing" not in capsys.readouterr().out
    shutil.rmtree(source.tile("00_00").bands["B6"].path.parent)
    assert main(["prepare", "tiles", str(root), "--outlines", str(outlines), "--out", str(tmp_path / "m")]) == 0
    assert "Band B6 is missing" in capsys.readouterr().out


def test_the_real_outlines_lie_where_gdal_puts_them(real_data, tmp_path):
    folder = real_data / "everest"
    if not folder.is_dir():
        pytest.skip(f"the Everest data are not at {folder}")
    (path,) = folder.glob("*.gpkg")
    outlines = read_outlines(path, ClassRule())
    scene = folder / "LE71400412000304SGS00_B4.tif"
    five = tmp_path / "five.tif"
    with rasterio.open(scene) as source:
        band, profile = source.read(1), source.profile
        profile.update(count=5)
        with rasterio.open(five, "w", **profile) as target:
            target.write(np.stack([band] * 5))
    assert main(["prepare", "tiles", str(five), "--outlines", str(path), "--out", str(tmp_path / "out")]) == 0
    dataset = open_dataset(tmp_path / "out")
    moved = outlines.to_crs("EPSG:32645")
    pixels_m2 = sum((dataset.read_mask(tile) > 0).sum() for tile in dataset.tiles) * profile["transform"].a ** 2
    with rasterio.open(five) as source:
        frame = shapely.box(*source.bounds)
    area_m2 = shapely.area(shapely.intersection(shapely.union_all(moved.polygons), frame))
    assert pixels_m2 == pytest.approx(area_m2, rel=0.02)


def test_outlines_of_another_place_are_refused_before_anything_is_written(make_dataset, tmp_path, capsys):
    _write_vector(tmp_path / "o.gpkg", [shapely.box(10, 45, 11, 46)], ["x"])
    out = tmp_path / "n"
    assert (
        main(["prepare", "tiles", str(make_dataset()), "--outlines", str(tmp_path / "o.gpkg"), "--out", str(out)]) == 2
    )
    assert "None of the outlines lies on" in capsys.readouterr().err
    assert not out.exists()


def test_what_the_outlines_do_not_tell_is_asked_for(tmp_path, raw):
    path = tmp_path / "o.gpkg"
    _write_vector(path, [shapely.box(0, 0, 1, 1)] * 3, ["Clean Ice", "moraine", "moraine"])
    with pytest.raises(OutlineError, match=r"'moraine' \(2\).*--class"):
        read_outlines(path, ClassRule.parse("Glaciers", []))
    with pytest.raises(OutlineError, match="no attribute 'kind'; it has Glaciers"):
        read_outlines(path, ClassRule.parse("kind", []))
    rule = ClassRule.parse("Glaciers", ["Clean Ice=glacier", "*=background"])
    assert read_outlines(path, rule).index_N.tolist() == [1, 0, 0]
    for name in list((raw / "HKH_labels").iterdir()):
        name.unlink()
    shutil.copy(path, raw / "HKH_labels" / "o.gpkg")
    with pytest.raises(OutlineError, match="Glaciers: Clean Ice, moraine"):
        list(prepare_hkh(raw, tmp_path / "p", HkhSettings()))
    _write_vector(tmp_path / "nowhere.shp", [shapely.box(0, 0, 1, 1)], ["x"])
    (tmp_path / "nowhere.prj").unlink()
    with pytest.raises(OutlineError, match="--outline-crs"):
        read_outlines(tmp_path / "nowhere.shp", ClassRule())


def test_outlines_without_a_place_in_the_scenes_system_are_refused():
    outlines = Outlines(np.array([shapely.box(0, 91, 1, 95)], object), np.ones(1, np.uint8), "EPSG:4326")
    with pytest.raises(OutlineError, match="no place"):
        outlines.to_crs("EPSG:32645")


def test_a_names_way_out_of_the_folder_is_closed(make_dataset, tmp_path):
    """Ids, regions and attributes come from files; none of them is ever a path."""
    root = make_dataset(grid=(1, 2))
    for path in root.rglob("*00_00*"):
        path.rename(path.with_name(path.name.replace("00_00", ".. .. evil_00_00")))
    outlines = tmp_path / "o.gpkg"
    _write_vector(outlines, [shapely.box(500_000, 3_799_000, 500_900, 3_800_000)], ["../../x"], "EPSG:32643")
    out = tmp_path / "deep" / "out"
    before = set(tmp_path.rglob("*"))
    arguments = ["--attribute", "Glaciers", "--class", "../../x=glacier"]
    assert main(["prepare", "tiles", str(root), "--outlines", str(outlines), "--out", str(out), *arguments]) == 0
    assert all(path == out.parent or path.is_relative_to(out) for path in set(tmp_path.rglob("*")) - before)
    masks = [read_mask_codes(path) for path in (out / "train_masks").glob("*.tif")]
    assert len(masks) == 2
    assert sum((mask > 0).sum() for mask in masks) > 0


@pytest.mark.parametrize(("dtype", "nodata"), [("f4", -9999.0), ("f4", float("nan")), ("u2", 65_535), ("i2", -9999)])
def test_a_gap_in_one_band_stays_one_in_its_tiles(tmp_path, dtype, nodata):
    georef = GeoRef.from_epsg(32643, (30.0, 0.0, 500_000.0, 0.0, -30.0, 3_800_000.0))
    scene = np.random.default_rng(0).integers(1, 200, (5, 64, 64)).astype(dtype)
    scene[3, :20] = 0  # measured: SWIR over snow
    scene[1, 40:45, :5] = nodata
    scene[:, 50:, 50:] = nodata
    write_raster(tmp_path / "scene.tif", scene, georef, nodata=nodata)
    square = shapely.box(500_300, 3_798_500, 501_500, 3_799_700)
    _write_vector(tmp_path / "o.gpkg", [square], ["glacier"], crs="EPSG:32643")
    arguments = ["--outlines", str(tmp_path / "o.gpkg"), "--out", str(tmp_path / "out"), "--tile-px", "64"]
    arguments += ["--attribute", "Glaciers", "--class", "glacier=glacier"]
    assert main(["prepare", "tiles", str(tmp_path / "scene.tif"), *arguments]) == 0
    whole, cut = open_dataset(tmp_path / "scene.tif"), open_dataset(tmp_path / "out")
    for expected, found in zip(whole.read(whole.tiles[0]), cut.read(cut.tiles[0]), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_tiles_that_mended_outlines_leave_empty_go(tmp_path, capsys):
    georef = GeoRef.from_epsg(32643, (30.0, 0.0, 500_000.0, 0.0, -30.0, 3_800_000.0))
    write_raster(tmp_path / "scene.tif", np.ones((5, 128, 128), "u2"), georef, nodata=0)
    near, far = (shapely.box(500_000 + x, 3_799_000 - x, 500_600 + x, 3_799_600 - x) for x in (300, 2400))
    out = tmp_path / "out"
    arguments = ["--outlines", str(tmp_path / "o.gpkg"), "--out", str(out), "--tile-px", "64", "--min-glacier-px", "50"]
    arguments += ["--attribute", "Glaciers", "--class", "glacier=glacier"]
    for polygons in ([near, far], [near]):
        (tmp_path / "o.gpkg").unlink(missing_ok=True)
        _write_vector(tmp_path / "o.gpkg", polygons, ["glacier"] * len(polygons), crs="EPSG:32643")
        assert main(["prepare", "tiles", str(tmp_path / "scene.tif"), *arguments]) == 0
        assert len(open_dataset(out).tiles) == len(polygons)
    assert len(list((out / "train" / "B2").iterdir())) == 1

    # What a person has corrected is not cut anew.
    (mask,) = (out / "train_masks").glob("*.tif")
    (out / "labels_original" / "train_masks").mkdir(parents=True)
    shutil.copy(mask, out / "labels_original" / "train_masks")
    before = mask.read_bytes()
    (tmp_path / "o.gpkg").unlink()
    _write_vector(tmp_path / "o.gpkg", [far], ["glacier"], crs="EPSG:32643")
    assert main(["prepare", "tiles", str(tmp_path / "scene.tif"), *arguments]) == 2
    assert "were corrected since" in capsys.readouterr().err
    assert mask.read_bytes() == before


def test_polygons_in_collections_count(tmp_path):
    square, line = shapely.box(0, 0, 10, 10), shapely.LineString([(0, 0), (20, 20)])
    pyogrio.raw.write(
        tmp_path / "o.gpkg",
        shapely.to_wkb(np.array([square, shapely.GeometryCollection([shapely.box(20, 0, 30, 20), line])], object)),
        [],
        [],
        geometry_type="Unknown",
        crs="EPSG:32643",
    )
    outlines = read_outlines(tmp_path / "o.gpkg", ClassRule())
    assert shapely.area(outlines.polygons).tolist() == [100.0, 200.0]


def test_numbers_of_classes_keep_their_signs_and_points(tmp_path):
    squares = [shapely.box(x, 0, x + 10, 10) for x in (0, 20, 40)]
    pyogrio.raw.write(
        tmp_path / "o.gpkg",
        shapely.to_wkb(np.array(squares, object)),
        [np.array(["1", "-1", "2.5"], object)],
        ["kind"],
        geometry_type="Polygon",
        crs="EPSG:32643",
    )
    rule = ClassRule.parse("kind", ["1=glacier", "-1=debris", "*=background"])
    assert read_outlines(tmp_path / "o.gpkg", rule).index_N.tolist() == [1, 2, 0]


def test_corrected_tiles_of_a_scene_do_not_keep_another_from_being_cut(tmp_path, capsys):
    """Tiles of S1_2 begin with the name of S1."""
    folder, out = tmp_path / "scenes", tmp_path / "out"
    for name, west in (("S1", 500_000.0), ("S1_2", 600_000.0)):
        georef = GeoRef.from_epsg(32643, (30.0, 0.0, west, 0.0, -30.0, 3_800_000.0))
        for band in CANONICAL_BANDS:
            (folder / band).mkdir(parents=True, exist_ok=True)
            write_raster(folder / band / f"{name}.tif", np.ones((64, 64), "u2"), georef, nodata=0)
    boxes = [shapely.box(west + 300, 3_799_000, west + 900, 3_799_600) for west in (500_000, 600_000)]
    _write_vector(tmp_path / "o.gpkg", boxes, ["glacier"] * 2, crs="EPSG:32643")
    command = ["prepare", "tiles", str(folder), "--outlines", str(tmp_path / "o.gpkg"), "--out", str(out)]
    command += ["--tile-px", "64", "--attribute", "Glaciers", "--class", "glacier=glacier"]
    assert main(command) == 0
    kept = out / "labels_original" / "train_masks"
    kept.mkdir(parents=True)
    shutil.copy(out / "train_masks" / "S1_2_00_00.tif", kept)
    georef = GeoRef.from_epsg(32643, (30.0, 0.0, 500_000.0, 0.0, -30.0, 3_800_000.0))
    write_raster(folder / "B2" / "S1.tif", np.full((64, 64), 7, "u2"), georef, nodata=0)
    assert main(command) == 0, capsys.readouterr().err
    assert (read_raster(out / "train" / "B2" / "S1_00_00.tif") == 7).all()
    # Its own corrected tile does.
    shutil.copy(out / "train_masks" / "S1_00_00.tif", kept)
    write_raster(folder / "B2" / "S1.tif", np.full((64, 64), 8, "u2"), georef, nodata=0)
    assert main(command) == 2
    assert "Masks of S1 in" in capsys.readouterr().err
