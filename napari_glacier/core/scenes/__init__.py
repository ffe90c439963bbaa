"""Scenes as their makers deliver them: Landsat and Sentinel-2."""
