"""The editable mask as data of a napari Labels layer, and by itself against numpy."""

import copy
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from napari_glacier.core.correction.edits import EditableMask
from napari_glacier.core.correction.journal import Journal
from napari_glacier.core.correction.strokes import ABSENT, fingerprint
from napari_glacier.core.data.mosaic import Placement
from napari_glacier.core.data.tiles import Tile
from napari_glacier.core.errors import JournalError
from napari_glacier.core.indexing import as_box, as_points

SIZE_PX = 300  # not a multiple of the cells in which edits are remembered


def place(tile_id: str, row: int, col: int, size_px: int = SIZE_PX, mask: bool = True) -> Placement:
    mask_path = Path(f"{tile_id}.tif") if mask else None
    return Placement(Tile(tile_id, "all", {}, size_px, size_px, None, mask_path, Path(f"{tile_id}.tif")), row, col)


@pytest.fixture
def journal(tmp_path):
    with Journal.open(tmp_path) as opened:
        yield opened


@pytest.fixture
def make_mask(journal):
    """Maker of a mosaic of 2 x 2 tiles with a gap between the columns and a nodata corner, or of a stack."""
    made = []

    def make(ndim: int = 2, idle_s: float = 60.0, **options) -> EditableMask:
        if ndim == 3:
            places = [place(f"s{k}", 0, 0) for k in range(3)]
            index, editable = np.zeros((3, SIZE_PX, SIZE_PX), np.uint8), np.ones((3, SIZE_PX, SIZE_PX), bool)
        else:
            places = [place(f"t{r}{c}", r * SIZE_PX, c * (SIZE_PX + 20)) for r in range(2) for c in range(2)]
            index = np.zeros((2 * SIZE_PX, 2 * SIZE_PX + 20), np.uint8)
            editable = np.ones(index.shape, bool)
            editable[:, SIZE_PX : SIZE_PX + 20] = False
            editable[:10, :10] = False
        mask = EditableMask(index, editable, places, journal, num_classes=4, idle_s=idle_s, **options)
        made.append(mask)
        return mask

    yield make
    for mask in made:
        mask.close()


def mosaic_of(strokes, mask: EditableMask) -> np.ndarray:
    """Replay strokes with plain loops over the tiles' places."""
    index = np.zeros(mask.shape, np.uint8)
    for stroke in strokes:
        for patch in stroke.patches:
            row, col, plane = 0, 0, ()
            if mask.ndim == 3:
                plane = (int(patch.tile_id[1]),)
            else:
                row, col = int(patch.tile_id[1]) * SIZE_PX, int(patch.tile_id[2]) * (SIZE_PX + 20)
            for r, c in np.argwhere(patch.before_HW != patch.after_HW):
                index[(*plane, row + patch.row + r, col + patch.col + c)] = patch.after_HW[r, c]
    return index


def test_index_forms_select_what_numpy_selects():
    array = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    boolean = array % 7 == 0
    keys = [
        (1, 2, 3), (-1, 2), 2, slice(1, 3), ..., (..., 1), (1, ..., slice(None, None, 2)), (slice(3, None, -1), 0),
        (np.int64(1), slice(2, 2), slice(0, 3)),
    ]  # fmt: skip
    for key in keys:
        box, dropped = as_box(key, array.shape)
        np.testing.assert_array_equal(array[box].squeeze(axis=dropped), array[key])
    keys = [
        boolean, boolean[0, 0].repeat(1)[:4], (np.array([0, 0, 3]), np.array([1, 1, 4]), np.array([5, 5, 0])),
        (1, [0, 4]), (slice(0, 2), np.array([[1], [2]]), 3), [0, 2],
    ]  # fmt: skip
    for key in keys:
        if isinstance(key, np.ndarray) and key.ndim == 1:
            continue
        assert as_box(key, array.shape) is None
        np.testing.assert_array_equal(array[as_points(key, array.shape)], array[key])
    for wrong in [(0, 0, 0, 0), 4, (0, -6), (..., ...)]:
        with pytest.raises(IndexError):
            as_box(wrong, array.shape)


