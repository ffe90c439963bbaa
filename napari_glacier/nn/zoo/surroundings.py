"""Perceptrons on what surrounds each pixel: statistics of its surroundings, then convolutions of 1 x 1.

Of a handful of tiles a deep network learns slowly, and places by heart. Here what looks around has nothing to learn:
mean, deviation, least and greatest value in squares of growing size, how far a pixel is off the mean around it, and how
each channel slopes. What is learnt is how to weigh them: some ten thousand numbers, from single pixels, in minutes.

More squares do not help a perceptron, but perceptrons that look at other squares make other mistakes, and the mean of
their probabilities makes fewer. Each learns by a loss of its own: taught by the loss of their mean they would lean on
one another, and say less of unseen places (Jeffares et al. 2023, "Joint training of deep ensembles fails due to learner
collusion", NeurIPS).

Squares are built by doubling, each of four of half its side, so that a large one costs no more than a small one. They
have a side of 2^k + 1, and for means the pixels on the rim count half, those in the corners a quarter. Nodata, and what
is beyond the image, counts in no statistic.

Shapes: image_NCHW and values_NVHW, the channels without ``valid``; valid_N1HW is 1 on data and 0 on nodata; F features
of pixels on a grid, features_NFhw; L looks, K classes.
"""

import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional

from napari_glacier.core.errors import ConfigError

# Stands for a value that is not there; those that are there lie far within.
_BEYOND = 1e4
# Of squared standard deviations of a channel: what rounding leaves of no variance at all.
_LEAST_VARIANCE = 1e-6
_LEAST_WEIGHT = 1e-6
# Features of other scenes are taken for no stranger than this, in standard deviations.
_STRANGEST = 4.0


class Grid(NamedTuple):
    """Pixels that are looked at: of every `step`-th row from `row` on, and of columns likewise."""

    row: int = 0
    col: int = 0
    step: int = 1

    def of(self, planes: torch.Tensor, size: torch.Size, first: int = 0) -> torch.Tensor:
        """What is on the grid, of planes (..., H, W) that begin `first` pixels up and left of an image of this size."""
        rows = slice(first + self.row, first + size[-2], self.step)
        return planes[..., rows, first + self.col : first + size[-1] : self.step]


EVERY_PIXEL = Grid()


