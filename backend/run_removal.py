"""A run's directory on the host's disk: how big it is, and its end. Nothing but that directory is ever removed."""

from __future__ import annotations

import re

from llama_tui.backend.errors import AgentError, RunError
from llama_tui.backend.runs import belongs
from llama_tui.backend.site import Site
from llama_tui.backend.submitting import run_lock

# Seconds: a count of a big directory on a busy file system is given up then.
COUNT_TIMEOUT = 20.0
REMOVE_TIMEOUT = 600.0
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_DOOMED = ".llama-tui-deleting-"
# A link would lead elsewhere, and a directory without settings is not ours.
_IS_RUN = 'test -d "$1" && test ! -L "$1" && test ! -L "$2" && test -f "$1/settings.toml"'


def size_of_run(site: Site, run_id: str) -> int | None:
    """Bytes on the disk that removing the run frees; None when they could not be counted in time.

    Raises:
        RunError: there is no such run.
        LinkLost: the connection ended.
    """
    path = _checked(site, run_id)
    try:
        answer = site.link.run(["du", "-skx", "--", path], timeout=COUNT_TIMEOUT)
    except AgentError:
        return None
    found = re.match(r"(\d+)\s", answer.stdout)
    return int(found[1]) * 1024 if found else None


def check_removable(site: Site, run_id: str) -> None:
    """Raises as `remove_run` does when the run may not be removed; changes nothing."""
    _checked(site, run_id)
    alive = [job.id for job in site.scheduler.everyone() if belongs(job, run_id) and not job.state.final]
    if alive:
        raise RunError(
            f"{run_id} has jobs that are not done: {', '.join(alive[:8])}",
            "Cancel the run first, and wait until its jobs are gone.",
        )


def remove_run(site: Site, run_id: str) -> None:
    """Removes the run's directory with all that is in it; shared models, data and environments stay.

    Raises:
        RunError: there is no such run, it is a link, or jobs of it are alive.
        SchedulerError: whether jobs of it are alive cannot be asked.
        HostError: the host refused, in its words.
    """
    path = _checked(site, run_id)
    doomed = f"{site.workspace.runs}/{_DOOMED}{run_id}"
    with run_lock(site, path):
        check_removable(site, run_id)
        # Out of the list at once and in one step; what is slow comes after.
        _run(site, ["mv", "-T", "--", path, doomed])
    _run(site, ["rm", "-rf", "--one-file-system", "--", doomed])


def _checked(site: Site, run_id: str) -> str:
    """The run's absolute path, directly in <workspace>/runs and really there."""
    if not _RUN_ID.fullmatch(run_id):
        raise RunError(f"{run_id!r} is not the name of a run")
    path = f"{site.workspace.runs}/{run_id}"
    if site.link.run(["/bin/sh", "-c", _IS_RUN, "sh", path, site.workspace.runs]).exit != 0:
        raise RunError(
            f"{path} is not a run's directory, or a link stands in its place",
            "Look at it on the host, and remove it there by hand if you want to.",
        )
    return path


def _run(site: Site, argv: list[str]) -> None:
    answer = site.link.run(argv, timeout=REMOVE_TIMEOUT)
    if answer.exit != 0:
        said = (answer.stderr or answer.stdout).strip()[-600:]
        raise RunError(f"{site.link.host.name} could not remove it: {said}")
