"""What Slurm says: that it is there, which nodes are up, and whether it would take the training."""

from __future__ import annotations

import re

from llama_tui.backend.catalog.machines import find_machine
from llama_tui.backend.errors import AgentError, SchedulerError, SchedulerSilent
from llama_tui.backend.plain import count_of
from llama_tui.backend.preflight.check import Outcome, failed, passed, skipped, warned
from llama_tui.backend.preflight.facts import COMMAND_TIMEOUT, Facts, Node
from llama_tui.backend.preflight.remote import as_job
from llama_tui.backend.render import comment_of, render_script
from llama_tui.backend.schedulers.base import Submission
from llama_tui.backend.schedulers.slurm import refusal, submit_options
from llama_tui.backend.settings import Stack
from llama_tui.backend.stages import Stage

_NO_SLURM = "no Slurm on this machine: the stages run here, one after another"
# HyperPod's own words in a node's reason, matched as they are.
_REPLACED = ("Action:Replace", "Action:Reboot")
_NOT_NOW = "node configuration is not available"


def slurm_answers(facts: Facts) -> Outcome:
    """The controller is asked; its tools alone say nothing of it."""
    if not facts.on_slurm:
        return skipped(_NO_SLURM)
    ping = facts.site.link.run(["scontrol", "ping"], timeout=COMMAND_TIMEOUT)
    if "is UP" not in ping.stdout:
        said = (ping.stdout.strip() or ping.stderr.strip()).splitlines()
        return failed(
            f"the controller does not answer: {said[0] if said else 'scontrol ping said nothing'}",
            "wait a minute and look again (`scontrol ping`); if it stays so, tell the cluster's administrator",
        )
    shown = facts.site.link.run(["scontrol", "show", "config"], timeout=COMMAND_TIMEOUT).stdout
    version = re.search(r"^SLURM_VERSION\s*=\s*(\S+)", shown, re.MULTILINE)
    accounts = re.search(r"^AccountingStorageType\s*=\s*accounting_storage/(\S+)", shown, re.MULTILINE)
    kept = "accounts are kept" if accounts and accounts[1] != "none" else "no accounts are kept"
    return passed(f"version {version[1] if version else 'unknown'}; {kept}")


def partition_has_nodes(facts: Facts) -> Outcome:
    """The partition is there, with enough nodes up that are large enough."""
    if not facts.on_slurm:
        return skipped(_NO_SLURM)
    try:
        nodes = facts.nodes()
    except SchedulerSilent:
        return skipped("Slurm gives no answer")
    wanted = facts.settings.resources.partition
    there = sorted({node.partition for node in nodes})
    chosen = facts.partition_nodes(nodes)
    missing = [name for name in wanted.split(",") if name and name not in there]
    if missing or not chosen:
        which = f"no partition {', '.join(missing)}" if missing else "no default partition"
        return failed(
            f"there is {which}; there are: {', '.join(there) or 'none'}",
            "set resources.partition to one of them (`sinfo`)",
        )
    excluded = _expanded(facts, facts.settings.resources.exclude)
    return _judged(facts, [node for node in chosen if node.name not in excluded])


def _expanded(facts: Facts, names: str) -> set[str]:
    if not names:
        return set()
    command = ["scontrol", "show", "hostnames", names]
    return set(facts.site.link.run(command, timeout=COMMAND_TIMEOUT).stdout.split())


def _judged(facts: Facts, nodes: list[Node]) -> Outcome:
    resources = facts.settings.resources
    fitting = [node for node in nodes if not _too_small(facts, node)]
    small = [node for node in nodes if _too_small(facts, node)]
    up = [node for node in fitting if node.up]
    down = [node for node in fitting if not node.up]
    if len(fitting) < resources.nodes:
        why = f"; {_too_small(facts, small[0])}" if small else ""
        return failed(
            f"{count_of(resources.nodes, 'node')} asked for, and {len(fitting)} of {len(nodes)} large enough{why}",
            "lower resources.nodes or resources.processes_per_node, or choose another partition (`sinfo -o '%P %D %c %G'`)",
        )
    words = f"{len(up)} of {len(fitting)} nodes up"
    if len(up) < resources.nodes:
        return failed(f"{words}, {resources.nodes} asked for: {_states(down)}", _cure(down))
    if small:
        return warned(
            f"{words}, but a job may also land on {small[0].name}: {_too_small(facts, small[0])}",
            f"if it is a login node, set resources.exclude to {','.join(node.name for node in small)}",
        )
    idle = sum(node.state.rstrip("~#!%$@^+-") == "idle" for node in up)
    wait = "" if idle >= resources.nodes else ": the job will wait for others to end"
    return passed(f"{words}, {idle} idle{wait}; {up[0].cpus} CPUs each{_devices(up[0])}")


