"""What correcting costs: time for each action, and a simulated person's actions from a prediction to the truth.

    python benchmarks/correction.py [--quick] [--json FILE] [--target PERCENT] [--data DIR --tiles ID …]

`smart_fill_ms`, `smart_fill_first_ms`, `scribble_ms`, `scribble_first_ms`, `snap_ms`, `outline_ms`, `component_ms`,
`stroke_ms`
    Median processor time (of the stroke: time by the clock) of one action on a visible area of 1024 x 1024 px: growing,
    and the first click of a view, which also standardises the bands; solving scribbles, and the first ones of a view,
    with the superpixels that are otherwise cut while a person draws; snapping a patch; drawing an outline anew by a
    line of 200 px; finding a patch; and writing a stroke into the journal.
`interactions_ratio_smart`, `interactions_ratio_learning`
    Clicks over those with a brush of radius 5 alone, each a dab, until at most `--target` percent of the valid pixels
    of every tile differ from the truth: with the smart tools at hand, and with the queue and "Learn from me now" too.
    All start from one prediction of models that have not learnt from these tiles: those of a cross-validation
    (`--crossval RUN`, by the trainer; of several the mean), or the bundled ensemble on validation tiles of the sample
    region or on labelled tiles of `--data`. Views are those of `--tta`. Where the labels tell glacier from the rest
    only, debris counts as glacier.
`…_loose_drags`, `…_sure_drags`
    The same where the brush may be dragged, up to 80 px as one action: by the hand that draws her loops and outlines,
    which keeps within some pixels of where it should go; and by one that is surer than any, which takes each step of
    3 px in the direction that mends most. The second is the hardest comparison.

The person (see `annotator.py`) knows the truth and looks at the largest mistake. With the queue she is led to its
regions, best first, and mends the patches that reach into each, whole: large ones in a first round and those half as
large in each later one. A region without mistakes she passes by. After 40 actions she lets the model learn (two
actions: learn, and take over what it would change where that mends a fiftieth of what is wrong, or drop it; what she
has drawn stays), and after as many again, until a lesson mends less. For that the models must know the labels' classes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parent))
from adapting import copy_without_masks
from annotator import Brush, Person

from napari_glacier.core.config_files import load_config
from napari_glacier.core.correction.attention import AttentionQueue
from napari_glacier.core.correction.edits import EditableMask
from napari_glacier.core.correction.journal import Journal
from napari_glacier.core.data.dataset import Dataset, open_dataset
from napari_glacier.core.data.mosaic import Mosaic, Placement, plan_scenes
from napari_glacier.core.tiling import Window
from napari_glacier.core.tools import components, growing, scribbles, shape
from napari_glacier.core.tools.evidence import Evidence, standardise
from napari_glacier.core.tools.redrawing import redraw_outline
from napari_glacier.core.tools.superpixels import superpixels

BUNDLED = "bundled"
SAMPLE = Path(__file__).resolve().parents[1] / "sample_data" / "region"
SIDE_PX = 1024
PERSONS = ("brush", "smart", "learning")
# How the brush is used, and what the names of these figures end with.
BRUSHES = {"dabs": "", "loose": "_loose_drags", "sure": "_sure_drags"}
LEARN_EVERY, REGION_RIM_PX = 40, 12
# Wrong patches that she mends in the first round through the queue, and in the last one.
LARGE_PX, SMALL_PX = 3200, 200
_WORTH_LEARNING = 0.02


def main() -> None:
    """Time the tools, let both persons work, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small area and one tile: tries the code")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--target", type=float, default=2.0, metavar="PERCENT", help="wrong pixels that may be left")
    parser.add_argument("--data", type=Path, default=SAMPLE, metavar="DIR", help="labelled tiles of one's own")
    parser.add_argument("--tiles", nargs="+", metavar="ID", help="those to correct (default: the split val)")
    parser.add_argument(
        "--crossval",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="runs of the trainer with the same folds, for these data",
    )
    parser.add_argument("--tta", default="off", help="views of the prediction (default: off)")
    parser.add_argument("--folds", type=int, nargs="+", metavar="N", help="which of them (default: all)")
    parser.add_argument("--persons", nargs="+", choices=PERSONS, default=PERSONS, help="whose actions to count")
    parser.add_argument("--brush", nargs="+", choices=BRUSHES, default=BRUSHES, help="how the brush is used")
    parser.add_argument("--skip-times", action="store_true", help="count actions only")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    if not options.skip_times:
        scene = plan_scenes(open_dataset(options.data))[0]
        prediction = _predict(scene, [BUNDLED])
        figures = _time_tools(scene, prediction, 256 if options.quick else SIDE_PX, options.rounds)
    figures |= _compare_persons(options)
    for name, value in figures.items():
        print(f"{name:<34}{value:>12.3f}" if isinstance(value, float) else f"{name:<34}{value!s:>12}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def _predict(scene: Mosaic, models: Sequence[str], tta: str = "off") -> Any:
    import torch

    from napari_glacier.nn.ensemble import resolve_models
    from napari_glacier.nn.predictor import Predictor

    torch.set_num_threads(1)
    run = Predictor(resolve_models(models), tta=tta, device="cpu", window_px=512, overlap_px=128).run(scene)
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
        "outline_ms": _milliseconds(lambda: _cross(index_HW == 1), rounds),
        "component_ms": _milliseconds(
            lambda: components.component_at(lambda part: index_HW[part.slices], index_HW.shape, row, col), rounds
        ),
        "stroke_ms": _stroke_ms(scene, rounds),
    }


