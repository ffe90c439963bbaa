import json
import pickle
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from napari_glacier.core.errors import CheckpointError
from napari_glacier.nn.checkpoint import (
    FORMAT_VERSION,
    METADATA_KEY,
    ModelCard,
    is_foreign,
    load_checkpoint,
    read_card,
    save_checkpoint,
)
from napari_glacier.nn.weights import load_foreign_state_dict, load_matching
from napari_glacier.nn.zoo import build_model

ARGUMENTS = {"encoder": "tu-mobilenetv3_small_050", "decoder_channels": [32, 24, 16, 16, 16], "dropout": 0.1}


@pytest.fixture
def card(make_card) -> ModelCard:
    return make_card(arguments=ARGUMENTS, metrics={"val_mcc": 0.5}, epoch=3, recipe="smoke", synthetic=True)


@pytest.fixture
def model(card):
    torch.manual_seed(0)
    return build_model(card.architecture, channels=card.channels, num_classes=4, **card.arguments)


def _rewrite_metadata(path, change) -> None:
    with safe_open(path, framework="pt") as file:
        values = json.loads(file.metadata()[METADATA_KEY])
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    change(values)
    save_file(state, path, metadata={METADATA_KEY: json.dumps(values)})


def test_round_trip_is_exact(tmp_path, model, card) -> None:
    path = tmp_path / "deep" / "model.safetensors"
    save_checkpoint(path, model, card)
    loaded = load_checkpoint(path)
    assert loaded.card == card == read_card(path)
    assert loaded.path == path
    assert not loaded.model.training
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], value), key
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]


def test_half_halves_the_file_and_loads_as_float32(tmp_path, model, card) -> None:
    with torch.no_grad():
        model.decoder.blocks[0].conv1[1].running_var.fill_(1e6)  # outside float16
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    save_checkpoint(full, model, card)
    save_checkpoint(half, model, card, half=True)
    assert half.stat().st_size < 0.62 * full.stat().st_size
    loaded = load_checkpoint(half).model
    for key, value in model.state_dict().items():
        stored = loaded.state_dict()[key]
        assert stored.dtype == value.dtype
        torch.testing.assert_close(stored, value, rtol=1e-3, atol=1e-6)
    x = torch.randn(1, 5, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), model.eval()(x), rtol=0.05, atol=0.02)


def test_pretrained_weights_are_not_looked_for_again(tmp_path, model, card) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model, replace(card, arguments={**ARGUMENTS, "encoder_weights": "/gone/weights.pth"}))
    load_checkpoint(path)


def test_a_failed_save_leaves_the_old_file(tmp_path, model, card, monkeypatch) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model, card)
    before = path.read_bytes()

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("napari_glacier.nn.checkpoint.save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, model, card)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


class _Evil:
    def __reduce__(self):
        return (print, ("this must never run",))


@pytest.mark.parametrize("writer", ["pickle", "torch.save"])
def test_a_pickle_is_refused_whatever_its_name(tmp_path, capsys, writer: str) -> None:
    path = tmp_path / "model.safetensors"
    if writer == "pickle":
        path.write_bytes(pickle.dumps(_Evil()))
    else:
        torch.save({"a": _Evil()}, path)
    for read in (load_checkpoint, read_card):
        with pytest.raises(CheckpointError, match="is a pickle"):
            read(path)
    with pytest.raises(CheckpointError, match="foreign code"):
        load_foreign_state_dict(path)
    assert "never" not in capsys.readouterr().out


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path) -> None:
    header = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(0x0480)
    path = tmp_path / "odd.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<f", 2.5))
    assert path.read_bytes()[:2] == b"\x80\x04"  # as a pickle of protocol 4 begins
    assert load_foreign_state_dict(path)["x"].tolist() == [2.5]


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, -1])
def test_a_file_cut_short_is_refused(tmp_path, model, card, keep: float) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model, card)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if 0 < keep < 1 else keep])
    for read in (load_checkpoint, read_card):
        with pytest.raises(CheckpointError, match=r"cut short|not a model file"):
            read(path)


