"""Headless training: `python -m training.run --config FILE`."""