def test_assignments_do_what_numpy_does(journal):
    rng = np.random.default_rng(3)
    shape = (SIZE_PX, SIZE_PX)
    mask = EditableMask(np.zeros(shape, np.uint8), np.ones(shape, bool), [place("t00", 0, 0)], journal, idle_s=60)
    model = np.zeros(shape, np.uint8)
    rows, cols = rng.integers(0, SIZE_PX, (2, 500))
    rows[:9], cols[:9] = 7, 8  # a point given several times: the last value counts
    assignments = [
        (np.s_[10:290, 250:260], 2),
        (np.s_[20:40, 20:40], rng.integers(0, 4, (20, 20))),
        (np.s_[20:40:3, 60:20:-2], rng.integers(0, 4, (1, 7, 20))),
        ((5, 6), 3),
        (8, np.arange(SIZE_PX) % 4),
        ((rows, cols), rng.integers(0, 4, 500).astype(np.uint8)),
        ((rows, cols), 1),
        (rng.random(shape) < 0.1, 3),
        ((slice(3, 9), np.array([1, 4])), 2),
        ((...,), rng.integers(0, 4, shape)),
        ((np.array([], int), np.array([], int)), 1),
    ]
    for key, values in assignments:
        mask[key] = values
        model[key] = values
        np.testing.assert_array_equal(mask[...], model)
        mask.commit()
    np.testing.assert_array_equal(mosaic_of(journal.unsaved(), mask), model)
    with pytest.raises(TypeError, match="whole numbers"):
        mask[0, 0] = 1.5
    with pytest.raises(ValueError, match="broadcast"):
        mask[:2, :2] = np.zeros((3, 3), np.uint8)
    mask.close()


def test_reads_are_copies(make_mask):
    mask = make_mask()
    for given in (mask[...], mask[20:30, 20:30], np.asarray(mask), copy.deepcopy(mask)):
        given[...] = 3
    assert not np.asarray(mask).any()
    assert mask.commit() is None
    assert type(copy.deepcopy(mask)) is np.ndarray
    assert np.asarray(mask, dtype=np.int64).dtype == np.int64
    assert (mask.ndim, mask.dtype, mask.size, len(mask)) == (2, np.uint8, mask.nbytes, 600)
    with pytest.raises(ValueError, match="copy"):
        np.asarray(mask, copy=False)


@pytest.mark.parametrize("ndim", [2, 3])
def test_napari_tools_undo_and_redo_end_in_the_journal(make_mask, journal, ndim):
    labels = pytest.importorskip("napari.layers").Labels
    mask = make_mask(ndim)
    layer, twin = labels(mask), labels(np.zeros(mask.shape, np.uint8))
    assert layer.data is mask
    at = () if ndim == 2 else (0,)
    steps = [
        lambda one: one.paint((*at, 298, 200), 1),
        lambda one: one.paint((*at, 150, 290), 2),
        lambda one: one.paint_polygon(np.array([(*at, 210, 40), (*at, 220, 240), (*at, 290, 100)]), 3),
        lambda one: one.fill((*at, 100, 100), 2),
        lambda one: one.data_setitem(
            tuple(np.array(axis) for axis in (*[[0, 0, 0]] * len(at), [50, 50, 51], [60, 60, 60])), 3
        ),
        lambda one: one.undo(),
        lambda one: one.undo(),
        lambda one: one.redo(),
        lambda one: one.undo(),
        lambda one: one.undo(),
        lambda one: one.paint((*at, 30, 40), 3),
    ]
    for one in (layer, twin):
        one.brush_size = 31
    for step in steps:
        for one in (layer, twin):
            step(one)
        # The twin may be painted anywhere; what may not be edited is taken out of it.
        expected = np.where(mask._editable, twin.data, 0)
        np.testing.assert_array_equal(np.asarray(layer.data), expected)
        mask.commit(tool="step")
    np.testing.assert_array_equal(mosaic_of(journal.unsaved(), mask), expected)
    assert layer.get_value((*at, 30, 40)) == 3


