import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch

from napari_glacier.core.channels import Normalisation, assemble_channels
from napari_glacier.core.classes import IGNORE_INDEX, get_scheme
from napari_glacier.core.correction.edits import EditableMask
from napari_glacier.core.correction.journal import Journal
from napari_glacier.core.correction.saving import save_tiles
from napari_glacier.core.correction.seen import SeenArea
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.data.mosaic import plan_scenes
from napari_glacier.core.errors import DataError
from napari_glacier.core.runfiles import RunFolder
from napari_glacier.core.tiling import Window
from napari_glacier.nn.checkpoint import LoadedModel, ModelCard, load_checkpoint, read_card
from napari_glacier.nn.ensemble import resolve_models
from napari_glacier.nn.zoo.surroundings import surroundings
from training.adapt import main
from training.corrections import TileCorrections, read_corrections, target_of
from training.region import Excerpt, Place, plan_crops, read_crops, read_places
from training.tuning import Crops, Settings, how_far_it_carries, tune


def open_mask(root, journal):
    (scene,) = plan_scenes(open_dataset(root, scheme="glacier4"))
    return scene, EditableMask(scene.read_masks(), scene.valid(), scene.placements, journal, num_classes=4)


def test_corrections_are_what_a_person_drew_confirmed_or_approved_saved_or_not(make_dataset):
    root = make_dataset()
    dataset = open_dataset(root, scheme="glacier4")
    with Journal.open(root) as journal:
        assert read_corrections(dataset, journal) == []
        scene, mask = open_mask(root, journal)
        start = mask[...]
        expected = np.full(mask.shape, IGNORE_INDEX, np.uint8)
        # Accepted wholesale: nobody looked. Drawn on top, back to what the file holds: a correction all the same.
        mask.assign((start + 1) % 4, np.ones(mask.shape, bool), tool="accept")
        mask[30:40, 30:40] = start[30:40, 30:40]
        mask.commit("paint")
        expected[30:40, 30:40] = start[30:40, 30:40]
        save_tiles(dataset, mask, journal)
        now = mask[...]
        mask[20:26, 70:80] = (now[20:26, 70:80] + 1) % 4
        mask.commit("fill")
        expected[20:26, 70:80] = (now[20:26, 70:80] + 1) % 4
        # Undone: not a correction.
        mask[100:110, 20:30] = (now[100:110, 20:30] + 1) % 4
        mask.undo_stroke(journal.stroke(mask.commit("paint")))
        journal.seen.add([SeenArea("01_00", 5, 6, np.ones((4, 7), bool))], "anna")
        expected[69:73, 6:13] = mask[69:73, 6:13]
        journal.set_review("01_01", "approved")
        expected[64:, 64:] = mask[64:, 64:]
        expected[~scene.valid()] = IGNORE_INDEX
        found = read_corrections(dataset, journal)
        mask.close()
    targets = {one.tile_id: one.target_HW for one in found}
    np.testing.assert_array_equal(target_of(scene, Window(0, 0, 128, 128), targets), expected)
    counts = {one.tile_id: (one.num_drawn, one.num_confirmed) for one in found}
    assert counts == {"00_00": (100, 0), "00_01": (60, 0), "01_00": (0, 28), "01_01": (0, 64 * 64)}


def test_crops_lie_on_corrections_and_elsewhere(make_dataset):
    root = make_dataset(grid=(4, 4))
    with pytest.raises(DataError, match="Nothing was corrected"):
        read_places(open_dataset(root, scheme="glacier4"))
    with Journal.open(root) as journal:
        _, mask = open_mask(root, journal)
        mask[20:24, 20:24] = (mask[20:24, 20:24] + 1) % 4
        mask[220:224, 220:224] = (mask[220:224, 220:224] + 1) % 4
        mask.close()
    places = read_places(open_dataset(root, scheme="glacier4"))
    windows = [window for _, window in plan_crops(places)]
    for row in (21, 222):
        assert any(w.row <= row < w.row + w.height and w.col <= row < w.col + w.width for w in windows[:2])
    assert len(windows) == 2 + 16
    assert plan_crops(places) == plan_crops(places)


