"""What a program's processes use: memory and processor time, without the Slurm commands that they start."""

from __future__ import annotations

import contextlib
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.supervisor import descendants

# In the environment of every program under test: what left the tree of processes is found by it.
MARK = "LLAMA_TUI_BENCH"
SLURM_COMMANDS = ("squeue", "sinfo", "sacct", "scontrol", "sstat", "sbatch", "scancel", "sacctmgr")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Memory:
    """MB of all processes together."""

    rss: float
    pss: float
    processes: int

    def data(self) -> dict[str, float]:
        return asdict(self)


def own_processes(pid: int) -> list[int]:
    """The program, everything below it, and what has detached itself from it."""
    mark = f"{MARK}={_mark_of(pid)}".encode()
    found = dict.fromkeys([pid, *descendants(pid)])
    if mark != f"{MARK}=".encode():
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found[int(entry.name)] = None
    return [one for one in found if command_of(one) not in SLURM_COMMANDS]


def far_processes(sshd: int) -> list[int]:
    """What runs behind an sshd, without itself and Slurm's commands: an agent."""
    return [one for one in descendants(sshd) if command_of(one) not in (*SLURM_COMMANDS, "sshd", "")]


def command_of(pid: int) -> str:
    """The process's name; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _mark_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        for one in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if one.startswith(f"{MARK}=".encode()):
                return one.partition(b"=")[2].decode()
    return ""


def memory_of(pids: Iterable[int]) -> Memory:
    """Now; processes that have ended count as nothing."""
    rss = pss = count = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            kb = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
            rss, pss, count = rss + kb["Rss"], pss + kb["Pss"], count + 1
    return Memory(rss / 1024, pss / 1024, count)


def steady_memory(pids: Callable[[], list[int]]) -> Memory:
    """The median of five looks: a command that is just being started counts only in one of them."""
    looks = []
    for _ in range(5):
        looks.append(memory_of(pids()))
        time.sleep(0.2)
    return Memory(
        statistics.median(one.rss for one in looks),
        statistics.median(one.pss for one in looks),
        int(statistics.median(one.processes for one in looks)),
    )


def processor_seconds(pids: Iterable[int]) -> dict[int, float]:
    """Of each process, without those of children that have ended."""
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found[pid] = (int(fields[11]) + int(fields[12])) / _TICKS
    return found


def used(before: dict[int, float], after: dict[int, float]) -> float:
    """Processor seconds between two looks."""
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())


class MemoryPeak:
    """The most memory that a program uses while the block runs; a context manager."""

    def __init__(self, pids: Callable[[], list[int]]) -> None:
        self._pids = pids
        self.most = Memory(0, 0, 0)
        self._ended = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._ended.wait(0.2):
            now = memory_of(self._pids())
            if now.rss > self.most.rss:
                self.most = now

    def __enter__(self) -> MemoryPeak:
        self._looking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._looking.join()
