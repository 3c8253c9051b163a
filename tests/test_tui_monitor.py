"""The monitor screen: logs of any size, the failure panel, the queue, the curve and what it tells."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
from textual.app import App
from textual.widgets import Input

from llama_tui.backend.colleague_report import without_secrets
from llama_tui.backend.live import LiveRun, SnapshotTaken
from llama_tui.backend.log_file import PIECE
from llama_tui.backend.log_window import KEPT
from llama_tui.backend.monitor import MetricPoint
from llama_tui.backend.runs import Run
from llama_tui.backend.site import Site
from llama_tui.backend.stages import Stage
from llama_tui.backend.states import StageState
from llama_tui.backend.training_watch import alarms, smoothed, time_left
from llama_tui.backend.ui_request import UiRequest
from llama_tui.tui import pager
from llama_tui.tui.app import LlamaTui
from llama_tui.tui.notifying import sequences
from llama_tui.tui.screens.dialogs import Confirm, Reading
from llama_tui.tui.screens.monitor import MonitorScreen
from llama_tui.tui.screens.wizard import WizardScreen
from llama_tui.tui.widgets.failure_panel import FailurePanel
from llama_tui.tui.widgets.log_pane import LogPane, Shown
from llama_tui.tui.widgets.log_view import LogView
from llama_tui.tui.widgets.tables import StageTable
from tests.pilot import arrived, click, painted, text_of, until
from tests.tiny import go, ran, set_behaviour, tiny_run, wait_for, wait_until_runs

TUNE = Stage.FINETUNE


def failed_run(site: Site, workspace: Path, log: str = "") -> Run:
    """A run whose training ended with exit code 3 after it had printed `log`."""
    run = tiny_run(site, workspace, finetune="3")
    run.submit()
    wait_for(run, lambda one: one.finished)
    if log:
        Path(run.layout.log(TUNE, 1)).write_text(log)
    return run


def twice_failed_run(site: Site, workspace: Path) -> Run:
    """The same, run again in vain; the first attempt's log says so."""
    run = failed_run(site, workspace)
    Path(run.layout.log(TUNE, 1)).write_text("the first attempt\n")
    set_behaviour(run, TUNE, "4")
    run.rerun(TUNE)
    wait_for(run, lambda one: one.view(TUNE).attempt == 2 and one.finished)
    return run


def app_on(run: Run) -> LlamaTui:
    return LlamaTui(UiRequest(place=run.site.place, run_id=run.run_id))


def monitor(app: App[None]) -> MonitorScreen:
    assert isinstance(app.screen, MonitorScreen)
    return app.screen


def knows_all(app: App[None]) -> bool:
    """Whether nothing more of the run comes in by itself."""
    snapshot = monitor(app).snapshot
    return snapshot is not None and snapshot.jobs is not None and snapshot.resting


def view_of(app: App[None]) -> LogView:
    return monitor(app).query_one(LogView)


def line_in_sight(view: LogView, row: int) -> str:
    return view.render_line(row).text.rstrip()


BIG = "".join(f"line {number} of a big log {'.' * 80}\n" for number in range(60_000))


