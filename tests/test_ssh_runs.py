"""Runs from a laptop: through SSH to a real Slurm of two nodes, over a connection that is cut again and again."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llama_tui.backend import runs
from llama_tui.backend.errors import HostError, UserError
from llama_tui.backend.hosts.choose import HostBook
from llama_tui.backend.link import Link
from llama_tui.backend.live import LinkChanged, LiveEvent, LiveRun, LogRead, SnapshotTaken
from llama_tui.backend.place import Place
from llama_tui.backend.runs import Run, Snapshot, open_run
from llama_tui.backend.schedulers.slurm import Slurm
from llama_tui.backend.site import connect
from llama_tui.backend.stages import STAGES, Stage
from llama_tui.backend.states import StageState, read_attempts
from tests.bench.slow_link import SlowLink
from tests.cluster import SlurmCluster, wait_until
from tests.sshd import Sshd
from tests.supervisor import send_signal
from tests.test_ssh_proxy import RELAY, with_lines
from tests.tiny import ALL, go, ran, tiny_run

pytestmark = [pytest.mark.slurm, pytest.mark.ssh]
TUNE = Stage.FINETUNE
# On an idle machine it is right within half a second, and while nothing is asked for it would never be.
RIGHT_WITHIN = 20.0


@pytest.fixture
def place(slurm_cluster: SlurmCluster, tmp_path: Path) -> Iterator[Place]:
    """The cluster's head node, as the test's ssh config calls it."""
    yield Place(str(tmp_path / "it's 100% $HOME"), host="cluster", python=sys.executable)
    slurm_cluster.clear()


@dataclass
class Seen:
    """What LiveRun told, put together as a screen does it."""

    log: str = ""
    fresh: int = 0
    offset: int = 0
    snapshot: Snapshot | None = None
    told: list[LinkChanged] = field(default_factory=list)
    connected: bool = False

    def take(self, event: LiveEvent) -> None:
        match event:
            case SnapshotTaken(snapshot):
                self.snapshot = snapshot
            case LogRead():
                self._take_log(event)
            case LinkChanged():
                if not event.connected:
                    # What the next link tells first is what counts.
                    self.snapshot = None
                self.connected = event.connected
                self.told.append(event)

    def _take_log(self, event: LogRead) -> None:
        if event.fresh:
            self.log, self.offset = "", event.start
            self.fresh += 1
        assert event.start == self.offset, f"at byte {event.start} instead of {self.offset}"
        self.log += event.text
        self.offset += len(event.text.encode("utf-8", "surrogateescape"))


def queue_of(run: Run, cluster: SlurmCluster) -> list[tuple[str, str]]:
    """Stage and Slurm's word for each job that was ever accepted for the run."""
    lines = cluster.run("squeue", "-h", "-t", "all", "-o", "%k/%T", check=True).stdout.split()
    fields = [line.split("/") for line in lines if line.startswith(f"{run.run_id}/")]
    return [(stage, word) for _, stage, _, word in fields]


def truth(run: Run, cluster: SlurmCluster) -> list[StageState]:
    """The stages' states, from Slurm's own command and the files, without the program."""
    words = dict(queue_of(run, cluster))
    states = []
    for stage in STAGES:
        file = Path(run.layout.path) / "status" / f"{stage}.json"
        status = json.loads(file.read_text()) if file.exists() else {}
        if status.get("state") == "done":
            states.append(StageState.DONE if status["exit_code"] == 0 else StageState.FAILED)
        else:
            states.append(StageState.PENDING if words[stage] == "PENDING" else StageState.RUNNING)
    return states


def log_of(run: Run, stage: Stage) -> Path:
    """The log of its only job: one that was asked for and never came has taken the number before."""
    [submitted] = [
        attempt
        for attempt in read_attempts(Path(run.layout.submitted).read_text())
        if attempt.stage is stage and not attempt.refused
    ]
    return Path(run.layout.log(stage, submitted.number))


def shown(snapshot: Snapshot | None) -> list[StageState]:
    return [view.state for view in snapshot.views] if snapshot else []


