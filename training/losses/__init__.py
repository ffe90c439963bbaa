"""Masked losses that are functions of additive sums, so that batches and processes pool exactly."""

from training.losses.combined import CombinedLoss, build_loss
from training.losses.dice import SoftDice
from training.losses.focal import Focal
from training.losses.terms import LossTerm, Pixels

__all__ = ["CombinedLoss", "Focal", "LossTerm", "Pixels", "SoftDice", "build_loss"]
