"""The queue pane of the monitor: whose jobs, which columns, in which order; a job's details and its end."""

from __future__ import annotations

from pathlib import Path
from threading import Event

import pytest
from textual.app import App, ComposeResult

from llama_tui.backend.schedulers.base import Job, JobState
from llama_tui.backend.schedulers.direct import Direct
from llama_tui.backend.schedulers.slurm import node_summary
from llama_tui.backend.site import Site
from llama_tui.backend.stages import Stage
from llama_tui.backend.states import StageState
from llama_tui.tui.screens.columns import Columns
from llama_tui.tui.screens.dialogs import Confirm, Reading
from llama_tui.tui.screens.keys import Keys
from llama_tui.tui.screens.monitor import MonitorScreen
from llama_tui.tui.widgets import queue_pane
from llama_tui.tui.widgets.queue_columns import (
    USUAL,
    Sorting,
    chosen_columns,
    chosen_sorting,
    sorting_text,
)
from llama_tui.tui.widgets.queue_pane import QueuePane
from llama_tui.tui.widgets.queue_table import QueueTable
from tests.pilot import arrived, click, text_of, until
from tests.test_tui_monitor import app_on, failed_run
from tests.tiny import tiny_run, wait_for, wait_until_runs


def table_of(app: App[None]) -> QueueTable:
    return app.screen.query_one(QueueTable)


def titles_of(table: QueueTable) -> list[str]:
    return [str(column.label) for column in table.ordered_columns]


async def test_scopes_details_and_cancel_by_mouse_at_80_by_24(site: Site, workspace: Path) -> None:
    other = tiny_run(site, workspace, create_env="wait")
    other.submit((Stage.CREATE_ENV,))
    wait_until_runs(other, Stage.CREATE_ENV)
    run = tiny_run(site, workspace)
    run.submit((Stage.CREATE_ENV,))
    app = app_on(run)
    async with app.run_test(size=(80, 24)) as pilot:
        table = table_of(app)
        await click(pilot, "#tab-queue")
        await until(pilot, lambda: table.row_count == 1)
        for scope in ("mine", "all"):
            await click(pilot, f"#scope-{scope}")
            await until(pilot, lambda: table.row_count == 2, scope)
        await until(pilot, lambda: "one job at a time" in text_of(app, "#nodes"))
        mine = wait_for(run, lambda one: bool(one.views[0].job_id)).views[0].job_id
        table.move_cursor(row=[row.key.value for row in table.ordered_rows].index(mine))
        await click(pilot, "#queue-details")
        await arrived(pilot, Reading)
        await click(pilot, "#close")
        await arrived(pilot, MonitorScreen)
        await click(pilot, "#queue-cancel")
        await arrived(pilot, Confirm)
        await click(pilot, "#yes")
        await until(pilot, lambda: run.snapshot().views[0].state is StageState.CANCELLED, "the job's end")
        assert other.snapshot().views[0].state is StageState.RUNNING
    other.cancel()


async def test_enter_shows_details_and_a_title_sorts(site: Site, workspace: Path) -> None:
    run = failed_run(site, workspace)
    app = app_on(run)
    async with app.run_test(size=(100, 30)) as pilot:
        table = table_of(app)
        await until(pilot, lambda: table.row_count == 7)
        await pilot.press("2", "enter")
        await arrived(pilot, Reading)
        await pilot.press("escape")
        await click(pilot, QueueTable, offset=(2, 0))
        keys = sorted((row.key.value or "" for row in table.ordered_rows), key=lambda key: (len(key), key))
        await until(pilot, lambda: [row.key.value for row in table.ordered_rows] == keys)
        await click(pilot, QueueTable, offset=(2, 0))
        await until(pilot, lambda: [row.key.value for row in table.ordered_rows] == keys[::-1])


async def test_columns_are_chosen_by_keyboard_and_kept(site: Site, workspace: Path) -> None:
    run = failed_run(site, workspace)
    app = app_on(run)
    async with app.run_test(size=(80, 24)) as pilot:
        table = table_of(app)
        await until(pilot, lambda: table.row_count == 7)
        await pilot.press("2", "down", "v")
        await arrived(pilot, Columns)
        # The second column goes to the front, the one that is then second is not wanted.
        await pilot.press("down", "minus", "down", "space", "enter")
        await arrived(pilot, MonitorScreen)
        await until(pilot, lambda: table.titles == ("state", *USUAL[2:]))
        await until(pilot, lambda: titles_of(table) == ["state ▲", *USUAL[2:]])
        await until(pilot, lambda: table.cursor_row == 1)
        assert str(table.get_row_at(0)[1]) == "model_consolidation/1"
    app = app_on(run)
    async with app.run_test(size=(80, 24)) as pilot:
        table = table_of(app)
        await until(pilot, lambda: table.row_count == 7)
        assert titles_of(table) == ["state ▲", *USUAL[2:]]


