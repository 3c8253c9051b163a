"""Runs on the host, or on a compute node: Python, packages, devices and disks, by the very rules of stage 0.

`common` and `create_env` are the job programs of these names, sent along.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

# Sent along with this: the job programs import each other by plain name.
import create_env  # type: ignore[import-not-found]
from common import StageError  # type: ignore[import-not-found]


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What is so here, for each thing that is asked for; {"error", "hint"} in place of what stage 0 would refuse."""
    known = {"python": _python, "index": _index, "folder": _folder, "devices": _devices, "tmp": _tmp}
    found: dict[str, Any] = {"host": socket.gethostname()}
    for what in request["ask"]:
        try:
            found[what] = known[what](request)
        except StageError as error:
            found[what] = {"error": error.message, "hint": error.hint}
    return found


def _python(request: dict[str, Any]) -> dict[str, Any]:
    ready_made = request["ready_made"]
    if ready_made:
        folder = Path(ready_made)
        if not folder.is_dir():
            return {"absent": ready_made}
        environment = create_env.Environment(folder, request["stack"], folder / "none")
        environment.require_pins()
        return {"python": str(environment.python), "version": "with every pin of the stack"}
    python = create_env.fitting_python(request["stack"])
    version = ".".join(map(str, create_env.version_of(python) or ()))
    whole = subprocess.run(
        [python, "-c", "import venv, ensurepip"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=30,
    )
    if whole.returncode != 0:
        raise StageError(
            f"{python} cannot make virtual environments: its venv module is incomplete",
            f"on Debian and Ubuntu: apt-get install python{version}-venv",
        )
    return {"python": python, "version": version}


def _index(request: dict[str, Any]) -> dict[str, Any]:
    """Asks pip for the versions of one package; nothing is downloaded but the index's page."""
    python = create_env.fitting_python(request["stack"])
    command = [
        python,
        "-m",
        "pip",
        "index",
        "versions",
        "-vv",
        request["package"],
        "--timeout",
        "3",
        "--retries",
        "0",
    ]
    command += ["--no-input", "--disable-pip-version-check"]
    if request["index"]:
        command += ["--extra-index-url", request["index"]]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=20)
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    said = "\n".join(lines)
    if "No module named pip" in said or 'unknown command "index"' in said:
        return {"unasked": f"the pip of {python} is missing or too old to be asked"}
    listed = re.search(r"^Available versions: (.*)$", said, re.MULTILINE)
    if listed is None:
        error = create_env.pip_error(done.returncode, _reasons(lines), request["stack"], request["index"])
        raise error
    return {"versions": listed[1].split(", ")}


def _reasons(lines: list[str]) -> list[str]:
    """What went wrong with an index first: that nothing was found follows from it."""
    unreached = [line for line in lines if "Could not fetch URL" in line]
    return unreached or [line for line in lines if line.startswith("ERROR:")] or lines[-1:]


def _folder(request: dict[str, Any]) -> dict[str, Any]:
    """Whether the directory is here, holds the file that was just put into it, and can be written to."""
    folder = request["folder"]
    if not os.path.isdir(folder):
        return {"seen": False}
    try:
        with open(os.path.join(folder, request["mark"]), encoding="utf-8") as stream:
            same = stream.read() == request["mark"]
    except OSError:
        same = False
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".llama-tui-preflight-"):
            written = ""
    except OSError as error:
        written = error.strerror or str(error)
    return {"seen": True, "same": same, "refused": written}


def _devices(request: dict[str, Any]) -> dict[str, Any]:
    name = request["stack"].get("device_command") or ""
    if not name:
        return {"cores": None}
    command = shutil.which(name, path=os.environ.get("PATH", "") + ":/opt/aws/neuron/bin")
    if command is None:
        return {"missing": name, "files": len(glob.glob("/dev/neuron[0-9]*"))}
    done = subprocess.run([command, "-j"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=15)
    said = done.stdout.decode("utf-8", "replace").strip()
    try:
        devices = json.loads(said)
        return {"devices": len(devices), "cores": sum(int(one.get("nc_count", 0)) for one in devices)}
    except (ValueError, TypeError, AttributeError):
        return {"said": (said.splitlines() or [f"exit code {done.returncode}"])[-1][:300]}


def _tmp(request: dict[str, Any]) -> dict[str, Any]:
    del request
    return {"folder": tempfile.gettempdir(), "free": shutil.disk_usage(tempfile.gettempdir()).free}
