"""A dense conditional random field over a neighbourhood: class boundaries move to edges of the image, specks give way.

Legend: K classes, L = K - 1, C bands, H x W the scene, h x w a piece of it.

The model is that of Krähenbühl & Koltun (2011, "Efficient inference in fully connected CRFs with Gaussian edge
potentials", NeurIPS, eq. 3 and 4), cut off at a window as in Teichmann & Cipolla (2018, "Convolutional CRFs for
semantic segmentation"). Pixels i and j of different classes cost

    k(i, j) = a/A exp(-|pi - pj|² / 2 θa² - mean_c (Ii - Ij)² / 2 θb²) + s/S exp(-|pi - pj|² / 2 θs²)

(appearance and smoothness), p in pixels, I in standard deviations of each band. A and S are the sums of the two
spatial Gaussians over the window, so that the weights a and s mean the same in every window: what neighbours that
all agree, and all look alike, add to the log-odds of their class. The mean field is iterated from the networks'
probabilities P:

    Q_i(l) ∝ exp(log P_i(l) - sum over l' ≠ l, j ≠ i of k(i, j) Q_j(l'))

The window holds the pixels up to `radius` steps of `dilation` pixels away, and the eight that touch: without
these, a dilated window would make interleaved maps that know nothing of each other.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from napari_glacier.core.errors import ConfigError, DataError

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
# Rows start up to stop of an image, (C, stop - start, W).
RowReader = Callable[[int, int], npt.NDArray[Any]]

# The side of a piece: with its halo some 60 MB in each thread, most of them weights.
_PIECE_PX = 512
# A class to which a network gives nothing may come back, if all its neighbours insist.
_LEAST_PROBABILITY = 1e-6


@dataclass(frozen=True, slots=True)
class CrfSettings:
    """How far and how strongly pixels look at each other.

    Parameters
    ----------
    iterations : int
        Rounds of messages; 3 to 5 suffice, 0 changes nothing.
    radius, dilation : int
        The window: `radius` steps of `dilation` pixels each way.
    appearance_weight, smooth_weight : float
        Log-odds that a window of one class adds to its class, a and s; for appearance at most, if all look alike.
    appearance_sigma_px, smooth_sigma_px : float
        Widths of the spatial Gaussians in pixels, θa and θs.
    appearance_sigma_bands : float
        Difference between two pixels, in standard deviations of a band, that still counts as alike, θb.

    Raises
    ------
    ConfigError
        If a number does not make sense.
    """

    iterations: int = 5
    radius: int = 3
    dilation: int = 2
    appearance_weight: float = 3.0
    appearance_sigma_px: float = 4.0
    appearance_sigma_bands: float = 0.25
    smooth_weight: float = 1.0
    smooth_sigma_px: float = 2.0

    def __post_init__(self) -> None:
        if self.iterations < 0 or min(self.radius, self.dilation) < 1:
            raise ConfigError(
                f"A CRF of {self.iterations} iterations, radius {self.radius} and dilation {self.dilation} is not "
                "possible. Use 0 or more iterations, and a radius and dilation of 1 or more."
            )
        if not all(0 <= weight < math.inf for weight in (self.appearance_weight, self.smooth_weight)):
            raise ConfigError(
                f"The CRF's weights are {self.appearance_weight} (appearance) and {self.smooth_weight} (smoothness). "
                "Use finite numbers of 0 or more."
            )
        sigmas = (self.appearance_sigma_px, self.appearance_sigma_bands, self.smooth_sigma_px)
        if not all(0 < sigma < math.inf for sigma in sigmas):
            raise ConfigError(
                f"The CRF's widths are {self.appearance_sigma_px} px and {self.appearance_sigma_bands} standard "
                f"deviations (appearance), {self.smooth_sigma_px} px (smoothness). Use finite numbers above 0."
            )

    @property
    def reach_px(self) -> int:
        """How far one message goes."""
        return self.radius * self.dilation

    @property
    def halo_px(self) -> int:
        """How far a pixel is heard in the end: a piece cut with so much around it gives what the whole gives."""
        return self.reach_px * self.iterations


@dataclass(frozen=True, slots=True)
class BandStatistics:
    """Mean and standard deviation of each band over a scene's valid pixels; 1 for a band without contrast."""

    mean_C: FloatArray
    std_C: FloatArray


