"""Masked losses that are functions of additive sums, so that batches and processes pool exactly."""

from training.losses.boundary import Boundary
from training.losses.combined import LOSS_NAMES, CombinedLoss, build_loss, column_of, weight_at
from training.losses.entropy import BinaryCrossEntropy, CrossEntropy, Distillation
from training.losses.focal import Focal
from training.losses.lovasz import LovaszSoftmax
from training.losses.mcc import SoftMCC
from training.losses.overlap import FocalIoU, SoftDice, SoftIoU, Tversky
from training.losses.terms import LossTerm, Pixels

__all__ = [
    "LOSS_NAMES",
    "BinaryCrossEntropy",
    "Boundary",
    "CombinedLoss",
    "CrossEntropy",
    "Distillation",
    "Focal",
    "FocalIoU",
    "LossTerm",
    "LovaszSoftmax",
    "Pixels",
    "SoftDice",
    "SoftIoU",
    "SoftMCC",
    "Tversky",
    "build_loss",
    "column_of",
    "weight_at",
]
