"""Mapping a scene with an ensemble: windows, views, members, and one blended answer.

Legend: C bands, K classes, H x W the scene, h x w a window.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from napari_glacier import __version__
from napari_glacier.core.channels import assemble_channels, required_bands
from napari_glacier.core.errors import ConfigError
from napari_glacier.core.tiling import Window, blend_weights, windows
from napari_glacier.nn.accumulate import SceneMaps
from napari_glacier.nn.augment_tta import TtaMode, View, views
from napari_glacier.nn.checkpoint import LoadedModel
from napari_glacier.nn.device import describe_device, inference_dtype, pick_device
from napari_glacier.nn.drift import Scene, drift_warnings, missing_bands, sample_statistics
from napari_glacier.nn.ensemble import Ensemble
from napari_glacier.nn.memory import ComputeSettings, is_out_of_memory, usual_batch
from napari_glacier.nn.postprocess import fill_small_holes, remove_small_components, resolve_thresholds
from napari_glacier.nn.prediction import Prediction, Progress
from napari_glacier.nn.uncertainty import mutual_information

__all__ = ["Prediction", "Predictor", "Progress"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A window that was read and carries data."""

    window: Window
    image_CHW: npt.NDArray[np.float32]
    valid_HW: npt.NDArray[np.bool_]


