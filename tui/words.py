"""How states look: a shape, a word and a colour of the theme, never the colour alone; how words that are too long."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from llama_tui.backend.report_text import MARKS
from llama_tui.backend.states import StageState

_STYLES = {
    StageState.DONE: "bold green",
    StageState.RUNNING: "bold cyan",
    StageState.FAILED: "bold red",
    StageState.CANCELLED: "yellow",
    StageState.HELD: "yellow",
    StageState.BLOCKED: "dim",
    StageState.PENDING: "",
    StageState.SUBMITTING: "dim",
    StageState.NOT_SUBMITTED: "dim",
    StageState.UNKNOWN: "bold magenta",
}


def state_text(state: StageState) -> Text:
    """Mark and word of a state, coloured."""
    return Text(f"{MARKS[state]} {state}", style=_STYLES[state])


def mark(state: StageState) -> Text:
    """The mark alone."""
    return Text(MARKS[state], style=_STYLES[state])


def cut_text(text: str, width: int | None) -> str:
    """The text in so many cells, with a sign that there is more; all of it for None."""
    if width is None or cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1) + "…"
