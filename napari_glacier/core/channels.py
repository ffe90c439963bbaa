"""A model's input as a named list of channels, and how it is scaled.

Channels are the bands of `ALL_BANDS` (five of the satellite, elevation and slope, those of pictures),
``valid`` (1 on data, 0 on nodata), the normalised difference indices ``NDSI`` (Dozier 1989) and ``NDWI``
(McFeeters 1996, with SWIR-1 in the place of the near infrared that these tiles lack, as in the modified
index of Xu 2006), ``ratio`` (red / SWIR-1, the band ratio that maps clean ice, Paul et al. 2002; at most
`MAX_RATIO`), and the textures ``contrast`` and ``energy`` of SWIR-1 (see `glcm_texture`): with the five
bands, these two are the seven-channel form. Textures near the border of what is passed in see fewer pixels.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_glacier.core.bands import ALL_BANDS, CANONICAL_BANDS, PICTURE_BANDS, TERRAIN_BANDS
from napari_glacier.core.errors import ConfigError

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

# index name -> (a, b) of (a - b) / (a + b)
_INDICES = {"NDSI": ("B3", "B6"), "NDWI": ("B2", "B6")}
_RATIO = ("B4", "B6")
# Deep shade has next to no SWIR; beyond this a ratio tells of noise alone.
MAX_RATIO = 20.0
_TEXTURES = ("contrast", "energy")
_TEXTURE_BAND = "B6"
_MADE_OF = _INDICES | {"ratio": _RATIO} | dict.fromkeys(_TEXTURES, (_TEXTURE_BAND,))
# Standard deviations between the 2nd and the 98th percentile of a normal distribution.
_SPAN_2_98 = 4.1075
KNOWN_CHANNELS = (*CANONICAL_BANDS, "valid", *_INDICES, "ratio", *_TEXTURES, *TERRAIN_BANDS, *PICTURE_BANDS)


def check_channels(channels: Sequence[str]) -> tuple[str, ...]:
    """Return the channels as a tuple; `ConfigError` names an unknown or doubled one."""
    unknown = [name for name in channels if name not in KNOWN_CHANNELS]
    if unknown or not channels:
        raise ConfigError(
            f"Channels {unknown or list(channels)} are not known. Choose from: {', '.join(KNOWN_CHANNELS)}."
        )
    if len(set(channels)) < len(channels):
        raise ConfigError(f"A channel occurs twice in {list(channels)}. Name each channel once.")
    return tuple(channels)


def required_bands(channels: Sequence[str]) -> tuple[str, ...]:
    """Bands that must be read to make these channels, in the order of `ALL_BANDS`."""
    needed = {band for name in check_channels(channels) for band in _MADE_OF.get(name, (name,))}
    return tuple(band for band in ALL_BANDS if band in needed)


def assemble_channels(
    image_CHW: FloatArray, bands: Sequence[str], valid_HW: BoolArray, channels: Sequence[str]
) -> FloatArray:
    """Make a model's input channels, in the data's own units, from bands.

    Parameters
    ----------
    image_CHW : float32 array, shape (len(bands), H, W)
    bands : sequence of str
        Names of the planes of `image_CHW`.
    valid_HW : bool array, shape (H, W)
    channels : sequence of str

    Returns
    -------
    float32 array, shape (len(channels), H, W); an index is 0 where its denominator is.
    """
    if tuple(channels) == tuple(bands):
        return image_CHW
    plane = dict(zip(bands, image_CHW, strict=True))
    out_CHW = np.zeros((len(channels), *image_CHW.shape[1:]), np.float32)
    texture: dict[str, FloatArray] = {}
    if not set(_TEXTURES).isdisjoint(channels):
        # OpenCV takes a while to import, and few models look at textures.
        from napari_glacier.core.texture import glcm_texture

        texture = dict(zip(_TEXTURES, glcm_texture(plane[_TEXTURE_BAND], valid_HW), strict=True))
    for k, name in enumerate(channels):
        if name == "valid":
            out_CHW[k] = valid_HW
        elif name in _INDICES:
            out_CHW[k] = normalised_difference(*(plane[band] for band in _INDICES[name]))
        elif name == "ratio":
            out_CHW[k] = ratio(*(plane[band] for band in _RATIO))
        else:
            out_CHW[k] = texture[name] if name in texture else plane[name]
    return out_CHW


def normalised_difference(a_HW: FloatArray, b_HW: FloatArray) -> FloatArray:
    """Return ``(a - b) / (a + b)``, 0 where the denominator is."""
    total_HW = a_HW + b_HW
    index_HW = np.zeros_like(total_HW)
    np.divide(a_HW - b_HW, total_HW, out=index_HW, where=total_HW != 0)
    return index_HW


def ratio(a_HW: FloatArray, b_HW: FloatArray) -> FloatArray:
    """Return ``a / b`` within 0 and `MAX_RATIO`; where b is not positive, `MAX_RATIO` if a is and else 0."""
    quotient_HW = np.divide(a_HW, b_HW, out=np.full_like(a_HW, MAX_RATIO), where=b_HW > 0)
    return np.where(a_HW > 0, np.minimum(quotient_HW, np.float32(MAX_RATIO)), np.float32(0))


def blank_missing(
    input_CHW: FloatArray, channels: Sequence[str], missing: Collection[str], where: tuple[slice, ...] = ()
) -> None:
    """Set channels made of bands that are not there to 0 of a normalised input, in place.

    A band that is not there says nothing: the training mean, not a pitch-black surface, nor an index that calls it
    snow.

    Parameters
    ----------
    input_CHW : float32 array, shape (len(channels), H, W)
    channels : sequence of str
    missing : collection of str
        Bands.
    where : slices of rows and columns, optional
        The part without these bands; else the whole.
    """
    for k, channel in enumerate(channels):
        if not set(missing).isdisjoint(required_bands([channel])):
            input_CHW[k][where] = 0


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Shift and scale of each channel over valid training pixels, in the data's own units.

    Attributes
    ----------
    mean, std : tuple of float
        Of method percentile the 2nd percentile, and how far the 98th is above it.
    method : {"zscore", "percentile"}
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    method: Literal["zscore", "percentile"] = "zscore"

    def spread(self, channel: int) -> tuple[float, float]:
        """About which mean and standard deviation a channel's training pixels had."""
        shift, scale = self.mean[channel], self.std[channel]
        if self.method == "percentile":
            return shift + scale / 2, scale / _SPAN_2_98
        return shift, scale

    def apply(self, image_CHW: FloatArray, valid_HW: BoolArray) -> FloatArray:
        """Return ``(image - mean) / std`` with nodata pixels at 0, as float32 of the same shape.

        A channel without spread (std below 1e-6) is only shifted: divided by next to nothing, the slightest
        difference of another scene would drown all other channels.
        """
        mean = np.asarray(self.mean, np.float32)[:, None, None]
        std = np.asarray(self.std, np.float32)[:, None, None]
        std = np.where(std < 1e-6, np.float32(1.0), std)
        scaled_CHW = (image_CHW - mean) / std * valid_HW
        return scaled_CHW.astype(np.float32, copy=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for a checkpoint's metadata."""
        return {"mean": list(self.mean), "std": list(self.std), "method": self.method}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Normalisation":
        """Inverse of `as_dict`."""
        method = values.get("method", "zscore")
        if method not in ("zscore", "percentile"):
            raise ValueError(f"the normalisation {method!r} is neither zscore nor percentile")
        return cls(tuple(map(float, values["mean"])), tuple(map(float, values["std"])), method)
