"""Answers that take their time: they take neither keys nor the screen from somebody who has gone on meanwhile."""

from __future__ import annotations

from typing import Any

from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input, TextArea

from llama_tui.backend.errors import UserError
from llama_tui.backend.plain import printable
from llama_tui.tui.screens.dialogs import Reading

# Seconds in which an error can be read that is only told in a corner.
LONG = 30.0


class LateAnswer:
    """Shows what was asked for. To be made when it is asked for, since where the person is then counts.

    Args:
        screen: where it is asked for.
    """

    def __init__(self, screen: Screen[Any]) -> None:
        self._screen = screen
        self._text = typed_text(screen)

    @property
    def welcome(self) -> bool:
        """Whether the screen is still in front, and no text is being typed that was not there when it was asked for."""
        return self._screen.is_active and typed_text(self._screen) in (None, self._text)

    def show(self, title: str, words: str, told: str) -> None:
        """Shows a text, where that is welcome.

        Args:
            told: what is said in its place to somebody who has gone on: how to come by it.
        """
        if self.welcome:
            self._screen.app.push_screen(Reading(title, words))
        else:
            self.tell(told)

    def show_error(self, error: UserError) -> None:
        """Shows what went wrong and what to do; to somebody who has gone on it is told in a corner."""
        words = printable(f"{error.message}\n\n{error.hint}".rstrip())
        if self.welcome:
            self._screen.app.push_screen(Reading(error.title, words))
        else:
            self._screen.notify(words, title=error.title, severity="error", timeout=LONG, markup=False)

    def tell(self, words: str) -> None:
        """Says that there is an answer, or that nothing was done."""
        self._screen.notify(words, severity="warning", markup=False)


def typed_text(screen: Screen[Any]) -> tuple[Widget, str] | None:
    """The field with the cursor and its text; None where no text is typed."""
    match screen.focused:
        case Input(value=text) | TextArea(text=text) as field:
            return field, text
    return None
