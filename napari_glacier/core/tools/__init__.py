"""What the tools of the correction desk compute: arrays in, a proposed change out. Nothing here edits labels."""


def load_libraries() -> None:
    """Load what the tools' functions import when they are called, so that a window does not stand still for it later.

    The modules can be imported without: a command line pays for what it uses.
    """
    import cv2  # noqa: F401
    import scipy.ndimage
    import scipy.sparse.csgraph
    import scipy.sparse.linalg
    import scipy.spatial  # noqa: F401
    import shapely  # noqa: F401
    from skimage.draw import polygon2mask  # noqa: F401
    from skimage.segmentation import watershed  # noqa: F401
