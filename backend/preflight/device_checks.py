"""The accelerators: that they are where the training runs, and enough of them."""

from __future__ import annotations

from typing import Any

from llama_tui.backend.preflight.check import Outcome, failed, passed, skipped, warned
from llama_tui.backend.preflight.facts import COMMAND_TIMEOUT, Facts
from llama_tui.backend.preflight.remote import ask, node_program
from llama_tui.backend.preflight.software_checks import node_request
from llama_tui.backend.settings import Stack

_WITHOUT_SLURM = (
    "without Slurm the stages run on this very machine: choose the cluster's head node (where.host), or the cpu stack, "
    "which trains a small model anywhere"
)


def devices_are_there(facts: Facts) -> Outcome:
    """The host's own devices, where the stages run on it; a cluster's are on its nodes."""
    if facts.settings.stack is Stack.CPU:
        return skipped("the cpu stack has no devices")
    if facts.on_slurm:
        return skipped("they are on the nodes: --on-node looks")
    found = ask(facts.site, node_program(), node_request(facts, ["devices"]), COMMAND_TIMEOUT)
    return devices_outcome(facts, found["devices"], str(found["host"]), _WITHOUT_SLURM)


def devices_outcome(facts: Facts, found: dict[str, Any], host: str, fix: str) -> Outcome:
    """What node_probe said of devices, judged.

    Args:
        fix: what to do where there are none.
    """
    processes = facts.settings.resources.processes_per_node
    if "missing" in found and found.get("files"):
        return warned(
            f"{host} has {found['files']} Neuron devices, but no {found['missing']} to look at them"
        )
    if "missing" in found:
        return failed(f"{host} has no Trainium chips: there is no {found['missing']}", fix)
    if "said" in found:
        return failed(f"the device command on {host} said: {found['said']}", fix)
    if found["cores"] is None:
        return skipped("the cpu stack has no devices")
    words = f"{host} has {found['devices']} devices with {found['cores']} Neuron cores"
    if found["cores"] < processes:
        return failed(
            f"{words} for {processes} processes",
            "lower resources.processes_per_node, or see that none is in use",
        )
    return passed(words)