class TestLog:
    async def test_earlier_attempts_by_key_and_by_mouse(self, site: Site, workspace: Path) -> None:
        app = app_on(twice_failed_run(site, workspace))
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: "this is finetune" in view_of(app).text)
            assert "attempt 2 of 2" in text_of(app, "#log-title")
            await pilot.press("left_square_bracket")
            await until(pilot, lambda: view_of(app).text == "the first attempt")
            await click(pilot, "#newer")
            await until(pilot, lambda: "this is finetune" in view_of(app).text)
            await click(pilot, "#older")
            await until(pilot, lambda: view_of(app).text == "the first attempt")
            assert "chosen" in text_of(app, "#log-title")

    async def test_of_two_that_are_chosen_on_a_slow_link_the_last_is_followed(
        self, site: Site, workspace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = twice_failed_run(site, workspace)
        first, last = (run.layout.log(TUNE, attempt) for attempt in (1, 2))
        begun, both, overtaken = Event(), Event(), Event()
        follow, follow_now = LiveRun.follow_log, LogPane._follow_now
        followed: list[str] = []

        def chosen(pane: LogPane, shown: Shown, *more: bool) -> None:
            if begun.is_set():
                both.set()
            follow_now(pane, shown, *more)

        def slowly(live: LiveRun, path: str, fresh: bool = True) -> None:
            if path == first:
                begun.set()
                assert both.wait(60)
                overtaken.wait(1)
            follow(live, path, fresh)
            followed.append(path)
            if begun.is_set():
                overtaken.set()

        monkeypatch.setattr(LogPane, "_follow_now", chosen)
        monkeypatch.setattr(LiveRun, "follow_log", slowly)
        app = app_on(run)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: "this is finetune" in view_of(app).text)
            await pilot.press("left_square_bracket")
            await until(pilot, begun.is_set)
            await pilot.press("right_square_bracket")
            await until(pilot, lambda: len(followed) == 3)
            with Path(last).open("a") as log:
                log.write("and more\n")
            await until(pilot, lambda: view_of(app).text.endswith("and more"))

    async def test_one_that_is_chosen_without_a_link_is_shown_when_it_is_back(
        self, site: Site, workspace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("llama_tui.backend.live.FIRST_PAUSE", 60.0)
        app = app_on(twice_failed_run(site, workspace))
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await until(pilot, lambda: "this is finetune" in view_of(app).text)
            monitor(app).live.do(lambda one: one.site.link._channel.close())
            await until(pilot, lambda: monitor(app).query_one("#link").display, "the link bar")
            await pilot.press("left_square_bracket")
            await until(pilot, lambda: "There is no connection just now" in painted(app))
            await pilot.press("x")
            await until(pilot, lambda: view_of(app).text == "the first attempt")

    async def test_a_big_log_opens_at_its_end_and_scrolls_to_its_beginning(
        self, site: Site, workspace: Path
    ) -> None:
        run = failed_run(site, workspace, BIG)
        app = app_on(run)
        async with app.run_test(size=(100, 30)) as pilot:
            view = view_of(app)
            await until(pilot, lambda: "line 59999 " in view.text)
            assert view.window.start > 0
            begun, first = view.window.start, view.line_count
            view.focus()
            view.scroll_to(y=3, animate=False, immediate=True)
            top = line_in_sight(view, 0)
            await until(pilot, lambda: view.window.start < begun, "an earlier part")
            assert view.line_count > first
            await until(pilot, lambda: line_in_sight(view, 0) == top, "what was on top")
            await pilot.press("home")
            await until(pilot, lambda: line_in_sight(view, 0).startswith("line 0 "), "the first line")
            assert view.detached
            view.scroll_to(y=view.max_scroll_y, animate=False, immediate=True)
            end = view.window.end
            await until(pilot, lambda: view.window.end > end, "a later part")
            await pilot.press("end")
            await until(pilot, lambda: not view.detached and "line 59999 " in view.text, "the end")
            assert view.window.end - view.window.start <= KEPT

    async def test_search_counts_in_the_whole_file_and_goes_through_it(
        self, site: Site, workspace: Path
    ) -> None:
        run = failed_run(
            site, workspace, BIG.replace("line 100 ", "needle 100 ").replace("line 59000 ", "Needle 59000 ")
        )
        app = app_on(run)
        async with app.run_test(size=(100, 30)) as pilot:
            view = view_of(app)
            await until(pilot, lambda: "line 59999 " in view.text)
            await pilot.press("slash", *"needle", "enter")
            await until(pilot, lambda: "2/2 'needle'" in text_of(app, "#log-found"), "the count")
            assert not view.following
            await pilot.press("n")
            await until(pilot, lambda: "1/2" in text_of(app, "#log-found"))
            await until(pilot, lambda: "needle 100 " in view.text, "the part with the first")
            height = view.scrollable_content_region.height
            await until(
                pilot,
                lambda: any(line_in_sight(view, row).startswith("needle 100 ") for row in range(height)),
                "the match in sight",
            )
            await click(pilot, "#do-previous")
            await until(pilot, lambda: "Needle 59000 " in view.text and "2/2" in text_of(app, "#log-found"))
            await pilot.press("escape")
            await until(pilot, lambda: "needle" not in text_of(app, "#log-found"))
            assert isinstance(app.screen, MonitorScreen)

    async def test_what_arrives_is_searched_as_well(self, site: Site, workspace: Path) -> None:
        run = failed_run(site, workspace, "one loss\n")
        app = app_on(run)
        async with app.run_test(size=(100, 30)) as pilot:
            await until(pilot, lambda: view_of(app).text == "one loss")
            await pilot.press("slash", *"loss", "enter")
            await until(pilot, lambda: "1/1 'loss'" in text_of(app, "#log-found"))
            with Path(run.layout.log(TUNE, 1)).open("a") as log:
                log.write("two lo")
                log.flush()
                await until(pilot, lambda: view_of(app).text.endswith("two lo"))
                log.write("ss\nthree\n")
            await until(pilot, lambda: "1/2 'loss'" in text_of(app, "#log-found"))

    @pytest.mark.parametrize("by", ["key", "mouse"])
    async def test_the_first_error_far_from_the_end(self, by: str, site: Site, workspace: Path) -> None:
        run = failed_run(site, workspace, BIG.replace("line 200 of", "RuntimeError: 200 of"))
        app = app_on(run)
        async with app.run_test(size=(80, 24)) as pilot:
            view = view_of(app)
            await until(pilot, lambda: "line 59999 " in view.text)
            await (pilot.press("e") if by == "key" else click(pilot, "#do-error"))
            height = view.scrollable_content_region.height
            await until(
                pilot,
                lambda: any("RuntimeError: 200" in line_in_sight(view, row) for row in range(height)),
                "the error",
            )

    async def test_wrapping_shows_all_of_a_line_and_stays_there(self, site: Site, workspace: Path) -> None:
        long = "start " + "é" * 200 + " end"
        run = failed_run(site, workspace, f"before\n{long}\nafter\n")
        app = app_on(run)
        async with app.run_test(size=(80, 30)) as pilot:
            view = view_of(app)
            await until(pilot, lambda: view.line_count == 3)
            await click(pilot, "#do-wrap")
            await until(pilot, lambda: line_in_sight(view, 4) == "after")
            assert "".join(line_in_sight(view, row) for row in (1, 2, 3)) == long
            await pilot.press("w")
            await until(pilot, lambda: line_in_sight(view, 2) == "after")

    async def test_a_line_is_copied(self, site: Site, workspace: Path) -> None:
        run = failed_run(site, workspace, "one\n\x1b[31mtwo\x1b[0m\nthree\n")
        app = app_on(run)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: view_of(app).line_count == 3)
            await pilot.press("y")
            assert app.clipboard == "three"
            await click(pilot, LogView, offset=(1, 1))
            await click(pilot, "#do-copy")
            await until(pilot, lambda: app.clipboard == "two")

    async def test_a_selection_is_copied(self, site: Site, workspace: Path) -> None:
        run = failed_run(site, workspace, "one fish\n\x1b[31mtwo\x1b[0m fish\nred fish\n")
        app = app_on(run)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: view_of(app).line_count == 3)
            await pilot.mouse_down(LogView, offset=(4, 0))
            await pilot.hover(LogView, offset=(3, 1))
            await pilot.mouse_up(LogView, offset=(3, 1))
            await pilot.press("y")
            await until(pilot, lambda: app.clipboard in {"fish\ntwo", "fish\ntwo "})

    async def test_the_pager_gets_a_harmless_copy_that_is_removed(
        self, site: Site, workspace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = failed_run(site, workspace, "10%\r20%\nred \x1b[31mx\x1b[0m \x1b]0;evil\x07\n")
        seen: list[tuple[str, str, int]] = []

        def look(_app: object, path: str) -> str:
            seen.append((path, Path(path).read_text(), Path(path).stat().st_mode & 0o777))
            return ""

        monkeypatch.setattr("llama_tui.tui.widgets.log_pane.show_in_pager", look)
        app = app_on(run)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: view_of(app).line_count == 2)
            await pilot.press("p")
            await until(pilot, lambda: bool(seen), "the pager")
            path, text, mode = seen[0]
            assert text == "20%\nred \x1b[31mx\x1b[0m \n"
            assert mode == 0o600
            await until(pilot, lambda: not Path(path).exists(), "the copy's end")

    async def test_a_burst_is_followed_with_bounded_memory_and_nothing_is_lost(
        self, site: Site, workspace: Path
    ) -> None:
        run = failed_run(site, workspace, "begin\n")
        app = app_on(run)
        with Path(run.layout.log(TUNE, 1)).open("a") as log:
            async with app.run_test(size=(100, 30)) as pilot:
                view = view_of(app)
                await until(pilot, lambda: "begin" in view.text)
                block = "".join(f"burst {'x' * 90} {number}\n" for number in range(10_000))
                for _ in range(30):
                    log.write(block)
                    log.flush()
                    await pilot.pause(0.01)
                log.write("the very end\n")
                log.flush()
                await until(pilot, lambda: view.window.end == view.file_end == log.tell(), "all of it")
                assert view.window.line(view.line_count - 1) == "the very end"
                assert view.window.end - view.window.start <= KEPT

    async def test_somebody_who_reads_is_not_moved_by_a_burst(self, site: Site, workspace: Path) -> None:
        run = failed_run(site, workspace, "".join(f"old {number}\n" for number in range(100)))
        app = app_on(run)
        async with app.run_test(size=(100, 30)) as pilot:
            view = view_of(app)
            await until(pilot, lambda: view.line_count == 100)
            view.focus()
            await pilot.press("pageup")
            await until(pilot, lambda: not view.following)
            top = line_in_sight(view, 0)
            with Path(run.layout.log(TUNE, 1)).open("a") as log:
                log.write(BIG * 4)
            size = Path(run.layout.log(TUNE, 1)).stat().st_size
            await until(pilot, lambda: view.file_end == size, "the news of it")
            assert line_in_sight(view, 0) == top
            assert view.window.end - view.window.start < KEPT + 3 * PIECE
            await pilot.press("end")
            await until(pilot, lambda: view.window.line(view.line_count - 1).startswith("line 59999"))

    async def test_a_log_that_begins_anew_is_shown_anew(self, site: Site, workspace: Path) -> None:
        run = failed_run(site, workspace, "old " * 100)
        app = app_on(run)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: view_of(app).text.startswith("old"))
            Path(run.layout.log(TUNE, 1)).write_text("new\n")
            await until(pilot, lambda: view_of(app).text == "new")


