"""The class that each member by itself gives: in memory, in a job's folder, as rasters."""

import json

import numpy as np
import pytest
import rasterio

from napari_glacier.cli import main
from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.data.mosaic import plan_scenes
from napari_glacier.core.raster import read_description
from napari_glacier.core.tiling import Window
from napari_glacier.nn import batch
from napari_glacier.nn.accumulate import Blender
from napari_glacier.nn.checkpoint import LoadedModel
from napari_glacier.nn.ensemble import Ensemble
from napari_glacier.nn.outputs import write_predictions
from napari_glacier.nn.predictor import Predictor
from napari_glacier.nn.store import JobFolder, MemoryStore
from napari_glacier.nn.zoo import build_model

WINDOWS = {"window_px": 48, "overlap_px": 12}


def _finish(run):
    while True:
        try:
            next(run)
        except StopIteration as end:
            return end.value


def _predictor(members, weights=None, average="probability", **settings):
    usual = {"tta": 2, "device": "cpu", "precision": "fp32", "engine": "torch", **WINDOWS}
    return Predictor(Ensemble(members, weights, average=average), **(usual | settings))


@pytest.mark.parametrize("average", ["probability", "logit"])
@pytest.mark.parametrize("thresholds", [{}, {"lake": 0.2}])
def test_each_vote_is_the_map_of_the_member_alone(make_member, make_scene, average, thresholds) -> None:
    scene = make_scene(110, 90, gap_px=13)
    few = make_member(5, channels=("B10", "valid", "B2"))  # another network, other channels
    members = [make_member(0), few, make_member(2)]
    rows = []
    predictor = _predictor(members, [0.5, 0.2, 0.3], average, thresholds=thresholds)
    ours = _finish(predictor.run(scene, votes=True, on_rows=rows.append))
    assert ours.votes_MHW.shape == (3, 110, 90)
    alone = [_finish(_predictor([member], thresholds=thresholds).run(scene)) for member in members]
    certain = np.concatenate([part.vote_probabilities_MhW for part in rows], axis=1)
    for vote_HW, p_HW, single in zip(ours.votes_MHW, certain, alone, strict=True):
        np.testing.assert_array_equal(vote_HW, single.index_HW)
        expected = np.take_along_axis(single.probabilities_KHW, single.index_HW[None].astype(int), 0)[0]
        np.testing.assert_allclose(p_HW, expected, atol=1e-6)
    assert (ours.votes_MHW[0] != ours.votes_MHW[1]).any()
    without = _finish(predictor.run(scene))
    assert without.votes_MHW is None
    np.testing.assert_array_equal(ours.index_HW, without.index_HW)
    np.testing.assert_array_equal(ours.probabilities_KHW, without.probabilities_KHW)
    assert ours.provenance["votes"] == ["tiny (1)", "tiny (2)", "tiny (3)"]
    assert without.provenance["votes"] == []


def test_rows_arrive_from_the_top_and_are_the_map(make_member, make_scene) -> None:
    scene = make_scene(110, 60, gap_px=7)
    rows = []
    run = _predictor([make_member(), make_member(1)], batch_size=1).run(scene, on_rows=rows.append)
    seen = []
    while True:
        try:
            next(run)
        except StopIteration as end:
            whole = end.value
            break
        seen.append(len(rows))
    assert seen[-2] > 0, "rows come while later windows are under way"
    assert [part.start for part in rows] == [0, 36, 72]
    np.testing.assert_array_equal(np.concatenate([part.index_hW for part in rows]), whole.index_HW)
    np.testing.assert_array_equal(np.concatenate([part.entropy_hW for part in rows]), whole.entropy_HW)
    np.testing.assert_array_equal(np.concatenate([part.valid_hW for part in rows]), whole.valid_HW)
    assert all(part.votes_MhW is None for part in rows)


@pytest.mark.parametrize("average", ["probability", "logit"])
def test_one_member_votes_for_its_own_map(make_member, make_scene, average) -> None:
    ours = _finish(_predictor([make_member()], average=average, tta=8).run(make_scene(70, 100, 5), votes=True))
    np.testing.assert_array_equal(ours.votes_MHW[0], ours.index_HW)


def test_memory_is_spent_on_members_only_where_votes_are_asked_for_and_by_the_row() -> None:
    def held(num_voters):
        blender = Blender(4, 5000, 30, {}, MemoryStore(4, 5000, 30, num_voters=num_voters), num_voters=num_voters)
        most = 0
        for row in range(0, 4900, 100):
            values = np.full((5 + 4 * num_voters, 128, 30), 0.25, np.float32)
            blender.add(Window(row, 0, 128, 30), values, np.ones((128, 30), np.float32), np.ones((128, 30), bool))
            most = max(most, sum(v.nbytes for v in vars(blender).values() if isinstance(v, np.ndarray)))
            blender.finish_rows(row + 100)
        return most

    plain, three = held(0), held(3)
    assert plain < 128 * 30 * 4 * 8
    assert three - plain == 3 * 4 * 128 * 30 * 4


