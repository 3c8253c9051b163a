"""How late the screen is over a slow link, and what it costs when nothing happens, beside plain ssh.

    python -m tests.bench.links

Starts a Slurm and an sshd of its own, and two emulated links: 200 ms round trip, and 1 Mbit/s. About ten minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO

from llama_tui.backend.hosts.choose import HostBook
from llama_tui.backend.live import LinkChanged, LiveEvent, LiveRun, LogRead, SnapshotTaken
from llama_tui.backend.place import Place
from llama_tui.backend.runs import Run, Snapshot
from llama_tui.backend.site import connect
from llama_tui.backend.stages import Stage
from llama_tui.backend.ui_request import UiRequest
from llama_tui.tui.app import LlamaTui
from llama_tui.tui.widgets.tables import StageTable
from tests.bench.slow_link import SlowLink
from tests.cluster import SlurmCluster, wait_until
from tests.sshd import Sshd
from tests.tiny import tiny_run, wait_until_runs

LINES, CHANGES, JOBS, KEYS = 50, 20, 6, 50
QUIET = 60.0
LINKS = {"loopback": (0.0, 0.0), "200 ms": (0.2, 0.0), "1 Mbit/s": (0.0, 1e6)}


class Seen:
    """When what was first told."""

    def __init__(self) -> None:
        self.text = ""
        self.snapshot: Snapshot | None = None
        self.connected = threading.Event()
        self._news = threading.Condition()

    def take(self, event: LiveEvent) -> None:
        with self._news:
            match event:
                case LogRead():
                    self.text = self.text[-10_000:] + event.text
                case SnapshotTaken(snapshot):
                    self.snapshot = snapshot
                case LinkChanged(True):
                    self.connected.set()
            self._news.notify_all()

    def add_line(self, line: str) -> None:
        with self._news:
            self.text = self.text[-10_000:] + line
            self._news.notify_all()

    def wait(self, condition: Callable[[], bool]) -> float:
        """Seconds until it holds."""
        began = time.monotonic()
        with self._news:
            assert self._news.wait_for(condition, 60)
        return time.monotonic() - began


class Bench:
    """One link, and what is measured on it."""

    def __init__(self, sshd: Sshd, cluster: SlurmCluster, link: SlowLink, workspace: Path) -> None:
        self.cluster, self.link = cluster, link
        config = sshd.client_config("cluster")
        text = config.read_text().replace(f"Port {sshd.port}", f"Port {link.port}")
        self.config = config.with_name("config-slow")
        self.config.write_text(text + f"    HostKeyAlias [127.0.0.1]:{sshd.port}\n")
        self.place = Place(str(workspace), host="cluster", python=sys.executable)
        self.chance = random.Random(1)

    def ssh(self, *command: str) -> list[str]:
        return ["ssh", "-F", str(self.config), "cluster", *command]

    def run(self) -> Run:
        """A run whose first stage goes on for ever."""
        site = connect(Place(self.place.workspace))
        run = tiny_run(site, Path(self.place.workspace), create_env="wait")
        run.submit()
        wait_until_runs(run, Stage.CREATE_ENV)
        return run

    def ours(self, run: Run) -> dict[str, list[float]]:
        """Everything that is measured of LiveRun."""
        seen, found = Seen(), dict[str, list[float]]()
        live = LiveRun(self.place, run.run_id, seen.take, HostBook(config_file=self.config))
        live.start()
        found["first state"] = [seen.wait(lambda: seen.snapshot is not None)]
        seen.connected.wait(30)
        log = Path(run.layout.log(Stage.CREATE_ENV, 1))
        live.follow_log(str(log))
        seen.wait(lambda: "this is" in seen.text)
        found["log line"] = self.log_lines(seen, log)
        found["status file"] = self.status_changes(seen, run)
        found["queue"] = self.queue_changes(lambda name: self._shows(seen, name))
        found["kB/min quiet"] = [self.quiet()]
        live.close()
        return found

    def keys(self, run: Run) -> list[float]:
        """Seconds from a key to the screen's answer."""
        return asyncio.run(self._press_keys(run))

    async def _press_keys(self, run: Run) -> list[float]:
        app = LlamaTui(UiRequest(place=self.place, run_id=run.run_id))
        app.hosts = HostBook(config_file=self.config)
        times = list[float]()
        async with app.run_test(size=(120, 40)) as pilot:
            table = app.screen.query_one(StageTable)
            await asyncio.sleep(5)
            for number in range(KEYS):
                row = table.cursor_row
                began = time.monotonic()
                await pilot.press("down" if number % 10 < 5 else "up")
                while table.cursor_row == row:
                    await asyncio.sleep(0.002)
                times.append(time.monotonic() - began)
                await asyncio.sleep(0.1)
        return times

    def flooded(self, run: Run) -> tuple[list[float], list[float]]:
        """A status file's way to the screen, and a key's, while more is printed than the link carries."""
        seen, ended = Seen(), threading.Event()
        log = Path(run.layout.log(Stage.CREATE_ENV, 1))
        threading.Thread(target=_flood, args=(log, ended), daemon=True).start()
        live = LiveRun(self.place, run.run_id, seen.take, HostBook(config_file=self.config))
        live.start()
        seen.wait(lambda: seen.snapshot is not None)
        live.follow_log(str(log))
        time.sleep(10)
        changes = self.status_changes(seen, run)
        live.close()
        keys = self.keys(run)
        ended.set()
        return changes, keys

    def theirs(self, run: Run) -> dict[str, list[float]]:
        """`ssh host tail -f`, and `ssh host squeue` every two seconds."""
        seen, found = Seen(), dict[str, list[float]]()
        log = Path(run.layout.log(Stage.CREATE_ENV, 1))
        argv = self.ssh(f"exec tail -n +1 -f '{log}'")
        began = time.monotonic()
        subprocess.run(self.ssh("squeue"), capture_output=True, check=True)
        found["first state"] = [time.monotonic() - began]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as tail:
            assert tail.stdout is not None
            threading.Thread(target=self._read_lines, args=(seen, tail.stdout), daemon=True).start()
            seen.wait(lambda: "this is" in seen.text)
            found["log line"] = self.log_lines(seen, log)
            quiet = self.quiet()
            tail.terminate()
        ended = threading.Event()
        asking = threading.Thread(target=self._ask_squeue, args=(seen, ended), daemon=True)
        asking.start()
        found["queue"] = self.queue_changes(lambda name: seen.wait(lambda: name in seen.text))
        found["kB/min quiet"] = [quiet + self.quiet()]
        ended.set()
        asking.join()
        return found

    def _read_lines(self, seen: Seen, lines: IO[str]) -> None:
        for line in lines:
            seen.add_line(line)

    def _ask_squeue(self, seen: Seen, ended: threading.Event) -> None:
        while not ended.is_set():
            seen.add_line(subprocess.run(self.ssh("squeue"), capture_output=True, text=True).stdout)
            ended.wait(2.0)

    def log_lines(self, seen: Seen, log: Path) -> list[float]:
        def contains(line: str) -> bool:
            return line in seen.text

        times = []
        for number in range(LINES):
            time.sleep(self.chance.uniform(0.05, 0.35))
            line = f"{{'loss': 1.234, 'grad_norm': 0.5, 'learning_rate': 1e-05, 'epoch': 0.1}} #{number:04} {id(seen)}"
            with log.open("a") as stream:
                stream.write(line + "\n")
            times.append(seen.wait(partial(contains, line)))
        return times

    def status_changes(self, seen: Seen, run: Run) -> list[float]:
        def is_on(node: str) -> bool:
            return seen.snapshot is not None and seen.snapshot.views[0].node.startswith(node + " ")

        file = Path(run.layout.path) / "status/create_env.json"
        times = []
        for number in range(CHANGES):
            time.sleep(self.chance.uniform(0.5, 1.5))
            node = f"node-{number}"
            fresh = file.with_suffix(".tmp")
            fresh.write_text(file.read_text().replace('"node": "', f'"node": "{node} '))
            fresh.replace(file)
            times.append(seen.wait(partial(is_on, node)))
        return times

    def _shows(self, seen: Seen, name: str) -> float:
        return seen.wait(
            lambda: any(one.name == name for one in (seen.snapshot and seen.snapshot.jobs) or ())
        )

    def queue_changes(self, wait: Callable[[str], float]) -> list[float]:
        times = []
        for _ in range(JOBS):
            time.sleep(self.chance.uniform(3, 7))
            name = f"held{self.chance.randrange(10_000):04}"
            options = ("--hold", "--output=/dev/null", f"--job-name={name}")
            job = self.cluster.submit("#!/bin/sh\ntrue\n", *options)
            times.append(wait(name))
            self.cluster.run("scancel", job)
        return times

    def quiet(self) -> float:
        """kB a minute, both ways together."""
        time.sleep(12)
        before = self.link.bytes
        time.sleep(QUIET)
        return (self.link.bytes - before) / 1000 * 60 / QUIET


