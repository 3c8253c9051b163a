"""The monitor's panes in use: what can be read and reached in them at any size, and what stays where it was."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
from textual.app import App, ComposeResult
from textual.widget import Widget

from llama_tui.backend.place import Place
from llama_tui.backend.schedulers.base import Job, JobState
from llama_tui.backend.site import Site
from llama_tui.backend.stages import Stage
from llama_tui.tui.screens.dialogs import Confirm, Reading
from llama_tui.tui.screens.monitor import MonitorScreen
from llama_tui.tui.widgets.log_view import LogView
from llama_tui.tui.widgets.loss_plot import LossPlot, step_ticks
from llama_tui.tui.widgets.queue_columns import cut_widths
from llama_tui.tui.widgets.queue_table import QueueTable
from llama_tui.tui.widgets.tables import StageTable, SteadyTable
from llama_tui.tui.words import cut_text
from tests.pilot import Keyboard, Mouse, painted, sitting_at, until
from tests.screens import at_scene
from tests.test_tui_monitor import app_on, failed_run
from tests.tiny import set_behaviour, tiny_run, wait_for, wait_until_runs

at = partial(at_scene, Keyboard)


class TestSearch:
    @pytest.mark.parametrize("needle", ["shard", "shard: /fsx/you/llama-tui/runs"])
    async def test_the_count_can_be_read_at_80_by_24(self, needle: str, place: Place) -> None:
        async with at("monitor-failed", place) as keyboard:
            await keyboard.press("slash", *needle, "enter")
            await keyboard.sees("/", "'shard", "paused", "model_", "follow")
            assert re.search(r"\d/\d 'shard", painted(keyboard.app))
            await keyboard.press("escape")
            await keyboard.press("slash", *"nowhere", "enter")
            await keyboard.sees("no 'nowhere'")

    async def test_no_word_to_click_is_pushed_out_by_a_long_search(self, site: Site, workspace: Path) -> None:
        run = failed_run(site, workspace, "")
        for code in "45":
            set_behaviour(run, Stage.FINETUNE, code)
            run.rerun(Stage.FINETUNE)
            wait_for(run, lambda one: one.finished)
        Path(run.layout.log(Stage.FINETUNE, 2)).write_text("a word that is looked for\n" * 200)
        async with sitting_at(Keyboard, app_on(run)) as keyboard:
            await keyboard.sees("attempt 3 of 3")
            await keyboard.press("left_square_bracket")
            await keyboard.sees("a word that is looked for")
            await keyboard.press("slash", *"a word that is looked for", "enter")
            await keyboard.sees("200/200 'a word th…'", "‹", "›", "pager", "follow")

    async def test_paused_can_be_read_beside_a_long_title(self, place: Place) -> None:
        async with at("monitor-failed", place) as keyboard:
            await keyboard.press("1", "pageup")
            await keyboard.sees("paused")

    async def test_the_first_click_shows_the_line_and_a_second_without_text_leaves_it(
        self, place: Place
    ) -> None:
        async with at_scene(Mouse, "monitor-failed", place) as mouse:
            for _ in range(2):
                await mouse.click("find")
                await mouse.sees("search the whole log")
            assert mouse.app.focused is mouse.app.screen.query_one("#search")
            await mouse.paste("shard")
            await mouse.click("find")
            await mouse.sees("'shard'")
            assert mouse.app.focused is mouse.app.screen.query_one(LogView)

    async def test_a_search_that_is_not_begun_gives_the_cursor_back(self, place: Place) -> None:
        async with at("monitor-failed", place) as keyboard:
            await keyboard.press("slash", *"shard", "escape")
            assert keyboard.app.focused is keyboard.app.screen.query_one(StageTable)


class TestTables:
    @pytest.mark.parametrize(("first", "last"), [("home", "end"), ("pageup", "pagedown")])
    @pytest.mark.parametrize(("pane", "kind"), [("", StageTable), ("2", QueueTable)])
    async def test_keys_to_the_first_and_the_last_row(
        self, pane: str, kind: type[SteadyTable], first: str, last: str, place: Place
    ) -> None:
        async with at("monitor-running", place) as keyboard:
            table = keyboard.app.screen.query_one(kind)
            await keyboard.press(*filter(None, [pane]))
            await until(keyboard.pilot, lambda: table.has_focus and table.row_count > 1)
            await keyboard.press(last)
            assert table.cursor_row == table.row_count - 1
            await keyboard.press(first)
            assert table.cursor_row == 0


class TestZoom:
    async def test_the_log_has_rows_on_a_tiny_terminal_and_everything_comes_back(self, place: Place) -> None:
        async with at("monitor-failed", place, (40, 12)) as keyboard:
            view = keyboard.app.screen.query_one(LogView)
            assert keyboard.reads("Free space")
            await keyboard.press("z")
            await keyboard.sees("RuntimeError", "z Show all", "end zoom", "follow")
            assert view.scrollable_content_region.height >= 7
            for hidden in ("Free space", "Rerun (r)", "create_env"):
                assert not keyboard.reads(hidden)
            await keyboard.press("z")
            await keyboard.sees("Free space", "Rerun (r)", "create_env")

    @pytest.mark.parametrize("size", [(80, 24), (200, 50)])
    async def test_keys_go_to_the_zoomed_pane_and_then_to_where_they_went(
        self, size: tuple[int, int], place: Place
    ) -> None:
        async with at("monitor-failed", place, size) as keyboard:
            screen = keyboard.app.screen
            await keyboard.press("z", "pageup", "home")
            assert keyboard.app.focused is screen.query_one(LogView)
            await keyboard.sees("--- model_consolidation")
            await keyboard.press("escape")
            await keyboard.sees("0 create_env")
            assert keyboard.app.focused is screen.query_one(StageTable)
            await keyboard.press("2", "z")
            await keyboard.sees("DependencyNever")
            assert not keyboard.reads("0 create_env")
            assert keyboard.app.focused is screen.query_one(QueueTable)

    async def test_escape_ends_the_search_first_then_the_zoom(self, place: Place) -> None:
        async with at("monitor-failed", place) as keyboard:
            await keyboard.press("z", "slash", *"shard", "enter")
            await keyboard.sees("'shard'", "esc End search")
            await keyboard.press("escape")
            await keyboard.misses("'shard'")
            assert not keyboard.reads("0 create_env")
            await keyboard.press("escape")
            await keyboard.sees("0 create_env", "esc Runs")

    async def test_a_failure_while_zoomed_waits_until_everything_is_shown(
        self, site: Site, workspace: Path
    ) -> None:
        run = tiny_run(site, workspace, finetune="wait")
        run.submit()
        wait_until_runs(run, Stage.FINETUNE)
        async with sitting_at(Keyboard, app_on(run)) as keyboard:
            await keyboard.sees("this is finetune")
            await keyboard.press("z")
            await keyboard.misses("0 create_env")
            run.cancel()
            await keyboard.sees("cancelled")
            assert not keyboard.reads("Rerun (r)")
            await keyboard.press("z")
            await keyboard.sees("Rerun (r)")


class TestFocus:
    async def test_the_stages_have_the_cursor_at_the_start(self, place: Place) -> None:
        assert MonitorScreen.AUTO_FOCUS == "#stages"
        async with at("monitor-failed", place) as keyboard:
            assert keyboard.app.focused is keyboard.app.screen.query_one(StageTable)

    @pytest.mark.parametrize(("pane", "kind"), [("", StageTable), ("1", LogView), ("2", QueueTable)])
    async def test_a_dialog_gives_the_cursor_back(self, pane: str, kind: type[Widget], place: Place) -> None:
        async with at_scene(Mouse, "monitor-failed", place) as mouse:
            screen = mouse.app.screen
            await mouse.pilot.press(*filter(None, [pane]))
            for words, dialog in (
                ("Report (k)", Reading),
                ("Cancel the rest (c)", Confirm),
                ("script", Reading),
            ):
                await mouse.click(words)
                await mouse.arrives(dialog)
                await mouse.pilot.press("escape")
                await mouse.arrives(MonitorScreen)
                assert mouse.app.focused is screen.query_one(kind), words

    async def test_every_pane_takes_the_cursor(self, place: Place) -> None:
        async with at("monitor-running", place) as keyboard:
            for key, kind, line in (
                ("2", QueueTable, "#nodes"),
                ("3", LossPlot, "#loss-line"),
                ("1", LogView, "#log-title"),
            ):
                words = keyboard.app.screen.query_one(line)
                assert not words.styles.text_style.bold
                await keyboard.press(key)
                await until(keyboard.pilot, lambda one=kind: isinstance(keyboard.app.focused, one))  # type: ignore[misc]
                await until(keyboard.pilot, lambda one=words: bool(one.styles.text_style.bold))  # type: ignore[misc]

    async def test_a_button_that_goes_away_takes_no_cursor_with_it(self, site: Site, workspace: Path) -> None:
        run = failed_run(site, workspace)
        set_behaviour(run, Stage.FINETUNE, "wait")
        async with sitting_at(Mouse, app_on(run)) as mouse:
            await mouse.click("Rerun (r)")
            await mouse.misses("Rerun (r)")
            await mouse.sees("running")
            assert mouse.app.focused is mouse.app.screen.query_one(StageTable)
        run.cancel()


class _Queue(App[None]):
    def compose(self) -> ComposeResult:
        yield QueueTable()


class TestQueueColumns:
    @pytest.mark.parametrize("width", [80, 90, 120])
    async def test_the_usual_ones_fit_and_give_way_where_they_have_to(self, width: int) -> None:
        jobs = [
            Job(
                "1234567", JobState.ACTIVE, "RUNNING", started=1, nodes="ip-10-1-23-45", name="run/finetune/1"
            ),
            Job("1234568", JobState.WAITING, "PENDING", name="run/model_consolidation/1", user="ubuntu"),
            Job("1234569", JobState.STUCK, "PENDING", reason="DependencyNeverSatisfied", name="a" * 50),
        ]
        app = _Queue()
        async with app.run_test(size=(120, 20)) as pilot:
            table = app.query_one(QueueTable)
            await pilot.resize_terminal(width, 20)
            table.show_jobs(jobs, 5_000)
            await until(pilot, lambda: "1:23 h" in painted(app) and "ubuntu" in painted(app))
            await until(pilot, lambda: table.max_scroll_x == 0)
            # What has room again is shown again, also in columns that had become narrow.
            await pilot.resize_terminal(150, 20)
            await until(pilot, lambda: "DependencyNeverSatisfied" in painted(app))
            await pilot.resize_terminal(width, 20)
            await until(pilot, lambda: table.size.width == width and table.max_scroll_x == 0)

    def test_the_reason_gives_way_first_and_everything_keeps_something(self) -> None:
        widths = {"job": 7, "name": 21, "reason": 24}
        assert cut_widths(widths, 60) == {}
        assert cut_widths(widths, 45) == {"reason": 17}
        assert cut_widths(widths, 30) == {"reason": 8, "name": 15}
        assert cut_widths(widths, 5) == {"reason": 8, "name": 12}

    def test_a_cut_says_that_there_is_more(self) -> None:
        assert cut_text("DependencyNeverSatisfied", 12) == "DependencyN…"
        assert cut_text("文字文字文字", 6) == "文字 …"
        assert cut_text("Priority", 8) == cut_text("Priority", None) == "Priority"

    async def test_a_name_in_brackets_is_a_name(self) -> None:
        job = Job("1", JobState.ACTIVE, "RUNNING", started=1, name="run/[/x] [red]y[/red]", reason="[b]")
        app = _Queue()
        async with app.run_test(size=(120, 20)) as pilot:
            table = app.query_one(QueueTable)
            table.show_jobs([job], 2)
            await until(pilot, lambda: "[/x] [red]y[/red]" in painted(app) and "[b]" in painted(app))

    @pytest.mark.parametrize("size", [(80, 24), (132, 40), (200, 50)])
    async def test_no_sideways_scroll_in_the_monitor(self, size: tuple[int, int], place: Place) -> None:
        for scene in ("monitor-running", "monitor-failed"):
            async with at(scene, place, size) as keyboard:
                await keyboard.press("2", "m")
                table = keyboard.app.screen.query_one(QueueTable)
                await keyboard.sees("user", "reason", "PENDING", "you")
                await until(keyboard.pilot, lambda one=table: one.max_scroll_x == 0)  # type: ignore[misc]


class _Log(App[None]):
    def on_mount(self) -> None:
        self.animation_level = "none"

    def compose(self) -> ComposeResult:
        yield LogView()


LINES = "".join(f"line {number} {'x' * (number % 150)}\n" for number in range(200))


def first_row(view: LogView) -> str:
    return view.render_line(0).text.rstrip()


class TestPlaceInTheLog:
    """What somebody reads stays in sight while the pane gets higher and lower."""

    @pytest.mark.parametrize("wrap", [False, True])
    async def test_the_line_at_the_top_stays_there(self, wrap: bool) -> None:
        app = _Log()
        async with app.run_test(size=(80, 30)) as pilot:
            view = app.query_one(LogView)
            view.append(LINES)
            if wrap:
                view.action_wrap()
            await pilot.press("tab", "pageup")
            await until(pilot, lambda: not view.following)
            top = first_row(view)
            # Higher than what is left below, lower, narrower, and as it was.
            for width, height in ((80, 60), (80, 8), (60, 12), (80, 30)):
                await pilot.resize_terminal(width, height)
                await until(pilot, lambda size=(width, height): app.size == size)  # type: ignore[misc]
            await until(pilot, lambda: first_row(view) == top, top)
            assert not view.following

    @pytest.mark.parametrize("wrap", [False, True])
    async def test_the_marked_line_stays_in_sight(self, wrap: bool) -> None:
        app = _Log()
        async with app.run_test(size=(80, 40)) as pilot:
            view = app.query_one(LogView)
            view.append(LINES)
            if wrap:
                view.action_wrap()
            await until(pilot, lambda: "line 199 " in painted(app), "the end")
            view.go_to(LINES.index("line 120 "))
            await until(pilot, lambda: "line 120 " in painted(app), "the marked line")
            top = first_row(view)
            for height in (10, 5):
                await pilot.resize_terminal(80, height)
                await until(pilot, lambda: "line 120 " in painted(app), "the marked line")
            await pilot.resize_terminal(80, 40)
            await until(pilot, lambda: first_row(view) == top, "what was on top")

    async def test_who_follows_the_end_stays_there(self) -> None:
        app = _Log()
        async with app.run_test(size=(80, 40)) as pilot:
            view = app.query_one(LogView)
            view.append(LINES)
            for height in (10, 30):
                await pilot.resize_terminal(80, height)
                await until(pilot, lambda: "line 199 " in painted(app))
            assert view.following

    async def test_a_failure_that_is_told_covers_nothing_that_is_read(self, place: Place) -> None:
        async with at("monitor-failed", place) as keyboard:
            await keyboard.press("e")
            await keyboard.sees("Traceback")
            await keyboard.press("a")
            await keyboard.sees("Less (a)", "Traceback")
            await keyboard.press("a")
            await keyboard.sees("More (a)", "Traceback")


class TestWords:
    async def test_an_empty_queue_says_so(self, place: Place) -> None:
        async with at("monitor-done", place) as keyboard:
            await keyboard.press("2")
            await keyboard.sees("No job of this run is in the queue.")
            await keyboard.press("m")
            await keyboard.sees("2104")
            await keyboard.misses("No job")

    async def test_keys_that_can_do_nothing_say_why(self, place: Place) -> None:
        async with at("monitor-done", place, (120, 40)) as keyboard:
            for key, words in (
                ("n", "Nothing is searched for"),
                ("left_square_bracket", "no attempt of inference before this one"),
                ("right_square_bracket", "no attempt of inference after this one"),
                ("c", "there is nothing to cancel"),
            ):
                await keyboard.press(key)
                await keyboard.sees(words)

    async def test_the_list_of_keys_uses_the_room_there_is(self, place: Place) -> None:
        async with at("monitor-failed", place) as keyboard:
            await keyboard.press("question_mark")
            await keyboard.sees("Wrap the log", "Close (Esc)")

    async def test_steps_below_the_curve_are_whole(self, place: Place) -> None:
        async with at("monitor-running", place) as keyboard:
            await keyboard.press("3")
            await keyboard.sees("~37 min left", "101", "400", "lr=1.00e-05")
            assert not keyboard.reads("100.8")

    @pytest.mark.parametrize(
        ("last", "ticks"), [(2, [1, 2]), (4, [1, 2, 3, 4]), (400, [1, 101, 200, 300, 400])]
    )
    def test_ticks(self, last: int, ticks: list[int]) -> None:
        assert step_ticks(last) == ticks
