"""The bundled synthetic glacier region and the small ensemble trained on it (installed as napari_glacier._sample)."""
