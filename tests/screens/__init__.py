"""Puts the app into known states from recorded run directories: the same pixels each time, on every machine.

The backend is the real one: agent, link, scheduler and monitor. Only the clock stands still, the home directory is
an empty one, and `squeue` says what it said when the runs were recorded.
"""

from __future__ import annotations

import asyncio
import shutil
import stat
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

from llama_tui.backend import places
from llama_tui.backend.place import Place
from llama_tui.backend.runs import Snapshot
from llama_tui.backend.settings import Settings, Stack, defaults
from llama_tui.backend.states import StageState
from llama_tui.backend.ui_request import UiRequest
from llama_tui.tui.app import LlamaTui
from llama_tui.tui.screens.comparison import ComparisonScreen
from llama_tui.tui.screens.monitor import MonitorScreen
from llama_tui.tui.screens.runs import RunTable
from llama_tui.tui.widgets.log_view import LogView
from llama_tui.tui.widgets.loss_plot import LossPlot
from tests.pilot import Somebody, click, sitting_at, text_of, until

HERE = Path(__file__).parent
RUNS = HERE.parent / "fixtures/runs"
# Wed Nov 25 13:40:00 UTC 2026: while the training goes on.
NOW = 1_795_614_000.0
DONE, RUNNING, FAILED = "demo-20261125-131923", "pirate-8b-20261125-113500", "pirate-8b-20261124-170210"
PATIENCE = 60.0


Ready = Callable[[Pilot[None]], Awaitable[None]]


@dataclass(frozen=True)
class Scene:
    """An app to start, and what to wait for (and to do) until it shows what it should."""

    app: LlamaTui
    ready: Ready


def prepare(patch: pytest.MonkeyPatch, home: Path) -> Place:
    """Sets up an empty home with the recorded runs, and stops the clock; gives the place of the runs."""
    patch.setenv("HOME", str(home))
    for name, folder in {"XDG_STATE_HOME": ".local/state", "XDG_CONFIG_HOME": ".config"}.items():
        patch.setenv(name, str(home / folder))
    patch.setenv("TZ", "UTC")
    for name in ("NO_COLOR", "COLORTERM", "TEXTUAL_THEME"):
        patch.delenv(name, raising=False)
    time.tzset()
    patch.setattr(time, "time", lambda: NOW)
    shutil.copytree(RUNS, home / "llama-tui/runs", ignore=shutil.ignore_patterns("*.txt", "*.md"))
    place = Place("~/llama-tui", python=str(_frozen_python(home)))
    places.remember(place)
    return place


