"""A run that stays connected: its state, one log and its metrics, across lost links and without losing a byte."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from llama_tui.backend.errors import LinkLost, UserError
from llama_tui.backend.hosts.choose import HostBook
from llama_tui.backend.hosts.ssh_ask import NeedsYou
from llama_tui.backend.link import Subscription
from llama_tui.backend.log_file import LogFile
from llama_tui.backend.monitor import MetricPoint, RunMonitor, read_metrics, read_resumes, whole_lines
from llama_tui.backend.place import Place
from llama_tui.backend.runs import Run, Snapshot, open_run
from llama_tui.backend.site import connect

Result = TypeVar("Result")
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
# Seconds that what is being done has when nobody looks any more: a chain of jobs is submitted whole.
FINISH_WITHIN = 120.0
# Of a long log the end is shown first.
TAIL = 512 * 1024
# Further behind a log's end than this, following goes on near the end: what is between can be scrolled to.
MOST_BEHIND = 16 * 1024 * 1024
# More than this of a log is not kept for a screen that does not take it.
MOST_WAITING = 2 * 1024 * 1024


@dataclass(frozen=True)
class SnapshotTaken:
    """The run's state has changed."""

    snapshot: Snapshot


@dataclass(frozen=True)
class LogRead:
    """More of the followed log.

    Attributes:
        path: which log.
        start: byte offset of the text.
        fresh: what was shown of it before is void.
    """

    path: str
    text: str
    start: int
    fresh: bool


@dataclass(frozen=True)
class MetricsRead:
    """More points of the training's curve; `fresh` when it begins anew.

    Attributes:
        resumed: steps at which the training went on from a checkpoint.
    """

    points: tuple[MetricPoint, ...]
    fresh: bool
    resumed: tuple[int, ...] = ()


@dataclass(frozen=True)
class LinkChanged:
    """The connection is there, or it is not: then why, and in how many seconds it is tried again."""

    connected: bool
    words: str = ""
    retry_in: float | None = None


LiveEvent = SnapshotTaken | LogRead | MetricsRead | LinkChanged


class LogInbox:
    """What was read of a log and not yet shown: bounded, so that a burst never piles up. From any thread."""

    def __init__(self) -> None:
        self._reads: list[LogRead] = []
        self._bytes = 0
        self._lock = threading.Lock()

    def put(self, read: LogRead) -> bool:
        """Adds a piece; True when there was none, so that somebody has to be told. The oldest go when it is full."""
        with self._lock:
            first = not self._reads
            if read.fresh:
                self._reads, self._bytes = [], 0
            self._reads.append(read)
            self._bytes += len(read.text)
            while self._bytes > MOST_WAITING and len(self._reads) > 1:
                gone = self._reads.pop(0)
                self._bytes -= len(gone.text)
                if gone.fresh:
                    # Whoever shows it must still forget what was before.
                    self._reads[0] = replace(self._reads[0], fresh=True)
            return first

    def take(self) -> list[LogRead]:
        """All that is there, oldest first."""
        with self._lock:
            taken, self._reads, self._bytes = self._reads, [], 0
            return taken


class _Followed:
    """A file that is followed: where it goes on after a reconnect."""

    def __init__(self, path: str, offset: int = 0) -> None:
        self.path = path
        self.offset = offset
        self.inode: int | None = None
        self.subscription: Subscription | None = None
        self.over: Run | None = None
        self.skipping = False

    def advance(self, event: dict[str, Any]) -> None:
        self.offset = event["offset"]
        self.inode = event["inode"]


