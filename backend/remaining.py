"""How long a stage will still take, where there is something to tell it from: earlier runs, or the training's own pace."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from llama_tui.backend.monitor import MetricPoint
from llama_tui.backend.report_text import elapsed
from llama_tui.backend.runs import Run, RunInfo, list_runs
from llama_tui.backend.settings import Settings
from llama_tui.backend.stages import Stage
from llama_tui.backend.states import StageState, StageView
from llama_tui.backend.training_watch import time_left

MOST_RUNS = 10


@dataclass(frozen=True)
class Expectations:
    """Usual seconds of each stage, from earlier runs like this one; and from how many."""

    seconds: dict[Stage, float] = field(default_factory=dict)
    runs: dict[Stage, int] = field(default_factory=dict)

    def basis(self, stage: Stage) -> str:
        """Where the figure comes from."""
        count = self.runs.get(stage, 0)
        return f"from {count} earlier run{'s' * (count != 1)}" if count else ""


def learn(run: Run) -> Expectations:
    """What earlier runs of this workspace tell of this one. Blocks; raises LinkLost, SchedulerError."""
    return expectations(run.settings, (info for info in list_runs(run.site) if info.run_id != run.run_id))


def expectations(settings: Settings, runs: Iterable[RunInfo]) -> Expectations:
    """From the newest runs with the same stack, model and data (training: the same work as well)."""
    times: dict[Stage, list[float]] = {}
    like = [info for info in runs if _alike(info.settings, settings)]
    for info in like[:MOST_RUNS]:
        for view in info.snapshot.views:
            taken = elapsed(view, 0.0)
            if view.state is not StageState.DONE or taken is None:
                continue
            if view.stage is Stage.FINETUNE and info.settings.training != settings.training:
                continue
            times.setdefault(view.stage, []).append(taken)
    return Expectations(
        {stage: median(taken) for stage, taken in times.items()},
        {stage: len(taken) for stage, taken in times.items()},
    )


def _alike(one: Settings, other: Settings) -> bool:
    return (one.stack, one.model.model, one.model.dataset, one.resources.nodes) == (
        other.stack,
        other.model.model,
        other.model.dataset,
        other.resources.nodes,
    )


def remaining(
    view: StageView, now: float, expected: Expectations, points: list[MetricPoint] | None = None
) -> float | None:
    """Seconds that a stage will still take; negative when it takes longer than usual; None when unknown."""
    if view.state is StageState.RUNNING and view.stage is Stage.FINETUNE and points:
        attempt = [point for point in points[-20:] if point.attempt == view.attempt]
        left = time_left(attempt) if attempt else None
        if left is not None:
            return left
    usual = expected.seconds.get(view.stage)
    if usual is None or not view.state.active or view.state is StageState.UNKNOWN:
        return None
    return usual - (elapsed(view, now) or 0.0)


def rough_text(seconds: float) -> str:
    """In words that do not change every second: 40 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{max(10, round(seconds, -1)):.0f} s"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours else f"{minutes} min"


def whole_run(
    views: Iterable[StageView], now: float, expected: Expectations, points: list[MetricPoint]
) -> float | None:
    """Seconds until all stages are done; None unless it is known of each that is not."""
    total = 0.0
    for view in views:
        if view.state is StageState.DONE:
            continue
        left = remaining(view, now, expected, points)
        if left is None:
            return None
        total += max(0.0, left)
    return total if total else None
