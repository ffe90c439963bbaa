"""The docked widgets that the manifest names; each is imported when it is opened, without torch and matplotlib."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_glacier.views.correct_view import CorrectView
    from napari_glacier.views.data_view import DataView
    from napari_glacier.views.predict_view import PredictView
    from napari_glacier.views.report_view import ReportView
    from napari_glacier.views.start_view import StartView
    from napari_glacier.views.train_view import TrainView

__all__ = ["CorrectView", "DataView", "PredictView", "ReportView", "StartView", "TrainView"]


def __getattr__(name: str) -> Any:
    """One of the views; opening one does not wait for what the others need."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"napari_glacier.views.{name.removesuffix('View').lower()}_view"), name)
