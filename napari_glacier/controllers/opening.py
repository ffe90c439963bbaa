"""The order in which the layers of a scene come into a window: its picture, its labels, then what nobody sees yet."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from napari_glacier.controllers.layers import KEY, LayerData, tag_of
from napari_glacier.controllers.pictures import LazyPainting

if TYPE_CHECKING:
    from napari_glacier.controllers.workspace import Workspace


class SpareTime(Protocol):
    """A window's time between its other work."""

    @property
    def is_there(self) -> bool:
        """Whether there will be any: the window is on screen."""

    def paint(self) -> None:
        """Paint what is new, if that can be done now."""

    def spend_on(self, step: Callable[[], bool]) -> None:
        """Call `step` again and again, the window alive in between, until it gives False."""


class Opening:
    """Puts the picture of a scene into the window at once, and its hidden layers in the window's spare time.

    Parameters
    ----------
    workspace : Workspace

    Attributes
    ----------
    spare_time : SpareTime or None
        Set where there is a window. While it is not on screen, all layers come together.
    """

    def __init__(self, workspace: "Workspace") -> None:
        self._workspace = workspace
        self.spare_time: SpareTime | None = None
        self._unseen: list[LayerData] = []

    @property
    def under_way(self) -> bool:
        """Whether hidden layers of the dataset are still to come."""
        return bool(self._unseen) and self._unseen[0][1]["metadata"][KEY]["session"] is self._workspace.session

    def picture_first(self, layers: Sequence[LayerData]) -> list[LayerData]:
        """Put the picture into the window and paint it; gives what belongs over it.

        What nobody sees yet follows below them once the Labels layer is there (`add_unseen`).
        """
        # Maps have no depth. In three dimensions napari fails to add a hidden composite, and to take it away again.
        self._workspace.viewer.dims.ndisplay = 2
        self._unseen = []
        if self.spare_time is None or not self.spare_time.is_there:
            return list(layers)
        self._unseen = [one for one in layers if not one[1].get("visible", True)]
        seen = [one for one in layers if one[1].get("visible", True)]
        for data, arguments, kind in seen:
            if kind == "image":
                # napari computes as long on its first layer as the files take.
                if isinstance(data, LazyPainting):
                    data.read_ahead()
                self._workspace.viewer.add_image(data, **arguments)
        self.spare_time.paint()
        return [one for one in seen if one[2] != "image"]

    def add_unseen(self, labels: Any) -> None:
        """Add in spare time what nobody sees yet, below all other layers of the session whose labels have come."""
        if self._unseen and self.spare_time is not None:
            session = tag_of(labels)["session"]
            lowest = next(layer for layer in self._workspace.viewer.layers if tag_of(layer).get("session") is session)
            self.spare_time.spend_on(partial(self._add_next, self._unseen, lowest))

    def _add_next(self, unseen: list[LayerData], above: Any) -> bool:
        """Add the next hidden layer, below `above`, what is selected staying so; whether more are left."""
        from napari.layers import Layer

        layers, labels = self._workspace.viewer.layers, self._workspace.labels_layer
        if unseen is not self._unseen or not unseen or labels is None:
            # Another scene has come, or the dataset has left.
            return False
        if tag_of(labels)["session"] is not unseen[0][1]["metadata"][KEY]["session"]:
            return False
        if self._workspace.viewer.dims.ndisplay != 2:
            return True
        selected, active = set(layers.selection), layers.selection.active
        layer = Layer.create(*unseen.pop(0))
        with self._workspace.quietly():
            # A person may have asked for it meanwhile.
            if not any(tag_of(one) == tag_of(layer) for one in layers):
                layers.insert(layers.index(above if above in layers else labels), layer)
            # napari selects what it adds, which would take the brush from the labels.
            layers.selection.active = active
            layers.selection.update(selected)
        if not unseen:
            self._workspace.layers_changed.emit()
        return bool(unseen)
