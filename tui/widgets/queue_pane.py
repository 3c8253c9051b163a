"""The scheduler's queue: jobs of this run, all of mine, or everybody's; a job's details, and its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property, partial
from typing import TypeVar

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import DataTable, Static

from llama_tui.backend.errors import UserError
from llama_tui.backend.live import LiveRun
from llama_tui.backend.plain import printable
from llama_tui.backend.runs import Run, Snapshot, belongs
from llama_tui.backend.schedulers.base import Job
from llama_tui.tui.background import in_background
from llama_tui.tui.promises import promises_of
from llama_tui.tui.screens.columns import Columns
from llama_tui.tui.screens.dialogs import Confirm
from llama_tui.tui.screens.late_answer import LateAnswer
from llama_tui.tui.widgets.action_label import ActionLabel
from llama_tui.tui.widgets.queue_columns import COLUMNS, USUAL, moment
from llama_tui.tui.widgets.queue_table import QueueTable

Answer = TypeVar("Answer")

SCOPES = ("run", "mine", "all")
_NO_JOBS = {
    "run": "No job of this run is in the queue. m shows your other jobs, then everybody's.",
    "mine": "You have no jobs in the queue.",
    "all": "Nobody has a job in the queue.",
}
_WORDS = {"run": "this run", "mine": "mine", "all": "everybody's"}
# Seconds; both are asked only while somebody can see the answer, and something goes on.
EVERYONE_PERIOD, NODES_PERIOD = 20.0, 120.0
# When something was asked last, where that is no moment. A slow scheduler is waited for and not asked again meanwhile.
_NEVER, _UNDER_WAY = float("-inf"), float("inf")
_AS_OF = (
    "Nothing goes on, so the scheduler is not asked any more. It is asked again when something happens in this run, "
    "and when you choose whose jobs to show."
)
# An answer that takes longer is said to be waited for.
PATIENCE = 0.7


class QueuePane(Vertical):
    """Shows the queue.

    Args:
        live: where to ask.
    """

    def __init__(self, live: Callable[[], LiveRun], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._live = live
        self.scope = "run"
        self._snapshot: Snapshot | None = None
        # None until it was answered: till then this person's jobs are shown.
        self._everyone: list[Job] | None = None
        self._now = 0.0
        self._asked_everyone = self._asked_nodes = _NEVER
        # When they were answered, on the host's clock.
        self._everyone_at = self._nodes_at = 0.0
        self._node_words = ""
        self._complains = False
        self.commands: dict[str, Callable[[], object]] = {
            "scope": self.next_scope,
            "details": self.details,
            "cancel": self.cancel,
            "columns": self.choose_columns,
        }

    def compose(self) -> ComposeResult:
        with Horizontal(classes="bar", id="queue-bar"):
            for scope in SCOPES:
                yield ActionLabel(_WORDS[scope], partial(self.set_scope, scope), "m", id=f"scope-{scope}")
            yield Static("", id="nodes", markup=False)
            yield ActionLabel(
                "columns", self.choose_columns, "v  which columns, in which order", id="queue-columns"
            )
            yield ActionLabel("details", self.details, "Enter", id="queue-details")
            yield ActionLabel("cancel job", self.cancel, "d", id="queue-cancel")
        yield QueueTable(id="queue")
        yield Static("", id="no-jobs", markup=False)

    def on_mount(self) -> None:
        """Begins with this run's jobs."""
        self.set_scope("run")

    # --- what is shown

    def take(self, snapshot: Snapshot, now: float) -> None:
        """Takes in what is known of this person's jobs."""
        if snapshot is not self._snapshot:
            self._snapshot = snapshot
            self._show(now)
            self._show_nodes()

    def _show(self, now: float) -> None:
        self._now = now
        jobs = list(self._snapshot.jobs or ()) if self._snapshot else []
        if self.scope == "run" and self._snapshot:
            jobs = [job for job in jobs if belongs(job, self._snapshot.run_id)]
        elif self.scope == "all" and self._everyone is not None:
            jobs = self._everyone
        self._table.show_jobs(jobs, now)
        self.set_class(not jobs, "empty")
        words = _NO_JOBS[self.scope] if self._snapshot else "… asking the scheduler"
        line = self.query_one("#no-jobs", Static)
        if not jobs and str(line.content) != words:
            line.update(words)

    def tick(self, now: float, visible: bool) -> None:
        """Once a second: refreshes what is old, while somebody can see it."""
        if self._snapshot is None or not visible:
            return
        if now >= self._table.changes_at:
            self._show(now)
        if self.scope == "all" and self._is_due(self._asked_everyone, EVERYONE_PERIOD):
            self._asked_everyone = _UNDER_WAY
            self._ask_everyone()
        if self._is_due(self._asked_nodes, EVERYONE_PERIOD if self._complains else NODES_PERIOD):
            self._asked_nodes = _UNDER_WAY
            self._ask_nodes()

    @cached_property
    def _table(self) -> QueueTable:
        return self.query_one(QueueTable)

    def _is_due(self, asked: float, period: float) -> bool:
        """Once after somebody has chosen what to see, then again and again while something goes on."""
        return asked == _NEVER or (not self._rests and time.monotonic() - asked > period)

    @property
    def _rests(self) -> bool:
        """Whether nothing is asked any more, since nothing goes on of what is shown."""
        if self._snapshot is None or not self._snapshot.resting:
            return False
        return self.scope != "all" or all(job.state.final for job in self._everyone or ())

    @work(exclusive=True, group="everyone", exit_on_error=False)
    async def _ask_everyone(self) -> None:
        try:
            jobs = await in_background(lambda: self._live().do(lambda run: run.site.scheduler.everyone()))
        except UserError as error:
            self._tell_nodes(error.message, complains=True)
        else:
            self._everyone, self._everyone_at = jobs, self._host_time()
            self._show(self._everyone_at)
            self._show_nodes()
        self._asked_everyone = time.monotonic()

    @work(exclusive=True, group="nodes", exit_on_error=False)
    async def _ask_nodes(self) -> None:
        try:
            words = await in_background(lambda: self._live().do(lambda run: run.site.scheduler.nodes()))
        except UserError as error:
            self._tell_nodes(error.message, complains=True)
        else:
            self._tell_nodes(words)
        self._asked_nodes = time.monotonic()

    def _tell_nodes(self, words: str, complains: bool = False) -> None:
        """What the nodes do, or why that is not known: then it is asked again soon."""
        self._complains = complains
        self._node_words, self._nodes_at = printable(f"⚠ {words}" if complains else words), self._host_time()
        self._show_nodes()

    def _show_nodes(self) -> None:
        """Where nothing is asked any more, with how old all of it is."""
        words = hint = self._node_words
        if self._rests and self._snapshot is not None and self._snapshot.seen is not None:
            jobs = (
                self._everyone_at
                if self.scope == "all" and self._everyone is not None
                else self._snapshot.seen
            )
            age = f"as of {moment(min(jobs, self._nodes_at) if self._node_words else jobs)}"
            words, hint = "  ·  ".join(filter(None, (age, words))), f"{words}\n{_AS_OF}".strip()
        line = self.query_one("#nodes", Static)
        if str(line.content) != words:
            line.update(words)
            line.tooltip = Content(hint)

    def _host_time(self) -> float:
        return time.time() + self._live().clock_offset

    # --- what is done

    def choose_columns(self) -> None:
        """Asks which columns to show, and in which order."""
        table = self._table

        def take(names: tuple[str, ...] | None) -> None:
            if names is not None:
                table.choose_columns(names)

        known = {name: column.words for name, column in COLUMNS.items()}
        self.app.push_screen(Columns(known, table.titles, USUAL), take)

    def set_scope(self, scope: str) -> None:
        """Whose jobs to show: `run`, `mine` or `all`."""
        if self._rests:
            self._asked_nodes = _NEVER
            self._look_again()
        self.scope = scope
        self._everyone = None
        self._asked_everyone = _NEVER
        for one in SCOPES:
            self.query_one(f"#scope-{one}").set_class(one == scope, "on")
        self._show(self._now)
        self._show_nodes()

    @work(exclusive=True, group="again", exit_on_error=False)
    async def _look_again(self) -> None:
        """Asks for this person's jobs now."""
        await in_background(lambda: self._live().look_again())

    def next_scope(self) -> None:
        """This run, mine, everybody's, and round again."""
        self.set_scope(SCOPES[(SCOPES.index(self.scope) + 1) % len(SCOPES)])
        self.notify(f"The queue shows: {_WORDS[self.scope]}.", timeout=2)

    async def _asked(self, ask: Callable[[Run], Answer], promise: str = "") -> Answer:
        """What the scheduler answers; a person who has to wait for it is told so.

        Args:
            promise: what it is called where it has to come to its end.
        """
        waiting = self.set_timer(PATIENCE, lambda: self.notify("The scheduler is being asked …"))
        work = partial(self._live().do, ask)
        try:
            return await (promises_of(self.app).keep(promise, work) if promise else in_background(work))
        finally:
            waiting.stop()

    @on(DataTable.RowSelected, "#queue")
    def _row_selected(self, event: DataTable.RowSelected) -> None:
        event.stop()
        self.details()

    @work(exclusive=True, group="ask", exit_on_error=False)
    async def details(self) -> None:
        """All that the scheduler knows of the job under the cursor."""
        job = self._table.chosen
        if job is None:
            return
        late = LateAnswer(self.screen)
        try:
            text = await self._asked(lambda run: run.site.scheduler.detail(job))
        except UserError as error:
            self.notify(error.message, severity="warning", markup=False)
            return
        late.show(f"Job {job}", printable(text), f"What is known of job {job} is there: Enter shows it.")

    @work(exclusive=True, group="ask", exit_on_error=False)
    async def cancel(self) -> None:
        """Ends the job under the cursor, after a question."""
        job = self._table.chosen
        if job is None:
            return
        words = "It ends at once; jobs that wait for it will not start."
        if not await self.app.push_screen_wait(Confirm(f"Cancel job {job}?", words, "Cancel the job")):
            return
        late = LateAnswer(self.screen)
        try:
            await self._asked(lambda run: run.site.scheduler.cancel([job]), f"end of job {job}")
        except UserError as error:
            late.show_error(error)
            return
        self._asked_everyone = _NEVER
        self._look_again()
        self.notify(f"Job {job} was told to end.", markup=False)
