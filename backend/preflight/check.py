"""One check: what it found, in words, and what would mend it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Result(StrEnum):
    """How a check ended. Only `fail` means that the run would not go through."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        words: what is so, for a person.
        fix: the command or the action that would mend it; empty where nothing is to be mended.
        seconds: how long it took.
    """

    name: str
    result: Result
    words: str
    fix: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """A check without its name and time: what a check's function gives."""

    result: Result
    words: str
    fix: str = ""


def passed(words: str) -> Outcome:
    """All is as it must be."""
    return Outcome(Result.PASS, words)


def warned(words: str, fix: str = "") -> Outcome:
    """The run may go through all the same."""
    return Outcome(Result.WARN, words, fix)


def failed(words: str, fix: str) -> Outcome:
    """The run would not go through."""
    return Outcome(Result.FAIL, words, fix)


def skipped(words: str) -> Outcome:
    """Nothing to look at, or nothing that can be seen from here."""
    return Outcome(Result.SKIPPED, words)


def worst(outcomes: list[Outcome]) -> Outcome:
    """The first of the worst of several outcomes.

    Raises:
        ValueError: there are none.
    """
    order = (Result.FAIL, Result.WARN, Result.PASS, Result.SKIPPED)
    return min(outcomes, key=lambda outcome: order.index(outcome.result))


class Once(Generic[Value]):
    """Something that several checks need and one of them finds out, while the others wait for it."""

    def __init__(self, find: Callable[[], Value]) -> None:
        self._find = find
        self._lock = threading.Lock()
        self._found: Future[Value] | None = None

    def __call__(self) -> Value:
        """What was found, or the error that was."""
        with self._lock:
            found, first = self._found or Future[Value](), self._found is None
            self._found = found
        if first:
            try:
                found.set_result(self._find())
            except BaseException as error:
                found.set_exception(error)
        return found.result()


MARKS = {Result.PASS: "✓", Result.WARN: "!", Result.FAIL: "✗", Result.SKIPPED: "–"}
_NAME_WIDTH = 16


def check_line(check: Check) -> str:
    """A check as it is shown, with what would mend it below."""
    line = f"{MARKS[check.result]} {check.name:<{_NAME_WIDTH}} {check.words}"
    return f"{line}\n  {'':<{_NAME_WIDTH}} → {check.fix}" if check.fix else line


def check_rows(check: Check) -> list[tuple[str, str, str]]:
    """The same as rows of three columns: mark, name and words."""
    rows = [(MARKS[check.result], check.name, check.words)]
    return [*rows, ("", "", f"→ {check.fix}")] if check.fix else rows
