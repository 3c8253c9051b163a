"""Small questions and answers above a screen."""

from __future__ import annotations

from typing import TypeVar

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Static

from llama_tui.backend.hosts.ssh_ask import Prompt
from llama_tui.backend.plain import printable

Answer = TypeVar("Answer")


class Dialog(ModalScreen[Answer]):
    """Fits into a terminal of any height, with its buttons in sight."""

    VERTICAL_BREAKPOINTS = [(0, "-short"), (20, "-high")]


class Confirm(Dialog[bool]):
    """A question with two answers; Escape is no.

    Only what cannot be taken back is asked about, so that Enter alone, pressed once too often, does nothing.
    """

    AUTO_FOCUS = "#no"
    BINDINGS = [
        Binding("escape,n", "answer(False)", "No"),
        Binding("y", "answer(True)", "Yes"),
        Binding("left,right", "other_button", "The other button", show=False),
    ]

    def __init__(self, title: str, words: str, yes: str) -> None:
        super().__init__()
        self._title, self._words, self._yes = title, words, yes

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Label(self._title, classes="dialog-title", markup=False)
            with VerticalScroll():
                yield Static(self._words, markup=False)
            with Horizontal(classes="dialog-buttons"):
                yield Button(f"{self._yes} (y)", variant="warning", id="yes", compact=True)
                yield Button("No (n)", id="no", compact=True)

    def action_other_button(self) -> None:
        """Yes and No are beside each other."""
        self.focus_next(Button)

    def action_answer(self, yes: bool) -> None:
        """Ends the dialog."""
        self.dismiss(yes)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """The mouse's way."""
        self.dismiss(event.button.id == "yes")


class Ask(Dialog[str | None]):
    """One line of text; Escape gives None.

    Args:
        words: what to know before one answers.
        go: what Enter does.
    """

    BINDINGS = [Binding("escape", "leave", "Leave")]

    def __init__(
        self, title: str, value: str = "", placeholder: str = "", *, words: str = "", go: str = "Go on"
    ) -> None:
        super().__init__()
        self._title, self._value, self._placeholder = title, value, placeholder
        self._words, self._go = words, go

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Label(self._title, classes="dialog-title", markup=False)
            if self._words:
                yield Label(self._words, classes="dialog-words", markup=False)
            yield Input(self._value, placeholder=self._placeholder)
            with Horizontal(classes="dialog-buttons"):
                yield Button(f"{self._go} (Enter)", variant="primary", id="go", compact=True)
                yield Button("Leave (Esc)", id="leave", compact=True)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter answers."""
        self.dismiss(event.value)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """The mouse's way."""
        self.dismiss(self.query_one(Input).value if event.button.id == "go" else None)

    def action_leave(self) -> None:
        """No answer."""
        self.dismiss(None)


class Secrets(Dialog[list[str] | None]):
    """Passwords, passphrases and one-time codes; Escape gives up."""

    BINDINGS = [Binding("escape", "leave", "Give up")]

    def __init__(self, title: str, prompts: list[Prompt]) -> None:
        super().__init__()
        self._title, self._prompts = title, prompts

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Label(printable(self._title), classes="dialog-title", markup=False)
            for prompt in self._prompts:
                yield Label(printable(prompt.text), markup=False)
                yield Input(password=not prompt.echo)
            with Horizontal(classes="dialog-buttons"):
                yield Button("Go on (Enter)", variant="primary", id="go", compact=True)
                yield Button("Give up (Esc)", id="leave", compact=True)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter goes on; after the last field it answers."""
        fields = list(self.query(Input))
        at = fields.index(event.input)
        if at + 1 < len(fields):
            fields[at + 1].focus()
        else:
            self._answer()

    def _answer(self) -> None:
        self.dismiss([one.value for one in self.query(Input)])

    def action_leave(self) -> None:
        """No answer."""
        self.dismiss(None)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """The mouse's way."""
        if event.button.id == "go":
            self._answer()
        else:
            self.dismiss(None)


class Reading(Dialog[None]):
    """A longer text: an error with what to do, a script, a report. It can be copied."""

    BINDINGS = [
        Binding("escape,enter,q", "leave", "Close"),
        Binding("c", "copy", "Copy"),
    ]

    def __init__(self, title: str, words: str) -> None:
        super().__init__()
        self._title, self._words = title, words

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog wide-dialog"):
            yield Label(self._title, classes="dialog-title", markup=False)
            with VerticalScroll():
                yield Static(self._words, markup=False)
            with Horizontal(classes="dialog-buttons"):
                yield Button("Close (Esc)", id="close", compact=True)
                yield Button("Copy (c)", id="copy", compact=True)

    def action_leave(self) -> None:
        """Ends the dialog."""
        self.dismiss(None)

    def action_copy(self) -> None:
        """To the clipboard, where the terminal allows it."""
        self.app.copy_to_clipboard(self._words)
        self.notify("Copied.")

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """The mouse's way."""
        if event.button.id == "copy":
            self.action_copy()
        else:
            self.dismiss(None)
