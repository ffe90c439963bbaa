"""Mapping a scene with an ensemble: windows, views, members, and one blended answer.

Legend: C bands, K classes, H x W the scene, h x w a window.
"""

import copy
import hashlib
import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from napari_glacier import __version__
from napari_glacier.core.bands import ALL_BANDS
from napari_glacier.core.channels import required_bands
from napari_glacier.core.errors import ConfigError, DataError
from napari_glacier.core.tiling import OVERLAP_PX, WINDOW_PX, Window, blend_weights, windows
from napari_glacier.nn.accumulate import Blender
from napari_glacier.nn.augment_tta import TtaMode, views
from napari_glacier.nn.cleaning import Cleaning
from napari_glacier.nn.device import describe_device, inference_dtype, pick_device
from napari_glacier.nn.drift import drift_warnings, sample_statistics
from napari_glacier.nn.engines import Engine, EngineKind, make_engine
from napari_glacier.nn.ensemble import Ensemble
from napari_glacier.nn.inference import (
    EnsembleRunner,
    OutOfMemory,
    Piece,
    free_cached_memory,
    memory_signalled,
    network_input,
    views_of,
)
from napari_glacier.nn.lookahead import Lookahead
from napari_glacier.nn.memory import ComputeSettings, usual_batch
from napari_glacier.nn.postprocess import resolve_thresholds
from napari_glacier.nn.prediction import Prediction, Progress
from napari_glacier.nn.provenance import member_records, members_digest, model_digest, sources_digest
from napari_glacier.nn.scene import BandGap, Scene, band_gaps, gaps_warning
from napari_glacier.nn.store import JobFolder, MemoryStore, Rows, Store

__all__ = ["Prediction", "Predictor", "Progress"]


# Windows read before their results are waited for, where most of them hold no data.
_MOST_READ = 64

# Windows by which 8-bit integers are adjusted, and measured.
_MOST_SAMPLES, _SAMPLE_PX, _LEAST_SAMPLE_PX = 8, 512, 32


@dataclass(frozen=True, slots=True)
class _Group:
    """Windows that are computed together, the first row that later ones reach, and how many were read."""

    pieces: list[Piece]
    next_row: int
    num_read: int