def _devices(node: Node) -> str:
    return f", {node.gres}" if node.gres else ""


def _too_small(facts: Facts, node: Node) -> str:
    """Why the processes of the training cannot have a core each on a node; empty when they can, or it cannot be seen."""
    processes = facts.settings.resources.processes_per_node
    if facts.settings.stack is not Stack.NEURON:
        return ""
    machine = find_machine(facts.settings.resources.machine)
    for kind, count in re.findall(r"(neuron\w*)(?::[A-Za-z]\w*)?:(\d+)", node.gres):
        per_device = 1 if "core" in kind or machine is None else machine.cores // machine.chips
        if int(count) * per_device < processes:
            return f"{node.name} has {kind}:{count}, {int(count) * per_device} Neuron cores for {processes} processes"
    if 0 < node.cpus < processes:
        return f"{node.name} has {node.cpus} CPUs: no machine has more Neuron cores than CPUs, and {processes} are asked for"
    return ""


def _states(nodes: list[Node]) -> str:
    shown = [f"{node.name} {node.state}" + (f" ({node.reason})" if node.reason else "") for node in nodes[:4]]
    return ", ".join(shown) + (f" and {len(nodes) - 4} more" if len(nodes) > 4 else "")


def _cure(nodes: list[Node]) -> str:
    if any(node.reason.startswith(_REPLACED) for node in nodes):
        return "HyperPod is replacing or restarting a node: wait, the job can be submitted and starts when it is back"
    return "`sinfo -R` says why; ask the cluster's administrator, or ask for fewer nodes"


def limits_allow(facts: Facts) -> Outcome:
    """`sbatch --test-only` on the training's real script: time, nodes, account, QOS."""
    nodes = facts.settings.resources.nodes
    if not facts.on_slurm:
        if nodes > 1:
            return failed(
                f"{nodes} nodes are asked for and there is no Slurm: this is one machine",
                "set resources.nodes to 1, or where.host to a cluster's login node",
            )
        return skipped(_NO_SLURM)
    try:
        _test_only(facts)
    except SchedulerSilent as silence:
        return warned(silence.message, silence.hint)
    except SchedulerError as error:
        return _refused(facts, error)
    return passed("sbatch would take the training: time, nodes, account and QOS are allowed (--test-only)")


def _test_only(facts: Facts) -> None:
    """Raises SchedulerError unless sbatch would take the training. The script goes to its stdin: no file is left."""
    stage, layout = Stage.FINETUNE, facts.plan.layout
    comment = comment_of(layout.run_id, stage, 1)
    submission = Submission(stage, "", layout.log(stage, 1), comment, comment)
    options = submit_options(submission, facts.settings.resources)
    try:
        result = facts.site.link.run(
            as_job(["sbatch", "--test-only", *options]),
            stdin=render_script(facts.plan, stage, 1),
            timeout=COMMAND_TIMEOUT,
        )
    except AgentError as error:
        if error.kind != "timeout":
            raise
        raise SchedulerSilent(
            f"sbatch gave no answer within {COMMAND_TIMEOUT:.0f} s",
            "the controller may be restarting: look again",
        ) from None
    if result.exit != 0:
        raise refusal("sbatch", result)


def _refused(facts: Facts, error: SchedulerError) -> Outcome:
    if _NOT_NOW in error.message.lower():
        nodes = facts.partition_nodes(facts.nodes())
        down = [node for node in nodes if not node.up]
        if down and len(nodes) >= facts.settings.resources.nodes:
            return warned(f"Slurm cannot say while nodes are not up: {_states(down)}", _cure(down))
    words = " ".join(error.message.split()).removeprefix("sbatch: ")
    return failed(
        f"sbatch would refuse the training: {words}", error.hint or "ask the cluster's administrator"
    )
