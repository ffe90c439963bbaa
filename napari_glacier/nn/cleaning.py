"""What is done to a class map after it was predicted: outlines, roughness, specks and holes.

Legend: K classes, H x W the scene.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch

from napari_glacier.core.errors import ConfigError
from napari_glacier.core.tiling import Window
from napari_glacier.nn.crf import CrfSettings, band_statistics, refine_rows
from napari_glacier.nn.postprocess import (
    classify,
    close_classes,
    fill_small_holes,
    open_classes,
    remove_small_components,
)
from napari_glacier.nn.prediction import Progress
from napari_glacier.nn.scene import Scene
from napari_glacier.nn.store import Maps


@dataclass(frozen=True, slots=True)
class Cleaning:
    """Steps in the order in which they are made; 0 leaves one out.

    Parameters
    ----------
    crf_iterations : int
        Rounds of a dense CRF that draws the classes' outlines to those in the image, 3 to 5 as a rule.
    opening_px, closing_px : int
        Radius of a morphological opening and closing of each class.
    minimum_component_px, fill_holes_px : int
        Patches and holes smaller than this are removed and filled.

    Raises
    ------
    ConfigError
        If a number is below 0.
    """

    crf_iterations: int = 0
    opening_px: int = 0
    closing_px: int = 0
    minimum_component_px: int = 0
    fill_holes_px: int = 0

    def __post_init__(self) -> None:
        wrong = {name: value for name, value in asdict(self).items() if value < 0}
        if wrong:
            said = ", ".join(f"{name} {value}" for name, value in wrong.items())
            raise ConfigError(f"The class map cannot be cleaned with {said}. Use 0 (off) or more.")

    def as_dict(self) -> dict[str, int]:
        """Plain values, for provenance."""
        return asdict(self)

    def clean(
        self,
        scene: Scene,
        bands: Sequence[str],
        maps: Maps,
        thresholds: Mapping[int, float],
        device: torch.device,
    ) -> Generator[Progress, None, npt.NDArray[np.uint8]]:
        """Clean a class map; yields on the way. Probabilities and uncertainties stay those of the networks.

        Parameters
        ----------
        scene : Scene
        bands : sequence of str
            Bands whose outlines count.
        maps : Maps
        thresholds : mapping of class index to probability
            See `classify`.
        device : torch.device
        """
        index_HW, valid_HW = maps.index_HW, maps.valid_HW
        height, width = valid_HW.shape
        if self.crf_iterations and valid_HW.any():

            def read(start: int, stop: int) -> npt.NDArray[np.float32]:
                return scene.read(Window(start, 0, stop - start, width), bands)[0]

            statistics = band_statistics(read, valid_HW)
            settings = CrfSettings(iterations=self.crf_iterations)
            strips = refine_rows(maps.probabilities_KHW, read, valid_HW, statistics, settings, device=device)
            for rows, refined_KhW in strips:
                index_HW[rows] = classify(refined_KhW, thresholds)
                yield Progress(rows.stop, height, f"{scene.name}: outlines")
            index_HW *= valid_HW
        index_HW = open_classes(index_HW, self.opening_px, valid_HW)
        index_HW = close_classes(index_HW, self.closing_px, valid_HW)
        index_HW = remove_small_components(index_HW, self.minimum_component_px)
        index_HW = fill_small_holes(index_HW, self.fill_holes_px)
        index_HW *= valid_HW
        return index_HW