async def test_columns_are_chosen_by_mouse(site: Site, workspace: Path) -> None:
    app = app_on(failed_run(site, workspace))
    async with app.run_test(size=(80, 24)) as pilot:
        table = table_of(app)
        await until(pilot, lambda: table.row_count == 7)
        await click(pilot, "#tab-queue")
        await click(pilot, "#queue-columns")
        await click(pilot, "#columns", offset=(3, 0))
        await click(pilot, "#later")
        await click(pilot, "#done")
        await until(pilot, lambda: table.titles == USUAL[1:])
        await click(pilot, "#queue-columns")
        await click(pilot, "#usual")
        await click(pilot, "#later")
        await click(pilot, "#done")
        await until(pilot, lambda: table.titles == ("state", "job", *USUAL[2:]))
        await click(pilot, "#queue-columns")
        for row in range(7):
            await click(pilot, "#columns", offset=(3, row))
        await click(pilot, "#done")
        assert isinstance(app.screen, Columns), "one at least has to stay"
        await click(pilot, "#leave")
        await arrived(pilot, MonitorScreen)
        assert table.titles == ("state", "job", *USUAL[2:])


async def test_the_order_is_chosen_by_keyboard_and_kept(site: Site, workspace: Path) -> None:
    run = failed_run(site, workspace)
    app = app_on(run)
    async with app.run_test(size=(80, 24)) as pilot:
        table = table_of(app)
        await until(pilot, lambda: table.row_count == 7)
        await pilot.press("2", "less_than_sign")
        await until(pilot, lambda: titles_of(table)[0] == "job ▲")
        jobs = [row.key.value for row in table.ordered_rows]
        assert jobs == sorted(jobs, key=lambda job: (len(job or ""), job))
        await pilot.press("i")
        await until(pilot, lambda: [row.key.value for row in table.ordered_rows] == jobs[::-1])
        await pilot.press("greater_than_sign", "greater_than_sign", "i")
        await until(pilot, lambda: titles_of(table)[2] == "name ▼")
    app = app_on(run)
    async with app.run_test(size=(80, 24)) as pilot:
        table = table_of(app)
        await until(pilot, lambda: table.row_count == 7)
        names = [str(table.get_row(row.key)[2]) for row in table.ordered_rows]
        assert names == sorted(names, reverse=True)


async def test_behind_another_screen_nothing_is_asked(
    site: Site, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[None] = []
    everyone = Direct.everyone
    monkeypatch.setattr(Direct, "everyone", lambda one: asked.append(None) or everyone(one))
    monkeypatch.setattr(queue_pane, "EVERYONE_PERIOD", 0.0)
    run = tiny_run(site, workspace, create_env="wait")
    run.submit()
    app = app_on(run)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: bool(app.screen.query(QueueTable)) and table_of(app).row_count == 7)
        await pilot.press("2", "m", "m")
        await until(pilot, lambda: len(asked) > 2, "the queue to be asked again and again")
        await pilot.press("question_mark")
        await arrived(pilot, Keys)
        # What was asked just before is answered.
        await pilot.pause(1.5)
        before = len(asked)
        await pilot.pause(2.5)
        assert len(asked) == before
        await pilot.press("escape")
        await until(pilot, lambda: len(asked) > before)
    run.cancel()


async def test_a_slow_scheduler_is_not_asked_again_before_it_has_answered(
    site: Site, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[None] = []
    answer, everyone = Event(), Direct.everyone

    def slowly(self: Direct) -> list[Job]:
        asked.append(None)
        assert answer.wait(60)
        return everyone(self)

    monkeypatch.setattr(Direct, "everyone", slowly)
    monkeypatch.setattr(queue_pane, "EVERYONE_PERIOD", 0.0)
    run = tiny_run(site, workspace, create_env="wait")
    run.submit()
    app = app_on(run)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: bool(app.screen.query(QueueTable)) and table_of(app).row_count == 7)
        await pilot.press("2", "m", "m")
        await until(pilot, lambda: asked != [], "the question")
        for _ in range(3):
            app.screen.query_one(QueuePane).tick(0.0, True)
            await pilot.pause()
        assert len(asked) == 1
        answer.set()
        await until(pilot, lambda: len(asked) > 1, "the next question")
    run.cancel()


def test_a_preference_of_another_version_does_no_harm() -> None:
    assert chosen_columns(None) == chosen_columns("") == chosen_columns("no-such") == USUAL
    assert chosen_columns("user,no-such,job,user") == ("user", "job")
    assert chosen_sorting("no-such") == chosen_sorting(None) == Sorting("state")
    for one in (Sorting("job"), Sorting("time", True)):
        assert chosen_sorting(sorting_text(one)) == one


def test_nodes_in_one_line() -> None:
    assert node_summary("gpu*\x1fidle\x1f2\ngpu*\x1fdown*\x1f1\ndev\x1falloc\x1f4\nnoise\n") == (
        "gpu*: 2 idle, 1 down*; dev: 4 alloc"
    )


class _Alone(App[None]):
    def compose(self) -> ComposeResult:
        yield QueueTable()


async def test_a_clock_in_a_cell_leaves_nothing_behind() -> None:
    app = _Alone()
    async with app.run_test(size=(100, 20)) as pilot:
        table = app.query_one(QueueTable)
        job = Job("1", JobState.ACTIVE, "RUNNING", started=1_990, name="run/finetune/1")
        for second in range(20):
            table.show_jobs([job], 2_000 + second)
            await pilot.pause()
        await until(pilot, lambda: "0:25" in str(table.get_row("1")))
        assert len(table._cell_render_cache) <= 2 * len(table.titles)