class Predictor:
    """Maps scenes with an ensemble.

    Parameters
    ----------
    ensemble : Ensemble
    tta : "off", 2, 6 or 8, optional
        Views averaged; see `views`. The ensemble's own by default, 6 where it has none. Members that know which way is
        north are asked for none that is turned, see `views_of`.
    scales : sequence of float, optional
        Scales of these views; likewise, 1 where the ensemble has none.
    device : str
        See `pick_device`; ``auto`` and ``cuda`` spread the windows over all GPUs.
    window_px, overlap_px : int
        A scene of at most `window_px` on both sides is one window; larger ones are cut into windows
        anchored at the scene's first pixel and blended over the overlap.
    batch_size : int, optional
        Images a network gets at once, over windows and views; by default 1 on the CPU and 4 on a GPU, or as many
        smaller ones as have their pixels.
    cleaning : Cleaning, optional
        What is done to the class map in the end; nothing by default.
    thresholds : mapping of class name to probability, optional
        See `classify`; the ensemble's own by default, none where empty.
    precision : "auto" or "fp32"
        ``auto`` computes in bfloat16 or float16 where the device is faster with it.
    engine : "auto", "torch", "openvino" or "openvino-int8"
        See `make_engine`; ``auto`` is OpenVINO on the CPU where it is installed. The integers of ``openvino-int8`` are
        adjusted by each scene, which takes some seconds a member.
    compile : bool
        Compile networks that torch computes; see `make_engine`.

    Raises
    ------
    ConfigError, DeviceError
        If a setting does not fit or the device is not there.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        *,
        tta: TtaMode | str | None = None,
        scales: Sequence[float] | None = None,
        device: str = "auto",
        window_px: int = WINDOW_PX,
        overlap_px: int = OVERLAP_PX,
        batch_size: int | None = None,
        cleaning: Cleaning | None = None,
        thresholds: Mapping[str, float] | None = None,
        precision: Literal["auto", "fp32"] = "auto",
        engine: EngineKind = "auto",
        compile: bool = False,
    ) -> None:
        if window_px < 32 or not 0 <= overlap_px < window_px:
            raise ConfigError(
                f"Windows of {window_px} px with an overlap of {overlap_px} px do not work. "
                "Use at least 32 px, and an overlap smaller than the window."
            )
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"The batch size is {batch_size}; it must be 1 or more.")
        self.ensemble = ensemble
        asked = ensemble.tta if tta is None else tta
        self.tta = str(6 if asked is None else asked)
        self.scales = tuple(ensemble.scales or (1.0,) if scales is None else scales)
        self.engine, self._compile = engine, compile
        self.cleaning = cleaning or Cleaning()
        self._views = views(self.tta, self.scales)
        self._thresholds = resolve_thresholds(
            ensemble.thresholds if thresholds is None else thresholds, ensemble.scheme
        )
        self._bands = required_bands(ensemble.channels)
        chosen = pick_device(device)
        self._num_gpus = torch.cuda.device_count() if chosen.type == "cuda" and device in {"auto", "cuda"} else 1
        dtype = torch.float32 if precision == "fp32" else inference_dtype(chosen)
        self._engines: dict[tuple[int, torch.device, torch.dtype], list[tuple[Engine, str | None]]] = {}
        self._batch_size = batch_size
        self._settings = ComputeSettings(
            chosen, dtype, window_px, overlap_px, batch_size or usual_batch(chosen, window_px)
        )

    @property
    def device(self) -> torch.device:
        """The device that a run starts on."""
        return self._settings.device

    def run(
        self,
        scene: Scene,
        job_folder: Path | None = None,
        *,
        votes: bool = False,
        on_rows: Callable[[Rows], None] | None = None,
    ) -> Generator[Progress, None, Prediction]:
        """Map a scene; yields as passes through networks are made, and returns the prediction.

        Close the generator to cancel: nothing runs on after the pass in progress. Memory is bounded by a row of
        windows and, without a job folder, the finished maps.

        Parameters
        ----------
        scene : Scene
            A `Mosaic`, or anything with its ``name``, ``shape`` and ``read``; ``placements`` say which bands are there.
        job_folder : Path, optional
            The finished maps go there, not into memory, and the prediction reads its measures from there. If it
            holds an interrupted job of the same scene, models and settings, that goes on. Delete it when what is
            wanted of the prediction is written elsewhere.
        votes : bool
            Keep the class that each member by itself gives, too.
        on_rows : callable (Rows) -> None, optional
            Sees rows of the maps as they are finished, from the top, in the thread that draws from the generator.
            Where memory ran out they begin again at the first row. Cleaning comes later.

        Raises
        ------
        DataError
            If the scene has none of the bands that a member looks at.
        DeviceError
            If memory runs out even on the CPU with small windows.
        SaveError
            If the job folder cannot be written.
        """
        started = time.perf_counter()
        yield Progress(0, 1, f"{scene.name}: reading", preparing=True)
        self.check_bands(scene)
        gaps = band_gaps(scene, self._bands)
        warnings = self._warnings(scene, gaps)
        settings = replace(self._settings, steps=[])
        longest_side = max(*scene.shape, 1)
        if longest_side < settings.window_px:
            # Stepping down must cut the scene, not a window larger than it.
            settings.window_px = longest_side
            settings.overlap_px = min(settings.overlap_px, longest_side // 4)
            settings.batch_size = self._batch_size or usual_batch(settings.device, longest_side)
        usual = replace(settings, steps=[])
        store: Store | None = None
        while store is None:
            with suppress(OutOfMemory):
                store = yield from self._map(scene, settings, gaps, job_folder, votes=votes, on_rows=on_rows)
            if store is None:
                # Outside the handler: the exception holds the frames whose tensors are to be freed.
                self._engines.clear()
                free_cached_memory(settings.device)
                settings.step_down(usual)
                yield Progress(0, 1, f"{scene.name}: {settings.steps[-1]} Starting again.", preparing=True)
        maps = store.maps()
        index_HW = yield from self.cleaning.clean(scene, self._bands, maps, self._thresholds, settings.device)
        provenance = self._provenance(scene, settings, warnings)
        provenance["votes"] = list(self.ensemble.member_names) if votes else []
        provenance["valid_share"] = round(float(maps.valid_HW.mean()), 6)
        provenance["seconds"] = round(time.perf_counter() - started, 3)
        return Prediction(
            index_HW=index_HW,
            probabilities_KHW=maps.probabilities_KHW,
            entropy_HW=maps.entropy_HW,
            mutual_information_HW=maps.mutual_information_HW,
            valid_HW=maps.valid_HW,
            scheme=self.ensemble.scheme,
            provenance=provenance,
            votes_MHW=maps.votes_MHW,
        )

    def _map(
        self,
        scene: Scene,
        settings: ComputeSettings,
        gaps: Sequence[BandGap],
        job_folder: Path | None,
        *,
        votes: bool,
        on_rows: Callable[[Rows], None] | None,
    ) -> Generator[Progress, None, Store]:
        height, width = scene.shape
        plan = windows(height, width, settings.window_px, settings.overlap_px)
        num_voters = len(self.ensemble.members) if votes else 0
        store = self._store(scene, settings, job_folder, num_voters)
        size = (self.ensemble.scheme.num_classes, height, width)
        blender = Blender(*size, self._thresholds, store, num_voters=num_voters, on_rows=on_rows)
        # The windows above are in the finished rows; those that reach below them are made again.
        due = [window for window in plan if window.row + window.height > store.rows_done]
        if self.engine == "openvino-int8":
            # Adjusted by another scene, a job that goes on would not end with the pixels that it began with.
            self._engines.clear()
        runners = yield from self._runners(scene, settings, gaps, votes)
        passes = runners[0].passes
        total, done = len(plan) * passes, (len(plan) - len(due)) * passes
        message = f"{scene.name}: {' and '.join(describe_device(s.device) for s in self._places(settings))}"
        yield Progress(done, total, message)
        groups = self._groups(scene, due, settings, gaps)
        work = Lookahead(groups, [_on(runner) for runner in runners]).run()
        try:
            for news in work:
                if isinstance(news, int):
                    done += news
                else:
                    group, values = news
                    for piece, values_CHW in zip(group.pieces, values, strict=True):
                        weights_HW = blend_weights(piece.window, height, width, settings.overlap_px)
                        blender.add(piece.window, values_CHW, weights_HW, piece.valid_HW)
                    blender.finish_rows(group.next_row)
                    # Windows without data were skipped: their passes count as done.
                    done += (group.num_read - len(group.pieces)) * passes
                yield Progress(done, total, message)
        finally:
            work.close()
        return store

    def _store(self, scene: Scene, settings: ComputeSettings, folder: Path | None, num_voters: int) -> Store:
        size = (self.ensemble.scheme.num_classes, *scene.shape)
        if folder is None:
            return MemoryStore(*size, num_voters=num_voters)
        return JobFolder(folder, self._of_pixels(scene, settings), *size, num_voters=num_voters)

    def _runners(
        self, scene: Scene, settings: ComputeSettings, gaps: Sequence[BandGap], votes: bool
    ) -> Generator[Progress, None, list[EnsembleRunner]]:
        """The ensemble on each device; its engines are kept for the next scene, as some take seconds to make."""
        samples = self._samples(scene, gaps) if self.engine == "openvino-int8" else []
        window = min(settings.window_px, scene.shape[0]), min(settings.window_px, scene.shape[1])
        runners = []
        for number, place in enumerate(self._places(settings)):
            made = self._engines.setdefault((number, place.device, place.dtype), [])
            for k, member in enumerate(self.ensemble.members[len(made) :], len(made) + 1):
                which = f"{k} of {len(self.ensemble.members)}, {member.card.name}"
                yield Progress(0, 1, f"{scene.name}: preparing member {which}", preparing=True)
                with memory_signalled():
                    made.append(
                        make_engine(
                            # A network lives on one device.
                            member if number == 0 else replace(member, model=copy.deepcopy(member.model)),
                            place.device,
                            place.dtype,
                            window_px=window,
                            kind=self.engine,
                            compile=self._compile,
                            samples=[torch.from_numpy(network_input(member, s, self._bands))[None] for s in samples],
                        )
                    )
            engines = [engine for engine, _ in made]
            runners.append(EnsembleRunner(self.ensemble, engines, self._views, self._bands, place, votes=votes))
        return runners

    def _samples(self, scene: Scene, gaps: Sequence[BandGap]) -> list[Piece]:
        """Pieces of one size, spread over what of the scene carries data."""
        side = min(_SAMPLE_PX, *(length // 2 for length in scene.shape))
        if side < _LEAST_SAMPLE_PX:
            return []
        whole = [window for window in windows(*scene.shape, side, 0) if window.clipped(*scene.shape) == window]
        spread = [whole[k] for k in np.random.default_rng(0).permutation(len(whole))]
        pieces: list[Piece] = []
        for window in spread[: 4 * _MOST_SAMPLES]:
            piece = self._piece(scene, window, gaps)
            if piece.valid_HW.mean() >= 0.5:
                pieces.append(piece)
            if len(pieces) == _MOST_SAMPLES:
                break
        return pieces

    def _piece(self, scene: Scene, window: Window, gaps: Sequence[BandGap]) -> Piece:
        image_CHW, valid_HW = scene.read(window, self._bands)
        return Piece(window, image_CHW, valid_HW, tuple(gap for gap in gaps if gap.within(window) is not None))

    def _places(self, settings: ComputeSettings) -> list[ComputeSettings]:
        """Settings of each device that windows are spread over; they share what memory asks for."""
        if settings.device.type != "cuda" or self._num_gpus == 1:
            return [settings]
        return [settings.on(torch.device("cuda", number)) for number in range(self._num_gpus)]

    def _groups(
        self, scene: Scene, due: Sequence[Window], settings: ComputeSettings, gaps: Sequence[BandGap]
    ) -> Iterator["_Group"]:
        """Read windows that fill batches, each row of windows for itself.

        A network may round otherwise in a batch of other windows: so begun, a job that goes on makes the same ones.
        """
        height, width = scene.shape
        pieces: list[Piece] = []
        num_read = 0
        for k, reaching in enumerate(due):
            # The part past the border holds nothing to see; the network pads by itself, as for a single tile.
            window = reaching.clipped(height, width)
            piece = self._piece(scene, window, gaps)
            num_read += 1
            if piece.valid_HW.any():
                pieces.append(piece)
            next_row = due[k + 1].row if k + 1 < len(due) else height
            if len(pieces) >= settings.batch_size or next_row != reaching.row or num_read >= _MOST_READ:
                yield _Group(pieces, next_row, num_read)
                pieces, num_read = [], 0

    def fingerprint(self, scene: Scene) -> str:
        """Digest of all that decides the class map of a scene: its files, the models and the settings."""
        whole = self._of_pixels(scene, self._settings) | self.cleaning.as_dict()
        return hashlib.blake2b(json.dumps(whole, sort_keys=True).encode(), digest_size=16).hexdigest()

    def _of_pixels(self, scene: Scene, settings: ComputeSettings) -> dict[str, Any]:
        """All that decides the probabilities of a scene, as plain values."""
        return {
            "program": __version__,
            "scene": scene.name,
            "shape": list(scene.shape),
            "sources": sources_digest(scene),
            "members": self._members_digest,
            "weights": self.ensemble.weights,
            "average": self.ensemble.average,
            "thresholds": {str(k): value for k, value in self._thresholds.items()},
            "tta": self.tta,
            "scales": list(self.scales),
            "engine": self.engine,
            "device": settings.device.type,
            "dtype": str(settings.dtype),
            "window_px": settings.window_px,
            "overlap_px": settings.overlap_px,
        }

    @cached_property
    def model_digest(self) -> str:
        """Digest that tells the model from others, of its name, too."""
        return model_digest(self.ensemble, self._members_digest)

    @cached_property
    def _members_digest(self) -> str:
        return members_digest(self.ensemble)

    def check_bands(self, scene: Scene) -> None:
        """Raise `DataError` where a scene has none of the bands that a member looks at."""
        tiles = [place.tile for place in getattr(scene, "placements", ())]
        if not tiles:
            return
        there = {band for tile in tiles for band in tile.bands}
        for member in self.ensemble.members:
            needed = required_bands(member.card.channels)
            if needed and there.isdisjoint(needed):
                # All its channels would be training means, and its map one class.
                distinct = {band for tile in tiles for band in tile.distinct_bands}
                raise DataError(
                    f"{scene.name} has the bands {', '.join(band for band in ALL_BANDS if band in distinct)}; "
                    f"the model {member.card.name} looks at {', '.join(needed)} and would see nothing. "
                    "Choose a model that was trained on such data (--model), or add the bands."
                )

    def _warnings(self, scene: Scene, gaps: Sequence[BandGap]) -> list[str]:
        warnings = gaps_warning(scene, self._bands, gaps)
        statistics = sample_statistics(scene, self._bands, gaps)
        warnings += drift_warnings(statistics, [member.card for member in self.ensemble.members])
        synthetic = [member.card.name for member in self.ensemble.members if member.card.synthetic]
        if synthetic:
            names = self.ensemble.name if len(synthetic) == len(self.ensemble.members) else ", ".join(synthetic)
            warnings.append(
                f"{names}: trained on synthetic scenes, its maps are for demonstration. "
                "Train on labelled tiles of your region for maps to rely on."
            )
        return warnings

    def _provenance(self, scene: Scene, settings: ComputeSettings, warnings: Sequence[str]) -> dict[str, Any]:
        classes = self.ensemble.scheme.class_names
        return {
            "program": f"napari-glacier {__version__}",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "scene": scene.name,
            "fingerprint": self.fingerprint(scene),
            "model_digest": self.model_digest,
            "shape": list(scene.shape),
            "ensemble": self.ensemble.name,
            "members": [
                {**record, "num_views": len(views_of(member, self._views))}
                for record, member in zip(member_records(self.ensemble), self.ensemble.members, strict=True)
            ],
            "classes": list(classes),
            "average": self.ensemble.average,
            "tta": self.tta,
            "scales": list(self.scales),
            "device": describe_device(settings.device),
            "engines": [engine.name for made in self._engines.values() for engine, _ in made],
            "engine_notes": [note for made in self._engines.values() for _, note in made if note is not None],
            "dtype": str(settings.dtype).removeprefix("torch."),
            "window_px": settings.window_px,
            "overlap_px": settings.overlap_px,
            "batch_size": settings.batch_size,
            "memory_steps": list(settings.steps),
            "thresholds": {classes[k]: value for k, value in self._thresholds.items()},
            **self.cleaning.as_dict(),
            "warnings": list(warnings),
        }


def _on(runner: EnsembleRunner) -> Callable[[_Group, Callable[[int], None]], list[npt.NDArray[np.float32]]]:
    return lambda group, tick: runner(group.pieces, tick)
