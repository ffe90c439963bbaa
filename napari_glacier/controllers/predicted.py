"""The prediction on screen, as the tools of the correction desk see it. No Qt."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.controllers.layers import tag_of
from napari_glacier.controllers.workspace import Workspace
from napari_glacier.core.classes import coarser_classes
from napari_glacier.core.tiling import Window
from napari_glacier.core.tools.evidence import BoolArray, FloatArray, soft_labels


@dataclass(frozen=True)
class Predicted:
    """What lies on the prediction layers of a scene.

    Attributes
    ----------
    layer : napari.layers.Labels
        Class indices of the prediction.
    model : str
    class_names : tuple of str
        Of the model, or the labels' own where these tell fewer apart (`coarser_classes`); empty where the layer does
        not say.
    plane : int or None
        Scene of a stack; None where there is no stack.
    """

    layer: Any
    model: str
    class_names: tuple[str, ...]
    plane: int | None
    _entropy: Any
    _known: Any
    _probability: Any
    # Of each class of the model, the class of the labels.
    _into: tuple[int, ...] = ()

    def index(self, window: Window) -> npt.NDArray[np.uint8]:
        """Predicted classes of a window."""
        index_HW = np.asarray(self.layer.data[self._at(window)], np.uint8)
        return np.take(np.asarray(self._into, np.uint8), index_HW) if self._into else index_HW

    def known(self, window: Window) -> BoolArray:
        """Where something was predicted."""
        if self._known is not None:
            return np.asarray(self._known[self._at(window)], bool)
        # A prediction that does not say: what was not predicted is background without any doubt.
        known_HW: BoolArray = np.asarray(self.layer.data[self._at(window)]) > 0
        return known_HW if self._entropy is None else known_HW | (np.asarray(self._entropy[self._at(window)]) > 0)

    def known_everywhere(self) -> BoolArray:
        """The same for all that the layer holds, planes of a stack included."""
        if self._known is not None:
            return np.asarray(self._known, bool)
        known: BoolArray = np.asarray(self.layer.data) > 0
        return known if self._entropy is None else known | (np.asarray(self._entropy) > 0)

    def entropy(self, window: Window) -> FloatArray:
        """Uncertainty between 0 and 1; 0 where nothing is predicted, or it was not kept."""
        if self._entropy is None:
            return np.zeros((window.height, window.width), np.float32)
        return np.nan_to_num(np.asarray(self._entropy[self._at(window)], np.float32))

    def probability(self, window: Window, num_classes: int) -> FloatArray:
        """Probabilities of a window; made of class and entropy where they were not kept."""
        if self._probability is not None:
            lead, rows_cols = self._at(window)[:-2], self._at(window)[-2:]
            kept_KHW = np.asarray(self._probability[(*lead, slice(None), *rows_cols)], np.float32)
            if not self._into:
                return kept_KHW
            into = np.asarray(self._into)
            return np.stack([kept_KHW[into == label].sum(axis=0) for label in range(len(self.class_names))])
        return soft_labels(self.index(window), self.entropy(window), num_classes)

    def confidence(self, window: Window) -> FloatArray:
        """Probability of the predicted class where probabilities were kept, else 1 minus the entropy."""
        if self._probability is not None:
            return np.asarray(self.probability(window, 0).max(axis=0), np.float32)
        return 1 - self.entropy(window)

    def _at(self, window: Window) -> tuple[Any, ...]:
        return window.slices if self.plane is None else (self.plane, *window.slices)


def shown_prediction(workspace: Workspace) -> Predicted | None:
    """The prediction laid over the scene on screen, or None."""
    session, layer, doubt = workspace.session, workspace.prediction_layer, workspace.uncertainty_layer
    if session is None or layer is None or tuple(layer.data.shape) != session.mask.shape:
        return None
    entropy = doubt.data if doubt is not None and tuple(doubt.data.shape) == session.mask.shape else None
    features = layer.features
    tag = tag_of(layer)
    names, labels = tuple(features["class"]) if "class" in features else (), session.scheme.class_names
    into = coarser_classes(names, labels) if names != labels else None
    return Predicted(
        layer,
        str(tag.get("model", layer.name)),
        names if into is None else labels,
        workspace.plane if session.stacked else None,
        entropy,
        tag.get("known"),
        tag.get("probabilities"),
        into or (),
    )
