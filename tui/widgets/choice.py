"""One of a few answers in one line: arrows, space or a click change it."""

from __future__ import annotations

from dataclasses import dataclass

from rich.text import Text
from textual.app import RenderResult
from textual.binding import Binding
from textual.events import Click
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget


class Choice(Widget, can_focus=True):
    """Cycles through options.

    Args:
        options: at least one; shown as they are.
    """

    BINDINGS = [
        Binding("right,space,down", "turn(1)", "Next answer", show=False),
        Binding("left,up", "turn(-1)", "Previous answer", show=False),
    ]

    value: reactive[str] = reactive("")

    @dataclass
    class Changed(Message):
        """Another option is chosen."""

        choice: Choice
        value: str

        @property
        def control(self) -> Choice:
            """The sender."""
            return self.choice

    def __init__(self, options: list[str], value: str, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.options = options
        self.set_reactive(Choice.value, value if value in options else options[0])

    @property
    def _cramped(self) -> bool:
        """Whether not all options have room: then only the chosen one is shown."""
        return sum(len(option) + 3 for option in self.options) + 3 > self.content_size.width

    def render(self) -> RenderResult:
        if self._cramped:
            place = f"  {self.options.index(self.value) + 1}/{len(self.options)} "
            value = Text(f"[{self.value}]", style="bold")
            return Text.assemble(("‹ ", "dim"), value, (place, "dim"), ("›", "dim"), no_wrap=True)
        parts = [Text("‹ ", style="dim")]
        for option in self.options:
            chosen = option == self.value
            parts += [
                Text(f"[{option}]" if chosen else f" {option} ", style="bold" if chosen else "dim"),
                Text(" "),
            ]
        return Text.assemble(*parts, Text("›", style="dim"), no_wrap=True)

    def action_turn(self, by: int) -> None:
        """Chooses the next or previous option."""
        self.value = self.options[(self.options.index(self.value) + by) % len(self.options)]
        self.post_message(self.Changed(self, self.value))

    def on_click(self, event: Click) -> None:
        """A click on an option takes it; anywhere else the next one."""
        if self._cramped:
            self.action_turn(1)
            return
        at = 2
        for option in self.options:
            if at <= event.x < at + len(option) + 2:
                self.value = option
                self.post_message(self.Changed(self, option))
                return
            at += len(option) + 3
        self.action_turn(1)
