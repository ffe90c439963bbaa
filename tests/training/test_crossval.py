"""Folds and members on tiny tiles: what is held out, what is trained, what goes on, and what comes out of it."""

import csv
import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn.metrics import f1_score, matthews_corrcoef

from napari_glacier.core.channels import Normalisation
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.config import RunConfig, ScoringConfig
from napari_glacier.core.config_files import load_config, save_config
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.errors import CheckpointError, ConfigError
from napari_glacier.core.raster import read_mask_codes
from napari_glacier.core.runfiles import RunFolder
from napari_glacier.nn.checkpoint import ModelCard, read_card, save_checkpoint
from napari_glacier.nn.ensemble import resolve_models
from napari_glacier.nn.postprocess import classify
from napari_glacier.nn.zoo import build_model
from training.children import Run, run_side_by_side
from training.crossval import run_many
from training.folds import read_folds, settle_folds, write_folds, write_leakage
from training.outoffold import Scoring, score_folds
from training.run import main
from training.source import open_labelled_tiles
from training.thresholds import PixelSample, find_thresholds

TINY = {
    "model": {
        "name": "unet",
        "encoder": "tu-mobilenetv3_small_050",
        "arguments": {"decoder_channels": [16] * 5},
    },
    "sampling": {"crop_px": 64, "crops_per_epoch": 8},
    "optim": {"lr": 2e-3, "warmup_steps": 2},
    "train": {"epochs": 1, "batch_size": 4, "amp": "off"},
}
# A training run in miniature: writes the events of one that ends as it is told.
SCRIPT = """
import sys, time
from pathlib import Path
from napari_glacier.core.runfiles import RunFolder
folder, end = RunFolder(Path(sys.argv[1])), sys.argv[2]
if end == "die":
    sys.exit("no such library")
with folder.claim():
    folder.append_event("start")
    for epoch in (1, 2):
        folder.append_event("epoch", epoch=epoch, val_mcc=0.5 - 0.1 * epoch)
    deadline = time.monotonic() + (60 if end == "stopped" else 1.0)
    while time.monotonic() < deadline and not (end == "stopped" and folder.stop_requested()):
        time.sleep(0.02)
    folder.best_path.write_bytes(b"")
    folder.append_event(end, message="so it ended")
"""


def _config(root, **values) -> RunConfig:
    return RunConfig.model_validate({**TINY, "data": {"train": str(root), "workers": 0}, **values})


def _folder(tmp_path, config) -> RunFolder:
    folder = RunFolder(tmp_path / "many")
    folder.path.mkdir()
    save_config(config, folder.config_path)
    return folder


def _carry_on(config, folder, should_stop=lambda: False) -> None:
    with folder.claim():
        run_many(config, folder, ["cpu"], should_stop)


@pytest.mark.slow
def test_tiles_labelled_since_are_left_out_of_a_cross_validation_that_goes_on(make_dataset, tmp_path, capsys):
    root = make_dataset(grid=(2, 3))
    mask = root / "label" / "mask_01_02.tif"
    kept = mask.read_bytes()
    mask.unlink()
    config = _config(root, folds=2, output=tmp_path / "runs")
    save_config(config, tmp_path / "cv.yaml")
    assert main(["--config", str(tmp_path / "cv.yaml"), "--devices", "cpu"]) == 0
    folder = RunFolder(capsys.readouterr().out.splitlines()[-1])
    folds = (folder.path / "folds.yaml").read_bytes()
    mask.write_bytes(kept)
    assert main(["--resume", str(folder.path), "--devices", "cpu", "--set", "scoring.tta=2"]) == 0
    assert folder.state() == "done"
    assert (folder.path / "folds.yaml").read_bytes() == folds
    assert any("1 tile(s) were labelled since" in str(event.get("message")) for event in folder.events())
    with (folder.path / "oof.csv").open(newline="") as file:
        assert "01_02" not in {row["tile"] for row in csv.DictReader(file)}
    # What is begun, and not whole, is no model.
    for name in ("ensemble.yaml", "fold-2/best.safetensors"):
        (folder.path / name).unlink()
    with pytest.raises(CheckpointError, match="is not finished"):
        resolve_models(folder.path)


