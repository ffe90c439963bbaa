"""Single pixels in the place of whole crops, for networks that look around in a fixed way and learn the rest.

The pixels of a crop resemble one another, and a step of a few crops tells of a few places. Where the surroundings of a
pixel are described by features in which nothing is learnt, a pixel can be learnt by itself: the crops of an epoch are
described once, and every update takes pixels from all of them.

Shapes: N crops or pixels, C channels, H rows, W columns, F features; h, w those of a grid.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from napari_glacier.core.classes import IGNORE_INDEX
from napari_glacier.core.config import RunConfig
from napari_glacier.core.errors import ConfigError, DataError
from napari_glacier.nn.zoo.surroundings import Grid
from training.distributed import Team


class DescribingNetwork(Protocol):
    """A network that takes features of pixels, shape (N, F, 1, 1), in the place of an image."""

    def describe(self, image_NCHW: Tensor, grid: Grid) -> Tensor:
        """Features of the pixels on a grid, float32 (N, F, h, w)."""
        ...


def check_describes(network: nn.Module, name: str) -> None:
    """Raise `ConfigError` where a network cannot learn single pixels."""
    if not hasattr(network, "describe"):
        raise ConfigError(
            f"sampling.pixels_per_crop is for networks in which the look at the surroundings is fixed "
            f"(model.name=surroundings); {name} learns whole crops. Leave it out."
        )


def make_mixer(config: RunConfig, network: nn.Module, team: Team) -> "PixelMixer | None":
    """What mixes the pixels of a run; None where it learns whole crops."""
    per_crop = config.sampling.pixels_per_crop
    if per_crop is None:
        return None
    check_describes(network, config.model.name)
    return PixelMixer(
        cast("DescribingNetwork", network),
        team.device,
        per_crop=per_crop,
        batch_size=config.train.pixels // team.size,
        seed=config.seed,
        rank=team.rank,
    )


class PixelMixer:
    """Makes batches of single pixels from the crops of an epoch.

    Parameters
    ----------
    network : DescribingNetwork
    device : torch.device
        Where crops are described, and the features of an epoch are kept.
    per_crop : int
        Pixels of each crop, at most; those that do not count are left out.
    batch_size : int
        Pixels of a batch, of this process.
    seed, rank : int
    """

    def __init__(
        self, network: DescribingNetwork, device: torch.device, *, per_crop: int, batch_size: int, seed: int, rank: int
    ) -> None:
        self._network, self._device = network, device
        self._per_crop, self._batch_size = per_crop, batch_size
        self._seed, self._rank = seed, rank

    def __call__(
        self, crops: Iterable[tuple[Tensor, Tensor]], epoch: int, num_batches: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield features (N, F, 1, 1) and classes (N, 1, 1).

        Parameters
        ----------
        crops : iterable of image (N, C, H, W) and target (N, H, W)
            All of the epoch.
        epoch, num_batches : int
            Where more pixels are wanted than count, they come again.

        Raises
        ------
        DataError
            If no pixel of the crops counts.
        """
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + epoch) * 4096 + self._rank)
        # Features stay in the parts in which they came: joined they would be there twice.
        parts = [self._pixels(image, target, generator) for image, target in crops]
        target_N = torch.cat([target for _, target in parts])
        if not len(target_N):
            raise DataError(
                "No pixel of this epoch's crops counts: all are nodata, unlabelled, or too near to a held-out tile. "
                "Give more labelled tiles, larger crops (sampling.crop_px), or a narrower buffer (data.buffer_px)."
            )
        order = torch.empty(0, dtype=torch.long)
        for _ in range(num_batches):
            while len(order) < self._batch_size:
                order = torch.cat([order, torch.randperm(len(target_N), generator=generator)])
            chosen, order = order[: self._batch_size], order[self._batch_size :]
            here = chosen.to(self._device)
            yield _taken([features for features, _ in parts], here)[..., None, None], target_N[here][:, None, None]

    def _pixels(self, image_NCHW: Tensor, target_NHW: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        height, width = target_NHW.shape[-2:]
        # The coarsest grid with as many pixels as are wanted, which is the cheapest.
        step = max(int((height * width / self._per_crop) ** 0.5), 1)
        row, col = (int(torch.randint(min(step, side), (), generator=generator)) for side in (height, width))
        grid = Grid(row, col, step)
        features_NFhw = self._network.describe(image_NCHW.to(self._device), grid)
        target_Nhw = grid.of(target_NHW, target_NHW.shape).to(self._device)
        features, targets = [], []
        for features_Fhw, target_hw in zip(features_NFhw, target_Nhw, strict=True):
            counted = (target_hw.flatten() != IGNORE_INDEX).nonzero().flatten()
            wanted = -(-len(counted) * self._per_crop // max(len(target_hw.flatten()), self._per_crop))
            chosen = counted[torch.randperm(len(counted), generator=generator)[:wanted].to(counted.device)]
            features.append(features_Fhw.flatten(1)[:, chosen].T)
            targets.append(target_hw.flatten()[chosen])
        return torch.cat(features), torch.cat(targets)


def _taken(parts: Sequence[Tensor], chosen_N: Tensor) -> Tensor:
    """Rows of tables that follow one another, by their numbers over all of them."""
    taken_NF, first = parts[0].new_empty(len(chosen_N), parts[0].shape[1]), 0
    for part in parts:
        inside_N = (chosen_N >= first) & (chosen_N < first + len(part))
        taken_NF[inside_N] = part[chosen_N[inside_N] - first]
        first += len(part)
    return taken_NF
