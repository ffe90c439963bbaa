"""Running the members of an ensemble over pieces of a scene, in batches filled across pieces and views.

Legend: C channels, K classes, h x w a piece.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from napari_glacier.core.channels import assemble_channels, blank_missing, required_bands
from napari_glacier.core.tiling import Window
from napari_glacier.nn import augment_tta
from napari_glacier.nn.augment_tta import View
from napari_glacier.nn.checkpoint import LoadedModel
from napari_glacier.nn.engines import Engine
from napari_glacier.nn.ensemble import Ensemble, combine
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
    """An ensemble on one device.

    Parameters
    ----------
    ensemble : Ensemble
    engines : sequence of Engine
        One a member.
    views : sequence of View
        See `views_of`.
    bands : sequence of str
        Planes of the pieces.
    settings : ComputeSettings
        Its batch size falls where memory runs out.
    votes : bool
        Give the probabilities of each member, too.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        engines: Sequence[Engine],
        views: Sequence[View],
        bands: Sequence[str],
        settings: ComputeSettings,
        *,
        votes: bool = False,
    ) -> None:
        self._votes = votes
        self._ensemble, self._engines, self._settings = ensemble, tuple(engines), settings
        self._bands = tuple(bands)
        self._views_of = tuple(views_of(member, views) for member in ensemble.members)

    @property
    def passes(self) -> int:
        """Passes through a network that each piece takes."""
        return sum(map(len, self._views_of))

    def __call__(self, pieces: Sequence[Piece], tick: Callable[[int], None]) -> list[npt.NDArray[np.float32]]:
        """Map pieces, telling the number of passes after each batch.

        Returns
        -------
        list of float32 array, shape (K + 1, h, w), with votes (K + 1 + M K, h, w)
            For each piece the probabilities averaged over members and views, then the mutual information
            between the members, then the probabilities of each member averaged over views.

        Raises
        ------
        OutOfMemory
            If not even one image fits.
        """
        with memory_signalled(), torch.inference_mode():
            by_member = [
                self._run_member(member, engine, of_member, pieces, tick)
                for member, engine, of_member in zip(self._ensemble.members, self._engines, self._views_of, strict=True)
            ]
            return [self._combine([of_member[k] for of_member in by_member]) for k in range(len(pieces))]

    def _run_member(
        self,
        member: LoadedModel,
        engine: Engine,
        views: Sequence[View],
        pieces: Sequence[Piece],
        tick: Callable[[int], None],
    ) -> list[torch.Tensor]:
        images = [torch.from_numpy(network_input(member, piece, self._bands)) for piece in pieces]
        sums: list[torch.Tensor | None] = [None] * len(pieces)
        for batch in self._batches(images, views):
            probabilities = self._forward(engine, [view.apply(images[k]) for k, view in batch])
            if probabilities is None:
                continue
            for (k, view), p_KHW in zip(batch, probabilities, strict=True):
                height, width = images[k].shape[-2:]
                upright, so_far = view.invert(p_KHW, (height, width)), sums[k]
                sums[k] = upright.contiguous() if so_far is None else so_far.add_(upright)
            tick(len(batch))
        return [total / len(views) for total in sums if total is not None]

    def _forward(self, engine: Engine, images: Sequence[torch.Tensor]) -> torch.Tensor | None:
        """Class probabilities of each image, float32 (N, K, h, w); None where the batch was made smaller instead."""
        try:
            return engine.probabilities(torch.stack(list(images)))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler: the exception holds the frames whose tensors are to be freed.
        free_cached_memory(self._settings.device)
        if not self._settings.smaller_batch(len(images)):
            raise OutOfMemory
        return None

    def _combine(self, of_members: Sequence[torch.Tensor]) -> npt.NDArray[np.float32]:
        members_MKHW = torch.stack(list(of_members))
        weights = torch.tensor(self._ensemble.weights, device=members_MKHW.device)
        mean_KHW = combine(members_MKHW, weights, self._ensemble.average)
        information_HW = mutual_information(members_MKHW, weights)
        planes = [mean_KHW, information_HW[None], *(members_MKHW if self._votes else ())]
        combined: npt.NDArray[np.float32] = torch.cat(planes).cpu().numpy()
        return combined

    def _batches(self, images: Sequence[torch.Tensor], views: Sequence[View]) -> Iterator[list[tuple[int, View]]]:
        """Batches of (piece, view) of one shape; smaller ones again where memory ran out."""
        by_shape: dict[tuple[int, int], list[tuple[int, View]]] = defaultdict(list)
        for k, image in enumerate(images):
            for view in views:
                by_shape[view.shape_of(*image.shape[-2:])].append((k, view))
        for units in by_shape.values():
            start = 0
            while start < len(units):
                size = self._settings.batch_size
                yield units[start : start + size]
                if self._settings.batch_size == size:
                    start += size
                # else the batch did not fit and was made smaller: the same units are due again


def views_of(member: LoadedModel, views: Sequence[View]) -> tuple[View, ...]:
    """Views that a member is asked for: where it knows which way is north, none that is turned or mirrored.

    A network that looks at fixed distances, too, is asked for the scene as it is alone.
    """
    if getattr(member.model, "upright", False):
        return tuple(augment_tta.views("off"))
    if member.card.upright:
        return tuple(view for view in views if not view.flip and not view.quarter_turns)
    return tuple(views)


def network_input(member: LoadedModel, piece: Piece, planes: Sequence[str]) -> npt.NDArray[np.float32]:
    """What a member's network gets of a piece whose image has these planes, float32 (C, h, w)."""
    card = member.card
    bands = required_bands(card.channels)
    raw_CHW = assemble_channels(
        piece.image_CHW[[planes.index(band) for band in bands]], bands, piece.valid_HW, card.channels
    )
    input_CHW = card.normalisation.apply(raw_CHW, piece.valid_HW)
    for gap in piece.gaps:
        where = gap.within(piece.window)
        if where is not None:
            blank_missing(input_CHW, card.channels, gap.bands, where)
    return input_CHW


@contextmanager
def memory_signalled() -> Iterator[None]:
    """Turn running out of memory into `OutOfMemory`."""
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
