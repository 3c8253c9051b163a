"""The names of run directories: made here, found here, newest first."""

from __future__ import annotations

import re
import time

from llama_tui.backend.errors import AgentError
from llama_tui.backend.layout import is_run_id
from llama_tui.backend.site import Site

# What a run's name ends in: the day, the second, and which 65,536th part of it.
_MADE_AT = re.compile(r"\d{8}-\d{6}(?:-[0-9a-f]{4})?$")


def new_run_id(name: str, now: float) -> str:
    """A run directory's name, from the settings' name and the time in seconds since 1970.

    Jobs are told apart by it in a queue that knows no workspaces: a second alone would be shared by two runs.
    """
    parts = round(now * 65536)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(parts >> 16))
    return f"{name}-{stamp}-{parts & 0xFFFF:04x}"


def run_ids(site: Site) -> list[str]:
    """The names of a workspace's run directories, newest first."""
    try:
        entries = site.link.call("list", path=site.workspace.runs)["entries"]
    except AgentError as error:
        if error.kind == "missing":
            return []
        raise
    return newest_first([entry["name"] for entry in entries if entry["dir"] and is_run_id(entry["name"])])


def newest_first(names: list[str]) -> list[str]:
    """Run directories by the time in their names; those without one come last."""
    return sorted(names, key=_made_at, reverse=True)


def _made_at(run_id: str) -> str:
    found = _MADE_AT.search(run_id)
    return found[0] if found else ""
