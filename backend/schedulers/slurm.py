"""Slurm, through its own commands: text with a separator, which holds from 21.08 on."""

from __future__ import annotations

import re
from collections.abc import Iterable

from llama_tui.backend.errors import AgentError, SchedulerError, SchedulerSilent
from llama_tui.backend.link import CommandResult, Link
from llama_tui.backend.plain import number_in, one_line
from llama_tui.backend.schedulers.base import FIELD, Ending, Job, JobState, Submission
from llama_tui.backend.settings import Resources
from llama_tui.backend.stages import Stage

SUBMIT_TIMEOUT = 60.0
ASK_TIMEOUT = 25.0
# What of the host's environment a job needs: where Slurm, the hub and the way out are.
PASSED_ON = ("PATH", "SHELL", "SLURM_CONF", "HF_ENDPOINT") + tuple(
    name for proxy in ("http_proxy", "https_proxy", "no_proxy") for name in (proxy, proxy.upper())
)
_QUEUE_FORMAT = FIELD.join(("%i", "%T", "%r", "%V", "%S", "%e", "%N", "%u", "%j", "%k"))

_STATES = {
    **dict.fromkeys(("PENDING", "REQUEUED", "REQUEUE_FED"), JobState.WAITING),
    **dict.fromkeys(("REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"), JobState.STUCK),
    "COMPLETED": JobState.COMPLETED,
    "CANCELLED": JobState.CANCELLED,
    **dict.fromkeys(
        (
            "FAILED",
            "TIMEOUT",
            "NODE_FAIL",
            "OUT_OF_MEMORY",
            "BOOT_FAIL",
            "DEADLINE",
            "PREEMPTED",
            "REVOKED",
        ),
        JobState.FAILED,
    ),
}
_STUCK_REASONS = ("JobHeldUser", "JobHeldAdmin", "DependencyNeverSatisfied", "launch failed requeued held")

# What sbatch says, and what a person can do about it (seen on Slurm 22.05 and in its source).
_REFUSALS = (
    ("invalid partition", "Choose one of the partitions that `sinfo` lists."),
    (
        "invalid account or account/partition",
        "`sacctmgr show assoc user=$USER` lists the accounts you may use.",
    ),
    ("invalid qos", "`sacctmgr show assoc user=$USER format=qos` lists the QOS you may use."),
    (
        "violates accounting/qos policy",
        "Ask for less time or fewer nodes, or wait until other jobs have ended.",
    ),
    ("time limit is invalid", "Ask for less time than the partition's limit (`sinfo -o '%P %l'`)."),
    ("node count specification invalid", "Ask for no more nodes than the partition has (`sinfo`)."),
    ("node configuration is not available", "`sinfo -o '%P %D %c %m %f'` shows what the nodes have."),
    ("more processors requested than permitted", "Ask for fewer nodes or processes."),
    ("invalid feature", "The constraint names a feature that no node has (`sinfo -o '%N %f'`)."),
    ("unrecognized option", "This Slurm does not know that option: take it out of resources.extra."),
    ("reservation", "`scontrol show reservation` lists the reservations."),
    ("unable to contact slurm controller", "The controller is down or restarting. Try again in a minute."),
    ("socket timed out", "The controller is busy. The job may have been accepted: look before trying again."),
    (
        "configuration source",
        "This host has no slurm.conf: is it a node of the cluster? Ask its administrator.",
    ),
)

# Words of a controller that is down or busy; after the second, the job may have been accepted.
_SILENCE = (
    "unable to contact slurm controller",
    "socket timed out",
    "connection refused",
    "zero bytes were transmitted",
)


