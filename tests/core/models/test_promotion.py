"""Which model a dataset works with: a history to which lines are only added."""

import multiprocessing
import os

import pytest
import yaml

from napari_glacier.core.errors import DataError, SaveError
from napari_glacier.core.models.promotion import (
    HISTORY_FILE,
    ModelFiles,
    champion,
    changed_files,
    keep,
    promote,
    read_history,
    roll_back,
)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def make_model(tmp_path):
    def make(title, *contents, **settings):
        members = []
        for number, content in enumerate(contents or (title,)):
            path = tmp_path / f"{title}-{number}.safetensors"
            # Checkpoints are replaced and never written into.
            path.unlink(missing_ok=True)
            path.write_bytes(content.encode())
            members.append((path, 1.0 + number))
        return ModelFiles(title, members, settings)

    return make


def test_promotions_and_rollbacks_are_a_stack(root, make_model):
    assert champion(root).path is None
    promote(root, make_model("a"), {"num_tiles": 3, "all_pixels": [{"difference": -1.5e-7}]})
    promote(root, make_model("b"))
    assert champion(root).title == "b"
    assert roll_back(root).title == "a"
    promote(root, make_model("c"))
    assert [champion(root).title, roll_back(root).title, roll_back(root).title] == ["c", "a", "Bundled ensemble"]
    assert champion(root).path is None
    with pytest.raises(DataError, match="no promotion to roll back"):
        roll_back(root)
    actions = [(entry.action, entry.before, entry.after) for entry in read_history(root)]
    assert actions == [
        ("promote", "bundled", "models/a"),
        ("promote", "models/a", "models/b"),
        ("rollback", "models/b", "models/a"),
        ("promote", "models/a", "models/c"),
        ("rollback", "models/c", "models/a"),
        ("rollback", "models/a", "bundled"),
    ]
    assert read_history(root)[0].comparison["all_pixels"][0]["difference"] == -1.5e-7
    assert all(entry.who and entry.time.endswith("+00:00") for entry in read_history(root))


def test_the_champion_is_not_promoted_again(root, make_model):
    model = make_model("run", "first", "second", thresholds={"lake": 0.4})
    promote(root, model)
    with pytest.raises(DataError, match="works with run already; nothing was changed"):
        promote(root, model)
    assert len(read_history(root)) == 1
    assert [path.name for path in (root / "models").iterdir()] == ["run"]
    # Other weights, or other settings, are another model.
    promote(root, ModelFiles("run", [(path, 1.0) for path, _ in model.members], model.settings))
    promote(root, ModelFiles("run", model.members, {"thresholds": {"lake": 0.5}}))
    promote(root, model)
    assert len(read_history(root)) == 4


def test_a_model_on_the_shelf_is_promoted_where_it_lies(root, make_model):
    model = make_model("a b", "first", "second", thresholds={"lake": 0.4}, scales=(1.0, 0.5))
    kept = keep(root, model)
    assert promote(root, model).after == "models/a_b"
    promote(root, make_model("other"))
    # As it is named from its folder, and as the run from which it was kept, under whatever title.
    members = [(kept / f"member_{k}.safetensors", weight) for k, (_, weight) in enumerate(model.members)]
    again = promote(root, ModelFiles("a_b", members, model.settings))
    assert (again.before, again.after, again.title) == ("models/other", "models/a_b", "a b")
    roll_back(root)
    assert promote(root, ModelFiles("run", model.members, model.settings)).after == "models/a_b"
    assert changed_files(root, again) == []
    assert {path.name for path in (root / "models").iterdir()} == {"a_b", "other"}
    # One whose files a person put there under names of their own; what it names elsewhere may be gone tomorrow.
    mine = root / "models" / "mine"
    mine.mkdir()
    (mine / "x.safetensors").write_bytes(b"x")
    (mine / "ensemble.yaml").write_text("members: [{path: x.safetensors}]")
    assert promote(root, ModelFiles("mine", [(mine / "x.safetensors", 1.0)])).after == "models/mine"
    (mine / "ensemble.yaml").write_text(f"members: [{{path: {model.members[0][0]}}}]")
    assert promote(root, ModelFiles("mine", [(model.members[0][0], 1.0)])).after == "models/mine-2"