def test_a_drag_is_one_stroke_and_reaches_both_tiles_at_a_border(make_mask, journal):
    labels = pytest.importorskip("napari.layers").Labels
    mask = make_mask()
    layer = labels(mask)
    layer.brush_size = 9
    # The mouse tools group a drag like this, and the event comes after the last dab.
    layer.events.paint.connect(lambda event: mask.commit(tool=str(layer.mode)))
    with layer.block_history():
        layer.paint((SIZE_PX - 6, 50), 1)
        layer.paint((SIZE_PX + 2, 52), 1)
    (stroke,) = journal.unsaved()
    assert stroke.tool == "pan_zoom"
    assert {patch.tile_id for patch in stroke.patches} == {"t00", "t10"}
    np.testing.assert_array_equal(mosaic_of([stroke], mask), mask[...])


def test_nodata_gaps_locked_classes_and_other_values_are_refused(make_mask):
    mask = make_mask()
    refused = []
    mask.refused.append(lambda rows, cols: refused.append((rows, cols)))
    mask[0:20, 0:20] = 1
    assert refused.pop() == (slice(0, 10), slice(0, 10))
    assert not mask[:10, :10].any()
    assert mask[10:20, :20].all()
    mask[100, 290:350] = 2
    assert refused.pop() == (slice(100, 101), slice(300, 320))
    mask.locked_classes.add(1)
    mask[10:30, 10:30] = 3
    assert refused.pop() == (slice(10, 20), slice(10, 20))
    assert (mask[10:20, :20] == 1).all()
    assert (mask[20:30, 10:30] == 3).all()
    mask[np.array([15, 200]), np.array([15, 200])] = 2
    assert refused.pop() == (slice(15, 16), slice(15, 16))
    assert mask[200, 200] == 2
    for value in (4, 7, 255, 256, -1):
        mask[250, 250] = value
        assert refused.pop() == (slice(250, 251), slice(250, 251))
    assert mask[250, 250] == 0
    mask[15, 15] = 1  # no change is no refusal
    assert not refused


def test_a_mask_held_elsewhere_refuses_everything(tmp_path, journal):
    with Journal.open(tmp_path) as reader:
        mask = EditableMask(np.zeros((50, 50), np.uint8), np.ones((50, 50), bool), [place("a", 0, 0, 50)], reader)
        refused = []
        mask.refused.append(lambda rows, cols: refused.append((rows, cols)))
        assert mask.read_only
        mask[3:5, 3:5] = 1
        mask[np.array([9]), np.array([9])] = 1
        assert not mask[...].any()
        assert len(refused) == 2
        mask.close()


def test_changes_taken_back_leave_no_stroke(make_mask, journal):
    mask = make_mask()
    mask[50:60, 50:60] = 1
    mask[55:65, 50:60] = 2
    mask[50:65, 50:60] = 0
    assert mask.has_pending
    assert mask.commit() is None
    assert not mask.has_pending
    assert journal.unsaved() == []


def test_first_values_survive_overlapping_dabs(make_mask, journal):
    mask = make_mask()
    mask[50:60, 50:60] = 1
    mask.commit()
    for value in (2, 3, 2):
        mask[55:65, 55:65] = value
    mask.commit()
    patch = journal.unsaved()[1].patches[0]
    assert patch.slices == (slice(55, 65), slice(55, 65))
    assert (patch.before_HW[:5, :5] == 1).all()
    assert (patch.after_HW == 2).all()


