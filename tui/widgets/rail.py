"""The wizard's steps at its left, each with its state; a click goes there."""

from __future__ import annotations

from textual.events import Click
from textual.message import Message
from textual.widgets import Static

from llama_tui.tui.steps.forms import STEPS, StepForm

_MARKS = {"broken": "✗", "visited": "✓", "open": "·"}
_HERE = "▸"


class RailStep(Static):
    """One step."""

    class Chosen(Message):
        """The step was clicked."""

        def __init__(self, step: StepForm) -> None:
            super().__init__()
            self.step = step

    def __init__(self, step: StepForm) -> None:
        super().__init__(id=f"rail-{step.key}", classes="rail-step", markup=False)
        self.step = step

    def show(self, *, current: bool, broken: bool, visited: bool) -> None:
        """Says how the step stands, by shape and by the theme's colour for it."""
        state = "broken" if broken else "visited" if visited and not current else "open"
        words = f"{STEPS.index(self.step) + 1} {self.step.title}"
        if current:
            # Without colours nothing else tells where one is.
            self.update(f"{_HERE} {words}" + (f" {_MARKS[state]}" if broken else ""))
        else:
            self.update(f"{_MARKS[state]} {words}")
        self.set_classes(f"rail-step {state}" + (" current" if current else ""))

    def on_click(self, event: Click) -> None:
        """Tells the wizard."""
        event.stop()
        self.post_message(self.Chosen(self.step))