def _flood(log: Path, ended: threading.Event) -> None:
    """Half a megabyte of log a second."""
    while not ended.wait(0.1):
        with log.open("a") as stream:
            stream.write("a line that is as long as lines of logs are, more or less, often more\n" * 730)


def shown(times: list[float] | None, unit: float = 1000) -> str:
    """Median and the 95th percentile, in ms."""
    if not times:
        return "-"
    if len(times) == 1:
        return f"{times[0] * unit:.0f}"
    return f"{statistics.median(times) * unit:.0f} / {statistics.quantiles(times, n=20)[-1] * unit:.0f}"


def main() -> None:
    """Measures and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--link", choices=LINKS, action="append", help="only this one")
    chosen = parser.parse_args().link or list(LINKS)
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llama-tui-links-")))
        cluster = stack.enter_context(SlurmCluster(root / "slurm"))
        os.environ.update(cluster.env)
        sshd = stack.enter_context(Sshd(root / "sshd", env=cluster.env))
        print("| link | who | first state ms | log line ms | status file ms | queue ms | kB/min quiet |")
        print("|---|---|---|---|---|---|---|", flush=True)
        for name in chosen:
            with SlowLink(sshd.port, *LINKS[name]) as link:
                bench = Bench(sshd, cluster, link, root / name.replace("/", "-"))
                run = bench.run()
                for who, measure in (("llama-tui", bench.ours), ("ssh", bench.theirs)):
                    found = measure(run)
                    cells = [
                        shown(found.get(key)) for key in ("first state", "log line", "status file", "queue")
                    ]
                    print(
                        f"| {name} | {who} | {' | '.join(cells)} | {found['kB/min quiet'][0]:.1f} |",
                        flush=True,
                    )
                print(f"{name}: a key {shown(bench.keys(run))} ms", flush=True)
                changes, keys = bench.flooded(run)
                print(
                    f"{name}, a flood of log: a key {shown(keys)} ms, a status file {shown(changes)} ms",
                    flush=True,
                )
            cluster.run("scancel", "--full", "--user=root")
            wait_until(lambda: not cluster.run("squeue", "-h").stdout, "the queue to empty", 60)


if __name__ == "__main__":
    main()
