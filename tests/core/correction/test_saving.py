"""Saving strokes into mask files: exact, atomic, never over an outside change; checked with rasterio and hashes."""

import hashlib
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_glacier.core.classes import get_scheme
from napari_glacier.core.correction.edits import EditableMask
from napari_glacier.core.correction.journal import Journal
from napari_glacier.core.correction.saving import (
    ORIGINALS_FOLDER,
    changed_outside,
    keep_outside_changes,
    mask_file,
    read_present_mask,
    save_tiles,
    settle_saves,
)
from napari_glacier.core.correction.strokes import fingerprint
from napari_glacier.core.data.dataset import Dataset, described_scheme, open_dataset
from napari_glacier.core.data.mosaic import Mosaic, plan_scenes
from napari_glacier.core.errors import JournalError, SaveError
from napari_glacier.core.raster import rewrite_mask, write_mask

TILE_PX = 64
CODES = np.array([0, 85, 170, 255], np.uint8)


@dataclass
class Session:
    """A data set opened for editing, as the plugin opens it."""

    root: Path
    dataset: Dataset = field(init=False)
    journal: Journal = field(init=False)
    scene: Mosaic = field(init=False)
    mask: EditableMask = field(init=False)

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        self.dataset = open_dataset(self.root, scheme="glacier4")
        self.journal = Journal.open(self.root)
        settle_saves(self.dataset, self.journal)
        (self.scene,) = plan_scenes(self.dataset)
        self.mask = EditableMask(
            self.scene.read_masks(),
            self.scene.valid(),
            self.scene.placements,
            self.journal,
            num_classes=4,
            idle_s=60,
        )
        self.mask.replay(self.journal.unsaved())

    def close(self) -> None:
        self.mask.close()
        self.journal.close()

    def save(self, tile_ids=None):
        return save_tiles(self.dataset, self.mask, self.journal, tile_ids)

    def discard(self) -> None:
        chosen = list(self.journal.unsaved_tiles())
        self.journal.discard_unsaved(chosen)
        for tile_id in chosen:
            self.mask.reload(tile_id, read_present_mask(self.dataset, self.dataset.tile(tile_id)))

    def on_disk(self) -> np.ndarray:
        """Class indices of the mask files side by side, read by rasterio."""
        index = np.zeros(self.scene.shape, np.uint8)
        for place in self.scene.placements:
            path = mask_file(place.tile)
            if path is not None:
                with rasterio.open(path) as file:
                    index[place.slices] = np.searchsorted(CODES, file.read(1))
        return index


@pytest.fixture
def session(make_dataset):
    opened = Session(make_dataset())
    yield opened
    opened.close()


def hashes(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "glacier.sqlite" not in path.name
    }


def test_a_stroke_over_a_border_changes_exactly_two_files_and_only_its_pixels(session):
    before, files = session.mask[...], hashes(session.root)
    session.mask[30:34, TILE_PX - 5 : TILE_PX + 7] = 3 - before[30:34, TILE_PX - 5 : TILE_PX + 7]
    drawn = session.mask[...]
    report = session.save()
    assert set(report.saved) == {"00_00", "00_01"}
    assert not report.failed
    assert not report.created
    after = hashes(session.root)
    changed = {name for name in files if after[name] != files[name]}
    assert changed == {"label/mask_00_00.tif", "label/mask_00_01.tif"}
    assert set(after) - set(files) == {"dataset.yaml", *(f"{ORIGINALS_FOLDER}/{name}" for name in changed)}
    for name in changed:
        assert after[f"{ORIGINALS_FOLDER}/{name}"] == files[name]
    np.testing.assert_array_equal(session.on_disk(), drawn)
    assert (drawn != before).sum() > 20
    new_path = session.root / "label/mask_00_00.tif"
    old_path = session.root / ORIGINALS_FOLDER / "label/mask_00_00.tif"
    with rasterio.open(new_path) as new, rasterio.open(old_path) as old:
        assert new.profile == old.profile
        assert new.colormap(1) == old.colormap(1)
        assert new.tags() == old.tags()
    assert session.journal.unsaved_tiles() == {}
    assert session.save().message.startswith("Nothing to save")


