"""What is measured of each program: its start, its rest, and its answer to a key."""

from __future__ import annotations

import math
import random
import re
import shutil
import statistics
import time
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from tests.bench.screens.ground import Ground
from tests.bench.screens.processes import (
    far_processes,
    own_processes,
    processor_seconds,
    steady_memory,
    used,
)
from tests.bench.screens.programs import Program
from tests.bench.screens.terminal import Terminal, has_painted

PATIENCE = 15.0
# A key that is not answered by then counts as this long, and ends the measurement.
LOST = 30.0
FEWEST_CELLS = 3
DOWN, UP = b"\x1b[B", b"\x1b[A"

Figures = dict[str, Any]


@dataclass(frozen=True)
class Effort:
    """How long and how often.

    Attributes:
        settle: seconds after the start until memory is measured.
        window: seconds over which what it does at rest is counted.
        trouble: seconds that a burst, or a controller that hangs, has lasted when the keys begin.
    """

    rounds: int = 5
    settle: float = 20.0
    window: float = 60.0
    trouble: float = 6.0
    keys: int = 200
    log_bytes: int = 200 * 1000 * 1000


QUICK = Effort(rounds=1, settle=3.0, window=3.0, trouble=3.0, keys=10)


class Measuring:
    """Measures one program after the other on one ground."""

    def __init__(self, ground: Ground, effort: Effort) -> None:
        self.ground = ground
        self.effort = effort
        self._chance = random.Random(1)

    def open(self, program: Program) -> Terminal:
        """Starts it."""
        if program.leftovers:
            shutil.rmtree(program.home / program.leftovers, ignore_errors=True)
        return Terminal(program.argv, program.env, program.home, own_processes)

    def opened(self, program: Program) -> Terminal:
        """Starts it and waits until it shows jobs, if it ever does."""
        terminal = self.open(program)
        terminal.wait(lambda one: shows_jobs(program, one), PATIENCE)
        return terminal

    # --- start

    def start(self, program: Program) -> Figures:
        """Milliseconds to the first frame and to the first job; None for never."""
        with self.open(program) as terminal:
            first = terminal.wait(has_painted, PATIENCE)
            data = first
            if not shows_jobs(program, terminal):
                data = terminal.wait(lambda one: shows_jobs(program, one), PATIENCE)
            return {
                "first_ms": _milliseconds(first, terminal),
                "job_ms": _milliseconds(data, terminal),
                "screen": terminal.text,
            }

    # --- rest

    def rest(self, program: Program) -> Figures:
        """Memory; and what it uses, paints and asks while jobs print a line a second, and while they print nothing."""
        self.ground.talk(True)
        with self.opened(program) as terminal:
            terminal.watch(max(0.0, terminal.began + self.effort.settle - time.monotonic()))
            found: Figures = {"memory": steady_memory(lambda: own_processes(terminal.pid)).data()}
            if program.sshd is not None:
                far = program.sshd.daemon.pid
                found["far_memory"] = steady_memory(lambda: far_processes(far)).data()
            found["talking"] = self._window(program, terminal)
            self.ground.talk(False)
            terminal.watch(min(4.0, self.effort.settle / 2))
            found["silent"] = self._window(program, terminal)
            found["screen"] = terminal.text
            return found

    def ended(self, program: Program) -> Figures:
        """The same when nothing is in the queue any more."""
        with self.open(program) as terminal:
            terminal.watch(self.effort.settle)
            return self._window(program, terminal)

    def _window(self, program: Program, terminal: Terminal) -> Figures:
        def near() -> dict[int, float]:
            return processor_seconds(own_processes(terminal.pid))

        def far() -> dict[int, float]:
            return processor_seconds(far_processes(program.sshd.daemon.pid) if program.sshd else [])

        asked, written = self.ground.commands(), terminal.bytes
        near_before, far_before, began = near(), far(), time.monotonic()
        terminal.watch(self.effort.window)
        seconds = time.monotonic() - began
        calls: Counter[str] = self.ground.commands() - asked
        return {
            "cpu_percent": 100 * used(near_before, near()) / seconds,
            "far_cpu_percent": 100 * used(far_before, far()) / seconds,
            "bytes_per_second": (terminal.bytes - written) / seconds,
            "commands_per_minute": 60 * calls.total() / seconds,
            "commands": {name: 60 * count / seconds for name, count in calls.items()},
        }

    # --- keys

    def keys(self, program: Program) -> Figures:
        """Seconds from a cursor key to the paint that shows it: at rest, while slurmctld hangs, while a log bursts."""
        self.ground.talk(True)
        situations: dict[str, AbstractContextManager[None]] = {"idle": nullcontext()}
        if program.asks_slurm:
            situations["hang"] = self.ground.hung_controller()
        if program.log:
            situations["burst"] = self.ground.burst()
        with self.opened(program) as terminal:
            terminal.watch(2)
            cursor = _Cursor.found(terminal)
            if cursor is None:
                return {"screen": terminal.text}
            found: Figures = {}
            for name, situation in situations.items():
                with situation:
                    # Long enough that a question to the controller is under way.
                    terminal.watch(0 if name == "idle" else self.effort.trouble)
                    found[name] = self._press(cursor)
            if program.log:
                found["memory_after_burst"] = steady_memory(lambda: own_processes(terminal.pid)).data()
        self.ground.talk(False)
        self.ground.empty_log()
        return found

    def _press(self, cursor: _Cursor) -> list[float]:
        times: list[float] = []
        for _ in range(self.effort.keys):
            cursor.terminal.watch(self._chance.uniform(0.05, 0.25))
            taken = cursor.move()
            times.append(LOST if taken is None else taken)
            if taken is None:
                break
        return times


class _Cursor:
    """The bar in a table: moved down and up again, and seen by the cells that change their colour with it."""

    def __init__(self, terminal: Terminal, cells: dict[tuple[int, int], tuple[Any, Any]]) -> None:
        self.terminal = terminal
        self._cells = cells
        self._below = False

    @classmethod
    def found(cls, terminal: Terminal) -> _Cursor | None:
        """None when no key moves anything to be seen."""
        above = terminal.shades()
        terminal.send(DOWN)
        terminal.watch(1.0)
        below = terminal.shades()
        terminal.send(UP)
        terminal.watch(1.0)
        again = terminal.shades()
        cells = {
            (row, column): (above[row][column], below[row][column])
            for row in range(len(above))
            for column in range(len(above[row]))
            if above[row][column] != below[row][column] and above[row][column] == again[row][column]
        }
        return cls(terminal, cells) if len(cells) >= FEWEST_CELLS else None

    def move(self) -> float | None:
        """Seconds until the bar is where the key sends it."""
        self._below = not self._below
        at = self.terminal.send(DOWN if self._below else UP)
        seen = self.terminal.wait(self._arrived, LOST)
        return None if seen is None else seen - at

    def _arrived(self, terminal: Terminal) -> bool:
        return all(terminal.shade(*cell) == shades[self._below] for cell, shades in self._cells.items())


def shows_jobs(program: Program, terminal: Terminal) -> bool:
    """One of the fixture's jobs is on the screen."""
    return any(re.search(program.shows, line) for line in terminal.lines)


def percentile(values: list[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def median_of(rounds: list[Figures], key: str) -> float | None:
    """The median of a figure over rounds; None when it is missing in most of them."""
    values = [one[key] for one in rounds if one.get(key) is not None]
    return statistics.median(values) if len(values) * 2 > len(rounds) else None


def _milliseconds(at: float | None, terminal: Terminal) -> float | None:
    return None if at is None else 1000 * (at - terminal.began)
