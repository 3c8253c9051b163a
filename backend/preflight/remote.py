"""Small programs sent to the host over the agent: nothing is installed there, and no argument says anything secret."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from llama_tui.backend.errors import HostError
from llama_tui.backend.link import CommandResult
from llama_tui.backend.schedulers.slurm import PASSED_ON
from llama_tui.backend.site import Site

# Reads modules and a request from stdin; the last module's `answer(request)` is printed as JSON.
_BOOT = """
import json, os, sys, types
sent = json.load(sys.stdin)
for name, source in sent["modules"]:
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, name + ".py", "exec"), module.__dict__)
answer = json.dumps(module.answer(sent["request"]))
sys.stdout.write("\\n" + answer + "\\n")
sys.stdout.flush()
os._exit(0)
"""
# What a job of ours gets of the environment, and no more: see Slurm's own clean environment.
_AS_JOB = " ".join(
    [
        'exec env -i HOME="$HOME" USER="${USER:-}" LANG=C.UTF-8',
        *(f'${{{name}:+{name}="${name}"}}' for name in PASSED_ON),
        '"$@"',
    ]
)


def _own(name: str) -> list[str]:
    return [name, files("llama_tui.backend.preflight").joinpath(f"{name}.py").read_text(encoding="utf-8")]


def _job(name: str) -> list[str]:
    return [name, files("llama_tui.templates").joinpath(f"jobs/{name}.py").read_text(encoding="utf-8")]


def hub_program() -> list[list[str]]:
    """What asks the hub."""
    return [_own("hub_probe")]


def node_program() -> list[list[str]]:
    """What looks at a machine's Python, packages, devices and disks, by stage 0's own rules."""
    return [_job("common"), _job("create_env"), _own("node_probe")]


def argv(python: str) -> list[str]:
    """The command that runs a program sent on its stdin."""
    return [python, "-c", _BOOT]


def as_job(command: list[str]) -> list[str]:
    """The command in the small environment that Slurm's jobs get: settings made by variables do not reach them."""
    return ["/bin/sh", "-c", _AS_JOB, "sh", *command]


def sent(modules: list[list[str]], request: dict[str, Any]) -> str:
    """What goes to that command's stdin."""
    return json.dumps({"modules": modules, "request": request})


def ask(
    site: Site, modules: list[list[str]], request: dict[str, Any], timeout: float, *, job: bool = False
) -> dict[str, Any]:
    """Runs a program on the host and gives its answer.

    Args:
        job: with the environment of a job of Slurm's.

    Raises:
        HostError: it did not answer.
    """
    command = argv(site.place.python)
    result = site.link.run(as_job(command) if job else command, stdin=sent(modules, request), timeout=timeout)
    return answer_in(result, site.place.python)


def answer_in(result: CommandResult, python: str) -> dict[str, Any]:
    """The answer in what such a command printed.

    Raises:
        HostError: there is none; with the last line of what it said instead.
    """
    try:
        answer = json.loads(result.stdout.strip().splitlines()[-1])
    except (ValueError, RecursionError, IndexError):
        said = (result.stderr.strip().splitlines() or [f"exit code {result.exit}"])[-1][:300]
        raise HostError(f"{python} did not run our small program: {said}") from None
    if not isinstance(answer, dict):
        raise HostError(f"{python} answered with something that is not understood")
    return answer
