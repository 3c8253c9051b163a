"""What the diagnosis is told of a stage, where the queue and the stage's own word differ."""

from __future__ import annotations

import pytest

from llama_tui.backend.explain import symptoms_of
from llama_tui.backend.runs import Snapshot
from llama_tui.backend.schedulers.base import Job, JobState
from llama_tui.backend.stages import STAGES, Stage
from llama_tui.backend.states import StageState, StageView

ENV = Stage.CREATE_ENV


def told(state: StageState, job: Job | None, reason: str = "") -> tuple[str | None, str | None]:
    """(the scheduler's state, its reason) as the diagnosis gets them."""
    view = StageView(ENV, state, attempt=1, job_id="7", exit_code=1, reason=reason)
    views = (view, *(StageView(stage, StageState.NOT_SUBMITTED) for stage in STAGES[1:]))
    snapshot = Snapshot("run", views, (), (job,) if job else (), 2000.0, "")
    symptoms = symptoms_of(view, snapshot, "a log")
    return symptoms.slurm_state, symptoms.slurm_reason


@pytest.mark.parametrize("word", ["RUNNING", "COMPLETING", "PENDING"])
def test_a_queue_that_lags_behind_the_end_of_a_stage_is_not_believed(word: str) -> None:
    stale = Job("7", JobState.ACTIVE, word, "None")
    assert told(StageState.FAILED, stale, "exit code 1") == ("FAILED", "exit code 1")


def test_how_the_job_ended_is_the_scheduler_s_word() -> None:
    ended = Job("7", JobState.FAILED, "OUT_OF_MEMORY", "OutOfMemory")
    assert told(StageState.FAILED, ended) == ("OUT_OF_MEMORY", "OutOfMemory")
    assert told(StageState.FAILED, None, "exit code 1") == ("FAILED", "exit code 1")


def test_a_job_that_is_held_is_asked_about_as_it_is() -> None:
    held = Job("7", JobState.STUCK, "PENDING", "JobHeldAdmin")
    assert told(StageState.HELD, held) == ("PENDING", "JobHeldAdmin")