def test_foreign_files_are_named(tmp_path) -> None:
    foreign, text = tmp_path / "foreign.safetensors", tmp_path / "text.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    text.write_text("not a model at all, only some text")
    with pytest.raises(CheckpointError, match="another program"):
        load_checkpoint(foreign)
    with pytest.raises(CheckpointError, match="not a model file"):
        load_checkpoint(text)
    with pytest.raises(CheckpointError, match="no model file"):
        load_checkpoint(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda v: v.update(version=FORMAT_VERSION + 1), "newer napari-glacier"),
        (lambda v: v.update(architecture="hypernet"), "architecture 'hypernet'"),
        (lambda v: v.pop("scheme"), "lacks scheme"),
        (lambda v: v.update(channels=["B2", "B99"]), "damaged.*B99"),
        (lambda v: v["normalisation"]["mean"].pop(), "5 channels, but 4 means"),
        (lambda v: v["scheme"].pop("codes"), "damaged.*codes"),
        (lambda v: v.update(normalisation=None), "damaged"),
        (lambda v: v["scheme"]["class_names"].pop(), "do not fit the architecture"),
        (lambda v: v["arguments"].update(encoder="resnet18"), "do not fit the architecture"),
    ],
)
def test_metadata_are_checked(tmp_path, model, card, change, match: str) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model, card)
    _rewrite_metadata(path, change)
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(path)


def test_a_card_that_cannot_be_written_is_refused(tmp_path, model, card) -> None:
    with pytest.raises(CheckpointError, match="JSON"):
        save_checkpoint(tmp_path / "m.safetensors", model, replace(card, metrics={"val_mcc": np.float32(1)}))
    with pytest.raises(CheckpointError, match="JSON"):
        save_checkpoint(tmp_path / "m.safetensors", model, replace(card, metrics={"val_mcc": float("nan")}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("under", [None, "model_state_dict", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "module._orig_mod.", "module.module."])
def test_plain_state_dicts_load(tmp_path, model, under: str | None, prefix: str) -> None:
    state = {f"{prefix}{key}": value for key, value in model.state_dict().items()}
    path = tmp_path / "weights.pth"
    torch.save({under: state, "epoch": 3} if under else state, path)
    loaded = load_foreign_state_dict(path)
    assert loaded.keys() == model.state_dict().keys()
    other = build_model("ba_unet", channels=5, num_classes=2, **ARGUMENTS)
    left_out = load_matching(other, loaded)
    assert left_out == ("segmentation_head.0.weight", "segmentation_head.0.bias")
    assert torch.equal(other.decoder.blocks[0].conv1[0].weight, model.decoder.blocks[0].conv1[0].weight)


def test_unusable_weight_files_are_refused(tmp_path) -> None:
    numbers, text = tmp_path / "numbers.pth", tmp_path / "model.h5"
    torch.save({"epoch": 3}, numbers)
    text.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    words = tmp_path / "words.pth"
    words.write_text("in words")
    with pytest.raises(CheckpointError, match="no state dict"):
        load_foreign_state_dict(numbers)
    for other in (text, words):
        with pytest.raises(CheckpointError, match="no weight file that torch"):
            load_foreign_state_dict(other)
    with pytest.raises(CheckpointError, match="another architecture"):
        load_matching(build_model("ba_unet", channels=5, num_classes=2, **ARGUMENTS), {"x": torch.zeros(2)})


def test_the_validation_tiles_are_told_where_they_are_known(tmp_path, model, card) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model, replace(card, val_tiles=("02_07", "val/1")))
    assert read_card(path).val_tiles == ("02_07", "val/1")
    _rewrite_metadata(path, lambda values: values.pop("val_tiles"))  # as older versions wrote it
    assert read_card(path).val_tiles == ()


def test_weights_of_another_program_are_told_apart(tmp_path, model, card) -> None:
    save_checkpoint(tmp_path / "ours.safetensors", model, card)
    save_file(model.state_dict(), tmp_path / "theirs.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"none of both")
    found = {path.stem: is_foreign(path) for path in tmp_path.iterdir()}
    assert found == {"ours": False, "theirs": True, "broken": False}
