"""Answers that come late: what somebody did since they asked stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from textual.app import App, ComposeResult
from textual.widgets import Input

from llama_tui.backend.errors import HostError
from llama_tui.backend.hosts.ssh_ask import HostKeyQuestion
from llama_tui.backend.live import LiveRun
from llama_tui.backend.log_file import LogFile
from llama_tui.backend.more_prompts import ask_more, questions
from llama_tui.backend.place import Place
from llama_tui.backend.runs import Run
from llama_tui.backend.schedulers.base import Job, JobState
from llama_tui.backend.settings import Stack, defaults
from llama_tui.backend.site import Site
from llama_tui.backend.states import StageState
from llama_tui.backend.submitting import Tell
from llama_tui.backend.ui_request import UiRequest
from llama_tui.tui import asking, launching
from llama_tui.tui.app import LlamaTui
from llama_tui.tui.asking import ScreenAsk
from llama_tui.tui.screens import comparison, run_comparison, runs, wizard
from llama_tui.tui.screens.comparison import ComparisonScreen
from llama_tui.tui.screens.dialogs import Confirm
from llama_tui.tui.screens.keys import Keys
from llama_tui.tui.screens.monitor import MonitorScreen
from llama_tui.tui.screens.run_comparison import RunComparisonScreen, TwoTable, Which
from llama_tui.tui.screens.runs import RunsScreen
from llama_tui.tui.screens.wizard import WizardScreen
from llama_tui.tui.steps import host_sight
from llama_tui.tui.widgets import log_pane
from llama_tui.tui.widgets.answers import AnswersView
from llama_tui.tui.widgets.queue_table import QueueTable
from tests.pilot import Keyboard, sitting_at, text_of, until
from tests.screens import DONE, FAILED, at_scene
from tests.test_tui import demo_settings
from tests.test_tui_comparison import answer, run_that_answers_late
from tests.test_tui_monitor import BIG, TUNE, app_on, failed_run, line_in_sight, twice_failed_run, view_of
from tests.tiny import go, set_behaviour, tiny_run, wait_for, wait_until_runs

at = partial(at_scene, Keyboard)


class Gate:
    """Holds up what is called in the background until `opened` is set.

    Attributes:
        reached: set when somebody waits at the gate.
        passed: set when that is answered.
    """

    def __init__(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.reached, self.opened, self.passed = Event(), Event(), Event()
        act: Callable[..., Any] = getattr(owner, name)

        def hold(*args: Any, **named: Any) -> Any:
            self.reached.set()
            assert self.opened.wait(60), "nobody opened the gate"
            answer = act(*args, **named)
            self.passed.set()
            return answer

        patch.setattr(owner, name, hold)


async def reached(keyboard: Keyboard, gate: Gate) -> None:
    await until(keyboard.pilot, gate.reached.is_set, "the question")


async def told(keyboard: Keyboard, gate: Gate, group: str) -> None:
    """Until those who asked have the answer."""
    gate.opened.set()
    workers = keyboard.app.workers
    await until(keyboard.pilot, lambda: not any(one.group == group and one.is_running for one in workers))


class TestOtherThings:
    """Somebody has gone on to something else, which no dialog may take the keys from."""

    @pytest.mark.parametrize("key, told", [("k", "The report is there"), ("s", "The script of")])
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
            await keyboard.sees("The settings of this run")
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
            await keyboard.sees("What is known of job")
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
            await keyboard.sees("More can be asked now")
            await keyboard.press("escape")
            await keyboard.arrives(ComparisonScreen)


async def test_sides_that_were_swapped_while_they_were_read_stay_so(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, run_comparison, "_read")
    async with at("runs", place, (120, 40)) as keyboard:
        await keyboard.app.push_screen(RunComparisonScreen(Which(place, DONE), Which(place, FAILED)))
        await reached(keyboard, gate)
        await keyboard.press("x")
        gate.opened.set()
        table = keyboard.app.screen.query_one(TwoTable)
        await until(keyboard.pilot, lambda: table.row_count > 0, "what was read")
        titles = [str(column.label) for column in table.ordered_columns]
        assert titles[2:] == [FAILED, DONE]


@pytest.mark.parametrize("reads", [True, False])
async def test_only_who_waits_is_led_to_an_answer(
    reads: bool, site: Site, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "LOOK_EVERY", 0.3)
    run = run_that_answers_late(site, workspace)
    ask_more(run, questions(prompts=["Ahoy?"]))
    async with sitting_at(Keyboard, app_on(run), (80, 16)) as keyboard:
        await keyboard.sees("All seven")
        await keyboard.press("o")
        await keyboard.sees("Ahoy?")
        view = keyboard.app.screen.query_one(AnswersView)
        await keyboard.press(*["down"] * reads)
        await until(keyboard.pilot, lambda: view.scroll_offset.y == reads)
        answer(run)
        await keyboard.sees("Answered")
        if reads:
            await keyboard.pilot.pause()
            assert view.scroll_offset.y == 1
        else:
            await until(keyboard.pilot, lambda: view.scroll_offset.y > 1, "the answer")


class TestWizard:
    async def test_records_are_told_of_to_somebody_who_types(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(host_sight, "look_at_data", lambda *_: None)
        gate = Gate(monkeypatch, host_sight, "look_at_data")
        async with sitting_at(Keyboard, LlamaTui(UiRequest(settings=defaults(Stack.CPU)))) as keyboard:
            await keyboard.press("ctrl+d")
            await reached(keyboard, gate)
            await keyboard.types("mine")
            monkeypatch.setattr(wizard, "look_text", lambda _: "the first records")
            gate.opened.set()
            await keyboard.sees("The first records are read")
            await keyboard.types("-too")
            assert keyboard.app.screen.query(Input).first().value == "mine-too"

    @pytest.mark.parametrize("keys", [["ctrl+b"], ["ctrl+b", "ctrl+n"]])
    async def test_nothing_is_launched_once_somebody_has_gone_back(
        self, keys: list[str], workspace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(wizard, "run_checks", lambda *_: [])
        gate = Gate(monkeypatch, wizard, "run_checks")
        app = LlamaTui(UiRequest(settings=demo_settings(workspace), review=True))
        async with sitting_at(Keyboard, app) as keyboard:
            await reached(keyboard, gate)
            await keyboard.press("enter")
            await keyboard.sees("looking at the host before the launch")
            await keyboard.press(*keys)
            gate.opened.set()
            await keyboard.sees("Not launched")
            assert not (workspace / "runs").exists()

    async def test_a_launch_takes_nobody_away_from_what_is_typed(
        self, workspace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("llama_tui.backend.runs.Run.submit", lambda *_, **__: None)
        monkeypatch.setattr(wizard, "run_checks", lambda *_: [])
        gate = Gate(monkeypatch, wizard, "launch")
        app = LlamaTui(UiRequest(settings=demo_settings(workspace), review=True))
        async with sitting_at(Keyboard, app) as keyboard:
            await keyboard.sees("✓ Nothing on the host stands in the way.")
            await keyboard.press("enter")
            await reached(keyboard, gate)
            await keyboard.press("ctrl+b")
            await keyboard.sees("▸ 6 Resources")
            gate.opened.set()
            await keyboard.sees("Launched: Esc")
            assert isinstance(app.screen, WizardScreen)
            await keyboard.press("escape")
            await keyboard.arrives(MonitorScreen)

    async def test_a_launch_comes_to_its_end_when_somebody_leaves_the_wizard(
        self, workspace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        submitted: list[str] = []

        def submit(run: Run, *, tell: Tell) -> None:
            tell("create_env is submitted")
            submitted.append(run.run_id)

        monkeypatch.setattr(Run, "submit", submit)
        monkeypatch.setattr(wizard, "run_checks", lambda *_: [])
        gate = Gate(monkeypatch, launching, "create_run")
        app = LlamaTui(UiRequest(settings=demo_settings(workspace), review=True))
        async with sitting_at(Keyboard, app) as keyboard:
            await keyboard.sees("✓ Nothing on the host stands in the way.")
            await keyboard.press("enter")
            await reached(keyboard, gate)
            await keyboard.press("escape")
            await keyboard.arrives(RunsScreen)
            gate.opened.set()
            await keyboard.sees("Done: launch of demo.")
            await keyboard.sees(submitted[0])

    async def test_no_letter_of_an_answer_trusts_a_host(self, monkeypatch: pytest.MonkeyPatch) -> None:
        app = LlamaTui(UiRequest(settings=defaults(Stack.CPU)))
        trusted: list[bool] = []

        def ask() -> None:
            question = HostKeyQuestion("cluster", "ssh-ed25519", "SHA256:abc")
            trusted.append(ScreenAsk(app, app.opened).confirm_host_key(question))

        gate = Gate(monkeypatch, asking, "_pause")
        async with sitting_at(Keyboard, app) as keyboard:
            Thread(target=ask, daemon=True).start()
            await reached(keyboard, gate)
            await keyboard.types("my")
            gate.opened.set()
            await keyboard.arrives(Confirm)
            await keyboard.press("n")
            await until(keyboard.pilot, lambda: trusted == [False], "the answer")
            assert app.screen.query(Input).first().value == "my"


async def test_a_rerun_comes_to_its_end_when_somebody_leaves_the_monitor(
    site: Site, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = failed_run(site, workspace)
    set_behaviour(run, TUNE, "0")
    app = app_on(run)
    async with sitting_at(Keyboard, app) as keyboard:
        await keyboard.sees("finetune failed")
        gate = Gate(monkeypatch, Run, "rerun")
        await keyboard.press("r")
        await reached(keyboard, gate)
        await keyboard.press("escape")
        await keyboard.arrives(RunsScreen)
        gate.opened.set()
        await keyboard.sees("Done: ", "finetune is run")
    wait_for(run, lambda one: one.state is StageState.DONE)


class TestLog:
    @pytest.fixture
    def big(self, site: Site, workspace: Path) -> LlamaTui:
        """A monitor at a log of which only the end is there; its line 100 is the needle."""
        return app_on(failed_run(site, workspace, BIG.replace("line 100 ", "needle 100 ")))

    async def test_who_scrolls_while_it_is_searched_stays_there(
        self, big: LlamaTui, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate = Gate(monkeypatch, LogFile, "find")
        async with sitting_at(Keyboard, big) as keyboard:
            await keyboard.sees("line 59999 ")
            await keyboard.press("slash", *"needle", "enter")
            await reached(keyboard, gate)
            await keyboard.press("pageup", "pageup")
            view = view_of(big)
            top = line_in_sight(view, 0)
            gate.opened.set()
            await keyboard.sees("1/1 'needle'")
            assert line_in_sight(view, 0) == top
            await keyboard.press("n")
            await keyboard.sees("needle 100 ")

    async def test_escape_ends_a_search_that_goes_on(
        self, big: LlamaTui, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate = Gate(monkeypatch, LogFile, "find")
        async with sitting_at(Keyboard, big) as keyboard:
            await keyboard.sees("line 59999 ")
            await keyboard.press("slash", *"needle", "enter")
            await reached(keyboard, gate)
            await keyboard.press("escape")
            gate.opened.set()
            await until(keyboard.pilot, gate.passed.is_set, "the answer")
            await keyboard.pilot.pause()
            assert isinstance(big.screen, MonitorScreen)
            assert "needle" not in text_of(big, "#log-found")
            assert view_of(big).following

    async def test_who_reads_is_not_led_to_the_next_stage_until_the_end_is_followed_again(
        self, site: Site, workspace: Path
    ) -> None:
        run = tiny_run(site, workspace, finetune="wait", model_consolidation="wait")
        run.submit()
        wait_until_runs(run, TUNE)
        with Path(run.layout.log(TUNE, 1)).open("a") as log:
            log.writelines(f"step {number}\n" for number in range(100))
        app = app_on(run)
        async with sitting_at(Keyboard, app) as keyboard:
            await keyboard.sees("step 99")
            await keyboard.press("1", "pageup")
            await until(keyboard.pilot, lambda: not view_of(app).following, "a paused log")
            go(run, TUNE)
            await keyboard.sees("4 model_consolidation  ▶ running")
            assert "finetune attempt 1" in text_of(app, "#log-title")
            await keyboard.press("f")
            await keyboard.sees("this is model_consolidation")
            assert "chosen" not in text_of(app, "#log-title")

    async def test_a_log_that_is_on_its_way_is_not_said_to_be_without_errors(
        self, site: Site, workspace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = failed_run(site, workspace, "error: no\n")
        gate = Gate(monkeypatch, LiveRun, "follow_log")
        async with sitting_at(Keyboard, app_on(run)) as keyboard:
            await reached(keyboard, gate)
            await keyboard.press("e")
            await keyboard.sees("Nothing of this log is here yet.")
            await keyboard.press("slash", *"no", "enter")
            await keyboard.sees("no 'no'")
            gate.opened.set()
            await keyboard.sees("1/1 'no'")

    async def test_an_error_in_the_first_line_of_a_big_log_is_found(
        self, site: Site, workspace: Path
    ) -> None:
        async with sitting_at(Keyboard, app_on(failed_run(site, workspace, "error: no\n" + BIG))) as keyboard:
            await keyboard.sees("line 59999 ")
            await keyboard.press("e")
            await keyboard.sees("error: no")

    async def test_who_reads_and_runs_it_again_sees_the_new_attempt(
        self, site: Site, workspace: Path
    ) -> None:
        run = failed_run(site, workspace, "error: no\n" + "all is well\n" * 100)
        app = app_on(run)
        async with sitting_at(Keyboard, app) as keyboard:
            await keyboard.sees("finetune failed", "→", "all is well")
            await keyboard.press("e")
            await keyboard.sees("error: no", "paused")
            set_behaviour(run, TUNE, "wait")
            await keyboard.press("r")
            await keyboard.sees("attempt 2 of 2", "this is finetune")

    async def test_the_first_error_is_not_looked_for_in_another_log(
        self, site: Site, workspace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = twice_failed_run(site, workspace)
        Path(run.layout.log(TUNE, 1)).write_text("all is well\n" * 100)
        Path(run.layout.log(TUNE, 2)).write_text("fine\n" * 10 + "error: no\n")
        gate = Gate(monkeypatch, log_pane, "first_error")
        async with sitting_at(Keyboard, app_on(run)) as keyboard:
            await keyboard.sees("error: no")
            await keyboard.press("e")
            await reached(keyboard, gate)
            await keyboard.press("left_square_bracket")
            await keyboard.sees("all is well")
            await told(keyboard, gate, "find")
            assert view_of(keyboard.app).following

    async def test_who_goes_to_the_end_while_the_beginning_is_fetched_stays_there(
        self, big: LlamaTui, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate = Gate(monkeypatch, LogFile, "read")
        async with sitting_at(Keyboard, big) as keyboard:
            await keyboard.sees("line 59999 ")
            await keyboard.press("1", "home")
            await reached(keyboard, gate)
            await keyboard.press("end")
            await told(keyboard, gate, "log-part")
            assert view_of(big).following
            await keyboard.sees("line 59999 ")

    async def test_who_goes_to_the_beginning_while_the_end_is_fetched_stays_there(
        self, site: Site, workspace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = failed_run(site, workspace, BIG)
        async with sitting_at(Keyboard, app_on(run)) as keyboard:
            await keyboard.sees("line 59999 ")
            await keyboard.press("1", "home")
            await keyboard.sees("line 0 ")
            gate = Gate(monkeypatch, LiveRun, "follow_log")
            await keyboard.press("end")
            await reached(keyboard, gate)
            await keyboard.press("home")
            await told(keyboard, gate, "log")
            with Path(run.layout.log(TUNE, 1)).open("a") as log:
                log.write("more\n")
            view = view_of(keyboard.app)
            await until(keyboard.pilot, lambda: view.file_end == len(BIG) + len("more\n"))
            assert line_in_sight(view, 0).startswith("line 0 ")

    async def test_no_pager_takes_the_terminal_from_somebody_who_types(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(log_pane, "show_in_pager", lambda *_: pytest.fail("it was shown"))
        gate = Gate(monkeypatch, LogFile, "fetch")
        async with at("monitor-failed", place) as keyboard:
            await keyboard.press("p")
            await reached(keyboard, gate)
            await keyboard.press("slash", *"que")
            gate.opened.set()
            await keyboard.sees("The log can be shown now")


class _Queue(App[None]):
    def compose(self) -> ComposeResult:
        yield QueueTable()


class TestQueue:
    async def test_what_comes_into_the_queue_moves_nobody_in_it(self) -> None:
        jobs = [Job(str(number), JobState.ACTIVE, "RUNNING", name="a") for number in range(100, 140)]
        app = _Queue()
        async with app.run_test(size=(60, 12)) as pilot:
            table = app.query_one(QueueTable)
            table.show_jobs(jobs, 1)
            await until(pilot, lambda: table.max_scroll_y > 20)
            table.move_cursor(row=5)
            table.scroll_to(y=20, animate=False)
            await until(pilot, lambda: table.scroll_offset.y == 20)
            chosen = table.chosen
            table.show_jobs([*jobs[:-1], Job("139", JobState.ACTIVE, "RUNNING", name="a" * 50)], 2)
            await pilot.pause()
            assert (table.scroll_offset.y, table.chosen) == (20, chosen)
            table.show_jobs([job for job in jobs if job.id != chosen], 3)
            await pilot.pause()
            assert (table.scroll_offset.y, table.cursor_row) == (20, 5)
            table.show_jobs([*jobs, Job("200", JobState.ACTIVE, "RUNNING", name="a")], 4)
            await pilot.pause()
            assert table.scroll_offset.y == 20
