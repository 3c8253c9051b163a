"""Runs: made, found, read, submitted, run again and cancelled. The truth is in the run directory."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from llama_tui.backend.errors import NoSuchRun, RunError, SchedulerError
from llama_tui.backend.journal import Event, Journal
from llama_tui.backend.layout import RunLayout, is_run_id
from llama_tui.backend.render import RunPlan, comment_of, plan_run, render_run_files
from llama_tui.backend.run_ids import new_run_id, run_ids
from llama_tui.backend.schedulers.base import Ending, Job
from llama_tui.backend.settings import Settings, SettingsError
from llama_tui.backend.settings_file import from_toml
from llama_tui.backend.site import Site
from llama_tui.backend.stages import STAGES, Stage
from llama_tui.backend.states import (
    DEPENDENCY_FAILED,
    Attempt,
    Evidence,
    StageState,
    StageView,
    Status,
    derive,
    overall,
    read_attempts,
    read_status,
)
from llama_tui.backend.submitting import (
    LOOK_FOR,
    Tell,
    find_job,
    run_lock,
    submit_chain,
    wait_until_gone,
)

_BEHIND_OTHERS = frozenset({"Dependency", DEPENDENCY_FAILED})


@dataclass(frozen=True)
class Snapshot:
    """A run as it is known now.

    Attributes:
        jobs: all of this user's jobs, for the queue; None while the scheduler gave no answer.
        seen: when it answered last, on the host's clock.
        problem: why the scheduler's answer is missing or old; empty where it is fresh.
        resting: the scheduler is not asked any more, since nothing goes on.
    """

    run_id: str
    views: tuple[StageView, ...]
    attempts: tuple[Attempt, ...]
    jobs: tuple[Job, ...] | None
    seen: float | None
    problem: str = ""
    resting: bool = False

    @property
    def state(self) -> StageState:
        """One word for the run."""
        return overall(self.views)

    @property
    def finished(self) -> bool:
        """Whether nothing will happen by itself any more."""
        return not any(view.state.active for view in self.views)

    @property
    def at_rest(self) -> bool:
        """Whether the scheduler has answered, and nothing of this person's will happen by itself any more."""
        if self.jobs is None or self.problem:
            return False
        return self.finished and not may_go_on(self.jobs)

    def view(self, stage: Stage) -> StageView:
        """One stage."""
        return self.views[stage.number]

    @property
    def current(self) -> StageView:
        """The stage to look at: the one that runs, else the first that did not end well, else the last begun."""
        for wanted in (StageState.RUNNING, StageState.FAILED, StageState.CANCELLED, StageState.HELD):
            for view in self.views:
                if view.state is wanted:
                    return view
        begun = [view for view in self.views if view.state is not StageState.NOT_SUBMITTED]
        waiting = [view for view in begun if view.state is not StageState.DONE]
        return (waiting or begun[-1:] or list(self.views))[0]


@dataclass(frozen=True)
class RunInfo:
    """A line of the list of runs."""

    run_id: str
    settings: Settings
    snapshot: Snapshot
    created: float


def snapshot_of(
    run_id: str,
    files: dict[str, str],
    jobs: list[Job] | None,
    *,
    endings: dict[str, Ending] | None = None,
    seen: float | None = None,
    problem: str = "",
) -> Snapshot:
    """What files (path to text) of a run directory and the queue say together."""
    attempts: tuple[Attempt, ...] = ()
    statuses: dict[Stage, Status] = {}
    for path, text in files.items():
        if path.endswith("/submitted.jsonl"):
            attempts = read_attempts(text)
        elif "/status/" in path and (status := read_status(text)) is not None:
            statuses[status.stage] = status
    own = None if jobs is None else tuple(job for job in jobs if belongs(job, run_id))
    evidence = Evidence(attempts, statuses, own, endings or {}, seen)
    return Snapshot(run_id, derive(evidence), attempts, None if jobs is None else tuple(jobs), seen, problem)


def belongs(job: Job, run_id: str) -> bool:
    """Whether a job is of a run."""
    return job.comment.startswith(run_id + "/") or job.name.startswith(run_id + "/")


def may_go_on(jobs: tuple[Job, ...]) -> bool:
    """Whether anything will happen to any of these jobs by itself.

    Slurm keeps jobs whose dependency has failed, and those behind them, for ever: where the first one of a chain
    never starts, nothing does that waits in it.
    """
    stuck = {_chain_of(job) for job in jobs if job.reason == DEPENDENCY_FAILED}
    return any(
        not job.state.final and not (job.reason in _BEHIND_OTHERS and _chain_of(job) in stuck) for job in jobs
    )


