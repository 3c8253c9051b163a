"""What state a stage is in: one pure function of what was submitted, what its script wrote, what the scheduler says."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from llama_tui.backend.plain import one_line
from llama_tui.backend.schedulers.base import Ending, Job, JobState
from llama_tui.backend.stages import STAGES, Stage

DEPENDENCY_FAILED = "DependencyNeverSatisfied"
# Seconds after which a job that was asked for and is not in the queue did not reach the scheduler.
SUBMISSION_PATIENCE = 60.0
# Files of a run directory can be damaged, or written by somebody else; these are what reading them may raise.
NO_RECORD = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
_TERMINATED = 128 + signal.SIGTERM
_LATEST = 1 << 33
_MOST_ATTEMPTS = 1_000_000


class StageState(StrEnum):
    """A stage's state, in the words that are shown."""

    NOT_SUBMITTED = "not submitted"
    SUBMITTING = "submitting"
    PENDING = "pending"
    BLOCKED = "blocked"
    HELD = "held"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    @property
    def active(self) -> bool:
        """Whether something may still happen by itself."""
        return self in _ACTIVE

    @property
    def ended_badly(self) -> bool:
        """Whether a rerun is what a person would think of next."""
        return self in _BAD


_ACTIVE = frozenset({StageState.SUBMITTING, StageState.PENDING, StageState.RUNNING, StageState.UNKNOWN})
_BAD = frozenset({StageState.FAILED, StageState.CANCELLED, StageState.HELD, StageState.UNKNOWN})


@dataclass(frozen=True)
class Attempt:
    """One line pair of submitted.jsonl: what was asked of the scheduler, and what it answered.

    Attributes:
        asked: seconds since 1970, on the host's clock.
        job_id: empty while no answer is recorded.
        refused: the scheduler's words when it said no.
        cancelled: a person asked for its end, then.
    """

    stage: Stage
    number: int
    asked: float
    job_id: str = ""
    refused: str = ""
    cancelled: bool = False


@dataclass(frozen=True)
class Status:
    """What a stage's script says of itself in status/<stage>.json. Times are the node's."""

    stage: Stage
    attempt: int
    job_id: str
    node: str
    done: bool
    restarts: int
    started: int
    ended: int | None
    exit_code: int | None
    signal: str | None


@dataclass(frozen=True)
class Evidence:
    """All that is known of a run's stages.

    Attributes:
        jobs: what the scheduler answered last; None when it was never asked or gave no answer.
        seen: when it answered, seconds since 1970; None when never.
    """

    attempts: tuple[Attempt, ...] = ()
    statuses: dict[Stage, Status] = field(default_factory=dict)
    jobs: tuple[Job, ...] | None = None
    endings: dict[str, Ending] = field(default_factory=dict)
    seen: float | None = None


@dataclass(frozen=True)
class StageView:
    """A stage as it is shown. Times are seconds since 1970."""

    stage: Stage
    state: StageState
    attempt: int = 0
    job_id: str = ""
    node: str = ""
    started: int | None = None
    ended: int | None = None
    exit_code: int | None = None
    reason: str = ""


def read_attempts(text: str) -> tuple[Attempt, ...]:
    """The attempts in submitted.jsonl's text, oldest first; a line cut short by a crash is skipped."""
    found: dict[tuple[Stage, int], Attempt] = {}
    for line in text.splitlines():
        try:
            entry: dict[str, Any] = json.loads(line)
            key = Stage(entry["stage"]), _whole(entry["attempt"], _MOST_ATTEMPTS)
            known = found.get(key) or Attempt(*key, asked=_moment(entry["time"]))
        except NO_RECORD:
            continue
        found[key] = Attempt(
            *key,
            asked=known.asked,
            job_id=_words(entry.get("job_id")) or known.job_id,
            refused=_words(entry.get("refused")) or known.refused,
            cancelled=known.cancelled or entry.get("event") == "cancelled",
        )
    return tuple(found.values())


def read_status(text: str) -> Status | None:
    """A status file's text; None when it is not one (cut short, or of another program)."""
    try:
        entry: dict[str, Any] = json.loads(text)
        return Status(
            stage=Stage(entry["stage"]),
            attempt=_whole(entry["attempt"], _MOST_ATTEMPTS),
            job_id=_words(entry["job_id"]),
            node=_words(entry["node"]),
            done=entry["state"] == "done",
            restarts=_whole(entry.get("restarts") or 0, _MOST_ATTEMPTS),
            started=int(_moment(entry["started"])),
            ended=None if entry.get("ended") is None else int(_moment(entry["ended"])),
            exit_code=None if entry.get("exit_code") is None else _whole(entry["exit_code"], 255),
            signal=_words(entry.get("signal")) or None,
        )
    except NO_RECORD:
        return None


