"""Kills the screen with -9 a hundred times and restarts slurmctld twenty times while a real run goes on.

    python -m tests.bench.kills WORKSPACE

WORKSPACE is one where `llama-tui demo` has run, so that environment and model are there. Takes about six minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from llama_tui.backend.comparison import read_comparison
from llama_tui.backend.place import Place
from llama_tui.backend.runs import Run, create_run
from llama_tui.backend.settings import Settings, Stack, defaults
from llama_tui.backend.site import connect
from llama_tui.backend.states import StageState
from tests.cluster import SlurmCluster
from tests.tmux import Tmux

KILLS, RESTARTS = 100, 20
PATIENCE = 1800.0
PROGRAM = Path(sys.executable).with_name("llama-tui")


def kill_screens(kills: list[float]) -> None:
    """Starts the screen and kills it at a random moment, again and again."""
    for _ in range(KILLS):
        with Tmux() as terminal:
            terminal.start([str(PROGRAM)], width=120, height=40)
            moment = random.uniform(0.2, 3.0)
            time.sleep(moment / 2)
            terminal.send("Enter")
            time.sleep(moment / 2)
            pid = int(terminal._tmux("list-panes", "-F", "#{pane_pid}").split()[0])
            for child in [pid, *_children(pid)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            kills.append(moment)


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def restart_controllers(cluster: SlurmCluster, restarts: list[float]) -> None:
    """Stops and starts slurmctld, with pauses."""
    for _ in range(RESTARTS):
        time.sleep(random.uniform(3, 9))
        cluster.stop_controller()
        time.sleep(random.uniform(0.5, 3))
        cluster.start_controller()
        restarts.append(time.monotonic())


def settings_in(workspace: str) -> Settings:
    data = defaults(Stack.CPU).model_dump(mode="json")
    data["paths"]["workspace"] = workspace
    return Settings.model_validate(data)


def verdict(run: Run) -> list[str]:
    """What is wrong with how the run ended; nothing when all is well."""
    snapshot = run.snapshot()
    problems = [
        f"{view.stage} is {view.state}" for view in snapshot.views if view.state is not StageState.DONE
    ]
    twice = Counter((attempt.stage, attempt.number) for attempt in snapshot.attempts)
    problems += [f"{stage} has attempt {number}" for stage, number in twice if number > 1]
    if len(snapshot.attempts) != len(snapshot.views):
        problems.append(f"{len(snapshot.attempts)} submissions")
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace")
    workspace = parser.parse_args().workspace
    with tempfile.TemporaryDirectory() as folder, SlurmCluster(Path(folder)) as cluster:
        os.environ.update(cluster.env)
        site = connect(Place(workspace))
        run = create_run(site, settings_in(workspace))
        began = time.monotonic()
        kills: list[float] = []
        restarts: list[float] = []
        workers = [
            threading.Thread(target=kill_screens, args=(kills,), daemon=True),
            threading.Thread(target=restart_controllers, args=(cluster, restarts), daemon=True),
        ]
        for worker in workers:
            worker.start()
        run.submit(tell=print)
        while not (finished := run.snapshot().finished) or any(worker.is_alive() for worker in workers):
            assert time.monotonic() - began < PATIENCE, run.snapshot()
            time.sleep(2)
        problems = verdict(run)
        held = read_comparison(run).held_out
        print(
            f"{len(kills)} kills, {len(restarts)} restarts, {time.monotonic() - began:.0f} s, finished {finished}"
        )
        print(f"held-out loss {held.base_loss:.3f} -> {held.fine_tuned_loss:.3f}")
        print("problems: " + ("; ".join(problems) or "none"))
        site.close()


if __name__ == "__main__":
    main()
