"""A log of 200 MB: how long until its end is on the screen, until it is searched, and the memory of it all."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tests.bench.screens.figures import PATIENCE, Figures, Measuring, shows_jobs
from tests.bench.screens.processes import MemoryPeak, far_processes, own_processes, steady_memory
from tests.bench.screens.programs import Program
from tests.bench.screens.terminal import Terminal

NEEDLE, NEEDLES = "haystack-needle", 12
END = "the very last line of it"
# The title may be cut after the numbers.
_COUNTED = re.compile(rf"\b{NEEDLES}/{NEEDLES}\b")
_BLOCK = 1_000_000


def plain_block(number: int) -> bytes:
    """A MB of ordinary lines."""
    line = "2026-01-01 12:00:00 INFO trainer: step {} loss 1.2345 grad_norm 0.5678 learning_rate 1e-05 tokens/s 12345\n"
    return "".join(line.format(number * 10_000 + at) for at in range(_BLOCK // 104)).encode()


def bars_block(number: int) -> bytes:
    """A MB of tqdm's bars, each painted over the one before, with colours; a line ends after five hundred."""
    bar = "\r\x1b[32m{:3d}%\x1b[0m|\x1b[34m{}{}\x1b[0m| {}/500 [00:{:02d}<01:03,  9.98it/s, loss={:.3f}]"
    pieces = []
    size = 0
    at = 0
    while size < _BLOCK:
        done = at % 500
        filled = done // 10
        text = bar.format(done // 5, "█" * filled, " " * (50 - filled), done, done % 60, 2.5 - done / 1000)
        if done == 499:
            text += f"\n\x1b[1mepoch {number}.{at}\x1b[0m done\n"
        pieces.append(text)
        size += len(text.encode())
        at += 1
    return "".join([*pieces, "\n"]).encode()


KINDS: dict[str, Callable[[int], bytes]] = {"plain": plain_block, "tqdm": bars_block}


def write_log(path: Path, kind: str, size: int) -> None:
    """Fills a log in place: the job that writes it goes on with the same file."""
    block = KINDS[kind](1)
    count = size // len(block)
    every = max(1, count // NEEDLES)
    with path.open("wb") as stream:
        hidden = 0
        for at in range(count):
            stream.write(block)
            if at % every == 0 and hidden < NEEDLES:
                hidden += 1
                stream.write(f"here is a {NEEDLE}, number {hidden}\n".encode())
        stream.write(f"{END}\n".encode())


class BigLog:
    """Measures one kind of log in one program."""

    def __init__(self, measuring: Measuring, kind: str) -> None:
        self._measuring = measuring
        self._kind = kind

    def measure(self, monitor: Program, runs: Program) -> list[Figures]:
        """Opened at once, and from the list of runs; each as often as there are rounds, at most three times."""
        ground, effort = self._measuring.ground, self._measuring.effort
        ground.talk(False)
        write_log(ground.log, self._kind, effort.log_bytes)
        try:
            found = []
            for _ in range(min(3, effort.rounds)):
                found.append(self._once(monitor))
                found[-1]["from_runs_ms"] = self._from_runs(runs)
            return found
        finally:
            ground.empty_log()

    def _once(self, program: Program) -> Figures:
        far = program.sshd.daemon.pid if program.sshd else None
        with (
            self._measuring.open(program) as terminal,
            MemoryPeak(lambda: own_processes(terminal.pid)) as peak,
            MemoryPeak(lambda: far_processes(far) if far else []) as far_peak,
        ):
            shown = terminal.wait(_at_end, 2 * PATIENCE)
            found: Figures = {"end_ms": None if shown is None else 1000 * (shown - terminal.began)}
            # What is done once after the start is over.
            terminal.watch(3)
            found["memory"] = steady_memory(lambda: own_processes(terminal.pid)).data()
            found["search_ms"] = _search(terminal)
            terminal.watch(3)
            found["memory_after"] = steady_memory(lambda: own_processes(terminal.pid)).data()
            found["screen"] = terminal.text
        found["memory_most"] = peak.most.data()
        found["far_memory_most"] = far_peak.most.data()
        return found

    def _from_runs(self, program: Program) -> float | None:
        with self._measuring.open(program) as terminal:
            terminal.wait(lambda one: shows_jobs(program, one), PATIENCE)
            terminal.watch(1)
            pressed = terminal.send(b"\r")
            shown = terminal.wait(_at_end, 2 * PATIENCE)
            return None if shown is None else 1000 * (shown - pressed)


def _at_end(terminal: Terminal) -> bool:
    return any(END in line for line in terminal.lines)


def _search(terminal: Terminal) -> float | None:
    """Milliseconds from Enter to the number of matches; None when it never comes."""
    terminal.send(b"/")
    terminal.watch(0.7)
    for letter in NEEDLE:
        terminal.send(letter.encode())
        terminal.watch(0.03)
    terminal.watch(0.5)
    pressed = terminal.send(b"\r")
    counted = terminal.wait(lambda one: bool(_COUNTED.search(one.text)), 2 * PATIENCE)
    return None if counted is None else 1000 * (counted - pressed)
