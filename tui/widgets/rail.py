"""The wizard's steps at its left, each with its state; a click goes there."""

from __future__ import annotations

from rich.text import Text
from textual.events import Click
from textual.message import Message
from textual.widgets import Static

from llama_tui.tui.steps.forms import STEPS, StepForm


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
        """Says how the step stands, by shape and colour."""
        words = f"{STEPS.index(self.step) + 1} {self.step.title}"
        if broken:
            text = Text(f"✗ {words}", style="bold red")
        elif current:
            text = Text(f"▸ {words}", style="bold")
        elif visited:
            text = Text(f"✓ {words}", style="green")
        else:
            text = Text(f"· {words}", style="dim")
        self.update(text)
        self.set_class(current, "current")

    def on_click(self, event: Click) -> None:
        """Tells the wizard."""
        event.stop()
        self.post_message(self.Chosen(self.step))