class Surroundings(nn.Module):
    """Statistics of the surroundings of pixels; nothing in it is learnt.

    Parameters
    ----------
    channel_names : sequence of str
        Of the image; ``valid`` says which pixels count. Where there is none, those do that are not 0 in all channels.
    sides_px : sequence of int
        Of the squares for mean and deviation.
    extremes_px : sequence of int
        Of the squares for the greatest and the least value.
    relative_px : sequence of int
        Of the squares from whose mean a pixel's difference is taken.
    slopes_px : sequence of int
        Of the squares over which a channel is smoothed before its slope is taken.
    steepness_px : sequence of int
        Of the squares over which the steepness is averaged.

    Attributes
    ----------
    num_features : tuple of int
        In each of the groups that `forward` gives.
    reach_px : int
        How far from a pixel it looks.

    Raises
    ------
    ConfigError
        If a side is not 2^k + 1, or there is no channel but ``valid``.
    """

    def __init__(
        self,
        channel_names: Sequence[str],
        *,
        sides_px: Sequence[int],
        extremes_px: Sequence[int],
        relative_px: Sequence[int],
        slopes_px: Sequence[int],
        steepness_px: Sequence[int],
    ) -> None:
        super().__init__()
        self._values = [c for c, name in enumerate(channel_names) if name != "valid"]
        self._valid = [c for c, name in enumerate(channel_names) if name == "valid"]
        self.sides_px, self.extremes_px, self.relative_px = tuple(sides_px), tuple(extremes_px), tuple(relative_px)
        self.slopes_px, self.steepness_px = tuple(slopes_px), tuple(steepness_px)
        sides = {*sides_px, *extremes_px, *relative_px, *slopes_px, *steepness_px}
        odd = sorted(side for side in sides if side < 3 or (side - 1) & (side - 2))
        if odd:
            raise ConfigError(f"Squares of {odd} px cannot be had. Give sides of 3, 5, 9, 17, 33 … px.")
        if not self._values:
            raise ConfigError(
                "Only the channel valid is given, which has no surroundings. Add a band to data.channels."
            )
        per_channel = (
            1 + 2 * len(self.sides_px) + len(self.relative_px),
            2 * len(self.extremes_px),
            (2 + len(self.steepness_px)) * len(self.slopes_px),
        )
        self.num_features = tuple(number * len(self._values) for number in per_channel if number)
        squares_px = {1, *sides_px, *extremes_px, *relative_px}
        # A slope is that of the means one pixel further on both sides; of its steepness a mean is taken in turn.
        squares_px |= {side + 2 + around - 1 for side in slopes_px for around in (1, *steepness_px)}
        self.reach_px = max(squares_px) // 2

    def forward(self, image_NCHW: torch.Tensor, grid: Grid = EVERY_PIXEL) -> Iterator[torch.Tensor]:
        """Yield groups of features of the pixels on a grid, each (N, F, h, w) in float32; 0 on nodata.

        In groups, because all features of a window together take a gigabyte.
        """
        if self._valid:
            valid_N1HW = (image_NCHW[:, self._valid] > 0.5).float()
        else:
            valid_N1HW = (image_NCHW != 0).any(1, keepdim=True).float()
        values_NVHW = image_NCHW[:, self._values] * valid_N1HW
        here_N1hw = grid.of(valid_N1HW, valid_N1HW.shape)
        for look, wanted in (
            (self._moments, True),
            (self._extremes, self.extremes_px),
            (self._slopes, self.slopes_px),
        ):
            if wanted:
                yield torch.cat(list(look(values_NVHW, valid_N1HW, grid)), 1).mul_(here_N1hw)

    def _moments(self, values_NVHW: torch.Tensor, valid_N1HW: torch.Tensor, grid: Grid) -> Iterator[torch.Tensor]:
        num = len(self._values)
        here = grid.of(values_NVHW, values_NVHW.shape)
        yield here
        summed = torch.cat([values_NVHW, values_NVHW.square(), valid_N1HW], 1)
        for side, planes in means_of_squares(summed, {*self.sides_px, *self.relative_px}, grid):
            weight = planes[:, 2 * num :].clamp_min(_LEAST_WEIGHT)
            mean = planes[:, :num] / weight
            if side in self.sides_px:
                yield mean
                yield (planes[:, num : 2 * num] / weight - mean.square()).clamp_min(_LEAST_VARIANCE).sqrt()
            if side in self.relative_px:
                yield here - mean

    def _extremes(self, values_NVHW: torch.Tensor, valid_N1HW: torch.Tensor, grid: Grid) -> Iterator[torch.Tensor]:
        """The greatest values, and the negatives of the least."""
        absent = (valid_N1HW - 1) * _BEYOND
        both = torch.cat([values_NVHW + absent, absent - values_NVHW], 1)
        for _, greatest in greatest_of_squares(both, self.extremes_px, -_BEYOND, grid):
            yield greatest

    def _slopes(self, values_NVHW: torch.Tensor, valid_N1HW: torch.Tensor, grid: Grid) -> Iterator[torch.Tensor]:
        num, size = len(self._values), values_NVHW.shape
        for side, planes in means_of_squares(torch.cat([values_NVHW, valid_N1HW], 1), self.slopes_px):
            mean = planes[:, :num] / planes[:, num:].clamp_min(_LEAST_WEIGHT)
            framed = functional.pad(mean, (1, 1, 1, 1), mode="replicate")
            # Over half a side, so that they have the magnitude of the deviations.
            down = (framed[..., 2:, 1:-1] - framed[..., :-2, 1:-1]) * (side / 2)
            right = (framed[..., 1:-1, 2:] - framed[..., 1:-1, :-2]) * (side / 2)
            yield grid.of(down, size)
            yield grid.of(right, size)
            steepness = (down.square() + right.square()).sqrt() * valid_N1HW
            for _, around in means_of_squares(torch.cat([steepness, valid_N1HW], 1), self.steepness_px, grid):
                yield around[:, :num] / around[:, num:].clamp_min(_LEAST_WEIGHT)


def means_of_squares(
    planes: torch.Tensor, sides_px: Collection[int], grid: Grid = EVERY_PIXEL
) -> Iterator[tuple[int, torch.Tensor]]:
    """Means in squares around the pixels of a grid, the rim by half; what is beyond the image counts as 0.

    Parameters
    ----------
    planes : tensor of shape (N, C, H, W)
    sides_px : collection of int
        Each 2^k + 1.
    grid : Grid

    Yields
    ------
    side, tensor of shape (N, C, h, w); in growing order.
    """
    for side, first, sums in _doubled(planes, sides_px, 0.0, torch.add):
        a, b, c, d = _corners(sums, first, planes.shape, grid)
        yield side, (a + b + c + d) * (0.25 / (side - 1) ** 2)


