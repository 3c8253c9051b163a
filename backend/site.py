"""A place where runs are: a host with its agent, what schedules there, and the workspace."""

from __future__ import annotations

import time
from collections.abc import Callable

from llama_tui.backend.errors import AgentError, LinkLost, SchedulerError
from llama_tui.backend.hosts.choose import HostBook
from llama_tui.backend.layout import Workspace
from llama_tui.backend.link import Link
from llama_tui.backend.place import Place, SchedulerChoice
from llama_tui.backend.schedulers.base import Scheduler
from llama_tui.backend.schedulers.direct import Direct
from llama_tui.backend.schedulers.slurm import Slurm


class Site:
    """A connected place. `close` ends the connection; jobs are not touched.

    Attributes:
        workspace: its directories, absolute on the host.
        clock_offset: seconds by which the host's clock is ahead of this computer's.
    """

    def __init__(self, place: Place, link: Link, scheduler: Scheduler, workspace: Workspace) -> None:
        self.place = place
        self.link = link
        self.scheduler = scheduler
        self.workspace = workspace
        self.clock_offset = link.greeting.time - time.time()

    @property
    def on_slurm(self) -> bool:
        """Whether Slurm schedules here; else the stages run on this very host, one after another."""
        return isinstance(self.scheduler, Slurm)

    def now(self) -> float:
        """The host's clock, seconds since 1970 (a laptop's own may differ)."""
        return time.time() + self.clock_offset

    def absolute(self, path: str) -> str:
        """A path on the host with its home directory in place of ~."""
        return _absolute(path, self.link.greeting.home)

    def close(self) -> None:
        """Ends the connection."""
        self.link.close()


def connect(
    place: Place,
    hosts: HostBook | None = None,
    on_lost: Callable[[LinkLost], None] | None = None,
    with_slurm: bool | None = None,
) -> Site:
    """Starts the agent and finds out what schedules there. Blocks; never call it on the UI thread.

    Args:
        hosts: where to find the host; without it nobody is asked for a password.
        on_lost: called when the connection ends by itself.
        with_slurm: whether Slurm was found there before, so that a controller that hangs holds up no reconnect
            and a host that is still starting is not taken for one without Slurm; None looks.

    Raises:
        HostError: the host cannot be reached, or no agent starts there.
        SchedulerError: Slurm is asked for and is not there.
    """
    link = (hosts or HostBook()).link(place, on_lost)
    try:
        workspace = Workspace(_absolute(place.workspace, link.greeting.home))
        return Site(place, link, _scheduler(place, link, workspace.path, with_slurm), workspace)
    except BaseException:
        link.close()
        raise


def _absolute(path: str, home: str) -> str:
    return home.rstrip("/") + path[1:] if path.startswith("~/") else path


def _scheduler(place: Place, link: Link, workspace: str, with_slurm: bool | None) -> Scheduler:
    if place.scheduler is SchedulerChoice.DIRECT:
        return Direct(link, workspace, place.python)
    if _has_slurm(link) if with_slurm is None else with_slurm:
        return Slurm(link)
    if place.scheduler is SchedulerChoice.SLURM:
        raise SchedulerError(
            f"{link.host.name} is no node of a Slurm cluster: sbatch is not found, or knows no controller",
            "Choose the cluster's head or login node, or set the scheduler to auto.",
        )
    return Direct(link, workspace, place.python)


def _has_slurm(link: Link) -> bool:
    """Whether this is a node of a cluster: Slurm's commands alone may be installed anywhere."""
    script = "command -v sbatch >/dev/null && command -v squeue >/dev/null && scontrol ping 2>&1"
    try:
        answer = link.run(["/bin/sh", "-c", script], timeout=20)
    except AgentError:
        # It hangs, so it is there: a controller that does not answer is told where it is asked.
        return True
    found = "slurmctld" in answer.stdout.lower()
    return found and "configuration source" not in answer.stdout
