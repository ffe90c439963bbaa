import pickle
import shutil

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_cdt

from napari_glacier.core.channels import Normalisation
from napari_glacier.core.classes import IGNORE_INDEX
from napari_glacier.core.config import AugmentationConfig, RunConfig
from napari_glacier.core.data.splits import hold_out
from napari_glacier.core.errors import ConfigError, DataError, GlacierError, SchemeError
from napari_glacier.core.raster import read_raster, write_raster
from training.augment import Augmenter
from training.data import BatchPlan, CropDataset, make_loader, scan, whole_tiles
from training.sampler import Crop
from training.source import open_labelled_tiles, open_training_data

OFF = AugmentationConfig(flips=0, rot90=0, affine=0, brightness_contrast=0, noise=0, blur=0)


def _config(train, **data) -> RunConfig:
    return RunConfig.model_validate({"data": {"train": train, **data}})


def test_a_root_with_splits_trains_on_train_and_validates_on_val(make_dataset):
    root = make_dataset(splits=("train", "val"))
    data = open_training_data(_config(root))
    assert {tile.split for tile in data.train.tiles} == {"train"}
    assert {tile.split for tile in data.val.tiles} == {"val"}
    assert (len(data.train), len(data.val)) == (4, 4)


def test_the_train_folder_finds_the_val_folder_beside_it(make_dataset):
    root = make_dataset(splits=("train", "val"))
    data = open_training_data(_config(root / "train"))
    assert {tile.split for tile in data.val.tiles} == {"val"}


def test_val_and_masks_can_be_named(make_dataset, tmp_path):
    root = make_dataset(splits=("train", "val"))
    shutil.move(root / "train_masks", tmp_path / "elsewhere")
    shutil.move(root / "val_masks", tmp_path / "truth")
    data = open_training_data(
        _config(root / "train", train_masks=tmp_path / "elsewhere", val=root / "val", val_masks=tmp_path / "truth")
    )
    assert (len(data.train), len(data.val)) == (4, 4)
    for tiles in (data.train, data.val):
        for tile in tiles.tiles:
            assert tile.mask_path.stem.removeprefix("mask_") in tile.name


def test_without_a_val_split_whole_tiles_are_held_out(make_dataset):
    data = open_training_data(_config(make_dataset(grid=(2, 4)), val_fraction=0.25))
    assert (len(data.train), len(data.val)) == (6, 2)
    assert not {t.id for t in data.train.tiles} & {t.id for t in data.val.tiles}
    assert data.held_out == tuple(t.id for t in data.val.tiles)
    assert any("Held out" in message for message in data.notes.messages)


def _correct(path, code=170):
    codes = read_raster(path)
    codes[0, 5:40] = code
    write_raster(path, codes)


def test_named_validation_tiles_stay_when_masks_are_corrected(make_dataset):
    root = make_dataset(grid=(2, 4))
    before = open_training_data(_config(root, val_fraction=0.25))
    for tile in before.val.tiles:
        _correct(tile.mask_path)
    drawn = open_training_data(_config(root, val_fraction=0.25))
    assert set(drawn.held_out) != set(before.held_out)  # which is why the choice is written down
    kept = open_training_data(_config(root, val_fraction=0.25, val_tiles=list(before.held_out)))
    assert [t.id for t in kept.val.tiles] == list(before.held_out)
    assert {t.id for t in kept.train.tiles} == {t.id for t in before.train.tiles}


def test_validation_tiles_may_lie_outside_the_chosen_ones_and_must_exist(make_dataset):
    root = make_dataset()
    data = open_training_data(_config(root, tiles=["00_00", "01_01"], val_tiles=["00_01"]))
    assert [t.id for t in data.train.tiles] == ["00_00", "01_01"]
    assert [t.id for t in data.val.tiles] == ["00_01"]
    with pytest.raises(ConfigError, match="07_07"):
        open_training_data(_config(root, val_tiles=["07_07"]))
    with pytest.raises(ConfigError, match="at least one"):
        open_training_data(_config(root, val_tiles=["00_00", "00_01", "01_00", "01_01"]))
    with pytest.raises(ValueError, match="give one of them"):
        _config(root, val=root, val_tiles=["00_00"])


