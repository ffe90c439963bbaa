"""Several models from one configuration: the folds of a cross-validation, or members with seeds of their own.

Each is a run folder inside the run's folder (`fold-1` …, `member-1` …), trained by a process of its own; what is done
is not done again when the run goes on. In the end the folder holds `ensemble.yaml`, so that it can be used as a
model, and metrics: of folds those out of fold, each tile predicted by the model that has not seen it.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

from napari_glacier.core.config import RunConfig
from napari_glacier.core.config_files import load_config, save_config
from napari_glacier.core.data.leakage import Leakage
from napari_glacier.core.errors import ConfigError
from napari_glacier.core.files import write_text_atomically
from napari_glacier.core.runfiles import RunFolder
from napari_glacier.nn.checkpoint import LoadedModel
from napari_glacier.nn.ensemble import ENSEMBLE_FILE
from training.children import Run, run_side_by_side
from training.folds import (
    FOLDS_FILE,
    LEAKAGE_FILE,
    Folds,
    check_folds_alone,
    named_tiles,
    settle_folds,
    write_leakage,
)
from training.outoffold import Scoring, score_folds, score_members, write_ensemble
from training.reporting import Reporter, logger, write_per_class
from training.scorecard import scorecard, write_scorecard
from training.source import LabelledTiles, Notes, known_tiles, open_labelled_tiles, open_training_data
from training.start import load_start, prepare


def run_many(config: RunConfig, folder: RunFolder, devices: Sequence[str], should_stop: Callable[[], bool]) -> None:
    """Train the folds or members of a configuration, and bring them together.

    The caller holds the folder (`RunFolder.claim`) and has written the configuration into it. The last event is done,
    stopped, or failed (where a model could not be trained; the others are trained all the same); only what is raised
    is left for the caller to tell.

    Parameters
    ----------
    config : RunConfig
        With `folds`, or `members` above 1.
    folder : RunFolder
        A `folds.yaml` in it is used; else one is written.
    devices : sequence of str
        ``cuda:0``, …, ``cpu``: one process on each at a time. The first one also predicts in the end.
    should_stop : callable
        Asked a few times a second; a stop is passed on to the processes, and waited for.

    Raises
    ------
    GlacierError
        Before anything is trained, with one sentence on what does not fit.
    """
    assert config.folds is not None or config.members > 1
    assert devices
    report = Reporter(folder, True)
    notes = Notes()
    runs, labelled, folds = _fold_runs(config, folder, notes) if config.folds else _member_runs(config, folder)
    # Finds what does not fit before several processes stumble over it.
    prepare(runs[0].config, resuming=runs[0].folder.resume_path.is_file())
    _announce(config, runs, devices, report)
    said = {event.get("message") for event in folder.events()}
    for kind, texts in (("log", notes.messages), ("warning", notes.warnings)):
        for text in dict.fromkeys(texts):
            if text not in said:
                report.message(text, kind)

    said_of: dict[str, tuple[str, int]] = {}

    def tell(run: Run) -> None:
        if run.state != "failed" and said_of.get(run.name) != (run.state, run.epoch):
            said_of[run.name] = (run.state, run.epoch)
            logger.info(_said_of(run))
        fields: dict[str, Any] = {"message": run.message} if run.state == "failed" else {}
        report.event(
            "fold",
            number=run.number,
            name=run.name,
            state=run.state,
            epoch=run.epoch,
            epochs=run.epochs,
            val_mcc=run.val_mcc,
            **fields,
        )
        if run.state == "failed":
            report.message(f"{run.name} failed: {run.message}", "warning")

    run_side_by_side(runs, devices, should_stop, tell)
    failed = [run for run in runs if run.state == "failed"]
    if failed:
        reasons = "; ".join(f"{run.name}: {run.message}" for run in failed)
        _finish(folder, "failed", f"{len(failed)} of {len(runs)} models could not be trained ({reasons}).")
        return
    left = [run.name for run in runs if run.state != "done"]
    if left or not _bring_together(
        config, folder, runs, labelled=labelled, folds=folds, device=devices[0], should_stop=should_stop, report=report
    ):
        waiting = ", ".join(left) or "the predictions"
        _finish(folder, "stopped", f"Stopped. Resuming goes on with {waiting}.")


def _said_of(run: Run) -> str:
    score = "" if run.val_mcc is None else f", best validation MCC {run.val_mcc:.4f}"
    return f"{run.name} {run.state}, epoch {run.epoch} of {run.epochs}{score}"


def _finish(folder: RunFolder, kind: str, message: str, **fields: Any) -> None:
    logger.info(message)
    folder.append_event(kind, message=message, **fields)


def _fold_runs(config: RunConfig, folder: RunFolder, notes: Notes) -> tuple[list[Run], LabelledTiles, Folds]:
    check_folds_alone(config)
    assert config.folds is not None
    labelled = _tiles_of_folds(config, folder, notes)
    folds = settle_folds(folder.path / FOLDS_FILE, labelled, config.folds, config.seed, config.data.splits)
    leakage = write_leakage(folder.path / LEAKAGE_FILE, labelled, folds, config.data.buffer_px)
    runs = []
    for number, fold in enumerate(folds, start=1):
        own = _own_config(config, folder, val_tiles=fold)
        runs.append(_prepared(number, f"fold-{number}", own, folder))
        if runs[-1].folder.events() and sorted(runs[-1].config.data.val_tiles or ()) != sorted(fold):
            raise ConfigError(
                f"fold-{number} has begun with other tiles than {FOLDS_FILE} names now. Put the file back as it was, "
                "or start a new run with it."
            )
    notes.messages += [*_leakage_sentences(leakage), *labelled.notes.messages]
    notes.warnings += labelled.notes.warnings
    begun = runs[0].folder.resume_path.is_file()
    if not begun and (learnt := known_tiles(labelled.tiles, _seen(config))):
        notes.warnings.append(
            f"The model to start from has learnt from {len(learnt)} of the {len(labelled.tiles)} tiles: out-of-fold "
            "scores and thresholds flatter the new ones. Start from a model of other tiles."
        )
    return runs, labelled, folds


def _tiles_of_folds(config: RunConfig, folder: RunFolder, notes: Notes) -> LabelledTiles:
    """The labelled tiles; once a fold has begun, without those that were labelled since."""
    labelled = open_labelled_tiles(config.data)
    path = folder.path / FOLDS_FILE
    if not path.is_file() or not RunFolder(folder.path / "fold-1").events():
        return labelled
    known = set(named_tiles(path)) | {tile_id for tile_id, split in labelled.split_of.items() if split == "train"}
    tile_ids = [tile.id for tile in labelled.tiles.tiles]
    new = [tile_id for tile_id in tile_ids if tile_id not in known]
    if not new:
        return labelled
    notes.messages.append(
        f"{len(new)} tile(s) were labelled since the folds were made, and are left out: {', '.join(new[:12])}. A new "
        "run learns from them."
    )
    kept = [tile_id for tile_id in tile_ids if tile_id in known]
    return open_labelled_tiles(config.data.model_copy(update={"tiles": kept}))


def _leakage_sentences(leakage: Sequence[Leakage]) -> list[str]:
    """What a person should know of contact across the folds, in a sentence or two."""
    count = sum(len(found.leaks) for found in leakage)
    sentences = [Leakage(leakage[0].buffer_px, (), leakage[0].unplaced).summary()] if leakage[0].unplaced else []
    if count:
        sentences.append(
            f"{count} pair(s) of tiles across the folds' splits are nearer than {leakage[0].buffer_px} px; the "
            f"training pixels there do not count ({LEAKAGE_FILE})."
        )
    return sentences


def _member_runs(config: RunConfig, folder: RunFolder) -> tuple[list[Run], LabelledTiles | None, Folds]:
    # Held out once: drawn by each member's own seed, the tiles would differ.
    held_out = config.data.val_tiles
    first = RunFolder(folder.path / "member-1")
    if first.config_path.is_file():
        held_out = load_config(first.config_path).data.val_tiles
    elif config.data.val is None and held_out is None:
        held_out = list(open_training_data(config, _seen(config)).held_out) or None
    runs = []
    for number in range(1, config.members + 1):
        own = _own_config(config, folder, val_tiles=held_out, seed=config.seed + number)
        runs.append(_prepared(number, f"member-{number}", own, folder))
    return runs, None, []


def _seen(config: RunConfig) -> Sequence[str]:
    """Fingerprints of the tiles that the model to start from has learnt from."""
    source = load_start(config.model.init_from) if config.model.init_from is not None else None
    return source.card.seen_tiles if isinstance(source, LoadedModel) else ()


def _own_config(
    config: RunConfig, folder: RunFolder, val_tiles: Sequence[str] | None, seed: int | None = None
) -> RunConfig:
    """Configuration of one fold or member."""
    data = config.data.model_copy(deep=True, update={"val_tiles": list(val_tiles) if val_tiles is not None else None})
    changes: dict[str, Any] = {"folds": None, "members": 1, "output": folder.path.absolute(), "data": data}
    changes |= {"model": config.model.model_copy(deep=True), "seed": config.seed if seed is None else seed}
    return config.model_copy(update=changes)


def _prepared(number: int, name: str, config: RunConfig, folder: RunFolder) -> Run:
    """The run of one fold or member; its folder is made where it is not there, or has not begun."""
    own = RunFolder(folder.path / name)
    own.path.mkdir(exist_ok=True)
    if not own.events() and not own.is_alive():
        save_config(config, own.config_path)
        return Run(number, own, config)
    kept = load_config(own.config_path)
    # Of a run that has begun only these may change.
    train = kept.train.model_copy(update={"epochs": config.train.epochs, "patience": config.train.patience})
    return Run(number, own, kept.model_copy(update={"train": train}))


def _announce(config: RunConfig, runs: Sequence[Run], devices: Sequence[str], report: Reporter) -> None:
    report.event(
        "start",
        config=config.model_dump(mode="json"),
        runs=[run.name for run in runs],
        device=", ".join(devices),
        epochs=config.train.epochs,
    )
    what = f"{len(runs)} folds" if config.folds else f"{len(runs)} members"
    report.message(f"{what} on {', '.join(devices)}, {min(len(devices), len(runs))} at a time.")


def _bring_together(
    config: RunConfig,
    folder: RunFolder,
    runs: Sequence[Run],
    *,
    labelled: LabelledTiles | None,
    folds: Folds,
    device: str,
    should_stop: Callable[[], bool],
    report: Reporter,
) -> bool:
    """Write the ensemble and its metrics; False where a stop was asked for before they were whole."""
    checkpoints = [run.folder.best_path for run in runs]
    size_mb = sum(path.stat().st_size for path in checkpoints) / 1e6
    if size_mb > config.train.max_ensemble_mb:
        report.message(
            f"The {len(runs)} checkpoints take {size_mb:.0f} MB; train.max_ensemble_mb is "
            f"{config.train.max_ensemble_mb:g} MB.",
            "warning",
        )
    precision: Literal["auto", "fp32"] = "fp32" if config.train.amp == "off" else "auto"
    how = Scoring(device, precision, should_stop, config.scoring.tta, config.scoring.draws)
    if labelled is not None:
        metrics = score_folds(folder.path, labelled, folds, checkpoints, how)
    else:
        data = open_training_data(runs[0].config)
        metrics = score_members(data.val, data.scheme, [run.folder for run in runs], how)
    if metrics is None:
        return False
    thresholds = metrics.get("thresholds", {}).get("values", {})
    write_ensemble(folder.path, checkpoints, thresholds, config.scoring.tta)
    metrics = {"checkpoints_mb": round(size_mb, 2), **metrics}
    write_text_atomically(folder.metrics_path, json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    write_per_class(folder.per_class_path, metrics)
    every, valid = metrics["all_pixels"]["mcc"], metrics["valid_pixels"]["mcc"]
    if labelled is not None:
        write_scorecard(folder.path, metrics)
        logger.info(scorecard(metrics))
        mean, sd = metrics["mean"]["all_pixels"]["mcc"], metrics["sd"]["all_pixels"]["mcc"]
        spread = f"; mean of the folds {mean:.4f} ± {sd:.4f}"
        pooled = f"MCC {every:.4f} over all pixels, {valid:.4f} over valid ones"
        message = f"Done. Out of fold, pooled over all tiles: {pooled}{spread}."
    else:
        message = f"Done. The ensemble's validation MCC is {every:.4f} over all pixels, {valid:.4f} over valid ones."
    _finish(folder, "done", message, best_val_mcc=every, best_val_mcc_valid=valid, checkpoint=ENSEMBLE_FILE)
    return True
