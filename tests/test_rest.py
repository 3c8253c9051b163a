"""Once nothing goes on any more, the scheduler is not asked; whatever begins again is noticed."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from llama_tui.backend.monitor import RunMonitor
from llama_tui.backend.runs import Run, Snapshot, open_run
from llama_tui.backend.schedulers.base import Ending, Job
from llama_tui.backend.schedulers.direct import Direct
from llama_tui.backend.site import Site, connect
from llama_tui.backend.stages import Stage
from llama_tui.backend.states import StageState
from tests.tiny import go, set_behaviour, tiny_run, wait_for, wait_until_runs

TUNE = Stage.FINETUNE
PATIENCE = 60.0


class Watching:
    """Somebody who watches a run, with what they were told."""

    def __init__(self, run: Run) -> None:
        self.told: queue.Queue[Snapshot] = queue.Queue()
        self.monitor = RunMonitor(run, self.told.put)
        self.monitor.start()

    def until(self, condition: Callable[[Snapshot], bool]) -> Snapshot:
        """The next snapshot for which it holds."""
        while True:
            snapshot = self.told.get(timeout=PATIENCE)
            if condition(snapshot):
                return snapshot


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often the queue was asked by whoever watches."""
    log = tmp_path / "asked"
    real = Direct.queue_command

    def counting(scheduler: Direct) -> list[str]:
        return ["/bin/sh", "-c", 'echo >> "$0"; exec "$@"', str(log), *real(scheduler)]

    monkeypatch.setattr(Direct, "queue_command", counting)
    return lambda: len(log.read_text()) if log.exists() else 0


