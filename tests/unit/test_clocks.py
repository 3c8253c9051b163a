"""Clocks that run on the screen are no finer than somebody needs; what has ended keeps its seconds."""

from __future__ import annotations

from itertools import pairwise

import pytest

from llama_tui.backend.schedulers.base import Job, JobState
from llama_tui.backend.stages import Stage
from llama_tui.backend.states import StageState, StageView
from llama_tui.tui.clocks import changes_in, left_text, running_text
from llama_tui.tui.widgets.queue_columns import COLUMNS
from llama_tui.tui.widgets.tables import _cells


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, ""),
        (-3, "0:00"),
        (0, "0:00"),
        (4.9, "0:00"),
        (59.9, "0:55"),
        (60, "1:00"),
        (139, "2:10"),
        (599, "9:50"),
        (600, "10 min"),
        (3599, "59 min"),
        (3600, "1:00 h"),
        (36_120, "10:02 h"),
    ],
)
def test_a_running_clock_gets_coarser_with_time(seconds: float | None, words: str) -> None:
    assert running_text(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, ""), (139, "~2:10"), (9, "~0:00"), (-45, "0:40 over"), (725, "~12 min"), (-4000, "1:06 h over")],
)
def test_what_is_left_is_an_estimate_and_looks_like_one(seconds: float | None, words: str) -> None:
    assert left_text(seconds) == words


def test_a_clock_is_looked_at_again_exactly_when_it_says_something_else() -> None:
    now, seen = 0.0, []
    while now < 2 * 3600:
        seen.append(running_text(now))
        now += changes_in(now)
    assert all(one != other for one, other in pairwise(seen))
    every_second = [running_text(second) for second in range(2 * 3600)]
    assert seen == list(dict.fromkeys(every_second))


def test_what_is_left_is_looked_at_in_between() -> None:
    assert changes_in(700, left=None) == 20
    assert changes_in(700, left=45) == 10


def test_a_stage_that_has_ended_shows_its_seconds() -> None:
    running = StageView(Stage.FINETUNE, StageState.RUNNING, 1, started=1000)
    ended = StageView(Stage.FINETUNE, StageState.DONE, 1, started=1000, ended=1743)
    assert _cells(running, 1743, None)[2] == "12 min"
    assert _cells(ended, 5000, None)[2] == "12:23"


def test_a_job_that_has_ended_shows_its_seconds() -> None:
    cell = COLUMNS["time"].cell
    assert cell(Job("1", JobState.ACTIVE, "RUNNING", started=1000), 1743) == "12 min"
    assert cell(Job("1", JobState.COMPLETED, "COMPLETED", started=1000, ended=1743), 5000) == "12:23"
    assert cell(Job("1", JobState.WAITING, "PENDING", started=9000), 1743) == ""
