"""Imports paramiko without invoke, which it wants for one option of ssh_config and which takes a third of the time."""

from __future__ import annotations

import importlib
import sys
from typing import cast


def import_paramiko() -> None:
    """Loads paramiko; call it before the first module that imports it by name."""
    if "paramiko" in sys.modules or "invoke" in sys.modules:
        return
    # None makes `import invoke` fail, which paramiko is ready for.
    modules = cast(dict[str, object], sys.modules)
    modules["invoke"] = None
    try:
        importlib.import_module("paramiko")
    finally:
        del modules["invoke"]


def allow_match_exec() -> None:
    """Gives paramiko's parser of ssh_config what it runs the commands of `Match exec` with."""
    import_paramiko()
    config = importlib.import_module("paramiko.config")
    config.invoke = importlib.import_module("invoke")  # type: ignore[attr-defined]