def _chain_of(job: Job) -> str:
    """The run's name."""
    return (job.comment or job.name).partition("/")[0]


class Run:
    """One fine-tune in its run directory."""

    def __init__(self, site: Site, plan: RunPlan) -> None:
        self.site = site
        self.plan = plan

    @property
    def run_id(self) -> str:
        """The run directory's name."""
        return self.layout.run_id

    @property
    def layout(self) -> RunLayout:
        """Where its files are."""
        return self.plan.layout

    @property
    def settings(self) -> Settings:
        """As launched."""
        return self.plan.settings

    @property
    def watched(self) -> list[str]:
        """The files that its state follows from."""
        return [self.layout.submitted, self.layout.file("status")]

    def snapshot(self) -> Snapshot:
        """Asks host and scheduler now. A scheduler that gives no answer is told in `problem`."""
        # The queue first: a job that has left it wrote its last word before.
        jobs, problem = _queue_of(self.site)
        files = self.site.link.collect(self.watched)
        seen = self.site.now() if jobs is not None else None
        first = snapshot_of(self.run_id, files, jobs, seen=seen, problem=problem)
        vanished = unexplained(first)
        if not vanished:
            return first
        endings = self.site.scheduler.endings(vanished)
        return snapshot_of(self.run_id, files, jobs, endings=endings, seen=seen, problem=problem)

    def submit(self, stages: tuple[Stage, ...] = STAGES, tell: Tell | None = None) -> None:
        """Submits stages that were never submitted, as one chain. Repeating it after a crash is safe.

        Raises:
            SchedulerError, LinkLost: see submit_chain.
        """
        with run_lock(self.site, self.layout.path):
            self._adopt_lost()
            known = {attempt.stage for attempt in self._attempts() if not attempt.refused}
            wanted = [stage for stage in stages if stage not in known]
            if not wanted:
                return
            numbers = self._next_numbers(wanted)
            submit_chain(self.site, self.plan, numbers, self._predecessor(wanted[0]), tell)

    def rerun(self, stage: Stage, tell: Tell | None = None) -> None:
        """Runs a stage again, and what follows as a new chain; stages before it are kept.

        Raises:
            RunError: the stage before it did not end well, or an old job does not end.
            SchedulerError, LinkLost: see submit_chain.
        """
        with run_lock(self.site, self.layout.path):
            self._adopt_lost()
            after = self._predecessor(stage)
            wanted = [stage, *stage.following]
            self._cancel(wanted)
            submit_chain(self.site, self.plan, self._next_numbers(wanted), after, tell)

    def cancel(self, stage: Stage = STAGES[0]) -> list[Stage]:
        """Ends the jobs of a stage and of what follows it; gives those that were told to end."""
        with run_lock(self.site, self.layout.path):
            self._adopt_lost()
            return self._cancel([stage, *stage.following], wait=False)

    def _attempts(self) -> tuple[Attempt, ...]:
        return read_attempts(self.site.link.read_text(self.layout.submitted) or "")

    def _next_numbers(self, stages: list[Stage]) -> dict[Stage, int]:
        used: dict[Stage, int] = {}
        for attempt in self._attempts():
            used[attempt.stage] = max(used.get(attempt.stage, 0), attempt.number)
        return {stage: used.get(stage, 0) + 1 for stage in stages}

    def _adopt_lost(self) -> None:
        """Records jobs that were accepted although we never heard so (a crash or a lost link in between)."""
        lost = [one for one in self._attempts() if not one.job_id and not one.refused]
        if not lost:
            return
        journal = Journal(self.site, self.layout)
        for attempt in lost:
            patience = max(0.0, LOOK_FOR - (self.site.now() - attempt.asked))
            comment = comment_of(self.run_id, attempt.stage, attempt.number)
            job = find_job(self.site, comment, time.monotonic() + patience)
            if job is not None:
                journal.add(Event.SUBMITTED, attempt.stage, attempt.number, job_id=job.id)
            else:
                words = "it never reached the scheduler"
                journal.add(Event.REFUSED, attempt.stage, attempt.number, refused=words)

    def _predecessor(self, stage: Stage) -> str:
        """The id of the job to wait for; empty when all that the stage needs is done."""
        if stage is STAGES[0]:
            return ""
        before = self.snapshot().view(STAGES[stage.number - 1])
        if before.state is StageState.DONE:
            return ""
        if before.state in {StageState.PENDING, StageState.RUNNING}:
            return before.job_id
        raise RunError(
            f"{stage} needs {before.stage}, which is {before.state}",
            f"Rerun {before.stage}: what follows is run by itself.",
        )

    def _cancel(self, stages: list[Stage], wait: bool = True) -> list[Stage]:
        snapshot = self.snapshot()
        alive = {job.id for job in snapshot.jobs or () if not job.state.final}
        doomed = [snapshot.view(stage) for stage in stages if snapshot.view(stage).job_id in alive]
        journal = Journal(self.site, self.layout)
        # Last first, so that no stage starts because the one before it was told to end.
        for view in reversed(doomed):
            journal.cancelled(view.stage, view.attempt)
        ids = [view.job_id for view in reversed(doomed)]
        self.site.scheduler.cancel(ids)
        if wait and ids:
            wait_until_gone(self.site, ids)
        return [view.stage for view in doomed]


