"""What lies on a dataset's shelf."""

import pytest
import yaml

from napari_glacier.core.errors import CheckpointError
from napari_glacier.core.models.promotion import ModelFiles, promote
from napari_glacier.core.models.shelf import find_models, read_card_facts
from napari_glacier.nn.checkpoint import load_checkpoint, read_card


def test_cards_read_without_torch_say_what_the_checkpoint_says(make_checkpoint):
    path = make_checkpoint("mine")
    card, facts = read_card(path), read_card_facts(path)
    assert (facts.name, facts.architecture, facts.channels) == (card.name, card.architecture, card.channels)
    assert facts.classes == card.scheme.class_names
    assert facts.created == card.created
    assert facts.size_mb == path.stat().st_size / 1e6
    assert facts.val_mcc is None


def test_the_shelf_lists_the_champion_first(make_dataset, make_checkpoint):
    root = make_dataset()
    path = make_checkpoint("mine")
    for name in ("1-old", "2-new"):
        folder = root / "runs" / name
        folder.mkdir(parents=True)
        (folder / "best.safetensors").write_bytes(path.read_bytes())
    folds = root / "runs" / "3-folds"
    (folds / "fold-1").mkdir(parents=True)
    (folds / "fold-1" / "best.safetensors").write_bytes(path.read_bytes())
    members = [{"path": "fold-1/best.safetensors", "weight": 1}, {"path": "../1-old/best.safetensors", "weight": 3}]
    (folds / "ensemble.yaml").write_text(yaml.safe_dump({"members": members}))
    (root / "runs" / "4-broken").mkdir()
    (root / "runs" / "4-broken" / "best.safetensors").write_bytes(b"cut")
    promote(root, ModelFiles("1-old", [(root / "runs" / "1-old" / "best.safetensors", 1.0)]))

    found = find_models(root, None)

    assert [(model.title, model.kind) for model in found] == [
        ("1-old", "champion"), ("4-broken", "run"), ("3-folds", "run"), ("2-new", "run"), ("1-old", "run")
    ]  # fmt: skip
    assert [weight for _, weight in found[2].members] == [0.25, 0.75]
    assert found[2].size_mb == pytest.approx(2 * path.stat().st_size / 1e6)
    assert "no checkpoint" in found[1].problem
    for model in found:
        if not model.problem:
            assert load_checkpoint(path).card.name == model.members[0][0].name


@pytest.mark.parametrize("content", [b"", b"\x08" + b"\x00" * 7 + b"[1, 2]  ", b"\xff" * 20])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        read_card_facts(path)
