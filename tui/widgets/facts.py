"""Facts in columns, of which the last is broken below itself: a narrow screen keeps them readable."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text
from textual.widgets import Static

from llama_tui.backend.plain import printable

# What a mark in the first column means is told by its shape; the colour is the theme's.
_STYLES = {"✓": "green", "!": "bold yellow", "✗": "bold red"}


class Facts(Static):
    """Rows of words.

    Attributes:
        plain: what is shown, a row a line.
    """

    def __init__(self, words: str = "", *, id: str | None = None) -> None:
        super().__init__(words, id=id, markup=False)
        self.plain = words

    def tell(self, words: str) -> None:
        """Shows a sentence in place of rows."""
        self.plain = printable(words)
        self.update(self.plain)

    def show(self, rows: Sequence[tuple[str, ...]]) -> None:
        """Shows rows; all have the same number of columns."""
        safe = [[printable(words) for words in row] for row in rows]
        self.plain = "\n".join(" ".join(row) for row in safe)
        table = Table.grid(padding=(0, 1), expand=True)
        for _ in safe[0][:-1] if safe else []:
            table.add_column(no_wrap=True)
        table.add_column(ratio=1, overflow="fold")
        for row in safe:
            table.add_row(*(Text(words, style=_STYLES.get(words, "")) for words in row))
        self.update(table)
