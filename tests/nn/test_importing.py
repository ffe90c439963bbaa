"""Weights of other programs, with their mapping said by a person."""

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file

from napari_glacier.cli import main
from napari_glacier.core.channels import Normalisation
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.errors import CheckpointError
from napari_glacier.core.models.shelf import find_models
from napari_glacier.nn.checkpoint import load_checkpoint
from napari_glacier.nn.importing import Wanted, examine, import_weights, outline, statistics_of

ENCODER = "tu-mobilenetv3_small_050"
DECODER = (16, 16, 16, 16, 16)
BANDS = ("B2", "B3", "B4", "B6", "B10")


@pytest.fixture
def foreign():
    torch.manual_seed(0)
    return smp.Unet(ENCODER, encoder_weights=None, in_channels=5, classes=4, decoder_channels=DECODER).eval()


@pytest.fixture
def weights(foreign, tmp_path):
    path = tmp_path / "theirs.pth"
    torch.save({"model_state_dict": {f"net.inner.{k}": v for k, v in foreign.state_dict().items()}}, path)
    return path


def _wanted(channels=BANDS, scheme="glacier4", **renames):
    arguments = {"encoder": ENCODER, "decoder_channels": list(DECODER)}
    return Wanted("unet", channels, get_scheme(scheme), arguments, renames)


def test_imported_weights_compute_what_they_did(foreign, weights, tmp_path):
    out = tmp_path / "ours.safetensors"
    fit = import_weights(weights, _wanted(), Normalisation((1.0,) * 5, (2.0,) * 5), out, name="theirs")
    assert fit.is_whole
    assert fit.stripped == "net.inner."
    ours = load_checkpoint(out)
    assert ours.card.recipe == "imported"
    assert "theirs.pth" in ours.card.training_data
    x = torch.randn(1, 5, 64, 64)
    with torch.no_grad():
        assert torch.allclose(ours.model(x), foreign(x), atol=1e-5)


def test_what_does_not_fit_is_named(foreign, weights, tmp_path):
    fit = examine(weights, _wanted(channels=BANDS[:4], scheme="glacier2"))
    assert not fit.is_whole
    assert len(fit.reshaped) == 3
    assert any("(16, 5, 3, 3) for (16, 4, 3, 3)" in name for name in fit.reshaped)
    state = foreign.state_dict()
    first = next(iter(state))
    state["extra"] = state.pop(first)
    other = tmp_path / "other.pth"
    torch.save(state, other)
    fit = examine(other, _wanted())
    assert fit.missing == (first,)
    assert fit.unused == ("extra",)
    with pytest.raises(CheckpointError, match=r"Missing in the file \(1\)"):
        import_weights(other, _wanted(), Normalisation((0.0,) * 5, (1.0,) * 5), tmp_path / "x.safetensors", name="x")
    assert not (tmp_path / "x.safetensors").exists()
    assert examine(other, Wanted(**{**_fields(_wanted()), "renames": {"extra": first}})).is_whole


def _fields(wanted):
    return {name: getattr(wanted, name) for name in wanted.__slots__}


def test_a_file_tells_what_it_can(weights):
    said = outline(weights)
    assert any("5 channels in" in text for text in said)
    assert any("4 outputs" in text for text in said)


def test_tensors_in_the_order_of_the_alphabet_tell_the_same(foreign, weights, tmp_path):
    plain = outline(weights)
    state = {key: value.contiguous() for key, value in foreign.state_dict().items()}
    save_file(state, tmp_path / "sorted.safetensors")
    said = outline(tmp_path / "sorted.safetensors")
    expected = [text.replace("net.inner.", "") for text in plain[1:3]]
    assert [text.replace(" (likely)", "") for text in said[1:3]] == expected


def test_a_pickle_with_code_is_refused(tmp_path):
    path = tmp_path / "evil.pth"
    torch.save(torch.nn.Conv2d(1, 1, 1), path)
    with pytest.raises(CheckpointError, match="refused"):
        outline(path)


def test_statistics_are_those_of_the_valid_pixels(make_dataset):
    dataset = open_dataset(make_dataset())
    found = statistics_of(dataset, ("B3", "NDSI"))
    green, swir = [], []
    for tile in dataset.tiles:
        image, valid = dataset.read(tile, ("B3", "B6"))
        green.append(image[0][valid])
        swir.append(image[1][valid])
    green, swir = np.concatenate(green).astype(np.float64), np.concatenate(swir).astype(np.float64)
    ndsi = (green - swir) / (green + swir)
    np.testing.assert_allclose(found.mean, [green.mean(), ndsi.mean()], rtol=1e-5)
    np.testing.assert_allclose(found.std, [green.std(), ndsi.std()], rtol=1e-4)


def test_the_command_line_guides_and_imports(weights, make_dataset, capsys):
    root = make_dataset()
    usual = ["import", str(weights), "--data", str(root)]
    assert main(usual) == 0
    assert "Name the network with --architecture" in capsys.readouterr().out
    network = ["--architecture", "unet", "--encoder", ENCODER, "--argument", f"decoder_channels={list(DECODER)}"]
    assert main([*usual, *network, "--check", "--classes", "glacier2"]) == 2
    assert "Of another shape (2)" in capsys.readouterr().out
    assert main([*usual, *network, "--mean", "1", "2"]) == 2
    assert main([*usual, *network, "--name", "theirs"]) == 0
    (model,) = [model for model in find_models(root, None) if model.kind == "imported"]
    assert model.title == "theirs"
    (card, weight) = model.members[0]
    assert (card.architecture, card.encoder, card.channels, weight) == ("unet", ENCODER, BANDS, 1.0)
    assert not list((root / "models").glob(".importing-*"))
    assert main(["predict", "--data", str(root), "--out", str(root.parent / "out"), "--model", str(model.source),
                 "--tta", "off", "--device", "cpu"]) == 0  # fmt: skip
