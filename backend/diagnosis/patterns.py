"""A signature's regular expression, made cheap and safe to try on a large and hostile log.

The literal that every match must contain is found once, so that most patterns are ruled out by a plain search for
it. Patterns that could take exponential time are refused when the catalogue is loaded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

# In a sequence, what follows one of these is no literal text of its own.
_CLASS_ESCAPES = frozenset("dDwWsSbBAZ")
_OPTIONAL = frozenset("?*{")
# Stands for an escaped bar until the alternatives are told apart; no log line is searched for it.
_BAR = "\ufdd0"
_UNBOUNDED = re.compile(r"[*+]|\{\d*,\}")


@dataclass(frozen=True)
class LinePattern:
    """A pattern for one line, without regard to case."""

    source: str

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """The compiled expression."""
        return re.compile(self.source, re.IGNORECASE)

    @cached_property
    def needles(self) -> tuple[str, ...]:
        """Lower-case texts of which every matching line holds at least one; empty where none is certain."""
        return needles_of(self.source)


def needles_of(source: str) -> tuple[str, ...]:
    """The longest texts of which one must be in every match, in lower case; empty if there are none such."""
    found: list[str] = []
    for branch in _branches(source):
        needles = _of_sequence(branch)
        if not needles:
            return ()
        found += needles
    return tuple(dict.fromkeys(found))


def _branches(source: str) -> list[str]:
    branches, start, position = [], 0, 0
    while position < len(source):
        text, end = _next_item(source, position)
        if text == "|":
            branches.append(source[start:position])
            start = end
        position = end
    return [*branches, source[start:]]


def _of_sequence(source: str) -> tuple[str, ...]:
    """The best of a sequence's literal runs and groups: the one whose shortest text is the longest."""
    runs, groups, position = [""], [], 0
    while position < len(source):
        start = position
        text, position = _next_item(source, position)
        quantifier = source[position : position + 1]
        if quantifier in _OPTIONAL or not text:
            runs.append("")
            if source[start] == "(" and quantifier not in _OPTIONAL:
                groups.append(_of_group(source[start + 1 : position - 1]))
        else:
            runs[-1] += text.replace(_BAR, "|").lower()
            if quantifier == "+":
                runs.append("")
        position = _past_quantifier(source, position)
    choices = [(run,) for run in runs if run] + [group for group in groups if group]
    return max(choices, key=lambda texts: (min(map(len, texts)), -len(texts)), default=())


def _of_group(inner: str) -> tuple[str, ...]:
    if inner.startswith(("?!", "?<!", "?=", "?<=")):
        return ()
    return needles_of(re.sub(r"^\?(?::|P<\w+>)", "", inner))


def _next_item(source: str, position: int) -> tuple[str, int]:
    """One item of a sequence: its literal character, `|`, or an empty text for anything else; and where it ends."""
    character = source[position]
    if character == "\\":
        escaped = source[position + 1]
        literal = "" if escaped in _CLASS_ESCAPES or escaped.isdigit() else escaped
        return _BAR if literal == "|" else literal, position + 2
    if character == "[":
        return "", _class_end(source, position)
    if character == "(":
        return "", group_end(source, position)
    if character in ".^$":
        return "", position + 1
    return character, position + 1


def _past_quantifier(source: str, position: int) -> int:
    if source[position : position + 1] in {"?", "*", "+"}:
        position += 1
    elif re.match(r"\{\d*,?\d*\}", source[position:]):
        position = source.index("}", position) + 1
    else:
        return position
    return position + 1 if source[position : position + 1] == "?" else position


def _class_end(source: str, position: int) -> int:
    position += 2 if source[position + 1] == "^" else 1
    if source[position] == "]":
        position += 1
    while source[position] != "]":
        position += 2 if source[position] == "\\" else 1
    return position + 1


def group_end(source: str, position: int) -> int:
    """Where the group that opens at `position` ends, past its parenthesis."""
    position += 1
    while source[position] != ")":
        if source[position] == "(":
            position = group_end(source, position)
        elif source[position] == "[":
            position = _class_end(source, position)
        else:
            position += 2 if source[position] == "\\" else 1
    return position + 1


def nested_quantifier(source: str) -> bool:
    """Whether a repeated group holds an unbounded repetition, which can take exponential time."""
    position = 0
    while position < len(source):
        if source[position] == "(":
            end = group_end(source, position)
            inner = source[position + 1 : end - 1].removeprefix("?:")
            repeated = bool(_UNBOUNDED.match(source[end:]))
            if (repeated and _UNBOUNDED.search(inner)) or nested_quantifier(inner):
                return True
            position = end
        elif source[position] == "[":
            position = _class_end(source, position)
        else:
            position += 2 if source[position] == "\\" else 1
    return False