def _prints(tiles, *ids):
    return [tiles.fingerprint(n) for n, tile in enumerate(tiles.tiles) if tile.id in ids or not ids]


def test_tiles_that_the_starting_model_has_not_seen_are_held_out(make_dataset):
    root = make_dataset(grid=(2, 4))
    labelled = open_labelled_tiles(_config(root).data).tiles
    drawn = open_training_data(_config(root)).held_out
    other = next(tile.id for tile in labelled.tiles if tile.id not in drawn)
    seen = _prints(labelled, *(tile.id for tile in labelled.tiles if tile.id != other))
    data = open_training_data(_config(root), seen)
    assert data.held_out == (other,)
    assert not any("has learnt from" in warning for warning in data.notes.warnings)
    # Prints of another data set, whose tiles may well have the same names.
    assert open_training_data(_config(root), ["0123456789ab"]).held_out == drawn


def test_validating_on_tiles_that_the_starting_model_knows_is_said(make_dataset):
    root = make_dataset(grid=(2, 4), splits=("train", "val"))
    ours = open_training_data(_config(root))
    seen = _prints(ours.train) + _prints(ours.val)[:3]
    (warning,) = (w for w in open_training_data(_config(root), seen).notes.warnings if "has learnt from" in w)
    assert "3 of the 8 validation tiles" in warning
    for tile in ours.val.tiles[:3]:
        assert tile.id in warning
    everything = open_training_data(_config(root, val_tiles=[ours.train.tiles[0].id]), seen)
    assert any("1 of the 1 validation tiles" in warning for warning in everything.notes.warnings)


def test_a_missing_band_is_seen_as_the_predictor_sees_it(make_dataset):
    root = make_dataset(grid=(1, 2))
    (root / "Band5").joinpath(sorted(p.name for p in (root / "Band5").iterdir())[1]).unlink()
    tiles = open_labelled_tiles(_config(root).data).tiles
    normalisation = Normalisation((100.0,) * 5, (10.0,) * 5)
    with_band, without = (tiles.channels_of(tiles.read(n), normalisation) for n in (0, 1))
    assert with_band[4].any()
    assert not without[4].any()
    assert without[:4].any((1, 2)).all()
    np.testing.assert_array_equal(tiles.channels_of(tiles.cut(1, 4, 4, 16, 16), normalisation)[4], 0)


def test_data_without_any_of_the_bands_are_refused(make_dataset):
    with pytest.raises(ConfigError, match=r"needs grey; .* they have B2, .*Set data.channels"):
        open_training_data(_config(make_dataset(), channels=["grey"]))


def test_a_val_split_without_masks_is_replaced_by_a_hold_out_or_refused_by_name(make_dataset):
    root = make_dataset(splits=("train", "val"))
    shutil.rmtree(root / "val_masks")
    data = open_training_data(_config(root))
    assert {tile.split for tile in data.val.tiles} == {"train"}
    assert any("val split" in warning for warning in data.notes.warnings)
    with pytest.raises(DataError, match=r"split val .*has a mask"):
        open_training_data(_config(root / "train", val=root / "val"))


def test_train_masks_are_those_of_the_train_split_alone(make_dataset):
    root = make_dataset(splits=("train", "val"))
    data = open_training_data(_config(root, train_masks=root / "train_masks"))
    assert (len(data.train), len(data.val)) == (4, 4)
    assert {tile.mask_path.parent.name for tile in data.val.tiles} == {"val_masks"}
    beside = open_training_data(_config(root / "train", train_masks=root / "train_masks"))
    assert {tile.split for tile in beside.val.tiles} == {"val"}


