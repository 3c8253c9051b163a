"""The comparison screen in use: what is said of questions that are not answered yet, and when they are."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from llama_tui.backend.errors import SchedulerError
from llama_tui.backend.more_prompts import Asked, ask_more, asked_later, questions
from llama_tui.backend.place import Place
from llama_tui.backend.runs import Run
from llama_tui.backend.site import Site
from llama_tui.backend.states import StageState
from llama_tui.backend.ui_request import UiRequest
from llama_tui.tui.app import LlamaTui
from llama_tui.tui.screens.ask_prompts import AskPrompts
from llama_tui.tui.screens.comparison import ComparisonScreen
from llama_tui.tui.widgets.answers import asked_words
from tests.pilot import Keyboard, sitting_at
from tests.screens import at_scene
from tests.test_tui_runs import ANSWERING, done_run

at = partial(at_scene, Keyboard)
WAITS = """
import pathlib, time
while not (pathlib.Path(__file__).parent.parent / "go/ask").exists():
    time.sleep(0.02)
"""


def run_that_answers_late(site: Site, workspace: Path) -> Run:
    """A run whose questions are answered when `go/ask` is there."""
    run = done_run(site, workspace)
    (Path(run.layout.path) / "jobs/inference.py").write_text(WAITS + ANSWERING)
    return run


def answer(run: Run) -> None:
    (Path(run.layout.path) / "go/ask").touch()


@asynccontextmanager
async def answers_of(run: Run) -> AsyncIterator[Keyboard]:
    """Somebody at the comparison screen of a run."""
    app = LlamaTui(UiRequest(place=run.site.place, run_id=run.run_id))
    async with sitting_at(Keyboard, app, (120, 40)) as keyboard:
        await keyboard.sees("All seven")
        await keyboard.press("o")
        yield keyboard


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama_tui.tui.screens.comparison.LOOK_EVERY", 0.3)


class TestAskedLater:
    async def test_it_is_told_in_words_and_its_answer_is_told_and_shown(
        self, site: Site, workspace: Path
    ) -> None:
        run = run_that_answers_late(site, workspace)
        async with answers_of(run) as keyboard:
            await keyboard.sees("Captain Chat!")
            await keyboard.press("a")
            await keyboard.arrives(AskPrompts)
            await keyboard.types("What is a bosun?")
            await keyboard.press("enter")
            await keyboard.types("And " + "long " * 20 + "one?")
            await keyboard.press("ctrl+s")
            await keyboard.arrives(ComparisonScreen)
            await keyboard.sees("… being answered (job ", "): “What is a bosun?” and 1 more")
            answer(run)
            await keyboard.sees("Answered: “What is a bosun?” and 1 more.", "tuned says What is a bosun?")
            assert not keyboard.reads("being answered")

    async def test_one_that_fails_is_told_as_well(self, site: Site, workspace: Path) -> None:
        run = run_that_answers_late(site, workspace)
        ask_more(run, questions(prompts=["fail"]))
        async with answers_of(run) as keyboard:
            await keyboard.sees("being answered (job ", "): “fail”")
            answer(run)
            await keyboard.sees("Not answered (exit code 1): “fail”.")

    async def test_a_scheduler_that_does_not_answer_for_a_while_loses_no_question(
        self, site: Site, workspace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = run_that_answers_late(site, workspace)
        ask_more(run, questions(prompts=["Ahoy?"]))
        silent = threading.Event()

        def asked_later_or_not(run: Run) -> list[Asked]:
            if silent.is_set():
                raise SchedulerError("squeue did not answer")
            return asked_later(run)

        monkeypatch.setattr("llama_tui.tui.screens.comparison.asked_later", asked_later_or_not)
        async with answers_of(run) as keyboard:
            await keyboard.sees("): “Ahoy?”")
            silent.set()
            await keyboard.sees("⚠ squeue did not answer", "): “Ahoy?”")
            answer(run)
            silent.clear()
            await keyboard.sees("Answered: “Ahoy?”.")
            await keyboard.misses("squeue did not answer")

    async def test_a_look_that_takes_longer_than_the_pause_before_the_next_comes_to_its_end(
        self, site: Site, workspace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = run_that_answers_late(site, workspace)
        ask_more(run, questions(prompts=["Ahoy?"]))

        def slowly(run: Run) -> list[Asked]:
            time.sleep(0.5)
            return asked_later(run)

        monkeypatch.setattr("llama_tui.tui.screens.comparison.asked_later", slowly)
        monkeypatch.setattr("llama_tui.tui.screens.comparison.LOOK_EVERY", 0.1)
        async with answers_of(run) as keyboard:
            await keyboard.sees("): “Ahoy?”")
            answer(run)
            await keyboard.sees("Answered: “Ahoy?”.")

    async def test_what_was_answered_before_is_no_news(self, site: Site, workspace: Path) -> None:
        run = run_that_answers_late(site, workspace)
        answer(run)
        ask_more(run, questions(prompts=["Old?"]))
        async with answers_of(run) as keyboard:
            await keyboard.sees("Captain Chat!")
            await keyboard.press("r")
            await keyboard.pilot.pause()
            assert not keyboard.reads("Answered")

    def test_a_long_prompt_is_named_by_its_beginning(self) -> None:
        asked = Asked(1, ("one\n  two " * 20, "b", "c"), StageState.PENDING)
        assert asked_words(asked) == "“one two one two one two one two…” and 2 more"


async def test_the_mode_can_be_read_while_it_lasts(place: Place) -> None:
    async with at("comparison", place) as keyboard:
        await keyboard.press("g")
        await keyboard.sees("greedy answers only")
        await keyboard.press("g")
        await keyboard.sees("sampled answers only")
        await keyboard.press("g")
        await keyboard.misses("answers only")


async def test_why_nothing_is_underlined_in_answers_that_share_little(place: Place) -> None:
    async with at("comparison", place) as keyboard:
        await keyboard.sees("4% of the words shared", "underlined, where enough are shared")


async def test_an_answer_that_took_all_its_tokens_is_said_to_be_cut_off(place: Place) -> None:
    async with at("comparison", place, (120, 40)) as keyboard:
        await keyboard.sees("base (96 tokens, cut off)", "fine-tuned (44 tokens)")
