"""Pictures with masks, the layout of the salt data; PNGs are written by and checked with Pillow and GDAL."""

import numpy as np
import pytest
import rasterio
from matplotlib.image import imread
from PIL import Image
from sklearn.metrics import matthews_corrcoef

from napari_glacier.controllers.layers import KEY, scene_layers
from napari_glacier.core.channels import assemble_channels, check_channels, required_bands
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.correction.edits import EditableMask
from napari_glacier.core.correction.journal import Journal
from napari_glacier.core.correction.saving import ORIGINALS_FOLDER, save_tiles
from napari_glacier.core.data.dataset import is_dataset, open_dataset, write_scheme
from napari_glacier.core.data.mosaic import plan_scenes
from napari_glacier.core.doctor import examine
from napari_glacier.core.errors import DataError, PairingError, RasterError, SaveError, SchemeError
from napari_glacier.core.evaluation import evaluate_folders
from napari_glacier.core.raster import read_info, read_mask_codes, read_raster, rewrite_mask, write_mask, write_raster

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
SALT = get_scheme("salt2")


@pytest.fixture
def make_salt(tmp_path):
    """Maker of a data set of pictures: train with masks, test without; gives its root and the masks drawn."""

    def make(mode="RGB", names=("04234be388", "026f97575b", "02d40993ab"), splits=("train", "test")):
        rng = np.random.default_rng(3)
        masks = {}
        for split in splits:
            for name in names:
                pixels_HW = rng.integers(0, 256, (21, 33)).astype("u1")
                pixels_HW[:4] = 0
                Image.fromarray(pixels_HW).convert(mode).save(_folder(tmp_path / split / "images") / f"{name}.png")
                if split == "train":
                    masks[name] = rng.random((21, 33)) > 0.6
                    codes_HW = np.where(masks[name], 65535, 0).astype("u2")
                    Image.fromarray(codes_HW).save(_folder(tmp_path / split / "masks") / f"{name}.png")
        return tmp_path, masks

    return make


def _folder(path):
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
def test_a_png_of_8_bits_is_read_as_others_read_it(tmp_path, mode):
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (17, 40, 4)).astype("u1"), "RGBA").convert(mode)
    picture.save(tmp_path / "a.png")
    seen_CHW = np.asarray(Image.open(tmp_path / "a.png").convert("RGBA")).transpose(2, 0, 1)
    expected_CHW = seen_CHW[: 1 if mode in {"L", "LA", "1"} else 3]
    array_CHW, info = read_raster(tmp_path / "a.png"), read_info(tmp_path / "a.png")
    np.testing.assert_array_equal(array_CHW, expected_CHW)
    assert (info.count, info.height, info.width, info.dtype) == (len(expected_CHW), 17, 40, array_CHW.dtype)
    assert (info.nodata, info.georef) == (None, None)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_png_of_16_bits_is_read_as_gdal_reads_it(tmp_path, count):
    array = np.random.default_rng(0).integers(0, 65536, (count, 17, 40)).astype("u2")
    with rasterio.open(tmp_path / "a.png", "w", driver="PNG", height=17, width=40, count=count, dtype="uint16") as out:
        out.write(array)
    without_alpha = array[: {1: 1, 2: 1, 3: 3, 4: 3}[count]]
    np.testing.assert_array_equal(read_raster(tmp_path / "a.png"), without_alpha)
    assert read_info(tmp_path / "a.png").dtype == np.uint16
    assert read_info(tmp_path / "a.png").count == len(without_alpha)


