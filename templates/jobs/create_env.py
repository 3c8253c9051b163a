"""Stage 0: builds the stack's pinned environment, or uses the one of the same pins that is there already.

    create_env.py --stack-file stack.json --env-dir DIR --marker FILE [--extra-index-url URL] [--ready-made] [--report FILE]

Run by the host's own python3, so: standard library only, Python 3.8. The environment is made in place, because a
virtual environment cannot be moved; its marker is written last. With --ready-made nothing is installed: the
environment that is there (such as a machine image's /opt/aws_neuronx_venv_*) is only checked against the pins.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import StageError, atomic_write_json, exclusive_lock, log, read_json, report, run_main

if TYPE_CHECKING:
    from collections.abc import Callable

# Another job that builds the same environment is waited for; the neuron stack takes minutes on a shared disk.
LOCK_PATIENCE = 3600.0
IMPORT_PATIENCE = 900
TAIL = 60

_VERSIONS = """
import importlib, json, sys
found = {}
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    found[name] = str(getattr(module, "__version__", "")) or "imported"
print("versions " + json.dumps(found))
"""
_INSTALLED = """
import importlib.metadata as m, json, re
print(json.dumps({re.sub(r"[-_.]+", "-", d.metadata["Name"]).lower(): d.version for d in m.distributions()}))
"""

# What pip prints, and what it means for a person (seen with pip 20 to 26).
_PIP_WORDS = (
    ("No matching distribution found", "a pinned package is on no index that this machine asks"),
    ("ResolutionImpossible", "the pinned packages contradict each other"),
    ("No space left on device", "the disk is full"),
    ("Disk quota exceeded", "your disk quota is used up"),
    ("THESE PACKAGES DO NOT MATCH THE HASHES", "a package was damaged on its way"),
    ("Temporary failure in name resolution", "this node cannot reach a package index (no name resolution)"),
    ("Network is unreachable", "this node has no way to a package index"),
    ("Connection refused", "the package index refuses connections"),
    ("Read timed out", "the package index stopped answering"),
    ("error: Microsoft Visual C++", "a package has to be built here, and no compiler is found"),
    ("Failed building wheel", "a package has to be built here, and that failed"),
)


class Environment:
    """A virtual environment of a stack's pins."""

    def __init__(self, folder: Path, stack: dict[str, Any], marker: Path) -> None:
        self.folder = folder
        self.stack = stack
        self.python = folder / "bin" / "python"
        self.marker = marker

    def is_complete(self) -> bool:
        """Whether the marker is there, of these pins, and the packages still are what it says."""
        try:
            marker = json.loads(self.marker.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return marker.get("requirements") == sorted(self.stack["requirements"]) and not self.differences()

    def differences(self) -> list[str]:
        """Pins that are not what is installed, each with what is; empty when all fit."""
        try:
            answer = subprocess.run(
                [str(self.python), "-c", _INSTALLED],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=120,
            )
            installed = json.loads(answer.stdout or b"{}")
        except (OSError, ValueError, subprocess.TimeoutExpired):
            return [f"{self.python} does not start"]
        found = []
        for requirement in self.stack["requirements"]:
            name, exact, version = re.sub(r"\[.*?\]", "", requirement).partition("==")
            there = installed.get(re.sub(r"[-_.]+", "-", re.split(r"[<>=!~]", name)[0]).lower())
            if there is None or (exact and there.split("+")[0] != version.split("+")[0]):
                found.append(f"{requirement} (there: {there or 'none'})")
        return found

    def require_pins(self) -> None:
        """Raises StageError unless a ready-made environment has every pin."""
        found = self.differences()
        if found:
            raise StageError(
                f"{self.folder} is not of this stack's versions: {'; '.join(found)}",
                "empty paths.environment in the settings, and the environment is built in the workspace",
            )

    def make(self, python: str) -> None:
        """Makes the empty environment; one that an earlier attempt left half-made goes on being filled."""
        if self._starts():
            log(f"going on with {self.folder}, which an earlier attempt began")
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        log(f"making {self.folder} with {python}")
        code, lines = stream([python, "-m", "venv", str(self.folder)])
        if code == 0:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        if any("ensurepip" in line for line in lines):
            version = ".".join(map(str, version_of(python) or ()))
            raise StageError(
                f"{python} cannot make virtual environments: its venv module is incomplete",
                f"on Debian and Ubuntu: apt-get install python{version}-venv (on the node that runs this stage)",
            )
        raise StageError(f"making the environment failed: {lines[-1] if lines else f'exit code {code}'}")

    def _starts(self) -> bool:
        try:
            command = [str(self.python), "-m", "pip", "--version"]
            return (
                subprocess.run(
                    command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60
                ).returncode
                == 0
            )
        except (OSError, subprocess.TimeoutExpired):
            return False

    def install(self, extra_index: str) -> None:
        """Installs the pins with pip. Raises StageError with pip's reason in words."""
        self.marker.unlink() if self.marker.exists() else None
        command = [str(self.python), "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
        command += ["--disable-pip-version-check", "--retries", "5"]
        if extra_index:
            command += ["--extra-index-url", extra_index]
        code, lines = stream([*command, *self.stack["requirements"]], keep=_worth_showing)
        if code != 0:
            raise pip_error(code, lines, self.stack, extra_index)

    def check_imports(self) -> dict[str, str]:
        """Imports every package of the stack in the new environment; {package: version}."""
        command = [str(self.python), "-c", _VERSIONS, *self.stack["imports"]]
        try:
            answer = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=IMPORT_PATIENCE,
            )
        except subprocess.TimeoutExpired:
            raise StageError(
                f"importing the packages took longer than {IMPORT_PATIENCE} s: the file system may be stuck"
            ) from None
        found = re.search(r"^versions (\{.*\})$", answer.stdout, re.MULTILINE)
        if answer.returncode != 0 or found is None:
            print(answer.stderr[-4000:], file=sys.stderr)
            last = (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
            raise StageError(
                f"a package of the new environment cannot be imported: {last}",
                f"the lines above say where; remove {self.folder} to have it made anew",
            )
        versions: dict[str, str] = json.loads(found[1])
        return versions


def stream(command: list[str], keep: Callable[[str], bool] | None = None) -> tuple[int, list[str]]:
    """Runs a command with its output passed on line by line; gives its exit code and last lines."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, errors="replace"
    )
    lines: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines = [*lines[-TAIL:], line.rstrip()]
            if keep is None or keep(line):
                log(line.rstrip())
        return process.wait(), lines
    except BaseException:
        process.kill()
        process.wait()
        raise


def _worth_showing(line: str) -> bool:
    return not line.startswith(
        ("Requirement already satisfied", "  Using cached", "Looking in", "  Preparing metadata")
    )


def pip_error(code: int, lines: list[str], stack: dict[str, Any], extra_index: str) -> StageError:
    """pip's failure in words."""
    said = "\n".join(lines)
    errors = [line for line in lines if line.startswith("ERROR:")] or lines[-1:]
    for words, meaning in _PIP_WORDS:
        if words in said:
            hint = "the lines above are pip's own"
            if "index" in meaning:
                hint = (
                    stack.get("index_hint")
                    if not extra_index and stack.get("index_hint")
                    else (
                        "check this node's network and pip's settings (pip config list), then run this stage again"
                    )
                )
            return StageError(
                f"pip could not install the stack: {meaning} ({errors[-1].strip()})", hint or ""
            )
    return StageError(
        f"pip ended with exit code {code}: {errors[-1].strip() if errors else ''}",
        "the lines above are pip's own",
    )


def version_of(python: str) -> tuple[int, int] | None:
    """(major, minor) of an interpreter; None when it does not start."""
    try:
        answer = subprocess.run(
            [python, "-c", "import sys; print(*sys.version_info[:2])"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=30,
        )
        major, minor = answer.stdout.split()
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return int(major), int(minor)


def fitting_python(stack: dict[str, Any]) -> str:
    """A Python on this node within the stack's bounds, the one that runs this program if it fits.

    Raises StageError naming what was found.
    """
    low, high = (tuple(int(part) for part in stack[key].split(".")) for key in ("python_min", "python_max"))
    names = [f"python3.{minor}" for minor in range(high[1], low[1] - 1, -1)]
    found = {}
    for candidate in [sys.executable, *filter(None, map(shutil.which, [*names, "python3"]))]:
        version = version_of(candidate)
        if version is not None and low <= version <= high:
            return candidate
        found[candidate] = ".".join(map(str, version)) if version else "does not start"
    listed = ", ".join(f"{path} ({version})" for path, version in found.items())
    raise StageError(
        f"the {stack['name']} stack needs Python {stack['python_min']} to {stack['python_max']} on this node; found: {listed}",
        f"install python{stack['python_max']} there, or set where.python to one that fits",
    )


def show_devices(stack: dict[str, Any]) -> str:
    """What the stack's device command lists on this node; empty where there is none."""
    command = shutil.which(
        stack.get("device_command") or "", path=os.environ.get("PATH", "") + ":/opt/aws/neuron/bin"
    )
    if not command:
        return ""
    _, lines = stream([command])
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stack-file", type=Path, required=True)
    parser.add_argument("--env-dir", type=Path, required=True)
    parser.add_argument("--marker", type=Path, required=True)
    parser.add_argument("--ready-made", action="store_true")
    parser.add_argument("--extra-index-url", default="")
    parser.add_argument("--report", type=Path)
    arguments = parser.parse_args()
    began = time.monotonic()
    stack = read_json(arguments.stack_file, "init")
    environment = Environment(arguments.env_dir, stack, arguments.marker)
    lock = arguments.marker.with_name(arguments.marker.name + ".lock")
    with exclusive_lock(lock, LOCK_PATIENCE, "building this environment"):
        reused = environment.is_complete()
        if reused:
            log(f"{arguments.env_dir} is complete and of the same pins: used again")
            versions = json.loads(environment.marker.read_text(encoding="utf-8"))["versions"]
        else:
            if arguments.ready_made:
                environment.require_pins()
            else:
                environment.make(fitting_python(stack))
                environment.install(arguments.extra_index_url)
            log("importing every package")
            versions = environment.check_imports()
            marker = {
                "requirements": sorted(stack["requirements"]),
                "versions": versions,
                "created": time.time(),
            }
            atomic_write_json(environment.marker, marker)
    for name, version in versions.items():
        log(f"  {name} {version}")
    devices = show_devices(stack)
    seconds = round(time.monotonic() - began, 1)
    report(
        arguments.report,
        {
            "environment": str(arguments.env_dir),
            "reused": reused,
            "versions": versions,
            "devices": devices,
            "seconds": seconds,
        },
    )
    log(f"environment ready in {seconds} s")


if __name__ == "__main__":
    run_main(main)
