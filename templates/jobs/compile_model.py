"""Stage 2 on Trainium: runs neuron_parallel_compile, shows its progress, and fails when a graph failed.

    compile_model.py --report FILE -- neuron_parallel_compile launch.py ... finetune.py ...

neuron_parallel_compile itself can end with 0 although graphs failed; its closing lines are what counts. On several nodes
each has one, and its own closing lines: the worst of them counts.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from common import EXIT_TERMINATED, StageError, log, read_json, report, run_main
from graphs import ARGUMENTS_FILE

_TOTALS = {
    "graphs": re.compile(r"Total graphs:\s*(\d+)"),
    "compiled": re.compile(r"Total successful compilations:\s*(\d+)"),
    "failed": re.compile(r"Total failed compilations:\s*(\d+)"),
}
_PROGRESS = re.compile(
    r"Current remaining items are (\d+), locked are (\d+), failed are (\d+), done are (\d+), total is (\d+)"
)
_BEGINS = re.compile(r"Starting parallel compilation|Compiling \d+ graphs")
# Codes such as [F134] and [LUR015] are the compiler's.
_ERROR = re.compile(
    r"\bERROR\b|\berror: |error while loading|\[[A-Z]{1,8}\d{2,4}\]|terminated abnormally|failed neff|CalledProcessError"
    r"|\bKilled\b"
)
_GRAPH = re.compile(r"MODULE_\d+\+\w+")
_FAILED_NEFF = re.compile(r"failed neff at (.+?/model\.neff)")
_ERRORS_KEPT = 20
_LOG_LINES = 5
_BAR = 20


class Watch:
    """What neuron_parallel_compile's output says, line by line."""

    def __init__(self) -> None:
        self.totals: dict[str, int] = {}
        self.errors: deque[str] = deque(maxlen=_ERRORS_KEPT)
        self.failed_graphs: list[str] = []
        self._compiling = False
        self._last: tuple[str, ...] = ()

    def line(self, text: str) -> None:
        """Take one line in, and print progress where it brings some."""
        for name, pattern in _TOTALS.items():
            found = pattern.search(text)
            if found:
                # Of several nodes: one failure is a failure, and compiled is what all of them have.
                worst = min if name == "compiled" else max
                self.totals[name] = worst(self.totals.get(name, int(found[1])), int(found[1]))
        if not self._compiling and _BEGINS.search(text):
            # What failed while graphs were collected is not the compiler's word.
            self._compiling = True
            self.errors.clear()
        if _ERROR.search(text):
            self._error(text.rstrip()[:500])
        progress = _PROGRESS.search(text)
        if progress and progress.groups() != self._last:
            self._last = progress.groups()
            log(_bar(*map(int, progress.groups())))

    def _error(self, text: str) -> None:
        self.errors.append(text)
        self.failed_graphs += [name for name in _GRAPH.findall(text) if name not in self.failed_graphs]
        remembered = _FAILED_NEFF.search(text)
        if remembered:
            self.errors.extend(_own_log(Path(remembered[1]).with_name("model.log")))


def _own_log(file: Path) -> list[str]:
    """The end of the compiler's log of a graph that failed earlier, if it is there."""
    if not file.is_file():
        return []
    return [
        f"  {file.parent.name}: {line[:500]}"
        for line in file.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    ]


def _bar(remaining: int, locked: int, failed: int, done: int, total: int) -> str:
    filled = _BAR * (done + failed) // max(1, total)
    text = f"[{'#' * filled}{'.' * (_BAR - filled)}] {done} of {total} graphs compiled, {remaining} left"
    return text + (f", {locked} being compiled" if locked else "") + (f", {failed} failed" if failed else "")


def watch(command: list[str]) -> tuple[int | None, Watch]:
    """Runs the command with its output passed on; gives its exit code (None when we were stopped) and what it said.

    The exit code alone does not tell: srun gives 143 as well when it ends the other nodes because one failed.
    """
    seen = Watch()
    stopped = False
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True
        # All of them: the compiler's workers would hold the output open.
        os.killpg(process.pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    assert process.stdout is not None
    for line in process.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        seen.line(line)
    code = process.wait()
    return (None if stopped else code), seen


def judge(code: int, seen: Watch) -> None:
    """Raises StageError unless every graph is known to be compiled."""
    totals = seen.totals
    if totals.get("failed"):
        said = "\n".join(seen.errors) or "the compiler left no message in this log"
        names = f" ({', '.join(seen.failed_graphs)})" if seen.failed_graphs else ""
        raise StageError(
            f"{totals['failed']} of {totals.get('graphs', '?')} graphs failed to compile{names}:\n{said}",
            "compiled graphs are kept in the cache: run this stage again when the cause is removed",
        )
    if code != 0:
        raise StageError(f"neuron_parallel_compile ended with exit code {code}", "the lines above say why")
    if "graphs" not in totals:
        raise StageError("neuron_parallel_compile gave no summary: nothing is known to be compiled")


def _compiled_for(file: Path) -> dict[str, Any] | None:
    return read_json(file, "compile_model") if file.exists() else None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command to run")
    arguments = parser.parse_args()
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        parser.error("no command given after --")
    compiled_for = arguments.report.with_name(ARGUMENTS_FILE)
    compiled_for.unlink(missing_ok=True)
    began = time.monotonic()
    code, seen = watch(command)
    if code is None:
        log("stopped by SIGTERM: the graphs compiled so far are in the cache")
        return EXIT_TERMINATED
    seconds = round(time.monotonic() - began, 1)
    facts = {"exit_code": code, "seconds": seconds, "errors": list(seen.errors), **seen.totals}
    report(
        arguments.report,
        {**facts, "failed_graphs": seen.failed_graphs, "arguments": _compiled_for(compiled_for)},
    )
    judge(code, seen)
    log(f"{seen.totals.get('compiled', 0)} of {seen.totals['graphs']} graphs compiled in {seconds} s")
    return 0


if __name__ == "__main__":
    run_main(main)