def test_a_finished_run_is_not_asked_for_and_a_rerun_from_elsewhere_is_seen(
    site: Site, workspace: Path, counted: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama_tui.backend.monitor.QUEUE_PERIOD", 0.3)
    run = tiny_run(site, workspace, finetune="3")
    run.submit()
    wait_for(run, lambda one: one.finished)
    watching = Watching(run)
    rested = watching.until(lambda one: one.resting)
    assert rested.state is StageState.FAILED
    assert rested.seen is not None
    assert not rested.problem
    asked = counted()
    # Many times as long as the pause between two questions.
    time.sleep(1.5)
    assert counted() == asked
    elsewhere = connect(site.place)
    other = open_run(elsewhere, run.run_id)
    set_behaviour(run, TUNE, "wait")
    other.rerun(TUNE)
    running = watching.until(lambda one: one.view(TUNE).state is StageState.RUNNING)
    assert not running.resting
    assert any(job.id == running.view(TUNE).job_id for job in running.jobs or ())
    go(run, TUNE)
    assert watching.until(lambda one: one.resting).state is StageState.DONE
    assert counted() > asked
    watching.monitor.stop()
    elsewhere.close()


def test_it_is_asked_as_long_as_another_job_of_this_person_goes_on(
    site: Site, workspace: Path, counted: Callable[[], int]
) -> None:
    run, other = tiny_run(site, workspace), tiny_run(site, workspace, create_env="wait")
    run.submit()
    wait_for(run, lambda one: one.finished)
    other.submit((Stage.CREATE_ENV,))
    wait_until_runs(other, Stage.CREATE_ENV)
    watching = Watching(run)
    asked = counted()
    assert not watching.until(lambda one: one.finished and one.jobs is not None).at_rest
    wait_for(run, lambda _: counted() >= asked + 3)
    go(other, Stage.CREATE_ENV)
    watching.until(lambda one: one.resting)
    watching.monitor.stop()


def test_who_looks_again_at_rest_is_told_when_it_was_asked(site: Site, workspace: Path) -> None:
    run = tiny_run(site, workspace)
    watching = Watching(run)
    first = watching.until(lambda one: one.resting)
    watching.monitor.look_again()
    again = watching.until(lambda one: one.resting)
    assert (again.seen or 0) > (first.seen or 0)
    watching.monitor.stop()


class _Link:
    """A link whose events come when the test says so, and whose agent lets everything rest."""

    def __init__(self) -> None:
        self.rested: queue.Queue[int] = queue.Queue()
        self.let = threading.Event()
        self.let.set()

    def watch(self, _: list[str], take: Callable[[dict[str, Any]], None], **__: Any) -> _Link:
        self.take = take
        return self

    def rest(self, number: int) -> bool:
        self.rested.put(number)
        return self.let.wait(PATIENCE)


class _Scheduler(Direct):
    """One whose accounts answer when the test says so."""

    def __init__(self) -> None:
        self.looked_up = threading.Event()
        self.may_answer = threading.Event()

    def queue_command(self) -> list[str]:
        return ["squeue"]

    def parse_queue(self, output: str) -> list[Job]:
        del output  # There never is a job.
        return []

    def endings(self, ids: list[str]) -> dict[str, Ending]:
        self.looked_up.set()
        assert self.may_answer.wait(PATIENCE)
        return {one: Ending("TIMEOUT", 0, None) for one in ids}


class _Site:
    def __init__(self) -> None:
        self.link, self.scheduler = _Link(), _Scheduler()


class _Run:
    run_id, watched = "tiny-1", ["/runs/tiny-1/submitted.jsonl"]

    def __init__(self) -> None:
        self.site = _Site()


NO_JOBS = {"exit": 0, "stdout": "", "stderr": ""}
SUBMITTED = '{"time": 1, "event": "submitted", "stage": "create_env", "attempt": 1, "job_id": "7"}\n'
REFUSED = '{"time": 1, "event": "refused", "stage": "create_env", "attempt": 1, "refused": "no"}\n'


@pytest.fixture
def run() -> _Run:
    return _Run()


def journal(text: str) -> dict[str, Any]:
    return {"files": {"/runs/tiny-1/submitted.jsonl": text}}


def test_what_was_submitted_while_it_was_told_to_rest_counts(run: _Run) -> None:
    link = run.site.link
    watching = Watching(cast(Run, run))
    link.let.clear()
    link.take({"number": 1, "queue": NO_JOBS, "asked": 5.0, **journal(REFUSED)})
    assert watching.told.get_nowait().finished
    link.take({"number": 2, "asked": 6.0})
    assert link.rested.get(timeout=PATIENCE) == 2
    link.take({"number": 3, **journal(REFUSED.replace("refused", "asked"))})
    link.let.set()
    link.take({"number": 4, "asked": 7.0})
    for thread in threading.enumerate():
        if thread.name == "settling":
            thread.join(PATIENCE)
    told = list(watching.told.queue)
    assert not any(snapshot.resting for snapshot in told)
    assert not told[-1].finished
    assert link.rested.empty()


def test_the_accounts_have_spoken_before_it_rests(run: _Run) -> None:
    link, scheduler = run.site.link, run.site.scheduler
    watching = Watching(cast(Run, run))
    link.take({"number": 1, "queue": NO_JOBS, "asked": 5.0, **journal(SUBMITTED)})
    assert scheduler.looked_up.wait(PATIENCE)
    link.take({"number": 2, "asked": 6.0})
    assert link.rested.empty()
    scheduler.may_answer.set()
    rested = watching.until(lambda one: one.resting)
    assert rested.views[0].state is StageState.FAILED
    assert rested.views[0].reason == "TIMEOUT"
    assert link.rested.get_nowait() == 2


def test_a_scheduler_that_does_not_answer_is_asked_on(run: _Run) -> None:
    link = run.site.link
    watching = Watching(cast(Run, run))
    link.take({"number": 1, "queue": NO_JOBS, "asked": 5.0, **journal(REFUSED)})
    link.take({"number": 2, "queue": {"exit": 1, "stdout": "", "stderr": "no answer"}, "asked": 6.0})
    assert not any(one.at_rest for one in list(watching.told.queue)[1:])
    link.take({"number": 3, "queue": NO_JOBS, "asked": 7.0})
    assert watching.until(lambda one: one.resting).seen == 7.0
    assert list(link.rested.queue) == [3]
