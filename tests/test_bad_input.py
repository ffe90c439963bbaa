"""Bad input ends with one clear sentence and exit code 2, and nothing is written."""

import pickle
import shutil

import numpy as np
import pytest

from napari_glacier.cli import main
from napari_glacier.core.raster import read_raster, write_raster


def _truncate(root):
    path = root / "Band2" / "B3_01_01.tif"
    path.write_bytes(path.read_bytes()[:1500])


def _shrink_band(root):
    path = root / "Band4" / "B6_00_01.tif"
    write_raster(path, read_raster(path)[0, :32, :32])


def _rename_bands(root):
    for number, folder in enumerate(sorted(root.glob("Band*"))):
        for file in folder.iterdir():
            file.rename(folder / f"{'abcde'[number]}.{file.stem[-1]}{file.stem[-4]}x.tif")


def _unknown_value(root):
    write_raster(root / "label" / "mask_00_00.tif", np.full((64, 64), 77, "u1"))


def _empty(root):
    shutil.rmtree(root)
    root.mkdir()


def _text(root):
    (root / "Band1" / "B2_00_00.tif").write_text("these are words")


BAD_DATA = {
    "a truncated TIFF": (_truncate, "B3_01_01.tif is cut short"),
    "a band of another size": (_shrink_band, "Band B6 of tile 00_01 is 32 x 32"),
    "bands that do not pair": (_rename_bands, "nothing in common|belong to no tile"),
    "an unknown mask value": (_unknown_value, "77"),
    "an empty folder": (_empty, "No tiles were found"),
    "a text file named .tif": (_text, "B2_00_00.tif is not a TIFF image"),
}
OF_ONE_TILE = {_truncate: "01_01", _shrink_band: "00_01", _text: "00_00"}


@pytest.mark.parametrize("name", BAD_DATA)
@pytest.mark.parametrize("command", ["predict", "doctor"])
def test_bad_data_are_refused_with_a_sentence(make_dataset, tmp_path, capsys, name, command):
    spoil, message = BAD_DATA[name]
    root = make_dataset()
    spoil(root)
    out = tmp_path / "out"
    arguments = {"predict": ["predict", "--data", str(root), "--out", str(out)], "doctor": ["doctor", str(root)]}
    # What concerns one tile does not keep the others from being mapped (tests/nn/test_batch.py): it is refused where
    # there is no other.
    if command == "predict" and spoil in OF_ONE_TILE:
        for path in root.rglob("*.tif"):
            if OF_ONE_TILE[spoil] not in path.name:
                path.unlink()
    assert main(arguments[command]) == 2
    captured = capsys.readouterr()
    said = captured.err if command == "predict" else captured.out
    assert any(part in said for part in message.split("|")), said
    assert "Traceback" not in said
    assert not out.exists()


def _pickle_as_checkpoint(path):
    path.write_bytes(pickle.dumps({"weights": [1, 2, 3]}))


def _half_a_checkpoint(path):
    path.write_bytes((200).to_bytes(8, "little") + b'{"a": {"dtype": "F32"')


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("make", [_pickle_as_checkpoint, _half_a_checkpoint])
def test_what_is_no_checkpoint_is_refused_and_never_unpickled(make_dataset, tmp_path, capsys, make, suffix):
    model, out = tmp_path / f"model{suffix}", tmp_path / "out"
    make(model)
    arguments = ["predict", "--data", str(make_dataset()), "--out", str(out), "--model", str(model), "--device", "cpu"]
    assert main(arguments) == 2
    assert str(model) in capsys.readouterr().err
    assert not out.exists()


def test_predictions_are_never_written_over_labels_or_bands(make_dataset, capsys):
    root = make_dataset()
    before = {path: path.read_bytes() for path in root.rglob("*.tif")}
    for folder in ("label", "Band1"):
        arguments = ["predict", "--data", str(root), "--out", str(root / folder), "--tta", "off", "--device", "cpu"]
        assert main(arguments) == 2
        assert str(root / folder) in capsys.readouterr().err
    assert {path: path.read_bytes() for path in root.rglob("*.tif")} == before


def test_a_device_that_is_not_there_is_said(make_dataset, tmp_path, capsys):
    arguments = ["predict", "--data", str(make_dataset()), "--out", str(tmp_path / "out"), "--device", "cuda:7"]
    assert main(arguments) == 2
    assert "cuda" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["doctor", "report", "prepare"])
def test_a_file_in_the_place_of_a_folder_is_named_with_the_mend(make_dataset, tmp_path, capsys, command):
    root, place = str(make_dataset()), tmp_path / "taken"
    place.write_text("mine")
    arguments = {
        "doctor": ["doctor", root, "--json", str(place / "d.json")],
        "report": ["report", root, "--out", str(place)],
        "prepare": ["prepare", "tiles", root, "--outlines", str(tmp_path / "o.gpkg"), "--out", str(place)],
    }
    assert main(["outlines", root, "--out", str(tmp_path / "o.gpkg")]) == 0
    capsys.readouterr()
    assert main(arguments[command]) == 2
    said = capsys.readouterr().err
    assert str(place) in said
    assert said.count("\n") == 1
    assert "another" in said
    assert place.read_text() == "mine"