class Journey:
    """A run that is made, submitted and watched through a link that `cut` cuts.

    Args:
        cut: ends the connection at once, as a pulled cable does.
    """

    def __init__(self, place: Place, hosts: HostBook, cluster: SlurmCluster, cut: Callable[[], None]) -> None:
        self.place, self.hosts, self.cluster, self._cut = place, hosts, cluster, cut
        self.cuts = 0
        self.chance = random.Random()
        self.seen = Seen()
        self.logs: dict[Stage, str] = {}
        self.late: list[float] = []

    def make(self, lines: int) -> Run:
        """A run whose first and last stage wait for us, and all stages print."""
        site = connect(self.place, self.hosts)
        try:
            assert isinstance(site.scheduler, Slurm)
            behave = {stage.value: f"print {lines}" for stage in ALL}
            behave |= {stage.value: f"wait print {lines}" for stage in (ALL[0], ALL[-1])}
            return tiny_run(site, Path(self.place.workspace), **behave)
        finally:
            site.close()

    def submit(self, run: Run, cuts: int) -> None:
        """Submits, and again after each cut: one soon after each of so many stages was asked for."""
        deadline = time.monotonic() + 150
        doomed = self.chance.sample(STAGES, cuts)
        cable = threading.Thread(target=self._cut_when_asked, args=(run, doomed), daemon=True)
        cable.start()
        while True:
            assert time.monotonic() < deadline
            with contextlib.suppress(HostError), contextlib.closing(connect(self.place, self.hosts)) as site:
                open_run(site, run.run_id).submit()
                break
        cable.join(60)
        assert not cable.is_alive()

    def _cut_when_asked(self, run: Run, doomed: list[Stage]) -> None:
        journal = Path(run.layout.submitted)
        for stage in sorted(doomed, key=STAGES.index):
            asked = f'"event": "asked", "stage": "{stage}"'
            deadline = time.monotonic() + 150
            while not (journal.exists() and asked in journal.read_text()):
                assert time.monotonic() < deadline, asked
                time.sleep(0.005)
            time.sleep(self.chance.uniform(0, 0.1))
            self._cut()
            self.cuts += 1

    def watch(self, run: Run, cuts: int) -> None:
        """Follows one log after the other to its end, while the link is cut until there were `cuts` of them."""
        live = LiveRun(self.place, run.run_id, self.seen.take, self.hosts)
        follower = threading.Thread(target=self._follow_logs, args=(live, run), daemon=True)
        live.start()
        try:
            wait_until(lambda: self.seen.connected, "the first connection")
            follower.start()
            go(run, ALL[0])
            while self.cuts < cuts:
                self._cut_once(live, run)
                if self.cuts == cuts - 2:
                    go(run, ALL[-1])
            follower.join(120)
            assert not follower.is_alive(), f"the log of {list(self.logs)[-1:]} never came to its end"
            wait_until(lambda: shown(self.seen.snapshot) == [StageState.DONE] * 7, "the end to be shown")
        finally:
            live.close()

    def _cut_once(self, live: LiveRun, run: Run) -> None:
        time.sleep(self.chance.uniform(0, 1.0))
        told = len(self.seen.told)
        self._cut()
        self.cuts += 1
        wait_until(lambda: len(self.seen.told) > told, "the loss to be told", every=0.01)
        # Some people press the key, some wait.
        if self.chance.random() < 0.5:
            live.retry_now()
        wait_until(lambda: self.seen.connected, "the link's return", every=0.01)
        returned = time.monotonic()
        while shown(self.seen.snapshot) != (known := truth(run, self.cluster)):
            late = time.monotonic() - returned
            assert late < RIGHT_WITHIN, f"{late:.1f} s after: {shown(self.seen.snapshot)}, but is {known}"
            time.sleep(0.01)
        self.late.append(time.monotonic() - returned)

    def _follow_logs(self, live: LiveRun, run: Run) -> None:
        for stage in STAGES:
            self.seen.fresh = 0
            # Without a link it is followed as soon as there is one again.
            with contextlib.suppress(UserError):
                live.follow_log(str(log_of(run, stage)))
            while not (self.seen.fresh and _ended(self.seen.log)):
                time.sleep(0.02)
            self.logs[stage] = self.seen.log
            assert self.seen.fresh == 1, f"{stage} was begun anew"

    def check(self, run: Run, lines: int) -> None:
        """Every line once and in order, every stage submitted and run once."""
        for stage in STAGES:
            assert self.logs[stage] == log_of(run, stage).read_text()
            numbered = [line for line in self.logs[stage].splitlines() if " line " in line]
            assert numbered == [
                f"{stage} line {number} of {lines}, with an accent: é" for number in range(1, lines + 1)
            ]
        assert sorted(stage for stage, _ in queue_of(run, self.cluster)) == sorted(STAGES)
        assert ran(run) == ALL


def _ended(log: str) -> bool:
    last = log.rpartition(" line ")[2]
    number, _, of = last.removesuffix(", with an accent: é\n").partition(" of ")
    return bool(of) and number == of


