"""`--host`, and the screen, with a host of ~/.ssh/config that is the head node of a real Slurm."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_tui.backend.place import Place
from llama_tui.backend.runs import Run
from llama_tui.backend.site import connect
from llama_tui.backend.stages import Stage
from tests.cluster import SlurmCluster, wait_until
from tests.sshd import Sshd
from tests.tiny import ALL, go, ran, tiny_run
from tests.tmux import Tmux

pytestmark = [pytest.mark.slurm, pytest.mark.ssh]
PROGRAM = Path(sys.executable).with_name("llama-tui")
TUNE = Stage.FINETUNE


@pytest.fixture
def place(slurm_cluster: SlurmCluster, tmp_path: Path) -> Iterator[Place]:
    """The cluster's head node, as the test's ssh config calls it."""
    yield Place(str(tmp_path / "it's 100% $HOME"), host="cluster", python=sys.executable)
    slurm_cluster.clear()


class TestCommandLine:
    """`--host` with a host of ~/.ssh/config."""

    @pytest.fixture
    def options(self, slurm_sshd: Sshd, place: Place, home: Path) -> list[str]:
        config = home / ".ssh/config"
        config.parent.mkdir(mode=0o700)
        config.write_text(slurm_sshd.client_config(place.host).read_text())
        return ["--host", place.host, "--workspace", place.workspace, "--python", place.python]

    def call(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(PROGRAM), *argv], capture_output=True, text=True, timeout=180)

    @pytest.fixture
    def run(self, place: Place, options: list[str]) -> Run:
        del options  # It writes the config that connect reads.
        site = connect(place)
        made = tiny_run(site, Path(place.workspace), finetune="wait print 40")
        made.submit()
        wait_until(lambda: TUNE in ran(made), "the training to begin")
        site.close()
        return made

    def test_runs_status_logs_and_cancel(self, run: Run, options: list[str]) -> None:
        listed = self.call("runs", "--json", *options)
        assert listed.returncode == 0, listed.stderr
        assert [one["run"] for one in json.loads(listed.stdout)] == [run.run_id]
        status = json.loads(self.call("status", "--json", *options).stdout)
        states = {one["stage"]: one["state"] for one in status["stages"]}
        assert states[TUNE] == "running"
        assert states[Stage.INFERENCE] == "pending"
        argv = [str(PROGRAM), "logs", "-f", "--stage", TUNE, *options]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, encoding="utf-8") as following:
            assert following.stdout is not None
            go(run, TUNE)
            lines = [following.stdout.readline() for _ in range(42)]
            following.send_signal(signal.SIGINT)
            assert following.wait(60) == 130
        assert "".join(lines) == Path(run.layout.log(TUNE, 1)).read_text()

    def test_a_cut_while_following_is_told(self, run: Run, options: list[str], slurm_sshd: Sshd) -> None:
        argv = [str(PROGRAM), "logs", "-f", "--stage", TUNE, *options]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as following:
            assert following.stdout is not None
            assert following.stderr is not None
            assert "finetune" in following.stdout.readline()
            slurm_sshd.kill_sessions()
            said = following.stderr.read()
            assert following.wait(60) == 3
        assert "the job goes on" in said.lower() or "jobs go on" in said.lower()
        assert "Traceback" not in said
        go(run, TUNE)
        waited = self.call("status", "--wait", *options)
        assert waited.returncode == 0, waited.stderr
        assert ran(run) == ALL

    def test_on_the_screen_a_cut_is_told_and_passes(
        self, run: Run, options: list[str], slurm_sshd: Sshd, tmux: Tmux
    ) -> None:
        tmux.start([str(PROGRAM)], width=110, height=34)
        tmux.wait_for("Begins the run's id")
        tmux.send("Tab", "Tab")
        tmux.wait_for("Empty for this machine")
        tmux.type_text("cluster")
        tmux.send("C-t")
        shown = tmux.wait_for("partitions (nodes, state, features)")
        assert "Slurm" in shown
        assert re.search(r"dev\* \d \w+", shown)
        tmux.start([str(PROGRAM), "status", *options])
        tmux.wait_for("finetune")
        tmux.start([str(PROGRAM)], width=110, height=34)
        tmux.wait_for(run.run_id)
        tmux.send("Enter")
        tmux.wait_for("this is finetune")
        slurm_sshd.stop()
        tmux.wait_for("The jobs go on")
        slurm_sshd.start()
        tmux.send("x")
        wait_until(lambda: "The jobs go on" not in tmux.screen(), "the link's return")
        go(run, TUNE)
        tmux.wait_for("finetune line 40 of 40")
        tmux.wait_for("All seven stages are done", 120)
        tmux.send("q")
