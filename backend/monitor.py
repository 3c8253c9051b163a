"""A run as it changes: the agent pushes, this says what it means."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from llama_tui.backend.errors import LinkLost
from llama_tui.backend.link import Subscription
from llama_tui.backend.runs import Run, Snapshot, snapshot_of, unexplained
from llama_tui.backend.schedulers.base import Ending, Job
from llama_tui.backend.states import NO_RECORD

QUEUE_PERIOD = 2.0
# An event may come before the answer to the request for it, on a slow link by some seconds.
SUBSCRIBED_WITHIN = 60.0
# A line of metrics.jsonl is a few hundred characters; what goes on for longer is none.
MOST_OF_A_LINE = 64 * 1024
_MOST_STEPS = 10**9


@dataclass(frozen=True)
class MetricPoint:
    """One line of metrics.jsonl. `step` counts optimizer steps from 1."""

    step: int
    max_steps: int
    loss: float
    learning_rate: float
    tokens_per_second: float
    step_seconds: float
    attempt: int
    time: float


def read_metrics(text: str) -> list[MetricPoint]:
    """The points in metrics.jsonl's text; lines of other kinds, or cut short, are skipped."""
    points = []
    for line in text.splitlines():
        try:
            entry: dict[str, Any] = json.loads(line)
            points.append(
                MetricPoint(
                    step=_step(entry["step"]),
                    max_steps=_step(entry["max_steps"]),
                    loss=float(entry["loss"]),
                    learning_rate=_finite(entry.get("learning_rate")),
                    tokens_per_second=_finite(entry.get("tokens_per_second")),
                    step_seconds=_finite(entry.get("step_seconds")),
                    attempt=_step(entry.get("attempt") or 1),
                    time=_finite(entry.get("time")),
                )
            )
        except NO_RECORD:
            continue
    return points


def _step(value: Any) -> int:
    number = int(value)
    if not 0 <= number <= _MOST_STEPS:
        raise ValueError("no step")
    return number


def _finite(value: Any) -> float:
    """A figure to calculate with; what is no number counts as not given. (Of the loss, NaN is news.)"""
    number = float(value or 0)
    return number if math.isfinite(number) and abs(number) < 1e15 else 0.0


def whole_lines(rest: str, text: str) -> tuple[str, str]:
    """The whole lines of a file that is read in pieces, and the beginning of the next one."""
    lines, _, rest = (rest + text).rpartition("\n")
    return lines, rest if len(rest) <= MOST_OF_A_LINE else ""


def read_resumes(text: str) -> list[int]:
    """The steps in metrics.jsonl's text at which the training went on from a checkpoint."""
    steps = []
    for line in text.splitlines():
        if '"resumed"' not in line:
            continue
        try:
            entry: dict[str, Any] = json.loads(line)
            if entry.get("event") == "resumed":
                steps.append(_step(entry["step"]))
        except NO_RECORD:
            continue
    return steps


def latest_by_step(points: list[MetricPoint]) -> list[MetricPoint]:
    """One point a step, in order: after a resume the newer one counts."""
    return [point for _, point in sorted({point.step: point for point in points}.items())]


class RunMonitor:
    """Calls `on_snapshot` with each change of a run, on threads of ours, one at a time.

    The scheduler is asked once an interval for all jobs together, less often while nothing changes, and not at all
    once nothing goes on any more: then a change of the run's files, as every submission makes one, begins it again.
    """

    def __init__(self, run: Run, on_snapshot: Callable[[Snapshot], None]) -> None:
        self._run = run
        self._on_snapshot = on_snapshot
        self._files: dict[str, str] = {}
        self._jobs: list[Job] | None = None
        self._seen: float | None = None
        self._problem = ""
        self._endings: dict[str, Ending] = {}
        self._asked_endings: set[str] = set()
        self._looking_up = 0
        # The last event's number; 0 where the scheduler has not been asked since the files in it changed.
        self._number = 0
        self._resting = False
        self._lock = threading.Lock()
        self._subscription: Subscription | None = None
        self._subscribed = threading.Event()

    def start(self) -> None:
        """Begins; the first snapshot follows at once, whatever the scheduler answers. Blocks; raises LinkLost."""
        self._subscription = self._run.site.link.watch(
            self._run.watched,
            self._take,
            argv=self._run.site.scheduler.queue_command(),
            interval=QUEUE_PERIOD,
        )
        self._subscribed.set()

    def stop(self) -> None:
        """Ends; no snapshot comes afterwards but one that is being told."""
        if self._subscription is not None:
            self._subscription.stop()

    def look_again(self) -> None:
        """Asks the scheduler now, even where it is not asked any more; a snapshot follows. Blocks; raises LinkLost."""
        if self._subscription is not None:
            self._subscription.wake()

    def _take(self, event: dict[str, Any]) -> None:
        with self._lock:
            for path, text in (event.get("files") or {}).items():
                if text is None:
                    self._files.pop(path, None)
                else:
                    self._files[path] = text
            if "queue" in event:
                self._take_queue(event["queue"])
            if "asked" in event and not self._problem:
                self._seen = event["asked"]
            self._number = 0 if "files" in event else event.get("number", 0)
            self._resting = False
            snapshot = self._tell()
            new = [job for job in unexplained(snapshot) if job not in self._asked_endings]
            self._asked_endings.update(new)
            self._looking_up += len(new)
            if not new and not self._may_rest(snapshot):
                return
        # Not here: this is the link's own thread. A daemon: whoever leaves the program does not wait for it.
        threading.Thread(target=self._settle, args=(new,), name="settling", daemon=True).start()

    def _take_queue(self, answer: dict[str, Any]) -> None:
        """What the queue command printed; a failure leaves the last known jobs, and says so."""
        if answer["exit"] == 0:
            self._jobs = self._run.site.scheduler.parse_queue(answer["stdout"])
            self._problem = ""
            return
        said = (answer["stderr"] or answer["stdout"]).strip().splitlines()
        self._problem = said[-1][:300] if said else f"exit code {answer['exit']}"

    def _tell(self) -> Snapshot:
        """Under the lock, so that the newest snapshot is told last."""
        snapshot = self._snapshot()
        self._on_snapshot(snapshot)
        return snapshot

    def _snapshot(self) -> Snapshot:
        snapshot = snapshot_of(
            self._run.run_id,
            self._files,
            self._jobs,
            endings=self._endings,
            seen=self._seen,
            problem=self._problem,
        )
        return replace(snapshot, resting=self._resting)

    def _may_rest(self, snapshot: Snapshot) -> bool:
        return bool(self._number) and not self._looking_up and snapshot.at_rest

    def _settle(self, ids: list[str]) -> None:
        """Looks up how jobs ended; then asks no more, where nothing goes on."""
        try:
            if ids:
                self._look_up(ids)
            self._rest()
        except LinkLost:
            self._asked_endings.difference_update(ids)

    def _look_up(self, ids: list[str]) -> None:
        try:
            endings = self._run.site.scheduler.endings(ids)
        finally:
            with self._lock:
                self._looking_up -= len(ids)
        if endings:
            with self._lock:
                self._endings.update(endings)
                self._tell()

    def _rest(self) -> None:
        self._subscribed.wait(SUBSCRIBED_WITHIN)
        with self._lock:
            number = self._number
            if self._subscription is None or not self._may_rest(self._snapshot()):
                return
        if not self._subscription.rest(number):
            return
        with self._lock:
            # Else something has happened since, and the scheduler is asked again already.
            if number == self._number:
                self._resting = True
                self._tell()