def band_statistics(
    image: npt.NDArray[Any] | RowReader, valid_HW: BoolArray, rows_at_once: int = 256
) -> BandStatistics:
    """Mean and standard deviation of each band over the valid pixels, read once, a few rows at a time.

    Parameters
    ----------
    image : array of shape (C, H, W), or function (start, stop) -> array of shape (C, stop - start, W)
    valid_HW : bool array, shape (H, W)
    rows_at_once : int
        Rows are read in strips of so many; only rounding depends on it.
    """
    read = _reader(image)
    count: npt.NDArray[np.float64] | None = None
    for start in range(0, valid_HW.shape[0], rows_at_once):
        stop = min(start + rows_at_once, valid_HW.shape[0])
        image_ChW = np.asarray(read(start, stop), np.float64)
        use_ChW = np.isfinite(image_ChW) & valid_HW[start:stop]
        image_ChW = np.where(use_ChW, image_ChW, 0)
        here = use_ChW.sum(axis=(1, 2)).astype(np.float64)
        here_mean = image_ChW.sum(axis=(1, 2)) / np.maximum(here, 1)
        here_squares = ((image_ChW - here_mean[:, None, None]) ** 2 * use_ChW).sum(axis=(1, 2))
        if count is None:
            count, mean, squares = here, here_mean, here_squares
            continue
        # Chan, Golub & LeVeque (1983): moments of two samples taken together, without cancellation.
        both = np.maximum(count + here, 1)
        shift = here_mean - mean
        squares = squares + here_squares + shift**2 * count * here / both
        mean = mean + shift * here / both
        count = count + here
    if count is None:
        return BandStatistics(np.zeros(0, np.float32), np.zeros(0, np.float32))
    std = np.sqrt(squares / np.maximum(count, 1))
    flat = std <= 1e-6 * np.maximum(np.abs(mean), 1e-6)
    return BandStatistics(mean.astype(np.float32), np.where(flat, 1, std).astype(np.float32))


def refine(
    probabilities_KHW: npt.NDArray[Any],
    image_CHW: npt.NDArray[Any],
    valid_HW: BoolArray,
    settings: CrfSettings | None = None,
    *,
    statistics: BandStatistics | None = None,
    device: torch.device | str = "cpu",
) -> FloatArray:
    """Refine class probabilities by what the image shows; see the formula at the top of this file.

    Parameters
    ----------
    probabilities_KHW : float array, shape (K, H, W)
    image_CHW : array, shape (C, H, W)
        Bands as they are; they are standardised here. A value that is not finite counts as the band's mean.
    valid_HW : bool array, shape (H, W)
        Nodata pixels neither send nor receive messages; their probabilities stay as they were.
    settings : CrfSettings, optional
    statistics : BandStatistics, optional
        Those of the whole scene, where this is a piece of one; the image's own by default.
    device : torch.device or str

    Returns
    -------
    float32 array, shape (K, H, W)

    Raises
    ------
    DataError
        If the arrays do not fit each other.
    """
    statistics = band_statistics(image_CHW, valid_HW) if statistics is None else statistics
    refined_KHW = np.empty(probabilities_KHW.shape, np.float32)
    for rows, refined_KhW in refine_rows(probabilities_KHW, image_CHW, valid_HW, statistics, settings, device=device):
        refined_KHW[:, rows] = refined_KhW
    return refined_KHW