class Slurm:
    """The cluster's scheduler, seen from the agent's host."""

    name = "Slurm"

    def __init__(self, link: Link) -> None:
        self._link = link
        self._accounting: bool | None = None

    def submit(self, submission: Submission, resources: Resources) -> str:
        argv = ["sbatch", "--parsable", *submit_options(submission, resources), submission.script]
        result = self._run(argv, SUBMIT_TIMEOUT, clean=True)
        found = re.search(r"^(\d+)(?:;.*)?$", result.stdout, re.MULTILINE)
        if result.exit != 0 or found is None:
            raise refusal("sbatch", result)
        return found[1]

    def queue_command(self) -> list[str]:
        return ["squeue", "-h", "--me", "-t", "all", "-o", _QUEUE_FORMAT]

    def parse_queue(self, output: str) -> list[Job]:
        return [job for line in output.split("\n") if (job := _job(line)) is not None]

    def queue(self) -> list[Job]:
        result = self._run(self.queue_command(), ASK_TIMEOUT)
        if result.exit != 0:
            raise refusal("squeue", result)
        return self.parse_queue(result.stdout)

    def cancel(self, ids: list[str]) -> None:
        if not ids:
            return
        result = self._run(["scancel", *ids], ASK_TIMEOUT)
        gone = ("already completing or completed", "invalid job id")
        if result.exit != 0 and not any(words in result.stderr.lower() for words in gone):
            raise refusal("scancel", result)

    def endings(self, ids: list[str]) -> dict[str, Ending]:
        if not ids or self._accounting is False:
            return {}
        columns = "JobIDRaw,State,ExitCode,Reason"
        argv = ["sacct", "-X", "-P", "-n", "-S", "now-30days", "-j", ",".join(ids), "-o", columns]
        try:
            result = self._run(argv, ASK_TIMEOUT)
        except (SchedulerError, AgentError):
            return {}
        if result.exit != 0:
            self._accounting = "accounting storage is disabled" not in result.stderr.lower()
            return {}
        return dict(_endings(result.stdout.splitlines()))

    def everyone(self) -> list[Job]:
        result = self._run(["squeue", "-h", "-o", _QUEUE_FORMAT], ASK_TIMEOUT)
        if result.exit != 0:
            raise refusal("squeue", result)
        return self.parse_queue(result.stdout)

    def detail(self, job_id: str) -> str:
        result = self._run(["scontrol", "show", "job", job_id], ASK_TIMEOUT)
        if result.exit != 0:
            raise refusal("scontrol", result)
        return result.stdout.strip()

    def nodes(self) -> str:
        result = self._run(["sinfo", "-h", "-o", FIELD.join(("%P", "%t", "%D"))], ASK_TIMEOUT)
        if result.exit != 0:
            raise refusal("sinfo", result)
        return node_summary(result.stdout)

    def _run(self, argv: list[str], timeout: float, *, clean: bool = False) -> CommandResult:
        try:
            if clean:
                return self._link.run(argv, timeout=timeout, env=self._clean_environment(), clean=True)
            return self._link.run(argv, timeout=timeout, env={"SLURM_TIME_FORMAT": "%s"})
        except AgentError as error:
            if error.kind == "timeout":
                raise SchedulerSilent(
                    f"{argv[0]} gave no answer within {timeout:.0f} s",
                    "The controller may be down or restarting; nothing is known to have failed.",
                ) from None
            if error.kind == "missing":
                raise SchedulerError(
                    f"{argv[0]} is not on {self._link.host.name}", "Is this the cluster's head or login node?"
                ) from None
            raise

    def _clean_environment(self) -> dict[str, str]:
        """A small environment for jobs: the same for everybody, without secrets (`sbatch` passes on all)."""
        greeting = self._link.greeting
        script = "".join(f'printf "%s\\n" "${{{name}:-}}"; ' for name in PASSED_ON)
        values = self._link.run(["/bin/sh", "-c", script]).stdout.split("\n")
        # An address that holds a password stays here: every user of the node can read a job's environment.
        found = {
            name: value for name, value in zip(PASSED_ON, values, strict=False) if value and "@" not in value
        }
        return {
            "SHELL": "/bin/bash",
            **found,
            "HOME": greeting.home,
            "USER": greeting.user,
            "LOGNAME": greeting.user,
            "LANG": "C.UTF-8",
        }


def submit_options(submission: Submission, resources: Resources) -> list[str]:
    """What goes on sbatch's command line; the rest stands in the script."""
    options = [
        f"--job-name={submission.name}",
        f"--comment={submission.comment}",
        f"--output={submission.log.replace('%', '%%')}",
        "--open-mode=append",
    ]
    if submission.after:
        options.append(f"--dependency=afterok:{submission.after}")
    return options + resources.extra


def directives(stage: Stage, resources: Resources) -> list[str]:
    """The #SBATCH options of a stage. Only training and its compilation get all nodes; values are quoted."""
    training = stage in {Stage.COMPILE_MODEL, Stage.FINETUNE}
    values: dict[str, str] = {
        "nodes": str(resources.nodes if training else 1),
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "reservation": resources.reservation,
        "constraint": resources.constraint,
        "exclude": resources.exclude,
        "time": resources.time_limit if training else "",
    }
    options = [f"--{name}={value}" for name, value in values.items() if value]
    # Its half-made environment is not something to be started over by the scheduler.
    options.append("--no-requeue" if stage is Stage.CREATE_ENV else "--requeue")
    if resources.exclusive:
        options.append("--exclusive")
    return options


def _job(line: str) -> Job | None:
    # Names and comments are other people's words as well: as they are, they could steer a terminal.
    fields = [one_line(field) for field in line.split(FIELD)]
    if len(fields) != 10:
        return None
    job_id, word, reason, submitted, started, ended, nodes, user, name, comment = fields
    return Job(
        id=job_id,
        state=job_state(word, reason),
        word=word,
        reason="" if reason == "None" else reason,
        submitted=_time(submitted),
        started=_time(started),
        ended=_time(ended),
        nodes=nodes,
        name=name,
        comment="" if comment == "(null)" else comment,
        user=user,
    )


def node_summary(output: str) -> str:
    """`partition: 2 idle, 1 down; ...` from what sinfo printed; the default partition keeps its star."""
    partitions: dict[str, list[str]] = {}
    for line in output.splitlines():
        fields = line.split(FIELD)
        if len(fields) == 3:
            partition, state, count = fields
            partitions.setdefault(partition, []).append(f"{count} {state}")
    return "; ".join(f"{name}: {', '.join(states)}" for name, states in partitions.items())


def job_state(word: str, reason: str) -> JobState:
    """What Slurm's state word asks of us; a word that we do not know counts as active."""
    state = _STATES.get(word.split(" ")[0], JobState.ACTIVE)
    if state is JobState.WAITING and any(stuck in reason for stuck in _STUCK_REASONS):
        return JobState.STUCK
    return state


def _time(text: str) -> int | None:
    return number_in(text)


def _endings(lines: Iterable[str]) -> Iterable[tuple[str, Ending]]:
    for line in lines:
        fields = line.split("|")
        if len(fields) != 4:
            continue
        job_id, word, code, reason = fields
        code_text, _, signal = code.partition(":")
        yield (
            job_id,
            Ending(word, _time(code_text), _time(signal) or None, "" if reason == "None" else reason),
        )


def refusal(command: str, result: CommandResult) -> SchedulerError:
    """A scheduler command's failure, with advice where the words are known."""
    said = (result.stderr.strip() or result.stdout.strip() or f"exit code {result.exit}")[-800:]
    hints = [hint for words, hint in _REFUSALS if words in said.lower()]
    silent = any(words in said.lower() for words in _SILENCE)
    kind = SchedulerSilent if silent else SchedulerError
    return kind(f"{command}: {said}", hints[0] if hints else "")
