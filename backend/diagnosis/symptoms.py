"""What is known of a job that ended, or waits, and how it ended on the whole."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

# squeue's short forms, and the states that sacct cuts off with a plus sign.
_SHORT = {
    "BF": "BOOT_FAIL",
    "CA": "CANCELLED",
    "CD": "COMPLETED",
    "CF": "CONFIGURING",
    "CG": "COMPLETING",
    "DL": "DEADLINE",
    "F": "FAILED",
    "NF": "NODE_FAIL",
    "OOM": "OUT_OF_MEMORY",
    "PD": "PENDING",
    "PR": "PREEMPTED",
    "R": "RUNNING",
    "RQ": "REQUEUED",
    "RV": "REVOKED",
    "S": "SUSPENDED",
    "TO": "TIMEOUT",
}
_RUNNING = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"})
_WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED"})
_LARGEST_SIGNAL = 64
_RAISED = re.compile(r"RaisedSignal:(\d{1,3})\b")


class Outcome(Enum):
    """How the job stands, before its log is read."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    WAITING = "waiting"
    RUNNING = "running"
    NOT_TOLD = "not told"


@dataclass(frozen=True)
class Symptoms:
    """What is known of a job. None where it is not known; numbers and words as sacct, squeue and sinfo print them.

    Args:
        log: the job's log, or its end; any text.
        stage: one of the seven stages' names, `submit` or `ssh`.
        signal: the part after the colon of sacct's ExitCode.
    """

    log: str
    stage: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    slurm_state: str | None = None
    slurm_reason: str | None = None
    node_state: str | None = None

    @property
    def state(self) -> str:
        """Slurm's state in its long form and in capitals, with what follows it (`CANCELLED by 1000`); else empty."""
        words = (self.slurm_state or "").strip().split(maxsplit=1)
        if not words:
            return ""
        word = words[0].upper()
        if word.endswith("+"):
            word = next((long for long in _SHORT.values() if long.startswith(word[:-1])), word[:-1])
        word = _SHORT.get(word, word)
        return f"{word} {words[1].lower()}" if len(words) > 1 else word

    @property
    def ended_by(self) -> int | None:
        """The signal that ended the job: Slurm's word for it, or the shell's (128 + n), or Python's (-n)."""
        if self.signal:
            return self.signal
        if raised := _RAISED.match(self.slurm_reason or ""):
            return int(raised[1])
        code = self.exit_code or 0
        if code < 0:
            return -code
        return code - 128 if 128 < code <= 128 + _LARGEST_SIGNAL else None

    @property
    def outcome(self) -> Outcome:
        """How the job stands by its code, signal and state."""
        word = self.state.split(maxsplit=1)[0] if self.state else ""
        if word in _WAITING:
            return Outcome.WAITING
        if word in _RUNNING:
            return Outcome.RUNNING
        if word not in {"", "COMPLETED"} or self.signal or self.exit_code:
            return Outcome.FAILED
        if word == "COMPLETED" or self.exit_code == 0:
            return Outcome.SUCCEEDED
        return Outcome.NOT_TOLD
