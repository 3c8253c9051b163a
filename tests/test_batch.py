"""Direct's queue by hand, as somebody would use it from a shell."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llama_tui.backend.schedulers.base import FIELD

BATCH = Path(__file__).resolve().parents[1] / "templates/direct/batch.py"


class Queue:
    """batch.py in a directory of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = shutil.copy(BATCH, folder / "batch.py")

    def call(self, *argv: str) -> str:
        command = [sys.executable, self.program, *argv]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout

    def submit(self, script: str, after: str = "") -> str:
        path = self.folder / f"{time.monotonic_ns()}.sh"
        path.write_text(script)
        options = ["--name", "n", "--comment", "c", "--output", str(self.folder / "log"), "--after", after]
        return self.call("submit", *options, str(path)).strip()

    def state(self, job: str) -> str:
        rows = [line.split(FIELD) for line in self.call("queue").splitlines()]
        return next(row[1] for row in rows if row[0] == job)

    def wait(self, job: str, *states: str) -> str:
        deadline = time.monotonic() + 30
        while self.state(job) not in states:
            assert time.monotonic() < deadline, self.state(job)
            time.sleep(0.05)
        return self.state(job)


@pytest.fixture
def batch(tmp_path: Path) -> Queue:
    return Queue(tmp_path)


def test_one_at_a_time_in_order(batch: Queue, tmp_path: Path) -> None:
    script = f"echo begin >> {tmp_path}/order; sleep 0.2; echo end >> {tmp_path}/order"
    jobs = [batch.submit(script) for _ in range(3)]
    for job in jobs:
        assert batch.wait(job, "COMPLETED", "FAILED") == "COMPLETED"
    assert (tmp_path / "order").read_text().split() == ["begin", "end"] * 3


def test_afterok(batch: Queue) -> None:
    bad = batch.submit("exit 4")
    after = batch.submit("true", bad)
    assert batch.wait(after, "CANCELLED", "COMPLETED") == "CANCELLED"
    assert batch.state(bad) == "FAILED"


def test_a_job_whose_processes_are_killed_has_failed(batch: Queue, tmp_path: Path) -> None:
    job = batch.submit(f"echo $$ > {tmp_path}/pid; sleep 60")
    batch.wait(job, "RUNNING")
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.02)
    os.killpg(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert batch.wait(job, "FAILED", "COMPLETED") == "FAILED"
    # The machine is free again.
    assert batch.wait(batch.submit("true"), "COMPLETED", "FAILED") == "COMPLETED"


def test_cancel(batch: Queue) -> None:
    running = batch.submit("sleep 60")
    # Jobs that wait for nothing begin in any order.
    batch.wait(running, "RUNNING")
    waiting = batch.submit("true")
    batch.call("cancel", waiting, running, "999")
    assert batch.wait(running, "CANCELLED", "FAILED") == "CANCELLED"
    assert batch.state(waiting) == "CANCELLED"


def test_a_job_that_ends_while_it_is_looked_at_has_not_failed(batch: Queue) -> None:
    """Its record was read, then it wrote the last word and its processes ended: what follows must not be cancelled."""
    job = batch.submit("true")
    batch.wait(job, "COMPLETED")
    code = "import sys, batch; job = batch.load(sys.argv[1]); job.update(state='RUNNING', keeper=0); print(batch.state_of(job))"
    argv = [sys.executable, "-c", code, job]
    looked = subprocess.run(argv, cwd=batch.folder, capture_output=True, text=True, check=True)
    assert looked.stdout == "COMPLETED\n"


def test_a_log_that_cannot_be_written(batch: Queue, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    assert batch.wait(batch.submit("true"), "FAILED", "COMPLETED") == "FAILED"
