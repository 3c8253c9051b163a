"""The training's curve, with the figures that matter in one line above it."""

from __future__ import annotations

import math

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.events import Resize
from textual.widgets import Static

from llama_tui.backend.monitor import MetricPoint, latest_by_step
from llama_tui.backend.training_watch import curve_alarms, silence_alarm, smoothed, time_left
from llama_tui.tui.clocks import left_text

MOST_POINTS = 1000


class LossPlot(Vertical, can_focus=True):
    """Loss by step, as it is and smoothed; where the training went on from a checkpoint is marked."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.points: list[MetricPoint] = []
        self.resumed: list[int] = []
        self.alarms: list[str] = []
        self._curve_alarms: list[str] = []
        # Whether points came that the alarms, or the drawing, do not know.
        self._new = False
        self._stale = False

    def compose(self) -> ComposeResult:
        # Here, not at the top: plotext is needed by those only who look at a curve.
        from textual_plotext import PlotextPlot

        yield Static("The curve begins when the training does.", id="loss-line", markup=False)
        yield PlotextPlot(id="loss-canvas")

    def add(self, points: tuple[MetricPoint, ...], fresh: bool, resumed: tuple[int, ...] = ()) -> None:
        """Adds points; `fresh` when what was there before is void."""
        self.points = latest_by_step([*([] if fresh else self.points), *points])
        self.resumed = [*([] if fresh else self.resumed), *resumed]
        self._new = self._stale = True

    def tick(self, now: float | None, visible: bool, since: float = 0.0) -> None:
        """Once a second: looks for what is wrong, and draws what is new, while somebody can see it.

        Args:
            now: the host's clock while the training runs; None when it does not.
            since: when this attempt of it began.
        """
        if self._new:
            self._new = False
            self._curve_alarms = curve_alarms(self.points)
        self.alarms = [*self._curve_alarms, *silence_alarm(self.points, now, since)]
        if not (self._stale and visible and self.points):
            return
        self._stale = False
        self.query_one("#loss-line", Static).update(self.figures())
        self._draw()

    def on_resize(self, event: Resize) -> None:
        """A pane that comes into sight has a curve to draw."""
        del event
        self._stale = True

    def figures(self) -> str:
        """Where the training is, in one line."""
        last = self.points[-1]
        average = smoothed([point.loss for point in self.points])[-1]
        left = time_left(self.points)
        parts = [
            f"step {last.step}/{last.max_steps}",
            f"loss {last.loss:.3f} (smoothed {average:.3f})",
        ]
        if left:
            parts.append(f"{left_text(left)} left")
        # What matters least comes last: at 80 cells it is in a second line.
        parts += [f"{last.tokens_per_second:,.0f} tokens/s", f"lr={last.learning_rate:.2e}"]
        if self.resumed:
            parts.append(f"resumed at {', '.join(map(str, self.resumed[-3:]))}")
        return "  ".join(parts)

    def _draw(self) -> None:
        from textual_plotext import PlotextPlot

        canvas = self.query_one(PlotextPlot)
        plt = canvas.plt
        plt.clear_data()
        plt.clear_figure()
        finite = [point for point in self.points if math.isfinite(point.loss)]
        averages = smoothed([point.loss for point in finite])
        every = max(1, len(finite) // MOST_POINTS)
        steps = [point.step for point in finite][::every]
        plt.plot(
            steps, [point.loss for point in finite][::every], marker="braille", color="gray", label="loss"
        )
        plt.plot(steps, averages[::every], marker="braille", color="cyan", label="smoothed")
        for step in self.resumed:
            plt.vline(step, "orange")
        last = max(2, self.points[-1].max_steps)
        plt.xlim(1, last)
        ticks = step_ticks(last)
        plt.xticks([float(step) for step in ticks], [f"{step:,}" for step in ticks])
        canvas.refresh()


def step_ticks(last: int) -> list[int]:
    """Five steps below the curve, or fewer: whole ones, since no training stops at half a step."""
    return sorted({round(1 + (last - 1) * part / 4) for part in range(5)})