def _queue_of(site: Site) -> tuple[list[Job] | None, str]:
    """The scheduler's answer, or None and why there is none."""
    try:
        return site.scheduler.queue(), ""
    except SchedulerError as error:
        return None, error.message


def unexplained(snapshot: Snapshot) -> list[str]:
    """Ids of jobs whose death the run directory and the queue do not explain: accounts may."""
    puzzling = {StageState.UNKNOWN, StageState.FAILED, StageState.CANCELLED}
    return [view.job_id for view in snapshot.views if view.state in puzzling and view.job_id]


def create_run(site: Site, settings: Settings) -> Run:
    """Makes the run directory, with all that its jobs need. Nothing is submitted.

    Raises:
        HostError: the workspace cannot be written.
    """
    plan = plan_run(settings, site.workspace.path, new_run_id(settings.name, site.now()))
    site.link.call("mkdir", path=plan.layout.path, new=True)
    for folder in ("logs", "scripts", "status", "reports"):
        site.link.call("mkdir", path=plan.layout.file(folder))
    files = render_run_files(plan)
    # The settings come last: a directory without them is no run.
    settings_text = files.pop(plan.layout.settings)
    site.link.write_files(files)
    site.link.write_text(plan.layout.settings, settings_text)
    return Run(site, plan)


def open_run(site: Site, run_id: str) -> Run:
    """A run that is there; empty or `latest` for the newest.

    Raises:
        NoSuchRun: there is none.
        SettingsError: its settings cannot be read.
    """
    if run_id in {"", "latest"}:
        names = run_ids(site)
        if not names:
            raise NoSuchRun(
                f"There are no runs in {site.place.label}", "Start one: `llama-tui` or `llama-tui demo`."
            )
        run_id = names[0]
    text = None
    if is_run_id(run_id):
        text = site.link.read_text(site.workspace.run(run_id).settings)
    if text is None:
        raise NoSuchRun(
            f"There is no run {run_id!r} in {site.place.label}", "`llama-tui runs` lists what is there."
        )
    return Run(site, plan_run(_settings_of(text, run_id), site.workspace.path, run_id))


def _settings_of(text: str, run_id: str) -> Settings:
    return from_toml(text, f"settings.toml of {run_id}")


def list_runs(site: Site) -> list[RunInfo]:
    """All runs of a workspace, newest first; what cannot be read as a run is left out."""
    names = run_ids(site)
    if not names:
        return []
    layouts = {name: site.workspace.run(name) for name in names}
    paths = [
        path
        for layout in layouts.values()
        for path in (layout.settings, layout.submitted, layout.file("status"))
    ]
    jobs, problem = _queue_of(site)
    files = site.link.collect(paths)
    found = []
    for name, layout in layouts.items():
        own = {path: text for path, text in files.items() if path.startswith(layout.path + "/")}
        info = _info(name, layout, own, jobs, site.now())
        if info is not None:
            found.append(replace(info, snapshot=replace(info.snapshot, problem=problem)))
    return found


def _info(
    name: str, layout: RunLayout, files: dict[str, str], jobs: list[Job] | None, now: float
) -> RunInfo | None:
    try:
        settings = _settings_of(files[layout.settings], name)
    except (KeyError, SettingsError):
        return None
    snapshot = snapshot_of(name, files, jobs, seen=now if jobs is not None else None)
    created = min((attempt.asked for attempt in snapshot.attempts), default=0.0)
    return RunInfo(name, settings, snapshot, created)
