"""A part of a log in memory: raw bytes and where lines begin, so that adding a million lines costs next to nothing."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from itertools import accumulate

from llama_tui.backend.log_search import settled, shown
from llama_tui.backend.plain import printable

KEPT = 8 * 1024 * 1024
LONGEST_LINE = 10_000


class LogWindow:
    """The bytes of a file from `start` up to `end`, by lines. Text is cleaned only when a line is looked at.

    Args:
        kept: bytes in memory at most.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self.clear()

    def clear(self, start: int = 0) -> None:
        """Forgets everything; what comes next begins at this byte offset of the file."""
        self.start = start
        self._data = bytearray()
        # Byte offsets in the file; one more than there are lines when the last line has ended.
        self._starts = array("q", [start])

    @property
    def end(self) -> int:
        """The byte offset in the file after what is here."""
        return self.start + len(self._data)

    @property
    def full(self) -> bool:
        """Whether more than fits was added."""
        return len(self._data) > self._kept

    @property
    def line_count(self) -> int:
        """Lines that are here, with one that has not ended yet."""
        return len(self._starts) - (self._starts[-1] == self.end)

    def append(self, data: bytes) -> int:
        """Adds what follows `end`; gives about the cells of its longest line, exact for plain text."""
        lengths = [len(line) for line in data.split(b"\n")]
        ends = accumulate((length + 1 for length in lengths[:-1]), initial=self.end)
        next(ends)
        self._starts.extend(ends)
        self._data += data
        if b"\r" in data or b"\x1b" in data:
            lengths = [len(line) for line in shown(data).split(b"\n")]
        return min(max(lengths), LONGEST_LINE)

    def prepend(self, data: bytes, start: int) -> tuple[int, int]:
        """Adds what ends where this begins; a cut first line is left out.

        Returns:
            how many lines came in front, and about the cells of the longest of them.
        """
        if start > 0:
            cut = data.find(b"\n") + 1
            # A line longer than the piece is shown from here on: better than never.
            if 0 < cut < len(data):
                data, start = data[cut:], start + cut
        before = LogWindow()
        before.clear(start)
        width = before.append(data)
        added = len(before._starts) - 1
        # The line that began in the piece may go on here.
        self._starts = (
            before._starts[:-1] + self._starts if data.endswith(b"\n") else before._starts + self._starts[1:]
        )
        self._data = bytearray(data) + self._data
        self.start = start
        return added, width

    def trim_front(self) -> int:
        """Forgets the oldest lines beyond what is kept; gives how many."""
        excess = len(self._data) - self._kept
        if excess <= 0:
            return 0
        lines = bisect_left(self._starts, self.start + excess)
        if lines >= len(self._starts):
            # One line fills it all: its beginning goes.
            lines = len(self._starts) - 1
            self._starts[lines] = self.start + excess
        new_start = self._starts[lines]
        del self._data[: new_start - self.start]
        del self._starts[:lines]
        self.start = new_start
        return lines

    def trim_back(self) -> int:
        """Forgets the newest lines beyond what is kept; gives how many."""
        before = self.line_count
        if not self.full:
            return 0
        lines = bisect_right(self._starts, self.start + self._kept) - 1
        if lines > 0:
            del self._data[self._starts[lines] - self.start :]
            del self._starts[lines + 1 :]
        return before - self.line_count

    def offset(self, index: int) -> int:
        """Where a line begins in the file."""
        return self._starts[index]

    def index_of(self, offset: int) -> int:
        """The line that a byte offset of the file is in."""
        return max(0, min(bisect_right(self._starts, offset) - 1, self.line_count - 1))

    def raw(self, index: int) -> bytes:
        """A line's bytes without its end."""
        begin = self._starts[index] - self.start
        end = self._starts[index + 1] - self.start - 1 if index + 1 < len(self._starts) else len(self._data)
        return bytes(self._data[begin:end])

    def line(self, index: int) -> str:
        """A line as it is shown: colours kept, everything else that acts on a terminal gone."""
        line = settled(self.raw(index))[:LONGEST_LINE].decode("utf-8", "surrogateescape")
        return printable(line, colours=True).expandtabs(8)

    def width(self) -> int:
        """About the cells of the longest line; exact for plain text."""
        return min(max(map(len, shown(bytes(self._data)).split(b"\n"))), LONGEST_LINE)

    def plain_lengths(self, first: int) -> list[int] | None:
        """Lengths of the lines from this one on, where each byte is one cell; else None."""
        begin = self._starts[min(first, len(self._starts) - 1)] - self.start
        data = bytes(self._data[begin:])
        if not data.isascii() or b"\x1b" in data or b"\r" in data or b"\t" in data:
            return None
        lengths = [min(len(line), LONGEST_LINE) for line in data.split(b"\n")]
        return lengths if data[-1:] != b"\n" else lengths[:-1]

    def bytes_since(self, offset: int) -> bytes:
        """A copy of what is here from a byte offset of the file on."""
        return bytes(self._data[max(0, offset - self.start) :])
