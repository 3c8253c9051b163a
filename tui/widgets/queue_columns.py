"""The columns that the queue can show: what is in them, and how jobs are sorted by them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llama_tui.backend.plain import printable
from llama_tui.backend.report_text import duration
from llama_tui.backend.schedulers.base import Job
from llama_tui.tui.clocks import running_text


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        words: what a person who chooses columns reads.
        cell: its text for a job; the number is the host's clock.
        order: by what jobs are sorted; jobs that run come first where states are.
    """

    words: str
    cell: Callable[[Job, float], str]
    order: Callable[[Job], Any]


@dataclass(frozen=True)
class Sorting:
    """By which column, and whether the other way round."""

    column: str = "state"
    reverse: bool = False


def _run_and_rest(job: Job) -> tuple[str, str]:
    """Jobs of ours are called run/stage/attempt."""
    run, slash, rest = printable(job.name).partition("/")
    return (run, rest) if slash else ("", run)


def ran(job: Job, now: float) -> float | None:
    """Seconds that it took, or has taken so far; None when it never began."""
    end = job.ended if job.state.final else now
    return None if job.started is None or end is None or job.word == "PENDING" else end - job.started


def _ran_text(job: Job, now: float) -> str:
    """To the second once it has ended."""
    seconds = ran(job, now)
    return duration(seconds) if job.state.final else running_text(seconds)


def moment(seconds: float | None) -> str:
    """Day and time, without the year."""
    return "" if seconds is None else time.strftime("%m-%d %H:%M", time.localtime(seconds))


COLUMNS: dict[str, Column] = {
    "job": Column("number of the job", lambda job, _: job.id, lambda job: (len(job.id), job.id)),
    "state": Column(
        "the scheduler's word for its state",
        lambda job, _: job.word,
        lambda job: (job.state.final, job.state.value, job.submitted or 0),
    ),
    "name": Column(
        "stage and attempt, or the job's name",
        lambda job, _: _run_and_rest(job)[1][:40],
        lambda job: _run_and_rest(job)[1],
    ),
    "time": Column("how long it has run", _ran_text, lambda job: job.started or 0),
    "nodes": Column("where it runs", lambda job, _: job.nodes, lambda job: job.nodes),
    "reason": Column("why it waits", lambda job, _: printable(job.reason)[:60], lambda job: job.reason),
    "user": Column("whose it is", lambda job, _: job.user, lambda job: job.user),
    "run": Column(
        "the run it belongs to", lambda job, _: _run_and_rest(job)[0][:40], lambda job: _run_and_rest(job)[0]
    ),
    "submitted": Column(
        "when it was submitted", lambda job, _: moment(job.submitted), lambda job: job.submitted or 0
    ),
    "started": Column(
        "when it began, or is expected to", lambda job, _: moment(job.started), lambda job: job.started or 0
    ),
    "ended": Column(
        "when it ended, or has to at the latest",
        lambda job, _: moment(job.ended),
        lambda job: job.ended or 0,
    ),
}
USUAL = ("job", "state", "name", "time", "nodes", "reason", "user")
# What gives way where there is little room, the first one first, and the cells that it keeps.
LEAST = {"reason": 8, "run": 12, "name": 12, "nodes": 13}


def cut_widths(widths: Mapping[str, int], room: int) -> dict[str, int]:
    """How wide the columns that have to give way may be, so that all fit into so many cells."""
    beyond = sum(widths.values()) - room
    cut: dict[str, int] = {}
    for name, least in LEAST.items():
        given = min(beyond, widths.get(name, 0) - least)
        if given > 0:
            cut[name] = widths[name] - given
            beyond -= given
    return cut


def chosen_columns(text: str | None) -> tuple[str, ...]:
    """The columns of a preference; the usual ones where there is none that can be read."""
    names = dict.fromkeys((text or "").split(","))
    return tuple(name for name in names if name in COLUMNS) or USUAL


def columns_text(names: Iterable[str]) -> str:
    """The preference for these columns."""
    return ",".join(names)


def chosen_sorting(text: str | None) -> Sorting:
    """The order of a preference; by state where there is none that can be read."""
    name = (text or "").removeprefix("-")
    return Sorting(name, name != text) if name in COLUMNS else Sorting()


def sorting_text(sorting: Sorting) -> str:
    """The preference for this order."""
    return f"{'-' * sorting.reverse}{sorting.column}"
