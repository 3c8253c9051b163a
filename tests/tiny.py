"""Runs whose stages take no time: the real scripts, schedulers and run directory, around programs of a few lines.

What a stage's program does is written to `behave/<stage>` in the run directory: an exit code, or `wait` for one that
goes on until `go/<stage>` is there (or SIGTERM comes), or `print N` for one that prints N numbered lines over about
N / 40 seconds, in bursts; `wait print N` does one after the other.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from llama_tui.backend.runs import Run, Snapshot, create_run
from llama_tui.backend.settings import Settings, Stack, defaults
from llama_tui.backend.site import Site
from llama_tui.backend.stages import STAGES, Stage

_PROGRAM = """
import pathlib, random, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
run = pathlib.Path(__file__).parent.parent
stage = "compile_model" if "--rehearse" in sys.argv else pathlib.Path(__file__).stem
if stage == "download_model":
    for option in ("--model-dir", "--dataset-dir"):
        folder = pathlib.Path(sys.argv[sys.argv.index(option) + 1])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".complete").write_text("{}")
with (run / "ran").open("a") as ran:
    ran.write(stage + "\\n")
print("this is", stage, flush=True)
behave = run / "behave" / stage
plan = behave.read_text() if behave.exists() else "0"
words = plan.split()
if "wait" in words:
    # A test that failed lets nothing go.
    latest = time.monotonic() + 600
    while not (run / "go" / stage).exists() and time.monotonic() < latest:
        time.sleep(0.02)
if "print" in words:
    pauses = random.Random(stage)
    for number in range(1, int(words[-1]) + 1):
        print(f"{stage} line {number} of {words[-1]}, with an accent: é", flush=True)
        time.sleep(pauses.choice((0, 0, 0.05, 0.05)))
sys.exit(int(plan) if plan.isdecimal() else 0)
"""
_LAUNCH = """
import runpy, sys
sys.argv = sys.argv[next(at for at, word in enumerate(sys.argv) if word.endswith("/finetune.py")):]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def tiny_settings(workspace: Path) -> Settings:
    data = defaults(Stack.CPU).model_dump(mode="json")
    data["paths"]["workspace"] = str(workspace)
    data["name"] = "tiny"
    return Settings.model_validate(data)


def tiny_run(site: Site, workspace: Path, **behave: str) -> Run:
    """A run that is made and not submitted; `behave` says what stages do."""
    run = create_run(site, tiny_settings(workspace))
    folder = Path(run.layout.path)
    for program in (folder / "jobs").glob("*.py"):
        program.write_text(_LAUNCH if program.name == "launch.py" else _PROGRAM)
    env = Path(run.plan.env_dir)
    (env / "bin").mkdir(parents=True, exist_ok=True)
    Path(run.plan.env_marker).write_text("{}")
    if not (env / "bin/python").exists():
        (env / "bin/python").symlink_to(sys.executable)
    for name in ("behave", "go"):
        (folder / name).mkdir()
    for stage, plan in behave.items():
        set_behaviour(run, Stage(stage), plan)
    return run


def set_behaviour(run: Run, stage: Stage, plan: str) -> None:
    (Path(run.layout.path) / "behave" / stage).write_text(plan)


def go(run: Run, stage: Stage) -> None:
    """Lets a waiting stage end."""
    (Path(run.layout.path) / "go" / stage).touch()


def ran(run: Run) -> list[Stage]:
    """The stages whose programs ran, in order, each as often as it ran."""
    file = Path(run.layout.path) / "ran"
    return [Stage(line) for line in file.read_text().split()] if file.exists() else []


def wait_for(run: Run, condition: Callable[[Snapshot], bool], timeout: float = 120) -> Snapshot:
    """The first snapshot for which the condition holds."""
    deadline = time.monotonic() + timeout
    while True:
        snapshot = run.snapshot()
        if condition(snapshot):
            return snapshot
        assert time.monotonic() < deadline, [(view.stage, view.state, view.reason) for view in snapshot.views]
        time.sleep(0.1)


def wait_until_runs(run: Run, stage: Stage) -> None:
    """Until the stage's program has begun."""
    wait_for(run, lambda _: stage in ran(run))


ALL = list(STAGES)