class LiveRun:
    """Keeps one run in sight.

    Args:
        tell: called with each event, on threads of ours: hand it over, do not block.
        hosts: where to find the place's host.

    Attributes:
        clock_offset: seconds by which the host's clock is ahead of ours, as the last connection told; 0 before it.
    """

    def __init__(
        self, place: Place, run_id: str, tell: Callable[[LiveEvent], None], hosts: HostBook | None = None
    ) -> None:
        self.place = place
        self._hosts = hosts
        self.run_id = run_id
        self.clock_offset = 0.0
        self._tell = tell
        self._with_slurm: bool | None = None
        self._run: Run | None = None
        self._monitor: RunMonitor | None = None
        self._log: _Followed | None = None
        self._metrics: _Followed | None = None
        self._metrics_rest = ""
        self._lock = threading.RLock()
        # Held while something is handed over, never while the host is asked: links' own threads wait for it.
        self._delivery = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._doing = 0
        self._done = threading.Condition()

    def start(self) -> None:
        """Connects in the background, and again whenever the link is lost."""
        threading.Thread(target=self._keep, name=f"live {self.run_id}", daemon=True).start()

    def retry_now(self) -> None:
        """Does not wait for the next try."""
        self._wake.set()

    def close(self) -> None:
        """Ends the connection, when what is being done over it is done. Jobs are not touched."""
        self._closed = True
        self._wake.set()
        threading.Thread(target=self._drop, daemon=True).start()

    def do(self, action: Callable[[Run], Result]) -> Result:
        """Does something with the connected run; blocks, so never on the UI thread.

        Raises:
            LinkLost: there is no connection now.
            UserError: what the action raises.
        """
        with self._done:
            run = self._run
            if run is None:
                raise LinkLost(
                    "There is no connection just now", "Wait until it is back, or press the key for `now`."
                )
            self._doing += 1
        try:
            return action(run)
        finally:
            with self._done:
                self._doing -= 1
                self._done.notify_all()

    def look_again(self) -> None:
        """Asks the scheduler now, even where it is not asked any more. Blocks; without a link it does nothing."""
        monitor = self._monitor
        if monitor is not None:
            with contextlib.suppress(LinkLost):
                monitor.look_again()

    def follow_log(self, path: str, fresh: bool = True) -> None:
        """Shows this log from now on instead of the one before. Blocks for a moment.

        Args:
            fresh: what was shown is void; else it is the same log, further on.
        """
        with self._lock:
            self._stop(self._log)
            with self._delivery:
                self._log = _Followed(path, offset=-1)
            if self._run is not None:
                self._start_log(self._run, fresh)

    def log_file(self, path: str) -> LogFile:
        """A log of this run, to be read and searched. Raises LinkLost."""
        return self.do(lambda run: LogFile(run.site.link, self.place.python, path))

    def _keep(self) -> None:
        pause = FIRST_PAUSE
        while not self._closed:
            self._wake.clear()
            try:
                self._connect()
                pause = FIRST_PAUSE
                self._tell(LinkChanged(True))
                self._wait_for_loss()
            except NeedsYou as error:
                # Trying again by itself would ask the same question over and over.
                self._told_lost(error, None)
                self._wake.wait()
            except UserError as error:
                self._told_lost(error, pause)
                self._wake.wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
        # It may have been closed while it connected.
        self._drop()

    def _connect(self) -> None:
        site = connect(self.place, self._hosts, self._lost, self._with_slurm)
        self._with_slurm = site.on_slurm
        self.clock_offset = site.clock_offset
        try:
            run = open_run(site, self.run_id)
            monitor = RunMonitor(run, self._take_snapshot)
            with self._lock:
                self._run, self._monitor = run, monitor
            # The state first: on a slow link each question takes its time.
            monitor.start()
            with self._lock:
                self._metrics = self._metrics or _Followed(run.layout.file("metrics.jsonl"))
                self._start_log(run)
                self._start_metrics(run, self._metrics)
        except BaseException:
            self._run = None
            site.close()
            raise

    def _lost(self, lost: LinkLost) -> None:
        del lost  # The words come from whoever waits.
        self._wake.set()

    def _wait_for_loss(self) -> None:
        while not self._closed:
            self._wake.wait(5.0)
            self._wake.clear()
            run = self._run
            if run is None or not run.site.link.alive:
                self._drop()
                if self._closed:
                    return
                raise LinkLost(f"The connection to {self.place.host or 'the agent'} ended")

    def _told_lost(self, error: UserError, pause: float | None) -> None:
        words = f"{error.message.rstrip('.')}. {error.hint}".strip()
        self._tell(LinkChanged(False, words, pause))

    def _drop(self) -> None:
        with self._lock, self._delivery:
            # From here on nothing of this link is taken: what it still has comes again over the next one.
            run, self._run = self._run, None
            monitor, self._monitor = self._monitor, None
        if monitor is not None and run is not None and run.site.link.alive:
            monitor.stop()
        if run is not None:
            with self._done:
                self._done.wait_for(lambda: not self._doing, FINISH_WITHIN)
            run.site.close()

    def _start_log(self, run: Run, fresh: bool = True) -> None:
        """Follows the log from where it was, the first time from near its end."""
        log = self._log
        if log is None or log.over is run:
            return
        log.over = run
        if log.offset < 0:
            log.offset = self._tail_offset(run, log.path)
            self._tell(LogRead(log.path, "", log.offset, fresh))
        log.subscription = run.site.link.follow(
            log.path, lambda event: self._take_log(run, log, event), offset=log.offset, inode=log.inode
        )

    def _start_metrics(self, run: Run, metrics: _Followed) -> None:
        metrics.subscription = run.site.link.follow(
            metrics.path,
            lambda event: self._take_metrics(run, metrics, event),
            offset=metrics.offset,
            inode=metrics.inode,
        )

    def _tail_offset(self, run: Run, path: str) -> int:
        if not run.site.link.collect([path]):
            return 0
        piece = run.site.link.call("read", path=path, offset=-TAIL, limit=4096)
        start: int = piece["start"]
        if start == 0:
            return 0
        # Begin with a whole line.
        text: str = piece["text"]
        return start + text.encode("utf-8", "surrogateescape").find(b"\n") + 1

    def _stop(self, followed: _Followed | None) -> None:
        if followed is None or followed.subscription is None or self._run is None:
            return
        if self._run.site.link.alive:
            followed.subscription.stop()

    def _take_snapshot(self, snapshot: Snapshot) -> None:
        self._tell(SnapshotTaken(snapshot))

    def _take_log(self, run: Run, log: _Followed, event: dict[str, Any]) -> None:
        with self._delivery:
            if log is not self._log or run is not self._run:
                return
            log.advance(event)
            self._tell(LogRead(log.path, event["text"], event["start"], fresh=event["reset"]))
        if event["size"] - event["offset"] > MOST_BEHIND and not log.skipping:
            log.skipping = True
            # Not here: this is the link's own thread, and following asks the link.
            threading.Thread(target=self._skip_ahead, args=(log.path,), daemon=True).start()

    def _skip_ahead(self, path: str) -> None:
        try:
            self.follow_log(path, fresh=False)
        except UserError:
            # The link is gone; following goes on when it is back.
            return

    def _take_metrics(self, run: Run, metrics: _Followed, event: dict[str, Any]) -> None:
        with self._delivery:
            if run is not self._run:
                return
            metrics.advance(event)
            if event["reset"]:
                self._metrics_rest = ""
            text, self._metrics_rest = whole_lines(self._metrics_rest, event["text"])
            self._tell(MetricsRead(tuple(read_metrics(text)), event["reset"], tuple(read_resumes(text))))