def test_the_original_is_kept_once(session):
    name = "label/mask_01_00.tif"
    original = hashes(session.root)[name]
    for value in (1, 2):
        session.mask[TILE_PX + 5, 5] = value
        session.mask[TILE_PX + 6, 5] = 3 - value
        session.save()
    assert hashes(session.root)[f"{ORIGINALS_FOLDER}/{name}"] == original
    assert len(open_dataset(session.root, scheme="glacier4").tiles) == 4  # originals are no tiles


def test_only_the_tiles_asked_for_are_saved(session):
    session.mask[30, 20:110] = (session.mask[30, 20:110] + 1) % 4
    assert session.save(["00_01"]).saved == ("00_01",)
    assert session.journal.unsaved_tiles() == {"00_00": 1}


def test_a_file_changed_outside_is_refused_and_the_others_are_saved(session):
    session.mask[30, 20:110] = (session.mask[30, 20:110] + 1) % 4
    session.mask.commit()
    drawn = session.mask[...]
    path = session.root / "label/mask_00_00.tif"
    foreign = np.full((TILE_PX, TILE_PX), 2, np.uint8)
    write_mask(path, foreign, get_scheme("glacier4"), session.dataset.tile("00_00").georef)
    foreign_hash = hashes(session.root)["label/mask_00_00.tif"]
    report = session.save()
    assert report.saved == ("00_01",)
    assert "changed by another program" in report.failed["00_00"]
    assert "mask_00_00.tif" in report.message
    assert hashes(session.root)["label/mask_00_00.tif"] == foreign_hash
    assert session.journal.unsaved_tiles() == {"00_00": 1}
    assert changed_outside(session.dataset, session.journal) == ("00_00",)

    session.close()
    session.open()
    assert session.save().failed.keys() == {"00_00"}  # reopening alone agrees to nothing
    keep_outside_changes(session.dataset, session.journal, ["00_00"])
    assert session.save().saved == ("00_00",)
    expected = foreign
    expected[30, 20:] = drawn[30, 20:TILE_PX]
    np.testing.assert_array_equal(session.on_disk()[:TILE_PX, :TILE_PX], expected)


def test_a_file_recompressed_outside_is_not_changed(session):
    session.mask[30, 20:60] = (session.mask[30, 20:60] + 1) % 4
    session.mask.commit()
    path = session.root / "label/mask_00_00.tif"
    with rasterio.open(path) as file:
        pixels, profile = file.read(), file.profile
    with rasterio.open(path, "w", **(profile | {"compress": "lzw", "photometric": "minisblack"})) as file:
        file.write(pixels)
    assert session.save().saved == ("00_00",)
    with rasterio.open(path) as file:
        assert file.compression.name == "lzw"


def test_a_file_deleted_outside_is_refused(session):
    session.mask[30, 20:60] = (session.mask[30, 20:60] + 1) % 4
    session.mask.commit()
    (session.root / "label/mask_00_00.tif").unlink()
    for _ in range(2):
        assert "moved or deleted" in session.save().failed["00_00"]
        session.close()
        session.open()
    assert not (session.root / "label/mask_00_00.tif").exists()


def test_tiles_without_masks_get_a_file_only_where_edited(make_dataset):
    session = Session(make_dataset(masks=False))
    session.mask[20:40, 50:70] = 2
    session.mask[0:20, 0:20] = 1
    drawn = session.mask[...]
    assert not drawn[:10, :12].any()  # nodata stays background
    report = session.save()
    folder = session.root / "label"
    assert sorted(report.created) == sorted(p for p in folder.iterdir() if p.suffix == ".tif")
    assert [p.name for p in sorted(report.created)] == ["B2_00_00.tif", "B2_00_01.tif"]
    np.testing.assert_array_equal(session.on_disk(), drawn)
    session.mask[30, 30] = 3
    assert session.save().saved == ("00_00",)
    session.close()
    session.open()
    session.mask[31, 30] = 3
    assert session.save().saved == ("00_00",)
    assert not (session.root / ORIGINALS_FOLDER).exists()  # there was no original to keep
    with rasterio.open(report.created[0]) as file:
        assert file.crs.to_epsg() == 32643
    session.close()