def test_the_description_decides_the_scheme_of_masks_from_elsewhere(make_dataset, tmp_path):
    root = make_dataset()
    for path in (root / "label").glob("*.tif"):
        codes = read_raster(path)
        write_raster(path, np.where(codes == 255, 255, 0).astype(np.uint8))  # background and lake alone
    shutil.move(root / "label", tmp_path / "masks")
    assert open_training_data(_config(root, train_masks=tmp_path / "masks")).scheme.name == "glacier2"
    (root / "dataset.yaml").write_text("scheme: glacier4\n")
    assert open_training_data(_config(root, train_masks=tmp_path / "masks")).scheme.name == "glacier4"


@pytest.mark.parametrize(("stated", "asked", "said"), [("glacier2", "glacier4", True), ("glacier4", "glacier4", False)])
def test_a_scheme_that_calls_written_glaciers_lakes_is_said(make_dataset, stated, asked, said):
    root = make_dataset(scheme=stated)
    (root / "dataset.yaml").write_text(f"scheme: {stated}\n")
    warnings = open_labelled_tiles(_config(root, scheme=asked).data).notes.warnings
    assert any("255 is lake then, not glacier" in warning for warning in warnings) == said


def test_a_constant_channel_is_not_blown_up_and_a_missing_band_does_not_count(make_dataset):
    root = make_dataset(splits=("train", "val"))
    for path in (root / "train" / "B10").glob("*.tif"):
        bands = read_raster(path)
        write_raster(path, np.where(bands > 0, 271, 0).astype(np.uint16))
    next(iter((root / "train" / "B2").glob("*.tif"))).unlink()
    data = open_training_data(_config(root))
    seen = scan(data.train, data.scheme)
    assert (seen.normalisation.mean[4], seen.normalisation.std[4]) == (pytest.approx(271), 1.0)
    assert len(seen.warnings) == 1
    assert "B10" in seen.warnings[0]
    with_band = [t for t in data.train.tiles if "B2" in t.bands]
    pixels = [data.train.dataset.read(t, ("B2",)) for t in with_band]
    values = np.concatenate([image[0, valid] for image, valid in pixels]).astype(np.float64)
    assert len(with_band) == 3
    assert seen.normalisation.mean[0] == pytest.approx(values.mean(), rel=1e-9)
    assert seen.normalisation.std[0] == pytest.approx(values.std(), rel=1e-9)


def test_one_class_alone_is_warned_of(make_dataset):
    root = make_dataset(splits=("train", "val"))
    data = open_training_data(_config(root))
    assert not scan(data.train, data.scheme).warnings
    for path in (root / "train_masks").glob("*.tif"):
        write_raster(path, np.full((64, 64), 85, np.uint8))
    data = open_training_data(_config(root, scheme="glacier4"))
    (warning,) = scan(data.train, data.scheme).warnings
    assert warning.startswith("Every training pixel that counts is glacier, ")


@pytest.mark.parametrize(("cores", "processes", "workers"), [(8, 1, 4), (3, 1, 2), (8, 4, 1), (4, 4, 0)])
def test_workers_share_the_cores_that_this_process_may_use(make_dataset, monkeypatch, cores, processes, workers):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    data = open_training_data(_config(make_dataset(splits=("train", "val"))))
    crops = CropDataset(
        data.train, Normalisation((0.0,) * 5, (1.0,) * 5), Augmenter(OFF, 32, data.train.channels), 32, 0
    )
    loader = make_loader(crops, BatchPlan(2, 0, 1), num_workers=4, pin_memory=False)
    assert loader.num_workers == workers


def test_hold_out_keeps_rare_classes_on_both_sides():
    pixels = np.full((20, 4), 1000)
    pixels[:, 3] = 0
    pixels[[2, 11], 3] = 50  # two tiles hold the rare class
    for seed in range(5):
        held_out = hold_out(pixels, 0.15, seed)
        assert len(held_out) == 3
        assert len({2, 11} & set(held_out)) == 1
        assert held_out == hold_out(pixels, 0.15, seed)
    pixels[2, 3] = 0
    assert 11 not in hold_out(pixels, 0.15, 0)  # the only one: it is needed to learn from


def test_one_tile_cannot_be_split():
    with pytest.raises(ConfigError, match="second tile"):
        hold_out(np.ones((1, 4), int), 0.15, 0)


