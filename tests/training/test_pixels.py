"""Single pixels in the place of crops: which pixels come, in what order, and a run of the recipe from end to end."""

import json

import numpy as np
import pytest
import torch

from napari_glacier.core.classes import IGNORE_INDEX
from napari_glacier.core.config_files import load_config
from napari_glacier.core.errors import ConfigError, DataError
from napari_glacier.core.runfiles import RunFolder
from napari_glacier.nn.checkpoint import load_checkpoint
from napari_glacier.nn.zoo import build_model
from training.pixels import PixelMixer, check_describes
from training.run import main


class Places:
    """Describes a pixel by its number, which stands in the image."""

    def describe(self, image_NCHW, grid):
        return grid.of(image_NCHW, image_NCHW.shape)


def _crops(num: int, side: int = 12) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Crops of two whose pixels are numbered through; the class is the number's last digit, some do not count."""
    made = []
    for k in range(num):
        number = torch.arange(2 * side * side).view(2, 1, side, side) + 2 * k * side * side
        target = (number[:, 0] % 10).to(torch.uint8)
        target[:, :3] = IGNORE_INDEX
        made.append((number.float(), target))
    return made


def _mixed(mixer: PixelMixer, num_crops: int, epoch: int, num_batches: int) -> tuple[np.ndarray, np.ndarray]:
    batches = list(mixer(_crops(num_crops), epoch, num_batches))
    assert len(batches) == num_batches
    for features, target in batches:
        assert features.shape == (8, 1, 1, 1)
        assert target.shape == (8, 1, 1)
    numbers = torch.cat([features.flatten() for features, _ in batches]).long().numpy()
    return numbers, torch.cat([target.flatten() for _, target in batches]).numpy()


def _mixer(per_crop: int, **changes: int) -> PixelMixer:
    arguments = {"batch_size": 8, "seed": 1, "rank": 0} | changes
    return PixelMixer(Places(), torch.device("cpu"), per_crop=per_crop, **arguments)


def test_every_pixel_that_counts_comes_once_before_any_comes_again():
    counted = 3 * 2 * 9 * 12
    numbers, classes = _mixed(_mixer(144), 3, epoch=1, num_batches=counted // 8)
    assert len(set(numbers.tolist())) == counted
    assert (classes == numbers % 10).all()
    assert ((numbers % 144) >= 36).all()  # the first three rows of a crop do not count
    again, _ = _mixed(_mixer(144), 3, epoch=1, num_batches=2 * counted // 8)
    assert (again[:counted] == numbers).all()
    assert (np.bincount(again)[again] == 2).all()


def test_crops_are_mixed_and_give_no_more_than_their_share():
    numbers, _ = _mixed(_mixer(20), 5, epoch=1, num_batches=25)
    crop = numbers // 144
    assert len(set(numbers.tolist())) > 150
    assert set(crop[:24].tolist()) >= {0, 2, 4, 6, 8} or len(set(crop[:24].tolist())) >= 7
    assert max(np.bincount(crop)) <= 2 * 20  # twice at most: fewer pixels count than are wanted


def test_pixels_follow_from_seed_epoch_and_process():
    first = _mixed(_mixer(20), 2, epoch=1, num_batches=4)[0].tolist()
    assert _mixed(_mixer(20), 2, epoch=1, num_batches=4)[0].tolist() == first
    for other in (
        _mixed(_mixer(20), 2, epoch=2, num_batches=4),
        _mixed(_mixer(20, seed=2), 2, epoch=1, num_batches=4),
        _mixed(_mixer(20, rank=1), 2, epoch=1, num_batches=4),
    ):
        assert other[0].tolist() != first


def test_where_no_pixel_counts_it_is_said():
    ((image, target),) = _crops(1)
    with pytest.raises(DataError, match="Give more labelled tiles"):
        next(iter(_mixer(20)([(image, torch.full_like(target, IGNORE_INDEX))], 1, 1)))


def test_networks_that_learn_to_look_are_refused():
    with pytest.raises(ConfigError, match="plain_unet learns whole crops"):
        check_describes(build_model("plain_unet", channels=3, num_classes=2, base=4), "plain_unet")
    check_describes(build_model("surroundings", channels=3, num_classes=2), "surroundings")


def test_teachers_need_whole_crops():
    with pytest.raises(ConfigError, match="teachers look at whole crops"):
        load_config("surroundings", ["data.train=.", "distill.teachers=[bundled]", "loss.terms={kl: 1.0}"])


SMALL = ["sampling.crop_px=64", "sampling.pixels_per_crop=500", "train.pixels=250", "train.epochs=2", "data.workers=0"]


@pytest.fixture
def trained(make_dataset, tmp_path, capsys) -> RunFolder:
    data = make_dataset(splits=("train", "val"), grid=(1, 4))
    changes = [*SMALL, f"output={tmp_path / 'runs'}", "device=cpu", "optim.warmup_steps=2"]
    assert main(["--config", "surroundings", "--train_data", str(data), "--set", *changes]) == 0
    return RunFolder(capsys.readouterr().out.splitlines()[-1])


def test_a_run_learns_predicts_and_goes_on(trained, capsys):
    (start,) = [event for event in trained.events() if event["event"] == "start"]
    assert start["crops_per_epoch"] == 4
    model = load_checkpoint(trained.best_path)
    assert model.card.architecture == "surroundings"
    # Eight updates an epoch of 250 pixels: what the statistics were taken from.
    looks = model.model.looks
    assert [int(look.scales[0].num_batches_tracked) for look in looks] == [2 * 4 * 500 // 250] * 3
    metrics = json.loads(trained.metrics_path.read_text())
    assert metrics["epoch"] == 2
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    assert main(["--resume", str(trained.path), "--set", "train.epochs=3"]) == 0
    after = load_checkpoint(trained.last_path).model.state_dict()
    assert int(after["looks.0.scales.0.num_batches_tracked"]) == 24
    for number in range(3):
        assert not torch.equal(before[f"looks.{number}.head.weight"], after[f"looks.{number}.head.weight"])


def test_a_run_of_another_network_says_what_is_wrong(make_dataset, tmp_path, capsys):
    changes = [*SMALL, f"output={tmp_path}", "model.name=plain_unet", "model.arguments={base: 4}"]
    assert main(["--config", "surroundings", "--train_data", str(make_dataset()), "--set", *changes]) == 2
    assert "plain_unet learns whole crops" in capsys.readouterr().err


@pytest.mark.parametrize("scheme", ["glacier2", "glacier4"])
def test_a_check_says_on_what_the_recipe_was_chosen(make_dataset, capsys, scheme):
    data = make_dataset(scheme=scheme)
    assert main(["--config", "surroundings", "--train_data", str(data), "--set", *SMALL, "--check"]) == 0
    assert ("was chosen on real tiles of two classes" in capsys.readouterr().out) == (scheme == "glacier4")