def test_what_is_shown_holds_most_of_corrections_far_apart(make_dataset, monkeypatch):
    scene = plan_scenes(open_dataset(make_dataset()))[0]
    assert scene.shape == (128, 128)
    monkeypatch.setattr("training.region.SHOWN_PX", 64)

    def shown(said):
        """The part shown of corrections given as windows of the scene."""
        corrections = []
        for at in scene.placements:
            target = np.full((at.tile.height, at.tile.width), IGNORE_INDEX, np.uint8)
            for window in said:
                if at.row <= window.row < at.row + at.tile.height and at.col <= window.col < at.col + at.tile.width:
                    target[replace(window, row=window.row - at.row, col=window.col - at.col).slices] = 1
            if (target == 1).any():
                corrections.append(TileCorrections(at.tile.id, target, int((target == 1).sum()), 0))
        return Excerpt(Place(scene, tuple(corrections)))._window

    few, many = Window(4, 6, 3, 3), Window(100, 110, 9, 9)
    for said in ([few, many], [many, few]):
        assert shown(said).holds(104, 114), "not the empty middle"
    assert shown([few]) == Window(0, 0, 64, 64)
    near = [Window(30, 40, 3, 3), Window(70, 80, 3, 3)]
    middle = shown(near)
    assert all(middle.holds(window.row, window.col) for window in near)
    assert abs(middle.row + 32 - 51) <= 1
    assert abs(middle.col + 32 - 61) <= 1


def test_a_fixed_look_at_the_surroundings_is_taken_once_and_beyond_the_crop(make_dataset):
    root = make_dataset(grid=(5, 5))
    with Journal.open(root) as journal:
        scene, mask = open_mask(root, journal)
        mask[150:154, 150:154] = (mask[150:154, 150:154] + 1) % 4
        mask.close()
    places = read_places(open_dataset(root, scheme="glacier4"))
    channels = ("B2", "B6", "valid")
    # Further than one of the recipe looks.
    network = surroundings(3, 4, channel_names=channels, more_looks=[{"relative_px": (257,)}]).eval()
    normalisation = Normalisation((9000.0, 9000.0, 0.0), (4000.0, 4000.0, 1.0))
    card = ModelCard("look", "surroundings", {}, channels, normalisation, get_scheme("glacier4"))
    windows = plan_crops(places)[:1]
    crops = read_crops(places, windows, LoadedModel(network, card))

    image, valid = scene.read(scene.whole, ("B2", "B6"))
    whole_CHW = normalisation.apply(assemble_channels(image, ("B2", "B6"), valid, channels), valid)
    whole = torch.from_numpy(whole_CHW)[None]
    window = windows[0][1]
    expected = network.describe(whole)[0][:, *window.slices][:, ::2, ::2]
    np.testing.assert_allclose(crops.image_NCHW[0], expected, rtol=1e-4, atol=1e-3)
    with torch.no_grad():
        logits = network(whole)[0][:, *window.slices][:, ::2, ::2]
        np.testing.assert_allclose(network(crops.image_NCHW)[0], logits, rtol=1e-3, atol=1e-3)
    target = np.asarray(target_of(places[0].scene, window, places[0].targets))[::2, ::2]
    np.testing.assert_array_equal(crops.target_NHW[0], target)
    done = tune(network, crops, Settings(steps=3))
    assert 0 <= done.right_before <= 1


class Pointwise(torch.nn.Module):
    """A network with an encoder that is called as a whole, a norm, and a decoder."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = torch.nn.Sequential(torch.nn.Conv2d(2, 8, 1), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
        self.decoder = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 1), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
        self.head = torch.nn.Conv2d(8, 3, 1)

    def forward(self, image_NCHW):
        return self.head(self.decoder(self.encoder(image_NCHW)))


def crops_of(network, num_corrected=3):
    """Crops of noise in which the upper left quarter of some is said to be of the class that comes next."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(6, 2, 24, 24, generator=generator)
    # Where the first channel is high a mistake was made, and there alone was it corrected.
    odd = image[:, 0] > 1.0
    with torch.no_grad():
        old = network.eval()(image).argmax(1)
    target = torch.full((6, 24, 24), IGNORE_INDEX, dtype=torch.uint8)
    said = odd.clone()
    said[num_corrected:] = False
    target[said] = ((old[said] + 1) % 3).to(torch.uint8)
    probe = torch.zeros(6, 24, 24, dtype=torch.bool)
    probe[:, :, :8] = True
    return Crops(image, target, ~odd, probe), odd


def test_tuning_learns_the_corrections_and_keeps_the_rest_and_the_encoder():
    network = Pointwise()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    crops, _ = crops_of(network)
    steps = []
    done = tune(network, crops, Settings(steps=120, lr=2e-2, replay=3.0), steps.append)
    assert steps == list(range(1, 121))
    assert done.right_before == 0.0
    assert done.right_after > 0.6
    after = network.state_dict()
    assert list(after) == list(before)
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    # The encoder and all running statistics are what they were.
    assert changed
    assert {key.split(".")[0] for key in changed} == {"decoder", "head"}
    assert not any("running" in key for key in changed)
    assert all(parameter.requires_grad for parameter in network.parameters())
    held = Pointwise()
    careful = tune(held, crops, Settings(steps=120, lr=2e-2, replay=1000.0))
    assert careful.changed_elsewhere < min(0.05, done.changed_elsewhere)
    assert careful.right_after < done.right_after


