from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import gmean

from napari_glacier.core.errors import CheckpointError, ConfigError
from napari_glacier.nn.checkpoint import save_checkpoint
from napari_glacier.nn.ensemble import Ensemble, combine, resolve_models
from napari_glacier.nn.predictor import Predictor
from napari_glacier.nn.zoo import build_model

ARGUMENTS = {"encoder": "tu-mobilenetv3_small_050", "decoder_channels": [16, 16, 16, 16, 16]}


@pytest.fixture
def make_checkpoint(make_card):
    def make(path: Path, name: str) -> Path:
        torch.manual_seed(len(name))
        model = build_model("ba_unet", channels=5, num_classes=4, **ARGUMENTS)
        save_checkpoint(path, model, replace(make_card(arguments=ARGUMENTS), name=name))
        return path

    return make


def _names(ensemble: Ensemble) -> list[str]:
    return [member.card.name for member in ensemble.members]


def test_files_runs_and_folders(tmp_path, make_checkpoint) -> None:
    single = make_checkpoint(tmp_path / "models" / "a.safetensors", "a")
    make_checkpoint(tmp_path / "models" / "b.safetensors", "b")
    make_checkpoint(tmp_path / "runs" / "one" / "best.safetensors", "one-best")
    make_checkpoint(tmp_path / "runs" / "one" / "last.safetensors", "one-last")
    make_checkpoint(tmp_path / "runs" / "two" / "best.safetensors", "two-best")
    assert _names(resolve_models(single)) == ["a"]
    assert resolve_models([str(single)]).name == "a"
    assert _names(resolve_models([tmp_path / "models"])) == ["a", "b"]
    assert resolve_models([tmp_path / "models"]).name == "models"
    assert _names(resolve_models([tmp_path / "runs" / "one"])) == ["one-best"]
    assert _names(resolve_models([tmp_path / "runs"])) == ["one-best", "two-best"]
    mixed = resolve_models([single, tmp_path / "runs"])
    assert _names(mixed) == ["a", "one-best", "two-best"]
    assert mixed.weights == pytest.approx([0.5, 0.25, 0.25])


def test_ensemble_file(tmp_path, make_checkpoint) -> None:
    make_checkpoint(tmp_path / "a.safetensors", "a")
    make_checkpoint(tmp_path / "b.safetensors", "b")
    file = tmp_path / "ensemble.yaml"
    file.write_text("name: both\nmembers:\n  - {path: b.safetensors, weight: 3}\n  - {path: a.safetensors}\n")
    for name in (file, tmp_path):
        ensemble = resolve_models([name])
        assert _names(ensemble) == ["b", "a"]
        assert ensemble.weights == pytest.approx([0.75, 0.25])
        assert ensemble.name == "both"


def test_thresholds_of_an_ensemble_file_hold_for_that_ensemble_alone(tmp_path, make_checkpoint) -> None:
    make_checkpoint(tmp_path / "a.safetensors", "a")
    file = tmp_path / "ensemble.yaml"
    file.write_text("members: [{path: a.safetensors}]\nthresholds: {lake: 0.3, debris: 0.45}\n")
    assert resolve_models(file).thresholds == {"lake": 0.3, "debris": 0.45}
    assert resolve_models([file, tmp_path / "a.safetensors"]).thresholds == {}
    assert resolve_models(tmp_path / "a.safetensors").thresholds == {}
    for text in ("[0.3]", "{lake: high}", "{lake: true}"):
        file.write_text(f"members: [{{path: a.safetensors}}]\nthresholds: {text}\n")
        with pytest.raises(ConfigError, match="must read as"):
            resolve_models(file)
    for text, said in (("{background: 0.3}", "background"), ("{lake: 1.5}", "between 0 and 1")):
        file.write_text(f"members: [{{path: a.safetensors}}]\nthresholds: {text}\n")
        with pytest.raises(ConfigError, match=said):
            resolve_models(file)


def test_a_predictor_takes_the_ensembles_thresholds_unless_told_others(make_member) -> None:
    ensemble = Ensemble([make_member()], thresholds={"lake": 0.3})
    used = [
        Predictor(ensemble, device="cpu", **o)._thresholds
        for o in ({}, {"thresholds": {}}, {"thresholds": {"debris": 0.6}})
    ]
    assert used == [{3: 0.3}, {}, {2: 0.6}]


@pytest.mark.parametrize(
    "text", ["", "members: []", "members: [a.safetensors]", "members: [{path: a, weight: -1}]", "{", "[1, 2]"]
)
def test_wrong_ensemble_files(tmp_path, text: str) -> None:
    file = tmp_path / "ensemble.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="must read as"):
        resolve_models([file])


