"""Networks, checkpoints, ensembles and the predictor: the only torch modules the plugin uses."""

import importlib
import os
import sys
from importlib.util import find_spec


def _load_triton_apart() -> None:
    """Load triton, which torch is going to import, so that it keeps to its own copy of LLVM.

    Mesa's OpenGL drivers (software rendering, AMD) load LLVM with its symbols visible to everybody. In a process
    with a window, triton's library would bind to those and crash the whole program on import.
    """
    if sys.platform != "linux" or "triton" in sys.modules or find_spec("triton") is None:
        return
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | os.RTLD_DEEPBIND)
    try:
        importlib.import_module("triton")
    except ImportError:
        # Some versions want setuptools, which need not be there; torch then does without triton, too.
        return
    finally:
        sys.setdlopenflags(flags)


_load_triton_apart()
