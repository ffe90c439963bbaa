"""Random changes of a training crop under which nodata stays nodata.

Geometry is albumentations'. The validity mask travels as one more image channel, so that it is
interpolated exactly as the bands are: a pixel to which any nodata contributed comes out below 1 and
becomes nodata itself, as does whatever is filled in from outside the crop.

Radiometry is done here, on channels already in units of their standard deviation: albumentations takes
floats for 0-1 images and clips them there, which would flatten snow.

Shapes: C channels, H rows, W columns.
"""

import os
import random
from collections.abc import Sequence

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no look-up on the network at import

import albumentations as A  # noqa: N812 - the name its documentation uses
import cv2
import numpy as np
import numpy.typing as npt

from napari_glacier.core.classes import IGNORE_INDEX
from napari_glacier.core.config import AugmentationConfig

FloatArray = npt.NDArray[np.float32]

# Largest changes, in standard deviations of the channel (brightness, noise) or as factors.
BRIGHTNESS_STD = 0.25
CONTRAST_SHARE = 0.2
GAMMA_SHARE = 0.25
NOISE_STD = 0.08
BLUR_SIGMA_PX = (0.4, 1.2)
# Gamma needs a bounded scale: three standard deviations to each side of the mean become 0 to 1.
_GAMMA_HALF_RANGE_STD = 3.0
# Interpolation weights of all-valid neighbours add up to 1 but for rounding.
_FULLY_VALID = 1.0 - 1e-3


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
        outside = {"border_mode": cv2.BORDER_CONSTANT, "fill": 0, "fill_mask": IGNORE_INDEX}
        candidates = [
            A.HorizontalFlip(p=config.flips),
            A.VerticalFlip(p=config.flips),
            A.RandomRotate90(p=config.rot90),
            A.Affine(
                scale=(1.0 - config.scale, 1.0 + config.scale),
                translate_percent=(-config.shift, config.shift),
                rotate=(-config.rotate_deg, config.rotate_deg),
                keep_ratio=True,
                p=config.affine,
                **outside,
            ),
            A.ElasticTransform(alpha=1.5 * crop_px, sigma=crop_px / 16, p=config.elastic, **outside),
            A.GridDistortion(num_steps=5, distort_limit=0.2, p=config.grid_distortion, **outside),
        ]
        self._geometry = A.Compose([transform for transform in candidates if transform.p > 0])

    def __call__(
        self, image_CHW: FloatArray, target_HW: npt.NDArray[np.uint8], valid_HW: npt.NDArray[np.bool_], seed: int
    ) -> tuple[FloatArray, npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
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
            Of the same shapes; nodata is 0 in the image and ignored in the target.
        """
        stacked_HWC = np.concatenate([image_CHW, valid_HW[None].astype(np.float32)]).transpose(1, 2, 0)
        # One stream for all transforms: `set_random_seed` would give each its own copy of the same one, and
        # both flips would always be drawn alike.
        self._geometry.set_random_state(np.random.default_rng(seed), random.Random(seed))
        out = self._geometry(image=np.ascontiguousarray(stacked_HWC), mask=target_HW)
        image_CHW = np.ascontiguousarray(out["image"].transpose(2, 0, 1)[:-1])
        valid_HW = out["image"][..., -1] > _FULLY_VALID
        target_HW = np.where(valid_HW, out["mask"], np.uint8(IGNORE_INDEX))

        image_CHW = self._change_radiometry(image_CHW, valid_HW, np.random.default_rng([seed, 1]))
        image_CHW *= valid_HW
        image_CHW[self._valid_channels] = valid_HW
        return image_CHW, target_HW, valid_HW

    def _change_radiometry(
        self, image_CHW: FloatArray, valid_HW: npt.NDArray[np.bool_], rng: np.random.Generator
    ) -> FloatArray:
        config = self._config
        if rng.random() < config.brightness_contrast:
            contrast, brightness = rng.uniform(-1, 1, 2)
            image_CHW = image_CHW * np.float32(1 + CONTRAST_SHARE * contrast) + np.float32(BRIGHTNESS_STD * brightness)
        if rng.random() < config.gamma:
            image_CHW = _apply_gamma(image_CHW, float(rng.uniform(1 - GAMMA_SHARE, 1 + GAMMA_SHARE)))
        if rng.random() < config.blur:
            image_CHW = _blur_valid(image_CHW, valid_HW, float(rng.uniform(*BLUR_SIGMA_PX)))
        if rng.random() < config.noise:
            noise_CHW = rng.standard_normal(image_CHW.shape, dtype=np.float32)
            image_CHW = image_CHW + np.float32(NOISE_STD * rng.random()) * noise_CHW
        return image_CHW


def _apply_gamma(image_CHW: FloatArray, gamma: float) -> FloatArray:
    unit_CHW = (image_CHW + _GAMMA_HALF_RANGE_STD) / (2 * _GAMMA_HALF_RANGE_STD)
    bent_CHW = np.maximum(unit_CHW, 0) ** np.float32(gamma) * (2 * _GAMMA_HALF_RANGE_STD) - _GAMMA_HALF_RANGE_STD
    return np.where(unit_CHW > 0, bent_CHW, image_CHW).astype(np.float32)


def _blur_valid(image_CHW: FloatArray, valid_HW: npt.NDArray[np.bool_], sigma_px: float) -> FloatArray:
    # Normalised convolution: nodata has weight 0, so its zeros do not darken the pixels beside it.
    weight_HW = cv2.GaussianBlur(valid_HW.astype(np.float32), (0, 0), sigma_px)
    blurred = [cv2.GaussianBlur(band_HW * valid_HW, (0, 0), sigma_px) for band_HW in image_CHW]
    return (np.stack(blurred) / np.maximum(weight_HW, 1e-6)).astype(np.float32)
