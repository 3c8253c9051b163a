"""Writes metrics.jsonl: one JSON object a line, which the screen's loss curve follows."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

from common import StageError, log


@dataclass(frozen=True)
class Step:
    """What is told of one step of training.

    `loss` is the mean over the tokens that carry loss since the step told before; `tokens_per_second` counts tokens of
    text of all processes together.
    """

    step: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    tokens_per_second: float
    step_seconds: float


def attempt_number() -> int:
    """Which submission of the stage this is, as the script says."""
    text = os.environ.get("LLAMA_TUI_ATTEMPT", "")
    return int(text) if text.isdigit() else 1


def require_finite(step: int, **values: float) -> None:
    """Raise StageError when a loss or a norm is no longer a number: nothing after that step is worth computing."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise StageError(
                f"training went wrong at step {step}: {name.replace('_', ' ')} is {value}",
                "lower training.learning_rate or raise training.warmup_steps, then rerun finetune: "
                "it goes on from the last good checkpoint",
            )


class MetricsWriter:
    """Appends to metrics.jsonl and prints the same for people; one process writes."""

    def __init__(self, path: Path, max_steps: int) -> None:
        self._path = path
        self._max_steps = max_steps
        self._attempt = attempt_number()
        path.parent.mkdir(parents=True, exist_ok=True)
        _end_torn_line(path)

    def step(self, told: Step) -> None:
        """Write one step; raises StageError when its loss or gradient is not a number."""
        require_finite(told.step, loss=told.loss, gradient_norm=told.grad_norm)
        line = {"time": round(time.time(), 3), "attempt": self._attempt, "max_steps": self._max_steps}
        self._append({**line, **vars(told)})
        left = (self._max_steps - told.step) * told.step_seconds
        log(
            f"step {told.step}/{self._max_steps}  loss {told.loss:.4f}  learning rate {told.learning_rate:.2e}  "
            f"gradient {told.grad_norm:.2f}  {told.tokens_per_second:.0f} tokens/s  "
            f"{told.step_seconds:.2f} s a step  {_in_words(left)} left"
        )

    def event(self, event: str, step: int) -> None:
        """Write that something happened at a step, as "resumed"."""
        self._append({"time": round(time.time(), 3), "attempt": self._attempt, "event": event, "step": step})

    def _append(self, content: dict[str, object]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(content, allow_nan=False) + "\n")


def _end_torn_line(path: Path) -> None:
    """A process killed while it wrote leaves half a line: what follows must not be glued to it."""
    if path.is_file() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")


def _in_words(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
