"""Answers that come late: what somebody did since they asked stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from textual.widgets import Input

from llama_tui.backend.errors import HostError
from llama_tui.backend.live import LiveRun
from llama_tui.backend.place import Place
from llama_tui.tui.screens import comparison, runs
from llama_tui.tui.screens.comparison import ComparisonScreen
from llama_tui.tui.screens.keys import Keys
from llama_tui.tui.screens.monitor import MonitorScreen
from llama_tui.tui.screens.runs import RunsScreen
from tests.pilot import Keyboard, until
from tests.screens import FAILED, at_scene

at = partial(at_scene, Keyboard)


class Gate:
    """Holds up what is called in the background until `opened` is set.

    Attributes:
        reached: set when somebody waits at the gate.
    """

    def __init__(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.reached, self.opened = Event(), Event()
        act: Callable[..., Any] = getattr(owner, name)

        def hold(*args: Any, **named: Any) -> Any:
            self.reached.set()
            assert self.opened.wait(60), "nobody opened the gate"
            return act(*args, **named)

        patch.setattr(owner, name, hold)


async def reached(keyboard: Keyboard, gate: Gate) -> None:
    await until(keyboard.pilot, gate.reached.is_set, "the question")


class TestOtherThings:
    """Somebody has gone on to something else, which no dialog may take the keys from."""

    @pytest.mark.parametrize("key, told", [("k", "k shows it"), ("s", "s shows it")])
    async def test_a_text_is_told_of_to_somebody_who_types(
        self, key: str, told: str, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with at("monitor-failed", place) as keyboard:
            gate = Gate(monkeypatch, LiveRun, "do")
            await keyboard.press(key)
            await reached(keyboard, gate)
            await keyboard.press("slash", *"que")
            gate.opened.set()
            await keyboard.sees(told)
            await keyboard.press("q")
            assert keyboard.app.screen.query_one("#search", Input).value == "queq"
            assert FAILED not in keyboard.app.clipboard

    async def test_no_other_screen_takes_the_place_of_a_dialog(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with at("monitor-failed", place) as keyboard:
            gate = Gate(monkeypatch, LiveRun, "do")
            await keyboard.press("t")
            await reached(keyboard, gate)
            await keyboard.press("question_mark")
            await keyboard.arrives(Keys)
            gate.opened.set()
            await keyboard.sees("t opens the wizard")
            await keyboard.press("escape")
            await keyboard.arrives(MonitorScreen)

    async def test_what_went_wrong_is_told_in_a_corner(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise HostError("The scheduler says no", "Ask it again.")

        async with at("monitor-failed", place) as keyboard:
            monkeypatch.setattr(LiveRun, "do", fail)
            gate = Gate(monkeypatch, LiveRun, "do")
            await keyboard.press("r")
            await reached(keyboard, gate)
            await keyboard.press("slash", *"que")
            gate.opened.set()
            await keyboard.sees("The scheduler says no")
            await keyboard.sees("Ask it again.")
            await keyboard.press("q")
            assert keyboard.app.screen.query_one("#search", Input).value == "queq"

    async def test_details_of_a_job(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        async with at("monitor-failed", place) as keyboard:
            await keyboard.press("2")
            await keyboard.sees("DependencyNever")
            monkeypatch.setattr(LiveRun, "do", lambda *_: "JobState=PENDING")
            gate = Gate(monkeypatch, LiveRun, "do")
            await keyboard.press("enter")
            await reached(keyboard, gate)
            await keyboard.press("question_mark")
            await keyboard.arrives(Keys)
            gate.opened.set()
            await keyboard.sees("Enter shows it")
            await keyboard.arrives(Keys)

    async def test_a_letter_of_a_text_deletes_no_run(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate = Gate(monkeypatch, runs, "_removable_size")
        async with at("runs", place) as keyboard:
            kept = set(Path(place.workspace).expanduser().glob("runs/*"))
            await keyboard.press("X")
            await reached(keyboard, gate)
            await keyboard.press("slash", *"m")
            gate.opened.set()
            await keyboard.sees("is not deleted")
            await keyboard.press("y")
            assert isinstance(keyboard.app.screen, RunsScreen)
            assert keyboard.app.screen.query_one("#search", Input).value == "my"
            assert set(Path(place.workspace).expanduser().glob("runs/*")) == kept

    async def test_the_questions_about_prompts(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        gate = Gate(monkeypatch, comparison, "_first_questions")
        async with at("comparison", place) as keyboard:
            await keyboard.press("a")
            await reached(keyboard, gate)
            await keyboard.press("question_mark")
            await keyboard.arrives(Keys)
            gate.opened.set()
            await keyboard.sees("a begins")
            await keyboard.press("escape")
            await keyboard.arrives(ComparisonScreen)
