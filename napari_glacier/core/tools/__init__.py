"""What the tools of the correction desk compute: arrays in, a proposed change out. Nothing here edits labels."""


def load_libraries() -> None:
    """Load what the tools' functions import when they are called, so that a window does not stand still for it later.

    The modules can be imported without: a command line pays for what it uses.
    """
    import cv2
    import numpy as np
    import scipy.ndimage
    import scipy.sparse.csgraph
    import scipy.sparse.linalg
    import scipy.spatial  # noqa: F401
    import shapely  # noqa: F401
    from skimage.draw import polygon2mask  # noqa: F401
    from skimage.segmentation import watershed  # noqa: F401

    # OpenCV looks at what the processor can do when it filters for the first time.
    cv2.dilate(np.eye(3, dtype=np.uint8), np.ones((3, 3), np.uint8))
