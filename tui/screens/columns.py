"""Which columns a table shows, and in which order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Button, Label, OptionList, Static
from textual.widgets.option_list import Option

from llama_tui.tui.screens.dialogs import Dialog


class Columns(Dialog[tuple[str, ...] | None]):
    """A list of columns to tick and to move; Escape leaves all as it was.

    Args:
        known: all that there are, each with words about it.
        chosen: those that are shown now, in order.
        usual: those that are shown where nobody chose.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Leave"),
        Binding("enter", "done", "Done", priority=True),
        Binding("space", "tick", "Show or hide"),
        Binding("minus,shift+up", "move(-1)", "Further to the left"),
        Binding("plus,shift+down", "move(1)", "Further to the right"),
    ]

    def __init__(self, known: Mapping[str, str], chosen: tuple[str, ...], usual: tuple[str, ...]) -> None:
        super().__init__()
        self._known, self._usual = known, usual
        self._begin(chosen)

    def _begin(self, shown: tuple[str, ...]) -> None:
        """Those that are shown come first."""
        self._order = [*shown, *(name for name in self._known if name not in shown)]
        self._ticked = set(shown)

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog", id="columns-dialog"):
            yield Label("Columns of the queue", classes="dialog-title")
            yield OptionList(id="columns")
            yield Static("Space or a click shows or hides one; - and + move it.", markup=False)
            with Horizontal(classes="dialog-buttons"):
                yield Button("Done (Enter)", variant="primary", id="done", compact=True)
                yield Button("▲ (-)", id="earlier", compact=True)
                yield Button("▼ (+)", id="later", compact=True)
                yield Button("As at first", id="usual", compact=True)
                yield Button("Leave (Esc)", id="leave", compact=True)

    def on_mount(self) -> None:
        """Shows them."""
        self._fill(0)

    @property
    def _list(self) -> OptionList:
        return self.query_one("#columns", OptionList)

    def _fill(self, highlighted: int) -> None:
        width = max(map(len, self._order))
        self._list.set_options(
            Option(f"{'✓' if name in self._ticked else '·'} {name:{width}}  {self._known[name]}")
            for name in self._order
        )
        self._list.highlighted = highlighted

    def action_tick(self) -> None:
        """Shows or hides the column under the cursor."""
        if (at := self._list.highlighted) is not None:
            self._ticked ^= {self._order[at]}
            self._fill(at)

    @on(OptionList.OptionSelected)
    def _clicked(self) -> None:
        self.action_tick()

    def action_move(self, by: int) -> None:
        """Moves the column under the cursor."""
        at, order = self._list.highlighted, self._order
        if at is not None and 0 <= at + by < len(order):
            order[at], order[at + by] = order[at + by], order[at]
            self._fill(at + by)

    def action_done(self) -> None:
        """Those that are ticked, from top to bottom."""
        names = tuple(name for name in self._order if name in self._ticked)
        if names:
            self.dismiss(names)
        else:
            self.notify("Choose at least one column.", severity="warning")

    def action_leave(self) -> None:
        """No answer."""
        self.dismiss(None)

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        match event.button.id:
            case "done":
                self.action_done()
            case "earlier":
                self.action_move(-1)
            case "later":
                self.action_move(1)
            case "usual":
                self._begin(self._usual)
                self._fill(0)
            case _:
                self.action_leave()
        self._list.focus()
