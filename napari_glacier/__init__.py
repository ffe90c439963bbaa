"""Glacier mapping from five-band Landsat tiles: a napari plugin and its headless half."""

__version__ = "0.1.0"
