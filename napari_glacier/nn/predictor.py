"""Mapping a scene with an ensemble: windows, views, members, and one blended answer.

Legend: C bands, K classes, H x W the scene, h x w a window.
"""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

import torch

from napari_glacier import __version__
from napari_glacier.core.bands import ALL_BANDS
from napari_glacier.core.channels import required_bands
from napari_glacier.core.errors import ConfigError, DataError
from napari_glacier.core.tiling import Window, blend_weights, windows
from napari_glacier.nn.accumulate import SceneMaps
from napari_glacier.nn.augment_tta import TtaMode, views
from napari_glacier.nn.device import describe_device, inference_dtype, pick_device
from napari_glacier.nn.drift import drift_warnings, sample_statistics
from napari_glacier.nn.ensemble import Ensemble
from napari_glacier.nn.inference import EnsembleRunner, OutOfMemory, Piece, free_cached_memory
from napari_glacier.nn.memory import ComputeSettings, usual_batch
from napari_glacier.nn.postprocess import fill_small_holes, remove_small_components, resolve_thresholds
from napari_glacier.nn.prediction import Prediction, Progress
from napari_glacier.nn.scene import BandGap, Scene, band_gaps, gaps_warning

__all__ = ["Prediction", "Predictor", "Progress"]


class Predictor:
    """Maps scenes with an ensemble.

    Parameters
    ----------
    ensemble : Ensemble
    tta : "off", 2, 6 or 8
        Views averaged; see `views`.
    device : str
        See `pick_device`.
    window_px, overlap_px : int
        A scene of at most `window_px` on both sides is one window; larger ones are cut into windows
        anchored at the scene's first pixel and blended over the overlap.
    batch_size : int, optional
        Images a network gets at once, over windows and views; 4 on the CPU and 16 on a GPU by default.
    minimum_component_px, fill_holes_px : int
        Remove patches and fill holes smaller than this; 0 leaves them.
    thresholds : mapping of class name to probability, optional
        See `classify`; the ensemble's own by default, none where empty.
    precision : "auto" or "fp32"
        ``auto`` computes in bfloat16 or float16 where the device is faster with it.

    Raises
    ------
    ConfigError, DeviceError
        If a setting does not fit or the device is not there.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        *,
        tta: TtaMode | str = 6,
        device: str = "auto",
        window_px: int = 512,
        overlap_px: int = 128,
        batch_size: int | None = None,
        minimum_component_px: int = 0,
        fill_holes_px: int = 0,
        thresholds: Mapping[str, float] | None = None,
        precision: Literal["auto", "fp32"] = "auto",
    ) -> None:
        if window_px < 32 or not 0 <= overlap_px < window_px:
            raise ConfigError(
                f"Windows of {window_px} px with an overlap of {overlap_px} px do not work. "
                "Use at least 32 px, and an overlap smaller than the window."
            )
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"The batch size is {batch_size}; it must be 1 or more.")
        if min(minimum_component_px, fill_holes_px) < 0:
            raise ConfigError("The sizes of components and holes must be 0 (off) or more pixels.")
        self.ensemble = ensemble
        self.tta = str(tta)
        self.minimum_component_px = minimum_component_px
        self.fill_holes_px = fill_holes_px
        self._views = views(tta)
        self._thresholds = resolve_thresholds(
            ensemble.thresholds if thresholds is None else thresholds, ensemble.scheme
        )
        self._bands = required_bands(ensemble.channels)
        chosen = pick_device(device)
        dtype = torch.float32 if precision == "fp32" else inference_dtype(chosen)
        self._settings = ComputeSettings(chosen, dtype, window_px, overlap_px, batch_size or usual_batch(chosen))

    @property
    def device(self) -> torch.device:
        """The device that a run starts on."""
        return self._settings.device

    def run(self, scene: Scene) -> Generator[Progress, None, Prediction]:
        """Map a scene; yields after every pass through a network and returns the prediction.

        Close the generator to cancel: nothing runs on after the pass in progress. Memory is bounded by the
        window and the finished maps, not by the scene's pixels times channels.

        Parameters
        ----------
        scene : Scene
            A `Mosaic`, or anything with its ``name``, ``shape`` and ``read``; ``placements`` say which bands are there.

        Raises
        ------
        DataError
            If the scene has none of the bands that a member looks at.
        DeviceError
            If memory runs out even on the CPU with small windows.
        """
        started = time.perf_counter()
        yield Progress(0, 1, f"{scene.name}: reading")
        self._check_bands(scene)
        gaps = band_gaps(scene, self._bands)
        warnings = self._warnings(scene, gaps)
        settings = replace(self._settings, steps=[])
        longest_side = max(*scene.shape, 1)
        if longest_side < settings.window_px:
            # Stepping down must cut the scene, not a window larger than it.
            settings.window_px = longest_side
            settings.overlap_px = min(settings.overlap_px, longest_side // 4)
        usual = replace(settings, steps=[])
        maps: SceneMaps | None = None
        while maps is None:
            with suppress(OutOfMemory):
                maps = yield from self._map(scene, settings, gaps)
            if maps is None:
                # Outside the handler: the exception holds the frames whose tensors are to be freed.
                free_cached_memory(settings.device)
                settings.step_down(usual)
                yield Progress(0, 1, f"{scene.name}: {settings.steps[-1]} Starting again.")
        index_HW = remove_small_components(maps.index_HW, self.minimum_component_px)
        index_HW = fill_small_holes(index_HW, self.fill_holes_px)
        index_HW *= maps.valid_HW
        provenance = self._provenance(scene, settings, warnings)
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
        )

    def _map(
        self, scene: Scene, settings: ComputeSettings, gaps: Sequence[BandGap]
    ) -> Generator[Progress, None, SceneMaps]:
        height, width = scene.shape
        plan = windows(height, width, settings.window_px, settings.overlap_px)
        weights_HW = blend_weights(settings.window_px, settings.overlap_px)
        maps = SceneMaps(self.ensemble.scheme.num_classes, height, width, self._thresholds)
        runner = EnsembleRunner(self.ensemble, self._views, self._bands, settings)
        total, done = len(plan) * runner.passes, 0
        for group, next_row, num_read in self._groups(scene, plan, settings, gaps):
            # Windows without data were skipped: their passes count as done.
            done += (num_read - len(group)) * runner.passes
            results = runner.run(group)
            while True:
                try:
                    done += next(results)
                except StopIteration as end:
                    values = end.value
                    break
                yield Progress(done, total, f"{scene.name}: {describe_device(settings.device)}")
            for piece, values_CHW in zip(group, values, strict=True):
                weights = weights_HW[: piece.window.height, : piece.window.width]
                maps.add(piece.window, values_CHW, weights, piece.valid_HW)
            maps.finish_rows(next_row)
            yield Progress(done, total, f"{scene.name}: {describe_device(settings.device)}")
        return maps

    def _groups(
        self, scene: Scene, plan: Sequence[Window], settings: ComputeSettings, gaps: Sequence[BandGap]
    ) -> Iterator[tuple[list[Piece], int, int]]:
        """Read windows that fill batches: pieces, the first row that later windows reach, windows read."""
        height, width = scene.shape
        group: list[Piece] = []
        num_read = 0
        for k, reaching in enumerate(plan):
            # The part past the border holds nothing to see; the network pads by itself, as for a single tile.
            window = reaching.clipped(height, width)
            image_CHW, valid_HW = scene.read(window, self._bands)
            num_read += 1
            if valid_HW.any():
                inside = tuple(gap for gap in gaps if gap.within(window) is not None)
                group.append(Piece(window, image_CHW, valid_HW, inside))
            if len(group) >= settings.batch_size or k + 1 == len(plan) or num_read >= 64:
                yield group, plan[k + 1].row if k + 1 < len(plan) else height, num_read
                group, num_read = [], 0

    def _check_bands(self, scene: Scene) -> None:
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
        for member in self.ensemble.members:
            for text in drift_warnings(statistics, member.card):
                if text not in warnings:
                    warnings.append(text)
        synthetic = [member.card.name for member in self.ensemble.members if member.card.synthetic]
        if synthetic:
            names = self.ensemble.name if len(synthetic) == len(self.ensemble.members) else ", ".join(synthetic)
            warnings.append(
                f"{names}: trained on synthetic scenes, its maps are for demonstration. "
                "Train on labelled tiles of your region for maps to rely on."
            )
        return warnings

    def _provenance(self, scene: Scene, settings: ComputeSettings, warnings: Sequence[str]) -> dict[str, Any]:
        members = [
            {
                "name": member.card.name,
                "path": str(member.path) if member.path else None,
                "architecture": member.card.architecture,
                "channels": list(member.card.channels),
                "weight": weight,
                "training_data": member.card.training_data,
                "training_data_fingerprint": member.card.training_data_fingerprint,
                "synthetic": member.card.synthetic,
            }
            for member, weight in zip(self.ensemble.members, self.ensemble.weights, strict=True)
        ]
        classes = self.ensemble.scheme.class_names
        return {
            "program": f"napari-glacier {__version__}",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "scene": scene.name,
            "shape": list(scene.shape),
            "ensemble": self.ensemble.name,
            "members": members,
            "classes": list(classes),
            "tta": self.tta,
            "device": describe_device(settings.device),
            "dtype": str(settings.dtype).removeprefix("torch."),
            "window_px": settings.window_px,
            "overlap_px": settings.overlap_px,
            "batch_size": settings.batch_size,
            "memory_steps": list(settings.steps),
            "thresholds": {classes[k]: value for k, value in self._thresholds.items()},
            "minimum_component_px": self.minimum_component_px,
            "fill_holes_px": self.fill_holes_px,
            "warnings": list(warnings),
        }
