"""Which row a line of a log is in: the same number, or with wrapping the sum of what is before it."""

from __future__ import annotations

from array import array
from bisect import bisect_right

from rich.cells import cell_len
from rich.text import Text

from llama_tui.backend.log_window import LogWindow


class LogRows:
    """Rows and lines of a window of a log.

    Attributes:
        wrap: whether long lines go on in the next row.
        room: cells in a row.
    """

    def __init__(self, window: LogWindow) -> None:
        self._window = window
        self.wrap = False
        self.room = 80
        # The first row of each line, and of what would follow the last.
        self._first: array[int] = array("q", [0])

    @property
    def count(self) -> int:
        """All rows."""
        return self._first[-1] if self.wrap else self._window.line_count

    def row_of(self, line: int) -> int:
        """The first row of a line."""
        return self._first[min(line, len(self._first) - 1)] if self.wrap else line

    def line_at(self, row: int) -> tuple[int, int]:
        """The line that is in a row, and which part of it."""
        if not self.wrap:
            return row, 0
        line = bisect_right(self._first, row) - 1
        return line, row - self._first[line]

    def measure(self, first: int = 0) -> None:
        """Takes in the lines from this one on, again or for the first time."""
        if not self.wrap:
            return
        del self._first[first + 1 :]
        row = self._first[-1]
        for length in self._window.plain_lengths(first) or self._cells(first):
            row += -(-length // self.room) or 1
            self._first.append(row)

    def _cells(self, first: int) -> list[int]:
        lines = (self._window.line(index) for index in range(first, self._window.line_count))
        return [cell_len(plain(line)) for line in lines]

    def drop(self, lines: int) -> int:
        """Forgets the first lines; gives how many rows they had."""
        if not self.wrap:
            return lines
        rows = self.row_of(lines)
        self._first = array("q", (row - rows for row in self._first[lines:]))
        return rows


def plain(line: str) -> str:
    """A line without its colours."""
    return Text.from_ansi(line).plain if "\x1b" in line else line
