"""Where runs are, as one says it: enough to find them again. What is connected there is a Site."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class SchedulerChoice(StrEnum):
    """What runs the jobs; `auto` takes Slurm where there is one."""

    AUTO = "auto"
    SLURM = "slurm"
    DIRECT = "direct"


class SshWay(StrEnum):
    """How a host of ~/.ssh/config is reached."""

    OWN = "own"
    SYSTEM = "system"


@dataclass(frozen=True)
class Place:
    """Where to look for runs: what the settings say of it, so that it can be found again."""

    workspace: str
    host: str = ""
    python: str = "python3"
    scheduler: SchedulerChoice = SchedulerChoice.AUTO
    as_user: str = ""
    ssh: SshWay = SshWay.OWN

    @property
    def label(self) -> str:
        """For the screen: host and workspace."""
        return f"{self.host or 'this machine'}:{self.workspace}"
