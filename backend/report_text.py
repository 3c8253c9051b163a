"""Runs and comparisons as plain text for a terminal."""

from __future__ import annotations

import shutil
import textwrap
import time
from itertools import zip_longest

from llama_tui.backend.comparison import Comparison
from llama_tui.backend.plain import one_line
from llama_tui.backend.runs import RunInfo, Snapshot
from llama_tui.backend.states import StageState, StageView

# Told by shape and word, not by colour alone.
MARKS = {
    StageState.NOT_SUBMITTED: "·",
    StageState.SUBMITTING: "…",
    StageState.PENDING: "○",
    StageState.BLOCKED: "⊘",
    StageState.HELD: "‖",
    StageState.RUNNING: "▶",
    StageState.DONE: "✓",
    StageState.FAILED: "✗",
    StageState.CANCELLED: "⊗",
    StageState.UNKNOWN: "?",
}


def duration(seconds: float | None) -> str:
    """1:02:03, 2:03, or empty for None."""
    if seconds is None:
        return ""
    hours, rest = divmod(max(0, int(seconds)), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def step_of(seconds: float) -> int:
    """How fine a clock that runs on a screen is at that time: nobody waits for the second of an hour."""
    return 5 if seconds < 60 else 10 if seconds < 600 else 60


def in_steps(seconds: float, finest: int = 1) -> int:
    """As a clock that runs on a screen shows it: whole steps, none finer than `finest` seconds."""
    step = max(step_of(seconds), finest)
    return max(0, int(seconds) // step * step)


def elapsed(view: StageView, now: float) -> float | None:
    """Seconds that the stage took, or has taken so far; None when it never began."""
    if view.started is None:
        return None
    if view.ended is not None:
        return view.ended - view.started
    return now - view.started if view.state is StageState.RUNNING else None


def stage_line(view: StageView, now: float) -> str:
    """One stage in one line."""
    attempt = f"attempt {view.attempt}" if view.attempt > 1 else ""
    facts = [f"job {view.job_id}" if view.job_id else "", view.node, attempt, view.reason]
    return (
        f"{MARKS[view.state]} {view.stage.number} {view.stage:<20} {view.state:<13} "
        f"{duration(elapsed(view, now)):>8}  {'  '.join(fact for fact in facts if fact)}"
    ).rstrip()


def status_text(snapshot: Snapshot, now: float) -> str:
    """The seven stages, and what is known of the scheduler."""
    lines = [f"{snapshot.run_id}: {snapshot.state}"]
    lines += ["  " + stage_line(view, now) for view in snapshot.views]
    if snapshot.problem:
        lines.append(f"The scheduler does not answer: {snapshot.problem}")
    return "\n".join(lines)


def runs_text(runs: list[RunInfo]) -> str:
    """The list of runs as a table."""
    if not runs:
        return "No runs here yet."
    width = max(len(info.run_id) for info in runs)
    lines = []
    for info in runs:
        done = sum(view.state is StageState.DONE for view in info.snapshot.views)
        when = (
            time.strftime("%Y-%m-%d %H:%M", time.localtime(info.created))
            if info.created
            else "never submitted"
        )
        state = info.snapshot.state
        lines.append(
            f"{MARKS[state]} {info.run_id:<{width}}  {state:<13}  {done}/7  {when}  {info.settings.model.model}"
        )
    return "\n".join(lines)


def comparison_text(comparison: Comparison, width: int | None = None) -> str:
    """Both models' answers side by side, then what both know of the held-out records."""
    width = width or min(160, max(60, shutil.get_terminal_size((100, 24)).columns))
    column = (width - 3) // 2
    lines: list[str] = []
    for pair in comparison.answers:
        lines += ["─" * width, *textwrap.wrap(one_line(f"{pair.user}  ({pair.mode})", 8000), width)]
        lines += _side_by_side("base", "fine-tuned", column)
        lines += _side_by_side(pair.base.content, pair.fine_tuned.content, column)
        if pair.identical:
            lines.append("(the two answers are the same)")
    lines.append("─" * width)
    lines += [part for line in held_out_lines(comparison) for part in textwrap.wrap(line, width)]
    lines += [f"Warning: {words}" for words in comparison.warnings]
    return "\n".join(lines)


def held_out_lines(comparison: Comparison) -> list[str]:
    """How well both models know records that training never saw, and what the change means."""
    held = comparison.held_out
    if held is None:
        return ["No records were held out: no loss was measured."]
    return [
        f"Held-out loss: base {held.base_loss:.3f}, fine-tuned {held.fine_tuned_loss:.3f} "
        f"(perplexity {held.base_perplexity:.1f} and {held.fine_tuned_perplexity:.1f}; "
        f"{held.records} records, {held.tokens} tokens)",
        held.words,
    ]


def _side_by_side(left: str, right: str, column: int) -> list[str]:
    pairs = zip_longest(_wrapped(left, column), _wrapped(right, column), fillvalue="")
    return [f"{one:<{column}} │ {other}".rstrip() for one, other in pairs]


def _wrapped(text: str, column: int) -> list[str]:
    clean = "".join(char for char in text if char.isprintable() or char == "\n")
    return [line for paragraph in clean.splitlines() for line in textwrap.wrap(paragraph, column) or [""]]
