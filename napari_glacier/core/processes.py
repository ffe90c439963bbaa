"""Processes of one's own, as each system starts them.

What else only some systems have is asked for where it is used: `os.sched_getaffinity`, glibc's mallopt
(`nn.device`), `resource` (`core.models.training_memory`), syncing of folders (`core.files`).
"""

import subprocess
import sys
from typing import Any


def own_session() -> dict[str, Any]:
    """Arguments of Popen: Ctrl-C in the terminal reaches the parent alone, which then asks for a clean stop."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def outliving() -> dict[str, Any]:
    """Arguments of Popen: the process goes on when this one ends, and has no terminal."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.DETACHED_PROCESS}
    return {"start_new_session": True}
