"""The errors that a person is meant to read.

UserError                  what happened, where, and what to do next
├── SettingsError          answers that cannot be launched, field by field
├── HostError              the host or the agent on it does not answer as it should
│   ├── LinkLost           the connection ended; the jobs go on
│   └── AgentError         the agent answered with an error (a file is missing, a disk is full)
├── SchedulerError         the scheduler refused, or could not be asked
│   └── SchedulerSilent    it gave no answer: what was asked may have been done
└── RunError               the run directory does not allow what was asked
    └── NoSuchRun          there is none of that name, or none at all
"""

from __future__ import annotations

from llama_tui.backend.plain import printable


class UserError(Exception):
    """Something that a person can cause and mend.

    Args:
        message: what happened and where, one sentence. Control characters of what it quotes are taken out.
        hint: what to do next; empty where there is nothing better than trying again.
    """

    title = "Something went wrong"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(printable(message))
        self.message = printable(message)
        self.hint = printable(hint)


class HostError(UserError):
    """The host, or the agent on it, does not answer as it should."""

    title = "The host does not answer"


class LinkLost(HostError):
    """The connection to the agent ended. Nothing is known to have failed."""

    title = "Connection lost"


class AgentError(HostError):
    """The agent answered a request with an error.

    Attributes:
        kind: the agent's short name for it: `missing`, `denied`, `full`, `timeout`, `bad_request`, `os`.
    """

    title = "The host refused"

    def __init__(self, message: str, kind: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.kind = kind


class SchedulerError(UserError):
    """The scheduler refused a request, or could not be asked."""

    title = "The scheduler refused"


class SchedulerSilent(SchedulerError):
    """The scheduler gave no answer: what was asked may have been done all the same."""

    title = "The scheduler does not answer"


class RunError(UserError):
    """The run directory does not allow what was asked."""

    title = "Not possible for this run"


class NoSuchRun(RunError):
    """There is no run of that name, or none at all."""

    title = "No such run"
