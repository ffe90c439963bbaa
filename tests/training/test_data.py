import pickle
import shutil

import numpy as np
import pytest
import torch

from napari_glacier.core.channels import Normalisation
from napari_glacier.core.classes import IGNORE_INDEX
from napari_glacier.core.config import AugmentationConfig, RunConfig
from napari_glacier.core.errors import ConfigError, DataError, GlacierError, SchemeError
from napari_glacier.core.raster import read_raster, write_raster
from napari_glacier.core.splits import hold_out
from training.augment import Augmenter
from training.data import BatchPlan, CropDataset, scan, whole_tiles
from training.sampler import Crop
from training.source import open_training_data

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
    assert any("Held out" in message for message in data.messages)


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
    assert any("no mask" in message for message in data.messages)
    chosen = open_training_data(_config(root, tiles=["00_01", "01_01"]))
    assert {t.id for t in (*chosen.train.tiles, *chosen.val.tiles)} == {"00_01", "01_01"}
    with pytest.raises(ConfigError, match="09_09"):
        open_training_data(_config(root, tiles=["09_09"]))


def test_shared_tiles_are_said(make_dataset):
    root = make_dataset()
    data = open_training_data(_config(root, val=root))
    assert any("both train and validate" in message for message in data.messages)


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
    seen = scan(data.train, 4)
    images = [data.train.dataset.read(t, ("B2", "B10")) for t in data.train.tiles]
    pixels = np.concatenate([image[:, valid] for image, valid in images], axis=1).astype(np.float64)
    np.testing.assert_allclose(seen.normalisation.mean, [*pixels.mean(1), 0.0], rtol=1e-9)
    np.testing.assert_allclose(seen.normalisation.std, [*pixels.std(1), 1.0], rtol=1e-9)
    assert seen.fingerprint == scan(data.train, 4).fingerprint


def test_the_fingerprint_notices_one_changed_label(make_dataset):
    root = make_dataset(splits=("train", "val"))
    before = scan(open_training_data(_config(root)).train, 4).fingerprint
    path = root / "train_masks" / "mask_01_01.tif"
    codes = read_raster(path)
    codes[0, 30, 30] = 255 - codes[0, 30, 30]
    codes[0, 30, 30] = 85 if codes[0, 30, 30] not in (0, 85, 170, 255) else codes[0, 30, 30]
    write_raster(path, codes)
    assert scan(open_training_data(_config(root)).train, 4).fingerprint != before


def test_crops_reaching_outside_are_ignored_there(make_dataset):
    data = open_training_data(_config(make_dataset(splits=("train", "val"))))
    normalisation = scan(data.train, 4).normalisation
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
        data.train, scan(data.train, 4).normalisation, Augmenter(AugmentationConfig(), 32, data.train.channels), 32, 5
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
    assert all(mask.numel() <= 3000 for _, mask, _ in batches)
    assert sum(mask.numel() for _, mask, _ in batches) == 4 * 64 * 64
    total = sum(float(image.double().sum()) for image, _, _ in batches)
    expected = sum(float(data.val.read(n).bands_CHW.astype(np.float64).sum()) for n in range(4))
    assert total == pytest.approx(expected)
