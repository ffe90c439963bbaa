"""What a predictor reports on the way, and what it gives in the end."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.classes import ClassScheme


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a prediction is.

    Parameters
    ----------
    done, total : int
        Network passes: windows times views times members. `done` falls back to 0 where the work starts
        again with smaller windows.
    message : str
    preparing : bool
        No window is under way yet: files are looked at, or members are made ready to compute.
    """

    done: int
    total: int
    message: str
    preparing: bool = False


@dataclass(frozen=True, slots=True)
class Prediction:
    """The class map of a scene, with what is known about its certainty.

    Attributes
    ----------
    index_HW : uint8 array
        Class indices; 0 on nodata.
    probabilities_KHW : float32 array (float16 for very large scenes)
        Averaged over members and views, blended over windows; 0 on nodata.
    entropy_HW : float array in [0, 1]
        Entropy of the averaged probabilities, divided by log K.
    mutual_information_HW : float array in [0, 1]
        Disagreement between members, divided by log K; 0 for one member.
    valid_HW : bool array
        Pixels that carry data.
    scheme : ClassScheme
    provenance : dict
        Plain values: models, settings, device, warnings, and what was given up for lack of memory.
    votes_MHW : uint8 array or None
        The class that each member by itself would give, with the ensemble's thresholds, before the class map is
        cleaned; 0 on nodata. None where nobody asked for it.
    """

    index_HW: npt.NDArray[np.uint8]
    probabilities_KHW: npt.NDArray[np.floating[Any]]
    entropy_HW: npt.NDArray[np.floating[Any]]
    mutual_information_HW: npt.NDArray[np.floating[Any]]
    valid_HW: npt.NDArray[np.bool_]
    scheme: ClassScheme
    provenance: dict[str, Any] = field(default_factory=dict)
    votes_MHW: npt.NDArray[np.uint8] | None = None