def _whole(value: Any, most: int) -> int:
    number = int(value)
    if not 0 <= number <= most:
        raise ValueError(f"not between 0 and {most}")
    return number


def _moment(value: Any) -> float:
    """Seconds since 1970 that a calendar can hold."""
    seconds = float(value)
    if not 0 <= seconds <= _LATEST:
        raise ValueError("no time")
    return seconds


def _words(value: Any) -> str:
    """Shown as they are, so on one line and without control characters."""
    return "" if value is None else one_line(str(value))


def derive(evidence: Evidence) -> tuple[StageView, ...]:
    """The seven stages' states, in order.

    A status file that says done is final. One that says running counts only while the scheduler knows the job.
    A job that is not in the queue is never taken for done, and one that nothing knows is unknown, not failed.
    """
    views: list[StageView] = []
    for stage in STAGES:
        view = _derive_stage(stage, evidence)
        broken = next((one for one in views if one.state.ended_badly), None)
        views.append(_blocked_by(broken, view) if broken is not None else view)
    return tuple(views)


def _blocked_by(broken: StageView, view: StageView) -> StageView:
    """A stage that waits for one that did not end well waits for ever: say so, whatever its job shows."""
    waits = view.state in {StageState.PENDING, StageState.HELD}
    refused = view.state is StageState.CANCELLED and view.reason == DEPENDENCY_FAILED
    if broken.state is StageState.UNKNOWN or not (waits or refused):
        return view
    return replace(view, state=StageState.BLOCKED, reason=f"needs {broken.stage}, which {broken.state}")


def _derive_stage(stage: Stage, evidence: Evidence) -> StageView:
    attempts = [attempt for attempt in evidence.attempts if attempt.stage is stage]
    status = evidence.statuses.get(stage)
    if not attempts:
        return _by_hand(stage, status)
    attempt = max(attempts, key=lambda one: one.number)
    if attempt.refused:
        return StageView(stage, StageState.FAILED, attempt.number, reason=attempt.refused)
    if status is not None and status.attempt != attempt.number:
        status = None
    job = _job_of(attempt, evidence)
    if status is not None and status.done and not _runs_again(status, job):
        if _word_is_due(attempt, status, job):
            return _view(
                attempt, StageState.RUNNING, status, job, "ended by a signal, the scheduler says why soon"
            )
        return _ended(attempt, status, job, evidence)
    return _in_progress(attempt, status, job, evidence)


def _by_hand(stage: Stage, status: Status | None) -> StageView:
    """A stage that somebody ran with plain sbatch: only its own word is there."""
    if status is None:
        return StageView(stage, StageState.NOT_SUBMITTED)
    state = StageState.UNKNOWN
    if status.done:
        state = StageState.DONE if status.exit_code == 0 else StageState.FAILED
    return _view(Attempt(stage, status.attempt, 0.0), state, status, None, "run by hand")


def _job_of(attempt: Attempt, evidence: Evidence) -> Job | None:
    for job in evidence.jobs or ():
        if job.id == attempt.job_id or (not attempt.job_id and _carries(job, attempt)):
            return job
    return None


def _carries(job: Job, attempt: Attempt) -> bool:
    return job.comment.endswith(f"/{attempt.stage}/{attempt.number}")


def _runs_again(status: Status, job: Job | None) -> bool:
    """A requeued job is back in the queue under the same id, perhaps held, whatever its last run wrote."""
    return (
        job is not None
        and job.state in {JobState.WAITING, JobState.STUCK}
        and job.id == status.job_id
        and status.exit_code != 0
    )


def _word_is_due(attempt: Attempt, status: Status, job: Job | None) -> bool:
    """Ended by SIGTERM, and the queue's answer is older than that: cancelled, preempted and timed out look alike.

    The program may hear of it, and end with that code, before its script does.
    """
    by_signal = status.signal is not None or status.exit_code == _TERMINATED
    told = attempt.cancelled or status.exit_code == 0 or not by_signal
    return not told and job is not None and job.state is JobState.ACTIVE