class TestFailure:
    async def test_buttons_for_a_failed_run_at_80_by_24(self, site: Site, workspace: Path) -> None:
        run = failed_run(site, workspace, "torch.OutOfMemoryError: no room\n")
        app = app_on(run)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: "→" in text_of(app, "#failure"), "the diagnosis")
            assert "finetune failed: exit code 3" in text_of(app, "#failure")
            set_behaviour(run, TUNE, "0")
            await click(pilot, "#do-rerun")
            await until(pilot, lambda: "All seven stages are done" in text_of(app, "#failure"))
        assert ran(run).count(TUNE) == 2

    async def test_what_the_scheduler_says_later_is_diagnosed_again(
        self, site: Site, workspace: Path
    ) -> None:
        """A stage's own word comes at its end, the queue's some seconds later, and it may know more."""
        app = app_on(failed_run(site, workspace))
        async with app.run_test(size=(120, 40)) as pilot:
            await until(pilot, lambda: knows_all(app) and monitor(app).diagnoses != {}, "the diagnosis")
            assert "memory" not in text_of(app, "#failure")
            snapshot = monitor(app).snapshot
            assert snapshot is not None and snapshot.jobs is not None
            job = next(one for one in snapshot.jobs if one.id == snapshot.view(TUNE).job_id)
            killed = replace(job, word="OUT_OF_MEMORY", reason="OutOfMemory")
            others = tuple(one for one in snapshot.jobs if one is not job)
            monitor(app).tell(SnapshotTaken(replace(snapshot, jobs=(*others, killed))))
            await until(pilot, lambda: "memory" in text_of(app, "#failure"), "what the queue knew")

    async def test_what_is_learnt_later_leaves_the_diagnosis_open(
        self, site: Site, workspace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        app = app_on(failed_run(site, workspace, "OSError: [Errno 28] No space left on device\n"))
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: knows_all(app) and "→" in text_of(app, "#failure"), "the diagnosis")
            await pilot.press("a")
            await until(pilot, lambda: "(e: first error)" in text_of(app, "#failure"), "all of it")
            screen = monitor(app)
            key, found = next(iter(screen.diagnoses.items()))
            assert screen.snapshot is not None
            monkeypatch.setitem(screen.diagnoses, key, replace(found, cause="Something else, after all."))
            screen.tell(SnapshotTaken(screen.snapshot))
            await until(pilot, lambda: "Something else" in text_of(app, "#failure"))
            assert "(e: first error)" in text_of(app, "#failure")

    async def test_a_log_chosen_while_the_scheduler_is_asked_stays(
        self, site: Site, workspace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = failed_run(site, workspace)
        Path(run.layout.log(TUNE, 1)).write_text("the first attempt\n")
        set_behaviour(run, TUNE, "wait")
        answer, rerun = Event(), Run.rerun

        def slowly(self: Run, stage: Stage) -> None:
            rerun(self, stage)
            assert answer.wait(60)

        monkeypatch.setattr(Run, "rerun", slowly)
        app = app_on(run)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await until(pilot, lambda: "→" in text_of(app, "#failure"), "the diagnosis")
            await pilot.press("r")
            await until(pilot, lambda: "attempt 2 of 2" in text_of(app, "#log-title"))
            await pilot.press("left_square_bracket")
            answer.set()
            await until(pilot, lambda: "is run again" in painted(app), "the scheduler's answer")
            go(run, TUNE)
            await until(pilot, lambda: "All seven stages are done" in text_of(app, "#failure"))
            assert "attempt 1 of 2" in text_of(app, "#log-title")
            assert view_of(app).text == "the first attempt"

    async def test_a_long_diagnosis_leaves_room_for_the_log(self, site: Site, workspace: Path) -> None:
        run = failed_run(site, workspace, "OSError: [Errno 28] No space left on device\n" + "more\n" * 50)
        app = app_on(run)
        async with app.run_test(size=(80, 24)) as pilot:
            view, panel = view_of(app), app.screen.query_one(FailurePanel)
            await until(pilot, lambda: knows_all(app), "the scheduler's word")
            await until(pilot, lambda: "→" in text_of(app, "#failure"), "the diagnosis")
            await until(pilot, lambda: panel.region.height == 3)
            assert "finetune failed: exit code 3" in text_of(app, "#failure")
            assert view.scrollable_content_region.height >= 8
            for open_it in (lambda: pilot.press("a"), lambda: click(pilot, "#do-more")):
                await open_it()
                await until(pilot, lambda: panel.region.height > 4, "all of it")
                assert "(e: first error)" in text_of(app, "#failure")
                await click(pilot, "#failure")
                await until(pilot, lambda: panel.region.height == 3, "two lines again")
            await pilot.resize_terminal(120, 40)
            await until(pilot, lambda: "(e: first error)" in text_of(app, "#failure"))
            assert not app.screen.query_one("#do-more").display
            await pilot.resize_terminal(80, 24)
            await until(pilot, lambda: panel.region.height == 3)

    async def test_other_settings_opens_the_wizard_with_those_of_the_run(
        self, site: Site, workspace: Path
    ) -> None:
        app = app_on(failed_run(site, workspace))
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: "→" in text_of(app, "#failure"), "the diagnosis")
            await click(pilot, "#do-other-settings")
            await arrived(pilot, WizardScreen)
            screen = app.screen
            assert isinstance(screen, WizardScreen)
            assert screen.settings.name == "tiny"

    async def test_a_report_without_secrets(self, site: Site, workspace: Path) -> None:
        secret = "hf_" + "a1B2" * 8
        run = failed_run(
            site, workspace, f"token {secret}\nhttps://me:pass@word@host/x\nRuntimeError: boom\n"
        )
        app = app_on(run)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: "→" in text_of(app, "#failure"), "the diagnosis")
            await click(pilot, "#do-report")
            await arrived(pilot, Reading)
            report = app.clipboard
        assert "RuntimeError: boom" in report
        assert "finetune" in report
        assert "[training]" in report
        assert secret not in report
        assert "pass" not in report.split("https://")[1].split("\n")[0]

    async def test_the_rest_is_cancelled(self, site: Site, workspace: Path) -> None:
        run = tiny_run(site, workspace, create_env="wait")
        run.submit()
        wait_until_runs(run, Stage.CREATE_ENV)
        app = app_on(run)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: monitor(app).snapshot is not None)
            screen = monitor(app)
            await pilot.press("c")
            await arrived(pilot, Confirm)
            await click(pilot, "#yes")
            await until(pilot, lambda: screen.snapshot is not None and screen.snapshot.finished)
            assert screen.snapshot is not None
            assert screen.snapshot.state is StageState.CANCELLED

    @pytest.mark.parametrize("behave", ["0", "3"])
    async def test_the_end_is_told_once_to_the_terminal(
        self, behave: str, site: Site, workspace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = tiny_run(site, workspace, finetune="wait")
        run.submit()
        wait_until_runs(run, TUNE)
        app = app_on(run)
        written: list[str] = []
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: monitor(app).snapshot is not None)
            assert app._driver is not None
            monkeypatch.setattr(app._driver, "write", written.append)
            if behave == "3":
                run.cancel()
            else:
                go(run, TUNE)
            screen = monitor(app)
            await until(pilot, lambda: screen.snapshot is not None and screen.snapshot.finished)
            await pilot.pause(1.5)
        told = [one for one in written if "\x1b]777;notify;llama-tui: " in one]
        assert len(told) == 1
        assert "\x1b]9;llama-tui" in told[0]
        assert ("cancelled" if behave == "3" else "All seven stages are done") in told[0]