def test_absent_models(tmp_path, monkeypatch) -> None:
    with pytest.raises(CheckpointError, match="no model nowhere"):
        resolve_models(["nowhere"])
    with pytest.raises(CheckpointError, match="holds no"):
        resolve_models([tmp_path])
    # An unset variable of the shell, in a folder that is a run.
    (tmp_path / "best.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="name of a model is empty"):
        resolve_models([""])


def test_members_must_know_the_same_classes(make_member) -> None:
    with pytest.raises(ConfigError, match="same classes"):
        Ensemble([make_member(), make_member(scheme="glacier2")])
    Ensemble([make_member(), make_member(scheme="glacier4-index")])  # other codes, same classes


def test_weights_and_channels(make_member) -> None:
    members = [make_member(channels=("B4", "B2")), make_member(channels=("B2", "valid", "NDSI"))]
    ensemble = Ensemble(members, [2, 6])
    assert ensemble.weights == [0.25, 0.75]
    assert ensemble.channels == ("B2", "B4", "valid", "NDSI")
    for weights in ([1], [-1, 2], [0, 0], [1, float("nan")]):
        with pytest.raises(ConfigError, match="weights"):
            Ensemble(members, weights)
    with pytest.raises(ConfigError, match="at least one"):
        Ensemble([])


def test_half_written_models_are_passed_over(tmp_path, make_checkpoint) -> None:
    make_checkpoint(tmp_path / "a.safetensors", "a")
    (tmp_path / ".a-x1y2z3.safetensors").write_bytes(b"half")  # as a process killed while it wrote leaves it
    assert _names(resolve_models([tmp_path])) == ["a"]


def test_average_and_views_of_an_ensemble_file(tmp_path, make_checkpoint) -> None:
    make_checkpoint(tmp_path / "a.safetensors", "a")
    file = tmp_path / "ensemble.yaml"
    member = "members: [{path: a.safetensors, weight: 2}]\n"
    file.write_text(member)
    plain = resolve_models(file)
    assert (plain.average, plain.tta, plain.scales) == ("probability", None, None)
    file.write_text(member + "average: logit\ntta: 8\nscales: [0.75, 1, 1.25]\n")
    ensemble = resolve_models(file)
    assert (ensemble.average, ensemble.tta, ensemble.scales) == ("logit", 8, (0.75, 1.0, 1.25))
    beside = resolve_models([file, tmp_path / "a.safetensors"])
    assert (beside.average, beside.tta, beside.scales) == ("probability", None, None)
    for text in ("off", "'off'", "false"):  # the first is YAML for the last
        file.write_text(f"{member}tta: {text}\n")
        assert resolve_models(file).tta == "off"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("average: median", "probability or logit"),
        ("average: [logit]", "probability or logit"),
        ("tta: 3", "off, 2, 6 or 8"),
        ("tta: true", "off, 2, 6 or 8"),
        ("scales: 0.75", r"form \[0.75, 1, 1.25\]"),
        ("scales: [0.75, 0]", "different numbers"),
        ("scales: []", "different numbers"),
        ("averaging: logit", "averaging is not known there. Known are name, members, thresholds, average, tta, scales"),
    ],
)
def test_wrong_settings_of_an_ensemble_file_name_it(tmp_path, text: str, said: str) -> None:
    file = tmp_path / "ensemble.yaml"
    file.write_text(f"members: [{{path: a.safetensors}}]\n{text}\n")
    with pytest.raises(ConfigError, match=said) as raised:
        resolve_models(file)
    assert str(file) in str(raised.value)
    file.write_text("members: [{path: a.safetensors, wieght: 2}]\n")
    with pytest.raises(ConfigError, match=r"a.safetensors; wieght is not known there. Known are path, weight\."):
        resolve_models(file)


def test_ensembles_check_their_settings(make_member) -> None:
    member = make_member()
    ensemble = Ensemble([member], average="logit", tta="off", scales=[1, 0.75])
    assert (ensemble.average, ensemble.tta, ensemble.scales) == ("logit", "off", (1.0, 0.75))
    for wrong in ({"average": "sum"}, {"tta": 5}, {"scales": [1, 1]}):
        with pytest.raises(ConfigError):
            Ensemble([member], **wrong)


def test_combining_against_scipy() -> None:
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(3, 4, 5, 7))
    members, weights = softmax(logits, axis=1), np.array([0.5, 0.3, 0.2])
    given = torch.from_numpy(members).float()
    linear = combine(given, weights.tolist(), "probability")
    np.testing.assert_allclose(linear, np.average(members, axis=0, weights=weights), atol=1e-6)
    assert torch.equal(combine(given, torch.from_numpy(weights)), linear)
    geometric = gmean(members, axis=0, weights=weights[:, None, None, None])
    ours = combine(given, weights.tolist(), "logit")
    np.testing.assert_allclose(ours, geometric / geometric.sum(0), atol=1e-6)
    np.testing.assert_allclose(ours, softmax(np.tensordot(weights, logits, 1), axis=0), atol=1e-6)
    assert not torch.allclose(ours, linear, atol=1e-2)
    for average in ("probability", "logit"):
        torch.testing.assert_close(combine(given[:1], [1.0], average), given[0])
        torch.testing.assert_close(combine(given, [0, 1, 0], average), given[1])


def test_combining_members_that_exclude_each_other() -> None:
    sure = torch.zeros(2, 3, 1, 2)
    sure[0, 0] = sure[1, 1] = 1
    ours = combine(sure, [0.5, 0.5], "logit")
    torch.testing.assert_close(ours[:, 0, 0], torch.tensor([0.5, 0.5, 0.0]))
    torch.testing.assert_close(combine(sure, [1.0, 0.0], "logit"), sure[0])
    with pytest.raises(ConfigError, match="probability or logit"):
        combine(sure, [0.5, 0.5], "median")
