"""Watches a training's figures: a smoothed curve, and what somebody should look at before it costs a night."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import median

from llama_tui.backend.monitor import MetricPoint
from llama_tui.backend.report_text import in_steps

SMOOTHING = 0.9
# A loss this far above its best, relative and absolute, is not noise.
RISE, LEAST_RISE = 1.25, 0.1
# So many points must have come since the best one.
RISE_POINTS = 20
SILENCE_TIMES, LEAST_SILENCE = 10, 30.0


def smoothed(losses: list[float]) -> list[float]:
    """The exponential average, without the pull of its first value; what is no number leaves it as it was."""
    total = weight = 0.0
    averages = []
    for loss in losses:
        if math.isfinite(loss):
            total = SMOOTHING * total + (1 - SMOOTHING) * loss
            weight = SMOOTHING * weight + (1 - SMOOTHING)
        averages.append(total / weight if weight else math.nan)
    return averages


def usual_pause(points: list[MetricPoint]) -> float | None:
    """Seconds that usually lie between two points; None when there are too few to tell."""
    pauses = [
        after.time - before.time for before, after in pairwise(points[-50:]) if after.time > before.time > 0
    ]
    return median(pauses) if len(pauses) >= 2 else None


def time_left(points: list[MetricPoint]) -> float | None:
    """Seconds until the last step at the usual speed; None when it is not known."""
    steps = [point.step_seconds for point in points[-20:] if point.step_seconds > 0]
    if not steps:
        return None
    return (points[-1].max_steps - points[-1].step) * median(steps)


def alarms(points: list[MetricPoint], now: float | None, since: float = 0.0) -> list[str]:
    """What is wrong with a training, in words; empty when all seems well. For the arguments see silence_alarm."""
    return [*curve_alarms(points), *silence_alarm(points, now, since)]


def curve_alarms(points: list[MetricPoint]) -> list[str]:
    """What is wrong with the curve; looked for when there are new points."""
    return [one for one in (_not_a_number(points), _rising(points)) if one]


def silence_alarm(points: list[MetricPoint], now: float | None, since: float = 0.0) -> list[str]:
    """Whether no point has come for much longer than usual; cheap enough for every second.

    Args:
        points: by step.
        now: the host's clock while the training runs; None when it does not.
        since: when this attempt began; what an earlier one wrote tells nothing of its silence.
    """
    if not points or now is None or points[-1].time < since:
        return []
    usual = usual_pause(points)
    silence = now - points[-1].time
    if usual is None or silence < max(LEAST_SILENCE, SILENCE_TIMES * usual):
        return []
    return [f"no new step for {in_steps(silence)} s; usually one comes every {usual:.1f} s"]


def _not_a_number(points: list[MetricPoint]) -> str:
    first = next((point for point in points if not math.isfinite(point.loss)), None)
    if first is None:
        return ""
    return f"the loss is {points[-1].loss if not math.isfinite(points[-1].loss) else first.loss} since step {first.step}: cancel, and try a smaller learning rate"


def _rising(points: list[MetricPoint]) -> str:
    averages = smoothed([point.loss for point in points])
    finite = [(value, index) for index, value in enumerate(averages) if math.isfinite(value)]
    if not finite:
        return ""
    best, at = min(finite)
    last, last_at = finite[-1]
    if last_at - at < RISE_POINTS or last < best * RISE or last - best < LEAST_RISE:
        return ""
    return f"the loss rises: {last:.3f} on average, {best:.3f} at step {points[at].step}"
