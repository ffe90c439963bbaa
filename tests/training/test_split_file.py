"""Splits in a file: made alike from a seed, changed by hand, and learnt with as they read."""

import shlex
import shutil

import numpy as np
import pyproj
import pytest
import yaml
from scipy.spatial.distance import pdist

from napari_glacier.cli import main
from napari_glacier.core.config import RunConfig
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.data.leakage import centres_m
from napari_glacier.core.errors import ConfigError
from napari_glacier.core.raster import read_info, read_raster, write_raster
from training.folds import settle_folds
from training.source import open_labelled_tiles, open_training_data


def _config(root, **data):
    return RunConfig.model_validate({"data": {"train": str(root), "workers": 0, **data}})


@pytest.fixture
def root(make_dataset):
    return make_dataset(grid=(3, 4))


def test_folds_are_compact_repeat_from_a_seed_and_are_never_written_over(root, tmp_path, capsys):
    paths = [tmp_path / f"{name}.yaml" for name in "abc"]
    for path, seed in zip(paths, ("7", "7", "8"), strict=True):
        assert main(["splits", str(root), "--folds", "3", "--seed", seed, "--out", str(path)]) == 0
    contents = [yaml.safe_load(path.read_text())["splits"] for path in paths]
    assert contents[0] == contents[1]
    tiles = {tile.id: tile for tile in open_dataset(root).tiles}
    assert contents[0].keys() == tiles.keys()
    sizes = [list(contents[0].values()).count(fold) for fold in (1, 2, 3)]
    assert sizes == [4, 4, 4]
    # Tiles of a fold lie nearer to each other than tiles at large.
    own = [pdist(centres_m([tiles[t] for t, f in contents[0].items() if f == fold])).mean() for fold in (1, 2, 3)]
    assert np.mean(own) < 0.75 * pdist(centres_m(list(tiles.values()))).mean()
    assert "fold 3: 4 tiles" in capsys.readouterr().out
    before = paths[0].read_bytes()
    assert main(["splits", str(root), "--folds", "3", "--out", str(paths[0])]) == 2
    assert "may have been changed by hand" in capsys.readouterr().err
    assert paths[0].read_bytes() == before


def test_training_learns_with_the_file_as_a_person_changed_it(root, tmp_path):
    path = root / "splits.yaml"
    assert main(["splits", str(root), "--folds", "3"]) == 0
    split_of = yaml.safe_load(path.read_text())["splits"]
    second = [tile_id for tile_id, fold in split_of.items() if fold == 2]
    data = open_training_data(_config(root, splits=str(path), val_fold=2))
    assert sorted(tile.id for tile in data.val.tiles) == sorted(second)
    assert {tile.id for tile in data.train.tiles}.isdisjoint(second)
    labelled = open_labelled_tiles(_config(root, splits=str(path)).data)
    folds = settle_folds(tmp_path / "folds.yaml", labelled, 3, 0, path)
    assert [sorted(fold) for fold in folds] == [sorted(t for t, f in split_of.items() if f == k) for k in (1, 2, 3)]
    # By hand: one tile always learns, one validates, one is out.
    ids = list(split_of)
    words = dict.fromkeys(ids, "train") | {ids[0]: "val", ids[5]: "none"}
    path.write_text(yaml.safe_dump({"splits": words}))
    data = open_training_data(_config(root, splits=str(path)))
    assert [tile.id for tile in data.val.tiles] == [ids[0]]
    assert {tile.id for tile in data.train.tiles} <= set(ids) - {ids[0], ids[5]}
    with pytest.raises(ConfigError, match="has the folds none"):
        settle_folds(tmp_path / "other.yaml", open_labelled_tiles(_config(root, splits=str(path)).data), 3, 0, path)


