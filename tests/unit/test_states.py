"""What state a stage is in, case by case: the table of DESIGN and of the facts on Slurm."""

from __future__ import annotations

import json
from dataclasses import replace

from llama_tui.backend.runs import may_go_on, snapshot_of
from llama_tui.backend.schedulers.base import Ending, Job, JobState
from llama_tui.backend.stages import Stage
from llama_tui.backend.states import Attempt, Evidence, StageState, Status, derive, read_attempts, read_status

ENV, DOWNLOAD, TUNE = Stage.CREATE_ENV, Stage.DOWNLOAD_MODEL, Stage.FINETUNE
ASKED = 1000.0


def status(
    stage: Stage = ENV, *, attempt: int = 1, done: bool = True, code: int | None = 0, job: str = "7"
) -> Status:
    return Status(
        stage, attempt, job, "node-1", done, 0, 1010, 1020 if done else None, code if done else None, None
    )


def job(
    state: JobState, word: str, *, id: str = "7", reason: str = "", stage: Stage = ENV, number: int = 1
) -> Job:
    return Job(id, state, word, reason, submitted=1000, comment=f"run/{stage}/{number}")


def state_of(
    *,
    attempts: tuple[Attempt, ...] = (Attempt(ENV, 1, ASKED, "7"),),
    statuses: tuple[Status, ...] = (),
    jobs: tuple[Job, ...] | None = (),
    endings: dict[str, Ending] | None = None,
    stage: Stage = ENV,
    seen: float | None = 2000.0,
) -> StageState:
    evidence = Evidence(attempts, {one.stage: one for one in statuses}, jobs, endings or {}, seen)
    return derive(evidence)[stage.number].state


def test_nothing_known_is_not_submitted() -> None:
    assert state_of(attempts=()) is StageState.NOT_SUBMITTED


def test_a_status_file_that_says_done_is_final() -> None:
    assert state_of(statuses=(status(),)) is StageState.DONE
    assert state_of(statuses=(status(),), jobs=None) is StageState.DONE
    assert state_of(statuses=(status(code=3),)) is StageState.FAILED


def test_a_done_file_of_an_older_attempt_counts_for_nothing() -> None:
    attempts = (Attempt(ENV, 1, ASKED, "7"), Attempt(ENV, 2, ASKED, "8"))
    waiting = job(JobState.WAITING, "PENDING", id="8", number=2)
    assert state_of(attempts=attempts, statuses=(status(),), jobs=(waiting,)) is StageState.PENDING


def test_running_is_believed_only_while_the_scheduler_knows_the_job() -> None:
    running = status(done=False)
    assert state_of(statuses=(running,), jobs=(job(JobState.ACTIVE, "RUNNING"),)) is StageState.RUNNING
    assert state_of(statuses=(running,), jobs=()) is StageState.UNKNOWN


def test_not_in_the_queue_never_means_done() -> None:
    assert state_of(jobs=()) is StageState.UNKNOWN
    assert state_of(jobs=(job(JobState.COMPLETED, "COMPLETED"),)) is StageState.UNKNOWN


def test_no_answer_is_unknown_and_not_failed() -> None:
    assert state_of(jobs=None, seen=None) is StageState.UNKNOWN


def test_accounts_explain_a_death_that_the_script_could_not_report() -> None:
    for word in ("TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"):
        # Their exit code is 0:0: no verdict is ever taken from it alone.
        endings = {"7": Ending(word, 0, None)}
        assert state_of(statuses=(status(done=False),), endings=endings) is StageState.FAILED
    endings = {"7": Ending("CANCELLED by 1000", 0, 15)}
    assert state_of(statuses=(status(done=False),), endings=endings) is StageState.CANCELLED


def test_a_requeued_job_is_not_final() -> None:
    again = job(JobState.WAITING, "PENDING", reason="BeginTime")
    assert state_of(statuses=(status(code=143),), jobs=(again,)) is StageState.PENDING
    held = job(JobState.STUCK, "REQUEUE_HOLD", reason="launch failed requeued held")
    assert state_of(statuses=(status(code=143),), jobs=(held,)) is StageState.HELD


def test_a_signal_is_no_verdict_until_the_scheduler_says_whose() -> None:
    ended = replace(status(code=143), signal="TERM")
    assert state_of(statuses=(ended,), jobs=(job(JobState.ACTIVE, "COMPLETING"),)) is StageState.RUNNING
    assert state_of(statuses=(ended,), jobs=(job(JobState.CANCELLED, "CANCELLED"),)) is StageState.CANCELLED
    assert state_of(statuses=(ended,), jobs=(job(JobState.FAILED, "TIMEOUT"),)) is StageState.FAILED
    assert state_of(statuses=(ended,), jobs=()) is StageState.FAILED


