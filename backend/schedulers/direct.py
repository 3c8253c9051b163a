"""Direct: no Slurm here, so the stages run one after another on this machine, detached from us."""

from __future__ import annotations

import json
from importlib.resources import files

from llama_tui.backend.errors import SchedulerError
from llama_tui.backend.link import CommandResult, Link
from llama_tui.backend.plain import number_in, one_line
from llama_tui.backend.schedulers.base import FIELD, Ending, Job, JobState, Submission
from llama_tui.backend.settings import Resources

_STATES = {
    "PENDING": JobState.WAITING,
    "RUNNING": JobState.ACTIVE,
    "COMPLETED": JobState.COMPLETED,
    "FAILED": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
}


class Direct:
    """The queue of one machine: `templates/direct/batch.py`, put into the workspace.

    Args:
        workspace: absolute path on the host.
        python: what starts the queue's program there.
    """

    name = "Direct"

    def __init__(self, link: Link, workspace: str, python: str) -> None:
        self._link = link
        self._program = [python, f"{workspace}/direct/batch.py"]
        self._installed = False

    def submit(self, submission: Submission, resources: Resources) -> str:
        del resources  # One machine gives what it has.
        self._install()
        argv = ["submit", "--name", submission.name, "--comment", submission.comment]
        argv += ["--output", submission.log, "--after", submission.after, submission.script]
        return self._run(argv).stdout.strip()

    def queue_command(self) -> list[str]:
        self._install()
        return [*self._program, "queue"]

    def parse_queue(self, output: str) -> list[Job]:
        return [_job(line) for line in output.split("\n") if line.count(FIELD) == 8]

    def queue(self) -> list[Job]:
        self._install()
        return self.parse_queue(self._run(["queue"]).stdout)

    def cancel(self, ids: list[str]) -> None:
        if ids:
            self._install()
            self._run(["cancel", *ids])

    def endings(self, ids: list[str]) -> dict[str, Ending]:
        del ids  # The queue itself remembers long enough.
        return {}

    def everyone(self) -> list[Job]:
        return self.queue()

    def detail(self, job_id: str) -> str:
        record = None
        if job_id.isalnum():
            record = self._link.read_text(f"{self._program[1].rpartition('/')[0]}/jobs/{job_id}.json")
        if record is None:
            raise SchedulerError(f"The queue of {self._link.host.name} knows no job {job_id}")
        try:
            fields = json.loads(record).items()
        except (ValueError, RecursionError, AttributeError):
            raise SchedulerError(f"The record of job {job_id} cannot be read") from None
        return "\n".join(one_line(f"{key}={value}") for key, value in fields)

    def nodes(self) -> str:
        return f"{self._link.greeting.host}: one job at a time (no Slurm)"

    def _install(self) -> None:
        if self._installed:
            return
        source = files("llama_tui.templates").joinpath("direct/batch.py").read_text(encoding="utf-8")
        if self._link.read_text(self._program[1]) != source:
            self._link.write_text(self._program[1], source, mode=0o700)
        self._installed = True

    def _run(self, argv: list[str]) -> CommandResult:
        result = self._link.run([*self._program, *argv], timeout=30)
        if result.exit != 0:
            said = (result.stderr or result.stdout).strip()[-800:]
            raise SchedulerError(f"The queue of {self._link.host.name} said: {said}")
        return result


def _job(line: str) -> Job:
    fields = [one_line(field) for field in line.split(FIELD)]
    job_id, word, reason, submitted, started, ended, _code, name, comment = fields
    state = _STATES.get(word, JobState.ACTIVE)
    return Job(
        id=job_id,
        state=state,
        word=word,
        reason="" if reason == "None" else reason,
        submitted=number_in(submitted),
        started=number_in(started),
        ended=number_in(ended),
        name=name,
        comment=comment,
    )