def test_a_mask_made_outside_meanwhile_is_not_overwritten(make_dataset):
    session = Session(make_dataset(masks=False))
    session.mask[20:40, 20:30] = 2
    session.mask.commit()
    write_mask(session.dataset.tile("00_00").new_mask_path, np.ones((64, 64), np.uint8), get_scheme("glacier4"))
    assert "made by another program" in session.save().failed["00_00"]
    session.close()


def test_a_tile_that_cannot_be_written_keeps_its_old_file_and_its_strokes(session, monkeypatch):
    files = hashes(session.root)
    session.mask[30, 20:110] = (session.mask[30, 20:110] + 1) % 4
    drawn = session.mask[...]
    real = Path.replace

    def refuse(self, target):
        if Path(target).name == "mask_00_00.tif" and ORIGINALS_FOLDER not in str(target):
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    report = session.save()
    monkeypatch.setattr(Path, "replace", real)
    assert report.saved == ("00_01",)
    assert "No space left" in report.failed["00_00"]
    assert hashes(session.root)["label/mask_00_00.tif"] == files["label/mask_00_00.tif"]
    assert not list(session.root.rglob(".mask*"))
    assert session.save().saved == ("00_00",)
    np.testing.assert_array_equal(session.on_disk(), drawn)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), SaveError("no such compression")])
