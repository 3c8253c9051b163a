"""A job's log made fit for matching: bounded, free of control characters, line by line.

Logs are hostile or just large: 10 MB on one line, NULs, escape sequences, progress bars that return the carriage.
Only the end is read, long lines lose their middle, and of lines that differ in their digits only a few are kept.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from llama_tui.backend.diagnosis.patterns import LinePattern

# Characters from the end of the log that are looked at.
MAX_TAIL = 4_000_000
MAX_LINES = 150_000
MAX_SCANNED = 500_000
LINE_HEAD = 1000
LINE_TAIL = 500
# Up to so many lines nothing is left out; beyond, a shape of line is kept so often from its start and its end.
FEW_LINES = 4000
KEEP_FIRST = 2
KEEP_LAST = 3
# A hostile log can hold a pattern's literal on every line: no more than so many are tried.
MAX_TRIES = 200

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)
_DIGITS = str.maketrans("", "", "0123456789")
_ALARM = re.compile(
    r"error|fail|exception|traceback|fatal|kill|denied|cannot|no such|nan\b|unable|not ", re.IGNORECASE
)
# What a stage's script writes when it starts; a job that was requeued goes on in the same log.
_ATTEMPT = re.compile(r"^--- [a-z_]{5,20}(?:, attempt \d+,)? on \S+$")


@dataclass(frozen=True)
class LogLine:
    """One line of the log, or a part of one between carriage returns; the first line's number is 1."""

    number: int
    text: str


@dataclass(frozen=True)
class Found:
    """Where a pattern matched."""

    index: int
    match: re.Match[str]


class LogText:
    """The lines of a log that are worth matching, in order."""

    def __init__(self, log: str) -> None:
        self.lines: tuple[LogLine, ...] = tuple(_bounded(_last_attempt(_split(log))))
        self._held: dict[str, list[int]] = {}

    @cached_property
    def _lowered(self) -> list[str]:
        return [line.text.lower() for line in self.lines]

    @cached_property
    def _joined(self) -> str:
        return "\n".join(self._lowered)

    @cached_property
    def _starts(self) -> list[int]:
        starts, position = [], 0
        for text in self._lowered:
            starts.append(position)
            position += len(text) + 1
        return starts

    def find(self, pattern: LinePattern, count: int = 1, skip: tuple[LinePattern, ...] = ()) -> Found | None:
        """The first match, once there are at least `count` lines that match; lines that `skip` matches do not count."""
        first = None
        for index in self._candidates(pattern):
            text = self.lines[index].text
            match = pattern.regex.search(text)
            if match is None or any(other.regex.search(text) for other in skip):
                continue
            first = first or Found(index, match)
            count -= 1
            if count <= 0:
                return first
        return None

    def last_index(self, pattern: LinePattern) -> int:
        """The index of the last line that matches, -1 for none."""
        indexes = reversed(self._candidates(pattern))
        return next((index for index in indexes if pattern.regex.search(self.lines[index].text)), -1)

    def _candidates(self, pattern: LinePattern) -> list[int]:
        """Indexes of the lines that may match, in order; where there are too many, those of both ends."""
        if not pattern.needles:
            return _both_ends(list(range(len(self.lines))))
        found: set[int] = set()
        for needle in pattern.needles:
            found.update(self._holding(needle))
        return _both_ends(sorted(found))

    def _holding(self, needle: str) -> list[int]:
        """Indexes of lines that hold a text: the first ones, and the last ones where they are many."""
        if needle not in self._held:
            self._held[needle] = self._search(needle)
        return self._held[needle]

    def _search(self, needle: str) -> list[int]:
        found: list[int] = []
        position = self._joined.find(needle)
        while position >= 0 and len(found) < MAX_TRIES // 2:
            index = self._line_at(position)
            found.append(index)
            position = self._joined.find(needle, self._starts[index] + len(self._lowered[index]))
        if position < 0:
            return found
        last: list[int] = []
        position = self._joined.rfind(needle)
        while position >= 0 and len(last) < MAX_TRIES // 2 and self._line_at(position) > found[-1]:
            index = self._line_at(position)
            last.append(index)
            position = self._joined.rfind(needle, 0, self._starts[index])
        return found + last[::-1]

    def _line_at(self, position: int) -> int:
        return bisect_right(self._starts, position) - 1


def _both_ends(indexes: list[int]) -> list[int]:
    if len(indexes) <= MAX_TRIES:
        return indexes
    return indexes[: MAX_TRIES // 2] + indexes[-MAX_TRIES // 2 :]


def _split(log: str) -> list[LogLine]:
    start = max(0, len(log) - MAX_TAIL)
    number = 1 + log.count("\n", 0, start)
    rows = log[start:].split("\n")
    if len(rows) > MAX_LINES:
        number += len(rows) - MAX_LINES
        rows = rows[-MAX_LINES:]
    return [
        LogLine(number + offset, text)
        for offset, row in enumerate(rows)
        if row
        for part in row.split("\r")
        if part and (text := clean(part))
    ]


def clean(text: str) -> str:
    """A line without what a terminal would act upon; its middle left out where it is very long."""
    if len(text) > LINE_HEAD + LINE_TAIL:
        text = f"{text[:LINE_HEAD]} … {text[-LINE_TAIL:]}"
    if not (text.isascii() and text.isprintable()):
        text = _CONTROLS.sub("", _ESCAPES.sub("", text)).replace("\t", "    ")
    return text.rstrip()


def _last_attempt(lines: list[LogLine]) -> list[LogLine]:
    """What belongs to the last start of the job, where the log says so."""
    for index in range(len(lines) - 2, 0, -1):
        if lines[index].text.startswith("--- ") and _ATTEMPT.match(lines[index].text):
            return lines[index:]
    return lines


def _bounded(lines: list[LogLine]) -> list[LogLine]:
    if len(lines) > FEW_LINES:
        lines = _without_repetition(lines)
    total = sum(len(line.text) for line in lines)
    if total <= MAX_SCANNED:
        return lines
    return _most_telling(lines)


def _without_repetition(lines: list[LogLine]) -> list[LogLine]:
    shapes = [line.text.translate(_DIGITS) for line in lines]
    total = Counter(shapes)
    seen: Counter[str] = Counter()
    kept = []
    for line, shape in zip(lines, shapes, strict=True):
        seen[shape] += 1
        if seen[shape] <= KEEP_FIRST or seen[shape] > total[shape] - KEEP_LAST:
            kept.append(line)
    return kept


def _most_telling(lines: list[LogLine]) -> list[LogLine]:
    """The end of the log, and before it the first lines that sound like trouble."""
    room, cut = MAX_SCANNED * 2 // 3, len(lines)
    while cut > 0 and room > 0:
        cut -= 1
        room -= len(lines[cut].text)
    room, early = MAX_SCANNED // 3, []
    for line in lines[:cut]:
        if room <= 0:
            break
        if _ALARM.search(line.text):
            early.append(line)
            room -= len(line.text)
    return early + lines[cut:]
