"""What correcting costs: time for each action, and a simulated person's actions from a prediction to the truth.

    python benchmarks/correction.py [--quick] [--json FILE] [--target PERCENT] [--data DIR --tiles ID …]

`smart_fill_ms`, `smart_fill_first_ms`, `scribble_ms`, `scribble_first_ms`, `snap_ms`, `component_ms`, `stroke_ms`
    Median processor time (of the stroke: time by the clock) of one action on a visible area of 1024 x 1024 px: growing,
    and the first click of a view, which also standardises the bands; solving scribbles, and the first ones of a view,
    with the superpixels that are otherwise cut while a person draws; snapping a patch; finding one; and writing a
    stroke into the journal.
`interactions_ratio`
    Clicks with the smart tools and a brush of radius 5 at hand, over clicks with the brush alone, until at most
    `--target` percent of the valid pixels differ from the truth. Both start from the prediction of the bundled ensemble
    on validation tiles of the sample region, or on labelled tiles of `--data`, which it was not trained on; the person
    knows the truth. Where the labels tell glacier from the rest only, debris counts as glacier.
`interactions_ratio_drags`
    The same where the brush may be dragged: up to 80 px as one action, whatever the path, each step of 3 px in the
    direction that mends most. No hand is as sure, so this is the hardest comparison.

The brush person takes the largest wrong patch and presses where a dab mends most around its deepest pixel. The smart
person looks at the same place and chooses what mends most for an action: smart fill at five strengths (a click to see
it, a click to take it, and one more for every three steps of the wheel), flipping or removing the patch, filling holes,
snapping, scribbling (a stroke a class, one to take it), growing, shrinking, opening or closing the patch or one beside
it by 1 to 3 px, or all of a class in a loop round the view (two actions; a change of operation or of radius is one more
each), or the brush.
What a tool spoils is counted against it.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from napari_glacier.core.correction.edits import EditableMask
from napari_glacier.core.correction.journal import Journal
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.data.mosaic import Mosaic, plan_scenes
from napari_glacier.core.tiling import Window
from napari_glacier.core.tools import components, growing, scribbles, shape
from napari_glacier.core.tools.evidence import Evidence, standardise
from napari_glacier.core.tools.superpixels import superpixels

SAMPLE = Path(__file__).resolve().parents[1] / "sample_data" / "region"
SIDE_PX, BRUSH_RADIUS_PX, DRAG_PX, DRAG_STEP_PX = 1024, 5, 80, 3
PERSONS = ("brush clicks", "smart clicks", "brush drags", "smart drags")
STRENGTHS, DEFAULT_STRENGTH, WHEEL_PER_ACTION = (27, 36, 45, 54, 63), 45, 9
_LOOP_EVERY = 12


def main() -> None:
    """Time the tools, let both persons work, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small area and one tile: tries the code")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--target", type=float, default=2.0, metavar="PERCENT", help="wrong pixels that may be left")
    parser.add_argument("--data", type=Path, default=SAMPLE, metavar="DIR", help="labelled tiles of one's own")
    parser.add_argument("--tiles", nargs="+", metavar="ID", help="those to correct (default: the split val)")
    options = parser.parse_args()
    scene = plan_scenes(open_dataset(options.data))[0]
    prediction = _predict(scene)
    figures: dict[str, Any] = _time_tools(scene, prediction, 256 if options.quick else SIDE_PX, options.rounds)
    figures |= _compare_persons(scene, prediction, options.target, options.quick, options.tiles)
    for name, value in figures.items():
        print(f"{name:<28}{value:>12.3f}" if isinstance(value, float) else f"{name:<28}{value!s:>12}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def _predict(scene: Mosaic) -> Any:
    import torch

    from napari_glacier.nn.ensemble import resolve_models
    from napari_glacier.nn.predictor import Predictor

    torch.set_num_threads(1)
    run = Predictor(resolve_models(None), tta="off", device="cpu", window_px=512, overlap_px=128).run(scene)
    while True:
        try:
            next(run)
        except StopIteration as stop:
            return _as_labelled(stop.value, scene)


def _as_labelled(prediction: Any, scene: Mosaic) -> Any:
    """The prediction in the classes of the labels: where these know glacier alone, debris is glacier."""
    assert scene.dataset.scheme is not None
    if scene.dataset.scheme.num_classes == prediction.scheme.num_classes:
        return prediction
    background, glacier, debris, lake = prediction.probabilities_KHW
    two_KHW = np.stack([background + lake, glacier + debris])
    return replace(prediction, probabilities_KHW=two_KHW, index_HW=two_KHW.argmax(0) * prediction.valid_HW)


# -- time of an action


def _time_tools(scene: Mosaic, prediction: Any, side_px: int, rounds: int) -> dict[str, float]:
    """Milliseconds of each action in a view of `side_px` both ways; the sample is mirrored where it is smaller."""
    whole = _evidence(scene, prediction, scene.whole)
    pad = [(0, max(side_px - length, 0)) for length in scene.shape]
    cut = np.s_[..., :side_px, :side_px]
    image_CHW, valid_HW = scene.read(scene.whole)
    image_CHW = np.pad(image_CHW, [(0, 0), *pad], "symmetric")[cut]
    valid_HW = np.pad(valid_HW, pad, "symmetric")[cut]
    probability_KHW = np.pad(whole.probability_KHW, [(0, 0), *pad], "symmetric")[cut].astype(np.float32)
    index_HW = np.pad(prediction.index_HW, pad, "symmetric")[cut]
    window = Window(0, 0, *valid_HW.shape)
    mean_C, std_C = image_CHW[:, valid_HW].mean(axis=1), image_CHW[:, valid_HW].std(axis=1)

    def fresh() -> Evidence:
        return Evidence(window, standardise(image_CHW, valid_HW, mean_C, std_C), valid_HW, probability_KHW)

    evidence = fresh()
    row, col = (int(k) for k in np.argwhere(valid_HW & (index_HW == 1))[len(np.argwhere(index_HW == 1)) // 3])
    marks_HW = np.full(valid_HW.shape, scribbles.UNMARKED, np.uint8)
    for k, label in enumerate((0, 1, 2)):
        line = (k + 1) * side_px // 4
        marks_HW[line : line + 5, side_px // 10 : -side_px // 10] = label
    within_HW = scribbles.reach_of(marks_HW, 5)
    ready = superpixels(evidence)
    patch = components.component_at(lambda part: index_HW[part.slices], index_HW.shape, row, col)
    patch = patch.padded(7, index_HW.shape)

    def fill(of: Evidence) -> None:
        growing.grow(growing.likeness(of, row, col), row, col, 0.6)

    def solve_first() -> None:
        fine = fresh()
        scribbles.solve_scribbles(fine, marks_HW, superpixels(fine), within_HW)

    return {
        "smart_fill_ms": _milliseconds(lambda: fill(evidence), rounds),
        "smart_fill_first_ms": _milliseconds(lambda: fill(fresh()), rounds),
        "scribble_ms": _milliseconds(lambda: scribbles.solve_scribbles(evidence, marks_HW, ready, within_HW), rounds),
        "scribble_first_ms": _milliseconds(solve_first, rounds),
        "snap_ms": _milliseconds(
            lambda: shape.snap_boundary(
                patch.where_HW, evidence.edges[patch.window.slices], 4, valid_HW[patch.window.slices]
            ),
            rounds,
        ),
        "component_ms": _milliseconds(
            lambda: components.component_at(lambda part: index_HW[part.slices], index_HW.shape, row, col), rounds
        ),
        "stroke_ms": _stroke_ms(scene, rounds),
    }


def _stroke_ms(scene: Mosaic, rounds: int) -> float:
    """A patch of 200 x 200 px on its way to the disk."""
    area = np.ones((200, 200), bool)
    with tempfile.TemporaryDirectory() as folder, Journal.open(Path(folder)) as journal:
        mask = EditableMask(np.zeros(scene.shape, np.uint8), np.ones(scene.shape, bool), scene.placements, journal)
        labels = iter(range(1, 200))

        def draw() -> None:
            index = np.full(area.shape, next(labels) % 2 + 1, np.uint8)
            mask.assign_window(Window(150, 150, 200, 200), index, area, "smart fill")

        found = _milliseconds(draw, rounds, time.perf_counter)
        mask.close()
    return found


def _milliseconds(act: Callable[[], object], rounds: int, clock: Callable[[], float] = time.thread_time) -> float:
    act()
    spent = []
    for _ in range(rounds):
        start = clock()
        act()
        spent.append(1000 * (clock() - start))
    return statistics.median(spent)


# -- actions of two persons


def _evidence(scene: Mosaic, prediction: Any, window: Window) -> Evidence:
    image_CHW, valid_HW = scene.read(window)
    mean_C, std_C = image_CHW[:, valid_HW].mean(axis=1), image_CHW[:, valid_HW].std(axis=1)
    probability_KHW = prediction.probabilities_KHW[:, *window.slices].astype(np.float32)
    return Evidence(window, standardise(image_CHW, valid_HW, mean_C, std_C), valid_HW, probability_KHW)


def _compare_persons(
    scene: Mosaic, prediction: Any, target_percent: float, quick: bool, tiles: list[str] | None
) -> dict[str, Any]:
    places = [p for p in scene.placements if (p.tile.id in tiles if tiles else p.tile.split == "val")]
    places = places[: 1 if quick else None]
    if not places:
        sys.exit("None of these tiles is there, or no tile is of the split val. Name labelled ones with --tiles.")
    totals = dict.fromkeys(PERSONS, 0)
    used: dict[str, int] = {}
    unfinished = dict.fromkeys(totals, 0)
    truth_HW = scene.read_masks()
    for place in places:
        window = Window(place.row, place.col, place.tile.height, place.tile.width)
        evidence = _evidence(scene, prediction, window)
        start_HW, goal_HW = prediction.index_HW[window.slices], truth_HW[window.slices]
        allowed = int(target_percent / 100 * np.count_nonzero(evidence.valid_HW))
        for name in totals:
            person = Person(evidence, start_HW, goal_HW, smart="smart" in name, drags="drags" in name)
            totals[name] += person.work(allowed)
            unfinished[name] += not person.finished
            for tool, count in person.used.items() if "smart" in name else ():
                key = f"{name}: {tool}"
                used[key] = used.get(key, 0) + count
        print(f"{place.tile.id}: {totals}", file=sys.stderr)
    return {
        "target_percent": target_percent,
        **{f"actions_{name.replace(' ', '_')}": number for name, number in totals.items()},
        **{f"unfinished_tiles_{name.replace(' ', '_')}": number for name, number in unfinished.items()},
        "interactions_ratio": totals["smart clicks"] / totals["brush clicks"],
        "interactions_ratio_drags": totals["smart drags"] / totals["brush drags"],
        "tools_used": used,
    }


class Person:
    """Corrects labels until few enough are wrong.

    Parameters
    ----------
    evidence : Evidence
    start_HW, goal_HW : uint8 arrays
        The prediction and the truth.
    smart : bool
        Whether smart tools are in reach, or a brush alone.
    drags : bool
        Whether the brush may be dragged, or leaves dabs.
    """

    def __init__(self, evidence: Evidence, start_HW: Any, goal_HW: Any, *, smart: bool, drags: bool) -> None:
        self.evidence, self.index_HW, self.goal_HW = evidence, start_HW.copy(), goal_HW
        self.valid_HW = evidence.valid_HW
        self.smart, self.drags = smart, drags
        self.cut = superpixels(evidence)
        self.used: dict[str, int] = {}
        self.finished = True
        self._looks = 0
        self._setting: tuple[str, int] = ("grow", 2)
        self._left_HW = np.zeros(self.valid_HW.shape, bool)

    def work(self, allowed: int) -> int:
        """Go on until at most `allowed` pixels are wrong; gives the number of actions.

        Where the tools cannot mend as much, `finished` is False.
        """
        actions = 0
        while True:
            wrong_HW = (self.index_HW != self.goal_HW) & self.valid_HW
            if np.count_nonzero(wrong_HW) <= allowed:
                return actions
            wrong_HW &= ~self._left_HW
            if not wrong_HW.any():
                self.finished = False
                return actions
            patch_HW, row, col = self._worst(wrong_HW)
            name, cost, index_HW = max(self._choices(row, col), key=lambda choice: self._gain(choice[2]) / choice[1])
            if self._gain(index_HW) <= 0:
                # Too fine for these tools: whatever is done spoils more than it mends.
                self._left_HW |= patch_HW
                continue
            self.index_HW = index_HW
            actions += cost
            name, *setting = name.split(":")
            if setting:
                self._setting = setting[0], int(setting[1])
            self.used[name] = self.used.get(name, 0) + cost

    def _gain(self, index_HW: Any) -> int:
        """Wrong pixels fewer than before."""
        before = np.count_nonzero((self.index_HW != self.goal_HW) & self.valid_HW)
        return before - np.count_nonzero((index_HW != self.goal_HW) & self.valid_HW)

    def _worst(self, wrong_HW: Any) -> tuple[Any, int, int]:
        """The largest patch that is wrong in one and the same way, and its deepest pixel."""
        label_HW = np.zeros(wrong_HW.shape, np.int32)
        count = 0
        for label in np.unique(self.goal_HW[wrong_HW]):
            parts_HW, parts = ndimage.label(wrong_HW & (self.goal_HW == label), np.ones((3, 3), bool))
            label_HW[parts_HW > 0] = parts_HW[parts_HW > 0] + count
            count += parts
        sizes = np.bincount(label_HW.ravel())
        sizes[0] = 0
        patch_HW = label_HW == sizes.argmax()
        depth_HW = shape.depth(patch_HW)
        row, col = np.unravel_index(int(depth_HW.argmax()), depth_HW.shape)
        return patch_HW, int(row), int(col)

    def _choices(self, row: int, col: int) -> Iterator[tuple[str, int, Any]]:
        yield "brush", 1, self._brush(row, col)
        if not self.smart:
            return
        goal, size = int(self.goal_HW[row, col]), self.index_HW.shape
        distance_HW = growing.likeness(self.evidence, row, col)
        for strength in STRENGTHS:
            grown_HW = growing.grow(distance_HW, row, col, 3.0 * (strength / 100) ** 2)
            # A click to see it, a click to take it, and the wheel in between.
            cost = 2 + abs(strength - DEFAULT_STRENGTH) // WHEEL_PER_ACTION
            yield "smart fill", cost, self._with(grown_HW, goal)
        yield from self._loops()
        yield from self._scribbles(row, col, goal)
        patch = components.component_at(lambda part: self.index_HW[part.slices], size, row, col)
        yield "flip", 1, self._with(_spread(patch, size), goal)
        around = components.surrounding_class(self.index_HW, _spread(patch, size), self.valid_HW)
        yield "remove", 1, self._with(_spread(patch, size), around)
        for at in self._beside(row, col):
            near = components.component_at(lambda part: self.index_HW[part.slices], size, *at)
            holes_HW = components.holes_of(near.where_HW)
            if holes_HW.any():
                filled = components.Area(near.window, holes_HW)
                yield "fill holes", 1, self._with(_spread(filled, size), int(self.index_HW[at]))
        for at in [(row, col), *self._beside(row, col)]:
            near = components.component_at(lambda part: self.index_HW[part.slices], size, *at)
            whole_HW, label = _spread(near, size), int(self.index_HW[at])
            yield from self._shaped("shape", 1, whole_HW, label)
            snapped_HW = shape.snap_boundary(whole_HW, self.evidence.edges, 4, self.valid_HW)
            yield "snap", 1, self._exchanged(whole_HW, snapped_HW, label)

    def _shaped(self, name: str, cost: int, where_HW: Any, label: int) -> Iterator[tuple[str, int, Any]]:
        """All that Shape can do to a region; another operation or radius than last time is one more action each."""
        nearest_HW = components.nearest_other(self.index_HW, where_HW, self.valid_HW)
        for operation in shape.OPERATIONS:
            for radius_px in (1, 2, 3):
                setting = operation, radius_px
                changes = sum(one != other for one, other in zip(setting, self._setting, strict=True))
                after_HW = shape.reshape(where_HW, operation, radius_px)
                index_HW = self._exchanged(where_HW, after_HW, label, nearest_HW)
                yield f"{name}:{operation}:{radius_px}", cost + changes, index_HW

    def _loops(self) -> Iterator[tuple[str, int, Any]]:
        """Shape all of a class by a loop round the view: choosing the class, drawing the loop."""
        # Looked at now and then: it is for the beginning, and tries forty changes of the whole view.
        self._looks += 1
        for label in np.unique(self.goal_HW) if self._looks % _LOOP_EVERY == 1 else ():
            yield from self._shaped("shape in a loop", 2, self.index_HW == label, int(label))

    def _scribbles(self, row: int, col: int, goal: int) -> Iterator[tuple[str, int, Any]]:
        """A line of each right class through the neighbourhood, as long as it stays on the class; Enter."""
        for half_px in (16, 32, 48):
            top, left = max(row - half_px, 0), max(col - half_px, 0)
            part = np.s_[top : row + half_px, left : col + half_px]
            marks_HW = np.full(self.goal_HW.shape, scribbles.UNMARKED, np.uint8)
            strokes = 0
            for label in np.unique(self.goal_HW[part][self.valid_HW[part]]):
                line_HW = _line_inside((self.goal_HW[part] == label) & self.valid_HW[part])
                marks_HW[part][line_HW] = label
                strokes += bool(line_HW.any())
            if np.unique(marks_HW).size < 3:
                continue
            within_HW = scribbles.reach_of(marks_HW, 5)
            index_HW, _ = scribbles.solve_scribbles(self.evidence, marks_HW, self.cut, within_HW)
            where_HW = within_HW & (index_HW != scribbles.UNMARKED)
            yield "scribble", strokes + 1, np.where(where_HW & self.valid_HW, index_HW, self.index_HW)

    def _beside(self, row: int, col: int) -> list[tuple[int, int]]:
        """A pixel of each other class within a brush's reach."""
        top, left = max(row - 12, 0), max(col - 12, 0)
        near_HW = self.index_HW[top : row + 13, left : col + 13]
        found = []
        for label in np.unique(near_HW):
            if label != self.index_HW[row, col]:
                r, c = np.argwhere(near_HW == label)[0]
                found.append((int(r) + top, int(c) + left))
        return found

    def _with(self, where_HW: Any, label: int) -> Any:
        return np.where(where_HW & self.valid_HW, np.uint8(label), self.index_HW)

    def _exchanged(self, before_HW: Any, after_HW: Any, label: int, nearest_HW: Any = None) -> Any:
        if nearest_HW is None:
            nearest_HW = components.nearest_other(self.index_HW, before_HW, self.valid_HW)
        index_HW = np.where(after_HW, np.uint8(label), np.where(before_HW, nearest_HW, self.index_HW))
        return np.where(self.valid_HW, index_HW, self.index_HW)

    def _brush(self, row: int, col: int) -> Any:
        """One press, or press and drag, with the class that is right at its beginning."""
        goal, size = int(self.goal_HW[row, col]), self.index_HW.shape
        # +1 where painting mends, -1 where it spoils, 0 where it changes nothing.
        worth_HW = np.where(self.goal_HW == goal, 1, -1) * (self.index_HW != goal) * self.valid_HW
        worth_HW[(self.goal_HW != goal) & (self.index_HW != self.goal_HW)] = 0
        painted_HW = np.zeros(size, bool)
        # Whoever paints near an outline holds the brush off it.
        around = [
            (row + down, col + across)
            for down in range(-BRUSH_RADIUS_PX, BRUSH_RADIUS_PX + 1)
            for across in range(-BRUSH_RADIUS_PX, BRUSH_RADIUS_PX + 1)
            if 0 <= row + down < size[0] and 0 <= col + across < size[1]
        ]
        at = max(around, key=lambda place: int(worth_HW[_dab(place, size)].sum()))
        for _ in range(1 + DRAG_PX // DRAG_STEP_PX if self.drags else 1):
            painted_HW[_dab(at, size)] = True
            worth_HW[painted_HW] = 0
            steps = [
                (at[0] + down, at[1] + across)
                for down in (-DRAG_STEP_PX, 0, DRAG_STEP_PX)
                for across in (-DRAG_STEP_PX, 0, DRAG_STEP_PX)
                if (down or across) and 0 <= at[0] + down < size[0] and 0 <= at[1] + across < size[1]
            ]
            gains = [int(worth_HW[_dab(step, size)].sum()) for step in steps]
            if max(gains) <= 0:
                break
            at = steps[int(np.argmax(gains))]
        return self._with(painted_HW, goal)


def _dab(at: tuple[int, int], size: tuple[int, int]) -> tuple[Any, Any]:
    """Pixels of a round brush."""
    reach = np.arange(-BRUSH_RADIUS_PX, BRUSH_RADIUS_PX + 1)
    down, across = np.nonzero(reach[:, None] ** 2 + reach[None, :] ** 2 <= BRUSH_RADIUS_PX**2)
    rows, cols = at[0] + reach[down], at[1] + reach[across]
    inside = (rows >= 0) & (rows < size[0]) & (cols >= 0) & (cols < size[1])
    return rows[inside], cols[inside]


def _line_inside(where_HW: Any) -> Any:
    """The longest of a few straight strokes of a pen of 5 px through a region's deepest pixel that stay inside it."""
    depth_HW = shape.depth(where_HW)
    row, col = np.unravel_index(int(depth_HW.argmax()), depth_HW.shape)
    core_HW = depth_HW > min(3.0, float(depth_HW.max()) * 0.6)
    best: Any = np.zeros(where_HW.shape, bool)
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        line_HW = np.zeros(where_HW.shape, bool)
        for sign in (-1, 1):
            r, c = int(row), int(col)
            while 0 <= r < where_HW.shape[0] and 0 <= c < where_HW.shape[1] and core_HW[r, c]:
                line_HW[r, c] = True
                r, c = r + sign * down, c + sign * across
        if line_HW.sum() > best.sum():
            best = line_HW
    return ndimage.binary_dilation(best, np.ones((5, 5), bool)) & where_HW


def _spread(area: components.Area, size: tuple[int, int]) -> Any:
    where_HW = np.zeros(size, bool)
    where_HW[area.window.slices] = area.where_HW
    return where_HW


if __name__ == "__main__":
    main()
