"""The Prediction and Uncertainty layers: put under the labels, drawn again as a prediction grows."""

from typing import Any

from napari_glacier.controllers.layers import KEY, class_colormap, class_features, world_placement
from napari_glacier.controllers.prediction_map import PredictionMap
from napari_glacier.controllers.workspace import Workspace

_NAMES = ("Prediction", "Uncertainty")


def prediction_layers(workspace: Workspace) -> tuple[Any, Any]:
    """The layers with the classes and with the entropy; None for one that is not there."""
    return workspace.prediction_layer, workspace.uncertainty_layer


def is_whole(workspace: Workspace) -> bool:
    """Whether a prediction is shown that covers all that was asked for."""
    layer = workspace.prediction_layer
    return layer is not None and bool(layer.metadata[KEY].get("whole"))


def draw_prediction(
    workspace: Workspace, prediction: PredictionMap, model: str, *, whole: bool, thumbnails: bool
) -> None:
    """Show a prediction as it is now; on the GUI thread.

    Parameters
    ----------
    workspace : Workspace
    prediction : PredictionMap
        Of the scene on screen. Its arrays are the layers' own data.
    model : str
    whole : bool
        Whether all that was asked for is there; the layers' names tell where it is not.
    thumbnails : bool
        Draw the small pictures in the layer list again, too.
    """
    layers = prediction_layers(workspace)
    if None not in layers and layers[0].data is prediction.index:
        for layer in layers:
            layer.refresh(thumbnail=thumbnails, highlight=False, extent=False)
    else:
        _put_layers(workspace, prediction, model)
    for layer, name in zip(prediction_layers(workspace), _NAMES, strict=True):
        layer.metadata[KEY]["whole"] = whole
        title = name if whole else f"{name} (incomplete)"
        if layer.name != title:
            layer.name = title


def _put_layers(workspace: Workspace, prediction: PredictionMap, model: str) -> None:
    session, viewer, scheme = workspace.session, workspace.viewer, prediction.scheme
    assert session is not None
    active = viewer.layers.selection.active
    with viewer.layers.batched_update():
        for old in prediction_layers(workspace):
            if old is not None:
                viewer.layers.remove(old)
    place = world_placement(None if session.stacked else session.georef(), 3 if session.stacked else 2)
    tag = {"session": session}
    common = {**place, "opacity": 0.7}
    entropy_layer = viewer.add_image(
        prediction.entropy,
        name="Uncertainty",
        colormap="magma",
        contrast_limits=(0.0, 1.0),
        visible=False,
        metadata={KEY: {**tag, "role": "uncertainty"}},
        **common,
    )
    class_layer = viewer.add_labels(
        prediction.index,
        name="Prediction",
        colormap=class_colormap(scheme),
        features=class_features(scheme),
        metadata={KEY: {**tag, "role": "prediction", "model": model, "known": prediction.known, "scheme": scheme}},
        **common,
    )
    class_layer.editable = False
    labels = workspace.labels_layer
    if labels is not None:
        for layer in (entropy_layer, class_layer):
            viewer.layers.move(viewer.layers.index(layer), viewer.layers.index(labels))
    viewer.layers.selection.active = active if active in viewer.layers else labels