def greatest_of_squares(
    planes: torch.Tensor, sides_px: Collection[int], beyond: float, grid: Grid = EVERY_PIXEL
) -> Iterator[tuple[int, torch.Tensor]]:
    """Greatest values in squares around the pixels of a grid; beyond the image is `beyond`. As `means_of_squares`."""
    for side, first, greatest in _doubled(planes, sides_px, beyond, torch.maximum):
        yield side, functools.reduce(torch.maximum, _corners(greatest, first, planes.shape, grid))


def _corners(squares: torch.Tensor, first: int, size: torch.Size, grid: Grid) -> list[torch.Tensor]:
    """The four squares of an even side that together make one of an odd side, for the pixels of a grid."""
    return [grid.of(squares[..., down:, right:], size, first) for down in (0, 1) for right in (0, 1)]


def _doubled(
    planes: torch.Tensor,
    sides_px: Collection[int],
    beyond: float,
    join: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yield a side, the place of the first pixel's first square, and the squares that are one pixel smaller."""
    largest = max(sides_px, default=0)
    reach, length = (largest - 1) // 2, 1
    joined = functional.pad(planes, (reach, reach, reach, reach), value=beyond)
    while 2 * length < largest:
        joined = join(joined[..., :-length, :], joined[..., length:, :])
        joined = join(joined[..., :-length], joined[..., length:])
        length *= 2
        if length + 1 in sides_px:
            yield length + 1, reach - length // 2, joined


class SurroundingsNetwork(nn.Module):
    """Surroundings, standardised, and a perceptron that is the same for every pixel.

    Parameters
    ----------
    surroundings : Surroundings
    num_classes : int
    width : int
        Units of each hidden layer.
    depth : int
        Number of hidden layers.
    dropout : float
        Share of units dropped while training.
    """

    in_float32 = True
    """Small differences of large values are what it looks at: engines must not round inside of it."""

    takes_gigabytes = True
    """So much are the features of a window: an engine must not keep them for the next, of each member and shape."""

    upright = True
    """Slopes to the north are darker and colder than others: a turned or mirrored view is another place to it."""

    def __init__(self, surroundings: Surroundings, num_classes: int, *, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.surroundings = surroundings
        self.scales = nn.ModuleList(
            # The mean of all batches: a few thousand pixels each tell it well.
            nn.BatchNorm2d(number, affine=False, momentum=None, eps=_LEAST_VARIANCE)
            for number in surroundings.num_features
        )
        self.first = nn.Conv2d(sum(surroundings.num_features), width, 1)
        layers: list[nn.Module] = []
        for number in range(depth):
            layers += [nn.Conv2d(width, width, 1)] if number else []
            layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Dropout(dropout)]
        self.rest = nn.Sequential(*layers)
        self.head = nn.Conv2d(width, num_classes, 1)

    @property
    def num_features(self) -> int:
        """How many features a pixel has."""
        return sum(self.surroundings.num_features)

    @property
    def reach_px(self) -> int:
        """How far from a pixel it looks."""
        return self.surroundings.reach_px

    def describe(self, image_NCHW: torch.Tensor, grid: Grid = EVERY_PIXEL) -> torch.Tensor:
        """Features of the pixels on a grid, float32 (N, F, h, w), which `forward` takes in the place of an image."""
        with _exact(image_NCHW):
            return torch.cat(list(self.surroundings(image_NCHW.float().contiguous(), grid)), 1)

    def forward(self, image_NCHW: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (N, num_classes, H, W), for images of any H and W, or for features of pixels."""
        if image_NCHW.shape[1] == self.num_features:
            if len(image_NCHW) > 1 and image_NCHW.shape[2:] == (1, 1):
                # Single pixels as one image, a row of them: convolutions take half the time.
                of_row: torch.Tensor = self(image_NCHW.permute(2, 1, 3, 0))
                return of_row.permute(3, 1, 2, 0)
            groups = iter(torch.split(image_NCHW, list(self.surroundings.num_features), 1))
        else:
            groups = self.surroundings(image_NCHW.float().contiguous())
        assert self.first.bias is not None
        hidden_NWHW: torch.Tensor = self.first.bias.view(-1, 1, 1)
        first = 0
        for scale in self.scales:
            with _exact(image_NCHW):
                # In place: at a thousand pixels square each copy of a group is half a gigabyte.
                group_NFHW = _standardised(next(groups), cast("nn.BatchNorm2d", scale)).clamp_(-_STRANGEST, _STRANGEST)
            last = first + group_NFHW.shape[1]
            hidden_NWHW = functional.conv2d(group_NFHW, self.first.weight[:, first:last]).add_(hidden_NWHW)
            del group_NFHW
            first = last
        logits: torch.Tensor = self.head(self.rest(hidden_NWHW))
        return logits


class SeveralLooks(nn.Module):
    """Networks that look at different squares around a pixel, as one: the mean of their probabilities counts.

    Parameters
    ----------
    networks : sequence of SurroundingsNetwork
        Two or more.

    Attributes
    ----------
    auxiliary_weights : tuple of float
        Of the losses of single networks; that of their mean teaches nothing.
    """

    in_float32 = SurroundingsNetwork.in_float32
    takes_gigabytes = SurroundingsNetwork.takes_gigabytes
    upright = SurroundingsNetwork.upright

    def __init__(self, networks: Sequence[SurroundingsNetwork]) -> None:
        super().__init__()
        self.looks = nn.ModuleList(networks)
        self.auxiliary_weights = (1 / len(networks),) * len(networks)
        self.num_features = sum(network.num_features for network in networks)
        self.reach_px = max(network.reach_px for network in networks)

    def describe(self, image_NCHW: torch.Tensor, grid: Grid = EVERY_PIXEL) -> torch.Tensor:
        """Features of the pixels on a grid, float32 (N, F, h, w), which `forward` takes in the place of an image."""
        return torch.cat([look.describe(image_NCHW, grid) for look in self._networks()], 1)

    def forward(self, image_NCHW: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Return logits (N, num_classes, H, W), of images or of features: logarithms of mean probabilities.

        While training, those without gradients, and the logits of each network after them.
        """
        networks = self._networks()
        parts: Sequence[torch.Tensor] = [image_NCHW] * len(networks)
        if image_NCHW.shape[1] == self.num_features:
            parts = torch.split(image_NCHW, [network.num_features for network in networks], 1)
        each: list[torch.Tensor] = [network(part) for network, part in zip(networks, parts, strict=True)]
        scored_LNKHW = torch.stack([logits.detach() if self.training else logits for logits in each])
        mean = scored_LNKHW.float().log_softmax(2).logsumexp(0) - math.log(len(networks))
        return (mean, *each) if self.training else mean

    def _networks(self) -> list[SurroundingsNetwork]:
        return [cast("SurroundingsNetwork", look) for look in self.looks]


def _standardised(group_NFHW: torch.Tensor, scale: nn.BatchNorm2d) -> torch.Tensor:
    """Features by the statistics of all batches so far: scaled while learning as they will be when predicted."""
    if scale.training:
        scale(group_NFHW)
    return functional.batch_norm(group_NFHW, scale.running_mean, scale.running_var, eps=scale.eps)


@contextmanager
def _exact(like: torch.Tensor) -> Iterator[None]:
    """Neither rounded by autocast nor kept for gradients: before the first convolution nothing is learnt."""
    with torch.no_grad(), torch.autocast(like.device.type, enabled=False):
        yield


def surroundings(
    in_channels: int,
    num_classes: int,
    *,
    width: int = 128,
    depth: int = 2,
    dropout: float = 0.2,
    sides_px: Sequence[int] = (3, 5, 9, 17, 33, 65),
    extremes_px: Sequence[int] = (3, 5, 9, 17, 33),
    relative_px: Sequence[int] = (33, 65, 129),
    slopes_px: Sequence[int] = (3, 9, 17),
    steepness_px: Sequence[int] = (9, 33),
    more_looks: Sequence[Mapping[str, Sequence[int]]] = (),
    channel_names: Sequence[str] = (),
) -> nn.Module:
    """Build the network; for the sides of squares see `Surroundings`.

    Parameters
    ----------
    in_channels, num_classes : int
    width, depth : int
        Units of a hidden layer, and how many hidden layers.
    dropout : float
        Share of units dropped while training.
    more_looks : sequence of mapping
        Of each further perceptron the squares by name (`sides_px` …), where they are others than those of the first.
    channel_names : sequence of str
        Names of the channels.
    """
    if min(width, depth) < 1:
        raise ConfigError(f"A perceptron of {depth} layers of {width} units cannot be built: both are 1 or more.")
    first = {
        "sides_px": sides_px,
        "extremes_px": extremes_px,
        "relative_px": relative_px,
        "slopes_px": slopes_px,
        "steepness_px": steepness_px,
    }
    unknown = sorted({name for look in more_looks for name in look} - set(first))
    if unknown:
        raise ConfigError(f"more_looks names {', '.join(unknown)}; a look has {', '.join(first)}.")
    names = channel_names or ("",) * in_channels
    networks = [
        SurroundingsNetwork(
            Surroundings(names, **{**first, **look}), num_classes, width=width, depth=depth, dropout=dropout
        )
        for look in ({}, *more_looks)
    ]
    return SeveralLooks(networks) if more_looks else networks[0]