def test_a_trial_tells_how_far_corrections_carry():
    network = Pointwise()
    crops, _ = crops_of(network)
    settings = Settings(steps=240, lr=2e-2)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    carried = how_far_it_carries(network, crops, settings)
    assert carried > 0.5
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    # Corrections without any rule in them carry nowhere.
    generator = torch.Generator().manual_seed(2)
    shape = crops.target_NHW.shape
    odd = torch.rand(shape, generator=generator) < 0.1
    target = torch.full(shape, IGNORE_INDEX, dtype=torch.uint8)
    target[odd] = torch.randint(0, 3, (int(odd.sum()),), generator=generator).to(torch.uint8)
    random = Crops(crops.image_NCHW, target, ~odd, crops.probe_NHW)
    carried = how_far_it_carries(network, random, settings)
    assert carried < 0.25
    none = Crops(crops.image_NCHW, target, ~odd, torch.zeros_like(crops.probe_NHW))
    assert how_far_it_carries(network, none, settings) is None


def test_a_process_makes_a_model_of_its_own_and_touches_nothing_else(make_dataset, make_checkpoint):
    root, start = make_dataset(), make_checkpoint()
    with Journal.open(root) as journal:
        _, mask = open_mask(root, journal)
        mask[20:40, 20:100] = 3
        mask.close()
        journal.set_review("01_01", "approved")
        # The window that drew this is open all the while.
        files = {path: path.read_bytes() for path in [start, *root.rglob("*.tif")]}
        strokes = len(journal.history())
        command = [sys.executable, "-P", "-m", "training.adapt", "--data", str(root), "--model", str(start)]
        run = subprocess.run([*command, "--steps", "4", "--device", "cpu"], capture_output=True, text=True, check=True)
        assert len(journal.history()) == strokes
    assert {path: path.read_bytes() for path in files} == files
    (folder,) = (root / "models").iterdir()
    assert run.stdout.strip().splitlines()[-1] == str(folder)
    about = json.loads((folder / "adapted.json").read_text())
    assert about["adapted_from"] == [str(start)]
    assert set(about["tiles"]) == {"00_00", "00_01", "01_01"}
    card = read_card(folder / "member_0.safetensors")
    assert card.recipe == "adapt"
    assert "corrected pixels of dataset" in card.training_data
    (member,) = resolve_models([folder]).members
    old = load_checkpoint(start).model.state_dict()
    differing = {
        key for key, value in member.model.state_dict().items() if not torch.allclose(value, old[key], atol=2e-3)
    }
    assert not any(key.startswith("encoder") for key in differing)
    with np.load(folder / "changes.npz") as changes:
        shown = sum(int((changes[f"{t}/before"] != changes[f"{t}/after"]).sum()) for t in ("00_00", "00_01", "01_01"))
        assert shown <= about["changed_pixels"] <= about["shown_pixels"] == 128 * 128 - 120
    assert main(["--data", str(root), "--out", str(folder)]) == 2


def test_a_stop_is_heard_while_it_is_looked_what_would_change(make_dataset, make_checkpoint, tmp_path, monkeypatch):
    root, start, out = make_dataset(), make_checkpoint(), tmp_path / "learnt"
    with Journal.open(root) as journal:
        _, mask = open_mask(root, journal)
        mask[20:40, 20:100] = 3
        mask.close()
    command = ["--data", str(root), "--model", str(start), "--steps", "5", "--device", "cpu"]
    told = []
    tell = RunFolder.append_event

    def stop_at_the_first_look(folder, event, **values):
        tell(folder, event, **values)
        told.append((event, values))
        if asked and values.get("message", "").startswith("Looking"):
            folder.request_stop()

    monkeypatch.setattr(RunFolder, "append_event", stop_at_the_first_look)
    asked = False
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    looks = [(values["done"], values["total"]) for _, values in told if values.get("message", "").startswith("Looking")]
    # Both maps count, and nothing is left at the end.
    assert looks == sorted(looks)
    assert looks[-1] == (looks[0][1], looks[0][1])
    # From the first step of learning on.
    scale = [(values["done"], values["total"]) for event, values in told if "done" in values]
    assert scale == sorted(scale)
    assert len({total for _, total in scale}) == 1
    assert next(values["message"] for _, values in told if "done" in values) == "Learning…"
    asked, num_looks = True, len(looks)
    told.clear()
    assert main([*command, "--out", str(out)]) == 0
    assert told[-1][0] == "stopped"
    assert sum(values.get("message", "").startswith("Looking") for _, values in told) < num_looks
    assert not (out / "ensemble.yaml").exists()