@pytest.mark.slow
def test_folds_stop_go_on_and_are_scored_out_of_fold(make_dataset, tmp_path, caplog):
    caplog.set_level("INFO")
    root = make_dataset(grid=(2, 3))
    config = _config(root, folds=2, seed=4)
    folder = _folder(tmp_path, config)
    first = RunFolder(folder.path / "fold-1")
    _carry_on(config, folder, lambda: first.state() == "done")
    assert folder.state() == "stopped"
    assert "fold-1 running, epoch 0 of 1" in caplog.messages
    assert any(line.startswith("fold-1 done, epoch 1 of 1, best validation MCC ") for line in caplog.messages)
    assert RunFolder(folder.path / "fold-2").state() == "new"
    trained = first.best_path.stat().st_mtime_ns, first.events_path.read_bytes()

    _carry_on(config, folder)
    assert folder.state() == "done"
    assert (first.best_path.stat().st_mtime_ns, first.events_path.read_bytes()) == trained
    assert folder.events()[0]["event"] == "start"
    assert (folder.path / "per_class.csv").is_file()
    told = [(e["number"], e["state"]) for e in folder.events() if e["event"] == "fold"]
    assert list(dict.fromkeys(told)) == [(1, "running"), (1, "done"), (2, "running"), (2, "done")]
    assert all(e["val_mcc"] is not None for e in folder.events() if e["event"] == "fold" and e["state"] == "done")

    folds = yaml.safe_load((folder.path / "folds.yaml").read_text())["folds"]
    assert sorted(map(len, folds)) == [3, 3]
    for number, fold in enumerate(folds, start=1):
        own = load_config(folder.path / f"fold-{number}" / "run.yaml")
        assert (own.folds, own.data.val_tiles, own.seed) == (None, fold, 4)
        assert set(read_card(folder.path / f"fold-{number}" / "best.safetensors").val_tiles) == set(fold)
    with (folder.path / "leakage.csv").open(newline="") as file:
        pairs = list(csv.DictReader(file))
    assert {pair["relation"] for pair in pairs} <= {"touch", "near"}
    assert {pair["masked"] for pair in pairs} == {"true"}

    _check_pooled_scores(root, folder, folds)
    ensemble = resolve_models(folder.path)
    assert len(ensemble.members) == 2
    assert ensemble.name == "many"
    assert ensemble.thresholds == json.loads(folder.metrics_path.read_text())["thresholds"]["values"]
    assert ensemble.tta is None
    _check_scored_again_with_views(config, folder)


def _check_scored_again_with_views(config, folder) -> None:
    """A finished run is scored anew with test-time augmentation; nothing is trained again."""
    before = json.loads(folder.metrics_path.read_text())
    best = folder.path / "fold-1" / "best.safetensors"
    written = best.stat().st_mtime_ns
    _carry_on(config.model_copy(update={"scoring": ScoringConfig(tta=2, draws=100)}), folder)
    after = json.loads(folder.metrics_path.read_text())
    assert (before["tta"], after["tta"], resolve_models(folder.path).tta) == ("off", 2, 2)
    assert after["intervals"]["draws"] == 100
    assert [t["tile"] for t in after["tiles"]] == [t["tile"] for t in before["tiles"]]
    assert after["all_pixels"]["mcc"] != before["all_pixels"]["mcc"]
    assert best.stat().st_mtime_ns == written