def test_tiles_can_be_chosen_and_unlabelled_ones_are_left_out(make_dataset):
    root = make_dataset(grid=(2, 2))
    (root / "label" / "mask_00_00.tif").unlink()
    data = open_training_data(_config(root))
    assert "00_00" not in {t.id for t in (*data.train.tiles, *data.val.tiles)}
    assert any("no mask" in message for message in data.notes.messages)
    chosen = open_training_data(_config(root, tiles=["00_01", "01_01"]))
    assert {t.id for t in (*chosen.train.tiles, *chosen.val.tiles)} == {"00_01", "01_01"}
    with pytest.raises(ConfigError, match="09_09"):
        open_training_data(_config(root, tiles=["09_09"]))


def test_shared_tiles_are_said(make_dataset):
    root = make_dataset()
    data = open_training_data(_config(root, val=root))
    assert any("both train and validate" in warning for warning in data.notes.warnings)


@pytest.mark.parametrize("masks", [True, False])
def test_bad_masks_are_found_before_training(make_dataset, masks):
    root = make_dataset(masks=masks)
    if masks:
        path = root / "label" / "mask_01_01.tif"
        codes = read_raster(path)
        codes[0, 0, :3] = 77
        write_raster(path, codes)
    with pytest.raises((DataError, SchemeError), match="77" if masks else "mask") as caught:
        open_training_data(_config(root, scheme="glacier4" if masks else None))
    assert isinstance(caught.value, GlacierError)


def test_statistics_pool_valid_pixels_and_leave_the_valid_channel(make_dataset):
    channels = ["B2", "B10", "valid"]
    data = open_training_data(_config(make_dataset(splits=("train", "val")), channels=channels))
    seen = scan(data.train, data.scheme)
    images = [data.train.dataset.read(t, ("B2", "B10")) for t in data.train.tiles]
    pixels = np.concatenate([image[:, valid] for image, valid in images], axis=1).astype(np.float64)
    np.testing.assert_allclose(seen.normalisation.mean, [*pixels.mean(1), 0.0], rtol=1e-9)
    np.testing.assert_allclose(seen.normalisation.std, [*pixels.std(1), 1.0], rtol=1e-9)
    assert seen.fingerprint == scan(data.train, data.scheme).fingerprint


def _fingerprint(root) -> str:
    data = open_training_data(_config(root))
    return scan(data.train, data.scheme).fingerprint


def test_the_fingerprint_notices_one_changed_label(make_dataset):
    root = make_dataset(splits=("train", "val"))
    before = _fingerprint(root)
    path = root / "train_masks" / "mask_01_01.tif"
    codes = read_raster(path)
    codes[0, 30, 30] = 255 - codes[0, 30, 30]
    codes[0, 30, 30] = 85 if codes[0, 30, 30] not in (0, 85, 170, 255) else codes[0, 30, 30]
    write_raster(path, codes)
    assert _fingerprint(root) != before


def test_crops_reaching_outside_are_ignored_there(make_dataset):
    data = open_training_data(_config(make_dataset(splits=("train", "val"))))
    normalisation = scan(data.train, data.scheme).normalisation
    crops = CropDataset(data.train, normalisation, Augmenter(OFF, 96, data.train.channels), 96, seed=0)
    image, target = crops[Crop(1, -16, -16, 1, 0)]
    assert image.shape == (5, 96, 96)
    assert target.dtype == torch.uint8
    inside = torch.zeros(96, 96, dtype=torch.bool)
    inside[16:80, 16:80] = True
    assert (target[~inside] == IGNORE_INDEX).all()
    assert (image[:, ~inside] == 0).all()
    pixels = data.train.read(1)
    expected = normalisation.apply(pixels.bands_CHW, pixels.valid_HW)
    np.testing.assert_array_equal(image[:, 16:80, 16:80].numpy(), expected)


