"""One run as it happens: stages, log, queue, loss; a failed stage is run again with one key."""

from __future__ import annotations

import gc
import time
from functools import cached_property, partial

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Container, Horizontal, Vertical
from textual.content import Content
from textual.events import Resize
from textual.geometry import Size
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Button, DataTable, Input, Static

from llama_tui.backend.diagnosis.symptoms import Symptoms
from llama_tui.backend.errors import UserError
from llama_tui.backend.explain import explain, symptoms_of
from llama_tui.backend.live import LinkChanged, LiveEvent, LogRead, MetricsRead, SnapshotTaken
from llama_tui.backend.place import Place
from llama_tui.backend.plain import printable
from llama_tui.backend.remaining import Expectations, learn, rough_text, whole_run
from llama_tui.backend.report_text import MARKS
from llama_tui.backend.runs import Snapshot
from llama_tui.backend.stages import Stage
from llama_tui.backend.states import StageState
from llama_tui.tui.background import in_background
from llama_tui.tui.clocks import running_text
from llama_tui.tui.notifying import tell_terminal
from llama_tui.tui.screens.run_actions import RunScreen
from llama_tui.tui.widgets.action_label import ActionLabel
from llama_tui.tui.widgets.failure_panel import FailurePanel, needs_explaining
from llama_tui.tui.widgets.key_bar import KeyBar
from llama_tui.tui.widgets.log_pane import LogPane
from llama_tui.tui.widgets.log_view import LogView
from llama_tui.tui.widgets.loss_plot import LossPlot
from llama_tui.tui.widgets.queue_pane import QueuePane
from llama_tui.tui.widgets.tables import StageTable

WIDE, HIGH = 132, 32
# From here on the log has room for its lines beside wider tables; below that, there is none for every word to click.
BROAD, NARROW = 190, 60
PANES = ("log", "queue", "loss")
_FOCUS = {"log": "#log", "queue": "#queue", "loss": "#pane-loss"}


class Live(Message):
    """Something that LiveRun tells, handed over to the UI thread."""

    def __init__(self, event: LiveEvent) -> None:
        super().__init__()
        self.event = event