def test_a_damaged_png_says_so(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60)).astype("u1")).save(path)
    whole = path.read_bytes()
    for length in (len(whole) - 1, len(whole) - 12, len(whole) // 2, 30, 8):
        path.write_bytes(whole[:length])
        with pytest.raises(RasterError, match=r"a\.png is cut short"):
            read_info(path)
    for content in (b"", b"GIF89a and so on", whole[1:]):
        path.write_bytes(content)
        with pytest.raises(RasterError, match="is not a PNG image"):
            read_raster(path)
    path.write_bytes(whole[:500] + b"\xff" * 40 + whole[540:])
    with pytest.raises(RasterError, match="is damaged and cannot be decoded"):
        read_raster(path)
    with pytest.raises(RasterError, match="does not exist"):
        read_info(tmp_path / "nothing.png")


def test_pictures_and_masks_open_as_salt_data(make_salt):
    root, masks = make_salt()
    dataset = open_dataset(root)
    assert is_dataset(root)
    assert {split: len(dataset.split(split)) for split in dataset.splits} == {"train": 3, "test": 3}
    assert dataset.scheme == SALT
    (said,) = dataset.warnings
    assert "[0, 65535]: read as salt data (salt2)" in said
    assert not dataset.zero_is_nodata
    for name, mask_HW in masks.items():
        tile = dataset.tile(f"train/{name}")
        np.testing.assert_array_equal(dataset.read_mask(tile), mask_HW)
        picture_HWC = np.asarray(Image.open(root / "train" / "images" / f"{name}.png"))
        image_CHW, valid_HW = dataset.read(tile, ("blue", "grey", "red"))
        assert valid_HW.all()
        np.testing.assert_array_equal(image_CHW, picture_HWC[..., [2, 0, 0]].transpose(2, 0, 1))
    assert all(tile.mask_path is None for tile in dataset.split("test"))
    # The usual way out stays: black as nodata, another scheme.
    assert not open_dataset(root, zero_is_nodata=True).read_valid(tile)[:4].any()
    write_scheme(root, get_scheme("glacier2"))
    assert open_dataset(root).scheme.name == "glacier2"


def test_parts_of_salt_data_open_by_themselves(make_salt):
    root, _ = make_salt()
    assert open_dataset(root / "train").root == root
    assert len(open_dataset(root / "test").tiles) == 3
    assert open_dataset(root / "test").scheme == SALT
    for path in (root / "train" / "images", root / "train" / "images" / "04234be388.png"):
        with pytest.raises(DataError, match=f"Open the folder above .*{root / 'train'}"):
            open_dataset(path)
    (root / "train").rename(root / "plain")
    plain = open_dataset(root / "plain")
    assert (plain.root, plain.splits) == (root / "plain", ("all",))


def test_colours_and_grey_stand_in_for_each_other(tmp_path):
    rng = np.random.default_rng(0)
    colours_HWC = rng.integers(0, 256, (9, 11, 3)).astype("u1")
    grey_HW = rng.integers(0, 256, (9, 11)).astype("u1")
    Image.fromarray(colours_HWC).save(_folder(tmp_path / "images") / "a1.png")
    Image.fromarray(grey_HW).save(tmp_path / "images" / "a2.png")
    channels = check_channels(["red", "grey", "blue", "valid"])
    bands = required_bands(channels)
    dataset = open_dataset(tmp_path)
    first, second = dataset.tiles
    made_CHW = assemble_channels(*_with_bands(dataset.read(first, bands), bands), channels)
    np.testing.assert_allclose(made_CHW[1], colours_HWC.mean(2), rtol=1e-6)
    np.testing.assert_array_equal(made_CHW[[0, 2]], colours_HWC[..., [0, 2]].transpose(2, 0, 1))
    assert (made_CHW[3] == 1).all()
    made_CHW = assemble_channels(*_with_bands(dataset.read(second, bands), bands), channels)
    np.testing.assert_array_equal(made_CHW[:3], [grey_HW] * 3)
    assert dataset.bands == ("grey", "red", "green", "blue")
    (tmp_path / "images" / "a1.png").unlink()
    assert open_dataset(tmp_path).bands == ("grey",)


def _with_bands(read, bands):
    return read[0], bands, read[1]


def test_masks_of_any_kind_mean_salt_where_they_are_not_zero(make_salt):
    root, masks = make_salt()
    (first, first_HW), (second, second_HW), (third, third_HW) = masks.items()
    folder = root / "train" / "masks"
    red = np.stack([first_HW * 7, ~first_HW * 9, first_HW * 0], -1).astype("u1")
    Image.fromarray(red).save(folder / f"{first}.png")
    Image.fromarray(second_HW).save(folder / f"{second}.png")  # one bit
    (folder / f"{third}.png").unlink()
    write_raster(folder / f"{third}.tif", third_HW.astype("u1"))
    dataset = open_dataset(root / "train")
    for name, mask_HW in masks.items():
        np.testing.assert_array_equal(dataset.read_mask(dataset.tile(f"train/{name}")), mask_HW)
    palette = Image.fromarray(first_HW.astype("u1")).convert("P")
    palette.putpalette([0, 0, 0, 0, 255, 0])
    palette.save(folder / f"{first}.png")
    with pytest.raises(SchemeError, match="has a colour table"):
        read_mask_codes(folder / f"{first}.png")


def test_a_mask_of_no_picture_is_named(make_salt):
    root, _ = make_salt()
    (root / "train" / "masks" / "04234be388.png").rename(root / "train" / "masks" / "abcdefabcd.png")
    with pytest.raises(PairingError, match=r"abcdefabcd\.png"):
        open_dataset(root)


def test_quick_looks_beside_satellite_tiles_are_no_tiles(make_dataset, tmp_path):
    root = make_dataset(splits=("train",), grid=(1, 1))
    for folder in (root, root / "train", tmp_path / "files"):
        Image.fromarray(np.ones((8, 8), "u1")).save(_folder(folder / "images") / "look.png")
    assert [tile.id for tile in open_dataset(root).tiles] == ["00_00"]
    write_raster(tmp_path / "files" / "scene.tif", np.ones((5, 8, 8), "u2"))
    assert [tile.id for tile in open_dataset(tmp_path / "files").tiles] == ["scene"]
    # Pictures without masks are anyone's: napari's reader leaves them alone.
    (tmp_path / "files" / "scene.tif").unlink()
    assert not is_dataset(tmp_path / "files")


def test_a_png_is_never_written_over(make_salt):
    root, masks = make_salt(splits=("train",))
    path = root / "train" / "masks" / "04234be388.png"
    before = path.read_bytes()
    index_HW = np.ones((21, 33), np.uint8)
    for write in (
        lambda: write_raster(path, index_HW),
        lambda: write_mask(path, index_HW, SALT),
        lambda: rewrite_mask(path, index_HW, index_HW > 0, SALT),
    ):
        with pytest.raises(SaveError, match="only TIFFs are written; nothing was changed"):
            write()
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == sorted(f"{name}.png" for name in masks)


def test_corrections_of_a_png_mask_are_refused_and_new_masks_become_tiffs(make_salt):
    root, _ = make_salt()
    known = root / "train" / "masks" / "04234be388.png"
    before = known.read_bytes()
    dataset = open_dataset(root)
    journal = Journal.open(root)
    chosen = {"train/04234be388", "test/026f97575b"}
    for scene in plan_scenes(dataset):
        if scene.name in chosen:
            mask = EditableMask(scene.read_masks(), scene.valid(), scene.placements, journal, num_classes=2)
            mask[:5, :6] = 1 - np.asarray(mask[:5, :6])
            mask.commit()
    report = save_tiles(dataset, None, journal)
    assert "is a PNG" in report.failed["train/04234be388"]
    assert known.read_bytes() == before
    assert not (root / ORIGINALS_FOLDER).exists()
    assert report.saved == ("test/026f97575b",)
    assert report.created == (root / "test" / "masks" / "026f97575b.tif",)
    assert list(journal.unsaved_tiles()) == ["train/04234be388"]
    again = open_dataset(root)
    expected_HW = np.zeros((21, 33), np.uint8)
    expected_HW[:5, :6] = 1
    np.testing.assert_array_equal(again.read_mask(again.tile("test/026f97575b")), expected_HW)
    journal.close()


def test_masks_of_pictures_are_evaluated(make_salt, tmp_path):
    root, masks = make_salt(splits=("train",))
    rng = np.random.default_rng(4)
    predicted = {name: mask_HW ^ (rng.random(mask_HW.shape) > 0.9) for name, mask_HW in masks.items()}
    for name, mask_HW in predicted.items():
        write_mask(_folder(tmp_path / "out") / f"{name}.tif", mask_HW.astype("u1"), SALT)
    result = evaluate_folders(tmp_path / "out", root / "train" / "masks")
    true_N, predicted_N = (np.concatenate([m[name].ravel() for name in masks]) for m in (masks, predicted))
    assert result["all_pixels"]["mcc"] == pytest.approx(matthews_corrcoef(true_N, predicted_N), abs=1e-9)


def test_masks_of_both_kinds_are_evaluated_together(make_salt, tmp_path):
    """A mask drawn here is a TIFF beside the PNGs; it counts with them, and before a PNG of its own name."""
    root, masks = make_salt(splits=("train",))
    folder = root / "train" / "masks"
    first, second, third = masks
    (folder / f"{first}.png").unlink()
    write_mask(folder / f"{first}.tif", masks[first].astype("u1"), SALT)
    corrected_HW = ~masks[second]
    write_mask(folder / f"{second}.tif", corrected_HW.astype("u1"), SALT)
    for name, mask_HW in masks.items():
        write_mask(_folder(tmp_path / "out") / f"{name}.tif", mask_HW.astype("u1"), SALT)
    Image.fromarray(np.ones((5, 5), "u1")).save(tmp_path / "out" / f"{third}.png")  # a quick look
    result = evaluate_folders(tmp_path / "out", folder)
    predicted_N = np.concatenate([mask_HW.ravel() for mask_HW in masks.values()])
    true_N = np.concatenate([m.ravel() for m in (masks[first], corrected_HW, masks[third])])
    assert len(result["tiles"]) == 3
    assert result["all_pixels"]["mcc"] == pytest.approx(matthews_corrcoef(true_N, predicted_N), abs=1e-9)


def test_the_data_set_says_which_classes_its_masks_have(make_salt, tmp_path):
    root, masks = make_salt(splits=("train",))
    folder = root / "train" / "masks"
    for name, mask_HW in masks.items():
        (folder / f"{name}.png").unlink()
        write_raster(folder / f"{name}.tif", np.where(mask_HW, 65535, 0).astype("u2"))
        write_mask(_folder(tmp_path / "out") / f"{name}.tif", mask_HW.astype("u1"), SALT)
    result = evaluate_folders(tmp_path / "out", folder, data=root)
    assert result["scheme"] == "salt2"
    assert result["all_pixels"]["mcc"] == pytest.approx(1)
    # What was corrected is kept elsewhere: still masks of salt.
    folder.rename(tmp_path / "kept")
    assert evaluate_folders(tmp_path / "out", tmp_path / "kept", data=root)["valid_pixels"]["mcc"] == pytest.approx(1)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pictures_have_layers(make_salt, mode):
    root, _ = make_salt(mode, splits=("train",))
    dataset = open_dataset(root)
    scenes = plan_scenes(dataset)
    layers = scene_layers(scenes[:1], np.zeros((21, 33), np.uint8), SALT, dataset.bands, {})
    roles = [arguments["metadata"][KEY]["role"] for _, arguments, _ in layers]
    assert roles == ["band"] * (1 if mode == "L" else 4) + ["composite", "labels"]
    picture = np.asarray(layers[-2][0])
    assert (picture[..., 3] == 255).all()
    np.testing.assert_array_equal(picture[..., 0], picture[..., 2])
    assert len(np.unique(picture[..., 0])) > 100


def test_the_real_salt_data_open_as_they_are(real_data):
    folder = real_data / "tgs_salt"
    if not folder.is_dir():
        pytest.skip(f"the salt data are not at {folder}")
    dataset = open_dataset(folder)
    assert len(dataset.tiles) == 60
    assert {(tile.height, tile.width) for tile in dataset.tiles} == {(101, 101)}
    assert dataset.scheme == SALT
    for tile in dataset.tiles:
        image_CHW, valid_HW = dataset.read(tile, ("grey", "green"))
        expected_HW = np.round(imread(tile.bands["grey"].path)[..., 1] * 255)
        np.testing.assert_array_equal(image_CHW, [expected_HW] * 2)
        assert valid_HW.all()
        np.testing.assert_array_equal(dataset.read_mask(tile), np.asarray(Image.open(tile.mask_path)) > 0)
    diagnosis = examine(folder)
    assert diagnosis.summary["with_mask"] == 60
    assert not [finding for finding in diagnosis.findings if finding.severity == "error"]


def test_a_quick_look_beside_masks_is_not_one_of_them(make_salt, tmp_path):
    root, masks = make_salt(splits=("train",))
    for name, mask_HW in masks.items():
        write_mask(_folder(tmp_path / "out") / f"{name}.tif", mask_HW.astype("u1"), SALT)
    Image.fromarray(np.zeros((9, 9), "u1")).save(tmp_path / "out" / "overview.png")
    assert evaluate_folders(tmp_path / "out", root / "train" / "masks")["all_pixels"]["mcc"] == 1
