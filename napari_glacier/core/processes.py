"""Processes of one's own, as each system starts them, and the processor that they run on.

What else only some systems have is asked for where it is used: `os.sched_getaffinity`, glibc's mallopt
(`nn.device`), `resource` (`core.models.training_memory`), syncing of folders (`core.files`).
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

# Processors that compute networks faster in bfloat16 than in float32 have one of these.
BFLOAT16_FLAGS = frozenset(("amx_bf16", "avx512_bf16"))


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


def kernel_cpu_flags() -> set[str]:
    """What the processor can do, by Linux's names; empty where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.split(":", 1)[-1].split()}
