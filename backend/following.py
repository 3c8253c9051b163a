"""Waits for a run on the command line, and tells what happens as it happens."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from llama_tui.backend.errors import LinkLost
from llama_tui.backend.monitor import MetricPoint, RunMonitor, read_metrics, whole_lines
from llama_tui.backend.report_text import duration, elapsed, stage_line
from llama_tui.backend.runs import Run, Snapshot
from llama_tui.backend.stages import Stage
from llama_tui.backend.states import StageState, StageView

SILENCE = 3600.0
METRICS_PERIOD = 10.0


@dataclass
class _Progress:
    """What was told already."""

    told: dict[Stage, tuple[int, StageState]] = field(default_factory=dict)
    metrics_told: float = 0.0
    rest: str = ""


def follow_run(run: Run, tell: Callable[[str], None]) -> Snapshot:
    """Blocks until nothing happens in the run by itself any more; gives how it ended.

    Args:
        tell: gets a line for each change of a stage, and a line of the training's progress now and then.

    Raises:
        LinkLost: the connection ended; the jobs go on.
    """
    events: queue.SimpleQueue[Snapshot | str] = queue.SimpleQueue()
    monitor = RunMonitor(run, events.put)
    link = run.site.link
    metrics = link.follow(run.layout.file("metrics.jsonl"), lambda event: events.put(_text_of(event)))
    monitor.start()
    progress = _Progress()
    try:
        while True:
            event = _next(events, run)
            if isinstance(event, str):
                _tell_metrics(event, progress, tell)
            else:
                _tell_stages(event, progress, run.site.now(), tell)
                if event.finished:
                    return event
    finally:
        if link.alive:
            metrics.stop()
            monitor.stop()


def _text_of(event: dict[str, Any]) -> str:
    return str(event["text"])


def _next(events: queue.SimpleQueue[Snapshot | str], run: Run) -> Snapshot | str:
    while True:
        try:
            return events.get(timeout=2.0)
        except queue.Empty:
            if not run.site.link.alive:
                raise LinkLost(
                    f"The connection to {run.site.link.host.name} ended",
                    f"The jobs go on. `llama-tui status {run.run_id}` shows how far they are.",
                ) from None


def _tell_stages(snapshot: Snapshot, progress: _Progress, now: float, tell: Callable[[str], None]) -> None:
    for view in snapshot.views:
        if view.state in {StageState.NOT_SUBMITTED, StageState.SUBMITTING, StageState.PENDING}:
            continue
        if progress.told.get(view.stage) != (view.attempt, view.state):
            progress.told[view.stage] = (view.attempt, view.state)
            tell(stage_line(view, now))


def _tell_metrics(text: str, progress: _Progress, tell: Callable[[str], None]) -> None:
    lines, progress.rest = whole_lines(progress.rest, text)
    points = read_metrics(lines)
    if not points:
        return
    last, now = points[-1], time.monotonic()
    if last.step == last.max_steps or now - progress.metrics_told >= METRICS_PERIOD:
        progress.metrics_told = now
        tell("    " + metric_line(last))


def metric_line(point: MetricPoint) -> str:
    """The training's progress in one line."""
    left = duration((point.max_steps - point.step) * point.step_seconds)
    return (
        f"step {point.step}/{point.max_steps}  loss {point.loss:.3f}  lr {point.learning_rate:.2e}  "
        f"{point.tokens_per_second:.0f} tokens/s  {left} left"
    )


def shares(snapshot: Snapshot) -> str:
    """How the wall time was spent: each stage's time and share."""
    times: list[tuple[StageView, float]] = [(view, elapsed(view, 0.0) or 0.0) for view in snapshot.views]
    total = sum(seconds for _, seconds in times) or 1.0
    return "\n".join(
        f"  {view.stage:<20} {duration(seconds):>7}  {100 * seconds / total:3.0f} %"
        for view, seconds in times
    )
