"""The same from a compute node, in a job of its own that takes seconds: nodes are not always like the host."""

from __future__ import annotations

import shlex
import uuid
from typing import Any

from llama_tui.backend.errors import AgentError, HostError
from llama_tui.backend.preflight.check import Outcome, failed, passed, skipped, warned
from llama_tui.backend.preflight.device_checks import devices_outcome
from llama_tui.backend.preflight.facts import Facts
from llama_tui.backend.preflight.remote import answer_in, argv, as_job, node_program, sent
from llama_tui.backend.preflight.software_checks import node_request, python_outcome

# Seconds: until a node is free, and for the whole.
NODE_PATIENCE = 10
JOB_PATIENCE = 40.0
TMP_ROOM = 2e9
_OTHER_NODES = "set resources.partition, constraint or exclude so that jobs land on nodes with Neuron devices"
JOB_NAME = "llama-tui-preflight"


def look_from_node(facts: Facts) -> list[tuple[str, Outcome]]:
    """Checks from a compute node, named; a single one when no node was to be had."""
    if not facts.on_slurm:
        return [("compute node", skipped("no Slurm here: the stages run on this machine"))]
    place, mark = facts.disk()["place"], f".llama-tui-preflight-{uuid.uuid4().hex}"
    link = facts.site.link
    try:
        # By a plain file, since the agent's own way to write makes and renames another one.
        made = link.run(["/bin/sh", "-c", 'umask 077; printf %s "$2" >"$1/$2"', "sh", place, mark])
        answer = _ask(facts, place, mark)
    except AgentError as error:
        return [
            ("compute node", warned(f"a job on a node: {error.message}", "try again when Slurm is less busy"))
        ]
    except HostError as error:
        return [("compute node", _not_run(error))]
    finally:
        link.run(["rm", "-f", f"{place}/{mark}"])
    return _judged(facts, answer, marked=made.exit == 0)


def _ask(facts: Facts, folder: str, mark: str) -> dict[str, Any]:
    request = {**node_request(facts, ["python", "folder", "devices", "tmp"]), "folder": folder, "mark": mark}
    options = _srun_options(facts)
    command = ["timeout", "--kill-after=3", f"{JOB_PATIENCE - 8:.0f}", "srun", *options]
    result = facts.site.link.run(
        # srun would pass on all that the agent has.
        as_job([*command, *argv(facts.site.place.python)]),
        stdin=sent(node_program(), request),
        timeout=JOB_PATIENCE,
    )
    return answer_in(result, facts.site.place.python)


def _srun_options(facts: Facts) -> list[str]:
    resources = facts.settings.resources
    values = {
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "reservation": resources.reservation,
        "constraint": resources.constraint,
        "exclude": resources.exclude,
    }
    options = ["--nodes=1", "--ntasks=1", "--time=1", f"--immediate={NODE_PATIENCE}", "--chdir=/"]
    return (
        options
        + [f"--job-name={JOB_NAME}"]
        + [f"--{name}={value}" for name, value in values.items() if value]
    )


def _not_run(error: HostError) -> Outcome:
    if "busy" in error.message or "not available" in error.message.lower():
        return warned(
            f"no node was free within {NODE_PATIENCE} s", "try again later, or launch: the job waits"
        )
    return failed(
        f"no job could be run on a node: {error.message}", f"try by hand: {shlex.join(['srun', 'hostname'])}"
    )


def _judged(facts: Facts, answer: dict[str, Any], marked: bool) -> list[tuple[str, Outcome]]:
    host = str(answer.get("host", "the node"))
    return [
        ("node: Python", python_outcome(facts, answer["python"], host)),
        ("node: workspace", _workspace(facts, answer["folder"], host, marked)),
        ("node: devices", devices_outcome(facts, answer["devices"], host, _OTHER_NODES)),
        ("node: /tmp", _tmp(answer["tmp"], host)),
    ]


def _workspace(facts: Facts, found: dict[str, Any], host: str, marked: bool) -> Outcome:
    place = facts.disk()["place"]
    fix = "set paths.workspace to a directory on the file system that all nodes share (/fsx on HyperPod)"
    if not found["seen"]:
        return failed(f"{host} does not see {place}", fix)
    if marked and not found["same"]:
        return failed(
            f"{host} has another {place} than the host: a file that was just made is not in it", fix
        )
    if found["refused"]:
        return failed(f"{host} cannot write to {place}: {found['refused']}", fix)
    return passed(f"{host} sees {place} and can write to it")


def _tmp(found: dict[str, Any], host: str) -> Outcome:
    words = f"{found['free'] / 1e9:.1f} GB free in {found['folder']} on {host}"
    if found["free"] < TMP_ROOM:
        return warned(words, "have it cleared: pip and the compiler write there")
    return passed(words)