def _check_pooled_scores(root, folder, folds) -> None:
    """Every score against scikit-learn's, from the masks that were written."""
    metrics = json.loads(folder.metrics_path.read_text())
    dataset, scheme = open_dataset(root), get_scheme("glacier4")
    truth, predicted, valid = {}, {}, {}
    for tile in dataset.tiles:
        truth[tile.id] = dataset.read_mask(tile).ravel()
        predicted[tile.id] = scheme.decode(read_mask_codes(folder.path / "oof" / tile.name)).ravel()
        valid[tile.id] = dataset.read_valid(tile).ravel()

    def score(ids, key):
        keep = np.concatenate([valid[i] | (key == "all_pixels") for i in ids])
        pair = [np.concatenate([of[i] for i in ids])[keep] for of in (truth, predicted)]
        return matthews_corrcoef(*pair), f1_score(*pair, average=None, labels=range(4), zero_division=0)

    assert not all(v.all() for v in valid.values())
    for key in ("all_pixels", "valid_pixels"):
        mcc, f1 = score(list(truth), key)
        assert metrics[key]["mcc"] == pytest.approx(mcc, abs=1e-9)
        assert [c["f1"] for c in metrics[key]["per_class"].values()] == pytest.approx(list(f1), abs=1e-9)
        of_folds = [score(fold, key)[0] for fold in folds]
        assert [f[key]["mcc"] for f in metrics["folds"]] == pytest.approx(of_folds, abs=1e-9)
        assert metrics["mean"][key]["mcc"] == pytest.approx(np.mean(of_folds), abs=1e-9)
        assert metrics["sd"][key]["mcc"] == pytest.approx(np.std(of_folds, ddof=1), abs=1e-9)
        pooled = metrics["intervals"][key][0]
        assert pooled["value"] == pytest.approx(mcc, abs=1e-9)
        assert pooled["low"] <= mcc <= pooled["high"]
    with (folder.path / "oof.csv").open(newline="") as file:
        rows = {row["tile"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(truth)
    for number, fold in enumerate(folds, start=1):
        own = json.loads((folder.path / f"fold-{number}" / "metrics.json").read_text())
        # The same pixels that the fold validated on, by another path through the program.
        assert own["all_pixels"]["mcc"] == pytest.approx(metrics["folds"][number - 1]["all_pixels"]["mcc"], abs=2e-3)
        for tile_id in fold:
            assert rows[tile_id]["fold"] == str(number)
            assert float(rows[tile_id]["mcc"]) == pytest.approx(score([tile_id], "all_pixels")[0], abs=1e-9)


@pytest.mark.slow
def test_members_share_their_validation_tiles_and_become_an_ensemble(make_dataset, tmp_path):
    last_counts = {"train": {**TINY["train"], "epochs": 2, "monitor": "none"}, "optim": {"schedule": "cosine"}}
    config = _config(make_dataset(), members=2, seed=7, **last_counts)
    config.train.max_ensemble_mb = 0.5
    folder = _folder(tmp_path, config)
    _carry_on(config, folder)
    assert folder.state() == "done"
    own = [load_config(folder.path / f"member-{n}" / "run.yaml") for n in (1, 2)]
    assert [c.seed for c in own] == [8, 9]
    assert [c.members for c in own] == [1, 1]
    assert own[0].data.val_tiles == own[1].data.val_tiles
    metrics = json.loads(folder.metrics_path.read_text())
    assert [t["tile"] for t in metrics["tiles"]] == own[0].data.val_tiles
    assert [m["member"] for m in metrics["members"]] == ["member-1", "member-2"]
    assert [m["epoch"] for m in metrics["members"]] == [2, 2]
    assert metrics["members"][0]["all_pixels"]["mcc"] != metrics["members"][1]["all_pixels"]["mcc"]
    assert resolve_models(folder.path).weights == [0.5, 0.5]
    assert any("max_ensemble_mb" in e["message"] for e in folder.events() if e["event"] == "warning")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"folds": 5}, "4 tiles"),
        ({"folds": 2, "data": {"val_tiles": ["00_00"]}}, "data.val_tiles"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_trained(make_dataset, tmp_path, values, said):
    root = make_dataset()
    values = {**values, "data": {"train": str(root), **values.get("data", {})}}
    config = _config(root, **values)
    folder = _folder(tmp_path, config)
    with pytest.raises(ConfigError, match=said):
        _carry_on(config, folder)
    assert not list(folder.path.glob("fold-*/events.jsonl"))


def _runs(tmp_path, ends, monkeypatch, root="unused") -> list[Run]:
    runs = []
    for number, _ in enumerate(ends, start=1):
        folder = RunFolder(tmp_path / f"fold-{number}")
        folder.path.mkdir()
        save_config(_config(root), folder.config_path)
        runs.append(Run(number, folder, _config(root)))
    monkeypatch.setattr(
        Run,
        "command",
        lambda run, device, workers: [sys.executable, "-c", SCRIPT, str(run.folder.path), ends[run.number - 1]],
    )
    return runs


def test_a_failed_run_is_reported_and_the_others_go_on(tmp_path, monkeypatch):
    runs = _runs(tmp_path, ["failed", "die", "done"], monkeypatch)
    told = []
    run_side_by_side(runs, ["cpu", "cpu"], lambda: False, lambda run: told.append((run.number, run.state, run.epoch)))
    assert [run.state for run in runs] == ["failed", "failed", "done"]
    assert runs[0].message == "so it ended"
    assert "exit code 1" in runs[1].message
    assert "no such library" in runs[1].message
    assert (runs[2].epoch, runs[2].val_mcc) == (2, 0.4)
    assert told[:2] == [(1, "running", 0), (2, "running", 0)]
    # Two places: the third run waits for one of them.
    assert told.index((3, "running", 0)) > min(told.index((1, "failed", 2)), told.index((2, "failed", 0))) - 1
    assert told[-1][1] != "running"


def test_a_stop_is_passed_on_and_waited_for(tmp_path, monkeypatch):
    runs = _runs(tmp_path, ["stopped", "stopped"], monkeypatch)
    run_side_by_side(runs, ["cpu"], lambda: bool(runs[0].folder.events()), lambda run: None)
    assert [run.state for run in runs] == ["stopped", "waiting"]
    assert runs[0].folder.state() == "stopped"
    assert runs[1].folder.state() == "new"


def test_a_run_that_outlived_its_parent_is_waited_for_and_not_trained_twice(tmp_path, monkeypatch):
    runs = _runs(tmp_path, ["done"], monkeypatch)
    with subprocess.Popen([sys.executable, "-c", SCRIPT, str(runs[0].folder.path), "done"]) as alive:
        deadline = time.monotonic() + 60
        while not runs[0].folder.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        monkeypatch.setattr(Run, "command", lambda *_: pytest.fail("a second trainer was started"))
        run_side_by_side(runs, ["cpu"], lambda: False, lambda run: None)
        assert alive.wait(10) == 0
    assert runs[0].state == "done"
    assert [e["event"] for e in runs[0].folder.events()].count("start") == 1


def test_a_run_refused_by_the_one_that_holds_the_folder_waits_for_it(tmp_path, monkeypatch):
    runs = _runs(tmp_path, ["done"], monkeypatch)
    folder = runs[0].folder
    command = [sys.executable, "-c", SCRIPT, str(folder.path), "done"]

    def begin_another_first(run, device, workers):
        others.append(subprocess.Popen(command))
        while not folder.is_alive():
            time.sleep(0.02)
        return command  # which finds the folder taken

    others: list[subprocess.Popen] = []
    monkeypatch.setattr(Run, "command", begin_another_first)
    run_side_by_side(runs, ["cpu"], lambda: False, lambda run: None)
    assert [other.wait(10) for other in others] == [0]
    assert runs[0].state == "done"


def test_more_epochs_open_a_finished_run_again(tmp_path):
    folder = RunFolder(tmp_path / "fold-1")
    folder.path.mkdir()
    save_config(_config("data"), folder.config_path)
    folder.append_event("done")
    folder.best_path.write_bytes(b"")
    assert Run(1, folder, _config("data")).is_done
    longer = Run(1, folder, _config("data", train={**TINY["train"], "epochs": 9}))
    assert not longer.is_done
    assert longer.command("cuda:1", 2)[4:] == [
        "--resume", str(folder.path), "--set", "device=cuda:1", "data.workers=2", "train.epochs=9",
    ]  # fmt: skip


def test_folds_are_read_back_as_a_person_changed_them(make_dataset, tmp_path):
    labelled = open_labelled_tiles(_config(make_dataset(grid=(2, 3))).data)
    path = tmp_path / "folds.yaml"
    made = settle_folds(path, labelled, 3, seed=0)
    assert read_folds(path, [t.id for t in labelled.tiles.tiles], 3) == made
    path.write_text("folds:\n- [00_00, 01_02]\n- [00_01]\n- ['00_02', 01_00, 01_01]\n")  # 00_01 is no octal number
    changed = settle_folds(path, labelled, 3, seed=0)
    assert changed == [["00_00", "01_02"], ["00_01"], ["00_02", "01_00", "01_01"]]
    found = write_leakage(tmp_path / "leakage.csv", labelled, changed, None)
    rows = list(csv.DictReader((tmp_path / "leakage.csv").read_text().splitlines()))
    assert len(rows) == sum(len(f.leaks) for f in found) > 0
    # Tile 00_01 lies between 00_00 and 00_02 and above 01_00, 01_01 and 01_02: it touches all the others.
    assert [row["train_tile"] for row in rows if row["fold"] == "2"] == ["00_00", "00_02", "01_00", "01_01", "01_02"]
    assert {row["distance_m"] for row in rows if row["fold"] == "2"} == {"0.0"}


@pytest.mark.parametrize(
    ("folds", "said"),
    [
        ([["00_00"], ["00_01", "01_00"]], "leaves out labelled tiles: 01_01"),
        ([["00_00", "01_01"], ["00_01", "01_00", "00_00"]], "names tiles twice: 00_00"),
        ([["00_00", "01_01"], ["00_01", "01_00", "09_09"]], "unknown tiles: 09_09"),
        ([["00_00"], ["00_01"], ["01_00", "01_01"]], "3 folds, and folds is 2"),
        ([["00_00"], []], "must read as"),
    ],
)
def test_folds_that_do_not_share_out_the_tiles_are_refused(make_dataset, tmp_path, folds, said):
    write_folds(tmp_path / "folds.yaml", folds)
    with pytest.raises(ConfigError, match=said):
        settle_folds(tmp_path / "folds.yaml", open_labelled_tiles(_config(make_dataset()).data), 2, seed=0)


def test_a_check_of_folds_tells_of_each_and_writes_nothing(make_dataset, tmp_path, capsys):
    root = make_dataset(grid=(2, 3))
    config = _config(root, recipe="tiny", folds=2, output=str(tmp_path / "runs"))
    config.data.buffer_px = 16
    folder = _folder(tmp_path, config)
    arguments = ["--config", str(folder.config_path), "--check"]
    # 01_02 is held out with tiles that it does not touch.
    write_folds(folder.path / "folds.yaml", [["00_00", "00_01", "01_02"], ["00_02", "01_00", "01_01"]])
    earlier = RunFolder(tmp_path / "runs" / "1" / "fold-1")
    earlier.path.mkdir(parents=True)
    for path in (earlier.path, earlier.path.parent):
        save_config(config, path / "run.yaml")
        RunFolder(path).append_event("start", config=config.model_dump(mode="json"))
    earlier.append_event("epoch", epoch=1, seconds=300.0)
    before = sorted(path for path in tmp_path.rglob("*"))
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(path for path in tmp_path.rglob("*")) == before
    (second,) = (number for number, line in enumerate(lines) if line.startswith("fold 2 "))
    assert lines[second].startswith("fold 2     3 tiles validate (00_02, 01_00, 01_01), 3 train, ")
    # Of 00_00 the lower 16 of 64 px are near a held-out tile, of its neighbours the right or left ones, too.
    left = {"00_00": np.s_[:48, :64], "00_01": np.s_[:48, :48], "01_02": np.s_[16:, 16:]}
    codes, lost = [], 0
    for tile_id, part in left.items():
        mask_HW = read_mask_codes(root / "label" / f"mask_{tile_id}.tif")
        valid_HW = np.ones_like(mask_HW, dtype=bool)
        valid_HW[:10, :12] = tile_id != "00_00"
        codes.append(mask_HW[part][valid_HW[part]])
        lost += int(valid_HW.sum()) - codes[-1].size
    codes = np.concatenate(codes)
    assert lines[second].endswith(f"{lost / (lost + codes.size):.1%} of their pixels in the buffer")
    names = ("background", "glacier", "debris", "lake")
    shares = [f"{name} {np.mean(codes == code):6.2%}" for name, code in zip(names, (0, 85, 170, 255), strict=True)]
    assert lines[second + 1].split(maxsplit=1) == ["train", "  ".join(shares)]
    assert "Fold 1 of 2 in full" in lines[second + 4]
    time = "time       about 10 min for 2 models of 1 epochs at most, one after another, by the pace of 1/fold-1"
    assert time in lines
    # What one fold alone lacks is told before hours of training.
    assert main([*arguments, "--set", "data.buffer_px=64"]) == 2
    assert capsys.readouterr().err.startswith("Fold 1 of 2 cannot be trained: Every training pixel lies within 64 px")
    assert main([*arguments, "--set", "data.val_tiles=[00_00]"]) == 2
    assert "Leave data.val_tiles out" in capsys.readouterr().err


def _sample(truth, probabilities_KN, valid=None) -> PixelSample:
    sample = PixelSample(len(probabilities_KN), truth.size)
    sample.add(probabilities_KN[:, None], truth[None], np.ones((1, truth.size), bool) if valid is None else valid[None])
    return sample


def test_masks_out_of_fold_are_tiffs_where_the_tiles_are_pictures(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / "salt" / folder).mkdir(parents=True)
    names = ["a1", "b2", "c3", "d4"]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (40, 50)).astype("u1")).save(tmp_path / "salt/images" / f"{name}.png")
        Image.fromarray((rng.random((40, 50)) > 0.5) * np.uint8(255)).save(tmp_path / "salt/masks" / f"{name}.png")
    labelled = open_labelled_tiles(_config("", data={"train": tmp_path / "salt", "channels": ["grey"]}).data)
    arguments = {"encoder": "tu-mobilenetv3_small_050", **TINY["model"]["arguments"]}
    torch.manual_seed(0)
    card = ModelCard(
        name="tiny",
        architecture="unet",
        arguments=arguments,
        channels=("grey",),
        normalisation=Normalisation((128.0,), (70.0,)),
        scheme=labelled.scheme,
    )
    checkpoint = tmp_path / "tiny.safetensors"
    save_checkpoint(checkpoint, build_model("unet", channels=("grey",), num_classes=2, **arguments), card)
    folds = [[t.id for t in labelled.tiles.tiles[part]] for part in (slice(2), slice(2, 4))]
    run = tmp_path / "run"
    scores = score_folds(run, labelled, folds, [checkpoint] * 2, Scoring("cpu", "fp32", lambda: False))
    assert scores is not None
    assert sorted(path.name for path in (run / "oof").iterdir() if path.suffix != ".xml") == [
        f"{name}.tif" for name in names
    ]
    true_N = np.concatenate([np.asarray(Image.open(tmp_path / "salt/masks" / f"{n}.png")).ravel() > 0 for n in names])
    written_N = np.concatenate([read_mask_codes(run / "oof" / f"{name}.tif").ravel() for name in names])
    assert set(np.unique(written_N)) == {0, 255}
    assert scores["all_pixels"]["mcc"] == pytest.approx(matthews_corrcoef(true_N, written_N > 0), abs=1e-9)