def refine_rows(
    probabilities_KHW: npt.NDArray[Any],
    image: npt.NDArray[Any] | RowReader,
    valid_HW: BoolArray,
    statistics: BandStatistics,
    settings: CrfSettings | None = None,
    *,
    device: torch.device | str = "cpu",
    piece_px: int = _PIECE_PX,
) -> Iterator[tuple[slice, FloatArray]]:
    """Refine a scene in strips of rows, from the top; as `refine`, with memory for one strip's arrays.

    What has been yielded may be written into `probabilities_KHW` at once: rows that are still needed are kept.

    Parameters
    ----------
    probabilities_KHW, valid_HW, settings, device
        See `refine`.
    image : array of shape (C, H, W), or function (start, stop) -> array of shape (C, stop - start, W)
        Each strip is asked for with `CrfSettings.halo_px` rows around it.
    statistics : BandStatistics
        Of the whole scene; see `band_statistics`.
    piece_px : int
        Rows of a strip, and columns of the pieces into which it is cut on the way; the result does not depend on it.

    Yields
    ------
    slice, float32 array of shape (K, h, W)
        Rows, and their probabilities.

    Raises
    ------
    DataError
        If the arrays do not fit each other.
    """
    settings = settings or CrfSettings()
    read = _reader(image)
    height, width = valid_HW.shape
    if probabilities_KHW.shape[1:] != (height, width) or probabilities_KHW.shape[0] < 2:
        raise DataError(
            f"Probabilities of shape {probabilities_KHW.shape} were given with a valid mask of shape "
            f"{valid_HW.shape}. The CRF needs (K, {height}, {width}) with two or more classes."
        )
    halo = settings.halo_px
    above_KhW = probabilities_KHW[:, :0]
    for start in range(0, height, piece_px):
        stop = min(start + piece_px, height)
        top, bottom = start - above_KhW.shape[1], min(stop + halo, height)
        given_KhW = np.concatenate([above_KhW, probabilities_KHW[:, start:bottom]], axis=1).astype(np.float32)
        above_KhW = given_KhW[:, max(stop - halo - top, 0) : stop - top].copy()
        keep = slice(start - top, stop - top)
        valid_hW = valid_HW[top:bottom]
        if not valid_hW[keep].any():
            yield slice(start, stop), given_KhW[:, keep]
            continue
        image_ChW = _standardised(read(top, bottom), valid_hW, statistics)
        refined_KhW = _refine_strip(
            given_KhW, image_ChW, valid_hW, keep=keep, settings=settings, device=torch.device(device), piece_px=piece_px
        )
        yield slice(start, stop), refined_KhW


def _reader(image: npt.NDArray[Any] | RowReader) -> RowReader:
    if isinstance(image, np.ndarray):
        whole_CHW: npt.NDArray[Any] = image
        return lambda start, stop: whole_CHW[:, start:stop]
    return image


def _standardised(image_ChW: npt.NDArray[Any], valid_hW: BoolArray, statistics: BandStatistics) -> FloatArray:
    if image_ChW.shape != (len(statistics.mean_C), *valid_hW.shape):
        raise DataError(
            f"An image of shape {image_ChW.shape} was given where (C, H, W) is ({len(statistics.mean_C)}, "
            f"{valid_hW.shape[0]}, {valid_hW.shape[1]}). Give the bands of the statistics, in the mask's shape."
        )
    use_ChW = np.isfinite(image_ChW) & valid_hW
    # Nodata first: some files' fill value does not fit into float32.
    scaled_ChW: FloatArray = np.where(use_ChW, image_ChW, 0).astype(np.float32) - statistics.mean_C[:, None, None]
    scaled_ChW /= statistics.std_C[:, None, None]
    scaled_ChW *= use_ChW
    return scaled_ChW


def _window(settings: CrfSettings) -> list[tuple[int, int]]:
    """Offsets to half of the window's pixels, the others being their opposites: rows never go up."""
    steps = range(-settings.radius, settings.radius + 1)
    window = {(row * settings.dilation, col * settings.dilation) for row in steps for col in steps}
    window |= {(row, col) for row in (-1, 0, 1) for col in (-1, 0, 1)}
    return sorted(offset for offset in window if offset > (0, 0))


def _spatial(offsets: Sequence[tuple[int, int]], sigma_px: float, weight: float) -> list[float]:
    gaussian = [math.exp(-(row**2 + col**2) / (2 * sigma_px**2)) for row, col in offsets]
    total = 2 * sum(gaussian)
    # A Gaussian much narrower than a pixel reaches no neighbour.
    return [weight * g / total if total > 0 else 0.0 for g in gaussian]


def _refine_strip(
    given_KhW: FloatArray,
    image_ChW: FloatArray,
    valid_hW: BoolArray,
    *,
    keep: slice,
    settings: CrfSettings,
    device: torch.device,
    piece_px: int,
) -> FloatArray:
    """Probabilities of the rows `keep`, in pieces of `piece_px` columns, one a thread.

    Each thread computes alone. The steps are so short that torch's threads wait for each other longer than they
    work as soon as another process is busy: five times the time and more on two cores.
    """
    halo, width = settings.halo_px, valid_hW.shape[1]
    refined_KhW = given_KhW[:, keep].copy()

    def refine_columns(left: int) -> None:
        right = min(left + piece_px, width)
        around = slice(max(left - halo, 0), min(right + halo, width))
        refined_Khw = _refine_piece(
            given_KhW[:, :, around], image_ChW[:, :, around], valid_hW[:, around], settings, device
        )[:, keep, left - around.start : right - around.start]
        np.copyto(refined_KhW[:, :, left:right], refined_Khw, where=valid_hW[keep, left:right])

    lefts = [left for left in range(0, width, piece_px) if valid_hW[keep, left : left + piece_px].any()]
    num_threads = torch.get_num_threads()
    workers = min(num_threads, len(lefts)) if device.type == "cpu" else 1
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in pool.map(refine_columns, lefts):
                pass
    finally:
        # The number holds for the thread that sets it, and for all that begin later.
        torch.set_num_threads(num_threads)
    return refined_KhW