class _OutOfMemory(Exception):  # noqa: N818 (a signal between two methods, not an error for callers)
    """A single image did not fit."""


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
        See `classify`.
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
        self._thresholds = resolve_thresholds(thresholds, ensemble.scheme)
        self._bands = required_bands(ensemble.channels)
        chosen = pick_device(device)
        dtype = torch.float32 if precision == "fp32" else inference_dtype(chosen)
        self._settings = ComputeSettings(
            chosen, dtype, window_px, overlap_px, batch_size or usual_batch(chosen)
        )

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
            A `Mosaic`, or anything with its ``name``, ``shape`` and ``read``.

        Raises
        ------
        DeviceError
            If memory runs out even on the CPU with small windows.
        """
        started = time.perf_counter()
        yield Progress(0, 1, f"{scene.name}: reading")
        missing = missing_bands(scene, self.ensemble.channels)
        warnings = self._warnings(scene, missing)
        settings = replace(self._settings, steps=[])
        longest_side = max(*scene.shape, 1)
        if longest_side < settings.window_px:
            # Stepping down must cut the scene, not a window larger than it.
            settings.window_px = longest_side
            settings.overlap_px = min(settings.overlap_px, longest_side // 4)
        usual = replace(settings, steps=[])
        while True:
            try:
                maps = yield from self._map(scene, settings, missing)
                break
            except _OutOfMemory:
                settings.step_down(usual)
                _free_cached_memory(settings.device)
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
        self, scene: Scene, settings: ComputeSettings, missing: Sequence[str]
    ) -> Generator[Progress, None, SceneMaps]:
        height, width = scene.shape
        plan = windows(height, width, settings.window_px, settings.overlap_px)
        weights_HW = blend_weights(settings.window_px, settings.overlap_px)
        maps = SceneMaps(self.ensemble.scheme.num_classes, height, width, self._thresholds)
        networks = [_placed(member, settings) for member in self.ensemble.members]
        passes = len(self._views) * len(networks)
        total, done = len(plan) * passes, 0
        for group, next_row, num_read in self._groups(scene, plan, settings):
            # Windows without data were skipped: their passes count as done.
            done += (num_read - len(group)) * passes
            results = self._infer(group, networks, settings, missing)
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
        self, scene: Scene, plan: Sequence[Window], settings: ComputeSettings
    ) -> Iterator[tuple[list[_Piece], int, int]]:
        """Read windows that fill batches: pieces, the first row that later windows reach, windows read."""
        height, width = scene.shape
        group: list[_Piece] = []
        num_read = 0
        for k, reaching in enumerate(plan):
            # The part past the border holds nothing to see; the network pads by itself, as for a single tile.
            window = reaching.clipped(height, width)
            image_CHW, valid_HW = scene.read(window, self._bands)
            num_read += 1
            if valid_HW.any():
                group.append(_Piece(window, image_CHW, valid_HW))
            if len(group) >= settings.batch_size or k + 1 == len(plan) or num_read >= 64:
                yield group, plan[k + 1].row if k + 1 < len(plan) else height, num_read
                group, num_read = [], 0

    def _infer(
        self,
        group: Sequence[_Piece],
        networks: Sequence[torch.nn.Module],
        settings: ComputeSettings,
        missing: Sequence[str],
    ) -> Generator[int, None, list[npt.NDArray[np.float32]]]:
        """Yield passes done; return probabilities and mutual information of each piece, (K + 1, h, w)."""
        by_member: list[list[torch.Tensor]] = []
        for member, network in zip(self.ensemble.members, networks, strict=True):
            images = [torch.from_numpy(self._input(member, piece, missing)) for piece in group]
            sums: list[torch.Tensor | None] = [None] * len(group)
            for batch in self._batches(images, settings):
                probabilities = _forward(network, [view.apply(images[k]) for k, view in batch], settings)
                if probabilities is None:
                    continue
                for (k, view), p_KHW in zip(batch, probabilities, strict=True):
                    upright = view.invert(p_KHW)
                    previous = sums[k]
                    sums[k] = upright if previous is None else previous + upright
                yield len(batch)
            by_member.append([total / len(self._views) for total in sums if total is not None])
        weights = torch.tensor(self.ensemble.weights)
        results = []
        for k in range(len(group)):
            members = torch.stack([per_piece[k] for per_piece in by_member])
            on_device = weights.to(members.device)
            mean = torch.einsum("m,mkhw->khw", on_device, members)
            information = mutual_information(members, on_device)
            results.append(torch.cat([mean, information[None]]).cpu().numpy())
        return results

    def _batches(
        self, images: Sequence[torch.Tensor], settings: ComputeSettings
    ) -> Iterator[list[tuple[int, View]]]:
        """Batches of (piece, view) of one shape, over pieces and views; again in halves where memory ran out."""
        by_shape: dict[tuple[int, int], list[tuple[int, View]]] = defaultdict(list)
        for k, image in enumerate(images):
            height, width = image.shape[-2:]
            for view in self._views:
                shape = (width, height) if view.quarter_turns % 2 else (height, width)
                by_shape[shape].append((k, view))
        for units in by_shape.values():
            start = 0
            while start < len(units):
                size = settings.batch_size
                yield units[start : start + size]
                if settings.batch_size == size:
                    start += size
                # else the batch did not fit, was halved, and the same units are due again

    def _input(self, member: LoadedModel, piece: _Piece, missing: Sequence[str]) -> npt.NDArray[np.float32]:
        card = member.card
        bands = required_bands(card.channels)
        planes = [self._bands.index(band) for band in bands]
        raw_CHW = assemble_channels(piece.image_CHW[planes], bands, piece.valid_HW, card.channels)
        input_CHW = card.normalisation.apply(raw_CHW, piece.valid_HW)
        for k, channel in enumerate(card.channels):
            if channel in missing:
                # A band that is not there says nothing: the training mean, not a pitch-black surface.
                input_CHW[k] = 0
        return input_CHW

    def _warnings(self, scene: Scene, missing: Sequence[str]) -> list[str]:
        warnings = []
        if missing:
            warnings.append(
                f"{scene.name} has no {', '.join(missing)}; the models get their training mean instead, and the map "
                "is less certain. Add the band if it exists."
            )
        statistics = sample_statistics(scene, self._bands)
        for member in self.ensemble.members:
            for text in drift_warnings(statistics, self._bands, member.card, missing):
                if text not in warnings:
                    warnings.append(text)
        for text in warnings:
            logger.warning(text)
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


def _placed(member: LoadedModel, settings: ComputeSettings) -> torch.nn.Module:
    # A network that was in training would drop channels at random and normalise by the batch.
    network = member.model.eval()
    try:
        placed: torch.nn.Module = network.to(settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    except RuntimeError as error:
        if is_out_of_memory(error):
            # Not even the weights fit: smaller windows would not help, but the ladder ends at the CPU.
            raise _OutOfMemory from error
        raise
    return placed


def _forward(
    network: torch.nn.Module, images: Sequence[torch.Tensor], settings: ComputeSettings
) -> list[torch.Tensor] | None:
    """Class probabilities of each image, float32 (K, h, w); None where the batch was halved instead."""
    try:
        with torch.inference_mode():
            batch = torch.stack(list(images)).to(settings.device).contiguous(memory_format=torch.channels_last)
            mixed = settings.dtype != torch.float32
            with torch.autocast(settings.device.type, settings.dtype, enabled=mixed):
                logits = network(batch)
            return list(torch.softmax(logits.float(), dim=1).unbind(0))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Outside the handler: the exception holds the frames whose tensors are to be freed.
    _free_cached_memory(settings.device)
    if not settings.smaller_batch():
        raise _OutOfMemory
    return None


def _free_cached_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
