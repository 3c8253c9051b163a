"""What can be done about a run: run again, cancel, look at its script, hand a report to a colleague."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeVar

from textual import work
from textual.screen import Screen

from llama_tui.backend.colleague_report import colleague_report
from llama_tui.backend.errors import UserError
from llama_tui.backend.explain import explain
from llama_tui.backend.live import LiveEvent, LiveRun
from llama_tui.backend.place import Place
from llama_tui.backend.plain import printable
from llama_tui.backend.runs import Run, Snapshot
from llama_tui.backend.settings import Settings
from llama_tui.backend.stages import Stage
from llama_tui.backend.states import StageState
from llama_tui.tui.background import in_background
from llama_tui.tui.connections import hosts_of
from llama_tui.tui.promises import promises_of
from llama_tui.tui.screens.dialogs import Confirm
from llama_tui.tui.screens.late_answer import LateAnswer

if TYPE_CHECKING:
    from llama_tui.backend.diagnosis.diagnose import Diagnosis

Answer = TypeVar("Answer")


class RunScreen(Screen[None]):
    """A screen about one run; what is shown is left to its children.

    Args:
        place: where it is.
        run_id: its name; empty for the newest there.
    """

    def __init__(self, place: Place, run_id: str) -> None:
        super().__init__()
        self.place = place
        self._run_id = run_id
        self.snapshot: Snapshot | None = None
        self.diagnoses: dict[tuple[Stage, int, StageState], Diagnosis] = {}

    @cached_property
    def live(self) -> LiveRun:
        """The connection to the run."""
        return LiveRun(self.place, self._run_id, self.tell, hosts_of(self.app))

    def tell(self, event: LiveEvent) -> None:
        """Takes what happens in the run; called on the connection's threads."""
        raise NotImplementedError

    @property
    def stage(self) -> Stage:
        """The one that a person points at."""
        raise NotImplementedError

    @property
    def chosen(self) -> object:
        """What a person chose to look at, to be compared with what it is later."""
        return None

    def back_to_current(self) -> None:
        """Something else happens now: what was chosen to look at counts no more."""

    def action_rerun(self) -> None:
        """Runs the failed stage again; where none failed, asks about the one under the cursor."""
        if self.snapshot is None:
            return
        bad = [view.stage for view in self.snapshot.views if view.state.ended_badly]
        missing = [view.stage for view in self.snapshot.views if view.state is StageState.NOT_SUBMITTED]
        if bad or missing:
            stage = (bad or missing)[0]
            self._do(f"{stage} is run again, with what follows", lambda run: run.rerun(stage))
        else:
            self._rerun_anyway(self.stage)

    @work(exclusive=True, group="ask", exit_on_error=False)
    async def _rerun_anyway(self, stage: Stage) -> None:
        words = f"{stage} has not failed. It and all that follows would be run again; running jobs of these are ended."
        if await self.app.push_screen_wait(Confirm(f"Run {stage} again?", words, "Rerun")):
            self._do(f"{stage} is run again, with what follows", lambda run: run.rerun(stage))

    @work(exclusive=True, group="ask", exit_on_error=False)
    async def action_cancel(self) -> None:
        """Ends the run's jobs, after a question."""
        if self.snapshot is not None and self.snapshot.state is StageState.DONE:
            self.notify("All seven stages are done: there is nothing to cancel.")
            return
        words = "Its waiting and running jobs are ended. What is done stays, and r goes on from there."
        if await self.app.push_screen_wait(Confirm("Cancel this run?", words, "Cancel the run")):
            self._do("cancelled", lambda run: run.cancel())

    @work(exclusive=True, group="do", exit_on_error=False)
    async def _do(self, done: str, action: Callable[[Run], object]) -> None:
        self.notify("The scheduler is being asked …", timeout=2)
        chosen, late = self.chosen, LateAnswer(self)
        try:
            words = f"{self._run_id or 'newest run'}: {done}"
            await promises_of(self.app).keep(words, lambda: self.live.do(action))
        except UserError as error:
            late.show_error(error)
            return
        if self.chosen == chosen:
            # Else somebody chose while the scheduler was asked, and that is newer than the key.
            self.back_to_current()
        self.notify(done[:1].upper() + done[1:] + ".", markup=False)

    @work(exclusive=True, group="script", exit_on_error=False)
    async def action_script(self) -> None:
        """Shows exactly what ran for the stage under the cursor."""
        if self.snapshot is None:
            return
        view, late = self.snapshot.view(self.stage), LateAnswer(self)
        path = (view.stage, max(1, view.attempt))
        text = await self._asked(lambda run: run.site.link.read_text(run.layout.script(*path)) or "")
        if text is None:
            return
        title = f"{view.stage}, attempt {max(1, view.attempt)}"
        late.show(title, text or "Not submitted yet.", f"The script of {view.stage} is there: s shows it.")

    def action_compare(self) -> None:
        """Shows both models' answers."""
        if self.snapshot is None:
            return
        from llama_tui.tui.screens.comparison import ComparisonScreen

        self.app.push_screen(ComparisonScreen(self.place, self.snapshot.run_id))

    @work(exclusive=True, group="settings", exit_on_error=False)
    async def action_other_settings(self) -> None:
        """Opens the wizard with this run's settings, at what to change; launching makes a new run."""
        snapshot = self.snapshot
        if snapshot is None:
            return
        view = snapshot.current
        found = self.diagnoses.get((view.stage, view.attempt, view.state))
        bad, late = view.state.ended_badly, LateAnswer(self)

        def ask(run: Run) -> tuple[Settings, Diagnosis | None]:
            return run.settings, found or (explain(run, snapshot, view.stage) if bad else None)

        answer = await self._asked(ask)
        if answer is None:
            return
        if not late.welcome:
            late.tell("The settings of this run are there: t opens the wizard with them.")
            return
        settings, found = answer
        from llama_tui.tui.screens.wizard import WizardScreen
        from llama_tui.tui.steps.forms import WHERE, step_of_stage

        field = why = ""
        if found is not None and bad:
            field, why = found.field, printable(f"{view.stage} {view.state}: {found.cause}\n→ {found.fix}")
        step = step_of_stage(view.stage) if bad else WHERE
        back = partial(type(self), self.place, snapshot.run_id)
        of = snapshot.run_id
        self.app.switch_screen(WizardScreen(settings, field=field, step=step, why=why, of=of, back=back))

    @work(exclusive=True, group="report", exit_on_error=False)
    async def action_report(self) -> None:
        """Shows and copies all that a colleague needs to help, without secrets."""
        snapshot = self.snapshot
        if snapshot is None:
            return
        view, late = snapshot.current, LateAnswer(self)
        found = self.diagnoses.get((view.stage, view.attempt, view.state))
        text = await self._asked(lambda run: colleague_report(run, snapshot, view.stage, found))
        if text is None:
            return
        if late.welcome:
            self.app.copy_to_clipboard(text)
        late.show(
            "Copied, if your terminal allows it. c copies again", text, "The report is there: k shows it."
        )

    async def _asked(self, ask: Callable[[Run], Answer]) -> Answer | None:
        """What the run answers; None, told to the person, when it cannot be asked."""
        try:
            return await in_background(lambda: self.live.do(ask))
        except UserError as error:
            self.notify(error.message, severity="error", markup=False)
            return None

    def action_retry(self) -> None:
        """Connects now instead of later."""
        self.live.retry_now()
