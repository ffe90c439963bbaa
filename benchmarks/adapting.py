"""Learn from me now: how long it takes, and what it does to tiles that nobody corrected.

    python benchmarks/adapting.py                            the bundled region, which is SYNTHETIC
    python benchmarks/adapting.py --data DIR --model PATH    tiles with masks, and a model that has not seen them

A simulated person accepts the model's prediction, then looks at some of the tiles and paints over the largest mistakes
there with a round brush, as the true mask says; the mask of the other tiles is never seen. Fixed rules, no chance.
Printed: seconds from pressing the button to having the model (a process of its own, libraries and all), and the
Matthews correlation over valid pixels before and after, on the tiles painted on and on the others.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Parse, correct, adapt, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT / "sample_data" / "region" / "val")
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--strokes", type=int, nargs="+", default=[4, 16, 64], help="strokes on each painted tile")
    parser.add_argument("--radius", type=int, default=6, help="of the brush, in pixels")
    parser.add_argument("--painted", type=int, help="tiles painted on (default: half of them)")
    parser.add_argument("--set", nargs="*", default=[], metavar="FLAG", help="further arguments of training.adapt")
    options = parser.parse_args()
    print(f"{'strokes':>8} {'pixels':>8} {'seconds':>8}   {'MCC on painted tiles':>24}   {'MCC on the others':>24}")
    for strokes in options.strokes:
        with tempfile.TemporaryDirectory() as folder:
            print(measure(options, strokes, Path(folder) / "region"), flush=True)


def measure(options: argparse.Namespace, strokes: int, root: Path) -> str:
    """One line of the table."""
    from napari_glacier.core.correction.edits import EditableMask
    from napari_glacier.core.correction.journal import Journal
    from napari_glacier.core.data.dataset import open_dataset
    from napari_glacier.core.data.mosaic import plan_scenes

    shown = open_dataset(options.data)
    dataset, truth = copy_without_masks(shown, root, [tile.id for tile in shown.tiles])
    before = predict(dataset, options.model)
    ids = [tile.id for tile in dataset.tiles]
    painted = ids[:: len(ids) // min(options.painted or len(ids) // 2, len(ids))][: options.painted or len(ids) // 2]
    with Journal.open(root) as journal:
        for scene in plan_scenes(dataset):
            mask = EditableMask(scene.read_masks(), scene.valid(), scene.placements, journal, num_classes=4)
            accepted = np.zeros(scene.shape, np.uint8)
            for place in scene.placements:
                accepted[place.slices] = before[place.tile.id][0]
            mask.assign(accepted, np.ones(scene.shape, bool), tool="accept")
            for place in scene.placements:
                if place.tile.id in painted:
                    valid_HW = before[place.tile.id][1]
                    paint(mask, place, truth[place.tile.id], valid_HW, (strokes, options.radius))
            mask.close()
    started = time.perf_counter()
    command = [sys.executable, "-P", "-m", "training.adapt", "--data", str(root), "--model", options.model]
    result = subprocess.run([*command, *options.set], stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.perf_counter() - started
    model = Path(result.stdout.strip().splitlines()[-1])
    about = json.loads((model / "adapted.json").read_text())
    after = predict(dataset, str(model))
    others = [tile_id for tile_id in ids if tile_id not in painted]
    cells = []
    for group in (painted, others):
        scores = [score(made, truth, group) for made in (before, after)]
        cells.append(f"{scores[0]:10.4f} -> {scores[1]:.4f}".rjust(24))
    return f"{strokes * len(painted):8} {about['corrected_pixels']:8} {seconds:8.1f}   {cells[0]}   {cells[1]}"


def copy_without_masks(shown: Any, root: Path, tile_ids: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """A data set of some tiles without their masks, and these masks by the tiles' ids in it."""
    from napari_glacier.core.data.dataset import open_dataset

    assert shown.scheme is not None
    chosen = [tile for tile in shown.tiles if tile.id in tile_ids]
    for path in {source.path for tile in chosen for source in tile.bands.values()}:
        target = root / path.relative_to(shown.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    (root / "dataset.yaml").write_text(f"scheme: {shown.scheme.name}\n")
    dataset = open_dataset(root)
    # Without masks beside them the tiles may be called otherwise; their first band tells which is which.
    mask_of = {_first_band(tile): shown.read_mask(tile) for tile in chosen}
    return dataset, {tile.id: mask_of[_first_band(tile)] for tile in dataset.tiles}


def _first_band(tile: Any) -> str:
    return str(next(iter(tile.bands.values())).path.name)


def predict(dataset: Any, model: str) -> dict[str, tuple[Any, Any]]:
    """Classes and validity of each tile."""
    from napari_glacier.core.data.mosaic import plan_scenes
    from napari_glacier.nn.ensemble import resolve_models
    from napari_glacier.nn.predictor import Predictor

    predictor = Predictor(resolve_models([model]), tta="off", device="cpu", engine="torch")
    found = {}
    for scene in plan_scenes(dataset):
        run = predictor.run(scene)
        while True:
            try:
                next(run)
            except StopIteration as end:
                made = end.value
                break
        for place in scene.placements:
            found[place.tile.id] = (made.index_HW[place.slices], made.valid_HW[place.slices])
    return found


def paint(mask: Any, place: Any, truth_HW: Any, valid_HW: Any, effort: tuple[int, int]) -> None:
    """Paint the true classes over the innermost point of the largest mistake, again and again."""
    from scipy.ndimage import distance_transform_edt, label

    strokes, radius = effort
    rows, cols = np.ogrid[: truth_HW.shape[0], : truth_HW.shape[1]]
    for _ in range(strokes):
        now_HW = mask[place.slices]
        wrong_HW = (now_HW != truth_HW) & valid_HW
        parts_HW, count = label(wrong_HW)
        if not count:
            return
        largest = np.bincount(parts_HW.ravel())[1:].argmax() + 1
        depth_HW = distance_transform_edt(np.pad(parts_HW == largest, 1))[1:-1, 1:-1]
        row, col = np.unravel_index(depth_HW.argmax(), depth_HW.shape)
        brush_HW = (rows - row) ** 2 + (cols - col) ** 2 <= radius**2
        values_HW = now_HW.copy()
        values_HW[brush_HW] = truth_HW[brush_HW]
        mask.assign_tiles({place.tile.id: (values_HW, brush_HW)}, "paint")


def score(made: dict[str, tuple[Any, Any]], truth: dict[str, Any], tiles: list[str]) -> float:
    """Matthews correlation over the valid pixels of tiles."""
    from sklearn.metrics import matthews_corrcoef

    index = np.concatenate([made[tile_id][0][made[tile_id][1]] for tile_id in tiles])
    true = np.concatenate([truth[tile_id][made[tile_id][1]] for tile_id in tiles])
    return float(matthews_corrcoef(true, index))


if __name__ == "__main__":
    main()