def test_the_bundled_ensemble_is_promoted_and_rolled_back_like_any_model(root, make_model):
    with pytest.raises(DataError, match="works with Bundled ensemble already"):
        promote(root, None)
    promote(root, make_model("a"))
    entry = promote(root, None, {"num_tiles": 3})
    assert (entry.before, entry.after, entry.comparison) == ("models/a", "bundled", {"num_tiles": 3})
    now = champion(root)
    assert (now.path, now.title, now.entry.after) == (None, "Bundled ensemble", "bundled")
    with pytest.raises(DataError, match="works with Bundled ensemble already"):
        promote(root, None)
    assert roll_back(root).title == "a"
    assert champion(root).path == root / "models" / "a"
    assert [path.name for path in (root / "models").iterdir()] == ["a"]


def test_every_entry_leaves_the_bytes_before_it_alone(root, make_model):
    promote(root, make_model("a"))
    path = root / HISTORY_FILE
    path.write_text(path.read_text() + "# a remark by hand, without an end of line")
    before = path.read_bytes()
    promote(root, make_model("b"))
    roll_back(root)
    assert path.read_bytes().startswith(before)
    assert len(read_history(root)) == 3
    # Readable by any YAML program, too.
    assert [entry["action"] for entry in yaml.safe_load(path.read_text())] == ["promote", "promote", "rollback"]


def test_a_promoted_model_outlives_its_run(root, make_model):
    model = make_model("run", "first", "second", thresholds={"lake": 0.4})
    entry = promote(root, model)
    for path, _ in model.members:
        # As a resumed run does: a new file takes the place of the old one.
        newer = path.with_suffix(".new")
        newer.write_bytes(b"other weights")
        newer.replace(path)
    folder = champion(root).path
    assert [(folder / f"member_{k}.safetensors").read_bytes() for k in range(2)] == [b"first", b"second"]
    kept = yaml.safe_load((folder / "ensemble.yaml").read_text())
    assert kept == {
        "name": "run",
        "members": [{"path": "member_0.safetensors", "weight": 1.0}, {"path": "member_1.safetensors", "weight": 2.0}],
        "thresholds": {"lake": 0.4},
    }
    assert changed_files(root, entry) == []
    (folder / "member_1.safetensors").unlink()
    (folder / "member_0.safetensors").write_bytes(b"meddled with")
    assert changed_files(root, entry) == ["member_0.safetensors", "member_1.safetensors"]


def test_where_the_disk_has_no_links_files_are_copied(root, make_model, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    promote(root, make_model("a"))
    assert (champion(root).path / "model.safetensors").read_bytes() == b"a"


def test_two_models_of_one_name_stay_apart(root, make_model):
    entry = promote(root, make_model("a b", "second"))
    again = promote(root, make_model("a b", "third"))
    assert (entry.after, again.after) == ("models/a_b", "models/a_b-2")
    assert (root / entry.after / "model.safetensors").exists()


def test_what_is_wrong_is_said(root, make_model):
    promote(root, make_model("a"))
    folder = champion(root).path
    folder.rename(folder.with_name("moved"))
    with pytest.raises(DataError, match="The promoted model a is gone"):
        champion(root)
    for text in ("just words", "- {action: dance}", "a: [", "- 3"):
        (root / HISTORY_FILE).write_text(text)
        with pytest.raises(DataError, match="no history of promotions"):
            champion(root)
    (root / HISTORY_FILE).write_text("")
    assert champion(root).path is None


def _promote_many(root, name):
    for number in range(5):
        path = root.parent / f"{name}{number}.safetensors"
        path.write_text(path.stem)
        promote(root, ModelFiles(f"{name}{number}", [(path, 1.0)]))


def test_two_processes_lose_nothing(root):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_promote_many, args=(root, name)) for name in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    history = read_history(root)
    assert len({entry.after for entry in history}) == 10
    assert [entry.before for entry in history[1:]] == [entry.after for entry in history[:-1]]


@pytest.mark.skipif(os.name == "nt", reason="folders of Windows refuse otherwise")
def test_a_read_only_dataset_says_so(root, make_model):
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe()
    model = make_model("a")
    root.chmod(0o555)

    def attempt():
        if os.geteuid() == 0:
            os.seteuid(65534)
        try:
            promote(root, model)
        except SaveError as error:
            sender.send(str(error))
        else:
            sender.send("written")

    worker = context.Process(target=attempt)
    worker.start()
    worker.join()
    root.chmod(0o755)
    assert "could not be written" in receiver.recv()