def test_replay_twice_is_replay_once(make_mask, journal, tmp_path):
    mask = make_mask()
    rng = np.random.default_rng(1)
    for _ in range(6):
        row, col = rng.integers(10, 560, 2)
        mask[row : row + 40, col : col + 50] = rng.integers(0, 4)
        mask.commit()
    drawn = mask[...]
    strokes = journal.unsaved()
    other = make_mask()
    other.replay(strokes)
    other.replay(strokes)
    np.testing.assert_array_equal(other[...], drawn)
    assert other.commit() is None
    assert other.dirty_tiles == journal.unsaved_tiles()
    assert len(journal.unsaved()) == len(strokes)


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_reloaded_tile_shows_its_file_and_is_the_base_of_the_next_stroke(make_mask, journal, ndim):
    mask = make_mask(ndim)
    tile_id, other_id = ("s1", "s2") if ndim == 3 else ("t10", "t11")
    tile = np.s_[1] if ndim == 3 else np.s_[SIZE_PX:, :SIZE_PX]
    other = np.s_[2] if ndim == 3 else np.s_[SIZE_PX:, SIZE_PX + 20 :]
    for region in (tile, other):
        drawn = mask[region]
        drawn[40:60, 30:50] = 2
        mask[region] = drawn
    mask.commit()
    expected = mask[...]
    in_file = np.arange(SIZE_PX * SIZE_PX, dtype=np.uint32).reshape(SIZE_PX, SIZE_PX) % 4
    in_file = in_file.astype(np.uint8)

    journal.discard_unsaved([tile_id])
    mask.reload(tile_id, in_file)
    mask.reload("of another scene", None)

    expected[tile] = in_file
    np.testing.assert_array_equal(mask[...], expected)
    assert mask.commit() is None
    assert mask.dirty_tiles == {other_id: 1}
    mask[tile] = 1
    mask.commit()
    assert journal.base_fingerprint(tile_id) == fingerprint(in_file)

    journal.discard_unsaved([tile_id])
    mask.reload(tile_id, None)
    assert not mask[tile].any()
    mask[tile] = 1
    mask.commit()
    assert journal.base_fingerprint(tile_id) == ABSENT


def test_strokes_of_an_earlier_session_can_be_undone_and_redone(make_mask, journal):
    mask = make_mask()
    mask[290:310, 20:40] = 1
    first = mask.commit()
    mask[300:305, 30:35] = 2
    mask.commit()
    undone = mask.undo_stroke(journal.stroke(first))
    expected = np.zeros(mask.shape, np.uint8)
    expected[300:305, 30:35] = 2
    np.testing.assert_array_equal(mask[...], expected)  # later work is left alone
    assert journal.stroke(undone).group == journal.stroke(first).group
    mask.undo_stroke(journal.stroke(undone), tool="redo")
    assert (mask[290:300, 20:40] == 1).all()
    assert journal.history(1)[0].tool == "redo"


@pytest.mark.parametrize("ndim", [2, 3])
def test_assign_is_one_stroke_by_the_same_rules(make_mask, journal, ndim):
    mask = make_mask(ndim)
    mask.locked_classes = {3}
    mask[..., 100:110, 100:110] = 3
    prediction = np.random.default_rng(0).integers(0, 4, mask.shape).astype(np.uint8)
    where = np.zeros(mask.shape, bool)
    where[..., 5:250, 5:400] = True
    stroke = mask.assign(prediction, where, "accept", model="bundled")
    expected = np.where(where & mask._editable, prediction, 0)
    expected[..., 100:110, 100:110] = 3
    np.testing.assert_array_equal(mask[...], expected)
    first, second = journal.unsaved()
    assert (first.tool, second.tool, second.model, second.id) == ("paint", "accept", "bundled", stroke)
    assert mask.assign(prediction, where, "accept") is None
    with pytest.raises(ValueError, match="shape"):
        mask.assign(prediction[..., 1:], where, "accept")


def test_strokes_close_when_the_tool_changes(make_mask, journal):
    mask = make_mask()
    mask[20, 20] = 1
    mask.tool = "fill"
    mask[30, 30] = 1
    mask.model = "bundled"
    mask[40, 40] = 1
    mask.commit()
    assert [(s.tool, s.model) for s in journal.unsaved()] == [("paint", None), ("fill", None), ("fill", "bundled")]


