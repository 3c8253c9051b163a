"""What both schedulers can do, and what they say of a job."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from llama_tui.backend.settings import Resources
from llama_tui.backend.stages import Stage

FIELD = "\x1f"


class JobState(StrEnum):
    """A scheduler's word for a job, reduced to what we do about it."""

    WAITING = "waiting"
    ACTIVE = "active"
    STUCK = "stuck"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether the job will not run again by itself."""
        return self in {JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED}


@dataclass(frozen=True)
class Job:
    """A job as the scheduler shows it. Times are seconds since 1970, None where it does not say."""

    id: str
    state: JobState
    word: str
    reason: str = ""
    submitted: int | None = None
    started: int | None = None
    ended: int | None = None
    nodes: str = ""
    name: str = ""
    comment: str = ""
    user: str = ""


@dataclass(frozen=True)
class Submission:
    """What to hand to the scheduler: paths are on the host; `after` is the id of the job it needs done."""

    stage: Stage
    script: str
    log: str
    name: str
    comment: str
    after: str = ""


@dataclass(frozen=True)
class Ending:
    """How a vanished job ended, where the scheduler keeps accounts."""

    word: str
    exit_code: int | None
    signal: int | None
    reason: str = ""


class Scheduler(Protocol):
    """Runs jobs on the host."""

    @property
    def name(self) -> str:
        """Slurm or Direct."""

    def submit(self, submission: Submission, resources: Resources) -> str:
        """Hands over one job and gives its id.

        Raises:
            SchedulerError: it was refused, in the scheduler's words and ours.
            LinkLost: no answer; the job may have been accepted: look for its comment.
        """

    def queue_command(self) -> list[str]:
        """The command whose output `parse_queue` understands; asked by the agent at intervals.

        Makes sure that it is there, and does not run it: a scheduler that hangs holds up nobody.
        """

    def parse_queue(self, output: str) -> list[Job]:
        """All jobs of this user that the scheduler still knows."""

    def queue(self) -> list[Job]:
        """Asks now.

        Raises:
            SchedulerError: it gives no answer.
        """

    def cancel(self, ids: list[str]) -> None:
        """Ends jobs; ids that are gone already are no error.

        Raises:
            SchedulerError: it refused.
        """

    def endings(self, ids: list[str]) -> dict[str, Ending]:
        """How jobs ended that left the queue; empty where no accounts are kept."""

    def everyone(self) -> list[Job]:
        """All jobs that are in the queue now, whoever they belong to.

        Raises:
            SchedulerError: it gives no answer.
        """

    def detail(self, job_id: str) -> str:
        """All that the scheduler knows of a job, as text for people.

        Raises:
            SchedulerError: it gives no answer, or knows no such job.
        """

    def nodes(self) -> str:
        """The partitions and the states of their nodes, in one line; empty where it does not say."""