def _ended(attempt: Attempt, status: Status, job: Job | None, evidence: Evidence) -> StageView:
    if status.exit_code == 0:
        return _view(attempt, StageState.DONE, status, job, "")
    word, reason = _why(attempt, job, evidence)
    if attempt.cancelled or word.startswith("CANCELLED"):
        return _view(attempt, StageState.CANCELLED, status, job, reason or "cancelled")
    return _view(attempt, StageState.FAILED, status, job, reason or f"exit code {status.exit_code}")


def _in_progress(attempt: Attempt, status: Status | None, job: Job | None, evidence: Evidence) -> StageView:
    if job is not None and not job.state.final:
        state = _LIVE[job.state]
        return _view(attempt, state, status, job, _waiting_words(job))
    word, reason = _why(attempt, job, evidence)
    if word.startswith("CANCELLED") or (attempt.cancelled and (job is not None or evidence.jobs is not None)):
        return _view(attempt, StageState.CANCELLED, status, job, reason or "cancelled")
    if (job is not None and job.state is JobState.FAILED) or word in _DEATHS:
        return _view(attempt, StageState.FAILED, status, job, reason or word)
    if not attempt.job_id and job is None:
        return _unanswered(attempt, status, evidence)
    return _view(attempt, StageState.UNKNOWN, status, job, _unknown_words(status, job, evidence))


def _unanswered(attempt: Attempt, status: Status | None, evidence: Evidence) -> StageView:
    """Asked for, and no answer recorded: it may still come, until the queue shows that it never will."""
    if evidence.seen is not None and evidence.seen - attempt.asked > SUBMISSION_PATIENCE:
        return _view(
            attempt, StageState.UNKNOWN, status, None, "asked for, but the scheduler has no such job"
        )
    return _view(attempt, StageState.SUBMITTING, status, None, "no answer from the scheduler yet")


_LIVE = {
    JobState.WAITING: StageState.PENDING,
    JobState.ACTIVE: StageState.RUNNING,
    JobState.STUCK: StageState.HELD,
}
_DEATHS = frozenset(
    {"FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "PREEMPTED", "REVOKED"}
)


def _why(attempt: Attempt, job: Job | None, evidence: Evidence) -> tuple[str, str]:
    """The scheduler's final word for a job, and its reason, from accounts or from the queue."""
    ending = evidence.endings.get(attempt.job_id)
    if ending is not None:
        return ending.word, ending.reason or ("" if ending.word in {"FAILED", "COMPLETED"} else ending.word)
    if job is not None and job.state.final:
        reason = "" if job.reason in {"", "NonZeroExitCode"} else job.reason
        return job.word, reason or ("" if job.word in {"FAILED", "COMPLETED"} else job.word)
    return "", ""


def _waiting_words(job: Job) -> str:
    if job.state is JobState.ACTIVE:
        return "" if job.word == "RUNNING" else job.word.lower()
    return job.reason


def _unknown_words(status: Status | None, job: Job | None, evidence: Evidence) -> str:
    if evidence.jobs is None:
        return "the scheduler has not answered yet"
    if job is not None and job.state is JobState.COMPLETED:
        return "the job ended, its status file is not here yet"
    if status is not None:
        return "its script began, then neither it nor the scheduler says more"
    return "the scheduler no longer knows the job, and its script left no word"


def _view(
    attempt: Attempt, state: StageState, status: Status | None, job: Job | None, reason: str
) -> StageView:
    started = (
        status.started if status else (job.started if job and job.state is not JobState.WAITING else None)
    )
    return StageView(
        stage=attempt.stage,
        state=state,
        attempt=attempt.number,
        job_id=attempt.job_id or (job.id if job else status.job_id if status else ""),
        node=(status.node if status else "") or (job.nodes if job else ""),
        started=None if state is StageState.PENDING else started,
        ended=status.ended if status and status.done else job.ended if job and job.state.final else None,
        exit_code=status.exit_code if status else None,
        reason=reason,
    )


def overall(views: tuple[StageView, ...]) -> StageState:
    """One word for the run: the worst that happened, else what goes on, else done."""
    states = [view.state for view in views]
    for state in (StageState.FAILED, StageState.CANCELLED, StageState.HELD):
        if state in states and StageState.RUNNING not in states:
            return state
    if all(state is StageState.DONE for state in states):
        return StageState.DONE
    for state in (StageState.RUNNING, StageState.PENDING, StageState.SUBMITTING, StageState.UNKNOWN):
        if state in states:
            return state
    return StageState.NOT_SUBMITTED