def test_a_class_that_is_shy_gets_a_threshold_that_raises_the_score():
    rng = np.random.default_rng(0)
    truth = rng.choice(4, 4000, p=[0.5, 0.3, 0.1, 0.1]).astype(np.uint8)
    probabilities_KN = np.full((4, 4000), 0.02) + 0.7 * (truth == np.arange(4)[:, None])
    lake = truth == 3
    probabilities_KN[:, lake] = np.array([[0.5], [0.1], [0.1], [0.3]])  # a lake is never the most probable class
    probabilities_KN = (probabilities_KN / probabilities_KN.sum(0)).astype(np.float32)
    found = find_thresholds(_sample(truth, probabilities_KN), get_scheme("glacier4"))
    assert set(found.values) == {"lake"}
    predicted = classify(probabilities_KN[:, None], {3: found.values["lake"]})[0]
    assert found.mcc == pytest.approx(matthews_corrcoef(truth, predicted), abs=1e-9) == pytest.approx(1.0)
    plain = matthews_corrcoef(truth, probabilities_KN.argmax(0))
    assert found.mcc_without == pytest.approx(plain, abs=1e-9)
    assert found.mcc > plain + 0.05


def test_no_threshold_is_kept_where_none_helps_and_nodata_counts_as_background():
    rng = np.random.default_rng(1)
    truth = rng.choice(4, 3000).astype(np.uint8)
    probabilities_KN = (0.1 + 0.6 * (truth == np.arange(4)[:, None])).astype(np.float32)
    probabilities_KN[:, :100] = probabilities_KN[:, 100:200]  # some mistakes that no threshold mends
    valid = rng.random(3000) > 0.2
    found = find_thresholds(_sample(truth, probabilities_KN, valid), get_scheme("glacier4"))
    assert found.values == {}
    predicted = np.where(valid, probabilities_KN.argmax(0), 0)
    assert found.mcc == found.mcc_without == pytest.approx(matthews_corrcoef(truth, predicted), abs=1e-9)
    assert found.pixels == valid.sum()