def test_an_interrupted_job_keeps_the_votes_it_has(make_member, make_scene, tmp_path) -> None:
    scene = make_scene(150, 60)
    predictor = _predictor([make_member(), make_member(1)], batch_size=1)
    whole = _finish(predictor.run(scene, votes=True))
    done = []
    run = predictor.run(scene, tmp_path / "job", votes=True, on_rows=done.append)
    while not done:
        next(run)
    run.close()
    rest = []
    resumed = _finish(predictor.run(scene, tmp_path / "job", votes=True, on_rows=rest.append))
    assert rest[0].start == len(done[0].index_hW)
    np.testing.assert_array_equal(resumed.votes_MHW, whole.votes_MHW)
    # Rows that were made without votes do not count for a job that is to have them.
    size = (4, *scene.shape)
    values = {"a": 1}
    plain = JobFolder(tmp_path / "other", values, *size)
    voting = JobFolder(tmp_path / "other", values, *size, num_voters=2)
    voting.put(done[0])
    assert JobFolder(tmp_path / "other", values, *size, num_voters=2).rows_done == len(done[0].index_hW)
    assert plain.rows_done == JobFolder(tmp_path / "other", values, *size).rows_done == 0


def _two_architectures(make_card) -> list[LoadedModel]:
    import torch

    arguments = {"encoder": "tu-mobilenetv3_small_050", "decoder_channels": [16, 16, 16, 16, 16]}
    members = []
    for architecture, options in (("unet", arguments), ("ba_unet", {})):
        torch.manual_seed(4)
        model = build_model(architecture, channels=CANONICAL_BANDS, num_classes=4, **options).eval()
        card = make_card(name=architecture, architecture=architecture, arguments=options)
        members.append(LoadedModel(model, card))
    return members


def test_votes_at_the_terminal(make_dataset, make_card, tmp_path, monkeypatch, capsys) -> None:
    root, out = make_dataset(grid=(1, 1), size_px=540), tmp_path / "out"
    members = _two_architectures(make_card)
    monkeypatch.setattr(batch, "resolve_models", lambda _: Ensemble(members))
    usual = ["predict", "--data", str(root), "--out", str(out), "--tta", "off", "--device", "cpu", "--engine", "torch"]
    assert main([*usual, "--votes"]) == 0
    codes = get_scheme("glacier4").codes
    (scene,) = plan_scenes(open_dataset(root))
    for member, band in zip(members, (1, 2), strict=True):
        single = _finish(Predictor(Ensemble([member]), tta="off", device="cpu", engine="torch").run(scene))
        for place in scene.placements:
            with rasterio.open(out / "votes" / place.tile.name) as file:
                assert file.descriptions == ("unet", "ba_unet")
                assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
                assert file.transform[:6] == place.tile.georef.transform
                assert file.dtypes == ("uint8", "uint8")
                np.testing.assert_array_equal(file.read(band), np.array(codes)[single.index_HW[place.slices]])
                assert file.overviews(band)
                small = file.read(band, out_shape=(place.tile.height // 2, place.tile.width // 2))
                assert set(np.unique(small)) <= set(codes), "codes have no mean"
    described = read_description(out / "votes" / scene.placements[0].tile.name)
    assert (described["band_2"], described["code_85"]) == ("ba_unet", "glacier")
    (line,) = (out / "provenance.jsonl").read_text().splitlines()
    assert json.loads(line)["provenance"]["votes"] == ["unet", "ba_unet"]
    capsys.readouterr()
    assert main([*usual, "--votes"]) == 0
    assert "1 scene was there already" in capsys.readouterr().out
    next((out / "votes").glob("*.tif")).unlink()
    assert main([*usual, "--votes"]) == 0
    assert "there already" not in capsys.readouterr().out


def test_votes_of_one_model_are_its_mask(make_dataset, make_member, tmp_path) -> None:
    (scene,) = plan_scenes(open_dataset(make_dataset()))
    prediction = _finish(_predictor([make_member()]).run(scene, votes=True))
    write_predictions(prediction, scene, tmp_path / "out", votes=True)
    for place in scene.placements:
        with (
            rasterio.open(tmp_path / "out" / place.tile.name) as mask,
            rasterio.open(tmp_path / "out" / "votes" / place.tile.name) as votes,
        ):
            assert votes.count == 1
            np.testing.assert_array_equal(votes.read(1), mask.read(1))
            assert votes.descriptions == ("tiny",)
