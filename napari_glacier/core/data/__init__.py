"""Data sets: tiles found on disk, read, joined to scenes, split and counted."""
