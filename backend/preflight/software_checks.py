"""Python and packages on the host, by stage 0's own rules."""

from __future__ import annotations

import json

from llama_tui.backend.preflight.check import Outcome, failed, passed, skipped
from llama_tui.backend.preflight.facts import COMMAND_TIMEOUT, Facts
from llama_tui.backend.preflight.remote import ask, node_program
from llama_tui.backend.settings import Stack

# A package whose page on the index is small; for Neuron one that only AWS's index has in the version that is pinned.
_ASKED_FOR = {Stack.CPU: "safetensors", Stack.NEURON: "neuronx-cc"}


def python_fits(facts: Facts) -> Outcome:
    """A Python within the stack's bounds, whole enough to make environments."""
    if facts.environment_there:
        return passed("the stack's environment is there already")
    return python_outcome(facts, _asked(facts, node_request(facts, ["python"]), "python"))


def python_outcome(facts: Facts, found: dict[str, str], where: str = "") -> Outcome:
    """What node_probe said of Python, judged."""
    if "error" in found:
        return failed(found["error"], found["hint"])
    if "absent" in found:
        words = f"the ready-made environment {found['absent']} is not on this host"
        if facts.on_slurm and not where:
            return skipped(f"{words}; on a node it may be: --on-node looks")
        return failed(words, "empty paths.environment, and the environment is built in the workspace")
    return passed(f"{found['python']} ({found['version']})" + (f" on {where}" if where else ""))


def index_answers(facts: Facts) -> Outcome:
    """pip on the host finds the pinned version of one package; nothing is downloaded."""
    if facts.environment_there or facts.settings.paths.environment:
        return skipped("nothing has to be installed: the environment is there already")
    package = _ASKED_FOR[facts.settings.stack]
    found = versions_of(facts, package)
    if "error" in found:
        return failed(found["error"], found["hint"])
    if "unasked" in found:
        return skipped(f"{found['unasked']}; stage 0 brings its own")
    pinned = {one.partition("==")[0]: one.partition("==")[2] for one in facts.plan.stack.requirements}
    version = pinned.get(package, "")
    if version and version not in found["versions"]:
        return failed(
            f"the index has {package} {found['versions'][0]} and not the pinned {version}",
            json.loads(facts.plan.stack.as_json)["index_hint"]
            or "check pip's index settings: `pip config list`",
        )
    return passed(f"pip finds {package}{' ' + version if version else ''}")


def versions_of(facts: Facts, package: str) -> dict[str, str]:
    """{"versions": [...]}, {"unasked": why} or {"error", "hint"}."""
    request = {**node_request(facts, ["index"]), "package": package}
    return _asked(facts, request, "index")


def _asked(facts: Facts, request: dict[str, object], what: str) -> dict[str, str]:
    answer = ask(facts.site, node_program(), request, COMMAND_TIMEOUT, job=facts.on_slurm)
    found: dict[str, str] = answer[what]
    return found


def node_request(facts: Facts, what: list[str]) -> dict[str, object]:
    """What node_probe is asked."""
    return {
        "ask": what,
        "stack": json.loads(facts.plan.stack.as_json),
        "index": facts.settings.paths.package_index,
        "ready_made": facts.settings.paths.environment,
    }
