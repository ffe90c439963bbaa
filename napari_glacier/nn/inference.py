"""Running the members of an ensemble over pieces of a scene, in batches filled across pieces and views.

Legend: C channels, K classes, h x w a piece.
"""

from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from napari_glacier.core.channels import assemble_channels, blank_missing, required_bands
from napari_glacier.core.tiling import Window
from napari_glacier.nn.augment_tta import View
from napari_glacier.nn.checkpoint import LoadedModel
from napari_glacier.nn.ensemble import Ensemble
from napari_glacier.nn.memory import ComputeSettings, is_out_of_memory
from napari_glacier.nn.scene import BandGap
from napari_glacier.nn.uncertainty import mutual_information


@dataclass(frozen=True, slots=True)
class Piece:
    """A window of a scene that was read and carries data; `gaps` are the tiles in it that lack bands."""

    window: Window
    image_CHW: npt.NDArray[np.float32]
    valid_HW: npt.NDArray[np.bool_]
    gaps: tuple[BandGap, ...] = ()


class OutOfMemory(Exception):  # noqa: N818 (a signal to the predictor, not an error for its callers)
    """Not even a single image fits."""


class EnsembleRunner:
    """An ensemble placed on a device.

    Parameters
    ----------
    ensemble : Ensemble
    views : sequence of View
    bands : sequence of str
        Planes of the pieces.
    settings : ComputeSettings
        Its batch size falls where memory runs out.

    Raises
    ------
    OutOfMemory
        If the networks do not fit on the device.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        views: Sequence[View],
        bands: Sequence[str],
        settings: ComputeSettings,
    ) -> None:
        self._ensemble, self._settings = ensemble, settings
        self._views, self._bands = tuple(views), tuple(bands)
        with _memory_signalled():
            self._networks = [_placed(member, settings) for member in ensemble.members]

    @property
    def passes(self) -> int:
        """Passes through a network that each piece takes."""
        return len(self._views) * len(self._networks)

    def run(self, pieces: Sequence[Piece]) -> Generator[int, None, list[npt.NDArray[np.float32]]]:
        """Map pieces; yields the number of passes after each batch.

        Returns
        -------
        list of float32 array, shape (K + 1, h, w)
            For each piece the probabilities averaged over members and views, then the mutual information
            between the members.

        Raises
        ------
        OutOfMemory
            If not even one image fits.
        """
        with _memory_signalled():
            by_member: list[list[torch.Tensor]] = []
            for member, network in zip(self._ensemble.members, self._networks, strict=True):
                by_member.append((yield from self._run_member(member, network, pieces)))
            return [self._combine([of_member[k] for of_member in by_member]) for k in range(len(pieces))]

    def _run_member(
        self, member: LoadedModel, network: torch.nn.Module, pieces: Sequence[Piece]
    ) -> Generator[int, None, list[torch.Tensor]]:
        images = [torch.from_numpy(self._input(member, piece)).to(self._settings.device) for piece in pieces]
        sums: dict[int, torch.Tensor] = {}
        for batch in self._batches(images):
            probabilities = _forward(network, [view.apply(images[k]) for k, view in batch], self._settings)
            if probabilities is None:
                continue
            for (k, view), p_KHW in zip(batch, probabilities, strict=True):
                upright = view.invert(p_KHW)
                sums[k] = sums[k] + upright if k in sums else upright
            yield len(batch)
        return [sums[k] / len(self._views) for k in range(len(pieces))]

    def _combine(self, of_members: Sequence[torch.Tensor]) -> npt.NDArray[np.float32]:
        members_MKHW = torch.stack(list(of_members))
        weights = torch.tensor(self._ensemble.weights, device=members_MKHW.device)
        mean_KHW = (members_MKHW * weights.reshape(-1, 1, 1, 1)).sum(0)
        information_HW = mutual_information(members_MKHW, weights)
        combined: npt.NDArray[np.float32] = torch.cat([mean_KHW, information_HW[None]]).cpu().numpy()
        return combined

    def _batches(self, images: Sequence[torch.Tensor]) -> Iterator[list[tuple[int, View]]]:
        """Batches of (piece, view) of one shape; smaller ones again where memory ran out."""
        by_shape: dict[tuple[int, int], list[tuple[int, View]]] = defaultdict(list)
        for k, image in enumerate(images):
            height, width = image.shape[-2:]
            for view in self._views:
                shape = (width, height) if view.quarter_turns % 2 else (height, width)
                by_shape[shape].append((k, view))
        for units in by_shape.values():
            start = 0
            while start < len(units):
                size = self._settings.batch_size
                yield units[start : start + size]
                if self._settings.batch_size == size:
                    start += size
                # else the batch did not fit and was made smaller: the same units are due again

    def _input(self, member: LoadedModel, piece: Piece) -> npt.NDArray[np.float32]:
        card = member.card
        bands = required_bands(card.channels)
        planes = [self._bands.index(band) for band in bands]
        raw_CHW = assemble_channels(piece.image_CHW[planes], bands, piece.valid_HW, card.channels)
        input_CHW = card.normalisation.apply(raw_CHW, piece.valid_HW)
        for gap in piece.gaps:
            where = gap.within(piece.window)
            if where is not None:
                blank_missing(input_CHW, card.channels, gap.bands, where)
        return input_CHW


def _placed(member: LoadedModel, settings: ComputeSettings) -> torch.nn.Module:
    # A network that was in training would drop channels at random and normalise by the batch.
    network = member.model.eval()
    placed: torch.nn.Module = network.to(settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed


def _forward(
    network: torch.nn.Module, images: Sequence[torch.Tensor], settings: ComputeSettings
) -> list[torch.Tensor] | None:
    """Class probabilities of each image, float32 (K, h, w); None where the batch was made smaller instead."""
    try:
        # Not around the yields: the mode belongs to the thread, and the caller runs in between.
        with torch.inference_mode():
            batch = torch.stack(list(images)).contiguous(memory_format=torch.channels_last)
            mixed = settings.dtype != torch.float32
            with torch.autocast(settings.device.type, settings.dtype, enabled=mixed):
                logits = network(batch)
            return list(torch.softmax(logits.float(), dim=1).unbind(0))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Outside the handler: the exception holds the frames whose tensors are to be freed.
    free_cached_memory(settings.device)
    if not settings.smaller_batch(len(images)):
        raise OutOfMemory
    return None


@contextmanager
def _memory_signalled() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise OutOfMemory from error
        raise


def free_cached_memory(device: torch.device) -> None:
    """Give memory that torch keeps for later back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