def _cross(region_HW: Any) -> None:
    """A line of 200 px, up and down across the middle of a view, as the new outline of what lies there."""
    row, col = (length // 2 for length in region_HW.shape)
    line = [(row + 8.0 * (k % 2), col - 100.0 + 10 * k) for k in range(21)]
    redraw_outline(lambda part: region_HW[part.slices], region_HW.shape, line)


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


# -- actions of three persons


def _compare_persons(options: argparse.Namespace) -> dict[str, Any]:
    shown = open_dataset(options.data)
    totals: dict[str, int] = {}
    for models, tile_ids in _models(options, shown):
        for brush in options.brush:
            with tempfile.TemporaryDirectory() as folder:
                root = Path(folder) / "region"
                for name, per_tile in _work_on(shown, tile_ids, models, root, options, brush=brush).items():
                    key = f"{name}{BRUSHES[brush]}"
                    for tile_id, actions in per_tile.items():
                        totals[f"{tile_id}: {key}"] = actions
                        totals[f"actions_{key}"] = totals.get(f"actions_{key}", 0) + actions
    ratios = {
        f"interactions_ratio_{name}{way}": totals[f"actions_{name}{way}"] / totals[f"actions_brush{way}"]
        for name in PERSONS[1:]
        for way in BRUSHES.values()
        if f"actions_{name}{way}" in totals and f"actions_brush{way}" in totals
    }
    return {"target_percent": options.target, **totals, **ratios}


def _models(options: argparse.Namespace, shown: Dataset) -> Iterator[tuple[list[str], list[str]]]:
    """Models, with tiles that they have not learnt from."""
    if options.crossval is None:
        ids = options.tiles or [tile.id for tile in shown.tiles if tile.split == "val"]
        ids = [tile.id for tile in shown.tiles if tile.id in ids][: 1 if options.quick else None]
        if not ids:
            sys.exit("None of these tiles is there, or no tile is of the split val. Name labelled ones with --tiles.")
        yield [BUNDLED], ids
        return
    for folder in sorted(options.crossval[0].glob("fold-*")):
        if not options.folds or int(folder.name.removeprefix("fold-")) in options.folds:
            folders = [run / folder.name for run in options.crossval]
            held_out = [load_config(one / "run.yaml").data.val_tiles or [] for one in folders]
            if any(set(one) != set(held_out[0]) for one in held_out):
                sys.exit(f"{folder.name} of these runs holds out other tiles. Give runs of the same folds.")
            yield [str(one) for one in folders], held_out[0]


def _work_on(
    shown: Dataset,
    tile_ids: Sequence[str],
    models: Sequence[str],
    root: Path,
    options: argparse.Namespace,
    *,
    brush: Brush,
) -> dict[str, dict[str, int]]:
    """Actions of each person on each tile, negative where the tools cannot reach the target."""
    dataset, truth = copy_without_masks(shown, root, tile_ids)
    scene = plan_scenes(dataset)[0]
    prediction = _predict(scene, models, options.tta)
    actions: dict[str, dict[str, int]] = {}
    for name in options.persons:
        desks = [
            Desk(scene, place, prediction, truth[place.tile.id], options.target, smart=name != "brush", brush=brush)
            for place in scene.placements
        ]
        if name == "learning":
            if not _knows_classes(models, scene):
                continue
            QueueWork(desks, scene, prediction, models).work(prediction.index_HW)
        else:
            for desk in desks:
                desk.actions = desk.person.work(desk.allowed)
        actions[name] = {desk.place.tile.id: desk.actions for desk in desks}
        print(f"{name}{BRUSHES[brush]}: {actions[name]}", file=sys.stderr, flush=True)
        unfinished = [desk.place.tile.id for desk in desks if not desk.is_done]
        if unfinished:
            print(f"{name}: the target was not reached on {unfinished}", file=sys.stderr)
    return actions


def _knows_classes(models: Sequence[str], scene: Mosaic) -> bool:
    from napari_glacier.nn.ensemble import resolve_models

    assert scene.dataset.scheme is not None
    return resolve_models(models).scheme.class_names == scene.dataset.scheme.class_names


def _evidence(scene: Mosaic, prediction: Any, window: Window) -> Evidence:
    image_CHW, valid_HW = scene.read(window)
    mean_C, std_C = image_CHW[:, valid_HW].mean(axis=1), image_CHW[:, valid_HW].std(axis=1)
    probability_KHW = prediction.probabilities_KHW[:, *window.slices].astype(np.float32)
    return Evidence(window, standardise(image_CHW, valid_HW, mean_C, std_C), valid_HW, probability_KHW)


class Desk:
    """A tile with the person who works on it."""

    def __init__(
        self,
        scene: Mosaic,
        place: Placement,
        prediction: Any,
        goal_HW: Any,
        target_percent: float,
        *,
        smart: bool,
        brush: Brush,
    ) -> None:
        self.scene, self.place = scene, place
        self.window = Window(place.row, place.col, place.tile.height, place.tile.width)
        start_HW = prediction.index_HW[self.window.slices]
        evidence = _evidence(scene, prediction, self.window)
        self.person = Person(evidence, start_HW, goal_HW, smart=smart, brush=brush)
        self.allowed = int(target_percent / 100 * np.count_nonzero(self.person.valid_HW))
        self.actions = 0
        self.known_HW = np.zeros(goal_HW.shape, bool)

    @property
    def is_done(self) -> bool:
        """Whether few enough pixels are wrong."""
        return np.count_nonzero(self.person.wrong()) <= self.allowed

    def act(self, within_HW: Any, mask: EditableMask, least_px: int = 1) -> int:
        """One action, and its stroke in the journal; gives what it cost."""
        before_HW = self.person.index_HW
        cost = self.person.act(within_HW, least_px)
        changed_HW = self.person.index_HW != before_HW
        if changed_HW.any():
            tool = "paint" if (self.person.drawn_HW & changed_HW).any() else "accept"
            mask.assign_tiles({self.place.tile.id: (self.person.index_HW, changed_HW)}, tool)
            self.known_HW |= self.person.drawn_HW
        self.actions += cost
        return cost

    def area_around(self, window: Window) -> Any:
        """Pixels of the tile in and around a window of the scene."""
        where_HW = np.zeros(self.known_HW.shape, bool)
        top, left = window.row - self.window.row - REGION_RIM_PX, window.col - self.window.col - REGION_RIM_PX
        bottom, right = top + window.height + 2 * REGION_RIM_PX, left + window.width + 2 * REGION_RIM_PX
        where_HW[max(top, 0) : bottom, max(left, 0) : right] = True
        return where_HW


class QueueWork:
    """The person with the smart tools, the queue, and "Learn from me now"; her strokes go into a journal."""

    def __init__(self, desks: Sequence[Desk], scene: Mosaic, prediction: Any, models: Sequence[str]) -> None:
        self.desks, self.scene, self.models = desks, scene, models
        self._queue = AttentionQueue(prediction.entropy_HW, prediction.valid_HW)
        self._least_px = LARGE_PX
        self._root = scene.dataset.root

    def work(self, start_HW: Any) -> None:
        """Go on until the target is reached on every tile, or nothing more can be done."""
        scheme = self.scene.dataset.scheme
        assert scheme is not None
        with Journal.open(self._root) as journal:
            blank_HW = np.zeros(self.scene.shape, np.uint8)
            placed = self.scene.placements
            mask = EditableMask(blank_HW, self.scene.valid(), placed, journal, num_classes=scheme.num_classes)
            mask.assign(start_HW, np.ones(self.scene.shape, bool), "accept")
            since, learns = 0, True
            while not all(desk.is_done for desk in self.desks):
                desk, spent = self._mend_next(mask)
                if not spent:
                    break
                since += spent
                if learns and since >= LEARN_EVERY and not all(one.is_done for one in self.desks):
                    actions, share = self._learn(mask)
                    desk.actions += actions
                    # Whom it gained little does not ask again.
                    since, learns = 0, share > _WORTH_LEARNING
            mask.close()

    def _mend_next(self, mask: EditableMask) -> tuple[Desk, int]:
        """Mend the best region of the queue in which something large is wrong; the largest mistake where none is."""
        while self._least_px >= SMALL_PX:
            for region in self._queue.regions():
                desk = self._desk_at(region.window)
                if desk is None or desk.is_done:
                    continue
                within_HW = desk.area_around(region.window)
                spent = 0
                while not desk.is_done and (cost := desk.act(within_HW, mask, self._least_px)):
                    spent += cost
                if spent:
                    return desk, spent
            self._least_px //= 2
        desk = max(self.desks, key=lambda one: -1 if one.is_done else int(np.count_nonzero(one.person.wrong())))
        return desk, desk.act(True, mask)

    def _desk_at(self, window: Window) -> Desk | None:
        row, col = window.row + window.height // 2, window.col + window.width // 2
        for desk in self.desks:
            if 0 <= row - desk.window.row < desk.window.height and 0 <= col - desk.window.col < desk.window.width:
                return desk
        return None

    def _learn(self, mask: EditableMask) -> tuple[int, float]:
        """Let a copy of the model learn, see what it would change, take that over or drop it; actions, share mended."""
        command = [sys.executable, "-P", "-m", "training.adapt", "--data", str(self._root), "--model", *self.models]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
        wrong = [0, 0]
        taken = []
        with np.load(Path(done.stdout.strip().splitlines()[-1]) / "changes.npz") as file:
            for desk in self.desks:
                before_HW, after_HW = (file[f"{desk.place.tile.id}/{when}"] for when in ("before", "after"))
                changed_HW = (before_HW != after_HW) & ~desk.known_HW
                taken.append((np.where(changed_HW, after_HW, desk.person.index_HW), changed_HW))
                wrong[0] += np.count_nonzero(desk.person.wrong())
                wrong[1] += np.count_nonzero((taken[-1][0] != desk.person.goal_HW) & desk.person.valid_HW)
        print(f"  learnt: {wrong[0]} -> {wrong[1]} px wrong", file=sys.stderr, flush=True)
        gain = 1 - wrong[1] / max(wrong[0], 1)
        if gain > _WORTH_LEARNING:
            mask.assign_tiles({desk.place.tile.id: one for desk, one in zip(self.desks, taken, strict=True)}, "accept")
            for desk, (index_HW, _) in zip(self.desks, taken, strict=True):
                desk.person.look_again(index_HW)
        return 2, gain


if __name__ == "__main__":
    main()