def test_a_hold_out_is_a_file_too(root):
    assert main(["splits", str(root), "--val-fraction", "0.25"]) == 0
    split_of = yaml.safe_load((root / "splits.yaml").read_text())["splits"]
    assert sorted(split_of.values()) == ["train"] * 9 + ["val"] * 3
    data = open_training_data(_config(root, splits=str(root / "splits.yaml")))
    assert {tile.id for tile in data.val.tiles} == {tile_id for tile_id, split in split_of.items() if split == "val"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("splits: 3", "must read as"),
        ("splits: {00_00: 1, 00_00: 2}", "names tiles twice: 00_00"),
        ("splits: {00_00: 1, ../../x: 2}", r"not there: \.\./\.\./x"),
        ("splits: {00_00: yes please}", "neither a fold"),
        ("splits: {00_00: 0}", "neither a fold"),
        ("splits: {00_00: 1}", "leaves out labelled tiles: 00_01"),
        ("splits: [", "not readable as YAML"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(make_dataset, text, said):
    root = make_dataset()
    (root / "s.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        open_training_data(_config(root, splits=str(root / "s.yaml")))


def test_the_file_of_tiles_that_lie_elsewhere_is_refused(root, make_dataset, tmp_path):
    path = tmp_path / "splits.yaml"
    assert main(["splits", str(root), "--folds", "3", "--out", str(path)]) == 0
    places = yaml.safe_load(path.read_text())["places"]
    tile = open_dataset(root).tile("01_02")
    to_degrees = pyproj.Transformer.from_crs(32643, 4326, always_xy=True)
    middle = tile.georef.transform[2] + 15 * tile.width, tile.georef.transform[5] - 15 * tile.height
    assert [float(text) for text in places["01_02"].split()] == pytest.approx(to_degrees.transform(*middle), abs=1e-5)

    # The same tiles cut anew some pixels away are the same ground.
    _move(root, rows=10)
    assert open_training_data(_config(root, splits=str(path), val_fold=1)).val
    bare = make_dataset("bare", grid=(3, 4), georeferenced=False)
    assert open_training_data(_config(bare, splits=str(path), val_fold=1)).val
    _move(root, rows=1000)
    with pytest.raises(ConfigError, match=r"was made for tiles that lie elsewhere.*00_00, 00_01"):
        open_training_data(_config(root, splits=str(path), val_fold=1))
    text = path.read_text()
    path.write_text(text[: text.index("places:")])
    assert open_training_data(_config(root, splits=str(path), val_fold=1)).val
    for places in ("places: here", "places: {00_00: 7}", "places: {00_00: 7 8 9}", "places: {00_00: east north}"):
        path.write_text(text[: text.index("places:")] + places)
        with pytest.raises(ConfigError, match="must read as 'tile: longitude latitude'"):
            open_training_data(_config(root, splits=str(path), val_fold=1))


def _move(root, rows):
    for file in root.rglob("*.tif"):
        write_raster(file, read_raster(file), read_info(file).georef.offset(rows, 0))


def test_a_fold_that_the_file_has_not_is_refused(root):
    assert main(["splits", str(root), "--folds", "2"]) == 0
    with pytest.raises(ConfigError, match="neither val nor of fold 3"):
        open_training_data(_config(root, splits=str(root / "splits.yaml"), val_fold=3))
    with pytest.raises(ValueError, match=r"data\.splits and data\.val"):
        _config(root, splits="s.yaml", val=str(root))


def test_the_file_goes_to_the_folder_named_and_its_command_survives_spaces(make_dataset, tmp_path):
    """A data set may be opened from the folder above it; the file tells how to train, to be pasted into a shell."""
    folder = tmp_path / "Geländé daten"
    shutil.move(make_dataset(grid=(3, 4)), folder / "Train")
    assert main(["splits", str(folder), "--folds", "3"]) == 0
    heading = (folder / "splits.yaml").read_text(encoding="utf-8").splitlines()[2]
    words = shlex.split(heading.removeprefix("#"))
    assert words[words.index("--set") + 1 :] == [f"data.splits={folder / 'splits.yaml'}", "folds=3"]
    assert words[words.index("--train_data") + 1] == str(folder / "Train")
