"""Shows a file in the person's own pager, while the app steps aside."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from typing import Any

from textual.app import App, SuspendNotSupported

from llama_tui.backend.hosts.environment import child_environment


def pager_command(path: str) -> list[str] | None:
    """The command of $PAGER, else less or more; None where there is none."""
    wanted = os.environ.get("PAGER", "").strip()
    if wanted:
        argv = shlex.split(wanted)
        if argv and shutil.which(argv[0]):
            return [*argv, path]
    if shutil.which("less"):
        # Colours, and the end first: that is where a log is read.
        return ["less", "-R", "+G", path]
    return ["more", path] if shutil.which("more") else None


def show_in_pager(app: App[Any], path: str) -> str:
    """Runs the pager in the app's terminal until it ends; gives what went wrong, or nothing."""
    argv = pager_command(path)
    if argv is None:
        return "There is no pager here: set $PAGER"
    try:
        with app.suspend():
            subprocess.run(argv, check=False, env={**child_environment(), "LESSSECURE": "1"})
    except SuspendNotSupported:
        return "A pager cannot take over this terminal"
    except OSError as error:
        return f"{argv[0]}: {error.strerror}"
    app.refresh()
    return ""