def point(step: int, loss: float, time: float = 0.0, **more: float) -> MetricPoint:
    return MetricPoint(step, 100, loss, 1e-4, 100.0, more.get("step_seconds", 2.0), 1, time or step * 2.0)


class TestTraining:
    def test_nothing_is_wrong_with_a_falling_loss(self) -> None:
        points = [point(step, 4 - step / 50) for step in range(1, 100)]
        assert alarms(points, points[-1].time + 5) == []

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_no_number_is_an_alarm_and_leaves_the_average(self, bad: float) -> None:
        points = [point(1, 2.0), point(2, bad), point(3, 2.0)]
        assert "since step 2" in alarms(points, None)[0]
        assert smoothed([2.0, bad, 2.0]) == pytest.approx([2.0, 2.0, 2.0])

    def test_a_rising_loss_is_an_alarm_and_noise_is_not(self) -> None:
        falls = [point(step, 3 - step / 20) for step in range(1, 41)]
        rises = [point(40 + step, 1 + step / 10) for step in range(1, 41)]
        assert "the loss rises" in alarms(falls + rises, None)[0]
        noise = [point(40 + step, 1 + (step % 2) / 5) for step in range(1, 41)]
        assert alarms(falls + noise, None) == []

    def test_silence_is_an_alarm_only_while_it_trains(self) -> None:
        points = [point(step, 2.0, time=1000 + 10 * step) for step in range(1, 10)]
        assert alarms(points, 1090 + 99) == []
        assert "no new step for 100 s" in alarms(points, 1090 + 101)[0]
        assert alarms(points, None) == []

    def test_silence_is_counted_from_this_attempt_on(self) -> None:
        points = [point(step, 2.0, time=1000 + 10 * step) for step in range(1, 10)]
        assert alarms(points, 3000, since=2990) == []
        again = [*points, point(10, 2.0, time=3000)]
        assert "no new step for 100 s" in alarms(again, 3101, since=2990)[0]

    def test_time_left_is_from_the_usual_step(self) -> None:
        points = [point(step, 2.0, step_seconds=2.0) for step in range(1, 10)] + [
            point(10, 2.0, step_seconds=60.0)
        ]
        assert time_left(points) == 180.0

    async def test_curve_alarm_and_resume_on_the_screen(self, site: Site, workspace: Path) -> None:
        run = tiny_run(site, workspace, finetune="wait")
        run.submit()
        wait_until_runs(run, TUNE)
        app = app_on(run)
        now = time.time()
        lines = [
            {
                "step": n,
                "max_steps": 50,
                "loss": 2.0 - n / 100,
                "learning_rate": 1e-4,
                "tokens_per_second": 321,
                "step_seconds": 3.0,
                "time": now + n,
                "attempt": 1,
            }
            for n in range(1, 21)
        ]
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: monitor(app).snapshot is not None)
            metrics = Path(run.layout.file("metrics.jsonl"))
            resumed = json.dumps({"time": now, "event": "resumed", "step": 10})
            metrics.write_text("".join(json.dumps(line) + "\n" for line in lines) + resumed + "\n")
            await click(pilot, "#tab-loss")
            await until(pilot, lambda: "step 20/50" in text_of(app, "#loss-line"))
            figures = text_of(app, "#loss-line")
            assert "321 tokens/s" in figures
            assert "~1:30 left" in figures
            assert "resumed at 10" in figures
            table = monitor(app).query_one(StageTable)
            await until(pilot, lambda: str(table.get_cell(TUNE.value, "left")) == "~1:30")
            bad = {**lines[-1], "step": 21, "loss": float("nan")}
            with metrics.open("a") as file:
                file.write(json.dumps(bad) + "\n")
            await until(pilot, lambda: "since step 21" in text_of(app, "#alarm"))
            assert app.screen.query_one("#alarm").display
            go(run, TUNE)

    async def test_what_is_left_is_known_from_an_earlier_run_only(self, site: Site, workspace: Path) -> None:
        first = tiny_run(site, workspace, compile_model="wait")
        first.submit()
        wait_until_runs(first, Stage.COMPILE_MODEL)
        app = app_on(first)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: monitor(app).snapshot is not None)
            table = monitor(app).query_one(StageTable)
            assert {str(table.get_cell(stage.value, "left")) for stage in Stage} == {""}
        go(first, Stage.COMPILE_MODEL)
        wait_for(first, lambda one: one.state is StageState.DONE)
        second = tiny_run(site, workspace, compile_model="wait")
        second.submit()
        wait_until_runs(second, Stage.COMPILE_MODEL)
        app = app_on(second)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: monitor(app).expected.seconds.keys() == set(Stage), "expectations")
            table = monitor(app).query_one(StageTable)
            await until(pilot, lambda: str(table.get_cell("inference", "left")).startswith("~"))
        second.cancel()


