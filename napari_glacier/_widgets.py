"""The docked widgets that the manifest names; importing them leaves torch and matplotlib alone."""

from napari_glacier.views.correct_view import CorrectView
from napari_glacier.views.data_view import DataView
from napari_glacier.views.predict_view import PredictView
from napari_glacier.views.report_view import ReportView
from napari_glacier.views.start_view import StartView
from napari_glacier.views.train_view import TrainView

__all__ = ["CorrectView", "DataView", "PredictView", "ReportView", "StartView", "TrainView"]