def test_labels_of_fewer_classes_teach_the_sums_of_what_the_network_divides():
    network = Pointwise()
    crops, _ = crops_of(network)
    with torch.no_grad():
        old = network.eval()(crops.image_NCHW).softmax(1)
    # The person knows two classes, her 1 is the network's 1 or 2; and she says the other one than the network.
    coarse = (old[:, 1:].sum(1) > old[:, 0]).to(torch.uint8)
    target = torch.where(crops.target_NHW != IGNORE_INDEX, 1 - coarse, torch.tensor(IGNORE_INDEX, dtype=torch.uint8))
    two = Crops(crops.image_NCHW, target, crops.replay_NHW, crops.probe_NHW, into=(0, 1, 1))
    logits = torch.randn(4, 3, 5, 5)
    summed = two.in_her_classes(torch.log_softmax(logits, 1)).exp()
    expected = torch.stack([logits.softmax(1)[:, 0], logits.softmax(1)[:, 1:].sum(1)], 1)
    torch.testing.assert_close(summed, expected)
    done = tune(network, two, Settings(steps=120, lr=2e-2, replay=3.0))
    assert done.right_before == 0.0
    assert done.right_after > 0.8
    with torch.no_grad():
        new = network(crops.image_NCHW).softmax(1)
    said = target != IGNORE_INDEX
    sums = torch.stack([new[:, 0], new[:, 1:].sum(1)], 1).argmax(1)
    assert (sums[said] == target[said]).float().mean() == pytest.approx(done.right_after, abs=1e-4)


def test_a_model_of_four_classes_learns_from_labels_of_two(make_dataset, make_checkpoint, tmp_path, capsys):
    root, start = make_dataset(), make_checkpoint()
    (root / "dataset.yaml").write_text("scheme: glacier2\n")
    for path in (root / "label").glob("*.tif"):
        with rasterio.open(path, "r+") as file:
            file.write(np.where(file.read() > 0, 255, 0).astype(np.uint8))
    with Journal.open(root) as journal:
        (scene,) = plan_scenes(open_dataset(root))
        mask = EditableMask(scene.read_masks(), scene.valid(), scene.placements, journal, num_classes=2)
        mask[20:40, 20:100] = 1 - mask[20:40, 20:100]
        mask.close()
    next((root / "Band4").glob("*01_01.tif")).unlink()
    out = tmp_path / "out"
    options = ["--data", str(root), "--model", str(start), "--steps", "3", "--device", "cpu"]
    assert main([*options, "--out", str(out)]) == 0, capsys.readouterr().err
    about = json.loads((out / "adapted.json").read_text())
    assert about["note"].startswith("Bands are missing: tile 01_01 has no B6. ")
    assert about["note"].endswith("debris counts as glacier, lake counts as background.")
    assert read_card(out / "member_0.safetensors").scheme.num_classes == 4
    with np.load(out / "changes.npz") as changes:
        shown = [changes[name] for name in changes.files if name.endswith(("before", "after"))]
    assert {int(k) for part in shown for k in np.unique(part)} <= {0, 1}


def test_bad_input_is_one_sentence_and_leaves_no_model(make_dataset, make_checkpoint, capsys, tmp_path):
    root = make_dataset()
    assert main(["--data", str(root), "--out", str(tmp_path / "a")]) == 2
    assert "Nothing was corrected" in capsys.readouterr().err
    with Journal.open(root) as journal:
        _, mask = open_mask(root, journal)
        mask[20:40, 20:40] = 3
        mask.close()
    other = make_checkpoint("two", scheme="glacier2")
    assert main(["--data", str(root), "--model", str(other), "--out", str(tmp_path / "b")]) == 2
    assert "Choose a model of the labels' classes" in capsys.readouterr().err
    assert not list(tmp_path.glob("?/*.safetensors"))


@pytest.mark.parametrize("wrong", [["--steps", "0"], ["--lr", "nan"], ["--replay", "-1"], ["--seed", "-1"]])
def test_settings_out_of_range_are_refused(tmp_path, capsys, wrong):
    with pytest.raises(SystemExit) as caught:
        main(["--data", str(tmp_path), *wrong])
    assert caught.value.code == 2
    assert re.search(f"error: .*{wrong[0]} ", capsys.readouterr().err)
