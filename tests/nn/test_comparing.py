"""Two models on the tiles that neither has learnt from."""

import dataclasses
import json

import numpy as np
import pytest
import rasterio
import torch

from napari_glacier.cli import main
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.data.seen_tiles import tile_fingerprint
from napari_glacier.core.errors import ConfigError, DataError
from napari_glacier.nn.checkpoint import load_checkpoint, save_checkpoint
from napari_glacier.nn.comparing import compare_models
from napari_glacier.nn.ensemble import Ensemble
from napari_glacier.nn.held_out import find_held_out, predict_held_out
from napari_glacier.nn.prediction import Progress
from napari_glacier.nn.predictor import Predictor
from training.data import TileSet


@pytest.fixture
def dataset(make_dataset):
    return open_dataset(make_dataset())


@pytest.fixture
def prints(dataset):
    return {tile.id: tile_fingerprint(dataset, tile, ("B2",)) for tile in dataset.tiles}


def _finish(run):
    steps = []
    while True:
        try:
            steps.append(next(run))
        except StopIteration as end:
            return steps, end.value


def test_fingerprints_are_those_that_training_writes(dataset, prints):
    tiles = TileSet(dataset, dataset.tiles, ("B2", "B3", "B4", "B6", "B10"))
    assert list(prints.values()) == [tiles.fingerprint(number) for number in range(len(tiles))]
    assert len(set(prints.values())) == 4


def test_only_tiles_new_to_both_count(dataset, prints, make_member):
    ids = list(prints)
    first = Ensemble([make_member(seen_tiles=(prints[ids[0]], "elsewhere"))])
    second = Ensemble([make_member(seed=1, seen_tiles=(prints[ids[2]],))])
    held = find_held_out(dataset, {"first": first, "second": second})
    assert [place.tile.id for place in held.tiles] == [ids[1], ids[3]]
    assert held.warnings == ()
    with pytest.raises(DataError, match=f"second: {ids[2]}"):
        find_held_out(dataset, {"first": first, "second": second}, [ids[1], ids[2]])
    knows_all = Ensemble([make_member(seen_tiles=tuple(prints.values()))])
    with pytest.raises(DataError, match="Label tiles"):
        find_held_out(dataset, {"first": first, "second": knows_all})


def test_a_model_that_does_not_say_is_warned_of(dataset, make_member):
    held = find_held_out(dataset, {"silent": Ensemble([make_member()])})
    assert len(held.tiles) == 4
    assert held.warnings[0].startswith("No word on which tiles these have learnt from: silent.")


def test_folds_predict_each_tile_by_the_member_that_has_not_learnt_from_it(dataset, prints, make_member):
    ids = list(prints)
    # Two folds: each member has learnt from the tiles of the other.
    members = [
        make_member(seed=0, seen_tiles=(prints[ids[2]], prints[ids[3]])),
        make_member(seed=1, seen_tiles=(prints[ids[0]], prints[ids[1]])),
    ]
    folds = Ensemble(members)
    held = find_held_out(dataset, {"folds": folds})
    assert [place.members for place in held.tiles] == [((0,),), ((0,),), ((1,),), ((1,),)]
    assert "out of fold" in held.warnings[0]
    plan = [(place.tile, place.members[0]) for place in held.tiles]
    news = list(predict_held_out(dataset, folds, plan, device="cpu"))
    found = {tile.id: prediction for tile, prediction in (n for n in news if not isinstance(n, Progress))}
    for tile_id, member in zip(ids, (0, 0, 1, 1), strict=True):
        alone = Predictor(Ensemble([members[member]]), tta="off", device="cpu")
        place = next(p for p in held.tiles if p.tile.id == tile_id)
        expected = next(
            n[1] for n in predict_held_out(dataset, alone.ensemble, [(place.tile, (0,))], device="cpu")
            if not isinstance(n, Progress)
        )  # fmt: skip
        assert np.array_equal(found[tile_id].index_HW, expected.index_HW)


