"""A step of the wizard as a pane: its fields, checked as they are left."""

from __future__ import annotations

from collections.abc import Mapping

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.suggester import Suggester
from textual.widget import Widget
from textual.widgets import Button, Static

from llama_tui.tui.steps.answers import Answers
from llama_tui.tui.steps.forms import StepForm
from llama_tui.tui.widgets.fields import FieldRow


class StepPane(VerticalScroll, can_focus=False):
    """The fields of one step.

    Args:
        answers: what to begin with.
        suggesters: what completes which field, by its dotted name.
    """

    def __init__(
        self, step: StepForm, answers: Answers, suggesters: Mapping[str, Suggester] | None = None
    ) -> None:
        super().__init__(id=f"step-{step.key}", classes="step")
        self.step = step
        self._settings = answers.settings
        suggesters = suggesters or {}
        self.rows = [FieldRow(path, answers.shown(path), suggesters.get(path)) for path in step.fields]

    def compose(self) -> ComposeResult:
        yield Static(self.step.intro, classes="step-intro", markup=False)
        yield from self.rows
        yield from self.compose_more()

    def compose_more(self) -> ComposeResult:
        """What a step shows besides its fields."""
        yield from ()

    def on_resize(self) -> None:
        """The field with the cursor stays in sight, also when the help below grows by a line."""
        focused = self.screen.focused
        if focused is not None and self in focused.ancestors:
            self.call_after_refresh(focused.scroll_visible, animate=False)

    def stops(self) -> list[Widget]:
        """Where Enter leads, in order."""
        return [widget for row in self.rows for widget in row.answers_in_order()]

    def stop_at(self, field: str) -> Widget | None:
        """Where the cursor belongs for a field; for one that is not here, the first stop."""
        stops = self.stops()
        fitting = [stop for row in self.rows if row.path == field for stop in row.answers_in_order()]
        return next(iter([*fitting, *stops]), None)

    def focus_first(self) -> None:
        """Puts the cursor into the first field."""
        stop = self.stop_at("")
        if stop is not None:
            stop.focus()

    def enter(self, widget: Widget) -> bool:
        """Does what Enter does at a part of this step; False where it only goes on."""
        if not isinstance(widget, Button):
            return False
        widget.press()
        return True

    def help_of(self, widget: Widget) -> str:
        """What to know at a part of this step; fields have their own help."""
        row = self.row_of(widget)
        return row.help if row else ""

    def row_of(self, widget: Widget) -> FieldRow | None:
        """The field that a widget is a part of; None for what is no setting."""
        return next((one for one in widget.ancestors_with_self if isinstance(one, FieldRow)), None)
