"""What the programs look at: a Slurm of two nodes with five fixture jobs and a run of ours, and a way in by SSH."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from llama_tui.backend.place import Place
from llama_tui.backend.runs import Run
from llama_tui.backend.site import Site, connect
from llama_tui.backend.stages import Stage
from tests.bench.screens.processes import SLURM_COMMANDS
from tests.cluster import SlurmCluster, wait_until
from tests.sshd import Sshd
from tests.tiny import go, tiny_run, wait_for, wait_until_runs

ALIAS = "cluster"
WAITING = Stage.COMPILE_MODEL
RUNNING_JOBS, HELD_JOBS = ("fixt1", "fixt2"), ("held1", "held2")

_SHIM = '#!/bin/sh\necho "{name} $*" >> "{log}"\nexec {real} "$@"\n'
_NO_ACCOUNTING = '#!/bin/sh\necho "sacct $*" >> "{log}"\nexit 0\n'
_JOB = """\
#!/bin/sh
while sleep 1; do
    if [ -e '{talk}' ]; then echo "$(date +%T) step of the job, loss 1.234"; fi
done
"""
# A burst: 50,000 lines a second, in a hundred pieces.
BURST_RATE = 50_000
_BURST = """
import itertools, sys, time
began, number = time.monotonic(), 0
with open(sys.argv[1], "ab", buffering=0) as log:
    for turn in itertools.count(1):
        log.write(b"".join(b"burst line %d of a log that is as wide as such lines are, more or less\\n" % (number + n) for n in range({each})))
        number += {each}
        time.sleep(max(0.0, began + turn / 100 - time.monotonic()))
"""


class Ground:
    """A context manager; everything is below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.workspace = self.root / "workspace"
        self.commands_log = self.root / "slurm-commands.log"
        self._talk = self.root / "talk"
        self._stack = ExitStack()
        self._over = threading.Event()

    def __enter__(self) -> Ground:
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._stack.close()

    def _start(self) -> None:
        self.cluster = self._stack.enter_context(SlurmCluster(self.root / "slurm"))
        os.environ.update(self.cluster.env)
        self.commands_log.touch()
        self.shims = self._make_shims("shims")
        self.sshd = self._sshd("sshd", self.shims)
        # One failed sacct and slurmhub shows nothing at all; with one that finds nothing it works.
        generous = self._make_shims("shims-sacct")
        _write_program(generous / "sacct", _NO_ACCOUNTING.format(log=self.commands_log))
        self.generous_sshd = self._sshd("sshd-sacct", generous)
        self.jobs = self._submit_jobs()
        self.run = self._submit_run()
        threading.Thread(target=self._talk_in_run, daemon=True).start()

    def _sshd(self, name: str, shims: Path) -> Sshd:
        env = {**self.cluster.env, "PATH": f"{shims}:{os.environ['PATH']}"}
        return self._stack.enter_context(Sshd(self.root / name, env=env))

    def _make_shims(self, name: str) -> Path:
        """Stand in front of Slurm's commands and write down each call."""
        folder = self.root / name
        folder.mkdir()
        for command in SLURM_COMMANDS:
            real = shutil.which(command)
            if real:
                _write_program(folder / command, _SHIM.format(name=command, log=self.commands_log, real=real))
        return folder

    def _submit_jobs(self) -> list[str]:
        """Two that run and print a line a second, and two that are held; our run's stage is the third that runs."""
        script = _JOB.format(talk=self._talk)
        running = [
            self.cluster.submit(script, f"--job-name={name}", f"--output={self.root}/{name}.out")
            for name in RUNNING_JOBS
        ]
        held = [
            self.cluster.submit(script, "--hold", f"--job-name={name}", "--output=/dev/null")
            for name in HELD_JOBS
        ]
        for job in running:
            self.cluster.wait_job(job, "RUNNING")
        return running + held

    def _submit_run(self) -> Run:
        """A run with two stages done, the third running until it is told to end, and four that wait for it."""
        self.site: Site = connect(Place(str(self.workspace)))
        self._stack.callback(self.site.close)
        # A second row for the list of runs: one that was saved and not launched.
        tiny_run(self.site, self.workspace)
        run = tiny_run(self.site, self.workspace, **{WAITING.value: "wait"})
        run.submit()
        wait_until_runs(run, WAITING)
        self.log = Path(run.layout.log(WAITING, 1))
        return run

    # --- what the jobs do

    def talk(self, on: bool) -> None:
        """The running jobs print a line a second, or nothing."""
        if on:
            self._talk.touch()
        else:
            self._talk.unlink(missing_ok=True)

    def _talk_in_run(self) -> None:
        while not self._over.wait(1.0):
            if self._talk.exists():
                with self.log.open("a") as stream:
                    stream.write(f"{time.strftime('%T')} step of the stage, loss 1.234\n")

    @contextmanager
    def burst(self) -> Iterator[None]:
        """The run's stage prints 50,000 lines a second."""
        program = _BURST.replace("{each}", str(BURST_RATE // 100))
        with subprocess.Popen([sys.executable, "-c", program, str(self.log)]) as writer:
            try:
                yield
            finally:
                writer.kill()

    def empty_log(self) -> None:
        """The run's log is as it was at first."""
        self.log.write_text(f"this is {WAITING}\n")

    @contextmanager
    def hung_controller(self) -> Iterator[None]:
        """slurmctld takes connections and says nothing."""
        assert self.cluster.controller is not None
        self.cluster.controller.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.cluster.controller.signal(signal.SIGCONT)
            wait_until(
                lambda: "is UP" in self.cluster.run("scontrol", "ping").stdout, "slurmctld to wake up", 60
            )

    def end_everything(self) -> None:
        """The run's stages are all done, and the queue is empty."""
        go(self.run, WAITING)
        wait_for(self.run, lambda snapshot: snapshot.finished, 120)
        self.cluster.run("scancel", *self.jobs)
        queue = ("squeue", "-h", "-t", "PENDING,RUNNING,COMPLETING")
        wait_until(lambda: not self.cluster.run(*queue).stdout, "the queue to empty", 60)

    # --- Slurm's commands

    def commands(self) -> Counter[str]:
        """How often each was called until now."""
        return Counter(line.split()[0] for line in self.commands_log.read_text().splitlines() if line)

    def queue_words(self) -> str:
        """The queue in a sentence, for the report."""
        states = Counter(self.cluster.run("squeue", "-h", "-o", "%T").stdout.split())
        return ", ".join(f"{count} {state.lower()}" for state, count in sorted(states.items()))


def _write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