def travel(journey: Journey, lines: int, cuts: int, while_submitting: int) -> None:
    run = journey.make(lines)
    journey.submit(run, while_submitting)
    journey.watch(run, cuts)
    journey.check(run, lines)
    assert journey.cuts == cuts


@pytest.fixture
def short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """An sbatch that has no job after so long will have none here; on a busy cluster it may take a minute."""
    monkeypatch.setattr(runs, "LOOK_FOR", 10.0)


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("short_search")
def test_seven_stages_with_the_connection_cut_twenty_times(
    slurm_cluster: SlurmCluster, slurm_sshd: Sshd, place: Place
) -> None:
    hosts = HostBook(config_file=slurm_sshd.client_config("cluster"))
    journey = Journey(place, hosts, slurm_cluster, slurm_sshd.kill_sessions)
    travel(journey, lines=200, cuts=20, while_submitting=5)
    assert len(journey.late) == 15
    print(f"right after {sorted(round(late, 2) for late in journey.late)} s")
    hosts.close()


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("short_search")
@pytest.mark.parametrize("way", ["ProxyJump", "ProxyCommand"])
def test_the_same_over_a_hop_that_breaks(
    slurm_cluster: SlurmCluster, slurm_sshd: Sshd, place: Place, tmp_path: Path, way: str
) -> None:
    with Sshd(tmp_path / "jump") as jump:
        if way == "ProxyJump":
            config = with_lines(slurm_sshd, "ProxyJump jump", alias="cluster")
            config.write_text(config.read_text() + jump.client_config("jump").read_text())
            hurt = [slurm_sshd.kill_sessions, jump.kill_sessions]
        else:
            config = with_lines(slurm_sshd, f"ProxyCommand {RELAY} %h %p", alias="cluster")
            hurt = [slurm_sshd.kill_sessions, _kill_relays]
        hosts = HostBook(config_file=config)
        journey = Journey(place, hosts, slurm_cluster, lambda: journey.chance.choice(hurt)())
        travel(journey, lines=60, cuts=6, while_submitting=1)
        hosts.close()


def test_a_controller_that_is_down_is_no_lost_link(
    slurm_cluster: SlurmCluster, slurm_sshd: Sshd, place: Place
) -> None:
    hosts = HostBook(config_file=slurm_sshd.client_config("cluster"))
    site = connect(place, hosts)
    run = tiny_run(site, Path(place.workspace), finetune="wait")
    run.submit()
    wait_until(lambda: TUNE in ran(run), "the training to begin")
    slurm_cluster.stop_controller()
    seen = Seen()
    live = LiveRun(place, run.run_id, seen.take, hosts)
    live.start()
    wait_until(lambda: seen.snapshot is not None and bool(seen.snapshot.problem), "the problem", 60)
    assert seen.connected
    assert shown(seen.snapshot)[:3] == [StageState.DONE] * 3
    slurm_cluster.start_controller()
    wait_until(lambda: shown(seen.snapshot)[3] is StageState.RUNNING, "the queue's return", 60)
    go(run, TUNE)
    wait_until(lambda: shown(seen.snapshot) == [StageState.DONE] * 7, "the end", 60)
    assert [one.connected for one in seen.told] == [True]
    live.close()
    site.close()
    hosts.close()


def test_a_flood_of_log_does_not_hold_up_the_rest_on_a_slow_link(sshd: Sshd, tmp_path: Path) -> None:
    with SlowLink(sshd.port, bandwidth=1e6) as slow:
        config = sshd.client_config("slow")
        moved = config.read_text().replace(f"Port {sshd.port}", f"Port {slow.port}")
        config.write_text(f"{moved} HostKeyAlias [127.0.0.1]:{sshd.port}\n")
        hosts = HostBook(config_file=config)
        link = Link(hosts.host("slow"), sys.executable)
        log = tmp_path / "log"
        log.write_bytes(b"a line of a log that is printed fast\n" * 200_000)
        read = 0

        def take(event: dict[str, Any]) -> None:
            nonlocal read
            read = event["offset"]

        link.follow(str(log), take)
        wait_until(lambda: read > 300_000, "the flood")
        before = read
        link.run(["true"])
        # What was on its way already, and by far not all of it.
        assert read - before < 1_000_000 < log.stat().st_size
        link.close()
        hosts.close()


def _kill_relays() -> None:
    """Those that this process has started."""
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    for pid in {int(word) for file in children for word in _text(file).split()}:
        if "relay.py" in _text(Path(f"/proc/{pid}/cmdline")):
            send_signal(pid, signal.SIGKILL)


def _text(file: Path) -> str:
    """Of a process or thread that may end meanwhile."""
    try:
        return file.read_text()
    except OSError:
        return ""
