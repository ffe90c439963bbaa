"""Random changes of a training crop that neither invent nodata nor lose it.

Geometry is albumentations'. Flips and turns move whole pixels. The other transforms are applied to a map of
coordinates (which point of the crop does each pixel come from), with reflected borders, so that every pixel
comes from inside. The bands follow the map bilinearly, weighted by the validity, so that nodata's zeros never
bleed into a neighbour; target and validity follow it to the nearest pixel: a pixel carries data exactly if
the pixel that it comes from did.

Radiometry is done here, on channels already in units of their standard deviation: albumentations takes
floats for 0-1 images and clips them there, which would flatten snow.

Shapes: C channels, H rows, W columns; XY the two coordinates of a point.
"""

import os
import random
from collections.abc import Sequence

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no look-up on the network at import

import albumentations as A  # noqa: N812 - the name its documentation uses
import cv2
import numpy as np
import numpy.typing as npt

from napari_glacier.core.bands import TERRAIN_BANDS
from napari_glacier.core.classes import IGNORE_INDEX
from napari_glacier.core.config import AugmentationConfig

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
IndexArray = npt.NDArray[np.uint8]

# Largest changes, in standard deviations of the channel (brightness, noise) or as factors.
BRIGHTNESS_STD = 0.25
CONTRAST_SHARE = 0.2
GAMMA_SHARE = 0.25
NOISE_STD = 0.08
BLUR_SIGMA_PX = (0.4, 1.2)
# Gamma needs a bounded scale: three standard deviations to each side of the mean become 0 to 1.
_GAMMA_HALF_RANGE_STD = 3.0


class Augmenter:
    """Applies a configuration's augmentation to one crop at a time.

    Parameters
    ----------
    config : AugmentationConfig
    crop_px : int
        Side of the crops; elastic deformation scales with it.
    channels : sequence of str
        Names of the input channels; the channel ``valid`` follows the validity and is left alone otherwise.
    """

    def __init__(self, config: AugmentationConfig, crop_px: int, channels: Sequence[str]) -> None:
        self._config = config
        self._valid_channels = [k for k, name in enumerate(channels) if name == "valid"]
        # The light changes, the ground does not.
        spared = {*TERRAIN_BANDS, *config.spare}
        self._spared_channels = [k for k, name in enumerate(channels) if name in spared]
        self._points_HWXY = _own_points(crop_px, crop_px)
        square = [
            A.HorizontalFlip(p=config.flips),
            A.VerticalFlip(p=config.flips),
            A.RandomRotate90(p=config.rot90),
        ]
        reflected = {"border_mode": cv2.BORDER_REFLECT_101}
        warps = [
            A.Affine(
                scale=(1.0 - config.scale, 1.0 + config.scale),
                translate_percent=(-config.shift, config.shift),
                rotate=(-config.rotate_deg, config.rotate_deg),
                keep_ratio=True,
                p=config.affine,
                **reflected,
            ),
            A.ElasticTransform(alpha=1.5 * crop_px, sigma=crop_px / 16, p=config.elastic, **reflected),
            A.GridDistortion(num_steps=5, distort_limit=0.2, p=config.grid_distortion, **reflected),
        ]
        self._square = A.Compose([transform for transform in square if transform.p > 0])
        self._warps = A.Compose([transform for transform in warps if transform.p > 0])

    def __call__(
        self, image_CHW: FloatArray, target_HW: IndexArray, valid_HW: BoolArray, seed: int
    ) -> tuple[FloatArray, IndexArray, BoolArray]:
        """Change one crop; the same seed gives the same change.

        Parameters
        ----------
        image_CHW : float32, in standard deviations from the mean, 0 on nodata
        target_HW : uint8 class indices, `IGNORE_INDEX` where ignored
        valid_HW : bool
        seed : int

        Returns
        -------
        image_CHW, target_HW, valid_HW
            New arrays of the same shapes (a turned crop is square); nodata is 0 in the image and ignored in the
            target.
        """
        # One stream for all transforms: `set_random_seed` would give each its own copy of the same one, and
        # both flips would always be drawn alike.
        streams = np.random.default_rng(seed), random.Random(seed)
        self._square.set_random_state(*streams)
        self._warps.set_random_state(*streams)
        image_CHW, target_HW, valid_HW = self._turn(image_CHW, target_HW, valid_HW)
        image_CHW, target_HW, valid_HW = self._warp(image_CHW, target_HW, valid_HW)

        all_valid = bool(valid_HW.all())
        spared_CHW = image_CHW[self._spared_channels]
        image_CHW = self._change_radiometry(image_CHW, valid_HW, all_valid, np.random.default_rng([seed, 1]))
        image_CHW[self._spared_channels] = spared_CHW
        if not all_valid:
            image_CHW *= valid_HW
            target_HW[~valid_HW] = IGNORE_INDEX
        image_CHW[self._valid_channels] = valid_HW
        return image_CHW, target_HW, valid_HW

    def _turn(
        self, image_CHW: FloatArray, target_HW: IndexArray, valid_HW: BoolArray
    ) -> tuple[FloatArray, IndexArray, BoolArray]:
        # Four pixels show what albumentations drew; the crop itself is then moved in one copy.
        (a, b), (c, _) = self._square(image=np.arange(4, dtype=np.uint8).reshape(2, 2))["image"].tolist()
        transposed = abs(a - b) == 2
        down, right = (-1 if a > c else 1, -1 if a > b else 1)
        return tuple(
            np.array((part.swapaxes(-2, -1) if transposed else part)[..., ::down, ::right], order="C")
            for part in (image_CHW, target_HW, valid_HW)
        )  # type: ignore[return-value]

    def _warp(
        self, image_CHW: FloatArray, target_HW: IndexArray, valid_HW: BoolArray
    ) -> tuple[FloatArray, IndexArray, BoolArray]:
        height, width = target_HW.shape
        points_HWXY = self._points_HWXY
        if points_HWXY.shape[:2] != (height, width):
            points_HWXY = _own_points(height, width)
        source_HWXY = self._warps(image=points_HWXY)["image"]
        if source_HWXY is points_HWXY:
            return image_CHW, target_HW, valid_HW
        col_HW, row_HW = (np.ascontiguousarray(source_HWXY[..., axis]) for axis in (0, 1))
        nearest_HW = np.rint(row_HW).astype(np.intp) * width
        nearest_HW += np.rint(col_HW).astype(np.intp)
        warped_CHW = _remap(image_CHW, col_HW, row_HW)
        if not valid_HW.all():
            # The nearest pixel has a quarter of the weight or more: no valid pixel divides by less.
            weight_HW = _remap(valid_HW[None].astype(np.float32), col_HW, row_HW)[0]
            valid_HW = valid_HW.take(nearest_HW)
            warped_CHW /= np.where(valid_HW, weight_HW, np.float32(1))
        return warped_CHW, target_HW.take(nearest_HW), valid_HW

    def _change_radiometry(
        self, image_CHW: FloatArray, valid_HW: BoolArray, all_valid: bool, rng: np.random.Generator
    ) -> FloatArray:
        config = self._config
        if rng.random() < config.brightness_contrast:
            contrast, brightness = rng.uniform(-1, 1, 2)
            image_CHW *= np.float32(1 + CONTRAST_SHARE * contrast)
            image_CHW += np.float32(BRIGHTNESS_STD * brightness)
        if rng.random() < config.gamma:
            image_CHW = _apply_gamma(image_CHW, float(rng.uniform(1 - GAMMA_SHARE, 1 + GAMMA_SHARE)))
        if rng.random() < config.blur:
            _blur_valid(image_CHW, None if all_valid else valid_HW, float(rng.uniform(*BLUR_SIGMA_PX)))
        if rng.random() < config.noise:
            noise_CHW = rng.standard_normal(image_CHW.shape, dtype=np.float32)
            noise_CHW *= np.float32(NOISE_STD * rng.random())
            image_CHW += noise_CHW
        return image_CHW