def test_base_fingerprint_is_of_the_mask_before_the_first_edit(journal):
    index = np.random.default_rng(2).integers(0, 4, (SIZE_PX, 2 * SIZE_PX)).astype(np.uint8)
    places = [place("a", 0, 0), place("b", 0, SIZE_PX, mask=False)]
    before = index.copy()
    mask = EditableMask(index, np.ones(index.shape, bool), places, journal, idle_s=60)
    mask[200:280, 200:400] = 1 - before[200:280, 200:400] // 2
    mask.commit()
    mask[0:50, 0:50] = 2
    mask.commit()
    assert journal.base_fingerprint("a") == fingerprint(before[:, :SIZE_PX])
    assert journal.base_fingerprint("b") == ABSENT
    assert fingerprint(before) != fingerprint(before.T)
    mask.close()


def test_idle_edits_are_recorded_by_themselves_and_the_thread_ends(make_mask, journal):
    mask = make_mask(idle_s=0.05)
    recorded = threading.Event()
    mask.recorded.append(lambda stroke_id: recorded.set())
    mask[20:30, 20:30] = 1
    assert journal.unsaved() == []
    assert recorded.wait(5)
    (stroke,) = journal.unsaved()
    np.testing.assert_array_equal(mosaic_of([stroke], mask), mask[...])
    for _ in range(100):
        if not any(thread.name == "record edits" for thread in threading.enumerate()):
            break
        time.sleep(0.01)
    else:
        pytest.fail("the idle thread goes on with nothing to do")


def test_a_failing_journal_keeps_the_strokes_and_tries_again(make_mask, journal, monkeypatch):
    monkeypatch.setattr("napari_glacier.core.correction.recorder.RETRY_S", 0.05)
    mask = make_mask(idle_s=0.02)
    failed, recorded = threading.Event(), threading.Event()
    mask.errors.append(lambda error: failed.set())
    mask.recorded.append(lambda stroke_id: recorded.set())
    real = journal.record

    def full(*args, **kwargs):
        raise JournalError("disk is full")

    monkeypatch.setattr(journal, "record", full)
    mask[20:30, 20:30] = 1
    assert failed.wait(5)
    mask[25:35, 25:35] = 2
    with pytest.raises(JournalError, match="full"):
        mask.commit()
    assert mask.has_pending
    monkeypatch.setattr(journal, "record", real)
    assert recorded.wait(5)
    while mask.has_pending:
        time.sleep(0.01)
    np.testing.assert_array_equal(mosaic_of(journal.unsaved(), mask), mask[...])


def test_a_dab_does_not_touch_the_whole_mask(journal):
    """A dab on a wide mask costs what a dab on a small one costs (absolute times are the benchmark's)."""
    wide = np.zeros((6000, 6000), np.uint8)
    mask = EditableMask(wide, np.ones(wide.shape, bool), [place("w", 0, 0, 6000)], journal, idle_s=60)
    times = []
    for k in range(40):
        start = time.perf_counter()
        mask[3000 + k : 3060 + k, 3000:3060] = 1 + k % 3
        times.append(time.perf_counter() - start)
    assert np.median(times) < 0.003  # a copy of the mask takes longer
    assert sum(cell.nbytes for cell in mask._cells._before.values()) < 1_000_000
    mask.close()


def test_a_mask_without_a_journal_is_just_edited(make_mask):
    mask = EditableMask(np.zeros((40, 40), np.uint8), np.ones((40, 40), bool), [place("a", 0, 0, 40)])
    mask[3:5, 3:5] = 2
    assert mask[3, 3] == 2
    assert mask.commit() is None
    assert mask.dirty_tiles == {}
    mask.close()
    with pytest.raises(ValueError, match="uint8"):
        EditableMask(np.zeros((4, 4), np.int32), np.ones((4, 4), bool), [])
