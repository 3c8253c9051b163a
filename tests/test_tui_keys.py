"""Every flow by keyboard alone. tests/test_tui_mouse.py has the same flows by mouse alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from textual.app import App
from textual.command import CommandPalette
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import OptionList, Static

from llama_tui.backend.hosts.ssh_ask import Prompt
from llama_tui.backend.more_prompts import Questions
from llama_tui.backend.place import Place
from llama_tui.backend.settings import Stack, defaults
from llama_tui.backend.site import Site
from llama_tui.backend.stages import Stage
from llama_tui.backend.states import StageState
from llama_tui.backend.ui_request import UiRequest
from llama_tui.tui.app import LlamaTui
from llama_tui.tui.screens.ask_prompts import AskPrompts
from llama_tui.tui.screens.comparison import ComparisonScreen
from llama_tui.tui.screens.dialogs import Ask, Confirm, Reading, Secrets
from llama_tui.tui.screens.keys import Keys
from llama_tui.tui.screens.monitor import MonitorScreen
from llama_tui.tui.screens.run_comparison import RunComparisonScreen
from llama_tui.tui.screens.runs import RunsScreen
from llama_tui.tui.screens.wizard import WizardScreen
from llama_tui.tui.widgets.answers import AnswersView
from llama_tui.tui.widgets.log_view import LogView
from llama_tui.tui.widgets.queue_table import QueueTable
from tests.pilot import Keyboard, painted, sitting_at, until
from tests.screens import DONE, FAILED, RUNNING, at_scene, settle
from tests.test_tui import demo_settings
from tests.test_tui_monitor import app_on, failed_run
from tests.test_tui_runs import done_run
from tests.tiny import ran, set_behaviour, tiny_run, wait_until_runs

TUNE = Stage.FINETUNE
STEPS = ["Where", "Token", "Model and data", "Paths", "LoRA", "Resources", "Review"]
SCREENS = ["runs", "wizard", "monitor-failed", "comparison"]
on, at = partial(sitting_at, Keyboard), partial(at_scene, Keyboard)


class TestRuns:
    async def test_open(self, place: Place) -> None:
        async with at("runs", place) as keyboard:
            await keyboard.press("end")
            await keyboard.sees("databricks-dolly-15k")
            await keyboard.press("enter")
            await keyboard.arrives(MonitorScreen)
            await keyboard.sees("model_consolidation failed", "More (a)")
            await keyboard.press("a")
            await keyboard.sees("no space left")
            await keyboard.press("escape")
            await keyboard.arrives(RunsScreen)

    async def test_new_and_back(self, place: Place) -> None:
        async with at("runs", place) as keyboard:
            await keyboard.press("n")
            await keyboard.arrives(WizardScreen)
            await keyboard.press("escape")
            await keyboard.arrives(RunsScreen)
            await keyboard.sees(DONE, RUNNING, FAILED)

    async def test_what_is_typed_at_once_after_a_key_is_for_the_screen_that_it_opens(
        self, place: Place
    ) -> None:
        async with at("runs", place) as keyboard:
            await keyboard.types_ahead("n", *"dox")
            await keyboard.arrives(WizardScreen)
            await until(
                keyboard.pilot, lambda: any("Name" in one and "dox" in one for one in keyboard.lines())
            )
            await keyboard.press("escape")
            await keyboard.arrives(RunsScreen)
            await keyboard.sees(DONE, RUNNING, FAILED)
            # The keys before it come first: the second run is opened, not the first.
            await keyboard.types_ahead("down", "d", *"nov")
            await keyboard.arrives(WizardScreen)
            await until(
                keyboard.pilot, lambda: any("Name" in one and "nov" in one for one in keyboard.lines())
            )
            wizard = keyboard.app.screen
            assert isinstance(wizard, WizardScreen)
            assert wizard.settings.model.model == "meta-llama/Meta-Llama-3-8B-Instruct"

    async def test_two_are_marked_and_compared_in_one_go(self, place: Place) -> None:
        async with at("runs", place) as keyboard:
            await keyboard.types_ahead("space", "down", "space", "v")
            await keyboard.arrives(RunComparisonScreen)

    async def test_find(self, place: Place) -> None:
        async with at("runs", place) as keyboard:
            # Faster than the search line comes up: none of it may be taken for a command.
            await keyboard.types_ahead("slash", *"nrdq/x")
            await keyboard.sees("nrdq/x", "0 of 3")
            await keyboard.press("escape")
            await keyboard.sees(DONE)
            assert not keyboard.reads("nrdq/x")
            await keyboard.press("slash", *"failed", "enter")
            await keyboard.misses(DONE)
            await keyboard.press("enter")
            await keyboard.arrives(MonitorScreen)
            await keyboard.sees(FAILED)

    async def test_what_is_typed_while_the_list_comes_up_is_no_search(self, place: Place) -> None:
        async with at("monitor-done", place) as keyboard:
            await keyboard.types_ahead("escape", "x", "x")
            await keyboard.arrives(RunsScreen)
            await keyboard.sees(DONE, RUNNING, FAILED)

    async def test_duplicate(self, place: Place) -> None:
        async with at("runs", place) as keyboard:
            await keyboard.press("d")
            await keyboard.arrives(WizardScreen)
            await keyboard.sees("demo", f"settings of {DONE}", "esc Runs")
            await keyboard.press("escape")
            await keyboard.arrives(RunsScreen)

    async def test_two_beside_each_other(self, place: Place) -> None:
        async with at("runs", place) as keyboard:
            await keyboard.press("space", "down", "space")
            await keyboard.sees("2 marked")
            await keyboard.press("v")
            await keyboard.arrives(RunComparisonScreen)
            await keyboard.sees("final training loss", "2.844", "1.141")
            await keyboard.press("x")
            await until(
                keyboard.pilot, lambda: keyboard.lines()[0].index(RUNNING) < keyboard.lines()[0].index(DONE)
            )
            await keyboard.press("s", "end")
            await keyboard.sees("Processes per node")
            await keyboard.press("home")
            await keyboard.sees("final training loss")
            await keyboard.press("escape")
            await keyboard.arrives(RunsScreen)

    async def test_delete_after_a_question(self, place: Place) -> None:
        async with at("runs", place) as keyboard:
            for no in ("n", "escape", "enter"):
                await keyboard.press("X")
                await keyboard.arrives(Confirm)
                await keyboard.sees(DONE, "frees 1")
                await keyboard.press(no)
                await keyboard.arrives(RunsScreen)
            assert (Path.home() / "llama-tui/runs" / DONE).exists()
            await keyboard.press("delete")
            await keyboard.arrives(Confirm)
            await keyboard.press("y")
            await keyboard.arrives(RunsScreen)
            await keyboard.sees("Runs  ·  2")
        assert not (Path.home() / "llama-tui/runs" / DONE).exists()


class TestWizard:
    async def test_from_where_to_the_run(self, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("llama_tui.tui.screens.wizard.run_checks", lambda *_: [])
        async with on(LlamaTui(UiRequest(settings=demo_settings(workspace)))) as keyboard:
            await keyboard.arrives(WizardScreen)
            for step in range(1, len(STEPS)):
                await until(keyboard.pilot, lambda at=step: keyboard.reads(f"▸ {at} {STEPS[at - 1]}"))
                await enter_through(keyboard, f"▸ {step + 1} {STEPS[step]}")
            await keyboard.press("enter")
            await keyboard.arrives(MonitorScreen)
            await keyboard.sees("0 create_env", "job")
            await keyboard.press("c")
            await keyboard.arrives(Confirm)
            await keyboard.press("y")
            await keyboard.sees("cancelled")


async def enter_through(keyboard: Keyboard, until_seen: str) -> None:
    """Enter and nothing else, until the next step is there."""
    for _ in range(40):
        if keyboard.reads(until_seen):
            return
        await keyboard.press("enter")
    raise AssertionError(f"Enter never came to {until_seen}\n{painted(keyboard.app)}")


class TestMonitor:
    async def test_logs_of_stages_and_attempts(self, site: Site, workspace: Path) -> None:
        run = failed_run(site, workspace)
        Path(run.layout.log(TUNE, 1)).write_text("the first attempt\n")
        async with on(app_on(run)) as keyboard:
            await keyboard.sees("the first attempt", "finetune failed: exit code 3")
            set_behaviour(run, TUNE, "4")
            await keyboard.press("r")
            await keyboard.sees("this is finetune", "exit code 4", "attempt 2 of 2")
            await keyboard.press("left_square_bracket")
            await keyboard.sees("the first attempt", "attempt 1 of 2")
            await keyboard.press("right_square_bracket")
            await keyboard.sees("this is finetune")
            await keyboard.press("up", "enter")
            await keyboard.sees("this is compile_model")
            set_behaviour(run, TUNE, "0")
            await keyboard.press("r")
            await keyboard.sees("All seven stages are done")
        assert ran(run).count(TUNE) == 3

    async def test_panes_and_zoom(self, place: Place) -> None:
        async with at("monitor-failed", place) as keyboard:
            await keyboard.press("2")
            await keyboard.sees("DependencyNever")
            await keyboard.press("3")
            await keyboard.sees("step 400/400")
            await keyboard.press("z")
            await keyboard.misses("0 create_env")
            await keyboard.press("1")
            await keyboard.sees("model_consolidation attempt 1")
            await keyboard.press("z")
            await keyboard.sees("0 create_env")

    async def test_find_and_first_error(self, place: Place) -> None:
        async with at("monitor-failed", place, (120, 40)) as keyboard:
            await keyboard.press("slash", *"shard", "enter")
            await keyboard.sees("'shard'")
            first = _match(keyboard)
            await keyboard.press("n")
            await until(keyboard.pilot, lambda: _match(keyboard) != first)
            await keyboard.press("N")
            await until(keyboard.pilot, lambda: _match(keyboard) == first)
            await keyboard.press("escape")
            await keyboard.misses("'shard'")
            await keyboard.press("e")
            await keyboard.sees("Traceback")

    async def test_what_follows_the_slash_at_once_is_text(self, place: Place) -> None:
        async with at("monitor-failed", place) as keyboard:
            await keyboard.types_ahead("slash", *"steps")
            await keyboard.sees("steps", "esc End search")

    async def test_pause_and_follow_again(self, site: Site, workspace: Path) -> None:
        run = failed_run(site, workspace, "".join(f"line {number}\n" for number in range(100)))
        async with on(app_on(run)) as keyboard:
            await keyboard.sees("line 99")
            await keyboard.press("1", "pageup")
            await keyboard.sees("paused")
            await keyboard.misses("line 99")
            with Path(run.layout.log(TUNE, 1)).open("a") as log:
                log.write("line 100\n")
            view = keyboard.app.screen.query_one(LogView)
            await until(keyboard.pilot, lambda: view.line_count == 101)
            assert not keyboard.reads("line 100")
            await keyboard.press("f")
            await keyboard.sees("line 100")
            await keyboard.misses("paused")

    async def test_wrap_and_copy(self, site: Site, workspace: Path) -> None:
        run = failed_run(site, workspace, f"one\nlong {'x' * 100} end\n")
        async with on(app_on(run)) as keyboard:
            await keyboard.sees("long xxx")
            assert not keyboard.reads("x end")
            await keyboard.press("w")
            await keyboard.sees("x end")
            await keyboard.press("y")
            await until(keyboard.pilot, lambda: keyboard.app.clipboard.endswith("x end"))

    async def test_queue_scope_detail_and_the_end_of_a_job(self, site: Site, workspace: Path) -> None:
        other = tiny_run(site, workspace, create_env="wait")
        other.submit((Stage.CREATE_ENV,))
        wait_until_runs(other, Stage.CREATE_ENV)
        run = tiny_run(site, workspace)
        run.submit((Stage.CREATE_ENV,))
        async with on(app_on(run)) as keyboard:
            table = keyboard.app.screen.query_one(QueueTable)
            await keyboard.press("2")
            await until(keyboard.pilot, lambda: table.row_count == 1)
            await keyboard.press("m")
            await until(keyboard.pilot, lambda: table.row_count == 2)
            await keyboard.press("m", "m")
            await until(keyboard.pilot, lambda: table.row_count == 1)
            await keyboard.press("enter")
            await keyboard.arrives(Reading)
            await keyboard.press("escape")
            await keyboard.arrives(MonitorScreen)
            await keyboard.press("d")
            await keyboard.arrives(Confirm)
            await keyboard.press("y")
            await keyboard.sees("cancelled")
        assert run.snapshot().views[0].state is StageState.CANCELLED
        assert other.snapshot().views[0].state is StageState.RUNNING
        other.cancel()

    async def test_cancel_the_run(self, site: Site, workspace: Path) -> None:
        run = tiny_run(site, workspace, create_env="wait")
        run.submit()
        wait_until_runs(run, Stage.CREATE_ENV)
        async with on(app_on(run)) as keyboard:
            await keyboard.sees("running")
            for no in ("escape", "enter"):
                await keyboard.press("c")
                await keyboard.arrives(Confirm)
                await keyboard.press(no)
                await keyboard.arrives(MonitorScreen)
                await keyboard.sees("running")
            await keyboard.press("c")
            await keyboard.arrives(Confirm)
            await keyboard.press("y")
            await keyboard.sees("create_env cancelled")

    async def test_report_script_and_other_settings(self, place: Place) -> None:
        async with at("monitor-failed", place) as keyboard:
            await keyboard.press("k")
            await keyboard.arrives(Reading)
            assert FAILED in keyboard.app.clipboard
            await keyboard.press("pagedown", "c", "enter")
            await keyboard.arrives(MonitorScreen)
            await keyboard.press("s")
            await keyboard.sees("model_consolidation, attempt 1")
            await keyboard.press("escape")
            await keyboard.arrives(MonitorScreen)
            await keyboard.press("t")
            await keyboard.arrives(WizardScreen)
            await keyboard.sees(f"settings of {FAILED}", "esc To the run")
            await keyboard.press("escape")
            await keyboard.arrives(MonitorScreen)
            await keyboard.sees(FAILED, "model_consolidation failed")

    async def test_answers(self, place: Place) -> None:
        async with at("monitor-done", place) as keyboard:
            await keyboard.press("o")
            await keyboard.arrives(ComparisonScreen)
            await keyboard.press("escape")
            await keyboard.arrives(MonitorScreen)


def _match(keyboard: Keyboard) -> str:
    """The number of the match that is shown, before the count of all."""
    line = next((line for line in keyboard.lines() if "'shard'" in line), "?")
    return line.split("/")[0].split()[-1]


class TestComparison:
    async def test_prompts_and_modes(self, place: Place) -> None:
        async with at("comparison", place) as keyboard:
            view = keyboard.app.screen.query_one(AnswersView)
            await keyboard.press("n", "n")
            await until(keyboard.pilot, lambda: view.scroll_offset.y > 0)
            await keyboard.sees("How do I keep bread fresh?  (greedy")
            lower = view.scroll_offset.y
            await keyboard.press("p")
            await until(keyboard.pilot, lambda: view.scroll_offset.y < lower)
            await keyboard.press("g")
            await keyboard.sees("greedy answers only")
            await until(keyboard.pilot, lambda: "sampled ·" not in _questions(keyboard.app))
            await keyboard.press("g")
            await keyboard.sees("sampled answers only")
            await until(keyboard.pilot, lambda: "greedy ·" not in _questions(keyboard.app))

    @pytest.mark.parametrize(("kind", "key"), [("md", "m"), ("html", "h")])
    async def test_save(self, kind: str, key: str, place: Place) -> None:
        async with at("comparison", place) as keyboard:
            await keyboard.press(key)
            await keyboard.arrives(Ask)
            await keyboard.press("escape")
            await keyboard.arrives(ComparisonScreen)
            await keyboard.press(key)
            await keyboard.arrives(Ask)
            await keyboard.press("enter")
            file = Path(f"{DONE}.{kind}")
            await until(keyboard.pilot, file.exists)
            await keyboard.sees(f"Saved {file}")
            assert "Who are you?" in file.read_text()
            file.write_text("precious")
            for no in ("enter", "n"):
                await keyboard.press(key)
                await keyboard.arrives(Ask)
                await keyboard.press("enter")
                await keyboard.arrives(Confirm)
                await keyboard.sees("Replace this file?")
                await keyboard.press(no)
                await keyboard.arrives(ComparisonScreen)
            assert file.read_text() == "precious"
            await keyboard.press(key)
            await keyboard.arrives(Ask)
            await keyboard.press("enter")
            await keyboard.arrives(Confirm)
            await keyboard.press("y")
            await until(keyboard.pilot, lambda: "Who are you?" in file.read_text())

    async def test_ask_more_typed_and_from_a_file(
        self, site: Site, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("llama_tui.tui.screens.comparison.LOOK_EVERY", 0.5)
        run = done_run(site, workspace)
        file = tmp_path / "more.txt"
        file.write_text("And from a file?\n")
        app = LlamaTui(UiRequest(place=site.place, run_id=run.run_id))
        async with on(app) as keyboard:
            await keyboard.sees("All seven stages are done")
            await keyboard.press("o")
            await keyboard.sees("Captain Chat!")
            await keyboard.press("a")
            await keyboard.arrives(AskPrompts)
            await keyboard.press("escape")
            await keyboard.arrives(ComparisonScreen)
            await keyboard.press("a")
            await keyboard.arrives(AskPrompts)
            await keyboard.types("And what now?")
            await keyboard.press("tab")
            await keyboard.types(str(file))
            await keyboard.press("ctrl+s")
            await keyboard.arrives(ComparisonScreen)
            await until(keyboard.pilot, lambda: "And from a file?" in _questions(keyboard.app))
            # They are scrolled to by themselves.
            await keyboard.sees("tuned says And what now?")
            await keyboard.press("end")
            await keyboard.sees("tuned says And what now?", "tuned says And from a file?")


def _questions(app: App[None]) -> str:
    return " ".join(str(one.content) for one in app.screen.query(".question").results(Static))


class TestEverywhere:
    @pytest.mark.parametrize("name", SCREENS)
    async def test_palette_keys_and_theme(self, name: str, place: Place) -> None:
        async with at(name, place) as keyboard:
            before = type(keyboard.app.screen)
            for opens, closes in (("f1", "escape"), ("f1", "f1"), ("f1", "enter")):
                await keyboard.press(opens)
                await keyboard.arrives(Keys)
                await keyboard.press("end")
                await keyboard.sees("Focus Previous")
                await keyboard.press(closes)
                await keyboard.arrives(before)
            await keyboard.press("ctrl+p")
            await keyboard.arrives(CommandPalette)
            await keyboard.press("escape")
            await keyboard.arrives(before)
            await command(keyboard, "theme")
            await keyboard.arrives(CommandPalette)
            await keyboard.types("llama-light")
            await first_found(keyboard, "llama-light")
            await keyboard.press("enter")
            await until(keyboard.pilot, lambda: keyboard.app.theme == "llama-light")

    async def test_what_the_cursor_is_in_has_its_actions_in_the_palette(self, place: Place) -> None:
        async with at("monitor-failed", place) as keyboard:
            await keyboard.press("e")
            await keyboard.sees("paused")
            await keyboard.press("1")
            await command(keyboard, "follow")
            await keyboard.misses("paused")

    @pytest.mark.parametrize("name", SCREENS)
    async def test_another_size_loses_nothing(self, name: str, place: Place) -> None:
        async with at(name, place) as keyboard:
            await settle(keyboard.pilot)
            before, focused = keyboard.lines(), keyboard.app.focused
            for width, height in ((200, 50), (60, 15), (120, 40), (80, 24)):
                await keyboard.pilot.resize_terminal(width, height)
                await until(keyboard.pilot, lambda size=(width, height): _size(keyboard) == size)
                await keyboard.sees("palette")
                assert keyboard.app.focused is focused
                assert focused is not None
                await until(keyboard.pilot, lambda: _in_sight(focused) > 0, "the cursor in sight")
            await until(keyboard.pilot, lambda: keyboard.lines() == before, "the screen as it was")

    async def test_a_dialog_stays_through_another_size(self, place: Place) -> None:
        async with at("comparison", place) as keyboard:
            await keyboard.press("a")
            await keyboard.arrives(AskPrompts)
            await keyboard.types("half a prom")
            for width, height in ((200, 50), (60, 15), (80, 24)):
                await keyboard.pilot.resize_terminal(width, height)
                await until(keyboard.pilot, lambda size=(width, height): _size(keyboard) == size)
                await keyboard.sees("half a prom", "Ask (ctrl+s)", "Leave (Esc)")
            await keyboard.types("pt")
            await keyboard.sees("half a prompt")


async def command(keyboard: Keyboard, words: str) -> None:
    """Runs a command of the palette."""
    await keyboard.press("ctrl+p")
    await keyboard.arrives(CommandPalette)
    await keyboard.types(words)
    palette = keyboard.app.screen
    await first_found(keyboard, words)
    await keyboard.press("enter")
    await until(keyboard.pilot, lambda: keyboard.app.screen is not palette)


async def first_found(keyboard: Keyboard, words: str) -> None:
    """Waits until the first that the palette found has these words."""
    found = keyboard.app.screen.query_one(OptionList)
    await until(
        keyboard.pilot,
        lambda: found.option_count > 0 and words in str(found.get_option_at_index(0).prompt).lower(),
        words,
    )


def _size(keyboard: Keyboard) -> tuple[int, int]:
    lines = keyboard.lines()
    return len(lines[0]), len(lines)


def _in_sight(widget: Widget) -> int:
    """How many cells of it are on the screen."""
    return widget.region.intersection(widget.screen.region).area


ASKED = [Prompt("Password:", False), Prompt("Code:", True)]


@pytest.mark.parametrize(
    ("dialog", "keys", "answer"),
    [
        (lambda: Confirm("Sure?", "word " * 200, "Do it"), ["enter"], False),
        (lambda: Confirm("Sure?", "word " * 200, "Do it"), ["y"], True),
        (lambda: Confirm("Sure?", "word " * 200, "Do it"), ["n"], False),
        (lambda: Confirm("Sure?", "word " * 200, "Do it"), ["left", "enter"], True),
        (lambda: Confirm("Sure?", "word " * 200, "Do it"), ["shift+tab", "enter"], True),
        (lambda: Confirm("Sure?", "word " * 200, "Do it"), ["escape"], False),
        (lambda: Ask("Where?", "here"), ["enter"], "here"),
        (lambda: Ask("Where?", "here"), ["escape"], None),
        (lambda: Secrets("you@host", ASKED), ["a", "enter", "b", "enter"], ["a", "b"]),
        (lambda: Secrets("you@host", ASKED), ["a", "escape"], None),
        (lambda: Reading("Long", "line\n" * 99), ["enter"], None),
        (lambda: Reading("Long", "line\n" * 99), ["escape"], None),
        (lambda: AskPrompts(Questions(prompts=["x"])), ["a", "escape"], None),
    ],
)
async def test_a_dialog_ends_by_a_key_where_there_is_little_room(
    dialog: Callable[[], ModalScreen[Any]], keys: list[str], answer: Any
) -> None:
    async with on(LlamaTui(UiRequest(settings=defaults(Stack.CPU))), (60, 15)) as keyboard:
        await keyboard.arrives(WizardScreen)
        answers: list[Any] = []
        shown = dialog()
        keyboard.app.push_screen(shown, answers.append)
        await keyboard.arrives(type(shown))
        await keyboard.press(*keys)
        await until(keyboard.pilot, lambda: answers == [answer])
