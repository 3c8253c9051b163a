"""The Python environment with torch that the tests of the training programs run in."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parent.parent
STACK = _REPOSITORY / "templates/stacks/cpu.toml"
CACHE = _REPOSITORY / ".cache/test-envs"


def cpu_python(environment: Mapping[str, str], stack: Path = STACK, cache: Path = CACHE) -> Path:
    """The Python named by LLAMA_TUI_CPU_PYTHON, else of an environment made once from the stack's pins.

    `environment` is the process's own, for pip's settings. Several test runs may ask at once: one makes it, the
    others wait. Raises FileNotFoundError, or CalledProcessError when pip fails.
    """
    given = environment.get("LLAMA_TUI_CPU_PYTHON")
    if given:
        if not os.access(given, os.X_OK):
            raise FileNotFoundError(f"LLAMA_TUI_CPU_PYTHON names no program: {given}")
        return Path(given)
    requirements = tomllib.loads(stack.read_text())["requirements"]
    key = hashlib.sha256("\n".join([sys.version, *requirements]).encode()).hexdigest()[:12]
    folder = cache / f"{stack.stem}-{key}"
    cache.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".complete").exists():
            _make(folder, requirements, environment)
    return folder / "bin/python"


def _make(folder: Path, requirements: list[str], environment: Mapping[str, str]) -> None:
    """The marker comes last, so that an environment cut short is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, env=dict(environment))
    pip = [str(folder / "bin/python"), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, *requirements], check=True, env=dict(environment))
    (folder / ".complete").touch()
