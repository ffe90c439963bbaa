"""The map of who learns and who judges says what training then does; the trainer is the oracle."""

import pytest

from napari_glacier.cli import main
from napari_glacier.controllers.split_map import ClassCounts, PlannedSplit, plan_split
from napari_glacier.core.config import RunConfig
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.errors import ConfigError, DataError
from napari_glacier.core.models.shelf import first_member, learnt_tiles
from training.source import open_training_data


def _planned(config: RunConfig, seen=(), counts=None) -> PlannedSplit:
    *_, split = plan_split(config, seen=seen, counts=counts)
    assert split is not None
    return split


def _config(root, seed=0, **data) -> RunConfig:
    return RunConfig.model_validate({"seed": seed, "data": {"train": str(root), "workers": 0, **data}})


def _ids(split: PlannedSplit, part: str) -> set[str]:
    return {tile.id for tile in split.of(part)}


def _agrees(config: RunConfig, seen=()) -> PlannedSplit:
    split, data = _planned(config, seen), open_training_data(config, seen)
    assert _ids(split, "trains") == {tile.id for tile in data.train.tiles}
    assert _ids(split, "validates") == {tile.id for tile in data.val.tiles}
    return split


@pytest.mark.parametrize("seed", range(4))
def test_tiles_are_held_out_as_the_trainer_does(make_dataset, seed):
    root = make_dataset(grid=(3, 4), seed=seed)
    split = _agrees(_config(root, seed, val_fraction=0.3))
    assert len(split.of("validates")) == 4
    ids = [tile.id for tile in split.tiles]
    some = _agrees(_config(root, seed, tiles=ids[:7]))
    assert _ids(some, "left out") == set(ids[7:])


def test_what_lies_wholly_in_the_buffer_is_told_apart(make_dataset):
    root = make_dataset(grid=(1, 6))
    split = _agrees(_config(root, val_fraction=0.17, buffer_px=64))
    assert 1 <= len(split.of("in the buffer")) <= 2


def test_a_val_split_judges_and_tiles_without_a_mask_are_left_out(make_dataset):
    root = make_dataset(splits=("train", "val"))
    next((root / "train_masks").glob("*.tif")).unlink()
    split = _agrees(_config(root))
    assert (len(split.of("trains")), len(split.of("validates")), len(split.of("left out"))) == (3, 4, 1)
    by_folder = _agrees(_config(root / "train"))
    assert by_folder.part_of == split.part_of


def test_a_file_of_splits_and_tiles_named_by_hand_count(make_dataset):
    root = make_dataset(grid=(3, 3))
    assert main(["splits", str(root), "--folds", "3"]) == 0
    for fold in (1, 2):
        assert len(_agrees(_config(root, splits=str(root / "splits.yaml"), val_fold=fold)).of("validates")) == 3
    named = [tile.id for tile in open_dataset(root).tiles][4:6]
    assert _ids(_agrees(_config(root, val_tiles=named)), "validates") == set(named)


def test_reviewed_tiles_alone_count_where_that_is_asked(workspace, make_dataset):
    session = workspace.open(make_dataset(grid=(2, 3)))
    for tile_id in session.tile_ids[:4]:
        session.set_review(tile_id, "approved")
    split = _agrees(_config(session.root, review="approved"))
    assert _ids(split, "left out") == set(session.tile_ids[4:])
    with pytest.raises(ConfigError, match="Review tiles"):
        _planned(_config(make_dataset("other"), review="approved"))


def test_tiles_that_the_first_model_knows_do_not_judge(make_dataset):
    root = make_dataset(grid=(2, 3))
    usual = open_training_data(_config(root))
    seen = {usual.val.fingerprint(number) for number in range(len(usual.val))}
    split = _agrees(_config(root), seen)
    assert _ids(split, "validates").isdisjoint(usual.held_out)


def test_masks_are_read_again_only_when_they_have_changed(make_dataset, monkeypatch):
    root = make_dataset()
    counts = ClassCounts()
    first = _planned(_config(root), counts=counts)
    monkeypatch.setattr(type(first.dataset), "read_mask", lambda *_: pytest.fail("read again"))
    assert _planned(_config(root, seed=0), counts=counts).part_of == first.part_of


def test_data_without_masks_say_so(make_dataset):
    with pytest.raises(DataError, match="Save masks first"):
        _planned(_config(make_dataset(masks=False)))


def test_the_header_tells_what_a_model_has_learnt_from(make_checkpoint, tmp_path):
    path = make_checkpoint()
    assert first_member(path) == path
    assert learnt_tiles(path) == frozenset()
    (tmp_path / "ensemble.yaml").write_text("members:\n  - {path: tiny.safetensors}\n")
    assert first_member(tmp_path) == first_member(tmp_path / "ensemble.yaml") == path
