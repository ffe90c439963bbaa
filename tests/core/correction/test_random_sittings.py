"""Random sittings of drawing, undoing, approving and saving, each ended by kill -9 at any moment.

What the next opening finds must be what a plain model of the drawing says. NAPARI_GLACIER_SITTINGS=500 for many.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import rasterio

from napari_glacier.core.correction.journal import Journal
from napari_glacier.core.correction.saving import changed_outside, save_tiles, settle_saves
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.data.mosaic import plan_scenes

NUM_SITTINGS = int(os.environ.get("NAPARI_GLACIER_SITTINGS", "12"))
NUM_ACTS = 60
pytestmark = pytest.mark.skipif(os.name != "posix", reason="kill -9 is a signal of POSIX")

CHILD = """
import json, sys
from pathlib import Path
from napari_glacier.core.correction import saving
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.correction.edits import EditableMask
from napari_glacier.core.correction.journal import Journal
from napari_glacier.core.data.mosaic import plan_scenes

root = Path(sys.argv[1])
acts = json.loads(sys.argv[2])
dataset = open_dataset(root, scheme="glacier4")
journal = Journal.open(root)
scene, = plan_scenes(dataset)
saving.settle_saves(dataset, journal)
mask = EditableMask(scene.read_masks(), scene.valid(), scene.placements, journal, num_classes=4, idle_s=60)
mask.replay(journal.unsaved())
strokes = []
for number, (what, *values) in enumerate(acts):
    if what == "draw":
        top, left, height, width, label = values
        mask[top : top + height, left : left + width] = label
        stroke = mask.commit("paint")
        strokes.append(stroke)
    elif what == "undo":
        known = [stroke for stroke in strokes if stroke is not None]
        if known:
            mask.undo_stroke(journal.stroke(known[values[0] % len(known)]))
    elif what == "approve":
        journal.set_review(values[0], "approved" if values[1] else "in progress")
        mask.lock_tiles([t for t, state in journal.review_states().items() if state == "approved"])
    elif what == "save":
        report = saving.save_tiles(dataset, mask, journal)
        assert not report.failed, report.failed
    print(number, flush=True)
"""


def random_acts(rng: random.Random) -> list[tuple]:
    """What a person does, one act after the other."""
    tiles = ["00_00", "00_01", "01_00", "01_01"]
    acts: list[tuple] = []
    for _ in range(NUM_ACTS):
        kind = rng.choices(["draw", "undo", "approve", "save"], [10, 4, 1, 2])[0]
        if kind == "draw":
            size = rng.randrange(1, 50), rng.randrange(1, 50)
            acts.append((kind, rng.randrange(120), rng.randrange(120), *size, rng.randrange(4)))
        elif kind == "undo":
            acts.append((kind, rng.randrange(100)))
        elif kind == "approve":
            acts.append((kind, rng.choice(tiles), rng.random() < 0.5))
        else:
            acts.append((kind,))
    return acts


def states_after(acts: list[tuple], start: np.ndarray, valid: np.ndarray) -> list[np.ndarray]:
    """The mask before the first act and after each one, by plain arrays."""
    now, states = start.copy(), [start.copy()]
    strokes: list[tuple[np.ndarray, np.ndarray]] = []
    frozen = np.zeros(now.shape, bool)
    for what, *values in acts:
        before = now.copy()
        if what == "draw":
            top, left, height, width, label = values
            now[top : top + height, left : left + width] = label
            now = np.where(valid & ~frozen, now, before)
            if (now != before).any():
                strokes.append((before, now.copy()))
        elif what == "undo" and strokes:
            old, drawn = strokes[values[0] % len(strokes)]
            shows = (old != drawn) & (now == drawn) & ~frozen
            now = np.where(shows, old, now)
        elif what == "approve":
            row, col = (int(part) * 64 for part in values[0].split("_"))
            frozen[row : row + 64, col : col + 64] = values[1]
        states.append(now.copy())
    return states


@pytest.mark.parametrize("seed", range(NUM_SITTINGS))
def test_what_was_drawn_before_kill_9_is_there_again(make_dataset, seed):
    rng = random.Random(seed)
    root = make_dataset(seed=seed)
    (scene,) = plan_scenes(open_dataset(root, scheme="glacier4"))
    start, valid = scene.read_masks(), scene.valid()
    acts = random_acts(rng)
    states = states_after(acts, start, valid)

    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root), json.dumps(acts)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        lines = [process.stdout.readline() for _ in range(rng.randrange(NUM_ACTS))]
        # Into the middle of an act, often of a save.
        time.sleep(rng.random() * 0.01)
        process.send_signal(signal.SIGKILL)
        rest, errors = process.stdout.read(), process.stderr.read()
    told = [int(line) for line in [*lines, *rest.splitlines(keepends=True)] if line.endswith("\n")]
    assert "Error" not in errors, errors
    dataset = open_dataset(root, scheme="glacier4")
    (scene,) = plan_scenes(dataset)
    with Journal.open(root) as journal:
        settle_saves(dataset, journal)
        assert changed_outside(dataset, journal) == ()
        found = scene.read_masks()
        for stroke in journal.unsaved():
            for patch in stroke.patches:
                (place,) = [place for place in scene.placements if place.tile.id == patch.tile_id]
                patch.apply(found[place.slices])
        # One act may have been done and not told.
        num_told = len(told)
        assert any(np.array_equal(state, found) for state in states[num_told : num_told + 2])
        # Every file is a whole one, of a moment when it was saved or of the beginning.
        for place in scene.placements:
            with rasterio.open(place.tile.mask_path) as file:
                codes = file.read(1)
            assert any(np.array_equal(dataset.scheme.encode(state[place.slices]), codes) for state in states)
        report = save_tiles(dataset, None, journal)
        assert not report.failed
    (scene,) = plan_scenes(open_dataset(root, scheme="glacier4"))
    np.testing.assert_array_equal(scene.read_masks(), found)
