"""Decisions without Qt: what happens when a person opens, predicts, corrects, trains."""