def _frozen_python(home: Path) -> Path:
    """What starts the agent: its clock stands still, and Slurm's programs are ours."""
    script = home / "bin/python3"
    script.parent.mkdir()
    script.write_text(
        f'#!/bin/sh\nexport PATH="{HERE}/fake_slurm:$PATH" PYTHONPATH="{HERE}/frozen"\n'
        f'export LLAMA_TUI_TEST_NOW={NOW} LLAMA_TUI_TEST_RUNS="{RUNS}"\nexec "{sys.executable}" "$@"\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


def scene(name: str, place: Place, theme: str = "llama-dark") -> Scene:
    """One of SCENES in one of the themes."""
    places.save_preference("theme", theme)
    return SCENES[name](place)


def wizard_settings() -> Settings:
    """The recipe's own, as a person begins with them."""
    data = defaults(Stack.NEURON).model_dump(mode="json")
    return Settings.model_validate({**data, "name": "pirate-8b"})


def _wizard(_: Place) -> Scene:
    async def ready(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: isinstance(pilot.app.focused, Input), "the cursor in the first field")

    return Scene(LlamaTui(UiRequest(settings=wizard_settings())), ready)


def _wizard_lora(place: Place) -> Scene:
    before = _wizard(place)

    async def ready(pilot: Pilot[None]) -> None:
        await before.ready(pilot)
        await click(pilot, "#rail-lora")
        await until(pilot, lambda: "optimizer steps" in text_of(pilot.app, "#live"), "what follows")

    return Scene(before.app, ready)


def _runs(place: Place) -> Scene:
    app = LlamaTui(UiRequest(place=place))

    async def ready(pilot: Pilot[None]) -> None:
        await until(pilot, app.opened.is_set)
        await until(pilot, lambda: app.screen.query_one(RunTable).row_count == 3)

    return Scene(app, ready)


def _monitor(run_id: str, state: StageState, words: str, log: str) -> Callable[[Place], Scene]:
    """The monitor of a run, once its state, its log's end, its curve and `words` above the log are shown."""

    def make(place: Place) -> Scene:
        app = LlamaTui(UiRequest(place=place, run_id=run_id))

        async def ready(pilot: Pilot[None]) -> None:
            await until(pilot, app.opened.is_set)
            screen = app.screen
            assert isinstance(screen, MonitorScreen)
            await until(pilot, lambda: screen.snapshot is not None and screen.snapshot.state is state)
            await until(pilot, lambda: log in screen.query_one(LogView).text, log)
            await until(pilot, lambda: bool(screen.query_one(LossPlot).points))
            await until(pilot, lambda: words in shown(screen.query(Static)), words)
            await until(pilot, lambda: _rests_where_it_may(screen.snapshot), "the scheduler's rest")
            if screen.has_class("wide"):
                await until(pilot, lambda: ": " in text_of(app, "#nodes"), "the nodes")

        return Scene(app, ready)

    return make


def _rests_where_it_may(snapshot: Snapshot | None) -> bool:
    """What is shown differs a little once the scheduler is not asked any more."""
    return snapshot is not None and snapshot.jobs is not None and snapshot.resting == snapshot.at_rest


def _comparison(place: Place) -> Scene:
    app = LlamaTui(UiRequest(place=place, run_id=DONE))

    async def ready(pilot: Pilot[None]) -> None:
        await until(pilot, app.opened.is_set)
        screen = ComparisonScreen(place, DONE)
        await app.push_screen(screen)
        await until(pilot, lambda: bool(screen.query(".answer")))

    return Scene(app, ready)


SCENES: dict[str, Callable[[Place], Scene]] = {
    "wizard": _wizard,
    "wizard-lora": _wizard_lora,
    "runs": _runs,
    "monitor-running": _monitor(RUNNING, StageState.RUNNING, "▶ running", "step 250/400"),
    "monitor-failed": _monitor(FAILED, StageState.FAILED, "no space left", "No space left on device"),
    "monitor-done": _monitor(DONE, StageState.DONE, "All seven", "held-out loss"),
    "comparison": _comparison,
}


def shown(widgets: object) -> str:
    """All the text of some Statics."""
    return " ".join(str(one.content) for one in widgets.results(Static))  # type: ignore[attr-defined]


@asynccontextmanager
async def at_scene(
    kind: type[Somebody], name: str, place: Place, size: tuple[int, int] = (80, 24)
) -> AsyncIterator[Somebody]:
    """Somebody at one of the recorded screens."""
    wanted = scene(name, place)
    async with sitting_at(kind, wanted.app, size) as person:
        await wanted.ready(person.pilot)
        yield person


async def settle(pilot: Pilot[None]) -> None:
    """Until nothing on the screen has changed for a while, with no cursor that blinks and no message that goes."""
    pilot.app.clear_notifications()
    last, same = "", 0
    end = asyncio.get_running_loop().time() + PATIENCE
    while same < 6:
        # Again and again: a step's fields come one after another.
        for box in pilot.app.screen.query(Input):
            box.cursor_blink = False
        await pilot.pause(0.2)
        now = pilot.app.export_screenshot()
        # What is worked at in the background may still be shown.
        same = same + 1 if now == last and not pilot.app.workers else 0
        last = now
        assert asyncio.get_running_loop().time() < end, "the screen never comes to rest"


def leave(home: Path) -> None:
    """After the patch is undone: the time zone is the machine's own again."""
    time.tzset()
    shutil.rmtree(home, ignore_errors=True)