def _own_points(height: int, width: int) -> FloatArray:
    """Map that leaves every pixel where it is, shape (H, W, 2): column, row."""
    row_HW, col_HW = np.mgrid[:height, :width]
    return np.stack([col_HW, row_HW], axis=-1).astype(np.float32)


def _remap(planes_CHW: FloatArray, col_HW: FloatArray, row_HW: FloatArray) -> FloatArray:
    out_CHW = np.empty_like(planes_CHW)
    for plane_HW, out_HW in zip(planes_CHW, out_CHW, strict=True):
        # All points lie inside; a replicated border only keeps rounding at the rim harmless.
        cv2.remap(plane_HW, col_HW, row_HW, cv2.INTER_LINEAR, dst=out_HW, borderMode=cv2.BORDER_REPLICATE)
    return out_CHW


def _apply_gamma(image_CHW: FloatArray, gamma: float) -> FloatArray:
    unit_CHW = (image_CHW + _GAMMA_HALF_RANGE_STD) / (2 * _GAMMA_HALF_RANGE_STD)
    bent_CHW = np.maximum(unit_CHW, 0) ** np.float32(gamma) * (2 * _GAMMA_HALF_RANGE_STD) - _GAMMA_HALF_RANGE_STD
    return np.where(unit_CHW > 0, bent_CHW, image_CHW).astype(np.float32)


def _blur_valid(image_CHW: FloatArray, valid_HW: BoolArray | None, sigma_px: float) -> None:
    """Blur in place; `valid_HW` is None where everything is valid."""
    if valid_HW is not None:
        # Normalised convolution: nodata has weight 0, so its zeros do not darken the pixels beside it.
        image_CHW *= valid_HW
        weight_HW = cv2.GaussianBlur(valid_HW.astype(np.float32), (0, 0), sigma_px)
    for band_HW in image_CHW:
        cv2.GaussianBlur(band_HW, (0, 0), sigma_px, dst=band_HW)
    if valid_HW is not None:
        image_CHW /= np.maximum(weight_HW, 1e-6)
