"""Clocks that run on the screen: only as fine as somebody needs, so that a screen at rest is not painted again."""

from __future__ import annotations

from llama_tui.backend.report_text import duration, in_steps, step_of

# Half of the text's granularity would be pretence: what is left is an estimate.
FINEST_LEFT = 10


def running_text(seconds: float | None) -> str:
    """How long something has gone on: 0:05, 2:10, from ten minutes on 12 min and 1:02 h; empty for None."""
    if seconds is None:
        return ""
    return _words(in_steps(seconds))


def changes_in(seconds: float, left: float | None = None) -> float:
    """After how many seconds more a clock that has run so long, or what is left, may say something else."""
    seconds = max(0.0, seconds)
    next_step = in_steps(seconds) + step_of(seconds) - seconds
    return next_step if left is None else min(next_step, max(FINEST_LEFT, step_of(abs(left))))


def left_text(seconds: float | None) -> str:
    """What is expected: ~2:00, or `0:40 over`; empty when unknown."""
    if seconds is None:
        return ""
    words = _words(in_steps(abs(seconds), FINEST_LEFT))
    return f"~{words}" if seconds >= 0 else f"{words} over"


def _words(seconds: int) -> str:
    if seconds < 600:
        return duration(seconds)
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours}:{minutes:02d} h" if hours else f"{minutes} min"
