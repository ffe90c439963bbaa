import pytest

from napari_glacier.core.config import RunConfig
from napari_glacier.core.correction.journal import Journal
from napari_glacier.core.errors import ConfigError
from training.source import open_training_data


def _config(root, **data):
    return RunConfig.model_validate({"data": {"train": str(root), "buffer_px": 0, **data}})


def test_training_demands_tiles_that_were_reviewed(make_dataset):
    root = make_dataset(grid=(2, 4))
    ids = sorted(tile.id for tile in open_training_data(_config(root, val_fraction=0.3)).train.tiles)
    with pytest.raises(ConfigError, match="Review tiles in the Correct widget"):
        open_training_data(_config(root, review="approved"))
    with Journal.open(root) as journal:
        for tile_id in ("00_00", "00_01", "01_03"):
            journal.set_review(tile_id, "approved")
        journal.set_review("01_02", "edited")
        journal.set_review("00_03", "rejected")
        # A window that is open does not keep training from reading.
        found = open_training_data(_config(root, review="approved", val_fraction=0.3))
    assert len(ids) > 3
    used = {tile.id for tile in (*found.train.tiles, *found.val.tiles)}
    assert used == {"00_00", "00_01", "01_03"}
    assert "5 of 8 tiles are not approved" in " ".join(found.notes.messages)
    found = open_training_data(_config(root, review="edited", val_fraction=0.3))
    assert {tile.id for tile in (*found.train.tiles, *found.val.tiles)} == used | {"01_02"}


def test_the_val_split_is_held_to_the_same(make_dataset):
    root = make_dataset(splits=("train", "val"))
    val_ids = [tile.id for tile in open_training_data(_config(root)).val.tiles]
    with Journal.open(root) as journal:
        journal.set_review("00_00", "approved")
        journal.set_review(val_ids[1], "approved")
    found = open_training_data(_config(root, review="approved"))
    assert [tile.id for tile in found.train.tiles] == ["00_00"]
    assert [tile.id for tile in found.val.tiles] == [val_ids[1]]
