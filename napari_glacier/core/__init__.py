"""Bands, classes, rasters, datasets, edits: everything that needs neither torch nor a window."""
