"""Whether a scene looks like what a model was trained on."""

from collections.abc import Mapping, Sequence

import numpy as np

from napari_glacier.core.channels import required_bands
from napari_glacier.core.data.statistics import PooledStatistics
from napari_glacier.core.findings import Diagnosis, Finding
from napari_glacier.core.tiling import Window
from napari_glacier.nn.checkpoint import ModelCard
from napari_glacier.nn.scene import BandGap, Scene

# Other scenes of one region stay well inside these; data in other units fall far outside.
MAX_SHIFT_STD = 2.5
MAX_SPREAD_RATIO = 5.0
_SAMPLE_WINDOWS = 12
_SAMPLE_SIDE_PX = 256


def sample_statistics(scene: Scene, bands: Sequence[str], gaps: Sequence[BandGap] = ()) -> dict[str, PooledStatistics]:
    """Mean and standard deviation of each band over a scene's valid pixels, from windows spread over it.

    Parameters
    ----------
    scene : Scene
    bands : sequence of str
    gaps : sequence of BandGap
        Where bands are missing: these pixels count for the other bands only.
    """
    height, width = scene.shape
    side = _SAMPLE_SIDE_PX
    corners = [(row, col) for row in range(0, height, side) for col in range(0, width, side)]
    # An even stride over the row-major list would sample few columns: golden-ratio steps scatter.
    order = np.argsort((np.arange(len(corners)) * 0.6180339887) % 1.0, kind="stable")
    statistics = {band: PooledStatistics(1) for band in bands}
    used = 0
    for k in order[: _SAMPLE_WINDOWS * 8]:  # scenes are mostly gap at times; look further, but not forever
        row, col = corners[k]
        window = Window(row, col, min(side, height - row), min(side, width - col))
        image_CHW, valid_HW = scene.read(window, bands)
        if valid_HW.any():
            for plane_HW, band in zip(image_CHW, bands, strict=True):
                there_HW = valid_HW.copy()
                for gap in gaps:
                    if band in gap.bands and (where := gap.within(window)) is not None:
                        there_HW[where] = False
                statistics[band].update(plane_HW[None], there_HW)
            used += 1
        if used == _SAMPLE_WINDOWS:
            break
    return statistics


def drift_warnings(statistics: Mapping[str, PooledStatistics], cards: Sequence[ModelCard]) -> list[str]:
    """Say in which bands a scene is far from the training data of models, and by how much.

    Parameters
    ----------
    statistics : mapping of band to PooledStatistics
        Of the scene; a band without a pixel is not compared.
    cards : sequence of ModelCard

    Returns
    -------
    list of str
        Empty, or a sentence for all models that were trained on the same.
    """
    names_of: dict[str, list[str]] = {}
    for card in cards:
        odd = _odd_bands(statistics, card)
        if odd:
            names_of.setdefault("; ".join(odd), []).append(card.name)
    return [
        f"The input is far from what {', '.join(names)} {'was' if len(names) == 1 else 'were'} trained on: {odd}. "
        "Expect a poor map; check that the bands are in the training data's units (digital numbers, reflectance, "
        "kelvin) and order."
        for odd, names in names_of.items()
    ]


def _odd_bands(statistics: Mapping[str, PooledStatistics], card: ModelCard) -> list[str]:
    odd = []
    for k, channel in enumerate(card.channels):
        if channel not in statistics or not statistics[channel].count:
            continue
        mean, std = float(statistics[channel].mean[0]), float(statistics[channel].std[0])
        seen_mean, seen_std = card.normalisation.spread(k)
        seen_std = max(seen_std, 1e-12)
        shift, ratio = abs(mean - seen_mean) / seen_std, std / seen_std
        if shift > MAX_SHIFT_STD or not 1 / MAX_SPREAD_RATIO <= ratio <= MAX_SPREAD_RATIO:
            odd.append(
                f"{channel} is {_figure(mean)} ± {_figure(std)}, seen {_figure(seen_mean)} ± {_figure(seen_std)} "
                f"({shift:.1f} standard deviations away, spread x {ratio:.2g})"
            )
    return odd


def _figure(value: float) -> str:
    """Digital numbers as whole numbers, reflectance with its digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def scale_findings(diagnosis: Diagnosis, cards: Sequence[ModelCard]) -> tuple[Finding, ...]:
    """What keeps models from a data set that the doctor has read: values of another scale, missing bands."""
    findings = []
    for card in cards:
        missing = [band for band in required_bands(card.channels) if band not in diagnosis.statistics]
        if missing and diagnosis.statistics:
            findings.append(
                Finding(
                    "warning",
                    None,
                    f"The model {card.name} looks at {', '.join(missing)}, which no tile has.",
                    "Add these bands, or choose another model.",
                )
            )
    findings += [Finding("warning", None, text) for text in drift_warnings(diagnosis.statistics, cards)]
    return tuple(dict.fromkeys(findings))