def test_an_unexpected_failure_of_one_tile_is_reported_and_the_others_are_saved(session, monkeypatch, error):
    session.mask[30, 20:110] = (session.mask[30, 20:110] + 1) % 4
    drawn = session.mask[...]

    def fail(path, *arguments):
        if path.name == "mask_00_00.tif":
            raise error
        rewrite_mask(path, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr("napari_glacier.core.correction.saving.rewrite_mask", fail)
        report = session.save()
    assert report.saved == ("00_01",)
    assert report.failed.keys() == {"00_00"}
    assert (error.strerror if isinstance(error, OSError) else str(error)) in report.failed["00_00"]
    assert session.journal.unsaved_tiles() == {"00_00": 1}
    assert session.save().saved == ("00_00",)
    np.testing.assert_array_equal(session.on_disk(), drawn)


def test_a_mask_that_cannot_be_read_does_not_keep_the_others_from_being_saved(session, monkeypatch):
    session.mask[30, 20:110] = (session.mask[30, 20:110] + 1) % 4
    real = Dataset.read_mask

    def fail(self, tile):
        if tile.id == "00_00":
            raise OSError(5, "Input/output error")
        return real(self, tile)

    with monkeypatch.context() as patched:
        patched.setattr(Dataset, "read_mask", fail)
        report = session.save()
        assert changed_outside(session.dataset, session.journal) == ("00_00",)
    assert report.saved == ("00_01",)
    assert "Input/output error" in report.failed["00_00"]


def test_the_first_save_states_the_scheme_so_that_it_is_not_guessed(make_dataset):
    root = make_dataset(masks=False)
    session = Session(root)
    session.mask[20:40, 20:50] = 3
    assert described_scheme(root) is None
    session.save()
    session.close()
    reopened = open_dataset(root)
    assert reopened.scheme is not None
    assert reopened.scheme.name == "glacier4"  # the masks hold 0 and 255 only
    assert len(reopened.tiles) == 4


def test_a_stated_scheme_is_left_alone(session):
    text = "# by hand\nscheme: glacier2\n"
    (session.root / "dataset.yaml").write_text(text)
    session.mask[30, 20:60] = (session.mask[30, 20:60] + 1) % 4
    assert session.save().saved == ("00_00",)
    assert (session.root / "dataset.yaml").read_text() == text


@pytest.mark.parametrize("obstacle", ["not writable", "not yaml"])
def test_a_scheme_that_cannot_be_stated_is_told_and_the_save_counts(session, monkeypatch, obstacle):
    def refuse(root, scheme):
        raise SaveError("dataset.yaml could not be written (Permission denied).")

    if obstacle == "not yaml":
        (session.root / "dataset.yaml").write_text("{")
    else:
        monkeypatch.setattr("napari_glacier.core.correction.saving.write_scheme", refuse)
    session.mask[30, 20:110] = (session.mask[30, 20:110] + 1) % 4
    report = session.save()
    assert set(report.saved) == {"00_00", "00_01"}
    assert not report.failed
    assert report.message.startswith("Saved 2 tile(s). The masks are saved, but their class scheme")
    assert "dataset.yaml" in report.message
    assert "glacier4" in report.message


def test_after_a_discard_the_next_stroke_is_drawn_on_the_file_as_it_is(session):
    session.mask[30, 20:60] = (session.mask[30, 20:60] + 1) % 4
    session.mask.commit()
    foreign = np.full((TILE_PX, TILE_PX), 3, np.uint8)
    path = session.root / "label/mask_00_00.tif"
    write_mask(path, foreign, get_scheme("glacier4"), session.dataset.tile("00_00").georef)
    session.discard()
    np.testing.assert_array_equal(session.mask[:TILE_PX, :TILE_PX], foreign)
    session.mask[40, 20:60] = 1
    assert session.save().saved == ("00_00",)
    foreign[40, 20:60] = 1
    np.testing.assert_array_equal(session.on_disk()[:TILE_PX, :TILE_PX], foreign)


def test_a_discard_after_the_first_save_of_a_new_mask(make_dataset):
    session = Session(make_dataset(masks=False))
    session.mask[20:40, 20:50] = 2
    session.save()
    saved = session.mask[...]
    session.mask[20:40, 20:50] = 1
    session.mask.commit()
    session.discard()
    np.testing.assert_array_equal(session.mask[...], saved)
    session.mask[50:55, 20:50] = 3
    assert session.save().saved == ("00_00",)
    np.testing.assert_array_equal(session.on_disk(), session.mask[...])
    assert not (session.root / ORIGINALS_FOLDER).exists()
    session.close()


@pytest.mark.parametrize("mend", ["discard", "keep"])
def test_a_mask_made_outside_and_then_drawn_on_is_kept_as_an_original(make_dataset, mend):
    session = Session(make_dataset(masks=False))
    session.mask[20:40, 20:30] = 2
    session.mask.commit()
    path = session.dataset.tile("00_00").new_mask_path
    write_mask(path, np.ones((64, 64), np.uint8), get_scheme("glacier4"))
    theirs = path.read_bytes()
    if mend == "discard":
        session.discard()
        session.mask[20:40, 20:30] = 3
    else:
        keep_outside_changes(session.dataset, session.journal, ["00_00"])
    assert session.save().saved == ("00_00",)
    assert (session.root / ORIGINALS_FOLDER / path.relative_to(session.root)).read_bytes() == theirs
    session.close()


def test_originals_that_cannot_be_kept_stop_the_save(session):
    (session.root / ORIGINALS_FOLDER).write_text("in the way")
    session.mask[30, 20:60] = (session.mask[30, 20:60] + 1) % 4
    files = hashes(session.root)
    assert "original of" in session.save().failed["00_00"]
    assert hashes(session.root) == files


def test_strokes_that_cancel_out_leave_the_file_alone(session):
    files, before = hashes(session.root), session.mask[30, 20:60]
    session.mask[30, 20:60] = (before + 1) % 4
    session.mask.commit()
    session.mask[30, 20:60] = before
    report = session.save()
    assert (report.saved, report.failed) == ((), {}), "nothing was written, and nothing is said to be"
    assert hashes(session.root) == files
    assert session.journal.unsaved_tiles() == {}


def test_a_journal_that_fails_after_the_file_was_written_is_settled_later(session, monkeypatch):
    session.mask[30, 20:60] = (session.mask[30, 20:60] + 1) % 4
    drawn = session.mask[...]

    def fail(tile_id):
        raise JournalError("disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(session.journal, "finish_save", fail)
        assert session.save().failed == {"00_00": "disk is full"}
    np.testing.assert_array_equal(session.on_disk(), drawn)
    session.mask[40, 20:60] = 1  # goes on drawing
    drawn = session.mask[...]
    assert session.save().saved == ("00_00",)
    np.testing.assert_array_equal(session.on_disk(), drawn)


def test_a_second_window_cannot_save(session):
    session.mask[30, 20:60] = 1
    session.mask.commit()
    with Journal.open(session.root) as reader:
        assert reader.read_only
        report = save_tiles(session.dataset, None, reader)
        assert "is held by" in report.failed["00_00"]


def test_without_a_scheme_nothing_is_written(make_dataset):
    root = make_dataset(masks=False)
    dataset = open_dataset(root)
    assert dataset.scheme is None
    (scene,) = plan_scenes(dataset)
    with Journal.open(root) as journal:
        mask = EditableMask(
            np.zeros(scene.shape, np.uint8), np.ones(scene.shape, bool), scene.placements, journal, idle_s=60
        )
        mask[5:9, 5:9] = 1
        report = save_tiles(dataset, mask, journal)
        assert "class scheme" in report.failed["00_00"]
        mask.close()


_boxes = st.tuples(*[st.integers(0, 127)] * 2, *[st.integers(1, 60)] * 2, st.integers(0, 4))
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("paint"), _boxes),
        st.tuples(st.sampled_from(["commit", "undo", "save", "save one", "reopen", "discard"]), st.none()),
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_steps)
def test_any_sequence_of_edits_saves_and_reopenings_equals_a_numpy_model(make_dataset, tmp_path, steps):
    source = tmp_path / "source"
    if not source.exists():
        make_dataset("source")
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        root = Path(folder) / "dataset"
        shutil.copytree(source, root)
        session = Session(root)
        model, valid = session.mask[...], session.scene.valid()
        saved = model.copy()
        undoable: list[np.ndarray] = []
        try:
            for step, box in steps:
                if step == "paint":
                    row, col, height, width, value = box
                    region = np.s_[row : row + height, col : col + width]
                    undoable.append(model.copy())
                    session.mask.commit()
                    session.mask[region] = value
                    if value < 4:
                        model[region] = np.where(valid[region], value, model[region])
                    if session.mask.commit() is None:
                        undoable.pop()
                elif step == "commit":
                    session.mask.commit()
                elif step == "undo" and undoable:
                    # The stroke before the last may have been covered since: only the last is undone here.
                    last = session.journal.history(1)[0]
                    session.mask.undo_stroke(session.journal.stroke(last.id))
                    model = undoable.pop()
                    undoable.clear()
                elif step == "save":
                    assert not session.save().failed
                    saved = model.copy()
                elif step == "save one":
                    session.save(["00_01"])
                    saved[:TILE_PX, TILE_PX:] = model[:TILE_PX, TILE_PX:]
                elif step == "reopen":
                    session.close()
                    session.open()
                elif step == "discard":
                    session.discard()
                    model = saved.copy()
                    undoable.clear()
                np.testing.assert_array_equal(session.mask[...], model)
                np.testing.assert_array_equal(session.on_disk(), saved)
            session.save()
            np.testing.assert_array_equal(session.on_disk(), model)
        finally:
            session.close()


def test_fingerprint_sees_any_pixel_and_the_shape():
    index = np.zeros((4, 6), np.uint8)
    other = index.copy()
    other[3, 5] = 1
    assert len({fingerprint(index), fingerprint(other), fingerprint(index.reshape(6, 4))}) == 3
    assert fingerprint(np.asfortranarray(other)) == fingerprint(other)
