"""Learn from what a person just corrected: a copy of a model, tuned to the region in seconds.

    python -m training.adapt --data REGION                           the bundled ensemble, to REGION/models
    python -m training.adapt --data REGION --model REGION/runs/20260101-120000-bundled --steps 60
    python -m training.adapt --data REGION --out FOLDER              into a folder that is there or is made

Corrections come from the journal, saved or not (see `corrections`). The decoder of each member learns them and
repeats its old answers elsewhere (see `tuning`). Labels, the journal and the models that are there stay as they are.

FOLDER gets the members, `ensemble.yaml`, `adapted.json` (what was done, and to what effect), `changes.npz` (which
pixels of the region would be mapped otherwise) and `events.jsonl`. The last line on standard output is FOLDER.
Exit 0: done, or stopped (SIGTERM, Ctrl-C, a file called `stop` in FOLDER), then without a model; 2: bad input; 1: else.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from napari_glacier.core.classes import coarsening_sentence
from napari_glacier.core.errors import DataError, GlacierError, SaveError
from napari_glacier.core.files import replacing, write_text_atomically
from napari_glacier.core.runfiles import RunFolder

if TYPE_CHECKING:
    from napari_glacier.core.data.dataset import Dataset
    from napari_glacier.nn.ensemble import Ensemble
    from napari_glacier.nn.prediction import Prediction
    from training.region import Place
    from training.tuning import Settings, Tuned

EXIT_DONE, EXIT_ERROR, EXIT_BAD_INPUT = 0, 1, 2
# Learning takes about so much of the time, looking what would change the rest.
_LEARNING, _SCALE = 0.7, 1000
ADAPTED_FILE, CHANGES_FILE, ENSEMBLE_FILE = "adapted.json", "changes.npz", "ensemble.yaml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parse(arguments)
    from napari_glacier.nn.device import tune_allocator

    tune_allocator()  # before torch is imported
    folder = None
    try:
        folder = RunFolder(options.out) if options.out is not None else _new_folder(options.data)
        folder.path.mkdir(parents=True, exist_ok=True)
        with folder.claim():
            return _adapt(options, folder)
    except GlacierError as error:
        _tell_failure(folder, str(error))
        sys.stderr.write(f"{error}\n")
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        _tell_failure(folder, "Stopped; no model was made.")
        sys.stderr.write("Stopped at once; no model was made.\n")
        return EXIT_ERROR
    except Exception as error:
        _tell_failure(folder, f"{type(error).__name__}: {error}")
        raise


def _adapt(options: argparse.Namespace, folder: RunFolder) -> int:
    from napari_glacier.core.data.dataset import open_dataset
    from napari_glacier.nn.ensemble import BUNDLED, resolve_models
    from training.region import plan_crops, read_crops, read_places
    from training.run import StopSwitch
    from training.tuning import Settings, how_far_it_carries, tune

    started = time.perf_counter()
    if (folder.path / ENSEMBLE_FILE).exists():
        raise SaveError(f"{folder.path} holds a model already. Name another folder with --out.")
    folder.append_event("start", message="Reading the corrections…")
    dataset = open_dataset(options.data, options.scheme)
    places = read_places(dataset)
    names = options.model or [BUNDLED]
    ensemble, before = resolve_models(names), resolve_models(names)
    into = _classes_of_labels(ensemble, dataset)
    settings = Settings(steps=options.steps, lr=options.lr, replay=options.replay, seed=options.seed)
    effects: list[Tuned] = []
    carried: float | None = None
    course = _Course(folder, settings.steps * len(ensemble.members))
    with StopSwitch(folder) as should_stop:
        windows = plan_crops(places, settings.seed)
        for number, member in enumerate(ensemble.members):
            crops = read_crops(places, windows, member, into)
            if number == 0:
                folder.append_event("progress", message="Trying how far the corrections carry…")
                carried = how_far_it_carries(member.model, crops, settings, should_stop)
            first = number * settings.steps

            def on_step(step: int, first: int = first) -> None:
                course.learn(first + step)

            effects.append(tune(member.model, crops, settings, on_step, should_stop))
            if should_stop():
                folder.append_event("stopped", message="Stopped; no model was made.")
                return EXIT_DONE

        found = _changes(
            (before, ensemble), places, options.device, into, on_progress=course.look, should_stop=should_stop
        )
        if found is None:
            folder.append_event("stopped", message="Stopped; no model was made.")
            return EXIT_DONE
    changes, share = found
    about = _about(options, names, places, effects, settings) | share
    assert dataset.scheme is not None
    about["carried"] = None if carried is None else round(carried, 4)
    notes = [
        *_missing_bands(ensemble, places),
        coarsening_sentence(ensemble.scheme.class_names, dataset.scheme.class_names),
    ]
    about["note"] = " ".join(note for note in notes if note)
    about["seconds"] = round(time.perf_counter() - started, 1)
    with replacing(folder.path / CHANGES_FILE) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **changes)
    write_text_atomically(folder.path / ADAPTED_FILE, json.dumps(about, indent=2) + "\n")
    _save(ensemble, dataset, places, about, folder)
    folder.append_event("done", **about)
    sys.stdout.write(f"{folder.path}\n")
    return EXIT_DONE


class _Course:
    """Tells how far it is on one scale, from the first step of learning to the last look at what would change.

    There is no way back on it: for lack of memory looks begin again.
    """

    def __init__(self, folder: RunFolder, num_steps: int) -> None:
        self._folder, self._num_steps = folder, num_steps
        self._furthest = 0.0

    def learn(self, step: int) -> None:
        if step % 5 == 0:
            self._tell(_LEARNING * step / self._num_steps, "Learning…")

    def look(self, done: int, total: int) -> None:
        self._tell(_LEARNING + (1 - _LEARNING) * done / total, "Looking what would change…")

    def _tell(self, share: float, message: str) -> None:
        self._furthest = max(self._furthest, share)
        self._folder.append_event("progress", done=round(_SCALE * self._furthest), total=_SCALE, message=message)


def _missing_bands(ensemble: "Ensemble", places: Sequence["Place"]) -> list[str]:
    """What the models look at and some of the tiles do not have, a sentence a scene."""
    from napari_glacier.core.channels import required_bands
    from napari_glacier.nn.scene import band_gaps, gaps_warning

    bands = tuple(dict.fromkeys(band for one in ensemble.members for band in required_bands(one.card.channels)))
    return [said for place in places for said in gaps_warning(place.scene, bands, band_gaps(place.scene, bands))]


def _changes(
    before_and_after: tuple["Ensemble", "Ensemble"],
    places: Sequence["Place"],
    device: str,
    into: tuple[int, ...],
    *,
    on_progress: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> tuple[dict[str, Any], dict[str, int]] | None:
    """The region's classes, those of the labels, by the old and the new model, by tile; and how many pixels differ.

    None where a stop was asked for, which is heard after each pass through a network.
    """
    from napari_glacier.nn.predictor import Predictor
    from training.region import Excerpt

    arrays: dict[str, Any] = {}
    # The scene with most corrections is the one that a person looks at.
    place = max(places, key=lambda one: sum(c.num_drawn + c.num_confirmed for c in one.corrections))
    excerpt = Excerpt(place)
    maps: list[Prediction] = []
    for ensemble in before_and_after:
        run = Predictor(ensemble, tta="off", device=device, engine="torch").run(excerpt)
        while True:
            if should_stop():
                run.close()
                return None
            try:
                progress = next(run)
            except StopIteration as end:
                maps.append(end.value)
                break
            if not progress.preparing:
                on_progress(progress.done + len(maps) * progress.total, 2 * progress.total)
    num_pixels = int(maps[0].valid_HW.sum())
    old_HW, new_HW = (np.take(np.asarray(into, np.uint8), one.index_HW) if into else one.index_HW for one in maps)
    num_changed = int((old_HW != new_HW).sum())
    for at in excerpt.placements:
        top, left = max(at.row, 0), max(at.col, 0)
        bottom = min(at.row + at.tile.height, excerpt.shape[0])
        right = min(at.col + at.tile.width, excerpt.shape[1])
        part = np.s_[top:bottom, left:right]
        arrays[f"{at.tile.id}/at"] = np.array([top - at.row, left - at.col])
        arrays[f"{at.tile.id}/before"] = old_HW[part]
        arrays[f"{at.tile.id}/after"] = new_HW[part]
    return arrays, {"shown_pixels": num_pixels, "changed_pixels": num_changed}


def _about(
    options: argparse.Namespace,
    names: Sequence[str],
    places: Sequence["Place"],
    effects: Sequence["Tuned"],
    settings: "Settings",
) -> dict[str, Any]:
    """What was done, in plain values."""
    own = [one for place in places for one in place.corrections]
    return {
        "adapted_from": [str(name) for name in names],
        "data": str(options.data),
        "tiles": [one.tile_id for one in own],
        "corrected_pixels": sum(one.num_drawn for one in own),
        "confirmed_pixels": sum(one.num_confirmed for one in own),
        "settings": asdict(settings),
        **{
            key: round(float(np.mean([getattr(effect, key) for effect in effects])), 4)
            for key in ("right_before", "right_after", "changed_elsewhere")
        },
    }


def _save(
    ensemble: "Ensemble", dataset: "Dataset", places: Sequence["Place"], about: dict[str, Any], folder: RunFolder
) -> None:
    """Write the members with their provenance, then the ensemble file that makes a model of them."""
    from napari_glacier.core.data.seen_tiles import deciding_band, tile_fingerprint
    from napari_glacier.nn.checkpoint import save_checkpoint

    tiles = [dataset.tile(tile_id) for tile_id in about["tiles"]]
    pixels = about["corrected_pixels"] + about["confirmed_pixels"]
    members = []
    for number, (member, weight) in enumerate(zip(ensemble.members, ensemble.weights, strict=True)):
        card = member.card
        seen = [tile_fingerprint(dataset, tile, deciding_band(card.channels)) for tile in tiles]
        figures = ("right_before", "right_after", "changed_elsewhere", "corrected_pixels", "confirmed_pixels")
        adapted = replace(
            card,
            name=f"{card.name}, adapted",
            recipe="adapt",
            training_data=f"{pixels} corrected pixels of {dataset.root.name} ({', '.join(about['tiles'])}); before "
            f"that: {card.training_data or 'not known'}",
            # What the old model had scored, the new one has not.
            metrics={key: about[key] for key in figures},
            created="",
            seen_tiles=tuple(dict.fromkeys((*card.seen_tiles, *seen))) if card.seen_tiles else (),
        )
        file_name = f"member_{number}.safetensors"
        save_checkpoint(folder.path / file_name, member.model, adapted, half=True)
        members.append({"path": file_name, "weight": float(weight)})
    content: dict[str, Any] = {"name": f"{ensemble.name}, adapted", "members": members, "average": ensemble.average}
    if ensemble.thresholds:
        content["thresholds"] = ensemble.thresholds
    if ensemble.tta is not None:
        content["tta"] = ensemble.tta
    if ensemble.scales is not None:
        content["scales"] = list(ensemble.scales)
    heading = f"# {ensemble.name}, adapted to {pixels} corrected pixels of {dataset.root.name}; see {ADAPTED_FILE}.\n"
    write_text_atomically(folder.path / ENSEMBLE_FILE, heading + yaml.safe_dump(content, sort_keys=False))


def _classes_of_labels(ensemble: "Ensemble", dataset: "Dataset") -> tuple[int, ...]:
    """Of each class of the model, that of the labels; empty where they are the same."""
    from napari_glacier.core.classes import coarser_classes

    if dataset.scheme is None:
        raise DataError(f"The classes of {dataset.root} are not known. Name their scheme with --scheme.")
    of_model, of_labels = ensemble.scheme.class_names, dataset.scheme.class_names
    if of_model == of_labels:
        return ()
    into = coarser_classes(of_model, of_labels)
    if into is None:
        raise DataError(
            f"The model tells {', '.join(of_model)} apart, the labels have {', '.join(of_labels)}. Choose a model of "
            "the labels' classes, or one that divides them further."
        )
    return into


def _new_folder(data: Path) -> RunFolder:
    root = data.expanduser().absolute()
    try:
        return RunFolder.create((root if root.is_dir() else root.parent) / "models", "adapted")
    except OSError as error:
        raise DataError(
            f"No folder can be made in {root / 'models'} ({error.strerror}). Name one with --out."
        ) from error


def _tell_failure(folder: RunFolder | None, message: str) -> None:
    if folder is not None:
        with suppress(OSError):  # where the disk is full, standard error has to do
            folder.append_event("failed", message=message)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.adapt", description="Tune a model to what was corrected in a dataset, in seconds."
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the dataset, with its journal")
    parser.add_argument(
        "--model", nargs="+", metavar="NAME|PATH", help="model to start from (default: the bundled ensemble)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the new model (default: in DIR/models)")
    parser.add_argument("--scheme", help="class scheme of the labels, where they do not tell")
    parser.add_argument("--steps", type=int, default=16, metavar="N", help="steps a member (default: 16)")
    parser.add_argument("--lr", type=float, default=5e-4, help="peak learning rate (default: 5e-4)")
    parser.add_argument(
        "--replay", type=float, default=30.0, metavar="W", help="weight of the old answers elsewhere (default: 30)"
    )
    parser.add_argument("--device", default="auto", help="where the region is mapped: auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.steps < 1 or not 0 < options.lr < float("inf") or options.seed < 0:
        parser.error("--steps is 1 or more, --lr above 0, and --seed 0 or more")
    if not 0 <= options.replay < float("inf"):
        parser.error("--replay is 0 or more")
    return options


if __name__ == "__main__":
    sys.exit(main())
