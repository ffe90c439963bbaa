"""Composing an ensemble: weights fitted on tiles that no model has learnt from."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from napari_glacier.cli import main
from napari_glacier.core.channels import Normalisation
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.data.seen_tiles import tile_fingerprint
from napari_glacier.core.errors import ConfigError, DataError
from napari_glacier.core.models.promotion import ModelFiles
from napari_glacier.nn.ensemble import Ensemble, resolve_models
from napari_glacier.nn.weighing import compose, fit_weights

SCALE = Normalisation((20_000.0,) * 5, (9_000.0,) * 5)


class Brightness(nn.Module):
    """Tells the four classes of the small data sets from their brightness, or is wrong by a class."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.centres = nn.Parameter((torch.linspace(8000, 40000, 4) + shift - 20_000) / 9_000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -4 * (x[:, :1] - self.centres[None, :, None, None]) ** 2


def _finish(run):
    while True:
        try:
            next(run)
        except StopIteration as end:
            return end.value


@pytest.fixture
def dataset(make_dataset):
    return open_dataset(make_dataset())


def test_the_better_model_gets_the_weight(dataset, make_member):
    right = Ensemble([make_member(network=Brightness(0), normalisation=SCALE, seen_tiles=("x",))], name="right")
    wrong = Ensemble([make_member(network=Brightness(11_000), normalisation=SCALE, seen_tiles=("x",))], name="wrong")
    found = _finish(fit_weights(dataset, {"wrong": wrong, "right": right}, device="cpu"))
    assert found.weights["right"] > 0.9
    assert sum(found.weights.values()) == pytest.approx(1)
    assert found.log_loss < found.log_loss_equal
    assert found.mcc >= found.mcc_equal
    assert found.pixels == 4 * 64 * 64 - 10 * 12
    assert found.warnings == ()


def test_tiles_that_a_model_knows_are_not_fitted_on(dataset, make_member):
    prints = [tile_fingerprint(dataset, tile, ("B2",)) for tile in dataset.tiles]
    first = Ensemble([make_member(seen_tiles=tuple(prints[:3]))])
    second = Ensemble([make_member(seed=1, seen_tiles=("elsewhere",))])
    assert _finish(fit_weights(dataset, {"a": first, "b": second}, device="cpu")).tiles == (dataset.tiles[3].id,)
    knows_all = Ensemble([make_member(seen_tiles=tuple(prints))])
    with pytest.raises(DataError, match="learnt from tiles"):
        _finish(fit_weights(dataset, {"a": knows_all, "b": second}, device="cpu"))


def test_what_cannot_be_mixed_is_said(dataset, make_member):
    one = Ensemble([make_member()])
    with pytest.raises(ConfigError, match="two models or more"):
        _finish(fit_weights(dataset, {"a": one}))
    logits = Ensemble([make_member(), make_member(seed=1)], average="logit")
    with pytest.raises(ConfigError, match="b averages logits"):
        _finish(fit_weights(dataset, {"a": one, "b": logits}))


def test_members_keep_their_weights_within_their_model():
    files = [
        ModelFiles("a", [(Path("a0"), 1.0), (Path("a1"), 3.0)], {"thresholds": {"lake": 0.4}}),
        ModelFiles("b", [(Path("b"), 7.0)]),
        ModelFiles("c", [(Path("c"), 1.0)]),
    ]
    made = compose(files, [0.4, 0.6, 0.0], "mix")
    assert made.members == [(Path("a0"), 0.1), (Path("a1"), 0.3), (Path("b"), 0.6)]
    assert made.settings == {}
    with pytest.raises(ConfigError, match="No model has a weight"):
        compose(files, [0, 0, 0], "mix")


def test_the_command_line_makes_an_ensemble_that_predicts(dataset, make_checkpoint, tmp_path, capsys):
    first, second = make_checkpoint("first"), make_checkpoint("second")
    arguments = ["ensemble", str(first), str(second), "--data", str(dataset.root), "--device", "cpu"]
    assert main([*arguments, "--name", "mix"]) == 0
    assert "the same pixels that the weights were fitted to" in capsys.readouterr().out
    made = resolve_models(dataset.root / "models" / "mix")
    assert made.name == "mix"
    assert np.isclose(sum(made.weights), 1)
    assert main([*arguments, "--name", "mix", "--equal"]) == 0
    assert resolve_models(dataset.root / "models" / "mix-2").weights == [0.5, 0.5]
    assert main(["ensemble", str(first), "--data", str(dataset.root), "--name", "alone"]) == 2
    assert main(["models", "--data", str(dataset.root)]) == 0
    printed = capsys.readouterr().out
    assert "mix-2" in printed
    assert "Bundled ensemble" in printed
