"""Whether a scene looks like what a model was trained on."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.channels import required_bands
from napari_glacier.core.statistics import PooledStatistics
from napari_glacier.core.tiling import Window
from napari_glacier.nn.checkpoint import ModelCard

# Other scenes of one region stay well inside these; data in other units fall far outside.
MAX_SHIFT_STD = 2.5
MAX_SPREAD_RATIO = 5.0
_SAMPLE_WINDOWS = 12
_SAMPLE_SIDE_PX = 256


class Scene(Protocol):
    """What a predictor needs of a raster: a size and pixels."""

    name: str
    shape: tuple[int, int]

    def read(self, window: Window, bands: Sequence[str]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Bands of a window, (C, h, w), and the pixels that carry data, (h, w)."""


def sample_statistics(scene: Scene, bands: Sequence[str]) -> PooledStatistics:
    """Mean and standard deviation of a scene's valid pixels, from windows spread over it.

    Parameters
    ----------
    scene : Scene
    bands : sequence of str
    """
    height, width = scene.shape
    side = _SAMPLE_SIDE_PX
    corners = [(row, col) for row in range(0, height, side) for col in range(0, width, side)]
    # An even stride over the row-major list would sample few columns: golden-ratio steps scatter.
    order = np.argsort((np.arange(len(corners)) * 0.6180339887) % 1.0, kind="stable")
    statistics = PooledStatistics(len(bands))
    used = 0
    for k in order[: _SAMPLE_WINDOWS * 8]:  # scenes are mostly gap at times; look further, but not forever
        row, col = corners[k]
        window = Window(row, col, min(side, height - row), min(side, width - col))
        image_CHW, valid_HW = scene.read(window, bands)
        if valid_HW.any():
            statistics.update(image_CHW, valid_HW)
            used += 1
        if used == _SAMPLE_WINDOWS:
            break
    return statistics


def drift_warnings(
    statistics: PooledStatistics, bands: Sequence[str], card: ModelCard, missing: Sequence[str] = ()
) -> list[str]:
    """Say in which bands a scene is far from a model's training data, and by how much.

    Parameters
    ----------
    statistics : PooledStatistics
        Of the scene's `bands`.
    bands : sequence of str
    card : ModelCard
    missing : sequence of str
        Bands that the data lack; they are not compared.

    Returns
    -------
    list of str
        Empty, or one sentence for the model.
    """
    if not statistics.count:
        return []
    odd = []
    for k, channel in enumerate(card.channels):
        if channel not in CANONICAL_BANDS or channel in missing:
            continue
        mean, std = statistics.mean[list(bands).index(channel)], statistics.std[list(bands).index(channel)]
        seen_mean, seen_std = card.normalisation.mean[k], max(card.normalisation.std[k], 1e-12)
        shift, ratio = abs(mean - seen_mean) / seen_std, std / seen_std
        if shift > MAX_SHIFT_STD or not 1 / MAX_SPREAD_RATIO <= ratio <= MAX_SPREAD_RATIO:
            odd.append(
                f"{channel} is {mean:.4g} ± {std:.3g}, seen {seen_mean:.4g} ± {seen_std:.3g} "
                f"({shift:.1f} standard deviations away, spread x {ratio:.2g})"
            )
    if not odd:
        return []
    return [
        f"The input is far from what {card.name} was trained on: {'; '.join(odd)}. Expect a poor map; check that "
        "the bands are in the training data's units (digital numbers, reflectance, kelvin) and order."
    ]


def missing_bands(scene: Scene, channels: Sequence[str]) -> tuple[str, ...]:
    """Bands that the channels need and the scene's data set lacks altogether."""
    present = getattr(getattr(scene, "dataset", None), "bands", None)
    if present is None:
        return ()
    return tuple(band for band in required_bands(channels) if band not in present)