def test_crops_pickle_for_spawned_workers(make_dataset):
    data = open_training_data(_config(make_dataset(splits=("train", "val"))))
    crops = CropDataset(
        data.train,
        scan(data.train, data.scheme).normalisation,
        Augmenter(AugmentationConfig(), 32, data.train.channels),
        32,
        5,
    )
    crop = Crop(2, 10, 20, 3, 4)
    for before, after in zip(crops[crop], pickle.loads(pickle.dumps(crops))[crop], strict=True):
        assert torch.equal(before, after)


def test_processes_share_each_batch():
    crops = [Crop(0, 0, 0, 1, number) for number in range(12)]
    plans = [BatchPlan(4, rank, 2) for rank in range(2)]
    for plan in plans:
        plan.crops = crops
    for number, (first, second) in enumerate(zip(*plans, strict=True)):
        assert sorted(c.number for c in first + second) == list(range(4 * number, 4 * number + 4))
        assert len(first) == len(second) == 2


def test_whole_tiles_cover_every_pixel_once_in_bounded_batches(make_dataset, monkeypatch):
    monkeypatch.setattr("training.data._MAX_EVAL_PX", 40)
    data = open_training_data(_config(make_dataset(splits=("train", "val"))))
    plain = Normalisation((0.0,) * 5, (1.0,) * 5)
    batches = list(whole_tiles(data.val, range(4), plain, max_pixels=3000))
    assert all(batch.mask_NHW.numel() <= 3000 for batch in batches)
    assert sum(batch.mask_NHW.numel() for batch in batches) == 4 * 64 * 64
    assert all(len(batch.numbers) == len(batch.mask_NHW) for batch in batches)
    total = sum(float(batch.image_NCHW.double().sum()) for batch in batches)
    expected = sum(float(data.val.read(n).bands_CHW.astype(np.float64).sum()) for n in range(4))
    assert total == pytest.approx(expected)


def _rows_cols(tile, size_px=64):
    """Row and column of a tile's first pixel on the grid of the small data set."""
    row, col = tile.id.split("_")
    return int(row) * size_px, int(col) * size_px


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("buffer_px", [None, 0, 10, 100])
def test_pixels_near_held_out_tiles_are_seen_but_not_learnt(make_dataset, buffer_px, named):
    root = make_dataset(grid=(2, 4))
    wanted = {"val_tiles": ["00_01", "01_01"]} if named else {}
    data = open_training_data(_config(root, buffer_px=buffer_px, val_fraction=0.25, **wanted))
    plain = open_training_data(_config(root, val=root)).train
    held_out = np.zeros((2 * 64, 4 * 64), bool)
    for tile in data.val.tiles:
        row, col = _rows_cols(tile)
        held_out[row : row + 64, col : col + 64] = True
    width = 16 if buffer_px is None else buffer_px  # a quarter of a tile
    near = distance_transform_cdt(~held_out, metric="chessboard") <= width
    taken = 0
    for number, tile in enumerate(data.train.tiles):
        row, col = _rows_cols(tile)
        near_HW = near[row : row + 64, col : col + 64]
        whole = plain.read([t.id for t in plain.tiles].index(tile.id))
        pixels = data.train.read(number)
        np.testing.assert_array_equal(pixels.bands_CHW, whole.bands_CHW)
        expected = np.where(near_HW | ~whole.valid_HW, IGNORE_INDEX, whole.mask_HW)
        np.testing.assert_array_equal(pixels.target(), expected)
        taken += int((data.train.read_mask(number) == IGNORE_INDEX).sum())
    left_out = {t.id for t in plain.tiles} - {t.id for t in (*data.train.tiles, *data.val.tiles)}
    taken += 64 * 64 * len(left_out)
    assert taken == int((near & ~held_out).sum())
    assert all(near[r : r + 64, c : c + 64].all() for r, c in (_rows_cols(t) for t in plain.tiles if t.id in left_out))
    said = [m for m in data.notes.messages if "buffer" in m]
    assert len(said) == (0 if width == 0 else 1)
    if said:
        assert f"{taken:,} of {6 * 64 * 64:,}" in said[0]
    reread = pickle.loads(pickle.dumps(data.train))
    np.testing.assert_array_equal(reread.read(0).target(), data.train.read(0).target())


