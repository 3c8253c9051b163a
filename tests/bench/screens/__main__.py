"""Measures the screen beside bare Textual and its peers, all in one run, and prints Markdown.

    python -m tests.bench.screens DIR [--peers VENV_DIR] [--quick]

Starts a Slurm of two nodes and two sshds of its own in a temporary directory. The raw figures go to DIR/figures.json
and the tables to DIR/report.md as well. VENV_DIR holds a virtual environment for each peer: lazyslurm-py/, stui/ and
slurmhub/ (which wants Python 3.12). Needs `pyte`, a terminal emulator, from the test group.

About 50 minutes, in which nothing else should run on the machine. --quick: 6 minutes, or 3 without peers; its rates and
percentiles are rough, since it looks for three seconds where else it is a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import textual

from tests.bench.screens.big_logs import KINDS, BigLog
from tests.bench.screens.figures import QUICK, Effort, Measuring
from tests.bench.screens.ground import Ground
from tests.bench.screens.programs import Program, Programs
from tests.bench.screens.report import Report

PHASES = ("starts", "rest", "keys", "logs", "ended")


class Bench:
    """All phases, and what came of them."""

    def __init__(self, folder: Path, ground: Ground, programs: list[Program], effort: Effort) -> None:
        self._folder = folder
        self._ground = ground
        self._programs = programs
        self._effort = effort
        self._measuring = Measuring(ground, effort)
        self.results: dict[str, Any] = {
            "facts": self._facts(),
            "effort": vars(effort),
            "missing": {},
            "programs": {one.name: {} for one in programs},
        }

    def _facts(self) -> dict[str, str]:
        return {
            "when": time.strftime("%Y-%m-%d %H:%M"),
            "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}, Textual {textual.__version__}",
            "queue": self._ground.queue_words(),
            "load before": _load(),
            "screen": "160x45, emulated by pyte",
            "effort": f"{self._effort.rounds} starts, {self._effort.window:g} s at rest, {self._effort.keys} keys",
        }

    def run(self, phases: list[str]) -> None:
        """Measures, and keeps what is known after each phase."""
        for name in PHASES:
            if name in phases:
                _tell(name)
                getattr(self, f"_{name}")()
                self.results["facts"][f"load after {name}"] = _load()
                self.keep()

    def keep(self) -> None:
        """Writes what is known."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "figures.json").write_text(json.dumps(self.results, indent=1))
        (self._folder / "report.md").write_text(Report(self.results).text())

    def _starts(self) -> None:
        """In turns, so that what else the machine does hits all alike. The first round warms the page cache."""
        self._ground.talk(True)
        for turn in range(1 + self._effort.rounds):
            for program in self._programs:
                found = self._measuring.start(program)
                if turn:
                    self.results["programs"][program.name].setdefault("starts", []).append(found)
        self._ground.talk(False)

    def _rest(self) -> None:
        self._each("rest", self._measuring.rest)

    def _keys(self) -> None:
        self._each("keys", self._measuring.keys)

    def _ended(self) -> None:
        self._ground.end_everything()
        self._each("ended", self._measuring.ended)

    def _each(self, key: str, measure: Callable[[Program], Any]) -> None:
        for program in self._programs:
            _tell(f"{key}: {program.name}")
            self.results["programs"][program.name][key] = measure(program)
            self.keep()

    def _logs(self) -> None:
        by_name = {one.name: one for one in self._programs}
        for where in ("local", "over SSH"):
            monitor, runs = (by_name.get(f"llama-tui {what}, {where}") for what in ("monitor", "runs"))
            if monitor is None or runs is None:
                continue
            for kind in KINDS:
                _tell(f"logs: {kind}, {where}")
                found = BigLog(self._measuring, kind).measure(monitor, runs)
                self.results["programs"][monitor.name].setdefault("logs", {})[kind] = found
                self.keep()


def _load() -> str:
    return " ".join(f"{one:.2f}" for one in os.getloadavg())


def _tell(words: str) -> None:
    print(f"{time.strftime('%T')} {words}", file=sys.stderr, flush=True)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, help="for the figures and the screens that were seen")
    parser.add_argument("--peers", type=Path, help="a directory with a virtual environment for each peer")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, shorter looks")
    parser.add_argument(
        "--only", action="append", default=[], help="programs whose name contains this; repeatable"
    )
    parser.add_argument("--phase", action="append", choices=PHASES, help="only this; repeatable")
    options = parser.parse_args()
    # The reader of a terminal stamps what it reads: it must not wait for the emulator.
    sys.setswitchinterval(0.0005)
    with tempfile.TemporaryDirectory(prefix="ltb-") as folder, Ground(Path(folder)) as ground:
        known = Programs(ground, options.peers)
        programs = [
            one for one in known.all() if not options.only or any(word in one.name for word in options.only)
        ]
        bench = Bench(options.directory, ground, programs, QUICK if options.quick else Effort())
        bench.results["missing"] = known.missing
        bench.run(options.phase or list(PHASES))
        print(Report(bench.results).text())


if __name__ == "__main__":
    main()