async def test_no_clock_goes_back_when_the_scheduler_answered_long_ago(
    site: Site, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run(site, workspace, compile_model="wait")
    run.submit()
    wait_until_runs(run, Stage.COMPILE_MODEL)
    app = app_on(run)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = monitor(app)
        await until(pilot, lambda: screen.snapshot is not None and screen.snapshot.seen is not None)
        assert screen.snapshot is not None
        assert screen.snapshot.seen is not None
        stale = replace(screen.snapshot, seen=screen.snapshot.seen - 600, problem="no answer " * 20)
        before = screen._now()
        # Nothing newer comes instead.
        monkeypatch.setattr(screen.live, "_tell", lambda _: None)
        screen.tell(SnapshotTaken(stale))
        await until(pilot, lambda: screen.snapshot is stale)
        assert screen._now() >= before
        shown = "".join(segment.text for segment in screen.query_one("#title").render_line(0))
        assert "⚠ the scheduler does not" in shown, "at 80 columns as well"
    run.cancel()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


class TestPager:
    def test_the_persons_own_comes_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PAGER", "cat -v")
        assert pager.pager_command("/x y") == ["cat", "-v", "/x y"]
        monkeypatch.setenv("PAGER", "no-such-pager")
        assert (pager.pager_command("/x") or ["more"])[0] in {"less", "more"}

    def test_it_runs_while_the_app_is_suspended(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copy = tmp_path / "copy"
        script = tmp_path / "pager"
        script.write_text(f"#!/bin/sh\ncp \"$1\" '{copy}'\n")
        script.chmod(0o755)
        monkeypatch.setenv("PAGER", str(script))
        log = tmp_path / "log"
        log.write_text("text")
        app: App[None] = App()
        monkeypatch.setattr(app, "suspend", _nothing)
        monkeypatch.setattr(app, "refresh", lambda: None)
        assert pager.show_in_pager(app, str(log)) == ""
        assert copy.read_text() == "text"


class TestWords:
    @pytest.mark.parametrize(
        ("text", "kept"),
        [
            ("HF_TOKEN=hf_abcdefgh12345678", "HF_TOKEN="),
            ("aws_secret_access_key = abcd/efgh+1234", "aws_secret_access_key = "),
            ('"password": "hunter22"', '"password": "'),
            ("Authorization: Bearer abc.def-123456", "Authorization: Bearer "),
            ("https://user:secret1@host/simple", "@host/simple"),
            ("AKIAABCDEFGHIJKLMNOP", ""),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----", ""),
        ],
    )
    def test_secrets_go_and_the_rest_stays(self, text: str, kept: str) -> None:
        clean = without_secrets(text)
        assert "[removed]" in clean
        assert kept in clean
        for secret in ("hf_abc", "efgh+1234", "hunter22", "def-123456", "secret1", "AKIA", "abc\n"):
            assert secret not in clean

    def test_what_is_no_secret_stays(self) -> None:
        text = "tokens_per_second = 321\nmax_new_tokens = 96\nlora r=8 target=q_proj\nhttps://host/path@v1"
        assert without_secrets(text) == text

    def test_a_notification_cannot_be_broken_out_of(self) -> None:
        told = sequences("a;b\x07c", "x\x1b]0;evil\x07y\nz", tmux=False)
        assert told == "\x1b]777;notify;a,bc;xy z\x07\x1b]9;a,bc: xy z\x07"
        assert sequences("a", "b", tmux=True).startswith("\x1bPtmux;\x1b\x1b]777;notify;a;b\x07\x1b\\")


@pytest.mark.parametrize("size", [(80, 24), (200, 50)])
async def test_all_panes_and_the_zoom_by_mouse(size: tuple[int, int], site: Site, workspace: Path) -> None:
    run = failed_run(site, workspace)
    app = app_on(run)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: "this is finetune" in view_of(app).text)
        for pane in ("queue", "loss", "log"):
            await click(pilot, f"#tab-{pane}")
            await until(pilot, lambda p=pane: app.screen.query_one(f"#pane-{p}").region.height > 0)  # type: ignore[misc]
        before = app.screen.query_one(LogPane).region.area
        await pilot.press("z")
        await until(pilot, lambda: app.screen.query_one("#stages").region.height == 0)
        await until(pilot, lambda: app.screen.query_one(LogPane).region.area > before)
        await pilot.press("escape")
        await until(pilot, lambda: app.screen.query_one("#stages").region.height > 0)
        await click(pilot, "#do-find")
        await until(pilot, lambda: isinstance(app.focused, Input))
        await pilot.press("escape")
        await click(pilot, "#do-script")
        await arrived(pilot, Reading)