class MonitorScreen(RunScreen):
    """Shows a run.

    Args:
        place: where it is.
        run_id: its name; empty for the newest there.
    """

    AUTO_FOCUS = "#stages"
    BINDINGS = [
        # First in the footer, while it does something.
        Binding("z", "unzoom", "Show all"),
        Binding("r", "rerun", "Rerun"),
        Binding("t", "other_settings", "Rerun with other settings", show=False),
        Binding("c", "cancel", "Cancel"),
        Binding("k", "report", "Report for a colleague", show=False),
        Binding("o", "compare", "Answers"),
        Binding("s", "script", "Script", show=False),
        Binding("slash", "log('search')", "Find", priority=True),
        Binding("n", "log('next')", "Next match", show=False),
        Binding("N", "log('previous')", "Previous match", show=False),
        Binding("e", "log('first_error')", "First error", show=False),
        Binding("w", "log('wrap')", "Wrap the log", show=False),
        Binding("y", "log('copy')", "Copy selection or line", show=False),
        Binding("p", "log('pager')", "Log in $PAGER", show=False),
        Binding("left_square_bracket", "log('older')", "Attempt before", show=False),
        Binding("right_square_bracket", "log('newer')", "Attempt after", show=False),
        Binding("1", "pane('log')", "Log", show=False),
        Binding("2", "pane('queue')", "Queue", show=False),
        Binding("3", "pane('loss')", "Loss", show=False),
        Binding("z", "zoom", "Zoom the pane", show=False),
        Binding("a", "more", "All of what failed, or two lines", show=False),
        Binding("m", "queue('scope')", "Queue: this run / mine / all", show=False),
        Binding("x", "retry", "Connect now", show=False),
        # The first of these that there is to do.
        Binding("escape", "end_search", "End search"),
        Binding("escape", "unzoom", "Show all"),
        Binding("escape", "leave", "Runs"),
        Binding("q", "app.quit", "Quit"),
    ]

    def __init__(self, place: Place, run_id: str) -> None:
        super().__init__(place, run_id)
        self.expected = Expectations()
        self._pinned: tuple[Stage, int] | None = None
        self._lost_since: float | None = None
        self._told_end: StageState | None = None
        # Whether something came in that the clocks' next step must not be waited for.
        self._stale = False
        self._alarm = ""
        # From what each diagnosis was made, its log apart: the scheduler's word comes later than a stage's own.
        self._diagnosed: dict[tuple[Stage, int, StageState], Symptoms] = {}

        self._before_zoom: Widget | None = None

        # Kept, since pieces of the log come on other threads, also while the screen goes away.
        self._log_pane = LogPane(lambda: self.live, id="pane-log")

    def compose(self) -> ComposeResult:
        # What is set before a widget is mounted costs no second look at the style of all that is in it.
        self._set_layout(self.app.size)
        yield Static("", id="title", markup=False)
        yield _hidden("link")
        yield _hidden("alarm")
        yield FailurePanel()
        with Container(id="body"):
            with Vertical(id="top"):
                yield StageTable(id="stages")
                with Horizontal(id="tabs", classes="bar"):
                    for number, name in enumerate(PANES, 1):
                        act = partial(self.action_pane, name)
                        yield ActionLabel(f"{number} {name}", act, str(number), id=f"tab-{name}")
                    yield Static("", classes="gap")
                    yield ActionLabel(
                        "script", self.action_script, "s  the script of this stage", id="do-script"
                    )
                    yield ActionLabel("zoom", self._zoom_clicked, "z  the pane alone", id="do-zoom")
            queue, loss = QueuePane(lambda: self.live, id="pane-queue"), LossPlot(id="pane-loss")
            for pane in (self._log_pane, queue, loss):
                yield pane.add_class("pane")
        yield KeyBar()

    def on_mount(self) -> None:
        """Begins to look."""
        self._show_title()
        self._activate("log")
        self.live.start()
        self.set_interval(1.0, self._tick)

    def on_unmount(self) -> None:
        """Jobs go on; only our looking ends."""
        self.live.close()

    @property
    def stage(self) -> Stage:
        """The one under the cursor."""
        return self.query_one(StageTable).stage

    @property
    def chosen(self) -> tuple[tuple[Stage, int] | None, bool]:
        """The stage and attempt whose log was chosen, and whether its end is followed."""
        return self._pinned, self._log_pane.view.following

    def back_to_current(self) -> None:
        """The log follows the run again."""
        self._pinned = None
        self._choose_log(by_hand=True)
        self._log_pane.view.following = True

    def tell(self, event: LiveEvent) -> None:
        """Hands over what happens, to the UI thread."""
        if isinstance(event, LogRead):
            # Not a message each: a burst would bury every key that is pressed.
            self._log_pane.take(event)
        else:
            self.post_message(Live(event))

    @on(Live)
    def _take(self, message: Live) -> None:
        match message.event:
            case SnapshotTaken(snapshot):
                self._take_snapshot(snapshot)
            case MetricsRead(points, fresh, resumed):
                self._plot.add(points, fresh, resumed)
                self._stale = True
            case LinkChanged():
                self._take_link(message.event)

    # --- what came in

    def _take_snapshot(self, snapshot: Snapshot) -> None:
        first = self.snapshot is None
        self.snapshot = snapshot
        self._show_title()
        self._show_stages()
        self._show_failure()
        self._choose_log()
        if first:
            self.query_one(StageTable).move_cursor(row=snapshot.current.stage.number)
            self._learn()
            # All that was made until now stays: looking through it for garbage would hold up keys for 100 ms.
            gc.freeze()
        if snapshot.finished and not first and self._told_end is not snapshot.state:
            self._tell_end(snapshot)
        self._told_end = snapshot.state if snapshot.finished else None

    def _tell_end(self, snapshot: Snapshot) -> None:
        if snapshot.state is StageState.DONE:
            words = "All seven stages are done"
            self.notify(f"{words}. Press o for the two models' answers.", timeout=15)
        else:
            words = f"{snapshot.current.stage} {snapshot.state}"
            self.notify(words, severity="error", timeout=15, markup=False)
        tell_terminal(self.app, f"llama-tui: {snapshot.run_id}", words)

    @work(exclusive=True, group="learn", exit_on_error=False)
    async def _learn(self) -> None:
        """What earlier runs tell of how long this one takes; without them nothing is claimed."""
        try:
            self.expected = await in_background(lambda: self.live.do(learn))
        except UserError:
            return
        self._stale = True

    def _take_link(self, change: LinkChanged) -> None:
        bar = self.query_one("#link", Static)
        bar.display = not change.connected
        self._stale = True
        if change.connected:
            self._lost_since = None
            return
        self._lost_since = self._lost_since or time.monotonic()
        again = (
            f" Trying again in {change.retry_in:.0f} s (x: now)." if change.retry_in else " (x: try again)"
        )
        bar.update(printable(f"⚠ {change.words}.{again} The jobs go on; below is what was known last."))

    # --- what is shown

    def _now(self) -> float:
        return time.time() + self.live.clock_offset

    @cached_property
    def _stages(self) -> StageTable:
        return self.query_one(StageTable)

    @cached_property
    def _queue(self) -> QueuePane:
        return self.query_one(QueuePane)

    @cached_property
    def _plot(self) -> LossPlot:
        return self.query_one(LossPlot)

    def _tick(self) -> None:
        """Once a second, and cheap: what nothing has changed is not even looked at."""
        if self.snapshot is None:
            return
        now = self._now()
        if self._stale or now >= self._stages.changes_at:
            self._stale = False
            self._show_stages()
            self._show_title()
        elif self._lost_since is not None:
            self._show_title()
        wide = self.has_class("wide") and not self.has_class("zoomed")
        self._queue.tick(now, self.is_active and (wide or self._queue.has_class("active")))
        self._watch_training(now, wide or self._plot.has_class("active"))

    def _watch_training(self, now: float, visible: bool) -> None:
        training = self.snapshot.view(Stage.FINETUNE) if self.snapshot else None
        if training is None:
            return
        trains = training.state is StageState.RUNNING
        self._plot.tick(now if trains else None, visible, training.started or 0.0)
        words = "\n".join(f"⚠ {one}" for one in self._plot.alarms)
        if words != self._alarm:
            self._alarm = words
            self.query_one("#alarm").display = bool(words)
            self._write("#alarm", words)

    def _write(self, selector: str, words: str) -> None:
        """Repaints only what has changed."""
        line = self.query_one(selector, Static)
        if str(line.content) != words:
            line.update(words)

    def _show_title(self) -> None:
        parts = [self._run_id or "newest run"]
        if self.snapshot is None:
            parts.append("… connecting")
        else:
            state = self.snapshot.state
            parts.append(f"{MARKS[state]} {state}")
            left = whole_run(self.snapshot.views, self._now(), self.expected, self._plot.points)
            if left is not None and not self.snapshot.finished:
                parts.append(f"about {rough_text(left)} left")
            if self.snapshot.problem:
                parts.append(f"⚠ the scheduler does not answer: {printable(self.snapshot.problem)}")
        if self._lost_since is not None:
            parts.append(f"not connected for {running_text(time.monotonic() - self._lost_since)}")
        # Last, since a narrow terminal has no room for all.
        self._write("#title", "  ·  ".join([*parts, self.place.label]))
        problem = self.snapshot.problem if self.snapshot else ""
        self.query_one("#title").tooltip = Content(printable(problem)) if problem else None

    def _show_stages(self) -> None:
        if self.snapshot is None:
            return
        now = self._now()
        self._stages.show_stages(self.snapshot.views, now, self.expected, self._plot.points)
        self._queue.take(self.snapshot, now)

    def _show_failure(self) -> None:
        """What failed at once; why, and what to do, as soon as its log was looked at."""
        snapshot = self.snapshot
        if snapshot is None:
            return
        view = snapshot.current
        key = (view.stage, view.attempt, view.state)
        self.query_one(FailurePanel).show(snapshot, self.diagnoses.get(key))
        symptoms = symptoms_of(view, snapshot, "")
        if needs_explaining(view) and self._diagnosed.get(key) != symptoms:
            self._diagnosed[key] = symptoms
            # One of another stage goes on beside it.
            self.run_worker(
                self._diagnose(key), group=f"diagnosis {key}", exclusive=True, exit_on_error=False
            )

    async def _diagnose(self, key: tuple[Stage, int, StageState]) -> None:
        snapshot = self.snapshot
        if snapshot is None:
            return
        try:
            found = await in_background(lambda: self.live.do(lambda run: explain(run, snapshot, key[0])))
        except UserError:
            # Asked again with the next snapshot, when the link is back.
            self._diagnosed.pop(key, None)
            return
        self.diagnoses[key] = found
        self._show_failure()

    # --- which log

    @on(LogView.FollowingChanged)
    def _read_to_the_end(self) -> None:
        self._choose_log()

    def _choose_log(self, by_hand: bool = False) -> None:
        """Shows the log of the stage that matters now, unless somebody chose another, or reads in the one before.

        Args:
            by_hand: somebody asked for it, wherever they read.
        """
        if self.snapshot is None:
            return
        reading = None if by_hand else self._log_pane.reading
        stage, attempt = self._pinned or reading or (self.snapshot.current.stage, 0)
        view = self.snapshot.view(stage)
        last = max(1, view.attempt)
        nothing = "Nothing yet." if view.started else f"{stage} has not begun ({view.state}). {view.reason}"
        pane = self._log_pane
        pane.choose(stage, attempt or last, last, printable(nothing), self._pinned is not None)

    @on(DataTable.RowSelected, "#stages")
    def _stage_chosen(self) -> None:
        if self.snapshot is None:
            return
        stage = self.query_one(StageTable).stage
        self._pinned = None if stage is self.snapshot.current.stage else (stage, 0)
        self._choose_log(by_hand=True)
        self._activate("log")

    @on(LogPane.AttemptChosen)
    def _attempt_chosen(self, event: LogPane.AttemptChosen) -> None:
        shown = self._log_pane.shown
        if self.snapshot is None or shown is None:
            return
        last = max(1, self.snapshot.view(shown.stage).attempt)
        wanted = shown.attempt + event.by
        if not 1 <= wanted <= last:
            side = "before" if event.by < 0 else "after"
            self.notify(f"There is no attempt of {shown.stage} {side} this one.", markup=False)
            return
        current = shown.stage is self.snapshot.current.stage and wanted == last
        self._pinned = None if current else (shown.stage, wanted)
        self._choose_log(by_hand=True)
        self._activate("log")

    # --- panes

    def on_resize(self, event: Resize) -> None:
        """Wide terminals show everything at once."""
        self._set_layout(event.size)
        self.query_one(FailurePanel).fit()

    def _set_layout(self, size: Size) -> None:
        self.set_class(size.width >= WIDE and size.height >= HIGH, "wide")
        self.set_class(size.width >= BROAD, "broad")
        self.set_class(size.width < NARROW, "narrow")

    def action_pane(self, name: str) -> None:
        """Shows a pane and puts the cursor into it."""
        self._activate(name)
        self.query_one(_FOCUS[name]).focus()

    def action_log(self, command: str) -> None:
        """A key of the log pane, wherever the cursor is."""
        self._activate("log")
        self._log_pane.commands[command]()

    def action_queue(self, command: str) -> None:
        """A key of the queue pane."""
        self.query_one(QueuePane).commands[command]()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A slash in the search line is text; only what was begun can be ended."""
        if (action, parameters) == ("log", ("search",)):
            return not isinstance(self.focused, Input)
        if action == "end_search":
            return self._log_pane.searching
        if action in {"zoom", "unzoom"}:
            return self.has_class("zoomed") == (action == "unzoom")
        return super().check_action(action, parameters)

    def action_more(self) -> None:
        """All that is known of a failure, or two lines of it."""
        self.query_one(FailurePanel).toggle()

    def action_zoom(self) -> None:
        """The pane with the cursor alone, else the one that was chosen."""
        name = next((one for one in PANES if self._pane(one).has_focus_within), self._active)
        self._activate(name)
        self._before_zoom = self.focused
        self._set_zoomed(True)
        self.set_focus(self.query_one(_FOCUS[name]))

    def action_unzoom(self) -> None:
        """Everything again."""
        self._set_zoomed(False)
        if self._before_zoom is not None:
            self.set_focus(self._before_zoom)

    def _set_zoomed(self, zoomed: bool) -> None:
        self.set_class(zoomed, "zoomed")
        label = self.query_one("#do-zoom", ActionLabel)
        label.set_class(zoomed, "on")
        label.update("end zoom" if zoomed else "zoom")
        self.refresh_bindings()

    def _zoom_clicked(self) -> None:
        if self.has_class("zoomed"):
            self.action_unzoom()
        else:
            self.action_zoom()

    def _pane(self, name: str) -> Widget:
        return self.query_one(f"#pane-{name}")

    @property
    def _active(self) -> str:
        return next(name for name in PANES if self._pane(name).has_class("active"))

    def _activate(self, name: str) -> None:
        for pane in PANES:
            self._pane(pane).set_class(pane == name, "active")
            self.query_one(f"#tab-{pane}").set_class(pane == name, "on")

    # --- actions

    @on(Button.Pressed, "#failure-buttons Button")
    async def _button(self, event: Button.Pressed) -> None:
        await self.run_action(f"screen.{event.button.name}")

    def action_end_search(self) -> None:
        """The log without its search."""
        self._log_pane.end_search()

    def action_leave(self) -> None:
        """To the list of runs."""
        from llama_tui.tui.screens.runs import RunsScreen

        self.app.switch_screen(RunsScreen())


def _hidden(name: str) -> Static:
    line = Static("", id=name, markup=False)
    line.display = False
    return line
