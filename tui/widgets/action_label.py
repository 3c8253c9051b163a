"""A word that does something when it is clicked: every key has one for the mouse, and it takes one row."""

from __future__ import annotations

from collections.abc import Callable

from textual.events import Click
from textual.widgets import Static


class ActionLabel(Static):
    """Shows `words`; a click calls `act`.

    Args:
        hint: shown while the mouse is over it.
    """

    def __init__(
        self, words: str, act: Callable[[], object], hint: str = "", *, id: str | None = None
    ) -> None:
        super().__init__(words, markup=False, id=id, classes="action-label")
        self._act = act
        self.tooltip = hint or None

    def on_click(self, event: Click) -> None:
        """Does it."""
        event.stop()
        self._act()