def test_a_program_that_heard_of_the_signal_before_its_script_did_is_no_verdict_either() -> None:
    ended = status(code=143)
    assert state_of(statuses=(ended,), jobs=(job(JobState.ACTIVE, "COMPLETING"),)) is StageState.RUNNING
    assert state_of(statuses=(ended,), jobs=(job(JobState.CANCELLED, "CANCELLED"),)) is StageState.CANCELLED
    assert state_of(statuses=(ended,), jobs=(job(JobState.FAILED, "FAILED"),)) is StageState.FAILED


def test_a_job_that_nobody_recorded_is_found_by_its_comment() -> None:
    asked = (Attempt(ENV, 1, ASKED),)
    assert state_of(attempts=asked, jobs=(job(JobState.ACTIVE, "RUNNING"),)) is StageState.RUNNING


def test_asked_and_never_answered() -> None:
    asked = (Attempt(ENV, 1, ASKED),)
    assert state_of(attempts=asked, seen=ASKED + 5) is StageState.SUBMITTING
    assert state_of(attempts=asked, seen=ASKED + 500) is StageState.UNKNOWN


def test_refused_is_failed_with_the_schedulers_words() -> None:
    evidence = Evidence((Attempt(ENV, 1, ASKED, refused="invalid partition"),), {}, (), {}, 2000.0)
    view = derive(evidence)[0]
    assert (view.state, view.reason) == (StageState.FAILED, "invalid partition")


def test_what_follows_a_failure_is_blocked_and_says_by_what() -> None:
    attempts = (Attempt(ENV, 1, ASKED, "7"), Attempt(DOWNLOAD, 1, ASKED, "8"))
    waits = job(JobState.STUCK, "PENDING", id="8", reason="DependencyNeverSatisfied", stage=DOWNLOAD)
    evidence = Evidence(attempts, {ENV: status(code=1)}, (waits,), {}, 2000.0)
    view = derive(evidence)[1]
    assert view.state is StageState.BLOCKED
    assert "create_env" in view.reason


def test_cancelled_by_a_person() -> None:
    attempts = (Attempt(ENV, 1, ASKED, "7", cancelled=True),)
    assert state_of(attempts=attempts, statuses=(status(code=143),)) is StageState.CANCELLED
    assert state_of(attempts=attempts, jobs=()) is StageState.CANCELLED


def test_a_stage_run_by_hand_shows_its_own_word() -> None:
    assert state_of(attempts=(), statuses=(status(),)) is StageState.DONE


def test_files_cut_short_are_skipped() -> None:
    whole = {"time": 1.0, "event": "asked", "stage": "finetune", "attempt": 1}
    text = json.dumps(whole) + "\n" + json.dumps({**whole, "event": "submitted", "job_id": "9"})[:-9]
    assert read_attempts(text) == (Attempt(TUNE, 1, 1.0),)
    assert read_status('{"stage": "finetune", "att') is None
    assert read_status("[]") is None
    assert read_status("") is None


def test_jobs_of_another_run_are_not_this_runs() -> None:
    lines = '{"time": 1, "event": "asked", "stage": "create_env", "attempt": 1}\n'
    other = Job("7", JobState.ACTIVE, "RUNNING", comment="other-run/create_env/1")
    snapshot = snapshot_of("run", {"/w/runs/run/submitted.jsonl": lines}, [other], seen=5.0)
    assert snapshot.views[0].state is StageState.SUBMITTING


def test_jobs_that_wait_for_what_never_comes_will_not_go_on() -> None:
    ended = job(JobState.FAILED, "FAILED", stage=ENV)
    stuck = job(JobState.STUCK, "PENDING", id="8", reason="DependencyNeverSatisfied", stage=DOWNLOAD)
    behind = job(JobState.WAITING, "PENDING", id="9", reason="Dependency", stage=TUNE)
    assert not may_go_on((ended, stuck, behind))
    assert may_go_on((ended, behind)), "the scheduler has not found out yet, or has not started it yet"
    assert may_go_on((ended, stuck, replace(behind, comment="another/finetune/1")))
    assert may_go_on((stuck, job(JobState.WAITING, "PENDING", id="9", reason="Priority", stage=TUNE)))
    assert may_go_on((job(JobState.STUCK, "PENDING", reason="JobHeldUser"),)), "somebody may release it"