def test_statistics_and_class_counts_leave_the_buffer_out(make_dataset):
    data = open_training_data(_config(make_dataset(grid=(2, 4)), val_tiles=["00_01"], buffer_px=20))
    seen = scan(data.train, data.scheme)
    pixels = [data.train.read(number) for number in range(len(data.train))]
    counted = [p.target() != IGNORE_INDEX for p in pixels]
    values = np.concatenate([p.bands_CHW[:, c] for p, c in zip(pixels, counted, strict=True)], 1).astype(np.float64)
    assert values.shape[1] < sum(p.valid_HW.sum() for p in pixels)
    np.testing.assert_allclose(seen.normalisation.mean, values.mean(1), rtol=1e-9)
    np.testing.assert_allclose(seen.normalisation.std, values.std(1), rtol=1e-9)
    assert sum(int(index.pixels_K.sum()) for index in seen.index) == values.shape[1]


def test_percentiles_are_those_of_the_pooled_pixels(make_dataset):
    channels = ["B2", "B10", "valid", "NDSI"]
    data = open_training_data(_config(make_dataset(grid=(2, 3)), channels=channels, normalize="percentile"))
    seen = scan(data.train, data.scheme, "percentile")
    planes = []
    for number in range(len(data.train)):
        pixels = data.train.read(number)
        image_CHW = data.train.channels_of(pixels, Normalisation((0.0,) * 4, (1.0,) * 4))
        planes.append(image_CHW[:, pixels.target() != IGNORE_INDEX].astype(np.float64))
    low, high = np.quantile(np.concatenate(planes, 1), [0.02, 0.98], axis=1)
    assert seen.normalisation.mean[:2] == tuple(low[:2])
    assert seen.normalisation.std[:2] == tuple((high - low)[:2])
    assert (seen.normalisation.mean[2], seen.normalisation.std[2]) == (0.0, 1.0)
    assert seen.normalisation.mean[3] == pytest.approx(low[3], rel=1e-6)
    assert seen.normalisation.std[3] == pytest.approx(high[3] - low[3], rel=1e-6)


def test_a_buffer_that_takes_everything_is_refused(make_dataset):
    with pytest.raises(ConfigError, match=r"lower|Lower data\.buffer_px"):
        open_training_data(_config(make_dataset(), val_tiles=["00_00"], buffer_px=64))


def test_given_validation_tiles_are_reported_and_buffered_only_where_asked(make_dataset, monkeypatch):
    root = make_dataset(splits=("train", "val"))  # a tile's width apart
    asked = open_training_data(_config(root, buffer_px=70))
    assert all(leak.masked for leak in asked.leakage.leaks)
    assert any((asked.train.read_mask(n) == IGNORE_INDEX).any() for n in range(len(asked.train)))
    monkeypatch.setattr("training.source.buffer_for", lambda asked, tiles: 65)
    near = open_training_data(_config(root))
    assert [leak.gap_px for leak in near.leakage.leaks] == [64.0] * 4  # 2 x 2 tiles face 2 x 2, and corners
    assert {leak.distance_m for leak in near.leakage.leaks} == {64 * 30.0}
    assert not any(leak.masked for leak in near.leakage.leaks)
    assert any("nearer than 65 px" in warning for warning in near.notes.warnings)
    assert all((near.train.read_mask(n) != IGNORE_INDEX).all() for n in range(4))
    monkeypatch.undo()
    far = open_training_data(_config(root, buffer_px=64))
    assert all((far.train.read_mask(n) != IGNORE_INDEX).all() for n in range(4))
    assert far.leakage.leaks == ()
    assert not any("nearer" in warning for warning in far.notes.warnings)


def test_tiles_without_a_reference_system_are_split_and_said(make_dataset):
    data = open_training_data(_config(make_dataset(grid=(2, 4), georeferenced=False), val_fraction=0.25))
    assert len(data.val) == 2
    assert data.leakage.leaks == ()
    assert len(data.leakage.unplaced) == 8
    assert any("cannot be told" in message for message in data.notes.messages)
