"""Hands a chain of stages to the scheduler, once each, whatever happens in between."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from llama_tui.backend.errors import RunError, SchedulerError, SchedulerSilent
from llama_tui.backend.journal import Event, Journal
from llama_tui.backend.render import RunPlan, comment_of, render_script
from llama_tui.backend.schedulers.base import Job, Submission
from llama_tui.backend.site import Site
from llama_tui.backend.stages import Stage

LOOK_PERIOD = 2.0
# sbatch may have been accepted although no answer came: its job is looked for so long, in seconds.
LOOK_FOR = 60.0
# A controller that is down is waited for so long; a restart takes a minute or two.
CONTROLLER_PATIENCE = 240.0
GONE_PATIENCE = 60.0
LOCK_PATIENCE = 30.0

Tell = Callable[[str], None]


@contextlib.contextmanager
def run_lock(site: Site, run_dir: str) -> Iterator[None]:
    """One person at a time submits or cancels in a run."""
    path = f"{run_dir}/.lock"
    site.link.call("lock", path=path, timeout=LOCK_PATIENCE, patience=LOCK_PATIENCE + 15)
    try:
        yield
    finally:
        if site.link.alive:
            site.link.call("unlock", path=path)


def submit_chain(
    site: Site, plan: RunPlan, attempts: dict[Stage, int], after: str = "", tell: Tell | None = None
) -> None:
    """Submits stages as an afterok chain, each as the attempt of that number. The run lock is held.

    Args:
        after: the id of a job that the first of them needs done; empty for none.

    Raises:
        SchedulerError: one was refused; those before it are submitted, and the journal says so.
        LinkLost: the connection ended; what was asked for last is looked for when the run is opened next.
    """
    journal = Journal(site, plan.layout)
    for stage, attempt in attempts.items():
        after = _submit(site, plan, journal, stage, attempt, after, tell or _silent)


def _silent(words: str) -> None:
    """Nobody is watching."""


def _submit(
    site: Site, plan: RunPlan, journal: Journal, stage: Stage, attempt: int, after: str, tell: Tell
) -> str:
    layout = plan.layout
    script = layout.script(stage, attempt)
    site.link.write_text(script, render_script(plan, stage, attempt), mode=0o700)
    comment = comment_of(layout.run_id, stage, attempt)
    submission = Submission(stage, script, layout.log(stage, attempt), comment, comment, after)
    journal.add(Event.ASKED, stage, attempt)
    try:
        job_id = submit_once(site, plan, submission, tell)
    except SchedulerError as error:
        journal.add(Event.REFUSED, stage, attempt, refused=error.message)
        raise
    journal.add(Event.SUBMITTED, stage, attempt, job_id=job_id)
    tell(f"{stage} submitted as job {job_id}")
    return job_id


def submit_once(site: Site, plan: RunPlan, submission: Submission, tell: Tell) -> str:
    """Submits, and after a silence looks for the job before it submits again; gives the job's id.

    Raises:
        SchedulerError, LinkLost: see submit_chain.
    """
    deadline = time.monotonic() + CONTROLLER_PATIENCE
    while True:
        try:
            return site.scheduler.submit(submission, plan.settings.resources)
        except SchedulerSilent as silence:
            tell(f"{silence.message}; looking whether {submission.stage} was accepted")
            found = find_job(site, submission.comment, deadline)
            if found is not None:
                return found.id
            if time.monotonic() >= deadline:
                raise


def find_job(site: Site, comment: str, deadline: float) -> Job | None:
    """Looks for the job of a comment for LOOK_FOR seconds of a queue that answers; after the deadline once."""
    looked_since: float | None = None
    while True:
        try:
            found = [job for job in site.scheduler.queue() if comment in {job.comment, job.name}]
            looked_since = looked_since or time.monotonic()
        except SchedulerError:
            found = []
        if found:
            return found[-1]
        now = time.monotonic()
        if now >= deadline or (looked_since is not None and now - looked_since >= LOOK_FOR):
            return None
        time.sleep(LOOK_PERIOD)


def wait_until_gone(site: Site, ids: list[str]) -> None:
    """Waits until jobs that were cancelled have ended: two attempts must not write to one directory.

    Raises:
        RunError: one is still there after a minute.
    """
    deadline = time.monotonic() + GONE_PATIENCE
    while True:
        alive = [job.id for job in site.scheduler.queue() if job.id in ids and not job.state.final]
        if not alive:
            return
        if time.monotonic() > deadline:
            raise RunError(
                f"Job {', '.join(alive)} was told to end and is still there after {GONE_PATIENCE:.0f} s",
                "Its node may hang. Try the rerun again in a minute, or ask your administrator.",
            )
        time.sleep(0.5)