def test_thresholds_found_on_a_tiles_labels_do_not_judge_it(dataset, prints, make_member):
    ids = list(prints)
    members = [make_member(seed=0, seen_tiles=(prints[ids[0]],)), make_member(seed=1, seen_tiles=(prints[ids[1]],))]
    # The network is not sure of anything: this threshold makes everything glacier.
    thresholds = {"glacier": 0.01}
    plain, tuned = Ensemble(members), Ensemble(members, thresholds=thresholds)
    held = find_held_out(dataset, {"tuned": tuned})
    assert "2 of 4 tile(s) tuned" in held.warnings[0]
    assert "without its thresholds" in held.warnings[0]
    assert "thresholds" not in find_held_out(dataset, {"plain": plain}).warnings[0]
    plan = [(place.tile, place.members[0]) for place in held.tiles]
    maps = {}
    for name, ensemble in (("plain", plain), ("tuned", tuned)):
        news = list(predict_held_out(dataset, ensemble, plan, device="cpu"))
        found = (one for one in news if not isinstance(one, Progress))
        maps[name] = {tile.id: prediction.index_HW for tile, prediction in found}
    for number, tile_id in enumerate(ids):
        # New to all members: mapped as the ensemble maps any tile.
        assert np.array_equal(maps["plain"][tile_id], maps["tuned"][tile_id]) == (number < 2)


def test_members_without_weight_do_not_count(dataset, prints, make_member):
    knows_all = make_member(seen_tiles=tuple(prints.values()))
    new = make_member(seed=1, seen_tiles=("elsewhere",))
    held = find_held_out(dataset, {"model": Ensemble([knows_all, new], [0, 1])})
    assert {place.members for place in held.tiles} == {((1,),)}
    assert held.warnings == ()


def test_classes_must_be_those_of_the_labels(dataset, make_member):
    with pytest.raises(ConfigError, match="knows the classes background, glacier,"):
        find_held_out(dataset, {"two": Ensemble([make_member(scheme="glacier2")])})


def test_unlabelled_data_cannot_judge(make_dataset, make_member):
    dataset = open_dataset(make_dataset("bare", masks=False), "glacier4")
    with pytest.raises(DataError, match=r"No tile of .* has a mask"):
        find_held_out(dataset, {"model": Ensemble([make_member()])})


def test_a_match_counts_what_the_predictor_gives(dataset, prints, make_member):
    champion = Ensemble([make_member(seed=0, seen_tiles=("x",))], name="old")
    challenger = Ensemble([make_member(seed=1, seen_tiles=(prints[next(iter(prints))],))], name="new")
    steps, match = _finish(compare_models(dataset, champion, challenger, device="cpu", draws=50))
    assert len(match.changes) == 3
    assert [step.done for step in steps if not step.preparing] == sorted(
        step.done for step in steps if not step.preparing
    )
    total = sum(tile.counts_SVKK[0, 0].sum() for tile in match.comparison.tiles)
    assert total == 3 * 64 * 64
    assert sum(tile.changed for tile in match.comparison.tiles) == sum((c > 0).sum() for c in match.changes.values())
    assert match.as_dict()["challenger"]["members"][0]["name"] == "tiny"


def test_the_command_line_compares_and_writes(dataset, make_checkpoint, tmp_path, capsys):
    first, second = make_checkpoint("first"), tmp_path / "second.safetensors"
    loaded = load_checkpoint(first)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    save_checkpoint(second, loaded.model, dataclasses.replace(loaded.card, name="second", seen_tiles=("elsewhere",)))
    out, maps = tmp_path / "figures" / "c.json", tmp_path / "maps"
    arguments = ["compare", str(first), str(second), "--data", str(dataset.root), "--device", "cpu", "--draws", "100"]

    assert main([*arguments, "--json", str(out), "--maps", str(maps)]) == 0
    printed, noted = capsys.readouterr()
    assert "95% interval" in printed
    assert "4 tiles are few" in printed
    assert "have learnt from: first (champion)." in noted
    figures = json.loads(out.read_text())
    assert figures["champion"]["name"] == "first"
    assert figures["num_tiles"] == 4
    with rasterio.open(maps / f"{dataset.tiles[0].id}.tif") as written:
        assert (written.read(1) > 0).sum() == figures["tiles"][0]["changed_px"]
        assert written.crs.to_epsg() == 32643

    assert main([*arguments, "--tiles", dataset.tiles[0].id]) == 0
    assert "tiles       1: " in capsys.readouterr().out
    assert main([*arguments, "--maps", str(maps)]) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert main([*arguments, "--tiles", "nowhere"]) == 2
    assert main([*arguments, "--draws", "0"]) == 2
