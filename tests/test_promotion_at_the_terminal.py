"""`promote`, `rollback`, and what `predict` then works with."""

import io
import json

import pytest

from napari_glacier.cli import main
from napari_glacier.core.models.promotion import read_history


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def answer(monkeypatch):
    def answer(text):
        monkeypatch.setattr("sys.stdin", io.StringIO() if text is None else _Terminal(text + "\n"))

    return answer


def _predicted_with(out):
    return json.loads((out / "provenance.jsonl").read_text().splitlines()[-1])["provenance"]["ensemble"]


def test_a_person_promotes_and_predict_follows(make_dataset, make_checkpoint, tmp_path, answer, capsys):
    root, model = make_dataset(), make_checkpoint("mine")
    promote = ["promote", str(model), "--data", str(root), "--device", "cpu", "--draws", "50"]
    answer(None)
    assert main(promote) == 2
    assert "a person's decision" in capsys.readouterr().err
    answer("no")
    assert main(promote) == 1
    assert "Nothing was changed" in capsys.readouterr().out
    assert read_history(root) == []

    answer("y")
    assert main(promote) == 0
    assert "Warning: The challenger is worse" in capsys.readouterr().out
    (entry,) = read_history(root)
    assert entry.comparison["champion"]["name"] == "bundled (synthetic)"
    assert entry.comparison["num_tiles"] == 4

    predict = ["predict", "--data", str(root), "--tta", "off", "--device", "cpu"]
    assert main([*predict, "--out", str(tmp_path / "a")]) == 0
    assert "Mapped with mine, which was promoted" in capsys.readouterr().err
    assert _predicted_with(tmp_path / "a") == "mine"
    assert main([*predict, "--out", str(tmp_path / "b"), "--model", "bundled"]) == 0
    assert _predicted_with(tmp_path / "b") == "bundled (synthetic)"

    answer("y")
    assert main(["promote", "bundled", *promote[2:]]) == 0
    assert "works with Bundled ensemble (bundled) now" in capsys.readouterr().out
    assert main(["promote", "bundled", *promote[2:]]) == 2
    assert "works with Bundled ensemble already" in capsys.readouterr().err
    assert main(["rollback", "--data", str(root)]) == 0
    assert capsys.readouterr().out.endswith("works with mine again.\n")
    assert main(["rollback", "--data", str(root)]) == 0
    assert "works with Bundled ensemble again" in capsys.readouterr().out
    assert main([*predict, "--out", str(tmp_path / "c")]) == 0
    assert _predicted_with(tmp_path / "c") == "bundled (synthetic)"
    assert main(["rollback", "--data", str(root)]) == 2


def test_figures_that_cannot_be_written_are_printed_all_the_same(make_dataset, make_checkpoint, tmp_path, capsys):
    (tmp_path / "taken").write_text("mine")
    one, other = make_checkpoint("one"), make_checkpoint("other")
    arguments = ["compare", str(one), str(other), "--data", str(make_dataset()), "--device", "cpu", "--draws", "50"]
    assert main([*arguments, "--json", str(tmp_path / "taken" / "figures.json")]) == 2
    said = capsys.readouterr()
    assert "labelled pixels change" in said.out
    assert "taken" in said.err


def test_without_tiles_to_compare_on_it_is_said(make_dataset, make_checkpoint, capsys):
    root, model = make_dataset(masks=False), make_checkpoint("mine")
    promote = ["promote", str(model), "--data", str(root), "--yes"]
    assert main(promote) == 2
    assert "has a mask to judge by" in capsys.readouterr().err
    assert main([*promote, "--without-comparison"]) == 0
    assert "nothing is known" in capsys.readouterr().out
    assert read_history(root)[0].comparison == {}