@torch.inference_mode()
def _refine_piece(
    probabilities_Khw: FloatArray,
    image_Chw: FloatArray,
    valid_hw: BoolArray,
    settings: CrfSettings,
    device: torch.device,
) -> FloatArray:
    """Probabilities of a piece that hears nothing from outside.

    Arithmetic is elementwise throughout, sums over classes and bands included: torch's reductions group their
    terms by where a pixel lies in memory, and a scene cut elsewhere would differ in the last bit.
    """
    num_classes, height, width = probabilities_Khw.shape
    pad = settings.reach_px
    inside = (slice(pad, pad + height), slice(pad, pad + width))
    offsets = _window(settings)
    weights = _pair_weights(_on(image_Chw, device), offsets, settings)
    valid_hw_on = _on(valid_hw, device)
    log_Khw = _on(probabilities_Khw, device).clamp(min=_LEAST_PROBABILITY).log_()
    # Since probabilities sum to 1, differences from class 0 say all, with one plane of messages fewer.
    unary_Lhw = log_Khw[1:] - log_Khw[:1]
    belief_Khw = _softmax(unary_Lhw)
    sent_Lhw = unary_Lhw.new_zeros(num_classes - 1, height + 2 * pad, width + 2 * pad)
    for _ in range(settings.iterations):
        sent_Lhw[:, *inside] = (belief_Khw[1:] - belief_Khw[:1]).mul_(valid_hw_on)
        logits_Lhw = unary_Lhw.clone()
        for weight_hw, (row, col) in zip(weights, offsets, strict=True):
            after = (slice(pad + row, pad + row + height), slice(pad + col, pad + col + width))
            before = (slice(pad - row, pad - row + height), slice(pad - col, pad - col + width))
            logits_Lhw.addcmul_(weight_hw[inside], sent_Lhw[:, *after])
            logits_Lhw.addcmul_(weight_hw[before], sent_Lhw[:, *before])
        belief_Khw = _softmax(logits_Lhw)
    refined_Khw: FloatArray = belief_Khw.cpu().numpy()
    return refined_Khw


def _on(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def _pair_weights(
    image_Chw: torch.Tensor, offsets: Sequence[tuple[int, int]], settings: CrfSettings
) -> list[torch.Tensor]:
    """What a pixel and the one at `offset` from it weigh for each other, at the former; planes padded by the reach."""
    num_bands, pad = image_Chw.shape[0], settings.reach_px
    scaled_Chw = image_Chw * (1 / (settings.appearance_sigma_bands * math.sqrt(2 * max(num_bands, 1))))
    padded_Chw = torch.nn.functional.pad(scaled_Chw, (pad, pad, pad, pad))
    height, width = padded_Chw.shape[1:]
    appearance = _spatial(offsets, settings.appearance_sigma_px, settings.appearance_weight)
    smooth = _spatial(offsets, settings.smooth_sigma_px, settings.smooth_weight)
    weights = []
    for (row, col), a, s in zip(offsets, appearance, smooth, strict=True):
        left, right = max(-col, 0), width - max(col, 0)
        squares_hw = padded_Chw.new_zeros(height - row, right - left)
        for plane_hw in padded_Chw:
            step_hw = plane_hw[: height - row, left:right] - plane_hw[row:, left + col : right + col]
            squares_hw.addcmul_(step_hw, step_hw)
        weight_hw = padded_Chw.new_zeros(height, width)
        weight_hw[: height - row, left:right] = squares_hw.neg_().exp_().mul_(a).add_(s)
        weights.append(weight_hw)
    return weights


def _softmax(logits_Lhw: torch.Tensor) -> torch.Tensor:
    """Probabilities (K, h, w) from log-odds against class 0."""
    highest_hw = logits_Lhw.amax(0).clamp_min_(0)
    exp_Khw = torch.cat([torch.zeros_like(highest_hw)[None], logits_Lhw]).sub_(highest_hw).exp_()
    total_hw = exp_Khw[0].clone()
    for plane_hw in exp_Khw[1:]:
        total_hw.add_(plane_hw)
    return exp_Khw.div_(total_hw)
