"""What the program writes to a real terminal while nothing happens."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from llama_tui.backend.site import Site
from llama_tui.backend.stages import Stage
from tests.bench.screens.processes import own_processes
from tests.bench.screens.terminal import Terminal
from tests.tiny import go, tiny_run, wait_until_runs

_OPEN_RUN = """
import sys
from llama_tui.backend.place import Place, SchedulerChoice
from llama_tui.backend.ui_request import UiRequest
from llama_tui.tui.main import open_ui
workspace, run = sys.argv[1:]
open_ui(UiRequest(place=Place(workspace, scheduler=SchedulerChoice.DIRECT), run_id=run))
"""
# Bytes a second, with two clocks on the screen.
MOST = 100
# Seconds; clocks of the first minute go on in steps of five.
LOOK = 12.0


def _settled(terminal: Terminal) -> None:
    """What comes with the start has been painted: less than a line of it in two seconds, again and again."""
    quiet = 0
    for _ in range(30):
        before = terminal.bytes
        terminal.watch(2.0)
        quiet = quiet + 1 if terminal.bytes - before < 2 * MOST else 0
        if quiet == 3:
            return


def _falls_silent(terminal: Terminal) -> bool:
    """The message that all is done goes away, then not a byte comes."""
    for _ in range(10):
        before = terminal.bytes
        terminal.watch(LOOK / 2)
        if terminal.bytes == before:
            return True
    return False


def test_a_monitor_at_rest_writes_next_to_nothing(site: Site, workspace: Path) -> None:
    run = tiny_run(site, workspace, create_env="wait")
    run.submit()
    wait_until_runs(run, Stage.CREATE_ENV)
    argv = [sys.executable, "-c", _OPEN_RUN, str(workspace), run.run_id]
    env = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    with Terminal(argv, env, workspace, own_processes) as terminal:
        assert terminal.wait(lambda one: "0 create_env           ▶ running" in one.text, 60) is not None
        _settled(terminal)
        before = terminal.bytes
        terminal.watch(LOOK)
        written = (terminal.bytes - before) / LOOK
        assert written < MOST, f"{written:.0f} bytes a second"
        # It is not dead, only quiet: what happens is shown.
        go(run, Stage.CREATE_ENV)
        assert terminal.wait(lambda one: "6 inference            ✓ done" in one.text, 60) is not None
        assert _falls_silent(terminal)
