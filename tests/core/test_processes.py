"""Each system gets the flags that it knows, and a session of its own keeps Ctrl-C away."""

import os
import subprocess
import sys

import pytest

from napari_glacier.core import processes


def test_windows_gets_creation_flags_alone(monkeypatch):
    monkeypatch.setattr(processes.sys, "platform", "win32")
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0x200, raising=False)
    monkeypatch.setattr(subprocess, "DETACHED_PROCESS", 0x8, raising=False)
    assert processes.own_session() == {"creationflags": 0x200}
    assert processes.outliving() == {"creationflags": 0x208}


@pytest.mark.skipif(os.name != "posix", reason="sessions are POSIX's")
@pytest.mark.parametrize("flags", [processes.own_session, processes.outliving])
def test_a_process_has_a_session_of_its_own(flags):
    asked = [sys.executable, "-c", "import os; print(os.getsid(0), os.getpid())"]
    done = subprocess.run(asked, capture_output=True, text=True, check=True, **flags())
    session, pid = done.stdout.split()
    assert session == pid
    assert int(session) != os.getsid(0)


def test_nothing_only_posix_has_is_used_without_a_branch():
    """Names that Windows lacks stand only where the system is asked first."""
    import ast
    from pathlib import Path

    lacking = {
        "os": {"sched_getaffinity", "geteuid", "getuid", "fork", "setsid", "killpg", "getpgid", "uname", "getsid"},
        "signal": {"SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "alarm", "pthread_sigmask"},
    }
    modules = {"fcntl", "resource", "pwd", "grp", "termios", "pty"}
    asking = ("sys.platform", "hasattr(os", "os.name")
    root = Path(processes.__file__).parents[2]
    for path in [*root.glob("napari_glacier/**/*.py"), *root.glob("training/**/*.py")]:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found = bool(modules & set(names))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                found = node.attr in lacking.get(node.value.id, ())
            keywords = [k.arg for k in node.keywords] if isinstance(node, ast.Call) else []
            found = found or {"start_new_session", "preexec_fn"} & set(keywords)
            if found:
                around = [f for f in functions if f.lineno <= node.lineno <= (f.end_lineno or 0)]
                text = "\n".join(ast.get_source_segment(source, function) or "" for function in around)
                assert any(word in text for word in asking), f"{path}:{node.lineno}"
