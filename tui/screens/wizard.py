"""The wizard: seven steps, checked together, one key from launch at the end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.events import DescendantFocus
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import ContentSwitcher, Input, Static
from textual.worker import Worker, WorkerCancelled, WorkerFailed

from llama_tui.backend import places
from llama_tui.backend.consequences import layout_lines, training_lines
from llama_tui.backend.data_look import look_text
from llama_tui.backend.draft import draft_at, draft_typed, load_draft, save_draft
from llama_tui.backend.errors import UserError
from llama_tui.backend.foresight import foreseen, warnings
from llama_tui.backend.place import Place
from llama_tui.backend.plain import printable
from llama_tui.backend.preflight.check import Check, Result
from llama_tui.backend.preflight.checks import run_checks
from llama_tui.backend.settings import Settings, Stack, defaults
from llama_tui.tui.background import from_thread, in_background
from llama_tui.tui.connections import hosts_of
from llama_tui.tui.launching import TokenWish, launch
from llama_tui.tui.promises import promises_of
from llama_tui.tui.screens.dialogs import Confirm
from llama_tui.tui.screens.late_answer import LONG, LateAnswer
from llama_tui.tui.screens.patient import PatientScreen
from llama_tui.tui.screens.settings_files import open_settings, save_settings
from llama_tui.tui.steps.answers import Answers
from llama_tui.tui.steps.forms import (
    LORA,
    RESOURCES,
    REVIEW,
    STEPS,
    TOKEN,
    USUAL,
    WHERE,
    StepForm,
    first_wrong,
    step_named,
    step_of,
)
from llama_tui.tui.steps.host_sight import HostSight
from llama_tui.tui.steps.pane import StepPane
from llama_tui.tui.steps.review import ReviewPane
from llama_tui.tui.steps.token import TokenPane
from llama_tui.tui.steps.where import WherePane
from llama_tui.tui.widgets.choice import Choice
from llama_tui.tui.widgets.fields import FieldRow
from llama_tui.tui.widgets.host_paths import HostPaths
from llama_tui.tui.widgets.key_bar import KeyBar
from llama_tui.tui.widgets.rail import RailStep

TITLE = "llama-tui: fine-tune a Llama"
RESUMED = "These are your answers of last time. Ctrl+R starts over."
DRAFT_PAUSE = 0.5


class WizardScreen(PatientScreen):
    """Asks for everything once.

    Args:
        settings: the first answers.
        review: begin at the last step.
        field: the field to begin at, `token` for the token; empty for the first one of the step.
        step: the step to begin at, where no field is named.
        why: what to tell, once, of the field where it begins.
        typed: what was typed in place of some answers and is wrong, {dotted field: answer}.
        of: the run whose settings the first answers are.
        back: makes the screen that one came from, where that was not the list of runs.
    """

    BINDINGS = [
        # Ctrl+N and Ctrl+T never reach a page in a browser.
        Binding("ctrl+n,f8", "next", "Next step", priority=True),
        # Before the field itself: what is typed at once after it belongs to the next one.
        Binding("enter", "enter", "Next field", priority=True, show=False),
        Binding("ctrl+b", "back", "Back", priority=True),
        Binding("ctrl+l", "launch", "Launch", priority=True),
        Binding("ctrl+s", "save", "Save TOML", priority=True),
        Binding("ctrl+o", "open", "Open TOML", priority=True, show=False),
        Binding("ctrl+d", "look", "Look at the data", priority=True, show=False),
        Binding("ctrl+t,f2", "test", "Test connection", priority=True, show=False),
        Binding("ctrl+r", "start_over", "Start over", priority=True, show=False),
        Binding("escape", "return", "To the run"),
        Binding("escape", "leave", "Runs"),
    ]

    def __init__(
        self,
        settings: Settings,
        review: bool = False,
        *,
        field: str = "",
        step: StepForm = WHERE,
        why: str = "",
        typed: Mapping[str, Any] | None = None,
        of: str = "",
        back: Callable[[], Screen[None]] | None = None,
    ) -> None:
        super().__init__()
        self._title = f"llama-tui: settings of {printable(of)}" if of else TITLE
        self._back = back
        self.answers = Answers(settings, typed)
        # What was wrong before is told at once.
        self._resumed_wrong = set(typed or {})
        self._first = REVIEW if review else step_of(field) if field else step
        self._step = self._first
        self._field = field
        self._why = why
        self._told_at: Widget | None = None
        self._going = asyncio.Lock()
        # Whoever is led to a step further on has been at those before it.
        self._visited: set[StepForm] = set() if review else set(STEPS[: STEPS.index(self._first)])
        self._launching = False
        self._launched = False
        self._changes = False
        # What the last look at the host found that would stop the run.
        self._failed: list[Check] = []
        self._rows: list[FieldRow] = []
        self._host_names: list[str] = []
        self._host = HostSight()
        self._inspection: Worker[None] | None = None

    @classmethod
    def resumed(cls) -> WizardScreen:
        """The wizard where it was interrupted; with the defaults where none was."""
        draft = load_draft()
        if draft is None:
            return cls(defaults(Stack.NEURON))
        step, field = draft_at()
        field = field if step_of(field).key == step else ""
        typed = draft_typed()
        why = RESUMED if typed or draft != defaults(draft.stack) else ""
        return cls(draft, field=field, step=step_named(step), why=why, typed=typed)

    @property
    def settings(self) -> Settings:
        """The last answers that were right."""
        return self.answers.settings

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong, by field."""
        pane = self._token_pane
        token = {TOKEN.key: pane.problem} if pane is not None and pane.problem else {}
        return self.answers.problems | token

    def compose(self) -> ComposeResult:
        yield Static(self._title, id="title", markup=False)
        with Horizontal(id="wizard"):
            with Vertical(id="rail"):
                for step in STEPS:
                    yield RailStep(step)
            with ContentSwitcher(id="steps", initial=f"step-{self._first.key}"):
                yield self._make(self._first)
        yield Static("", id="live", markup=False)
        yield Static("", id="help", markup=False)
        yield KeyBar()

    def on_mount(self) -> None:
        """Shows the first step; what takes time comes after it."""
        self._take()
        self._arrive(self._field)
        self._look_up_hosts()

    @work(exclusive=True, group="hosts", exit_on_error=False)
    async def _look_up_hosts(self) -> None:
        self._host_names += await in_background(hosts_of(self.app).names)

    # --- steps

    async def _go(self, step: StepForm, field: str = "") -> None:
        # By key and by mouse at once it would be made twice.
        async with self._going:
            self.hold_keys()
            self._take()
            self._visited.add(self._step)
            switcher = self.query_one(ContentSwitcher)
            if not switcher.query(f"#step-{step.key}"):
                await switcher.add_content(self._make(step), set_current=False)
                self._take()
            self._step = step
            switcher.current = f"step-{step.key}"
            self._arrive(field)

    def _arrive(self, field: str) -> None:
        pane, step = self._pane(self._step), self._step
        self._show_problems()
        if isinstance(pane, ReviewPane):
            pane.show(self.settings, self.problems, warnings(self.settings))
            self._inspection = self._inspect(pane)
        self._show_live()
        self._field = field
        self.give_focus(pane.stop_at(field))
        self._save_draft()
        if step not in {WHERE, REVIEW}:
            self._reach(places.place_of(self.settings))

    def _make(self, step: StepForm) -> StepPane:
        suggesters = {name: HostPaths(lambda: self._host.site, usual) for name, usual in USUAL.items()}
        suggesters["where.host"] = HostPaths(lambda: None, self._host_names)
        pane = _PANES.get(step, StepPane)(step, self.answers, suggesters)
        self._rows += pane.rows
        return pane

    def _pane(self, step: StepForm) -> StepPane:
        return self.query_one(f"#step-{step.key}", StepPane)

    @property
    def _token_pane(self) -> TokenPane | None:
        return next(iter(self.query(TokenPane)), None)

    async def action_next(self) -> None:
        """To the following step."""
        await self.all_typed()
        at = STEPS.index(self._step)
        if at + 1 < len(STEPS):
            await self._go(STEPS[at + 1])

    async def action_back(self) -> None:
        """To the step before; nothing is lost."""
        await self.all_typed()
        at = STEPS.index(self._step)
        if at:
            await self._go(STEPS[at - 1])

    @on(RailStep.Chosen)
    async def _rail_chosen(self, event: RailStep.Chosen) -> None:
        await self._go(event.step)

    async def action_enter(self) -> None:
        """Goes to the next field, after the last one to the next step; where an answer of this one is wrong, to that."""
        await self.all_typed()
        self._take()
        self._show_problems()
        pane, at = self._pane(self._step), self.focused
        if at is None or pane.enter(at):
            return
        stops = [widget for widget in pane.stops() if widget.display]
        further = stops[stops.index(at) + 1 :] if at in stops else []
        wrong = first_wrong(self.problems, self._step)
        if further:
            self.set_focus(further[0])
        elif wrong is not None:
            self._go_to_problem(wrong)
        else:
            await self.action_next()

    # --- answers

    def _take(self) -> None:
        """Takes all answers together, and shows what follows from them."""
        for row in self._take_rows():
            if row.path in self.answers.given:
                row.show_follows(None)
            else:
                row.show(self.answers.shown(row.path), self.answers.followed.get(row.path))

    def _take_rows(self) -> list[FieldRow]:
        self._changes = False
        rows = [row for row in self._rows if row.ready]
        self.answers.take({row.path: row.answer for row in rows}, {row.path for row in rows if row.given})
        return rows

    def _show_problems(self) -> None:
        problems = self.problems
        broken = {step_of(field) for field in problems}
        for row in self._rows:
            if not row.ready:
                continue
            visited = step_of(row.path) in self._visited or row.touched or row.path in self._resumed_wrong
            row.show_problem(problems.get(row.path, "") if visited else "")
        for rail in self.query(RailStep):
            step = rail.step
            rail.show(current=step is self._step, broken=step in broken, visited=step in self._visited)
        for where in self.query(WherePane):
            where.place = None if WHERE in broken else places.place_of(self.settings)

    @on(Input.Changed)
    @on(Choice.Changed)
    def _changed(self) -> None:
        # Several keys, or a key and what follows from it, are judged once, when the keys are on the screen.
        if not self._changes:
            self._changes = True
            self.call_after_refresh(self._take_changes)

    def _take_changes(self) -> None:
        if self._changes:
            self._take()
            self._show_live()

    @on(FieldRow.Left)
    def _field_left(self) -> None:
        self._take()
        self._show_problems()
        self._save_draft()

    @work(exclusive=True, group="live", exit_on_error=False)
    async def _show_live(self) -> None:
        """What the answers come to, below the steps where they decide it."""
        live, settings = self.query_one("#live", Static), self.answers.loose
        live.display = self._step in {LORA, RESOURCES}
        if self._step is RESOURCES:
            live.update("\n".join(layout_lines(settings)))
        elif self._step is LORA:
            look = await self._host.known_look(settings)
            found = await in_background(lambda: foreseen(settings, None, look=look))
            live.update("\n".join(training_lines(settings, found)))

    @on(DescendantFocus)
    def _show_help(self, event: DescendantFocus) -> None:
        widget, pane = event.widget, self._pane(self._step)
        if pane not in widget.ancestors:
            return
        self._told_at = self._told_at or widget
        if widget is not self._told_at:
            self._why = ""
        row = pane.row_of(widget)
        self._field = row.path if row else TOKEN.key if widget.id == TOKEN.key else ""
        words = [self._why, pane.help_of(widget)]
        self.query_one("#help", Static).update("\n".join(one for one in words if one))

    @work(exclusive=True, group="site", exit_on_error=False)
    async def _reach(self, place: Place) -> None:
        if await self._host.reach(place, hosts_of(self.app)):
            self._show_live()

    @work(exclusive=True, group="inspect", exit_on_error=False)
    async def _inspect(self, pane: ReviewPane) -> None:
        """What the run will take, then whether the host has all that it needs."""
        settings, self._failed = self.settings, []
        look = await self._host.known_look(settings)
        pane.show_estimate(await in_background(lambda: foreseen(settings, None, look=look)))
        await self._reach(places.place_of(settings)).wait()
        site = self._host.site
        if site is None:
            pane.tell_checks("✗ The host could not be reached: test the connection in the Where step.")
            return
        pane.show_place(site.on_slurm)
        try:
            pane.show_estimate(await in_background(lambda: foreseen(settings, site)))
            pane.tell_checks("… looking at the host")
            checks = await in_background(lambda: run_checks(site, settings))
        except UserError as error:
            pane.tell_checks(f"✗ {error.message}. {error.hint}")
            return
        pane.show_checks(checks)
        self._failed = [check for check in checks if check.result is Result.FAIL]

    async def on_unmount(self) -> None:
        """The connection was the wizard's own; the answers are there at the next start."""
        self._host.drop()
        self._take_rows()
        await in_background(self._keep_draft)

    @work(exclusive=True, group="look", exit_on_error=False)
    async def action_look(self) -> None:
        """Shows the first records of the data set as the model will see them, and their lengths."""
        await self.all_typed()
        self._take()
        settings, late = self.settings, LateAnswer(self)
        try:
            look = await self._host.look(settings)
        except UserError as error:
            self.notify(f"{error.message}. {error.hint}", severity="warning", markup=False)
            return
        self._show_live()
        told = "The first records are read: Ctrl+D shows them."
        late.show(settings.model.dataset, printable(look_text(look)), told)

    @work(exclusive=True, group="draft", exit_on_error=False)
    async def _save_draft(self) -> None:
        # Fields that are passed through, one Enter after another, are worth one draft.
        await asyncio.sleep(DRAFT_PAUSE)
        await in_background(self._keep_draft)

    def _keep_draft(self) -> None:
        draft = self.settings, self._step.key, self._field, self.answers.unkept
        if not self._launched:
            save_draft(*draft)

    # --- the end

    @on(ReviewPane.Wanted)
    async def _wanted(self, event: ReviewPane.Wanted) -> None:
        if event.what == "launch":
            await self.action_launch()
        elif event.what == "save":
            self.action_save()

    async def action_test(self) -> None:
        """Tries the connection of the Where step."""
        await self.all_typed()
        self._take()
        self._show_problems()
        for pane in self.query(WherePane):
            pane.test_connection()

    async def action_launch(self) -> None:
        """Launches from the review, when every answer is right; else goes to the first that is not, or to the review."""
        await self.all_typed()
        self._take()
        self._visited.update(STEPS)
        self._show_problems()
        wrong = first_wrong(self.problems)
        if wrong is not None:
            self._go_to_problem(wrong)
        elif self._step is not REVIEW:
            await self._go(REVIEW)
        elif not self._launching:
            self._launch_if_wanted(self.settings)

    @work(exclusive=True, group="ask", exit_on_error=False)
    async def _launch_if_wanted(self, settings: Settings) -> None:
        """Waits for the look at the host, and asks where something was found there that would stop the run."""
        late, inspection = LateAnswer(self), self._inspection
        if inspection is not None:
            self._tell_title("looking at the host before the launch")
            with contextlib.suppress(WorkerFailed, WorkerCancelled):
                await inspection.wait()
            self._tell_title("")
        # Who has gone back may be changing an answer; after that, another look at the host is due.
        if not late.welcome or self._step is not REVIEW or inspection is not self._inspection:
            late.tell("Not launched, since you went on to something else: Ctrl+L launches.")
            return
        found = [f"✗ {check.name}: {check.words}" for check in self._failed]
        words = "What was found on the host would stop the run:\n\n" + "\n".join(found)
        if found and not await self.app.push_screen_wait(Confirm("Launch all the same?", words, "Launch")):
            return
        self._launching = True
        self._launch(settings)

    def _tell_title(self, words: str) -> None:
        if self.is_attached:
            self.query_one("#title", Static).update(words or self._title)

    @work(exclusive=True, group="go", exit_on_error=False)
    async def _go_to_problem(self, field: str) -> None:
        await self._go(step_of(field), field)
        # A field says itself what is wrong with it.
        if field not in self._step.fields:
            self.notify(f"{field}: {self.problems.get(field, '')}", severity="error", markup=False)

    @work(exclusive=True, group="launch", exit_on_error=False)
    async def _launch(self, settings: Settings) -> None:
        pane, late, app = self._token_pane, LateAnswer(self), self.app
        token = pane.wish if pane is not None else TokenWish()

        def tell(words: str) -> None:
            from_thread(app, partial(self._tell_title, f"launching: {words}"))

        def warn(words: str) -> None:
            from_thread(app, partial(app.notify, words, severity="warning", markup=False))

        try:
            hosts = hosts_of(app)
            start = partial(launch, settings, hosts, token, tell, warn)
            run_id = await promises_of(app).keep(f"launch of {settings.name}", start)
            self._launched = True
        except UserError as error:
            late.show_error(error)
            return
        finally:
            self._launching = False
            self._tell_title("")
        from llama_tui.tui.screens.monitor import MonitorScreen

        monitor = partial(MonitorScreen, places.place_of(settings), run_id)
        if late.welcome and self._step is REVIEW:
            app.switch_screen(monitor())
            return
        # What is typed now is for another run, and no letter of it a key of the monitor.
        self._launched, self._back = False, monitor
        self.refresh_bindings()
        self.notify(f"Launched: Esc leads to {run_id}.", timeout=LONG, markup=False)

    @work(exclusive=True, group="file", exit_on_error=False)
    async def action_save(self) -> None:
        """Writes the answers to a file, to be launched later or by `llama-tui run`."""
        await self.all_typed()
        self._take()
        wrong = first_wrong(self.problems)
        if wrong is not None:
            self._go_to_problem(wrong)
            return
        await save_settings(self.app, self.settings)

    @work(exclusive=True, group="file", exit_on_error=False)
    async def action_open(self) -> None:
        """Takes the answers from a file."""
        settings = await open_settings(self.app)
        if settings is not None:
            self.app.switch_screen(WizardScreen(settings, review=True, back=self._back))

    @work(exclusive=True, group="file", exit_on_error=False)
    async def action_start_over(self) -> None:
        """Begins again with the defaults, after a question."""
        words = "All answers go back to the defaults, and the wizard to its first step."
        if await self.app.push_screen_wait(Confirm("Start over?", words, "Start over")):
            self.app.switch_screen(WizardScreen(defaults(self.settings.stack), back=self._back))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only who came from a run can go back to it."""
        if action == "return" and self._back is None:
            return False
        return super().check_action(action, parameters)

    def action_return(self) -> None:
        """To the run; the answers are kept for the next time, as this screen goes."""
        if self._back is not None:
            self.app.switch_screen(self._back())

    def action_leave(self) -> None:
        """To the list of runs; the answers are kept for the next time, as this screen goes."""
        from llama_tui.tui.screens.runs import RunsScreen

        self.app.switch_screen(RunsScreen())


_PANES: dict[StepForm, type[StepPane]] = {WHERE: WherePane, TOKEN: TokenPane, REVIEW: ReviewPane}
