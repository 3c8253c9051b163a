"""A program in a pseudo-terminal whose bytes feed a terminal emulator, so that what a person would see can be timed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pyte

from tests.supervisor import send_signal

COLUMNS, ROWS = 160, 45
PAINTED = 40

# Background and reversal of each cell: what a cursor changes in a table.
Shades = list[list[tuple[str, bool]]]


class Terminal:
    """A program on a screen of 160x45; a context manager that kills it.

    Each piece of output is stamped when it is read, and goes into the emulator afterwards: how slow the emulator is
    does not show in what is timed.

    Args:
        own: gives the program's processes, to be killed with it.
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        folder: Path,
        own: Callable[[int], list[int]],
    ) -> None:
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self._screen)
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._news = threading.Event()
        self._own = own
        self.lines = [" " * COLUMNS] * ROWS
        self.bytes = 0
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.began = time.monotonic()
        # setsid makes the pseudo-terminal the program's controlling one, and becomes the program.
        self._process = subprocess.Popen(
            ["setsid", "-c", *argv], stdin=slave, stdout=slave, stderr=slave, env=dict(env), cwd=folder
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The program's own process."""
        return self._process.pid

    @property
    def text(self) -> str:
        """What is on the screen."""
        return "\n".join(self.lines)

    @property
    def painted(self) -> int:
        """How many characters are to be seen."""
        return sum(len("".join(line.split())) for line in self.lines)

    def _read(self) -> None:
        # The read fails when the program has ended, or the terminal is closed.
        with contextlib.suppress(OSError):
            while data := os.read(self._master, 65536):
                self.bytes += len(data)
                self._pieces.append((time.monotonic(), data))
                self._news.set()

    def _feed_one(self) -> float | None:
        """Shows the next piece; when it was read, or None when there is none."""
        if not self._pieces:
            return None
        at, data = self._pieces.popleft()
        self._stream.feed(data)
        for row in self._screen.dirty:
            cells = self._screen.buffer[row]
            self.lines[row] = "".join(cells[column].data for column in range(COLUMNS))
        self._screen.dirty.clear()
        return at

    def wait(self, seen: Callable[[Terminal], bool], timeout: float = 20) -> float | None:
        """When what makes it true was read from the program (monotonic seconds); None when that never comes."""
        deadline = time.monotonic() + timeout
        while True:
            self._news.clear()
            at = self._feed_one()
            if at is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._news.wait(min(left, 1.0))
            elif at > deadline:
                return None
            elif seen(self):
                return at

    def watch(self, seconds: float) -> None:
        """Goes on showing what comes, for so long."""
        self.wait(lambda _: False, seconds)

    def send(self, keys: bytes) -> float:
        """Presses keys; when."""
        at = time.monotonic()
        os.write(self._master, keys)
        return at

    def shades(self) -> Shades:
        """Background and reversal of every cell."""
        buffer = self._screen.buffer
        return [
            [(buffer[row][column].bg, buffer[row][column].reverse) for column in range(COLUMNS)]
            for row in range(ROWS)
        ]

    def shade(self, row: int, column: int) -> tuple[str, bool]:
        """Those of one cell."""
        cell = self._screen.buffer[row][column]
        return cell.bg, cell.reverse

    def close(self) -> None:
        """Kills the program and what it started."""
        for pid in [*self._own(self.pid), self.pid]:
            send_signal(pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(5)
        os.close(self._master)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def has_painted(terminal: Terminal) -> bool:
    """The first frame is there."""
    return terminal.painted >= PAINTED
