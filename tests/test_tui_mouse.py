"""Every flow by mouse alone: only what can be read is clicked, and nothing is typed but pasted with the middle button.

tests/test_tui_keys.py has the same flows by keyboard alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from textual.app import App
from textual.command import CommandPalette
from textual.screen import ModalScreen
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
from tests.pilot import Mouse, sitting_at, until
from tests.screens import DONE, FAILED, RUNNING, at_scene
from tests.test_tui import demo_settings
from tests.test_tui_monitor import app_on, failed_run
from tests.test_tui_runs import done_run
from tests.tiny import ran, set_behaviour, tiny_run, wait_until_runs

TUNE = Stage.FINETUNE
STEPS = ["Where", "Token", "Model and data", "Paths", "LoRA", "Resources", "Review"]
SCREENS = ["runs", "wizard", "monitor-failed", "comparison"]
on, at = partial(sitting_at, Mouse), partial(at_scene, Mouse)


class TestRuns:
    async def test_open(self, place: Place) -> None:
        async with at("runs", place) as mouse:
            await mouse.click(FAILED)
            await mouse.sees("databricks-dolly-15k")
            await mouse.click(FAILED)
            await mouse.arrives(MonitorScreen)
            await mouse.sees("model_consolidation failed")
            await mouse.click("More (a)")
            await mouse.sees("no space left")
            await mouse.click("Runs")
            await mouse.arrives(RunsScreen)

    async def test_new_and_back(self, place: Place) -> None:
        async with at("runs", place) as mouse:
            await mouse.click("New")
            await mouse.arrives(WizardScreen)
            await mouse.click("Runs")
            await mouse.arrives(RunsScreen)
            await mouse.sees(DONE, RUNNING, FAILED)

    async def test_find(self, place: Place) -> None:
        async with at("runs", place) as mouse:
            await mouse.click("find")
            await mouse.sees("part of a name")
            await mouse.paste("failed")
            await mouse.misses(DONE)
            await mouse.sees(FAILED, "1 of 3")
            await mouse.click("End the search")
            await mouse.sees(DONE)
            assert not mouse.reads("part of a name")

    async def test_duplicate(self, place: Place) -> None:
        async with at("runs", place) as mouse:
            await mouse.click(DONE)
            await mouse.click("Duplicate")
            await mouse.arrives(WizardScreen)
            await mouse.sees("demo")

    async def test_two_beside_each_other(self, place: Place) -> None:
        async with at("runs", place) as mouse:
            for run_id in (DONE, RUNNING):
                await mouse.click(run_id)
                await mouse.click("Mark")
            await mouse.sees("2 marked")
            await mouse.click("Compare")
            await mouse.arrives(RunComparisonScreen)
            await mouse.sees("final training loss", "2.844", "1.141")
            await mouse.click("Swap sides")
            await until(mouse.pilot, lambda: mouse.lines()[0].index(RUNNING) < mouse.lines()[0].index(DONE))
            await mouse.click("All settings")
            await mouse.scrolls_to("Repetition penalty", "#two")
            await mouse.click("Back")
            await mouse.arrives(RunsScreen)

    async def test_delete_after_a_question(self, place: Place) -> None:
        async with at("runs", place) as mouse:
            await mouse.click(DONE)
            await mouse.click("Delete")
            await mouse.arrives(Confirm)
            await mouse.sees(DONE, "frees 1")
            await mouse.click("No (n)")
            await mouse.arrives(RunsScreen)
            await mouse.click("Delete")
            await mouse.click("Delete (y)")
            await mouse.arrives(RunsScreen)
            await mouse.misses(f"done     {DONE}")
            await mouse.sees("Runs  ·  2")
        assert not (Path.home() / "llama-tui/runs" / DONE).exists()


class TestWizard:
    async def test_from_where_to_the_run(self, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("llama_tui.tui.screens.wizard.run_checks", lambda *_: [])
        async with on(LlamaTui(UiRequest(settings=demo_settings(workspace)))) as mouse:
            await mouse.arrives(WizardScreen)
            await mouse.click("direct")
            await mouse.click("Test the connection")
            await mouse.sees("✓", "workspace")
            for step in ("Token", "Model and data", "Paths"):
                await mouse.click("Next step")
                await mouse.sees(f"▸ {STEPS.index(step) + 1} {step}")
            await mouse.click("Back")
            await mouse.sees("▸ 3 Model and data")
            for step in STEPS[4:]:
                await mouse.click(step)
                await mouse.sees(f"▸ {STEPS.index(step) + 1} {step}")
            await mouse.click("Launch (ctrl+l)")
            await mouse.arrives(MonitorScreen)
            await mouse.sees("0 create_env", "job")
            await mouse.click("Cancel")
            await mouse.click("Cancel the run")
            await mouse.sees("cancelled")


class TestMonitor:
    async def test_logs_of_stages_and_attempts(self, site: Site, workspace: Path) -> None:
        run = failed_run(site, workspace)
        Path(run.layout.log(TUNE, 1)).write_text("the first attempt\n")
        async with on(app_on(run)) as mouse:
            await mouse.sees("the first attempt", "finetune failed: exit code 3", "→")
            set_behaviour(run, TUNE, "4")
            await mouse.click("Rerun (r)")
            await mouse.sees("this is finetune", "exit code 4", "attempt 2 of 2", "→")
            await mouse.click("‹")
            await mouse.sees("the first attempt", "attempt 1 of 2")
            await mouse.click("›")
            await mouse.sees("this is finetune")
            await mouse.click("2 compile_model", times=2)
            await mouse.sees("this is compile_model")
            set_behaviour(run, TUNE, "0")
            await mouse.click("Rerun (r)")
            await mouse.sees("All seven stages are done")
        assert ran(run).count(TUNE) == 3

    async def test_panes_and_zoom(self, place: Place) -> None:
        async with at("monitor-failed", place) as mouse:
            await mouse.click("2 queue")
            await mouse.sees("DependencyNever")
            await mouse.click("3 loss")
            await mouse.sees("step 400/400")
            await mouse.click("zoom")
            await mouse.misses("0 create_env")
            await mouse.click("1 log")
            await mouse.sees("model_consolidation attempt 1", "Saving shard")
            await mouse.click("zoom")
            await mouse.sees("0 create_env")

    async def test_find(self, place: Place) -> None:
        async with at("monitor-failed", place, (120, 40)) as mouse:
            await mouse.click("find")
            await mouse.sees("search the whole log")
            await mouse.paste("shard")
            await mouse.sees("shard")
            await mouse.click("find")
            await mouse.sees("4/4 'shard'")
            await mouse.click("<")
            await mouse.sees("3/4 'shard'")
            await mouse.click(">")
            await mouse.sees("4/4 'shard'")

    async def test_first_error(self, place: Place) -> None:
        async with at("monitor-failed", place) as mouse:
            await mouse.click("error", below="script")
            await mouse.sees("Traceback", "paused")
            await mouse.click("follow")
            await mouse.misses("paused")
            await mouse.click("find")
            await mouse.sees("search the whole log")
            await mouse.click("End search")
            await mouse.misses("search the whole log")
            await mouse.arrives(MonitorScreen)

    async def test_pause_by_the_wheel_and_follow_again(self, site: Site, workspace: Path) -> None:
        run = failed_run(site, workspace, "".join(f"line {number}\n" for number in range(100)))
        async with on(app_on(run)) as mouse:
            await mouse.sees("line 99")
            await mouse.wheel(LogView, up=True, times=3)
            await mouse.sees("paused")
            await mouse.misses("line 99")
            with Path(run.layout.log(TUNE, 1)).open("a") as log:
                log.write("line 100\n")
            view = mouse.app.screen.query_one(LogView)
            await until(mouse.pilot, lambda: view.line_count == 101)
            assert not mouse.reads("line 100")
            await mouse.click("follow")
            await mouse.sees("line 100")
            await mouse.misses("paused")

    async def test_wrap_and_copy(self, site: Site, workspace: Path) -> None:
        run = failed_run(site, workspace, f"one\nlong {'x' * 100} end\n")
        async with on(app_on(run)) as mouse:
            await mouse.sees("long xxx")
            assert not mouse.reads("x end")
            await mouse.click("wrap")
            await mouse.sees("x end")
            await mouse.click("one", below="attempt 1")
            await mouse.click("copy")
            await until(mouse.pilot, lambda: mouse.app.clipboard == "one")

    async def test_queue_scope_detail_and_the_end_of_a_job(self, site: Site, workspace: Path) -> None:
        other = tiny_run(site, workspace, create_env="wait")
        other.submit((Stage.CREATE_ENV,))
        wait_until_runs(other, Stage.CREATE_ENV)
        run = tiny_run(site, workspace)
        run.submit((Stage.CREATE_ENV,))
        async with on(app_on(run)) as mouse:
            table = mouse.app.screen.query_one(QueueTable)
            await mouse.click("2 queue")
            await until(mouse.pilot, lambda: table.row_count == 1)
            await mouse.click("everybody's")
            await until(mouse.pilot, lambda: table.row_count == 2)
            await mouse.click("this run")
            await until(mouse.pilot, lambda: table.row_count == 1)
            await mouse.click("PENDING")
            await mouse.click("details")
            await mouse.arrives(Reading)
            await mouse.click("Close (Esc)")
            await mouse.click("cancel job")
            await mouse.arrives(Confirm)
            await mouse.click("Cancel the job (y)")
            await mouse.sees("cancelled")
        assert run.snapshot().views[0].state is StageState.CANCELLED
        assert other.snapshot().views[0].state is StageState.RUNNING
        other.cancel()

    async def test_cancel_the_run(self, site: Site, workspace: Path) -> None:
        run = tiny_run(site, workspace, create_env="wait")
        run.submit()
        wait_until_runs(run, Stage.CREATE_ENV)
        async with on(app_on(run)) as mouse:
            await mouse.sees("running")
            await mouse.click("Cancel")
            await mouse.arrives(Confirm)
            await mouse.click("No (n)")
            await mouse.sees("running")
            await mouse.click("Cancel")
            await mouse.click("Cancel the run (y)")
            await mouse.sees("create_env cancelled")

    async def test_report_script_and_other_settings(self, place: Place) -> None:
        async with at("monitor-failed", place) as mouse:
            await mouse.click("Report (k)")
            await mouse.arrives(Reading)
            await mouse.wheel("VerticalScroll", times=5)
            await mouse.click("Copy (c)")
            await mouse.click("Close (Esc)")
            assert FAILED in mouse.app.clipboard
            await mouse.click("script")
            await mouse.sees("model_consolidation, attempt 1")
            await mouse.click("Close (Esc)")
            await mouse.click("Other settings (t)")
            await mouse.arrives(WizardScreen)
            await mouse.click("To the run")
            await mouse.arrives(MonitorScreen)

    async def test_answers(self, place: Place) -> None:
        async with at("monitor-done", place) as mouse:
            await mouse.click("Both models' answers (o)")
            await mouse.arrives(ComparisonScreen)
            await mouse.click("Back")
            await mouse.arrives(MonitorScreen)


class TestComparison:
    async def test_prompts_and_modes(self, place: Place) -> None:
        async with at("comparison", place) as mouse:
            view = mouse.app.screen.query_one(AnswersView)
            await mouse.click("Next")
            await mouse.click("Next")
            await until(mouse.pilot, lambda: view.scroll_offset.y > 0)
            await mouse.sees("How do I keep bread fresh?  (greedy")
            lower = view.scroll_offset.y
            await mouse.click("Prev")
            await until(mouse.pilot, lambda: view.scroll_offset.y < lower)
            await mouse.click("Mode")
            await mouse.sees("greedy answers only")
            await until(mouse.pilot, lambda: "sampled ·" not in _questions(mouse.app))
            await mouse.click("Mode")
            await mouse.sees("sampled answers only")
            await until(mouse.pilot, lambda: "greedy ·" not in _questions(mouse.app))

    @pytest.mark.parametrize(("kind", "words"), [("md", "Markdown"), ("html", "HTML")])
    async def test_save(self, kind: str, words: str, place: Place) -> None:
        async with at("comparison", place) as mouse:
            await mouse.click(words)
            await mouse.arrives(Ask)
            await mouse.click("Leave (Esc)")
            await mouse.arrives(ComparisonScreen)
            await mouse.click(words)
            await mouse.click("Save (Enter)")
            file = Path(f"{DONE}.{kind}")
            await until(mouse.pilot, file.exists)
            await mouse.sees(f"Saved {file}")
        assert "Who are you?" in file.read_text()

    async def test_ask_more_typed_and_from_a_file(
        self, site: Site, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("llama_tui.tui.screens.comparison.LOOK_EVERY", 0.5)
        run = done_run(site, workspace)
        file = tmp_path / "more.txt"
        file.write_text("And from a file?\n")
        app = LlamaTui(UiRequest(place=site.place, run_id=run.run_id))
        async with on(app) as mouse:
            await mouse.click("Both models' answers (o)")
            await mouse.sees("Captain Chat!")
            await mouse.click("Ask more")
            await mouse.arrives(AskPrompts)
            await mouse.click("Leave (Esc)")
            await mouse.arrives(ComparisonScreen)
            await mouse.click("Ask more")
            await mouse.arrives(AskPrompts)
            await mouse.paste("And what now?")
            await mouse.click("a path on this computer")
            await mouse.paste(str(file))
            await mouse.click("Ask (ctrl+s)")
            await mouse.arrives(ComparisonScreen)
            # It is scrolled to by itself.
            await mouse.sees("tuned says And what now?")
            await mouse.scrolls_to("tuned says And from a file?", AnswersView)


def _questions(app: App[None]) -> str:
    return " ".join(str(one.content) for one in app.screen.query(".question").results(Static))


class TestEverywhere:
    @pytest.mark.parametrize("name", SCREENS)
    async def test_palette_keys_and_theme(self, name: str, place: Place) -> None:
        async with at(name, place) as mouse:
            before = type(mouse.app.screen)
            await mouse.command("Keys (")
            await mouse.arrives(Keys)
            await mouse.click("Close (Esc)")
            await mouse.arrives(before)
            await mouse.click("palette")
            await mouse.arrives(CommandPalette)
            await mouse.pilot.click(offset=(2, 23))
            await mouse.arrives(before)
            await mouse.command("Theme")
            await mouse.arrives(CommandPalette)
            await mouse.scrolls_to("llama-light", OptionList)
            await mouse.click("llama-light")
            await until(mouse.pilot, lambda: mouse.app.theme == "llama-light")


ASKED = [Prompt("Password:", False), Prompt("Code:", True)]


@pytest.mark.parametrize(
    ("dialog", "words", "answer"),
    [
        (lambda: Confirm("Sure?", "word " * 200, "Do it"), "Do it (y)", True),
        (lambda: Confirm("Sure?", "word " * 200, "Do it"), "No (n)", False),
        (lambda: Ask("Where?", "here"), "Go on (Enter)", "here"),
        (lambda: Ask("Where?", "here"), "Leave (Esc)", None),
        (lambda: Secrets("you@host", ASKED), "Go on (Enter)", ["", ""]),
        (lambda: Secrets("you@host", ASKED), "Give up (Esc)", None),
        (lambda: Reading("Long", "line\n" * 99), "Close (Esc)", None),
        (lambda: AskPrompts(Questions(prompts=["x"])), "Leave (Esc)", None),
    ],
    ids=[
        "confirm-yes",
        "confirm-no",
        "ask",
        "ask-leave",
        "secrets",
        "secrets-leave",
        "reading",
        "prompts-leave",
    ],
)
async def test_a_dialog_ends_by_a_click_where_there_is_little_room(
    dialog: Callable[[], ModalScreen[Any]], words: str, answer: Any
) -> None:
    async with on(LlamaTui(UiRequest(settings=defaults(Stack.CPU))), (60, 15)) as mouse:
        await mouse.arrives(WizardScreen)
        answers: list[Any] = []
        shown = dialog()
        mouse.app.push_screen(shown, answers.append)
        await mouse.arrives(type(shown))
        await mouse.click(words)
        await until(mouse.pilot, lambda: answers == [answer])
